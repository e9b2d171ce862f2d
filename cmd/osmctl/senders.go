package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"osm/internal/control"
)

func (e *env) senderCommands() []*cli.Command {
	return []*cli.Command{
		command("near", "", "show who is near a limit",
			`Counters that are at least half full, of triggers that enforce and that observe, the fullest
first. It may be a few seconds old.`, 0, 0, listFlags(), e.near),
		command("rates", "", "show what became of the messages in each minute or hour",
			`Of the whole server by the minute, of one account by the hour. Messages are those that passed.`,
			0, 0, []cli.Flag{
				&cli.StringFlag{Name: "account", Usage: "only of this `ACCOUNT`"},
				&cli.StringFlag{Name: "since", Usage: "from `D` back: 1h, 24h, 7d, or a date (default: 1h, of an account 24h)"},
				&cli.StringFlag{Name: "step", Usage: "add up in pieces of `D` (default: 1m, of an account 1h)"},
			}, e.rates),
		command("accounts", "[QUERY]", "list accounts with what they sent in the last 24 hours",
			`All, or those whose name or domain holds QUERY, or the one that owns the mailbox QUERY. Names
in parentheses stand for mail that no account could be found for.`, 0, 1, listFlags(
				&cli.BoolFlag{Name: "reread", Usage: "first read the panel's lists of accounts and domains, which is otherwise done every few seconds"}), e.accounts),
		command("account", "NAME", "show all about one account",
			`What it sent by mailbox, directory, Subject, client IP and script, each with those that sent
most; the limits that are set for it and its mailboxes; and what it sent in each hour.`, 1, 1, []cli.Flag{
				&cli.StringFlag{Name: "since", Value: "24h", Usage: "from `D` back: 1h, 24h, 7d, or a date"},
			}, e.account),
		command("decisions", "", "list messages that were decided about",
			`Newest first. "osmctl explain REF" tells all about one of them.`, 0, 0, listFlags(
				&cli.StringFlag{Name: "account", Usage: "only of this `ACCOUNT`"},
				&cli.StringFlag{Name: "verdict", Usage: "accept, freeze, discard, defer, deny, stopped (all but accept) or observed (passed only because a trigger observes)"},
				&cli.StringFlag{Name: "since", Value: "24h", Usage: "from `D` back: 1h, 24h, 7d, or a date"}), e.decisions),
	}
}

func (e *env) near(c *cli.Context) error {
	q, err := query(c, nil)
	if err != nil {
		return err
	}
	client := e.client(c)
	defer client.Close()
	l, err := client.Near(c.Context, q)
	if err != nil {
		return err
	}
	return e.print(c, l, func() {
		if len(l.Items) == 0 {
			e.line("nobody is near a limit")
			return
		}
		rows := []control.Usage{}
		for _, n := range l.Items {
			rows = append(rows, n.Usage)
		}
		e.usageTable(rows)
		e.more(l.Next)
	})
}

func (e *env) rates(c *cli.Context) error {
	q := control.Query{Where: map[string]string{"account": c.String("account")}}
	var err error
	if c.IsSet("since") {
		if q.Since, err = e.since(c.String("since")); err != nil {
			return err
		}
	}
	if c.IsSet("step") {
		if q.Where["step"], err = length("step", c.String("step")); err != nil {
			return err
		}
	}
	client := e.client(c)
	defer client.Close()
	l, err := client.Rates(c.Context, q)
	if err != nil {
		return err
	}
	return e.print(c, l, func() { e.bucketTable(l.Items) })
}

// bucketTable draws what became of messages, and how many connections bypassed Exim;
// pieces at both ends in which nothing was sent are left out.
func (e *env) bucketTable(list []control.Bucket) {
	sent := func(b *control.Bucket) int64 { return b.Messages + b.Stopped }
	idle := func(b *control.Bucket) bool { return sent(b)+b.Connections == 0 }
	for len(list) > 0 && idle(&list[0]) {
		list = list[1:]
	}
	for len(list) > 0 && idle(&list[len(list)-1]) {
		list = list[:len(list)-1]
	}
	if len(list) == 0 {
		e.line("nothing was sent in that time")
		return
	}
	most := int64(1)
	for i := range list {
		most = max(most, sent(&list[i]))
	}
	rows := [][]string{}
	for _, b := range list {
		rows = append(rows, []string{e.when(b.At), number(b.Messages), bar(sent(&b), most, 16), number(b.Recipients), number(b.Frozen), number(b.Deferred),
			number(b.Denied), number(b.Discarded), number(b.Observed), number(b.Unchecked), number(b.Connections)})
	}
	e.table(columns("from", "^passed", "", "^recipients", "^frozen", "^deferred", "^denied", "^discarded", "^would stop", "^unchecked", "^connections"), rows)
}

func (e *env) accounts(c *cli.Context) error {
	q, err := query(c, nil)
	if err != nil {
		return err
	}
	q.Where["q"] = c.Args().First()
	if c.Bool("reread") {
		q.Where["reread"] = "1"
	}
	client := e.client(c)
	defer client.Close()
	l, err := client.Accounts(c.Context, q)
	if err != nil {
		return err
	}
	return e.print(c, l, func() {
		if len(l.Items) == 0 {
			e.line("no account matches")
			return
		}
		rows := [][]string{}
		for _, a := range l.Items {
			rows = append(rows, []string{a.Account, dash(a.Reseller), dash(a.Package), dash(domainsText(&a)), number(a.Messages), number(a.Recipients), number(a.Stopped)})
		}
		e.table(columns("account~32", "reseller~20", "package~20", "domains~44", "^messages", "^recipients", "^stopped"), rows)
		e.more(l.Next)
	})
}

// domainsText names an account's domains, what was searched for first; "" for none.
func domainsText(a *control.Account) string {
	list := a.Domains
	if a.Matched != "" && a.Matched != a.Account {
		list = []string{a.Matched}
		for _, d := range a.Domains {
			if d != a.Matched {
				list = append(list, d)
			}
		}
	}
	if a.More > 0 {
		list = append(list, fmt.Sprintf("and %d more", a.More))
	}
	return strings.Join(list, " ")
}

func (e *env) account(c *cli.Context) error {
	since, err := e.since(c.String("since"))
	if err != nil {
		return err
	}
	client := e.client(c)
	defer client.Close()
	a, err := client.Account(c.Context, c.Args().First(), since)
	if err != nil {
		return err
	}
	return e.print(c, a, func() { e.accountText(&a, c.String("since")) })
}

func (e *env) accountText(a *control.AccountDetail, since string) {
	e.line("Account %s", a.Account.Account)
	e.facts("reseller", a.Reseller, "package", a.Package, "domains", domainsText(&a.Account),
		"sent", fmt.Sprintf("%s to %s since %s", plural(a.Messages, "message"), plural(a.Recipients, "recipient"), since),
		"stopped", plural(a.Stopped, "message"), "would stop", plural(a.Observed, "message"), "past exim", connectionsSeen(a.Connections))
	for _, part := range []struct {
		title  string
		column string
		shares []control.Share
	}{
		{"Mailboxes", "mailbox", a.Mailboxes}, {"Directories", "directory", a.Directories}, {"Scripts", "script", a.Scripts},
		{"Subjects, without their numbers", "subject", a.Subjects}, {"Client IPs", "client ip", a.ClientIPs},
	} {
		if len(part.shares) == 0 {
			continue
		}
		e.line("\n%s:", part.title)
		rows := [][]string{}
		for _, s := range part.shares {
			rows = append(rows, []string{s.Value, number(s.Messages), bar(s.Messages+s.Stopped, a.Looked, 12), number(s.Recipients), number(s.Stopped)})
		}
		e.table(columns(part.column+"~64", "^messages", "", "^recipients", "^stopped"), rows)
	}
	if a.Looked > 0 {
		e.line("\n(of %s since %s)", plural(a.Looked, "message"), e.moment(a.Since))
	}
	if len(a.Limits) > 0 {
		e.line("\nLimits that are set for it and its mailboxes:")
		e.limitTable(a.Limits)
	}
	e.line("\nBy the hour:")
	e.bucketTable(a.History)
}

// connectionsSeen is "" where there was none.
func connectionsSeen(n int64) string {
	if n == 0 {
		return ""
	}
	return plural(n, "connection")
}

func (e *env) decisions(c *cli.Context) error {
	q, err := query(c, map[string]string{"account": "account", "verdict": "verdict"})
	if err != nil {
		return err
	}
	if q.Since, err = e.since(c.String("since")); err != nil {
		return err
	}
	client := e.client(c)
	defer client.Close()
	l, err := client.Decisions(c.Context, q)
	if err != nil {
		return err
	}
	return e.print(c, l, func() {
		if len(l.Items) == 0 {
			e.line("no such message since %s", c.String("since"))
			e.more(l.Next)
			return
		}
		rows := [][]string{}
		for _, d := range l.Items {
			rows = append(rows, []string{e.when(d.At), d.Ref, verdictText(&d), d.Account, d.EnvelopeSender, strconv.FormatInt(d.Recipients, 10), d.Subject, from(&d)})
		}
		e.table(columns("at", "ref", "verdict~32", "account~20", "envelope sender~32", "^rcpt", "subject~36", "from~44"), rows)
		e.more(l.Next)
	})
}

// verdictText says what became of a message, and by which trigger.
func verdictText(d *control.Decision) string {
	what := d.Verdict
	if d.Trigger != "" {
		what += " (" + d.Trigger + ")"
	}
	if d.Verdict == "accept" && d.Would != "" && d.Would != "accept" {
		what = "accept (would " + d.Would + ": " + d.Trigger + ")"
	}
	return what
}
