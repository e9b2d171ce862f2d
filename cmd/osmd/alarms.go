package main

import (
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

// alarm is something a person must see to.
type alarm struct {
	name, text string
	since      time.Time
}

// alarms are those that stand now. Raising one that stands already changes its text and
// logs nothing, so that a fault is reported once.
type alarms struct {
	mu  sync.Mutex
	up  map[string]alarm
	log *slog.Logger
	now func() time.Time
}

func newAlarms(log *slog.Logger, now func() time.Time) *alarms {
	return &alarms{up: map[string]alarm{}, log: log, now: now}
}

func (a *alarms) raise(name, text string) {
	a.mu.Lock()
	old, stands := a.up[name]
	since := a.now()
	if stands {
		since = old.since
	}
	a.up[name] = alarm{name: name, text: text, since: since}
	a.mu.Unlock()
	if !stands {
		a.log.Error("alarm", "alarm", name, "text", text)
	}
}

func (a *alarms) clear(name string) {
	a.mu.Lock()
	_, stood := a.up[name]
	delete(a.up, name)
	a.mu.Unlock()
	if stood {
		a.log.Info("alarm is over", "alarm", name)
	}
}

// set raises the alarm where there is a text, and clears it where there is none.
func (a *alarms) set(name, text string) {
	if text == "" {
		a.clear(name)
		return
	}
	a.raise(name, text)
}

func (a *alarms) setErr(name string, err error) {
	if err == nil {
		a.clear(name)
		return
	}
	a.raise(name, err.Error())
}

func (a *alarms) list() []alarm {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make([]alarm, 0, len(a.up))
	for _, x := range a.up {
		out = append(out, x)
	}
	slices.SortFunc(out, func(x, y alarm) int { return strings.Compare(x.name, y.name) })
	return out
}
