package main

import (
	"strings"
	"testing"
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
