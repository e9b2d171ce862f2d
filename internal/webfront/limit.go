package webfront

import (
	"sync"
	"time"
)

// Wrong links that one visitor may try in a minute, and how many visitors are remembered.
const (
	wrongTries  = 10
	wrongPeriod = time.Minute
	maxVisitors = 1000
)

// limiter slows down who tries links. A link cannot be guessed (the daemon's are longer
// than any key); this keeps the log and the daemon quiet. It is kept for each visitor, so
// that one who tries cannot keep the others out.
type limiter struct {
	now func() time.Time

	mu       sync.Mutex // guards visitors
	visitors map[string]*tries
}

type tries struct {
	since time.Time
	n     int
}

func newLimiter(now func() time.Time) *limiter {
	return &limiter{now: now, visitors: map[string]*tries{}}
}

// begin counts a try before it is known to be wrong, so that many at once do not slip
// through; it reports whether there may be one.
func (l *limiter) begin(visitor string) bool {
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.visitors[visitor]
	if t == nil || now.Sub(t.since) >= wrongPeriod {
		l.makeRoom(now)
		t = &tries{since: now}
		l.visitors[visitor] = t
	}
	if t.n >= wrongTries {
		return false
	}
	t.n++
	return true
}

// right takes back a try that was none.
func (l *limiter) right(visitor string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t := l.visitors[visitor]; t != nil && t.n > 0 {
		t.n--
	}
}

// makeRoom forgets whose minute is over, and the oldest if that was not enough.
func (l *limiter) makeRoom(now time.Time) {
	if len(l.visitors) < maxVisitors {
		return
	}
	oldest, at := "", time.Time{}
	for name, t := range l.visitors {
		if now.Sub(t.since) >= wrongPeriod {
			delete(l.visitors, name)
			continue
		}
		if at.IsZero() || t.since.Before(at) {
			oldest, at = name, t.since
		}
	}
	if len(l.visitors) >= maxVisitors {
		delete(l.visitors, oldest)
	}
}
