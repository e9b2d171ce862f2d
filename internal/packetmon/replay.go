package packetmon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"sync/atomic"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
)

const (
	// maxReplayed is the longest packet that a file may hold; it is what tcpdump writes at most.
	maxReplayed = 256 << 10
	// linkSLL2 is link type 276, of which the library keeps the low eight bits.
	linkSLL2 layers.LinkType = 276 & 0xff
)

// ReplayOptions says what a [Replay] looks for.
type ReplayOptions struct {
	Ports []uint16
	// Local tells the addresses of the host whose packets they are, so that what came to it is
	// left out. nil: all are its own. A file of "tcpdump -i any" says so itself.
	Local func(netip.Addr) bool
	Boot  func() int64 // CLOCK_BOOTTIME in nanoseconds
}

// Replay is a [Source] that reads a file of captured packets: it shows what the packet
// source would have reported, for support and for tests. The file is pcap (tcpdump -w, also
// compressed by gzip; not pcapng), of Ethernet, Linux "any", raw IP or loopback packets.
// Each connection has the time that it has in the file, as if the first packet was there when
// the replay began; nothing waits. The file may be anybody's: the memory for it is bounded.
type Replay struct {
	opt    ReplayOptions
	ports  ports
	path   string
	file   *os.File
	reader *pcapgo.Reader
	first  gopacket.LayerType
	broken atomic.Uint64
}

// OpenReplay opens a file. [Replay.Run] ends, without an error, at its end.
func OpenReplay(path string, o ReplayOptions) (*Replay, error) {
	set, err := newPorts(o.Ports)
	if err != nil {
		return nil, fmt.Errorf("replay %q: %w", path, err)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("replay: %w", err)
	}
	r := &Replay{opt: o, ports: set, path: path, file: f}
	if err := r.readHeader(f); err != nil {
		return nil, errors.Join(fmt.Errorf("replay %q: %w", path, err), f.Close())
	}
	return r, nil
}

func (r *Replay) readHeader(from io.Reader) error {
	reader, err := pcapgo.NewReader(from)
	if err != nil {
		return fmt.Errorf("not a pcap file (save pcapng as pcap): %w", err)
	}
	// The library would take what the file says, up to 4 GiB of memory.
	reader.SetSnaplen(maxReplayed)
	r.reader = reader
	switch link := reader.LinkType(); link {
	case layers.LinkTypeEthernet:
		r.first = layers.LayerTypeEthernet
	case layers.LinkTypeNull, layers.LinkTypeLoop:
		r.first = layers.LayerTypeLoopback
	case layers.LinkTypeLinuxSLL:
		r.first = layers.LayerTypeLinuxSLL
	case linkSLL2:
		r.first = layerSLL2
	case layers.LinkTypeRaw, 12, 14, layers.LinkTypeIPv4, layers.LinkTypeIPv6: // 12, 14: what some systems write for raw
		r.first = layerRaw
	default:
		return fmt.Errorf("packets of link type %d cannot be read", link)
	}
	return nil
}

// Name is SourcePacket: what is replayed was captured.
func (r *Replay) Name() string { return SourcePacket }

// Lost is how many packets of the file could not be made sense of.
func (r *Replay) Lost() uint64 { return r.broken.Load() }

// Close closes the file.
func (r *Replay) Close() error {
	if err := r.file.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("replay: %w", err)
	}
	return nil
}

// Run is [Source.Run].
func (r *Replay) Run(ctx context.Context, seen func(*Seen)) error {
	return errors.Join(r.run(ctx, seen), r.Close())
}

func (r *Replay) run(ctx context.Context, seen func(*Seen)) error {
	d := newDecoder()
	began, firstAt, last := r.opt.Boot(), int64(0), int64(0)
	for n := 1; ctx.Err() == nil; n++ {
		packet, info, err := r.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("replay %q: packet %d: %w", r.path, n, err)
		}
		at := info.Timestamp.UnixNano()
		if n == 1 {
			firstAt = at
		}
		last = max(last, at-firstAt) // boot time never steps back
		var s Seen
		switch d.decode(r.first, packet, r.ports, &s) {
		case packetOpens:
			if r.opt.Local == nil || r.opt.Local(s.Local.Addr()) {
				s.At = began + last
				seen(&s)
			}
		case packetBroken:
			r.broken.Add(1)
		}
	}
	return nil
}

// next reads a packet, which is valid until the one after. Where numbers have 32 bits, a
// length above 2 GiB makes the library panic.
func (r *Replay) next() (packet []byte, info gopacket.CaptureInfo, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("not a packet: %v", p)
		}
	}()
	return r.reader.ZeroCopyReadPacketData()
}
