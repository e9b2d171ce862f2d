package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"osm/internal/config"
)

func TestAnAlarmIsLoggedWhenItBeginsAndWhenItEndsOnly(t *testing.T) {
	var log bytes.Buffer
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	a := newAlarms(slog.New(slog.NewTextHandler(&log, nil)), func() time.Time { return now })
	a.raise("store", "disk full")
	now = now.Add(time.Minute)
	a.raise("store", "disk still full")
	if list := a.list(); len(list) != 1 || list[0].text != "disk still full" || list[0].since.Minute() != 0 {
		t.Fatalf("alarms: %+v, want one with the newest text and the first time", list)
	}
	a.set("store", "")
	a.set("store", "")
	if n := strings.Count(log.String(), "\n"); n != 2 {
		t.Errorf("%d lines in the log, want one at the beginning and one at the end:\n%s", n, &log)
	}
	if list := a.list(); len(list) != 0 {
		t.Errorf("alarms after the end: %+v", list)
	}
}

func TestPartsEndInTheReverseOfTheirStart(t *testing.T) {
	l := newLife()
	var ended []string
	for _, name := range []string{"store", "policy", "control"} {
		l.start(name, func(ctx context.Context) error {
			<-ctx.Done()
			ended = append(ended, name) // stop waits for each before the next
			return nil
		})
	}
	if errs := l.stop(); len(errs) != 0 {
		t.Fatal(errs)
	}
	if got := strings.Join(ended, " "); got != "control policy store" {
		t.Errorf("ended in the order %q", got)
	}
}

func TestAPartThatEndsByItselfIsReported(t *testing.T) {
	l := newLife()
	broken := errors.New("socket closed")
	l.start("policy", func(context.Context) error { return broken })
	if err := <-l.ended; !errors.Is(err, broken) || !strings.HasPrefix(err.Error(), "policy: ") {
		t.Errorf("reported %v", err)
	}
}

func TestTheBusiestSenderIsNamedAndTheListIsBounded(t *testing.T) {
	var b busiest
	if got := b.most(); got != "not known" {
		t.Errorf("before anybody asked: %q", got)
	}
	for i := range 3 * busyKeys {
		b.add("uid "+strings.Repeat("x", i%7)+string(rune('a'+i%26)), 1)
		b.add("uid 1001", 1)
	}
	if got := b.most(); got != "uid 1001" {
		t.Errorf("busiest %q", got)
	}
	if len(b.asked) > busyKeys {
		t.Errorf("%d names kept, at most %d", len(b.asked), busyKeys)
	}
	b.add("uid 1002", 1+busyFor+1)
	if got := b.most(); got != "uid 1002" {
		t.Errorf("after a while %q, want the one who asked lately", got)
	}
}

func TestAReloadNamesWhatNeedsARestart(t *testing.T) {
	a, b := config.Default(), config.Default()
	if got := restartNeeded(a, b); got != "" {
		t.Errorf("nothing changed, but %q", got)
	}
	b.Server.MetricsListen, b.Log.Format = "127.0.0.1:9187", "json"
	if got := restartNeeded(a, b); !strings.Contains(got, "[server]") || !strings.Contains(got, "log.format") || strings.Contains(got, "[exim]") {
		t.Errorf("got %q", got)
	}
	b = config.Default()
	b.Checking, b.Held.Keep, b.Log.Level = false, 24*time.Hour, "debug"
	if got := restartNeeded(a, b); got != "" {
		t.Errorf("what changes at once is said to need a restart: %q", got)
	}
	b = config.Default()
	b.Accounts.Domains = map[string]string{"shop.example": "shop"}
	if got := restartNeeded(a, b); !strings.Contains(got, "[accounts]") {
		t.Errorf("got %q", got)
	}
	b = config.Default()
	b.Accounts.Contacts = map[string]string{"shop": "owner@shop.example"}
	if got := restartNeeded(a, b); !strings.Contains(got, "[accounts]") {
		t.Errorf("another contact: got %q", got)
	}
}
