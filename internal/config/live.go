package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"osm/policy"
)

// Live is a setting that can be changed while the daemon runs, by a row of the database
// that wins over the file.
type Live struct {
	Key     string
	Kind    string // bool, duration, size, number, rate, choice or list
	Choices []string
	Text    string // what it does, one sentence
}

// LiveSettings lists them in the order of the shipped file. Everything else takes a
// restart, and stands in the file alone.
func LiveSettings() []Live {
	return []Live{
		{Key: "checking", Kind: "bool", Text: "Whether messages are checked at all; if not, every message is accepted and only recorded."},
		{Key: "store.keep_decisions", Kind: "duration", Text: "How long each message's decision is kept, at least the longest period of a trigger."},
		{Key: "store.keep_events", Kind: "duration", Text: "How long events and the audit are kept, at least as long as decisions."},
		{Key: "held.keep", Kind: "duration", Text: "Held mail that is older is removed without a bounce; Exim's own timers must be longer."},
		{Key: "held.max_messages", Kind: "number", Text: "How many messages one account may have held in the queue."},
		{Key: "held.max_bytes", Kind: "size", Text: "How much mail one account may have held in the queue."},
		{Key: "held.full", Kind: "choice", Choices: []string{"freeze", "discard"}, Text: "What becomes of script mail beyond the two: it is frozen with an alarm, or thrown away for good."},
		{Key: "held.release_rate", Kind: "rate", Text: "How fast an operator's release leaves the queue."},
		{Key: "held.grace", Kind: "duration", Text: "For how long what an operator has just released is not put on hold again."},
		{Key: "actions.again", Kind: "duration", Text: "Who goes over again within this time climbs the ladder of actions."},
		{Key: "actions.lift_on_new_password", Kind: "bool", Text: "Whether a blocked mailbox may log in again before its time when its password was changed."},
		{Key: "actions.dry_run", Kind: "bool", Text: "Whether actions are only told in the event, and nothing is done but reports."},
		{Key: "report.mail_to", Kind: "list", Text: "Operators who are told by mail when somebody goes over a limit, with commas between; none: no mail."},
		{Key: "report.to_reseller", Kind: "bool", Text: "Whether the account's reseller is told by mail as well, of what was enforced."},
		{Key: "report.to_customer", Kind: "bool", Text: "Whether the account's owner is told by mail as well, of what was enforced."},
		{Key: "report.digest", Kind: "duration", Text: "How long nobody is told again about the same sender; what came meanwhile is told together."},
		{Key: "report.syslog", Kind: "bool", Text: "Whether reports go to the system's log as well."},
		{Key: "log.level", Kind: "choice", Choices: []string{"debug", "info", "warn", "error"}, Text: "How much the daemon logs: debug has each message, info what was stopped."},
	}
}

// Stored is a setting of the database.
type Stored struct {
	Key        string
	Value      string // as people write it: "30d", "true", "60/min"
	Provenance policy.Provenance
}

// liveKey finds the key of a setting that can be changed while the daemon runs.
func liveKey(name string) (key[Config], Live, bool) {
	all := LiveSettings()
	i := slices.IndexFunc(all, func(l Live) bool { return l.Key == name })
	if i < 0 {
		return key[Config]{}, Live{}, false
	}
	keys := settings()
	k := slices.IndexFunc(keys, func(k key[Config]) bool { return k.name == name })
	return keys[k], all[i], true
}

// Value is the value of a setting that can be changed while the daemon runs, as people
// write it; ok is false for any other key.
func (c *Config) Value(key string) (value string, ok bool) {
	k, _, ok := liveKey(key)
	if !ok {
		return "", false
	}
	if list := list(k.get(c)); list != nil {
		words := make([]string, len(list))
		for i := range list {
			words[i] = fmt.Sprint(list[i])
		}
		return strings.Join(words, ", "), true
	}
	return fmt.Sprint(k.get(c)), true
}

// With is the configuration with settings of the database over the file's. One that cannot
// be is left out and comes back as a mistake.
func (c Config) With(stored []Stored) (Config, Mistakes) {
	c.stored = nil
	next, wrong := c.withEach(stored)
	if pairs := next.pairs(); len(pairs) > 0 && len(c.pairs()) == 0 {
		// Nobody can tell which of the two is meant: the file's are in order.
		wrong = append(wrong, pairs...)
		stored = slices.DeleteFunc(slices.Clone(stored), func(s Stored) bool { return strings.HasPrefix(s.Key, "store.") })
		next, _ = c.withEach(stored)
	}
	return next, wrong
}

// withEach puts every setting in force that can be by itself.
func (c Config) withEach(stored []Stored) (Config, Mistakes) {
	var wrong Mistakes
	origins := map[string]policy.Provenance{}
	for _, s := range stored {
		k, live, ok := liveKey(s.Key)
		if !ok {
			wrong = append(wrong, unknownLive(s.Key))
			continue
		}
		next := c
		if !k.set(&next, liveValue(live.Kind, s.Value)) || !k.valid(&next) {
			wrong = append(wrong, Mistake{Key: s.Key, Value: show(s.Value), Text: k.want})
			continue
		}
		c = next
		origins[s.Key] = s.Provenance
	}
	c.stored = origins
	return c, wrong
}

func unknownLive(name string) Mistake {
	var known []string
	for _, l := range LiveSettings() {
		known = append(known, l.Key)
	}
	m := Mistake{Key: clean(name), Text: "cannot be changed while osm runs; these can: " + strings.Join(known, ", ")}
	if slices.ContainsFunc(settings(), func(k key[Config]) bool { return k.name == name }) {
		m.Text = "can only be changed in osm.toml, and takes a restart; these can be changed here: " + strings.Join(known, ", ")
	} else if guess := Nearest(name, known); guess != "" {
		m.Text = fmt.Sprintf("is no setting; did you mean %q?", guess)
	}
	return m
}

// liveValue makes a TOML value of what people write.
func liveValue(kind, s string) any {
	s = strings.TrimSpace(s)
	switch kind {
	case "bool":
		switch strings.ToLower(s) {
		case "true", "on", "yes":
			return true
		case "false", "off", "no":
			return false
		}
	case "list":
		words := []any{}
		for _, one := range splitList(s) {
			words = append(words, one)
		}
		return words
	case "number":
		if n, err := strconv.ParseInt(s, 10, 64); err == nil {
			return n
		}
	}
	return s
}

// pairs are mistakes of settings that do not go together.
func (c *Config) pairs() Mistakes {
	l := mistakeList{seen: map[string]bool{}}
	c.together(&l)
	return l.found
}
