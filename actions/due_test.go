package actions

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"osm/policy"
	store "osm/sql"
)

// acting is a runner with a real executor and the stand-in panel behind it, and an event
// that asks for suspension.
type acting struct {
	*shop
	panel  *testPanel
	runner *Runner
	event  policy.Event
	asks   []policy.Action
	alarms []string
}

func newActing(t *testing.T, asks ...policy.Action) *acting {
	a := &acting{shop: newShop(t, limit(0, policy.Manual)), panel: newTestPanel(t), asks: asks}
	a.event = overEvent(policy.Enforce).Event
	a.event.Account, a.event.Key = panelShop, panelShop
	a.event.At, a.event.LastAt = a.now().Wall, a.now().Wall
	a.runner = NewRunner(RunnerOptions{
		Store: a.store, Executor: a.panel.client(t), Log: slog.New(slog.DiscardHandler), Now: a.now,
		Grace: func() time.Duration { return time.Hour }, Alarm: func(text string) { a.alarms = append(a.alarms, text) },
		LiftOnNewPassword: func() bool { return true },
	})
	if err := a.store.UpsertEvent(t.Context(), a.event); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *acting) plan(_ context.Context, ev policy.Event) ([]Step, error) {
	c := policy.EventChange{Event: ev, New: true, Actions: a.asks}
	return Plan(c, &Context{Rules: &policy.Rules{}, Holds: policy.NewHoldPlanner(), Now: a.now()}), nil
}

// happens does what the event asks for.
func (a *acting) happens() {
	a.t.Helper()
	steps, _ := a.plan(a.t.Context(), a.event)
	if err := a.runner.Run(a.t.Context(), a.event, steps); err != nil {
		a.t.Fatal(err)
	}
	a.due()
}

// due does what is due; what fails is in the rows.
func (a *acting) due() { _ = a.runner.Due(a.t.Context(), a.plan) }

// last is the newest action.
func (a *acting) last() store.Action {
	a.t.Helper()
	list, _, err := a.store.Actions(a.t.Context(), store.ActionFilter{Limit: 1})
	if err != nil || len(list) != 1 {
		a.t.Fatalf("actions = %+v, %v", list, err)
	}
	return list[0]
}

func (a *acting) isSuspended() bool {
	return a.panel.Read("var/cpanel/suspended/"+panelShop) != ""
}

func TestWhatFailsIsTriedAgainByRule(t *testing.T) {
	a := newActing(t, policy.Action{Name: policy.ActionSuspendAccount, For: time.Hour})
	a.panel.Fault("profile-a suspendacct")
	a.happens()
	if x := a.last(); x.State != StateFailed || x.Attempts != 1 || !x.NextAt.After(a.now().Wall) || x.Outcome == "" {
		t.Fatalf("after a failure: %+v", x)
	}
	a.due()
	if x := a.last(); x.Attempts != 1 {
		t.Errorf("tried again before its time: %+v", x)
	}
	a.panel.Fault()
	a.advance(time.Minute)
	a.due()
	if x := a.last(); x.State != StateDone || x.Attempts != 2 || !a.isSuspended() {
		t.Fatalf("when the panel works again: %+v", x)
	}
	a.advance(time.Hour)
	a.due()
	if x := a.last(); x.State != StateUndone || x.UndoneBy != ByTime || a.isSuspended() {
		t.Errorf("after its time: %+v", x)
	}
}

// While the date may be wrong nothing ends before its time; what is to be done is done.
func TestAWrongClockUndoesNothing(t *testing.T) {
	a := newActing(t, policy.Action{Name: policy.ActionSuspendAccount, For: time.Hour})
	wrong := true
	a.runner.o.ClockWrong = func() bool { return wrong }
	a.happens()
	a.advance(2 * time.Hour)
	a.due()
	if x := a.last(); x.State != StateDone || !a.isSuspended() {
		t.Errorf("while the clock may be wrong: %+v", x)
	}
	wrong = false
	a.due()
	if x := a.last(); x.State != StateUndone || a.isSuspended() {
		t.Errorf("when it is right: %+v", x)
	}
}

func TestWhatFailsTooOftenIsGivenUpAndTold(t *testing.T) {
	a := newActing(t, policy.Action{Name: policy.ActionSuspendAccount})
	a.panel.Fault("profile-a suspendacct")
	a.happens()
	for range 10 {
		a.advance(3 * time.Hour)
		a.due()
	}
	if x := a.last(); x.State != StateGivenUp || x.Attempts != 5 || !x.NextAt.IsZero() {
		t.Errorf("at last: %+v", x)
	}
	if len(a.alarms) != 1 || !strings.Contains(a.alarms[0], "given up") {
		t.Errorf("alarms: %q", a.alarms)
	}
}

func TestTheBrakeHoldsBack(t *testing.T) {
	a := newActing(t, policy.Action{Name: policy.ActionSuspendAccount})
	a.panel.o.Rates[policy.ActionSuspendAccount] = 0
	a.runner.o.Executor = a.panel.client(t)
	a.happens()
	if x := a.last(); x.State != StateLeft || !strings.Contains(x.Outcome, "brake") || a.isSuspended() || len(a.alarms) != 1 {
		t.Errorf("beyond the rate: %+v, alarms %q", x, a.alarms)
	}
}

func TestWhatAPersonUndidIsNotDoneAgainAtOnce(t *testing.T) {
	a := newActing(t, policy.Action{Name: policy.ActionSuspendAccount})
	a.happens()
	if !a.isSuspended() {
		t.Fatalf("%+v", a.last())
	}
	a.happens()
	if x := a.last(); x.State != StateLeft || !strings.Contains(x.Outcome, "in force already") {
		t.Errorf("while it stands: %+v", x)
	}
	standing, err := a.store.StandingActions(t.Context(), policy.ActionSuspendAccount)
	if err != nil || len(standing) != 1 {
		t.Fatalf("standing: %+v, %v", standing, err)
	}
	if _, err := a.runner.Undo(t.Context(), standing[0].ID, "anna"); err != nil || a.isSuspended() {
		t.Fatalf("undo: %v", err)
	}
	a.happens()
	if x := a.last(); x.State != StateLeft || !strings.Contains(x.Outcome, "undid it") || a.isSuspended() {
		t.Errorf("within the grace time: %+v", x)
	}
	a.advance(time.Hour + time.Minute)
	a.happens()
	if x := a.last(); x.State != StateDone || !a.isSuspended() {
		t.Errorf("after it: %+v", x)
	}
}

func TestWhatSomebodyElseTookBackIsNoted(t *testing.T) {
	a := newActing(t, policy.Action{Name: policy.ActionSuspendAccount})
	a.happens()
	if err := a.runner.Look(t.Context()); err != nil || a.last().State != StateDone {
		t.Fatalf("while it stands: %+v, %v", a.last(), err)
	}
	a.panel.Run("whmapi1", "--output=json", "unsuspendacct", "user="+panelShop)
	if err := a.runner.Look(t.Context()); err != nil {
		t.Fatal(err)
	}
	if x := a.last(); x.State != StateUndone || x.UndoneBy != BySomebody {
		t.Errorf("after somebody lifted it: %+v", x)
	}
}

func TestABlockedLoginIsLiftedByANewPassword(t *testing.T) {
	a := newActing(t, policy.Action{Name: policy.ActionBlockLogin})
	a.event.ID = 8
	a.event.Watch, a.event.Mailbox, a.event.Key = policy.WatchLogin, panelInfo, panelShop+" "+panelInfo
	if err := a.store.UpsertEvent(t.Context(), a.event); err != nil {
		t.Fatal(err)
	}
	a.happens()
	shadow := a.panel.Shadow(panelShop, "shop.example")
	if text := a.panel.Read(shadow); !strings.Contains(text, "info:!!") {
		t.Fatalf("%+v: %q", a.last(), text)
	}
	a.panel.Write(shadow, strings.Replace(a.panel.Read(shadow), "infohash", "anotherhash", 1))
	if err := a.runner.Look(t.Context()); err != nil {
		t.Fatal(err)
	}
	if x := a.last(); x.State != StateUndone || x.UndoneBy != ByNewPassword || strings.Contains(a.panel.Read(shadow), "info:!!") {
		t.Errorf("after a new password: %+v, %q", x, a.panel.Read(shadow))
	}
}

// What may be half done can be undone, even if it is refused when it is tried again.
func TestWhatWasBegunStaysToBeUndone(t *testing.T) {
	a := newActing(t, policy.Action{Name: policy.ActionSuspendAccount})
	a.panel.Fault("profile-a suspendacct")
	a.happens()
	begun := a.last()
	if begun.State != StateFailed || begun.Record == "" {
		t.Fatalf("after a failure: %+v", begun)
	}
	a.panel.Fault()
	open := a.runner.o.Executor
	a.panel.o.Protected = append(a.panel.o.Protected, panelShop)
	a.runner.o.Executor = a.panel.client(t)
	a.advance(time.Minute)
	a.due()
	if x := a.last(); x.State != StateLeft || x.Record != begun.Record {
		t.Errorf("when it is refused: %+v", x)
	}
	a.runner.o.Executor = open
	if _, err := a.runner.Undo(t.Context(), begun.ID, "anna"); err != nil {
		t.Errorf("undo: %v", err)
	}
	if list, err := open.Records(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("records left: %+v, %v", list, err)
	}
}
