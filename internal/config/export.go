package config

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"osm/policy"
)

// Setting is one effective value and where it stands, as "config show" prints it.
type Setting struct {
	Key    string `json:"key"`
	Value  string `json:"value"`  // as TOML
	Origin string `json:"origin"` // "default", "file, line 12", "database, by root: reason"
}

// Effective is the configuration with what was set in the database merged in: changes
// for the whole server go into the triggers, the others and the exemptions follow those
// of the file. What has ended at now is left out.
func (c Config) Effective(overrides []policy.Override, exemptions []policy.Exemption, now time.Time) Config {
	ended := func(t time.Time) bool { return !t.IsZero() && !now.Before(t) }
	c.Triggers = slices.Clone(c.Triggers)
	c.Overrides = slices.DeleteFunc(slices.Clone(c.Overrides), func(o policy.Override) bool { return ended(o.Until) })
	c.Exemptions = slices.DeleteFunc(slices.Clone(c.Exemptions), func(e policy.Exemption) bool { return ended(e.Until) })
	overrides = slices.Clone(overrides)
	slices.SortStableFunc(overrides, func(a, b policy.Override) int { return a.Provenance.At.Compare(b.Provenance.At) })
	for _, o := range overrides {
		switch {
		case ended(o.Until):
		case o.Level == policy.LevelServer:
			c.override(o)
		default:
			c.Overrides = append(c.Overrides, o)
		}
	}
	for _, e := range exemptions {
		if !ended(e.Until) {
			c.Exemptions = append(c.Exemptions, e)
		}
	}
	return c
}

// override puts a change for the whole server into the triggers that it concerns.
func (c *Config) override(o policy.Override) {
	for i := range c.Triggers {
		t := &c.Triggers[i]
		if o.Trigger != "" && o.Trigger != t.Name {
			continue
		}
		if o.Max != nil {
			t.Max = *o.Max
		}
		if o.Per != nil {
			t.Per = *o.Per
		}
		if o.Verdict != nil {
			t.Verdict = *o.Verdict
			t.ConfirmLoss = t.ConfirmLoss || *o.Verdict == policy.Discard // it was confirmed when it was set
		}
		if o.Release != nil {
			t.Release = *o.Release
		}
		if o.Mode != nil {
			t.Mode = *o.Mode
		}
		if o.Actions != nil {
			t.Actions = *o.Actions
		}
		t.Provenance = o.Provenance
		t.Provenance.Where = "database"
	}
}

// Settings lists every value with its origin, in the order of the shipped file.
func (c *Config) Settings() []Setting {
	var out []Setting
	for _, k := range settings() {
		out = append(out, Setting{Key: k.name, Value: tomlValue(k.get(c)), Origin: c.Origin(k.name)})
	}
	out = append(out, c.pairSettings("accounts.domains.", c.Accounts.Domains)...)
	out = append(out, c.pairSettings("accounts.contacts.", c.Accounts.Contacts)...)
	for i := range c.Triggers {
		t := &c.Triggers[i]
		for _, k := range triggerKeys()[1:] {
			if v := k.get(t); v != nil {
				key := triggerKey(t.Name, k.name)
				out = append(out, Setting{Key: key, Value: tomlValue(v), Origin: origin(c.Origin(key), t.Provenance)})
			}
		}
	}
	for i := range c.Overrides {
		o := &c.Overrides[i]
		out = append(out, tableSettings(o, forKeys(), forLabel(o), origin("file", o.Provenance))...)
	}
	for i := range c.Exemptions {
		e := &c.Exemptions[i]
		out = append(out, tableSettings(e, exemptKeys(), exemptLabel(e), origin("file", e.Provenance))...)
	}
	return out
}

// pairSettings lists the lines of a table whose keys are names.
func (c *Config) pairSettings(prefix string, pairs map[string]string) []Setting {
	var out []Setting
	for _, name := range slices.Sorted(maps.Keys(pairs)) {
		out = append(out, Setting{Key: prefix + name, Value: tomlValue(pairs[name]), Origin: c.Origin(prefix + name)})
	}
	return out
}

// tableSettings lists what a [[for]] or [[exempt]] says beside whom it is for.
func tableSettings[T any](t *T, keys []key[T], label, origin string) []Setting {
	var out []Setting
	for _, k := range keys {
		v := k.get(t)
		if v == nil || strings.Contains(" "+label+" ", " "+k.name+" ") {
			continue
		}
		out = append(out, Setting{Key: label + ": " + k.name, Value: tomlValue(v), Origin: origin})
	}
	return out
}

// origin is what people are told of where a value was set.
func origin(file string, p policy.Provenance) string {
	if p.Where != "database" {
		return file
	}
	text := "database"
	if p.By != "" {
		text += ", by " + clean(p.By)
	}
	if !p.At.IsZero() {
		text += ", " + p.At.UTC().Format("2006-01-02 15:04 UTC")
	}
	if p.Reason != "" {
		text += ": " + clean(p.Reason)
	}
	return text
}

// Export writes the configuration as a whole osm.toml: [Load] reads it back to the
// same, every value spelled out.
func (c Config) Export(w io.Writer) error {
	b := bufio.NewWriter(w)
	fmt.Fprintln(b, "# Every setting of osm as it was in force when this was written, those of the database\n# included. See osm.toml(5).")
	section := ""
	for _, k := range settings() {
		in, name, ok := strings.Cut(k.name, ".")
		if !ok {
			in, name = "", k.name
		}
		if in != section {
			if section == "accounts" {
				exportPairs(b, "accounts.domains", c.Accounts.Domains)
				exportPairs(b, "accounts.contacts", c.Accounts.Contacts)
			}
			section = in
			fmt.Fprintf(b, "\n[%s]\n", section)
		}
		if _, ok := c.stored[k.name]; ok {
			fmt.Fprintf(b, "# %s\n", c.Origin(k.name))
		}
		fmt.Fprintf(b, "%s = %s\n", name, tomlValue(k.get(&c)))
	}
	for i := range c.Triggers {
		exportTable(b, "trigger", &c.Triggers[i], triggerKeys(), c.Triggers[i].Provenance)
	}
	for i := range c.Overrides {
		exportTable(b, "for", &c.Overrides[i], forKeys(), c.Overrides[i].Provenance)
	}
	for i := range c.Exemptions {
		exportTable(b, "exempt", &c.Exemptions[i], exemptKeys(), c.Exemptions[i].Provenance)
	}
	return b.Flush()
}

// exportPairs writes a table whose keys are names, unless it is empty.
func exportPairs(b *bufio.Writer, table string, pairs map[string]string) {
	if len(pairs) == 0 {
		return
	}
	fmt.Fprintf(b, "\n[%s]\n", table)
	for _, name := range slices.Sorted(maps.Keys(pairs)) {
		fmt.Fprintf(b, "%s = %s\n", tomlKey(name), tomlValue(pairs[name]))
	}
}

func exportTable[T any](b *bufio.Writer, name string, t *T, keys []key[T], p policy.Provenance) {
	fmt.Fprintf(b, "\n[[%s]]\n", name)
	if p.Where == "database" {
		fmt.Fprintf(b, "# %s\n", origin("", p))
	}
	for _, k := range keys {
		if v := k.get(t); v != nil {
			fmt.Fprintf(b, "%s = %s\n", tomlKey(k.name), tomlValue(v))
		}
	}
}
