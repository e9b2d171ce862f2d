package actions

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"osm/policy"
)

// network is a network namespace of its own; it ends with the test.
type netns struct {
	t   *testing.T
	pid string
}

func newNetns(t *testing.T) netns {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test makes network namespaces: run it as root")
	}
	cmd := exec.Command("unshare", "-n", "--", "cat") // ends with its standard input
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); cmd.Wait() })
	n := netns{t, fmt.Sprint(cmd.Process.Pid)}
	// Not /proc/self: that is the first thread, and a function of [netns.do] may have taken it.
	mine, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, "a network namespace", func() bool {
		its, err := os.Readlink("/proc/" + n.pid + "/ns/net")
		return err == nil && its != mine
	})
	n.run("ip", "link", "set", "lo", "up")
	return n
}

// enter is put before a command to run it inside.
func (n netns) enter() []string { return []string{"/usr/bin/nsenter", "-t", n.pid, "-n", "--"} }

func (n netns) run(args ...string) string {
	n.t.Helper()
	argv := append(n.enter(), args...)
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		n.t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// do runs f in a thread inside. The thread is not used again.
func (n netns) do(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		fd, err := unix.Open("/proc/"+n.pid+"/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Setns(fd, unix.CLONE_NEWNET)
			unix.Close(fd)
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// twoHosts are a mail server that greets and a client of it, on a cable.
func twoHosts(t *testing.T) (server, client netns) {
	t.Helper()
	server, client = onACable(t)
	for _, host := range []string{"198.51.100.1", "[2001:db8::1]"} {
		for _, port := range []string{"25", "465", "587", "143"} {
			if err := server.do(func() error { return greet(t, host+":"+port) }); err != nil {
				t.Fatal(err)
			}
		}
	}
	return server, client
}

// onACable are two hosts that can reach each other.
func onACable(t *testing.T) (server, client netns) {
	t.Helper()
	server, client = newNetns(t), newNetns(t)
	server.run("ip", "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", client.pid)
	for n, addrs := range map[netns][]string{server: {"198.51.100.1/24", "2001:db8::1/64"}, client: {"198.51.100.2/24", "198.51.100.3/24", "2001:db8::2/64"}} {
		for _, a := range addrs {
			args := []string{"ip", "addr", "add", a, "dev", "cable"}
			if strings.Contains(a, ":") {
				args = append(args, "nodad")
			}
			n.run(args...)
		}
		n.run("ip", "link", "set", "cable", "up")
	}
	return server, client
}

// greet listens, and says 220 to each who comes.
func greet(t *testing.T, address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done })
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
	return nil
}

// reaches reports whether a connection from one of the client's addresses gets its greeting.
func (n netns) reaches(from, to string) bool {
	n.t.Helper()
	greeted := false
	err := n.do(func() error {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 700 * time.Millisecond}
		c, err := d.DialContext(context.Background(), "tcp", to)
		var slow net.Error
		if errors.As(err, &slow) && slow.Timeout() { // dropped, not refused
			return nil
		}
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(5 * time.Second))
		b := make([]byte, 3)
		_, err = c.Read(b)
		greeted = string(b) == "220"
		return err
	})
	if err != nil {
		n.t.Fatalf("connect from %s to %s: %v", from, to, err)
	}
	return greeted
}

func nftOptions(t *testing.T, n netns) ExecutorOptions {
	t.Helper()
	if _, err := os.Stat("/usr/sbin/nft"); err != nil {
		t.Fatalf("this test drives the real nft (tests/deps.sh installs it): %v", err)
	}
	o := blockOptions(t)
	o.Firewall = FirewallOptions{Kind: "auto", CSF: "/nonexistent/csf", NFT: "/usr/sbin/nft", root: t.TempDir()}
	o.CommandPrefix = n.enter()
	return o
}

func TestNFTKeepsAnAddressFromTheMailPortsAlone(t *testing.T) {
	server, client := twoHosts(t)
	server.run("nft", "add table inet filter; add chain inet filter input { type filter hook input priority 0; policy accept; }; add rule inet filter input tcp dport 25 accept")
	before := server.run("nft", "list", "ruleset")
	x := startExecutor(t, nftOptions(t, server))
	for _, row := range []struct {
		from, to string
		others   []string // from, to
	}{
		{"198.51.100.2", "198.51.100.1", []string{"198.51.100.3 198.51.100.1:25", "2001:db8::2 [2001:db8::1]:25", "198.51.100.2 198.51.100.1:143"}},
		{"2001:db8::2", "[2001:db8::1]", []string{"198.51.100.2 198.51.100.1:587", "2001:db8::2 [2001:db8::1]:143"}},
	} {
		for _, port := range []string{":25", ":465", ":587"} {
			if !client.reaches(row.from, row.to+port) {
				t.Fatalf("%s does not reach %s before the block", row.from, row.to+port)
			}
		}
		r := mustApply(t, x, blockRequest(row.from, time.Hour))
		if !strings.Contains(r.Outcome, row.from+" on ports 25,465,587 until ") {
			t.Errorf("outcome %q", r.Outcome)
		}
		for _, port := range []string{":25", ":465", ":587"} {
			if client.reaches(row.from, row.to+port) {
				t.Errorf("%s reaches %s though it is blocked", row.from, row.to+port)
			}
		}
		for _, o := range row.others {
			if from, to, _ := strings.Cut(o, " "); !client.reaches(from, to) {
				t.Errorf("%s does not reach %s: too much is blocked", from, to)
			}
		}
		if again := mustApply(t, x, blockRequest(row.from, time.Hour)); again.ID != r.ID {
			t.Errorf("asked again it made record %s beside %s", again.ID, r.ID)
		}
		mustUndo(t, x, r.ID)
		if !client.reaches(row.from, row.to+":25") {
			t.Errorf("%s does not reach %s:25 after the undo", row.from, row.to)
		}
	}
	if after := server.run("nft", "list", "ruleset"); after != before {
		t.Errorf("after the undo the rules are\n%swere\n%s", after, before)
	}
}

func TestNFTBlocksEndByThemselves(t *testing.T) {
	server, client := twoHosts(t)
	o := nftOptions(t, server)
	later := time.Duration(0)
	o.Now = func() time.Time { return time.Now().Add(later) }
	x := startExecutor(t, o)
	short, long, forever := mustApply(t, x, blockRequest("198.51.100.2", 2*time.Second)), mustApply(t, x, blockRequest("198.51.100.3", time.Hour)), mustApply(t, x, blockRequest("2001:db8::2", 0))
	if !strings.Contains(forever.Outcome, "until it is undone") {
		t.Errorf("outcome %q", forever.Outcome)
	}
	waitFor(t, "the end of the block", func() bool { return client.reaches("198.51.100.2", "198.51.100.1:587") })
	if client.reaches("198.51.100.3", "198.51.100.1:25") || client.reaches("2001:db8::2", "[2001:db8::1]:25") {
		t.Error("a block ended before its time")
	}
	later = 3 * time.Second
	if got := mustUndo(t, x, short.ID); !strings.Contains(got.Outcome, "ended by itself") {
		t.Errorf("outcome %q, want that it had ended by itself", got.Outcome)
	}
	server.run("nft", "flush", "ruleset") // a restart of the machine's own rules
	if got := mustUndo(t, x, long.ID); !strings.Contains(got.Outcome, "not there any more") {
		t.Errorf("outcome %q, want that it was not there any more", got.Outcome)
	}
	mustUndo(t, x, forever.ID)
	if got := server.run("nft", "list", "ruleset"); got != "" {
		t.Errorf("left behind: %s", got)
	}
}

func TestNFTElementsOfOthersAreLeftAlone(t *testing.T) {
	server := newNetns(t)
	x := startExecutor(t, nftOptions(t, server))
	r := mustApply(t, x, blockRequest("198.51.100.2", time.Hour))
	server.run("nft", "add element inet osm blocked4 { 198.51.100.3, 198.51.100.4 comment \"by hand\" }")
	for _, ip := range []string{"198.51.100.3", "198.51.100.4"} {
		if _, err := x.Apply(t.Context(), blockRequest(ip, time.Hour)); err == nil || !executorError(t, err).LeftAlone {
			t.Errorf("block of %s that is there by hand: %v, want it left alone", ip, err)
		}
	}
	server.run("nft", "delete element inet osm blocked4 { 198.51.100.2 }")
	server.run("nft", "add element inet osm blocked4 { 198.51.100.2 }")
	if got := mustUndo(t, x, r.ID); !strings.Contains(got.Outcome, "not there any more") {
		t.Errorf("outcome %q", got.Outcome)
	}
	if got := server.run("nft", "list", "set", "inet", "osm", "blocked4"); strings.Count(got, "198.51.100.") != 3 {
		t.Errorf("the set is %s, want the three that were put by hand", got)
	}
}

// A block that was begun when the executor ended runs its whole time.
func TestNFTBlockThatWasBegunBefore(t *testing.T) {
	server := newNetns(t)
	o := nftOptions(t, server)
	change := blockRequest("198.51.100.2", time.Hour)
	s := records{o.StateDir}
	r, err := s.begin(&change, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	server.run("nft", "add "+tableRules+"add element inet osm blocked4 { 198.51.100.2 timeout 5m comment \"osm "+mark(r)+"\" }")
	x := startExecutor(t, o)
	if got := mustApply(t, x, change); got.ID != r.ID {
		t.Errorf("record %s, want %s", got.ID, r.ID)
	}
	if got := server.run("nft", "list", "set", "inet", "osm", "blocked4"); !strings.Contains(got, "timeout 1h ") || strings.Count(got, "198.51.100.2") != 1 {
		t.Errorf("the set is %s", got)
	}
	if got := server.run("nft", "list", "chain", "inet", "osm", "input"); strings.Count(got, "drop") != 2 {
		t.Errorf("the chain is %s, want each rule once", got)
	}
}

func TestNFTThatFails(t *testing.T) {
	changes := []Change{blockRequest("198.51.100.2", time.Hour), directRequest("games", time.Hour)}
	for name, text := range map[string]string{
		"it fails":            "echo 'Error: Operation not permitted'; exit 1",
		"it does nothing":     "exit 0",
		"it answers rubbish":  `echo '{"nftables": [{"set": {"elem": [true]}}]}'`,
		"it answers too much": "head -c 20000000 /dev/zero",
		"it never ends":       "sleep 1000",
	} {
		t.Run(name, func(t *testing.T) {
			o := blockOptions(t)
			o.ChangeLimit = 2 * time.Second
			program := t.TempDir() + "/nft"
			if err := os.WriteFile(program, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			o.Firewall = FirewallOptions{Kind: "nft", NFT: program, root: t.TempDir()}
			x := startExecutor(t, o)
			for _, c := range changes {
				_, err := x.Apply(t.Context(), c)
				if err == nil {
					t.Fatalf("%s passed for done", c.Action)
				}
				if e := executorError(t, err); e.Refused || e.LeftAlone || len(e.Why) > 2500 {
					t.Errorf("%s: error %+v, want one that may pass", c.Action, e)
				}
			}
		})
	}
}

func TestAnAddressOfThisMachineIsNotBlocked(t *testing.T) {
	server, _ := twoHosts(t)
	b := (&executor{o: nftOptions(t, server)}).blockIP()
	for _, ip := range []string{"198.51.100.1", "::ffff:198.51.100.1", "2001:db8::1"} {
		var err error
		if failed := server.do(func() error {
			err = b.check(t.Context(), &Change{Action: policy.ActionBlockIP, IP: ip})
			return nil
		}); failed != nil {
			t.Fatal(failed)
		}
		var r refusal
		if !errors.As(err, &r) || !strings.Contains(r.why, "this machine") {
			t.Errorf("block of %s, which is this machine's: %v", ip, err)
		}
	}
}

// FuzzSet: what is read of nft's list is what its JSON says, or nothing.
func FuzzSet(f *testing.F) {
	f.Add([]byte(`{"nftables": [{"metainfo": {}}, {"set": {"elem": [{"elem": {"val": "198.51.100.1", "timeout": 60, "comment": "x"}}, "198.51.100.3"]}}]}`))
	f.Add([]byte(`{"nftables": [{"set": {"elem": [{"prefix": {}}]}}]}`))
	f.Add([]byte(`{"nftables": [{"set": {"elem": [0, {"elem": {"val": 20001, "timeout": 60, "expires": 59, "comment": "osm record x"}}]}}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		elems, err := parseSet(b)
		if err != nil && len(elems) > 0 {
			t.Fatalf("parseSet(%q) = %v beside %v", b, elems, err)
		}
	})
}
