package counters

import (
	"math/bits"
)

// index finds a node by a hash: open addressing with linear probing in one slice without
// pointers. A slot holds the hash's tag in its upper half and the node's number, never 0, in the
// lower one. Its size need not be a power of two, so it grows by a quarter instead of doubling.
// A map of Go would take twice the memory.
type index struct {
	slots []uint64
	n     int
}

func newIndex(n int) index {
	if n == 0 {
		return index{}
	}
	return index{slots: make([]uint64, n+n/2+8)}
}

// start returns where the search for a tag begins.
func (x *index) start(tag uint32) int {
	return int(uint64(tag) * uint64(len(x.slots)) >> 32)
}

func (x *index) next(i int) int {
	if i++; i == len(x.slots) {
		return 0
	}
	return i
}

// put adds a node that is not there yet.
func (x *index) put(tag, node uint32) {
	if (x.n+1)*4 > len(x.slots)*3 {
		old := x.slots
		x.slots = make([]uint64, len(old)+len(old)/4+16)
		for _, e := range old {
			if e != 0 {
				x.place(e)
			}
		}
	}
	x.place(uint64(tag)<<32 | uint64(node))
	x.n++
}

func (x *index) place(e uint64) {
	i := x.start(uint32(e >> 32))
	for x.slots[i] != 0 {
		i = x.next(i)
	}
	x.slots[i] = e
}

// remove takes a node out and closes the gap, so that no search needs tombstones.
func (x *index) remove(tag, node uint32) {
	hole := x.start(tag)
	for x.slots[hole] != uint64(tag)<<32|uint64(node) {
		if x.slots[hole] == 0 {
			return
		}
		hole = x.next(hole)
	}
	x.n--
	for i := x.next(hole); x.slots[i] != 0; i = x.next(i) {
		// An entry may move into the hole unless its search begins after it.
		begin := x.start(uint32(x.slots[i] >> 32))
		if hole <= i && hole < begin && begin <= i || hole > i && (begin > hole || begin <= i) {
			continue
		}
		x.slots[hole] = x.slots[i]
		hole = i
	}
	x.slots[hole] = 0
}

// groupHash is the secret of the hash that places groups. It is written to snapshots, which
// hash/maphash does not allow, so that the shard which a group had then can be told later.
type groupHash [2]uint64

// sum is a folded multiplication over eight bytes at a time; without the secret nobody can
// choose groups that meet in one shard.
func (k groupHash) sum(s string) uint64 {
	h := k[0] ^ uint64(len(s))
	for len(s) >= 8 {
		h = fold(h^word(s), k[1]|1)
		s = s[8:]
	}
	var w uint64
	for i := range len(s) {
		w |= uint64(s[i]) << (8 * i)
	}
	return fold(fold(h^w, k[1]|1)^k[0], 0x9e3779b97f4a7c15)
}

func word(s string) uint64 {
	_ = s[7]
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
}

func fold(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}

// shardOf uses the hash's upper bits; the lower ones are the group's tag in its shard.
func shardOf(hash uint64, shards int) uint32 {
	return uint32(hash>>56) & uint32(shards-1)
}

// keyTag is a counter's tag in its shard.
func keyTag(group uint64, slot uint16, period uint32, name uint64) uint32 {
	return uint32(fold(name^uint64(slot)<<32^uint64(period), group|1) >> 16)
}
