package policy

import (
	"maps"
	"slices"
	"sync"
	"time"

	"osm/counters"
)

// heldTotals is how much frozen mail each account has in the queue.
type heldTotals struct {
	mu        sync.Mutex
	byAccount map[string]heldTotal // without those that have none
}

type heldTotal struct{ messages, bytes int64 }

// HeldChanged tells how much frozen mail of an account is in the queue now. What the
// engine freezes until the next call it adds itself.
func (e *Engine) HeldChanged(account string, messages, bytes int64) {
	h := &e.held
	h.mu.Lock()
	defer h.mu.Unlock()
	if messages <= 0 {
		delete(h.byAccount, account)
		return
	}
	h.byAccount[account] = heldTotal{messages, bytes}
}

// full reports whether an account has no room for one more frozen message of that size.
// A maximum of zero is none.
func (h heldTotal) full(size int64, s *Settings) bool {
	return s.HeldMaxMessages > 0 && h.messages >= s.HeldMaxMessages ||
		s.HeldMaxBytes > 0 && h.bytes+size > s.HeldMaxBytes
}

// keep sees to it that a frozen message has room in the queue: a spool full of held spam
// stops everybody's mail. Beyond an account's share SMTP clients are told to come back;
// a script cannot, so its mail is frozen all the same, with a reason that raises an
// alarm, unless the operator chose to discard it. Without count nothing is added.
func (e *Engine) keep(d *Decision, rs *ruleset, count bool) {
	if d.Verdict != Freeze {
		return
	}
	h, size := &e.held, max(d.Submission.Size, 0)
	h.mu.Lock()
	defer h.mu.Unlock()
	total := h.byAccount[d.Identity.Account]
	if total.full(size, &rs.rules.Settings) {
		d.Reason = ReasonHeldFull
		switch {
		case !d.Submission.Local():
			d.Verdict = Defer
		case rs.rules.Settings.HeldFullDiscard:
			d.Verdict = Discard
		}
	}
	if count && d.Verdict == Freeze {
		h.byAccount[d.Identity.Account] = heldTotal{total.messages + 1, total.bytes + size}
	}
}

// unkeep gives back the room that a frozen message took which is not in the queue.
func (e *Engine) unkeep(d *Decision) {
	h := &e.held
	h.mu.Lock()
	defer h.mu.Unlock()
	total := h.byAccount[d.Identity.Account]
	if total.messages--; total.messages <= 0 {
		delete(h.byAccount, d.Identity.Account)
		return
	}
	total.bytes = max(total.bytes-max(d.Submission.Size, 0), 0)
	h.byAccount[d.Identity.Account] = total
}

// HeldAccounts lists the accounts that have frozen mail in the queue, as far as the engine
// knows.
func (e *Engine) HeldAccounts() []string {
	h := &e.held
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Keys(h.byAccount))
}

// Leave is the answer to whether a held message may leave the queue.
type Leave struct {
	Admitted bool
	Seq      uint64    // its number if it was counted: to be stored, for [Engine.ReplayStored]
	FreeAt   time.Time // when it will fit, if not now; zero if nobody can tell
}

// AdmitHeld asks whether a held message may leave the queue now, and counts it if so. It
// may as soon as no hold stands on its sender and it fits every enforcing trigger; nobody
// can tell when where a hold stands or it has more recipients than the limit. The
// account's place in the panel must be filled in ([AccountMap.Place]).
func (e *Engine) AdmitHeld(now Moment, id Identity, subjectKey string, recipients int) Leave {
	e.gate.RLock()
	defer e.gate.RUnlock()
	rs := e.rules.Load()
	if id.Account == "" {
		id.Account = AccountUnknown
	}
	if rs.rules.Disabled || id.Source == SourceSystem {
		return Leave{Admitted: true}
	}
	p := probe{now: now, id: &id, subjectKey: subjectKey, recipients: recipients}
	if rs.holds.match(&p) != nil {
		return Leave{}
	}
	var askBuf [onStack]counters.Ask
	var withBuf [onStack]asked
	asks, _ := rs.plan(askBuf[:0], withBuf[:0], &p)
	if len(asks) == 0 { // a trigger that is switched on later wants to know
		return Leave{Admitted: true, Seq: e.table.NextSeq()}
	}
	res := make([]counters.Result, len(asks))
	if admitted, seq := e.table.Admit(now.Boot, asks, res); admitted {
		return Leave{Admitted: true, Seq: seq}
	}
	return Leave{FreeAt: latestFree(now, asks, res)}
}

// latestFree is when the last of the binding counters has room; zero if one never has.
func latestFree(now Moment, asks []counters.Ask, res []counters.Result) (free time.Time) {
	for i := range asks {
		if asks[i].Kind != counters.Binding || !res[i].Over {
			continue
		}
		at := wallOf(now, res[i].FreeAt)
		if at.IsZero() || int64(asks[i].Units) > asks[i].Max {
			return time.Time{}
		}
		if at.After(free) {
			free = at
		}
	}
	return free
}
