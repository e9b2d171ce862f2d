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
