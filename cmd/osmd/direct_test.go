package main

import (
	"bytes"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"osm/policy"
)

// A program that connects in a loop is over a thousand times a second.
func TestConnectionsThatAreOverDoNotFillTheLog(t *testing.T) {
	var log bytes.Buffer
	now := policy.Moment{Wall: time.Unix(1_000_000, 0), Boot: 500_000}
	d := &daemon{log: slog.New(slog.NewTextHandler(&log, nil)), clock: func() policy.Moment { return now }}
	over := &policy.Decision{Ref: "8k3m7q2x", Trigger: "direct-hour", Over: []policy.Over{{Trigger: "direct-hour", Used: 31, Max: 30}},
		Submission: &policy.Submission{Direct: &policy.Connection{Remote: netip.MustParseAddrPort("192.0.2.1:25")}}}
	for range 1000 {
		d.logConnection(over)
	}
	now.Boot += 1000
	d.logConnection(over)
	within := *over
	within.Over = nil
	d.logConnection(&within)
	lines := strings.Split(strings.TrimSpace(log.String()), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], "used=31 max=30") || !strings.Contains(lines[1], "more_over_since_the_last=999") {
		t.Errorf("got %d lines:\n%s", len(lines), log.String())
	}
}

func TestConnectionsInALoopDoNotFillTheDisk(t *testing.T) {
	b := &backDoor{}
	dec := &policy.Decision{At: policy.Moment{Boot: 1_000_000}, Identity: policy.Identity{Account: "shop"}}
	keep := func(n int, account string, changes ...policy.EventChange) (kept int) {
		dec.Identity.Account = account
		for range n {
			if b.keeps(dec, changes) {
				kept++
			}
		}
		return kept
	}
	if got := keep(2*keptAtOnce, "shop"); got != keptAtOnce {
		t.Errorf("of twice as many at once %d are kept, want %d", got, keptAtOnce)
	}
	if got := keep(1, "shop", policy.EventChange{New: true}); got != 1 {
		t.Error("one that opens an event is not kept")
	}
	if got := keep(10, "blog"); got != 10 {
		t.Errorf("of another account %d of 10 are kept", got)
	}
	dec.At.Boot += 60_000
	if got := keep(1000, "shop"); got != 60 {
		t.Errorf("a minute later %d are kept, want 60", got)
	}
	dec.At.Boot += 2 * keptAtOnce * 1000
	if got := keep(2*keptAtOnce, "shop"); got != keptAtOnce {
		t.Errorf("when it has been quiet for long %d are kept, want %d", got, keptAtOnce)
	}
}
