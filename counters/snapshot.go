package counters

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
)

// A snapshot is the magic and a version, then sections: kind (1 byte), length (4), payload, and
// the CRC-32C of all bytes of the file up to here (4). Integers are little endian or varints,
// strings have their length in front.
//
//	H  wall and boot time, boot id, secret of the group hash, number of shards, slots
//	S  one for each shard: its number, the highest decision it contains, then records:
//	   1 group: name
//	   2 key of the group before: slot, name, period, number of the oldest sub-window,
//	     how many entries, each: sub-windows since the one before, units
//	   3 the same of a name that is kept
//	E  the end: how many shards there were
const (
	magic         = "osmcount"
	formatVersion = 1

	sectionHeader = 'H'
	sectionShard  = 'S'
	sectionEnd    = 'E'

	recordGroup = 1
	recordKey   = 2
	recordKept  = 3

	maxSection = 1 << 30
	maxSlots   = 1 << 16
	maxTime    = 1 << 50 // milliseconds, 35,000 years
)

// crcTable is a constant in disguise.
var crcTable = crc32.MakeTable(crc32.Castagnoli)

// Header says when and where a snapshot was written.
type Header struct {
	WallMs, BootMs int64 // the same moment on both clocks
	BootID         string
	Slots          []string // fingerprint by slot number, "" = unused: its counters are left out
}

func (h *Header) validate() error {
	outside := func(ms int64) bool { return ms > maxTime || ms < -maxTime }
	if outside(h.WallMs) || outside(h.BootMs) {
		return fmt.Errorf("time out of range: wall %d, boot %d", h.WallMs, h.BootMs)
	}
	if len(h.BootID) > maxName || len(h.Slots) > maxSlots {
		return fmt.Errorf("%d bytes of boot id or %d slots are too many", len(h.BootID), len(h.Slots))
	}
	for i, s := range h.Slots {
		if len(s) > maxName {
			return fmt.Errorf("fingerprint of slot %d has %d bytes", i, len(s))
		}
	}
	return nil
}

// sectionWriter frames sections.
type sectionWriter struct {
	w   io.Writer
	crc uint32
	buf []byte // one section: begin, append, flush
}

func (w *sectionWriter) begin(kind byte) { w.buf = append(w.buf[:0], kind, 0, 0, 0, 0) }

func (w *sectionWriter) flush() error {
	if len(w.buf)-5 > maxSection {
		return fmt.Errorf("section of %d bytes is too large", len(w.buf)-5)
	}
	binary.LittleEndian.PutUint32(w.buf[1:], uint32(len(w.buf)-5))
	w.crc = crc32.Update(w.crc, crcTable, w.buf)
	w.buf = binary.LittleEndian.AppendUint32(w.buf, w.crc)
	w.crc = crc32.Update(w.crc, crcTable, w.buf[len(w.buf)-4:])
	_, err := w.w.Write(w.buf)
	return err
}

// WriteSnapshot writes all counters that hold something at h.BootMs. It copies one shard after
// another under its lock and writes outside of it. While stored decisions are still being
// replayed it must not be called: the snapshot would claim to contain them.
func (t *Table) WriteSnapshot(w io.Writer, h Header) error {
	if err := h.validate(); err != nil {
		return fmt.Errorf("write snapshot of counters: %w", err)
	}
	sw := &sectionWriter{w: w}
	sw.buf = binary.LittleEndian.AppendUint16([]byte(magic), formatVersion)
	sw.crc = crc32.Update(0, crcTable, sw.buf)
	if _, err := w.Write(sw.buf); err != nil {
		return fmt.Errorf("write snapshot of counters: %w", err)
	}
	sw.begin(sectionHeader)
	sw.buf = t.appendHeader(sw.buf, h)
	if err := sw.flush(); err != nil {
		return fmt.Errorf("write snapshot of counters: %w", err)
	}
	for i := range t.shards {
		s := &t.shards[i]
		sw.begin(sectionShard)
		sw.buf = binary.AppendUvarint(sw.buf, uint64(i))
		s.mu.Lock()
		// Numbers are given under the locks: whoever got one up to this and touches this shard
		// has finished, and whoever gets a greater one has not begun here.
		sw.buf = binary.LittleEndian.AppendUint64(sw.buf, t.seq.Load())
		sw.buf = s.appendTo(sw.buf, h)
		s.mu.Unlock()
		if err := sw.flush(); err != nil {
			return fmt.Errorf("write snapshot of counters: %w", err)
		}
	}
	sw.begin(sectionEnd)
	sw.buf = binary.AppendUvarint(sw.buf, uint64(len(t.shards)))
	if err := sw.flush(); err != nil {
		return fmt.Errorf("write snapshot of counters: %w", err)
	}
	return nil
}

func (t *Table) appendHeader(b []byte, h Header) []byte {
	b = binary.AppendVarint(b, h.WallMs)
	b = binary.AppendVarint(b, h.BootMs)
	b = appendString(b, h.BootID)
	b = binary.LittleEndian.AppendUint64(b, t.keys[0])
	b = binary.LittleEndian.AppendUint64(b, t.keys[1])
	b = binary.AppendUvarint(b, uint64(len(t.shards)))
	b = binary.AppendUvarint(b, uint64(len(h.Slots)))
	for _, s := range h.Slots {
		b = appendString(b, s)
	}
	return b
}

func appendString[T string | []byte](b []byte, s T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// appendTo writes the records of one shard. The shard must be locked.
func (d *slabs) appendTo(b []byte, h Header) []byte {
	for gi := range d.groups {
		named := false
		for ki := range d.keysOf(uint32(gi)) {
			k := &d.keys[ki]
			cur := subOf(h.BootMs, k.period)
			if d.drop(k, uint32(cur)); k.sum == 0 || int(k.slot) >= len(h.Slots) || h.Slots[k.slot] == "" {
				continue
			}
			if !named {
				b = appendString(append(b, recordGroup), d.groupName(&d.groups[gi]))
				named = true
			}
			b = d.appendKey(b, k, cur)
		}
	}
	return b
}

func (d *slabs) appendKey(b []byte, k *key, cur int64) []byte {
	record := byte(recordKey)
	if k.nameLen > 0 && d.keeps(k) {
		record = recordKept
	}
	b = binary.AppendUvarint(append(b, record), uint64(k.slot))
	b = appendString(b, d.nameOf(k))
	b = binary.AppendUvarint(b, uint64(k.period))
	b = binary.AppendVarint(b, cur-int64(int32(uint32(cur)-k.first)))
	b = binary.AppendUvarint(b, uint64(k.ringLen)+1)
	before := k.first
	d.entries(k, func(e entry) bool {
		b = binary.AppendUvarint(b, uint64(e.sub-before))
		b = binary.AppendUvarint(b, uint64(e.n))
		before = e.sub
		return true
	})
	return b
}
