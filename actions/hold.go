package actions

import (
	"context"
	"fmt"
	"strings"

	"osm/policy"
)

// holdAction puts a standing hold on the culprit. Which one that is, and when none is put,
// [policy.HoldPlanner] says.
func holdAction() action {
	return action{
		plan: func(c policy.EventChange, r *policy.Rules, p *policy.HoldPlanner, now policy.Moment) (Step, bool) {
			h, why, ok := p.Plan(c, r, now)
			if !ok {
				return Step{Name: policy.ActionHold, Target: c.Event.Key, Left: why}, why != ""
			}
			return Step{Name: policy.ActionHold, Target: holdTarget(&h), hold: h}, true
		},
		run: putHold,
	}
}

func holdTarget(h *policy.Hold) string {
	return strings.TrimSpace(fmt.Sprintf("%s %s %s", h.Scope, h.Account, h.Value))
}

// putHold stores the hold and has the rules made again, so that it stands.
func putHold(ctx context.Context, r *Runner, ev *policy.Event, s *Step) (outcome, inverse string, err error) {
	id, err := r.o.Store.PutHold(ctx, s.hold)
	if err != nil {
		return "", "", err
	}
	inverse = fmt.Sprintf("osmctl release %d", id)
	if err := r.o.Changed(ctx); err != nil {
		return "", inverse, fmt.Errorf("hold %d is stored but does not stand yet: %w", id, err)
	}
	until := "until somebody releases it"
	if !s.hold.Until.IsZero() {
		until = "until " + s.hold.Until.UTC().Format("2006-01-02 15:04:05 UTC")
	}
	r.o.Log.Warn("hold put", "account", s.hold.Account, "trigger", ev.Trigger, "event", ev.ID, "reason", s.hold.Provenance.Reason)
	return fmt.Sprintf("hold %d on %s, %s", id, s.Target, until), inverse, nil
}
