package whm

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"osm/internal/control"
)

// heldBody is a list of held mail.
type heldBody struct {
	Filter    control.Selection
	Narrowed  bool // the filter names something: all that match can be settled at once
	List      control.List[control.HeldMessage]
	Triggers  []control.Effective
	Whole     bool // all that match are on this page
	CanSettle bool
}

// heldStates are the states to choose from.
func (b *heldBody) States() []choice {
	return []choice{{"", "waiting in the queue"}, {"releasing", "leaving"}, {"discarding", "being removed"}, {"released", "released"}, {"discarded", "discarded"},
		{"gone", "gone by other ways"}, {"expired", "removed because of age"}, {"all", "all"}}
}

// selectionOf reads a filter of held mail.
func selectionOf(v url.Values) control.Selection {
	return control.Selection{Account: v.Get("account"), Mailbox: v.Get("mailbox"), Directory: v.Get("working_directory"),
		Subject: v.Get("subject"), Trigger: v.Get("trigger"), State: v.Get("state")}
}

func narrowed(s *control.Selection) bool {
	return s.Account+s.Mailbox+s.Directory+s.Subject+s.Trigger != ""
}

// heldPage lists held mail, the oldest first.
func (c *call) heldPage() error {
	b := &heldBody{Filter: selectionOf(c.URL.Query())}
	b.Narrowed = narrowed(&b.Filter)
	p := c.page()
	p.Limit = 100
	var err error
	if b.List, err = c.p.service.Held(c.Context(), c.actor, b.Filter, p); err != nil {
		return err
	}
	b.Whole = b.List.Next == "" && p.After == ""
	b.CanSettle = b.Filter.State == "" || b.Filter.State == "held"
	b.Triggers = c.triggers()
	return c.show("held", "held", "Held mail", b)
}

// settleBody asks whether so many messages are really meant.
type settleBody struct {
	Do     string // release or discard
	Pick   control.Selection
	Expect int
	Sample []control.HeldMessage
	Back   string
	Reason string
}

// confirmSettle counts what was chosen, and shows it before anything is done.
func (c *call) confirmSettle() error {
	return c.showSettle(c.back("held"))
}

func (c *call) showSettle(back string) error {
	b := &settleBody{Do: c.form("do"), Back: back, Reason: c.form("reason")}
	if b.Do != "release" && b.Do != "discard" {
		return refusal(http.StatusBadRequest, "", "it was not said whether to release or to discard")
	}
	if b.Pick = selectionOf(c.PostForm); c.form("all") != "1" {
		b.Pick = control.Selection{Refs: slices.Compact(slices.Sorted(slices.Values(c.PostForm["ref"])))}
		if len(b.Pick.Refs) == 0 {
			return refusal(http.StatusBadRequest, "tick the messages that you mean, or use the button for all that match", "no message was chosen")
		}
	}
	b.Pick.State = ""
	counted, err := c.settleBy(b.Do, control.Settle{Selection: b.Pick, DryRun: true})
	if err != nil {
		return err
	}
	b.Expect = counted.Matched
	if b.Sample, err = c.sampleOf(&b.Pick); err != nil {
		return err
	}
	title := "Release held mail"
	if b.Do == "discard" {
		title = "Discard held mail"
	}
	return c.show("settle", "held", title, b)
}

// sampleShown is how many of the chosen messages are shown before they are settled.
const sampleShown = 10

// sampleOf are some of the messages that were chosen.
func (c *call) sampleOf(s *control.Selection) ([]control.HeldMessage, error) {
	if len(s.Refs) == 0 {
		list, err := c.p.service.Held(c.Context(), c.actor, *s, control.Page{Limit: sampleShown})
		return list.Items, err
	}
	var out []control.HeldMessage
	for _, ref := range s.Refs[:min(len(s.Refs), sampleShown)] {
		list, err := c.p.service.HeldMessage(c.Context(), c.actor, ref)
		if err != nil {
			return nil, err
		}
		out = append(out, list)
	}
	return out, nil
}

func (c *call) settleBy(do string, q control.Settle) (control.Settled, error) {
	if do == "release" {
		return c.p.service.ReleaseHeld(c.Context(), c.actor, q)
	}
	return c.p.service.DiscardHeld(c.Context(), c.actor, q)
}

// settle releases or discards what was confirmed. Where another number matches by now
// nothing is done, and the new number is shown.
func (c *call) settle() error {
	do := c.form("do")
	if do != "release" && do != "discard" {
		return refusal(http.StatusBadRequest, "", "it was not said whether to release or to discard")
	}
	q := control.Settle{Reason: c.form("reason"), Selection: selectionOf(c.PostForm)}
	if c.form("all") != "1" {
		q.Selection = control.Selection{Refs: c.PostForm["ref"]}
	}
	n, err := strconv.Atoi(c.form("expect"))
	if err != nil || n < 0 {
		return refusal(http.StatusBadRequest, "", "the number of messages is missing")
	}
	q.Expect, q.State = &n, ""
	done, err := c.settleBy(do, q)
	if err != nil {
		if err := c.refused("settle", err); err != nil {
			return err
		}
		return c.showSettle(c.back("held"))
	}
	c.say(upperFirst(done.Text)+".", nil)
	return c.done(c.back("held"))
}
