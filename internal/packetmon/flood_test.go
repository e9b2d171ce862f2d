package packetmon

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"osm/internal/origin"
)

// idle is a monitor that is not run: the test calls its parts.
func idle(t *testing.T, o Options) *Monitor {
	t.Helper()
	o.Boot, o.Clock, o.Log = sinceBoot, origin.Clock(), slog.New(slog.DiscardHandler)
	m, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.diag.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func TestAFloodIsCountedInFullAndBounded(t *testing.T) {
	const flood = 50_000
	m := idle(t, Options{Ports: []uint16{25}})
	w := &watcher{m: m, name: SourceEBPF}
	to := netip.MustParseAddrPort("192.0.2.1:25")
	for i := range flood {
		w.see(&Seen{At: sinceBoot(), Remote: to, UID: uint32(i), UIDKnown: true, PID: 1 << 22, Socket: uint64(i)})
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); newWorker(m).run(ctx) }()
	until(t, m, "all of the flood", func(n Counts) bool { return n.Records == flood })
	n := m.Status().Counts
	if n.Seen != flood || n.ProcessSkipped < flood-maxEvents || n.UIDUnknown != 0 || n.Dropped != flood-maxWaiting {
		t.Errorf("got %+v", n)
	}
	cancel()
	<-done
	if got := next(t, m).Connection; !got.UIDKnown || !strings.Contains(got.Basis, "uid ") {
		t.Errorf("got %+v", got)
	}
}

func TestWhatIsHeldAndRememberedIsBounded(t *testing.T) {
	m := idle(t, Options{Ports: []uint16{25}})
	k := newWorker(m)
	now := sinceBoot()
	for i := range 3 * maxHeld {
		seen := Seen{At: now + int64(time.Hour), Socket: uint64(i), UID: uint32(i), UIDKnown: true}
		k.hand(&sighting{source: SourceEBPF, seen: seen}, origin.Chain{}, "")
		k.user(uint32(i))
		k.outcome(&Seen{Socket: uint64(i) + 1<<40, At: now})
	}
	if len(k.held) != maxHeld || len(k.order) != maxHeld || len(k.early) > maxEarly || len(k.users) > maxUsers {
		t.Errorf("held %d and %d, early %d, users %d", len(k.held), len(k.order), len(k.early), len(k.users))
	}
	if n := m.Status().Counts; n.Unheld != 2*maxHeld || n.Records != 2*maxHeld {
		t.Errorf("got %+v", n)
	}
	k.finish()
	if n := m.Status().Counts; n.Records != 3*maxHeld || len(k.held) != 0 {
		t.Errorf("at the end: got %+v", n)
	}
}

func TestManyConnectionsFindTheirProcessesInOnePass(t *testing.T) {
	const connections = 100
	to := sink(t, bobUID, "/usr/bin/perl")
	dir := publicDir(t)
	c := start(t, aliceUID, dir, "/usr/bin/perl", "-e", `use Socket qw(:all); $|=1; my ($port,$n)=@ARGV; my @s;
for (1..$n) { socket(my $s, PF_INET, SOCK_STREAM, 0) or die; connect($s, pack_sockaddr_in($port, inet_aton("127.0.0.1"))) or die $!; push @s, $s; }
print join(" ", map { (unpack_sockaddr_in(getsockname($_)))[0] } @s), "\n"; <STDIN>;`, strconv.Itoa(int(to.Port())), strconv.Itoa(connections))
	f := newFed(SourcePacket)
	m := monitored(t, Options{Ports: []uint16{to.Port()}, Openers: []Opener{f.opener()}})
	for i, word := range strings.Fields(c.line(t)) {
		f.in <- Seen{At: sinceBoot(), Local: netip.MustParseAddrPort("127.0.0.1:" + word), Remote: to, Socket: uint64(i)}
	}
	for range connections {
		if got := next(t, m).Connection; got.UID != aliceUID || len(got.Chain) == 0 || int(got.Chain[0].PID) != c.cmd.Process.Pid || got.Chain[0].WorkingDirectory != dir {
			t.Fatalf("got %+v", got)
		}
	}
}

func TestAProcessThatEndedLeavesItsUserToBeCounted(t *testing.T) {
	to := sink(t, bobUID, "/usr/bin/perl")
	m := idle(t, Options{Ports: []uint16{to.Port()}})
	w := &watcher{m: m, name: SourcePacket}
	for i := range 2 {
		c := connect(t, aliceUID, "/", to)
		s := c.syn(to)
		s.Socket = uint64(i)
		w.see(&s)
		if i == 1 {
			c.end() // before its process is looked for
		}
		k := newWorker(m)
		k.users[aliceUID] = &user{last: "process 812, /usr/bin/perl in /home/alice"}
		k.work(context.Background(), k.batch(<-m.events))
	}
	if got := next(t, m).Connection; got.UID != aliceUID || len(got.Chain) == 0 {
		t.Errorf("while it lives: got %+v", got)
	}
	got := next(t, m).Connection
	if want := "its process was gone; from an earlier connection of this uid: process 812, /usr/bin/perl in /home/alice"; got.UID != aliceUID || len(got.Chain) != 0 || !strings.HasSuffix(got.Basis, want) {
		t.Errorf("after its end: got %+v, want a basis that ends in %q", got, want)
	}
}

func TestWhereThereIsTooMuchToDoAUserIsEnough(t *testing.T) {
	m := idle(t, Options{Ports: []uint16{25}})
	k := newWorker(m)
	e := func() *sighting {
		return &sighting{source: SourcePacket, seen: Seen{UID: aliceUID, UIDKnown: true, Inode: 1, At: sinceBoot()}}
	}
	if k.spared(e()) {
		t.Error("a user of whom nothing is known was passed over")
	}
	k.user(aliceUID).found = sinceBoot()
	if k.spared(e()) {
		t.Error("passed over though there is little to do")
	}
	for range manyEvents {
		m.events <- *e()
	}
	if !k.spared(e()) || k.spared(&sighting{seen: Seen{UID: bobUID, UIDKnown: true}}) {
		t.Error("a long queue: want the user passed over who was found just now, and no other")
	}
	k.user(aliceUID).found = 0
	if k.spared(e()) {
		t.Error("passed over though it is long since")
	}
	now := sinceBoot()
	m.opt.Boot = func() int64 { return now }
	k.user(aliceUID).spend(now-int64(userTime), now)
	if k.spared(e()) {
		t.Error("passed over though he took no more than his share")
	}
	k.user(aliceUID).spend(now-1, now)
	if !k.spared(e()) {
		t.Error("a user whose processes are slow to look at was not passed over")
	}
	now += int64(time.Second)
	if k.spared(e()) {
		t.Error("passed over in the next second")
	}
	if n := m.Status().Counts; n.ProcessSkipped != 2 || n.Records != 2 {
		t.Errorf("got %+v", n)
	}
}

func TestTheLevelFollowsTheLastHour(t *testing.T) {
	m := idle(t, Options{Ports: []uint16{25}})
	m.active = newFed(SourcePacket)
	level := func(want Level, say string) {
		t.Helper()
		if s := m.Status(); s.Level != want || say != "" && !strings.Contains(fmt.Sprint(s.Problems), say) {
			t.Errorf("got %v, %q; want %v, %q", s.Level, s.Problems, want, say)
		}
	}
	now := m.minute()
	for range 99 {
		m.hour.looked(now, true)
	}
	m.hour.looked(now, false)
	level(LevelOK, "")
	m.hour.looked(now, false)
	level(LevelOK, "") // 2 of 101
	m.hour.looked(now, false)
	level(LevelDegraded, "the user of 3 of 102 connections")
	if s := m.hour.sum(now + 60); s.looked != 0 {
		t.Errorf("an hour later: got %+v", s)
	}
	m.hour = &lastHour{}
	m.active.(*fed).lost.Store(4)
	level(LevelDegraded, "the kernel dropped 4 connections")
	m.hour = &lastHour{lost: 4}
	level(LevelOK, "")
	m.rights = []string{problemDescriptors}
	level(LevelDegraded, "CAP_DAC_READ_SEARCH")
	m.rights = nil
	m.hidden.Store(true)
	level(LevelDegraded, "CAP_SYS_PTRACE")
	m.hidden.Store(false)
	m.asked(fmt.Errorf("netlink is not to be had"))
	level(LevelDegraded, "netlink is not to be had")
	m.asked(origin.ErrNotFound)
	m.stuckAt.Store(sinceBoot())
	level(LevelDegraded, "arguments of processes cannot be read")
	m.stuckAt.Store(0)
	level(LevelOK, "")
	if got := m.Status().Unseen; len(got) == 0 {
		t.Error("what a packet source cannot see is not told")
	}
}

func TestOwnAddressesAreKeptFresh(t *testing.T) {
	now := int64(time.Hour)
	o := &ownAddresses{boot: func() int64 { return now }}
	other := netip.MustParseAddr("192.0.2.77")
	for _, a := range []string{"127.0.0.1", "127.5.5.5", "::1"} {
		if !o.has(netip.MustParseAddr(a)) {
			t.Errorf("%s is no address of this host", a)
		}
	}
	if o.has(other) {
		t.Error("192.0.2.77 is an address of this host")
	}
	o.set[other] = true // as if it had been there at the last look
	if !o.has(other) {
		t.Error("the list was read again at once")
	}
	now += int64(addressesFresh) + 1
	if o.has(other) {
		t.Error("an address that was taken away is believed for ever")
	}
	if o.problem() != "" {
		t.Errorf("got %q", o.problem())
	}
}

// A container's uid is somebody else's here, however much there is to do.
func TestInAFloodNobodyIsBlamedForAContainer(t *testing.T) {
	m, err := New(Options{Ports: []uint16{25}, Source: SourceOff, Boot: sinceBoot, Clock: origin.Clock(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	k := newWorker(m)
	k.user(aliceUID).found = sinceBoot()
	k.left = manyEvents
	w := &watcher{m: m, name: SourceEBPF}
	for i, tt := range []struct {
		name, local string
		known       bool
	}{
		{"an address that is not ours", "192.0.2.77", false},
		{"one that is", "127.0.0.1", true},
	} {
		s := Seen{At: sinceBoot(), Local: netip.AddrPortFrom(netip.MustParseAddr(tt.local), 0), Remote: netip.MustParseAddrPort("198.51.100.2:25"),
			Socket: uint64(i), UID: aliceUID, UIDKnown: true, PID: 1}
		e := sighting{source: SourceEBPF, seen: s}
		if !k.spared(&e) {
			t.Fatal("it was looked at")
		}
		k.finish()
		if got := next(t, m).Connection; got.UIDKnown != tt.known {
			t.Errorf("%s: got %+v", tt.name, got)
		}
		for len(m.events) < cap(m.events) {
			m.events <- sighting{follows: true}
		}
		w.see(&s)
		if got := next(t, m).Connection; got.UIDKnown != tt.known {
			t.Errorf("%s, where the queue is full: got %+v", tt.name, got)
		}
		for len(m.events) > 0 {
			<-m.events
		}
		k.user(aliceUID).found = sinceBoot()
	}
}
