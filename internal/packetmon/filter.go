package packetmon

import (
	"fmt"
	"slices"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

const (
	// snapLength is how much of a packet is read: the IP header, three of the longest
	// extension headers, a TCP header with all its options. Data that a SYN may carry is cut.
	snapLength = 8192
	// maxExtensions is how many IPv6 extension headers are looked through, in the kernel and
	// in Go alike. Linux sends at most five before the TCP header.
	maxExtensions = 6

	flagSYN, flagACK = 0x02, 0x10

	nextHopByHop, nextRouting, nextFragment, nextDestination = 0, 43, 44, 60
)

// filter is the program that the kernel runs over each packet before it wakes us. It takes
// only what leaves this host (inbound mail to port 25 must cost nothing, and loopback shows
// a packet once), and of that the TCP packets to one of the ports that open a connection.
//
// IPv6 extension headers are stepped over: an unprivileged process can have a routing header
// put before its TCP header (IPV6_RTHDR), and would be invisible otherwise. What is not seen:
// a SYN that follows more than [maxExtensions] extension headers, or an authentication or
// ESP header (IPsec), or whose flags stand in another fragment than the first. Only root
// sends those. What is packed into a tunnel is seen where it enters the tunnel's device.
func filter(p ports) ([]bpf.RawInstruction, error) {
	v4, v6, tcp := filterIPv4(), filterIPv6(), filterTCP(p)
	program := slices.Concat([]bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_OUTGOING, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
		bpf.LoadExtension{Num: bpf.ExtProto},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ETH_P_IP, SkipTrue: 2},   // over the next jump
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ETH_P_IPV6, SkipTrue: 2}, // over the one to IPv4
		bpf.RetConstant{Val: 0},
		bpf.Jump{Skip: uint32(len(v6) + 1)},
	}, v6, []bpf.Instruction{bpf.Jump{Skip: uint32(len(v4))}}, v4, tcp)
	raw, err := bpf.Assemble(program)
	if err != nil {
		return nil, fmt.Errorf("assemble the packet filter: %w", err)
	}
	return raw, nil
}

// filterIPv4 leaves the offset of the TCP header in X, or drops the packet. Of a fragmented
// packet the first part passes.
func filterIPv4() []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: 9, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_TCP, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
		bpf.LoadAbsolute{Off: 6, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x1fff, SkipFalse: 1},
		bpf.RetConstant{Val: 0},
		bpf.LoadMemShift{Off: 0}, // X = 4 * IHL
	}
}

// filterIPv6 leaves the offset of the TCP header in X, or drops the packet. There are no
// loops in such a program, so the step over one extension header is there several times;
// A is the next header, X its offset, and a packet that has come to TCP passes by the rest.
func filterIPv6() []bpf.Instruction {
	program := []bpf.Instruction{
		bpf.LoadConstant{Dst: bpf.RegX, Val: 40},
		bpf.LoadAbsolute{Off: 6, Size: 1},
	}
	step := []bpf.Instruction{
		0:  bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_TCP, SkipTrue: 17}, // behind this step
		1:  bpf.JumpIf{Cond: bpf.JumpEqual, Val: nextHopByHop, SkipTrue: 9},      // to 11
		2:  bpf.JumpIf{Cond: bpf.JumpEqual, Val: nextRouting, SkipTrue: 8},
		3:  bpf.JumpIf{Cond: bpf.JumpEqual, Val: nextDestination, SkipTrue: 7},
		4:  bpf.JumpIf{Cond: bpf.JumpEqual, Val: nextFragment, SkipTrue: 1},
		5:  bpf.RetConstant{Val: 0},
		6:  bpf.LoadIndirect{Off: 2, Size: 2},
		7:  bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0xfff8, SkipFalse: 1},
		8:  bpf.RetConstant{Val: 0},                 // a later fragment
		9:  bpf.LoadConstant{Dst: bpf.RegA, Val: 0}, // a fragment header has no length: 8 bytes
		10: bpf.Jump{Skip: 1},
		11: bpf.LoadIndirect{Off: 1, Size: 1}, // length in units of 8 bytes, the first not counted
		12: bpf.ALUOpConstant{Op: bpf.ALUOpAdd, Val: 1},
		13: bpf.ALUOpConstant{Op: bpf.ALUOpShiftLeft, Val: 3},
		14: bpf.ALUOpX{Op: bpf.ALUOpAdd},
		15: bpf.StoreScratch{Src: bpf.RegA, N: 0},
		16: bpf.LoadIndirect{Off: 0, Size: 1},
		17: bpf.LoadScratch{Dst: bpf.RegX, N: 0},
	}
	for range maxExtensions {
		program = append(program, step...)
	}
	return append(program,
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_TCP, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
	)
}

// filterTCP takes a SYN without ACK to one of the ports; the TCP header begins at X.
func filterTCP(p ports) []bpf.Instruction {
	program := []bpf.Instruction{
		bpf.LoadIndirect{Off: 13, Size: 1},
		bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: flagSYN | flagACK},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: flagSYN, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
		bpf.LoadIndirect{Off: 2, Size: 2},
	}
	for i, port := range p {
		program = append(program, bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(port), SkipTrue: uint8(len(p) - i)})
	}
	return append(program, bpf.RetConstant{Val: 0}, bpf.RetConstant{Val: snapLength})
}
