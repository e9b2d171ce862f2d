package policy

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// maxReleased bounds the releases that a [HoldPlanner] remembers.
const maxReleased = 10_000

// HoldPlanner turns the actions "hold" and "discard" of a trigger into the narrowest hold
// that stops the culprit. It remembers what operators released, so as not to put it again at once.
type HoldPlanner struct {
	mu       sync.Mutex // guards what follows
	released map[holdTarget]int64
	order    []holdTarget // oldest first
}

type holdTarget struct {
	scope          Scope
	account, value string
}

// NewHoldPlanner returns a planner that knows of no release.
func NewHoldPlanner() *HoldPlanner {
	return &HoldPlanner{released: make(map[holdTarget]int64)}
}

// Released notes that an operator released a hold. For the grace time of the settings
// none is put again on the same, nor, after an account's release, on a part of it.
func (p *HoldPlanner) Released(h Hold, now Moment) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := holdTarget{h.Scope, h.Account, h.Value}
	if _, known := p.released[t]; !known {
		if len(p.order) >= maxReleased {
			delete(p.released, p.order[0])
			p.order = p.order[1:]
		}
		p.order = append(p.order, t)
	}
	p.released[t] = now.Boot
}

// inGrace reports whether the target, or its whole account, was released lately.
func (p *HoldPlanner) inGrace(h *Hold, grace time.Duration, now Moment) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range []holdTarget{{h.Scope, h.Account, h.Value}, {ScopeAccount, h.Account, ""}} {
		if at, known := p.released[t]; known && now.Boot-at < grace.Milliseconds() {
			return true
		}
	}
	return false
}

// Plan says which hold an action, hold or discard, of an event asks for that is new, or whose sender goes on after its
// hold has ended. If ok is false none is to be put, and why says the reason in words for
// the event; it is empty if it is asked again.
//
// The culprit is the mailbox for a login trigger, the directory or the Subject for
// theirs, else the account. Directory and Subject are the sender's to choose: where one
// of an account's is on hold and the account goes over again, the account is held. What
// rests on a claim takes no part in that, neither as the first nor as the second, or a
// neighbour under the same web user could have it held.
func (p *HoldPlanner) Plan(c EventChange, action Action, r *Rules, now Moment) (h Hold, why string, ok bool) {
	h, why, ok = p.plan(c, action, r, now)
	if c.Again {
		why = "" // it was said when the event was new, and is asked again and again
	}
	return h, why, ok
}

func (p *HoldPlanner) plan(c EventChange, action Action, r *Rules, now Moment) (h Hold, why string, ok bool) {
	ev := &c.Event
	if !c.New && !c.Again || ev.Mode != Enforce {
		return Hold{}, "", false
	}
	h, why = Culprit(ev)
	if why != "" {
		return Hold{}, why, false
	}
	if (h.Scope == ScopeDirectory || h.Scope == ScopeSubject) && !ev.Claimed && trippedBefore(ev, r, now) && !manySenders(ev.Account) {
		h.Scope, h.Value = ScopeAccount, ""
	}
	h.Claimed = ev.Claimed
	if covered(&h, r, now) {
		return Hold{}, "a hold stands on it already", false
	}
	if p.inGrace(&h, r.Settings.HoldGrace, now) {
		return Hold{}, "an operator released it a short time ago", false
	}
	h.Verdict, h.Release, h.Trigger, h.EventID = Freeze, c.Release, ev.Trigger, ev.ID
	if action.Name == ActionDiscard {
		h.Verdict = Discard
	}
	if action.For > 0 {
		h.Until = now.Wall.Add(action.For)
	}
	h.Provenance = Provenance{Where: "database", By: "trigger " + ev.Trigger, At: now.Wall, Reason: fmt.Sprintf("event %d", ev.ID)}
	return h, "", true
}

// manySenders reports whether an account stands for more than one sender: a hold on all
// of it would stop those who did nothing.
func manySenders(account string) bool { return strings.HasPrefix(account, "(") }

// Culprit is the narrowest target of an event that a hold can be put on, or why there is
// none.
func Culprit(ev *Event) (h Hold, why string) {
	h.Account = ev.Account
	part, hasPart := strings.CutPrefix(ev.Key, ev.Account+" ")
	if ev.Watch.PerDirectory() {
		part = strings.TrimPrefix(part, claimedKey)
	}
	switch {
	case ev.Watch == WatchClientIP:
		return h, "an address has no mail of its own to hold"
	case ev.Watch == WatchLogin && ev.Mailbox != "": // exact, whoever's it is
		h.Scope, h.Value = ScopeMailbox, ev.Mailbox
	case nameless(ev.Account):
		return h, "mail of unknown senders is not held together"
	case ev.Watch.PerDirectory() && hasPart:
		h.Scope, h.Value = ScopeDirectory, part
	case ev.Watch == WatchSubject && hasPart:
		h.Scope, h.Value = ScopeSubject, part
	case ev.Claimed: // never more than the directory
		return h, "what rests on a claim starts nothing against an account"
	case manySenders(ev.Account):
		return h, "a shared user's mail is of many accounts and is not held together"
	default:
		h.Scope = ScopeAccount
	}
	return h, ""
}

// trippedBefore reports whether a hold on a directory or Subject of the account stood
// already when the event was raised.
func trippedBefore(ev *Event, r *Rules, now Moment) bool {
	for i := range r.Holds {
		h := &r.Holds[i]
		part := h.Scope == ScopeDirectory || h.Scope == ScopeSubject
		if part && h.Account == ev.Account && !h.Claimed && !ended(h.Until, now.Wall) && h.Provenance.At.Before(ev.At) {
			return true
		}
	}
	return false
}

// covered reports whether a standing hold stops the target already.
func covered(target *Hold, r *Rules, now Moment) bool {
	for i := range r.Holds {
		h := &r.Holds[i]
		if ended(h.Until, now.Wall) {
			continue
		}
		same := h.Scope == target.Scope && h.Value == target.Value && (h.Account == target.Account || h.Scope == ScopeMailbox)
		same = same && (target.Claimed || !h.Claimed) // what a claim put stops claims only
		// A claimed directory's mail is not the account's own: its hold does not stop it.
		if same || h.Scope == ScopeAccount && h.Account == target.Account && !target.Claimed {
			return true
		}
	}
	return false
}
