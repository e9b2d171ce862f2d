package eximacl

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"osm/policy"
)

// Defaults of [Server].
const (
	DefaultDeadline = 250 * time.Millisecond
	// DefaultReadDeadline is as long as Exim itself waits: on a starved machine the slow
	// one is Exim, and to hang up on it would let its message pass unchecked.
	DefaultReadDeadline = time.Second
	// DefaultMaxConns is above the number of processes that Exim itself allows on a
	// stock system, so that only a flood of script mail reaches it.
	DefaultMaxConns = 400
)

const (
	refuseFactor = 4       // connections beyond refuseFactor*MaxConns are closed at once
	maxFollowers = 64      // goroutines that stay when there is nothing to do
	smallRequest = 8 << 10 // what a buffer begins with; nearly every request fits
	acceptPause  = 10 * time.Millisecond
)

// Conn is what is known of a connection beside the request.
type Conn struct {
	PeerPID  int32  // of the Exim process that asks; 0 when it cannot be seen from here
	PeerUID  uint32 // Exim's run-time user
	Accepted time.Time
	Deadline time.Time // when the answer must have left; look-ups must end before it

	x *exchange
}

// Claim is called by Check when nothing is left to be done but to decide and to count: from
// here on the answer is Check's, which must not wait for anything any more. False: the
// deadline has passed, and Overload decides in its place; then Check counts nothing and
// returns nil. Without it a message at the deadline might be counted twice, or never.
func (c Conn) Claim() bool { return c.x == nil || c.x.phase.CompareAndSwap(checking, deciding) }

// Wait is to be called by Check before it waits for anything, so that others are answered
// meanwhile.
func (c Conn) Wait() {
	if c.x != nil {
		c.x.wait()
	}
}

// Stats counts what a [Server] did since it was made.
type Stats struct {
	Connections  atomic.Int64 // accepted, wrong peers included
	Answered     atomic.Int64 // answers written whole
	BadPeer      atomic.Int64 // closed without an answer: not a user that PeerOK knows
	Malformed    atomic.Int64 // answered accept: the request could not be understood
	Shed         atomic.Int64 // answered by Overload: more than MaxConns at once
	Late         atomic.Int64 // answered by Overload: Check had not come back at the deadline
	Refused      atomic.Int64 // closed at once, accepted unchecked: more than four times MaxConns
	TimedOut     atomic.Int64 // closed without an answer: no request, or none by the deadline
	Unsent       atomic.Int64 // answers that Exim did not wait for
	Panics       atomic.Int64
	AcceptErrors atomic.Int64
}

// Server answers Exim's questions.
//
// The functions are called by many goroutines at once. Each may return nil, which is
// answered as accept and not handed to Done. A panic in one of them is logged, counted
// and answered as accept; the server goes on.
type Server struct {
	// Check decides within c.Deadline. Where it has not called c.Claim or come back by
	// then, Overload answers in its place and what Check returns later is dropped.
	Check func(c Conn, s *policy.Submission) *policy.Decision
	// Overload decides from memory alone.
	Overload func(c Conn, s *policy.Submission) *policy.Decision
	// Malformed makes the decision for a request that could not be understood; Fault for
	// one whose Check panicked. Both must accept. They may be nil.
	Malformed func(c Conn, err error) *policy.Decision
	Fault     func(c Conn, s *policy.Submission) *policy.Decision
	// Unsent makes the decision for a message whose answer Exim no longer waited for:
	// it has passed unchecked, whatever d says. Nil keeps d.
	Unsent func(c Conn, d *policy.Decision) *policy.Decision
	// Done is called after the answer has left and the connection is closed, with
	// Took filled in.
	Done func(d *policy.Decision)
	// PeerOK tells whether that user may ask: Exim's run-time user. Nil allows nobody.
	PeerOK func(uid uint32) bool

	ReadDeadline time.Duration // from accept to the whole question; 0 = DefaultReadDeadline
	Deadline     time.Duration // from the whole question to the answer; 0 = DefaultDeadline
	MaxConns     int           // checks at once; 0 = DefaultMaxConns
	Log          *slog.Logger  // nil = no log
	Now          func() time.Time

	Stats Stats

	open    atomic.Int64  // connections being served
	leaders atomic.Int32  // who accept
	waiting sync.Mutex    // held by the one of them who waits for a connection
	idle    atomic.Int64  // followers
	turn    chan struct{} // the lead, handed to a follower
	workers sync.WaitGroup

	deadlines *deadlines
	buffers   sync.Pool
	brake     logBrake
}

// Serve accepts and answers until ctx ends, then waits for the answers in flight. It
// does not close l: with a socket unit the questions that wait in its queue are for the
// next daemon. The error is nil after ctx has ended.
func (s *Server) Serve(ctx context.Context, l *net.UnixListener) error {
	if s.Deadline == 0 {
		s.Deadline = DefaultDeadline
	}
	if s.ReadDeadline == 0 {
		s.ReadDeadline = DefaultReadDeadline
	}
	if s.MaxConns == 0 {
		s.MaxConns = DefaultMaxConns
	}
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	if s.Now == nil {
		s.Now = time.Now
	}
	a, err := newAcceptor(l)
	if err != nil {
		return fmt.Errorf("accept: %w", err)
	}
	defer a.close()
	ended := context.AfterFunc(ctx, a.stop)
	defer ended()
	s.turn, s.deadlines = make(chan struct{}), newDeadlines(min(s.Deadline, s.ReadDeadline))
	watching, stopWatching := context.WithCancel(context.WithoutCancel(ctx))
	var watch sync.WaitGroup
	watch.Go(func() {
		// In a goroutine of its own: answering may take a moment, and others are late too.
		s.deadlines.run(watching, func(x *exchange) { watch.Go(x.expire) })
	})
	defer watch.Wait()
	defer stopWatching()
	s.help(ctx, a)
	<-ctx.Done()
	s.workers.Wait()
	return nil
}

// lead accepts and answers by itself as long as nothing has to be waited for: most
// questions lie there whole when their connection is accepted, and cost no switch to
// another goroutine. Whoever has to wait passes the lead on first, so that a slow check
// never keeps others waiting, and afterwards follows until it is passed back to him.
//
// One leads while there is little to do. Whoever finds a question without having waited for
// it calls for help, up to one for each processor; whoever finds none, while another waits
// already, goes back to follow.
func (s *Server) lead(ctx context.Context, a *acceptor) {
	pass := func() { s.promote(ctx, a) }
	for ctx.Err() == nil {
		fd, err := a.next()
		switch {
		case err == nil && fd >= 0:
			s.help(ctx, a)
		case err == nil:
			if !s.waiting.TryLock() {
				s.leaders.Add(-1)
				if !s.follow(ctx) {
					return
				}
				continue
			}
			fd, err = a.wait()
			s.waiting.Unlock()
		}
		switch {
		case err == nil:
			if s.serve(fd, pass) && !s.follow(ctx) {
				return
			}
		case ctx.Err() != nil:
			return
		default:
			s.Stats.AcceptErrors.Add(1)
			s.warn("accept", "cannot accept a question", "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(acceptPause):
			}
		}
	}
}

// help has one more lead, where there are processors for it.
func (s *Server) help(ctx context.Context, a *acceptor) {
	limit := int32(runtime.GOMAXPROCS(0))
	if n := s.leaders.Load(); n < limit && s.leaders.CompareAndSwap(n, n+1) {
		s.promote(ctx, a)
	}
}

// promote makes a follower lead.
func (s *Server) promote(ctx context.Context, a *acceptor) {
	select {
	case s.turn <- struct{}{}:
	default:
		s.workers.Go(func() { s.lead(ctx, a) })
	}
}

// follow waits for the lead; false: there are enough who do, or the end has come.
func (s *Server) follow(ctx context.Context) bool {
	defer s.idle.Add(-1)
	if s.idle.Add(1) > maxFollowers {
		return false
	}
	select {
	case <-s.turn:
		return true
	case <-ctx.Done():
		return false
	}
}

// serve answers one connection and closes it. It calls next before it waits for anything,
// and reports whether it did.
func (s *Server) serve(fd int, next func()) (passed bool) {
	accepted := s.Now()
	s.Stats.Connections.Add(1)
	open := s.open.Add(1)
	defer s.open.Add(-1)
	if open > int64(refuseFactor*s.MaxConns) {
		s.Stats.Refused.Add(1)
		s.warn("refused", "too many questions at once: closed, accepted unchecked", "max", refuseFactor*s.MaxConns)
		unix.Close(fd)
		return false
	}
	x := &exchange{server: s, conn: conn{fd: fd}, full: open <= int64(s.MaxConns), next: next}
	x.c.Accepted, x.c.x = accepted, x
	x.deadline.Store(s.deadlines.in(s.ReadDeadline))
	s.deadlines.add(x)
	defer s.deadlines.remove(x)

	pid, uid, err := x.conn.peer()
	if err != nil || s.PeerOK == nil || !s.PeerOK(uid) {
		s.Stats.BadPeer.Add(1)
		s.warn("peer", "question from a user that is not Exim's: closed", "uid", uid, "pid", pid, "err", err)
		x.conn.close()
		return false
	}
	x.c.PeerPID, x.c.PeerUID = pid, uid
	x.run()
	return x.passed.Load()
}

// The phases of an exchange. Whoever moves it from checking makes the decision, and
// whoever moves it to answering writes the answer.
const (
	reading int32 = iota
	checking
	deciding
	answering
)

// exchange is one question on its way to the answer.
type exchange struct {
	server *Server
	conn   conn
	c      Conn
	full   bool   // to be checked in full; otherwise Overload answers
	next   func() // has somebody else accept
	passed atomic.Bool

	deadline      atomic.Int64
	before, after *exchange // of those in flight

	phase atomic.Int32
	sub   *policy.Submission
}

// wait is called before anything is waited for.
func (x *exchange) wait() {
	if x.passed.CompareAndSwap(false, true) {
		x.next()
	}
}

// Read reads what is there, and has somebody else accept before it waits for more.
func (x *exchange) Read(b []byte) (int, error) { return x.conn.read(b, x.wait) }

func (x *exchange) run() {
	s := x.server
	buf := s.buffer()
	defer s.buffers.Put(buf)
	request, err := readRequest(x, buf)
	if err != nil && !errors.Is(err, ErrTooLarge) {
		s.Stats.TimedOut.Add(1)
		s.warn("request", "no whole question before the deadline: closed", "err", err)
		x.conn.close()
		return
	}
	if err == nil {
		x.sub, err = ParseRequest(request)
	}
	x.c.Deadline = s.Now().Add(s.Deadline)
	x.phase.Store(checking)
	x.deadline.Store(s.deadlines.in(s.Deadline))
	var d *policy.Decision
	switch {
	case err != nil:
		s.Stats.Malformed.Add(1)
		s.warn("malformed", "question could not be understood: accepted unchecked", "err", err)
		d = x.guard(func() *policy.Decision { return call(s.Malformed, x.c, err) })
	case !x.full:
		s.Stats.Shed.Add(1)
		if x.c.Claim() {
			d = x.guard(func() *policy.Decision { return call(s.Overload, x.c, x.sub) })
		}
	default:
		d = x.guard(func() *policy.Decision { return call(s.Check, x.c, x.sub) })
	}
	if x.phase.CompareAndSwap(deciding, answering) || x.phase.CompareAndSwap(checking, answering) {
		x.answer((*buf)[:0], d)
	}
}

// expire runs at the deadline, unless the exchange has ended by then.
func (x *exchange) expire() {
	x.wait() // whatever it hangs on, it must not hang on the lead
	switch {
	case x.phase.CompareAndSwap(checking, answering):
		x.late()
	case x.phase.Load() == deciding:
		x.deadline.Store(x.server.deadlines.in(x.server.Deadline)) // the answer is on its way: look again whether it leaves
	default:
		x.conn.expire()
	}
}

// late answers in the place of a check that has not come back.
func (x *exchange) late() {
	s := x.server
	s.Stats.Late.Add(1)
	s.warn("late", "check did not end before the deadline: answered from memory")
	x.answer(nil, x.guard(func() *policy.Decision {
		if x.sub == nil {
			return nil
		}
		return call(s.Overload, x.c, x.sub)
	}))
}

// answer writes d's answer, closes and hands d on.
func (x *exchange) answer(buf []byte, d *policy.Decision) {
	s := x.server
	a := Answer{Action: policy.Accept}
	if d != nil {
		a = Answer{Action: d.Verdict, Ref: d.Ref, Log: d.Log, Text: d.Text, WhenFree: d.Verdict == policy.Freeze && d.Release == policy.WhenFree}
	}
	if err := x.conn.write(AppendAnswer(buf, a)); err != nil {
		s.Stats.Unsent.Add(1)
		if d != nil {
			d = x.guard(func() *policy.Decision { return orSame(s.Unsent, x.c, d) })
		}
	} else {
		s.Stats.Answered.Add(1)
	}
	x.conn.close()
	if d == nil || s.Done == nil {
		return
	}
	d.Took = s.Now().Sub(x.c.Accepted)
	x.guard(func() *policy.Decision { s.Done(d); return nil })
}

// guard calls f and keeps a panic to this exchange.
func (x *exchange) guard(f func() *policy.Decision) (d *policy.Decision) {
	defer func() {
		if v := recover(); v != nil {
			d = x.fault(v)
		}
	}()
	return f()
}

func (x *exchange) fault(v any) (d *policy.Decision) {
	s := x.server
	s.Stats.Panics.Add(1)
	s.Log.Error("panic while answering a question: accepted unchecked", "err", v, "stack", string(debug.Stack()))
	defer func() {
		if recover() != nil {
			d = nil
		}
	}()
	if x.sub == nil {
		return nil
	}
	return call(s.Fault, x.c, x.sub)
}

// call calls f where it is set.
func call[T any](f func(Conn, T) *policy.Decision, c Conn, v T) *policy.Decision {
	if f == nil {
		return nil
	}
	return f(c, v)
}

// orSame calls f; where it is not set the decision stays what it is.
func orSame(f func(Conn, *policy.Decision) *policy.Decision, c Conn, d *policy.Decision) *policy.Decision {
	if f == nil {
		return d
	}
	return f(c, d)
}

func (s *Server) buffer() *[]byte {
	if b, ok := s.buffers.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, smallRequest)
	return &b
}

// readRequest reads up to the empty line into *buf, which it makes larger up to
// [MaxRequest] where the request needs it.
func readRequest(r io.Reader, buf *[]byte) ([]byte, error) {
	b, n := *buf, 0
	for {
		if n == len(b) {
			if n >= MaxRequest {
				return nil, ErrTooLarge
			}
			b = append(b, make([]byte, min(len(b), MaxRequest-len(b)))...)
			*buf = b
		}
		m, err := r.Read(b[n:])
		from := max(n-1, 0)
		n += m
		if bytes.Contains(b[from:n], []byte("\n\n")) || n > 0 && b[0] == '\n' {
			return b[:n], nil
		}
		switch {
		case errors.Is(err, io.EOF) && n > 0:
			return b[:n], nil
		case err != nil:
			return nil, err
		}
	}
}
