package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"osm/policy"
)

// Validate checks the whole configuration and returns a [Mistakes] with everything
// that is wrong, or nil.
func (c *Config) Validate() error { return c.mistakes(nil, nil).orNil() }

// mistakes checks every value alone and all of them together, and adds what it finds
// to known, what is wrong already; no key is complained about twice. tables tells
// where in the file a trigger stands.
func (c *Config) mistakes(tables map[string]int, known Mistakes) Mistakes {
	l := mistakeList{found: known, seen: map[string]bool{}}
	for _, m := range known {
		l.seen[m.at] = true
	}
	for _, k := range settings() {
		if !k.valid(c) {
			l.add(Mistake{at: k.name, Key: k.name, Value: show(k.get(c)), Text: k.want})
		}
	}
	for _, domain := range slices.Sorted(maps.Keys(c.Accounts.Domains)) {
		at, account := "accounts.domains."+domain, c.Accounts.Domains[domain]
		if !isDomain(domain) || !isUser(account) {
			l.add(Mistake{at: at, Key: clean(at), Value: show(account), Text: `must be a domain in small letters and the name of an account, such as "shop.example" = "shop"`})
		}
	}
	for _, account := range slices.Sorted(maps.Keys(c.Accounts.Contacts)) {
		at, address := "accounts.contacts."+account, c.Accounts.Contacts[account]
		if !isUser(account) || !policy.ValidContact(address) {
			l.add(Mistake{at: at, Key: clean(at), Value: show(address), Text: `must be the name of an account and one e-mail address of at most 254 bytes, such as "shop" = "owner@shop.example"`})
		}
	}
	for i := range c.Triggers {
		t := &c.Triggers[i]
		l.add(invalid(t, triggerKeys(), triggerAt(t, tables), "trigger "+clean(t.Name))...)
	}
	for i := range c.Overrides {
		o := &c.Overrides[i]
		l.add(invalid(o, forKeys(), fmt.Sprintf("for[%d]", i), forLabel(o))...)
	}
	for i := range c.Exemptions {
		e := &c.Exemptions[i]
		l.add(invalid(e, exemptKeys(), fmt.Sprintf("exempt[%d]", i), exemptLabel(e))...)
	}
	c.together(&l)
	c.ruleMistakes(tables, &l)
	return l.found
}

// mistakeList collects mistakes, one for each key.
type mistakeList struct {
	found Mistakes
	seen  map[string]bool // by at; a table that is wrong itself hides what is in it
}

func (l *mistakeList) add(list ...Mistake) {
	for _, m := range list {
		table, _, _ := strings.Cut(m.at, "].")
		if l.seen[m.at] || l.seen[table+"]"] {
			continue
		}
		l.seen[m.at] = true
		l.found = append(l.found, m)
	}
}

// triggerAt is the line index's name of a trigger's table.
func triggerAt(t *policy.Trigger, tables map[string]int) string {
	if n, ok := tables[t.Name]; ok {
		return fmt.Sprintf("trigger[%d]", n)
	}
	return "trigger"
}

// invalid are the keys of t whose value is not allowed.
func invalid[T any](t *T, keys []key[T], at, label string) Mistakes {
	var out Mistakes
	for _, k := range keys {
		if !k.valid(t) {
			out = append(out, Mistake{at: at + "." + k.name, Key: label + ": " + k.name, Value: show(k.get(t)), Text: k.want})
		}
	}
	return out
}

// together checks values against each other, as far as each is in order itself.
func (c *Config) together(l *mistakeList) {
	keep := Mistake{at: "store.keep_decisions", Key: "store.keep_decisions", Value: show(FormatDuration(c.Store.KeepDecisions))}
	for i := range c.Triggers {
		t := &c.Triggers[i]
		if t.Per > c.Store.KeepDecisions && t.Per <= 31*day && t.Mode != policy.Off {
			keep.Text = fmt.Sprintf("must be at least %s, the period of trigger %s: counters are refilled from stored decisions", FormatDuration(t.Per), clean(t.Name))
			l.add(keep)
		}
	}
	if c.Store.KeepEvents < c.Store.KeepDecisions && !l.seen[keep.at] {
		l.add(Mistake{at: "store.keep_events", Key: "store.keep_events", Value: show(FormatDuration(c.Store.KeepEvents)),
			Text: "must be at least store.keep_decisions, or an event would be gone before its messages"})
	}
	sockets := map[string]string{}
	for _, k := range serverSettings() {
		path, _ := k.get(c).(string)
		if !strings.HasSuffix(k.name, "_socket") {
			continue
		}
		name, other := k.name, sockets[path]
		if other == "" {
			sockets[path] = name
			continue
		}
		if c.lines[name] == 0 { // the file's key is to blame, not the default
			name, other = other, name
		}
		l.add(Mistake{at: name, Key: name, Value: show(path), Text: "is the same path as " + other})
	}
}

// forLabel and exemptLabel name a table in messages.
func forLabel(o *policy.Override) string { return fmt.Sprintf("for %s %s", o.Level, clean(o.Name)) }

func exemptLabel(e *policy.Exemption) string {
	return fmt.Sprintf("exempt %s %s", scopeName(e.Scope), clean(e.Value))
}

// scopeName is a scope as a key: words are joined as in all keys.
func scopeName(s policy.Scope) string { return strings.ReplaceAll(s.String(), "-", "_") }
