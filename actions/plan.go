package actions

import (
	"fmt"
	"strings"
	"time"

	"osm/policy"
)

// Step is one thing to be done about an event.
type Step struct {
	Name   string // of the action
	Target string // what it is done to, for people
	Until  time.Time
	// Left says why the step is not done, in words; "" if it is.
	Left string

	hold   policy.Hold   // of hold and discard
	change Change        // of what the executor does
	script string        // of run-script
	wait   time.Duration // for evidence
	would  []string      // of a report of a trigger that only observes: what else it asks for
}

// Context is what is known about an event beside itself when its actions are planned.
type Context struct {
	Rules    *policy.Rules
	Holds    *policy.HoldPlanner
	Now      policy.Moment
	Times    int64             // how often the sender went over lately, this time included
	Requests []policy.Evidence // which web requests sent
	Early    bool              // more of them may still come
	DryRun   bool              // nothing is to be done but reports
}

// Plan says what follows an event: what its trigger's actions ask for. It does nothing. An
// event that is not new asks for nothing but a hold that should stand and does not, with
// the further steps of the ladder; one that a trigger only observed for no more than a
// report that says so.
//
// An action is a file of its own that adds one line to [known].
func Plan(c policy.EventChange, x *Context) []Step {
	switch {
	case !c.New && !c.Again:
		return nil
	case c.Event.Mode == policy.Observe:
		s := planReport(c)
		s.would = actionNames(c.Actions)
		return []Step{s}
	case c.New:
		return planAll(c, x, func(policy.Action) bool { return true })
	}
	doors := planAll(c, x, isDoor)
	if len(doors) == 0 {
		return nil
	}
	return append(doors, planAll(c, x, func(a policy.Action) bool { return a.From > 1 && !isDoor(a) })...)
}

// isDoor reports whether an action is a hold of ours.
func isDoor(a policy.Action) bool {
	return a.Name == policy.ActionHold || a.Name == policy.ActionDiscard
}

func planAll(c policy.EventChange, x *Context, wanted func(policy.Action) bool) []Step {
	var steps []Step
	actions := known()
	for _, a := range c.Actions {
		if a.From > max(x.Times, 1) || !wanted(a) {
			continue
		}
		k, ok := actions[a.Name]
		if !ok {
			steps = append(steps, Step{Name: a.Name, Target: c.Event.Key, Left: "this version knows no such action"})
			continue
		}
		s, ok := k.plan(c, a, x)
		if !ok {
			continue
		}
		if x.DryRun && s.Left == "" && a.Name != policy.ActionReport {
			s.Left = "dry run: " + strings.TrimSpace(a.Name+" "+s.Target) + " would be done" + forHowLong(a.For)
		}
		steps = append(steps, s)
	}
	return steps
}

func forHowLong(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return fmt.Sprintf(" for %v", d)
}

func actionNames(list []policy.Action) []string {
	var out []string
	for _, a := range list {
		if a.Name != policy.ActionReport {
			out = append(out, a.Name)
		}
	}
	return out
}
