package packetmon

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	packetUID     = 20001
	packetNobody  = 65534
	packetPatient = 10 * time.Second // for what takes milliseconds on a machine that is not busy
)

// packetHost is a host of its own, in a network namespace that ends with the test. Its
// addresses are .1 or .2 of 198.51.100.0/24 and 2001:db8::/64.
type packetHost struct {
	t    *testing.T
	file *os.File
}

// packetHosts returns a host to watch and one for it to talk to, on a cable. The other one
// listens on the mail ports and on 80, the first too.
func packetHosts(t *testing.T) (here, there packetHost) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: this test makes network namespaces, which needs root")
	}
	here, there = newPacketHost(t), newPacketHost(t)
	// Of ends with one number the kernel thinks that they can wait for a second.
	here.run("ip", "link", "add", "cable", "index", "77", "type", "veth", "peer", "name", "cable", "netns", there.path())
	for i, h := range []packetHost{here, there} {
		h.run("ip", "addr", "add", fmt.Sprintf("198.51.100.%d/24", i+1), "dev", "cable")
		h.run("ip", "addr", "add", fmt.Sprintf("2001:db8::%d/64", i+1), "dev", "cable", "nodad")
		h.run("ip", "link", "set", "cable", "up")
		h.must(func() error { // the first question may be asked before the other end can hear it
			_ = os.WriteFile("/proc/sys/net/ipv6/neigh/cable/retrans_time_ms", []byte("20"), 0) // else it takes a second
			return nil
		})
		for _, port := range []string{"25", "465", "587", "80"} {
			h.listen("[::]:" + port)
		}
	}
	late := time.Now().Add(packetPatient)
	for here.reach("[2001:db8::2]:80") != nil || there.reach("[2001:db8::1]:80") != nil {
		if time.Now().After(late) {
			t.Fatal("the hosts do not reach one another")
		}
	}
	return here, there
}

func (h packetHost) reach(to string) error {
	return h.do(func() error {
		c, err := net.DialTimeout("tcp", to, time.Second)
		if err != nil {
			return err
		}
		return c.Close()
	})
}

func newPacketHost(t *testing.T) packetHost {
	t.Helper()
	h := packetHost{t: t}
	made := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			h.file, err = os.Open("/proc/thread-self/ns/net")
		}
		made <- err
	}()
	if err := <-made; err != nil {
		t.Skipf("SKIPPED: no network namespace can be made here: %v", err)
	}
	t.Cleanup(func() { h.file.Close() })
	h.run("ip", "link", "set", "lo", "up")
	return h
}

func (h packetHost) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), h.file.Fd()) }

// do runs f in a thread inside; what it starts is inside, too.
func (h packetHost) do(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := unix.Setns(int(h.file.Fd()), unix.CLONE_NEWNET)
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

func (h packetHost) must(f func() error) {
	h.t.Helper()
	if err := h.do(f); err != nil {
		h.t.Fatal(err)
	}
}

func (h packetHost) run(args ...string) {
	h.t.Helper()
	h.must(func() error {
		out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out)
		}
		return nil
	})
}

// listen accepts connections and keeps each until its other end closes it.
func (h packetHost) listen(address string) {
	h.t.Helper()
	var l net.Listener
	h.must(func() (err error) { l, err = net.Listen("tcp", address); return err })
	var running sync.WaitGroup
	h.t.Cleanup(func() { l.Close(); running.Wait() })
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				c.SetDeadline(time.Now().Add(time.Minute))
				io.Copy(io.Discard, c)
				c.Close()
			})
		}
	})
}

// dial opens a connection, from a port of 0 = any, which the test's end closes.
func (h packetHost) dial(to string, from ...string) net.Conn {
	h.t.Helper()
	d := net.Dialer{Timeout: packetPatient}
	if len(from) > 0 {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.MustParseAddrPort(from[0]))
	}
	var c net.Conn
	h.must(func() (err error) { c, err = d.DialContext(context.Background(), "tcp", to); return err })
	h.t.Cleanup(func() { c.Close() })
	return c
}

// connection is what the kernel says of both ends.
type connection struct{ local, remote netip.AddrPort }

func (c connection) String() string { return c.local.String() + " to " + c.remote.String() }

func (c connection) compare(o connection) int {
	return cmp.Or(c.local.Compare(o.local), c.remote.Compare(o.remote))
}

func connectionOf(c net.Conn) connection {
	unmapped := func(a net.Addr) netip.AddrPort {
		p := a.(*net.TCPAddr).AddrPort()
		return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
	}
	return connection{unmapped(c.LocalAddr()), unmapped(c.RemoteAddr())}
}

// runningSource is a source that runs in a test.
type runningSource struct {
	t      *testing.T
	source Source
	ended  chan error // what Run returned
	cancel func()

	mu   sync.Mutex
	seen []Seen
	news chan struct{} // holds one when there is something new
}

func runSource(t *testing.T, s Source) *runningSource {
	ctx, cancel := context.WithCancel(context.Background())
	w := &runningSource{t: t, source: s, ended: make(chan error, 1), cancel: cancel, news: make(chan struct{}, 1)}
	go func() {
		w.ended <- s.Run(ctx, func(s *Seen) {
			w.mu.Lock()
			w.seen = append(w.seen, *s)
			w.mu.Unlock()
			select {
			case w.news <- struct{}{}:
			default:
			}
		})
	}()
	t.Cleanup(w.stop)
	return w
}

func (w *runningSource) all() []Seen {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.seen)
}

// stop ends the source's Run and fails the test if it does not end well.
func (w *runningSource) stop() {
	if w.cancel == nil {
		return
	}
	w.cancel()
	w.cancel = nil
	select {
	case err := <-w.ended:
		if err != nil {
			w.t.Errorf("Run of %s: %v", w.source.Name(), err)
		}
	case <-time.After(packetPatient):
		w.t.Errorf("Run of %s does not end", w.source.Name())
	}
}

// wait returns when the connection c was reported, with all that was reported before.
func (w *runningSource) wait(c connection) []Seen {
	w.t.Helper()
	late := time.After(packetPatient)
	for {
		all := w.all()
		if i := slices.IndexFunc(all, func(s Seen) bool { return s.Local == c.local && s.Remote == c.remote }); i >= 0 {
			return all[:i+1]
		}
		select {
		case <-w.news:
		case <-late:
			w.t.Fatalf("%v was not reported; reported was %v", c, all)
		}
	}
}

// check fails the test unless exactly the wanted connections were reported, each once.
func check(t *testing.T, all []Seen, want []connection) {
	t.Helper()
	got := make([]connection, len(all))
	for i, s := range all {
		got[i] = connection{s.Local, s.Remote}
	}
	want = slices.Clone(want)
	slices.SortFunc(got, connection.compare)
	slices.SortFunc(want, connection.compare)
	if slices.Equal(got, want) {
		return
	}
	t.Errorf("%d connections were reported, want %d", len(got), len(want))
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(want):
			t.Fatalf("nobody made %v", got[i])
		case i >= len(got):
			t.Fatalf("not reported: %v", want[i])
		case got[i] != want[i]:
			t.Fatalf("the first difference in order of addresses: reported %v, want %v", got[i], want[i])
		}
	}
}

// packetChild is this test program as another user, in a role of [TestPacketChild].
type packetChild struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

// child starts a role inside the host. It ends when its standard input does.
func (h packetHost) child(uid uint32, caps []uintptr, role ...string) *packetChild {
	h.t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestPacketChild$", "-test.timeout=60s")
	cmd.Dir = "/"
	cmd.Env = []string{"PACKET_TEST_ROLE=" + strings.Join(role, " "), "GORACE=atexit_sleep_ms=0"}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}, AmbientCaps: caps}
	in, err := cmd.StdinPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	h.must(cmd.Start)
	c := &packetChild{cmd: cmd, in: in, out: bufio.NewScanner(out)}
	h.t.Cleanup(c.end)
	return c
}

func (c *packetChild) end() {
	c.in.Close()
	c.cmd.Wait()
}

func (c *packetChild) line(t *testing.T) string {
	t.Helper()
	if !c.out.Scan() {
		t.Fatalf("the child has ended: %v", c.out.Err())
	}
	return c.out.Text()
}

// TestPacketChild is no test: it is what the children of the others run.
func TestPacketChild(t *testing.T) {
	role := strings.Fields(os.Getenv("PACKET_TEST_ROLE"))
	if len(role) == 0 {
		t.Skip("the other tests run this one in processes of their own")
	}
	if err := playPacketRole(role); err != nil {
		fmt.Println("error:", err)
	}
	os.Exit(0)
}

func playPacketRole(role []string) error {
	switch role[0] {
	case "dial": // ADDRESS
		c, err := net.Dial("tcp", role[1])
		if err != nil {
			return err
		}
		fmt.Println(c.LocalAddr())
		io.Copy(io.Discard, os.Stdin)
		return c.Close()
	case "routed": // IPv6 ADDRESS
		return dialRouted(netip.MustParseAddrPort(role[1]))
	case "packet", "poll":
		return watchInChild(role[0])
	}
	return errors.New("no such role")
}

// dialRouted begins to connect with an IPv6 routing header of one, spent segment.
func dialRouted(to netip.AddrPort) error {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	header := append([]byte{0, 2, 4, 0, 0, 0, 0, 0}, to.Addr().AsSlice()...)
	if err := unix.SetsockoptString(fd, unix.IPPROTO_IPV6, unix.IPV6_RTHDR, string(header)); err != nil {
		fmt.Println("refused:", err)
		return nil
	}
	err = unix.Connect(fd, &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()})
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return err
	}
	local, err := unix.Getsockname(fd)
	if err != nil {
		return err
	}
	in6 := local.(*unix.SockaddrInet6)
	fmt.Println(netip.AddrPortFrom(netip.AddrFrom16(in6.Addr), uint16(in6.Port)))
	io.Copy(io.Discard, os.Stdin)
	return nil
}

// watchInChild opens a source with what capabilities the child has, and prints what it sees.
func watchInChild(name string) error {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	_, caps, _ := strings.Cut(string(status), "CapEff:\t")
	caps, _, _ = strings.Cut(caps, "\n")
	var s Source
	if name == SourcePacket {
		s, err = OpenPacket(PacketOptions{Ports: mailPorts(), Boot: sinceBoot})
	} else {
		s, err = OpenPoll(PollOptions{Ports: mailPorts(), Boot: sinceBoot})
	}
	if err != nil {
		return err
	}
	fmt.Println(os.Getuid(), caps)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	return s.Run(ctx, func(s *Seen) { fmt.Println(s.Local, s.Remote, s.UID, s.UIDKnown, s.Inode > 0) })
}
