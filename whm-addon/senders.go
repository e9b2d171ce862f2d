package whm

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"osm/internal/control"
)

// sendersBody is a list of accounts.
type sendersBody struct {
	Q, By, Since string
	All          bool // by name, and not who sent most
	Rows         []control.Account
	Largest      int64 // what the bars are drawn against
	Next         string
}

// sendersPage lists who sent most, or the accounts that a search finds.
func (c *call) sendersPage() error {
	b := &sendersBody{Q: c.query("q"), By: c.query("by"), All: c.query("all") == "1"}
	if b.By != "messages" && b.By != "stopped" && b.By != "connections" {
		b.By = "recipients"
	}
	var since time.Time
	if since, b.Since = c.since("24h"); b.Since == "" {
		since, b.Since = c.now.Add(-30*24*time.Hour), "30d"
	}
	if b.Q != "" || b.All {
		list, err := c.p.service.Accounts(c.Context(), c.actor, b.Q, c.page())
		if err != nil {
			return err
		}
		b.Rows, b.Next, b.Since = list.Items, list.Next, "24h"
	} else {
		top, err := c.p.service.Top(c.Context(), c.actor, since, b.By, control.Page{Limit: listed})
		if err != nil {
			return err
		}
		for _, t := range top.Items {
			b.Rows = append(b.Rows, control.Account{Account: t.Account, Tally: t.Tally})
		}
	}
	for i := range b.Rows {
		b.Largest = max(b.Largest, b.Measure(b.Rows[i]))
	}
	return c.show("senders", "senders", "Senders", b)
}

// Measure is what a row is compared by.
func (b *sendersBody) Measure(a control.Account) int64 {
	switch b.By {
	case "messages":
		return a.Messages
	case "stopped":
		return a.Stopped
	case "connections":
		return a.Connections
	}
	return a.Recipients
}

// accountBody is all about one account.
type accountBody struct {
	Name     string
	Known    bool // the panel's maps or the decisions know it
	Detail   control.AccountDetail
	Since    string
	Usage    []control.Usage
	Events   []control.Event
	Holds    []control.Hold
	Held     []control.HeldMessage
	HeldMore bool
	Charts   []*chart
	Shares   []shares

	Connections []control.Connection // that bypassed Exim, the last ones
	Triggers    []control.Effective  // for the form that raises a limit
}

// shares is one way to part what an account sent.
type shares struct {
	Title, Column string
	Filter        string // of held mail, by its value
	List          []control.Share
	Largest       int64
}

// accountPage shows one account. A key of a counter that is no account, such as
// "login 192.0.2.1", has a page too.
func (c *call) accountPage() error {
	b := &accountBody{Name: c.PathValue("account"), Known: true}
	if b.Name == "" || len(b.Name) > 1024 {
		return refusal(http.StatusNotFound, "", "there is no such account")
	}
	since, text := c.since("24h")
	if b.Since = text; text == "" {
		since, b.Since = c.now.Add(-30*24*time.Hour), "30d"
	}
	usage, err := c.p.service.Usage(c.Context(), c.actor, b.Name, control.Page{Limit: allListed})
	if err != nil {
		return err
	}
	b.Usage = usage.Items
	b.Detail, err = c.p.service.Account(c.Context(), c.actor, b.Name, since)
	var e *control.Error
	switch {
	case errors.As(err, &e) && e.Status == http.StatusNotFound && len(b.Usage) > 0 && strings.Contains(b.Name, " "):
		b.Known = false
	case err != nil:
		return err
	default:
		if err := c.accountLists(b); err != nil {
			return err
		}
		if err := c.accountConnections(b, since); err != nil {
			return err
		}
		c.accountCharts(b, since)
	}
	return c.show("account", "senders", shown(b.Name), b)
}

// accountLists reads what stands beside the account.
func (c *call) accountLists(b *accountBody) error {
	service, ctx, a := c.p.service, c.Context(), c.actor
	events, err := service.Events(ctx, a, control.EventFilter{Account: b.Name}, control.Page{Limit: shortListed})
	if err != nil {
		return err
	}
	if b.Holds, err = c.allHolds(b.Name); err != nil {
		return err
	}
	held, err := service.Held(ctx, a, control.Selection{Account: b.Name}, control.Page{Limit: shortListed})
	if err != nil {
		return err
	}
	b.Events, b.Held, b.HeldMore = events.Items, held.Items, held.Next != ""
	triggers, err := service.Triggers(ctx, a, "account", b.Name)
	if err != nil && problem(err).Status == http.StatusServiceUnavailable {
		return err
	}
	b.Triggers = triggers.Items
	return nil
}

// accountCharts draws the history and parts what was sent.
func (c *call) accountCharts(b *accountBody, since time.Time) {
	hours := int(c.now.Sub(since)/time.Hour) + 1
	hours = min(max(hours, 24), 24*31)
	from := c.now.Truncate(time.Hour).Add(-time.Duration(hours-1) * time.Hour)
	step, n := time.Hour, hours
	list := b.Detail.History
	if hours > 7*24+1 { // a column of a day
		step, n = 24*time.Hour, hours/24+1
		from = c.now.Truncate(step).Add(-time.Duration(n-1) * step)
		list = byDay(list)
	}
	per := " per hour"
	if step > time.Hour {
		per = " per day (UTC)"
	}
	b.Charts = []*chart{c.p.newChart("history", "Messages"+per, list, from, step, n)}
	if past := c.p.connectionChart("past", "Connections past Exim"+per, list, from, step, n); !past.Empty() {
		b.Charts = append(b.Charts, past)
	}
	for _, s := range []shares{
		{Title: "Mailboxes", Column: "Mailbox", Filter: "mailbox", List: b.Detail.Mailboxes},
		{Title: "Directories", Column: "Directory", Filter: "working_directory", List: b.Detail.Directories},
		{Title: "Subjects", Column: "Subject, without its numbers", Filter: "subject", List: b.Detail.Subjects},
		{Title: "Client IPs", Column: "Client IP", List: b.Detail.ClientIPs},
		{Title: "Scripts", Column: "Script", List: b.Detail.Scripts},
	} {
		for _, one := range s.List {
			s.Largest = max(s.Largest, one.Messages+one.Stopped)
		}
		if len(s.List) > 0 {
			b.Shares = append(b.Shares, s)
		}
	}
}

// byDay adds hours up to days of UTC.
func byDay(hours []control.Bucket) []control.Bucket {
	var days []control.Bucket
	for _, h := range hours {
		day := h.At.Truncate(24 * time.Hour)
		if n := len(days); n == 0 || !days[n-1].At.Equal(day) {
			days = append(days, control.Bucket{At: control.Time{Time: day}})
		}
		t := &days[len(days)-1]
		t.Messages += h.Messages
		t.Observed += h.Observed
		t.Frozen += h.Frozen
		t.Deferred += h.Deferred
		t.Denied += h.Denied
		t.Discarded += h.Discarded
		t.Stopped += h.Stopped
		t.Connections += h.Connections
	}
	return days
}
