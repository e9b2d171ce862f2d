package actions

import (
	"context"
	"errors"
	"fmt"

	"osm/policy"
	store "osm/sql"
)

// Who undid what neither osm's clock nor one of its operators undid.
const (
	BySomebody    = "somebody else"
	ByNewPassword = "a new password"
)

// Look looks how what the executor did stands: what somebody else took back is noted as
// undone, and a blocked login is lifted when the mailbox's password was changed, where that
// is set. What cannot be seen stays as it is.
func (r *Runner) Look(ctx context.Context) error {
	var errs []error
	for _, name := range policy.ExecutorActions() {
		if name == policy.ActionRunScript {
			continue
		}
		standing, err := r.o.Store.StandingActions(ctx, name)
		if err != nil {
			return err
		}
		for i := range standing {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err := r.lookAt(ctx, &standing[i]); err != nil {
				errs = append(errs, fmt.Errorf("action %d: %w", standing[i].ID, err))
			}
		}
	}
	return errors.Join(errs...)
}

func (r *Runner) lookAt(ctx context.Context, a *store.Action) error {
	if a.State != StateDone {
		return nil
	}
	s, err := r.o.Executor.Check(ctx, a.Record)
	var e *ExecutorError
	gone := errors.As(err, &e) && e.LeftAlone
	switch {
	case err != nil && !gone:
		return err
	case gone, s.InForce == No, s.ByOthers:
		_, err = r.Undo(ctx, a.ID, BySomebody) // touches nothing of theirs, and drops the record
	case s.PasswordChanged == Yes && a.Name == policy.ActionBlockLogin && r.o.LiftOnNewPassword != nil && r.o.LiftOnNewPassword():
		_, err = r.Undo(ctx, a.ID, ByNewPassword)
	}
	return err
}
