package policy

import (
	"slices"
	"time"

	"osm/counters"
)

// Rehearsal judges mail of the past by rules that were not in force then: what a change of
// a limit would have done. It has an engine of its own, so that nothing real is counted,
// and belongs to one goroutine.
//
// Holds are left out, and what has ended by now: a rehearsal is about limits as they would
// be in force. So is how much frozen mail an account may have. Exemptions by recipient
// domain do not count either, as recipients are not kept.
type Rehearsal struct {
	engine *Engine
	d      Decision
	boot   int64 // of the last message: the past must not run backwards
	asks   []counters.Ask
	with   []asked
	res    []counters.Result
}

// NewRehearsal makes one of rules, as they would be in force at a moment.
func NewRehearsal(r *Rules, now time.Time) *Rehearsal {
	own := &Rules{Triggers: r.Triggers, Settings: r.Settings}
	own.Overrides = slices.DeleteFunc(slices.Clone(r.Overrides), func(o Override) bool { return ended(o.Until, now) })
	own.Exemptions = slices.DeleteFunc(slices.Clone(r.Exemptions), func(e Exemption) bool { return ended(e.Until, now) })
	for i := range own.Overrides { // "until Friday" is meant from now on, and is tried on all of the past
		own.Overrides[i].Until = time.Time{}
	}
	for i := range own.Exemptions {
		own.Exemptions[i].Until = time.Time{}
	}
	table := counters.New(counters.Options{Shards: 1, PerGroup: r.Settings.DistinctPerAccount})
	return &Rehearsal{engine: NewEngine(table, own)}
}

// Judge judges and counts one message; messages must come in the order in which they were
// sent. The decision, which has neither a reference nor texts, is good until the next call.
func (h *Rehearsal) Judge(at Moment, id Identity, subjectKey string, recipients int) *Decision {
	at.Boot = max(at.Boot, h.boot)
	h.boot = at.Boot
	if id.Account == "" {
		id.Account = AccountUnknown
	}
	rs := h.engine.rules.Load()
	h.d = Decision{At: at, Identity: id, SubjectKey: subjectKey, Over: h.d.Over[:0]}
	p := probe{now: at, id: &h.d.Identity, subjectKey: subjectKey, recipients: recipients}
	h.asks, h.with = rs.plan(h.asks[:0], h.with[:0], &p)
	h.res = slices.Grow(h.res[:0], len(h.asks))[:len(h.asks)]
	admitted := true
	if len(h.asks) > 0 {
		admitted, h.d.Seq = h.engine.table.Admit(at.Boot, h.asks, h.res)
	}
	h.d.settle(&p, h.asks, h.res, h.with, admitted, true)
	return &h.d
}

// Sweep gives memory back that the past used up; call it now and then.
func (h *Rehearsal) Sweep() { h.engine.table.Sweep(h.boot) }
