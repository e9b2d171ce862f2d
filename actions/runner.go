package actions

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"osm/policy"
	store "osm/sql"
)

// action is one kind of step: how it is planned and how it is done.
type action struct {
	// slow: it waits for programs, and is done beside the others ([Runner.Due]).
	slow bool
	// plan makes the step; ok is false if there is nothing to be done or said. Pure.
	plan func(c policy.EventChange, a policy.Action, x *Context) (s Step, ok bool)
	// run does it, and puts into row what was done and what holds it. An error that is a
	// refusal or a leftAlone is never tried again.
	run func(ctx context.Context, r *Runner, ev *policy.Event, s *Step, row *store.Action) error
}

// known is every action there is.
func known() map[string]action {
	all := map[string]action{
		policy.ActionReport:    reportAction(),
		policy.ActionHold:      holdAction(),
		policy.ActionDiscard:   holdAction(),
		policy.ActionRunScript: scriptAction(),
	}
	for _, name := range policy.ExecutorActions() {
		if name != policy.ActionRunScript {
			all[name] = changeAction()
		}
	}
	return all
}

// States of an action in the store.
const (
	StateWaiting = "waiting" // for its turn
	StateDone    = "done"
	StateLeft    = "left out"
	StateFailed  = "failed"   // and tried again, if it says when
	StateGivenUp = "given up" // tried too often
	StateUndone  = "undone"
)

// RunnerOptions is what steps are done with.
type RunnerOptions struct {
	Store    *store.Store
	Executor *Executor
	Log      *slog.Logger
	Now      func() policy.Moment
	// Changed makes the rules again from configuration and store, after a hold was put.
	Changed func(ctx context.Context) error
	// Report tells people about an event.
	Report func(ctx context.Context, ev *policy.Event, s *Step) (outcome string, err error)
	// Document writes the report that a script gets to read, and names its format.
	Document func(ctx context.Context, ev *policy.Event) (text []byte, format string, err error)
	// LiftOnNewPassword: a blocked login ends when the mailbox's password was changed.
	LiftOnNewPassword func() bool
	// ClockWrong reports whether the wall clock may be wrong: nothing is then undone for its
	// time.
	ClockWrong func() bool
	// Grace is for how long nothing is done again that a person undid.
	Grace func() time.Duration
	// Alarm tells the operator that an action will not be done by itself.
	Alarm func(text string)
	// Kick tells whoever calls Due that something is due now.
	Kick func()
}

// Runner does the steps of a plan.
type Runner struct{ o RunnerOptions }

// NewRunner returns a runner.
func NewRunner(o RunnerOptions) *Runner {
	if o.Grace == nil {
		o.Grace = func() time.Duration { return 0 }
	}
	if o.ClockWrong == nil {
		o.ClockWrong = func() bool { return false }
	}
	if o.Kick == nil {
		o.Kick = func() {}
	}
	if o.Alarm == nil {
		o.Alarm = func(string) {}
	}
	return &Runner{o: o}
}

// Run does the steps of one event, each whatever became of the others, and writes down
// beside the event what was done, left out or failed. Slow ones, and what failed, are done
// by [Runner.Due]: nobody's hold waits for a panel. The error joins what failed and what
// could not be written down.
func (r *Runner) Run(ctx context.Context, ev policy.Event, steps []Step) error {
	var errs []error
	for i := range steps {
		s, now := &steps[i], store.Time{Time: r.o.Now().Wall}
		row := store.Action{EventID: ev.ID, At: now, Account: ev.Account, Name: s.Name}
		var err error
		if s.Left == "" && known()[s.Name].slow {
			row.Target, row.State, row.NextAt = s.Target, StateWaiting, store.Time{Time: now.Add(s.wait)}
			_, err = r.o.Store.PutAction(ctx, row)
			r.o.Kick()
		} else {
			err = r.do(ctx, &ev, s, &row)
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// do does one step and writes row.
func (r *Runner) do(ctx context.Context, ev *policy.Event, s *Step, row *store.Action) error {
	row.Target, row.State, row.Outcome, row.NextAt = s.Target, StateLeft, s.Left, store.Time{}
	var failed error
	if k, ok := known()[s.Name]; ok && s.Left == "" {
		row.Attempts++
		row.Until = store.Time{Time: s.Until}
		failed = r.settle(row, k.run(ctx, r, ev, s, row), k.slow)
	}
	_, err := r.o.Store.PutAction(ctx, *row)
	if failed != nil {
		failed = fmt.Errorf("%s %s: %w", s.Name, s.Target, failed)
	}
	return errors.Join(failed, err)
}

// retryIn is how long a failed action waits, by how often it was tried.
func retryIn(attempts int64) (wait time.Duration, again bool) {
	waits := []time.Duration{time.Minute, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour}
	if attempts < 1 || attempts > int64(len(waits)) {
		return 0, false
	}
	return waits[attempts-1], true
}

// settle writes into row what became of an attempt. The error is the one that made it fail.
// What waits for no program fails only with the database, and is done when that mends.
func (r *Runner) settle(row *store.Action, err error, slow bool) error {
	var e *ExecutorError
	isExecutor := errors.As(err, &e)
	switch {
	case err == nil:
		row.State = StateDone
		return nil
	case nothingDone(err), isExecutor && (e.Refused || e.LeftAlone):
		row.State, row.Outcome = StateLeft, reasonOf(err)
		return nil
	case isExecutor && e.Braked:
		row.State, row.Outcome = StateLeft, "the brake held it back: "+reasonOf(err)
		r.o.Alarm(fmt.Sprintf("%s %s was not done: %s", row.Name, row.Target, reasonOf(err)))
		return nil
	}
	row.State, row.Outcome = StateFailed, err.Error()
	if !slow {
		return err
	}
	wait, again := retryIn(row.Attempts)
	if !again {
		row.State = StateGivenUp
		r.o.Alarm(fmt.Sprintf("%s %s was given up after %d attempts: %v", row.Name, row.Target, row.Attempts, err))
		return err
	}
	row.NextAt = store.Time{Time: r.o.Now().Wall.Add(wait)}
	return err
}

// reasonOf is an executor's error without the words of the wire.
func reasonOf(err error) string {
	var e *ExecutorError
	if !errors.As(err, &e) {
		return err.Error()
	}
	if e.Next == "" {
		return e.Why
	}
	return e.Why + "; " + e.Next
}
