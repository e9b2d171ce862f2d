package main

import (
	"sync/atomic"

	"osm/policy"
)

// At the door the processes of a local submission decide whose it is only for some; for the
// others they are evidence, and of a sender in full flood some are enough: each look costs
// the host twice as much as the whole decision.
const (
	looksPerSecond = 25
	looksAtOnce    = 50
)

// looks bounds how often a user's processes are looked at for evidence alone. Users whose
// numbers share a place share its looks.
type looks [1024]atomic.Int64 // when the place is as good as new, milliseconds since boot

// take reports whether one more look may be had.
func (l *looks) take(uid, now int64) bool {
	const each = 1000 / looksPerSecond
	place := &l[uint64(uid)%uint64(len(l))]
	for {
		free := place.Load()
		next := max(free, now) + each
		if next > now+looksAtOnce*each {
			return false
		}
		if place.CompareAndSwap(free, next) {
			return true
		}
	}
}

// looksAt reports whether the processes that submitted s are to be looked at.
func (f *flow) looksAt(s *policy.Submission, o *policy.Origin) bool {
	if policy.ChainDecides(s, f.panel.Map()) || f.looks.take(s.CallerUID, f.clock().Boot) {
		return true
	}
	o.Spared = true
	return false
}
