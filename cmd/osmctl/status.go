package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"osm/internal/control"
)

func (e *env) statusCommands() []*cli.Command {
	return []*cli.Command{
		command("status", "", "show how the daemon, its parts and Exim are doing",
			`The first thing to look at. Alarms are what a person must act on; they end by themselves
when their cause is gone. Exit status 1 when there is an alarm.`,
			0, 0, nil, e.status),
		command("top", "", "show who sent most",
			`Accounts by the number of recipients of what was accepted, with what was stopped.`,
			0, 0, listFlags(&cli.StringFlag{Name: "since", Value: "24h", Usage: "count from `D` back: 1h, 24h, 7d, or a date"},
				&cli.StringFlag{Name: "by", Value: "recipients", Usage: "order by `WHAT`: recipients, messages, stopped or connections"}), e.top),
		command("usage", "ACCOUNT", "show every counter of an account: used, limit, when it is free",
			`Also takes "(unknown)" for mail that could not be attributed, "(shared:www-data)" for a
shared web user, and an address as its key shows it, such as "login 192.0.2.1". Quote what
holds blanks or parentheses.`,
			1, 1, listFlags(), e.usage),
	}
}

func (e *env) status(c *cli.Context) error {
	client := e.client(c)
	defer client.Close()
	s, err := client.Status(c.Context)
	if err != nil {
		return err
	}
	if err := e.print(c, s, func() { e.statusText(&s) }); err != nil {
		return err
	}
	if len(s.Alarms) > 0 {
		return &control.Error{Status: 500, Message: plural(int64(len(s.Alarms)), "alarm")}
	}
	return nil
}

func (e *env) statusText(s *control.Status) {
	e.line("osmd %s, running for %s (since %s)", s.Version, e.ago(s.StartedAt), e.moment(s.StartedAt))
	if !s.Config.Checking {
		e.line("CHECKING IS OFF: every message is accepted and only recorded; on again: osmctl settings set checking on")
	}
	for _, a := range s.Alarms {
		e.wrap("ALARM  ", fmt.Sprintf("%s: %s (since %s)", a.Name, a.Text, e.when(a.At)))
	}
	t := s.Config.Triggers
	e.facts(
		"triggers", fmt.Sprintf("%d enforce, %d only observe, %d off", t.Enforcing, t.Observing, t.Off),
		"config", fmt.Sprintf("%s, read %s", s.Config.Path, e.when(s.Config.LoadedAt)),
		"config error", s.Config.Error,
		"exim", s.Exim.Text,
		"accounts", e.accountsText(s),
		"store", s.Store.Text,
		"inspect", s.Inspect.Text,
		"executor", s.Executor.Text,
		"monitor", s.Monitor.Text,
		"checks", fmt.Sprintf("%s answered, %s from memory alone because of load, %s accepted unchecked", number(int64(s.Checks)), number(int64(s.Shed)), number(int64(s.Unchecked))),
		"held mail", fmt.Sprintf("%s, %s", plural(s.Held.Messages, "message"), size(s.Held.Bytes)),
		"standing", fmt.Sprintf("%s, %s", plural(int64(s.Holds), "hold"), plural(int64(s.OpenEvents), "open event")),
	)
	if t.Enforcing == 0 && s.Holds == 0 && s.Config.Checking {
		e.line("nothing is stopped yet: every trigger observes; see \"osmctl events\", then set mode = \"enforce\"")
	}
}

func (e *env) accountsText(s *control.Status) string {
	a := &s.Accounts
	text := a.Text
	if text == "" {
		text = fmt.Sprintf("%s accounts, %s domains from %s", number(int64(a.Accounts)), number(int64(a.Domains)), a.Panel)
	}
	return text + ", read " + e.when(a.LoadedAt)
}

func (e *env) top(c *cli.Context) error {
	q, err := query(c, map[string]string{"by": "by"})
	if err != nil {
		return err
	}
	if q.Since, err = e.since(c.String("since")); err != nil {
		return err
	}
	client := e.client(c)
	defer client.Close()
	l, err := client.Top(c.Context, q)
	if err != nil {
		return err
	}
	return e.print(c, l, func() {
		if len(l.Items) == 0 {
			e.line("nobody sent anything since %s", c.String("since"))
			return
		}
		measure := map[string]func(*control.Top) int64{
			"recipients": func(t *control.Top) int64 { return t.Recipients }, "messages": func(t *control.Top) int64 { return t.Messages },
			"stopped": func(t *control.Top) int64 { return t.Stopped }, "connections": func(t *control.Top) int64 { return t.Connections },
		}[c.String("by")]
		rows, most := [][]string{}, measure(&l.Items[0])
		for _, t := range l.Items {
			rows = append(rows, []string{t.Account, number(t.Recipients), bar(measure(&t), most, 12), number(t.Messages), number(t.Stopped), number(t.Observed), number(t.Connections)})
		}
		e.table(columns("account~32", "^recipients", "", "^messages", "^stopped", "^would stop", "^connections"), rows)
		e.more(l.Next)
	})
}

func (e *env) usage(c *cli.Context) error {
	q, err := query(c, nil)
	if err != nil {
		return err
	}
	client := e.client(c)
	defer client.Close()
	l, err := client.Usage(c.Context, c.Args().First(), q)
	if err != nil {
		return err
	}
	return e.print(c, l, func() {
		if len(l.Items) == 0 {
			e.line("nothing is counted for %s", c.Args().First())
			return
		}
		e.usageTable(l.Items)
		e.more(l.Next)
	})
}

func (e *env) usageTable(list []control.Usage) {
	rows := [][]string{}
	for _, u := range list {
		free := "now"
		if !u.FreeAt.IsZero() {
			free = e.when(u.FreeAt)
		}
		rows = append(rows, []string{u.Trigger, u.Key, number(u.Used) + " / " + number(u.Max), bar(u.Used, u.Max, 16),
			u.Count + " in " + u.Per.String(), free, u.Mode, u.Origin})
	}
	e.table(columns("trigger", "key~44", "^used / max", "", "counts", "free", "mode", "limit from~40"), rows)
}
