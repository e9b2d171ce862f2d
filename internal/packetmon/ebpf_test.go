package packetmon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

const ebpfUID = 20001

// needEBPF skips where this kernel or container does not let us load programs at all.
func needEBPF(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: loads programs into the kernel and makes network namespaces: run it as root")
	}
	if inContainer() {
		t.Skip("NOT TESTED: process ids are other ones here than the kernel's")
	}
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) {
		t.Skipf("NOT TESTED: bpf() is refused here: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	m.Close()
}

// ebpfTracefs mounts tracefs for this test alone: nowhere, so that nobody else sees it.
func ebpfTracefs(t testing.TB) *os.File {
	t.Helper()
	needEBPF(t)
	fs, err := unix.Fsopen("tracefs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		t.Fatalf("open tracefs: %v", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		t.Fatalf("make tracefs: %v", err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("mount tracefs: %v", err)
	}
	f := os.NewFile(uintptr(fd), "tracefs")
	t.Cleanup(func() { f.Close() })
	return f
}

func ebpfBoot() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(err)
	}
	return ts.Nano()
}

func openEBPF(t testing.TB, o EBPFOptions) *EBPF {
	t.Helper()
	dir := ebpfTracefs(t)
	o.Boot, o.tracefs = ebpfBoot, fmt.Sprintf("/proc/self/fd/%d", dir.Fd())
	if o.Ports == nil {
		o.Ports = []uint16{25, 465, 587}
	}
	e, err := OpenEBPF(o)
	if err != nil {
		t.Fatalf("OpenEBPF: %v", err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

// ebpfWatch runs a source and keeps what it tells.
type ebpfWatch struct {
	t *testing.T
	*EBPF

	mu   sync.Mutex
	all  []Seen
	more chan struct{}
}

func watchEBPF(t *testing.T, ports ...uint16) *ebpfWatch {
	t.Helper()
	w := &ebpfWatch{t: t, EBPF: openEBPF(t, EBPFOptions{Ports: ports}), more: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx, w.keep) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run = %v", err)
		}
	})
	return w
}

func (w *ebpfWatch) keep(s *Seen) {
	w.mu.Lock()
	w.all = append(w.all, *s)
	w.mu.Unlock()
	select {
	case w.more <- struct{}{}:
	default:
	}
}

// told returns what was told of the connections that those processes began, in order. The
// source sees the whole machine: what others do at the same time is left out.
func (w *ebpfWatch) told(pids ...int) []Seen {
	w.mu.Lock()
	defer w.mu.Unlock()
	var ours []Seen
	numbers := map[uint64]bool{}
	for _, s := range w.all {
		if s.PID != 0 { // the kernel gives a socket's place to another's connection
			numbers[s.Socket] = slices.Contains(pids, int(s.PID))
		}
		if numbers[s.Socket] {
			ours = append(ours, s)
		}
	}
	return ours
}

// wait returns what was told of those processes as soon as it is n.
func (w *ebpfWatch) wait(n int, pids ...int) []Seen {
	w.t.Helper()
	late := time.After(10 * time.Second)
	for {
		if got := w.told(pids...); len(got) >= n {
			return got
		}
		select {
		case <-w.more:
		case <-late:
			w.t.Fatalf("told %d times of process %v, want %d: %+v", len(w.told(pids...)), pids, n, w.told(pids...))
		}
	}
}

// ebpfHost is a network namespace of its own; it ends with the test.
type ebpfHost struct {
	t   *testing.T
	pid string
}

func newEBPFHost(t *testing.T) ebpfHost {
	t.Helper()
	cmd := exec.Command("unshare", "-n", "--", "sh", "-c", "echo; exec cat") // ends with its standard input
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); cmd.Wait() })
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	h := ebpfHost{t, fmt.Sprint(cmd.Process.Pid)}
	h.run("ip", "link", "set", "lo", "up")
	return h
}

func (h ebpfHost) run(args ...string) {
	h.t.Helper()
	argv := append([]string{"-t", h.pid, "-n", "--"}, args...)
	if out, err := exec.Command("nsenter", argv...).CombinedOutput(); err != nil {
		h.t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// do runs f in a thread inside. The thread is not used again.
func (h ebpfHost) do(f func() error) {
	h.t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		fd, err := unix.Open("/proc/"+h.pid+"/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Setns(fd, unix.CLONE_NEWNET)
			unix.Close(fd)
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		h.t.Fatal(err)
	}
}

// connect runs a program inside as an account's user to its end, whatever that is, and
// returns its process id and what it wrote.
func (h ebpfHost) connect(args ...string) (int, string) {
	h.t.Helper()
	cmd := exec.CommandContext(h.t.Context(), args[0], args[1:]...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: ebpfUID, Gid: ebpfUID}}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	h.do(cmd.Start)
	_ = cmd.Wait() // many are to fail
	return cmd.Process.Pid, out.String()
}

// listen accepts and closes what comes.
func (h ebpfHost) listen(address string) {
	h.t.Helper()
	var l net.Listener
	h.do(func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	})
	done := make(chan struct{})
	h.t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, "220\r\n")
			c.Close()
		}
	}()
}

// twoEBPFHosts are a host whose programs connect, 198.51.100.2, and a mail server,
// 198.51.100.1, on a cable. Both listen at all three ports, and on port 80.
func twoEBPFHosts(t *testing.T) (client, server ebpfHost) {
	t.Helper()
	needEBPF(t)
	client, server = newEBPFHost(t), newEBPFHost(t)
	server.run("ip", "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", client.pid)
	for i, h := range []ebpfHost{server, client} {
		h.run("ip", "addr", "add", fmt.Sprintf("198.51.100.%d/24", i+1), "dev", "cable")
		h.run("ip", "addr", "add", fmt.Sprintf("2001:db8::%d/64", i+1), "dev", "cable", "nodad")
		h.run("ip", "link", "set", "cable", "up")
		for _, port := range []string{":25", ":465", ":587", ":80"} {
			h.listen(port)
		}
	}
	return client, server
}
