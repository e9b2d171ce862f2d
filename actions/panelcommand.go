package actions

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
)

// operatorsCommand is a deed on a panel that only the operator knows.
type operatorsCommand struct {
	panel
	c PanelCommand
}

func (d operatorsCommand) look(ctx context.Context, r *Record) (standing, error) {
	if gone, err := d.vanished(r); gone != "" || err != nil {
		return standing{gone: gone}, err
	}
	argv := fillIn(d.c.Check, r)
	said, noise, err := d.run(ctx, d.x.o.CommandLimit, maxOutput, argv[0], argv[1:])
	switch {
	case err == nil:
		return standing{in: Yes, ours: Unknown, why: oneLine(said, 200)}, nil
	case exitStatus(err) == 1 && noise == "":
		return standing{in: No, ours: No}, nil
	}
	return standing{}, fmt.Errorf("%w: %s", err, oneLine(noise+" "+said, 300))
}

func (d operatorsCommand) prepare(*Record) {}

func (d operatorsCommand) do(ctx context.Context, r *Record) error { return d.give(ctx, d.c.Do, r) }

func (d operatorsCommand) undo(ctx context.Context, r *Record) error { return d.give(ctx, d.c.Undo, r) }

func (d operatorsCommand) give(ctx context.Context, words []string, r *Record) error {
	argv := fillIn(words, r)
	said, noise, err := d.run(ctx, d.x.o.ChangeLimit, maxOutput, argv[0], argv[1:])
	if err != nil {
		return fmt.Errorf("%w: %s", err, oneLine(noise+" "+said, 300))
	}
	return nil
}

func (d operatorsCommand) after(context.Context, *Record) string { return "" }

// fillIn puts account and mailbox into the arguments, in one go: what stands in a name is
// not looked at again. The program itself is the operator's word alone.
func fillIn(words []string, r *Record) []string {
	with := strings.NewReplacer("{account}", r.Account, "{mailbox}", r.Mailbox)
	out := make([]string, len(words))
	for i, w := range words {
		if out[i] = w; i > 0 {
			out[i] = with.Replace(w)
		}
	}
	return out
}

// exited reports whether err is a program's own exit status.
func exited(err error) bool { return exitStatus(err) >= 0 }

// exitStatus is what a program ended with, -1 if it did not end by itself.
func exitStatus(err error) int {
	var e *exec.ExitError
	if errors.As(err, &e) {
		return e.ExitCode()
	}
	return -1
}

func killGroup(pid int) error { return syscall.Kill(-pid, syscall.SIGKILL) }
