package actions

import (
	"context"
	"fmt"

	"osm/policy"
	store "osm/sql"
)

// reportAction writes an event for people: into the log and beside the event. Later ways
// to tell people (mail, a program) take the same text.
func reportAction() action {
	return action{
		plan: func(c policy.EventChange, _ *policy.Rules, _ *policy.HoldPlanner, _ policy.Moment) (Step, bool) {
			return planReport(c), true
		},
		run: func(_ context.Context, r *Runner, ev *policy.Event, _ *Step) (string, string, error) {
			text := ReportText(ev)
			r.o.Log.Info("report", "event", ev.ID, "account", ev.Account, "mailbox", ev.Mailbox, "trigger", ev.Trigger,
				"used", ev.Used, "max", ev.Max, "per", ev.Per, "verdict", ev.Verdict.String(), "mode", ev.Mode.String())
			return text, "", nil
		},
	}
}

func planReport(c policy.EventChange) Step {
	return Step{Name: policy.ActionReport, Target: c.Event.Key}
}

// ReportText is an event in one sentence.
func ReportText(ev *policy.Event) string {
	what := ev.Verdict.String()
	if ev.Mode == policy.Observe {
		what = "would be " + what + " (the trigger only observes: the mail passes)"
	}
	text := fmt.Sprintf("%s went over %s (%s): %d of %d %s in %s; further messages: %s",
		ev.Key, ev.Trigger, ev.Watch, ev.Used, ev.Max, ev.Count, store.Period(ev.Per), what)
	if !ev.FreeAt.IsZero() {
		text += "; free again at " + ev.FreeAt.UTC().Format("2006-01-02 15:04:05 UTC")
	}
	if ev.Claimed {
		text += "; whose it is rests on a claim"
	}
	return text
}
