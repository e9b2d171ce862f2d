package actions

import (
	"context"
	"fmt"
	"strings"

	"osm/policy"
	store "osm/sql"
)

// reportAction writes an event for people: into the log, beside the event, and by whatever
// ways the operator set ([Notifier]).
func reportAction() action {
	return action{
		plan: func(c policy.EventChange, _ policy.Action, _ *Context) (Step, bool) {
			return planReport(c), true
		},
		run: func(ctx context.Context, r *Runner, ev *policy.Event, s *Step, row *store.Action) error {
			row.Outcome = ReportText(ev)
			if len(s.would) > 0 {
				row.Outcome += "; enforcing, it would have: " + strings.Join(s.would, ", ")
			}
			r.o.Log.Info("report", "event", ev.ID, "account", ev.Account, "mailbox", ev.Mailbox, "trigger", ev.Trigger,
				"used", ev.Used, "max", ev.Max, "per", ev.Per, "verdict", ev.Verdict.String(), "mode", ev.Mode.String())
			if r.o.Report == nil {
				return nil
			}
			told, err := r.o.Report(ctx, ev, s)
			if told != "" {
				row.Outcome += "; " + told
			}
			return err
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
	what = "further messages: " + what
	if ev.Watch.Direct() { // they are seen, and not asked about
		what = "further connections are counted"
	}
	text := fmt.Sprintf("%s went over %s (%s): %d of %d %s in %s; %s",
		ev.Key, ev.Trigger, ev.Watch, ev.Used, ev.Max, ev.Count, store.Period(ev.Per), what)
	if !ev.FreeAt.IsZero() {
		text += "; free again at " + ev.FreeAt.UTC().Format("2006-01-02 15:04:05 UTC")
	}
	if ev.Claimed {
		text += "; whose it is rests on a claim"
	}
	return text
}
