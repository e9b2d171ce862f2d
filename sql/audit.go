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
}

// AddAudit stores one change. Without a time it is now.
func (s *Store) AddAudit(ctx context.Context, a Audit) error {
	if a.At.IsZero() {
		a.At.Time = s.o.Now()
	}
	return s.do(ctx, "store audit", func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "INSERT INTO audit (at, actor_uid, user, role, what, target, old, new) VALUES (?,?,?,?,?,?,?,?)",
			ms(a.At.Time), a.ActorUID, clean(a.User, 128), clean(a.Role, 64), clean(a.What, 128), clean(a.Target, keyMax), clean(a.Old, 4096), clean(a.New, 4096))
		return err
	})
}

// AuditList lists changes since a moment, the newest first; next is "" at the end.
func (s *Store) AuditList(ctx context.Context, since time.Time, limit int, after string) (list []Audit, next string, err error) {
	q := query{text: "SELECT id, at, actor_uid, user, role, what, target, old, new FROM audit WHERE at >= ?", args: []value{ms(since)}}
	if err := q.below("id", after); err != nil {
		return nil, "", fmt.Errorf("list audit: %w", err)
	}
	limit = bounded(limit)
	list, err = rowsOf(ctx, s, "list audit", q.text+" ORDER BY id DESC LIMIT ?", append(q.args, int64(limit)), func(v []value) Audit {
		return Audit{
			ID: integer(v[0]), At: Time{moment(integer(v[1]))}, ActorUID: integer(v[2]), User: str(v[3]), Role: str(v[4]), What: str(v[5]),
			Target: str(v[6]), Old: str(v[7]), New: str(v[8]),
		}
	})
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
