package policy

import (
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"osm/counters"
)

// MaxTriggers is how many triggers there may be: each one costs every message a look.
const MaxTriggers = 64

// ErrNoCounter says that a key has no counter: nothing was counted for it lately.
var ErrNoCounter = errors.New("nothing is counted under that key")

// Engine judges submissions by the rules and counts them. All its methods may be
// called by any number of goroutines at once; none does I/O or waits for anything but
// the counters' locks and, for a microsecond, a change of the rules.
type Engine struct {
	table  *counters.Table
	rules  atomic.Pointer[ruleset]
	refKey atomic.Pointer[[16]byte]
	held   heldTotals

	// gate is shared by all who count, and closed while new rules are put in force: so the
	// number of a decision tells by which rules it was counted.
	gate sync.RWMutex

	swap  sync.Mutex // one change of the rules at a time; guards slots
	slots []slot
}

// slot is the place of one trigger's counters. One that is free is empty.
type slot struct {
	fingerprint string // "" = free
	below       uint64 // decisions above this number are in the counters; those up to it come by a refill
	unfilled    bool   // that refill has not come to its end
}

// Refill names triggers whose counters lack stored decisions, each with the number of the
// last decision that they may lack. It is worth nothing for a trigger that has been given
// new counters since.
type Refill map[string]uint64

// Names lists the triggers.
func (r Refill) Names() []string { return slices.Sorted(maps.Keys(r)) }

// NewEngine makes an engine that counts in t and judges by r.
func NewEngine(t *counters.Table, r *Rules) *Engine {
	e := &Engine{table: t, held: heldTotals{byAccount: make(map[string]heldTotal)}}
	e.SetRefKey([16]byte{})
	e.SetRules(r)
	return e
}

// SetRefKey sets the key that references are made with. It must be the same at every
// start and be set before the first message.
func (e *Engine) SetRefKey(key [16]byte) { e.refKey.Store(&key) }

// Rules returns the rules in force. They must not be changed.
func (e *Engine) Rules() *Rules { return e.rules.Load().rules }

// SetRules replaces the rules for all messages that are asked about from now on. Counters
// stay as they are whatever changes in maximum, mode and verdict; a trigger whose
// watch, period or unit changed starts anew, and so does one that was off for everybody.
// Such triggers come back: they want [Engine.ReplayStored] of the stored decisions, and
// then [Engine.Filled].
func (e *Engine) SetRules(r *Rules) Refill {
	e.swap.Lock()
	defer e.swap.Unlock()
	return e.setRules(r)
}

// setRules is SetRules. The caller holds swap.
func (e *Engine) setRules(r *Rules) Refill {
	old := e.rules.Load()
	rs := compile(r, old)
	var fresh []*trigger
	used := make(map[uint16]bool, len(rs.triggers))
	for i := range rs.triggers {
		t := &rs.triggers[i]
		if !t.live {
			continue
		}
		if kept := e.assign(t); !kept {
			fresh = append(fresh, t)
		}
		t.refillBelow = e.slots[t.slot].below
		used[t.slot], rs.bySlot[t.slot] = true, t
	}
	refill := e.publish(rs, fresh, old == nil)
	for i := range e.slots { // nobody counts by the old rules any more
		if e.slots[i].fingerprint != "" && !used[uint16(i)] {
			e.table.ResetSlot(uint16(i))
			e.slots[i] = slot{}
		}
	}
	return refill
}

// publish puts rules in force, between two decisions. What was decided before is missing
// in the fresh triggers' counters, unless these are the first rules.
func (e *Engine) publish(rs *ruleset, fresh []*trigger, first bool) Refill {
	refill := make(Refill, len(fresh))
	e.gate.Lock()
	defer e.gate.Unlock()
	if !first && len(fresh) > 0 {
		below := e.table.NextSeq()
		for _, t := range fresh {
			t.refillBelow, refill[t.Name] = below, below
			e.slots[t.slot].below, e.slots[t.slot].unfilled = below, true
		}
	}
	e.rules.Store(rs)
	return refill
}

// assign gives t the slot of its fingerprint, or a free one; kept tells which.
func (e *Engine) assign(t *trigger) (kept bool) {
	fp := t.fingerprint()
	i := e.slotOf(fp)
	if kept = i >= 0; !kept {
		if i = e.slotOf(""); i < 0 {
			i, e.slots = len(e.slots), append(e.slots, slot{})
		}
		e.slots[i].fingerprint = fp
	}
	t.slot = uint16(i)
	return kept
}

// slotOf finds a slot, -1 if there is none. The caller holds swap.
func (e *Engine) slotOf(fingerprint string) int {
	return slices.IndexFunc(e.slots, func(s slot) bool { return s.fingerprint == fingerprint })
}

// Slots lists the fingerprints of the counters by slot number, for a snapshot's header.
// Counters that want a refill are not among them: the snapshot would be taken for whole.
func (e *Engine) Slots() []string {
	e.swap.Lock()
	defer e.swap.Unlock()
	list := make([]string, len(e.slots))
	for i, s := range e.slots {
		if !s.unfilled {
			list[i] = s.fingerprint
		}
	}
	return list
}

// Slot returns the slot that counters with that fingerprint have now.
func (e *Engine) Slot(fingerprint string) (uint16, bool) {
	e.swap.Lock()
	defer e.swap.Unlock()
	i := e.slotOf(fingerprint)
	return uint16(max(i, 0)), i >= 0 && fingerprint != ""
}

// Restored says at the start, before the first message, what the counters lack after a
// snapshot with these slots was read: newer are the triggers that it held, which lack what
// was decided after it; whole are the others, which lack everything. Without a snapshot
// all are such.
func (e *Engine) Restored(snapshot []string) (newer, whole Refill) {
	e.swap.Lock()
	defer e.swap.Unlock()
	newer, whole = Refill{}, Refill{}
	below := e.table.NextSeq()
	for i := range e.slots {
		if e.slots[i].fingerprint != "" {
			e.slots[i].below, e.slots[i].unfilled = below, true
		}
	}
	e.setRules(e.Rules())
	for _, t := range e.rules.Load().bySlot {
		if slices.Contains(snapshot, t.fingerprint()) {
			newer[t.Name] = below
		} else {
			whole[t.Name] = below
		}
	}
	return newer, whole
}

// Filled says that every stored decision that r speaks of was replayed.
func (e *Engine) Filled(r Refill) {
	e.swap.Lock()
	defer e.swap.Unlock()
	rs := e.rules.Load()
	for name, below := range r {
		if t := rs.trigger(name); t != nil && t.live && t.refillBelow == below {
			e.slots[t.slot].unfilled = false
		}
	}
}

// Longest is the longest period, as it is in force, of the triggers of r: how far back
// decisions are wanted.
func (e *Engine) Longest(r Refill) (longest time.Duration) {
	rs := e.rules.Load()
	for name := range r {
		if t := rs.trigger(name); t != nil {
			longest = max(longest, t.Per)
		}
	}
	return longest
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
	e.gate.RLock()
	defer e.gate.RUnlock()
	rs := e.rules.Load()
	d := begin(now, s, id)
	if why, pass := rs.passes(d); pass {
		d.Seq, d.Reason = e.table.NextSeq(), why
		return e.finish(d)
	}
	p := d.probe()
	if x := rs.exempt.allows(&p); x != nil {
		x.hits.Add(1)
		d.Seq, d.Reason = e.table.NextSeq(), ReasonExempt
		return e.finish(d)
	}
	h := rs.holds.match(&p)
	if h != nil && s.Direct != nil {
		d.HoldID = h.ID // it is shown; a connection is not the hold's to stop
	} else if h != nil {
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
	d.Near = near(asks, res, with, rs.rules.Settings.NearPercent)
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
	d.Ref = RefOf(d.Seq, *e.refKey.Load())
	d.write()
	return d
}

// CountIn records a message that was accepted without being judged, and counts it
// where its sender is known. A request that nobody could read ([ReasonMalformed]) is
// charged to nobody.
func (e *Engine) CountIn(now Moment, s *Submission, id Identity, why Reason) *Decision {
	e.gate.RLock()
	defer e.gate.RUnlock()
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

// Unanswered says that the message of d has passed although its answer was not taken: a
// decision that let it pass stays, any other becomes what really happened.
func (e *Engine) Unanswered(d *Decision) *Decision {
	switch d.Verdict {
	case Accept:
		return d
	case Freeze:
		e.unkeep(d)
	}
	return e.CountIn(d.At, d.Submission, d.Identity, ReasonUnanswered)
}

// Replay counts a stored decision that had been counted, in the counters that lack it:
// those of the triggers that only names, or of all where it is nil.
func (e *Engine) Replay(at Moment, seq uint64, s *Submission, id Identity, only Refill) {
	e.ReplayStored(at, seq, id, subjectKey(s.Subject), s.Recipients, only)
}

// ReplayStored is [Engine.Replay] of a decision of which only what is counted was kept.
// The account's place in the panel must be filled in ([AccountMap.Place]): limits are
// inherited from there.
func (e *Engine) ReplayStored(at Moment, seq uint64, id Identity, subjectKey string, recipients int, only Refill) {
	if id.Account == "" {
		id.Account = AccountUnknown
	}
	if id.Source == SourceSystem {
		return
	}
	e.gate.RLock()
	defer e.gate.RUnlock()
	rs := e.rules.Load()
	p := probe{now: at, id: &id, subjectKey: subjectKey, recipients: recipients}
	var askBuf [onStack]counters.Ask
	var withBuf [onStack]asked
	asks, with := rs.plan(askBuf[:0], withBuf[:0], &p)
	n := 0
	for i := range asks {
		if only != nil && !only.lacks(with[i].t, seq) {
			continue
		}
		asks[n] = asks[i]
		n++
	}
	if n > 0 {
		e.table.Replay(at.Boot, seq, asks[:n])
	}
}

// lacks reports whether the counters of t want that decision by this refill.
func (r Refill) lacks(t *trigger, seq uint64) bool {
	below, named := r[t.Name]
	return named && below == t.refillBelow && seq <= below
}
