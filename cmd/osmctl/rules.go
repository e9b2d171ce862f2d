package main

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"osm/internal/config"
	"osm/internal/control"
)

// whomFlags choose whom a limit is for.
func whomFlags(more ...cli.Flag) []cli.Flag {
	return append([]cli.Flag{
		&cli.BoolFlag{Name: "server", Usage: "for the whole server"},
		&cli.StringFlag{Name: "reseller", Usage: "for all accounts of this `RESELLER`"},
		&cli.StringFlag{Name: "package", Usage: "for all accounts with this `PACKAGE`"},
		&cli.StringFlag{Name: "account", Usage: "for this `ACCOUNT`"},
		&cli.StringFlag{Name: "mailbox", Usage: "for `USER@DOMAIN` (login triggers only)"},
	}, more...)
}

// whom reads whomFlags; level is "" when none was given.
func whom(c *cli.Context) (level, name string, err error) {
	n := 0
	if c.Bool("server") {
		level = "server"
		n++
	}
	for _, l := range []string{"reseller", "package", "account", "mailbox"} {
		if v := c.String(l); v != "" {
			level, name = l, v
			n++
		}
	}
	if n > 1 {
		return "", "", usagef("%s takes one of --server, --reseller, --package, --account and --mailbox", c.Command.HelpName)
	}
	return level, name, nil
}

func (e *env) ruleCommands() []*cli.Command {
	trigger := &cli.StringFlag{Name: "trigger", Usage: "of this `TRIGGER`; without it, of all"}
	until := &cli.StringFlag{Name: "until", Usage: "end it at `WHEN`: 2h, 3d, 2027-01-31 (the end of that day), or never"}
	reason := &cli.StringFlag{Name: "reason", Usage: "why, for whoever finds it: `TEXT`"}
	set := func() []cli.Flag {
		return whomFlags(trigger,
			&cli.Int64Flag{Name: "max", Usage: "let `N` pass in any period"},
			&cli.StringFlag{Name: "mode", Usage: "off, observe or enforce"},
			&cli.StringFlag{Name: "verdict", Usage: "accept, freeze, discard, defer or deny"},
			&cli.StringFlag{Name: "release", Usage: "of frozen mail: manual or when-free"},
			&cli.StringFlag{Name: "actions", Usage: "what follows: `LIST`, such as report,hold=1h"},
			&cli.StringFlag{Name: "per", Usage: "the period, `D`; only with --server"})
	}
	return []*cli.Command{
		e.triggerCommands(),
		group("limit", "set, show, try or remove limits of accounts, packages, resellers, mailboxes", "",
			command("set", "", "set a limit", `It acts at once and wins over the file. What is not given is inherited, or stays as it was set
before for the same account and trigger, its end and reason too. For example:

    osmctl limit set --account shop --trigger account-hour --max 5000 \
           --until 2027-01-31 --reason "newsletter, ticket 4711"`,
				0, 0, append(set(), until, reason), e.limitSet),
			command("preview", "", "tell what a limit would have done to the mail of the past",
				`Nothing is set. The messages that were sent are judged again, with the limit (or without the
one named by --remove) and as things are; that takes up to a few seconds.`,
				0, 0, append(set(), &cli.Int64Flag{Name: "remove", Usage: "try without the limit with this `ID`"},
					&cli.StringFlag{Name: "since", Value: "7d", Usage: "from `D` back: 1h, 24h, 7d, or a date"}), e.limitPreview),
			command("show", "", "list the limits that are set, in the file and with osmctl", "", 0, 0, listFlags(whomFlags()...), e.limitShow),
			command("remove", "ID...", "remove limits that were set with osmctl, by their numbers", "", 1, -1, []cli.Flag{reason}, e.limitRemove),
		),
		group("exempt", "add, list or remove exemptions from limits",
			`An exemption lifts limits for what it matches: rather to a ceiling and until a date than
altogether and for ever. Holds stop exempted mail too.`,
			command("add", "", "add an exemption", `Exactly one of --account alone, --mailbox, --ip, --recipient-domain, --destination, or --directory
or --subject together with --account. A destination is a place to which connections may go that
bypass Exim, such as a relay service: they are not counted then; with --account, only that one's.`, 0, 0, []cli.Flag{
				&cli.StringFlag{Name: "account", Usage: "everything of this `ACCOUNT`, or whose directory or Subject it is"},
				&cli.StringFlag{Name: "mailbox", Usage: "what `USER@DOMAIN` sends after logging in"},
				&cli.StringFlag{Name: "directory", Usage: "what scripts in `DIR` send"},
				&cli.StringFlag{Name: "subject", Usage: "mail with this `SUBJECT`, compared without its numbers"},
				&cli.StringFlag{Name: "ip", Usage: "what comes from this `ADDRESS` or range"},
				&cli.StringFlag{Name: "recipient-domain", Usage: "mail whose recipients are all of this `DOMAIN`"},
				&cli.StringFlag{Name: "destination", Usage: "connections past Exim to this `ADDRESS` or range"},
				trigger,
				&cli.Int64Flag{Name: "ceiling", Usage: "raise the limit to `N`; without it, no limit at all"},
				until, reason}, e.exemptAdd),
			command("list", "", "list exemptions with how often each was used", "", 0, 0, listFlags(), e.exemptList),
			command("remove", "ID...", "remove exemptions that were added with osmctl", "", 1, -1, []cli.Flag{reason}, e.exemptRemove),
		),
	}
}

// limitFlags reads what a limit is to set.
func limitFlags(c *cli.Context) (control.Limit, error) {
	l := control.Limit{Trigger: c.String("trigger"), Reason: c.String("reason")}
	if c.IsSet("max") {
		max := c.Int64("max")
		l.Max = &max
	}
	for flag, to := range map[string]**string{"mode": &l.Mode, "verdict": &l.Verdict, "release": &l.Release} {
		if c.IsSet(flag) {
			v := c.String(flag)
			*to = &v
		}
	}
	if c.IsSet("per") {
		d, err := config.ParseDuration(c.String("per"))
		if err != nil {
			return l, usagef("--per: %v", err)
		}
		per := control.Period(d)
		l.Per = &per
	}
	if c.IsSet("actions") {
		list, err := control.ParseActions(c.String("actions"))
		if err != nil {
			return l, usagef("--actions: %v", err)
		}
		l.Actions = &list
	}
	return l, nil
}

func (e *env) limitSet(c *cli.Context) error {
	level, name, err := whom(c)
	if err != nil {
		return err
	}
	if level == "" {
		return usagef("limit set needs one of --account, --mailbox, --package, --reseller and --server")
	}
	l, err := limitFlags(c)
	if err != nil {
		return err
	}
	l.Level, l.Name = level, name
	if l.Max == nil && l.Mode == nil && l.Verdict == nil && l.Release == nil && l.Actions == nil && l.Per == nil && !c.IsSet("until") {
		return usagef("limit set needs something to set: --max, --mode, --verdict, --release, --actions, --per or --until")
	}
	if l.Until, err = e.until(c); err != nil {
		return err
	}
	l.Forever = c.String("until") == never
	client := e.client(c)
	defer client.Close()
	set, err := client.SetLimit(c.Context, l)
	if err != nil {
		return err
	}
	return e.print(c, set, func() {
		until := "until it is removed"
		if !set.Until.IsZero() {
			until = "until " + e.moment(set.Until)
		}
		e.line("limit %d: %s for %s, %s; it acts now, remove it with: osmctl limit remove %d", set.ID, limitText(&set), limitWhom(&set), until, set.ID)
	})
}

// limitWhom and limitText tell a limit in a few words.
func limitWhom(l *control.Limit) string {
	text := strings.TrimSpace(l.Level + " " + l.Name)
	if l.Trigger != "" {
		return text + ", trigger " + l.Trigger
	}
	return text + ", all triggers"
}

func limitText(l *control.Limit) string {
	var parts []string
	if l.Max != nil {
		parts = append(parts, "max "+number(*l.Max))
	}
	if l.Per != nil {
		parts = append(parts, "per "+l.Per.String())
	}
	if l.Mode != nil {
		parts = append(parts, "mode "+*l.Mode)
	}
	if l.Verdict != nil {
		parts = append(parts, "verdict "+*l.Verdict)
	}
	if l.Release != nil {
		parts = append(parts, "release "+*l.Release)
	}
	if l.Actions != nil {
		var names []string
		for _, a := range *l.Actions {
			names = append(names, a.String())
		}
		parts = append(parts, "actions "+dash(strings.Join(names, ",")))
	}
	return strings.Join(parts, ", ")
}

func (e *env) limitShow(c *cli.Context) error {
	q, err := query(c, nil)
	if err != nil {
		return err
	}
	if q.Where["level"], q.Where["name"], err = whom(c); err != nil {
		return err
	}
	client := e.client(c)
	defer client.Close()
	l, err := client.Limits(c.Context, q)
	if err != nil {
		return err
	}
	return e.print(c, l, func() {
		if len(l.Items) == 0 {
			e.line("no limit is set for anybody: the triggers of osm.toml hold for all (osmctl config show)")
			return
		}
		e.limitTable(l.Items)
		e.more(l.Next)
	})
}

func (e *env) limitTable(list []control.Limit) {
	rows := [][]string{}
	for _, o := range list {
		until := "for ever"
		if !o.Until.IsZero() {
			until = e.when(o.Until)
		}
		rows = append(rows, []string{idText(o.ID), strings.TrimSpace(o.Level + " " + o.Name), orAll(o.Trigger), limitText(&o), until, setBy(o.Where, o.By), o.Reason})
	}
	e.table(columns("^id", "for~44", "trigger", "sets", "until", "set by~32", "reason~48"), rows)
}

// idText is a number to remove something by; what stands in the file has none.
func idText(id int64) string {
	if id == 0 {
		return "-"
	}
	return strconv.FormatInt(id, 10)
}

func orAll(trigger string) string {
	if trigger == "" {
		return "all"
	}
	return trigger
}

func setBy(where, by string) string {
	if by == "" {
		return where
	}
	return by
}

func (e *env) limitRemove(c *cli.Context) error {
	client := e.client(c)
	defer client.Close()
	return removeEach(e, c, "the number of a limit to remove", func(id int64) (control.Limit, error) {
		return client.RemoveLimit(c.Context, id, c.String("reason"))
	}, func(l control.Limit) string {
		return fmt.Sprintf("limit %d (%s) of %s is removed", l.ID, limitText(&l), limitWhom(&l))
	})
}

// removeEach removes things by the numbers on the command line, or ends them. With an
// error it stops, after it has told what it did before.
func removeEach[T any](e *env, c *cli.Context, what string, remove func(int64) (T, error), text func(T) string) error {
	var ids []int64
	for _, a := range c.Args().Slice() {
		id, err := number64(a, what)
		if err != nil {
			return err
		}
		ids = append(ids, id)
	}
	removed := control.List[T]{Items: []T{}}
	var failed error
	for _, id := range ids {
		v, err := remove(id)
		if err != nil {
			failed = err
			break
		}
		removed.Items = append(removed.Items, v)
	}
	if failed != nil && len(removed.Items) == 0 {
		return failed
	}
	err := e.print(c, removed, func() {
		for _, v := range removed.Items {
			e.line("%s", text(v))
		}
	})
	return cmp.Or(failed, err)
}

func (e *env) exemptAdd(c *cli.Context) error {
	x := control.Exemption{Account: c.String("account"), Trigger: c.String("trigger"), Ceiling: c.Int64("ceiling"), Reason: c.String("reason")}
	n := 0
	for _, scope := range []string{"mailbox", "directory", "subject", "ip", "recipient-domain", "destination"} {
		if v := c.String(scope); v != "" {
			x.Scope, x.Value = scope, v
			n++
		}
	}
	switch {
	case n > 1 || (n == 0 && x.Account == ""):
		return usagef("exempt add needs exactly one of --account alone, --mailbox, --directory, --subject, --ip, --recipient-domain and --destination")
	case n == 0:
		x.Scope, x.Value = "account", x.Account
	}
	var err error
	if x.Until, err = e.until(c); err != nil {
		return err
	}
	client := e.client(c)
	defer client.Close()
	added, err := client.AddExemption(c.Context, x)
	if err != nil {
		return err
	}
	return e.print(c, added, func() {
		e.line("exemption %d: %s; it acts now, remove it with: osmctl exempt remove %d", added.ID, exemptText(&added), added.ID)
		switch {
		case added.Scope == "destination" && added.Until.IsZero():
			e.line("connections there fill no limit, for ever; --until gives it an end")
		case added.Scope != "destination" && added.Until.IsZero() && added.Ceiling == 0:
			e.line("it lifts the limit altogether and for ever; --ceiling and --until keep it narrow")
		}
	})
}

func exemptText(x *control.Exemption) string {
	lifts := "no limit"
	if x.Ceiling > 0 {
		lifts = "up to " + number(x.Ceiling)
	}
	whose := x.Scope + " " + x.Value
	if x.Account != "" && x.Account != x.Value {
		whose += " of account " + x.Account
	}
	return fmt.Sprintf("%s for %s, trigger %s", lifts, whose, orAll(x.Trigger))
}

func (e *env) exemptList(c *cli.Context) error {
	q, err := query(c, nil)
	if err != nil {
		return err
	}
	client := e.client(c)
	defer client.Close()
	l, err := client.Exemptions(c.Context, q)
	if err != nil {
		return err
	}
	return e.print(c, l, func() {
		if len(l.Items) == 0 {
			e.line("there is no exemption")
			return
		}
		rows := [][]string{}
		for _, x := range l.Items {
			until, lifts := "for ever", "no limit"
			if !x.Until.IsZero() {
				until = e.when(x.Until)
			}
			if x.Ceiling > 0 {
				lifts = "up to " + number(x.Ceiling)
			}
			rows = append(rows, []string{idText(x.ID), x.Scope, dash(x.Account), x.Value, orAll(x.Trigger), lifts, until, number(x.Hits), setBy(x.Where, x.By), x.Reason})
		}
		e.table(columns("^id", "by", "account~20", "what~44", "trigger", "lifts", "until", "^used", "set by~24", "reason~40"), rows)
		e.more(l.Next)
	})
}

func (e *env) exemptRemove(c *cli.Context) error {
	client := e.client(c)
	defer client.Close()
	return removeEach(e, c, "the number of an exemption to remove", func(id int64) (control.Exemption, error) {
		return client.RemoveExemption(c.Context, id, c.String("reason"))
	}, func(x control.Exemption) string {
		return fmt.Sprintf("exemption %d (%s) is removed", x.ID, exemptText(&x))
	})
}
