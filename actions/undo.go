package actions

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"osm/policy"
	store "osm/sql"
)

// ByTime is who undid what no person undid: its time was over.
const ByTime = "its time"

// ErrNotStanding is of an action that cannot be undone: it never was in force, or is no
// more.
var ErrNotStanding = errors.New("it is not in force")

// Undo takes back what an action did. What somebody else has taken back meanwhile counts as
// undone, and the text says so. The hold of an action is ended here as well; making the
// rules again is for the caller.
func (r *Runner) Undo(ctx context.Context, id int64, by string) (store.Action, error) {
	a, err := r.o.Store.Action(ctx, id)
	if err != nil {
		return a, err
	}
	if a.Record == "" || !a.UndoneAt.IsZero() {
		return a, fmt.Errorf("action %d (%s %s): %w", id, a.Name, a.Target, ErrNotStanding)
	}
	if said, err := r.takeBack(ctx, &a, by); err != nil {
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

func (r *Runner) takeBack(ctx context.Context, a *store.Action, by string) (said string, err error) {
	if a.Name == policy.ActionHold || a.Name == policy.ActionDiscard {
		hold, err := strconv.ParseInt(a.Record, 10, 64)
		if err == nil {
			err = r.o.Store.EndHold(ctx, hold, by)
		}
		if errors.Is(err, store.ErrNotFound) {
			return fmt.Sprintf("hold %d had ended", hold), nil
		}
		return fmt.Sprintf("hold %d ended", hold), err
	}
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
