package report

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"osm/policy"
	store "osm/sql"
)

// maxForPeople is how many bytes of a stranger's text a letter shows.
const maxForPeople = 300

// forPeople is a copy of the report whose every text is safe to be put into any line of a
// letter, whatever a template does with it.
func forPeople(r *Report) *Report {
	c := *r
	eachText(&c, func(s string, max int) string { return visible(s, min(max, maxForPeople)) })
	c.Page = singleLine(r.Page, 1024) // ours: it stays a link
	c.Summary = visible(r.Summary, 1024)
	return &c
}

// visible makes a text one line of what can be seen. A scheme is broken up ("http[:]//"),
// so that no mail program makes a link of it: the letter comes from the host, and what a
// spammer wrote into a Subject is not to be clicked with its authority.
func visible(s string, max int) string {
	return cut(strings.ReplaceAll(singleLine(s, max), "://", "[:]//"), max)
}

// singleLine takes out line breaks, control characters, changes of direction and what has
// no width.
func singleLine(s string, max int) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case unicode.Is(unicode.Zs, r):
			r = ' '
		case !unicode.IsPrint(r):
			r = utf8.RuneError
		}
		b.WriteRune(r)
		if b.Len() > 2*max {
			break // enough for cut
		}
	}
	return cut(b.String(), max)
}

// letter is what a template is given. All methods are for templates.
type letter struct {
	*Report
	Audience Audience
	zone     *time.Location
}

// Observed says that the trigger stops nothing.
func (l letter) Observed() bool { return observed(&l.Report.Event) }

// Moment writes a time in the server's zone; "-" for none.
func (l letter) Moment(t store.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.In(l.zone).Format("2006-01-02 15:04:05 MST")
}

// Who names the sender: the mailbox if there is one, else the account.
func (l letter) Who() string {
	if l.Event.Mailbox != "" {
		return l.Event.Mailbox
	}
	return l.Event.Account
}

// Numbers are "300 of 300 recipients".
func (l letter) Numbers(e Event) string { return numbers(&e) }

// Count is a number with its noun: "1 message", "12 messages".
func (l letter) Count(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// Becomes says in a sentence what happens to mail that is over.
func (l letter) Becomes() string {
	if l.Direct() {
		return "is seen, and is not stopped"
	}
	would := map[string]string{
		policy.Accept.String():  "passes, and is only reported",
		policy.Freeze.String():  "is kept in the server's queue: it is not delivered, and it is not lost",
		policy.Discard.String(): "is thrown away for good",
		policy.Defer.String():   "is not taken for now: mail programs try again by themselves",
		policy.Deny.String():    "is refused: the mail program shows an error",
	}[l.Event.Verdict]
	if would == "" {
		would = "is treated by the rule " + l.Event.Verdict
	}
	return would
}

// Later says that a moment is still to come.
func (l letter) Later(t store.Time) bool { return t.After(l.CreatedAt.Time) }

// Period writes a period as a sentence has it: "hour", "90 minutes".
func (l letter) Period(p store.Period) string {
	d := time.Duration(p)
	for _, u := range []struct {
		size time.Duration
		name string
	}{{24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}, {time.Second, "second"}} {
		switch {
		case d == u.size:
			return u.name
		case d > u.size && d%u.size == 0:
			return l.Count(int64(d/u.size), u.name)
		}
	}
	return p.String()
}

// Found is the evidence that found something.
func (l letter) Found() []Evidence {
	var out []Evidence
	for _, e := range l.Evidence {
		if e.Confidence != policy.ConfidenceNone.String() && (e.Script != "" || e.URL != "" || e.ClientIP != "") {
			out = append(out, e)
		}
	}
	return out
}

// Tops are the shares that have something to say, with their names.
func (l letter) Tops() []namedShares {
	var out []namedShares
	t := &l.Top
	for _, n := range []namedShares{
		{"Mailbox", t.Mailboxes}, {"Directory", t.Directories}, {"Script", t.Scripts}, {"Subject", t.Subjects}, {"Client IP", t.ClientIPs},
		{"Destination", t.Destinations}, {"Program", t.Executables},
	} {
		if len(n.Most) > 0 {
			out = append(out, n)
		}
	}
	return out
}

type namedShares struct {
	Name string
	Shares
}
