package counters

import (
	"bytes"
	"fmt"
	"runtime"
	"strconv"
	"testing"
)

func TestTheNameWithTheLeastCountMakesRoom(t *testing.T) {
	table := New(Options{PerGroup: 3})
	count := func(now int64, slot uint16, group, name string, units uint32) {
		table.Count(now, []Ask{{Slot: slot, Group: group, Name: name, Period: hour, Units: units}})
	}
	count(0, 1, "shop", "", 1) // the total holds less than any name
	count(0, 1, "shop", "a", 3)
	count(1, 1, "shop", "b", 2)
	count(2, 1, "shop", "c", 5)
	count(2, 2, "shop", "b", 1) // another slot
	count(2, 1, "other", "b", 1)
	count(3, 1, "shop", "d", 9)
	if got, want := fmt.Sprint(usage(table, 3, "shop")), "[1//3600000=1 1/a/3600000=3 1/c/3600000=5 1/d/3600000=9 2/b/3600000=1]"; got != want {
		t.Errorf("after the fourth name %v, want %v", got, want)
	}
	if st := table.Stats(); st.Evictions != 1 || st.Keys != 6 {
		t.Errorf("%+v, want 1 eviction and 6 keys", st)
	}
	count(hour/2, 1, "shop", "a", 1)
	count(hour+hour/120, 1, "shop", "e", 1) // c and d have run out, a holds one
	count(hour+hour/120, 1, "shop", "f", 1)
	if got, want := fmt.Sprint(usage(table, hour+hour/120, "shop")), "[1/a/3600000=1 1/e/3600000=1 1/f/3600000=1]"; got != want {
		t.Errorf("after two have run out %v, want %v", got, want)
	}
}

func TestANameThatComesAgainOutlastsAFloodOfNamesThatComeOnce(t *testing.T) {
	table := New(Options{PerGroup: 64})
	steady := Ask{Slot: 1, Group: "shop", Name: "steady", Period: hour, Units: 1, Max: 100}
	passed := 0
	for i := range 10_000 { // all within one sub-window, so that only the order tells them apart
		ask1(table, 0, Ask{Slot: 1, Group: "shop", Name: strconv.Itoa(i), Period: hour, Units: 1, Max: 100})
		if i%40 == 0 {
			if ok, _ := ask1(table, 0, steady); ok {
				passed++
			}
		}
	}
	if passed != 100 {
		t.Errorf("%d of the steady name passed, want 100", passed)
	}
}

// A name that the sender cannot choose is counted however many there are: through a rebuild,
// into a snapshot and out of it.
func TestNamesThatAreKeptMakeNoRoom(t *testing.T) {
	const names, perGroup = 300, 16
	table := New(Options{PerGroup: perGroup, Shards: 1})
	mailbox := func(i int) Ask {
		return Ask{Slot: 0, Group: "shop", Name: "box" + strconv.Itoa(i) + "@shop.example", Period: hour, Units: 1, Max: 3, Keep: true}
	}
	subject := func(i int) Ask {
		return Ask{Slot: 1, Group: "shop", Name: "subject " + strconv.Itoa(i), Period: hour, Units: 1, Max: 3}
	}
	count := func(table *Table) {
		for i := range names {
			table.Count(0, []Ask{mailbox(i), subject(i)})
		}
	}
	want := func(when string, table *Table, used int64) {
		t.Helper()
		var res [1]Result
		for i := range names {
			if table.Peek(0, []Ask{mailbox(i)}, res[:]); res[0].Used != used {
				t.Fatalf("%s mailbox %d holds %d, want %d", when, i, res[0].Used, used)
			}
		}
	}
	count(table)
	want("after the first round", table, 1)
	if st := table.Stats(); st.Evictions != names-perGroup || st.Keys != names+perGroup {
		t.Errorf("%+v, want the Subjects evicted as before and no mailbox", st)
	}
	table.shards[0].rebuild(func(*key) bool { return true })
	count(table)
	want("after a rebuild", table, 2)
	back := New(Options{PerGroup: perGroup})
	if _, _, err := back.ReadSnapshot(bytes.NewReader(snapshotOf(t, table, headerAt(0))), headerAt(0), sameSlots); err != nil {
		t.Fatal(err)
	}
	want("out of a snapshot", back, 2)
	count(back)
	want("counted on after a snapshot", back, 3)
}

func TestNamesThatAreKeptAreBounded(t *testing.T) {
	table := New(Options{PerGroup: 4, Shards: 1})
	for i := range keptPerGroup + 10 {
		table.Count(0, []Ask{{Slot: 1, Group: "(unknown)", Name: strconv.Itoa(i), Period: hour, Units: 1, Keep: true}})
	}
	if st := table.Stats(); st.Keys != keptPerGroup || st.Evictions != 10 {
		t.Errorf("%+v, want %d keys", st, keptPerGroup)
	}
}

func TestAMessageThatIsRefusedEvictsNobody(t *testing.T) {
	table := New(Options{PerGroup: 1})
	table.Count(0, []Ask{{Slot: 1, Group: "shop", Name: "a", Period: hour, Units: 1}})
	res := make([]Result, 2)
	table.Admit(0, []Ask{
		{Slot: 1, Group: "shop", Name: "b", Period: hour, Units: 1, Max: 5},
		{Slot: 2, Group: "shop", Period: hour, Units: 1, Max: 0},
	}, res)
	if got := fmt.Sprint(usage(table, 0, "shop")); got != "[1/a/3600000=1]" {
		t.Errorf("usage %v, want only a", got)
	}
}

func TestACounterOfTheSameMessageThatIsEvictedIsNotMistaken(t *testing.T) {
	table := New(Options{PerGroup: 1, Shards: 1})
	table.Count(0, []Ask{{Slot: 1, Group: "shop", Name: "old", Period: hour, Units: 1}})
	table.Count(0, []Ask{
		{Slot: 1, Group: "shop", Name: "new", Period: hour, Units: 7},
		{Slot: 1, Group: "shop", Name: "old", Period: hour, Units: 1},
	})
	if got := fmt.Sprint(usage(table, 0, "shop")); got != "[1/new/3600000=7]" {
		t.Errorf("usage %v, want the new name with its own units", got)
	}
}

// liveHeap returns the bytes in use after a full collection.
func liveHeap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// flood sends n messages with different names from one account, over an hour.
func flood(t *Table, n int) {
	asks := []Ask{
		{Slot: 1, Group: "attacker", Period: hour, Units: 1, Max: 1 << 40},
		{Slot: 2, Group: "attacker", Period: hour, Units: 1, Max: 1 << 40},
	}
	res := make([]Result, 2)
	name := []byte("cheap watches no.         ")
	for i := range n {
		asks[1].Name = string(strconv.AppendInt(name[:17], int64(i), 10))
		t.Admit(int64(i)*hour/int64(n), asks, res)
	}
}

func TestAFloodOfNamesCostsLittleAndChangesNoOtherCount(t *testing.T) {
	const accounts, names, perGroup = 2_000, 200_000, 64
	table := New(Options{PerGroup: perGroup})
	for range 3 {
		for i := range accounts {
			asks := fiveAsks(i, "news")
			table.Count(0, asks)
		}
	}
	before, keys := liveHeap(), table.Stats().Keys
	flood(table, names)
	if more := liveHeap() - before; more > 1<<20 {
		t.Errorf("the flood costs %d KiB, want at most 1024", more>>10)
	}
	if st := table.Stats(); st.Keys > keys+perGroup+1 || st.Evictions != names-perGroup {
		t.Errorf("%+v after %d keys", st, keys)
	}
	for i := range accounts {
		asks := fiveAsks(i, "news")
		res := make([]Result, len(asks))
		table.Peek(0, asks, res)
		for j, r := range res {
			if r.Used != 3*int64(asks[j].Units) {
				t.Fatalf("account %d, counter %d holds %d, want %d", i, j, r.Used, 3*asks[j].Units)
			}
		}
	}
	res := make([]Result, 1)
	table.Peek(hour-1, []Ask{{Slot: 1, Group: "attacker", Period: hour}}, res)
	if res[0].Used != names {
		t.Errorf("the attacker's total is %d, want %d", res[0].Used, names)
	}
}
