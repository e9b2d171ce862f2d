package eximacl

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"osm/policy"
)

// start serves s on a socket of its own until the test ends and returns its path.
func start(t testing.TB, s *Server) string {
	t.Helper()
	path, stop := startStop(t, s)
	t.Cleanup(stop)
	return path
}

// startStop is start for a test that ends the server itself.
func startStop(t testing.TB, s *Server) (path string, stop func()) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "policy.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	if s.PeerOK == nil {
		s.PeerOK = func(uid uint32) bool { return uid == uint32(os.Getuid()) }
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, l) }()
	return path, func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		l.Close()
	}
}

func dial(t testing.TB, path string) *net.UnixConn {
	t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// ask does what Exim's readsocket does. A reset is an empty answer, as to Exim.
func ask(t testing.TB, path string, request []byte) string {
	t.Helper()
	c := dial(t, path)
	if _, err := c.Write(request); err == nil {
		c.CloseWrite()
	}
	b, _ := io.ReadAll(c)
	return string(b)
}

func decide(v policy.Verdict, ref string) *policy.Decision {
	return &policy.Decision{Verdict: v, Ref: ref}
}

func TestServerAnswersAndThenRecords(t *testing.T) {
	done := make(chan *policy.Decision, 1)
	var conn Conn
	s := &Server{
		Check: func(c Conn, s *policy.Submission) *policy.Decision {
			conn = c
			return &policy.Decision{Verdict: policy.Freeze, Ref: "r1", Log: "over", Submission: s}
		},
		Done: func(d *policy.Decision) { done <- d },
	}
	got := ask(t, start(t, s), AppendRequest(nil, standard()))
	if want := "action=freeze ref=r1 log=\"over\" osm=1\n"; got != want {
		t.Errorf("answer %q, want %q", got, want)
	}
	d := <-done
	if d.Submission.Subject != standard().Subject || d.Took <= 0 {
		t.Errorf("recorded Subject %q, took %v; want %q and a time", d.Submission.Subject, d.Took, standard().Subject)
	}
	if conn.PeerPID != int32(os.Getpid()) || conn.PeerUID != uint32(os.Getuid()) {
		t.Errorf("peer pid %d uid %d, want %d and %d", conn.PeerPID, conn.PeerUID, os.Getpid(), os.Getuid())
	}
	if left := conn.Deadline.Sub(conn.Accepted); left < DefaultDeadline || left > DefaultDeadline+DefaultReadDeadline {
		t.Errorf("deadline %v after accept, want %v after the question", left, DefaultDeadline)
	}
}

func TestServerAnswersAtTheEmptyLineAsWellAsAtTheEnd(t *testing.T) {
	s := &Server{Check: func(Conn, *policy.Submission) *policy.Decision { return decide(policy.Deny, "r") }}
	c := dial(t, start(t, s))
	for _, b := range AppendRequest(nil, standard()) { // one byte at a time, no half-close
		if _, err := c.Write([]byte{b}); err != nil {
			t.Fatal(err)
		}
	}
	b, err := io.ReadAll(c)
	if want := "action=deny ref=r osm=1\n"; string(b) != want || err != nil {
		t.Errorf("answer %q, %v, want %q", b, err, want)
	}
}

func TestServerClosesOnAStranger(t *testing.T) {
	s := &Server{
		PeerOK: func(uint32) bool { return false },
		Check:  func(Conn, *policy.Submission) *policy.Decision { t.Error("Check was called"); return nil },
	}
	if got := ask(t, start(t, s), AppendRequest(nil, standard())); got != "" {
		t.Errorf("a stranger was answered %q", got)
	}
	if n := s.Stats.BadPeer.Load(); n != 1 {
		t.Errorf("BadPeer = %d, want 1", n)
	}
}

func TestServerAcceptsWhatItCannotUnderstand(t *testing.T) {
	tests := []struct{ name, request string }{
		{"rubbish", "GET / HTTP/1.0\r\n\r\n\n\n"},
		{"an empty line at once", "\n"},
		{"no empty line", "osm=1\nid=x\n"},
		{"a name given twice", "osm=1\nosm=1\n\n"},
		{"a request without end", strings.Repeat("x", MaxRequest+1)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			done := make(chan *policy.Decision, 1)
			s := &Server{
				Check: func(Conn, *policy.Submission) *policy.Decision { t.Error("Check was called"); return nil },
				Malformed: func(_ Conn, err error) *policy.Decision {
					return &policy.Decision{Ref: "m", Reason: policy.ReasonMalformed}
				},
				Done: func(d *policy.Decision) { done <- d },
			}
			if got, want := ask(t, start(t, s), []byte(tt.request)), "action=accept ref=m osm=1\n"; got != want {
				t.Errorf("answer %q, want %q", got, want)
			}
			if d := <-done; d.Reason != policy.ReasonMalformed || s.Stats.Malformed.Load() != 1 {
				t.Errorf("recorded %v, counted %d, want malformed and 1", d.Reason, s.Stats.Malformed.Load())
			}
		})
	}
}

func TestServerKeepsAPanicToItsConnection(t *testing.T) {
	done := make(chan *policy.Decision, 2)
	var logged bytes.Buffer
	s := &Server{
		Check: func(_ Conn, s *policy.Submission) *policy.Decision {
			if s.MessageID == "bad" {
				panic("a bug")
			}
			return decide(policy.Freeze, "ok")
		},
		Fault: func(_ Conn, s *policy.Submission) *policy.Decision {
			return &policy.Decision{Ref: "f", Reason: policy.ReasonFault}
		},
		Done: func(d *policy.Decision) { done <- d; panic("a bug in recording") },
		Log:  slog.New(slog.NewTextHandler(&logged, nil)),
	}
	path := start(t, s)
	bad := standard()
	bad.MessageID = "bad"
	if got, want := ask(t, path, AppendRequest(nil, bad)), "action=accept ref=f osm=1\n"; got != want {
		t.Errorf("answer after a panic %q, want %q", got, want)
	}
	if d := <-done; d.Reason != policy.ReasonFault {
		t.Errorf("recorded %v, want fault", d.Reason)
	}
	if got, want := ask(t, path, AppendRequest(nil, standard())), "action=freeze ref=ok osm=1\n"; got != want {
		t.Errorf("the next answer %q, want %q", got, want)
	}
	<-done
}

func TestServerMakesAnotherDecisionWhenNobodyWaitsForTheAnswer(t *testing.T) {
	gone, done := make(chan bool), make(chan *policy.Decision, 1)
	s := &Server{
		Deadline: 5 * time.Second,
		Check:    func(Conn, *policy.Submission) *policy.Decision { <-gone; return decide(policy.Freeze, "frozen") },
		Unsent: func(_ Conn, d *policy.Decision) *policy.Decision {
			return &policy.Decision{Verdict: policy.Accept, Ref: "after " + d.Ref, Reason: policy.ReasonUnanswered}
		},
		Done: func(d *policy.Decision) { done <- d },
	}
	c := dial(t, start(t, s))
	if _, err := c.Write(AppendRequest(nil, standard())); err != nil {
		t.Fatal(err)
	}
	c.Close()
	close(gone)
	d := <-done
	if d.Verdict != policy.Accept || d.Ref != "after frozen" || s.Stats.Unsent.Load() != 1 || s.Stats.Answered.Load() != 0 {
		t.Errorf("recorded %v %q, %d unsent, %d answered; want accept, \"after frozen\", 1 and 0",
			d.Verdict, d.Ref, s.Stats.Unsent.Load(), s.Stats.Answered.Load())
	}
}

func TestServerAnswersByTheDeadlineWhenTheCheckIsStuck(t *testing.T) {
	release, checked := make(chan struct{}), make(chan struct{})
	done := make(chan *policy.Decision, 2)
	s := &Server{
		Deadline: 20 * time.Millisecond,
		Check: func(Conn, *policy.Submission) *policy.Decision {
			<-release
			defer close(checked)
			return decide(policy.Deny, "late")
		},
		Overload: func(Conn, *policy.Submission) *policy.Decision { return decide(policy.Freeze, "known") },
		Done:     func(d *policy.Decision) { done <- d },
	}
	path := start(t, s)
	if got, want := ask(t, path, AppendRequest(nil, standard())), "action=freeze ref=known osm=1\n"; got != want {
		t.Errorf("answer %q, want %q", got, want)
	}
	if d := <-done; d.Ref != "known" {
		t.Errorf("recorded %q, want the answer that was sent", d.Ref)
	}
	close(release)
	<-checked
	if n := s.Stats.Late.Load(); n != 1 || len(done) != 0 {
		t.Errorf("Late = %d, %d more recorded; want 1 and none", n, len(done))
	}
}

func TestServerLetsOneDecideAtTheDeadline(t *testing.T) {
	for name, claimsFirst := range map[string]bool{"a check that claims before the deadline answers after it": true, "one that claims after it decides nothing": false} {
		t.Run(name, func(t *testing.T) {
			late, decided := make(chan struct{}), make(chan string, 4)
			s := &Server{Deadline: 20 * time.Millisecond}
			s.Check = func(c Conn, _ *policy.Submission) *policy.Decision {
				if claimsFirst && !c.Claim() {
					t.Error("Claim is false before the deadline")
				}
				if claimsFirst {
					<-time.After(3 * s.Deadline) // starved of its processor
				} else {
					<-late
					if c.Claim() {
						t.Error("Claim is true after the deadline")
					}
					return nil
				}
				decided <- "check"
				return decide(policy.Deny, "check")
			}
			s.Overload = func(c Conn, _ *policy.Submission) *policy.Decision {
				close(late)
				decided <- "overload"
				return decide(policy.Freeze, "overload")
			}
			want := "action=freeze ref=overload osm=1\n"
			if claimsFirst {
				want = "action=deny ref=check osm=1\n"
			}
			if got := ask(t, start(t, s), AppendRequest(nil, standard())); got != want {
				t.Errorf("answer %q, want %q", got, want)
			}
			if len(decided) != 1 {
				t.Errorf("%d decided, want one", len(decided))
			}
		})
	}
}

func TestServerClosesOnAHalfRequestAtTheDeadline(t *testing.T) {
	s := &Server{ReadDeadline: 20 * time.Millisecond}
	path, stop := startStop(t, s)
	c := dial(t, path)
	if _, err := c.Write([]byte("osm=1\n")); err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(c) // ends only when the server closes
	if len(b) != 0 {
		t.Errorf("half a request was answered %q", b)
	}
	stop()
	if n := s.Stats.TimedOut.Load(); n != 1 {
		t.Errorf("TimedOut = %d, want 1", n)
	}
}

func TestServerUnderMoreConnectionsThanItsCap(t *testing.T) {
	const most = 2
	release := make(chan struct{})
	var checking sync.WaitGroup
	checking.Add(most)
	s := &Server{
		MaxConns: most,
		Deadline: time.Minute,
		Check: func(c Conn, _ *policy.Submission) *policy.Decision {
			c.Wait()
			checking.Done()
			<-release
			return decide(policy.Accept, "full")
		},
		Overload: func(Conn, *policy.Submission) *policy.Decision { return decide(policy.Freeze, "known") },
	}
	path := start(t, s)
	request := AppendRequest(nil, standard())
	answers := make(chan string, most)
	for range most {
		go func() { answers <- ask(t, path, request) }()
	}
	checking.Wait()
	if got, want := ask(t, path, request), "action=freeze ref=known osm=1\n"; got != want {
		t.Errorf("beyond the cap: answer %q, want %q", got, want)
	}
	// Connections that say nothing fill the second cap; then one more is closed at once.
	for range (refuseFactor - 1) * most {
		dial(t, path)
	}
	for s.open.Load() < refuseFactor*most {
		dialed := dial(t, path) // a turn of the accept loop
		dialed.Close()
	}
	if got := ask(t, path, request); got != "" {
		t.Errorf("beyond the second cap: answer %q, want none", got)
	}
	close(release)
	for range most {
		if got, want := <-answers, "action=accept ref=full osm=1\n"; got != want {
			t.Errorf("a check within the cap: answer %q, want %q", got, want)
		}
	}
	if s.Stats.Shed.Load() != 1 || s.Stats.Refused.Load() == 0 {
		t.Errorf("Shed = %d, Refused = %d, want 1 and some", s.Stats.Shed.Load(), s.Stats.Refused.Load())
	}
}

func TestServerGoesOnBesideChecksThatHangWithoutSayingSo(t *testing.T) {
	hang := make(chan struct{})
	defer close(hang)
	var calls atomic.Int64
	most := int64(2 * runtime.GOMAXPROCS(0)) // more than there are to accept
	s := &Server{
		Deadline: 20 * time.Millisecond,
		Check: func(Conn, *policy.Submission) *policy.Decision {
			if calls.Add(1) <= most {
				<-hang
			}
			return decide(policy.Accept, "full")
		},
		Overload: func(Conn, *policy.Submission) *policy.Decision { return decide(policy.Freeze, "known") },
	}
	path := start(t, s)
	request := AppendRequest(nil, standard())
	for range most {
		if got, want := ask(t, path, request), "action=freeze ref=known osm=1\n"; got != want {
			t.Errorf("a check that hangs: answer %q, want %q", got, want)
		}
	}
	if got, want := ask(t, path, request), "action=accept ref=full osm=1\n"; got != want {
		t.Errorf("behind them: answer %q, want %q", got, want)
	}
}

func TestServerFinishesWhatIsInFlightAndLeavesTheSocketOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	entered, release := make(chan struct{}), make(chan struct{})
	s := &Server{
		Deadline: time.Minute,
		PeerOK:   func(uint32) bool { return true },
		Check: func(Conn, *policy.Submission) *policy.Decision {
			close(entered)
			<-release
			return decide(policy.Accept, "last")
		},
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, l) }()
	answer := make(chan string, 1)
	go func() { answer <- ask(t, path, AppendRequest(nil, standard())) }()
	<-entered
	cancel()
	close(release)
	if got, want := <-answer, "action=accept ref=last osm=1\n"; got != want {
		t.Errorf("the question in flight was answered %q, want %q", got, want)
	}
	if err := <-served; err != nil {
		t.Errorf("Serve = %v, want nil after the end of its context", err)
	}
	dial(t, path) // waits in the queue for the next daemon
}

func TestServerSaysWhenItsSocketIsGone(t *testing.T) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	s := &Server{}
	if err := s.Serve(context.Background(), l); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve on a closed socket = %v, want %v", err, net.ErrClosed)
	}
}

func TestServerAnswersEachClientItsOwn(t *testing.T) {
	var recorded atomic.Int64
	s := &Server{
		Check: func(_ Conn, s *policy.Submission) *policy.Decision { return decide(policy.Freeze, s.MessageID) },
		Done:  func(*policy.Decision) { recorded.Add(1) },
	}
	path := start(t, s)
	var clients sync.WaitGroup
	for i := range 50 {
		clients.Go(func() {
			for j := range 20 {
				sub := standard()
				sub.MessageID = fmt.Sprintf("m-%d-%d", i, j)
				sub.Subject = strings.Repeat("s", j*60)
				if got, want := ask(t, path, AppendRequest(nil, sub)), "action=freeze ref="+sub.MessageID+" osm=1\n"; got != want {
					t.Errorf("answer %q, want %q", got, want)
				}
			}
		})
	}
	clients.Wait()
	if n := s.Stats.Answered.Load(); n != 1000 {
		t.Errorf("Answered = %d, want 1000", n)
	}
}

func TestLogBrakeLetsOneOfAKindThrough(t *testing.T) {
	var b logBrake
	now := time.Unix(1000, 0)
	first, _ := b.pass("peer", now)
	second, _ := b.pass("peer", now.Add(brakePeriod-1))
	other, _ := b.pass("late", now)
	third, dropped := b.pass("peer", now.Add(brakePeriod))
	if !first || second || !other || !third || dropped != 1 {
		t.Errorf("passed %v %v %v %v with %d dropped, want true false true true with 1", first, second, other, third, dropped)
	}
}
