package main

import (
	"strings"

	"github.com/urfave/cli/v2"

	"osm/internal/config"
	"osm/internal/control"
)

func (e *env) settingCommands() []*cli.Command {
	reason := &cli.StringFlag{Name: "reason", Usage: "why, for whoever finds it: `TEXT`"}
	return []*cli.Command{
		group("settings", "list or change settings while the daemon runs",
			`What is set here stands in the database, acts at once and wins over osm.toml. Limits and
triggers are set with "osmctl limit". Everything else stands in osm.toml and takes a restart.`,
			command("list", "", "list the settings that can be changed while the daemon runs", "", 0, 0, nil, e.settingsList),
			command("set", "KEY VALUE", "change a setting", `For example:

    osmctl settings set checking off --reason "mail queue is being moved"`, 2, 2, []cli.Flag{reason}, e.settingsSet),
			command("unset", "KEY", "let osm.toml decide on a setting again", "", 1, 1, []cli.Flag{reason}, e.settingsUnset),
		),
	}
}

// auditCommand lists changes, and takes one back.
func (e *env) auditCommand() *cli.Command {
	list := command("audit", "", "list who changed what", "Newest first, each with what taking it back would do.", 0, 0,
		listFlags(&cli.StringFlag{Name: "since", Value: "30d", Usage: "from `D` back: 1h, 24h, 7d, or a date"}), e.audit)
	list.Subcommands = []*cli.Command{
		command("undo", "ID", "take a change back, by its number in the audit",
			`Limits, holds, exemptions and settings can be taken back, as long as nobody has changed them
again; mail that was released or discarded, and a counter that was reset, cannot.`,
			1, 1, []cli.Flag{&cli.StringFlag{Name: "reason", Usage: "why, for whoever finds it: `TEXT`"}}, e.auditUndo),
	}
	return list
}

func (e *env) settingsList(c *cli.Context) error {
	client := e.client(c)
	defer client.Close()
	l, err := client.Settings(c.Context)
	if err != nil {
		return err
	}
	return e.print(c, l, func() {
		rows := [][]string{}
		for _, s := range l.Items {
			rows = append(rows, []string{s.Key, s.Value, s.Default, s.Origin, dash(s.Reason), s.Text})
		}
		e.table(columns("key", "value", "default", "from~40", "reason~32", "what it does"), rows)
	})
}

func (e *env) settingsSet(c *cli.Context) error {
	value := c.Args().Get(1)
	return e.changeSetting(c, &value)
}

func (e *env) settingsUnset(c *cli.Context) error { return e.changeSetting(c, nil) }

func (e *env) changeSetting(c *cli.Context, value *string) error {
	client := e.client(c)
	defer client.Close()
	s, err := client.Set(c.Context, c.Args().First(), value, c.String("reason"))
	if err != nil {
		return err
	}
	return e.print(c, s, func() { e.line("%s = %s, from %s; it acts now", s.Key, s.Value, s.Origin) })
}

func (e *env) auditUndo(c *cli.Context) error {
	id, err := number64(c.Args().First(), "the number of a change")
	if err != nil {
		return err
	}
	client := e.client(c)
	defer client.Close()
	done, err := client.Undo(c.Context, id, c.String("reason"))
	if err != nil {
		return err
	}
	return e.print(c, done, func() {
		e.line("change %d is taken back by change %d: %s, %s", id, done.ID, done.What, done.Target)
	})
}

// triggerCommands show triggers with what everybody inherits.
func (e *env) triggerCommands() *cli.Command {
	return group("trigger", "list triggers as they are in force for somebody", "",
		command("list", "", "list every trigger with its values and where each was set",
			`For the whole server, or for one reseller, package, account or mailbox with all that is
inherited from above. They are changed with "osmctl limit set".`, 0, 0, whomFlags(), e.triggerList))
}

func (e *env) triggerList(c *cli.Context) error {
	level, name, err := whom(c)
	if err != nil {
		return err
	}
	client := e.client(c)
	defer client.Close()
	l, err := client.Triggers(c.Context, level, name)
	if err != nil {
		return err
	}
	return e.print(c, l, func() {
		rows := [][]string{}
		for _, t := range l.Items {
			limit := &control.Limit{Actions: &t.Actions}
			rows = append(rows, []string{t.Trigger, t.Watch, number(t.Max) + " " + t.Count + " in " + t.Per.String(), t.Mode, t.Verdict, t.Release,
				strings.TrimPrefix(limitText(limit), "actions "), originText(t.Origin)})
		}
		e.table(columns("trigger", "watch", "limit", "mode", "verdict", "release", "actions", "where set~80"), rows)
	})
}

// originText tells where a trigger's values stand, those together that stand in one place.
func originText(origin map[string]string) string {
	var places []string
	fields := map[string][]string{}
	for _, field := range []string{"max", "per", "mode", "verdict", "release", "actions"} {
		from := origin[field]
		if fields[from] == nil {
			places = append(places, from)
		}
		fields[from] = append(fields[from], field)
	}
	if len(places) == 1 {
		return places[0]
	}
	var parts []string
	for _, from := range places {
		parts = append(parts, strings.Join(fields[from], ", ")+": "+from)
	}
	return strings.Join(parts, "; ")
}

func (e *env) limitPreview(c *cli.Context) error {
	l, err := e.previewed(c)
	if err != nil {
		return err
	}
	since, err := e.since(c.String("since"))
	if err != nil {
		return err
	}
	client := e.client(c)
	defer client.Close()
	p, err := client.PreviewLimit(c.Context, l, c.Int64("remove"), since)
	if err != nil {
		return err
	}
	return e.print(c, p, func() {
		e.wrap("", p.Text)
		if len(p.Items) == 0 {
			return
		}
		rows := [][]string{}
		for _, s := range p.Items {
			rows = append(rows, []string{s.Account, number(s.Stopped), e.when(s.FirstAt)})
		}
		e.table(columns("account~32", "^"+p.Noun+"s", "first"), rows)
	})
}

// previewed reads what limit is to be tried: one to be set, or the number of one to be
// removed.
func (e *env) previewed(c *cli.Context) (control.Limit, error) {
	level, name, err := whom(c)
	if err != nil {
		return control.Limit{}, err
	}
	if c.IsSet("remove") {
		if level != "" || c.Int64("remove") <= 0 {
			return control.Limit{}, usagef("limit preview takes the number of a limit with --remove, or what is to be set, not both")
		}
		return control.Limit{}, nil
	}
	l, err := limitFlags(c)
	if err != nil {
		return l, err
	}
	if level == "" {
		return l, usagef("limit preview needs --remove, or one of --account, --mailbox, --package, --reseller and --server")
	}
	l.Level, l.Name = level, name
	return l, nil
}

// length makes what people write ("1m", "1d") into a Go duration.
func length(flag, s string) (string, error) {
	d, err := config.ParseDuration(s)
	if err != nil {
		return "", usagef("--%s: %v", flag, err)
	}
	return d.String(), nil
}
