package store

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"
	"time"
)

// Audit is one change that somebody made, as JSON shows it.
type Audit struct {
	ID       int64  `json:"id"`
	At       Time   `json:"at"`
	ActorUID int64  `json:"actor_uid"` // of the process that asked
	User     string `json:"user"`      // for uid 0: whom it named
	Role     string `json:"role"`
	What     string `json:"what"`
	Target   string `json:"target"`
	Old      string `json:"old"`
	New      string `json:"new"`
	Undo     string `json:"undo,omitempty"` // what taking it back would do; filled in by whoever shows it
}

// AddAudit stores one change and returns its number. Without a time it is now.
func (s *Store) AddAudit(ctx context.Context, a Audit) (id int64, err error) {
	if a.At.IsZero() {
		a.At.Time = s.o.Now()
	}
	err = s.do(ctx, "store audit", func(ctx context.Context, tx *sql.Tx) error {
		return tx.QueryRowContext(ctx, "INSERT INTO audit (at, actor_uid, user, role, what, target, old, new) VALUES (?,?,?,?,?,?,?,?) RETURNING id",
			ms(a.At.Time), a.ActorUID, clean(a.User, 128), clean(a.Role, 64), clean(a.What, 128), clean(a.Target, keyMax), clean(a.Old, auditMax), clean(a.New, auditMax)).Scan(&id)
	})
	return id, err
}

// auditMax is how much of an old or new value is kept: whole, or it could not be put back.
const auditMax = 8192

const auditColumns = "id, at, actor_uid, user, role, what, target, old, new"

// auditOf reads a row of auditColumns.
func auditOf(v []value) Audit {
	return Audit{
		ID: integer(v[0]), At: Time{moment(integer(v[1]))}, ActorUID: integer(v[2]), User: str(v[3]), Role: str(v[4]), What: str(v[5]),
		Target: str(v[6]), Old: str(v[7]), New: str(v[8]),
	}
}

// AuditEntry finds a change by its number. The error is [ErrNotFound] if there is none.
func (s *Store) AuditEntry(ctx context.Context, id int64) (a Audit, err error) {
	err = s.read(ctx, "find change", func(ctx context.Context, c *cursor) error {
		return c.one(ctx, "SELECT "+auditColumns+" FROM audit WHERE id = ?", []value{id}, func(v []value) error {
			a = auditOf(v)
			return nil
		})
	})
	return a, err
}

// AuditList lists changes since a moment, the newest first; next is "" at the end.
func (s *Store) AuditList(ctx context.Context, since time.Time, limit int, after string) (list []Audit, next string, err error) {
	q := query{text: "SELECT " + auditColumns + " FROM audit WHERE at >= ?", args: []value{ms(since)}}
	if err := q.below("id", after); err != nil {
		return nil, "", fmt.Errorf("list audit: %w", err)
	}
	limit = bounded(limit)
	list, err = rowsOf(ctx, s, "list audit", q.text+" ORDER BY id DESC LIMIT ?", append(q.args, int64(limit)), auditOf)
	if len(list) == limit {
		next = strconv.FormatInt(list[limit-1].ID, 10)
	}
	return list, next, err
}

// Entry is something that happened to the daemon itself, as JSON shows it.
type Entry struct {
	ID   int64  `json:"id"`
	At   Time   `json:"at"`
	Kind string `json:"kind"` // "gap", "set_aside", "alarm" …
	Text string `json:"text"`
}

const insertJournal = "INSERT INTO journal (at, kind, text) VALUES (?,?,?)"

// AddEntry writes into the journal.
func (s *Store) AddEntry(ctx context.Context, kind, text string) error {
	return s.do(ctx, "write journal", func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, insertJournal, ms(s.o.Now()), clean(kind, 64), clean(text, 1024))
		return err
	})
}

// Journal lists what happened since a moment, the newest first; next is "" at the end.
func (s *Store) Journal(ctx context.Context, since time.Time, limit int, after string) (list []Entry, next string, err error) {
	q := query{text: "SELECT id, at, kind, text FROM journal WHERE at >= ?", args: []value{ms(since)}}
	if err := q.below("id", after); err != nil {
		return nil, "", fmt.Errorf("read journal: %w", err)
	}
	limit = bounded(limit)
	list, err = rowsOf(ctx, s, "read journal", q.text+" ORDER BY id DESC LIMIT ?", append(q.args, int64(limit)), func(v []value) Entry {
		return Entry{integer(v[0]), Time{moment(integer(v[1]))}, str(v[2]), str(v[3])}
	})
	if len(list) == limit {
		next = strconv.FormatInt(list[limit-1].ID, 10)
	}
	return list, next, err
}
