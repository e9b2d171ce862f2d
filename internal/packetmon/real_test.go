package packetmon

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"osm/policy"
)

// mountTracefs gives this run of the test the folder that ebpf needs, where there is none.
func mountTracefs(t *testing.T) {
	t.Helper()
	const at = "/sys/kernel/tracing"
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Logf("mounts of our own: %v", err)
		return
	}
	if _, err := os.Stat(at + "/events"); err == nil {
		return
	}
	if err := unix.Mount("tracefs", at, "tracefs", 0, ""); err != nil {
		t.Logf("mount tracefs: %v", err)
	}
}

// TestTheRealSourcesEndToEnd has users connect in a network of our own.
func TestTheRealSourcesEndToEnd(t *testing.T) {
	if !inNetwork(t) {
		return
	}
	ownNetwork(t)
	mountTracefs(t)
	mta, err := net.Listen("tcp4", "0.0.0.0:0") // root's
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = mta.Close() }()
	port := uint16(mta.Addr().(*net.TCPAddr).Port)
	command(t, fmt.Sprintf("nft add rule ip osmtest out ip daddr 192.0.2.1 tcp dport %d redirect to :%d", port, port))
	other := sink(t, bobUID, "/usr/bin/perl")
	ports := []uint16{port, other.Port()}
	openers := Openers(SourceOptions{Ports: ports, Boot: sinceBoot})
	for _, o := range openers {
		t.Run(o.Name, func(t *testing.T) {
			s, err := o.Open()
			if err != nil {
				t.Skipf("SKIPPED: %v", err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			m := monitored(t, Options{Ports: ports, Source: o.Name, Openers: openers, Exim: "/usr/sbin/exim4",
				Excluded: func(uid uint32) bool { return uid == bobUID+1 }})
			waitStatus(t, m, func(s Status) bool { return strings.HasPrefix(s.SelfTest, "ok") })
			own := netip.AddrFrom4([4]byte{127, 0, 0, 1})
			keep := []client{ // all live until the end of the test
				connect(t, aliceUID, "/", netip.AddrPortFrom(own, port)),
				connect(t, aliceUID, "/", netip.MustParseAddrPort("10.9.9.1:"+strconv.Itoa(int(port)))),
				connect(t, aliceUID, "/", netip.MustParseAddrPort("192.0.2.1:"+strconv.Itoa(int(port)))),
				connect(t, bobUID+1, "/", other),
			}
			dir := publicDir(t)
			c := connect(t, aliceUID, dir, other)
			got := next(t, m).Connection
			if got.UID != aliceUID || !got.UIDKnown || got.Seen != o.Name || got.Remote != other || len(got.Chain) < 2 ||
				got.Chain[0].PID != c.pid || got.Chain[0].WorkingDirectory != dir {
				t.Errorf("got %+v", got)
			}
			if o.Name == SourceEBPF && (got.Outcome != policy.OutcomeEstablished || got.Local.Port() != c.local.Port()) {
				t.Errorf("outcome: got %+v", got)
			}
			until(t, m, "all of them", func(n Counts) bool { return n.Seen == uint64(len(keep)+1) && n.Excluded == 1 && n.Records == 1 })
			until(t, m, "all that is no bypass", func(n Counts) bool { return n.ToMTA == 2 && n.Redirected == 1 })
			if n := m.Status().Counts; n.UIDUnknown+n.ProcessUnknown+n.Lost+n.Repeats != 0 {
				t.Errorf("got %+v", n)
			}
			nothingMore(t, m)
			for _, c := range append(keep, c) {
				c.end()
			}
		})
	}
}

func TestWithoutAnyRightTheSourcePollIsLeftAndSaysWhatIsLost(t *testing.T) {
	if !asAlice(t) {
		return
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	to := l.Addr().(*net.TCPAddr).AddrPort()
	ports := []uint16{to.Port()}
	m := monitored(t, Options{Ports: ports, Openers: Openers(SourceOptions{Ports: ports, Boot: sinceBoot})})
	waitStatus(t, m, func(s Status) bool { return s.Source == SourcePoll && strings.HasPrefix(s.SelfTest, "ok") })
	s := m.Status()
	said := fmt.Sprint(s.Problems)
	if s.Level != LevelDegraded || len(s.Better) != 2 || !strings.Contains(said, "CAP_SYS_PTRACE") || !strings.Contains(said, "longer than the interval") {
		t.Errorf("got %+v", s)
	}
	c, err := net.Dial("tcp4", to.String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if got := next(t, m).Connection; got.UID != aliceUID || !got.UIDKnown || len(got.Chain) == 0 || int(got.Chain[0].PID) != os.Getpid() {
		t.Errorf("got %+v", got)
	}
}
