package eximacl

import (
	"log/slog"
	"sync"
	"time"
)

// brakePeriod is how often one kind of warning is logged at most.
const brakePeriod = 10 * time.Second

// logBrake lets one warning of a kind through in each period and counts the others: a
// stranger who can make us warn must not fill the disk.
type logBrake struct {
	mu    sync.Mutex
	kinds map[string]*braked // guarded by mu; the kinds are our own few words
}

type braked struct {
	next    time.Time
	dropped int
}

// pass reports whether to log now and how many were dropped since the last one.
func (b *logBrake) pass(kind string, now time.Time) (ok bool, dropped int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	k := b.kinds[kind]
	if k == nil {
		k = new(braked)
		if b.kinds == nil {
			b.kinds = make(map[string]*braked)
		}
		b.kinds[kind] = k
	}
	if now.Before(k.next) {
		k.dropped++
		return false, 0
	}
	dropped, k.dropped = k.dropped, 0
	k.next = now.Add(brakePeriod)
	return true, dropped
}

func (s *Server) warn(kind, message string, attrs ...any) {
	ok, dropped := s.brake.pass(kind, s.Now())
	if !ok {
		return
	}
	if dropped > 0 {
		attrs = append(attrs, slog.Int("more", dropped))
	}
	s.Log.Warn(message, attrs...)
}
