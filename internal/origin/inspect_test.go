package origin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"osm/policy"
)

// waitScript says its process and lives until its input ends.
const waitScript = `$|=1; print "$$\n"; <STDIN>;`

// serveInspector starts the root side on socket and returns how to stop it.
func serveInspector(t *testing.T, socket string, o InspectOptions) (stop func()) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(socket, 0o666); err != nil {
		t.Fatal(err)
	}
	o.Log = slog.New(slog.DiscardHandler)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- ServeInspect(ctx, l, o) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("ServeInspect: %v", err)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

// inspect starts an inspector and returns its client and its socket.
func inspect(t *testing.T, o InspectOptions) (*Inspector, string) {
	t.Helper()
	socket := filepath.Join(publicDir(t), "inspect.sock")
	serveInspector(t, socket, o)
	return client(t, socket), socket
}

func client(t *testing.T, socket string) *Inspector {
	t.Helper()
	i := NewInspector(socket)
	t.Cleanup(func() {
		if err := i.Close(); err != nil {
			t.Error(err)
		}
	})
	return i
}

// answered asks until that was done in time: a starved machine takes longer than a question
// may, and its failures in a row must not end the questions. What fails at once has failed.
func answered(i *Inspector, ask func() (whole bool, err error)) {
	for end := bootNow() + 10*time.Second; bootNow() < end; {
		began := bootNow()
		whole, err := ask()
		late := err != nil && bootNow()-began >= inspectorTime
		if late {
			i.note(nil)
		}
		if !late && whole {
			return
		}
	}
}

// chainOf asks for the chain of a process until the arguments of all of it were read.
func chainOf(t *testing.T, i *Inspector, pid int32) (chain []policy.Process, exim bool, err error) {
	t.Helper()
	answered(i, func() (bool, error) {
		chain, exim, err = i.Chain(t.Context(), pid)
		return !slices.ContainsFunc(chain, func(p policy.Process) bool { return len(p.Args) == 0 }), err
	})
	return chain, exim, err
}

func pidOf(t *testing.T, c *child) int32 {
	t.Helper()
	pid, err := strconv.ParseInt(c.line(t), 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return int32(pid)
}

func TestChainDescribesTheProcessAndItsParents(t *testing.T) {
	i, _ := inspect(t, InspectOptions{})
	dir := publicDir(t)
	c := start(t, spec{
		uid: aliceUID, dir: dir,
		env: []string{"SCRIPT_FILENAME=/home/alice/public_html/x.php", "REMOTE_ADDR=192.0.2.7", "REQUEST_URI=/x.php?a=1",
			"SERVER_NAME=alice.example", "HTTP_HOST=www.alice.example", "PASSWORD=secret"},
		args: []string{"/bin/sh", "-c", "perl -e '" + waitScript + "' one 'two words'; exit 0"},
	})
	pid := pidOf(t, c)
	chain, exim, err := chainOf(t, i, pid)
	if err != nil || exim || len(chain) < 3 {
		t.Fatalf("Chain(%d): got %+v, %v, %v; want perl, sh and this test", pid, chain, exim, err)
	}
	perl, sh, test := chain[0], chain[1], chain[2]
	shell, err := filepath.EvalSymlinks("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	if perl.PID != pid || perl.UID != aliceUID || perl.Executable != "/usr/bin/perl" || perl.WorkingDirectory != dir || perl.Started <= 0 {
		t.Errorf("the process: got %+v", perl)
	}
	if want := []string{"perl", "-e", waitScript, "one", "two words"}; strings.Join(perl.Args, "|") != strings.Join(want, "|") {
		t.Errorf("its arguments: got %q, want %q", perl.Args, want)
	}
	if perl.ScriptFilename != "/home/alice/public_html/x.php" || perl.RemoteAddr != "192.0.2.7" || perl.RequestURI != "/x.php?a=1" ||
		perl.ServerName != "alice.example" || perl.HTTPHost != "www.alice.example" {
		t.Errorf("its environment: got %+v", perl)
	}
	if sh.Executable != shell || sh.UID != aliceUID || int(sh.PID) != c.cmd.Process.Pid || sh.Started > perl.Started {
		t.Errorf("its parent: got %+v, want %s", sh, shell)
	}
	if int(test.PID) != os.Getpid() || test.UID != 0 {
		t.Errorf("its parent's parent: got %+v, want process %d", test, os.Getpid())
	}
	if len(chain) > maxProcesses {
		t.Errorf("chain of %d processes, want at most %d", len(chain), maxProcesses)
	}
}

func TestChainBoundsWhatAProcessSays(t *testing.T) {
	i, _ := inspect(t, InspectOptions{})
	filler := func(n int) []string {
		var env []string
		for k := range n {
			env = append(env, "F"+strconv.Itoa(k)+"="+strings.Repeat("x", 100_000))
		}
		return env
	}
	many := make([]string, 100)
	for k := range many {
		many[k] = strings.Repeat("y", 100)
	}
	for _, tt := range []struct {
		name  string
		env   []string
		args  []string
		check func(t *testing.T, p policy.Process)
	}{
		{"a variable before a huge environment is found", append([]string{"HTTP_HOST=a.example"}, filler(10)...), nil,
			func(t *testing.T, p policy.Process) {
				if p.HTTPHost != "a.example" {
					t.Errorf("HTTPHost: got %.40q", p.HTTPHost)
				}
			}},
		{"a variable behind 64 KiB of environment is not read", append(filler(10), "HTTP_HOST=a.example"), nil,
			func(t *testing.T, p policy.Process) {
				if p.HTTPHost != "" {
					t.Errorf("HTTPHost: got %.40q, want none", p.HTTPHost)
				}
			}},
		{"a long value is cut", []string{"REQUEST_URI=/" + strings.Repeat("z", 5000)}, nil,
			func(t *testing.T, p policy.Process) {
				if len(p.RequestURI) != maxVariable {
					t.Errorf("RequestURI of %d bytes, want %d", len(p.RequestURI), maxVariable)
				}
			}},
		{"many arguments are cut", nil, many,
			func(t *testing.T, p policy.Process) {
				if len(p.Args) != maxArgs {
					t.Errorf("%d arguments, want %d", len(p.Args), maxArgs)
				}
			}},
		{"a long argument is cut", nil, []string{strings.Repeat("w", 100_000)},
			func(t *testing.T, p policy.Process) {
				if n := len(strings.Join(p.Args, "")); n > maxArgBytes || n < maxArgBytes-10 {
					t.Errorf("%d bytes of arguments, want about %d", n, maxArgBytes)
				}
			}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := start(t, spec{uid: aliceUID, env: tt.env, args: append([]string{"/usr/bin/perl", "-e", waitScript}, tt.args...)})
			chain, _, err := chainOf(t, i, pidOf(t, c))
			if err != nil || len(chain) == 0 {
				t.Fatalf("got %d processes, err %v", len(chain), err)
			}
			tt.check(t, chain[0])
		})
	}
}

func TestChainNamesADeletedWorkingDirectoryPlainly(t *testing.T) {
	i, _ := inspect(t, InspectOptions{})
	dir := filepath.Join(publicDir(t), "gone")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	c := start(t, spec{uid: aliceUID, dir: dir, args: []string{"/usr/bin/perl", "-e", waitScript}})
	pid := pidOf(t, c)
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	chain, _, err := chainOf(t, i, pid)
	if err != nil || chain[0].WorkingDirectory != dir {
		t.Errorf("got %+v, %v; want working directory %q", chain, err, dir)
	}
}

func TestChainOfAProcessThatHasEndedIsNotFound(t *testing.T) {
	i, _ := inspect(t, InspectOptions{})
	c := start(t, spec{uid: aliceUID, args: []string{"/usr/bin/perl", "-e", waitScript}})
	pid := pidOf(t, c)
	c.end()
	for _, pid := range []int32{pid, 0, -1} {
		if _, _, err := chainOf(t, i, pid); !errors.Is(err, ErrNotFound) {
			t.Errorf("Chain(%d): got %v, want not found", pid, err)
		}
	}
	if err := i.Err(); err != nil {
		t.Errorf("Err after processes that are gone: got %v, want none", err)
	}
}

func TestParentIsEximOnlyForADeliveryOfExims(t *testing.T) {
	dir := publicDir(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	exim := copyFile(t, self, filepath.Join(dir, "exim4"))
	other := copyFile(t, self, filepath.Join(dir, "elsewhere", "exim4"))
	if err := errors.Join(os.Chown(exim, bobUID, bobUID), os.Chmod(exim, 0o755|os.ModeSetuid)); err != nil {
		t.Fatal(err)
	}
	i, _ := inspect(t, InspectOptions{Exim: exim})
	missing, _ := inspect(t, InspectOptions{Exim: filepath.Join(dir, "not-installed")})
	for _, tt := range []struct {
		name                       string
		i                          *Inspector
		uid                        uint32
		grandparent, parent, child string
		want                       bool
	}{
		{"a delivery by root's Exim", i, 0, exim, exim, exim, true},
		{"a delivery by Exim that gave up root", i, bobUID, exim, exim, exim, true},
		{"a user's Exim that runs Exim", i, aliceUID, other, exim, exim, false},
		{"a user's Exim that runs Exim that runs Exim", i, aliceUID, exim, exim, exim, false},
		{"another program of that name as parent", i, 0, exim, other, exim, false},
		{"another program of that name above", i, 0, other, exim, exim, false},
		{"another program run by Exim", i, 0, exim, exim, other, false},
		{"no Exim installed", missing, 0, exim, exim, exim, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := start(t, spec{uid: tt.uid, env: []string{"ORIGIN_TEST_EXIM=1"}, args: []string{tt.grandparent, tt.parent, tt.child}})
			chain, got, err := chainOf(t, tt.i, pidOf(t, c))
			if err != nil || got != tt.want {
				t.Errorf("got %v, %v; want %v; chain %+v", got, err, tt.want, chain)
			}
		})
	}
}

func TestOwnerFindsTheProcessWithTheSocket(t *testing.T) {
	i, _ := inspect(t, InspectOptions{})
	l, port := listen(t, "127.0.0.1:0")
	c := connect(t, aliceUID, 4, "127.0.0.1", port, 0)
	client, server, _ := accept(t, l)
	uid, inode, err := diag(t).ClientOwner(client, server)
	if err != nil {
		t.Fatal(err)
	}
	var p policy.Process
	answered(i, func() (bool, error) {
		p, err = i.Owner(t.Context(), uid, inode)
		return !errors.Is(err, ErrNotFound), err // so it says, too, when the search took too long
	})
	if err != nil || int(p.PID) != c.cmd.Process.Pid || p.UID != aliceUID || p.Executable != "/usr/bin/perl" {
		t.Errorf("Owner(%d, %d): got %+v, %v; want process %d", uid, inode, p, err, c.cmd.Process.Pid)
	}
	for _, q := range []struct{ uid, inode uint32 }{{bobUID, inode}, {uid, inode + 1_000_000}, {uid, 0}} {
		answered(i, func() (bool, error) {
			p, err = i.Owner(t.Context(), q.uid, q.inode)
			return true, err
		})
		if !errors.Is(err, ErrNotFound) {
			t.Errorf("Owner(%d, %d): got %+v, %v; want not found", q.uid, q.inode, p, err)
		}
	}
}

// askScript connects to the inspector as somebody and tells how many bytes it answers.
const askScript = `use Socket; $SIG{PIPE}='IGNORE'; socket(my $s, PF_UNIX, SOCK_STREAM, 0) or die; connect($s, pack_sockaddr_un($ARGV[0])) or die "connect: $!";
$|=1; print "$$\n"; syswrite $s, pack("CNN", $ARGV[1], $$, 0); my $n = sysread $s, my $b, 7; print defined $n ? $n : 0, " ", $n ? unpack("xxxxC", $b) : "-", "\n"; <STDIN>;`

func TestInspectorAnswersOnlyTheDaemon(t *testing.T) {
	_, socket := inspect(t, InspectOptions{UID: aliceUID})
	for _, tt := range []struct {
		name string
		uid  uint32
		kind string
		want string
	}{
		{"the daemon's user is answered", aliceUID, "1", "7 0"},
		{"another user gets nothing", bobUID, "1", "0 -"},
		{"an unknown question is refused", aliceUID, "9", "7 2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := start(t, spec{uid: tt.uid, args: []string{"/usr/bin/perl", "-e", askScript, socket, tt.kind}})
			pidOf(t, c)
			if got := c.line(t); got != tt.want {
				t.Errorf("asking as uid %d: got %q (bytes and status), want %q", tt.uid, got, tt.want)
			}
		})
	}
}

func TestInspectorIsNotBelievedWhenItIsNotRoots(t *testing.T) {
	socket := filepath.Join(publicDir(t), "inspect.sock")
	if err := os.Chmod(filepath.Dir(socket), 0o777); err != nil {
		t.Fatal(err)
	}
	c := start(t, spec{uid: bobUID, args: []string{"/usr/bin/perl", "-e",
		`use Socket; socket(my $s, PF_UNIX, SOCK_STREAM, 0); bind($s, pack_sockaddr_un($ARGV[0])); listen($s, 5); $|=1; print "$$\n"; <STDIN>;`, socket}})
	pidOf(t, c)
	_, _, err := chainOf(t, client(t, socket), 1)
	if err == nil || !strings.Contains(err.Error(), "uid 20002") {
		t.Errorf("Chain by an inspector of another user: got %v, want it refused", err)
	}
}

func TestInspectorIsFoundAgainAfterARestart(t *testing.T) {
	socket := filepath.Join(publicDir(t), "inspect.sock")
	stop := serveInspector(t, socket, InspectOptions{})
	i := client(t, socket)
	self := int32(os.Getpid())
	if _, _, err := chainOf(t, i, self); err != nil {
		t.Fatal(err)
	}
	stop()
	serveInspector(t, socket, InspectOptions{})
	for range 2 * inspectorConns {
		if _, _, err := chainOf(t, i, self); err != nil {
			t.Fatalf("after the restart: %v", err)
		}
	}
}

func TestADeadInspectorIsLeftAloneForAMoment(t *testing.T) {
	socket := filepath.Join(publicDir(t), "inspect.sock")
	i := client(t, socket)
	now := time.Hour
	i.now = func() time.Duration { return now }
	ask := func() error {
		_, _, err := i.Chain(t.Context(), 1)
		return err
	}
	for n := range inspectorBreaker {
		if err := ask(); err == nil || errors.Is(err, ErrInspectorAway) {
			t.Fatalf("question %d to nobody: got %v, want its own error", n+1, err)
		}
	}
	if err := ask(); !errors.Is(err, ErrInspectorAway) || i.Err() == nil {
		t.Errorf("after %d failures: got %v, Err %v; want it left alone", inspectorBreaker, err, i.Err())
	}
	now += inspectorQuiet
	if err := ask(); err == nil || errors.Is(err, ErrInspectorAway) {
		t.Errorf("after the quiet time: got %v, want one more try", err)
	}
	if err := ask(); !errors.Is(err, ErrInspectorAway) {
		t.Errorf("after that failed too: got %v, want it left alone", err)
	}
	serveInspector(t, socket, InspectOptions{})
	var back error
	for end := bootNow() + 10*time.Second; bootNow() < end; { // a starved machine takes longer than a question may
		now += inspectorQuiet
		if back = ask(); back == nil {
			break
		}
	}
	if back != nil || i.Err() != nil {
		t.Errorf("once it is back: got %v, Err %v; want an answer", back, i.Err())
	}
	for range inspectorBreaker {
		if err := ask(); errors.Is(err, ErrInspectorAway) {
			t.Errorf("after that: %v", err)
		}
	}
}

func TestASilentInspectorCostsNoMoreThanItsTime(t *testing.T) {
	socket := filepath.Join(publicDir(t), "inspect.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	i := client(t, socket)
	before := bootNow()
	if _, _, err := i.Chain(t.Context(), 1); err == nil {
		t.Error("no error from an inspector that says nothing")
	}
	if took := bootNow() - before; took > inspectorTime+5*time.Second { // without its limit it hangs for ever
		t.Errorf("took %v, want about %v", took, inspectorTime)
	}
}

func TestPeerOfNamesTheProcessThatConnected(t *testing.T) {
	socket := filepath.Join(publicDir(t), "policy.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if err := os.Chmod(socket, 0o666); err != nil {
		t.Fatal(err)
	}
	c := start(t, spec{uid: aliceUID, args: []string{"/usr/bin/perl", "-e",
		`use Socket; socket(my $s, PF_UNIX, SOCK_STREAM, 0); connect($s, pack_sockaddr_un($ARGV[0])); $|=1; print "$$\n"; <STDIN>`, socket}})
	conn, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	pid := pidOf(t, c)
	if peer, err := PeerOf(conn); peer != (Peer{PID: pid, UID: aliceUID, GID: aliceUID}) || err != nil {
		t.Errorf("PeerOf: got %+v, %v; want process %d of uid %d", peer, err, pid, aliceUID)
	}
}

// undeterred lets i be asked on, however often a busy machine made it fail in a row.
func undeterred(i *Inspector) {
	var hours atomic.Int64
	i.now = func() time.Duration { return time.Duration(hours.Add(1)) * time.Hour }
}

func TestInspectorAnswersManyAtOnce(t *testing.T) {
	i, _ := inspect(t, InspectOptions{})
	undeterred(i)
	c := start(t, spec{uid: aliceUID, args: []string{"/usr/bin/perl", "-e", waitScript}})
	pid := pidOf(t, c)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var failed atomic.Int64
	var running sync.WaitGroup
	for range 16 {
		running.Go(func() {
			for range 20 {
				chain, _, err := i.Chain(ctx, pid)
				for ; err != nil && ctx.Err() == nil; chain, _, err = i.Chain(ctx, pid) { // a starved machine takes its time
					failed.Add(1)
				}
				switch {
				case err != nil:
					t.Errorf("no answer in the end: %v", err)
					return
				case chain[0].PID != pid:
					t.Errorf("got the answer about process %d, want %d", chain[0].PID, pid)
				}
			}
		})
	}
	running.Wait()
	t.Logf("%d questions had to be asked again", failed.Load())
}

func TestMemoryReadsThatHangCostOnlyTheirOwner(t *testing.T) {
	var cause error
	r := newMemoryReads(func(err error) { cause = err })
	for range memoryPerUID {
		if !r.begin(aliceUID, time.Second) {
			t.Fatal("a read was refused below the limit of its user")
		}
	}
	if r.begin(aliceUID, time.Second) {
		t.Error("one user has more reads than his share")
	}
	if !r.begin(bobUID, time.Second) {
		t.Error("another user's read was refused because of him")
	}
	r.end(bobUID)
	for uid := range uint32(memoryTotal/memoryPerUID - 1) {
		for range memoryPerUID {
			r.begin(uid, time.Second)
		}
	}
	if r.begin(bobUID, time.Second) || r.begin(bobUID, time.Second+stuckTime) || cause != nil {
		t.Errorf("all reads under way: one more began, or the restart came too soon (%v)", cause)
	}
	if r.begin(bobUID, 2*time.Second+stuckTime); !errors.Is(cause, errStuck) {
		t.Errorf("all reads hang for long: got %v, want a restart", cause)
	}
}

func TestServeInspectEndsWhileSomebodyIsConnected(t *testing.T) {
	socket := filepath.Join(publicDir(t), "inspect.sock")
	stop := serveInspector(t, socket, InspectOptions{})
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := c.Write(appendQuestion(nil, question{kind: askChain, pid: uint32(os.Getpid())})); err != nil {
		t.Fatal(err)
	}
	if _, err := readAnswer(c); err != nil {
		t.Fatal(err)
	}
	stop()
	if _, err := io.ReadAll(c); err != nil {
		t.Errorf("read after the end: got %v, want the end of the connection", err)
	}
}

// BenchmarkChain asks about a shell below a shell of an account's user, below this test.
func BenchmarkChain(b *testing.B) {
	socket := filepath.Join(b.TempDir(), "inspect.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- ServeInspect(ctx, l, InspectOptions{Log: slog.New(slog.DiscardHandler)}) }()
	script := exec.CommandContext(ctx, "/bin/sh", "-c", "sh -c 'echo $$; read -r end'; exit 0")
	script.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: aliceUID, Gid: aliceUID}}
	_, errIn := script.StdinPipe()
	out, errOut := script.StdoutPipe()
	if err := errors.Join(errIn, errOut, script.Start()); err != nil {
		b.Fatal(err)
	}
	var pid int32
	if _, err := fmt.Fscan(out, &pid); err != nil {
		b.Fatal(err)
	}
	i := NewInspector(socket)
	for b.Loop() {
		if chain, _, err := i.Chain(ctx, pid); err != nil || len(chain) != 3 {
			b.Fatal(chain, err)
		}
	}
	cancel()
	_ = script.Wait() // ended by cancel
	if err := errors.Join(<-done, i.Close()); err != nil {
		b.Fatal(err)
	}
}

func TestInspectorHasTheMapsCopied(t *testing.T) {
	copied := 0
	i, _ := inspect(t, InspectOptions{UID: uint32(os.Getuid()), Maps: func(context.Context) error { copied++; return nil }})
	if err := i.Maps(t.Context()); err != nil || copied != 1 {
		t.Errorf("Maps = %v, copied %d times, want once", err, copied)
	}
	none, _ := inspect(t, InspectOptions{UID: uint32(os.Getuid())})
	for range inspectorBreaker + 1 {
		if err := none.Maps(t.Context()); !errors.Is(err, ErrNotFound) {
			t.Errorf("without maps: %v, want ErrNotFound", err)
		}
	}
	if err := none.Err(); err != nil {
		t.Errorf("Err = %v: maps must not count", err)
	}
	if _, _, err := chainOf(t, none, int32(os.Getpid())); err != nil {
		t.Errorf("a question about a process after it: %v", err)
	}
}

func TestInspectorsMapsDoNotCloseTheWayForOtherQuestions(t *testing.T) {
	i, _ := inspect(t, InspectOptions{UID: uint32(os.Getuid()), Maps: func(ctx context.Context) error {
		panic("broken")
	}})
	for range inspectorBreaker + 1 {
		if err := i.Maps(t.Context()); err == nil {
			t.Error("Maps of a broken inspector ends well")
		}
	}
	if err := i.Err(); err != nil {
		t.Errorf("Err = %v: maps must not count", err)
	}
	if _, _, err := chainOf(t, i, int32(os.Getpid())); err != nil {
		t.Errorf("a question about a process after it: %v", err)
	}
}
