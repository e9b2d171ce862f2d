package actions

import (
	"context"
	"time"
)

// verbCheck looks how a change stands that is in force, by its record's id.
const verbCheck = "check"

// Known is an answer that may not be to be had.
type Known string

// The answers.
const (
	Yes     Known = "yes"
	No      Known = "no"
	Unknown Known = "unknown"
)

func yesIf(yes bool) Known {
	if yes {
		return Yes
	}
	return No
}

// State is what has become of a change since it was made.
type State struct {
	// InForce says whether the change stands, as our own.
	InForce Known `json:"in_force"`
	// ByOthers is set when somebody else undid it, or what stands now is theirs.
	ByOthers bool `json:"by_others,omitempty"`
	// PasswordChanged says whether the mailbox's password is another one than before the
	// change; Unknown for changes that are not about a mailbox's login.
	PasswordChanged Known  `json:"password_changed"`
	Detail          string `json:"detail,omitempty"` // in words; may hold what the panel says
}

// checker is a [changer] that can say what has become of a change of its own.
type checker interface {
	// state changes nothing. An error means that it could not be seen.
	state(ctx context.Context, r *Record) (State, error)
}

// lookAtChange answers [verbCheck]. It waits its turn, so as not to see half of a change.
func (x *executor) lookAtChange(ctx context.Context, req request) answer {
	if !turn(ctx, x.changing, x.o.ChangeLimit) {
		return answer{Error: &ExecutorError{What: req.Verb, On: req.Record, Why: "another change is still under way", Next: "try again", RetryAfter: time.Second}}
	}
	defer func() { <-x.changing }()
	s, err := x.stateOf(ctx, req.Record)
	return answer{State: s, Error: explainChange(req, err)}
}

// stateOf says what has become of a record's change. It does not need the action to be allowed still.
func (x *executor) stateOf(ctx context.Context, id string) (*State, error) {
	r, err := x.records.get(id)
	if err != nil {
		return nil, err
	}
	c, ok := x.allChangers()[r.Action].(checker)
	if !ok {
		return &State{InForce: Unknown, PasswordChanged: Unknown, Detail: "nothing can be seen of " + r.Action}, nil
	}
	s, err := c.state(ctx, r)
	if err != nil {
		return nil, err
	}
	return &s, nil
}

// Check says what has become of a change, by its record's id. An [ExecutorError] with
// LeftAlone means that the executor has no such record: it has been undone.
func (x *Executor) Check(ctx context.Context, record string) (State, error) {
	last, err := x.call(ctx, request{Verb: verbCheck, Record: record}, nil)
	if err != nil || last.State == nil {
		return State{InForce: Unknown, PasswordChanged: Unknown}, err
	}
	return *last.State, nil
}
