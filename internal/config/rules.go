package config

import (
	"time"

	"osm/policy"
)

// verdictWords and the like are what the keys of a trigger may be.
func verdictWords() []string { return []string{"accept", "freeze", "discard", "defer", "deny"} }
func modeWords() []string    { return []string{"off", "observe", "enforce"} }
func releaseWords() []string { return []string{"manual", "when-free"} }

func watchWords() []string {
	return []string{"account", "subject", "scripts", "directory", "login", "client-ip", "automatic", "direct", "direct-directory"}
}

// maxUnits is the largest limit; more than any server sends in 31 days.
const maxUnits = 1 << 40

const actionsWant = `must be a list such as ["report", { hold = "1h" }, { block-login = "24h", from = 2 }]`

// triggerKeys are the keys of a [[trigger]].
func triggerKeys() []key[policy.Trigger] {
	type T = policy.Trigger
	return []key[T]{
		text("name", `must be 1 to 64 of the letters a-z, digits and "-"`, func(t *T) *string { return &t.Name }, isTriggerName),
		word("watch", func(t *T) *policy.Watch { return &t.Watch }, policy.ParseWatch, watchWords()...),
		number("max", func(t *T) *int64 { return &t.Max }, 0, maxUnits),
		duration("per", func(t *T) *time.Duration { return &t.Per }, time.Second, 31*day, "1h"),
		word("count", func(t *T) *policy.Unit { return &t.Count }, policy.ParseUnit, "recipients", "messages", "connections"),
		word("verdict", func(t *T) *policy.Verdict { return &t.Verdict }, policy.ParseVerdict, verdictWords()...),
		word("release", func(t *T) *policy.Release { return &t.Release }, policy.ParseRelease, releaseWords()...),
		actionsKey(func(t *T) *[]policy.Action { return &t.Actions }),
		word("mode", func(t *T) *policy.Mode { return &t.Mode }, policy.ParseMode, modeWords()...),
		unlessFalse(boolean("confirm_loss", func(t *T) *bool { return &t.ConfirmLoss })),
	}
}

// forKeys are the keys of a [[for]]; a nil field is inherited.
func forKeys() []key[policy.Override] {
	type O = policy.Override
	keys := []key[O]{}
	for _, l := range []policy.Level{policy.LevelReseller, policy.LevelPackage, policy.LevelAccount, policy.LevelMailbox} {
		keys = append(keys, levelKey(l))
	}
	return append(keys,
		unlessEmpty(text("trigger", "must be the name of a trigger, or left out for all of them", func(o *O) *string { return &o.Trigger },
			func(s string) bool { return s == "" || isTriggerName(s) })),
		maybe(number("max", func(v *int64) *int64 { return v }, 0, maxUnits), func(o *O) **int64 { return &o.Max }),
		maybe(word("verdict", func(v *policy.Verdict) *policy.Verdict { return v }, policy.ParseVerdict, verdictWords()...), func(o *O) **policy.Verdict { return &o.Verdict }),
		maybe(word("release", func(v *policy.Release) *policy.Release { return v }, policy.ParseRelease, releaseWords()...), func(o *O) **policy.Release { return &o.Release }),
		maybe(word("mode", func(v *policy.Mode) *policy.Mode { return v }, policy.ParseMode, modeWords()...), func(o *O) **policy.Mode { return &o.Mode }),
		maybe(actionsKey(func(v *[]policy.Action) *[]policy.Action { return v }), func(o *O) **[]policy.Action { return &o.Actions }),
		untilKey(func(o *O) *time.Time { return &o.Until }),
		reasonKey(func(o *O) *string { return &o.Provenance.Reason }),
	)
}

// exemptKeys are the keys of an [[exempt]].
func exemptKeys() []key[policy.Exemption] {
	type E = policy.Exemption
	keys := []key[E]{}
	for _, s := range exemptScopes() {
		keys = append(keys, scopeKey(s))
	}
	return append(keys,
		unlessEmpty(text("trigger", "must be the name of a trigger, or left out for all of them", func(e *E) *string { return &e.Trigger },
			func(s string) bool { return s == "" || isTriggerName(s) })),
		number("ceiling", func(e *E) *int64 { return &e.Ceiling }, 0, maxUnits),
		untilKey(func(e *E) *time.Time { return &e.Until }),
		reasonKey(func(e *E) *string { return &e.Provenance.Reason }),
	)
}

// exemptScopes are the scopes in the order in which they are looked for in a table:
// "account" stands beside "directory" and "subject" and is the scope only alone.
func exemptScopes() []policy.Scope {
	return []policy.Scope{policy.ScopeAccount, policy.ScopeMailbox, policy.ScopeDirectory, policy.ScopeSubject, policy.ScopeIP, policy.ScopeRecipientDomain, policy.ScopeDestination}
}

// scopeKey is the key that names what an exemption matches by. It is named like the
// scope; "account" also completes the others.
func scopeKey(s policy.Scope) key[policy.Exemption] {
	return key[policy.Exemption]{name: scopeName(s), want: "must be a text of 1 to 1024 bytes",
		set: func(e *policy.Exemption, v any) bool {
			value, is := v.(string)
			if !is || !isName(value) {
				return false
			}
			if s == policy.ScopeAccount {
				e.Account = value
				if e.Value == "" {
					e.Scope, e.Value = s, value
				}
				return true
			}
			e.Scope, e.Value = s, value
			return true
		},
		get: func(e *policy.Exemption) any {
			switch {
			case s == policy.ScopeAccount && e.Account != "":
				return e.Account
			case e.Scope == s && e.Value != "":
				return e.Value
			}
			return nil
		},
	}
}

// levelKey is the key that names whom a [[for]] is for.
func levelKey(l policy.Level) key[policy.Override] {
	return key[policy.Override]{name: l.String(), want: "must be a text of 1 to 1024 bytes",
		set: func(o *policy.Override, v any) bool {
			s, is := v.(string)
			if !is || !isName(s) {
				return false
			}
			o.Level, o.Name = l, s
			return true
		},
		get: func(o *policy.Override) any {
			if o.Level == l {
				return o.Name
			}
			return nil
		},
	}
}

// maybe makes a key of a V into a key of a T that may have no V.
func maybe[T, V any](k key[V], p func(*T) **V) key[T] {
	return key[T]{name: k.name, want: k.want,
		set: func(t *T, v any) bool {
			value := new(V)
			if !k.set(value, v) {
				return false
			}
			*p(t) = value
			return true
		},
		ok: func(t *T) bool { return *p(t) == nil || k.valid(*p(t)) },
		get: func(t *T) any {
			if *p(t) == nil {
				return nil
			}
			return k.get(*p(t))
		},
	}
}

// unlessEmpty and unlessFalse leave a key out of an export when it says nothing.
func unlessEmpty[T any](k key[T]) key[T] { return unless(k, "") }
func unlessFalse[T any](k key[T]) key[T] { return unless(k, false) }

func unless[T any](k key[T], nothing any) key[T] {
	get := k.get
	k.get = func(t *T) any {
		if v := get(t); v != nothing {
			return v
		}
		return nil
	}
	return k
}

// actionsKey is the list of what follows: names, and tables of one name with how long it
// stands and from which time on it follows.
func actionsKey[T any](p func(*T) *[]policy.Action) key[T] {
	return key[T]{name: "actions", want: actionsWant,
		set: func(t *T, v any) bool {
			got, ok := parseActions(v)
			if ok {
				*p(t) = got
			}
			return ok
		},
		get: func(t *T) any {
			out := []any{}
			for _, a := range *p(t) {
				out = append(out, actionValue(&a))
			}
			return out
		},
	}
}

// maxActions bounds what one trigger may start.
const maxActions = 16

func parseActions(v any) ([]policy.Action, bool) {
	in := list(v)
	if in == nil || len(in) > maxActions {
		return nil, false
	}
	out := []policy.Action{}
	for _, one := range in {
		switch a := one.(type) {
		case string:
			out = append(out, policy.Action{Name: a})
		case map[string]any:
			action, ok := actionOf(a)
			if !ok {
				return nil, false
			}
			out = append(out, action)
		default:
			return nil, false
		}
	}
	return out, true
}

func untilKey[T any](p func(*T) *time.Time) key[T] {
	return key[T]{name: "until", want: "must be a date (the end of that day) or a date and time, such as 2027-01-31",
		set: func(t *T, v any) bool {
			at, is := v.(time.Time)
			if is {
				*p(t) = at
			}
			return is
		},
		ok: func(t *T) bool { return p(t).IsZero() || (p(t).Year() >= 2000 && p(t).Year() < 10000) },
		get: func(t *T) any {
			if p(t).IsZero() {
				return nil
			}
			return *p(t)
		},
	}
}

// reasonKey is why something was set. What came from elsewhere than a file is made fit
// for one line when it is written.
func reasonKey[T any](p func(*T) *string) key[T] {
	k := text("reason", "must be one line of at most 500 bytes", p, func(s string) bool { return len(s) <= maxReason && !hasControl(s) })
	k.get = func(t *T) any {
		if *p(t) == "" {
			return nil
		}
		return OneLine(*p(t), maxReason)
	}
	return k
}

// maxReason is the length of a reason, in bytes.
const maxReason = 500
