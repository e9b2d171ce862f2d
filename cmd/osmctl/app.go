package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"osm/internal/config"
	"osm/internal/control"
)

// Exit codes: what scripts can rely on.
const (
	exitDone   = 0
	exitFailed = 1 // refused or failed
	exitUsage  = 2 // the command line was not understood
)

// usageError is a command line that was not understood.
type usageError struct{ text string }

func (e usageError) Error() string { return e.text }

func usagef(format string, args ...any) error { return usageError{fmt.Sprintf(format, args...)} }

// run is the whole program but for the process around it.
func run(ctx context.Context, e *env, args []string) int {
	app := e.app()
	err := app.RunContext(ctx, reorder(app, args))
	var usage usageError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &usage):
		fmt.Fprintf(e.err, "osmctl: %s\n", printable(err.Error()))
		return exitUsage
	}
	fmt.Fprintf(e.err, "osmctl: %s\n", printableLines(err.Error()))
	var failed *control.Error
	if errors.As(err, &failed) {
		for _, m := range failed.Mistakes {
			fmt.Fprintf(e.err, "  %s\n", printable(m))
		}
		if failed.Hint != "" {
			fmt.Fprintf(e.err, "hint: %s\n", printable(failed.Hint))
		}
		if failed.Status == http.StatusBadRequest {
			return exitUsage
		}
	}
	return exitFailed
}

// printableLines is printable for a text of several lines.
func printableLines(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = printable(lines[i])
	}
	return strings.Join(lines, "\n")
}

// app is the command line.
func (e *env) app() *cli.App {
	return &cli.App{
		Name:  "osmctl",
		Usage: "see who sends what, explain and settle what osmd decided about outgoing mail",
		Description: `osmctl talks to the running daemon, osmd, on its control socket. Root and the members of
the group osm-admin may use it.

Begin with "osmctl status". When a customer says that mail does not leave: "osmctl explain"
with the reference from the error message or Exim's log, or with Exim's message id. It says
which rule stopped the message, how much was sent, when the sender is free again, and the
command that settles it.

Options may stand anywhere behind the command. With --json every command prints one JSON
document: an object, or {"items": [...], "next": "..."} for a list. Exit status: 0 done,
1 refused or failed, 2 command line not understood.`,
		Version:              version,
		Writer:               e.out,
		ErrWriter:            e.err,
		HideHelpCommand:      true,
		EnableBashCompletion: true,
		Flags:                globalFlags(),
		Commands: slices.Concat(e.statusCommands(), e.lookCommands(), e.heldCommands(), e.holdCommands(),
			e.actionCommands(), e.ruleCommands(), e.configCommands(), e.adminCommands(), e.webCommands()),
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return unknownCommand(c.App.Commands, c.Args().First())
			}
			return cli.ShowAppHelp(c)
		},
		OnUsageError:   onUsageError,
		ExitErrHandler: func(*cli.Context, error) {}, // run decides
	}
}

func globalFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "socket", Aliases: []string{"s"}, Value: control.DefaultSocket, EnvVars: []string{"OSM_CONTROL_SOCKET"}, Usage: "ask the daemon on this `SOCKET`"},
		&cli.BoolFlag{Name: "json", Usage: "print one JSON document"},
	}
}

func onUsageError(c *cli.Context, err error, _ bool) error {
	name := "osmctl"
	if c.Command != nil && c.Command.Name != "" && c.Command.Name != "osmctl" {
		name = c.Command.HelpName
	}
	return usagef("%v; see %s --help", err, name)
}

// unknownCommand names the command that was probably meant.
func unknownCommand(commands []*cli.Command, name string) error {
	var known []string
	for _, c := range commands {
		if !c.Hidden {
			known = append(known, c.Name)
		}
	}
	if guess := config.Nearest(name, known); guess != "" {
		return usagef("there is no command %q; did you mean %q?", name, guess)
	}
	return usagef("there is no command %q; there are: %s", name, strings.Join(known, ", "))
}

// command makes a command that takes between low and high arguments (high < 0: any
// number).
func command(name, args, usage, description string, low, high int, flags []cli.Flag, do func(c *cli.Context) error) *cli.Command {
	return &cli.Command{
		Name: name, ArgsUsage: args, Usage: usage, Description: description, Flags: flags,
		HideHelpCommand: true,
		OnUsageError:    onUsageError,
		Action: func(c *cli.Context) error {
			n := c.NArg()
			switch {
			case n < low:
				return usagef("%s needs %s; see %s --help", c.Command.HelpName, args, c.Command.HelpName)
			case high >= 0 && n > high:
				return usagef("%s: %q is one argument too many; quote what holds blanks", c.Command.HelpName, c.Args().Get(high))
			}
			return do(c)
		},
	}
}

// group makes a command that only has subcommands; without one it does what first does.
func group(name, usage, description string, subcommands ...*cli.Command) *cli.Command {
	return &cli.Command{
		Name: name, Usage: usage, Description: description, Subcommands: subcommands,
		HideHelpCommand: true,
		OnUsageError:    onUsageError,
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return unknownCommand(subcommands, c.Args().First())
			}
			var names []string
			for _, s := range subcommands {
				names = append(names, s.Name)
			}
			return usagef("osmctl %s needs one of: %s", name, strings.Join(names, ", "))
		},
	}
}

// client returns a client for the socket on the command line.
func (e *env) client(c *cli.Context) *control.Client {
	client := control.NewClient(c.String("socket"))
	if e.uid == 0 && e.sudoUser != "" && e.sudoUser != "root" {
		client.Assert = http.Header{"X-Osm-User": {e.sudoUser}} // the audit names who it was
	}
	return client
}

// listFlags are what all lists take.
func listFlags(more ...cli.Flag) []cli.Flag { return append(more, pageFlags(100)...) }

// pageFlags choose a part of a list.
func pageFlags(limit int) []cli.Flag {
	return []cli.Flag{
		&cli.IntFlag{Name: "limit", Value: limit, Usage: "list at most `N`, up to 1000"},
		&cli.StringFlag{Name: "after", Usage: "go on behind `NEXT`, which the list before ended with"},
	}
}

// query reads the flags of a list; where maps parameters of the API to flags.
func query(c *cli.Context, where map[string]string) (control.Query, error) {
	q := control.Query{Limit: c.Int("limit"), After: c.String("after"), Where: map[string]string{}}
	if q.Limit < 1 || q.Limit > 1000 {
		return q, usagef("--limit is a number from 1 to 1000, not %d", q.Limit)
	}
	for parameter, flag := range where {
		q.Where[parameter] = c.String(flag)
	}
	return q, nil
}

// reorder puts options before arguments, as the flag package wants them: people write
// them anywhere. What stands behind "--" is left alone. An option of the whole program
// is moved to the front.
func reorder(app *cli.App, args []string) []string {
	if len(args) == 0 {
		return args
	}
	program, path, rest := []string{args[0]}, []string{}, []string{}
	var options []string
	commands, flags := app.Commands, app.Flags
	var own []cli.Flag
	for i := 1; i < len(args); i++ {
		a := args[i]
		if a == "--" {
			rest = append(rest, args[i+1:]...)
			break
		}
		if len(a) < 2 || a[0] != '-' {
			if found := find(commands, a); found != nil && len(rest) == 0 {
				path = append(path, a)
				commands, own = found.Subcommands, found.Flags
				continue
			}
			rest = append(rest, a)
			continue
		}
		name, _, inline := strings.Cut(strings.TrimLeft(a, "-"), "=")
		into, flag := &options, lookup(own, name)
		if flag == nil {
			if flag = lookup(flags, name); flag != nil {
				into = &program
			}
		}
		*into = append(*into, a)
		if takesValue(flag) && !inline && i+1 < len(args) {
			i++
			*into = append(*into, args[i])
		}
	}
	out := slices.Concat(program, path, options)
	if len(rest) > 0 {
		if len(path) > 0 {
			out = append(out, "--")
		}
		out = append(out, rest...)
	}
	return out
}

func find(commands []*cli.Command, name string) *cli.Command {
	for _, c := range commands {
		if c.HasName(name) {
			return c
		}
	}
	return nil
}

func lookup(flags []cli.Flag, name string) cli.Flag {
	for _, f := range flags {
		if slices.Contains(f.Names(), name) {
			return f
		}
	}
	return nil
}

func takesValue(f cli.Flag) bool {
	d, ok := f.(cli.DocGenerationFlag)
	return ok && d.TakesValue()
}
