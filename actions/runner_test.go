package actions

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
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

// ladder is a mailbox that goes over a trigger with three steps, as a new event or once more.
func ladder(isNew bool) policy.EventChange {
	c := overEvent(policy.Enforce)
	c.New, c.Again = isNew, !isNew
	c.Event.Watch, c.Event.Mailbox, c.Event.Key = policy.WatchLogin, "info@shop.example", "shop info@shop.example"
	c.Actions = append(c.Actions, policy.Action{Name: policy.ActionBlockLogin, For: 24 * time.Hour, From: 2}, policy.Action{Name: policy.ActionSuspendAccount, From: 3})
	return c
}

func asks(action string) policy.EventChange {
	c := overEvent(policy.Enforce)
	c.Actions = []policy.Action{{Name: action, For: time.Hour}}
	return c
}

func visitors(ips ...string) (list []policy.Evidence) {
	for _, ip := range ips {
		list = append(list, policy.Evidence{ClientIP: netip.MustParseAddr(ip), Confidence: policy.ConfidenceHigh})
	}
	return list
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
		name    string
		c       policy.EventChange
		want    string // steps as name[:left]
		times   int64
		dry     bool
		request []policy.Evidence
	}{
		{name: "report and hold", c: overEvent(policy.Enforce), want: "report hold"},
		{name: "a trigger that only observes gives no more than a report", c: overEvent(policy.Observe), want: "report"},
		{name: "an event that is not new gives nothing", c: again},
		{name: "one whose hold has ended gives the hold again", c: rehold, want: "hold"},
		{name: "a hold on everybody under one web user is left out, with the reason", c: shared, want: "report hold:left"},
		{name: "an action of a later version is left out, with the reason", c: unknown, want: "suspend:left"},
		{name: "the first time gives the first step of a ladder", c: ladder(true), times: 1, want: "report hold"},
		{name: "the second time gives the second as well", c: ladder(true), times: 2, want: "report hold block-login"},
		{name: "the third time gives all", c: ladder(true), times: 3, want: "report hold block-login suspend-account"},
		{name: "who goes on after his hold has ended climbs too, and is not reported again", c: ladder(false), times: 2, want: "hold block-login"},
		{name: "a dry run does nothing but report", c: ladder(true), times: 3, dry: true, want: "report hold:left block-login:left suspend-account:left"},
		{name: "an address is blocked that certain evidence names", c: asks(policy.ActionBlockIP), request: visitors("192.0.2.7"), want: "block-ip"},
		{name: "none is blocked where evidence names two", c: asks(policy.ActionBlockIP), request: visitors("192.0.2.7", "192.0.2.8"), want: "block-ip:left"},
		{name: "none is blocked without evidence", c: asks(policy.ActionBlockIP), want: "block-ip:left"},
		{name: "an account is kept from other mail servers, whatever evidence names", c: asks(policy.ActionBlockDirect), want: "block-direct"},
	} {
		t.Run(row.name, func(t *testing.T) {
			var got []string
			for _, s := range Plan(row.c, &Context{Rules: &policy.Rules{}, Holds: policy.NewHoldPlanner(), Now: now, Times: row.times, DryRun: row.dry, Requests: row.request}) {
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
	steps := Plan(c, &Context{Rules: s.engine.Rules(), Holds: policy.NewHoldPlanner(), Now: s.now()})
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
		{Name: "report", State: StateDone, Outcome: "shop went over account-hour (account): 300 of 300 recipients in 1h; further messages: freeze"},
		{Name: "hold", State: StateDone, Outcome: "hold 1 on account shop, until", Inverse: "osmctl release 1"},
		{Name: "hold", State: StateFailed, Outcome: "no rules today", Inverse: "osmctl release 2"},
		{Name: "suspend", State: StateLeft, Outcome: "not known"},
	} {
		if i >= len(ev.Actions) {
			t.Fatalf("only %d actions are written down: %+v", i, ev.Actions)
		}
		if a := ev.Actions[i]; a.Name != want.Name || a.State != want.State || !strings.Contains(a.Outcome, want.Outcome) || a.Inverse != want.Inverse {
			t.Errorf("action %d = %+v, want %+v", i, a, want)
		}
	}
}
