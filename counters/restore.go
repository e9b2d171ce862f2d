package counters

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/maphash"
	"io"
)

// restored is what Replay must know of the snapshot that the table came from. It is never changed
// after it was published.
type restored struct {
	hash groupHash
	seqs []uint64 // by shard of the table that wrote it
	now  int64
	// slots are those whose counters came from the snapshot; of others it contained nothing.
	slots [maxSlots / 64]uint64
}

// contains tells whether the snapshot contained what the decision with this number counted for a
// group. The shard is that of the writing table, so it is known for groups not in the snapshot too.
func (r *restored) contains(group string, slot uint16, seq uint64) bool {
	return r != nil && r.slots[slot/64]&(1<<(slot%64)) != 0 &&
		seq <= r.seqs[shardOf(r.hash.sum(group), len(r.seqs))]
}

// DropRestore forgets what the snapshot contained, once all stored decisions are replayed: from
// then on Replay counts whatever it is given.
func (t *Table) DropRestore() { t.restored.Store(nil) }

func (t *Table) forgetRestored(slot uint16) {
	for {
		old := t.restored.Load()
		if old == nil {
			return
		}
		r := *old
		r.slots[slot/64] &^= 1 << (slot % 64)
		if t.restored.CompareAndSwap(old, &r) {
			return
		}
	}
}

// Replay counts a stored decision that had been counted at the time at, given in today's boot
// clock: Binding and Counting asks always, Watching ones if they fit at that time. What the
// snapshot read before contained is left out. Decisions must come in the order of their numbers
// and only once each, and none that this process has made itself, unless for a slot that was new
// after it. A time that seems to be of the future is taken as the moment of the start: the wall
// clock that moved it is wrong, and nobody is to be stopped for longer than a period.
func (t *Table) Replay(at int64, seq uint64, asks []Ask) {
	var buf [inlineAsks]place
	ps, set := t.places(asks, buf[:0])
	t.lock(&set)
	defer t.unlock(&set)
	r := t.restored.Load()
	if r != nil {
		at = min(at, r.now)
	}
	for i := range asks {
		a := &asks[i]
		period := int64(periodOf(a.Period))
		if a.Units == 0 || r.contains(clip(a.Group), a.Slot, seq) || r != nil && r.now-at > 2*period {
			continue
		}
		s := &t.shards[ps[i].shard]
		sub := uint32(subOf(at, uint32(period)))
		if a.Kind == Watching {
			used := int64(0)
			if s.find(&ps[i], a); ps[i].key != 0 {
				used = s.used(&s.keys[ps[i].key], sub)
			}
			if used+int64(a.Units) > max(a.Max, 0) {
				continue
			}
		}
		s.insert(s.findOrCreate(&ps[i], a, at), sub, a.Units)
		s.tidy(at)
	}
}

// ReadSnapshot restores the counters of a snapshot. slot maps the fingerprint of a slot of then to
// its present number; ok = false leaves its counters out. now is the present moment; where its
// BootID is not the snapshot's, times are moved by the wall clock, rounded towards counting longer.
// It returns the snapshot's header and the number beyond which stored decisions must be replayed.
//
// Nothing is changed until the whole file has been read and found right: after an error a table
// that was empty is still empty. What was counted in the meantime is kept beside it.
func (t *Table) ReadSnapshot(r io.Reader, now Header, slot func(fingerprint string) (uint16, bool)) (h Header, minSeq uint64, err error) {
	l := &loader{table: t, now: now.BootMs}
	if err := l.load(r, now, slot); err != nil {
		return Header{}, 0, fmt.Errorf("read snapshot of counters: %w", err)
	}
	t.SetSeq(l.maxSeq())
	published := l.restored // not a pointer into the loader, which would keep all of it alive
	t.restored.Store(&published)
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		l.shards[i].merge(&s.slabs, now.BootMs)
		s.slabs = l.shards[i]
		s.mu.Unlock()
	}
	minSeq = l.restored.seqs[0]
	for _, seq := range l.restored.seqs {
		minSeq = min(minSeq, seq)
	}
	return l.header, minSeq, nil
}

// merge adds what other slabs with the same seed hold.
func (d *slabs) merge(from *slabs, now int64) {
	d.evictions += from.evictions
	for gi := range from.groups {
		g := &from.groups[gi]
		for ki := range from.keysOf(uint32(gi)) {
			k := &from.keys[ki]
			a := Ask{Slot: k.slot, Group: string(from.groupName(g)), Name: string(from.nameOf(k)), Period: int64(k.period), Keep: from.keeps(k)}
			p := place{hash: g.hash, tag: from.tagOf(k)}
			to := d.findOrCreate(&p, &a, now)
			from.entries(k, func(e entry) bool {
				d.insert(to, e.sub, e.n)
				return true
			})
		}
	}
}

// loader builds fresh slabs from a snapshot.
type loader struct {
	table    *Table
	shards   []slabs
	restored restored
	header   Header
	now      int64
	shift    int64 // added to the times of another boot
	other    bool  // another boot
	slots    []int // present number by slot of then, -1 = none

	crc     uint32
	section bytes.Buffer
}

var errCut = errors.New("data ends early or is out of range")

func (l *loader) maxSeq() (seq uint64) {
	for _, s := range l.restored.seqs {
		seq = max(seq, s)
	}
	return seq
}

func (l *loader) load(r io.Reader, now Header, slot func(string) (uint16, bool)) error {
	l.shards = make([]slabs, len(l.table.shards))
	for i := range l.shards {
		l.shards[i] = newSlabs(l.table.seed, l.table.perGroup)
	}
	var start [len(magic) + 2]byte
	if _, err := io.ReadFull(r, start[:]); err != nil {
		return fmt.Errorf("its beginning: %w", err)
	}
	if string(start[:len(magic)]) != magic {
		return errors.New("not a snapshot of counters")
	}
	if v := binary.LittleEndian.Uint16(start[len(magic):]); v != formatVersion {
		return fmt.Errorf("version %d is not known", v)
	}
	l.crc = crc32.Update(0, crcTable, start[:])
	c, err := l.next(r, sectionHeader)
	if err != nil {
		return fmt.Errorf("header: %w", err)
	}
	if err := l.readHeader(c, now, slot); err != nil {
		return fmt.Errorf("header: %w", err)
	}
	for i := range l.restored.seqs {
		c, err := l.next(r, sectionShard)
		if err != nil {
			return fmt.Errorf("shard %d: %w", i, err)
		}
		if err := l.readShard(c, i); err != nil {
			return fmt.Errorf("shard %d: %w", i, err)
		}
	}
	if c, err = l.next(r, sectionEnd); err != nil {
		return fmt.Errorf("end: %w", err)
	}
	if n := c.uvarint(maxShards); c.bad || int(n) != len(l.restored.seqs) || len(c.b) > 0 {
		return fmt.Errorf("end: %w", errCut)
	}
	if n, err := r.Read(start[:1]); n > 0 || err != io.EOF {
		return fmt.Errorf("something follows the end (%w)", errors.Join(errCut, err))
	}
	return nil
}

// next reads one section and checks its kind and CRC. Memory grows with what is there to read,
// not with the length that is announced.
func (l *loader) next(r io.Reader, kind byte) (*cursor, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := int64(binary.LittleEndian.Uint32(head[1:]))
	if head[0] != kind || n > maxSection {
		return nil, fmt.Errorf("section %.10q of %d bytes is not expected here", head[:1], n)
	}
	l.section.Reset()
	if got, err := io.CopyN(&l.section, r, n); err != nil {
		return nil, fmt.Errorf("%d of %d bytes: %w", got, n, err)
	}
	l.crc = crc32.Update(crc32.Update(l.crc, crcTable, head[:]), crcTable, l.section.Bytes())
	var sum [4]byte
	if _, err := io.ReadFull(r, sum[:]); err != nil {
		return nil, err
	}
	if binary.LittleEndian.Uint32(sum[:]) != l.crc {
		return nil, errors.New("checksum is wrong")
	}
	l.crc = crc32.Update(l.crc, crcTable, sum[:])
	return &cursor{b: l.section.Bytes()}, nil
}

func (l *loader) readHeader(c *cursor, now Header, slot func(string) (uint16, bool)) error {
	h := &l.header
	h.WallMs, h.BootMs, h.BootID = c.varint(), c.varint(), c.str()
	l.restored.hash = groupHash{c.uint64(), c.uint64()}
	shards, slots := c.uvarint(maxShards), c.uvarint(maxSlots)
	if c.bad || shards == 0 || shards&(shards-1) != 0 {
		return errCut
	}
	for i := 0; i < int(slots) && !c.bad; i++ {
		h.Slots = append(h.Slots, c.str())
	}
	if c.bad || len(c.b) > 0 {
		return errCut
	}
	if err := errors.Join(h.validate(), now.validate()); err != nil {
		return err
	}
	l.restored.seqs = make([]uint64, shards)
	l.restored.now = now.BootMs
	for _, fingerprint := range h.Slots {
		to := -1
		if fingerprint != "" {
			if n, ok := slot(fingerprint); ok {
				to = int(n)
				l.restored.slots[n/64] |= 1 << (n % 64)
			}
		}
		l.slots = append(l.slots, to)
	}
	if l.other = h.BootID == "" || h.BootID != now.BootID; l.other {
		// Each clock is cut to a millisecond: two more make sure that nothing counts for too short.
		l.shift = (now.BootMs - now.WallMs) - (h.BootMs - h.WallMs) + 2
	}
	return nil
}

func (l *loader) readShard(c *cursor, want int) error {
	if n := c.uvarint(maxShards); c.bad || int(n) != want {
		return errCut
	}
	l.restored.seqs[want] = c.uint64()
	var group string
	for !c.bad && len(c.b) > 0 {
		switch record := c.byte(); record {
		case recordGroup:
			group = c.str()
		case recordKey, recordKept:
			l.readKey(c, group, record == recordKept)
		default:
			c.bad = true
		}
	}
	if c.bad {
		return errCut
	}
	return nil
}

// readKey reads one key and counts what has not run out.
func (l *loader) readKey(c *cursor, group string, kept bool) {
	slot, name := c.uvarint(maxSlots-1), c.str()
	a := Ask{Group: group, Name: name, Period: int64(c.uvarint(1<<32 - 1)), Keep: kept}
	sub, n := c.varint(), c.uvarint(maxEntries+1)
	if c.bad || int(slot) >= len(l.slots) || a.Period == 0 || sub > (1<<58)/a.Period || sub < -(1<<58)/a.Period {
		c.bad = true
		return
	}
	keep := l.slots[slot] >= 0
	a.Slot = uint16(max(l.slots[slot], 0))
	t, period := l.table, periodOf(a.Period)
	cur := subOf(l.now, period)
	var d *slabs
	var p place
	for range n {
		gap, units := c.uvarint(subs), c.uvarint(1<<32-1)
		if c.bad || units == 0 {
			c.bad = true
			return
		}
		sub += int64(gap)
		to := min(l.subNow(sub, period), cur)
		if !keep || cur-to > subs {
			continue
		}
		if d == nil {
			hash := t.keys.sum(group)
			d = &l.shards[shardOf(hash, len(t.shards))]
			p = place{hash: hash, tag: keyTag(hash, a.Slot, period, maphash.String(t.seed, name))}
			d.findOrCreate(&p, &a, l.now)
		}
		d.insert(&d.keys[p.key], uint32(to), uint32(units))
	}
}

// subNow returns a sub-window of the snapshot in today's clock: the one of its last millisecond.
func (l *loader) subNow(sub int64, period uint32) int64 {
	if !l.other {
		return sub
	}
	return subOf(startOf(sub+1, period)-1+l.shift, period)
}

// cursor takes values off a section; once something is wrong it is bad and yields zeros.
type cursor struct {
	b   []byte
	bad bool
}

func (c *cursor) take(n uint64) []byte {
	if c.bad || n > uint64(len(c.b)) {
		c.bad, c.b = true, nil
		return nil
	}
	v := c.b[:n]
	c.b = c.b[n:]
	return v
}

func (c *cursor) byte() byte {
	if v := c.take(1); v != nil {
		return v[0]
	}
	return 0
}

func (c *cursor) uint64() uint64 {
	if v := c.take(8); v != nil {
		return binary.LittleEndian.Uint64(v)
	}
	return 0
}

func (c *cursor) uvarint(limit uint64) uint64 {
	v, n := binary.Uvarint(c.b)
	if n <= 0 || v > limit {
		c.bad, c.b = true, nil
		return 0
	}
	c.take(uint64(n))
	return v
}

func (c *cursor) varint() int64 {
	v, n := binary.Varint(c.b)
	if n <= 0 {
		c.bad, c.b = true, nil
		return 0
	}
	c.take(uint64(n))
	return v
}

func (c *cursor) str() string { return string(c.take(c.uvarint(maxName))) }
