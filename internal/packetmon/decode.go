package packetmon

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"
)

// verdict is what a packet was found to be.
type verdict uint8

const (
	packetOther  verdict = iota // well made, or not for us
	packetOpens                 // opens a connection to one of the ports
	packetBroken                // could not be read
)

// The layer types that gopacket has no number of, or no decoder for. It knows types below
// 2000 in an array; numbers above 1000 are left to programs.
const (
	layerSLL2 gopacket.LayerType = 1001 // Linux "cooked" capture, version 2
	layerRaw  gopacket.LayerType = 1002 // an IP packet of either version
)

// decoder reads packets. Everything in them is a stranger's: each length is checked against
// the bytes that are there, and a panic of the library is an error. Its layers are used
// again for each packet, so that nothing is allocated for one without IPv6 hop-by-hop
// options; it is not safe for concurrent use.
type decoder struct {
	parsers map[gopacket.LayerType]*gopacket.DecodingLayerParser // by the layer that a packet begins with
	types   []gopacket.LayerType

	sll  layers.LinuxSLL
	sll2 sll2
	v4   layers.IPv4
	v6   layers.IPv6
	tcp  layers.TCP
}

func newDecoder() *decoder {
	d := &decoder{parsers: map[gopacket.LayerType]*gopacket.DecodingLayerParser{}}
	all := gopacket.DecodingLayerContainer(gopacket.DecodingLayerSparse(nil))
	for _, l := range []gopacket.DecodingLayer{
		new(layers.Ethernet), new(layers.Dot1Q), new(layers.Loopback), &d.sll, &d.sll2, new(raw),
		&d.v4, &fragmented{ip: &d.v4}, &d.v6, new(layers.IPv6ExtensionSkipper), new(fragment6), &d.tcp,
	} {
		all = all.Put(l)
	}
	for _, first := range []gopacket.LayerType{layers.LayerTypeIPv4, layers.LayerTypeIPv6, layers.LayerTypeEthernet,
		layers.LayerTypeLoopback, layers.LayerTypeLinuxSLL, layerSLL2, layerRaw} {
		p := gopacket.NewDecodingLayerParser(first)
		p.IgnoreUnsupported = true // what is not known here is no TCP
		p.SetDecodingLayerContainer(all)
		d.parsers[first] = p
	}
	return d
}

// decode reads a packet that begins with layer first and, if it opens a connection to one
// of the ports, writes its addresses and number into s.
func (d *decoder) decode(first gopacket.LayerType, packet []byte, p ports, s *Seen) verdict {
	if err := d.parsers[first].DecodeLayers(packet, &d.types); err != nil {
		return packetBroken
	}
	local, remote, ok := d.addresses()
	if !ok || !d.tcp.SYN || d.tcp.ACK || !p.has(uint16(d.tcp.DstPort)) {
		return packetOther
	}
	s.Local = netip.AddrPortFrom(local, uint16(d.tcp.SrcPort))
	s.Remote = netip.AddrPortFrom(remote, uint16(d.tcp.DstPort))
	s.Socket = uint64(d.tcp.Seq)
	return packetOpens
}

// addresses returns the ends of a packet that is one IP header, IPv6 extension headers if
// it is IPv6, and a TCP header; anything else, a tunnel's packet too, is not for us.
func (d *decoder) addresses() (local, remote netip.Addr, ok bool) {
	var v4, v6, extensions, tcp int
	for _, t := range d.types {
		switch t {
		case layers.LayerTypeIPv4:
			v4++
		case layers.LayerTypeIPv6:
			v6++
		case layers.LayerTypeTCP:
			tcp++
		case layers.LayerTypeIPv6HopByHop, layers.LayerTypeIPv6Routing, layers.LayerTypeIPv6Fragment, layers.LayerTypeIPv6Destination:
			extensions++
		case layers.LayerTypeLinuxSLL:
			if d.sll.PacketType != layers.LinuxSLLPacketTypeOutgoing {
				return local, remote, false
			}
		case layerSLL2:
			if d.sll2.packetType != unix.PACKET_OUTGOING {
				return local, remote, false
			}
		}
	}
	var src, dst []byte
	switch {
	case tcp != 1:
		return local, remote, false
	case v4 == 1 && v6 == 0 && extensions == 0 && d.v4.Version == 4:
		src, dst = d.v4.SrcIP, d.v4.DstIP
	// A length of 0 is a jumbogram's, which the library reads wrongly.
	case v6 == 1 && v4 == 0 && d.v6.Version == 6 && d.v6.Length != 0:
		if d.v6.HopByHop != nil { // which the library reads with the IP header
			extensions++
		}
		if extensions > maxExtensions {
			return local, remote, false
		}
		src, dst = d.v6.SrcIP, d.v6.DstIP
	}
	local, ok1 := netip.AddrFromSlice(src)
	remote, ok2 := netip.AddrFromSlice(dst)
	return local.Unmap(), remote.Unmap(), ok1 && ok2
}

// fragmented reads on in the first fragment of an IPv4 packet: a SYN is one wherever the
// rest of it is.
type fragmented struct {
	ip      *layers.IPv4
	payload []byte
}

func (f *fragmented) DecodeFromBytes(b []byte, _ gopacket.DecodeFeedback) error {
	f.payload = b
	return nil
}
func (f *fragmented) CanDecode() gopacket.LayerClass { return gopacket.LayerTypeFragment }
func (f *fragmented) LayerPayload() []byte           { return f.payload }
func (f *fragmented) NextLayerType() gopacket.LayerType {
	if f.ip.FragOffset != 0 || f.ip.Protocol != layers.IPProtocolTCP {
		return gopacket.LayerTypeZero
	}
	return layers.LayerTypeTCP
}

// fragment6 reads an IPv6 fragment header (RFC 8200, section 4.5).
type fragment6 struct {
	first   bool
	next    layers.IPProtocol
	payload []byte
}

func (f *fragment6) DecodeFromBytes(b []byte, _ gopacket.DecodeFeedback) error {
	if len(b) < 8 {
		return errors.New("cut in the fragment header")
	}
	f.next, f.first, f.payload = layers.IPProtocol(b[0]), binary.BigEndian.Uint16(b[2:])>>3 == 0, b[8:]
	return nil
}
func (f *fragment6) CanDecode() gopacket.LayerClass { return layers.LayerTypeIPv6Fragment }
func (f *fragment6) LayerPayload() []byte           { return f.payload }
func (f *fragment6) NextLayerType() gopacket.LayerType {
	if !f.first {
		return gopacket.LayerTypeZero
	}
	return f.next.LayerType()
}

// sll2 reads the header that tcpdump -i any writes since 2018: protocol, 2 reserved bytes,
// interface (4), its type (2), packet type, length of the address, address (8).
type sll2 struct {
	packetType uint8
	protocol   layers.EthernetType
	payload    []byte
}

func (l *sll2) DecodeFromBytes(b []byte, _ gopacket.DecodeFeedback) error {
	if len(b) < 20 {
		return errors.New("cut in the Linux header")
	}
	l.protocol, l.packetType, l.payload = layers.EthernetType(binary.BigEndian.Uint16(b)), b[10], b[20:]
	return nil
}
func (l *sll2) CanDecode() gopacket.LayerClass    { return layerSLL2 }
func (l *sll2) LayerPayload() []byte              { return l.payload }
func (l *sll2) NextLayerType() gopacket.LayerType { return l.protocol.LayerType() }

// raw tells the IP version of a packet without any header before it.
type raw struct{ packet []byte }

func (r *raw) DecodeFromBytes(b []byte, _ gopacket.DecodeFeedback) error {
	if len(b) == 0 {
		return errors.New("an empty packet")
	}
	r.packet = b
	return nil
}
func (r *raw) CanDecode() gopacket.LayerClass { return layerRaw }
func (r *raw) LayerPayload() []byte           { return r.packet }
func (r *raw) NextLayerType() gopacket.LayerType {
	switch r.packet[0] >> 4 {
	case 4:
		return layers.LayerTypeIPv4
	case 6:
		return layers.LayerTypeIPv6
	}
	return gopacket.LayerTypeZero
}
