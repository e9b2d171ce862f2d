package policy

import (
	"cmp"
	"slices"
	"strconv"
	"time"
)

// ruleset is [Rules] made ready for the way of a message: every lookup is one map
// access, and nothing in it changes once it is published.
type ruleset struct {
	rules     *Rules
	triggers  []trigger // as configured
	bySlot    map[uint16]*trigger
	byName    map[string]*trigger
	overrides overrideIndex
	exempt    exemptIndex
	holds     holdIndex
}

// trigger is a [Trigger] with its counter's slot.
type trigger struct {
	Trigger
	// live: it is on for somebody. Then it counts everybody's mail, so that it is right at
	// once for those for whom it is switched on later; one that is off for all has no slot.
	live        bool
	slot        uint16
	period      int64  // Per in milliseconds
	base        limit  // what holds where nothing is overridden
	refillBelow uint64 // as in its slot
}

// limit is what a trigger says for one sender, all levels considered.
type limit struct {
	max     int64
	verdict Verdict
	release Release
	mode    Mode
	actions []Action
	maxFrom *Override // set max; nil = the trigger itself
}

// fingerprint names what makes two counters of a trigger comparable: while it stays
// the same, the counters do, whatever happens to maximum, mode and verdict.
func (t *trigger) fingerprint() string {
	return t.Name + "|" + t.Watch.String() + "|" + strconv.FormatInt(t.period, 10) + "|" + t.Count.String()
}

// compile makes a ruleset of rules; slots are given by the caller afterwards. It
// leaves out what [Rules.Validate] would have refused.
func compile(r *Rules, old *ruleset) *ruleset {
	rs := &ruleset{rules: r, byName: make(map[string]*trigger, len(r.Triggers)), bySlot: make(map[uint16]*trigger, len(r.Triggers))}
	server, seen := sortedOverrides(r.Overrides, LevelServer), make(map[string]bool)
	for i := range r.Triggers {
		t := r.Triggers[i]
		if int(t.Watch) >= len(watchNames) || t.Per <= 0 || seen[t.Name] || t.Verdict > Deny || t.Mode > Enforce || len(rs.triggers) == MaxTriggers {
			continue
		}
		seen[t.Name] = true
		c := compileTrigger(t, server)
		c.live = c.base.mode != Off || turnedOn(&c, r.Overrides)
		rs.triggers = append(rs.triggers, c)
	}
	for i := range rs.triggers {
		rs.byName[rs.triggers[i].Name] = &rs.triggers[i]
	}
	rs.overrides = newOverrideIndex(r.Overrides)
	rs.exempt = newExemptIndex(r.Exemptions, old)
	rs.holds = newHoldIndex(r.Holds)
	return rs
}

// compileTrigger folds the server's overrides into t as far as they never end; the
// window's length is folded whatever its end, because a counter has one window.
func compileTrigger(t Trigger, server []*Override) trigger {
	c := trigger{Trigger: t}
	c.base = limit{max: t.Max, verdict: t.Verdict, release: t.Release, mode: t.Mode, actions: t.Actions}
	for _, o := range server {
		if o.Per != nil && o.concerns(&c) && *o.Per > 0 {
			c.Per = *o.Per
		}
	}
	for _, o := range server {
		if !o.Until.IsZero() {
			break
		}
		if o.concerns(&c) {
			o.apply(&c.base)
		}
	}
	c.base.onlySeen(&c)
	c.period = max(c.Per.Milliseconds(), 1)
	return c
}

// turnedOn reports whether a trigger that is off is on for somebody.
func turnedOn(t *trigger, overrides []Override) bool {
	return slices.ContainsFunc(overrides, func(o Override) bool {
		return o.Mode != nil && (*o.Mode == Observe || *o.Mode == Enforce) && o.concerns(t)
	})
}

// trigger finds a trigger by name; nil if there is none, or no rules yet.
func (rs *ruleset) trigger(name string) *trigger {
	if rs == nil {
		return nil
	}
	return rs.byName[name]
}

// concerns reports whether o speaks of t at all.
func (o *Override) concerns(t *trigger) bool {
	if o.Trigger != "" && o.Trigger != t.Name {
		return false
	}
	return o.Level != LevelMailbox || t.Watch == WatchLogin
}

// apply puts the fields that o sets into l.
func (o *Override) apply(l *limit) {
	if o.Max != nil {
		l.max, l.maxFrom = *o.Max, o
	}
	if o.Verdict != nil && *o.Verdict <= Deny {
		l.verdict = *o.Verdict
	}
	if o.Release != nil {
		l.release = *o.Release
	}
	if o.Mode != nil && *o.Mode <= Enforce {
		l.mode = *o.Mode
	}
	if o.Actions != nil {
		l.actions = *o.Actions
	}
}

// onlySeen leaves a trigger that watches connections no verdict but accept, whatever was set
// for all triggers: they are seen, and not asked about.
func (l *limit) onlySeen(t *trigger) {
	if t.Watch.Direct() {
		l.verdict = Accept
	}
}

// ended reports whether something that stands until a moment is over at now. Ends are
// wall-clock moments, as people set them.
func ended(until, now time.Time) bool { return !until.IsZero() && !now.Before(until) }

// overrideIndex finds the overrides that concern a sender, weakest first.
type overrideIndex struct {
	server []*Override // only from the first that ends on: the others are in the triggers
	byName [LevelMailbox + 1]map[string][]*Override
}

func newOverrideIndex(all []Override) overrideIndex {
	var x overrideIndex
	server := sortedOverrides(all, LevelServer)
	if i := slices.IndexFunc(server, func(o *Override) bool { return !o.Until.IsZero() }); i >= 0 {
		x.server = server[i:]
	}
	for level := LevelReseller; level <= LevelMailbox; level++ {
		for _, o := range sortedOverrides(all, level) {
			if x.byName[level] == nil {
				x.byName[level] = make(map[string][]*Override)
			}
			x.byName[level][o.Name] = append(x.byName[level][o.Name], o)
		}
	}
	return x
}

// sortedOverrides lists the overrides of one level, the winning one last: database
// over file, then the newest, then the one written later.
func sortedOverrides(all []Override, level Level) []*Override {
	var list []*Override
	for i := range all {
		if all[i].Level == level {
			list = append(list, &all[i])
		}
	}
	slices.SortStableFunc(list, func(a, b *Override) int {
		return cmp.Or(
			cmp.Compare(a.rank(), b.rank()),
			a.Provenance.At.Compare(b.Provenance.At),
			cmp.Compare(a.ID, b.ID),
		)
	})
	return list
}

func (o *Override) rank() int {
	if o.ID != 0 || o.Provenance.Where == "database" {
		return 1
	}
	return 0
}

// owner is whose counter is asked: the sender, or for a claimed directory the account
// that was claimed.
type owner struct {
	reseller, pkg, account, mailbox string
}

// overridesOf are the overrides that may concern one owner, by level.
type overridesOf struct {
	lists [LevelMailbox + 1][]*Override
	any   bool
}

// of looks an owner up; where nothing is overridden it costs no more than one lookup
// for each level that is used at all.
func (x *overrideIndex) of(o owner) overridesOf {
	var found overridesOf
	found.lists[LevelServer] = x.server
	names := [...]string{LevelReseller: o.reseller, LevelPackage: o.pkg, LevelAccount: o.account, LevelMailbox: o.mailbox}
	for level := LevelReseller; level <= LevelMailbox; level++ {
		if x.byName[level] != nil && names[level] != "" {
			found.lists[level] = x.byName[level][names[level]]
		}
	}
	for _, l := range found.lists {
		found.any = found.any || len(l) > 0
	}
	return found
}

// limit says what t holds for the owner of these overrides at the moment now.
func (f *overridesOf) limit(t *trigger, now time.Time) limit {
	l := t.base
	if !f.any {
		return l
	}
	for _, list := range f.lists {
		for _, o := range list {
			if o.concerns(t) && !ended(o.Until, now) {
				o.apply(&l)
			}
		}
	}
	l.onlySeen(t)
	return l
}
