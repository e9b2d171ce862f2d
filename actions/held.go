package actions

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"osm/policy"
	store "osm/sql"
)

// HeldOptions is what a register of held mail works with. Zero durations mean the default.
type HeldOptions struct {
	Store    *store.Store
	Engine   *policy.Engine
	Executor *Executor
	Log      *slog.Logger
	Now      func() policy.Moment

	Keep           time.Duration // held_keep: after it held mail is removed; default 30 days; see [Held.Set]
	ReleaseEvery   time.Duration // pace of an operator's release; default one a second; see [Held.Set]
	ReconcileEvery time.Duration // how often the register is compared with the queue; default 1 minute
	// Identify finds the owner of a frozen message whose decision was not stored (a crash
	// loses the last quarter second). Nil: it is charged to nobody.
	Identify func(QueueMessage) policy.Identity
	// Place fills in where an account stands in the panel: the limits of its package and its
	// reseller hold for held mail too. Nil: there is no panel.
	Place func(policy.Identity) policy.Identity
}

// Held keeps the register of held mail true and empties it: what operators release or
// discard, what may leave by itself, what is too old, what somebody else took away.
//
// The store enters each frozen message with its decision. From then on one goroutine,
// [Held.Run], touches Exim's queue, so that no two hands are on one message. What is to be
// done stands in the store (releasing, discarding), set by compare-and-set by whoever asks
// for it: two operators cannot release a message twice, and a restart forgets nothing. What
// an operator releases leaves at the pace of [HeldOptions.ReleaseEvery] and is not counted;
// the row of what he discards stays in the register.
//
// Waiting is measured by the boot clock: a step of the wall clock holds nothing up.
type Held struct {
	o      HeldOptions
	kick   chan struct{}
	set    atomic.Pointer[heldSettings]
	timers atomic.Bool  // Exim's timers are to be compared anew
	fresh  atomic.Bool  // what is remembered of times is to be forgotten
	lookAt atomic.Int64 // of a comparison with the queue because of a discard; 0 = none is asked for

	mu     sync.Mutex // guards status
	status HeldStatus

	// The rest belongs to Run's goroutine. Times are milliseconds of the boot clock.
	startedAt   time.Time        // wall: what was being released before was asked of a former run
	releaseAt   int64            // the pace: no operator's release before it
	reconcileAt int64            // of the next comparison with the queue
	reconciled  int64            // when the last one began
	timersAt    int64            // Exim's options are read again
	retryAt     map[string]int64 // of a part of a step, after the executor or the store failed
	totalsAt    int64            // what each account has in the queue is added up again; 0 = when something changes
	totalsDone  int64            // when that was last
	later       map[uint64]int64 // messages that could not be done yet, by number
	tried       map[uint64]bool  // messages of a request whose answer was lost
	leaving     []store.Held     // mail that leaves by itself: counted and marked, but the executor did not answer
	counted     map[uint64]leave // mail that leaves by itself: counted, but the store did not mark it
	asideAt     map[string]int64 // by account: when one of those is tried again that Exim did not let go
	free        freeTimes        // mail that leaves by itself
}

// HeldStatus is how the register is doing.
type HeldStatus struct {
	ReconciledAt time.Time // the last comparison with the queue that came to its end
	Skipped      int       // spool files that could not be read then
	Messages     int64     // that wait in Exim's queue, as they were last added up
	Bytes        int64     // their size
	Problem      string    // why held mail waits now; "" if it does not
	Alarms       []string  // Exim's timers that a person must change
	Hooks        []string  // outgoing mail that Exim does not ask about
}

// settle is how long after its decision a message may take until it stands in Exim's
// queue: before that, "not there" means nothing.
const settle = time.Minute

// NewHeld returns the register; [Held.Run] makes it work.
func NewHeld(o HeldOptions) *Held {
	setDefault(&o.Keep, 30*24*time.Hour)
	setDefault(&o.ReleaseEvery, time.Second)
	setDefault(&o.ReconcileEvery, time.Minute)
	if o.Place == nil {
		o.Place = func(id policy.Identity) policy.Identity { return id }
	}
	h := &Held{
		o: o, kick: make(chan struct{}, 1), later: map[uint64]int64{}, tried: map[uint64]bool{}, retryAt: map[string]int64{}, totalsAt: 1,
		free: newFreeTimes(), counted: map[uint64]leave{}, asideAt: map[string]int64{},
	}
	h.Set(o.Keep, o.ReleaseEvery)
	return h
}

// heldSettings are what can be changed while the register works.
type heldSettings struct{ keep, releaseEvery time.Duration }

// Set changes how long held mail is kept and the pace of an operator's release.
func (h *Held) Set(keep, releaseEvery time.Duration) {
	now := heldSettings{keep, releaseEvery}
	if old := h.set.Swap(&now); old == nil || *old == now {
		return
	}
	h.timers.Store(true)
	h.wake()
}

// Status returns how the register is doing; it may be called at any time.
func (h *Held) Status() HeldStatus {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.status
	s.Alarms = append([]string(nil), s.Alarms...)
	s.Hooks = append([]string(nil), s.Hooks...)
	return s
}

func (h *Held) note(f func(*HeldStatus)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f(&h.status)
}

// Kick makes the register look at once at what can be done: after a change of rules, the
// end of a hold, a counter that was reset. It never blocks.
func (h *Held) Kick() {
	h.fresh.Store(true)
	h.wake()
}

func (h *Held) wake() {
	select {
	case h.kick <- struct{}{}:
	default:
	}
}

// Frozen takes a decision that froze or discarded a message, after the answer; it never
// blocks. A frozen message needs nothing: the store has it in the register with its
// decision. What a script sent and was to be discarded is in the queue only where Exim has
// no router that drops it: there the ACL froze it, and a comparison soon finds it.
func (h *Held) Frozen(d *policy.Decision) {
	if d.Verdict != policy.Discard || !d.Submission.Local() {
		return
	}
	h.lookSoon(d.At.Boot)
	h.wake()
}

// lookSoon asks for a comparison with the queue, when what was frozen at now has settled.
func (h *Held) lookSoon(now int64) { h.lookAt.CompareAndSwap(0, now+settleDiscard.Milliseconds()) }

// Run works until ctx ends.
func (h *Held) Run(ctx context.Context) error {
	h.startedAt = h.o.Now().Wall
	for {
		t := time.NewTimer(h.step(ctx))
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-h.kick:
		case <-t.C:
		}
		t.Stop()
	}
}

// step does what is due and returns after how long the next thing is. A part that fails
// keeps no other from its work.
func (h *Held) step(ctx context.Context) time.Duration {
	if h.fresh.Swap(false) {
		h.free.forget()
	}
	if h.timers.Swap(false) {
		h.timersAt = 0
	}
	var next soonest
	problem := ""
	for _, part := range []struct {
		name string
		due  func(context.Context, policy.Moment) (int64, error)
	}{
		{"read Exim's options", h.timersDue},
		{"compare the register with the queue", h.reconcileDue},
		{"remove held mail", h.discardDue},
		{"release held mail", h.releaseDue},
		{"release held mail that is free", h.freeDue},
		{"add up held mail", h.totalsDue},
	} {
		now := h.o.Now()
		if at := h.retryAt[part.name]; now.Boot < at {
			next.add(at)
			problem = h.Status().Problem
			continue
		}
		delete(h.retryAt, part.name)
		at, err := part.due(ctx, now)
		if ctx.Err() != nil {
			return 0
		}
		if after, busy := Busy(err); busy { // the executor's brake is no fault
			at = now.Boot + after.Milliseconds()
			h.retryAt[part.name] = at
		} else if err != nil {
			at = now.Boot + failPause.Milliseconds()
			h.retryAt[part.name] = at
			problem = h.failed(part.name, err)
		}
		next.add(at)
	}
	h.note(func(s *HeldStatus) { s.Problem = problem })
	return next.in(h.o.Now().Boot)
}

// failPause is how long a part of a step that failed waits. Nothing is lost by it: what is
// to be done stands in the store.
const failPause = 5 * time.Second

// failed logs a fault that is new, and returns it for the status.
func (h *Held) failed(what string, err error) string {
	text := "could not " + what + ": " + err.Error()
	if h.Status().Problem == "" {
		h.o.Log.Error("held mail waits", "err", text)
	}
	return text
}

// soonest keeps the earliest of some times of the boot clock; 0 is none.
type soonest struct{ at int64 }

func (s *soonest) add(at int64) {
	if at != 0 && (s.at == 0 || at < s.at) {
		s.at = at
	}
}

// in is how long it is until then: at most a minute, so that nothing is forgotten.
func (s *soonest) in(now int64) time.Duration {
	if s.at == 0 {
		return time.Minute
	}
	return min(max(time.Duration(s.at-now)*time.Millisecond, 0), time.Minute)
}
