package control

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"osm/policy"
)

// TailLine is one line of the stream of decisions.
type TailLine struct {
	*Decision
	// Missed is how many decisions this reader was too slow for since its last line.
	Missed uint64 `json:"missed,omitempty"`
	// Idle: nothing happened for a while; it tells both ends that the other is there.
	Idle bool `json:"idle,omitempty"`
}

// Bounds of the stream.
const (
	maxTails     = 16
	tailQueue    = 256 // decisions that wait for one reader; what is more is dropped for it
	tailIdle     = 15 * time.Second
	tailDeadline = 20 * time.Second // a reader that takes nothing for so long is cut off
)

// tails hands decisions to whoever listens, and to nobody else's cost.
type tails struct {
	mu      sync.Mutex // guards readers
	readers map[*tail]struct{}
}

type tail struct {
	keep   func(*policy.Decision) bool
	lines  chan *policy.Decision
	mu     sync.Mutex // guards missed
	missed uint64
}

// publish never blocks: for a reader whose queue is full the decision is counted as
// missed.
func (t *tails) publish(d *policy.Decision) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for r := range t.readers {
		if !r.keep(d) {
			continue
		}
		select {
		case r.lines <- d:
		default:
			r.mu.Lock()
			r.missed++
			r.mu.Unlock()
		}
	}
}

func (t *tails) add(keep func(*policy.Decision) bool) (*tail, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.readers) >= maxTails {
		return nil, unavailable("end one of the others first", "%d readers follow the decisions already", maxTails)
	}
	if t.readers == nil {
		t.readers = map[*tail]struct{}{}
	}
	r := &tail{keep: keep, lines: make(chan *policy.Decision, tailQueue)}
	t.readers[r] = struct{}{}
	return r, nil
}

func (t *tails) remove(r *tail) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.readers, r)
}

// takeMissed returns and forgets how many were missed.
func (r *tail) takeMissed() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.missed
	r.missed = 0
	return n
}

// Publish shows a decision to those who follow the stream. It never blocks; the decision
// must not be changed afterwards.
func (s *Service) Publish(d *policy.Decision) { s.tails.publish(d) }

// Tail calls f for each message as it is decided on, until ctx ends or f fails. When
// nothing happens it calls f with an idle line now and then.
func (s *Service) Tail(ctx context.Context, a Actor, account string, stoppedOnly bool, f func(TailLine) error) error {
	if account != "" {
		if err := s.mayAccount(a, account); err != nil {
			return err
		}
	}
	keep := func(d *policy.Decision) bool {
		return !isConnection(d) && (account == "" || d.Identity.Account == account || d.Identity.DirectoryAccount == account) &&
			(!stoppedOnly || d.Verdict != policy.Accept || d.Would != policy.Accept) &&
			s.visible(a, d.Identity.Account)
	}
	return s.follow(ctx, keep, func(d *policy.Decision, missed uint64) error {
		if d == nil {
			return f(TailLine{Idle: true})
		}
		one := liveDecision(d)
		return f(TailLine{Decision: &one, Missed: missed})
	})
}

// follow calls f for each decision that keep wants, and with nil now and then.
func (s *Service) follow(ctx context.Context, keep func(*policy.Decision) bool, f func(d *policy.Decision, missed uint64) error) error {
	r, err := s.tails.add(keep)
	if err != nil {
		return err
	}
	defer s.tails.remove(r)
	if err := f(nil, 0); err != nil { // the reader knows that it is listening
		return err
	}
	idle := time.NewTicker(tailIdle)
	defer idle.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case d := <-r.lines:
			if err := f(d, r.takeMissed()); err != nil {
				return err
			}
		case <-idle.C:
			if err := f(nil, 0); err != nil {
				return err
			}
		}
	}
}

// tailOverHTTP writes the stream of messages.
func tailOverHTTP(s *Service) operation {
	return streamed(func(ctx context.Context, c *call, line func(any) error) error {
		q := c.URL.Query()
		return s.Tail(ctx, c.actor, q.Get("account"), q.Get("stopped") == "true", func(l TailLine) error { return line(l) })
	})
}

// streamed writes a stream, one JSON object a line.
func streamed(do func(ctx context.Context, c *call, line func(any) error) error) operation {
	return func(ctx context.Context, c *call) (any, error) {
		out := http.NewResponseController(c.w)
		e := json.NewEncoder(c.w)
		e.SetEscapeHTML(false)
		started := false
		err := do(ctx, c, func(l any) error {
			if !started {
				started = true
				c.w.Header().Set("Content-Type", "application/x-ndjson")
			}
			if err := out.SetWriteDeadline(time.Now().Add(tailDeadline)); err != nil {
				return err
			}
			if err := e.Encode(l); err != nil {
				return err
			}
			return out.Flush()
		})
		if started {
			return nil, nil // too late for an error: the reader has gone, or was cut off
		}
		return nil, err
	}
}
