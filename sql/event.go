package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"osm/policy"
)

// Event is a stored event, as JSON shows it.
type Event struct {
	ID       int64      `json:"id"`
	At       Time       `json:"at"`
	LastAt   Time       `json:"last_at"`
	Trigger  string     `json:"trigger"`
	Watch    string     `json:"watch"`
	Key      string     `json:"key"`
	Account  string     `json:"account"`
	Mailbox  string     `json:"mailbox"`
	Mode     string     `json:"mode"`
	Verdict  string     `json:"verdict"`
	Max      int64      `json:"max"`
	Per      Period     `json:"per"`
	Count    string     `json:"count"`
	Used     int64      `json:"used"`
	Stopped  int64      `json:"stopped"`
	FreeAt   Time       `json:"free_at"`
	Claimed  bool       `json:"claimed"`
	Open     bool       `json:"open"`
	Messages []Decision `json:"messages,omitempty"` // its first 50 and its last 50; only of one event
	// Connections are those of a trigger that watches what bypasses Exim, in place of messages.
	Connections []Connection `json:"connections,omitempty"`
	Actions     []Action     `json:"actions,omitempty"`  // only of one event
	Notices     []Notice     `json:"notices,omitempty"`  // who was told of it, and who is to be; only of one event
	Requests    []Evidence   `json:"requests,omitempty"` // which scripts and web requests sent; only of one event
	Evidence    []string     `json:"evidence,omitempty"` // filled in by whoever shows it
}

// Policy is the event as the tracker of events knows it.
func (e *Event) Policy() policy.Event {
	watch, _ := policy.ParseWatch(e.Watch)
	mode, _ := policy.ParseMode(e.Mode)
	verdict, _ := policy.ParseVerdict(e.Verdict)
	unit, _ := policy.ParseUnit(e.Count)
	return policy.Event{
		ID: e.ID, At: e.At.Time, LastAt: e.LastAt.Time, Trigger: e.Trigger, Watch: watch, Key: e.Key, Account: e.Account, Mailbox: e.Mailbox,
		Mode: mode, Verdict: verdict, Max: e.Max, Per: time.Duration(e.Per), Count: unit, Used: e.Used, Stopped: e.Stopped,
		FreeAt: e.FreeAt.Time, Claimed: e.Claimed, Open: e.Open,
	}
}

const eventColumnsRead = `id, at, last_at, trigger, watch, key, account, mailbox, mode, verdict, max, per, count, used, stopped, free_at, claimed, open`

// eventOf reads a row of eventColumnsRead.
func eventOf(v []value) Event {
	return Event{
		ID: integer(v[0]), At: Time{moment(integer(v[1]))}, LastAt: Time{moment(integer(v[2]))}, Trigger: str(v[3]),
		Watch: policy.Watch(integer(v[4])).String(), Key: str(v[5]), Account: str(v[6]), Mailbox: str(v[7]),
		Mode: policy.Mode(integer(v[8])).String(), Verdict: policy.Verdict(integer(v[9])).String(), Max: integer(v[10]),
		Per: Period(time.Duration(integer(v[11])) * time.Millisecond), Count: policy.Unit(integer(v[12])).String(), Used: integer(v[13]),
		Stopped: integer(v[14]), FreeAt: Time{moment(integer(v[15]))}, Claimed: integer(v[16]) != 0, Open: integer(v[17]) != 0,
	}
}

// UpsertEvent stores the newest state of an event and waits until it is stored; see
// [Store.AppendEvent] for the way that never blocks.
func (s *Store) UpsertEvent(ctx context.Context, e policy.Event) error {
	return s.do(ctx, "store event", func(ctx context.Context, tx *sql.Tx) error {
		values := eventColumns(&e)
		args := make([]any, len(values))
		for i := range values {
			args[i] = values[i]
		}
		_, err := tx.ExecContext(ctx, upsertEvent, args...)
		return err
	})
}

// AddEventMessages notes messages of an event: its first 50 are kept, and its last 50. The
// error is [ErrNotFound] if there is no such event.
func (s *Store) AddEventMessages(ctx context.Context, event int64, seqs ...uint64) error {
	return s.do(ctx, "store messages of event", func(ctx context.Context, tx *sql.Tx) error {
		for _, seq := range seqs {
			var n int64
			err := tx.QueryRowContext(ctx, countMessage, event).Scan(&n)
			if errors.Is(err, sql.ErrNoRows) {
				return fmt.Errorf("event %d: %w", event, ErrNotFound)
			}
			if err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, putMessage, event, slotOf(n-1), int64(seq)); err != nil {
				return err
			}
		}
		return nil
	})
}

// EventFilter says which events are wanted; what is left empty does not matter.
type EventFilter struct {
	Since    time.Time // a message was stopped not before
	Account  string
	Accounts []string // of any of these; nil = of everybody
	Trigger  string
	Key      string
	OpenOnly bool
	Limit    int
	After    string
}

// Events lists events, the newest first; next is "" at the end.
func (s *Store) Events(ctx context.Context, f EventFilter) (list []Event, next string, err error) {
	q := query{text: "SELECT " + eventColumnsRead + " FROM events WHERE last_at >= ?", args: []value{ms(f.Since)}}
	q.equal("account", f.Account)
	q.among("account", f.Accounts)
	q.equal("trigger", f.Trigger)
	q.equal("key", f.Key)
	if f.OpenOnly {
		q.text += " AND open = 1"
	}
	if err := q.below("id", f.After); err != nil {
		return nil, "", fmt.Errorf("list events: %w", err)
	}
	limit := bounded(f.Limit)
	list, err = rowsOf(ctx, s, "list events", q.text+" ORDER BY id DESC LIMIT ?", append(q.args, int64(limit)), eventOf)
	if len(list) == limit {
		next = strconv.FormatInt(list[limit-1].ID, 10)
	}
	return list, next, err
}

// OpenEvents lists the events that are not over, at most 100,000: what a tracker needs
// after a start.
func (s *Store) OpenEvents(ctx context.Context) ([]policy.Event, error) {
	return rowsOf(ctx, s, "list open events", "SELECT "+eventColumnsRead+" FROM events WHERE open = 1 ORDER BY id DESC LIMIT 100000", nil, func(v []value) policy.Event {
		e := eventOf(v)
		return e.Policy()
	})
}

// Unfinished is an open event with the names of those of its actions that are written down:
// they came to an end, or are tried again by rule.
type Unfinished struct {
	policy.Event
	Done []string
}

// UnfinishedEvents lists the open events of enforcing triggers, at most 10,000, the oldest
// first. An action in the state failed that is not tried again by rule did not come to an end.
func (s *Store) UnfinishedEvents(ctx context.Context, failed string) ([]Unfinished, error) {
	return rowsOf(ctx, s, "list events with their actions", "SELECT "+eventColumnsRead+`,
		(SELECT group_concat(DISTINCT a.name) FROM actions a WHERE a.event = events.id AND (a.state <> ? OR a.next_at IS NOT NULL))
		FROM events WHERE open = 1 AND mode = ? ORDER BY id LIMIT 10000`, []value{failed, int64(policy.Enforce)}, func(v []value) Unfinished {
		e := eventOf(v)
		return Unfinished{e.Policy(), strings.Split(str(v[len(v)-1]), ",")}
	})
}

// NextEventID is one more than the highest number of any event that was stored.
func (s *Store) NextEventID(ctx context.Context) (id int64, err error) {
	err = s.read(ctx, "read the last event", func(ctx context.Context, c *cursor) error {
		return c.one(ctx, `SELECT max((SELECT ifnull(max(id), 0) FROM events), (SELECT ifnull(max(event), 0) FROM holds)) + 1`, nil, func(v []value) error {
			id = integer(v[0])
			return nil
		})
	})
	return id, err
}

// Event finds an event, with its messages and what followed. The error is [ErrNotFound] if
// there is none.
func (s *Store) Event(ctx context.Context, id int64) (e Event, err error) {
	err = s.read(ctx, "find event", func(ctx context.Context, c *cursor) error {
		err := c.one(ctx, "SELECT "+eventColumnsRead+" FROM events WHERE id = ?", []value{id}, func(v []value) error {
			e = eventOf(v)
			return nil
		})
		if err != nil {
			return err
		}
		messages := fmt.Sprintf("SELECT %s FROM decisions WHERE %s UNION ALL SELECT %[1]s FROM kept WHERE %[2]s ORDER BY 1",
			decisionColumns, "flags & 15 <> "+sourceDirect+" AND seq IN (SELECT seq FROM event_messages WHERE event = ?1)")
		err = c.each(ctx, messages, []value{id}, func(v []value) error {
			v[21] = nil
			d, err := c.decision(ctx, v, s.refKey.Load())
			e.Messages = append(e.Messages, d)
			return err
		})
		if err != nil {
			return err
		}
		if e.Connections, err = s.connectionsOf(ctx, c, id); err != nil {
			return err
		}
		if e.Requests, err = evidenceOf(ctx, c, id); err != nil {
			return err
		}
		err = c.each(ctx, "SELECT "+noticeColumns+" FROM notices WHERE event = ? ORDER BY id LIMIT 100", []value{id}, func(v []value) error {
			e.Notices = append(e.Notices, noticeOf(v))
			return nil
		})
		if err != nil {
			return err
		}
		return c.each(ctx, "SELECT "+actionColumns+" FROM actions WHERE event = ? ORDER BY id LIMIT 1000", []value{id}, func(v []value) error {
			e.Actions = append(e.Actions, actionOf(v))
			return nil
		})
	})
	return e, err
}

// EventsOf lists the events that a decision belongs to, by number, the newest first. It
// finds only those that kept the decision as one of their messages.
func (s *Store) EventsOf(ctx context.Context, seq uint64, account string) ([]Event, error) {
	return rowsOf(ctx, s, "find events", "SELECT "+eventColumnsRead+` FROM events WHERE account = ?
		AND id IN (SELECT event FROM event_messages WHERE seq = ?) ORDER BY id DESC LIMIT 20`,
		[]value{account, int64(seq)}, eventOf)
}
