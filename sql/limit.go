package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"osm/policy"
)

// PutOverride stores an override, or replaces the one that has its number, or else the
// one of the same level, name and trigger. The number is returned.
func (s *Store) PutOverride(ctx context.Context, o policy.Override) (id int64, err error) {
	var actions any
	if o.Actions != nil {
		b, err := json.Marshal(*o.Actions)
		if err != nil {
			return 0, fmt.Errorf("store override: %w", err)
		}
		actions = string(b)
	}
	err = s.do(ctx, "store override", func(ctx context.Context, tx *sql.Tx) error {
		if o.ID == 0 {
			err := tx.QueryRowContext(ctx, "SELECT ifnull(max(id), 0) FROM overrides WHERE level = ? AND name = ? AND trigger = ?",
				int64(o.Level), clean(o.Name, 320), clean(o.Trigger, 64)).Scan(&o.ID)
			if err != nil {
				return err
			}
		}
		var per any
		if o.Per != nil {
			per = o.Per.Milliseconds()
		}
		return tx.QueryRowContext(ctx, `INSERT OR REPLACE INTO overrides (id, level, name, trigger, max, per, verdict, release, mode, actions, until, by, at, reason)
			VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?) RETURNING id`,
			numberOrNull(o.ID), int64(o.Level), clean(o.Name, 320), clean(o.Trigger, 64), optional(o.Max), per, optional(o.Verdict), optional(o.Release),
			optional(o.Mode), actions, orNull(o.Until), clean(o.Provenance.By, 128), ms(s.setAt(o.Provenance)), clean(o.Provenance.Reason, 512)).Scan(&id)
	})
	return id, err
}

// optional is a number that may be missing.
func optional[T ~int64 | ~uint8](v *T) any {
	if v == nil {
		return nil
	}
	return int64(*v)
}

// maybe is the inverse of optional.
func maybe[T ~int64 | ~uint8](v value) *T {
	n, ok := v.(int64)
	if !ok {
		return nil
	}
	t := T(n)
	return &t
}

// DeleteOverride deletes an override. The error is [ErrNotFound] if there is none.
func (s *Store) DeleteOverride(ctx context.Context, id int64) error {
	return s.do(ctx, "delete override", func(ctx context.Context, tx *sql.Tx) error {
		result, err := tx.ExecContext(ctx, "DELETE FROM overrides WHERE id = ?", id)
		return changed(result, err, "override", id)
	})
}

// Overrides lists all overrides, those that have ended too, the oldest first.
func (s *Store) Overrides(ctx context.Context) ([]policy.Override, error) {
	var wrong error
	list, err := rowsOf(ctx, s, "list overrides", `SELECT id, level, name, trigger, max, per, verdict, release, mode, actions, until, by, at, reason
		FROM overrides ORDER BY at, id LIMIT ?`, []value{int64(maxRules)}, func(v []value) policy.Override {
		o := policy.Override{
			ID: integer(v[0]), Level: policy.Level(integer(v[1])), Name: str(v[2]), Trigger: str(v[3]), Max: maybe[int64](v[4]),
			Verdict: maybe[policy.Verdict](v[6]), Release: maybe[policy.Release](v[7]), Mode: maybe[policy.Mode](v[8]), Until: moment(integer(v[10])),
			Provenance: provenanceOf(v[11], v[12], v[13]),
		}
		if v[5] != nil {
			per := time.Duration(integer(v[5])) * time.Millisecond
			o.Per = &per
		}
		if v[9] != nil {
			o.Actions = new([]policy.Action)
			if err := json.Unmarshal([]byte(str(v[9])), o.Actions); err != nil {
				wrong = fmt.Errorf("read the actions of override %d: %w", o.ID, err)
			}
		}
		return o
	})
	if err == nil {
		err = wrong
	}
	return list, err
}

// Exemption is a stored exemption and how often it was used.
type Exemption struct {
	policy.Exemption
	Hits      int64
	LastHitAt time.Time
}

// PutExemption stores an exemption, or replaces the one that has its number, whose hits
// stay. The number is returned.
func (s *Store) PutExemption(ctx context.Context, e policy.Exemption) (id int64, err error) {
	err = s.do(ctx, "store exemption", func(ctx context.Context, tx *sql.Tx) error {
		return tx.QueryRowContext(ctx, `INSERT INTO exemptions (id, scope, account, value, trigger, ceiling, until, by, at, reason)
			VALUES (?,?,?,?,?,?,?,?,?,?) ON CONFLICT (id) DO UPDATE SET scope = excluded.scope, account = excluded.account, value = excluded.value,
			trigger = excluded.trigger, ceiling = excluded.ceiling, until = excluded.until, by = excluded.by, at = excluded.at,
			reason = excluded.reason RETURNING id`,
			numberOrNull(e.ID), int64(e.Scope), clean(e.Account, 128), clean(e.Value, 512), clean(e.Trigger, 64), e.Ceiling, orNull(e.Until),
			clean(e.Provenance.By, 128), ms(s.setAt(e.Provenance)), clean(e.Provenance.Reason, 512)).Scan(&id)
	})
	return id, err
}

// DeleteExemption deletes an exemption. The error is [ErrNotFound] if there is none.
func (s *Store) DeleteExemption(ctx context.Context, id int64) error {
	return s.do(ctx, "delete exemption", func(ctx context.Context, tx *sql.Tx) error {
		result, err := tx.ExecContext(ctx, "DELETE FROM exemptions WHERE id = ?", id)
		return changed(result, err, "exemption", id)
	})
}

// AddExemptionHits adds to how often exemptions were used, by their numbers.
func (s *Store) AddExemptionHits(ctx context.Context, hits map[int64]int64) error {
	return s.do(ctx, "count exemptions", func(ctx context.Context, tx *sql.Tx) error {
		for id, n := range hits {
			_, err := tx.ExecContext(ctx, "UPDATE exemptions SET hits = hits + ?, last_hit_at = ? WHERE id = ?", n, ms(s.o.Now()), id)
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// Exemptions lists all exemptions, those that have ended too, the oldest first.
func (s *Store) Exemptions(ctx context.Context) ([]Exemption, error) {
	return rowsOf(ctx, s, "list exemptions", `SELECT id, scope, account, value, trigger, ceiling, until, by, at, reason, hits, last_hit_at
		FROM exemptions ORDER BY id LIMIT ?`, []value{int64(maxRules)}, func(v []value) Exemption {
		return Exemption{
			Exemption: policy.Exemption{
				ID: integer(v[0]), Scope: policy.Scope(integer(v[1])), Account: str(v[2]), Value: str(v[3]), Trigger: str(v[4]),
				Ceiling: integer(v[5]), Until: moment(integer(v[6])), Provenance: provenanceOf(v[7], v[8], v[9]),
			},
			Hits: integer(v[10]), LastHitAt: moment(integer(v[11])),
		}
	})
}
