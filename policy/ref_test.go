package policy

import (
	"strings"
	"testing"
)

func FuzzRef(f *testing.F) {
	f.Add(uint64(0), "00000000", []byte("key"))
	f.Add(uint64(1)<<40-1, "zzzzzzzz", []byte{})
	f.Add(uint64(12345), "OIL0UIlo", []byte("0123456789abcdef"))
	f.Fuzz(func(t *testing.T, seq uint64, text string, k []byte) {
		var key [16]byte
		copy(key[:], k)
		seq &= 1<<40 - 1
		ref := RefOf(seq, key)
		if len(ref) != 8 || strings.Trim(ref, refAlphabet) != "" {
			t.Fatalf("RefOf(%d) = %q: not 8 of the alphabet", seq, ref)
		}
		for _, r := range []string{ref, strings.ToUpper(ref)} {
			if back, ok := SeqOf(r, key); !ok || back != seq {
				t.Fatalf("SeqOf(%q) = %d, %v; want %d", r, back, ok, seq)
			}
		}
		if n, ok := SeqOf(text, key); ok {
			canonical := strings.NewReplacer("o", "0", "i", "1", "l", "1").Replace(strings.ToLower(text))
			if r := RefOf(n, key); r != canonical {
				t.Fatalf("RefOf(SeqOf(%q)) = %q, want %q", text, r, canonical)
			}
		}
	})
}

func TestReferencesOfNeighboursShareNothing(t *testing.T) {
	key := [16]byte{7}
	same := 0
	for seq := range uint64(1000) {
		a, b := RefOf(seq, key), RefOf(seq+1, key)
		for i := range a {
			if a[i] == b[i] {
				same++
			}
		}
		if RefOf(seq, key) == RefOf(seq, [16]byte{8}) {
			t.Errorf("reference of %d is the same under another key", seq)
		}
	}
	if same > 500 { // 8000 places, one in 32 by chance: 250
		t.Errorf("%d of 8000 characters are those of the reference before", same)
	}
}

func TestWhatIsNoReference(t *testing.T) {
	for _, s := range []string{"", "0000000", "000000000", "0000000u", "0000 000", "00000-00", "0000000\x00", "ééééé"} {
		if n, ok := SeqOf(s, [16]byte{}); ok {
			t.Errorf("SeqOf(%q) = %d, want it refused", s, n)
		}
	}
}

func BenchmarkRefOf(b *testing.B) {
	b.ReportAllocs()
	for i := range b.N {
		RefOf(uint64(i), [16]byte{1})
	}
}
