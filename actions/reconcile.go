package actions

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"osm/policy"
	store "osm/sql"
)

// maxAdd bounds how many unknown frozen messages one comparison enters into the register;
// the rest follow with the next.
const maxAdd = 1000

// registered is what a comparison needs of a message in the register.
type registered struct {
	ref    string
	heldAt time.Time
	state  store.State
	seen   bool
}

// reconcileDue compares the register with the queue. What people do to the queue by hand,
// and what an owner removes of his own, is noticed here and written down.
func (h *Held) reconcileDue(ctx context.Context, now policy.Moment) (int64, error) {
	if at := h.nextReconcile(); now.Boot < at {
		return at, nil
	}
	h.lookAt.Store(0) // first: what comes during the comparison asks for the next one
	h.reconciled = now.Boot
	if err := h.reconcile(ctx, now); err != nil {
		return 0, err
	}
	if err := h.expire(ctx, now); err != nil {
		return 0, err
	}
	h.reconcileAt = now.Boot + h.o.ReconcileEvery.Milliseconds()
	return h.nextReconcile(), nil
}

// nextReconcile is when the queue is looked at next: regularly, and soon after a discard.
func (h *Held) nextReconcile() int64 {
	if look := h.lookAt.Load(); look != 0 {
		return min(h.reconcileAt, max(look, h.reconciled+discardEvery.Milliseconds()))
	}
	return h.reconcileAt
}

const (
	// settleDiscard is settle for what the ACL froze because it could not discard it: only
	// its decision has to be stored by then, since nothing else enters it into the register.
	settleDiscard = 2 * time.Second
	discardEvery  = 5 * time.Second // a comparison because of discards at most so often
)

func (h *Held) reconcile(ctx context.Context, now policy.Moment) error {
	register, err := h.registered(ctx)
	if err != nil {
		return err
	}
	var thawed []string
	var unknown []QueueMessage
	skipped, err := h.o.Executor.QueueList(ctx, func(m QueueMessage) error {
		r := register[m.MessageID]
		switch {
		case r != nil:
			r.seen = true
			if !m.Frozen() && r.state == store.StateHeld {
				thawed = append(thawed, m.MessageID)
			}
		case !m.Frozen(): // thawed by hand before we saw it, or on its way to Exim's router that discards
		case m.Action == "discard" && (young(now, m.FrozenSince, settleDiscard) || len(unknown) == maxAdd):
			h.lookSoon(now.Boot)
		case m.Action == "discard", !young(now, m.FrozenSince, settle) && len(unknown) < maxAdd:
			unknown = append(unknown, m)
		}
		return nil
	})
	var e *ExecutorError
	if len(register) == 0 && errors.As(err, &e) && e.Gone {
		err = nil // a new Exim has no queue yet; where mail is held, a missing queue is an alarm
	}
	if err != nil {
		return err
	}
	for _, id := range thawed {
		if err := h.vanished(ctx, register[id].ref, id, "thawed by hand"); err != nil {
			return err
		}
	}
	for i := range unknown {
		if err := h.enter(ctx, now, &unknown[i]); err != nil {
			return err
		}
	}
	for id, r := range register {
		if r.seen || r.state != store.StateHeld || young(now, r.heldAt, settle) {
			continue // what is being released or discarded is settled by its own attempt
		}
		if err := h.missing(ctx, id, r.ref); err != nil {
			return err
		}
	}
	h.totalsSoon()
	h.note(func(s *HeldStatus) { s.ReconciledAt, s.Skipped = now.Wall, skipped })
	return nil
}

// young reports whether less than d has passed since a moment of the wall clock. What
// seems to lie in the future is old: the clock was set back, and nothing must wait for it.
func young(now policy.Moment, at time.Time, d time.Duration) bool { return now.Wall.Sub(at).Abs() < d }

// registered reads all messages that should be in the queue, by message id.
func (h *Held) registered(ctx context.Context) (map[string]*registered, error) {
	register := map[string]*registered{}
	f := store.HeldFilter{Limit: 1000}
	for {
		list, next, err := h.o.Store.HeldList(ctx, f)
		if err != nil {
			return nil, err
		}
		for i := range list {
			state, _ := store.ParseState(list[i].State)
			register[list[i].MessageID] = &registered{ref: list[i].Ref, heldAt: list[i].HeldAt.Time, state: state}
		}
		if next == "" {
			return register, nil
		}
		f.After = next
	}
}

// missing deals with a message that the list of the queue did not show. Its own file is
// asked for by name before it is believed: a file that could not be read is not gone.
func (h *Held) missing(ctx context.Context, id, ref string) error {
	_, err := h.o.Executor.QueueHeaders(ctx, id)
	var e *ExecutorError
	if errors.As(err, &e) && e.Gone {
		return h.vanished(ctx, ref, id, "removed or delivered by hand, or removed by its owner")
	}
	if errors.As(err, &e) || err == nil {
		return nil
	}
	return err
}

// vanished writes down that a held message left without us.
func (h *Held) vanished(ctx context.Context, ref, id, how string) error {
	moved, err := h.o.Store.SetHeldState(ctx, ref, store.StateHeld, store.StateGone, bySomebody, how)
	if err != nil || !moved {
		return err
	}
	h.totalsSoon()
	if err := h.auditGone(ctx, ref, id, how); err != nil {
		return err
	}
	h.o.Log.Warn("held message left the queue without osm: "+how, "message_id", id, "ref", ref)
	return nil
}

// auditGone leaves a line in the audit: a person took it, though not through us.
func (h *Held) auditGone(ctx context.Context, ref, id, how string) error {
	_, err := h.o.Store.AddAudit(ctx, store.Audit{ActorUID: -1, User: bySomebody, Role: "exim", What: "held message gone", Target: ref + " " + id, Old: "held", New: how})
	return err
}

// enter puts a frozen message that the register does not know into it: its decision was
// lost in a crash, or somebody froze it again by hand.
func (h *Held) enter(ctx context.Context, now policy.Moment, m *QueueMessage) error {
	known, err := h.o.Store.HeldByRef(ctx, m.Ref)
	switch {
	case err == nil && known.MessageID != m.MessageID:
		h.o.Log.Warn("two messages in the queue bear one reference: the second is not in the register", "ref", m.Ref, "message_id", m.MessageID)
		return nil
	case err == nil:
		return h.enterAgain(ctx, m, &known)
	case !errors.Is(err, store.ErrNotFound):
		return err
	}
	d, err := h.decisionOf(ctx, now, m)
	if err != nil || d == nil {
		return err
	}
	h.totalsSoon()
	if m.Action == "discard" {
		return h.addDiscard(ctx, d)
	}
	h.o.Log.Warn("frozen message found that was not in the register", "message_id", m.MessageID, "ref", m.Ref, "account", d.Identity.Account)
	return h.o.Store.AddHeld(ctx, d)
}

// enterAgain puts a message back into the register that was settled and is frozen all the
// same: by hand, or by Exim, which does so when it can neither deliver a message nor return
// it, as with a null sender. Released by itself once more it would come back for ever, and
// be counted each time: from now on it is a person's.
func (h *Held) enterAgain(ctx context.Context, m *QueueMessage, known *store.Held) error {
	state, _ := store.ParseState(known.State)
	if state <= store.StateDiscarding {
		return nil // entered since the comparison began
	}
	how := "frozen again by hand"
	if m.Thawed {
		how = "frozen again by Exim, which could not deliver it"
		if m.EnvelopeSender == "" {
			how += " and has no sender to return it to"
		}
	}
	byHand := state == store.StateGone && !m.Thawed // perhaps we were wrong that it had gone
	moved, err := h.o.Store.HoldAgain(ctx, m.Ref, state, !byHand, bySomebody, how)
	if moved {
		h.totalsSoon()
		h.o.Log.Warn("held message "+how, "message_id", m.MessageID, "ref", m.Ref, "account", known.Account)
	}
	return err
}

// addDiscard enters a message that Exim froze because it could not discard it, and marks
// it for removal. One that Exim's own router dropped never comes here: it is not held, and
// its decision alone tells of it.
func (h *Held) addDiscard(ctx context.Context, d *policy.Decision) error {
	if err := h.o.Store.AddHeld(ctx, d); err != nil {
		return err
	}
	by := "trigger " + d.Trigger
	if d.Trigger == "" {
		by = fmt.Sprintf("hold %d", d.HoldID)
	}
	_, err := h.o.Store.SetHeldState(ctx, policy.RefOf(d.Seq, h.o.Store.RefKey()), store.StateHeld, store.StateDiscarding, by, "")
	return err
}

// decisionOf makes the decision anew that froze a message: from the store if it is there,
// else from what Exim knows.
func (h *Held) decisionOf(ctx context.Context, now policy.Moment, m *QueueMessage) (*policy.Decision, error) {
	seq, ok := policy.SeqOf(m.Ref, h.o.Store.RefKey())
	if !ok {
		return nil, nil // no reference of ours: forged, or of another installation
	}
	stored, err := h.o.Store.Decided(ctx, seq)
	switch {
	case err == nil && stored.Submission.MessageID == m.MessageID:
		return &stored, nil
	case err != nil && !errors.Is(err, store.ErrNotFound):
		return nil, err
	}
	return h.lostDecision(now, seq, m), nil
}

// lostDecision is what Exim knows of a decision that was lost. Which trigger or hold it was,
// and whether the message leaves by itself, stands in our answer, which Exim kept.
func (h *Held) lostDecision(now policy.Moment, seq uint64, m *QueueMessage) *policy.Decision {
	d := &policy.Decision{
		Seq: seq, Ref: m.Ref, At: policy.Moment{Wall: m.FrozenSince, Boot: now.Boot - now.Wall.Sub(m.FrozenSince).Milliseconds()},
		Verdict: policy.Freeze, Reason: policy.ReasonOver, Trigger: m.Trigger, HoldID: m.HoldID,
		Identity:   policy.Identity{Account: policy.AccountUnknown, SubKey: fmt.Sprintf("uid %d", m.CallerUID)},
		Submission: &policy.Submission{MessageID: m.MessageID, CallerUID: m.CallerUID, Size: m.Size, Recipients: m.Recipients, EnvelopeSender: m.EnvelopeSender},
	}
	if m.HoldID != 0 {
		d.Reason = policy.ReasonHold
	}
	if m.WhenFree {
		d.Release = policy.WhenFree
	}
	if h.o.Identify != nil {
		if id := h.o.Identify(*m); id.Account != "" {
			d.Identity = id
		}
	}
	return d
}

// expire marks what was held longer than held_keep for removal, as far as the wall clock
// can be believed: a wrong date must not empty the queue.
func (h *Held) expire(ctx context.Context, now policy.Moment) error {
	if !h.o.Store.ClockSettled() {
		return nil
	}
	f := store.HeldFilter{State: store.StateHeld.String(), Before: now.Wall.Add(-h.set.Load().keep)}
	for {
		list, next, err := h.o.Store.HeldList(ctx, f)
		if err != nil {
			return err
		}
		for i := range list {
			if _, err := h.o.Store.SetHeldState(ctx, list[i].Ref, store.StateHeld, store.StateDiscarding, byKeep, ""); err != nil {
				return err
			}
		}
		if next == "" {
			return nil
		}
		f.After = next
	}
}

// keepHeaders writes the headers of messages down that are about to be removed: what is
// removed can be explained afterwards.
func (h *Held) keepHeaders(ctx context.Context, now policy.Moment, list []store.Held) error {
	for i := range list {
		m := &list[i]
		if !ValidMessageID(m.MessageID) || m.Attempts > 0 || h.tried[m.Seq] {
			continue
		}
		headers, err := h.o.Executor.QueueHeaders(ctx, m.MessageID)
		var refused *ExecutorError
		if errors.As(err, &refused) && refused.Gone {
			continue
		}
		if err != nil {
			headers = "could not be read: " + err.Error()
		}
		_, err = h.o.Store.PutAction(ctx, store.Action{
			At: store.Time{Time: now.Wall}, Name: "keep-headers", Target: m.Account + " " + m.Ref + " " + m.MessageID, State: "done",
			Outcome: cut(strings.ReplaceAll(strings.TrimSpace(headers), "\n", " ¶ "), 4000),
		})
		if err != nil {
			return err
		}
	}
	return nil
}

const (
	totalsEvery = 5 * time.Second // at most so often
	timersEvery = 5 * time.Minute
	timersAgain = 30 * time.Second // while something is wrong with them
)

// totalsSoon has them added up when the last time is long enough ago.
func (h *Held) totalsSoon() {
	if h.totalsAt == 0 {
		h.totalsAt = max(h.totalsDone+totalsEvery.Milliseconds(), 1)
	}
}

// totalsDue tells the engine how much each account has in the queue, after something has
// changed: beyond its share (held_max) nothing more is frozen for it.
func (h *Held) totalsDue(ctx context.Context, now policy.Moment) (int64, error) {
	if h.totalsAt == 0 || now.Boot < h.totalsAt {
		return h.totalsAt, nil
	}
	totals, err := h.o.Store.HeldTotals(ctx)
	if err != nil {
		return 0, err
	}
	var messages, bytes int64
	has := make(map[string]bool, len(totals))
	for _, t := range totals {
		has[t.Account] = true
		messages, bytes = messages+t.Messages, bytes+t.Bytes
		h.o.Engine.HeldChanged(t.Account, t.Messages, t.Bytes)
	}
	for _, account := range h.o.Engine.HeldAccounts() { // also what never came into the queue
		if !has[account] {
			h.o.Engine.HeldChanged(account, 0, 0)
		}
	}
	h.totalsAt, h.totalsDone = 0, now.Boot
	h.note(func(s *HeldStatus) { s.Messages, s.Bytes = messages, bytes })
	return 0, nil
}

// timersDue looks whether Exim's own timers would free or bounce held mail before us, and
// whether Exim asks at all: an update of the panel or of Exim may have ended that.
func (h *Held) timersDue(ctx context.Context, now policy.Moment) (int64, error) {
	if now.Boot < h.timersAt {
		return h.timersAt, nil
	}
	var alarms, hooks []string
	every, enforces := timersEvery, h.enforces()
	options, err := h.o.Executor.EximOptions(ctx)
	switch {
	case err != nil && enforces:
		return 0, err
	case err != nil: // where nothing is frozen, nothing depends on it
	default:
		hooks = HookAlarms(options)
		if enforces {
			alarms = TimerAlarms(options, h.set.Load().keep)
		}
	}
	if len(hooks)+len(alarms) > 0 {
		every = timersAgain
	}
	h.timersAt = now.Boot + every.Milliseconds()
	h.note(func(s *HeldStatus) { s.Alarms, s.Hooks = alarms, hooks })
	return h.timersAt, nil
}

// enforces reports whether any trigger may freeze mail.
func (h *Held) enforces() bool {
	r := h.o.Engine.Rules()
	for i := range r.Triggers {
		if r.Triggers[i].Mode == policy.Enforce {
			return true
		}
	}
	for i := range r.Overrides {
		if m := r.Overrides[i].Mode; m != nil && *m == policy.Enforce {
			return true
		}
	}
	return len(r.Holds) > 0
}
