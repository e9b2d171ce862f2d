package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/mattn/go-sqlite3"
)

// Bounds of reading.
const (
	maxReaders      = 4
	readFor         = 3 * time.Second
	defaultLimit    = 100
	maxLimit        = 1_000
	textsRemembered = 32_768
)

// reader is the connections that read one database file, and the names it uses.
type reader struct {
	db      *sql.DB
	damaged func(error)                      // is told of damage
	asked   func(query string, args []value) // so that a test sees what is asked

	mu    sync.RWMutex // guards texts
	texts map[int64]string
}

func newReader(db *sql.DB, damaged func(error)) *reader {
	return &reader{db: db, damaged: damaged, texts: make(map[int64]string)}
}

func (r *reader) close() error { return r.db.Close() }

// suspectDamage tells the writer that a reader met damage.
func (s *Store) suspectDamage(err error) {
	select {
	case s.suspect <- err:
	default: // it knows already
	}
}

// cursor is one connection that reads.
type cursor struct {
	r    *reader
	conn *sqlite3.SQLiteConn
}

// read runs fn with a connection, in one transaction as far as fn runs one query. It is
// bounded in time: 3 s, or what is left of ctx. doing says what is tried, for the error.
func (s *Store) read(ctx context.Context, doing string, fn func(ctx context.Context, c *cursor) error) error {
	ctx, cancel := context.WithTimeout(ctx, readFor)
	defer cancel()
	return s.readLong(ctx, doing, fn)
}

// readLong is read without the bound of 3 s. fn must run many short queries.
func (s *Store) readLong(ctx context.Context, doing string, fn func(ctx context.Context, c *cursor) error) error {
	r := s.reader.Load()
	if r == nil {
		return fmt.Errorf("%s: %w: %s", doing, ErrUnavailable, s.health.problemNow())
	}
	conn, err := r.db.Conn(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	defer conn.Close()
	err = conn.Raw(func(dc any) error { return fn(ctx, &cursor{r, dc.(*sqlite3.SQLiteConn)}) })
	if err == nil {
		return nil
	}
	if isCorrupt(err) {
		r.damaged(err)
	}
	if isOfDatabase(err) {
		err = fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// each runs fn for every row of a query. fn must not keep the slice. The driver is asked
// directly: database/sql converts every column by reflection.
func (c *cursor) each(ctx context.Context, query string, args []value, fn func(v []value) error) error {
	if c.r.asked != nil {
		c.r.asked(query, args)
	}
	named := make([]driver.NamedValue, len(args))
	for i, a := range args {
		named[i] = driver.NamedValue{Ordinal: i + 1, Value: a}
	}
	rows, err := c.conn.QueryContext(ctx, query, named)
	if err != nil {
		return err
	}
	defer rows.Close()
	v := make([]value, len(rows.Columns()))
	for {
		switch err := rows.Next(v); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if err := fn(v); err != nil {
			return err
		}
	}
}

// one reads the first row of a query, or [ErrNotFound].
func (c *cursor) one(ctx context.Context, query string, args []value, fn func(v []value) error) error {
	found := false
	err := c.each(ctx, query, args, func(v []value) error {
		if found {
			return nil
		}
		found = true
		return fn(v)
	})
	if err == nil && !found {
		return ErrNotFound
	}
	return err
}

// text reads a column that holds a text or the number of a name.
func (c *cursor) text(ctx context.Context, v value) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case int64:
		return c.named(ctx, v)
	}
	return "", nil
}

// named reads a name.
func (c *cursor) named(ctx context.Context, id int64) (string, error) {
	c.r.mu.RLock()
	text, ok := c.r.texts[id]
	c.r.mu.RUnlock()
	if ok {
		return text, nil
	}
	err := c.one(ctx, "SELECT text FROM names WHERE id = ?", []value{id}, func(v []value) error {
		text = str(v[0])
		return nil
	})
	if errors.Is(err, ErrNotFound) {
		return "", nil // its decision is being deleted
	}
	if err != nil {
		return "", err
	}
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	if len(c.r.texts) >= textsRemembered {
		c.r.texts = make(map[int64]string)
	}
	c.r.texts[id] = text
	return text, nil
}

// accountName reads the name of an account; negative numbers keep the two kinds apart in
// the same memory.
func (c *cursor) accountName(ctx context.Context, id int64) (string, error) {
	c.r.mu.RLock()
	name, ok := c.r.texts[-id]
	c.r.mu.RUnlock()
	if ok {
		return name, nil
	}
	err := c.one(ctx, "SELECT name FROM accounts WHERE id = ?", []value{id}, func(v []value) error {
		name = str(v[0])
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("account %d: %w", id, err)
	}
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	c.r.texts[-id] = name
	return name, nil
}

// account reads a column that holds the number of an account, or its name.
func (c *cursor) account(ctx context.Context, v value) (string, error) {
	if name, ok := v.(string); ok {
		return name, nil
	}
	return c.accountName(ctx, integer(v))
}

// accountID reads the number of an account; 0 if no decision was ever its.
func (c *cursor) accountID(ctx context.Context, name string) (id int64, err error) {
	err = c.each(ctx, "SELECT id FROM accounts WHERE name = ?", []value{name}, func(v []value) error {
		id = integer(v[0])
		return nil
	})
	return id, err
}

func str(v value) string {
	s, _ := v.(string)
	return s
}

// bounded is how many rows are given for a limit that was asked for.
func bounded(limit int) int {
	if limit <= 0 {
		return defaultLimit
	}
	return min(limit, maxLimit)
}
