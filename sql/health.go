package store

import (
	"os"
	"sync"
	"time"
)

// Health is how the store is, for status, alarms and metrics.
type Health struct {
	OK       bool   `json:"ok"`
	Problem  string `json:"problem,omitempty"` // why the database cannot be written
	Since    Time   `json:"since"`             // since when
	Queued   int    `json:"queued"`            // decisions in memory that are not on disk yet
	QueuedMB int    `json:"queued_mb"`
	Lag      Period `json:"lag"`     // how long the oldest of them has waited
	Dropped  uint64 `json:"dropped"` // decisions for which there was no room
	Written  uint64 `json:"written"`
	DBBytes  int64  `json:"db_bytes"`
	LogBytes int64  `json:"log_bytes"`           // of the write-ahead log; large if a reader never stops
	SetAside string `json:"set_aside,omitempty"` // the damaged database that was last set aside
	Lost     string `json:"lost,omitempty"`      // its tables of which not all could be read
}

// healthState is what the writer last found.
type healthState struct {
	mu       sync.Mutex // guards what follows
	problem  string
	since    time.Time
	setAside string
	lost     string
}

// Health tells how the store is.
func (s *Store) Health() Health {
	h := Health{DBBytes: sizeOf(s.o.Path), LogBytes: sizeOf(s.o.Path + "-wal"), Written: s.written.Load()}
	var bytes int
	h.Queued, bytes, h.Dropped = s.q.depth()
	h.QueuedMB = bytes >> 20
	if at := s.q.oldest(); !at.IsZero() {
		h.Lag = Period(max(s.o.Now().Sub(at), 0)) // the clock may have been set
	}
	s.health.mu.Lock()
	defer s.health.mu.Unlock()
	h.Problem, h.Since, h.SetAside, h.Lost = s.health.problem, Time{s.health.since}, s.health.setAside, s.health.lost
	h.OK = h.Problem == ""
	return h
}

func sizeOf(path string) int64 {
	if fi, err := os.Stat(path); err == nil {
		return fi.Size()
	}
	return 0
}

// failed notes why the database cannot be written.
func (s *Store) failed(doing string, err error) {
	s.health.mu.Lock()
	defer s.health.mu.Unlock()
	first := s.health.problem == ""
	s.health.problem = doing + ": " + err.Error()
	if first {
		s.health.since = s.o.Now()
		s.log.Error("database cannot be written: decisions stay in memory", "err", s.health.problem)
	}
}

// mended notes that it can be written again, and reports what was lost meanwhile.
func (s *Store) mended() {
	s.health.mu.Lock()
	defer s.health.mu.Unlock()
	if s.health.problem != "" {
		s.log.Warn("database can be written again", "since", s.health.since)
		s.health.problem, s.health.since = "", time.Time{}
	}
}

// backoff is how many ticks to wait before the next attempt: 1, 2, 4 … 32.
type backoff struct{ wait, next int }

const maxBackoff = 32 // ticks of 200 ms

// failed makes the next attempt later.
func (b *backoff) failed() {
	b.next = min(max(b.next*2, 1), maxBackoff)
	b.wait = b.next
}

// tick lets time pass.
func (b *backoff) tick() {
	if b.wait > 0 {
		b.wait--
	}
}

// ready reports whether to try.
func (b *backoff) ready() bool { return b.wait == 0 }

// problemNow is the present problem, "" if there is none.
func (h *healthState) problemNow() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.problem
}
