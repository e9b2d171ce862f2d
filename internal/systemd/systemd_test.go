package systemd

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain makes the test program, run again, the service that is handed sockets: it
// answers one connection on each, in the order of their names.
func TestMain(m *testing.M) {
	switch os.Getenv("SYSTEMD_TEST_ROLE") {
	case "service":
		service()
	case "executor":
		executor()
	case "web":
		web()
	}
	os.Exit(m.Run())
}

// service greets by name; its exit status says what went wrong.
func service() {
	listeners, err := Listeners()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
	again, err := Listeners()
	if err != nil || len(again) > 0 {
		os.Exit(4)
	}
	for _, name := range slices.Sorted(maps.Keys(listeners)) {
		c, err := listeners[name].Accept()
		if err != nil {
			os.Exit(5)
		}
		_, _ = fmt.Fprintf(c, "I am %s with %d\n", name, len(listeners))
		_ = c.Close()
		_ = listeners[name].Close()
	}
	os.Exit(0)
}

// web greets on the one TCP socket that it was handed.
func web() {
	l, err := TCPListener()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
	if again, err := TCPListener(); err != nil || again != nil {
		os.Exit(4)
	}
	c, err := l.Accept()
	if err != nil {
		os.Exit(5)
	}
	_, _ = fmt.Fprintln(c, "I am the web")
	_ = c.Close()
	os.Exit(0)
}

// executor makes a socket and executes itself in its own place as the service.
func executor() {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: os.Getenv("SYSTEMD_TEST_SOCKET"), Net: "unix"})
	if err != nil {
		os.Exit(6)
	}
	variable, keep, err := HandOn(map[string]*net.UnixListener{"policy": l})
	if err != nil || len(keep) != 1 {
		os.Exit(7)
	}
	err = syscall.Exec("/proc/self/exe", os.Args, []string{"SYSTEMD_TEST_ROLE=service", variable})
	fmt.Fprintln(os.Stderr, err)
	os.Exit(8)
}

func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// greeting connects to a socket, which whoever is started makes at some time.
func greeting(t *testing.T, path string) string {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestListenersFromTheRealSystemd(t *testing.T) {
	dir := t.TempDir()
	policy, control := filepath.Join(dir, "policy.sock"), filepath.Join(dir, "control.sock")
	cmd := exec.Command("systemd-socket-activate", "-l", policy, "-l", control, "--fdname=policy:control",
		"-E", "SYSTEMD_TEST_ROLE=service", self(t))
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stderr)
	for listening := 0; listening < 2 && lines.Scan(); { // "Listening on /… as 3."
		if strings.Contains(lines.Text(), "Listening on") {
			listening++
		}
	}
	// The service starts with the first connection and answers in the order of the names.
	answers := make(chan string, 1)
	go func() {
		b, err := io.ReadAll(io.TeeReader(stderr, io.Discard))
		answers <- fmt.Sprint(string(b), err)
	}()
	if got, want := greeting(t, control), "I am control with 2\n"; got != want {
		t.Errorf("control socket: got %q, want %q", got, want)
	}
	if got, want := greeting(t, policy), "I am policy with 2\n"; got != want {
		t.Errorf("policy socket: got %q, want %q", got, want)
	}
	rest := <-answers
	if err := cmd.Wait(); err != nil {
		t.Errorf("the service: %v: %s", err, rest)
	}
	if _, err := os.Stat(policy); err != nil {
		t.Errorf("closing an inherited listener removed its path: %v", err)
	}
}

func TestListenersHandedOnWithoutSystemd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	// A child: the descriptor is passed as exec.Cmd passes files, under another number.
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self(t))
	cmd.Env = []string{"SYSTEMD_TEST_ROLE=service", handedOn + "=policy=3"}
	cmd.ExtraFiles = []*os.File{f}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if got, want := greeting(t, path), "I am policy with 1\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func TestATCPListenerIsTakenOver(t *testing.T) {
	if l, err := TCPListener(); l != nil || err != nil {
		t.Errorf("started without a socket: %v, %v", l, err)
	}
	tcp, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	unix, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	start := func(l interface{ File() (*os.File, error) }, fds string) (*exec.Cmd, *bytes.Buffer) {
		f, err := l.File()
		if err != nil {
			t.Fatal(err)
		}
		var stderr bytes.Buffer
		cmd := exec.Command(self(t))
		cmd.Env, cmd.ExtraFiles, cmd.Stderr = []string{"SYSTEMD_TEST_ROLE=web", handedOn + "=" + fds}, []*os.File{f}, &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd, &stderr
	}
	cmd, stderr := start(tcp, "web=3")
	c, err := net.Dial("tcp", tcp.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if err = errors.Join(err, cmd.Wait()); err != nil || string(got) != "I am the web\n" {
		t.Errorf("got %q, %v, %s", got, err, stderr)
	}
	cmd, stderr = start(unix, "web=3")
	if err := cmd.Wait(); err == nil || !strings.Contains(stderr.String(), "of type unix, want tcp") {
		t.Errorf("a unix socket: %v, %q", err, stderr)
	}
	cmd, stderr = start(tcp, "web=3,other=4")
	if err := cmd.Wait(); err == nil || !strings.Contains(stderr.String(), "there are 2") {
		t.Errorf("two sockets: %v, %q", err, stderr)
	}
}

func TestListenersLiveOnWhenTheProgramExecutesItself(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.sock")
	waiting, err := net.ListenUnix("unix", &net.UnixAddr{Name: path + ".other", Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = waiting.Close() }()
	cmd := exec.Command(self(t))
	cmd.Env = []string{"SYSTEMD_TEST_ROLE=executor", "SYSTEMD_TEST_SOCKET=" + path}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	got := ""
	for got == "" && time.Now().Before(deadline) {
		c, err := net.Dial("unix", path)
		if err != nil {
			continue // it has not made its socket yet
		}
		b, err := io.ReadAll(c)
		if err != nil {
			t.Fatal(err)
		}
		got = string(b)
		_ = c.Close()
	}
	if want := "I am policy with 1\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func TestInheritedSaysWhichDescriptorsAreOurs(t *testing.T) {
	pid := os.Getpid()
	ours := strconv.Itoa(pid)
	for _, tt := range []struct {
		name string
		env  map[string]string
		want map[string]int
		ok   bool
	}{
		{"two named ones", map[string]string{"LISTEN_PID": ours, "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b"}, map[string]int{"a": 3, "b": 4}, true},
		{"one without a name", map[string]string{"LISTEN_PID": ours, "LISTEN_FDS": "1"}, map[string]int{"unknown": 3}, true},
		{"none at all", nil, nil, true},
		{"another process's", map[string]string{"LISTEN_PID": "1", "LISTEN_FDS": "2"}, nil, true},
		{"two of one name", map[string]string{"LISTEN_PID": ours, "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:a"}, nil, false},
		{"a number that is none", map[string]string{"LISTEN_PID": ours, "LISTEN_FDS": "x"}, nil, false},
		{"too many", map[string]string{"LISTEN_PID": ours, "LISTEN_FDS": "100000"}, nil, false},
		{"a negative number", map[string]string{"LISTEN_PID": ours, "LISTEN_FDS": "-1"}, nil, false},
		{"handed on", map[string]string{handedOn: "a=7,b=9"}, map[string]int{"a": 7, "b": 9}, true},
		{"handed on, twice the same", map[string]string{handedOn: "a=7,a=9"}, nil, false},
		{"handed on, standard output", map[string]string{handedOn: "a=1"}, nil, false},
		{"handed on, rubbish", map[string]string{handedOn: ",,"}, nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := inherited(func(name string) string { return tt.env[name] }, pid)
			if (err == nil) != tt.ok || !maps.Equal(got, tt.want) {
				t.Errorf("inherited(%v): got %v, %v; want %v", tt.env, got, err, tt.want)
			}
		})
	}
}

func FuzzInherited(f *testing.F) {
	f.Add("2", "a:b", "")
	f.Add("", "", "a=7,b=9")
	f.Fuzz(func(t *testing.T, fds, names, own string) {
		env := map[string]string{"LISTEN_PID": "1", "LISTEN_FDS": fds, "LISTEN_FDNAMES": names, handedOn: own}
		got, err := inherited(func(name string) string { return env[name] }, 1)
		if err != nil && got != nil || len(got) > maxFDs {
			t.Errorf("got %d descriptors, %v", len(got), err)
		}
		for name, fd := range got {
			if name == "" || fd < firstFD {
				t.Errorf("got %q=%d", name, fd)
			}
		}
	})
}

func TestNotifyReachesSystemd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	t.Setenv("NOTIFY_SOCKET", path)
	if sent, err := Notify(Ready, Status("6 accounts,\nREADY=0")); !sent || err != nil {
		t.Fatalf("Notify: got %v, %v", sent, err)
	}
	buf := make([]byte, 1000)
	n, err := c.Read(buf)
	if got, want := string(buf[:n]), "READY=1\nSTATUS=6 accounts, READY=0"; got != want || err != nil {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	if s := ReloadingNow(); !strings.HasPrefix(s, "RELOADING=1\nMONOTONIC_USEC=") {
		t.Errorf("ReloadingNow: got %q", s)
	}
}

func TestNotifyWithoutSystemd(t *testing.T) {
	for _, tt := range []struct {
		name, socket string
		ok           bool
	}{
		{"none", "", true},
		{"a path that is not there", "/nonexistent/notify", false},
		{"no path", "relative", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("NOTIFY_SOCKET", tt.socket)
			if sent, err := Notify(Alive); sent || (err == nil) != tt.ok {
				t.Errorf("Notify with NOTIFY_SOCKET=%q: got %v, %v", tt.socket, sent, err)
			}
		})
	}
}

func TestWatchdogIsHalfOfWhatSystemdWaits(t *testing.T) {
	for _, tt := range []struct {
		name, usec, pid string
		want            time.Duration
	}{
		{"for this process", "20000000", "42", 10 * time.Second},
		{"for whichever process", "20000000", "", 10 * time.Second},
		{"for another process", "20000000", "43", 0},
		{"not at all", "", "", 0},
		{"rubbish", "soon", "", 0},
		{"a negative time", "-5", "", 0},
		{"a time beyond all bounds", "9223372036854775807", "", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			env := map[string]string{"WATCHDOG_USEC": tt.usec, "WATCHDOG_PID": tt.pid}
			if got := watchdog(func(name string) string { return env[name] }, 42); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}
