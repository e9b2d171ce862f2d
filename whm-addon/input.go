package whm

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"osm/internal/control"
)

// cutQuery parts a page of ours from its query.
func cutQuery(page string) (path, query string, found bool) { return strings.Cut(page, "?") }

// query is a value of the address, without blanks around it.
func (c *call) query(name string) string { return strings.TrimSpace(c.URL.Query().Get(name)) }

// form is a value of the form that was sent, likewise.
func (c *call) form(name string) string { return strings.TrimSpace(c.PostForm.Get(name)) }

// Lengths of pages of a list.
const (
	listed      = 50
	shortListed = 10
	nearListed  = 6 // beside the chart, which is as high
	allListed   = 1000
)

// page is which part of a list is asked for.
func (c *call) page() control.Page {
	after := c.query("after")
	if len(after) > 200 {
		after = ""
	}
	return control.Page{Limit: listed, After: after}
}

// maxPages bounds how much of a list is read as a whole.
const maxPages = 50

// whole reads all of a list that is rather short.
func whole[T any](fetch func(control.Page) (control.List[T], error)) ([]T, error) {
	var all []T
	p := control.Page{Limit: allListed}
	for range maxPages {
		list, err := fetch(p)
		if err != nil {
			return nil, err
		}
		if all = append(all, list.Items...); list.Next == "" {
			break
		}
		p.After = list.Next
	}
	return all, nil
}

// allLimits, allHolds and allExemptions are what is set, as far as the actor may see it.
func (c *call) allLimits(level, name string) ([]control.Limit, error) {
	return whole(func(p control.Page) (control.List[control.Limit], error) {
		return c.p.service.Limits(c.Context(), c.actor, level, name, p)
	})
}

func (c *call) allHolds(account string) ([]control.Hold, error) {
	return whole(func(p control.Page) (control.List[control.Hold], error) {
		return c.p.service.Holds(c.Context(), c.actor, account, p)
	})
}

func (c *call) allExemptions() ([]control.Exemption, error) {
	return whole(func(p control.Page) (control.List[control.Exemption], error) {
		return c.p.service.Exemptions(c.Context(), c.actor, p)
	})
}

// since reads how far back a list is to go: a length of time such as "24h" or "7d". What is
// no length counts as otherwise, which "" means for ever.
func (c *call) since(otherwise string) (at time.Time, text string) {
	text = otherwise
	if c.URL.Query().Has("since") {
		text = c.query("since")
	}
	d, ok := length(text)
	if !ok {
		if d, ok = length(otherwise); !ok {
			return time.Time{}, ""
		}
		text = otherwise
	}
	return c.now.Add(-d), text
}

// length reads a length of time as osm.toml has it: a Go duration, or whole days or weeks.
func length(s string) (time.Duration, bool) {
	for _, u := range []struct {
		unit string
		is   time.Duration
	}{{"d", 24 * time.Hour}, {"w", 7 * 24 * time.Hour}} {
		if n, err := strconv.Atoi(strings.TrimSuffix(s, u.unit)); err == nil && strings.HasSuffix(s, u.unit) && n > 0 && n < 10_000 {
			return time.Duration(n) * u.is, true
		}
	}
	d, err := time.ParseDuration(s)
	return d, err == nil && d > 0
}

// until reads when something is to end: a day that was typed, to its end in the server's
// zone, or else what was chosen.
func (c *call) until(v url.Values) (control.Time, error) {
	day, chosen := strings.TrimSpace(v.Get("until_day")), strings.TrimSpace(v.Get("until"))
	if day == "" {
		day, _ = strings.CutPrefix(chosen, "day ")
		if day == chosen {
			day = ""
		}
	}
	if day != "" {
		at, err := time.ParseInLocation(time.DateOnly, day, c.p.zone)
		if err != nil {
			return control.Time{}, mistyped("until is %.40q: a day is written as in 2027-01-31", day)
		}
		return control.Time{Time: at.AddDate(0, 0, 1)}, nil
	}
	if chosen == "" {
		return control.Time{}, nil
	}
	if at, err := time.Parse(time.RFC3339Nano, chosen); err == nil { // carried from one step to the next
		return control.Time{Time: at}, nil
	}
	d, ok := length(chosen)
	if !ok {
		return control.Time{}, mistyped("until is %.40q: it is a length such as 4h or 3d, or a day", chosen)
	}
	return control.Time{Time: c.now.Add(d)}, nil
}

// mistyped is what is said about a field that cannot be read.
func mistyped(format, value string) error {
	return &control.Error{Status: http.StatusBadRequest, Message: fmt.Sprintf(format, shown(value))}
}

// number reads a whole number; people may set its thousands apart.
func number(field, s string) (*int64, error) {
	s = strings.NewReplacer(",", "", " ", "", "\u00a0", "", "'", "").Replace(s)
	if s == "" {
		return nil, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		return nil, mistyped(field+" is %.40q: it is a whole number", s)
	}
	return &n, nil
}

// idOf reads the number in a page's path.
func (c *call) idOf(name string) (int64, error) {
	id, err := strconv.ParseInt(c.PathValue(name), 10, 64)
	if err != nil || id <= 0 {
		return 0, refusal(http.StatusNotFound, "", "there is nothing with that number")
	}
	return id, nil
}

// word is a chosen word; nil: inherited.
func chosenWord(s string) *string {
	if s = strings.TrimSpace(s); s == "" {
		return nil
	}
	return &s
}

// limitOf reads what a limit is to set.
func (c *call) limitOf(v url.Values) (control.Limit, error) {
	l := control.Limit{Level: v.Get("level"), Name: strings.TrimSpace(v.Get("name")), Trigger: v.Get("trigger"), Reason: strings.TrimSpace(v.Get("reason")),
		Mode: chosenWord(v.Get("mode")), Verdict: chosenWord(v.Get("verdict")), Release: chosenWord(v.Get("release"))}
	var err error
	if l.Max, err = number("max", v.Get("max")); err != nil {
		return l, err
	}
	if s := strings.TrimSpace(v.Get("per")); s != "" {
		d, ok := length(s)
		if !ok {
			return l, mistyped("the period is %.40q: it is a length such as 30m, 1h or 1d", s)
		}
		per := control.Period(d)
		l.Per = &per
	}
	if l.Actions, err = actionsOf(v); err != nil {
		return l, err
	}
	l.Until, err = c.until(v)
	return l, err
}

// actionsOf reads what is to follow when a trigger goes over; nil: inherited.
func actionsOf(v url.Values) (*[]control.LimitEntry, error) {
	list := []control.LimitEntry{}
	switch v.Get("actions") {
	case "":
		return nil, nil
	case "report":
		list = append(list, control.LimitEntry{Name: "report"})
	case "report,hold":
		list = append(list, control.LimitEntry{Name: "report"}, control.LimitEntry{Name: "hold"})
	case "hold":
		list = append(list, control.LimitEntry{Name: "hold"})
	case "own":
		own, err := control.ParseActions(v.Get("actions_text"))
		if err != nil {
			return nil, mistyped("the list of actions: %.200s", err.Error())
		}
		return &own, nil
	}
	if s := strings.TrimSpace(v.Get("hold_for")); s != "" && len(list) > 0 && list[len(list)-1].Name == "hold" {
		d, ok := length(s)
		if !ok {
			return nil, mistyped("the hold's length is %.40q: it is a length such as 1h or 1d", s)
		}
		list[len(list)-1].For = control.Period(d)
	}
	return &list, nil
}
