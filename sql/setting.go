package store

import (
	"context"
	"database/sql"
	"fmt"

	"osm/policy"
)

// Setting is a setting of the daemon that wins over the file's.
type Setting struct {
	Key        string
	Value      string // as people write it
	Provenance policy.Provenance
}

// PutSetting stores a setting in place of the one that its key had.
func (s *Store) PutSetting(ctx context.Context, v Setting) error {
	return s.do(ctx, "store setting", func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "INSERT OR REPLACE INTO settings (key, value, by, at, reason) VALUES (?,?,?,?,?)",
			clean(v.Key, 64), clean(v.Value, 256), clean(v.Provenance.By, 128), ms(s.setAt(v.Provenance)), clean(v.Provenance.Reason, 512))
		return err
	})
}

// DeleteSetting deletes a setting. The error is [ErrNotFound] if there is none.
func (s *Store) DeleteSetting(ctx context.Context, key string) error {
	return s.do(ctx, "delete setting", func(ctx context.Context, tx *sql.Tx) error {
		result, err := tx.ExecContext(ctx, "DELETE FROM settings WHERE key = ?", key)
		if err != nil {
			return err
		}
		n, err := result.RowsAffected()
		if err == nil && n == 0 {
			err = fmt.Errorf("setting %.64q: %w", key, ErrNotFound)
		}
		return err
	})
}

// Settings lists all settings by their key.
func (s *Store) Settings(ctx context.Context) ([]Setting, error) {
	return rowsOf(ctx, s, "list settings", "SELECT key, value, by, at, reason FROM settings ORDER BY key LIMIT ?", []value{int64(maxLimit)}, func(v []value) Setting {
		return Setting{Key: str(v[0]), Value: str(v[1]), Provenance: provenanceOf(v[2], v[3], v[4])}
	})
}
