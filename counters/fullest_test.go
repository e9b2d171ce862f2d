package counters

import (
	"cmp"
	"fmt"
	"slices"
	"testing"
)

func TestFullestListsWhatIsAtOrOverItsFloor(t *testing.T) {
	table := New(Options{Shards: 4})
	for n := range 100 {
		table.Count(0, []Ask{
			{Slot: 1, Group: fmt.Sprintf("acct%02d", n), Period: hour, Units: uint32(n)},
			{Slot: 2, Group: fmt.Sprintf("acct%02d", n), Name: "part", Period: minute, Units: 90},
			{Slot: 3, Group: fmt.Sprintf("acct%02d", n), Period: hour, Units: 1000},
		})
	}
	list := table.Fullest(0, []int64{0, 95, 90, 0}, 1000)
	if len(list) != 105 {
		t.Fatalf("%d counters, want 5 of slot 1 and 100 of slot 2", len(list))
	}
	slices.SortFunc(list, func(a, b Full) int {
		return cmp.Or(cmp.Compare(a.Slot, b.Slot), cmp.Compare(b.Used, a.Used), cmp.Compare(a.Group, b.Group))
	})
	if want := (Full{Slot: 1, Group: "acct99", Period: hour, Used: 99}); list[0] != want {
		t.Errorf("the fullest is %+v, want %+v", list[0], want)
	}
	if want := (Full{Slot: 2, Group: "acct00", Name: "part", Period: minute, Used: 90}); list[5] != want {
		t.Errorf("the first of slot 2 is %+v, want %+v", list[5], want)
	}
	if list := table.Fullest(2*minute, []int64{0, 95, 90}, 1000); len(list) != 5 {
		t.Errorf("after two minutes %d counters, want the 5 of slot 1", len(list))
	}
	if list := table.Fullest(0, []int64{0, 1, 1}, 10); len(list) != 40 {
		t.Errorf("%d counters, want the 10 fullest of each shard", len(list))
	}
	if list := table.Fullest(0, nil, 10); len(list) != 0 {
		t.Errorf("without a floor: %v", list)
	}
}

func TestFullestOfAShardAreTheFullest(t *testing.T) {
	table := New(Options{Shards: 1})
	for n := range 50 {
		table.Count(0, []Ask{{Slot: uint16(n % 2), Group: fmt.Sprintf("acct%02d", n), Period: hour, Units: uint32(n + 1)}})
	}
	list := table.Fullest(0, []int64{10, 1}, 3) // slot 1 has the lower floor: it is fuller
	for _, f := range list {
		if f.Slot != 1 || f.Used < 46 {
			t.Errorf("%+v is not among the three that hold most of their floor", f)
		}
	}
	if len(list) != 3 {
		t.Errorf("%d counters, want 3", len(list))
	}
}
