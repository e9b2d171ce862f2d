package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"osm/internal/config"
	"osm/internal/control"
)

// selectionFlags choose held messages by what they have in common.
func selectionFlags(more ...cli.Flag) []cli.Flag {
	return append([]cli.Flag{
		&cli.StringFlag{Name: "account", Usage: "of this `ACCOUNT`"},
		&cli.StringFlag{Name: "mailbox", Usage: "of `USER@DOMAIN`"},
		&cli.StringFlag{Name: "directory", Usage: "sent by scripts in `DIR`"},
		&cli.StringFlag{Name: "subject", Usage: "with this `SUBJECT`, compared without its numbers"},
		&cli.StringFlag{Name: "trigger", Usage: "frozen by this `TRIGGER`"},
	}, more...)
}

func selection(c *cli.Context) control.Selection {
	return control.Selection{Refs: c.Args().Slice(), Account: c.String("account"), Mailbox: c.String("mailbox"),
		Directory: c.String("directory"), Subject: c.String("subject"), Trigger: c.String("trigger")}
}

func (e *env) heldCommands() []*cli.Command {
	settleFlags := func() []cli.Flag {
		return selectionFlags(
			&cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "do not ask"},
			&cli.BoolFlag{Name: "dry-run", Aliases: []string{"n"}, Usage: "only say how many messages it would be"},
			&cli.StringFlag{Name: "reason", Usage: "why, for the audit: `TEXT`"})
	}
	return []*cli.Command{
		group("held", "list, show, release or discard mail that waits frozen in Exim's queue", "",
			command("list", "", "list held mail",
				`The oldest first. Without --state, what waits in the queue. The states are held, releasing,
discarding, released, discarded, gone (removed or delivered by somebody else), expired, and all.`,
				0, 0, listFlags(selectionFlags(&cli.StringFlag{Name: "state", Usage: "in this `STATE`, or all"})...), e.heldList),
			command("show", "REF|MESSAGE-ID", "show one held message with its headers", "", 1, 1, nil, e.heldShow),
			command("release", "[REF...]", "let held mail go to its recipients",
				`By references, or everything that the options choose together. It leaves at the pace that is
set (held.release_rate) and counts for no limit. A hold that stands stays: end it with
"osmctl release". More than one message is asked about first.`,
				0, -1, settleFlags(), func(c *cli.Context) error { return e.settle(c, "release") }),
			command("discard", "[REF...]", "remove held mail for good",
				`By references, or everything that the options choose together. Nobody gets a bounce; headers
and event are kept. It is always asked about first.`,
				0, -1, settleFlags(), func(c *cli.Context) error { return e.settle(c, "discard") }),
		),
	}
}

func (e *env) heldList(c *cli.Context) error {
	q, err := query(c, map[string]string{"account": "account", "mailbox": "mailbox", "working_directory": "directory", "subject": "subject", "trigger": "trigger", "state": "state"})
	if err != nil {
		return err
	}
	client := e.client(c)
	defer client.Close()
	l, err := client.Held(c.Context, q)
	if err != nil {
		return err
	}
	return e.print(c, l, func() {
		if len(l.Items) == 0 {
			e.line("no such mail is held")
			return
		}
		rows := [][]string{}
		for _, h := range l.Items {
			rows = append(rows, []string{h.Ref, e.when(h.HeldAt), h.Account, dash(h.Mailbox), dash(h.EnvelopeSender), strconv.FormatInt(h.Recipients, 10), size(h.Size), h.Trigger, h.State, h.Subject})
		}
		e.table(columns("ref", "held", "account~20", "mailbox~32", "envelope sender~32", "^rcpt", "^size", "trigger", "state", "subject~48"), rows)
		e.more(l.Next)
	})
}

func (e *env) heldShow(c *cli.Context) error {
	client := e.client(c)
	defer client.Close()
	h, err := client.HeldMessage(c.Context, c.Args().First())
	if err != nil {
		return err
	}
	return e.print(c, h, func() {
		e.facts("reference", h.Ref, "message id", h.MessageID, "state", h.State, "held", e.moment(h.HeldAt), "trigger", h.Trigger, "leaves", h.Release,
			"account", h.Account, "mailbox", h.Mailbox, "directory", h.WorkingDirectory, "envelope sender", senderText(h.EnvelopeSender),
			"subject", h.Subject, "recipients", strconv.FormatInt(h.Recipients, 10), "to", h.RecipientList, "size", size(h.Size), "error", h.LastError)
		if h.Headers != "" {
			e.line("\nHeaders:")
			for _, l := range strings.Split(strings.TrimRight(h.Headers, "\n"), "\n") {
				e.line("  %s", strings.ReplaceAll(l, "\t", "    "))
			}
		}
	})
}

// settle releases or discards. The number of messages is asked first and sent along, so
// that nothing is done to more messages than the operator has seen.
func (e *env) settle(c *cli.Context, verb string) error {
	s := control.Settle{Selection: selection(c), DryRun: true, Reason: c.String("reason")}
	if len(s.Refs) == 0 && s.Account == "" && s.Mailbox == "" && s.Directory == "" && s.Subject == "" && s.Trigger == "" {
		return usagef("held %s needs references, or at least one of --account, --mailbox, --directory, --subject and --trigger", verb)
	}
	client := e.client(c)
	defer client.Close()
	do := client.ReleaseHeld
	if verb == "discard" {
		do = client.DiscardHeld
	}
	plan, err := do(c.Context, s)
	if err != nil {
		return err
	}
	if c.Bool("dry-run") {
		return e.print(c, plan, func() { e.line("%s", plan.Text) })
	}
	if plan.Matched == 0 {
		return &control.Error{Status: 404, Message: "no waiting message matches", Hint: "osmctl held list --state all shows those that were settled already"}
	}
	if !c.Bool("yes") && (verb == "discard" || plan.Matched > 1) {
		if err := e.confirm(c.Context, fmt.Sprintf("%s %s", verb, plural(int64(plan.Matched), "message"))); err != nil {
			return err
		}
	}
	s.DryRun, s.Expect = false, &plan.Matched
	done, err := do(c.Context, s)
	if err != nil {
		return err
	}
	return e.print(c, done, func() { e.line("%s", done.Text) })
}

// confirm asks a person; a script has to say --yes.
func (e *env) confirm(ctx context.Context, what string) error {
	if !e.asks {
		return usagef("to %s, add --yes: there is nobody here to ask", what)
	}
	fmt.Fprintf(e.err, "%s? [y/N] ", printable(strings.ToUpper(what[:1])+what[1:]))
	answer := make(chan string, 1)
	go func() { // ends with the process at the latest: a terminal cannot be interrupted
		line, _ := bufio.NewReader(e.in).ReadString('\n')
		answer <- strings.ToLower(strings.TrimSpace(line))
	}()
	select {
	case <-ctx.Done():
	case a := <-answer:
		if a == "y" || a == "yes" {
			return nil
		}
	}
	return errors.New("nothing was changed")
}

func (e *env) holdCommands() []*cli.Command {
	reason := &cli.StringFlag{Name: "reason", Usage: "why, for the audit: `TEXT`"}
	return []*cli.Command{
		group("hold", "list or put standing holds, which stop all mail of one sender", "",
			command("list", "", "list the holds that stand", "", 0, 0,
				listFlags(&cli.StringFlag{Name: "account", Usage: "only on this `ACCOUNT` and its parts"}), e.holdList),
			command("put", "", "put a hold on a sender",
				`On an account, a mailbox, or with --account one directory or one Subject of it. All such mail
is frozen (or with --discard thrown away) until the hold ends, whatever was sent; it is not
lost and can be released. End a hold with "osmctl release".`,
				0, 0, []cli.Flag{
					&cli.StringFlag{Name: "account", Usage: "hold all mail of this `ACCOUNT`"},
					&cli.StringFlag{Name: "mailbox", Usage: "hold what `USER@DOMAIN` sends after logging in"},
					&cli.StringFlag{Name: "directory", Usage: "hold what scripts in `DIR` of the account send"},
					&cli.StringFlag{Name: "subject", Usage: "hold mail of the account with this `SUBJECT`, compared without its numbers"},
					&cli.StringFlag{Name: "until", Usage: "end it at `WHEN`: 2h, 3d, 2027-01-31; without it, when somebody does"},
					&cli.BoolFlag{Name: "discard", Usage: "throw the mail away instead of freezing it; nobody gets it back"},
					&cli.BoolFlag{Name: "when-free", Usage: "after the hold let its mail leave by itself, as the limits allow"},
					reason,
				}, e.holdPut),
		),
		command("release", "HOLD...", "end standing holds, by their numbers",
			`Mail that a hold has frozen stays in the queue until it is released too ("osmctl held
release"), unless it leaves by itself (when-free). The same sender is not put on hold again
automatically for a while (held.grace).`,
			1, -1, []cli.Flag{reason}, e.holdEnd),
		command("reset", "TRIGGER/KEY", "forget one counter, so that its sender is free at once",
			`TRIGGER/KEY as "osmctl usage" and "osmctl explain" show them, for example
account-hour/shop, or in quotes where the key holds blanks: 'login-hour/shop info@shop.example'.`,
			1, 1, []cli.Flag{reason}, e.reset),
	}
}

func (e *env) holdList(c *cli.Context) error {
	q, err := query(c, map[string]string{"account": "account"})
	if err != nil {
		return err
	}
	client := e.client(c)
	defer client.Close()
	l, err := client.Holds(c.Context, q)
	if err != nil {
		return err
	}
	return e.print(c, l, func() {
		if len(l.Items) == 0 {
			e.line("no hold stands")
			return
		}
		rows := [][]string{}
		for _, h := range l.Items {
			until := "until released"
			if !h.Until.IsZero() {
				until = e.when(h.Until)
			}
			why := h.Reason
			if h.Trigger != "" {
				why = strings.TrimSpace("trigger " + h.Trigger + " " + why)
			}
			rows = append(rows, []string{strconv.FormatInt(h.ID, 10), h.Scope, dash(h.Account), dash(h.Value), h.Verdict, e.when(h.At), until, h.By, why})
		}
		e.table(columns("^hold", "on", "account~20", "which~48", "verdict", "since", "until", "by~24", "why~48"), rows)
		e.more(l.Next)
	})
}

func (e *env) holdPut(c *cli.Context) error {
	h := control.Hold{Account: c.String("account"), Verdict: "freeze", Release: "manual", Reason: c.String("reason")}
	parts := 0
	for _, scope := range []string{"mailbox", "directory", "subject"} {
		if v := c.String(scope); v != "" {
			h.Scope, h.Value = scope, v
			parts++
		}
	}
	switch {
	case parts > 1:
		return usagef("hold put takes one of --mailbox, --directory and --subject")
	case parts == 0 && h.Account == "":
		return usagef("hold put needs --account or --mailbox; see osmctl hold put --help")
	case parts == 0:
		h.Scope = "account"
	}
	if c.Bool("discard") {
		h.Verdict = "discard"
	}
	if c.Bool("when-free") {
		h.Release = "when-free"
	}
	var err error
	if h.Until, err = e.until(c); err != nil {
		return err
	}
	client := e.client(c)
	defer client.Close()
	put, err := client.PutHold(c.Context, h)
	if err != nil {
		return err
	}
	return e.print(c, put, func() {
		e.line("hold %d stands on %s; end it with: osmctl release %d", put.ID, strings.TrimSpace(put.Account+" "+put.Value), put.ID)
	})
}

// never is the --until of what has no end.
const never = "never"

// until reads --until.
func (e *env) until(c *cli.Context) (control.Time, error) {
	s := c.String("until")
	if s == "" || s == never {
		return control.Time{}, nil
	}
	at, err := config.ParseUntil(s, e.now(), e.loc)
	if err != nil {
		return control.Time{}, usagef("--until: %v", err)
	}
	return control.Time{Time: at}, nil
}

func (e *env) holdEnd(c *cli.Context) error {
	client := e.client(c)
	defer client.Close()
	return removeEach(e, c, "a hold's number (osmctl hold list shows them)", func(id int64) (control.Hold, error) {
		return client.EndHold(c.Context, id, c.String("reason"))
	}, func(h control.Hold) string {
		return fmt.Sprintf("hold %d on %s has ended", h.ID, strings.TrimSpace(h.Account+" "+h.Value))
	})
}

func (e *env) reset(c *cli.Context) error {
	trigger, key, ok := strings.Cut(c.Args().First(), "/")
	if !ok || trigger == "" || key == "" {
		return usagef("reset needs TRIGGER/KEY, such as account-hour/shop, not %q", c.Args().First())
	}
	client := e.client(c)
	defer client.Close()
	if err := client.Reset(c.Context, trigger, key, c.String("reason")); err != nil {
		return err
	}
	return e.print(c, map[string]any{"trigger": trigger, "key": key, "reset": true}, func() {
		e.line("%s of %s is empty again: the sender is free of this limit", trigger, key)
	})
}
