package actions

import (
	"context"
	"slices"

	store "osm/sql"
)

// Unfinished lists the open events of enforcing triggers, with the names of those of their
// actions that were done or left out for a reason.
func (r *Runner) Unfinished(ctx context.Context) ([]store.Unfinished, error) {
	return r.o.Store.UnfinishedEvents(ctx, stateFailed)
}

// Remaining are the steps of a plan that are still to be done.
func Remaining(steps []Step, done []string) []Step {
	return slices.DeleteFunc(steps, func(s Step) bool { return slices.Contains(done, s.Name) })
}
