package main

import (
	"strconv"

	"github.com/urfave/cli/v2"

	"osm/internal/control"
)

func (e *env) actionCommands() []*cli.Command {
	return []*cli.Command{
		command("actions", "", "list what was done because somebody went over a limit",
			`Newest first: what was done, to whom, what came of it, until when it stands, and the number
by which "osmctl undo" takes it back.`,
			0, 0, listFlags(
				&cli.StringFlag{Name: "since", Value: "7d", Usage: "from `D` back: 1h, 24h, 7d, or a date"},
				&cli.StringFlag{Name: "account", Usage: "only of this `ACCOUNT`"},
				&cli.StringFlag{Name: "event", Usage: "only of the event with this `ID`"},
				&cli.StringFlag{Name: "name", Usage: "only of this `ACTION`, such as hold or suspend-account"},
				&cli.BoolFlag{Name: "standing", Usage: "only what is in force and can be undone, however old"}), e.actions),
		command("undo", "ID", "take back what an action did",
			`A hold ends, a suspended account comes back, a renamed file gets its name, mode and owner
again. What somebody else has changed meanwhile is left as it is, and the answer says so. It is
not done again by osm for the time of held.grace.`,
			1, 1, []cli.Flag{&cli.StringFlag{Name: "reason", Usage: "why, for the audit: `TEXT`"}}, e.undo),
	}
}

func (e *env) actions(c *cli.Context) error {
	q, err := query(c, map[string]string{"account": "account", "event": "event", "name": "name"})
	if err != nil {
		return err
	}
	if q.Since, err = e.since(c.String("since")); err != nil {
		return err
	}
	if c.Bool("standing") {
		q.Where["standing"] = "true"
		if !c.IsSet("since") {
			q.Since, _ = e.since("3650d")
		}
	}
	client := e.client(c)
	defer client.Close()
	l, err := client.Actions(c.Context, q)
	if err != nil {
		return err
	}
	return e.print(c, l, func() {
		if len(l.Items) == 0 {
			e.line("no action followed anything")
			return
		}
		rows := [][]string{}
		for i := range l.Items {
			a := &l.Items[i]
			rows = append(rows, []string{strconv.FormatInt(a.ID, 10), e.when(a.At), a.Name, a.Target, e.actionState(a), dash(a.Inverse), a.Outcome})
		}
		e.table(columns("^id", "at", "action", "on~44", "state", "undo", "outcome~80"), rows)
		e.more(l.Next)
	})
}

// actionState tells what became of an action, and until when.
func (e *env) actionState(a *control.Action) string {
	switch {
	case !a.UndoneAt.IsZero():
		return "undone " + e.when(a.UndoneAt) + " by " + a.UndoneBy
	case !a.NextAt.IsZero():
		return a.State + ", again " + e.when(a.NextAt)
	case a.Record != "" && !a.Until.IsZero():
		return a.State + ", until " + e.when(a.Until)
	}
	return a.State
}

func (e *env) undo(c *cli.Context) error {
	id, err := number64(c.Args().First(), "an action's number")
	if err != nil {
		return err
	}
	client := e.client(c)
	defer client.Close()
	a, err := client.UndoAction(c.Context, id, c.String("reason"))
	if err != nil {
		return err
	}
	return e.print(c, a, func() { e.line("undone: %s %s: %s", a.Name, a.Target, a.Outcome) })
}
