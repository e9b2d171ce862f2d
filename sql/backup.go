package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// backupFor bounds a backup in time: as long as it reads, the log grows.
const backupFor = 10 * time.Minute

// Backup writes a copy of the database as it is now into a new file, while everything goes
// on. A file that exists is never overwritten. The copy is a whole database: to go back
// to it, stop the daemon and put it in the place of the old one, without that one's -wal
// and -shm.
func (s *Store) Backup(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, backupFor)
	defer cancel()
	if !filepath.IsAbs(path) {
		return fmt.Errorf("back up to %q: the path must be absolute", path)
	}
	// An empty file of ours is what SQLite agrees to fill; O_EXCL follows no symlink.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o640)
	if err != nil {
		return fmt.Errorf("back up: %w", err)
	}
	err = s.vacuumInto(ctx, path)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(fmt.Errorf("back up to %q: %w", path, err), os.Remove(path))
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("back up to %q: %w", path, err)
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// vacuumInto copies the database with a connection of its own.
func (s *Store) vacuumInto(ctx context.Context, path string) error {
	if s.reader.Load() == nil {
		return fmt.Errorf("%w: %s", ErrUnavailable, s.health.problemNow())
	}
	db := sql.OpenDB(&connector{dsn: dsn(s.o.Path, "mode=ro", "_busy_timeout=1000"), driver: readDriver()})
	defer db.Close()
	_, err := db.ExecContext(ctx, "VACUUM INTO ?", path)
	return err
}
