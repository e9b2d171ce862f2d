package policy

import (
	"encoding/binary"
	"math/bits"
)

// refAlphabet is Crockford's base 32 in lower case: without i, l, o and u, so that a
// reference can be read out on the telephone.
const refAlphabet = "0123456789abcdefghjkmnpqrstvwxyz"

// refLen is the length of a reference: 8 digits of 5 bits.
const refLen = 8

const (
	refHalf = 20 // bits of each half of the Feistel network
	refMask = 1<<refHalf - 1
)

// RefOf makes the reference of decision seq: 8 characters that tell a stranger neither
// how many messages this server sends nor the reference of any other message.
//
// It is a permutation of the low 40 bits of seq (a balanced Feistel network of four
// rounds under key), so that [SeqOf] finds the decision without any index. The numbers
// repeat after 2^40 decisions: seven years at 5,000 a second.
func RefOf(seq uint64, key [16]byte) string {
	left, right := uint32(seq>>refHalf)&refMask, uint32(seq)&refMask
	k0, k1 := refKey(key)
	for round := uint64(0); round < 4; round++ {
		left, right = right, left^refRound(k0, k1, round, right)
	}
	v := uint64(left)<<refHalf | uint64(right)
	var b [refLen]byte
	for i := refLen - 1; i >= 0; i-- {
		b[i] = refAlphabet[v&31]
		v >>= 5
	}
	return string(b[:])
}

// SeqOf is the inverse of [RefOf]. It reads capitals and, as Crockford says, o as 0 and
// i and l as 1; ok is false for anything that is not 8 such characters. Every string of
// that form has a number: whether such a decision exists, the store knows.
func SeqOf(ref string, key [16]byte) (seq uint64, ok bool) {
	if len(ref) != refLen {
		return 0, false
	}
	var v uint64
	for i := 0; i < refLen; i++ {
		d, ok := refDigit(ref[i])
		if !ok {
			return 0, false
		}
		v = v<<5 | uint64(d)
	}
	left, right := uint32(v>>refHalf)&refMask, uint32(v)&refMask
	k0, k1 := refKey(key)
	for round := 3; round >= 0; round-- {
		left, right = right^refRound(k0, k1, uint64(round), left), left
	}
	return uint64(left)<<refHalf | uint64(right), true
}

func refKey(key [16]byte) (k0, k1 uint64) {
	return binary.LittleEndian.Uint64(key[:8]), binary.LittleEndian.Uint64(key[8:])
}

// refRound is SipHash-1-3 of one word. hash/maphash would do but for its seed, which
// changes with every start: a reference in somebody's log must stay good.
func refRound(k0, k1, round uint64, half uint32) uint32 {
	m := round<<32 | uint64(half)
	v0, v1 := k0^0x736f6d6570736575, k1^0x646f72616e646f6d
	v2, v3 := k0^0x6c7967656e657261, k1^0x7465646279746573
	v3 ^= m
	for i := 0; i < 4; i++ {
		if i == 1 {
			v0 ^= m
			v2 ^= 0xff
		}
		v0 += v1
		v1 = bits.RotateLeft64(v1, 13) ^ v0
		v0 = bits.RotateLeft64(v0, 32)
		v2 += v3
		v3 = bits.RotateLeft64(v3, 16) ^ v2
		v0 += v3
		v3 = bits.RotateLeft64(v3, 21) ^ v0
		v2 += v1
		v1 = bits.RotateLeft64(v1, 17) ^ v2
		v2 = bits.RotateLeft64(v2, 32)
	}
	h := v0 ^ v1 ^ v2 ^ v3
	return uint32(h^h>>refHalf^h>>(2*refHalf)) & refMask
}

// refDigit gives the value of one character of a reference.
func refDigit(c byte) (uint8, bool) {
	if c >= 'A' && c <= 'Z' {
		c += 'a' - 'A'
	}
	switch c {
	case 'o':
		return 0, true
	case 'i', 'l':
		return 1, true
	}
	for i := 0; i < len(refAlphabet); i++ {
		if refAlphabet[i] == c {
			return uint8(i), true
		}
	}
	return 0, false
}
