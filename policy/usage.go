package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"osm/counters"
)

// claimedKey stands in a key between the account and a directory of it that was only
// claimed: "shop claimed /home/shop/www". A directory begins with a slash, so it cannot be
// mistaken.
const claimedKey = "claimed "

// keyText writes a counter's key as people do: "shop", "shop Invoice #",
// "login 192.0.2.1".
func keyText(group, name string) string {
	if account, ok := strings.CutPrefix(group, claimPrefix); ok {
		return account + " " + claimedKey + name
	}
	if class, ok := strings.CutPrefix(group, ipGroupPrefix); ok {
		return strings.Replace(class, ":", " ", 1)
	}
	return joinKey(group, name)
}

// isIPGroup reports whether a counters' group is a client address.
func isIPGroup(group string) bool { return strings.HasPrefix(group, ipGroupPrefix) }

// parseKey is the inverse of keyText for the keys of one watch.
func parseKey(w Watch, key string) (group, name string, ok bool) {
	first, rest, _ := strings.Cut(key, " ")
	if w == WatchClientIP {
		class, ok := parse(ipClassNames[:], first)
		prefix, valid := parsePrefix(rest)
		if !ok || !valid {
			return "", "", false
		}
		return ipGroup(IPClass(class), prefix.Addr()), "", true
	}
	if directory, claimed := strings.CutPrefix(rest, claimedKey); w.PerDirectory() && claimed {
		return claimPrefix + first, directory, first != ""
	}
	return first, rest, first != ""
}

// Usage lists the counters of an account with what each allows and when it has room: its
// own totals even where nothing is counted, parts of it where something is. An address
// is asked for by its key, "login 192.0.2.1". Limits by reseller and package are seen
// by [Engine.UsageOf].
func (e *Engine) Usage(now Moment, account string) []Usage {
	return e.UsageOf(now, Identity{Account: account})
}

// UsageOf is [Engine.Usage] of the account in id, with its place in the panel.
func (e *Engine) UsageOf(now Moment, id Identity) []Usage {
	rs := e.rules.Load()
	group, isIP := id.Account, false
	if g, _, ok := parseKey(WatchClientIP, id.Account); ok {
		group, isIP = g, true
	}
	var list []counted
	seen := make(map[*trigger]bool)
	find := func(group string) {
		e.table.Usage(now.Boot, group, func(slot uint16, name string, period, used int64) {
			if t := rs.bySlot[slot]; t != nil && t.period == period {
				list = append(list, counted{t, group, name})
				seen[t] = true
			}
		})
	}
	find(group)
	if !isIP {
		find(claimPrefix + group)
	}
	for i := range rs.triggers {
		t := &rs.triggers[i]
		total := t.Watch == WatchAccount || t.Watch == WatchScripts || t.Watch == WatchAutomatic
		if total && !isIP && !nameless(group) && !seen[t] {
			list = append(list, counted{t, group, ""})
		}
	}
	usage := make([]Usage, 0, len(list))
	for i := range list {
		if u, ok := e.usage(rs, now, &list[i], id); ok {
			usage = append(usage, u)
		}
	}
	order := make(map[string]int, len(rs.triggers))
	for i := range rs.triggers {
		order[rs.triggers[i].Name] = i
	}
	slices.SortStableFunc(usage, func(a, b Usage) int {
		return cmp.Or(cmp.Compare(order[a.Trigger], order[b.Trigger]), cmp.Compare(b.Used, a.Used), cmp.Compare(a.Key, b.Key))
	})
	return usage
}

// counted is one counter that holds something.
type counted struct {
	t           *trigger
	group, name string
}

// usage describes one counter; ok is false for a trigger that is off there.
func (e *Engine) usage(rs *ruleset, now Moment, c *counted, id Identity) (Usage, bool) {
	ask, a, ok := rs.ask(now, c.t, c.group, c.name, id)
	if !ok {
		return Usage{}, false
	}
	return e.usageRow(now, &ask, &a), true
}

// usageRow looks a counter up and describes it for one more unit.
func (e *Engine) usageRow(now Moment, ask *counters.Ask, a *asked) Usage {
	t := a.t
	one := *ask
	one.Units, one.Kind = 1, counters.Binding
	u := Usage{
		Trigger: t.Name, Watch: t.Watch, Key: keyText(ask.Group, ask.Name), Mode: a.limit.mode,
		Max: a.limit.max, Per: t.Per, Count: t.Count, Origin: a.origin(),
	}
	a.unlimited = a.exempt != nil && a.exempt.Ceiling <= 0
	if a.exempt != nil && !a.unlimited {
		u.Max = a.exempt.Ceiling
	}
	one.Max = u.Max
	var res [1]counters.Result
	e.table.Peek(now.Boot, []counters.Ask{one}, res[:])
	u.Used = res[0].Used
	if res[0].Over && !a.unlimited {
		u.FreeAt = wallOf(now, res[0].FreeAt)
	}
	return u
}

// origin says where the maximum comes from.
func (a *asked) origin() string {
	from := a.t.Provenance.text("default")
	if o := a.limit.maxFrom; o != nil {
		from = strings.TrimSpace(o.Level.String()+" "+o.Name) + " (" + o.Provenance.text("file") + ")"
	}
	switch {
	case a.exempt == nil:
		return from
	case a.exempt.Ceiling <= 0:
		return "no limit by " + a.exempt.text() + "; else " + from
	}
	return a.exempt.text()
}

// text says where something was set: "default", "file" or "database, by root".
func (p Provenance) text(unset string) string {
	where := p.Where
	if where == "" {
		where = unset
	}
	if p.By != "" {
		where += ", by " + p.By
	}
	return where
}

// text names an exemption: "exemption 3 (database, by root)".
func (e *Exemption) text() string {
	s := "exemption"
	if e.ID != 0 {
		s = fmt.Sprintf("exemption %d", e.ID)
	}
	return s + " of " + e.Scope.String() + " (" + e.Provenance.text("file") + ")"
}

// Reset forgets one counter, by its key as people write it. The error is [ErrNoCounter]
// if there is nothing to forget.
func (e *Engine) Reset(name, key string) error {
	rs := e.rules.Load()
	t := rs.trigger(name)
	if t == nil {
		return fmt.Errorf("reset %.80q: there is no such trigger%s", name, didYouMean(name, rs.triggerNames()))
	}
	group, part, ok := parseKey(t.Watch, key)
	if !ok {
		return fmt.Errorf("reset %s: %.200q is no key of a %s trigger", name, key, t.Watch)
	}
	if !t.live || !e.table.Reset(t.slot, group, part) {
		return fmt.Errorf("reset %s of %.200q: %w", name, key, ErrNoCounter)
	}
	return nil
}

func (rs *ruleset) triggerNames() []string {
	names := make([]string, len(rs.triggers))
	for i := range rs.triggers {
		names[i] = rs.triggers[i].Name
	}
	return names
}
