package packetmon

import (
	"net/netip"
	"time"
)

const (
	// repeatTime is how long a connection is known again: a first packet without an answer is
	// sent again for 127 s.
	repeatTime = 130 * time.Second
	// maxRepeats is how many are remembered: those of 130 s at 380 a second.
	maxRepeats = 50_000
)

// connectionKey tells connections apart as far as a first packet does. Another connection
// between the same ends has another number.
type connectionKey struct {
	local, remote netip.AddrPort
	socket        uint64
}

// repeats remembers the connections that were seen. All are kept for the same time, so the
// oldest is the next to go. It is for one goroutine.
type repeats struct {
	limit  int
	until  map[connectionKey]int64 // boot time in nanoseconds
	order  []connectionKey         // a ring, from next on the oldest first
	next   int
	forgot uint64 // how many had to make room before their time
}

func newRepeats(limit int) *repeats {
	return &repeats{limit: limit, until: map[connectionKey]int64{}}
}

// seen reports whether k was seen before, and remembers it.
func (r *repeats) seen(k connectionKey, now int64) bool {
	if until, ok := r.until[k]; ok && now < until {
		return true
	}
	switch _, late := r.until[k]; {
	case late: // it keeps its old place: it may go early, which costs a repeat
	case len(r.order) < r.limit:
		r.order = append(r.order, k)
	default:
		if oldest := r.order[r.next]; now < r.until[oldest] {
			r.forgot++
		}
		delete(r.until, r.order[r.next])
		r.order[r.next] = k
		r.next = (r.next + 1) % r.limit
	}
	r.until[k] = now + int64(repeatTime)
	return false
}
