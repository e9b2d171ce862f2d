package policy

import (
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

// AdmitHeld asks whether a held message may leave the queue now, and counts it if so. It
// may as soon as no hold stands on its sender and it fits every enforcing trigger;
// freeAt is when it will fit, zero if nobody can tell (a hold, or more recipients than
// the limit).
func (e *Engine) AdmitHeld(now Moment, id Identity, subjectKey string, recipients int) (admitted bool, freeAt time.Time) {
	rs := e.rules.Load()
	if id.Account == "" {
		id.Account = AccountUnknown
	}
	if rs.rules.Disabled || id.Source == SourceSystem {
		return true, now.Wall
	}
	p := probe{now: now, id: &id, subjectKey: subjectKey, recipients: recipients}
	if rs.holds.match(&p) != nil {
		return false, time.Time{}
	}
	var askBuf [onStack]counters.Ask
	var withBuf [onStack]asked
	asks, _ := rs.plan(askBuf[:0], withBuf[:0], &p)
	if len(asks) == 0 {
		return true, now.Wall
	}
	res := make([]counters.Result, len(asks))
	if admitted, _ = e.table.Admit(now.Boot, asks, res); admitted {
		return true, now.Wall
	}
	return false, latestFree(now, asks, res)
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
