package config

import (
	"fmt"
	"strings"

	"osm/policy"
)

// ruleMistakes lets package policy judge the rules: it knows what goes together. Each
// is looked at alone, so that a mistake is reported on its own line.
func (c *Config) ruleMistakes(tables map[string]int, l *mistakeList) {
	for i := range c.Triggers {
		t := &c.Triggers[i]
		l.add(ours(policy.ValidateTrigger(t), triggerAt(t, tables), "trigger "+clean(t.Name), "name")...)
	}
	if n := len(c.Triggers); n > policy.MaxTriggers {
		l.add(Mistake{at: "trigger", Key: "trigger", Text: fmt.Sprintf("there are %d, at most %d are allowed: each one costs every message a look", n, policy.MaxTriggers)})
	}
	for i := range c.Overrides {
		o := &c.Overrides[i]
		l.add(ours(policy.ValidateOverride(o, c.Triggers), fmt.Sprintf("for[%d]", i), forLabel(o), o.Level.String())...)
	}
	for i := range c.Exemptions {
		e := &c.Exemptions[i]
		l.add(ours(policy.ValidateExemption(e, c.Triggers), fmt.Sprintf("exempt[%d]", i), exemptLabel(e), scopeName(e.Scope))...)
	}
}

// ours makes mistakes of this package of those of package policy. name is how the file
// calls what policy calls name or value.
func ours(found policy.Mistakes, at, label, name string) Mistakes {
	var out Mistakes
	for _, m := range found {
		field := strings.TrimSpace(m.Key[strings.LastIndex(m.Key, ": ")+1:])
		if field == "name" || field == "value" {
			field = name
		}
		value := ""
		if m.Value != "" {
			value = show(m.Value)
		}
		out = append(out, Mistake{at: at + "." + field, Key: label + ": " + field, Value: value, Text: clean(m.Allowed)})
	}
	return out
}
