package actions

import (
	"osm/policy"
)

// Step is one thing to be done about an event.
type Step struct {
	Name   string // of the action
	Target string // what it is done to, for people
	// Left says why the step is not done, in words; "" if it is.
	Left string

	hold policy.Hold // of a hold
}

// Plan says what follows an event: what its trigger's actions ask for. It does nothing. An
// event that is not new asks for nothing but a hold that should stand and does not, one
// that a trigger only observed for no more than a report that says so.
//
// An action is a file of its own that adds one line to [known].
func Plan(c policy.EventChange, r *policy.Rules, p *policy.HoldPlanner, now policy.Moment) []Step {
	if !c.New && !c.Again {
		return nil
	}
	if c.Event.Mode == policy.Observe {
		return []Step{planReport(c)}
	}
	var steps []Step
	actions := known()
	for _, a := range c.Actions {
		k, ok := actions[a.Name]
		if !ok {
			steps = append(steps, Step{Name: a.Name, Target: c.Event.Key, Left: "this version knows no such action"})
			continue
		}
		if s, ok := k.plan(c, r, p, now); ok {
			steps = append(steps, s)
		}
	}
	return steps
}
