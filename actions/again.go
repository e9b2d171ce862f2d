package actions

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"osm/policy"
	store "osm/sql"
)

// Unfinished lists the open events of enforcing triggers, with the names of those of their
// actions that came to an end, or are tried again by rule.
func (r *Runner) Unfinished(ctx context.Context) ([]store.Unfinished, error) {
	return r.o.Store.UnfinishedEvents(ctx, StateFailed)
}

// Remaining are the steps of a plan that are still to be done.
func Remaining(steps []Step, done []string) []Step {
	return slices.DeleteFunc(steps, func(s Step) bool { return slices.Contains(done, s.Name) })
}

// Due does what waits for its turn, tries again what failed and is due, and undoes what has
// stood for its time. plan plans the actions of an event anew.
func (r *Runner) Due(ctx context.Context, plan func(context.Context, policy.Event) ([]Step, error)) error {
	due, err := r.o.Store.DueActions(ctx, r.o.Now().Wall)
	if err != nil {
		return err
	}
	if len(due) > 0 { // their events are written behind
		if err := r.o.Store.Flush(ctx); err != nil {
			return err
		}
	}
	var errs []error
	for i := range due {
		if ctx.Err() != nil {
			break
		}
		a, err := &due[i], error(nil)
		switch {
		case a.State == StateFailed || a.State == StateWaiting:
			err = r.again(ctx, a, plan)
		case !r.o.ClockWrong():
			_, err = r.Undo(ctx, a.ID, ByTime)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("action %d: %w", a.ID, err))
		}
	}
	return errors.Join(errs...)
}

// again does one failed action again, as its event asks for it now.
func (r *Runner) again(ctx context.Context, a *store.Action, plan func(context.Context, policy.Event) ([]Step, error)) error {
	e, err := r.o.Store.Event(ctx, a.EventID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	steps := []Step{}
	if err == nil {
		if steps, err = plan(ctx, e.Policy()); err != nil {
			return err
		}
	}
	ev := e.Policy()
	if s := stepOf(steps, a); s != nil {
		return r.do(ctx, &ev, s, a)
	}
	a.State, a.NextAt = StateLeft, store.Time{}
	if a.Outcome != "" {
		a.Outcome = "; the last attempt: " + a.Outcome
	}
	a.Outcome = "its trigger asks for it no more" + a.Outcome
	_, err = r.o.Store.PutAction(ctx, *a)
	return err
}

// stepOf finds the step of a plan that an action waits for: the one on the same target,
// else one whose target was not known before, or that is left out now.
func stepOf(steps []Step, a *store.Action) *Step {
	for i := range steps {
		if steps[i].Name == a.Name && steps[i].Target == a.Target {
			return &steps[i]
		}
	}
	for i := range steps {
		if steps[i].Name == a.Name && (steps[i].Left != "" || a.State == StateWaiting) {
			return &steps[i]
		}
	}
	return nil
}
