package whm

import (
	"html/template"
	"slices"
	"time"

	"osm/internal/control"
)

// URL is the address of a page; pairs are names and values of its query.
func (v *view) URL(page string, pairs ...string) string { return v.c.front.to(page, pairs...) }

// Static is the address of a static file.
func (v *view) Static(name string) string { return v.c.front.to("static/" + v.c.p.static[name].name) }

// Here is the page that is shown, for a form to lead back to.
func (v *view) Here() string { return v.c.here() }

// Same is the address of this page with other values in its query.
func (v *view) Same(pairs ...string) string {
	q := v.c.URL.Query()
	q.Del("part")
	for i := 0; i+1 < len(pairs); i += 2 {
		q.Set(pairs[i], pairs[i+1])
	}
	page, _, _ := cutQuery(v.c.here())
	return v.c.front.to(page + "?" + q.Encode())
}

// Operator reports whether all may be seen and set.
func (v *view) Operator() bool { return v.c.actor.Role == control.Operator }

// User is who is logged in.
func (v *view) User() string { return v.c.actor.Name }

// Role is what he may do.
func (v *view) Role() string { return string(v.c.actor.Role) }

// Framed reports whether the page is shown inside WHM.
func (v *view) Framed() bool { return v.c.front.framed }

// Zone names the server's time zone.
func (v *view) Zone() string { return v.c.now.In(v.c.p.zone).Format("MST") }

// Now is the moment at which the page was made.
func (v *view) Now() control.Time { return control.Time{Time: v.c.now} }

// Today is the day, for a field that takes one.
func (v *view) Today() string { return v.c.now.In(v.c.p.zone).Format(time.DateOnly) }

// GetForm begins a form that asks for a page; attributes are names and values.
func (v *view) GetForm(page string, attributes ...string) template.HTML {
	address, hidden := v.c.front.action(page)
	form := `<form method="get" action="` + template.HTMLEscapeString(address) + `"` + attributesText(attributes) + `>`
	if hidden != "" {
		form += `<input type="hidden" name="p" value="` + template.HTMLEscapeString(hidden) + `">`
	}
	return template.HTML(form)
}

// PostForm begins a form that changes something.
func (v *view) PostForm(page string, attributes ...string) template.HTML {
	return template.HTML(`<form method="post" action="` + template.HTMLEscapeString(v.c.front.to(page)) + `"` + attributesText(attributes) +
		`><input type="hidden" name="csrf" value="` + v.c.token() + `">`)
}

func attributesText(pairs []string) string {
	text := ""
	for i := 0; i+1 < len(pairs); i += 2 {
		text += " " + pairs[i] + `="` + template.HTMLEscapeString(pairs[i+1]) + `"`
	}
	return text
}

// With hands a part of a page what it needs: this view, and its own value.
func (v *view) With(value any) partView { return partView{view: v, V: value} }

// partView is what a shared part of a page sees.
type partView struct {
	*view
	V any
}

// Val is what a field of a form holds: what was typed when the form was refused, else a
// value.
func (v *view) Val(form, field, otherwise string) string {
	if v.c.typed.Form == form && v.c.typed.Values != nil {
		return v.c.typed.Values.Get(field)
	}
	return otherwise
}

// Problem is what was wrong with a form; nil if nothing.
func (v *view) Problem(form string) *control.Error {
	if v.c.typed.Form == form {
		return v.c.typed.Err
	}
	return nil
}

// entry is one line of the menu.
type entry struct {
	Page, Name string
	Current    bool
}

// Menu lists the pages that there are for whoever is logged in.
func (v *view) Menu() []entry {
	all := []struct {
		page, name string
		operators  bool
	}{
		{"now", "Now", false}, {"senders", "Senders", false}, {"messages", "Messages", false}, {"connections", "Connections", false}, {"events", "Events", false}, {"actions", "Actions", false}, {"held", "Held mail", false},
		{"limits", "Limits", false}, {"exemptions", "Exemptions, holds", false}, {"audit", "Audit", true}, {"settings", "Settings", true}, {"help", "Help", false},
	}
	var out []entry
	for _, e := range all {
		if !e.operators || v.Operator() {
			out = append(out, entry{e.page, e.name, e.page == v.Section})
		}
	}
	return out
}

// choice is one of a list to choose from.
type choice struct{ Value, Text string }

// Spans are how far back a list can go.
func (v *view) Spans() []choice {
	return []choice{{"1h", "last hour"}, {"24h", "last 24 hours"}, {"7d", "last 7 days"}, {"30d", "last 30 days"}, {"", "all that is kept"}}
}

// Untils are the ends that something can have, besides a day of one's own; chosen is among
// them, whatever it is.
func (v *view) Untils(chosen string) []choice {
	now := v.c.now.In(v.c.p.zone)
	friday := now.AddDate(0, 0, (int(time.Friday)-int(now.Weekday())+7)%7)
	list := []choice{{"", "until it is removed"}, {"1h", "1 hour"}, {"4h", "4 hours"}, {"1d", "1 day"}, {"3d", "3 days"},
		{"day " + friday.Format(time.DateOnly), "the end of " + friday.Format("Monday 2 January")}, {"7d", "1 week"}, {"31d", "1 month"}}
	if slices.ContainsFunc(list, func(c choice) bool { return c.Value == chosen }) {
		return list
	}
	text := shown(chosen)
	if at, err := time.Parse(time.RFC3339, chosen); err == nil {
		text = at.In(v.c.p.zone).Format("2 January 2006 15:04 MST")
	}
	return append(list, choice{chosen, text})
}

// Verdicts are what messages can be chosen by.
func (v *view) Verdicts() []choice {
	return []choice{{"", "all"}, {"stopped", "stopped"}, {"accept", "passed"}, {"freeze", "frozen"}, {"defer", "deferred"}, {"deny", "refused"}, {"discard", "discarded"}, {"observed", "passed, only observed"}}
}

// Sources are the ways in which a described message can be submitted.
func (v *view) Sources() []choice {
	var list []choice
	for _, s := range []string{"login", "script", "local", "relay", "automatic"} {
		list = append(list, choice{s, sourceText(s)})
	}
	return list
}

// Link is the address of a page with a list of names and values.
func (v *view) Link(page string, fields [][2]string) string {
	var pairs []string
	for _, f := range fields {
		pairs = append(pairs, f[0], f[1])
	}
	return v.URL(page, pairs...)
}

// LimitFields are the fields of a limit's form, in the step from its preview to saving.
func (v *view) LimitFields() []string {
	return []string{"level", "name", "trigger", "max", "per", "mode", "verdict", "release", "actions", "hold_for", "actions_text", "until", "until_day", "reason"}
}

// Modes are what a trigger can be switched to.
func (v *view) Modes() []choice {
	return []choice{{"enforce", "Enforce"}, {"observe", "Observe"}, {"off", "Off"}}
}
