package actions

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"osm/policy"
	store "osm/sql"
)

// holdAction puts a standing hold on the culprit, one that discards for discard. Which one
// that is, and when none is put, [policy.HoldPlanner] says.
func holdAction() action {
	return action{
		plan: func(c policy.EventChange, a policy.Action, x *Context) (Step, bool) {
			h, why, ok := x.Holds.Plan(c, a, x.Rules, x.Now)
			if !ok {
				return Step{Name: a.Name, Target: c.Event.Key, Left: why}, why != ""
			}
			return Step{Name: a.Name, Target: holdTarget(&h), Until: h.Until, hold: h}, true
		},
		run: putHold,
	}
}

func holdTarget(h *policy.Hold) string {
	return strings.TrimSpace(fmt.Sprintf("%s %s %s", h.Scope, h.Account, h.Value))
}

// putHold stores the hold and has the rules made again, so that it stands.
func putHold(ctx context.Context, r *Runner, ev *policy.Event, s *Step, row *store.Action) error {
	id, err := r.o.Store.PutHold(ctx, s.hold)
	if err != nil {
		return err
	}
	row.Record, row.Inverse = strconv.FormatInt(id, 10), fmt.Sprintf("osmctl release %d", id)
	if err := r.o.Changed(ctx); err != nil {
		return fmt.Errorf("hold %d is stored but does not stand yet: %w", id, err)
	}
	r.o.Log.Warn("hold put", "account", s.hold.Account, "trigger", ev.Trigger, "event", ev.ID, "reason", s.hold.Provenance.Reason)
	row.Outcome = fmt.Sprintf("hold %d on %s, %s", id, s.Target, untilText(s))
	return nil
}

func untilText(s *Step) string {
	if s.Until.IsZero() {
		return "until somebody releases it"
	}
	return "until " + s.Until.UTC().Format("2006-01-02 15:04:05 UTC")
}
