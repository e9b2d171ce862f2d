package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"osm/internal/config"
	"osm/internal/control"
)

func (e *env) adminCommands() []*cli.Command {
	return append(e.settingCommands(), []*cli.Command{
		command("doctor", "", "look at every piece of the installation and name the one that is missing",
			`Run it as root: some pieces only root can look at. Exit status 1 when something is wrong.`,
			0, 0, append(pageFlags(1000), configFlag(), &cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "list what is in order too"}), e.doctor),
		command("backup", "FILE", "write a copy of the database while the daemon runs",
			`The daemon writes it, as its own user: FILE must lie in a folder where it may, such as
/var/lib/osm, and must not exist yet.`, 1, 1, nil, e.backup),
		e.auditCommand(),
		{
			Name: "man", Hidden: true, Usage: "print a manual page: osmctl or osm.toml", ArgsUsage: "[PAGE]", HideHelpCommand: true,
			OnUsageError: onUsageError,
			Action: func(c *cli.Context) error {
				var page []byte
				switch name := c.Args().First(); name {
				case "", "osmctl":
					page = manOsmctl(c.App)
				case "osm.toml":
					page = manConfig()
				default:
					return usagef("there is no page %q: osmctl or osm.toml", name)
				}
				_, err := e.out.Write(page)
				return err
			},
		},
	}...)
}

func (e *env) doctor(c *cli.Context) error {
	q, err := query(c, nil)
	if err != nil {
		return err
	}
	all := control.List[control.Check]{Items: []control.Check{}}
	cfg, err := config.Load(c.String("config"))
	if err != nil {
		all.Items = append(all.Items, control.Check{Name: "config", Text: err.Error(), Hint: "mend the file; osmctl config check names every mistake"})
		cfg = config.Default()
	} else {
		all.Items = append(all.Items, control.Check{Name: "config", OK: true, Text: c.String("config") + " can be used"})
	}
	if c.IsSet("socket") {
		cfg.Server.ControlSocket = c.String("socket")
	}
	client := control.NewClient(cfg.Server.ControlSocket)
	defer client.Close()
	client.Timeout = 10 * time.Second // a daemon that stands still is one of the things to be found
	l, err := client.Doctor(c.Context)
	switch {
	case err == nil:
		all.Items = append(all.Items, control.Check{Name: "daemon", OK: true, Text: "it answers on " + cfg.Server.ControlSocket})
		all.Items = append(all.Items, l.Items...)
	default:
		var refused *control.Error
		hint := ""
		if errors.As(err, &refused) {
			hint = refused.Hint
		}
		all.Items = append(all.Items, control.Check{Name: "daemon", Text: err.Error(), Hint: hint})
	}
	host := control.Host{Config: cfg, UID: e.uid, Now: e.now}
	for _, check := range host.Checks(c.Context) {
		told := slices.ContainsFunc(all.Items, func(o control.Check) bool { return o.Name == check.Name && o.Text == check.Text })
		if !told { // by the daemon already
			all.Items = append(all.Items, check)
		}
	}
	wrong := 0
	for _, check := range all.Items {
		if !check.OK {
			wrong++
		}
	}
	if all, err = paged(all.Items, q); err != nil {
		return err
	}
	err = e.print(c, all, func() {
		e.doctorText(all.Items, c.Bool("all") || wrong == 0)
		e.more(all.Next)
	})
	if err != nil {
		return err
	}
	if wrong > 0 {
		return &control.Error{Status: 500, Message: plural(int64(wrong), "thing") + " wrong"}
	}
	return nil
}

// paged cuts a page out of a list that was made here; next is the place in it.
func paged[T any](all []T, q control.Query) (control.List[T], error) {
	from, err := strconv.Atoi(cmp.Or(q.After, "0"))
	if err != nil || from < 0 {
		return control.List[T]{}, usagef("--after is what the list before ended with, not %q", q.After)
	}
	l := control.List[T]{Items: all[min(from, len(all)):min(from+q.Limit, len(all))]}
	if from+q.Limit < len(all) {
		l.Next = strconv.Itoa(from + q.Limit)
	}
	return l, nil
}

func (e *env) doctorText(checks []control.Check, everything bool) {
	for _, c := range checks {
		mark := "WRONG"
		switch {
		case c.Skipped:
			mark = "skip "
		case c.OK:
			mark = "ok   "
		}
		if c.OK && !c.Skipped && !everything {
			continue
		}
		for i, l := range strings.Split(c.Text, "\n") {
			if i == 0 {
				e.line("%s  %s: %s", mark, c.Name, l)
			} else {
				e.line("       %s", l)
			}
		}
		if !c.OK && c.Hint != "" {
			e.line("       do: %s", c.Hint)
		}
	}
}

func (e *env) backup(c *cli.Context) error {
	path, err := filepath.Abs(c.Args().First())
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	client := e.client(c)
	defer client.Close()
	b, err := client.Backup(c.Context, path)
	if err != nil {
		return err
	}
	return e.print(c, b, func() { e.line("%s written, %s", b.Path, size(b.Bytes)) })
}

func (e *env) audit(c *cli.Context) error {
	q, err := query(c, nil)
	if err != nil {
		return err
	}
	if q.Since, err = e.since(c.String("since")); err != nil {
		return err
	}
	client := e.client(c)
	defer client.Close()
	l, err := client.Audit(c.Context, q)
	if err != nil {
		return err
	}
	return e.print(c, l, func() {
		if len(l.Items) == 0 {
			e.line("nothing was changed since %s", c.String("since"))
			return
		}
		rows := [][]string{}
		for _, a := range l.Items {
			rows = append(rows, []string{idText(a.ID), e.when(a.At), a.User, a.Role, a.What, a.Target, dash(a.Old), dash(a.New), dash(a.Undo)})
		}
		e.table(columns("^id", "at", "by~24", "as", "what", "on~44", "before~20", "after~28", "undo would~60"), rows)
		e.more(l.Next)
	})
}

// jsonLine writes one object on one line, for a stream.
func (e *env) jsonLine(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	_, err = e.out.Write(append(visibleJSON(b), '\n'))
	return err
}
