package packetmon

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"osm/internal/origin"
	"osm/policy"
)

const (
	aliceUID = 20001
	bobUID   = 20002
	patience = 10 * time.Second // for what happens at once on a machine that is not busy
)

// fed is a source that sees what the test tells it.
type fed struct {
	name   string
	in     chan Seen
	fail   chan error
	lost   atomic.Uint64
	closed atomic.Bool
}

func newFed(name string) *fed {
	return &fed{name: name, in: make(chan Seen, 100_000), fail: make(chan error, 1)}
}

func (f *fed) Name() string { return f.name }
func (f *fed) Lost() uint64 { return f.lost.Load() }
func (f *fed) Close() error { f.closed.Store(true); return nil }
func (f *fed) Run(ctx context.Context, seen func(*Seen)) error {
	defer f.closed.Store(true)
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-f.fail:
			return err
		case s := <-f.in:
			seen(&s)
		}
	}
}

func (f *fed) opener() Opener {
	return Opener{Name: f.name, Open: func() (Source, error) { return f, nil }}
}

func bootNow() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(err)
	}
	return ts.Nano()
}

// watch runs a monitor until the test ends.
func watch(t *testing.T, o Options) *Monitor {
	t.Helper()
	o.Boot, o.Clock = bootNow, origin.Clock()
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	m, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	run(t, m)
	return m
}

func run(t *testing.T, m *Monitor) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// next waits for a record.
func next(t *testing.T, m *Monitor) Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := m.Next(ctx)
	if err != nil {
		t.Fatalf("no record: %v; counts %+v", err, m.Status().Counts)
	}
	return r
}

// until waits until the counts are as wanted.
func until(t *testing.T, m *Monitor, what string, ok func(Counts) bool) {
	t.Helper()
	for end := bootNow() + int64(patience); bootNow() < end; time.Sleep(time.Millisecond) {
		if ok(m.Status().Counts) {
			return
		}
	}
	t.Fatalf("never came: %s; counts %+v", what, m.Status().Counts)
}

func nothingMore(t *testing.T, m *Monitor) {
	t.Helper()
	if waiting, _ := m.out.peek(1); len(waiting) > 0 {
		t.Errorf("one more record: %+v", waiting[0])
	}
}

// child is a process of another user.
type child struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   *bufio.Reader
}

func start(t *testing.T, uid uint32, dir string, args ...string) *child {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.Env, cmd.Stderr = dir, []string{"PATH=/usr/bin:/bin", "SCRIPT_FILENAME=/home/alice/x.php"}, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Skipf("SKIPPED: start %q as uid %d needs root: %v", args, uid, err)
	}
	c := &child{cmd: cmd, stdin: stdin, out: bufio.NewReader(stdout)}
	t.Cleanup(c.end)
	return c
}

func (c *child) end() {
	_ = c.stdin.Close()
	_ = c.cmd.Wait()
}

func (c *child) line(t *testing.T) string {
	t.Helper()
	s, err := c.out.ReadString('\n')
	if err != nil {
		t.Fatalf("read from %q: %v", c.cmd.Args, err)
	}
	return strings.TrimSpace(s)
}

// publicDir returns a folder that other users can enter.
func publicDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "osm-packetmon-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// listenScript listens, says its port, takes connections and keeps them until its input ends.
const listenScript = `use Socket qw(:all); $|=1;
socket(my $l, PF_INET, SOCK_STREAM, 0) or die; bind($l, pack_sockaddr_in(0, inet_aton("127.0.0.1"))) or die $!; listen($l, 4096) or die;
print((unpack_sockaddr_in(getsockname($l)))[0], "\n");
my $in=""; vec($in, fileno(STDIN), 1)=1; my @kept;
while (1) { my $r=$in; vec($r, fileno($l), 1)=1; select($r, undef, undef, undef);
  last if vec($r, fileno(STDIN), 1); if (vec($r, fileno($l), 1)) { accept(my $c, $l); push @kept, $c; } }`

// sink is somebody's server on this host, who is not the mail server.
func sink(t *testing.T, uid uint32, program string) netip.AddrPort {
	t.Helper()
	c := start(t, uid, "/", program, "-e", listenScript)
	port, err := strconv.ParseUint(c.line(t), 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(port))
}

// connectScript connects, says its own port, forks a child that holds the socket too if it
// is told so, and ends with its input.
const connectScript = `use Socket qw(:all); $|=1; my ($addr,$port,$fork,$reset)=@ARGV;
socket(my $s, PF_INET, SOCK_STREAM, 0) or die; connect($s, pack_sockaddr_in($port, inet_aton($addr))) or die "connect: $!";
my $own=(unpack_sockaddr_in(getsockname($s)))[0];
if ($fork) { my $pid=fork; if (!$pid) { <STDIN>; exit } close $s; print "$own $pid\n"; } else { print "$own $$\n" }
setsockopt($s, SOL_SOCKET, SO_LINGER, pack("ii", 1, 0)) if $reset; <STDIN>;`

// client is a connection of another user's.
type client struct {
	*child
	local netip.AddrPort
	pid   int32 // holds the socket
}

func connect(t *testing.T, uid uint32, dir string, to netip.AddrPort, more ...string) client {
	t.Helper()
	c := start(t, uid, dir, append([]string{"/usr/bin/perl", "-e", connectScript, to.Addr().String(), strconv.Itoa(int(to.Port()))}, more...)...)
	var port uint16
	var pid int32
	if _, err := fmt.Sscan(c.line(t), &port, &pid); err != nil {
		t.Fatal(err)
	}
	return client{child: c, local: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port), pid: pid}
}

func (c client) syn(to netip.AddrPort) Seen {
	return Seen{At: bootNow(), Local: c.local, Remote: to, Socket: 7}
}

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
			m := watch(t, Options{Ports: []uint16{to.Port()}, Openers: []Opener{f.opener()}})
			dir := publicDir(t)
			c := connect(t, aliceUID, dir, to, tt.more...)
			began := time.Now()
			f.in <- c.syn(to)
			r := next(t, m)
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
	m := watch(t, Options{Ports: []uint16{to.Port()}, Openers: []Opener{f.opener()}})
	c := connect(t, aliceUID, "/", to, "", "reset")
	c.end()
	f.in <- c.syn(to)
	if got := next(t, m).Connection; got.UIDKnown || got.UID != 0 || len(got.Chain) != 0 || !strings.Contains(got.Basis, "unknown: too late") {
		t.Errorf("got %+v, want an unknown uid", got)
	}
	if n := m.Status().Counts; n.TooLate != 1 || n.UIDUnknown != 1 || n.ProcessUnknown != 1 {
		t.Errorf("counts: got %+v", n)
	}
	f.in <- Seen{At: bootNow(), Local: c.local, Remote: to, Socket: 8, UIDKnown: true} // poll sees a closed one so
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
		{"the process is of another user", Seen{At: bootNow(), PID: pid, UID: bobUID}, "runs as uid 20001"},
		{"the process has ended", Seen{At: bootNow(), PID: int32(dead.cmd.Process.Pid), UID: aliceUID}, "was gone; from an earlier connection of this uid: process"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFed(SourceEBPF)
			m := watch(t, Options{Ports: []uint16{25}, Openers: []Opener{f.opener()}})
			first := Seen{At: bootNow(), PID: pid, UID: aliceUID, UIDKnown: true, Remote: to, Socket: 1}
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
			m := watch(t, Options{Ports: []uint16{to.Port()}, Openers: []Opener{f.opener()}, Exim: exim,
				Excluded: func(uid uint32) bool { return uid == tt.exclude }})
			f.in <- connect(t, aliceUID, "/", to).syn(to)
			until(t, m, "the connection", func(c Counts) bool { return c.ToMTA+c.Records == 1 })
			if n := m.Status().Counts; (n.Records == 1) != tt.bypass {
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
		m := watch(t, Options{Ports: []uint16{to.Port()}, Openers: []Opener{f.opener()}})
		f.in <- Seen{At: bootNow(), Remote: to, Socket: 1, UID: aliceUID, UIDKnown: true, PID: 1}
		f.in <- Seen{At: bootNow(), Remote: to, Socket: 1, Outcome: policy.OutcomeRefused}
		if got := next(t, m).Connection; got.UID != aliceUID || got.Outcome != policy.OutcomeRefused {
			t.Errorf("got %+v, want a refused attempt of alice's", got)
		}
	})
}

func TestWhatIsNoBypassIsDroppedAndCounted(t *testing.T) {
	to := sink(t, bobUID, "/usr/bin/perl")
	var excluded atomic.Uint32
	f := newFed(SourcePacket)
	m := watch(t, Options{Ports: []uint16{to.Port()}, Openers: []Opener{f.opener()}, Exim: "/usr/bin/perl",
		Excluded: func(uid uint32) bool { return uid == excluded.Load() }})
	c := connect(t, aliceUID, "/", to)
	// perl is Exim's program here, so the listener is the mail server: by another address nobody listens
	away := netip.MustParseAddrPort("192.0.2.1:" + strconv.Itoa(int(to.Port())))
	f.in <- Seen{At: bootNow(), Local: c.local, Remote: away, Socket: 0, UIDKnown: true, UID: aliceUID, PID: c.pid}
	if got := next(t, m).Connection; got.UID != aliceUID || !strings.Contains(got.Basis, "runs Exim's program as a user who is not") {
		t.Errorf("Exim's program with alice's rights: got %+v", got)
	}
	delivery := start(t, 0, "/", "/usr/bin/perl", "-e", `$|=1; $<=20001; print "here\n"; <STDIN>`)
	delivery.line(t)
	f.in <- Seen{At: bootNow(), Local: c.local, Remote: away, Socket: 1, UIDKnown: true, UID: aliceUID, PID: int32(delivery.cmd.Process.Pid)}
	until(t, m, "a process that runs Exim", func(n Counts) bool { return n.Excluded == 1 })
	excluded.Store(aliceUID)
	f.in <- Seen{At: bootNow(), Local: c.local, Remote: away, Socket: 2, UIDKnown: true, UID: aliceUID, PID: c.pid}
	until(t, m, "an excluded user", func(n Counts) bool { return n.Excluded == 2 })
	f.in <- Seen{At: bootNow(), Local: c.local, Remote: away, Socket: 2, UIDKnown: true, UID: aliceUID, PID: c.pid}
	until(t, m, "a repeat", func(n Counts) bool { return n.Repeats == 1 && n.Seen == 4 })
	f.in <- Seen{At: bootNow(), Local: c.local, Remote: netip.MustParseAddrPort("192.0.2.1:1"), Socket: 3}
	f.in <- Seen{At: bootNow(), Local: c.local, Remote: away, Socket: 4, UIDKnown: true, UID: bobUID, Inode: 1}
	if got := next(t, m).Connection; got.UID != bobUID {
		t.Errorf("got %+v", got)
	}
	if n := m.Status().Counts; n.Seen != 5 || n.Records != 2 {
		t.Errorf("a port that is not watched: got %+v", n)
	}
	nothingMore(t, m)
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
			m := watch(t, Options{Ports: []uint16{25}, Source: tt.setting,
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

func waitStatus(t *testing.T, m *Monitor, ok func(Status) bool) {
	t.Helper()
	for end := bootNow() + int64(patience); bootNow() < end; time.Sleep(time.Millisecond) {
		if ok(m.Status()) {
			return
		}
	}
	t.Fatalf("got %+v", m.Status())
}

func TestASourceThatFailsIsReplacedAndComesBack(t *testing.T) {
	var refusal atomic.Bool
	ebpf, packet := newFed(SourceEBPF), newFed(SourcePacket)
	m, err := New(Options{Ports: []uint16{25}, Boot: bootNow, Clock: origin.Clock(), Log: slog.New(slog.DiscardHandler),
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
	packet.in <- Seen{At: bootNow(), Remote: netip.MustParseAddrPort("192.0.2.1:25"), UIDKnown: true, UID: aliceUID, Inode: 1}
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
	ebpf.in <- Seen{At: bootNow(), Remote: netip.MustParseAddrPort("192.0.2.1:25"), UIDKnown: true, UID: bobUID, PID: 1, Socket: 2}
	if got := next(t, m).Connection; got.Seen != SourceEBPF || got.UID != bobUID {
		t.Errorf("got %+v, want the one that began after the change", got)
	}
	if lost := m.Status().Counts.Lost; lost != 3 {
		t.Errorf("lost: got %d, want 3", lost)
	}
}

func TestAnOutcomeIsWaitedForButNotLong(t *testing.T) {
	f := newFed(SourceEBPF)
	m := watch(t, Options{Ports: []uint16{25}, Openers: []Opener{f.opener()}})
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
			tt.tell(bootNow())
			got := next(t, m).Connection
			if got.Outcome != tt.want || (got.Local == local) != (tt.want == policy.OutcomeEstablished || tt.want == policy.OutcomeRefused) {
				t.Errorf("got %+v, want %v", got, tt.want)
			}
			nothingMore(t, m)
		})
	}
	now := bootNow()
	tell(now, 0)
	tell(now+1, 0) // the kernel gave the socket's place away
	tell(now+2, policy.OutcomeEstablished)
	if a, b := next(t, m).Connection.Outcome, next(t, m).Connection.Outcome; a != policy.OutcomeUnknown || b != policy.OutcomeEstablished {
		t.Errorf("two connections under one number: got %v and %v", a, b)
	}
}
