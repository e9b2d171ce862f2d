package main

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"osm/internal/config"
	"osm/internal/control"
)

func TestALimitKeepsItsEndUntilItIsMovedOrTakenAway(t *testing.T) {
	s := newShell(t)
	set := []string{"limit", "set", "--account", "shop", "--trigger", "account-hour"}
	for _, c := range []struct {
		args string
		says string
	}{
		{"--max 5000 --until 2027-01-31", "limit 1: max 5,000 for account shop, trigger account-hour, until 2027-01-31 23:59:59 UTC;"},
		{"--release when-free", "limit 1: max 5,000, release when-free for account shop, trigger account-hour, until 2027-01-31 23:59:59 UTC;"},
		{"--until 1d", "limit 1: max 5,000, release when-free for account shop, trigger account-hour, until 2026-11-24 12:00:00 UTC;"},
		{"--until never", "limit 1: max 5,000, release when-free for account shop, trigger account-hour, until it is removed;"},
	} {
		if got := s.run(append(set, strings.Fields(c.args)...)...); !strings.HasPrefix(got, c.says) || !strings.HasSuffix(got, "--- status 0\n") {
			t.Errorf("limit set %s:\n%swant %s", c.args, got, c.says)
		}
	}
}

func TestAnExemptionWithoutAnEndIsToldOf(t *testing.T) {
	s := newShell(t)
	for _, c := range []struct{ args, hint string }{
		{"--account shop", "it lifts the limit altogether and for ever; --ceiling and --until keep it narrow\n"},
		{"--account shop --ceiling 5", ""},
		{"--destination 192.0.2.0/24", "connections there fill no limit, for ever; --until gives it an end\n"},
		{"--destination 192.0.2.0/24 --until 3d", ""},
	} {
		got := s.run(append([]string{"exempt", "add"}, strings.Fields(c.args)...)...)
		if _, hint, _ := strings.Cut(got, "\n"); hint != c.hint+"--- status 0\n" {
			t.Errorf("exempt add %s:\n%swant the hint %q", c.args, got, c.hint)
		}
	}
}

func TestWhatWasDoneBeforeAnErrorIsTold(t *testing.T) {
	s := newShell(t)
	for _, c := range []struct{ put, end, did string }{
		{"hold put --account shop", "release 1 99 2", "hold 1 on shop has ended\n"},
		{"limit set --account shop --trigger account-hour --max 5", "limit remove 1 99", "limit 1 (max 5) of account shop, trigger account-hour is removed\n"},
		{"exempt add --account shop --ceiling 5", "exempt remove 1 99", "exemption 1 (up to 5 for account shop, trigger all) is removed\n"},
	} {
		s.run(strings.Fields(c.put)...)
		got := s.run(strings.Fields(c.end)...)
		if !strings.HasPrefix(got, c.did+"--- stderr\nosmctl: there is no ") || !strings.HasSuffix(got, "--- status 1\n") {
			t.Errorf("osmctl %s:\n%swant what was done, then the error", c.end, got)
		}
	}
	s.run("hold", "put", "--account", "news")
	var doc control.List[control.Hold]
	got, rest, _ := strings.Cut(s.run("release", "2", "99", "--json"), "--- stderr")
	if err := json.Unmarshal([]byte(got), &doc); err != nil || len(doc.Items) != 1 || !strings.HasSuffix(rest, "--- status 1\n") {
		t.Errorf("as JSON: %s%s", got, rest)
	}
}

// document runs a command with --json and reads what it prints.
func document[T any](t *testing.T, s *shell, args ...string) (doc T) {
	t.Helper()
	got, _, _ := strings.Cut(s.run(append(args, "--json")...), "--- ")
	if err := json.Unmarshal([]byte(got), &doc); err != nil {
		t.Fatalf("osmctl %v --json prints no document: %v\n%s", args, err, got)
	}
	return doc
}

func TestEveryListIsReadPageByPage(t *testing.T) {
	s := newShell(t)
	whole := document[control.List[control.ConfigSetting]](t, s, "config", "show")
	if len(whole.Items) < 61 || whole.Next != "" {
		t.Fatalf("config show lists %d values, next %q; want all", len(whole.Items), whole.Next)
	}
	var parts []control.ConfigSetting
	for after := "0"; after != ""; {
		l := document[control.List[control.ConfigSetting]](t, s, "config", "show", "--limit", "50", "--after", after)
		parts, after = append(parts, l.Items...), l.Next
	}
	if len(parts) != len(whole.Items) || parts[60] != whole.Items[60] {
		t.Errorf("page by page config show lists %d values, want %d", len(parts), len(whole.Items))
	}
	if got := s.run("config", "show", "--limit", "5"); !strings.Contains(got, "(more: add --after 5)") {
		t.Errorf("config show --limit 5 does not say that there is more:\n%s", got)
	}
	checks := document[control.List[control.Check]](t, s, "doctor", "--config", filepath.Join(s.d.Dir, "none.toml"))
	part := document[control.List[control.Check]](t, s, "doctor", "--config", filepath.Join(s.d.Dir, "none.toml"), "--limit", "1", "--after", "1")
	if len(checks.Items) < 3 || len(part.Items) != 1 || part.Items[0].Name != checks.Items[1].Name || part.Next != "2" {
		t.Errorf("doctor lists %d checks, and of them %+v", len(checks.Items), part)
	}
	if got := s.run("doctor", "--after", "x"); !strings.Contains(got, "--after") || !strings.HasSuffix(got, "--- status 2\n") {
		t.Errorf("doctor --after x:\n%s", got)
	}
}

func TestTheShippedSettingsAreOneDocument(t *testing.T) {
	s := newShell(t)
	if got := document[map[string]string](t, s, "config", "default"); got["toml"] != config.Shipped() {
		t.Errorf("config default --json has %d bytes of settings, want %d", len(got["toml"]), len(config.Shipped()))
	}
	if got := s.run("config", "default"); got != config.Shipped()+"--- status 0\n" {
		t.Errorf("config default prints\n%s", got)
	}
}
