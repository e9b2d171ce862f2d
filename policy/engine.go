package policy

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	"osm/counters"
)

// MaxTriggers is how many triggers there may be: each one costs every message a look.
const MaxTriggers = 64

// ErrNoCounter says that a key has no counter: nothing was counted for it lately.
var ErrNoCounter = errors.New("nothing is counted under that key")

// Engine judges submissions by the rules and counts them. All its methods may be
// called by any number of goroutines at once; none does I/O or waits for anything but
// the counters' locks.
type Engine struct {
	table  *counters.Table
	rules  atomic.Pointer[ruleset]
	refKey [16]byte
	held   heldTotals

	swap  sync.Mutex // one SetRules at a time; guards slots
	slots []string   // fingerprint by slot number, "" = free
}

// NewEngine makes an engine that counts in t and judges by r.
func NewEngine(t *counters.Table, r *Rules) *Engine {
	e := &Engine{table: t, held: heldTotals{byAccount: make(map[string]heldTotal)}}
	e.SetRules(r)
	return e
}

// SetRefKey sets the key that references are made with. It must be the same at every
// start and be set before the first message.
func (e *Engine) SetRefKey(key [16]byte) { e.refKey = key }

// Rules returns the rules in force. They must not be changed.
func (e *Engine) Rules() *Rules { return e.rules.Load().rules }

// SetRules replaces the rules for all messages that are asked about from now on. Counters
// stay as they are whatever changes in maximum, mode and verdict; a trigger whose
// watch, period or unit changed starts anew, and so does one that was off. The names of
// such triggers come back, for [Engine.Replay] of the stored decisions.
func (e *Engine) SetRules(r *Rules) (refill []string) {
	e.swap.Lock()
	defer e.swap.Unlock()
	old := e.rules.Load()
	rs := compile(r, old)
	var below uint64
	if old != nil {
		below = e.table.NextSeq()
	}
	used := make([]bool, len(e.slots)+len(rs.triggers))
	for i := range rs.triggers {
		t := &rs.triggers[i]
		kept := e.assign(t)
		used[t.slot] = true
		rs.bySlot[t.slot] = t
		was := old.trigger(t.Name)
		if kept && was != nil && (was.base.mode != Off || t.base.mode == Off) {
			t.refillBelow = was.refillBelow
			continue
		}
		e.table.ResetSlot(t.slot)
		if old != nil && t.base.mode != Off {
			t.refillBelow = below
			refill = append(refill, t.Name)
		}
	}
	e.rules.Store(rs)
	// Only now: a check that is under way may still count by the old rules. Its slot is
	// not given away before the next change of the rules.
	for i := range e.slots {
		if e.slots[i] != "" && !used[i] {
			e.table.ResetSlot(uint16(i))
			e.slots[i] = ""
		}
	}
	return refill
}

// assign gives t the slot of its fingerprint, or a free one; kept tells which.
func (e *Engine) assign(t *trigger) (kept bool) {
	fp := t.fingerprint()
	i := slices.Index(e.slots, fp)
	if kept = i >= 0; !kept {
		if i = slices.Index(e.slots, ""); i < 0 {
			i, e.slots = len(e.slots), append(e.slots, "")
		}
		e.slots[i] = fp
	}
	t.slot = uint16(i)
	return kept
}

// Slots lists the fingerprints of the counters by slot number, for a snapshot's header.
func (e *Engine) Slots() []string {
	e.swap.Lock()
	defer e.swap.Unlock()
	return slices.Clone(e.slots)
}

// Slot returns the slot that counters with that fingerprint have now.
func (e *Engine) Slot(fingerprint string) (uint16, bool) {
	e.swap.Lock()
	defer e.swap.Unlock()
	i := slices.Index(e.slots, fingerprint)
	return uint16(max(i, 0)), i >= 0 && fingerprint != ""
}

// Missing names the triggers whose counters a snapshot with these slots did not hold:
// they want a refill from the stored decisions.
func (e *Engine) Missing(snapshot []string) (refill []string) {
	rs := e.rules.Load()
	for i := range rs.triggers {
		t := &rs.triggers[i]
		if t.base.mode != Off && !slices.Contains(snapshot, t.fingerprint()) {
			refill = append(refill, t.Name)
		}
	}
	return refill
}

// Check judges a message and counts it. It looks at memory only.
func (e *Engine) Check(now Moment, s *Submission, id Identity) *Decision {
	return e.judge(now, s, id, ReasonWithin)
}

// Known is [Engine.Check] for the time of overload: whom a hold stops or whose counter
// is full stays stopped, so that overload is no way out for a spammer; everybody else
// passes with [ReasonOverload], unchecked in the sense that nobody looked closer at who
// it was, and is counted in.
func (e *Engine) Known(now Moment, s *Submission, id Identity) *Decision {
	return e.judge(now, s, id, ReasonOverload)
}

func (e *Engine) judge(now Moment, s *Submission, id Identity, passes Reason) *Decision {
	rs := e.rules.Load()
	d := begin(now, s, id)
	if why, pass := rs.passes(d); pass {
		d.Seq, d.Reason = e.table.NextSeq(), why
		return e.finish(d)
	}
	p := d.probe()
	if h := rs.holds.match(&p); h != nil {
		d.Seq = e.table.NextSeq()
		d.holdBy(h)
		e.keep(d, rs, true)
		return e.finish(d)
	}
	var askBuf [onStack]counters.Ask
	var withBuf [onStack]asked
	var resBuf [onStack]counters.Result
	asks, with := rs.plan(askBuf[:0], withBuf[:0], &p)
	res := resBuf[:]
	if len(asks) > len(res) {
		res = make([]counters.Result, len(asks))
	}
	res = res[:len(asks)]
	admitted := true
	if len(asks) == 0 {
		d.Seq = e.table.NextSeq()
	} else {
		admitted, d.Seq = e.table.Admit(now.Boot, asks, res)
	}
	d.settle(&p, asks, res, with, admitted, false)
	if d.Verdict == Accept && passes != ReasonWithin {
		d.Reason = passes
	}
	e.keep(d, rs, true)
	return e.finish(d)
}

// begin makes the decision of a message, accepting until something speaks against it.
func begin(now Moment, s *Submission, id Identity) *Decision {
	if s == nil {
		s = &Submission{CallerUID: -1}
	}
	d := &Decision{At: now, Identity: id, Submission: s}
	if d.Identity.Account == "" { // never an empty key
		d.Identity.Account = AccountUnknown
	}
	d.SubjectKey = subjectKey(s.Subject)
	return d
}

// passes reports whether the message is none of our business, and why.
func (rs *ruleset) passes(d *Decision) (Reason, bool) {
	switch {
	case rs.rules.Disabled:
		return ReasonDisabled, true
	case d.Identity.Source == SourceSystem:
		return ReasonSystem, true
	}
	return ReasonWithin, false
}

func (d *Decision) probe() probe {
	return probe{now: d.At, id: &d.Identity, s: d.Submission, subjectKey: d.SubjectKey, recipients: d.Submission.Recipients}
}

func (d *Decision) holdBy(h *Hold) {
	d.Verdict, d.Reason, d.Trigger, d.Release = h.verdict(), ReasonHold, h.Trigger, h.Release
	d.HoldID, d.EventID = h.ID, h.EventID
}

// finish gives the decision its reference and, where there is something to say, its texts.
func (e *Engine) finish(d *Decision) *Decision {
	d.Ref = RefOf(d.Seq, e.refKey)
	d.write()
	return d
}

// CountIn records a message that was accepted without being judged, and counts it
// where its sender is known. A request that nobody could read ([ReasonMalformed]) is
// charged to nobody.
func (e *Engine) CountIn(now Moment, s *Submission, id Identity, why Reason) *Decision {
	rs := e.rules.Load()
	d := begin(now, s, id)
	d.Reason = why
	reason, pass := rs.passes(d)
	if pass {
		d.Reason = reason
	}
	p := d.probe()
	var askBuf [onStack]counters.Ask
	var withBuf [onStack]asked
	asks := askBuf[:0]
	if !pass && why != ReasonMalformed {
		asks, _ = rs.plan(asks, withBuf[:0], &p)
	}
	if len(asks) == 0 {
		d.Seq = e.table.NextSeq()
	} else {
		d.Seq, d.Counted = e.table.Count(now.Boot, asks), true
	}
	return e.finish(d)
}

// Replay counts a stored decision that had been counted: at start those that the snapshot
// did not hold yet, after a change of rules those of the triggers named in only (nil =
// all). What was counted since the change is left out.
func (e *Engine) Replay(at Moment, seq uint64, s *Submission, id Identity, only map[string]bool) {
	e.ReplayStored(at, seq, id, subjectKey(s.Subject), s.Recipients, only)
}

// ReplayStored is [Engine.Replay] of a decision of which only what is counted was kept.
func (e *Engine) ReplayStored(at Moment, seq uint64, id Identity, subjectKey string, recipients int, only map[string]bool) {
	if id.Account == "" {
		id.Account = AccountUnknown
	}
	rs := e.rules.Load()
	if id.Source == SourceSystem {
		return
	}
	p := probe{now: at, id: &id, subjectKey: subjectKey, recipients: recipients}
	var askBuf [onStack]counters.Ask
	var withBuf [onStack]asked
	asks, with := rs.plan(askBuf[:0], withBuf[:0], &p)
	n := 0
	for i := range asks {
		t := with[i].t
		if only != nil && (!only[t.Name] || t.refillBelow != 0 && seq > t.refillBelow) {
			continue
		}
		asks[n] = asks[i]
		n++
	}
	if n > 0 {
		e.table.Replay(at.Boot, seq, asks[:n])
	}
}
