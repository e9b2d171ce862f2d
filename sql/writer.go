package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/mattn/go-sqlite3"
)

// writer is the one connection that writes, with its prepared statements. Only Run uses
// it once it runs.
type writer struct {
	db       *sql.DB
	conn     *sql.Conn
	st       statements
	names    names
	accounts map[string]int64
	boot     int64 // row of boots
	zero     int64 // boots.zero; 0 = this boot has no row yet
	bootID   string
	rollup   rollup
	file     fs.FileInfo // to notice that somebody took the file away
}

// prepareFile makes an empty database that only its owner and group can read: Subjects
// are nobody else's business. SQLite gives its log the same mode.
func prepareFile(path string) error {
	// A file that is there must not be opened: closing it would drop the locks that SQLite
	// holds on it in this process (sqlite.org/howtocorrupt.html 2.2).
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o640)
	if err != nil {
		return nil // it is there, or SQLite will say what is wrong
	}
	return f.Close()
}

// openWriter opens the database for writing, and readers for the same file. A damaged
// one is set aside and replaced. With full the whole file is checked.
func (s *Store) openWriter(ctx context.Context, full bool) error {
	if err := s.finishReplacing(); err != nil {
		return err
	}
	w, err := s.newWriter(ctx, s.o.Path, full)
	if isCorrupt(err) {
		if err = s.replaceDamaged(ctx, err); err == nil {
			w, err = s.newWriter(ctx, s.o.Path, false)
		}
	}
	if err != nil {
		return err
	}
	return s.adopt(ctx, w)
}

// adopt makes w the writer, and opens readers for the same file.
func (s *Store) adopt(ctx context.Context, w *writer) error {
	r := newReader(openReadOnly(s.o.Path, false), s.suspectDamage)
	if err := s.identify(ctx, r); err != nil {
		return errors.Join(err, r.close(), w.close())
	}
	s.w = w
	if old := s.reader.Swap(r); old != nil {
		old.close()
	}
	return nil
}

// newWriter opens and checks a file as it is.
func (s *Store) newWriter(ctx context.Context, path string, full bool) (w *writer, err error) {
	if err := prepareFile(path); err != nil {
		return nil, err
	}
	w = &writer{db: openWritable(path), accounts: make(map[string]int64), bootID: s.o.BootID, rollup: newRollup()}
	defer func() {
		if err != nil {
			w.close()
			w = nil
		}
	}()
	if w.conn, err = w.db.Conn(ctx); err != nil {
		return w, err
	}
	if s.o.maxPages != nil {
		if _, err := w.conn.ExecContext(ctx, fmt.Sprintf("PRAGMA max_page_count = %d", s.o.maxPages())); err != nil {
			return w, err
		}
	}
	if err := migrate(ctx, w.conn); err != nil {
		return w, err
	}
	if err := check(ctx, w.conn, full); err != nil {
		return w, err
	}
	if err := s.begin(ctx, w); err != nil {
		return w, err
	}
	if w.file, err = os.Stat(path); err != nil {
		return w, err
	}
	return w, w.prepare()
}

// begin writes what every opening writes: the key of references, an epoch of names, the
// row of this boot.
func (s *Store) begin(ctx context.Context, w *writer) error {
	tx, err := w.conn.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(ctx, "INSERT OR IGNORE INTO meta (key, value) VALUES ('ref_key', ?)", s.newRefKey()); err != nil {
		return err
	}
	if err := w.newEpoch(ctx, tx); err != nil {
		return err
	}
	err = tx.QueryRowContext(ctx, "SELECT id, zero FROM boots WHERE boot_id = ?", w.bootID).Scan(&w.boot, &w.zero)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	return tx.Commit()
}

// newRefKey is the key of references for a database that has none: the one in use, where
// a new database comes after a damaged one.
func (s *Store) newRefKey() []byte {
	key := make([]byte, 16)
	rand.Read(key)
	if known := s.refKey.Load(); known != nil {
		copy(key, known[:])
	}
	return key
}

// newEpoch ends the epoch of names and begins another. An epoch that a crash left open
// has all numbers up to the last.
func (w *writer) newEpoch(ctx context.Context, tx *sql.Tx) error {
	var last int64
	if err := tx.QueryRowContext(ctx, "SELECT ifnull(max(id), 0) FROM names").Scan(&last); err != nil {
		return fmt.Errorf("read the last name: %w", err)
	}
	_, err := tx.ExecContext(ctx, `UPDATE name_epochs SET last_name = ?,
		last_seq = (SELECT ifnull(max(seq), 0) FROM decisions) WHERE last_name IS NULL`, last)
	if err != nil {
		return fmt.Errorf("end the epoch of names: %w", err)
	}
	if _, err := tx.ExecContext(ctx, "INSERT INTO name_epochs (first_name) VALUES (?)", last+1); err != nil {
		return fmt.Errorf("begin an epoch of names: %w", err)
	}
	w.names = newNames(last + 1)
	return nil
}

// identify reads the key of references and the highest number.
func (s *Store) identify(ctx context.Context, r *reader) error {
	var key []byte
	if err := r.db.QueryRowContext(ctx, "SELECT value FROM meta WHERE key = 'ref_key'").Scan(&key); err != nil {
		return fmt.Errorf("read the key of references: %w", err)
	}
	if len(key) != 16 {
		return fmt.Errorf("read the key of references: %w: it has %d bytes", errCorrupt, len(key))
	}
	var seq, floor int64
	// What names a decision may outlive it: its number must not be given again either.
	err := r.db.QueryRowContext(ctx, `SELECT max((SELECT ifnull(max(seq), 0) FROM decisions), (SELECT ifnull(max(seq), 0) FROM held),
			(SELECT ifnull(max(left_seq), 0) FROM held),
			(SELECT ifnull(max(seq), 0) FROM event_messages), (SELECT ifnull(max(seq), 0) FROM kept)),
		ifnull((SELECT value FROM meta WHERE key = 'seq_floor'), 0)`).Scan(&seq, &floor)
	if err != nil {
		return fmt.Errorf("read the highest number: %w", err)
	}
	s.refKey.Store((*[16]byte)(key))
	s.maxSeq.Store(max(s.maxSeq.Load(), uint64(seq), uint64(floor)))
	return nil
}

// close ends the connection.
func (w *writer) close() error {
	var err error
	if w.conn != nil {
		w.st.close()
		err = w.conn.Close()
	}
	return errors.Join(err, w.db.Close())
}

// raw runs fn with the driver's connection.
func (w *writer) raw(fn func(c *sqlite3.SQLiteConn) error) error {
	return w.conn.Raw(func(dc any) error { return fn(dc.(*sqlite3.SQLiteConn)) })
}

// statement is one prepared statement of the driver with its arguments. It is run as a
// query, which binds and steps in a single call into C; database/sql takes one for each
// column.
type statement struct {
	stmt *sqlite3.SQLiteStmt
	args []driver.NamedValue
}

// value is what SQLite stores: int64, float64, string, []byte or nil.
type value = driver.Value

// prepareOn prepares a statement.
func prepareOn(c *sqlite3.SQLiteConn, text string) (*statement, error) {
	s, err := c.Prepare(text)
	if err != nil {
		return nil, fmt.Errorf("prepare %.60q: %w", text, err)
	}
	st := &statement{stmt: s.(*sqlite3.SQLiteStmt)}
	st.args = make([]driver.NamedValue, st.stmt.NumInput())
	for i := range st.args {
		st.args[i].Ordinal = i + 1
	}
	return st, nil
}

// set sets one argument.
func (s *statement) set(i int, v value) { s.args[i].Value = v }

// run runs the statement with the arguments that were set.
func (s *statement) run() error {
	rows, err := s.stmt.QueryContext(context.Background(), s.args)
	if err != nil {
		return err
	}
	return rows.Close()
}

// first runs the statement and reads its first row, nil if there is none.
func (s *statement) first(columns int) ([]value, error) {
	rows, err := s.stmt.QueryContext(context.Background(), s.args)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	dest := make([]value, columns)
	switch err := rows.Next(dest); err {
	case nil:
		return dest, nil
	case io.EOF:
		return nil, nil
	default:
		return nil, err
	}
}

// integer reads a number, 0 for NULL.
func integer(v value) int64 {
	n, _ := v.(int64)
	return n
}
