package packetmon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"osm/internal/origin"
)

const (
	testTime  = 2 * time.Second // for a connection of our own to be seen
	testAgain = time.Minute     // until a test that failed is made again
)

// portAdder is a source that can watch a port more for a moment.
type portAdder interface {
	AddPort(uint16) error
	RemovePort(uint16) error
}

// probe is the connection of our own that a test waits for.
type probe struct {
	remote netip.AddrPort
	uids   [2]uint32 // ours: real and effective
	seen   chan Seen // with the owner that was found
}

// testAgain tests the source until that goes well, or ctx ends.
func (m *Monitor) testAgain(ctx context.Context, s Source) {
	ports, ok := s.(portAdder)
	if !ok {
		m.tested("not made: this source cannot watch another port", nil)
		return
	}
	for ctx.Err() == nil {
		began := m.opt.Boot()
		err := m.test(ctx, ports)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			took := time.Duration(m.opt.Boot()-began).Seconds() * 1000
			m.tested(fmt.Sprintf("ok: a connection of our own was seen with user, process and working directory within %.1f ms", took), nil)
			return
		}
		m.tested("failed: "+err.Error(), err)
		timer := time.NewTimer(testAgain)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
}

func (m *Monitor) tested(text string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.selfTest, m.testErr = legible(text, maxStatusText), err
}

// test connects to ourselves and looks whether that is seen as it should be. The error says
// which step failed.
func (m *Monitor) test(ctx context.Context, ports portAdder) (err error) {
	ctx, cancel := context.WithTimeout(ctx, testTime)
	defer cancel()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen on the loopback address: %w", err)
	}
	defer func() { _ = l.Close() }() // nothing was written
	remote := l.Addr().(*net.TCPAddr).AddrPort()
	if m.ours(remote.Port()) {
		return errors.New("the port that was free is one of those watched")
	}
	p := &probe{remote: remote, uids: [2]uint32{uint32(os.Getuid()), uint32(os.Geteuid())}, seen: make(chan Seen, 1)}
	m.probe.Store(p)
	defer m.probe.Store(nil)
	if err := ports.AddPort(remote.Port()); err != nil {
		return fmt.Errorf("watch port %d for a moment: %w", remote.Port(), err)
	}
	defer func() { err = errors.Join(err, ports.RemovePort(remote.Port())) }()
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp4", remote.String())
	if err != nil {
		return fmt.Errorf("connect to ourselves: %w", err)
	}
	defer func() { _ = c.Close() }() // nothing was written
	select {
	case <-ctx.Done():
		return errors.New("see our own connection: it was not told")
	case s := <-p.seen:
		if !s.UIDKnown {
			return errors.New("find the user of our own connection: it is not known")
		}
		return m.isOurs(ctx, &s)
	}
}

// isOurs looks for the process as it is done for others, and compares it with what we are.
func (m *Monitor) isOurs(ctx context.Context, s *Seen) error {
	var c origin.Chain
	var err error
	if s.PID != 0 {
		c, err = m.processes.Chain(ctx, s.PID)
	} else {
		err = m.processes.Holders(ctx, []origin.Socket{{UID: s.UID, Inode: s.Inode}}, nil,
			func(found origin.Chain, _ []origin.Socket) { c = found })
	}
	if err == nil && len(c.Processes) == 0 {
		err = origin.ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("find our own process: %w", err)
	}
	p := &c.Processes[0]
	if int(p.PID) != os.Getpid() {
		return fmt.Errorf("find our own process: got %d, want %d", p.PID, os.Getpid())
	}
	if here, err := os.Getwd(); err == nil && p.WorkingDirectory != here {
		return fmt.Errorf("find our own working directory: got %.100q, want %.100q", p.WorkingDirectory, here)
	}
	return nil
}

// probed takes the connection of our own that a test waits for: it is not counted, nor
// anything else that connects to that port while the test runs.
func (w *watcher) probed(s *Seen) bool {
	p := w.m.probe.Load()
	if p == nil || s.Remote != p.remote {
		return false
	}
	e := sighting{source: w.name, seen: *s}
	w.m.owner(&e)
	if e.seen.UIDKnown && e.seen.UID != p.uids[0] && e.seen.UID != p.uids[1] {
		return true // somebody else's
	}
	select {
	case p.seen <- e.seen:
	default: // the first one decides
	}
	return true
}
