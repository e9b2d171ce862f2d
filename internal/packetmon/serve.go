package packetmon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"reflect"
	"sync"
	"time"

	"osm/internal/origin"
)

const (
	statusEvery = time.Second            // a status is sent so often, and
	statusLook  = 250 * time.Millisecond // so soon after it changed
	gather      = 5 * time.Millisecond   // for records to come together: each line wakes the follower
	serveWrite  = 10 * time.Second       // for the follower to take what was sent
	serveLast   = 500 * time.Millisecond // for the last records when the watch ends
	serveBatch  = 64                     // records sent at once
)

// ServeOptions says to whom [Serve] hands the records.
type ServeOptions struct {
	UID uint32 // the daemon's user; root may follow, too
	Log *slog.Logger
}

// Serve hands the monitor's records, each once, and its status to whoever follows at l until
// ctx ends or l fails. There is one follower at a time: another one that may follow takes
// its place. The monitor runs beside it and never waits for it; what a follower did not take
// waits for the next one. What was on its way to one that ended is lost.
func Serve(ctx context.Context, l *net.UnixListener, m *Monitor, o ServeOptions) error {
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	stop := func() {}
	defer func() { stop() }()
	for {
		c, err := l.AcceptUnix()
		if ctx.Err() != nil {
			if c != nil {
				_ = c.Close() // nothing was written
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept a follower of the watch: %w", err)
		}
		peer, err := origin.PeerOf(c)
		if err != nil || peer.UID != 0 && peer.UID != o.UID {
			o.Log.Warn("follower of the watch refused", "uid", peer.UID, "err", err)
			_ = c.Close() // nothing was written
			continue
		}
		stop() // the one before: two would hand out the same records
		stop = startFollower(ctx, m, c, o.Log)
	}
}

// startFollower serves c until the returned function is called, which waits for its end.
func startFollower(ctx context.Context, m *Monitor, c *net.UnixConn, log *slog.Logger) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := (&follower{m: m, c: c}).serve(ctx); err != nil && ctx.Err() == nil {
			log.Info("follower of the watch went away", "err", err)
		}
	}()
	return func() { cancel(); <-done }
}

// follower is one connection that is served.
type follower struct {
	m    *Monitor
	c    *net.UnixConn
	last Status // that was sent
	sent bool
	buf  []byte
}

// serve sends until the follower goes away or ctx ends.
func (f *follower) serve(ctx context.Context) error {
	defer func() { _ = f.c.Close() }() // what could not be written is still ours
	gone := make(chan struct{})
	var reading sync.WaitGroup
	defer reading.Wait()
	defer context.AfterFunc(ctx, func() { _ = f.c.SetDeadline(time.Now().Add(serveLast)) })() // a closed one needs none
	reading.Go(func() { defer close(gone); f.awaitEnd() })
	defer func() { _ = f.c.Close() }() // ends the reader
	every, look := time.NewTicker(statusEvery), time.NewTicker(statusLook)
	defer every.Stop()
	defer look.Stop()
	var soon <-chan time.Time
	f.m.out.signal() // for what is waiting
	if err := f.status(ctx, true); err != nil {
		return err
	}
	for {
		var err error
		select {
		case <-ctx.Done():
			return f.records(ctx)
		case <-gone:
			return errors.New("it closed the connection")
		case <-f.m.out.ready:
			if soon == nil {
				soon = time.After(gather)
			}
		case <-soon:
			soon = nil
			err = f.records(ctx)
		case <-every.C:
			err = f.status(ctx, true)
		case <-look.C:
			err = f.status(ctx, false)
		}
		if err != nil {
			return err
		}
	}
}

// awaitEnd returns when the follower has closed the connection: it says nothing.
func (f *follower) awaitEnd() {
	var b [1]byte
	_, _ = f.c.Read(b[:]) // whatever comes, it is over
}

// status sends the status, with always also if nothing has changed that matters.
func (f *follower) status(ctx context.Context, always bool) error {
	if !f.m.settled() {
		return nil
	}
	s := f.m.Status()
	if !always && f.sent && s.Source == f.last.Source && s.Level == f.last.Level && reflect.DeepEqual(s.Problems, f.last.Problems) {
		return nil
	}
	line, err := AppendMessage(f.buf[:0], Message{Status: &s})
	if err != nil {
		return err
	}
	f.buf, f.last, f.sent = line, s, true
	_, err = f.write(ctx, line)
	return err
}

// records sends some of what waits, and all of it once ctx has ended: between them the status
// has its turn, without which the follower takes us for dead. Those are taken off whose line was written in full: of the others
// the follower has nothing that it could use.
func (f *follower) records(ctx context.Context) error {
	for {
		records, first := f.m.out.peek(serveBatch)
		if len(records) == 0 {
			return nil
		}
		lines := f.buf[:0]
		ends := make([]int, 0, len(records))
		for i := range records {
			var err error
			if lines, err = AppendMessage(lines, Message{Record: &records[i]}); err != nil {
				f.m.count.faults.Add(1)
				f.m.opt.Log.Error("record of a connection not handed on", "err", err) // as if it had been
			}
			ends = append(ends, len(lines))
		}
		f.buf = lines
		n, err := f.write(ctx, lines)
		whole := 0
		for whole < len(ends) && ends[whole] <= n {
			whole++
		}
		f.m.out.taken(first, whole) // it signals that there are more
		if err != nil || ctx.Err() == nil {
			return err
		}
	}
}

// write gives the follower time to take b, but little once ctx has ended: whoever ends it
// shortens a wait that has begun.
func (f *follower) write(ctx context.Context, b []byte) (n int, err error) {
	if err = f.c.SetWriteDeadline(time.Now().Add(serveWrite)); err == nil && ctx.Err() != nil {
		err = f.c.SetWriteDeadline(time.Now().Add(serveLast))
	}
	if err == nil {
		n, err = f.c.Write(b)
	}
	if err != nil {
		return n, fmt.Errorf("write to the follower of the watch: %w", err)
	}
	return n, nil
}
