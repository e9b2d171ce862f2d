package counters

import "math"

// subs is the number of sub-windows in a period. Sub-windows have numbers that count up from the
// clock's zero; counters keep the low 32 bits, which wrap after 207 days of a one-second period.
const subs = 240

// maxEntries bounds the ring of a counter: 240 older sub-windows can be alive beside the newest,
// the rest is room for sums beyond 32 bits.
const maxEntries = 256

// key is one counter. The newest sub-window stands in it, the older ones that are not empty are
// in a ring, so that a quiet counter needs none and a busy one touches it once per sub-window.
type key struct {
	sum      int64  // of all entries
	group    uint32 // 0: given up
	next     uint32 // in its list
	name     uint32 // offset in names
	ring     uint32 // offset in rings
	period   uint32 // milliseconds
	first    uint32 // oldest sub-window held
	last     uint32 // newest sub-window held
	lastN    uint32 // units in it
	slot     uint16
	nameLen  uint16
	ringLen  uint16
	class    uint8 // the ring has room for 1<<class entries; 0: there is none
	ringHead uint8
}

// entry is what a counter holds of one sub-window.
type entry struct{ sub, n uint32 }

// subOf returns the number of the sub-window that holds now; times before zero have negative ones.
func subOf(now int64, period uint32) int64 {
	p := int64(period)
	q := now * subs / p
	if now < 0 && q*p != now*subs {
		q--
	}
	return q
}

// startOf returns the first millisecond of a sub-window.
func startOf(sub int64, period uint32) int64 {
	t := sub * int64(period)
	q := t / subs
	if t > 0 && q*subs != t {
		q++
	}
	return q
}

func periodOf(ms int64) uint32 { return uint32(min(max(ms, 1), math.MaxUint32)) }

// runOut tells whether a sub-window no longer counts. The one that began exactly a period ago
// still does, and so does one that seems to be of the future.
func runOut(cur, sub uint32) bool { return int32(cur-sub) > subs }

// older returns the i-th oldest entry of k's ring.
func (d *slabs) older(k *key, i int) *entry {
	mask := uint32(1)<<k.class - 1
	return &d.rings[k.ring+(uint32(k.ringHead)+uint32(i))&mask]
}

// entries calls f for all that k holds, oldest first, until it returns false.
func (d *slabs) entries(k *key, f func(entry) bool) {
	for i := range int(k.ringLen) {
		if !f(*d.older(k, i)) {
			return
		}
	}
	if k.sum > 0 {
		f(entry{k.last, k.lastN})
	}
}

// used returns what k holds at cur, and changes nothing.
func (d *slabs) used(k *key, cur uint32) int64 {
	used := k.sum
	if used == 0 || !runOut(cur, k.first) {
		return used
	}
	d.entries(k, func(e entry) bool {
		if runOut(cur, e.sub) {
			used -= int64(e.n)
			return true
		}
		return false
	})
	return used
}

// drop removes from k what has run out at cur.
func (d *slabs) drop(k *key, cur uint32) {
	for k.sum > 0 && runOut(cur, k.first) {
		if k.ringLen == 0 {
			k.sum, k.lastN = 0, 0
			return
		}
		k.sum -= int64(d.older(k, 0).n)
		k.ringHead = uint8((uint32(k.ringHead) + 1) & (1<<k.class - 1))
		k.ringLen--
		if k.ringLen > 0 {
			k.first = d.older(k, 0).sub
		} else {
			k.first = k.last
		}
	}
}

// add counts n units at cur, after drop. A caller that comes late counts in the newest sub-window.
func (d *slabs) add(k *key, cur, n uint32) {
	switch {
	case k.sum == 0:
		k.first, k.last, k.lastN = cur, cur, n
	case int32(cur-k.last) <= 0 && uint64(k.lastN)+uint64(n) <= math.MaxUint32:
		k.lastN += n
	default:
		d.insertOlder(k, int(k.ringLen), entry{k.last, k.lastN})
		if int32(cur-k.last) > 0 {
			k.last = cur
		}
		k.lastN = n
	}
	k.sum += int64(n)
}

// insert counts n units at sub, which may be older than what k holds. What has run out beside
// the newest is left out. It serves the start only and may take a ring's length of time.
func (d *slabs) insert(k *key, sub, n uint32) {
	if k.sum == 0 || int32(sub-k.last) >= 0 {
		d.drop(k, sub)
		d.add(k, sub, n)
		return
	}
	if runOut(k.last, sub) {
		return
	}
	i := int(k.ringLen)
	for i > 0 && int32(d.older(k, i-1).sub-sub) > 0 {
		i--
	}
	k.sum += int64(n)
	if i > 0 {
		if e := d.older(k, i-1); e.sub == sub && uint64(e.n)+uint64(n) <= math.MaxUint32 {
			e.n += n
			return
		}
	}
	d.insertOlder(k, i, entry{sub, n})
	k.first = d.older(k, 0).sub
}

// insertOlder puts e into the ring before the i-th entry; the sum is the caller's. A full ring,
// which takes sixteen sums beyond 32 bits in one period, merges e with a later entry or makes the
// last one later: both only keep units for longer.
func (d *slabs) insertOlder(k *key, i int, e entry) {
	if k.ringLen == maxEntries {
		at := d.older(k, min(i, maxEntries-1))
		if i == maxEntries {
			at.sub = e.sub
		}
		n := uint64(at.n) + uint64(e.n)
		at.n = uint32(min(n, math.MaxUint32))
		k.sum -= int64(n - uint64(at.n)) // what does not fit is lost: 2^40 units are held by then
		k.first = d.older(k, 0).sub
		return
	}
	if k.class == 0 || int(k.ringLen) == 1<<k.class {
		d.growRing(k)
	}
	k.ringLen++
	for j := int(k.ringLen) - 1; j > i; j-- {
		*d.older(k, j) = *d.older(k, j-1)
	}
	*d.older(k, i) = e
}

// growRing moves k's ring into one of twice the size.
func (d *slabs) growRing(k *key) {
	class := k.class + 1
	off := d.newRing(class)
	for i := range int(k.ringLen) {
		d.rings[off+uint32(i)] = *d.older(k, i)
	}
	d.freeRing(k)
	k.ring, k.class, k.ringHead = off, class, 0
}

// freeAt returns the first millisecond after now at which at least need units have run out.
// need is at most what k holds.
func (d *slabs) freeAt(k *key, now, need int64) (at int64) {
	cur := subOf(now, k.period)
	at = -1
	d.entries(k, func(e entry) bool {
		age := int32(uint32(cur) - e.sub)
		if age > subs {
			return true
		}
		need -= int64(e.n)
		at = startOf(cur-int64(age)+subs+1, k.period)
		return need > 0
	})
	return at
}
