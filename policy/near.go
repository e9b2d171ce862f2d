package policy

import (
	"cmp"
	"math"
	"slices"
	"strings"

	"osm/counters"
)

// Near is a counter that is close to its maximum, or over it.
type Near struct {
	Account string // "" where the key is no account's (a client IP)
	Usage
}

// nearOfShard is how many counters of one shard of the table are looked at closer.
const nearOfShard = 64

// Near lists the counters that hold at least the given share of their maximum, the fullest
// first, at most limit; those without a limit are not among them. place tells where an
// account stands in the panel. No message waits for it longer than for a sweep of the
// counters, but it walks all of them: ask for it every few seconds, not more often.
func (e *Engine) Near(now Moment, share float64, limit int, place func(account string) Identity) []Near {
	rs := e.rules.Load()
	var list []Near
	for _, f := range e.table.Fullest(now.Boot, rs.floors(share), nearOfShard) {
		t := rs.bySlot[f.Slot]
		if t == nil || t.period != f.Period {
			continue
		}
		n, id := Near{Account: f.Group}, Identity{}
		if isIPGroup(f.Group) {
			n.Account = ""
			id.Account = keyText(f.Group, "")
		} else {
			n.Account = strings.TrimPrefix(f.Group, claimPrefix)
			id = place(n.Account)
		}
		ask, a, ok := rs.ask(now, t, f.Group, f.Name, id)
		if !ok || a.exempt != nil && a.exempt.Ceiling <= 0 {
			continue
		}
		n.Usage = e.usageRow(now, &ask, &a)
		if n.Used > 0 && float64(n.Used) >= share*float64(n.Max) {
			list = append(list, n)
		}
	}
	slices.SortFunc(list, func(a, b Near) int {
		return cmp.Or(cmp.Compare(b.part(), a.part()), cmp.Compare(b.Used, a.Used), cmp.Compare(a.Trigger, b.Trigger), cmp.Compare(a.Key, b.Key))
	})
	return list[:min(len(list), limit)]
}

// part is how full the counter is: 1 = all that may pass has passed.
func (n *Near) part() float64 {
	if n.Max <= 0 {
		return math.Inf(1)
	}
	return float64(n.Used) / float64(n.Max)
}

// floors says for each slot from which count on a counter can hold the share of its
// maximum, be it the lowest one that anybody has.
func (rs *ruleset) floors(share float64) []int64 {
	highest := 0
	for i := range rs.triggers {
		highest = max(highest, int(rs.triggers[i].slot))
	}
	floor := make([]int64, highest+1)
	for i := range rs.triggers {
		t := &rs.triggers[i]
		if !t.live {
			continue // it has no slot
		}
		lowest := t.base.max
		for j := range rs.rules.Overrides {
			if o := &rs.rules.Overrides[j]; o.Max != nil && o.concerns(t) {
				lowest = min(lowest, *o.Max)
			}
		}
		floor[t.slot] = max(int64(math.Ceil(share*float64(lowest))), 1)
	}
	return floor
}

// ask describes a counter as a message that fills it would ask it; ok is false where its
// trigger is off.
func (rs *ruleset) ask(now Moment, t *trigger, group, name string, id Identity) (ask counters.Ask, a asked, ok bool) {
	place := owner{id.Reseller, id.Package, id.Account, id.Mailbox}
	switch t.Watch {
	case WatchLogin:
		id.Source, id.Mailbox = SourceLogin, name
		place.mailbox = name
	case WatchDirect:
		id.Source = SourceDirect
	case WatchDirectory, WatchDirectDirectory:
		id.Source, id.Directory = SourceScript, name
		if t.Watch.Direct() {
			id.Source = SourceDirect
		}
		if strings.HasPrefix(group, claimPrefix) {
			id.DirectoryAccount, id.Claimed, id.Account = id.Account, true, ""
			place = owner{account: id.DirectoryAccount}
		}
	}
	p := probe{now: now, id: &id}
	if t.Watch == WatchSubject && !nameless(group) {
		p.subjectKey = name
	}
	over := rs.overrides.of(place)
	a = asked{t: t, limit: over.limit(t, now.Wall)}
	if a.limit.mode == Off {
		return ask, a, false
	}
	a.exempt = bestExemption(rs.exempt.match(nil, &p), t, id.Claimed, a.limit.max)
	return counters.Ask{Slot: t.slot, Group: group, Name: name, Period: t.period, Units: 1, Max: a.limit.max}, a, true
}
