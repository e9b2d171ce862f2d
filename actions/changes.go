package actions

import (
	"context"
	"fmt"
	"time"

	"osm/policy"
	store "osm/sql"
)

// changeAction is whatever the executor does to an account, a mailbox, a path or an address.
func changeAction() action {
	return action{
		slow: true,
		plan: func(c policy.EventChange, a policy.Action, x *Context) (Step, bool) {
			t, why := policy.TargetOf(a.Name, &c.Event, x.Requests)
			s := Step{Name: a.Name, Left: why, change: Change{
				Action: a.Name, Account: t.Account, Mailbox: t.Mailbox, Path: t.Path, For: a.For, Event: c.Event.ID, Trigger: c.Event.Trigger,
			}}
			if t.IP.IsValid() {
				s.change.IP = t.IP.String()
			}
			if a.For > 0 {
				s.Until = x.Now.Wall.Add(a.For)
			}
			if s.Target = s.change.Target(); why != "" {
				s.Target = c.Event.Key
			}
			if why != "" && x.Early && policy.NeedsEvidence(a.Name, &c.Event) {
				s.Left, s.wait = "", waitForEvidence
			}
			return s, true
		},
		run: makeChange,
	}
}

// makeChange has the executor do it, unless it is in force already or a person undid it a
// short time ago.
func makeChange(ctx context.Context, r *Runner, ev *policy.Event, s *Step, row *store.Action) error {
	standing, err := r.o.Store.StandingActions(ctx, s.Name)
	if err != nil {
		return err
	}
	for _, a := range standing {
		if a.Target == s.Target && a.ID != row.ID {
			return leftAlone{fmt.Sprintf("it is in force already (action %d)", a.ID)}
		}
	}
	grace := r.o.Now().Wall.Add(-r.o.Grace())
	undone, err := r.o.Store.UndoneSince(ctx, s.Name, s.Target, ByTime, grace)
	if err != nil {
		return err
	}
	if undone {
		return leftAlone{"an operator undid it a short time ago"}
	}
	ctx, cancel := context.WithTimeout(ctx, changeTime)
	defer cancel()
	rec, err := r.o.Executor.Apply(ctx, s.change)
	if rec.ID != "" { // of one that is half done as well: it can be undone
		row.Record = rec.ID
	}
	if err != nil {
		return err
	}
	row.Outcome = rec.Outcome
	r.o.Log.Warn("action done", "action", s.Name, "account", ev.Account, "target", s.Target, "event", ev.ID, "outcome", cut(rec.Outcome, 300))
	return nil
}

// waitForEvidence is how long an action waits that needs evidence and has none.
const waitForEvidence = 6 * time.Second

// changeTime bounds one change, waiting for those before it included.
const changeTime = 6 * time.Minute
