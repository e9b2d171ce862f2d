package packetmon

import (
	"fmt"
	"net/netip"
	"testing"

	"osm/policy"
)

// ebpfPerl connects to each of its arguments: address, port.
const ebpfPerl = `use Socket qw(:all);
while (my ($h, $p) = splice @ARGV, 0, 2) {
	my ($e, $a) = getaddrinfo($h, $p, {flags => AI_NUMERICHOST, socktype => SOCK_STREAM});
	socket(my $s, $a->{family}, SOCK_STREAM, 6) or die "socket: $!";
	connect($s, $a->{addr}) and sysread($s, my $b, 4);
}`

// ebpfPython connects an IPv6 socket, which may go to an IPv4 address.
const ebpfPython = `import socket, sys
s = socket.socket(socket.AF_INET6)
s.connect((sys.argv[1], int(sys.argv[2])))`

// ebpfBound connects from a port of its choice.
const ebpfBound = `import socket, sys
s = socket.socket()
s.bind(("", 40025))
s.connect((sys.argv[1], int(sys.argv[2])))`

// ebpfBrief gives up after 100 ms.
const ebpfBrief = `import socket, sys
s = socket.socket()
s.settimeout(0.1)
s.connect((sys.argv[1], int(sys.argv[2])))`

// ebpfGone does not wait for an answer at all.
const ebpfGone = `import os, socket, sys
s = socket.socket()
s.setblocking(False)
s.connect_ex((sys.argv[1], int(sys.argv[2])))
os._exit(0)`

func ebpfPerlTo(to ...string) []string {
	return append([]string{"/usr/bin/perl", "-e", ebpfPerl}, to...)
}

func ebpfPythonTo(program string, to ...string) []string {
	return append([]string{"/usr/bin/python3", "-c", program}, to...)
}

func TestEBPFTellsWhoConnectsWhereAndWhatBecomesOfIt(t *testing.T) {
	client, server := twoEBPFHosts(t)
	for _, rule := range []string{
		"add table inet f { chain out { type filter hook output priority 0; }; chain in { type filter hook input priority 0; }; }",
		"add rule inet f out ip daddr 198.51.100.66 reject with icmp type port-unreachable",
		"add rule inet f out ip daddr 198.51.100.67 meta l4proto tcp reject with tcp reset",
		"add rule inet f out ip daddr { 198.51.100.68, 198.51.100.69 } drop",
	} {
		client.run("nft", rule)
	}
	// The shortest time that the kernel waits for an answer, so that the test does not last.
	client.run("sh", "-c", "echo 1 >/proc/sys/net/ipv4/tcp_syn_retries")
	server.run("nft", "add table inet f { chain in { type filter hook input priority 0; tcp dport 2525 reject with icmpx type admin-prohibited; }; }")
	w := watchEBPF(t, 25, 465, 587, 24, 2525)

	rows := []struct {
		name          string
		program       []string
		local, remote string
		localPort     uint16 // at the beginning
		outcome       policy.Outcome
	}{
		{"perl over IPv4 loopback", ebpfPerlTo("127.0.0.1", "25"), "127.0.0.1", "127.0.0.1:25", 0, policy.OutcomeEstablished},
		{"perl over IPv6 loopback", ebpfPerlTo("::1", "465"), "::1", "[::1]:465", 0, policy.OutcomeEstablished},
		{"perl to the host's own address", ebpfPerlTo("198.51.100.2", "587"), "198.51.100.2", "198.51.100.2:587", 0, policy.OutcomeEstablished},
		{"perl to the address that is none, which is loopback", ebpfPerlTo("0.0.0.0", "25"), "127.0.0.1", "127.0.0.1:25", 0, policy.OutcomeEstablished},
		{"python to the IPv6 address that is none", ebpfPythonTo(ebpfPython, "::", "25"), "::1", "[::1]:25", 0, policy.OutcomeEstablished},
		{"perl to another host over IPv4", ebpfPerlTo("198.51.100.1", "25"), "198.51.100.2", "198.51.100.1:25", 0, policy.OutcomeEstablished},
		{"perl to another host over IPv6", ebpfPerlTo("2001:db8::1", "25"), "2001:db8::2", "[2001:db8::1]:25", 0, policy.OutcomeEstablished},
		{"python from an IPv6 socket to an IPv4 address", ebpfPythonTo(ebpfPython, "::ffff:198.51.100.1", "465"), "198.51.100.2", "198.51.100.1:465", 0, policy.OutcomeEstablished},
		{"python from a port of its choice", ebpfPythonTo(ebpfBound, "198.51.100.1", "587"), "198.51.100.2", "198.51.100.1:587", 40025, policy.OutcomeEstablished},
		{"php", []string{"/usr/bin/php", "-r", `fsockopen("198.51.100.1", 587);`}, "198.51.100.2", "198.51.100.1:587", 0, policy.OutcomeEstablished},
		{"curl", []string{"/usr/bin/curl", "-s", "-m", "1", "smtp://198.51.100.1:25"}, "198.51.100.2", "198.51.100.1:25", 0, policy.OutcomeEstablished},
		{"a port that is not watched first", ebpfPerlTo("198.51.100.1", "80", "198.51.100.1", "25"), "198.51.100.2", "198.51.100.1:25", 0, policy.OutcomeEstablished},
		{"refused on loopback", ebpfPerlTo("127.0.0.1", "24"), "127.0.0.1", "127.0.0.1:24", 0, policy.OutcomeRefused},
		{"refused on IPv6 loopback", ebpfPerlTo("::1", "24"), "::1", "[::1]:24", 0, policy.OutcomeRefused},
		{"refused by another host", ebpfPerlTo("198.51.100.1", "24"), "198.51.100.2", "198.51.100.1:24", 0, policy.OutcomeRefused},
		{"refused by another host over IPv6", ebpfPerlTo("2001:db8::1", "24"), "2001:db8::2", "[2001:db8::1]:24", 0, policy.OutcomeRefused},
		{"refused by the other host's firewall", ebpfPerlTo("198.51.100.1", "2525"), "198.51.100.2", "198.51.100.1:2525", 0, policy.OutcomeRefused},
		{"refused by the own firewall with ICMP", ebpfPerlTo("198.51.100.66", "25"), "198.51.100.2", "198.51.100.66:25", 0, policy.OutcomeRefused},
		{"refused by the own firewall with a reset", ebpfPerlTo("198.51.100.67", "25"), "198.51.100.2", "198.51.100.67:25", 0, policy.OutcomeRefused},
		{"no answer until the program gives up", ebpfPythonTo(ebpfBrief, "198.51.100.68", "25"), "198.51.100.2", "198.51.100.68:25", 0, policy.OutcomeUnanswered},
		{"no answer until the kernel gives up", ebpfPerlTo("198.51.100.69", "25"), "198.51.100.2", "198.51.100.69:25", 0, policy.OutcomeUnanswered},
		{"no answer waited for", ebpfPythonTo(ebpfGone, "198.51.100.68", "25"), "198.51.100.2", "198.51.100.68:25", 0, policy.OutcomeUnanswered},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			before := ebpfBoot()
			pid, out := client.connect(row.program...)
			got := w.wait(2, pid)
			after := ebpfBoot()
			if len(got) != 2 {
				t.Fatalf("told %d times, want twice: %+v", len(got), got)
			}
			begun, became := got[0], got[1]
			local := netip.MustParseAddr(row.local)
			want := Seen{At: begun.At, Local: netip.AddrPortFrom(local, row.localPort), Remote: netip.MustParseAddrPort(row.remote),
				UID: ebpfUID, UIDKnown: true, PID: int32(pid), Socket: begun.Socket}
			if begun != want {
				t.Errorf("it began as %+v, want %+v\n%s", begun, want, out)
			}
			want = Seen{At: became.At, Local: netip.AddrPortFrom(local, became.Local.Port()), Remote: want.Remote, Socket: want.Socket, Outcome: row.outcome}
			if became != want {
				t.Errorf("it became %+v, want %+v", became, want)
			}
			if row.outcome == policy.OutcomeEstablished && became.Local.Port() == 0 {
				t.Error("established without a port at this end")
			}
			if begun.At < before || became.At < begun.At || after < became.At {
				t.Errorf("times %d and %d, want them in order between %d and %d", begun.At, became.At, before, after)
			}
		})
	}
	if n := w.Lost(); n != 0 {
		t.Errorf("Lost = %d, want 0", n)
	}
}

func TestEBPFTellsOfOneConnectionOnceThoughBothEndsAreHere(t *testing.T) {
	client, server := twoEBPFHosts(t)
	w := watchEBPF(t)
	pid, _ := server.connect(ebpfPerlTo("198.51.100.2", "25")...)
	w.wait(2, pid)
	last, _ := client.connect(ebpfPerlTo("198.51.100.1", "25")...) // what is told of it comes after all of the first
	w.wait(2, last)
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.all {
		if s.Local.Port() == 25 && s.Local.Addr() == netip.MustParseAddr("198.51.100.2") {
			t.Errorf("the end that was called is told: %+v", s)
		}
	}
}

func TestEBPFWatchesPortsThatAreAddedUntilTheyAreRemoved(t *testing.T) {
	client, _ := twoEBPFHosts(t)
	w := watchEBPF(t, 25)
	step := func(port string, want int) {
		t.Helper()
		pid, _ := client.connect(ebpfPerlTo("198.51.100.1", port, "198.51.100.1", "25")...)
		got := w.wait(want, pid)
		if len(got) != want {
			t.Errorf("port %s: told %d times, want %d: %+v", port, len(got), want, got)
		}
	}
	step("80", 2)
	if err := w.AddPort(80); err != nil {
		t.Fatal(err)
	}
	step("80", 4)
	for range 2 {
		if err := w.RemovePort(80); err != nil {
			t.Fatal(err)
		}
	}
	step("80", 2)
	if err := w.AddPort(0); err == nil {
		t.Error("AddPort(0) succeeds")
	}
	for port := uint16(1000); port < 1000+maxWatched-1; port++ {
		if err := w.AddPort(port); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.AddPort(80); err == nil {
		t.Errorf("more than %d ports can be watched", maxWatched)
	} else if want := fmt.Sprintf("at most %d", maxWatched); !saysEBPF(err, want) {
		t.Errorf("too many ports: %v, want it to say %q", err, want)
	}
}
