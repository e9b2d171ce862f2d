package actions

import (
	"context"
	"errors"
	"fmt"
	"strings"

	store "osm/sql"
)

// ByTime is who ended or undid what no person did: its time was over.
const ByTime = "its time"

// ErrNotStanding is of an action that cannot be undone: it never was in force, or is no
// more.
var ErrNotStanding = errors.New("it is not in force")

// Undo takes back what the executor did. What somebody else has taken back meanwhile counts
// as undone, and the outcome says so. A hold is ended as every other hold is, which undoes
// its action ([store.Store.EndHold]).
func (r *Runner) Undo(ctx context.Context, id int64, by string) (store.Action, error) {
	a, err := r.o.Store.Action(ctx, id)
	if err != nil {
		return a, err
	}
	if a.Record == "" || !a.UndoneAt.IsZero() {
		return a, fmt.Errorf("action %d (%s %s): %w", id, a.Name, a.Target, ErrNotStanding)
	}
	if said, err := r.takeBack(ctx, &a); err != nil {
		return r.undoFailed(ctx, a, err)
	} else if said != "" {
		a.Outcome = afterwards(a.Outcome, said)
	}
	a.State, a.UndoneAt, a.UndoneBy, a.NextAt = StateUndone, store.Time{Time: r.o.Now().Wall}, by, store.Time{}
	if _, err := r.o.Store.PutAction(ctx, a); err != nil {
		return a, err
	}
	r.o.Log.Info("action undone", "action", a.Name, "target", a.Target, "event", a.EventID, "by", by)
	return a, nil
}

func (r *Runner) takeBack(ctx context.Context, a *store.Action) (said string, err error) {
	ctx, cancel := context.WithTimeout(ctx, changeTime)
	defer cancel()
	rec, err := r.o.Executor.Undo(ctx, a.Record)
	var e *ExecutorError
	if errors.As(err, &e) && e.LeftAlone {
		return e.Why, nil
	}
	return rec.Outcome, err
}

// undoFailed notes that an undo is to be tried again. It is in force still.
func (r *Runner) undoFailed(ctx context.Context, a store.Action, err error) (store.Action, error) {
	a.Attempts++
	wait, again := retryIn(a.Attempts)
	if !again {
		wait, _ = retryIn(1)
		wait *= 60 * 6
		r.o.Alarm(fmt.Sprintf("%s %s could not be undone: %s; try by hand: osmctl undo %d", a.Name, a.Target, reasonOf(err), a.ID))
	}
	a.Outcome = afterwards(a.Outcome, notUndone+reasonOf(err))
	if !a.Until.IsZero() { // by itself: once more
		a.NextAt = store.Time{Time: r.o.Now().Wall.Add(wait)}
	}
	_, putErr := r.o.Store.PutAction(ctx, a)
	return a, errors.Join(err, putErr)
}

const notUndone = "could not be undone: "

// afterwards adds to what was done what became of it later.
func afterwards(outcome, said string) string {
	outcome, _, _ = strings.Cut(outcome, "; "+notUndone) // of the attempt before
	if outcome == "" {
		return said
	}
	return outcome + "; " + said
}
