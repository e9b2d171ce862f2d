package origin

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// holdScript opens sockets, says its process and their inodes, has a child hold the first
// of them if it is told so, and waits.
const holdScript = `use Socket; $|=1; my ($n,$fork)=@ARGV; my @s;
for (1..$n) { socket(my $s, PF_INET, SOCK_STREAM, 0) or die; push @s, $s }
print "$$ ", join(" ", map { (readlink("/proc/$$/fd/".fileno($_)) =~ /(\d+)/)[0] } @s), "\n";
if ($fork) { my $pid=fork; if (!$pid) { <STDIN>; exit } print "$pid\n"; } <STDIN>;`

func holding(t *testing.T, uid uint32, args ...string) (c *child, pid int32, sockets []Socket) {
	t.Helper()
	c = start(t, spec{uid: uid, dir: "/", env: []string{"HTTP_HOST=shop.example"}, args: append([]string{"/usr/bin/perl", "-e", holdScript}, args...)})
	for i, word := range strings.Fields(c.line(t)) {
		n, err := strconv.ParseUint(word, 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			pid = int32(n)
		} else {
			sockets = append(sockets, Socket{UID: uid, Inode: uint32(n)})
		}
	}
	return c, pid, sockets
}

func inTime(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// read reads a process until its memory was read in time: a busy machine takes longer.
func read(t *testing.T, ps *Processes, pid int32) Chain {
	t.Helper()
	for ctx := inTime(t); ; {
		c, err := ps.Chain(ctx, pid)
		switch {
		case err != nil:
			t.Fatal(err)
		case !c.Unread:
			return c
		case ctx.Err() != nil:
			t.Fatalf("got %+v, want its memory read", c)
		}
	}
}

func TestHoldersFindsAllInOnePass(t *testing.T) {
	ps := NewProcesses("", func(error) {})
	_, alice, ofAlice := holding(t, aliceUID, "300")
	_, bob, ofBob := holding(t, bobUID, "1")
	forked, _, ofForked := holding(t, bobUID, "1", "fork")
	childOfForked, err := strconv.Atoi(forked.line(t))
	if err != nil {
		t.Fatal(err)
	}
	want := map[Socket]int32{ofBob[0]: bob, ofForked[0]: int32(childOfForked)}
	for _, s := range ofAlice {
		want[s] = alice
	}
	asked := []Socket{{UID: aliceUID, Inode: 0}, {UID: bobUID, Inode: ofAlice[0].Inode}} // nobody's, and not bob's
	for s := range want {
		asked = append(asked, s)
	}
	calls := 0
	err = ps.Holders(inTime(t), asked, nil, func(c Chain, held []Socket) {
		calls++
		for _, s := range held {
			if want[s] != c.Processes[0].PID || c.EUID != s.UID || c.RunsExim || c.Hidden {
				t.Errorf("%+v: got %+v, want process %d", s, c, want[s])
			}
			delete(want, s)
		}
		if c.Unread {
			c = read(t, ps, c.Processes[0].PID)
		}
		if c.Processes[0].HTTPHost != "shop.example" || len(c.Processes[0].Args) == 0 {
			t.Errorf("got %+v", c.Processes[0])
		}
	})
	if err != nil || len(want) > 0 || calls != 3 {
		t.Errorf("%d calls, err %v, not found: %v", calls, err, want)
	}
}

func TestHoldersNamesTheProcessAndNotItsThread(t *testing.T) {
	l, _ := listen(t, "127.0.0.1:0")
	raw, err := l.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	var statErr error
	if err := errors.Join(raw.Control(func(fd uintptr) { statErr = unix.Fstat(int(fd), &st) }), statErr); err != nil {
		t.Fatal(err)
	}
	var threads sync.WaitGroup
	stop := make(chan struct{})
	for range 8 { // the newest numbers are those of threads
		started := make(chan struct{})
		threads.Go(func() {
			runtime.LockOSThread() // and never unlocked: it ends with its goroutine
			close(started)
			<-stop
		})
		<-started
	}
	defer threads.Wait()
	defer close(stop)
	found := int32(0)
	err = NewProcesses("", nil).Holders(inTime(t), []Socket{{UID: uint32(os.Getuid()), Inode: uint32(st.Ino)}}, nil, func(c Chain, _ []Socket) {
		found = c.Processes[0].PID
	})
	if err != nil || int(found) != os.Getpid() {
		t.Errorf("got %d, %v, want this process, %d", found, err, os.Getpid())
	}
}

func TestHoldersGivesNobodyAllOfTheTime(t *testing.T) {
	_, pid, sockets := holding(t, aliceUID, "1")
	h := holders{want: map[uint32]map[uint32]bool{aliceUID: {1: true, sockets[0].Inode: true}, bobUID: {1: true}},
		found: func(p proc, _ []Socket) { p.close() }, spent: map[uint32]time.Duration{}, share: 1}
	h.try(inTime(t), int(pid))
	if h.want[aliceUID] != nil || h.want[bobUID] == nil {
		t.Errorf("got %v, want alice's search ended for bob's sake", h.want)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := NewProcesses("", nil).Holders(ctx, []Socket{{UID: aliceUID, Inode: 1}}, nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("no time: got %v", err)
	}
}

func TestAChainEndsWithWhoStartedIt(t *testing.T) {
	dir := publicDir(t)
	c := start(t, spec{uid: aliceUID, dir: dir, args: []string{"/bin/sh", "-c", `perl -e '$|=1; print "$$\n"; <STDIN>'; true`}})
	pid, err := strconv.Atoi(c.line(t))
	if err != nil {
		t.Fatal(err)
	}
	got := read(t, NewProcesses("/usr/bin/perl", func(error) {}), int32(pid))
	ps := got.Processes
	if len(ps) != 3 || ps[0].PID != int32(pid) || ps[0].WorkingDirectory != dir || ps[1].UID != aliceUID || int(ps[2].PID) != os.Getpid() {
		t.Errorf("got %+v, want perl, sh and this test", ps)
	}
	if !got.RunsExim || got.EUID != aliceUID || got.Hidden {
		t.Errorf("got %+v", got)
	}
	if _, err := NewProcesses("", nil).Chain(inTime(t), 1<<22); !errors.Is(err, ErrNotFound) {
		t.Errorf("no such process: got %v", err)
	}
}

// A CGI program of an account's is below a process of the web server's user, and only that
// one's parent tells that it is the web server.
func TestAChainGoesOnToRoots(t *testing.T) {
	c := start(t, spec{dir: publicDir(t), args: []string{"/usr/bin/perl", "-MPOSIX", "-e", `$| = 1; pipe(R, W);
		if (!(my $child = fork)) { POSIX::setuid($ARGV[0]); close W; <R>; print "$$\n"; <STDIN>; exit }
		POSIX::setuid($ARGV[1]); close W; wait`, strconv.Itoa(aliceUID), strconv.Itoa(bobUID)}})
	pid, err := strconv.Atoi(c.line(t))
	if err != nil {
		t.Fatal(err)
	}
	got, err := NewProcesses("", nil).Chain(inTime(t), int32(pid))
	if err != nil {
		t.Fatal(err)
	}
	var uids []uint32
	for _, p := range got.Processes {
		uids = append(uids, p.UID)
	}
	if want := []uint32{aliceUID, bobUID, 0}; !slices.Equal(uids, want) {
		t.Errorf("users %v, want %v", uids, want)
	}
}

func TestParseCgroup(t *testing.T) {
	for _, tt := range []struct{ name, file, want string }{
		{"version 2", "0::/user.slice/user-20001.slice\n", "/user.slice/user-20001.slice"},
		{"LVE goes before all others", "5:memory:/x\n4:cpu:/lve20001/a\n0::/y\n", "/lve20001/a"},
		{"version 1 alone", "5:memory:/\n4:cpu:/x\n3:freezer:/y\n", "/x"},
		{"the root says nothing", "0::/\n", ""},
		{"colons in the name", "0::/a:b\n", "/a:b"},
		{"control bytes and spaces", "0::/a\x1b[2J\n0::/a b\n", ""},
		{"cut short", "0::/user.sl", ""},
		{"too long", "0::/" + strings.Repeat("x", maxCgroup) + "\n", ""},
		{"no path", "0::x\n\n::\nabc\n", ""},
	} {
		if got := parseCgroup([]byte(tt.file)); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

func FuzzParseCgroup(f *testing.F) {
	f.Add([]byte("4:cpu:/lve20001\n0::/x\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		got := parseCgroup(b)
		if len(got) > maxCgroup || got != "" && got[0] != '/' || strings.ContainsFunc(got, func(r rune) bool { return r <= ' ' || r > '~' }) {
			t.Fatalf("%q: got %q", b, got)
		}
	})
}

func FuzzSocketInode(f *testing.F) {
	f.Add(uint32(4711), []byte("socket:[x]"))
	f.Fuzz(func(t *testing.T, n uint32, b []byte) {
		if got, ok := socketInode([]byte("socket:[" + strconv.FormatUint(uint64(n), 10) + "]")); !ok || got != n {
			t.Fatalf("%d: got %d, %v", n, got, ok)
		}
		if got, ok := socketInode(b); !ok && got != 0 {
			t.Fatalf("%q: got %d", b, got)
		}
	})
}

// A process that has ended and is not waited for has no network namespace any more.
func TestAProcessThatEndsIsInNoNetworkNamespace(t *testing.T) {
	cmd := exec.Command("/bin/true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }() // its end is all that was wanted
	ps := NewProcesses("", nil)
	for ctx := inTime(t); ; {
		c, err := ps.Chain(ctx, int32(cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		if c.Placeless && !c.Elsewhere {
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("got %+v, want it to be nowhere", c)
		}
	}
	if c, err := ps.Chain(inTime(t), int32(os.Getpid())); err != nil || c.Placeless || c.Elsewhere {
		t.Errorf("this process: %+v, %v", c, err)
	}
}

// Where memory is read too late, or by too many at once, nothing is said of the program.
func TestAChainTellsWhetherItsProgramWasSeen(t *testing.T) {
	_, pid, _ := holding(t, aliceUID, "1")
	ps := NewProcesses("/usr/bin/perl", func(error) {})
	for range memoryPerUID {
		ps.memory.begin(aliceUID, bootNow())
	}
	if c, err := ps.Chain(inTime(t), pid); err != nil || !c.Unread || c.RunsExim {
		t.Errorf("while no memory is read: got %+v, %v; want it unread", c, err)
	}
	for range memoryPerUID {
		ps.memory.end(aliceUID)
	}
	if c := read(t, ps, pid); !c.RunsExim {
		t.Errorf("got %+v, want it seen to run Exim's program", c)
	}
}
