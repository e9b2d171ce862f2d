package store

import (
	"context"
	"database/sql"
	"strconv"
	"time"

	"osm/policy"
)

// Action is something that followed an event.
type Action struct {
	ID      int64  `json:"id"`
	EventID int64  `json:"event_id"`
	At      Time   `json:"at"`
	Account string `json:"account"`
	Name    string `json:"name"`
	Target  string `json:"target"`
	State   string `json:"state"`
	Outcome string `json:"outcome"`
	Inverse string `json:"inverse"` // what undoes it
	// Record is what holds it: the number of a hold, or the executor's record of a change.
	Record   string `json:"record"`
	Until    Time   `json:"until"` // undone by itself then
	Attempts int64  `json:"attempts"`
	NextAt   Time   `json:"next_at"` // tried again then
	UndoneAt Time   `json:"undone_at"`
	UndoneBy string `json:"undone_by"`
}

const actionColumns = "id, event, at, account, name, target, state, outcome, inverse, record, until, attempts, next_at, undone_at, undone_by"

func actionOf(v []value) Action {
	return Action{
		ID: integer(v[0]), EventID: integer(v[1]), At: Time{moment(integer(v[2]))}, Account: str(v[3]), Name: str(v[4]), Target: str(v[5]),
		State: str(v[6]), Outcome: str(v[7]), Inverse: str(v[8]), Record: str(v[9]), Until: Time{moment(integer(v[10]))}, Attempts: integer(v[11]),
		NextAt: Time{moment(integer(v[12]))}, UndoneAt: Time{moment(integer(v[13]))}, UndoneBy: str(v[14]),
	}
}

// PutAction stores an action, or what became of it if it has a number; the number is
// returned.
func (s *Store) PutAction(ctx context.Context, a Action) (id int64, err error) {
	err = s.do(ctx, "store action", func(ctx context.Context, tx *sql.Tx) error {
		return tx.QueryRowContext(ctx, `INSERT INTO actions (`+actionColumns+`) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)
			ON CONFLICT (id) DO UPDATE SET target = excluded.target, state = excluded.state, outcome = excluded.outcome, inverse = excluded.inverse,
			record = excluded.record, until = excluded.until, attempts = excluded.attempts, next_at = excluded.next_at,
			undone_at = excluded.undone_at, undone_by = excluded.undone_by RETURNING id`,
			numberOrNull(a.ID), numberOrNull(a.EventID), ms(a.At.Time), clean(a.Account, 128), clean(a.Name, 64), clean(a.Target, keyMax), clean(a.State, 64),
			clean(a.Outcome, 4096), clean(a.Inverse, 1024), clean(a.Record, 64), orNull(a.Until.Time), a.Attempts, orNull(a.NextAt.Time),
			orNull(a.UndoneAt.Time), clean(a.UndoneBy, 128)).Scan(&id)
	})
	return id, err
}

// Action finds one action. The error is [ErrNotFound] if there is none.
func (s *Store) Action(ctx context.Context, id int64) (a Action, err error) {
	err = s.read(ctx, "find action", func(ctx context.Context, c *cursor) error {
		return c.one(ctx, "SELECT "+actionColumns+" FROM actions WHERE id = ?", []value{id}, func(v []value) error {
			a = actionOf(v)
			return nil
		})
	})
	return a, err
}

// ActionFilter says which actions are wanted; what is left empty does not matter.
type ActionFilter struct {
	Since    time.Time
	Account  string
	Accounts []string // of any of these; nil = of everybody
	Event    int64
	Name     string
	Standing bool // in force, and can be undone
	ID       int64
	Limit    int
	After    string
}

// standing is what can be undone.
const standing = "record <> '' AND undone_at IS NULL"

// Actions lists actions, the newest first; next is "" at the end.
func (s *Store) Actions(ctx context.Context, f ActionFilter) (list []Action, next string, err error) {
	q := query{text: "SELECT " + actionColumns + " FROM actions WHERE at >= ?", args: []value{ms(f.Since)}}
	q.equal("account", f.Account)
	q.among("account", f.Accounts)
	q.equal("name", f.Name)
	if f.Event != 0 {
		q.and("event = ?", f.Event)
	}
	if f.ID != 0 {
		q.and("id = ?", f.ID)
	}
	if f.Standing {
		q.and(standing)
	}
	if err := q.below("id", f.After); err != nil {
		return nil, "", err
	}
	limit := bounded(f.Limit)
	list, err = rowsOf(ctx, s, "list actions", q.text+" ORDER BY id DESC LIMIT ?", append(q.args, int64(limit)), actionOf)
	if len(list) == limit {
		next = strconv.FormatInt(list[limit-1].ID, 10)
	}
	return list, next, err
}

// DueActions lists the actions that are to be tried again, or to be undone because their
// time is over, at most 1,000. Holds are ended with the other holds ([Store.ExpiredHolds]),
// and their actions with them.
func (s *Store) DueActions(ctx context.Context, now time.Time) ([]Action, error) {
	return rowsOf(ctx, s, "list due actions", "SELECT "+actionColumns+` FROM actions WHERE next_at <= ?1
		UNION SELECT `+actionColumns+` FROM actions WHERE `+standing+` AND until <= ?1 AND next_at IS NULL AND name NOT IN (?2, ?3) LIMIT 1000`,
		[]value{ms(now), policy.ActionHold, policy.ActionDiscard}, actionOf)
}

// StandingActions lists the actions of one kind that are in force, at most 10,000.
func (s *Store) StandingActions(ctx context.Context, name string) ([]Action, error) {
	return rowsOf(ctx, s, "list standing actions", "SELECT "+actionColumns+" FROM actions WHERE "+standing+" AND name = ? LIMIT 10000",
		[]value{name}, actionOf)
}

// UndoneSince reports whether a person undid this action on this target since a moment.
func (s *Store) UndoneSince(ctx context.Context, name, target, exceptBy string, since time.Time) (bool, error) {
	list, err := rowsOf(ctx, s, "look for undone actions", `SELECT id FROM actions WHERE undone_at >= ? AND name = ? AND target = ? AND undone_by <> ? LIMIT 1`,
		[]value{ms(since), name, clean(target, keyMax), exceptBy}, func(v []value) int64 { return integer(v[0]) })
	return len(list) > 0, err
}

// Times counts how often the sender of an event went over its trigger since a moment, this
// event included: each event is one, and so is each further hold that one needed.
func (s *Store) Times(ctx context.Context, e *policy.Event, since time.Time) (n int64, err error) {
	err = s.read(ctx, "count events of a sender", func(ctx context.Context, c *cursor) error {
		return c.one(ctx, `SELECT ifnull(sum(max(1, (SELECT count(*) FROM actions a WHERE a.event = e.id AND a.name = ? AND a.record <> ''))), 0)
			FROM events e WHERE e.trigger = ? AND e.key = ? AND (e.at >= ? OR e.id = ?) AND e.mode = ?`,
			[]value{policy.ActionHold, clean(e.Trigger, 64), clean(e.Key, keyMax), ms(since), e.ID, int64(policy.Enforce)}, func(v []value) error {
				n = integer(v[0])
				return nil
			})
	})
	return n, err
}
