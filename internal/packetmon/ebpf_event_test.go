package packetmon

import (
	"cmp"
	"encoding/binary"
	"math"
	"net/netip"
	"slices"
	"testing"
	"time"

	"osm/policy"
)

// ebpfEvent is an event as the program writes it.
func ebpfEvent(what what, start, at time.Duration, local, remote string) []byte {
	b := make([]byte, eventSize)
	order := binary.NativeEndian
	order.PutUint64(b[eventAt:], uint64(at))
	order.PutUint64(b[eventStart:], uint64(start))
	order.PutUint64(b[eventSocket:], 0xffff8881_2345_6780)
	order.PutUint32(b[eventUID:], 20001)
	order.PutUint32(b[eventPID:], 4711)
	order.PutUint16(b[eventWhat:], uint16(what))
	for at, text := range map[int]string{eventLocal: local, eventRemote: remote} {
		a := netip.MustParseAddrPort(text)
		bytes := a.Addr().As16()
		copy(b[at:], bytes[:])
		order.PutUint16(b[map[int]int{eventLocal: eventLocalPort, eventRemote: eventRemotePort}[at]:], a.Port())
	}
	return b
}

func TestEBPFReadsEvents(t *testing.T) {
	const start = 5 * time.Second
	for _, row := range []struct {
		name          string
		what          what
		after         time.Duration
		local, remote string
		want          Seen
	}{
		{"a process begins", whatBegins, 0, "[::ffff:192.0.2.1]:0", "[::ffff:192.0.2.2]:25",
			Seen{Local: netip.MustParseAddrPort("192.0.2.1:0"), Remote: netip.MustParseAddrPort("192.0.2.2:25"), UID: 20001, UIDKnown: true, PID: 4711}},
		{"the kernel has no address for this end yet", whatBegins, 0, "[::]:0", "[2001:db8::2]:587",
			Seen{Remote: netip.MustParseAddrPort("[2001:db8::2]:587"), UID: 20001, UIDKnown: true, PID: 4711}},
		{"it is answered", whatEstablished, time.Millisecond, "[2001:db8::1]:40001", "[2001:db8::2]:465",
			Seen{Local: netip.MustParseAddrPort("[2001:db8::1]:40001"), Remote: netip.MustParseAddrPort("[2001:db8::2]:465"), Outcome: policy.OutcomeEstablished}},
		{"it is refused, however late", whatReset, time.Minute, "[2001:db8::1]:40001", "[2001:db8::2]:465",
			Seen{Local: netip.MustParseAddrPort("[2001:db8::1]:40001"), Remote: netip.MustParseAddrPort("[2001:db8::2]:465"), Outcome: policy.OutcomeRefused}},
		{"it ends sooner than by silence", whatEnded, time.Second, "[2001:db8::1]:40001", "[2001:db8::2]:465",
			Seen{Local: netip.MustParseAddrPort("[2001:db8::1]:40001"), Remote: netip.MustParseAddrPort("[2001:db8::2]:465"), Outcome: policy.OutcomeRefused}},
		{"it ends by silence", whatEnded, 2 * time.Second, "[2001:db8::1]:40001", "[2001:db8::2]:465",
			Seen{Local: netip.MustParseAddrPort("[2001:db8::1]:40001"), Remote: netip.MustParseAddrPort("[2001:db8::2]:465"), Outcome: policy.OutcomeUnanswered}},
		{"the process does not wait", whatLeft, time.Millisecond, "[2001:db8::1]:40001", "[2001:db8::2]:465",
			Seen{Local: netip.MustParseAddrPort("[2001:db8::1]:40001"), Remote: netip.MustParseAddrPort("[2001:db8::2]:465"), Outcome: policy.OutcomeUnanswered}},
	} {
		t.Run(row.name, func(t *testing.T) {
			e, ok := parseEvent(append(ebpfEvent(row.what, start, start+row.after, row.local, row.remote), 1, 2, 3, 4))
			if !ok {
				t.Fatal("not read")
			}
			got := *e.seen(int64(time.Hour), &[16]byte{1})
			row.want.At = int64(start + row.after + time.Hour)
			row.want.Socket = e.number(&[16]byte{1})
			if got != row.want {
				t.Errorf("got %+v\nwant %+v", got, row.want)
			}
		})
	}
}

func TestEBPFDropsEventsThatMakeNoSense(t *testing.T) {
	good := ebpfEvent(whatBegins, 5, 5, "[2001:db8::1]:0", "[2001:db8::2]:25")
	for name, raw := range map[string][]byte{
		"none":              nil,
		"too short":         good[:eventSize-1],
		"too long":          append(good[:eventSize:eventSize], make([]byte, 8)...),
		"an unknown kind":   ebpfEvent(whats, 5, 5, "[2001:db8::1]:0", "[2001:db8::2]:25"),
		"to no address":     ebpfEvent(whatBegins, 5, 5, "[2001:db8::1]:0", "[::]:25"),
		"to no IPv4 one":    ebpfEvent(whatBegins, 5, 5, "[2001:db8::1]:0", "[::ffff:0.0.0.0]:25"),
		"to no port":        ebpfEvent(whatBegins, 5, 5, "[2001:db8::1]:0", "[2001:db8::2]:0"),
		"before it began":   ebpfEvent(whatReset, 5, 4, "[2001:db8::1]:0", "[2001:db8::2]:25"),
		"before the kernel": ebpfEvent(whatBegins, -5, -5, "[2001:db8::1]:0", "[2001:db8::2]:25"),
	} {
		if e, ok := parseEvent(raw); ok {
			t.Errorf("%s: read as %+v", name, e)
		}
	}
}

func TestEBPFHoldsBackWhatMayLackItsBeginning(t *testing.T) {
	at := func(times ...int64) (events []event) {
		for _, at := range times {
			events = append(events, event{at: at})
		}
		return events
	}
	for _, row := range []struct {
		name   string
		events []event
		until  int64
		want   int
	}{
		{"none", nil, 5, 0},
		{"all of the past, of two rings", at(4, 5, 1, 2), 5, 4},
		{"some later", at(4, 7, 6, 5), 5, 2},
		{"all later", at(8, 7), 5, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			n := settled(row.events, row.until)
			if n != row.want || !slices.IsSortedFunc(row.events, func(a, b event) int { return cmp.Compare(a.at, b.at) }) {
				t.Errorf("%d of %+v, want %d, in order", n, row.events, row.want)
			}
		})
	}
}

func TestEBPFTimesGoOnWhileTheMachineSleepsAndNotWhileTheProcessWaits(t *testing.T) {
	var slept, waits time.Duration
	e := &EBPF{boot: func() int64 {
		for start := monotonicNow(); monotonicNow()-start < int64(waits); {
		}
		now := monotonicNow() + int64(slept)
		for start := monotonicNow(); monotonicNow()-start < int64(waits); {
		}
		return now
	}}
	e.lookAsleep()
	if e.asleep != 0 {
		t.Errorf("a machine that never slept: %v", time.Duration(e.asleep))
	}
	slept = time.Hour
	e.lookAsleep()
	hour := time.Duration(e.asleep)
	if off := time.Hour - hour; off < 0 || off > time.Second {
		t.Errorf("after an hour's sleep: %v", hour)
	}
	waits = 5 * time.Millisecond
	for range 3 {
		if e.lookAsleep(); e.asleep < int64(hour) || e.asleep > int64(slept) {
			t.Errorf("after waiting for the CPU: %v, want %v to %v", time.Duration(e.asleep), hour, slept)
		}
	}
}

func TestEBPFNumbersTellConnectionsApartAndNoAddressOfTheKernel(t *testing.T) {
	e := event{socket: 0xffff8881_2345_6780, start: 5}
	later, other := e, e
	later.start++
	other.socket += 64
	ended := e
	ended.at, ended.what = 9, whatReset
	mine, theirs := [16]byte{1}, [16]byte{2}
	if e.number(&mine) != ended.number(&mine) {
		t.Error("the outcome has another number than the connection")
	}
	for what, n := range map[string]uint64{"a later connection of the same memory": later.number(&mine), "another socket": other.number(&mine), "another process of ours": e.number(&theirs), "the kernel's address": e.socket} {
		if n == e.number(&mine) {
			t.Errorf("%s has the same number", what)
		}
	}
}

// FuzzEBPFEvent: what is told has a destination, unmapped addresses, a user only where it
// begins, and no address of the kernel.
func FuzzEBPFEvent(f *testing.F) {
	f.Add(ebpfEvent(whatBegins, 5, 5, "[::]:0", "[::ffff:192.0.2.2]:25"))
	f.Add(ebpfEvent(whatReset, 5, 9, "[2001:db8::1]:40001", "[2001:db8::2]:25"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		e, ok := parseEvent(raw)
		if !ok {
			return
		}
		s := e.seen(math.MaxInt64-e.at, &[16]byte{7})
		switch {
		case !s.Remote.IsValid(), s.Remote.Port() == 0, s.Remote.Addr().IsUnspecified(), s.Remote.Addr().Is4In6():
			t.Errorf("destination %v", s.Remote)
		case s.Local.Addr().IsUnspecified(), s.Local.Addr().Is4In6():
			t.Errorf("this end %v", s.Local)
		case s.UIDKnown != (s.Outcome == policy.OutcomeUnknown), !s.UIDKnown && (s.UID != 0 || s.PID != 0):
			t.Errorf("user and process of %+v", s)
		case s.Outcome > policy.OutcomeUnanswered, s.Socket == e.socket, s.At < e.at:
			t.Errorf("told %+v", s)
		}
	})
}

func BenchmarkEBPFEvent(b *testing.B) {
	raw := ebpfEvent(whatBegins, 5, 5, "[::ffff:192.0.2.1]:0", "[::ffff:192.0.2.2]:25")
	secret := [16]byte{7}
	b.ReportAllocs()
	for b.Loop() {
		e, ok := parseEvent(raw)
		if !ok || e.seen(0, &secret).PID != 4711 {
			b.Fatal("not read")
		}
	}
}
