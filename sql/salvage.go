package store

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// salvaged are the tables that are carried over from a damaged database: all but the
// decisions and what is made of them.
var salvaged = []string{"meta", "holds", "overrides", "exemptions", "held", "events", "event_messages", "kept", "actions", "audit", "journal"}

// salvageRows is how many rows of a table are carried over at most.
const salvageRows = 1_000_000

// seqMargin is added to the highest number that could be read: the newest rows may be
// what is damaged.
const seqMargin = 1_000_000

// replaceDamaged sets the database aside, makes a new one and carries over what can be
// read. The old file is kept for whoever wants to look at it.
func (s *Store) replaceDamaged(ctx context.Context, cause error) (*writer, error) {
	now := s.o.Now().UTC()
	aside, err := moveAside(s.o.Path, now.Format("20060102-150405"))
	if err != nil {
		return nil, errors.Join(cause, err)
	}
	s.health.mu.Lock()
	s.health.setAside = aside
	s.health.mu.Unlock()
	w, err := s.newWriter(ctx, false)
	if err != nil {
		return nil, fmt.Errorf("make a new database in place of a damaged one: %w", err)
	}
	saved, highest := carryOver(ctx, aside, w)
	floor := max(highest, s.maxSeq.Load()) + seqMargin
	if highest == 0 && s.maxSeq.Load() == 0 {
		floor = s.unknownFloor()
	}
	if _, err := w.conn.ExecContext(ctx, "INSERT OR REPLACE INTO meta (key, value) VALUES ('seq_floor', ?)", int64(floor)); err != nil {
		return nil, errors.Join(fmt.Errorf("make a new database in place of a damaged one: %w", err), w.close())
	}
	text := fmt.Sprintf("damaged database set aside as %s (%v); carried over: %s", filepath.Base(aside), cause, saved)
	if _, err := w.conn.ExecContext(ctx, insertJournal, ms(now), "set_aside", clean(text, 1024)); err != nil {
		return nil, errors.Join(fmt.Errorf("write journal: %w", err), w.close())
	}
	s.log.Error("damaged database set aside, a new one made", "err", cause, "path", aside, "saved", saved)
	return w, nil
}

// unknownFloor is a number higher than any that can have been given, where none can be
// read: a thousand decisions a second since November 2023.
func (s *Store) unknownFloor() uint64 { return uint64(max(s.o.Now().Unix()-1_700_000_000, 0)) * 1000 }

// carryOver copies what can be read of a damaged database; highest is the highest number
// of a decision in it, 0 if that cannot be read.
func carryOver(ctx context.Context, aside string, w *writer) (saved string, highest uint64) {
	var version, seq int64
	lengthen(aside)
	db := openReadOnly(aside, false)
	defer func() { db.Close() }()
	if db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version) != nil || version == 0 {
		db.Close()
		if db = openReadOnly(aside, true); db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version) != nil {
			return "nothing", 0
		}
	}
	if db.QueryRowContext(ctx, "SELECT ifnull(max(seq), 0) FROM decisions").Scan(&seq) != nil {
		seq = 0
	}
	var parts []string
	for _, table := range salvaged {
		n, err := copyTable(ctx, db, w, table)
		part := fmt.Sprintf("%s %d", table, n)
		if err != nil {
			part += " (not all)"
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, ", "), uint64(seq)
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

// copyTable copies the rows of one table up to the first that cannot be read.
func copyTable(ctx context.Context, from *sql.DB, w *writer, table string) (n int, err error) {
	rows, err := from.QueryContext(ctx, "SELECT * FROM "+table+" LIMIT ?", salvageRows)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return 0, err
	}
	tx, err := w.conn.BeginTx(ctx, nil)
	if err != nil {
		return 0, err
	}
	defer tx.Rollback()
	into := fmt.Sprintf("INSERT OR REPLACE INTO %s (%s) VALUES (?%s)", table, `"`+strings.Join(columns, `","`)+`"`, strings.Repeat(",?", len(columns)-1))
	values, dest := make([]any, len(columns)), make([]any, len(columns))
	for i := range values {
		dest[i] = &values[i]
	}
	for rows.Next() {
		if rows.Scan(dest...) != nil {
			break
		}
		if _, insertErr := tx.ExecContext(ctx, into, values...); insertErr == nil {
			n++
		} else if !isOfRow(insertErr) {
			return 0, insertErr
		}
	}
	return n, errors.Join(rows.Err(), tx.Commit())
}
