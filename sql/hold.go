package store

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"
	"time"

	"osm/policy"
)

// EndedHold is a hold that stands no more.
type EndedHold struct {
	policy.Hold
	EndedAt time.Time
	EndedBy string // "" = it expired
}

const holdColumns = "id, scope, account, value, verdict, release, trigger, event, claimed, until, by, at, reason, ended_at, ended_by"

// holdOf reads a row of holdColumns.
func holdOf(v []value) EndedHold {
	return EndedHold{
		Hold: policy.Hold{
			ID: integer(v[0]), Scope: policy.Scope(integer(v[1])), Account: str(v[2]), Value: str(v[3]), Verdict: policy.Verdict(integer(v[4])),
			Release: policy.Release(integer(v[5])), Trigger: str(v[6]), EventID: integer(v[7]), Claimed: integer(v[8]) != 0, Until: moment(integer(v[9])),
			Provenance: provenanceOf(v[10], v[11], v[12]),
		},
		EndedAt: moment(integer(v[13])), EndedBy: str(v[14]),
	}
}

// provenanceOf reads who set something in the database.
func provenanceOf(by, at, reason value) policy.Provenance {
	return policy.Provenance{Where: "database", By: str(by), At: moment(integer(at)), Reason: str(reason)}
}

// PutHold stores a hold, or changes one that has a number: its end, verdict, release and
// reason. The number is returned.
func (s *Store) PutHold(ctx context.Context, h policy.Hold) (id int64, err error) {
	err = s.do(ctx, "store hold", func(ctx context.Context, tx *sql.Tx) error {
		return tx.QueryRowContext(ctx, `INSERT INTO holds (id, scope, account, value, verdict, release, trigger, event, claimed, until, by, at, reason)
			VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT (id) DO UPDATE SET until = excluded.until, verdict = excluded.verdict,
			release = excluded.release, by = excluded.by, reason = excluded.reason RETURNING id`,
			numberOrNull(h.ID), int64(h.Scope), clean(h.Account, 128), clean(h.Value, 512), int64(h.Verdict), int64(h.Release), clean(h.Trigger, 64),
			h.EventID, truth(h.Claimed), orNull(h.Until), clean(h.Provenance.By, 128), ms(s.setAt(h.Provenance)), clean(h.Provenance.Reason, 512)).Scan(&id)
	})
	return id, err
}

// setAt is when something was set: now, if nobody says otherwise.
func (s *Store) setAt(p policy.Provenance) time.Time {
	if p.At.IsZero() {
		return s.o.Now()
	}
	return p.At
}

// EndHold ends a hold; by is "" where it expired. The error is [ErrNotFound] if it does
// not stand.
func (s *Store) EndHold(ctx context.Context, id int64, by string) error {
	return s.do(ctx, "end hold", func(ctx context.Context, tx *sql.Tx) error {
		result, err := tx.ExecContext(ctx, "UPDATE holds SET ended_at = ?, ended_by = ? WHERE id = ? AND ended_at IS NULL", ms(s.o.Now()), clean(by, 128), id)
		if err := changed(result, err, "hold", id); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, "UPDATE actions SET state = 'undone', undone_at = ?, undone_by = ?, next_at = NULL WHERE record = ? AND undone_at IS NULL AND name IN (?, ?)",
			ms(s.o.Now()), clean(by, 128), strconv.FormatInt(id, 10), policy.ActionHold, policy.ActionDiscard)
		return err
	})
}

// changed makes [ErrNotFound] of a change that changed nothing.
func changed(result sql.Result, err error, what string, id int64) error {
	if err != nil {
		return err
	}
	n, err := result.RowsAffected()
	if err == nil && n == 0 {
		err = fmt.Errorf("%s %d: %w", what, id, ErrNotFound)
	}
	return err
}

// maxRules is how many holds, overrides or exemptions are read at most.
const maxRules = 100_000

// Holds lists the standing holds, the oldest first: those whose time is over are not
// among them, even before somebody ends them.
func (s *Store) Holds(ctx context.Context) ([]policy.Hold, error) {
	return rowsOf(ctx, s, "list holds", "SELECT "+holdColumns+" FROM holds WHERE ended_at IS NULL AND (until IS NULL OR until > ?) ORDER BY id LIMIT ?",
		[]value{ms(s.o.Now()), int64(maxRules)}, func(v []value) policy.Hold { return holdOf(v).Hold })
}

// ExpiredHolds lists the holds whose time is over and that nobody has ended yet.
func (s *Store) ExpiredHolds(ctx context.Context) ([]policy.Hold, error) {
	return rowsOf(ctx, s, "list expired holds", "SELECT "+holdColumns+" FROM holds WHERE ended_at IS NULL AND until <= ? ORDER BY id LIMIT ?",
		[]value{ms(s.o.Now()), int64(maxRules)}, func(v []value) policy.Hold { return holdOf(v).Hold })
}

// EndedHolds lists the holds that ended since a moment, the newest first: what an operator
// has just released is not held again at once.
func (s *Store) EndedHolds(ctx context.Context, since time.Time) ([]EndedHold, error) {
	return rowsOf(ctx, s, "list ended holds", "SELECT "+holdColumns+" FROM holds WHERE ended_at >= ? ORDER BY ended_at DESC LIMIT ?",
		[]value{ms(since), int64(maxLimit)}, holdOf)
}

// Hold finds a hold, standing or ended.
func (s *Store) Hold(ctx context.Context, id int64) (h EndedHold, err error) {
	err = s.read(ctx, "find hold", func(ctx context.Context, c *cursor) error {
		return c.one(ctx, "SELECT "+holdColumns+" FROM holds WHERE id = ?", []value{id}, func(v []value) error {
			h = holdOf(v)
			return nil
		})
	})
	return h, err
}
