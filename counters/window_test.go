package counters

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

const (
	second = int64(1000)
	minute = 60 * second
	hour   = 60 * minute
	day    = 24 * hour
)

// sent is one admitted message of the exact log that the counters are compared with.
type sent struct {
	at int64
	n  int64
}

// within returns what an exact log holds at now of the last length milliseconds, both ends included.
func within(log []sent, now, length int64) (n int64) {
	for i := len(log) - 1; i >= 0 && now-log[i].at <= length; i-- {
		n += log[i].n
	}
	return n
}

// ask1 asks a single binding counter.
func ask1(t *Table, now int64, a Ask) (bool, Result) {
	var res [1]Result
	ok, _ := t.Admit(now, []Ask{a}, res[:])
	return ok, res[0]
}

func TestNoTruePeriodEverHoldsMoreThanMaxAndNobodyWaitsLongerThanASubWindow(t *testing.T) {
	for _, period := range []int64{1, 7, 239, second, 61 * second, hour, day, 31 * day} {
		for seed := range uint64(12) {
			t.Run(fmt.Sprintf("period %d ms, pattern %d", period, seed), func(t *testing.T) {
				againstExactLog(t, period, rand.New(rand.NewPCG(seed, uint64(period))))
			})
		}
	}
}

func againstExactLog(t *testing.T, period int64, r *rand.Rand) {
	table := New(Options{Shards: 1})
	limit := 1 + r.Int64N(60)
	scale := 1 + r.Int64N(max(1, period/20))
	now := r.Int64N(1<<40) - 1<<39
	var log []sent
	for range 1500 {
		switch r.IntN(40) {
		case 0: // silence
			now += r.Int64N(2*period + 1)
		case 1: // to the edge of a sub-window or of the period
			now = startOf(subOf(now, uint32(period))+1+r.Int64N(242), uint32(period)) - r.Int64N(2)
		case 2, 3, 4: // burst
		default:
			now += r.Int64N(scale)
		}
		if len(log) > 0 {
			now = max(now, log[len(log)-1].at)
		}
		a := Ask{Group: "shop", Period: period, Units: uint32(1 + r.IntN(4)), Max: limit}
		ok, res := ask1(table, now, a)
		units := int64(a.Units)
		if ok {
			if n := within(log, now, period); n+units > limit {
				t.Fatalf("at %d: %d units pass, though %d were sent in the period and max is %d", now, units, n, limit)
			}
			log = append(log, sent{now, units})
			continue
		}
		slack := (period+subs-1)/subs + 1
		if n := within(log, now, period+slack); n+units <= limit {
			t.Fatalf("at %d: %d units refused, though only %d were sent in %d ms and max is %d", now, units, n, period+slack, limit)
		}
		checkFreeAt(t, table, now, a, res)
	}
}

func checkFreeAt(t *testing.T, table *Table, now int64, a Ask, res Result) {
	t.Helper()
	if int64(a.Units) > a.Max {
		if res.FreeAt != -1 {
			t.Fatalf("%d units of max %d: FreeAt %d, want -1", a.Units, a.Max, res.FreeAt)
		}
		return
	}
	var later [1]Result
	if ok := table.Peek(res.FreeAt, []Ask{a}, later[:]); !ok || res.FreeAt <= now {
		t.Fatalf("refused at %d, FreeAt %d: passes then: %t %+v", now, res.FreeAt, ok, later[0])
	}
	if table.Peek(res.FreeAt-1, []Ask{a}, later[:]) {
		t.Fatalf("refused at %d, FreeAt %d, but it passes one millisecond earlier", now, res.FreeAt)
	}
	if got := table.FreeAt(now, a); got != res.FreeAt {
		t.Fatalf("FreeAt method %d, result %d", got, res.FreeAt)
	}
}

func TestASenderIsFreeAtTheMomentTold(t *testing.T) {
	table := New(Options{})
	a := Ask{Group: "shop", Period: hour, Units: 1, Max: 3}
	for i := range int64(3) {
		if ok, _ := ask1(table, i*10*minute, a); !ok {
			t.Fatalf("message %d refused", i)
		}
	}
	_, res := ask1(table, 30*minute, a)
	if want := hour + hour/subs; res.FreeAt != want {
		t.Fatalf("FreeAt %d, want %d: a period and a sub-window after the first message", res.FreeAt, want)
	}
	a.Units = 3
	if _, res = ask1(table, 30*minute, a); res.FreeAt != 20*minute+hour+hour/subs {
		t.Fatalf("three units are free at %d, want a period and a sub-window after the third message", res.FreeAt)
	}
	if ok, _ := ask1(table, res.FreeAt-1, a); ok {
		t.Fatal("passes before FreeAt")
	}
	if ok, _ := ask1(table, res.FreeAt, a); !ok {
		t.Fatal("does not pass at FreeAt")
	}
}

func TestSumsBeyond32BitsAreKept(t *testing.T) {
	table := New(Options{})
	a := Ask{Group: "shop", Period: hour, Units: math.MaxUint32, Max: 1 << 40}
	var log []sent
	for i := range int64(400) {
		now := i * 2 * second
		ok, res := ask1(table, now, a)
		if n := within(log, now, hour); res.Used != n || ok != (n+math.MaxUint32 <= a.Max) {
			t.Fatalf("message %d: used %d, passes %t; want %d", i, res.Used, ok, n)
		}
		if ok {
			log = append(log, sent{now, math.MaxUint32})
		}
	}
}

func TestAFullRingNeverForgetsEarly(t *testing.T) {
	d := newSlabs(New(Options{}).seed, 1)
	k := key{period: 1000}
	for i := range uint32(400) { // far more entries than a period has sub-windows
		d.add(&k, i/2, math.MaxUint32)
	}
	if k.ringLen != maxEntries || d.used(&k, 199) != k.sum {
		t.Fatalf("%d entries, %d used of %d", k.ringLen, d.used(&k, 199), k.sum)
	}
	var total int64
	d.entries(&k, func(e entry) bool { total += int64(e.n); return true })
	if total != k.sum {
		t.Fatalf("entries hold %d, the sum says %d", total, k.sum)
	}
	d.insert(&k, 100, 5)
	d.insert(&k, 0, 7)
	d.drop(&k, 199+subs)
	if k.sum != 2*math.MaxUint32 {
		t.Fatalf("%d units of the newest sub-window are left, want %d", k.sum, int64(2*math.MaxUint32))
	}
	if d.drop(&k, 200+subs); k.sum != 0 {
		t.Fatalf("%d units are left after all has run out", k.sum)
	}
}

func TestLateEntriesFindTheirPlace(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		d := newSlabs(New(Options{Shards: 1}).seed, 1)
		k := key{period: 1000}
		at := map[uint32]int64{}
		newest := uint32(0)
		base := r.Uint32() // wraps in some of the rounds
		for range 300 {
			sub := r.Uint32N(400)
			d.insert(&k, base+sub, 2)
			newest = max(newest, sub)
			at[sub] += 2
		}
		for cur := newest; cur < newest+subs+3; cur++ {
			var want int64
			for sub, n := range at {
				if cur-sub <= subs {
					want += n
				}
			}
			if got := d.used(&k, base+cur); got != want {
				t.Fatalf("at %d of %d: used %d, want %d", cur, newest, got, want)
			}
		}
	}
}

func TestCountersSurviveTheWrapOfSubWindowNumbers(t *testing.T) {
	table := New(Options{})
	a := Ask{Group: "shop", Period: second, Units: 1, Max: 2}
	wrap := startOf(1<<32, 1000) // 207 days
	for i, want := range []bool{true, true, false} {
		if ok, _ := ask1(table, wrap-10+int64(i)*10, a); ok != want {
			t.Fatalf("message %d passes %t, want %t", i, ok, want)
		}
	}
	if ok, _ := ask1(table, wrap+second, a); !ok {
		t.Fatal("a second after the wrap the first message has not run out")
	}
}

func TestSubWindowsOfTimesBeforeZero(t *testing.T) {
	for _, period := range []uint32{1, 239, 240, 1000, 3600_000, math.MaxUint32} {
		for now := int64(-3000); now < 3000; now++ {
			sub := subOf(now, period)
			if startOf(sub, period) > now || startOf(sub+1, period) <= now {
				t.Fatalf("period %d: %d is in sub-window %d, which is [%d, %d)", period, now, sub,
					startOf(sub, period), startOf(sub+1, period))
			}
		}
	}
}

func TestACallerWithAnOlderTimeIsCounted(t *testing.T) {
	table := New(Options{})
	a := Ask{Group: "shop", Period: hour, Units: 1, Max: 2}
	for i, want := range []bool{true, true, false} {
		if ok, _ := ask1(table, hour-int64(i)*20*second, a); ok != want {
			t.Fatalf("message %d passes %t, want %t", i, ok, want)
		}
	}
}
