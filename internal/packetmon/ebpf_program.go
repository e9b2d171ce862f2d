package packetmon

import (
	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// What the kernel's headers call it.
const (
	protocolTCP      = 6  // IPPROTO_TCP
	familyIPv4       = 2  // AF_INET
	familyIPv6       = 10 // AF_INET6
	stateEstablished = 1  // TCP_ESTABLISHED
	stateSynSent     = 2  // TCP_SYN_SENT
	stateClose       = 7  // TCP_CLOSE
	thisCPU          = 0xffffffff
	licence          = "Dual MIT/GPL" // the kernel lends what is needed here to such programs only
	maxWatched       = 64             // that can be watched
	maxConnecting    = 16384          // sockets whose outcome is waited for; the kernel forgets the oldest
	connectingSize   = 16
	connectingStart  = 0  // when it began, 8 bytes
	connectingPID    = 8  // who began it, 4 bytes
	connectingReset  = 12 // whether a reset came in, 4 bytes
	passOn           = 1  // what a program returns: with 0, perf would see nothing of the tracepoint
)

// An event, as the programs write it and parseEvent reads it, in the machine's byte order.
const (
	eventAt         = 0  // CLOCK_MONOTONIC, 8 bytes
	eventStart      = 8  // of the first event of this connection, 8 bytes
	eventSocket     = 16 // the kernel's address of it, 8 bytes
	eventUID        = 24 // 4 bytes
	eventPID        = 28 // 4 bytes
	eventWhat       = 32 // 2 bytes
	eventRemotePort = 34 // 2 bytes
	eventLocalPort  = 36 // 2 bytes
	eventPad        = 38 // 2 bytes
	eventLocal      = 40 // 16 bytes
	eventRemote     = 56 // 16 bytes
	eventSize       = 72
)

// what an event tells.
type what uint16

const (
	whatBegins      what = iota // a process asks for a connection
	whatEstablished             // the other end answered
	whatReset                   // the other end refused
	whatLeft                    // the process that asked for it closed it, or ended
	whatEnded                   // the kernel gave it up: timeout, or an ICMP error
	whats
)

// Where on the stack the programs have what: below what R10 points to.
const (
	stackEvent      = -eventSize
	stackConnecting = stackEvent - connectingSize
	stackKey        = stackConnecting - 8
)

// programMaps are what the programs share with this process, and each other.
type programMaps struct {
	ports      *ebpf.Map // remote port → 1
	connecting *ebpf.Map // socket → connecting…
	events     *ebpf.Map // the rings
	unsent     *ebpf.Map // 0 → connections that no ring took
}

func mapSpecs() [4]*ebpf.MapSpec {
	return [4]*ebpf.MapSpec{
		{Name: "osm_ports", Type: ebpf.Hash, KeySize: 2, ValueSize: 1, MaxEntries: maxWatched},
		{Name: "osm_connecting", Type: ebpf.LRUHash, KeySize: 8, ValueSize: connectingSize, MaxEntries: maxConnecting},
		{Name: "osm_events", Type: ebpf.PerfEventArray},
		{Name: "osm_unsent", Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1},
	}
}

// stateProgram is attached to sock:inet_sock_set_state. A socket that goes to SYN_SENT does
// so in the process that connects, which is whom it reports. What becomes of the socket is
// mostly told while some other process happens to run: no user or process is reported then.
//
// It is written here and not compiled from C so that building needs no other compiler and
// running no type information of the kernel.
func stateProgram(l stateLayout, m programMaps) *ebpf.ProgramSpec {
	insns := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R7, asm.R6, l.newState, asm.Word),
		asm.LoadMem(asm.R8, asm.R6, l.oldState, asm.Word),
		asm.JEq.Imm(asm.R7, stateSynSent, "ours"),
		asm.JNE.Imm(asm.R8, stateSynSent, "out"),
		asm.LoadMem(asm.R2, asm.R6, l.protocol, l.protocolSize).WithSymbol("ours"),
		asm.JNE.Imm(asm.R2, protocolTCP, "out"),
		asm.LoadMem(asm.R2, asm.R6, l.family, asm.Half),
		asm.JEq.Imm(asm.R2, familyIPv4, "ip"),
		asm.JNE.Imm(asm.R2, familyIPv6, "out"),
		asm.LoadMem(asm.R2, asm.R6, l.socket, asm.DWord).WithSymbol("ip"),
		asm.StoreMem(asm.R10, stackEvent+eventSocket, asm.R2, asm.DWord),
		asm.FnKtimeGetNs.Call(),
		asm.StoreMem(asm.R10, stackEvent+eventAt, asm.R0, asm.DWord),
		asm.Mov.Reg(asm.R9, asm.R0),
		asm.JNE.Imm(asm.R7, stateSynSent, "ends"),
	}
	insns = append(insns, begins(l, m)...)
	insns = append(insns, ends(m)...)
	insns = append(insns, emit(l, m)...)
	return &ebpf.ProgramSpec{Name: "osm_state", Type: ebpf.TracePoint, License: licence, Instructions: insns}
}

// begins is the part for a socket that begins to connect, at the time in R9.
func begins(l stateLayout, m programMaps) asm.Instructions {
	return asm.Instructions{
		asm.LoadMem(asm.R2, asm.R6, l.remotePort, asm.Half),
		asm.StoreMem(asm.R10, stackKey, asm.R2, asm.Half),
		asm.LoadMapPtr(asm.R1, m.ports.FD()),
		asm.Mov.Reg(asm.R2, asm.R10),
		asm.Add.Imm(asm.R2, stackKey),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "out"),

		asm.FnGetCurrentUidGid.Call(),
		asm.StoreMem(asm.R10, stackEvent+eventUID, asm.R0, asm.Word),
		asm.FnGetCurrentPidTgid.Call(),
		asm.RSh.Imm(asm.R0, 32),
		asm.StoreMem(asm.R10, stackEvent+eventPID, asm.R0, asm.Word),
		asm.StoreMem(asm.R10, stackEvent+eventStart, asm.R9, asm.DWord),
		asm.StoreImm(asm.R10, stackEvent+eventWhat, int64(whatBegins), asm.Half),

		asm.StoreMem(asm.R10, stackConnecting+connectingStart, asm.R9, asm.DWord),
		asm.StoreMem(asm.R10, stackConnecting+connectingPID, asm.R0, asm.Word),
		asm.StoreImm(asm.R10, stackConnecting+connectingReset, 0, asm.Word),
		asm.LoadMapPtr(asm.R1, m.connecting.FD()),
		asm.Mov.Reg(asm.R2, asm.R10),
		asm.Add.Imm(asm.R2, stackEvent+eventSocket),
		asm.Mov.Reg(asm.R3, asm.R10),
		asm.Add.Imm(asm.R3, stackConnecting),
		asm.Mov.Imm(asm.R4, 0),
		asm.FnMapUpdateElem.Call(), // if it fails, the outcome is not told
		asm.Ja.Label("emit"),
	}
}

// ends is the part for a socket that connects no longer.
func ends(m programMaps) asm.Instructions {
	return asm.Instructions{
		asm.LoadMapPtr(asm.R1, m.connecting.FD()).WithSymbol("ends"),
		asm.Mov.Reg(asm.R2, asm.R10),
		asm.Add.Imm(asm.R2, stackEvent+eventSocket),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "out"),
		asm.LoadMem(asm.R1, asm.R0, connectingStart, asm.DWord),
		asm.StoreMem(asm.R10, stackEvent+eventStart, asm.R1, asm.DWord),
		asm.LoadMem(asm.R8, asm.R0, connectingPID, asm.Word),
		asm.LoadMem(asm.R9, asm.R0, connectingReset, asm.Word),
		asm.LoadMapPtr(asm.R1, m.connecting.FD()),
		asm.Mov.Reg(asm.R2, asm.R10),
		asm.Add.Imm(asm.R2, stackEvent+eventSocket),
		asm.FnMapDeleteElem.Call(),

		asm.StoreImm(asm.R10, stackEvent+eventUID, 0, asm.Word),
		asm.StoreImm(asm.R10, stackEvent+eventPID, 0, asm.Word),
		asm.StoreImm(asm.R10, stackEvent+eventWhat, int64(whatEstablished), asm.Half),
		asm.JEq.Imm(asm.R7, stateEstablished, "emit"),
		asm.JNE.Imm(asm.R7, stateClose, "out"),
		asm.StoreImm(asm.R10, stackEvent+eventWhat, int64(whatReset), asm.Half),
		asm.JNE.Imm(asm.R9, 0, "emit"),
		asm.FnGetCurrentPidTgid.Call(),
		asm.RSh.Imm(asm.R0, 32),
		asm.StoreImm(asm.R10, stackEvent+eventWhat, int64(whatLeft), asm.Half),
		asm.JEq.Reg(asm.R0, asm.R8, "emit"),
		asm.StoreImm(asm.R10, stackEvent+eventWhat, int64(whatEnded), asm.Half),
	}
}

// emit is the part that hands the event on.
func emit(l stateLayout, m programMaps) asm.Instructions {
	insns := asm.Instructions{
		asm.LoadMem(asm.R2, asm.R6, l.remotePort, asm.Half).WithSymbol("emit"),
		asm.StoreMem(asm.R10, stackEvent+eventRemotePort, asm.R2, asm.Half),
		asm.LoadMem(asm.R2, asm.R6, l.localPort, asm.Half),
		asm.StoreMem(asm.R10, stackEvent+eventLocalPort, asm.R2, asm.Half),
		asm.StoreImm(asm.R10, stackEvent+eventPad, 0, asm.Half),
	}
	insns = append(insns, copyAddress(stackEvent+eventLocal, l.local)...)
	insns = append(insns, copyAddress(stackEvent+eventRemote, l.remote)...)
	return append(insns,
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.LoadMapPtr(asm.R2, m.events.FD()),
		asm.LoadImm(asm.R3, thisCPU, asm.DWord),
		asm.Mov.Reg(asm.R4, asm.R10),
		asm.Add.Imm(asm.R4, stackEvent),
		asm.Mov.Imm(asm.R5, eventSize),
		asm.FnPerfEventOutput.Call(),
		asm.JNE.Imm(asm.R7, stateSynSent, "out"),
		asm.JSGE.Imm(asm.R0, 0, "out"),

		asm.StoreImm(asm.R10, stackKey, 0, asm.Word),
		asm.LoadMapPtr(asm.R1, m.unsent.FD()),
		asm.Mov.Reg(asm.R2, asm.R10),
		asm.Add.Imm(asm.R2, stackKey),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "out"),
		asm.Mov.Imm(asm.R1, 1),
		asm.StoreXAdd(asm.R0, asm.R1, asm.DWord),

		asm.Mov.Imm(asm.R0, passOn).WithSymbol("out"),
		asm.Return(),
	)
}

// copyAddress copies an address from the record to the stack, in the widest pieces that are
// aligned in the record: programs may read no others. That spares bpf_probe_read, which a
// locked-down kernel refuses.
func copyAddress(to, from int16) asm.Instructions {
	size := asm.Byte
	for _, wider := range []asm.Size{asm.Half, asm.Word, asm.DWord} {
		if int(from)%wider.Sizeof() == 0 {
			size = wider
		}
	}
	var insns asm.Instructions
	for i := int16(0); i < 16; i += int16(size.Sizeof()) {
		insns = append(insns, asm.LoadMem(asm.R2, asm.R6, from+i, size), asm.StoreMem(asm.R10, to+i, asm.R2, size))
	}
	return insns
}

// resetProgram is attached to tcp:tcp_receive_reset, which comes before the change of state:
// it tells a refusal from other ends.
func resetProgram(socket int16, m programMaps) *ebpf.ProgramSpec {
	return &ebpf.ProgramSpec{Name: "osm_reset", Type: ebpf.TracePoint, License: licence, Instructions: asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, socket, asm.DWord),
		asm.StoreMem(asm.R10, stackKey, asm.R2, asm.DWord),
		asm.LoadMapPtr(asm.R1, m.connecting.FD()),
		asm.Mov.Reg(asm.R2, asm.R10),
		asm.Add.Imm(asm.R2, stackKey),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "out"),
		asm.Mov.Imm(asm.R1, 1),
		asm.StoreMem(asm.R0, connectingReset, asm.R1, asm.Word),
		asm.Mov.Imm(asm.R0, passOn).WithSymbol("out"),
		asm.Return(),
	}}
}
