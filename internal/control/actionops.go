package control

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"osm/actions"
	"osm/policy"
	store "osm/sql"
)

// Action is something that followed an event.
type Action = store.Action

// Evidence is what was found out about who made a message.
type Evidence = store.Evidence

// ActionFilter says which actions are wanted; what is left empty does not matter.
type ActionFilter struct {
	Since    time.Time
	Account  string
	Event    int64
	Name     string
	Standing bool  // in force, and can be undone
	ID       int64 // this one alone
}

// ActionNames lists every action there is.
func ActionNames() []string { return policy.AllActions() }

// Notice is what somebody was told of an event, or is to be told.
type Notice = store.Notice

const didUndoAction = "action undo"

// Actions lists what followed events, the newest first.
func (s *Service) Actions(ctx context.Context, a Actor, f ActionFilter, p Page) (List[Action], error) {
	if f.Account != "" {
		if err := s.mayAccount(a, f.Account); err != nil {
			return List[Action]{}, err
		}
	}
	if err := pageMark(p); err != nil {
		return List[Action]{}, err
	}
	l, err := List[Action]{}, error(nil)
	l.Items, l.Next, err = s.o.Store.Actions(ctx, store.ActionFilter{Since: f.Since, Account: f.Account, Accounts: s.ownAccounts(a), Event: f.Event,
		Name: f.Name, ID: f.ID, Standing: f.Standing, Limit: p.Limit, After: p.After})
	for i := range l.Items {
		withInverse(&l.Items[i])
	}
	return l, found(err, "", "no actions")
}

// withInverse names the command that undoes an action.
func withInverse(a *Action) {
	if a.Record != "" && a.UndoneAt.IsZero() {
		a.Inverse = fmt.Sprintf("osmctl undo %d", a.ID)
	} else if !a.UndoneAt.IsZero() {
		a.Inverse = ""
	}
}

// UndoAction takes back what an action did; it is not done again for the grace time.
func (s *Service) UndoAction(ctx context.Context, a Actor, id int64, reason string) (Action, error) {
	const list = "osmctl actions --standing lists those that can be undone"
	row, err := s.o.Store.Action(ctx, id)
	if err == nil && !s.visible(a, row.Account) {
		err = store.ErrNotFound
	}
	if err != nil {
		return Action{}, found(err, list, "there is no action %d", id)
	}
	if reason, err = reasonLine(reason); err != nil {
		return Action{}, err
	}
	if row.Name == policy.ActionHold || row.Name == policy.ActionDiscard {
		return s.undoHold(ctx, a, &row, reason)
	}
	if err := operatorOnly(a, "undo what osm did at the panel, the firewall or in a home"); err != nil {
		return Action{}, err
	}
	if s.o.Undo == nil {
		return Action{}, unavailable("", "this daemon does nothing that could be undone")
	}
	out, err := s.o.Undo(whole(ctx), id, a.Name)
	switch {
	case errors.Is(err, actions.ErrNotStanding):
		return Action{}, failure(409, list, "%v", err)
	case err != nil:
		return Action{}, unavailable("see the action's outcome, and try again: osmctl undo "+strconv.FormatInt(id, 10), "%v", err)
	}
	withInverse(&out)
	s.audited(ctx, a, didUndoAction, row.Name+" "+row.Target, compact(row), out.Outcome, reason)
	return out, nil
}

// undoHold ends the hold that an action put.
func (s *Service) undoHold(ctx context.Context, a Actor, row *Action, reason string) (Action, error) {
	hold, err := strconv.ParseInt(row.Record, 10, 64)
	if err != nil || !row.UndoneAt.IsZero() {
		return Action{}, failure(409, "osmctl actions --standing lists those that can be undone", "action %d (%s %s): %v", row.ID, row.Name, row.Target, actions.ErrNotStanding)
	}
	if _, err := s.EndHold(ctx, a, hold, reason); err != nil {
		return Action{}, err
	}
	out, err := s.o.Store.Action(whole(ctx), row.ID)
	withInverse(&out)
	return out, found(err, "", "there is no action %d", row.ID)
}
