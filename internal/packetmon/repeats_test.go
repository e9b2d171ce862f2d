package packetmon

import (
	"net/netip"
	"testing"
)

func TestRepeatsAreKnownForTheirTimeWithinBounds(t *testing.T) {
	key := func(i int) connectionKey {
		return connectionKey{netip.AddrPortFrom(netip.IPv6Loopback(), uint16(i)), netip.MustParseAddrPort("192.0.2.1:25"), uint64(i)}
	}
	r := newRepeats(maxRepeats)
	if r.seen(key(1), 1) || !r.seen(key(1), int64(repeatTime)) {
		t.Error("a repeat is not known within its time")
	}
	other := key(1)
	other.socket++
	if r.seen(other, 1) {
		t.Error("another connection between the same ends is taken for a repeat")
	}
	if r.seen(key(1), 1+int64(repeatTime)) || !r.seen(key(1), 2+int64(repeatTime)) {
		t.Error("a repeat is known after its time, or not known again")
	}
	r = newRepeats(maxRepeats)
	for i := range 3 * maxRepeats {
		if r.seen(key(i), 1) {
			t.Fatalf("%d: seen before", i)
		}
	}
	if len(r.until) != maxRepeats || len(r.order) != maxRepeats || r.forgot != 2*maxRepeats {
		t.Errorf("got %d and %d remembered, %d forgotten, want %d, %d", len(r.until), len(r.order), r.forgot, maxRepeats, 2*maxRepeats)
	}
	if r.seen(key(0), 1) || !r.seen(key(3*maxRepeats-1), 1) {
		t.Error("not the oldest went")
	}
	forgot := r.forgot
	for i := range maxRepeats {
		r.seen(key(5*maxRepeats+i), 2+int64(repeatTime))
	}
	if r.forgot != forgot || len(r.until) != maxRepeats {
		t.Errorf("those whose time is over count as forgotten: %d more", r.forgot-forgot)
	}
}

func BenchmarkRepeats(b *testing.B) {
	r := newRepeats(maxRepeats)
	to := netip.MustParseAddrPort("192.0.2.1:25")
	i := uint64(0)
	for b.Loop() {
		i++
		r.seen(connectionKey{to, to, i}, int64(i))
	}
}
