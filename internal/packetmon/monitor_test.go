package packetmon

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"osm/internal/origin"
	"osm/policy"
)

func TestAPacketsConnectionIsAttributedToUserAndProcess(t *testing.T) {
	for _, tt := range []struct {
		name string
		more []string
	}{
		{"the process itself holds the socket", nil},
		{"its child alone holds it", []string{"1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			to := sink(t, bobUID, "/usr/bin/perl")
			f := newFed(SourcePacket)
			m := monitored(t, Options{Ports: []uint16{to.Port()}, Openers: []Opener{f.opener()}})
			dir := publicDir(t)
			c := connect(t, aliceUID, dir, to, tt.more...)
			var r Record
			var began time.Time
			for try := range tries {
				s := c.syn(to)
				s.Socket += try // another connection
				began = time.Now()
				f.in <- s
				if r = next(t, m); len(r.Connection.Chain) > 0 && len(r.Connection.Chain[0].Args) > 0 {
					break
				}
			}
			got := r.Connection
			if got.UID != aliceUID || !got.UIDKnown || got.Seen != SourcePacket || got.Remote != to || got.Local != c.local {
				t.Errorf("got %+v", got)
			}
			if len(got.Chain) < 2 || got.Chain[0].PID != c.pid || got.Chain[0].WorkingDirectory != dir ||
				!strings.Contains(got.Chain[0].Executable, "perl") || len(got.Chain[0].Args) == 0 || got.Chain[0].ScriptFilename != "/home/alice/x.php" {
				t.Errorf("process: got %+v, want %d in %s", got.Chain, c.pid, dir)
			}
			if last := got.Chain[len(got.Chain)-1]; last.UID == aliceUID || int(last.PID) != os.Getpid() {
				t.Errorf("started by: got %+v, want this test", last)
			}
			if want := "belongs to uid 20001; process " + strconv.Itoa(int(c.pid)) + " holds it"; !strings.Contains(got.Basis, want) {
				t.Errorf("basis: got %q, want it to say %q", got.Basis, want)
			}
			if d := r.At.Sub(began); d < -time.Second || d > patience {
				t.Errorf("time: got %v, want about %v", r.At, began)
			}
		})
	}
}

func TestAClosedConnectionIsUnknownAndNeverRoots(t *testing.T) {
	to := sink(t, bobUID, "/usr/bin/perl")
	f := newFed(SourcePacket)
	m := monitored(t, Options{Ports: []uint16{to.Port()}, Openers: []Opener{f.opener()}})
	c := connect(t, aliceUID, "/", to, "", "reset")
	c.end()
	f.in <- c.syn(to)
	if got := next(t, m).Connection; got.UIDKnown || got.UID != 0 || len(got.Chain) != 0 || !strings.Contains(got.Basis, "unknown: too late") {
		t.Errorf("got %+v, want an unknown uid", got)
	}
	if n := m.Status().Counts; n.TooLate != 1 || n.UIDUnknown != 1 || n.ProcessUnknown != 1 {
		t.Errorf("counts: got %+v", n)
	}
	f.in <- Seen{At: sinceBoot(), Local: c.local, Remote: to, Socket: 8, UIDKnown: true} // poll sees a closed one so
	if got := next(t, m).Connection; got.UIDKnown {
		t.Errorf("uid 0, inode 0: got %+v, want an unknown uid", got)
	}
}

func TestAKnownProcessIsDescribedUnlessItsNumberWasGivenAway(t *testing.T) {
	to := netip.MustParseAddrPort("192.0.2.1:25")
	dir := publicDir(t)
	c := start(t, aliceUID, dir, "/usr/bin/perl", "-e", `$|=1; print "here\n"; <STDIN>`)
	c.line(t)
	pid := int32(c.cmd.Process.Pid)
	dead := start(t, aliceUID, dir, "/usr/bin/perl", "-e", "1")
	dead.end()
	for _, tt := range []struct {
		name  string
		seen  Seen
		basis string
	}{
		{"the process began after the connection", Seen{At: 1, PID: pid, UID: aliceUID}, "its number given to another one; from an earlier connection of this uid: process"},
		{"the process is of another user", Seen{At: sinceBoot(), PID: pid, UID: bobUID}, "runs as uid 20001"},
		{"the process has ended", Seen{At: sinceBoot(), PID: int32(dead.cmd.Process.Pid), UID: aliceUID}, "was gone; from an earlier connection of this uid: process"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFed(SourceEBPF)
			m := monitored(t, Options{Ports: []uint16{25}, Openers: []Opener{f.opener()}})
			first := Seen{At: sinceBoot(), PID: pid, UID: aliceUID, UIDKnown: true, Remote: to, Socket: 1}
			f.in <- first
			if got := next(t, m).Connection; len(got.Chain) == 0 || got.Chain[0].PID != pid || got.Chain[0].WorkingDirectory != dir || got.UID != aliceUID ||
				!strings.Contains(got.Basis, "uid 20001 connected; process "+strconv.Itoa(int(pid))+" did") {
				t.Fatalf("process %d: got %+v", pid, got)
			}
			tt.seen.UIDKnown, tt.seen.Remote, tt.seen.Socket = true, to, 2
			f.in <- tt.seen
			got := next(t, m).Connection
			if len(got.Chain) > 0 || got.UID != tt.seen.UID || !got.UIDKnown || !strings.Contains(got.Basis, tt.basis) {
				t.Errorf("got %+v, want no process and a basis with %q", got, tt.basis)
			}
		})
	}
}

func TestConnectionsToOurOwnMailServerAreLeftToTheDoor(t *testing.T) {
	perl, err := os.ReadFile("/usr/bin/perl")
	if err != nil {
		t.Fatal(err)
	}
	exim := filepath.Join(publicDir(t), "exim")
	if err := os.WriteFile(exim, perl, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		uid     uint32
		program string
		exclude uint32
		bypass  bool
	}{
		{"a listener of root's is the mail server", 0, "/usr/bin/perl", 1, false},
		{"a listener that runs Exim's program is", bobUID, exim, 1, false},
		{"a listener of an excluded user is", bobUID, "/usr/bin/perl", bobUID, false},
		{"another user's listener is not", bobUID, "/usr/bin/perl", 1, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			to := sink(t, tt.uid, tt.program)
			f := newFed(SourcePacket)
			m := monitored(t, Options{Ports: []uint16{to.Port()}, Openers: []Opener{f.opener()}, Exim: exim,
				Excluded: func(uid uint32) bool { return uid == tt.exclude }})
			c := connect(t, aliceUID, "/", to)
			var n Counts
			for try := range tries {
				s := c.syn(to)
				s.Socket += try
				f.in <- s
				until(t, m, "the connection", func(c Counts) bool { return c.ToMTA+c.Records == try+1 })
				if n = m.Status().Counts; tt.bypass || n.ToMTA > 0 {
					break
				}
			}
			if bypass := n.ToMTA == 0; bypass != tt.bypass {
				t.Errorf("got %+v, want bypass %v", n, tt.bypass)
			}
		})
	}
	t.Run("a port where nobody listens is not", func(t *testing.T) {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		to := l.Addr().(*net.TCPAddr).AddrPort()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		f := newFed(SourceEBPF)
		m := monitored(t, Options{Ports: []uint16{to.Port()}, Openers: []Opener{f.opener()}})
		f.in <- Seen{At: sinceBoot(), Remote: to, Socket: 1, UID: aliceUID, UIDKnown: true, PID: 1}
		f.in <- Seen{At: sinceBoot(), Remote: to, Socket: 1, Outcome: policy.OutcomeRefused}
		if got := next(t, m).Connection; got.UID != aliceUID || got.Outcome != policy.OutcomeRefused {
			t.Errorf("got %+v, want a refused attempt of alice's", got)
		}
	})
}

func TestWhatIsNoBypassIsDroppedAndCounted(t *testing.T) {
	to := sink(t, bobUID, "/usr/bin/perl")
	var excluded atomic.Uint32
	f := newFed(SourcePacket)
	m := monitored(t, Options{Ports: []uint16{to.Port()}, Openers: []Opener{f.opener()}, Exim: "/usr/bin/perl",
		Excluded: func(uid uint32) bool { return uid == excluded.Load() }})
	c := connect(t, aliceUID, "/", to)
	// perl is Exim's program here, so the listener is the mail server: by another address nobody listens
	away := netip.MustParseAddrPort("192.0.2.1:" + strconv.Itoa(int(to.Port())))
	var got policy.Connection
	for try := range tries {
		f.in <- Seen{At: sinceBoot(), Local: c.local, Remote: away, Socket: 100 + try, UIDKnown: true, UID: aliceUID, PID: c.pid}
		if got = next(t, m).Connection; strings.Contains(got.Basis, "runs Exim's program as a user who is not") {
			break
		}
	}
	if got.UID != aliceUID || !strings.Contains(got.Basis, "runs Exim's program as a user who is not") {
		t.Errorf("Exim's program with alice's rights: got %+v", got)
	}
	tried := m.Status().Counts.Records
	delivery := start(t, 0, "/", "/usr/bin/perl", "-e", `$|=1; print "here\n"; <STDIN>`)
	delivery.line(t)
	f.in <- Seen{At: sinceBoot(), Local: c.local, Remote: away, Socket: 1, UIDKnown: true, UID: 0, PID: int32(delivery.cmd.Process.Pid)}
	until(t, m, "a process that runs Exim", func(n Counts) bool { return n.Excluded == 1 })
	excluded.Store(aliceUID)
	f.in <- Seen{At: sinceBoot(), Local: c.local, Remote: away, Socket: 2, UIDKnown: true, UID: aliceUID, PID: c.pid}
	until(t, m, "an excluded user", func(n Counts) bool { return n.Excluded == 2 })
	f.in <- Seen{At: sinceBoot(), Local: c.local, Remote: away, Socket: 2, UIDKnown: true, UID: aliceUID, PID: c.pid}
	until(t, m, "a repeat", func(n Counts) bool { return n.Repeats == 1 && n.Seen == tried+3 })
	f.in <- Seen{At: sinceBoot(), Local: c.local, Remote: netip.MustParseAddrPort("192.0.2.1:1"), Socket: 3}
	f.in <- Seen{At: sinceBoot(), Local: c.local, Remote: away, Socket: 4, UIDKnown: true, UID: bobUID, Inode: 1}
	if got := next(t, m).Connection; got.UID != bobUID {
		t.Errorf("got %+v", got)
	}
	if n := m.Status().Counts; n.Seen != tried+4 || n.Records != tried+1 {
		t.Errorf("a port that is not watched: got %+v", n)
	}
	nothingMore(t, m)
}

// The socket stays with another process of alice's meanwhile.
func TestWhoBecomesEximAfterHeHasConnectedIsCounted(t *testing.T) {
	f := newFed(SourceEBPF)
	m := monitored(t, Options{Ports: []uint16{25}, Openers: []Opener{f.opener()}, Exim: "/usr/bin/perl", Excluded: func(uid uint32) bool { return uid == 0 }})
	became := start(t, 0, "/", "/usr/bin/perl", "-e", `$|=1; $<=20001; print "here\n"; <STDIN>`) // as set-uid programs run
	became.line(t)
	f.in <- Seen{At: sinceBoot(), Remote: netip.MustParseAddrPort("192.0.2.1:25"), Socket: 1, UIDKnown: true, UID: aliceUID, PID: int32(became.cmd.Process.Pid)}
	if got := next(t, m).Connection; got.UID != aliceUID {
		t.Errorf("got %+v, want it to be alice's", got)
	}
}

func TestTheBestSourceThatOpensIsUsed(t *testing.T) {
	refuse := func(name string) Opener {
		return Opener{Name: name, Open: func() (Source, error) { return nil, errors.New(name + ": operation not permitted") }}
	}
	poll := newFed(SourcePoll)
	for _, tt := range []struct {
		name, setting, want string
		level               Level
		better              int
	}{
		{"the first that opens", "", SourcePoll, LevelDegraded, 2},
		{"the forced one, though it is not the best", SourcePoll, SourcePoll, LevelDegraded, 0},
		{"no other than the forced one", SourceEBPF, SourceOff, LevelOff, 1},
		{"none, as it is set", SourceOff, SourceOff, LevelOff, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := monitored(t, Options{Ports: []uint16{25}, Source: tt.setting,
				Openers: []Opener{refuse(SourceEBPF), refuse(SourcePacket), poll.opener()}})
			waitStatus(t, m, func(s Status) bool { return s.Source == tt.want && len(s.Better) == tt.better && s.Level == tt.level })
			s := m.Status()
			if tt.better > 0 && !strings.Contains(s.Better[0].Error, "ebpf: operation not permitted") {
				t.Errorf("better: got %+v", s.Better)
			}
			if (len(s.Problems) > 0) != (s.Level != LevelOK && tt.setting != SourceOff) {
				t.Errorf("problems: got %q", s.Problems)
			}
		})
	}
	if _, err := New(Options{Source: "nflog", Openers: []Opener{poll.opener()}}); err == nil {
		t.Error("a source that is none: no error")
	}
}

func TestASourceThatFailsIsReplacedAndComesBack(t *testing.T) {
	var refusal atomic.Bool
	ebpf, packet := newFed(SourceEBPF), newFed(SourcePacket)
	m, err := New(Options{Ports: []uint16{25}, Boot: sinceBoot, Clock: origin.Clock(), Log: slog.New(slog.DiscardHandler),
		Openers: []Opener{{Name: SourceEBPF, Open: func() (Source, error) {
			if refusal.Load() {
				return nil, errors.New("not now")
			}
			return ebpf, nil
		}}, packet.opener()}})
	if err != nil {
		t.Fatal(err)
	}
	m.retry = 20 * time.Millisecond
	run(t, m)
	waitStatus(t, m, func(s Status) bool { return s.Source == SourceEBPF })
	refusal.Store(true)
	ebpf.lost.Store(3)
	ebpf.fail <- errors.New("the ring is broken")
	waitStatus(t, m, func(s Status) bool {
		return s.Source == SourcePacket && len(s.Better) == 1 && s.Counts.Lost == 3 && s.Level == LevelDegraded
	})
	waitStatus(t, m, func(s Status) bool { return s.Better[0].Error == "not now" })
	packet.in <- Seen{At: sinceBoot(), Remote: netip.MustParseAddrPort("192.0.2.1:25"), UIDKnown: true, UID: aliceUID, Inode: 1}
	if got := next(t, m).Connection; got.Seen != SourcePacket {
		t.Errorf("got %+v", got)
	}
	ebpf.closed.Store(false)
	ebpf.lost.Store(0)
	refusal.Store(false)
	waitStatus(t, m, func(s Status) bool { return s.Source == SourceEBPF && len(s.Better) == 0 })
	if !packet.closed.Load() {
		t.Error("two sources are active")
	}
	ebpf.in <- Seen{At: 1, Remote: netip.MustParseAddrPort("192.0.2.1:25"), UIDKnown: true, UID: aliceUID, PID: 1, Socket: 1} // told by packet
	ebpf.in <- Seen{At: sinceBoot(), Remote: netip.MustParseAddrPort("192.0.2.1:25"), UIDKnown: true, UID: bobUID, PID: 1, Socket: 2}
	if got := next(t, m).Connection; got.Seen != SourceEBPF || got.UID != bobUID {
		t.Errorf("got %+v, want the one that began after the change", got)
	}
	if lost := m.Status().Counts.Lost; lost != 3 {
		t.Errorf("lost: got %d, want 3", lost)
	}
}

func TestAnOutcomeIsWaitedForButNotLong(t *testing.T) {
	f := newFed(SourceEBPF)
	m := monitored(t, Options{Ports: []uint16{25}, Openers: []Opener{f.opener()}})
	to := netip.MustParseAddrPort("192.0.2.1:25")
	local := netip.MustParseAddrPort("198.51.100.1:4711")
	tell := func(at int64, o policy.Outcome) {
		s := Seen{At: at, Remote: to, Socket: 1, Outcome: o}
		if o == policy.OutcomeUnknown {
			s.UID, s.UIDKnown, s.PID = aliceUID, true, 1<<22
		} else {
			s.Local = local
		}
		f.in <- s
	}
	for _, tt := range []struct {
		name string
		tell func(now int64)
		want policy.Outcome
	}{
		{"established", func(now int64) { tell(now, 0); tell(now+1, policy.OutcomeEstablished) }, policy.OutcomeEstablished},
		{"refused, told before the connection", func(now int64) { tell(now+1, policy.OutcomeRefused); tell(now, 0) }, policy.OutcomeRefused},
		{"not answered", func(now int64) { tell(now, 0) }, policy.OutcomeUnanswered},
		{"an outcome of the socket's connection before", func(now int64) { tell(now-1, policy.OutcomeRefused); tell(now, 0) }, policy.OutcomeUnanswered},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.tell(sinceBoot())
			got := next(t, m).Connection
			if got.Outcome != tt.want || (got.Local == local) != (tt.want == policy.OutcomeEstablished || tt.want == policy.OutcomeRefused) {
				t.Errorf("got %+v, want %v", got, tt.want)
			}
			nothingMore(t, m)
		})
	}
	now := sinceBoot()
	tell(now, 0)
	tell(now+1, 0) // the kernel gave the socket's place away
	tell(now+2, policy.OutcomeEstablished)
	if a, b := next(t, m).Connection.Outcome, next(t, m).Connection.Outcome; a != policy.OutcomeUnknown || b != policy.OutcomeEstablished {
		t.Errorf("two connections under one number: got %v and %v", a, b)
	}
}
