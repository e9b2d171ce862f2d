package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"osm/internal/config"
	"osm/internal/control"
)

func (e *env) lookCommands() []*cli.Command {
	return append(append(e.senderCommands(), e.connectionCommands()...), []*cli.Command{
		command("events", "", "list who went over a limit",
			`One event is one trigger that went over for one sender; further stopped messages add to it
until the sender has been below for a whole period. Newest first.`,
			0, 0, listFlags(
				&cli.StringFlag{Name: "since", Value: "7d", Usage: "from `D` back: 1h, 24h, 7d, or a date"},
				&cli.StringFlag{Name: "account", Usage: "only of this `ACCOUNT`"},
				&cli.StringFlag{Name: "trigger", Usage: "only of this `TRIGGER`"},
				&cli.BoolFlag{Name: "open", Usage: "only those that are not over yet"}), e.events),
		command("event", "ID", "show one event with its messages or connections, and what followed", "", 1, 1, nil, e.event),
		command("explain", "[REF|MESSAGE-ID]", "say why a message was stopped or passed, and what settles it; or all about a connection",
			`REF is the reference in the error message, in Exim's log (ref=...) or in the header
X-OSM-Ref of a stopped message. Without one, describe a message with the options: the answer
says what would happen to it now; nothing is sent or counted.`,
			0, 1, []cli.Flag{
				&cli.StringFlag{Name: "account", Usage: "a message of this `ACCOUNT`"},
				&cli.StringFlag{Name: "mailbox", Usage: "sent by `USER@DOMAIN` after logging in"},
				&cli.StringFlag{Name: "source", Usage: "login, local, relay, script or automatic"},
				&cli.StringFlag{Name: "client-ip", Usage: "from this `ADDRESS`"},
				&cli.StringFlag{Name: "directory", Usage: "by a script in `DIR`"},
				&cli.StringFlag{Name: "subject", Usage: "with this `SUBJECT`"},
				&cli.StringSliceFlag{Name: "recipient", Usage: "to this `ADDRESS`; may be given more than once"},
				&cli.IntFlag{Name: "recipients", Usage: "to `N` recipients"},
			}, e.explain),
		command("tail", "", "follow messages as they are decided about",
			`Until Ctrl-C. A reader that is too slow misses decisions, and is told how many; it never
slows mail down. With --json one object a line.`,
			0, 0, []cli.Flag{
				&cli.StringFlag{Name: "account", Usage: "only of this `ACCOUNT`"},
				&cli.BoolFlag{Name: "stopped", Usage: "only what was stopped, or would have been"},
			}, e.tail),
	}...)
}

// since makes what people write ("7d", a date) into what the API takes.
func (e *env) since(s string) (string, error) {
	if d, err := config.ParseDuration(s); err == nil && d > 0 {
		return d.String(), nil
	}
	if day, err := time.ParseInLocation(time.DateOnly, s, e.loc); err == nil {
		return day.UTC().Format(time.RFC3339), nil
	}
	at, err := config.ParseUntil(s, time.Time{}, e.loc)
	if err != nil {
		return "", usagef("--since: %v", err)
	}
	return at.Format(time.RFC3339Nano), nil
}

func (e *env) events(c *cli.Context) error {
	q, err := query(c, map[string]string{"account": "account", "trigger": "trigger"})
	if err != nil {
		return err
	}
	if q.Since, err = e.since(c.String("since")); err != nil {
		return err
	}
	if c.Bool("open") {
		q.Where["open"] = "true"
	}
	client := e.client(c)
	defer client.Close()
	l, err := client.Events(c.Context, q)
	if err != nil {
		return err
	}
	return e.print(c, l, func() {
		if len(l.Items) == 0 {
			e.line("nobody went over a limit since %s", c.String("since"))
			return
		}
		rows := [][]string{}
		for _, v := range l.Items {
			rows = append(rows, []string{strconv.FormatInt(v.ID, 10), e.when(v.At), v.Key, v.Trigger, number(v.Max) + " " + v.Count + " in " + v.Per.String(), stoppedText(&v), freeText(e, &v)})
		}
		e.table(columns("^id", "since", "who~44", "trigger", "limit", "stopped", "now"), rows)
		e.more(l.Next)
	})
}

// stoppedText says how many messages were stopped, or would have been; connections are
// only seen.
func stoppedText(v *control.Event) string {
	switch {
	case ofConnections(v):
		return number(v.Stopped) + " (seen over the limit)"
	case v.Mode == "observe":
		return number(v.Stopped) + " (observed, passed)"
	}
	return number(v.Stopped) + " (" + v.Verdict + ")"
}

func freeText(e *env, v *control.Event) string {
	switch {
	case !v.Open:
		return "ended, last " + nounOf(v) + " " + e.when(v.LastAt)
	case v.FreeAt.IsZero():
		return "open"
	case v.FreeAt.After(e.now()):
		return "free at " + e.when(v.FreeAt)
	}
	return "free"
}

func (e *env) event(c *cli.Context) error {
	id, err := number64(c.Args().First(), "an event's number")
	if err != nil {
		return err
	}
	client := e.client(c)
	defer client.Close()
	v, err := client.Event(c.Context, id)
	if err != nil {
		return err
	}
	return e.print(c, v, func() { e.eventText(&v) })
}

func number64(s, what string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n <= 0 {
		return 0, usagef("%q is not %s", s, what)
	}
	return n, nil
}

// noticeText tells whom an event was told, or is to be.
func (e *env) noticeText(n *control.Notice) string {
	text := n.Channel + " to the " + n.Audience
	if n.Digest {
		text = "digest by " + text
	}
	switch {
	case n.State == "sent":
		return e.when(n.At) + "  told by " + text
	case n.Attempts > 0:
		return fmt.Sprintf("%s  not told yet by %s, %s: %s", e.when(n.NextAt), text, n.State, n.Detail)
	}
	return e.when(n.NextAt) + "  to be told by " + text
}

// requestsText tells which scripts and web requests sent.
func (e *env) requestsText(list []control.Evidence) {
	if len(list) == 0 {
		return
	}
	e.line("\nWhich requests sent:")
	rows := [][]string{}
	for _, r := range list {
		rows = append(rows, []string{e.when(r.At), dash(r.ClientIP), dash(strings.TrimSpace(r.Method + " " + r.VirtualHost + r.URL)), dash(r.Script), r.Confidence, r.Basis})
	}
	e.table(columns("at", "visitor", "request~60", "script~60", "certainty", "grounds~80"), rows)
}

func (e *env) eventText(v *control.Event) {
	e.line("Event %d: %s went over trigger %s", v.ID, v.Key, v.Trigger)
	claimed, over := "", "stopped"
	if ofConnections(v) {
		over = "over"
	}
	if v.Claimed {
		claimed = "yes: the account is only claimed by a shared web user's script, so nothing was done to it"
	}
	e.facts(
		"account", v.Account, "mailbox", v.Mailbox,
		"limit", fmt.Sprintf("%s %s in any %s", number(v.Max), v.Count, v.Per),
		"used then", number(v.Used),
		"went over", e.moment(v.At), "last "+nounOf(v), e.moment(v.LastAt),
		over, stoppedText(v), "now", freeText(e, v), "claimed", claimed)
	for _, a := range v.Actions {
		e.line("  %s  %s %s: %s %s", e.when(a.At), a.Name, a.Target, e.actionState(&a), a.Outcome)
		if a.Inverse != "" {
			e.line("      take it back: %s", a.Inverse)
		}
	}
	for _, n := range v.Notices {
		e.line("  %s", e.noticeText(&n))
	}
	e.requestsText(v.Requests)
	if len(v.Evidence) > 0 {
		e.line("\nWhat the %ss have in common:", nounOf(v))
		for _, one := range v.Evidence {
			e.line("  %s", one)
		}
	}
	if len(v.Messages) > 0 {
		what := "Stopped messages"
		if v.Mode == "observe" {
			what = "Messages that would have been stopped"
		}
		e.line("\n%s, the first and the last:", what)
		e.decisionTable(v.Messages)
	}
	if len(v.Connections) > 0 {
		e.line("\nConnections over the limit, the first and the last:")
		e.connectionTable(v.Connections)
	}
}

func (e *env) decisionTable(list []control.Decision) {
	rows := [][]string{}
	for _, d := range list {
		rows = append(rows, []string{e.when(d.At), d.Ref, d.Verdict, d.EnvelopeSender, strconv.FormatInt(d.Recipients, 10), d.Subject, from(&d)})
	}
	e.table(columns("at", "ref", "verdict", "envelope sender~32", "^rcpt", "subject~36", "from~44"), rows)
}

// from says by which way a message came, with what names it best.
func from(d *control.Decision) string {
	switch {
	case d.Mailbox != "":
		return strings.TrimSpace(d.Source + " " + d.Mailbox + " " + d.ClientIP)
	case d.Script != "":
		return d.Source + " " + d.Script
	case d.WorkingDirectory != "":
		return d.Source + " " + d.WorkingDirectory
	}
	return strings.TrimSpace(d.Source + " " + d.ClientIP)
}

func (e *env) tail(c *cli.Context) error {
	client := e.client(c)
	defer client.Close()
	q := control.Query{Where: map[string]string{"account": c.String("account")}}
	if c.Bool("stopped") {
		q.Where["stopped"] = "true"
	}
	return client.Tail(c.Context, q, func(l control.TailLine) error {
		if wantsJSON(c) {
			return e.jsonLine(l)
		}
		if l.Missed > 0 {
			e.line("(%s decisions missed: this reader is too slow)", number(int64(l.Missed)))
		}
		d := l.Decision
		e.line("%s  %s  %s  %s  %s  %d rcpt  %s  %s", e.when(d.At), d.Ref, verdictText(d), d.Account, from(d), d.Recipients, dash(d.EnvelopeSender), cut(d.Subject, 60))
		return nil
	})
}
