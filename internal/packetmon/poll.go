package packetmon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"osm/policy"
)

const (
	pollEvery = 100 * time.Millisecond
	// maxPolled bounds the connections that are remembered, some 10 MB. What more there are
	// at one time are counted as lost in each round.
	maxPolled = 1 << 16
	// forgetAfter is for how many rounds a connection is remembered that is not among the
	// kernel's answers: a dump that takes several datagrams may skip one, and it must not be
	// new when it is back.
	forgetAfter = 16
	// maxListeners bounds the listening addresses that are looked at.
	maxListeners = 1 << 16
)

// PollOptions says what a [Poll] watches.
type PollOptions struct {
	Ports []uint16
	Every time.Duration    // between two looks; 0 = 100 ms
	Tick  <-chan time.Time // when to look, instead of Every
	Boot  func() int64     // CLOCK_BOOTTIME in nanoseconds
}

// Poll is the [Source] for where nothing better is allowed: it asks for all sockets that are
// connected to one of the ports, again and again, and reports those that are new. It needs
// no privilege, is told the owner by the kernel with the socket, and does not see what is
// opened and closed again between two looks.
//
// Connections that stand when it is opened are not reported: they are most often a mailing
// that goes on for minutes, and were counted before the watch was started again. What was
// opened while nobody watched goes free.
//
// A connection that somebody opened to this host looks the same as one that this host
// opened, and its far end may choose to come from port 25. So where a program of this host
// listens on the near end's address and port, a connection is taken for an accepted one,
// unless it is still being opened (SYN_SENT, which no accepted connection ever is). Whoever
// listens on the port that he connects from can hide from this source for that; the other
// way round, anybody on the network could have connections blamed on an account.
type Poll struct {
	opt    PollOptions
	diag   *dumper
	known  map[polled]uint64 // the round in which it was there last
	round  uint64
	lost   atomic.Uint64
	closed chan struct{}
	close  func() error // once

	mu     sync.Mutex // guards ports
	opened ports      // the ports that it was opened with, which stay
	ports  ports
}

// polled is what a connection is recognised by: the socket's cookie alone would do, but
// before Linux 4.1 that is an address in memory that is used again, and a socket can be
// connected a second time.
type polled struct {
	cookie uint64
	local  uint16
	remote netip.AddrPort
}

// OpenPoll looks at what there is.
func OpenPoll(o PollOptions) (*Poll, error) {
	set, err := newPorts(o.Ports)
	if err != nil {
		return nil, fmt.Errorf("open the poll source: %w", err)
	}
	if o.Every <= 0 {
		o.Every = pollEvery
	}
	d, err := openDumper()
	if err != nil {
		return nil, fmt.Errorf("open the poll source: %w", err)
	}
	p := &Poll{opt: o, opened: set, ports: set, diag: d, known: map[polled]uint64{}, closed: make(chan struct{})}
	p.close = sync.OnceValue(func() error {
		close(p.closed)
		return d.close()
	})
	if err := p.look(func(*Seen) {}); err != nil {
		return nil, errors.Join(fmt.Errorf("open the poll source: %w", err), p.Close())
	}
	p.lost.Store(0)
	return p, nil
}

// Name is SourcePoll.
func (p *Poll) Name() string { return SourcePoll }

// Lost is how many connections, once for each look, were beyond what can be remembered.
func (p *Poll) Lost() uint64 { return p.lost.Load() }

// AddPort looks for one more port, too, until [Poll.RemovePort]: for a test of the source by
// a connection of one's own. Connections to it that stand are reported.
func (p *Poll) AddPort(port uint16) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	set, err := p.ports.with(port)
	if err != nil {
		return fmt.Errorf("watch port %d: %w", port, err)
	}
	p.ports = set
	return nil
}

// RemovePort ends what [Poll.AddPort] began. The ports that the source was opened with stay.
func (p *Poll) RemovePort(port uint16) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.opened.has(port) {
		return nil
	}
	set, err := p.ports.without(port)
	if err != nil {
		return fmt.Errorf("watch port %d no more: %w", port, err)
	}
	p.ports = set
	return nil
}

// Run is [Source.Run]. The first look is at once.
func (p *Poll) Run(ctx context.Context, seen func(*Seen)) error {
	tick := p.opt.Tick
	if tick == nil {
		t := time.NewTicker(p.opt.Every)
		defer t.Stop()
		tick = t.C
	}
	for {
		err := p.look(seen)
		select {
		case <-ctx.Done():
			return p.Close()
		case <-p.closed:
			return fmt.Errorf("poll: %w", os.ErrClosed)
		default:
		}
		if err != nil {
			return errors.Join(fmt.Errorf("poll: %w", err), p.Close())
		}
		select {
		case <-ctx.Done():
		case <-p.closed:
		case <-tick:
		}
	}
}

// Close ends the source; [Poll.Run] returns at once, with an error if its context stands. It
// may be called more than once.
func (p *Poll) Close() error { return p.close() }

// look is one round.
func (p *Poll) look(seen func(*Seen)) error {
	p.mu.Lock()
	set := p.ports
	p.mu.Unlock()
	p.round++
	var fresh []diagSocket
	code := dportBytecode(set)
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		err := p.diag.dump(family, connectedStates, code, func(s diagSocket) {
			if set.has(s.Remote.Port()) && p.isNew(s) { // the kernel may not have filtered
				fresh = append(fresh, s)
			}
		})
		if err != nil {
			return err
		}
	}
	for k, last := range p.known {
		if p.round-last > forgetAfter {
			delete(p.known, k)
		}
	}
	fresh, err := p.outgoing(fresh)
	if err != nil {
		return err
	}
	at := p.opt.Boot()
	for _, s := range fresh {
		seen(s.seen(at))
	}
	return nil
}

// isNew remembers the connection. One for which there is no room is not new but lost.
func (p *Poll) isNew(s diagSocket) bool {
	k := polled{s.Cookie, s.Local.Port(), s.Remote}
	_, known := p.known[k]
	if !known && len(p.known) >= maxPolled {
		p.lost.Add(1)
		return false
	}
	p.known[k] = p.round
	return !known
}

// outgoing leaves out the accepted ones. The listeners are asked for after the connections:
// a connection that was accepted had its listener before.
func (p *Poll) outgoing(sockets []diagSocket) ([]diagSocket, error) {
	if !slices.ContainsFunc(sockets, diagSocket.mayBeAccepted) {
		return sockets, nil
	}
	listening := map[netip.AddrPort]bool{}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		err := p.diag.dump(family, 1<<tcpListen, nil, func(s diagSocket) {
			if len(listening) < maxListeners {
				listening[s.Local] = true
			}
		})
		if err != nil {
			return nil, err
		}
	}
	return slices.DeleteFunc(sockets, func(s diagSocket) bool {
		any4 := netip.AddrPortFrom(netip.IPv4Unspecified(), s.Local.Port())
		any6 := netip.AddrPortFrom(netip.IPv6Unspecified(), s.Local.Port()) // takes IPv4 as well
		return s.mayBeAccepted() && (listening[s.Local] || listening[any6] || s.Local.Addr().Is4() && listening[any4])
	}), nil
}

func (s diagSocket) mayBeAccepted() bool { return s.State != tcpSynSent }

// seen is what the socket tells. Uid 0 with inode 0 is what the kernel says of a socket that
// no process has any more: nobody, and never root.
func (s diagSocket) seen(at int64) *Seen {
	c := &Seen{At: at, Local: s.Local, Remote: s.Remote, Socket: s.Cookie, Outcome: policy.OutcomeEstablished}
	if s.State == tcpSynSent {
		c.Outcome = policy.OutcomeUnknown
	}
	if s.UID != 0 || s.Inode != 0 {
		c.UID, c.UIDKnown, c.Inode = s.UID, true, s.Inode
	}
	return c
}
