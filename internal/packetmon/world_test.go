package packetmon

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"osm/internal/origin"
)

const (
	aliceUID = 20001
	bobUID   = 20002
	patience = 10 * time.Second // for what happens at once on a machine that is not busy
	// tries are for what is seen only in time: a busy machine may miss a process's memory.
	tries = uint64(10)
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

func sinceBoot() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(err)
	}
	return ts.Nano()
}

// monitored runs a monitor until the test ends.
func monitored(t *testing.T, o Options) *Monitor {
	t.Helper()
	o.Boot, o.Clock = sinceBoot, origin.Clock()
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
	for end := sinceBoot() + int64(patience); sinceBoot() < end; time.Sleep(time.Millisecond) {
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
	return Seen{At: sinceBoot(), Local: c.local, Remote: to, Socket: 7}
}

func waitStatus(t *testing.T, m *Monitor, ok func(Status) bool) {
	t.Helper()
	for end := sinceBoot() + int64(patience); sinceBoot() < end; time.Sleep(time.Millisecond) {
		if ok(m.Status()) {
			return
		}
	}
	t.Fatalf("got %+v", m.Status())
}
