package counters

import (
	"crypto/sha256"
	"encoding/hex"
	"hash/maphash"
	"iter"
	"math"
	"math/bits"
	"sync"
	"unsafe"
)

const (
	// maxName is the longest name or group kept as it is: no path is longer.
	maxName = 4096
	// slack is the garbage a shard may hold, whatever its size, before it is built anew.
	slack = 16 << 10
)

// shard is one lock and what it guards.
type shard struct {
	mu sync.Mutex
	slabs
	_ [64]byte // keeps the next shard's lock off this one's cache line
}

// slabs are the counters of one shard. Nodes have numbers instead of pointers; number 0 is none.
type slabs struct {
	keys       []key
	groups     []group
	bundles    []bundle
	rings      []entry
	names      []byte
	keyIndex   index
	groupIndex index
	freeRings  [9]uint32 // by class, chained through the first entry's sub
	live       int       // keys in use
	waste      int       // bytes of keys and names given up
	evictions  uint64
	perGroup   int
	seed       maphash.Seed
}

// group is an account or an address.
type group struct {
	hash    uint64
	name    uint32
	nameLen uint16
	totals  uint32 // list of its keys without a name
	bundles uint32 // list of its bundles
}

// bundle is a group's named keys of one slot, which have a cap in common.
type bundle struct {
	keys  uint32 // list
	next  uint32
	count uint32
	slot  uint16
	keep  bool // the cap is keptPerGroup
}

func newSlabs(seed maphash.Seed, perGroup int) slabs {
	return slabs{
		keys: make([]key, 1), groups: make([]group, 1), bundles: make([]bundle, 1),
		rings: make([]entry, 2), perGroup: perGroup, seed: seed,
	}
}

// clip returns s, or for an absurdly long one its beginning and a hash of the whole, which keeps
// different names different.
func clip(s string) string {
	if len(s) <= maxName {
		return s
	}
	return clipped(s)
}

func clipped(s string) string {
	sum := sha256.Sum256([]byte(s))
	return s[:maxName-2*sha256.Size] + hex.EncodeToString(sum[:])
}

// lock takes the locks of all shards in the set, in ascending order, which no two callers can
// deadlock on.
func (t *Table) lock(set *shardSet) {
	for i, w := range set {
		for ; w != 0; w &= w - 1 {
			t.shards[i*64+bits.TrailingZeros64(w)].mu.Lock()
		}
	}
}

func (t *Table) unlock(set *shardSet) {
	for i, w := range set {
		for ; w != 0; w &= w - 1 {
			t.shards[i*64+bits.TrailingZeros64(w)].mu.Unlock()
		}
	}
}

func (d *slabs) nameOf(k *key) []byte { return d.names[k.name:][:k.nameLen] }

func (d *slabs) groupName(g *group) []byte { return d.names[g.name:][:g.nameLen] }

func (d *slabs) findGroup(hash uint64, name string) uint32 {
	x, tag := &d.groupIndex, uint32(hash)
	if len(x.slots) == 0 {
		return 0
	}
	for i := x.start(tag); x.slots[i] != 0; i = x.next(i) {
		if e := x.slots[i]; uint32(e>>32) == tag {
			if g := &d.groups[uint32(e)]; g.hash == hash && string(d.groupName(g)) == name {
				return uint32(e)
			}
		}
	}
	return 0
}

func (d *slabs) findKey(gi, tag uint32, slot uint16, period uint32, name string) uint32 {
	x := &d.keyIndex
	if gi == 0 || len(x.slots) == 0 {
		return 0
	}
	for i := x.start(tag); x.slots[i] != 0; i = x.next(i) {
		if e := x.slots[i]; uint32(e>>32) == tag {
			k := &d.keys[uint32(e)]
			if k.group == gi && k.slot == slot && k.period == period && string(d.nameOf(k)) == name {
				return uint32(e)
			}
		}
	}
	return 0
}

// find fills in p where a's counter is, if there is one.
func (d *slabs) find(p *place, a *Ask) { d.findIn(d.findGroup(p.hash, clip(a.Group)), p, a) }

// findIn is find where the group is known.
func (d *slabs) findIn(group uint32, p *place, a *Ask) {
	p.group = group
	p.key = d.findKey(group, p.tag, a.Slot, periodOf(a.Period), clip(a.Name))
}

// findOrCreate returns a's counter, without what has run out at now. It searches anew, as an
// earlier ask may have made or moved it.
func (d *slabs) findOrCreate(p *place, a *Ask, now int64) *key {
	d.find(p, a)
	if p.key == 0 {
		if p.group == 0 {
			p.group = d.newGroup(p.hash, clip(a.Group))
		}
		p.key = d.newKey(p.group, p.tag, a, now)
	}
	k := &d.keys[p.key]
	d.drop(k, uint32(subOf(now, k.period)))
	return k
}

func (d *slabs) newGroup(hash uint64, name string) uint32 {
	gi := uint32(len(d.groups))
	off := d.newName(name)
	d.groups = append(grow(d.groups, 1), group{hash: hash, name: off, nameLen: uint16(len(name))})
	d.groupIndex.put(uint32(hash), gi)
	return gi
}

// newKey makes a counter and lists it with its group. At the cap it takes the place of the named
// counter of the same slot and group that holds least.
func (d *slabs) newKey(gi, tag uint32, a *Ask, now int64) uint32 {
	name := clip(a.Name)
	off := d.newName(name)
	k := key{group: gi, slot: a.Slot, period: periodOf(a.Period), name: off, nameLen: uint16(len(name))}
	list := &d.groups[gi].totals
	if name != "" {
		b := d.bundleOf(gi, a.Slot)
		b.keep = b.keep || a.Keep
		if b.full(d.perGroup) {
			ki := d.evict(b, now)
			old := &d.keys[ki]
			k.ring, k.class = old.ring, old.class
			k.next, b.keys = b.keys, ki
			*old = k
			d.keyIndex.put(tag, ki)
			return ki
		}
		b.count++
		list = &b.keys
	}
	ki := uint32(len(d.keys))
	k.next, *list = *list, ki
	d.keys = append(grow(d.keys, 1), k)
	d.keyIndex.put(tag, ki)
	d.live++
	return ki
}

// full reports whether one more name would need room.
func (b *bundle) full(perGroup int) bool {
	if b.keep {
		return b.count >= keptPerGroup
	}
	return int(b.count) >= perGroup
}

// keeps reports whether a named key is kept.
func (d *slabs) keeps(k *key) bool {
	b := d.findBundle(&d.groups[k.group], k.slot)
	return b != nil && b.keep
}

// findBundle returns the bundle of a group and slot, or nil.
func (d *slabs) findBundle(g *group, slot uint16) *bundle {
	for bi := g.bundles; bi != 0; bi = d.bundles[bi].next {
		if d.bundles[bi].slot == slot {
			return &d.bundles[bi]
		}
	}
	return nil
}

// bundleOf returns the bundle of a group and slot, which it makes if it must.
func (d *slabs) bundleOf(gi uint32, slot uint16) *bundle {
	g := &d.groups[gi]
	if b := d.findBundle(g, slot); b != nil {
		return b
	}
	bi := uint32(len(d.bundles))
	d.bundles = append(grow(d.bundles, 1), bundle{slot: slot, next: g.bundles})
	g.bundles = bi
	return &d.bundles[bi]
}

// evict takes the key that holds least at now out of its list and of the index and returns it for
// reuse; of several the one that was not counted for longest, and of these the oldest, so that a
// name which comes again and again outlasts a flood of names that come once.
func (d *slabs) evict(b *bundle, now int64) (victim uint32) {
	var least, idle int64
	var from *uint32
	for link := &b.keys; *link != 0; link = &d.keys[*link].next {
		k := &d.keys[*link]
		cur := uint32(subOf(now, k.period))
		d.drop(k, cur)
		if from != nil && k.sum > least {
			continue
		}
		quiet := int64(int32(cur-k.last)) * int64(k.period)
		// The list is newest first: of equals the later in the list is the older.
		if from == nil || k.sum < least || quiet >= idle {
			from, least, idle = link, k.sum, quiet
		}
	}
	victim = *from
	k := &d.keys[victim]
	*from = k.next
	d.keyIndex.remove(d.tagOf(k), victim)
	d.waste += int(k.nameLen)
	d.evictions++
	return victim
}

func (d *slabs) tagOf(k *key) uint32 {
	return keyTag(d.groups[k.group].hash, k.slot, k.period, maphash.Bytes(d.seed, d.nameOf(k)))
}

// remove gives up the counters of one slot, group and name.
func (d *slabs) remove(hash uint64, slot uint16, group, name string) (removed bool) {
	gi := d.findGroup(hash, group)
	if gi == 0 {
		return false
	}
	var b *bundle
	list := &d.groups[gi].totals
	if name != "" {
		if b = d.findBundle(&d.groups[gi], slot); b == nil {
			return false
		}
		list = &b.keys
	}
	for *list != 0 {
		ki := *list
		k := &d.keys[ki]
		if k.slot != slot || string(d.nameOf(k)) != name {
			list = &k.next
			continue
		}
		d.keyIndex.remove(d.tagOf(k), ki)
		*list = k.next
		d.freeRing(k)
		d.waste += int(unsafe.Sizeof(key{})) + int(k.nameLen)
		*k = key{}
		d.live--
		if b != nil {
			b.count--
		}
		removed = true
	}
	return removed
}

// keysOf yields the numbers of all keys of a group.
func (d *slabs) keysOf(gi uint32) iter.Seq[uint32] {
	return func(yield func(uint32) bool) {
		if gi == 0 {
			return
		}
		g := &d.groups[gi]
		for ki := g.totals; ki != 0; ki = d.keys[ki].next {
			if !yield(ki) {
				return
			}
		}
		for bi := g.bundles; bi != 0; bi = d.bundles[bi].next {
			for ki := d.bundles[bi].keys; ki != 0; ki = d.keys[ki].next {
				if !yield(ki) {
					return
				}
			}
		}
	}
}

func (d *slabs) newName(s string) uint32 {
	off := uint32(len(d.names))
	d.names = append(grow(d.names, len(s)), s...)
	return off
}

// newRing returns the offset of a ring with room for 1<<class entries.
func (d *slabs) newRing(class uint8) uint32 {
	if off := d.freeRings[class]; off != 0 {
		d.freeRings[class] = d.rings[off].sub
		return off
	}
	off := len(d.rings)
	d.rings = grow(d.rings, 1<<class)[:off+1<<class]
	return uint32(off)
}

func (d *slabs) freeRing(k *key) {
	if k.class != 0 {
		d.rings[k.ring].sub = d.freeRings[k.class]
		d.freeRings[k.class] = k.ring
	}
}

// grow makes room for n more with an eighth in reserve: append would take a quarter to a whole.
func grow[T any](s []T, n int) []T {
	if cap(s)-len(s) >= n {
		return s
	}
	g := make([]T, len(s), len(s)+len(s)/8+n+8)
	copy(g, s)
	return g
}

// bytes returns the memory held.
func (d *slabs) bytes() int64 {
	return int64(cap(d.keys))*int64(unsafe.Sizeof(key{})) +
		int64(cap(d.groups))*int64(unsafe.Sizeof(group{})) +
		int64(cap(d.bundles))*int64(unsafe.Sizeof(bundle{})) +
		int64(cap(d.rings))*int64(unsafe.Sizeof(entry{})) +
		int64(cap(d.names)) + 8*int64(cap(d.keyIndex.slots)+cap(d.groupIndex.slots))
}

// tidy builds the shard anew if what was given up outweighs what is in use, or if numbers and
// offsets could come near their 32 bits.
func (d *slabs) tidy(now int64) {
	held := len(d.keys)*int(unsafe.Sizeof(key{})) + len(d.names)
	if d.waste > slack && d.waste > held/2 || d.waste > math.MaxInt32 {
		d.rebuild(d.alive(now))
	}
}

// alive returns a filter that keeps what has not run out at now.
func (d *slabs) alive(now int64) func(*key) bool {
	return func(k *key) bool {
		d.drop(k, uint32(subOf(now, k.period)))
		return k.sum > 0
	}
}

func (d *slabs) hasSlot(slot uint16) bool {
	for i := range d.keys {
		if d.keys[i].group != 0 && d.keys[i].slot == slot {
			return true
		}
	}
	return false
}

// sweep drops what has run out and builds the shard anew if more than one key in sixteen is empty
// or the memory held is markedly more than needed.
func (d *slabs) sweep(now int64) {
	if len(d.keys) == 1 && len(d.groups) == 1 {
		return
	}
	n := d.need(d.alive(now))
	if (d.live-n.keys)*16 > d.live || int64(n.bytes()+slack) < d.bytes()*3/4 || n.keys == 0 {
		d.rebuildTo(n, func(k *key) bool { return k.sum > 0 })
	}
}

// needs are the sizes that a shard would have without garbage.
type needs struct{ keys, groups, bundles, rings, names int }

func (n needs) bytes() int {
	return n.keys*(int(unsafe.Sizeof(key{}))+12) + n.groups*(int(unsafe.Sizeof(group{}))+12) +
		n.bundles*int(unsafe.Sizeof(bundle{})) + n.rings*int(unsafe.Sizeof(entry{})) + n.names
}

func (d *slabs) need(keep func(*key) bool) (n needs) {
	for gi := range d.groups {
		had := n.keys
		for ki := range d.keysOf(uint32(gi)) {
			k := &d.keys[ki]
			if keep(k) {
				n.keys++
				n.names += int(k.nameLen)
				if c := classFor(k.ringLen); c > 0 {
					n.rings += 1 << c
				}
			}
		}
		if n.keys > had {
			g := &d.groups[gi]
			n.groups++
			n.names += int(g.nameLen)
			for bi := g.bundles; bi != 0; bi = d.bundles[bi].next {
				n.bundles++
			}
		}
	}
	return n
}

// classFor returns the class of the smallest ring with room for n entries.
func classFor(n uint16) uint8 {
	if n == 0 {
		return 0
	}
	return uint8(max(1, bits.Len16(n-1)))
}

// rebuild copies the keys that keep wants into fresh slabs and forgets the old ones.
func (d *slabs) rebuild(keep func(*key) bool) { d.rebuildTo(d.need(keep), keep) }

func (d *slabs) rebuildTo(n needs, keep func(*key) bool) {
	f := slabs{
		keys:       make([]key, 1, 1+n.keys+n.keys/16),
		groups:     make([]group, 1, 1+n.groups+n.groups/16),
		bundles:    make([]bundle, 1, 1+n.bundles+n.bundles/16),
		rings:      make([]entry, 2, 2+n.rings+n.rings/16),
		names:      make([]byte, 0, n.names+n.names/16),
		keyIndex:   newIndex(n.keys),
		groupIndex: newIndex(n.groups),
		evictions:  d.evictions, perGroup: d.perGroup, seed: d.seed,
	}
	var kept []uint32
	for gi := range d.groups {
		kept = kept[:0]
		for ki := range d.keysOf(uint32(gi)) {
			if keep(&d.keys[ki]) {
				kept = append(kept, ki)
			}
		}
		if len(kept) == 0 {
			continue
		}
		g := &d.groups[gi]
		to := f.newGroup(g.hash, string(d.groupName(g)))
		for i := range kept { // last first, as each goes to the head of its list
			f.adopt(d, &d.keys[kept[len(kept)-1-i]], to)
		}
	}
	*d = f
}

// adopt copies a key of other slabs into group gi.
func (d *slabs) adopt(from *slabs, k *key, gi uint32) {
	name := from.nameOf(k)
	c := *k
	c.group, c.name, c.ringHead, c.ring, c.class = gi, uint32(len(d.names)), 0, 0, classFor(k.ringLen)
	d.names = append(grow(d.names, len(name)), name...)
	if c.class > 0 {
		c.ring = d.newRing(c.class)
		for i := range int(k.ringLen) {
			d.rings[c.ring+uint32(i)] = *from.older(k, i)
		}
	}
	list := &d.groups[gi].totals
	if len(name) > 0 {
		b := d.bundleOf(gi, k.slot)
		b.count++
		b.keep = b.keep || from.keeps(k)
		list = &b.keys
	}
	ki := uint32(len(d.keys))
	c.next, *list = *list, ki
	d.keys = append(grow(d.keys, 1), c)
	d.keyIndex.put(d.tagOf(&c), ki)
	d.live++
}
