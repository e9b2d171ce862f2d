package main

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"osm/internal/control"
)

func (e *env) explain(c *cli.Context) error {
	client := e.client(c)
	defer client.Close()
	described := control.Describe{
		Account: c.String("account"), Mailbox: c.String("mailbox"), Source: c.String("source"), ClientIP: c.String("client-ip"),
		Directory: c.String("directory"), Subject: c.String("subject"), Recipients: c.StringSlice("recipient"), Count: c.Int("recipients"),
	}
	asked := described.Account != "" || described.Mailbox != "" || described.ClientIP != "" || described.Directory != ""
	var x control.Explanation
	var err error
	switch {
	case c.NArg() == 1 && asked:
		return usagef("explain takes a reference or a described message, not both")
	case c.NArg() == 1:
		x, err = client.Explain(c.Context, c.Args().First())
	case asked:
		x, err = client.Describe(c.Context, described)
	default:
		return usagef("explain needs a reference, a message id, or at least --account, --mailbox, --client-ip or --directory; see osmctl explain --help")
	}
	if err != nil {
		return err
	}
	return e.print(c, x, func() { e.explainText(&x) })
}

// explainText is what a person reads who knows nothing of triggers: first what
// happened and why, then what happens now and what to do, the evidence last.
func (e *env) explainText(x *control.Explanation) {
	e.wrap("", x.Why)
	e.line("")
	e.wrap("", "Now: "+x.Next)
	if x.Command != "" {
		e.line("\nCommand: %s", x.Command)
	}
	if x.Connection != nil {
		e.line("")
		e.connectionFacts(x.Connection)
	} else if d := x.Decision; d != nil {
		e.line("")
		e.decisionFacts(d, x.Described)
	}
	if x.Event != nil {
		e.line("")
		e.line("Event %d: %s, since %s, %s", x.Event.ID, stoppedText(x.Event), e.when(x.Event.At), freeText(e, x.Event))
	}
	if len(x.Usage) > 0 {
		what := "message"
		if x.Connection != nil {
			what = "connection"
		}
		e.line("\nCounters that such a %s fills, as they are now:", what)
		e.usageTable(x.Usage)
	}
	if len(x.FilledBy) > 0 {
		e.line("\nMessages that filled the limit, newest first:")
		e.decisionTable(x.FilledBy)
	}
	if len(x.FilledByConnections) > 0 {
		e.line("\nConnections that filled the limit, newest first:")
		e.connectionTable(x.FilledByConnections)
	}
	if len(x.Steps) > 0 {
		e.line("\nRules looked at:")
		rows := [][]string{}
		for _, s := range x.Steps {
			rows = append(rows, []string{s.Outcome, s.Rule, s.Key, s.Text})
		}
		e.table(columns("outcome", "rule", "key~40", "what it says"), rows)
	}
}

func (e *env) decisionFacts(d *control.Decision, described bool) {
	sent := func(s string) string {
		if described {
			return ""
		}
		return s
	}
	subject := sent(dash(d.Subject))
	if described {
		subject = d.Subject
	}
	e.facts(
		"reference", d.Ref, "at", sent(e.moment(d.At)), "message id", d.MessageID,
		"account", d.Account, "mailbox", d.Mailbox, "attributed by", d.Basis,
		"submitted by", from(d), "directory", d.WorkingDirectory,
		"envelope sender", sent(senderText(d.EnvelopeSender)), "subject", subject,
		"recipients", fmt.Sprint(d.Recipients), "size", sent(size(d.Size)),
		"verdict", strings.TrimSpace(d.Verdict+" "+reasonText(d)),
	)
}

// senderText shows the null sender as mail servers write it.
func senderText(s string) string {
	if s == "" {
		return "<> (null sender)"
	}
	return s
}

func reasonText(d *control.Decision) string {
	text := strings.ReplaceAll(d.Reason, "_", " ")
	if d.Trigger != "" {
		text += ", trigger " + d.Trigger
	}
	return "(" + text + ")"
}
