package main

import (
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"osm/internal/control"
)

func (e *env) connectionCommands() []*cli.Command {
	return []*cli.Command{
		command("connections", "", "list connections to mail ports that bypass Exim",
			`Newest first, with the user and the process that made them. "osmctl explain REF" tells all
about one of them. With --follow those that are seen from now on, until Ctrl-C: a reader that
is too slow misses some, and is told how many; with --json one object a line.`, 0, 0, listFlags(
				&cli.StringFlag{Name: "account", Usage: "only of this `ACCOUNT`"},
				&cli.StringFlag{Name: "remote", Usage: "only to `WHERE`: an address, a network such as 192.0.2.0/24, a port such as :25, or an address with its port"},
				&cli.StringFlag{Name: "directory", Usage: "only of processes in `DIR`"},
				&cli.StringFlag{Name: "uid", Usage: "only of sockets of the user with this number, `UID`"},
				&cli.StringFlag{Name: "since", Value: "24h", Usage: "from `D` back: 1h, 24h, 7d, or a date"},
				&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "follow connections as they are seen"}), e.connections),
	}
}

func (e *env) connections(c *cli.Context) error {
	q, err := query(c, map[string]string{"account": "account", "remote": "remote", "directory": "directory", "uid": "uid"})
	if err != nil {
		return err
	}
	client := e.client(c)
	defer client.Close()
	if c.Bool("follow") {
		return e.followConnections(c, client, control.Query{Where: q.Where})
	}
	if q.Since, err = e.since(c.String("since")); err != nil {
		return err
	}
	l, err := client.Connections(c.Context, q)
	if err != nil {
		return err
	}
	return e.print(c, l, func() {
		if len(l.Items) == 0 {
			e.line("no such connection since %s", c.String("since"))
		} else {
			e.connectionTable(l.Items)
		}
		e.more(l.Next)
	})
}

func (e *env) followConnections(c *cli.Context, client *control.Client, q control.Query) error {
	return client.TailConnections(c.Context, q, func(l control.ConnectionLine) error {
		if wantsJSON(c) {
			return e.jsonLine(l)
		}
		if l.Missed > 0 {
			e.line("(%s connections missed: this reader is too slow)", number(int64(l.Missed)))
		}
		n := l.Connection
		e.line("%s  %s  %s  uid %s  %s  %s  %s  %s  %s", e.when(n.At), n.Ref, n.Account, uidText(n), processText(n), dash(n.WorkingDirectory), dash(n.Remote), n.Outcome, dash(overText(n)))
		return nil
	})
}

func (e *env) connectionTable(list []control.Connection) {
	rows := [][]string{}
	for i := range list {
		n := &list[i]
		rows = append(rows, []string{e.when(n.At), n.Ref, n.Account, uidText(n), processText(n), dash(n.WorkingDirectory), dash(n.Remote), n.Outcome, dash(overText(n))})
	}
	e.table(columns("at", "ref", "account~20", "^uid", "process~32", "directory~44", "to", "outcome", "over~32"), rows)
}

// uidText is whose socket it was; what is not known is nobody's.
func uidText(n *control.Connection) string {
	if n.UID == nil {
		return "?"
	}
	return strconv.FormatInt(*n.UID, 10)
}

// processText names the process that connected.
func processText(n *control.Connection) string {
	switch {
	case n.PID == 0:
		return "?"
	case n.Executable == "":
		return strconv.FormatInt(n.PID, 10)
	}
	return fmt.Sprintf("%s (%d)", path.Base(n.Executable), n.PID)
}

// overText names the triggers that were over.
func overText(n *control.Connection) string {
	var names []string
	for _, o := range n.Over {
		names = append(names, o.Trigger)
	}
	return strings.Join(names, ", ")
}

// connectionFacts are what is known of one connection.
func (e *env) connectionFacts(n *control.Connection) {
	startedBy := ""
	if p := n.StartedBy; p != nil {
		startedBy = fmt.Sprintf("%d of uid %d: %s", p.PID, p.UID, commandText(p))
	}
	e.facts(
		"reference", n.Ref, "at", e.moment(n.At), "account", n.Account, "uid", uidText(n), "attributed by", n.Basis,
		"from", n.Local, "to", n.Remote, "outcome", n.Outcome, "seen by", n.SeenBy,
		"process", strings.TrimSpace(strconv.FormatInt(n.PID, 10)+" "+n.Executable), "arguments", strings.Join(n.Arguments, " "),
		"directory", n.WorkingDirectory, "script", n.Script, "started by", startedBy, "cgroup", n.Cgroup, "over", overText(n),
	)
	if len(n.Processes) > 1 {
		e.line("\nThe process and its parents:")
		rows := [][]string{}
		for i := range n.Processes {
			p := &n.Processes[i]
			rows = append(rows, []string{strconv.FormatInt(p.PID, 10), strconv.FormatInt(p.UID, 10), dash(p.Executable), dash(p.WorkingDirectory), dash(strings.Join(p.Arguments, " "))})
		}
		e.table(columns("^pid", "^uid", "program~40", "directory~44", "arguments~60"), rows)
	}
}

func commandText(p *control.Process) string {
	if len(p.Arguments) == 0 {
		return p.Executable
	}
	return p.Executable + " (" + strings.Join(p.Arguments, " ") + ")"
}

// ofConnections reports whether an event is about connections, not about messages.
func ofConnections(v *control.Event) bool { return v.Count == "connections" }

// nounOf is what an event counts.
func nounOf(v *control.Event) string {
	if ofConnections(v) {
		return "connection"
	}
	return "message"
}
