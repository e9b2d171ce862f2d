package packetmon

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"osm/policy"
)

// inNetwork runs the test again in a network of its own, where it may change the firewall,
// and with mounts of its own, and reports whether this is that run.
func inNetwork(t *testing.T) bool {
	t.Helper()
	const inside = "PACKETMON_TEST_NETWORK"
	if os.Getenv(inside) != "" {
		return true
	}
	for _, program := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("SKIPPED: %v", err)
		}
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	switch {
	case err == nil && strings.Contains(string(out), "--- SKIP"):
		t.Skipf("SKIPPED: %s", out)
	case err == nil:
		return false
	}
	if _, ended := err.(*exec.ExitError); !ended {
		t.Skipf("SKIPPED: a network of our own needs root: %v", err)
	}
	t.Fatalf("%v\n%s", err, out)
	return false
}

// ownNetwork gives the network of [inNetwork] an address, and rules may be added to its chain.
func ownNetwork(t *testing.T) netip.Addr {
	t.Helper()
	for _, line := range []string{
		"ip link set lo up", "ip link add d0 type veth peer name d1", "ip addr add 10.9.9.1/24 dev d0", "ip link set d0 up",
		"ip link set d1 up", "ip route add default via 10.9.9.2",
		"nft add table ip osmtest", "nft add chain ip osmtest out { type nat hook output priority -100 ; }",
	} {
		command(t, line)
	}
	return netip.MustParseAddr("10.9.9.1")
}

func command(t *testing.T, line string) {
	t.Helper()
	words := strings.Fields(line)
	if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
		t.Skipf("SKIPPED: %s: %v: %s", line, err, out)
	}
}

func TestARedirectedConnectionIsNotCountedTwice(t *testing.T) {
	if !inNetwork(t) {
		return
	}
	own := ownNetwork(t)
	mta, err := net.Listen("tcp4", "0.0.0.0:25")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = mta.Close() }()
	other := sink(t, bobUID, "/usr/bin/perl")
	command(t, "nft add rule ip osmtest out ip daddr 192.0.2.1 tcp dport 25 redirect to :25")
	command(t, "nft add rule ip osmtest out ip daddr 192.0.2.2 tcp dport 25 redirect to :"+strconv.Itoa(int(other.Port())))
	command(t, "nft add rule ip osmtest out ip daddr 192.0.2.3 tcp dport 587 dnat to 10.9.9.1:25")
	for _, tt := range []struct {
		name, wanted string
		to           netip.AddrPort // where the packet goes in truth
		bypass       bool
	}{
		{"to the mail server, by a redirect", "192.0.2.1:25", netip.MustParseAddrPort("127.0.0.1:25"), false},
		{"to the mail server on another port, by its address", "192.0.2.3:587", netip.MustParseAddrPort("10.9.9.1:25"), false},
		{"to somebody else's server, by a redirect", "192.0.2.2:25", other, true},
	} {
		wanted := netip.MustParseAddrPort(tt.wanted)
		c := connect(t, aliceUID, "/", wanted)
		local := netip.AddrPortFrom(own, c.local.Port())
		ports := []uint16{25, 587, other.Port()}
		check := func(t *testing.T, m *Monitor) {
			t.Helper()
			if !tt.bypass {
				until(t, m, "the redirected connection", func(n Counts) bool { return n.Redirected+n.ToMTA == 1 })
				if n := m.Status().Counts; n.Redirected != 1 && tt.to.Addr().IsLoopback() {
					t.Errorf("got %+v, want it counted as redirected", n)
				}
				nothingMore(t, m)
				return
			}
			if got := next(t, m).Connection; got.Remote != wanted || got.UID != aliceUID || !strings.Contains(got.Basis, "a firewall rule brought it to "+tt.to.String()) {
				t.Errorf("got %+v, want one to %v", got, wanted)
			}
		}
		t.Run("packet "+tt.name, func(t *testing.T) {
			f := newFed(SourcePacket)
			m := monitored(t, Options{Ports: ports, Openers: []Opener{f.opener()}})
			f.in <- Seen{At: sinceBoot(), Local: local, Remote: tt.to, Socket: 1}
			check(t, m)
		})
		if tt.bypass {
			continue
		}
		t.Run("ebpf "+tt.name, func(t *testing.T) {
			f := newFed(SourceEBPF)
			m := monitored(t, Options{Ports: ports, Openers: []Opener{f.opener()}})
			now := sinceBoot()
			f.in <- Seen{At: now, Remote: wanted, Socket: 1, UID: aliceUID, UIDKnown: true, PID: c.pid}
			f.in <- Seen{At: now + 1, Local: local, Remote: wanted, Socket: 1, Outcome: policy.OutcomeEstablished}
			check(t, m)
			f.in <- Seen{At: now + 2, Remote: wanted, Socket: 2, UID: aliceUID, UIDKnown: true, PID: c.pid}
			f.in <- Seen{At: now + 3, Local: netip.AddrPortFrom(own, 1), Remote: wanted, Socket: 2, Outcome: policy.OutcomeEstablished}
			if got := next(t, m).Connection; got.Outcome != policy.OutcomeEstablished || len(got.Chain) == 0 || got.Chain[0].PID != c.pid {
				t.Errorf("one that was not redirected: got %+v", got)
			}
		})
	}
}

// Whoever keeps one connection to this host's mail server, or had one a moment ago, and
// connects to others from the same port is not taken for one who was redirected.
func TestAConnectionToTheMailServerFromTheSamePortHidesNothing(t *testing.T) {
	if !inNetwork(t) {
		return
	}
	own := ownNetwork(t)
	mta, err := net.Listen("tcp4", "0.0.0.0:25")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = mta.Close() }()
	remote := netip.MustParseAddrPort("192.0.2.9:25")
	for _, tt := range []struct {
		name   string
		server string
		closed bool
	}{
		{"it stands, by the loopback address", "127.0.0.1", false},
		{"it stands, by the host's address", "10.9.9.1", false},
		{"the server has closed it", "10.9.9.1", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := start(t, aliceUID, "/", "/usr/bin/perl", "-MIO::Socket::INET", "-e", `$|=1; my $s=IO::Socket::INET->new(LocalAddr=>"10.9.9.1", PeerAddr=>$ARGV[0], PeerPort=>25) or die;
				print $s->sockport, "\n"; <STDIN>; close $s; print "closed\n"; <STDIN>`, tt.server)
			port, err := strconv.ParseUint(c.line(t), 10, 16)
			if err != nil {
				t.Fatal(err)
			}
			server, err := mta.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = server.Close() }()
			if tt.closed {
				_ = server.Close()
				_, _ = c.stdin.Write([]byte("close\n"))
				c.line(t)
				time.Sleep(20 * time.Millisecond) // until it was closed before the next one began
			}
			f := newFed(SourceEBPF)
			m := monitored(t, Options{Ports: []uint16{25, 587}, Openers: []Opener{f.opener()}})
			now := sinceBoot()
			f.in <- Seen{At: now, Remote: remote, Socket: 1, UID: aliceUID, UIDKnown: true, PID: int32(c.cmd.Process.Pid)}
			f.in <- Seen{At: now + 1, Local: netip.AddrPortFrom(own, uint16(port)), Remote: remote, Socket: 1, Outcome: policy.OutcomeEstablished}
			if got := next(t, m).Connection; got.UID != aliceUID || got.Remote != remote {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestARedirectedConnectionHidesNoOtherOneOfItsPort(t *testing.T) {
	if !inNetwork(t) {
		return
	}
	own := ownNetwork(t)
	mta, err := net.Listen("tcp4", "127.0.0.1:25")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = mta.Close() }()
	away, err := net.Listen("tcp4", "10.9.9.1:5870")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = away.Close() }()
	command(t, "nft add rule ip osmtest out ip daddr 192.0.2.1 tcp dport 25 redirect to :25")
	command(t, "nft add rule ip osmtest out ip daddr 192.0.2.9 tcp dport 587 dnat to 10.9.9.1:5870") // to somebody's server, as far as this test goes
	c := start(t, aliceUID, "/", "/usr/bin/perl", "-MIO::Socket::INET", "-e", `$|=1; my @s; for (["192.0.2.1",25],["192.0.2.9",587]) {
		push @s, IO::Socket::INET->new(LocalAddr=>"10.9.9.1", LocalPort=>4711, ReuseAddr=>1, PeerAddr=>$_->[0], PeerPort=>$_->[1]) or die "$@"; print "here\n"; <STDIN> }`)
	f := newFed(SourceEBPF)
	m := monitored(t, Options{Ports: []uint16{25, 587}, Openers: []Opener{f.opener()}})
	for i, to := range []string{"192.0.2.1:25", "192.0.2.9:587"} {
		c.line(t)
		now, remote := sinceBoot(), netip.MustParseAddrPort(to)
		f.in <- Seen{At: now, Remote: remote, Socket: uint64(i), UID: aliceUID, UIDKnown: true, PID: int32(c.cmd.Process.Pid)}
		f.in <- Seen{At: now + 1, Local: netip.AddrPortFrom(own, 4711), Remote: remote, Socket: uint64(i), Outcome: policy.OutcomeEstablished}
		if i == 0 {
			until(t, m, "the redirected one", func(n Counts) bool { return n.Redirected == 1 })
			_, _ = c.stdin.Write([]byte("go on\n"))
		} else if got := next(t, m).Connection; got.UID != aliceUID || got.Remote != remote {
			t.Errorf("got %+v", got)
		}
	}
}

// Anybody can have a network of his own, go there after he has connected, or have one thread
// stay behind that connects.
func TestASocketInOurNetworkTellsMoreThanWhereItsProcessIs(t *testing.T) {
	if !inNetwork(t) {
		return
	}
	own := ownNetwork(t)
	command(t, "nft add rule ip osmtest out ip daddr 192.0.2.9 tcp dport 587 dnat to 10.9.9.1:5870")
	l, err := net.Listen("tcp4", "10.9.9.1:5870")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	remote := netip.MustParseAddrPort("192.0.2.9:587")
	c := connect(t, aliceUID, "/", remote)
	cmd := exec.Command("/bin/cat") // alice's too, in another network
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Credential: &syscall.Credential{Uid: aliceUID, Gid: aliceUID}}
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = stdin.Close(), cmd.Wait() }()
	port := c.local.Port()
	for i, tt := range []struct {
		name    string
		local   netip.AddrPort
		outcome bool
		uid     uint32
	}{
		{"it was answered", netip.AddrPortFrom(own, port), true, aliceUID},
		{"it was not answered yet, and its port is not known", netip.AddrPortFrom(own, 0), false, aliceUID},
		{"there is no such socket here", netip.AddrPortFrom(own, port+1), true, 0},
		{"from another address", netip.MustParseAddrPort("172.17.0.2:4711"), true, 0},
		{"from the loopback address, which all have", netip.MustParseAddrPort("127.0.0.1:4711"), true, 0},
	} {
		f := newFed(SourceEBPF)
		m := monitored(t, Options{Ports: []uint16{587}, Openers: []Opener{f.opener()}})
		now := sinceBoot()
		f.in <- Seen{At: now, Local: netip.AddrPortFrom(tt.local.Addr(), 0), Remote: remote, Socket: uint64(i), UID: aliceUID, UIDKnown: true, PID: int32(cmd.Process.Pid)}
		if tt.outcome {
			f.in <- Seen{At: now + 1, Local: tt.local, Remote: remote, Socket: uint64(i), Outcome: policy.OutcomeEstablished}
		}
		if got := next(t, m).Connection; got.UID != tt.uid || got.UIDKnown != (tt.uid != 0) || got.Elsewhere != (tt.uid == 0) {
			t.Errorf("%s: got %+v", tt.name, got)
		}
	}
}
