package actions

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"osm/policy"
	store "osm/sql"
)

func overEvent(mode policy.Mode) policy.EventChange {
	return policy.EventChange{
		New: true, Release: policy.WhenFree,
		Actions: []policy.Action{{Name: policy.ActionReport}, {Name: policy.ActionHold, For: time.Hour}},
		Event: policy.Event{
			ID: 7, Trigger: "account-hour", Watch: policy.WatchAccount, Key: "shop", Account: "shop", Mode: mode,
			Verdict: policy.Freeze, Max: 300, Per: time.Hour, Used: 300, Open: true,
		},
	}
}

func TestPlan(t *testing.T) {
	now := policy.Moment{Wall: time.Unix(1e9, 0), Boot: policy.BootShift}
	shared := overEvent(policy.Enforce)
	shared.Event.Account, shared.Event.Key = "(shared:nobody)", "(shared:nobody)"
	unknown := overEvent(policy.Enforce)
	unknown.Actions = []policy.Action{{Name: "suspend"}}
	again := overEvent(policy.Enforce)
	again.New = false
	rehold := again
	rehold.Again, rehold.Actions = true, []policy.Action{{Name: policy.ActionHold, For: time.Hour}}
	for _, row := range []struct {
		name string
		c    policy.EventChange
		want string // steps as name[:left]
	}{
		{"report and hold", overEvent(policy.Enforce), "report hold"},
		{"a trigger that only observes gives no more than a report", overEvent(policy.Observe), "report"},
		{"an event that is not new gives nothing", again, ""},
		{"one whose hold has ended gives the hold again", rehold, "hold"},
		{"a hold on everybody under one web user is left out, with the reason", shared, "report hold:left"},
		{"an action of a later version is left out, with the reason", unknown, "suspend:left"},
	} {
		t.Run(row.name, func(t *testing.T) {
			var got []string
			for _, s := range Plan(row.c, &policy.Rules{}, policy.NewHoldPlanner(), now) {
				if s.Left != "" {
					s.Name += ":left"
				}
				got = append(got, s.Name)
			}
			if g := strings.Join(got, " "); g != row.want {
				t.Errorf("Plan = %q, want %q", g, row.want)
			}
		})
	}
}

func TestRunnerPutsTheHoldAndWritesDownWhatFollowed(t *testing.T) {
	s := newShop(t, limit(0, policy.Manual))
	changed := 0
	var fail error
	r := NewRunner(RunnerOptions{Store: s.store, Log: slog.New(slog.DiscardHandler), Now: s.now,
		Changed: func(context.Context) error { changed++; return fail }})
	c := overEvent(policy.Enforce)
	if err := s.store.UpsertEvent(t.Context(), c.Event); err != nil {
		t.Fatal(err)
	}
	steps := Plan(c, s.engine.Rules(), policy.NewHoldPlanner(), s.now())
	if err := r.Run(t.Context(), c.Event, steps); err != nil {
		t.Fatal(err)
	}
	holds, err := s.store.Holds(t.Context())
	if err != nil || len(holds) != 1 || holds[0].Account != "shop" || holds[0].Release != policy.WhenFree || holds[0].EventID != 7 || changed != 1 {
		t.Fatalf("holds = %+v, %v; rules made %d times", holds, err, changed)
	}

	fail = errors.New("no rules today")
	err = r.Run(t.Context(), c.Event, append(steps[1:], Step{Name: "suspend", Target: "shop", Left: "not known"}))
	if !errors.Is(err, fail) {
		t.Errorf("Run = %v, want the cause in it", err)
	}
	ev, err := s.store.Event(t.Context(), 7)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []store.Action{
		{Name: "report", State: stateDone, Outcome: "shop went over account-hour (account): 300 of 300 recipients in 1h; further messages: freeze"},
		{Name: "hold", State: stateDone, Outcome: "hold 1 on account shop, until", Inverse: "osmctl release 1"},
		{Name: "hold", State: stateFailed, Outcome: "no rules today", Inverse: "osmctl release 2"},
		{Name: "suspend", State: stateLeft, Outcome: "not known"},
	} {
		if i >= len(ev.Actions) {
			t.Fatalf("only %d actions are written down: %+v", i, ev.Actions)
		}
		if a := ev.Actions[i]; a.Name != want.Name || a.State != want.State || !strings.Contains(a.Outcome, want.Outcome) || a.Inverse != want.Inverse {
			t.Errorf("action %d = %+v, want %+v", i, a, want)
		}
	}
}
