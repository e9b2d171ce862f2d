package actions

import (
	"context"
	"time"

	"osm/policy"
	store "osm/sql"
)

// Who is written down as having settled a message where it was no operator.
const (
	byWhenFree = "when-free"     // its limit had room again
	byKeep     = "held_keep"     // it was held too long
	bySomebody = "somebody else" // by hand with Exim, or its owner
)

const (
	maxAttempts = 3                // then a message goes back to held, with what went wrong
	retryAfter  = 30 * time.Second // between two attempts, and for a message that has not settled
)

// releaseDue lets the next message go that an operator has released.
func (h *Held) releaseDue(ctx context.Context, now policy.Moment) (int64, error) {
	if now.Boot < h.releaseAt {
		return h.releaseAt, nil
	}
	list, wake, err := h.waiting(ctx, now, store.StateReleasing, 1)
	if err != nil || len(list) == 0 {
		return wake, err
	}
	h.releaseAt = now.Boot + h.set.Load().releaseEvery.Milliseconds()
	return h.releaseAt, h.deliver(ctx, now, list)
}

// waiting lists at most n messages of a state that can be tried now; wake is when the next
// one can, if none can now.
func (h *Held) waiting(ctx context.Context, now policy.Moment, state store.State, n int) (ready []store.Held, wake int64, err error) {
	f := store.HeldFilter{State: state.String(), Limit: MaxBatch}
	var next soonest
	for {
		list, after, err := h.o.Store.HeldList(ctx, f)
		if err != nil {
			return nil, 0, err
		}
		for i := range list {
			if at := h.later[list[i].Seq]; now.Boot < at {
				next.add(at)
				continue
			}
			if ready = append(ready, list[i]); len(ready) == n {
				return ready, 0, nil
			}
		}
		if after == "" {
			return ready, next.at, nil
		}
		f.After = after
	}
}

// deliver lets messages go that are marked as being released.
func (h *Held) deliver(ctx context.Context, now policy.Moment, list []store.Held) error {
	return h.ask(ctx, now, list, h.o.Executor.Deliver, store.StateReleasing, h.released)
}

// discardDue removes what is to be discarded.
func (h *Held) discardDue(ctx context.Context, now policy.Moment) (int64, error) {
	list, wake, err := h.waiting(ctx, now, store.StateDiscarding, MaxBatch)
	if err != nil || len(list) == 0 {
		return wake, err
	}
	if err := h.keepHeaders(ctx, now, list); err != nil {
		return 0, err
	}
	// The next batch at once, but let releases have their turn.
	return now.Boot + 1, h.ask(ctx, now, list, h.o.Executor.Remove, store.StateDiscarding, h.removed)
}

// ask has the executor do something to messages and settles each of them by its outcome.
// When the answer is lost they stay as they are and are asked for again: what was done is
// then found to be gone or thawed.
func (h *Held) ask(ctx context.Context, now policy.Moment, list []store.Held,
	do func(context.Context, ...string) ([]Result, error), from store.State, settled func(*store.Held, Result) (store.State, string)) error {
	byID := make(map[string]*store.Held, len(list))
	ids := make([]string, 0, len(list))
	for i := range list {
		m := &list[i]
		if !ValidMessageID(m.MessageID) || byID[m.MessageID] != nil {
			if err := h.settle(ctx, m, from, store.StateGone, "", "the register has no usable message id for it"); err != nil {
				return err
			}
			continue
		}
		byID[m.MessageID] = m
		ids = append(ids, m.MessageID)
	}
	if len(ids) == 0 {
		return nil
	}
	results, err := do(ctx, ids...)
	if _, busy := Busy(err); err != nil && !busy {
		for _, m := range byID {
			h.tried[m.Seq] = true
		}
	}
	if err != nil {
		return err
	}
	for _, r := range results {
		m := byID[r.MessageID]
		if m == nil {
			continue
		}
		if err := h.outcome(ctx, now, m, r, from, settled); err != nil {
			return err
		}
	}
	return nil
}

// outcome settles one message.
func (h *Held) outcome(ctx context.Context, now policy.Moment, m *store.Held, r Result, from store.State,
	settled func(*store.Held, Result) (store.State, string)) error {
	switch {
	case r.Outcome == OutcomeFailed && m.Attempts+1 >= maxAttempts:
		h.o.Log.Error("exim does not do it: the message is held again", "message_id", m.MessageID, "account", m.Account, "err", r.Detail)
		if m.By == byWhenFree {
			h.asideAt[m.Account] = now.Boot + asideFor.Milliseconds()
		}
		return h.settle(ctx, m, from, store.StateHeld, m.By, cut(r.Detail, 1000))
	case r.Outcome == OutcomeFailed:
		h.later[m.Seq] = now.Boot + retryAfter.Milliseconds()
		return h.settle(ctx, m, from, from, m.By, cut("exim did not do it: "+r.Detail, 1000))
	case r.Outcome == OutcomeGone && !h.ours(m) && young(now, m.HeldAt.Time, settle):
		h.later[m.Seq] = now.Boot + retryAfter.Milliseconds()/10
		return nil
	}
	if r.Outcome == OutcomeDone {
		h.tried[m.Seq] = true // until it is written down
	}
	to, note := settled(m, r)
	return h.settle(ctx, m, from, to, m.By, note)
}

// ours reports whether it may have been we who took the message out of the queue: the
// answer to a request was lost, or it was asked for before the last restart.
func (h *Held) ours(m *store.Held) bool {
	return h.tried[m.Seq] || m.StateAt.Before(h.startedAt)
}

// released says what has become of a message that was to be released.
func (h *Held) released(m *store.Held, r Result) (store.State, string) {
	switch {
	case r.Outcome == OutcomeDone, r.Outcome != OutcomeNotOurs && h.ours(m):
		return store.StateReleased, ""
	case r.Outcome == OutcomeNotFrozen:
		return store.StateGone, "thawed by hand before it was released"
	case r.Outcome == OutcomeNotOurs:
		return store.StateGone, "the message in the queue is not the one that was held"
	}
	return store.StateGone, "removed or delivered by hand, or removed by its owner, before it was released"
}

// removed says what has become of a message that was to be removed.
func (h *Held) removed(m *store.Held, r Result) (store.State, string) {
	done := store.StateDiscarded
	if m.By == byKeep {
		done = store.StateExpired
	}
	switch {
	case r.Outcome == OutcomeDone, r.Outcome == OutcomeGone && h.ours(m):
		return done, ""
	case r.Outcome == OutcomeNotFrozen:
		return store.StateGone, "thawed by hand before it was removed"
	case r.Outcome == OutcomeNotOurs:
		return store.StateGone, "the message in the queue is not the one that was held"
	}
	return store.StateGone, "removed or delivered by hand, or removed by its owner, before it was removed"
}

// settle moves a message on. That somebody else has moved it meanwhile is no error.
func (h *Held) settle(ctx context.Context, m *store.Held, from, to store.State, by, note string) error {
	if to == store.StateGone {
		by = bySomebody
	}
	moved, err := h.o.Store.SetHeldState(ctx, m.Ref, from, to, by, note)
	if err != nil || !moved || from == to {
		return err
	}
	delete(h.later, m.Seq)
	delete(h.tried, m.Seq)
	if to == store.StateReleased && m.Attempts >= maxAttempts { // so the next of them may go as well
		delete(h.asideAt, m.Account)
	}
	h.totalsSoon()
	h.o.Log.Info("held message settled", "account", m.Account, "message_id", m.MessageID, "ref", m.Ref, "state", to.String(), "by", by)
	if to == store.StateGone {
		return h.auditGone(ctx, m.Ref, m.MessageID, note)
	}
	return nil
}
