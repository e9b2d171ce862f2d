package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"osm/policy"
)

// Parse reads a configuration from data. path is for messages; dates without a zone
// are loc's. The error is a [Mistakes].
func Parse(data []byte, path string, loc *time.Location) (Config, error) {
	c := Default()
	c.Path = path
	tree := map[string]any{}
	if _, err := toml.Decode(string(data), &tree); err != nil {
		return Config{}, Mistakes{syntaxMistake(err, path)}
	}
	c.lines = lineIndex(string(data))
	r := reader{c: &c, loc: loc, tables: map[string]int{}}
	r.read(tree)
	found := c.mistakes(r.tables, r.mistakes)
	for i := range found {
		found[i].File, found[i].Line = path, c.lineOf(found[i].at)
	}
	found.sort()
	if err := found.orNil(); err != nil {
		return Config{}, err
	}
	c.nameTriggerLines(r.tables)
	return c, nil
}

// syntaxMistake makes a mistake of what the TOML package says.
func syntaxMistake(err error, path string) Mistake {
	m := Mistake{File: path, Text: "not valid TOML: " + err.Error()}
	var pe toml.ParseError
	if errors.As(err, &pe) {
		m.Line = pe.Position.Line
		m.Text = "not valid TOML: " + clean(pe.Message)
	}
	return m
}

// lineOf finds the line of a key, or else of the table that it belongs in.
func (c *Config) lineOf(at string) int {
	for at != "" {
		if n := c.lines[at]; n > 0 {
			return n
		}
		i := strings.LastIndexByte(at, '.')
		if i < 0 {
			return 0
		}
		at = at[:i]
	}
	return 0
}

// nameTriggerLines lets [Config.Origin] find a trigger's keys by the trigger's name.
func (c *Config) nameTriggerLines(tables map[string]int) {
	for name, i := range tables {
		for _, k := range triggerKeys() {
			if n := c.lines[fmt.Sprintf("trigger[%d].%s", i, k.name)]; n > 0 {
				c.lines[triggerKey(name, k.name)] = n
			}
		}
	}
}

// triggerKey is how a trigger's setting is called in messages.
func triggerKey(trigger, key string) string { return "trigger " + trigger + ": " + key }

// reader fills a Config from a decoded file and remembers what was wrong.
type reader struct {
	c        *Config
	loc      *time.Location
	tables   map[string]int // trigger name to its place among the file's [[trigger]] tables
	mistakes Mistakes
}

// wrong remembers a mistake; at is the key as the line index knows it.
func (r *reader) wrong(at, key string, value any, text string) {
	m := Mistake{at: at, Key: key, Text: text}
	if value != nil {
		m.Value = show(value)
	}
	r.mistakes = append(r.mistakes, m)
}

func (r *reader) read(tree map[string]any) {
	known := map[string]key[Config]{}
	sections := map[string][]string{"accounts": {"contacts", "domains"}}
	for _, k := range settings() {
		known[k.name] = k
		if section, name, ok := strings.Cut(k.name, "."); ok {
			sections[section] = append(sections[section], name)
		}
	}
	top := append(slices.Sorted(maps.Keys(sections)), "checking", "trigger", "for", "exempt")
	for _, name := range slices.Sorted(maps.Keys(tree)) {
		value := tree[name]
		switch _, isSection := sections[name]; {
		case name == "trigger":
			r.tablesOf(name, value, r.trigger)
		case name == "for":
			r.tablesOf(name, value, r.override)
		case name == "exempt":
			r.tablesOf(name, value, r.exemption)
		case isSection:
			r.section(name, value, sections[name], known)
		case known[name].set != nil:
			r.set(known[name], name, value)
		default:
			r.unknown(name, "", name, top)
		}
	}
}

// section reads one [section].
func (r *reader) section(section string, value any, names []string, known map[string]key[Config]) {
	table, ok := value.(map[string]any)
	if !ok {
		r.wrong(section, section, value, fmt.Sprintf("is a section: write [%s] on a line of its own, its keys below", section))
		return
	}
	for _, name := range slices.Sorted(maps.Keys(table)) {
		full := section + "." + name
		switch {
		case full == "accounts.domains":
			r.domains(full, table[name])
		case full == "accounts.contacts":
			r.contacts(full, table[name])
		case known[full].set != nil:
			r.set(known[full], full, table[name])
		default:
			r.unknown(full, section+".", name, names)
		}
	}
}

func (r *reader) set(k key[Config], at string, value any) {
	if !k.set(r.c, value) {
		r.wrong(at, k.name, value, k.want)
	}
}

// unknown remembers a key that nobody knows, with the nearest one that somebody does.
func (r *reader) unknown(at, prefix, name string, known []string) {
	text := "unknown key; allowed are " + strings.Join(known, ", ")
	if guess := Nearest(name, known); guess != "" {
		text = fmt.Sprintf("unknown key; did you mean %q?", guess)
	}
	r.wrong(at, prefix+clean(name), nil, text)
}

func (r *reader) domains(full string, value any) {
	const whole, one = `must be a table of domain = account, such as "shop.example" = "shop"`, "must be the name of an account; a domain is written in quotes"
	r.pairs(full, value, whole, one, func(domain, account string) { r.c.Accounts.Domains[strings.ToLower(domain)] = account })
}

func (r *reader) contacts(full string, value any) {
	const whole, one = `must be a table of account = address, such as "shop" = "owner@shop.example"`, "must be one address in quotes; the name of an account with a dot in it is written in quotes too"
	r.pairs(full, value, whole, one, func(account, address string) { r.c.Accounts.Contacts[account] = address })
}

// pairs hands each line of the table at full to put. whole says what the table must be, one
// what a value must be.
func (r *reader) pairs(full string, value any, whole, one string, put func(name, text string)) {
	table, ok := value.(map[string]any)
	if !ok {
		r.wrong(full, full, value, whole)
		return
	}
	for _, name := range slices.Sorted(maps.Keys(table)) {
		at := full + "." + name
		if text, is := table[name].(string); is {
			put(name, text)
		} else {
			r.wrong(at, clean(at), table[name], one)
		}
	}
}

// tablesOf hands each table of a [[name]] to read.
func (r *reader) tablesOf(name string, value any, read func(at string, i int, table map[string]any)) {
	tables := list(value)
	if tables == nil {
		r.wrong(name, name, nil, fmt.Sprintf("may stand more than once: write [[%s]] with two brackets", name))
		return
	}
	for i, t := range tables {
		at := fmt.Sprintf("%s[%d]", name, i)
		table, ok := t.(map[string]any)
		if !ok {
			r.wrong(at, name, t, fmt.Sprintf("must be a table: write [[%s]], its keys below", name))
			continue
		}
		read(at, i, table)
	}
}

// fill reads the keys of one table into t. label names the table in messages; skip
// are keys that were read already.
func fill[T any](r *reader, t *T, keys []key[T], at, label string, table map[string]any) {
	known := map[string]key[T]{}
	names := []string{}
	for _, k := range keys {
		known[k.name] = k
		names = append(names, k.name)
	}
	for _, name := range slices.Sorted(maps.Keys(table)) {
		full, value := at+"."+name, table[name]
		if moment, is := value.(time.Time); is {
			value = inZone(moment, r.loc)
		}
		k := known[name]
		switch {
		case k.set == nil:
			r.unknown(full, label+": ", name, names)
		case !k.set(t, value):
			r.wrong(full, label+": "+name, table[name], k.want)
		}
	}
}

// inZone gives a TOML date, or date and time without a zone, its zone. A date alone
// is the end of that day.
func inZone(t time.Time, loc *time.Location) time.Time {
	switch t.Location().String() {
	case "date-local":
		return endOfDay(t, loc)
	case "datetime-local":
		return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), loc).UTC().Truncate(time.Millisecond)
	}
	return t.UTC().Truncate(time.Millisecond)
}

// trigger reads one [[trigger]]: over the default of the same name, or a new one.
func (r *reader) trigger(at string, i int, table map[string]any) {
	name, _ := table["name"].(string)
	if name == "" {
		r.wrong(at, "trigger", nil, "has no name")
	} else if first, twice := r.tables[name]; twice {
		r.wrong(at+".name", "trigger "+clean(name), nil, fmt.Sprintf("is a second trigger of this name; the first is on line %d", r.c.lines[fmt.Sprintf("trigger[%d]", first)]))
		return
	} else {
		r.tables[name] = i
	}
	pos := slices.IndexFunc(r.c.Triggers, func(t policy.Trigger) bool { return t.Name == name })
	t := policy.Trigger{Name: name, Count: policy.Recipients, Verdict: policy.Freeze, Mode: policy.Observe, Actions: []policy.Action{{Name: "report"}}}
	if w, _ := policy.ParseWatch(fmt.Sprint(table["watch"])); w.Direct() { // nothing else makes sense there
		t.Count, t.Verdict = policy.Connections, policy.Accept
	}
	if pos >= 0 {
		t = r.c.Triggers[pos]
	}
	fill(r, &t, triggerKeys(), at, "trigger "+clean(name), table)
	for _, need := range []string{"watch", "max", "per"} {
		if _, has := table[need]; !has && pos < 0 {
			r.wrong(at+"."+need, triggerKey(clean(name), need), nil, "is missing: a trigger that is not one of the shipped ones needs name, watch, max and per")
		}
	}
	t.Provenance = policy.Provenance{Where: "file"}
	if pos >= 0 {
		r.c.Triggers[pos] = t
	} else if name != "" {
		r.c.Triggers = append(r.c.Triggers, t)
	}
}

// has names what a table has too much of.
func has(keys []string) string {
	if len(keys) == 0 {
		return ""
	}
	return "has " + strings.Join(keys, " and ") + ": "
}

// override reads one [[for]].
func (r *reader) override(at string, i int, table map[string]any) {
	o := policy.Override{Provenance: policy.Provenance{Where: "file"}}
	whom := []string{}
	for _, l := range []policy.Level{policy.LevelReseller, policy.LevelPackage, policy.LevelAccount, policy.LevelMailbox} {
		if _, has := table[l.String()]; has {
			whom = append(whom, l.String())
		}
	}
	if len(whom) != 1 {
		r.wrong(at, "for", nil, has(whom)+"a [[for]] needs exactly one of reseller, package, account and mailbox")
	}
	label := "[[for]]"
	if len(whom) == 1 {
		label = fmt.Sprintf("for %s %s", whom[0], clean(fmt.Sprint(table[whom[0]])))
	}
	fill(r, &o, forKeys(), at, label, table)
	if o.Level == policy.LevelMailbox {
		o.Name = strings.ToLower(o.Name)
	}
	r.c.Overrides = append(r.c.Overrides, o)
}

// exemption reads one [[exempt]].
func (r *reader) exemption(at string, i int, table map[string]any) {
	e := policy.Exemption{Provenance: policy.Provenance{Where: "file"}}
	var by []string
	for _, s := range exemptScopes()[1:] {
		if _, has := table[scopeName(s)]; has {
			by = append(by, scopeName(s))
		}
	}
	_, account := table["account"]
	if len(by) > 1 || (len(by) == 0 && !account) {
		r.wrong(at, "exempt", nil, has(by)+"an [[exempt]] needs exactly one of account, mailbox, directory, subject, ip, recipient_domain and destination (directory and subject beside the account they belong to)")
	}
	label := "[[exempt]]"
	if len(by) == 1 {
		label = fmt.Sprintf("exempt %s %s", by[0], clean(fmt.Sprint(table[by[0]])))
	} else if account {
		label = "exempt account " + clean(fmt.Sprint(table["account"]))
	}
	fill(r, &e, exemptKeys(), at, label, table)
	switch e.Scope {
	case policy.ScopeMailbox, policy.ScopeRecipientDomain:
		e.Value = strings.ToLower(e.Value)
	case policy.ScopeSubject: // an operator writes it as it stands in a message
		e.Value, _ = policy.FoldSubject(e.Value)
	}
	r.c.Exemptions = append(r.c.Exemptions, e)
}
