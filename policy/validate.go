package policy

import (
	"fmt"
	"path"
	"strings"
	"time"
)

// The bounds of what may be configured.
const (
	minPer     = time.Second
	maxPer     = 31 * 24 * time.Hour // decisions are not kept longer
	maxMax     = 1 << 40
	maxHoldFor = 366 * 24 * time.Hour
	maxGroup   = 65535 // distinct names in a group that the counters can hold
)

// Mistake is one wrong value in the rules.
type Mistake struct {
	Key     string // where it stands: "trigger account-hour: per"
	Value   string // as it was read, cut
	Allowed string // what may stand there
}

func (m Mistake) String() string {
	return fmt.Sprintf("%s = %.80q: %s", m.Key, m.Value, m.Allowed)
}

// Mistakes are all wrong values that were found, not just the first.
type Mistakes []Mistake

func (m Mistakes) Error() string {
	lines := make([]string, len(m))
	for i := range m {
		lines[i] = m[i].String()
	}
	return strings.Join(lines, "\n")
}

// checker collects mistakes under one prefix.
type checker struct {
	where string
	found Mistakes
}

// want notes a mistake unless ok.
func (c *checker) want(ok bool, key string, value any, allowed string) {
	if !ok {
		c.found = append(c.found, Mistake{Key: c.where + ": " + key, Value: fmt.Sprint(value), Allowed: allowed})
	}
}

// Validate looks at all rules and returns every mistake, as [Mistakes], or nil.
func (r *Rules) Validate() error {
	var all Mistakes
	seen := make(map[string]bool, len(r.Triggers))
	for i := range r.Triggers {
		t := &r.Triggers[i]
		all = append(all, ValidateTrigger(t)...)
		if seen[t.Name] {
			all = append(all, Mistake{"trigger " + t.Name + ": name", t.Name, "a name is given once"})
		}
		seen[t.Name] = true
	}
	if n := len(r.Triggers); n > MaxTriggers {
		all = append(all, Mistake{"trigger", fmt.Sprint(n), fmt.Sprintf("at most %d triggers", MaxTriggers)})
	}
	for i := range r.Overrides {
		all = append(all, ValidateOverride(&r.Overrides[i], r.Triggers)...)
	}
	for i := range r.Exemptions {
		all = append(all, ValidateExemption(&r.Exemptions[i], r.Triggers)...)
	}
	for i := range r.Holds {
		all = append(all, ValidateHold(&r.Holds[i])...)
	}
	all = append(all, r.Settings.validate()...)
	if len(all) == 0 {
		return nil
	}
	return all
}

// ValidateTrigger returns every mistake in one trigger.
func ValidateTrigger(t *Trigger) Mistakes {
	c := checker{where: "trigger " + t.Name}
	c.want(validTriggerName(t.Name), "name", t.Name, "1 to 64 of a-z, 0-9 and -")
	c.want(int(t.Watch) < len(watchNames), "watch", t.Watch, oneOf(watchNames[:]))
	c.max("max", t.Max)
	c.per(t.Per)
	c.want(int(t.Count) < len(unitNames), "count", t.Count, oneOf(unitNames[:]))
	c.want((t.Count == Connections) == t.Watch.Direct(), "count", t.Count, "connections for a direct or direct-directory trigger, recipients or messages for any other")
	c.want(t.Verdict == Accept || !t.Watch.Direct(), "verdict", t.Verdict, verdictOfDirect)
	c.want(int(t.Verdict) < len(verdictNames), "verdict", t.Verdict, oneOf(verdictNames[:]))
	c.want(t.Verdict != Discard || t.ConfirmLoss, "verdict", t.Verdict, "discard loses mail: it needs confirm_loss = true")
	c.want(int(t.Release) < len(releaseNames), "release", t.Release, oneOf(releaseNames[:]))
	c.want(int(t.Mode) < len(modeNames), "mode", t.Mode, oneOf(modeNames[:]))
	c.actions(t.Actions)
	c.apply(t.Actions, t.Watch)
	return c.found
}

const verdictOfDirect = "accept: a connection past Exim is seen and cannot be held; what follows are the actions"

func (c *checker) max(key string, n int64) {
	c.want(n >= 0 && n <= maxMax, key, n, fmt.Sprintf("0 to %d", int64(maxMax)))
}

func (c *checker) per(d time.Duration) {
	c.want(d >= minPer && d <= maxPer, "per", d, "1s to 31d (744h)")
	c.want(d%time.Millisecond == 0, "per", d, "whole milliseconds")
}

// validTriggerName reports whether a name may stand in logs and commands as it is.
func validTriggerName(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return s != "" && len(s) <= 64
}

// ValidateOverride returns every mistake in one override of these triggers.
func ValidateOverride(o *Override, triggers []Trigger) Mistakes {
	c := checker{where: strings.TrimSpace("override of " + o.Level.String() + " " + o.Name)}
	c.want(o.Level <= LevelMailbox, "level", o.Level, oneOf(levelNames[:]))
	if o.Level == LevelServer {
		c.want(o.Name == "", "name", o.Name, "the server has no name")
	} else {
		c.want(o.Name != "", "name", o.Name, "the name of the "+o.Level.String())
		c.want(o.Per == nil, "per", text(o.Per), "only for the whole server: a counter has one window")
	}
	c.want(o.Level != LevelMailbox || validMailbox(o.Name), "name", o.Name, "user@domain in lower case")
	c.trigger(o.Trigger, triggers)
	if o.Max != nil {
		c.max("max", *o.Max)
	}
	if o.Per != nil {
		c.per(*o.Per)
		c.want(o.Until.IsZero(), "until", o.Until, "a change of per has no end: a counter has one window")
	}
	c.want(o.Verdict == nil || int(*o.Verdict) < len(verdictNames), "verdict", text(o.Verdict), oneOf(verdictNames[:]))
	c.want(o.Release == nil || int(*o.Release) < len(releaseNames), "release", text(o.Release), oneOf(releaseNames[:]))
	c.want(o.Mode == nil || int(*o.Mode) < len(modeNames), "mode", text(o.Mode), oneOf(modeNames[:]))
	if o.Actions != nil {
		c.actions(*o.Actions)
	}
	for i := range triggers {
		t := &triggers[i]
		if o.Trigger != "" && o.Trigger != t.Name {
			continue
		}
		c.want(o.Level != LevelMailbox || o.Trigger == "" || t.Watch == WatchLogin, "trigger", o.Trigger, "a trigger that watches login: no other counts a mailbox")
		if o.Actions != nil && o.Trigger != "" { // of all triggers each does what applies to it
			c.apply(*o.Actions, t.Watch)
		}
		c.want(o.Verdict == nil || *o.Verdict == Accept || o.Trigger == "" || !t.Watch.Direct(), "verdict", text(o.Verdict), verdictOfDirect)
		c.want(o.Verdict == nil || *o.Verdict != Discard || t.ConfirmLoss || t.Watch.Direct(), "verdict", Discard, "discard loses mail: trigger "+t.Name+" needs confirm_loss = true")
	}
	empty := o.Max == nil && o.Per == nil && o.Verdict == nil && o.Release == nil && o.Mode == nil && o.Actions == nil
	c.want(!empty, "max", "", "sets nothing: one of max, verdict, release, mode, actions")
	return c.found
}

// trigger checks the name of a trigger that a rule is for.
func (c *checker) trigger(name string, triggers []Trigger) {
	if name == "" {
		return
	}
	names := make([]string, len(triggers))
	for i := range triggers {
		if names[i] = triggers[i].Name; names[i] == name {
			return
		}
	}
	c.want(false, "trigger", name, "the name of a trigger"+didYouMean(name, names))
}

// ValidateExemption returns every mistake in one exemption from these triggers.
func ValidateExemption(e *Exemption, triggers []Trigger) Mistakes {
	c := checker{where: strings.TrimSpace("exemption of " + e.Scope.String() + " " + e.Value)}
	c.trigger(e.Trigger, triggers)
	c.max("ceiling", e.Ceiling)
	switch e.Scope {
	case ScopeAccount:
		c.want(e.Value != "", "value", e.Value, "the name of the account")
		c.want(e.Account == "" || e.Account == e.Value, "account", e.Account, "the same account, or nothing")
	case ScopeMailbox:
		c.want(validMailbox(e.Value), "value", e.Value, "user@domain in lower case")
	case ScopeDirectory, ScopeSubject:
		c.part(e.Scope, e.Account, e.Value)
	case ScopeDestination:
		_, ok := parsePrefix(e.Value)
		c.want(ok, "value", e.Value, "an address or a network, such as 192.0.2.0/24")
		c.want(e.Trigger == "" && e.Ceiling == 0, "destination", e.Value, "neither trigger nor ceiling: connections to it are not counted at all")
	case ScopeIP:
		_, ok := parsePrefix(e.Value)
		c.want(ok, "value", e.Value, "an address or a network, such as 192.0.2.0/24")
	case ScopeRecipientDomain:
		c.want(plainDomain(e.Value), "value", e.Value, "a domain, such as shop.example")
	default:
		c.want(false, "scope", e.Scope, oneOf(scopeNames[:]))
	}
	return c.found
}

// part checks what names a directory or a Subject of an account.
func (c *checker) part(scope Scope, account, value string) {
	c.want(account != "", "account", account, "a "+scope.String()+" is one account's: name it")
	if scope == ScopeDirectory {
		c.want(path.IsAbs(value) && path.Clean(value) == value, "value", value, "an absolute path without //, . and ..")
		return
	}
	key, _ := FoldSubject(value)
	c.want(value != "" && key == value, "value", value, fmt.Sprintf("a Subject as it is compared: %q", key))
}

// ValidateHold returns every mistake in one hold.
func ValidateHold(h *Hold) Mistakes {
	c := checker{where: strings.TrimSpace("hold of " + h.Scope.String() + " " + joinKey(h.Account, h.Value))}
	c.want(h.Verdict == Freeze || h.Verdict == Discard, "verdict", h.Verdict, "freeze or discard")
	c.want(int(h.Release) < len(releaseNames), "release", h.Release, oneOf(releaseNames[:]))
	switch h.Scope {
	case ScopeAccount:
		c.want(h.Account != "", "account", h.Account, "the name of the account")
		c.want(h.Value == "", "value", h.Value, "nothing: the whole account is held")
	case ScopeMailbox:
		c.want(validMailbox(h.Value), "value", h.Value, "user@domain in lower case")
	case ScopeDirectory, ScopeSubject:
		c.part(h.Scope, h.Account, h.Value)
	default:
		c.want(false, "scope", h.Scope, "account, mailbox, directory or subject")
	}
	return c.found
}

func (s *Settings) validate() Mistakes {
	c := checker{where: "held"}
	c.want(s.HeldMaxMessages >= 0, "held_max_messages", s.HeldMaxMessages, "0 (no maximum) or more")
	c.want(s.HeldMaxBytes >= 0, "held_max_bytes", s.HeldMaxBytes, "0 (no maximum) or more")
	c.want(s.HoldGrace >= 0 && s.HoldGrace <= maxHoldFor, "hold_grace", s.HoldGrace, "0s to 366d")
	c.want(s.DistinctPerAccount >= 0 && s.DistinctPerAccount <= maxGroup, "distinct_per_account", s.DistinctPerAccount, fmt.Sprintf("0 (the default) to %d", maxGroup))
	return c.found
}

// validMailbox reports whether s looks like user@domain in lower case.
func validMailbox(s string) bool {
	at := strings.LastIndexByte(s, '@')
	return at > 0 && len(s) <= 320 && plainDomain(s[at+1:]) && strings.ToLower(s) == s && !strings.ContainsAny(s, " \t\r\n")
}

// text writes the value behind a pointer; "" for none.
func text[T any](p *T) string {
	if p == nil {
		return ""
	}
	return fmt.Sprint(*p)
}

func oneOf(names []string) string { return strings.Join(names, ", ") }

// didYouMean suggests the nearest of the known names: `; nearest is "account-hour"`.
func didYouMean(name string, known []string) string {
	if n := Nearest(name, known); n != "" {
		return fmt.Sprintf("; nearest is %q", n)
	}
	return ""
}

// Nearest returns the known name that is least far from name in single-letter edits;
// the first of equals, "" if there is none at all.
func Nearest(name string, known []string) string {
	best, least := "", -1
	if len(name) > 256 {
		name = name[:256]
	}
	for _, k := range known {
		if d := edits(name, k); least < 0 || d < least {
			best, least = k, d
		}
	}
	return best
}

// edits is the Levenshtein distance in bytes.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			above := row[j]
			row[j] = min(above+1, row[j-1]+1, diagonal+btoi(a[i-1] != b[j-1]))
			diagonal = above
		}
	}
	return row[len(b)]
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
