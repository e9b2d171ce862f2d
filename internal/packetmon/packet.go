package packetmon

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// packetQueue is what the kernel may hold for us in bytes: 10,000 packets. Without
// CAP_NET_ADMIN it gives net.core.rmem_max at most, which is 208 KiB where nobody set it: 500
// packets. When it is full, packets are dropped, and [Packet.Lost] counts them.
const packetQueue = 4 << 20

// PacketOptions says what a [Packet] watches.
type PacketOptions struct {
	Ports []uint16
	Boot  func() int64 // CLOCK_BOOTTIME in nanoseconds
}

// Packet is the [Source] that sees the first packet of each connection on its way out. It
// needs CAP_NET_RAW to be opened and nothing afterwards; it sees the network namespace that
// it was opened in. The packet passes while the process is still in connect(2), so that the
// owner of its socket can be asked for at once. A connection that a firewall of this host
// rejects sends no packet, and is not seen.
//
// The capture socket is our own: of gopacket's two, one needs cgo, and the other sees one
// interface and leaves its reader blocked when it is closed.
type Packet struct {
	boot    func() int64
	file    *os.File
	conn    syscall.RawConn
	dropped atomic.Uint64 // by the kernel, as far as it was asked
	broken  atomic.Uint64
	closed  atomic.Bool
	reads   atomic.Uint64 // of the socket: the tests prove by it that other traffic wakes nobody

	mu      sync.Mutex // guards changes of the filter
	opened  ports      // the ports that it was opened with, which stay
	watched atomic.Pointer[ports]
}

// OpenPacket begins to collect packets; [Packet.Run] hands them out.
func OpenPacket(o PacketOptions) (*Packet, error) {
	set, err := newPorts(o.Ports)
	if err != nil {
		return nil, fmt.Errorf("open the packet source: %w", err)
	}
	// Protocol 0: nothing is received before the filter is there and bind names a protocol.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open a packet socket: %w", err)
	}
	p := &Packet{boot: o.Boot, file: os.NewFile(uintptr(fd), "packet socket"), opened: set}
	if err := p.start(fd); err != nil {
		return nil, errors.Join(err, p.file.Close())
	}
	return p, nil
}

func (p *Packet) start(fd int) error {
	conn, err := p.file.SyscallConn()
	if err != nil {
		return fmt.Errorf("read a packet socket: %w", err)
	}
	p.conn = conn
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, packetQueue); err != nil {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, packetQueue); err != nil {
			return fmt.Errorf("set the queue of a packet socket: %w", err)
		}
	}
	if err := p.watch(p.opened); err != nil {
		return err
	}
	// All protocols: a socket for one protocol is not shown what leaves. All interfaces: 0.
	err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ALL)})
	if err != nil {
		return fmt.Errorf("bind a packet socket: %w", err)
	}
	return nil
}

// Name is SourcePacket.
func (p *Packet) Name() string { return SourcePacket }

// AddPort watches one more port, from now on: for a test of the source by a connection of
// one's own. Connections to the others are seen all the while, as the kernel swaps one
// filter for the other.
func (p *Packet) AddPort(port uint16) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	set, err := p.watched.Load().with(port)
	if err == nil {
		err = p.watch(set)
	}
	if err != nil {
		return fmt.Errorf("watch port %d: %w", port, err)
	}
	return nil
}

// RemovePort ends what [Packet.AddPort] began, also for connections to the port that were not
// reported yet. The ports that the source was opened with stay.
func (p *Packet) RemovePort(port uint16) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.opened.has(port) {
		return nil
	}
	set, err := p.watched.Load().without(port)
	if err == nil {
		err = p.watch(set)
	}
	if err != nil {
		return fmt.Errorf("watch port %d no more: %w", port, err)
	}
	return nil
}

// watch puts a filter in the place of the one before. The set that packets are checked by
// again is widened first and narrowed last, so that what either filter takes is never
// refused.
func (p *Packet) watch(set ports) error {
	program, err := filter(set)
	if err != nil {
		return err
	}
	old := p.watched.Load()
	if old == nil || len(*old) < len(set) {
		p.watched.Store(&set)
	}
	if err := p.attach(program); err != nil {
		if old != nil {
			p.watched.Store(old)
		}
		return err
	}
	p.watched.Store(&set)
	return nil
}

func (p *Packet) attach(program []bpf.RawInstruction) error {
	filters := make([]unix.SockFilter, len(program))
	for i, in := range program {
		filters[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	prog := unix.SockFprog{Len: uint16(len(filters)), Filter: &filters[0]}
	var done error
	err := p.conn.Control(func(fd uintptr) {
		done = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog)
	})
	if err := errors.Join(err, done); err != nil {
		return fmt.Errorf("attach the packet filter: %w", err)
	}
	return nil
}

// Run is [Source.Run]. seen is called as soon as the packet was read, and may keep what it
// is given. While it runs, packets wait in the kernel: it must be quicker than they come.
func (p *Packet) Run(ctx context.Context, seen func(*Seen)) error {
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { _ = p.Close(); close(closed) })
	defer func() {
		if !stop() {
			<-closed
		}
	}()
	d := newDecoder()
	var s Seen
	buf := make([]byte, snapLength)
	for {
		n, from, err := p.read(buf)
		switch {
		case ctx.Err() != nil:
			return p.Close()
		case err != nil && p.closed.Load(): // the runtime has no name for it
			return fmt.Errorf("read a packet socket: %w", os.ErrClosed)
		case err != nil:
			return errors.Join(fmt.Errorf("read a packet socket: %w", err), p.Close())
		}
		switch d.packet(buf[:n], from, *p.watched.Load(), &s) {
		case packetOpens:
			s.At = p.boot()
			handed := s
			seen(&handed)
		case packetBroken:
			p.broken.Add(1)
		}
	}
}

// read waits for a packet.
func (p *Packet) read(buf []byte) (n int, from unix.Sockaddr, err error) {
	waited := p.conn.Read(func(fd uintptr) bool {
		p.reads.Add(1)
		for again := true; again; again = errors.Is(err, unix.EINTR) {
			n, from, err = unix.Recvfrom(int(fd), buf, 0)
		}
		return !errors.Is(err, unix.EAGAIN)
	})
	if waited != nil {
		err = waited
	}
	return n, from, err
}

// packet decodes what the socket gave. The filter is not relied on.
func (d *decoder) packet(packet []byte, from unix.Sockaddr, p ports, s *Seen) verdict {
	link, ok := from.(*unix.SockaddrLinklayer)
	if !ok || link.Pkttype != unix.PACKET_OUTGOING {
		return packetOther
	}
	var first gopacket.LayerType
	switch link.Protocol {
	case networkOrder(unix.ETH_P_IP):
		first = layers.LayerTypeIPv4
	case networkOrder(unix.ETH_P_IPV6):
		first = layers.LayerTypeIPv6
	default:
		return packetOther
	}
	return d.decode(first, packet, p, s)
}

// Lost is how many packets the kernel dropped because we read too slowly, and how many
// passed its filter and could not be made sense of.
func (p *Packet) Lost() uint64 {
	_ = p.conn.Control(func(fd uintptr) { // closed: they were counted then
		// The kernel forgets its count as it tells it.
		if s, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			p.dropped.Add(uint64(s.Drops))
		}
	})
	return p.dropped.Load() + p.broken.Load()
}

// Close ends the source; [Packet.Run] returns at once, with an error if its context stands.
// It may be called more than once.
func (p *Packet) Close() error {
	p.Lost()
	p.closed.Store(true)
	if err := p.file.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("close a packet socket: %w", err)
	}
	return nil
}

// networkOrder turns a number of 16 bits around where the machine needs it.
func networkOrder(v uint16) uint16 {
	return binary.NativeEndian.Uint16([]byte{byte(v >> 8), byte(v)})
}
