package counters

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
)

func usage(t *Table, now int64, group string) []string {
	var rows []string
	t.Usage(now, group, func(slot uint16, name string, period, used int64) {
		rows = append(rows, fmt.Sprintf("%d/%s/%d=%d", slot, name, period, used))
	})
	return rows
}

func TestKindsDecideWhoRefusesAndWhoCounts(t *testing.T) {
	full := Ask{Slot: 9, Group: "shop", Period: hour, Units: 2, Max: 1}
	free := Ask{Slot: 1, Group: "shop", Period: hour, Units: 2, Max: 10}
	kind := func(a Ask, slot uint16, k Kind) Ask { a.Slot, a.Kind = slot, k; return a }
	for _, row := range []struct {
		name     string
		asks     []Ask
		admitted bool
		over     []bool
		counted  []bool
	}{
		{"a binding ask that fits lets all count", []Ask{kind(free, 1, Binding), kind(free, 2, Counting), kind(free, 3, Watching)},
			true, []bool{false, false, false}, []bool{true, true, true}},
		{"a binding ask that is over refuses and nothing is counted", []Ask{kind(free, 1, Binding), kind(full, 2, Binding), kind(free, 3, Counting)},
			false, []bool{false, true, false}, []bool{false, false, false}},
		{"a counting ask that is over counts all the same", []Ask{kind(full, 1, Counting), kind(free, 2, Binding)},
			true, []bool{true, false}, []bool{true, true}},
		{"a watching ask that is over neither refuses nor counts", []Ask{kind(full, 1, Watching), kind(free, 2, Binding)},
			true, []bool{true, false}, []bool{false, true}},
		{"no asks are admitted", nil, true, []bool{}, []bool{}},
	} {
		t.Run(row.name, func(t *testing.T) {
			table := New(Options{})
			res := make([]Result, len(row.asks))
			if ok := table.Peek(0, row.asks, res); ok != row.admitted || table.Stats().Keys != 0 {
				t.Fatalf("peek passes %t and leaves %d keys, want %t and none", ok, table.Stats().Keys, row.admitted)
			}
			ok, seq := table.Admit(0, row.asks, res)
			if ok != row.admitted || seq != 1 {
				t.Fatalf("passes %t as number %d, want %t as 1", ok, seq, row.admitted)
			}
			for i, r := range res {
				if r.Over != row.over[i] || r.Counted != row.counted[i] || r.Used != 0 {
					t.Errorf("ask %d: %+v, want over %t, counted %t", i, r, row.over[i], row.counted[i])
				}
				want := int64(0)
				if row.counted[i] {
					want = 2
				}
				one := []Result{{}}
				if table.Peek(0, row.asks[i:i+1], one); one[0].Used != want {
					t.Errorf("ask %d holds %d afterwards, want %d", i, one[0].Used, want)
				}
			}
		})
	}
}

func TestLimits(t *testing.T) {
	for _, row := range []struct {
		name   string
		max    int64
		units  uint32
		before int
		ok     bool
		freeAt int64
	}{
		{"units up to max pass", 5, 5, 0, true, 0},
		{"units above max never pass", 5, 6, 0, false, -1},
		{"nothing passes a max of zero", 0, 1, 0, false, -1},
		{"a negative max is taken as zero", -3, 1, 0, false, -1},
		{"no units pass a max of zero", 0, 0, 0, true, 0},
		{"a smaller message passes after a refused larger one", 5, 2, 3, true, 0},
		{"what does not fit now is told when", 5, 3, 3, false, hour + hour/subs},
		{"a limit that was lowered below the count is told when too", 2, 1, 3, false, hour + hour/subs},
	} {
		t.Run(row.name, func(t *testing.T) {
			table := New(Options{})
			a := Ask{Group: "shop", Period: hour, Units: 1, Max: 100}
			for range row.before {
				ask1(table, 0, a)
			}
			a.Units, a.Max = row.units, row.max
			ok, res := ask1(table, minute, a)
			if ok != row.ok || res.FreeAt != row.freeAt || res.Over == ok {
				t.Errorf("passes %t with %+v, want %t and FreeAt %d", ok, res, row.ok, row.freeAt)
			}
		})
	}
}

func TestOneCounterAskedTwiceInAMessageFillsOnce(t *testing.T) {
	table := New(Options{})
	a := Ask{Group: "shop", Name: "x", Period: hour, Units: 2, Max: 3}
	res := make([]Result, 2)
	if ok, _ := table.Admit(0, []Ask{a, a}, res); ok {
		t.Fatal("four units pass a max of three")
	}
	a.Max = 4
	if ok, _ := table.Admit(0, []Ask{a, a}, res); !ok {
		t.Fatal("four units do not pass a max of four")
	}
	if got := usage(table, 0, "shop"); !reflect.DeepEqual(got, []string{"0/x/3600000=4"}) {
		t.Fatalf("usage %v", got)
	}
}

func TestCountersThatDifferInAnyPartAreApart(t *testing.T) {
	table := New(Options{Shards: 1})
	long := strings.Repeat("a", maxName)
	asks := []Ask{
		{Slot: 1, Group: "shop", Name: "", Period: hour},
		{Slot: 2, Group: "shop", Name: "", Period: hour},
		{Slot: 1, Group: "shop", Name: "", Period: day},
		{Slot: 1, Group: "shop", Name: "x", Period: hour},
		{Slot: 1, Group: "shopx", Name: "", Period: hour},
		{Slot: 1, Group: "", Name: "shop", Period: hour},
		{Slot: 1, Group: "shop", Name: long, Period: hour},
		{Slot: 1, Group: "shop", Name: long + "b", Period: hour},
		{Slot: 1, Group: "shop", Name: long + "c", Period: hour},
		{Slot: 1, Group: long + "b", Name: "", Period: hour},
		{Slot: 1, Group: long + "c", Name: "", Period: hour},
	}
	for i := range asks {
		asks[i].Units, asks[i].Max = uint32(i+1), 100
	}
	table.Count(0, asks)
	res := make([]Result, len(asks))
	table.Peek(0, asks, res)
	for i, r := range res {
		if r.Used != int64(i+1) {
			t.Errorf("counter %d holds %d, want %d", i, r.Used, i+1)
		}
	}
}

func TestUsageListsWhatAGroupHoldsInOrder(t *testing.T) {
	table := New(Options{})
	for i, name := range []string{"b", "", "a"} {
		table.Count(0, []Ask{
			{Slot: 2, Group: "shop", Name: name, Period: hour, Units: uint32(i + 1)},
			{Slot: 1, Group: "shop", Name: name, Period: minute, Units: 5},
			{Slot: 1, Group: "other", Name: name, Period: minute, Units: 5},
		})
	}
	want := []string{"1//60000=5", "1/a/60000=5", "1/b/60000=5", "2//3600000=2", "2/a/3600000=3", "2/b/3600000=1"}
	if got := usage(table, 0, "shop"); !reflect.DeepEqual(got, want) {
		t.Errorf("usage %v, want %v", got, want)
	}
	if got := usage(table, 2*minute, "shop"); !reflect.DeepEqual(got, want[3:]) {
		t.Errorf("usage after two minutes %v, want %v", got, want[3:])
	}
	if got := usage(table, 0, "nobody"); got != nil {
		t.Errorf("usage of a group without counters %v", got)
	}
}

func TestResetForgetsJustOneCounter(t *testing.T) {
	table := New(Options{Shards: 1})
	var asks []Ask
	for slot := range uint16(4) {
		for _, name := range []string{"", "a", "b", "c"} {
			asks = append(asks, Ask{Slot: slot, Group: "shop", Name: name, Period: hour, Units: 1, Max: 9})
		}
	}
	table.Count(0, asks)
	left := slices.Clone(asks)
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(left), func(i, j int) { left[i], left[j] = left[j], left[i] })
	for len(left) > 0 {
		a := left[0]
		left = left[1:]
		if !table.Reset(a.Slot, a.Group, a.Name) || table.Reset(a.Slot, a.Group, a.Name) {
			t.Fatalf("reset of %d/%s: want it forgotten once", a.Slot, a.Name)
		}
		if got := len(usage(table, 0, "shop")); got != len(left) || table.Stats().Keys != len(left) {
			t.Fatalf("%d counters are left and %d in use, want %d", table.Stats().Keys, got, len(left))
		}
	}
	if table.Reset(0, "nobody", "") || table.Reset(77, "shop", "a") {
		t.Error("a counter that never was is said to be forgotten")
	}
	table.Count(0, asks)
	if got := len(usage(table, 0, "shop")); got != len(asks) {
		t.Errorf("%d counters after counting anew, want %d", got, len(asks))
	}
}

func TestResetSlotForgetsATriggerEverywhere(t *testing.T) {
	table := New(Options{})
	for i := range 300 {
		group := fmt.Sprint("user", i)
		for slot := range uint16(3) {
			table.Count(0, []Ask{
				{Slot: slot, Group: group, Period: hour, Units: 1},
				{Slot: slot, Group: group, Name: "x", Period: hour, Units: 1},
			})
		}
	}
	table.ResetSlot(1)
	want := []string{"0//3600000=1", "0/x/3600000=1", "2//3600000=1", "2/x/3600000=1"}
	for i := range 300 {
		if got := usage(table, 0, fmt.Sprint("user", i)); !reflect.DeepEqual(got, want) {
			t.Fatalf("user %d: %v, want %v", i, got, want)
		}
	}
}

func TestSweepGivesMemoryBack(t *testing.T) {
	table := New(Options{})
	for i := range 30_000 {
		now := int64(i) * hour / 30_000
		asks := []Ask{
			{Slot: 0, Group: fmt.Sprint("user", i), Period: hour, Units: 1, Max: 1},
			{Slot: 1, Group: fmt.Sprint("user", i%1000), Period: day, Units: 1, Max: 1},
			{Slot: 2, Group: "busy", Period: hour, Units: 1, Max: 1},
		}
		table.Count(now, asks)
	}
	full := table.Stats()
	if full.Keys != 31_001 {
		t.Fatalf("%d keys, want 31001", full.Keys)
	}
	table.Sweep(hour)
	if st := table.Stats(); st.Keys != full.Keys {
		t.Fatalf("%d keys after a sweep at which nothing has run out, want %d", st.Keys, full.Keys)
	}
	table.Sweep(3 * hour)
	st := table.Stats()
	if st.Keys != 1000 || st.Groups != 1000 || st.Bytes > full.Bytes/8 {
		t.Errorf("after two hours %+v, want 1000 keys and groups and less than an eighth of %d bytes", st, full.Bytes)
	}
	if got := usage(table, 3*hour, "user7"); !reflect.DeepEqual(got, []string{"1//86400000=30"}) {
		t.Errorf("usage of one that stays: %v", got)
	}
	table.Sweep(3 * day)
	if st := table.Stats(); st.Keys != 0 || st.Groups != 0 || st.Bytes > 100<<10 {
		t.Errorf("after three days %+v, want nothing", st)
	}
}

func TestExactlyMaxPassUnderConcurrency(t *testing.T) {
	table := New(Options{})
	const limit, workers, tries = 500, 8, 1000
	var wg sync.WaitGroup
	passed := make([]int, workers)
	seqs := make([][]uint64, workers)
	for w := range workers {
		wg.Go(func() {
			res := make([]Result, 4)
			for i := range tries {
				// Groups in different orders: no two callers may wait for each other in a circle.
				first, second := fmt.Sprint("ip", i%7), "shop"
				if w%2 == 0 {
					first, second = second, first
				}
				ok, seq := table.Admit(int64(i), []Ask{
					{Slot: 1, Group: first, Period: hour, Units: 1, Max: 1 << 30},
					{Slot: 2, Group: second, Period: hour, Units: 1, Max: 1 << 30},
					{Slot: 3, Group: "all", Period: hour, Units: 2, Max: 2 * limit},
					{Slot: 4, Group: "all", Name: "watched", Period: hour, Units: 1, Max: limit / 2, Kind: Watching},
				}, res)
				seqs[w] = append(seqs[w], seq)
				if ok {
					passed[w]++
				}
			}
		})
	}
	wg.Wait()
	total := 0
	for _, n := range passed {
		total += n
	}
	if total != limit {
		t.Errorf("%d of %d passed, want exactly %d", total, workers*tries, limit)
	}
	if got := usage(table, tries, "all"); !reflect.DeepEqual(got, []string{"3//3600000=1000", "4/watched/3600000=250"}) {
		t.Errorf("usage %v", got)
	}
	all := slices.Concat(seqs...)
	slices.Sort(all)
	if len(slices.Compact(all)) != workers*tries || all[len(all)-1] != workers*tries {
		t.Error("numbers of decisions are not 1, 2, 3 …")
	}
}

func TestNumbersOfDecisionsGoUp(t *testing.T) {
	table := New(Options{})
	table.SetSeq(10)
	table.SetSeq(5)
	_, admit := table.Admit(0, nil, nil)
	got := []uint64{admit, table.Count(0, nil), table.NextSeq()}
	if !reflect.DeepEqual(got, []uint64{11, 12, 13}) {
		t.Errorf("numbers %v, want 11, 12, 13", got)
	}
}

func TestKnownCountersCostNoAllocation(t *testing.T) {
	table := New(Options{})
	asks := fiveAsks(3, "invoice 4711")
	res := make([]Result, len(asks))
	now := int64(0)
	table.Admit(now, asks, res)
	for name, f := range map[string]func(){
		"Admit":   func() { now++; table.Admit(now, asks, res) },
		"refusal": func() { asks[4].Max = 0; table.Admit(now, asks, res); asks[4].Max = 1 << 40 },
		"Peek":    func() { table.Peek(now, asks, res) },
		"Count":   func() { table.Count(now, asks) },
		"FreeAt":  func() { table.FreeAt(now, asks[0]) },
	} {
		if n := testing.AllocsPerRun(5000, f); n != 0 {
			t.Errorf("%s: %v allocations, want none", name, n)
		}
	}
}

func TestMoreAsksThanUsualAreTaken(t *testing.T) {
	table := New(Options{Shards: 4})
	var asks []Ask
	for i := range 100 {
		asks = append(asks, Ask{Slot: uint16(i), Group: fmt.Sprint("g", i%9), Name: "n", Period: hour, Units: 1, Max: 1})
	}
	res := make([]Result, len(asks))
	if ok, _ := table.Admit(0, asks, res); !ok {
		t.Fatal("the first is refused")
	}
	if ok, _ := table.Admit(0, asks, res); ok {
		t.Fatal("the second passes")
	}
}

func TestSizesAreBrought(t *testing.T) {
	for n, want := range map[int]int{-1: 256, 0: 256, 1: 1, 2: 2, 3: 4, 100: 128, 256: 256, 1000: 256} {
		if got := len(New(Options{Shards: n}).shards); got != want {
			t.Errorf("%d shards asked for, %d made, want %d", n, got, want)
		}
	}
}
