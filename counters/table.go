// Package counters says how much each key has sent in each window, exactly and in memory.
//
// A counter is named by (slot, period, group, name): the slot stands for a trigger, the
// group for an account or an address, the name for a part of it (a Subject, a directory,
// a mailbox) or, where it is empty, for the group as a whole.
//
// The window is sliding. A period is cut into 240 sub-windows and a counter keeps the sum
// of each that is not empty; the one that is just running out is counted whole. So no true
// period, however it is laid, ever holds more than the limit, and a sender waits at most
// 1/240 of the period longer than an exact log would make him wait. (Sixty sub-windows
// without the one running out, two windows or a leaky bucket let up to twice the limit
// through.) Times are milliseconds of a clock that never steps back, such as the boot
// clock. Where racing callers bring theirs in the wrong order by a millisecond, the bound
// holds for the order in which they got the lock.
//
// A group lives wholly in one of up to 256 shards, each with its own mutex, so a flood in
// one account delays only its neighbours in the shard. A call locks just the shards of its
// asks, in ascending order. Within a shard everything is kept in slabs without pointers,
// which the garbage collector need not look into; what was given up is reclaimed by
// building the shard anew (about a tenth of a millisecond for a thousand counters).
//
// Names are the sender's to choose. Per slot and group only so many are kept (see
// [Options]); beyond that the one with the least count makes room, so that a flood of
// names costs no other group anything. A group's own total never makes room, and names
// that are not the sender's to choose ([Ask].Keep) make room only beyond a bound that
// nothing but a fault would reach.
//
// Each decision gets a number while its locks are held. A snapshot therefore knows for
// each shard which decisions it contains, and [Table.Replay] adds just the others.
//
// The package never does I/O of its own, starts no goroutine and reads no clock. The
// policy engine is its only caller on a message's way.
package counters

import (
	"crypto/rand"
	"encoding/binary"
	"hash/maphash"
	"math"
	"sort"
	"sync/atomic"
)

const (
	maxShards       = 256
	defaultPerGroup = 256
	// keptPerGroup bounds the names per slot and group that are kept: some megabytes.
	keptPerGroup = 65_536
	// inlineAsks is how many asks a call may have before it allocates.
	inlineAsks = 16
)

// Options are the sizes of a Table; zero values stand for the defaults.
type Options struct {
	Shards   int // rounded up to a power of two, at most 256 (the default)
	PerGroup int // distinct names kept per slot and group, at most 65535; 0 = 256
}

// Kind says what an ask does to the message and what the message does to it.
type Kind uint8

const (
	Binding  Kind = iota // refuses the whole message when it does not fit
	Counting             // counts every admitted message, never refuses
	Watching             // counts an admitted message only if it fits, never refuses
)

// Ask is one counter that a message would fill.
type Ask struct {
	Slot   uint16
	Group  string // decides the shard
	Name   string // "" is the group's own total, which is never evicted
	Period int64  // milliseconds, 1 to 49 days
	Units  uint32
	Max    int64 // 0: nothing passes
	Kind   Kind
	// Keep says that the name is not the sender's to choose (a mailbox that logged in, a
	// uid): [Options].PerGroup is not for it. It is the same for all names of a slot and
	// group.
	Keep bool
}

// Result is the state of one ask's counter before the message.
type Result struct {
	Used    int64
	Over    bool  // Units do not fit
	FreeAt  int64 // if Over: the first millisecond at which Units fit; -1 never
	Counted bool  // the units have been added
}

// Stats are the totals of a table.
type Stats struct {
	Keys      int    // counters, those included that have run out since the last Sweep
	Groups    int    // groups with counters
	Evictions uint64 // names that made room for another
	Bytes     int64  // memory held by all slabs and indexes
}

// Table holds all counters. Its methods may be called from any goroutine.
type Table struct {
	shards   []shard
	perGroup int
	seed     maphash.Seed // of names
	keys     groupHash    // of groups; written to snapshots
	seq      atomic.Uint64
	restored atomic.Pointer[restored]
}

// New returns an empty table.
func New(o Options) *Table {
	t := &Table{
		shards:   make([]shard, shardCount(o.Shards)),
		perGroup: o.PerGroup,
		seed:     maphash.MakeSeed(),
	}
	if t.perGroup <= 0 {
		t.perGroup = defaultPerGroup
	}
	t.perGroup = min(t.perGroup, math.MaxUint16)
	var b [16]byte
	rand.Read(b[:]) // never fails: it ends the process instead
	t.keys = groupHash{binary.LittleEndian.Uint64(b[:]), binary.LittleEndian.Uint64(b[8:])}
	for i := range t.shards {
		t.shards[i].slabs = newSlabs(t.seed, t.perGroup)
	}
	return t
}

// shardCount rounds n up to a power of two, which lets the shard be masked out of a hash.
func shardCount(n int) int {
	if n <= 0 || n > maxShards {
		return maxShards
	}
	c := 1
	for c < n {
		c *= 2
	}
	return c
}

// place is where an ask's counter is: filled in stages, hash before the locks are taken,
// group and key under them.
type place struct {
	hash  uint64 // of the group
	tag   uint32 // of the counter
	shard uint32
	group uint32 // 0: the group has no counters
	key   uint32 // 0: there is no such counter
}

// places hashes the asks into buf, which grows if it must, and returns the shards to lock.
func (t *Table) places(asks []Ask, buf []place) ([]place, shardSet) {
	var set shardSet
	for i := range asks {
		a := &asks[i]
		var p place
		if i > 0 && a.Group == asks[i-1].Group {
			p.hash, p.shard = buf[i-1].hash, buf[i-1].shard
		} else {
			p.hash = t.keys.sum(clip(a.Group))
			p.shard = shardOf(p.hash, len(t.shards))
			set.add(p.shard)
		}
		p.tag = keyTag(p.hash, a.Slot, periodOf(a.Period), maphash.String(t.seed, clip(a.Name)))
		buf = append(buf, p)
	}
	return buf, set
}

// Admit counts a message if every Binding ask fits, and then adds its units to all Binding
// and Counting asks and to those Watching asks that fit; otherwise it counts nothing. This is
// atomic over all asks. res must be as long as asks. seq is the decision's number, given to
// refused ones as well. It allocates only for counters that are new.
func (t *Table) Admit(now int64, asks []Ask, res []Result) (admitted bool, seq uint64) {
	var buf [inlineAsks]place
	ps, set := t.places(asks, buf[:0])
	t.lock(&set)
	defer t.unlock(&set)
	admitted = t.judge(now, asks, ps, res, true)
	if admitted {
		for i := range asks {
			res[i].Counted = asks[i].Kind != Watching || !res[i].Over
		}
		t.count(now, asks, ps, res)
	}
	return admitted, t.seq.Add(1)
}

// Peek says what Admit would answer now. It counts nothing, creates nothing and takes no number.
func (t *Table) Peek(now int64, asks []Ask, res []Result) (admitted bool) {
	var buf [inlineAsks]place
	ps, set := t.places(asks, buf[:0])
	t.lock(&set)
	defer t.unlock(&set)
	return t.judge(now, asks, ps, res, false)
}

// Count adds the units of all asks whatever their kind and state, for a message that was
// accepted unchecked, and returns the decision's number.
func (t *Table) Count(now int64, asks []Ask) (seq uint64) {
	var buf [inlineAsks]place
	ps, set := t.places(asks, buf[:0])
	t.lock(&set)
	defer t.unlock(&set)
	for i := range asks {
		t.shards[ps[i].shard].find(&ps[i], &asks[i])
	}
	t.count(now, asks, ps, nil)
	return t.seq.Add(1)
}

// FreeAt returns the first millisecond at which a's units fit if nothing else is counted:
// 0 = now, -1 = never.
func (t *Table) FreeAt(now int64, a Ask) int64 {
	asks, res := [1]Ask{a}, [1]Result{}
	t.Peek(now, asks[:], res[:])
	return res[0].FreeAt
}

// judge fills res and tells whether no Binding ask is over. With drop it also removes from the
// counters what has run out. The shards must be locked.
func (t *Table) judge(now int64, asks []Ask, ps []place, res []Result, drop bool) bool {
	admitted := true
	for i := range asks {
		a, p := &asks[i], &ps[i]
		s := &t.shards[p.shard]
		if i > 0 && a.Group == asks[i-1].Group {
			s.findIn(ps[i-1].group, p, a)
		} else {
			s.find(p, a)
		}
		var used int64
		if p.key != 0 {
			k := &s.keys[p.key]
			cur := uint32(subOf(now, k.period))
			if drop {
				s.drop(k, cur)
				used = k.sum
			} else {
				used = s.used(k, cur)
			}
		}
		res[i] = Result{Used: used}
		units := int64(a.Units) + claimed(asks[:i], res, a)
		if over := used + units - max(a.Max, 0); over > 0 {
			res[i].Over = true
			res[i].FreeAt = -1
			if over <= used {
				res[i].FreeAt = s.freeAt(&s.keys[p.key], now, over)
			}
			admitted = admitted && a.Kind != Binding
		}
	}
	return admitted
}

// claimed returns the units that earlier asks of the same message want of a's counter, which is
// none unless the caller names one counter twice.
func claimed(earlier []Ask, res []Result, a *Ask) (units int64) {
	for j := range earlier {
		e := &earlier[j]
		if e.Slot == a.Slot && e.Period == a.Period && e.Group == a.Group && e.Name == a.Name &&
			(e.Kind != Watching || !res[j].Over) {
			units += int64(e.Units)
		}
	}
	return units
}

// count adds the units of the asks that res marks as counted, or of all if res is nil. Those that
// have a counter go first: making one may evict another, which must not be one found before.
// The shards must be locked and the places found.
func (t *Table) count(now int64, asks []Ask, ps []place, res []Result) {
	missing := false
	for i := range asks {
		if asks[i].Units == 0 || res != nil && !res[i].Counted {
			continue
		}
		if ps[i].key == 0 {
			missing = true
			continue
		}
		s := &t.shards[ps[i].shard]
		k := &s.keys[ps[i].key]
		cur := uint32(subOf(now, k.period))
		s.drop(k, cur)
		s.add(k, cur, asks[i].Units)
	}
	if !missing {
		return
	}
	for i := range asks {
		if asks[i].Units == 0 || res != nil && !res[i].Counted || ps[i].key != 0 {
			continue
		}
		s := &t.shards[ps[i].shard]
		k := s.findOrCreate(&ps[i], &asks[i], now)
		s.add(k, uint32(subOf(now, k.period)), asks[i].Units)
		s.tidy(now)
	}
}

// NextSeq returns the number of a decision that asks no counter.
func (t *Table) NextSeq() uint64 { return t.seq.Add(1) }

// SetSeq makes all later numbers greater than min.
func (t *Table) SetSeq(min uint64) {
	for {
		old := t.seq.Load()
		if old >= min || t.seq.CompareAndSwap(old, min) {
			return
		}
	}
}

// Reset forgets one counter, in all its periods, and tells whether there was one. A snapshot
// written before still holds it: write one afterwards if it must not come back.
func (t *Table) Reset(slot uint16, group, name string) bool {
	group, name = clip(group), clip(name)
	hash := t.keys.sum(group)
	s := &t.shards[shardOf(hash, len(t.shards))]
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.remove(hash, slot, group, name)
}

// ResetSlot forgets all counters of a slot. From then on Replay takes nothing of this slot as
// contained in the snapshot.
func (t *Table) ResetSlot(slot uint16) {
	t.forgetRestored(slot)
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		if s.hasSlot(slot) {
			s.rebuild(func(k *key) bool { return k.slot != slot })
		}
		s.mu.Unlock()
	}
}

// Usage calls f for all counters of a group that hold something, by slot, name and period.
// No lock is held while f runs.
func (t *Table) Usage(now int64, group string, f func(slot uint16, name string, period, used int64)) {
	type row struct {
		slot         uint16
		name         string
		period, used int64
	}
	var rows []row
	group = clip(group)
	hash := t.keys.sum(group)
	s := &t.shards[shardOf(hash, len(t.shards))]
	s.mu.Lock()
	for ki := range s.keysOf(s.findGroup(hash, group)) {
		k := &s.keys[ki]
		if used := s.used(k, uint32(subOf(now, k.period))); used > 0 {
			rows = append(rows, row{k.slot, string(s.nameOf(k)), int64(k.period), used})
		}
	}
	s.mu.Unlock()
	sort.Slice(rows, func(i, j int) bool {
		a, b := &rows[i], &rows[j]
		if a.slot != b.slot {
			return a.slot < b.slot
		}
		if a.name != b.name {
			return a.name < b.name
		}
		return a.period < b.period
	})
	for _, r := range rows {
		f(r.slot, r.name, r.period, r.used)
	}
}

// Sweep drops what has run out and gives memory back, one shard after another, each for less
// than a millisecond per ten thousand counters. Call it every few minutes: a counter that is
// neither asked nor swept for 100 days of a one-second period would seem to be of the future.
func (t *Table) Sweep(now int64) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		s.sweep(now)
		s.mu.Unlock()
	}
}

// Stats returns the totals, gathered one shard after another.
func (t *Table) Stats() (st Stats) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		st.Keys += s.live
		st.Groups += len(s.groups) - 1
		st.Evictions += s.evictions
		st.Bytes += s.bytes()
		s.mu.Unlock()
	}
	return st
}

// shardSet is a set of shard numbers.
type shardSet [maxShards / 64]uint64

func (x *shardSet) add(n uint32) { x[n/64] |= 1 << (n % 64) }
