package policy

import "time"

// Effective is a trigger as it is in force for somebody, each field with who set it.
type Effective struct {
	Trigger // its fields as they are in force; its provenance is that of the trigger itself
	From    EffectiveFrom
}

// EffectiveFrom names for each field of a trigger the override that set it; nil = nobody
// but the trigger itself.
type EffectiveFrom struct{ Max, Per, Verdict, Release, Mode, Actions *Override }

// Effective lists all triggers as they are in force at a moment for a sender: of its
// reseller, package, account and mailbox those count that are named. The overrides must
// not be changed.
func (e *Engine) Effective(now time.Time, id Identity) []Effective {
	rs := e.rules.Load()
	server := sortedOverrides(rs.rules.Overrides, LevelServer)
	chain := append([]*Override(nil), server...)
	over := rs.overrides.of(owner{id.Reseller, id.Package, id.Account, id.Mailbox})
	for level := LevelReseller; level <= LevelMailbox; level++ {
		chain = append(chain, over.lists[level]...)
	}
	list := make([]Effective, 0, len(rs.triggers))
	for i := range rs.triggers {
		t := &rs.triggers[i]
		x := Effective{Trigger: t.Trigger}
		for _, o := range chain {
			if !o.concerns(t) {
				continue
			}
			if o.Level == LevelServer && o.Per != nil && *o.Per > 0 {
				x.Per, x.From.Per = *o.Per, o // whatever its end: see compileTrigger
			}
			if !ended(o.Until, now) {
				x.take(o)
			}
		}
		list = append(list, x)
	}
	return list
}

// take puts the fields that o sets into x.
func (x *Effective) take(o *Override) {
	l := limit{max: x.Max, verdict: x.Verdict, release: x.Release, mode: x.Mode, actions: x.Actions}
	o.apply(&l)
	x.Max, x.Verdict, x.Release, x.Mode, x.Actions = l.max, l.verdict, l.release, l.mode, l.actions
	for _, f := range []struct {
		set  bool
		from **Override
	}{
		{o.Max != nil, &x.From.Max}, {o.Verdict != nil, &x.From.Verdict}, {o.Release != nil, &x.From.Release},
		{o.Mode != nil, &x.From.Mode}, {o.Actions != nil, &x.From.Actions},
	} {
		if f.set {
			*f.from = o
		}
	}
}
