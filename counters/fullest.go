package counters

import (
	"cmp"
	"slices"
)

// Full is one counter with what it holds.
type Full struct {
	Slot         uint16
	Group, Name  string
	Period, Used int64
}

// Fullest lists counters that hold at least as much as floor says for their slot; of a slot
// beyond it, or whose floor is not above 0, none. Of each shard come at most limit, those
// that hold most of their floor. It takes one shard's lock after another, each about as
// long as [Table.Sweep] does.
func (t *Table) Fullest(now int64, floor []int64, limit int) []Full {
	var all []Full
	var found []fullKey
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		found = s.fullest(now, floor, limit, found[:0])
		for _, f := range found {
			k := &s.keys[f.key]
			all = append(all, Full{Slot: k.slot, Group: string(s.groupName(&s.groups[k.group])), Name: string(s.nameOf(k)), Period: int64(k.period), Used: f.used})
		}
		s.mu.Unlock()
	}
	return all
}

type fullKey struct {
	key  uint32
	used int64
	part float64 // of its floor
}

// fullest finds the keys of one shard.
func (d *slabs) fullest(now int64, floor []int64, limit int, found []fullKey) []fullKey {
	for ki := range d.keys {
		k := &d.keys[ki]
		if k.group == 0 || int(k.slot) >= len(floor) || floor[k.slot] <= 0 || k.sum < floor[k.slot] {
			continue
		}
		if used := d.used(k, uint32(subOf(now, k.period))); used >= floor[k.slot] {
			found = append(found, fullKey{uint32(ki), used, float64(used) / float64(floor[k.slot])})
		}
	}
	if len(found) > limit {
		slices.SortFunc(found, func(a, b fullKey) int { return cmp.Compare(b.part, a.part) })
		found = found[:limit]
	}
	return found
}
