package actions

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"osm/policy"
)

// ownCommands has the operator's own programs suspend an account: a file says so.
func (p *testPanel) ownCommands(t *testing.T) (file string) {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "account")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"+`cd `+dir+` || exit 9
printf '%s\n' "$@" >>calls
case "$1" in
hang) exec sleep 600 ;;
suspend) printf '%s' "$2" >"suspended" ;;
free) rm -f suspended ;;
is) test -e suspended ;;
odd) echo 'cannot connect' >&2; exit 1 ;;
esac
`), 0o755); err != nil {
		t.Fatal(err)
	}
	p.o.CommandPrefix = nil
	p.o.Panel.Kind = panelCommands
	p.o.Panel.Commands = map[string]PanelCommand{policy.ActionSuspendAccount: {
		Do: []string{program, "suspend", "user={account}", "{mailbox}"}, Undo: []string{program, "free", "{account}"}, Check: []string{program, "is", "{account}"},
	}}
	return filepath.Join(dir, "suspended")
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func TestTheOperatorsOwnCommandsDoUndoAndShow(t *testing.T) {
	p := newTestPanel(t)
	file := p.ownCommands(t)
	client := p.client(t)
	c := Change{Action: policy.ActionSuspendAccount, Account: panelShop}
	r, err := client.Apply(t.Context(), c)
	if err != nil || !r.Done {
		t.Fatalf("Apply = %+v, %v", r, err)
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != "user="+panelShop {
		t.Errorf("the command got %q, %v", got, err)
	}
	if s, err := client.Check(t.Context(), r.ID); err != nil || s.InForce != Yes || s.ByOthers {
		t.Errorf("Check = %+v, %v", s, err)
	}
	if _, err := client.Undo(t.Context(), r.ID); err != nil || exists(file) {
		t.Errorf("Undo: %v; still there: %v", err, exists(file))
	}

	if err := os.WriteFile(file, []byte("by hand"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = client.Apply(t.Context(), c)
	var e *ExecutorError
	if !errors.As(err, &e) || !e.LeftAlone {
		t.Errorf("Apply of what stands already: %v, want it left alone", err)
	}
}

func TestNoCommandOfTheOperatorsIsBelievedBlindly(t *testing.T) {
	c := Change{Action: policy.ActionSuspendAccount, Account: panelShop}
	for _, row := range []struct {
		name   string
		change func(c *PanelCommand, program string)
		reason string
		refuse bool
	}{
		{"does nothing and ends well", func(c *PanelCommand, p string) { c.Do = []string{p, "nothing"} }, "but it is not in force", false},
		{"hangs", func(c *PanelCommand, p string) { c.Do = []string{p, "hang"} }, "killed after 2s", false},
		{"is not there", func(c *PanelCommand, p string) { c.Do = []string{p + "-gone"} }, "no such file", false},
		{"the check fails with 1 and says why", func(c *PanelCommand, p string) { c.Check = []string{p, "odd"} }, "cannot connect", false},
		{"the check hangs", func(c *PanelCommand, p string) { c.Check = []string{p, "hang"} }, "killed after 2s", false},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			p := newTestPanel(t)
			file := p.ownCommands(t)
			p.o.CommandLimit, p.o.ChangeLimit = 2*time.Second, 2*time.Second
			command := p.o.Panel.Commands[c.Action]
			row.change(&command, command.Do[0])
			p.o.Panel.Commands[c.Action] = command
			_, err := p.client(t).Apply(t.Context(), c)
			var e *ExecutorError
			if !errors.As(err, &e) || e.Refused || e.LeftAlone || !strings.Contains(e.Why, row.reason) || exists(file) {
				t.Errorf("Apply: %v; done: %v; want an error with %q", err, exists(file), row.reason)
			}
		})
	}
}

func TestNamesStayOneArgumentAndAreNotLookedAtAgain(t *testing.T) {
	r := &Record{Change: Change{Account: "{mailbox}", Mailbox: "a b;$(id)@{account}"}}
	got := fillIn([]string{"/opt/{account}", "-u{account}", "--mail={mailbox}", "x"}, r)
	if want := []string{"/opt/{account}", "-u{mailbox}", "--mail=a b;$(id)@{account}", "x"}; !slices.Equal(got, want) {
		t.Errorf("fillIn = %q, want %q", got, want)
	}
}

func TestWhichPanelIsAsked(t *testing.T) {
	block := panelVerbs()[3].change
	for _, row := range []struct {
		name     string
		set      func(t *testing.T, p *testPanel)
		why      string // of the refusal, "" = done
		next     string
		commands bool
	}{
		{"auto finds cPanel", func(*testing.T, *testPanel) {}, "", "", false},
		{"auto finds none", func(_ *testing.T, p *testPanel) { os.Remove(p.Path("usr/local/cpanel/version")) }, "no hosting panel is known here", "[command.block-login]", false},
		{"none", func(_ *testing.T, p *testPanel) { p.o.Panel.Kind = panelNone }, "no hosting panel is known here", `panel = "commands"`, false},
		{"commands, but not for this", func(t *testing.T, p *testPanel) { p.ownCommands(t) }, "no command is set for block-login", "[command.block-login]", true},
	} {
		t.Run(row.name, func(t *testing.T) {
			p := newTestPanel(t)
			row.set(t, p)
			_, err := p.client(t).Apply(t.Context(), block)
			var e *ExecutorError
			if row.why == "" {
				if err != nil {
					t.Errorf("Apply: %v", err)
				}
				return
			}
			if !errors.As(err, &e) || !e.Refused || !strings.Contains(e.Why, row.why) || !strings.Contains(e.Next, row.next) {
				t.Errorf("Apply: %v; want it refused with %q and %q", err, row.why, row.next)
			}
		})
	}

	t.Run("auto takes commands where there is no cPanel", func(t *testing.T) {
		p := newTestPanel(t)
		file := p.ownCommands(t)
		p.o.Panel.Kind = "auto"
		os.Remove(p.Path("usr/local/cpanel/version"))
		if _, err := p.client(t).Apply(t.Context(), panelVerbs()[0].change); err != nil || !exists(file) {
			t.Errorf("Apply: %v; done: %v", err, exists(file))
		}
	})

	t.Run("what was done on one panel is undone there", func(t *testing.T) {
		p := newTestPanel(t)
		before := p.Everything()
		r, err := p.client(t).Apply(t.Context(), panelVerbs()[0].change)
		if err != nil {
			t.Fatal(err)
		}
		prefix := p.o.CommandPrefix
		p.ownCommands(t)
		p.o.CommandPrefix = prefix
		if _, err := p.client(t).Undo(t.Context(), r.ID); err != nil || p.Everything() != before {
			t.Errorf("Undo: %v\n%s", err, p.Everything())
		}
	})
}
