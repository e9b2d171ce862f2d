package packetmon

import (
	"encoding/binary"
	"math"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// The packets of the tests are made by hand, not by the library that reads them.

const (
	sampleSeq = 0xfeedbeef
	from4     = "198.51.100.1"
	to4       = "198.51.100.2"
	from6     = "2001:db8::1"
	to6       = "2001:db8::2"
)

func mailPorts() ports { return ports{25, 465, 587} }

// tcpPart is a TCP header with the options that Linux sends.
func tcpPart(port uint16, flags byte) []byte {
	b := make([]byte, 20, 40)
	be := binary.BigEndian
	be.PutUint16(b, 40000)
	be.PutUint16(b[2:], port)
	be.PutUint32(b[4:], sampleSeq)
	b[12], b[13] = 10<<4, flags
	return append(b, 2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7)
}

// ip4 is an IPv4 packet; field is flags and fragment offset, options a multiple of 4 bytes.
func ip4(protocol byte, field uint16, options, payload []byte) []byte {
	b := make([]byte, 20)
	be := binary.BigEndian
	b[0] = 4<<4 | byte(5+len(options)/4)
	be.PutUint16(b[2:], uint16(20+len(options)+len(payload)))
	be.PutUint16(b[6:], field)
	b[8], b[9] = 64, protocol
	from, to := netip.MustParseAddr(from4).As4(), netip.MustParseAddr(to4).As4()
	copy(b[12:], from[:])
	copy(b[16:], to[:])
	return slices.Concat(b, options, payload)
}

func ip6(next byte, payload []byte) []byte {
	b := make([]byte, 40)
	b[0], b[6], b[7] = 6<<4, next, 64
	binary.BigEndian.PutUint16(b[4:], uint16(len(payload)))
	from, to := netip.MustParseAddr(from6).As16(), netip.MustParseAddr(to6).As16()
	copy(b[8:], from[:])
	copy(b[24:], to[:])
	return slices.Concat(b, payload)
}

// extension is an IPv6 extension header of 16 bytes, filled with an option of padding.
func extension(next byte, payload []byte) []byte {
	return append([]byte{next, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, payload...)
}

// fragmentPart is an IPv6 fragment header.
func fragmentPart(next byte, field uint16, payload []byte) []byte {
	return append([]byte{next, 0, byte(field >> 8), byte(field), 0, 0, 0, 1}, payload...)
}

func repeated(n int, payload []byte) []byte {
	for i := range n {
		next := byte(nextDestination)
		if i == 0 {
			next = unix.IPPROTO_TCP
		}
		payload = extension(next, payload)
	}
	return payload
}

type sample struct {
	name   string
	packet []byte // begins with the IP header
	want   verdict
	port   uint16 // of packetOpens; 0 = 25
}

func samples() []sample {
	syn := tcpPart(25, flagSYN)
	long := append([]byte{unix.IPPROTO_TCP, 255, 1, 0}, append(make([]byte, 2044), syn...)...)
	jumbo := ip6(nextHopByHop, append([]byte{unix.IPPROTO_TCP, 0, 0xc2, 4, 0, 1, 0, 0}, syn...))
	binary.BigEndian.PutUint16(jumbo[4:], 0)
	return []sample{
		{"a SYN by IPv4", ip4(6, 0x4000, nil, syn), packetOpens, 0},
		{"a SYN by IPv6", ip6(6, syn), packetOpens, 0},
		{"a SYN to 465", ip4(6, 0, nil, tcpPart(465, flagSYN)), packetOpens, 465},
		{"a SYN to 587 by IPv6", ip6(6, tcpPart(587, flagSYN)), packetOpens, 587},
		{"a SYN that offers ECN", ip4(6, 0, nil, tcpPart(25, flagSYN|0xc0)), packetOpens, 0},
		{"a SYN with data (Fast Open)", ip4(6, 0, nil, append(slices.Clone(syn), "EHLO x\r\n"...)), packetOpens, 0},
		{"a SYN sent again", ip4(6, 0x4000, nil, syn), packetOpens, 0},
		{"the answer to a SYN", ip4(6, 0, nil, tcpPart(25, flagSYN|flagACK)), packetOther, 0},
		{"an ACK by IPv6", ip6(6, tcpPart(25, flagACK)), packetOther, 0},
		{"a reset", ip4(6, 0, nil, tcpPart(25, 0x04)), packetOther, 0},
		{"a SYN to another port", ip4(6, 0, nil, tcpPart(80, flagSYN)), packetOther, 0},
		{"a SYN to another port by IPv6", ip6(6, tcpPart(26, flagSYN)), packetOther, 0},
		{"UDP to port 25", ip4(17, 0, nil, syn), packetOther, 0},
		{"UDP to port 25 by IPv6", ip6(17, syn), packetOther, 0},
		{"SCTP to port 25", ip4(132, 0, nil, syn), packetOther, 0},
		{"a SYN behind IPv4 options", ip4(6, 0, []byte{1, 1, 1, 1, 7, 7, 4, 0, 0, 0, 0, 0}, syn), packetOpens, 0},
		{"the first fragment of a SYN", ip4(6, 0x2000, nil, syn), packetOpens, 0},
		{"a later fragment", ip4(6, 0x2001, nil, syn), packetOther, 0},
		{"the last fragment", ip4(6, 0x0010, nil, syn), packetOther, 0},
		{"a SYN behind a hop-by-hop header", ip6(nextHopByHop, extension(6, syn)), packetOpens, 0},
		{"a SYN behind a routing header", ip6(nextRouting, extension(6, syn)), packetOpens, 0},
		{"a SYN behind a long routing header", ip6(nextRouting, long), packetOpens, 0},
		{"a SYN behind all extension headers that Linux sends", ip6(nextHopByHop, extension(nextDestination,
			extension(nextRouting, extension(nextFragment, fragmentPart(nextDestination, 0, extension(6, syn)))))), packetOpens, 0},
		{"a SYN behind as many extension headers as are looked at", ip6(nextDestination, repeated(maxExtensions, syn)), packetOpens, 0},
		{"a SYN behind one more", ip6(nextDestination, repeated(maxExtensions+1, syn)), packetOther, 0},
		{"the first fragment of a SYN by IPv6", ip6(nextFragment, fragmentPart(6, 1, syn)), packetOpens, 0},
		{"a later fragment by IPv6", ip6(nextFragment, fragmentPart(6, 8|1, syn)), packetOther, 0},
		{"a SYN in a tunnel", ip4(4, 0, nil, ip4(6, 0, nil, syn)), packetOther, 0},
		{"a SYN by IPv6 in a tunnel", ip4(41, 0, nil, ip6(6, syn)), packetOther, 0},
		{"an extension header behind IPv4", ip4(nextDestination, 0, nil, extension(6, syn)), packetOther, 0},
		{"a jumbogram", jumbo, packetBroken, 0},
		{"cut in the IP header", ip4(6, 0, nil, syn)[:19], packetBroken, 0},
		{"cut in the TCP header", ip4(6, 0, nil, syn)[:35], packetBroken, 0},
		{"cut in an extension header", ip6(nextRouting, extension(6, syn))[:50], packetBroken, 0},
		{"an IP header that is longer than the packet", append([]byte{0x4f}, ip4(6, 0, nil, syn)[1:41]...), packetBroken, 0},
		{"TCP options that are longer than the header", ip4(6, 0, nil, append(slices.Clone(syn[:20]), 2, 40, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)), packetBroken, 0},
		{"nothing", []byte{}, packetBroken, 0},
	}
}

// wantSeen is what a sample that opens a connection is reported as.
func (s sample) wantSeen() Seen {
	from, to := from4, to4
	if s.packet[0]>>4 == 6 {
		from, to = from6, to6
	}
	port := s.port
	if port == 0 {
		port = 25
	}
	return Seen{
		Local:  netip.AddrPortFrom(netip.MustParseAddr(from), 40000),
		Remote: netip.AddrPortFrom(netip.MustParseAddr(to), port),
		Socket: sampleSeq,
	}
}

// firstLayer is as what the kernel gives out a packet.
func firstLayer(packet []byte) gopacket.LayerType {
	if len(packet) > 0 && packet[0]>>4 == 6 {
		return layers.LayerTypeIPv6
	}
	return layers.LayerTypeIPv4
}

func TestDecodeTakesWhatOpensAConnectionAndNothingElse(t *testing.T) {
	d := newDecoder() // one for all: nothing of a packet may show in the next
	for _, tt := range samples() {
		t.Run(tt.name, func(t *testing.T) {
			var got, want Seen
			v := d.decode(firstLayer(tt.packet), tt.packet, mailPorts(), &got)
			if tt.want == packetOpens {
				want = tt.wantSeen()
			}
			if v != tt.want || got != want {
				t.Errorf("decode(%x): got %d, %+v; want %d, %+v", tt.packet, v, got, tt.want, want)
			}
		})
	}
}

func TestDecodeIgnoresAPacketOfTheOtherIPVersion(t *testing.T) {
	d := newDecoder()
	syn := tcpPart(25, flagSYN)
	for first, packet := range map[gopacket.LayerType][]byte{
		layers.LayerTypeIPv4: append([]byte{0x65}, ip4(6, 0, nil, syn)[1:]...),
		layers.LayerTypeIPv6: append([]byte{0x40}, ip6(6, syn)[1:]...),
	} {
		var s Seen
		if v := d.decode(first, packet, mailPorts(), &s); v != packetOther {
			t.Errorf("%v with another version: got %d, %+v", first, v, s)
		}
	}
}

// filterVM runs the kernel's program on an outgoing packet. The machine has no packet type
// and no protocol: their values are put in where they are loaded.
func filterVM(t testing.TB, p ports, direction, protocol uint32) *bpf.VM {
	raw, err := filter(p)
	if err != nil {
		t.Fatal(err)
	}
	program, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatalf("a program that cannot be read: %v", raw)
	}
	for i, in := range program {
		switch in {
		case bpf.LoadExtension{Num: bpf.ExtType}:
			program[i] = bpf.LoadConstant{Dst: bpf.RegA, Val: direction}
		case bpf.LoadExtension{Num: bpf.ExtProto}:
			program[i] = bpf.LoadConstant{Dst: bpf.RegA, Val: protocol}
		}
	}
	vm, err := bpf.NewVM(program)
	if err != nil {
		t.Fatal(err)
	}
	return vm
}

// passes reports whether the kernel would hand out the packet.
func passes(t testing.TB, vm *bpf.VM, packet []byte) bool {
	n, err := vm.Run(packet)
	if err != nil {
		t.Fatal(err)
	}
	return n > 0
}

func protocolOf(packet []byte) uint32 {
	if firstLayer(packet) == layers.LayerTypeIPv6 {
		return unix.ETH_P_IPV6
	}
	return unix.ETH_P_IP
}

func TestTheKernelsFilterTakesTheSamePackets(t *testing.T) {
	for _, tt := range samples() {
		vm := filterVM(t, mailPorts(), unix.PACKET_OUTGOING, protocolOf(tt.packet))
		if got := passes(t, vm, tt.packet); tt.want != packetBroken && got != (tt.want == packetOpens) {
			t.Errorf("%s: passes the filter: %v", tt.name, got)
		}
		for what, vm := range map[string]*bpf.VM{
			"incoming":              filterVM(t, mailPorts(), unix.PACKET_HOST, protocolOf(tt.packet)),
			"neither IPv4 nor IPv6": filterVM(t, mailPorts(), unix.PACKET_OUTGOING, unix.ETH_P_ARP),
		} {
			if passes(t, vm, tt.packet) {
				t.Errorf("%s, %s, passes the filter", tt.name, what)
			}
		}
	}
}

func TestTheFilterTakesAsManyPortsAsAreAllowed(t *testing.T) {
	var list []uint16
	for i := range maxPorts {
		list = append(list, uint16(1000*(i+1)))
	}
	set, err := newPorts(list)
	if err != nil {
		t.Fatal(err)
	}
	vm := filterVM(t, set, unix.PACKET_OUTGOING, unix.ETH_P_IP)
	for _, port := range list {
		if !passes(t, vm, ip4(6, 0, nil, tcpPart(port, flagSYN))) || passes(t, vm, ip4(6, 0, nil, tcpPart(port+1, flagSYN))) {
			t.Errorf("port %d or the one after is taken wrongly", port)
		}
	}
}

func TestPortsThatCannotBeWatched(t *testing.T) {
	tooMany := make([]uint16, maxPorts+1)
	for i := range tooMany {
		tooMany[i] = uint16(i + 1)
	}
	for name, list := range map[string][]uint16{"none": nil, "port 0": {25, 0}, "too many": tooMany} {
		if p, err := newPorts(list); err == nil {
			t.Errorf("%s: got %v, want an error", name, p)
		}
	}
	if p, err := newPorts([]uint16{587, 25, 25}); err != nil || !slices.Equal(p, ports{25, 587}) {
		t.Errorf("ports given twice: got %v, %v", p, err)
	}
}

func TestDecodeAllocatesNothing(t *testing.T) {
	d := newDecoder()
	p := mailPorts()
	for _, tt := range samples() {
		if tt.want != packetOpens || tt.packet[6] == nextHopByHop && tt.packet[0]>>4 == 6 {
			continue
		}
		var s Seen
		if n := testing.AllocsPerRun(100, func() { d.decode(firstLayer(tt.packet), tt.packet, p, &s) }); n != 0 {
			t.Errorf("%s: %v allocations", tt.name, n)
		}
	}
}

// FuzzDecodePacket: nothing panics; what is reported was asked for; the kernel's filter takes
// whatever the decoder does, so that neither is blind where the other sees; and what the
// filter takes is reported, or counted as broken.
func FuzzDecodePacket(f *testing.F) {
	for _, s := range samples() {
		f.Add(s.packet)
	}
	vms := map[uint32]*bpf.VM{}
	for _, protocol := range []uint32{unix.ETH_P_IP, unix.ETH_P_IPV6} {
		vms[protocol] = filterVM(f, mailPorts(), unix.PACKET_OUTGOING, protocol)
	}
	d := newDecoder()
	f.Fuzz(func(t *testing.T, packet []byte) {
		if len(packet) > snapLength {
			return
		}
		var s Seen
		v := d.decode(firstLayer(packet), packet, mailPorts(), &s)
		passed := len(packet) > 0 && passes(t, vms[protocolOf(packet)], packet)
		if v == packetOpens {
			if !mailPorts().has(s.Remote.Port()) || !s.Local.IsValid() || s.Remote.Addr().Is4In6() || s.Socket > math.MaxUint32 {
				t.Errorf("reported %+v", s)
			}
			if !passed {
				t.Errorf("%+v would not have passed the kernel's filter", s)
			}
		} else if s != (Seen{}) {
			t.Errorf("not reported, but written: %+v", s)
		}
		if passed && v == packetOther && wellMade(packet) {
			t.Error("passes the kernel's filter and is not reported")
		}
		for _, first := range []gopacket.LayerType{layers.LayerTypeEthernet, layers.LayerTypeLinuxSLL, layerSLL2, layers.LayerTypeLoopback, layerRaw} {
			d.decode(first, packet, mailPorts(), &s)
		}
	})
}

// wellMade leaves out what the filter does not look at: the IP version and length.
func wellMade(packet []byte) bool {
	if packet[0]>>4 == 6 {
		return int(binary.BigEndian.Uint16(packet[4:])) == len(packet)-40
	}
	return packet[0]>>4 == 4 && int(binary.BigEndian.Uint16(packet[2:])) == len(packet)
}

func BenchmarkDecode(b *testing.B) {
	for _, tt := range samples() {
		if tt.name != "a SYN by IPv4" && tt.name != "a SYN by IPv6" && tt.name != "a SYN behind a routing header" {
			continue
		}
		b.Run(tt.name, func(b *testing.B) {
			b.ReportAllocs()
			d, p, first := newDecoder(), mailPorts(), firstLayer(tt.packet)
			var s Seen
			for b.Loop() {
				d.decode(first, tt.packet, p, &s)
			}
		})
	}
}
