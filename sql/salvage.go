package store

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// salvaged are the tables that are carried over from a damaged database: all but the
// decisions and what is made of them.
var salvaged = []string{"meta", "holds", "overrides", "exemptions", "settings", "held", "events", "event_messages", "kept", "connections", "actions", "audit", "journal"}

// salvageRows is how many rows of a table are carried over at most.
const salvageRows = 1_000_000

// seqMargin is added to the highest number that could be read: the newest rows may be
// what is damaged.
const seqMargin = 1_000_000

// The names under which a new database comes into being beside the damaged one: it is
// filled under the first and gets the second, with the stamp of the damaged one's later
// name, when it is whole. Only then do the two change places. Whatever happens in between,
// a full disk or a crash, the next attempt finds either the damaged one in its place or the
// whole new one, and nothing is lost that could be read.
const (
	draftSuffix = ".salvage"
	wholeSuffix = ".salvaged-"
	asideSuffix = ".corrupt-"
)

// replaceDamaged makes a new database, carries over what can be read of the damaged one and
// puts it in its place. The old file is kept for whoever wants to look at it.
func (s *Store) replaceDamaged(ctx context.Context, cause error) error {
	const doing = "make a new database in place of a damaged one"
	draft, stamp := s.o.Path+draftSuffix, freeStamp(s.o.Path, s.o.Now().UTC().Format("20060102-150405"))
	if err := removeDatabase(draft); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	w, err := s.newWriter(ctx, draft, false)
	if err != nil { // it would only take up room
		return errors.Join(fmt.Errorf("%s: %w", doing, hidden(err)), removeDatabase(draft))
	}
	c, err := s.salvage(ctx, w, stamp, cause)
	if err = errors.Join(err, w.finish(ctx)); err != nil {
		return errors.Join(fmt.Errorf("%s: %w", doing, hidden(err)), removeDatabase(draft))
	}
	if err := os.Rename(draft, s.o.Path+wholeSuffix+stamp); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	s.health.mu.Lock()
	s.health.lost = strings.Join(c.lost, ", ")
	s.health.mu.Unlock()
	s.log.Error("database is damaged, a new one was made", "err", cause, "saved", c.text())
	return s.finishReplacing()
}

// hidden keeps an error of the new database from being taken for damage of the old one.
func hidden(err error) error { return errors.New(err.Error()) }

// finishReplacing puts a new database that is whole in the place of the damaged one. It
// goes on where an attempt before it was broken off.
func (s *Store) finishReplacing() error {
	stamp, err := wholeStamp(s.o.Path)
	if err != nil || stamp == "" {
		return err
	}
	aside, err := moveAside(s.o.Path, stamp)
	if err != nil {
		return err
	}
	if err := os.Rename(s.o.Path+wholeSuffix+stamp, s.o.Path); err != nil {
		return fmt.Errorf("put the new database in its place: %w", err)
	}
	s.health.mu.Lock()
	s.health.setAside = aside
	s.health.mu.Unlock()
	s.log.Error("damaged database set aside", "path", aside)
	return nil
}

// wholeStamp finds a new database that is whole but not yet in its place; "" if there is
// none.
func wholeStamp(path string) (string, error) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return "", fmt.Errorf("look for a new database: %w", err)
	}
	for _, e := range entries {
		if stamp, ok := strings.CutPrefix(e.Name(), filepath.Base(path)+wholeSuffix); ok {
			return stamp, nil
		}
	}
	return "", nil
}

// freeStamp makes a stamp of which no database was set aside yet.
func freeStamp(path, stamp string) string {
	free := stamp
	for n := 1; ; n++ {
		if _, err := os.Lstat(path + asideSuffix + free); errors.Is(err, fs.ErrNotExist) {
			return free
		}
		free = stamp + "." + strconv.Itoa(n)
	}
}

// removeDatabase removes a database of ours that nobody uses yet.
func removeDatabase(path string) error {
	for _, suffix := range databaseFiles {
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// finish closes the connection so that all is in the file itself.
func (w *writer) finish(ctx context.Context) error {
	var busy, log, moved int64
	err := w.conn.QueryRowContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &log, &moved)
	if err == nil && busy != 0 {
		err = errors.New("the log could not be moved into the database")
	}
	return errors.Join(err, w.close())
}

// carried is what became of a damaged database's tables.
type carried struct {
	counts  []string // "holds 3"
	lost    []string // tables of which not all could be read
	highest uint64   // number of a decision; 0 if that cannot be read
}

func (c *carried) text() string {
	if len(c.counts) == 0 {
		return "nothing"
	}
	return strings.Join(c.counts, ", ")
}

// salvage fills a new database, in one transaction: all that can be read, the lowest
// number that may be given, and a line in the journal.
func (s *Store) salvage(ctx context.Context, w *writer, stamp string, cause error) (c carried, err error) {
	err = w.transact(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if c, err = carryOver(ctx, s.o.Path, tx); err != nil {
			return err
		}
		if err := s.mendMeta(ctx, tx, c.highest); err != nil {
			return err
		}
		text := fmt.Sprintf("damaged database set aside as %s (%v); carried over: %s", filepath.Base(s.o.Path)+asideSuffix+stamp, cause, c.text())
		_, err := tx.ExecContext(ctx, insertJournal, ms(s.o.Now()), "set_aside", clean(text, 1024))
		return err
	})
	return c, err
}

// mendMeta makes what was carried over of meta usable: the key of references, and the
// lowest number that may be given.
func (s *Store) mendMeta(ctx context.Context, tx *sql.Tx, highest uint64) error {
	floor := max(highest, s.maxSeq.Load()) + seqMargin
	if highest == 0 && s.maxSeq.Load() == 0 {
		floor = s.unknownFloor()
	}
	for _, step := range []purgeStep{
		{text: "DELETE FROM meta WHERE key = 'seq_floor' AND (typeof(value) <> 'integer' OR value < ?)", args: []any{int64(floor)}},
		{text: "INSERT OR IGNORE INTO meta (key, value) VALUES ('seq_floor', ?)", args: []any{int64(floor)}},
		{text: "DELETE FROM meta WHERE key = 'ref_key' AND (typeof(value) <> 'blob' OR length(value) <> 16)"},
		{text: "INSERT OR IGNORE INTO meta (key, value) VALUES ('ref_key', ?)", args: []any{s.newRefKey()}},
	} {
		if _, err := tx.ExecContext(ctx, step.text, step.args...); err != nil {
			return err
		}
	}
	return nil
}

// unknownFloor is a number higher than any that can have been given, where none can be
// read: a thousand decisions a second since November 2023.
func (s *Store) unknownFloor() uint64 { return uint64(max(s.o.Now().Unix()-1_700_000_000, 0)) * 1000 }

// carryOver copies what can be read of a damaged database. The error is one of writing.
func carryOver(ctx context.Context, damaged string, tx *sql.Tx) (c carried, err error) {
	var version, seq int64
	lengthen(damaged)
	db := openReadOnly(damaged, false)
	defer func() { db.Close() }()
	if db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version) != nil || version == 0 {
		db.Close()
		if db = openReadOnly(damaged, true); db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version) != nil {
			return carried{lost: salvaged}, ctx.Err()
		}
	}
	if db.QueryRowContext(ctx, "SELECT ifnull(max(seq), 0) FROM decisions").Scan(&seq) == nil {
		c.highest = uint64(seq)
	}
	for _, table := range salvaged {
		n, whole, err := copyTable(ctx, db, tx, table)
		if err != nil {
			return c, fmt.Errorf("carry over %s: %w", table, err)
		}
		part := fmt.Sprintf("%s %d", table, n)
		if !whole {
			part += " (not all)"
			c.lost = append(c.lost, table)
		}
		c.counts = append(c.counts, part)
	}
	return c, ctx.Err()
}

// maxLengthen bounds how long a file is made that was cut.
const maxLengthen = 1 << 40

// lengthen makes a file that was cut as long as its header says, with a hole: of a shorter
// one SQLite reads nothing at all. What is in it stays as it is.
func lengthen(path string) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer f.Close()
	var header [32]byte
	fi, err := f.Stat()
	if _, readErr := f.ReadAt(header[:], 0); err != nil || readErr != nil || string(header[:6]) != "SQLite" {
		return
	}
	// sqlite.org/fileformat.html 1.3: the size of a page at 16, the number of pages at 28.
	page := int64(binary.BigEndian.Uint16(header[16:]))
	if page == 1 {
		page = 65_536
	}
	if size := page * int64(binary.BigEndian.Uint32(header[28:])); size > fi.Size() && size <= maxLengthen {
		f.Truncate(size) // if it fails nothing can be read, as before
	}
}

// copyTable copies the rows of one table up to the first that cannot be read; whole is
// false if there is such a row, or more than are carried over. The error is one of writing.
func copyTable(ctx context.Context, from *sql.DB, tx *sql.Tx, table string) (n int, whole bool, err error) {
	query := "SELECT * FROM " + table
	if table == "connections" { // of the others nobody knows any more whose they were
		query += " WHERE seq IN (SELECT seq FROM kept)"
	}
	rows, err := from.QueryContext(ctx, query+" LIMIT ?", salvageRows)
	if err != nil {
		return 0, false, ctx.Err()
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return 0, false, ctx.Err()
	}
	into := fmt.Sprintf("INSERT OR REPLACE INTO %s (%s) VALUES (?%s)", table, `"`+strings.Join(columns, `","`)+`"`, strings.Repeat(",?", len(columns)-1))
	values, dest := make([]any, len(columns)), make([]any, len(columns))
	for i := range values {
		dest[i] = &values[i]
	}
	whole = true
	for rows.Next() {
		if rows.Scan(dest...) != nil {
			return n, false, ctx.Err()
		}
		switch _, err := tx.ExecContext(ctx, into, values...); {
		case err == nil:
			n++
		case isOfRow(err):
			whole = false
		default:
			return n, false, err
		}
	}
	return n, whole && rows.Err() == nil && n < salvageRows, ctx.Err()
}
