package actions

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"osm/policy"
	store "osm/sql"
)

// action is one kind of step: how it is planned and how it is done.
type action struct {
	// plan makes the step; ok is false if there is nothing to be done or said. Pure.
	plan func(c policy.EventChange, r *policy.Rules, p *policy.HoldPlanner, now policy.Moment) (s Step, ok bool)
	// run does it and says what was done and by which command it is undone.
	run func(ctx context.Context, r *Runner, ev *policy.Event, s *Step) (outcome, inverse string, err error)
}

// known is every action there is.
func known() map[string]action {
	return map[string]action{
		policy.ActionReport: reportAction(),
		policy.ActionHold:   holdAction(),
	}
}

// States of an action in the store.
const (
	stateDone   = "done"
	stateLeft   = "left out"
	stateFailed = "failed"
)

// RunnerOptions is what steps are done with.
type RunnerOptions struct {
	Store *store.Store
	Log   *slog.Logger
	Now   func() policy.Moment
	// Changed makes the rules again from configuration and store, after a hold was put.
	Changed func(ctx context.Context) error
}

// Runner does the steps of a plan.
type Runner struct{ o RunnerOptions }

// NewRunner returns a runner.
func NewRunner(o RunnerOptions) *Runner { return &Runner{o: o} }

// Run does the steps of one event, each whatever became of the others, and writes down
// beside the event what was done, left out or failed. The error joins what failed.
func (r *Runner) Run(ctx context.Context, ev policy.Event, steps []Step) error {
	var errs []error
	for i := range steps {
		if err := r.do(ctx, &ev, &steps[i]); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (r *Runner) do(ctx context.Context, ev *policy.Event, s *Step) error {
	row := store.Action{EventID: ev.ID, At: store.Time{Time: r.o.Now().Wall}, Name: s.Name, Target: s.Target, State: stateLeft, Outcome: s.Left}
	var failed error
	if k, ok := known()[s.Name]; ok && s.Left == "" {
		if row.Outcome, row.Inverse, failed = k.run(ctx, r, ev, s); failed == nil {
			row.State = stateDone
		} else {
			row.State, row.Outcome = stateFailed, failed.Error()
			failed = fmt.Errorf("%s %s: %w", s.Name, s.Target, failed)
		}
	}
	_, err := r.o.Store.PutAction(ctx, row)
	return errors.Join(failed, err)
}
