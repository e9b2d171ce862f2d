package whm

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"osm/internal/control"
)

// exemptionsBody is what stands and what is lifted.
type exemptionsBody struct {
	Account    string
	Holds      []control.Hold
	Exemptions []control.Exemption
}

// exemptionsPage lists the holds that stand, and the exemptions.
func (c *call) exemptionsPage() error {
	b := &exemptionsBody{Account: c.query("account")}
	var err error
	if b.Holds, err = c.allHolds(b.Account); err != nil {
		return err
	}
	if b.Exemptions, err = c.allExemptions(); err != nil {
		return err
	}
	if b.Account != "" {
		b.Exemptions = slices.DeleteFunc(b.Exemptions, func(e control.Exemption) bool { return e.Account != b.Account && e.Value != b.Account })
	}
	return c.show("exemptions", "exemptions", "Exemptions and holds", b)
}

// MayEnd reports whether the actor may end a hold: a reseller those that he put himself.
func (v *view) MayEnd(h control.Hold) bool {
	return v.Operator() || (h.Trigger == "" && h.By == v.User())
}

// MayRemove reports likewise of a limit.
func (v *view) MayRemove(l control.Limit) bool {
	return l.ID != 0 && (v.Operator() || (l.By == v.User() && l.Level != "reseller"))
}

// ruleForm is the form of a hold or an exemption.
type ruleForm struct {
	Values   url.Values
	Back     string
	Triggers []control.Effective
}

// Field is what a field of the form holds.
func (f *ruleForm) Field(name string) string { return f.Values.Get(name) }

// holdForm shows the form of a hold, with what the address asks for.
func (c *call) holdForm() error {
	return c.show("hold", "exemptions", "Put a hold", &ruleForm{Values: c.URL.Query(), Back: ownPage(c.query("back"), "exemptions")})
}

// putHold puts a hold.
func (c *call) putHold() error {
	h := control.Hold{Scope: c.form("scope"), Account: c.form("account"), Value: c.form("value"), Verdict: c.form("verdict"), Release: c.form("release"), Reason: c.form("reason")}
	if h.Scope == "account" {
		h.Value = ""
	}
	var err error
	if h.Until, err = c.until(c.PostForm); err == nil {
		h, err = c.p.service.PutHold(c.Context(), c.actor, h)
	}
	if err != nil {
		if err := c.refusedName("hold", err); err != nil {
			return err
		}
		return c.show("hold", "exemptions", "Put a hold", &ruleForm{Values: c.PostForm, Back: c.back("exemptions")})
	}
	end := &undoing{Page: "holds/" + strconv.FormatInt(h.ID, 10) + "/end", Text: "end the hold"}
	c.say("Held: "+holdText(h)+". New mail of it waits in the queue.", c.undoLatest(end))
	return c.done(c.back("exemptions"))
}

// holdText names what a hold stands on.
func holdText(h control.Hold) string {
	switch h.Scope {
	case "mailbox":
		return "mailbox " + shown(h.Value)
	case "directory":
		return "directory " + shown(h.Value) + " of account " + shown(h.Account)
	case "subject":
		return "mail of account " + shown(h.Account) + " with the Subject “" + shown(h.Value) + "”"
	}
	return "account " + shown(h.Account)
}

// holdEnding asks whether a hold is to end.
func (c *call) holdEnding() error {
	id, err := c.idOf("id")
	if err != nil {
		return err
	}
	list, err := c.allHolds("")
	if err != nil {
		return err
	}
	i := slices.IndexFunc(list, func(h control.Hold) bool { return h.ID == id })
	if i < 0 {
		return refusal(http.StatusNotFound, "it may have ended meanwhile", "no hold with that number stands")
	}
	return c.show("holdend", "exemptions", "End a hold", &list[i])
}

func (c *call) endHold() error {
	id, err := c.idOf("id")
	if err != nil {
		return err
	}
	h, err := c.p.service.EndHold(c.Context(), c.actor, id, c.form("reason"))
	if err != nil {
		if err := c.refused("end", err); err != nil {
			return err
		}
		return c.holdEnding()
	}
	c.say("Ended: the hold on "+holdText(h)+". New mail passes as its limits allow; what it held waits until it is released.", c.undoLatest(nil))
	return c.done(c.back("exemptions"))
}

// exemptionForm shows the form of an exemption.
func (c *call) exemptionForm() error {
	if c.actor.Role != control.Operator {
		return refusal(http.StatusForbidden, "ask the server's operator", "only an operator may exempt anybody from limits")
	}
	return c.show("exemption", "exemptions", "Add an exemption", &ruleForm{Values: c.URL.Query(), Back: ownPage(c.query("back"), "exemptions"), Triggers: c.triggers()})
}

// addExemption adds an exemption.
func (c *call) addExemption() error {
	e := control.Exemption{Scope: c.form("scope"), Account: c.form("account"), Value: c.form("value"), Trigger: c.form("trigger"), Reason: c.form("reason")}
	if e.Scope == "account" && e.Value == "" {
		e.Value = e.Account
	}
	var err error
	ceiling, err := number("the ceiling", c.form("ceiling"))
	if err == nil && ceiling != nil {
		e.Ceiling = *ceiling
	}
	if err == nil {
		e.Until, err = c.until(c.PostForm)
	}
	if err == nil {
		e, err = c.p.service.AddExemption(c.Context(), c.actor, e)
	}
	if err != nil {
		if err := c.refusedName("exemption", err); err != nil {
			return err
		}
		return c.show("exemption", "exemptions", "Add an exemption", &ruleForm{Values: c.PostForm, Back: c.back("exemptions"), Triggers: c.triggers()})
	}
	c.say("Exempted: "+exemptText(e)+".", c.undoLatest(nil))
	return c.done(c.back("exemptions"))
}

// exemptText tells an exemption in a few words.
func exemptText(e control.Exemption) string {
	whose := scopeText(e.Scope) + " " + shown(e.Value)
	if e.Account != "" && e.Account != e.Value {
		whose += " of account " + shown(e.Account)
	}
	lifts := "no limit at all"
	if e.Ceiling > 0 {
		lifts = "up to " + decimal(e.Ceiling)
	}
	if e.Trigger != "" {
		lifts += " for trigger " + e.Trigger
	}
	return whose + ", " + lifts
}

// exemptionRemoval asks whether an exemption is to be removed.
func (c *call) exemptionRemoval() error {
	id, err := c.idOf("id")
	if err != nil {
		return err
	}
	list, err := c.allExemptions()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(list, func(e control.Exemption) bool { return e.ID == id })
	if i < 0 {
		return refusal(http.StatusNotFound, "it may have been removed meanwhile", "there is no exemption with that number")
	}
	return c.show("exemptionremoval", "exemptions", "Remove an exemption", &list[i])
}

func (c *call) removeExemption() error {
	id, err := c.idOf("id")
	if err != nil {
		return err
	}
	e, err := c.p.service.RemoveExemption(c.Context(), c.actor, id, c.form("reason"))
	if err != nil {
		if err := c.refused("remove", err); err != nil {
			return err
		}
		return c.exemptionRemoval()
	}
	c.say("Removed: the exemption of "+exemptText(e)+".", c.undoLatest(nil))
	return c.done("exemptions")
}
