package whm

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"osm/internal/control"
)

// limitsBody is every trigger as it is in force for somebody.
type limitsBody struct {
	Level, Name string
	Triggers    []control.Effective
	Set         control.List[control.Limit] // what is set there, or anywhere
	Anywhere    bool
	Levels      []choice
}

// levelsOf are the levels that an actor may choose.
func (c *call) levelsOf() []choice {
	all := []choice{{"server", "the whole server"}, {"reseller", "reseller"}, {"package", "package"}, {"account", "account"}, {"mailbox", "mailbox"}}
	if c.actor.Role == control.Operator {
		return all
	}
	return []choice{all[1], all[3], all[4]}
}

// whom reads for whom limits are looked at: operators begin with the server, resellers
// with themselves.
func (c *call) whom(v url.Values) (level, name string) {
	level, name = v.Get("level"), strings.TrimSpace(v.Get("name"))
	switch {
	case level == "" && c.actor.Role == control.Operator:
		level = "server"
	case level == "" || level == "reseller" && c.actor.Role != control.Operator:
		level, name = "reseller", c.actor.Reseller
	}
	if level == "server" {
		name = ""
	}
	return level, name
}

// limitsPage shows the triggers with what is inherited, and all limits that are set.
func (c *call) limitsPage() error {
	b := &limitsBody{Levels: c.levelsOf(), Anywhere: c.query("set") == "all"}
	b.Level, b.Name = c.whom(c.URL.Query())
	if b.Level != "server" && b.Name == "" {
		return c.limitsUnnamed(b)
	}
	triggers, err := c.p.service.Triggers(c.Context(), c.actor, b.Level, b.Name)
	if err != nil {
		if err := c.refusedName("whom", err); err != nil {
			return err
		}
		return c.show("limits", "limits", "Limits", b)
	}
	b.Triggers = triggers.Items
	level, name := b.Level, b.Name
	if b.Anywhere {
		level, name = "", ""
	}
	p := c.page()
	if b.Set, err = c.p.service.Limits(c.Context(), c.actor, level, name, p); err != nil {
		return err
	}
	return c.show("limits", "limits", "Limits", b)
}

// limitsUnnamed asks for the name that is missing.
func (c *call) limitsUnnamed(b *limitsBody) error {
	if c.URL.Query().Has("name") {
		c.typed = typed{Form: "whom", Values: c.URL.Query(), Err: &control.Error{Status: http.StatusBadRequest, Message: "write the name of the " + b.Level}}
	}
	return c.show("limits", "limits", "Limits", b)
}

// Of finds what is set for a trigger at the level that is shown.
func (b *limitsBody) Of(trigger string) *control.Limit {
	for i := range b.Set.Items {
		if l := &b.Set.Items[i]; l.Trigger == trigger && l.Level == b.Level && l.Name == b.Name && l.ID != 0 {
			return l
		}
	}
	return nil
}

// limitBody is the form of one limit.
type limitBody struct {
	Limit   control.Limit
	Now     *control.Effective // what is in force there
	Values  url.Values         // what the fields hold
	Preview *control.Preview   // what it would have done; nil before that step
	Actions string
	HoldFor string
	Back    string
	Raise   bool // only its maximum is asked for
}

// limitForm shows a form with what is set now, or what the address asks for.
func (c *call) limitForm() error {
	b, err := c.limitBody(c.URL.Query())
	if err != nil {
		return err
	}
	b.Back = "limits?" + url.Values{"level": {b.Limit.Level}, "name": {b.Limit.Name}}.Encode()
	for _, l := range c.limitNow(b) {
		b.fill(&l, c.p.zone)
	}
	for _, field := range []string{"max", "until", "until_day", "mode", "reason"} {
		if v := c.query(field); v != "" {
			b.Values.Set(field, v)
		}
	}
	return c.show("limit", "limits", "Change a limit", b)
}

// limitBody finds for whom a limit is, and what is in force there.
func (c *call) limitBody(v url.Values) (*limitBody, error) {
	b := &limitBody{Values: url.Values{}}
	b.Limit.Level, b.Limit.Name = c.whom(v)
	b.Limit.Trigger = v.Get("trigger")
	triggers, err := c.p.service.Triggers(c.Context(), c.actor, b.Limit.Level, b.Limit.Name)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(triggers.Items, func(t control.Effective) bool { return t.Trigger == b.Limit.Trigger })
	switch {
	case i >= 0:
		b.Now = &triggers.Items[i]
	case b.Limit.Trigger != "":
		return nil, refusal(http.StatusNotFound, "", "there is no such trigger")
	}
	return b, nil
}

// limitNow is what is set in the database already, at most one.
func (c *call) limitNow(b *limitBody) []control.Limit {
	list, err := c.allLimits(b.Limit.Level, b.Limit.Name)
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(list, func(l control.Limit) bool {
		return l.ID == 0 || l.Trigger != b.Limit.Trigger || l.Name != b.Limit.Name || (!l.Until.IsZero() && l.Until.Before(c.now))
	})
}

// fillActions chooses among the usual lists of actions, or writes one that is another as
// osmctl takes it.
func (b *limitBody) fillActions(list []control.LimitEntry) {
	names, words, usual := []string{}, []string{}, true
	for _, a := range list {
		names, words = append(names, a.Name), append(words, a.String())
		usual = usual && (a.Name == "report" && a.From < 2 || a.Name == "hold" && a.From < 2)
		if a.Name == "hold" && a.For > 0 {
			b.Values.Set("hold_for", a.For.String())
		}
	}
	slices.SortFunc(names, func(a, b string) int { return strings.Compare(b, a) }) // report before hold
	switch {
	case len(list) == 0:
		b.Values.Set("actions", "none")
	case usual:
		b.Values.Set("actions", strings.Join(names, ","))
	default:
		b.Values.Set("actions", "own")
		b.Values.Set("actions_text", strings.Join(words, ", "))
	}
}

// fill puts what is set into the fields.
func (b *limitBody) fill(l *control.Limit, zone *time.Location) {
	set := func(field string, v *string) {
		if v != nil {
			b.Values.Set(field, *v)
		}
	}
	set("mode", l.Mode)
	set("verdict", l.Verdict)
	set("release", l.Release)
	if l.Max != nil {
		b.Values.Set("max", strconv.FormatInt(*l.Max, 10))
	}
	if l.Per != nil {
		b.Values.Set("per", l.Per.String())
	}
	if l.Actions != nil {
		b.fillActions(*l.Actions)
	}
	if !l.Until.IsZero() {
		b.Values.Set("until_day", l.Until.In(zone).Add(-time.Second).Format(time.DateOnly))
	}
	b.Values.Set("reason", l.Reason)
}

// Field is what a field of the form holds.
func (b *limitBody) Field(name string) string { return b.Values.Get(name) }

// previewBack is how far a preview looks back.
const previewBack = 7 * 24 * time.Hour

// saveLimit has three steps: a form becomes a preview, a preview is saved, or the form is
// shown again.
func (c *call) saveLimit() error {
	b, err := c.limitBody(c.PostForm)
	if err != nil {
		return err
	}
	b.Values, b.Back = c.PostForm, c.back("limits")
	l, err := c.limitOf(c.PostForm)
	l.Level, l.Name = b.Limit.Level, b.Limit.Name
	step := c.form("step")
	switch {
	case err != nil || step == "edit":
	case step == "save":
		if _, err = c.p.service.SetLimit(c.Context(), c.actor, l); err == nil {
			return c.limitSaved(&l, b.Back)
		}
	default:
		var preview control.Preview
		if preview, err = c.p.service.PreviewLimit(c.Context(), c.actor, l, 0, c.now.Add(-previewBack)); err == nil {
			b.Preview = &preview
			if !l.Until.IsZero() { // the same moment at the next step, however long somebody thinks
				b.Values.Set("until", l.Until.UTC().Format(time.RFC3339))
				b.Values.Del("until_day")
			}
		}
	}
	b.Limit = l
	if err != nil {
		if err := c.refused("limit", err); err != nil {
			return err
		}
	}
	return c.show("limit", "limits", "Change a limit", b)
}

func (c *call) limitSaved(l *control.Limit, back string) error {
	c.say(upperFirst(limitWhom(*l))+": "+limitText(*l)+". It is in force now.", c.undoLatest(nil))
	return c.done(back)
}

// limitWhom and limitText tell a limit in a few words.
func limitWhom(l control.Limit) string {
	trigger := "all triggers"
	if l.Trigger != "" {
		trigger = "trigger " + l.Trigger
	}
	if l.Level == "server" {
		return "the whole server, " + trigger
	}
	return l.Level + " " + shown(l.Name) + ", " + trigger
}

func limitText(l control.Limit) string {
	var parts []string
	if l.Max != nil {
		parts = append(parts, "at most "+decimal(*l.Max))
	}
	if l.Per != nil {
		parts = append(parts, "in "+period(*l.Per))
	}
	for _, w := range []struct {
		name  string
		value *string
	}{{"mode ", l.Mode}, {"verdict ", l.Verdict}, {"release ", l.Release}} {
		if w.value != nil {
			parts = append(parts, w.name+*w.value)
		}
	}
	if l.Actions != nil {
		parts = append(parts, "then "+actionsText(*l.Actions))
	}
	return strings.Join(parts, ", ")
}

// removalBody asks whether something is to be removed.
type removalBody struct {
	Limit   control.Limit
	Preview *control.Preview
	Failed  string // why there is no preview
}

// limitRemoval shows what removing a limit would have done.
func (c *call) limitRemoval() error {
	id, err := c.idOf("id")
	if err != nil {
		return err
	}
	list, err := c.allLimits("", "")
	if err != nil {
		return err
	}
	i := slices.IndexFunc(list, func(l control.Limit) bool { return l.ID == id })
	if i < 0 {
		return refusal(http.StatusNotFound, "", "there is no limit with that number")
	}
	b := &removalBody{Limit: list[i]}
	preview, err := c.p.service.PreviewLimit(c.Context(), c.actor, control.Limit{}, id, c.now.Add(-previewBack))
	if b.Preview = &preview; err != nil {
		b.Preview, b.Failed = nil, problem(err).Message
	}
	return c.show("limitremoval", "limits", "Remove a limit", b)
}

func (c *call) removeLimit() error {
	id, err := c.idOf("id")
	if err != nil {
		return err
	}
	l, err := c.p.service.RemoveLimit(c.Context(), c.actor, id, c.form("reason"))
	if err != nil {
		if err := c.refused("remove", err); err != nil {
			return err
		}
		return c.limitRemoval()
	}
	c.say("Removed: "+limitWhom(l)+", "+limitText(l)+".", c.undoLatest(nil))
	return c.done("limits?" + url.Values{"level": {l.Level}, "name": {l.Name}}.Encode())
}

// resetBody is a counter that is to be forgotten.
type resetBody struct {
	Trigger, Key, Back string
	Usage              *control.Usage
}

// resetForm asks whether a counter is to be forgotten.
func (c *call) resetForm() error {
	v := c.URL.Query()
	if c.Method == http.MethodPost {
		v = c.PostForm
	}
	b := &resetBody{Trigger: v.Get("trigger"), Key: v.Get("key")}
	account, _, _ := strings.Cut(b.Key, " ")
	b.Back = ownPage(v.Get("back"), pagePath("senders", account))
	for _, name := range []string{account, b.Key} {
		usage, err := c.p.service.Usage(c.Context(), c.actor, name, control.Page{Limit: allListed})
		if err != nil && problem(err).Status != http.StatusBadRequest {
			return err
		}
		for i := range usage.Items {
			if u := &usage.Items[i]; u.Trigger == b.Trigger && u.Key == b.Key {
				b.Usage = u
			}
		}
		if b.Usage != nil || name == b.Key {
			break
		}
	}
	return c.show("reset", "senders", "Reset a counter", b)
}

func (c *call) reset() error {
	trigger, key := c.PostForm.Get("trigger"), c.PostForm.Get("key")
	if err := c.p.service.Reset(c.Context(), c.actor, control.ResetRequest{Trigger: trigger, Key: key, Reason: c.form("reason")}); err != nil {
		if err := c.refused("reset", err); err != nil {
			return err
		}
		return c.resetForm()
	}
	c.say(fmt.Sprintf("The counter %s of %s is at 0: there is room again.", shown(trigger), shown(key)), nil)
	account, _, _ := strings.Cut(key, " ")
	return c.done(c.back(pagePath("senders", account)))
}
