package store

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"
)

// retention is how long what is kept; 0 = for ever.
type retention struct{ decisions, events time.Duration }

// SetRetention changes how long decisions and events are kept (0 = for ever). It takes
// effect within a minute.
func (s *Store) SetRetention(decisions, events time.Duration) {
	s.settings.Store(&retention{decisions, events})
}

// purgeRows is how many rows one step deletes at most, so that no batch waits long.
const purgeRows = 2_000

// purge is what is being deleted: statements that are run one after another, each again
// as long as it finds a whole step of rows.
type purge struct {
	steps []purgeStep
	epoch time.Time // when the names were begun anew
	swept int64     // kept decisions up to this number were looked at
}

type purgeStep struct {
	before []string // run before text, in the same transaction and with the same arguments
	text   string
	args   []any
}

// beginPurge finds out what is too old.
func (s *Store) beginPurge(ctx context.Context) {
	now, p := s.o.Now(), &s.purging
	p.steps = nil
	if s.ClockSettled() {
		s.planPurge(ctx, now)
	}
	if p.epoch.IsZero() {
		p.epoch = now
	}
	if now.Sub(p.epoch) >= 24*time.Hour {
		p.epoch = now
		err := s.w.transact(ctx, func(ctx context.Context, tx *sql.Tx) error { return s.w.newEpoch(ctx, tx) })
		if err != nil {
			s.w.names.forget()
			s.trouble(ctx, "begin an epoch of names", err)
			return
		}
	}
	s.writeClock(ctx)
}

// planPurge plans to delete what is too old at now.
func (s *Store) planPurge(ctx context.Context, now time.Time) {
	keep, p := *s.settings.Load(), &s.purging
	if keep.decisions > 0 {
		p.decisions(ctx, s.w, now.Add(-keep.decisions))
	}
	p.sweep(ctx, s.w)
	if keep.events > 0 {
		p.events(ms(now.Add(-keep.events)))
	}
}

// decisions plans to delete decisions, and what is only kept for them.
func (p *purge) decisions(ctx context.Context, w *writer, before time.Time) {
	cut := ms(before)
	var last sql.NullInt64
	err := w.conn.QueryRowContext(ctx, "SELECT max(last_seq) FROM minutes WHERE minute <= ?", cut/60_000).Scan(&last)
	if err != nil || !last.Valid {
		return
	}
	p.steps = append(p.steps, purgeStep{[]string{saveNamed(), dropConnections}, "DELETE FROM decisions WHERE seq IN (" + oldest + ")", []any{last.Int64, cut, purgeRows}})
	p.add(`DELETE FROM names WHERE id IN (SELECT n.id FROM name_epochs e JOIN names n ON n.id BETWEEN e.first_name AND e.last_name
		WHERE e.last_seq < (SELECT ifnull(min(seq), 9223372036854775807) FROM decisions) LIMIT ?)`, purgeRows)
	p.add(`DELETE FROM name_epochs WHERE id IN (SELECT id FROM name_epochs e WHERE e.last_seq < (SELECT ifnull(min(seq), 9223372036854775807) FROM decisions)
		AND NOT EXISTS (SELECT 1 FROM names WHERE id BETWEEN e.first_name AND e.last_name) LIMIT ?)`, purgeRows)
	p.add(`DELETE FROM minutes WHERE minute IN (SELECT minute FROM minutes WHERE minute < ? LIMIT ?)`, cut/60_000, purgeRows)
	p.add(`DELETE FROM hours WHERE (hour, account) IN (SELECT hour, account FROM hours WHERE hour < ? LIMIT ?)`, cut/3_600_000, purgeRows)
}

// oldest are the decisions that one step deletes.
const oldest = "SELECT seq FROM decisions WHERE seq <= ? AND at < ? ORDER BY seq LIMIT ?"

// dropConnections deletes what belongs to them, but for those that are kept.
const dropConnections = "DELETE FROM connections WHERE seq IN (" + oldest + ") AND NOT EXISTS (SELECT 1 FROM kept k WHERE k.seq = connections.seq)"

// keptTexts are the columns of a kept decision whose text may stand in names before.
var keptTexts = []string{"mailbox", "basis", "directory", "directory_account", "script", "sub_key", "envelope_sender", "subject", "subject_key", "trigger"}

// keptRest are the columns that are copied as they are.
const keptRest = "seq, at, flags, verdict, would, recipients, size, message_id, client_ip, hold, event, over"

// saveNamed copies those of them that an event or a message in the queue names, which is
// long after them: whoever asks why a message is frozen, or what filled a limit weeks ago,
// is to be told. They do not stay where they are, because the names of their time go when
// the last of them has gone.
func saveNamed() string {
	texts := make([]string, len(keptTexts))
	for i, column := range keptTexts {
		texts[i] = fmt.Sprintf("CASE typeof(%s) WHEN 'integer' THEN (SELECT text FROM names n WHERE n.id = d.%[1]s) ELSE %[1]s END", column)
	}
	return "INSERT OR IGNORE INTO kept (" + keptRest + ", account, " + strings.Join(keptTexts, ", ") + `)
		SELECT ` + keptRest + ", (SELECT name FROM accounts a WHERE a.id = d.account), " + strings.Join(texts, ", ") + `
		FROM decisions d WHERE seq IN (` + oldest + `) AND (EXISTS (SELECT 1 FROM event_messages m WHERE m.seq = d.seq)
			OR EXISTS (SELECT 1 FROM held h WHERE h.seq = d.seq AND h.state <= 2))`
}

// sweep plans to delete kept decisions that nothing names any more, of the next few: a
// look at all of them once a minute would be too much.
func (p *purge) sweep(ctx context.Context, w *writer) {
	var last sql.NullInt64
	err := w.conn.QueryRowContext(ctx, "SELECT max(seq) FROM (SELECT seq FROM kept WHERE seq > ? ORDER BY seq LIMIT ?)", p.swept, purgeRows).Scan(&last)
	if err != nil || !last.Valid {
		p.swept = 0 // from the beginning again
		return
	}
	p.add(`DELETE FROM kept WHERE seq > ? AND seq <= ? AND NOT EXISTS (SELECT 1 FROM event_messages m WHERE m.seq = kept.seq)
		AND NOT EXISTS (SELECT 1 FROM held h WHERE h.seq = kept.seq)`, p.swept, last.Int64)
	p.add(`DELETE FROM connections WHERE seq > ? AND seq <= ? AND NOT EXISTS (SELECT 1 FROM kept k WHERE k.seq = connections.seq)
		AND NOT EXISTS (SELECT 1 FROM decisions d WHERE d.seq = connections.seq)`, p.swept, last.Int64)
	p.swept = last.Int64
}

// events plans to delete events, and what is kept as long as they are.
func (p *purge) events(cut int64) {
	p.add(`DELETE FROM event_messages WHERE (event, slot) IN (SELECT m.event, m.slot FROM events e JOIN event_messages m ON m.event = e.id
		WHERE e.open = 0 AND e.last_at < ? LIMIT ?)`, cut, purgeRows)
	p.add(`DELETE FROM events WHERE id IN (SELECT id FROM events WHERE open = 0 AND last_at < ? LIMIT ?)`, cut, purgeRows)
	p.add(`DELETE FROM held WHERE seq IN (SELECT seq FROM held WHERE state > 2 AND state_at < ? LIMIT ?)`, cut, purgeRows)
	p.add(`DELETE FROM holds WHERE id IN (SELECT id FROM holds WHERE ended_at < ? LIMIT ?)`, cut, purgeRows)
	// What is in force stays, however old, or it could not be undone.
	p.add(`DELETE FROM actions WHERE id IN (SELECT id FROM actions WHERE at < ? AND (record = '' OR undone_at IS NOT NULL) ORDER BY id LIMIT ?)`, cut, purgeRows)
	for _, table := range []string{"evidence", "notices", "audit", "journal"} {
		p.add(`DELETE FROM `+table+` WHERE id IN (SELECT id FROM `+table+` WHERE at < ? ORDER BY id LIMIT ?)`, cut, purgeRows)
	}
}

func (p *purge) add(text string, args ...any) {
	p.steps = append(p.steps, purgeStep{text: text, args: args})
}

// purge runs one step.
func (s *Store) purge(ctx context.Context) {
	p := &s.purging
	if s.w == nil || len(p.steps) == 0 {
		return
	}
	n, err := s.w.purge(ctx, &p.steps[0])
	switch {
	case err != nil:
		p.steps = nil // begun again within a minute
		if ctx.Err() == nil {
			s.trouble(ctx, "delete old rows", err)
		}
	case n < purgeRows:
		p.steps = p.steps[1:]
	}
}

// purge runs one step and tells how many rows it deleted.
func (w *writer) purge(ctx context.Context, p *purgeStep) (n int64, err error) {
	err = w.transact(ctx, func(ctx context.Context, tx *sql.Tx) error {
		for _, text := range p.before {
			if _, err := tx.ExecContext(ctx, text, p.args...); err != nil {
				return err
			}
		}
		result, err := tx.ExecContext(ctx, p.text, p.args...)
		if err != nil {
			return err
		}
		n, err = result.RowsAffected()
		return err
	})
	return n, err
}

// Sizes of the write-ahead log, in bytes.
const (
	logIdle  = 64 << 10 // below it, it is left alone
	logLarge = 64 << 20 // above it, it is cut as soon as no reader needs it
)

// checkpoint moves the log into the database as far as no reader stands in the way. It
// never waits for one.
func (s *Store) checkpoint(ctx context.Context) {
	size := sizeOf(s.o.Path + "-wal")
	if size < logIdle {
		return
	}
	if _, err := s.w.conn.ExecContext(ctx, "PRAGMA wal_checkpoint(PASSIVE)"); isCorrupt(err) {
		s.trouble(ctx, "checkpoint", err)
		return
	}
	if size < logLarge {
		return
	}
	for _, pragma := range []string{"busy_timeout = 0", "wal_checkpoint(TRUNCATE)", "busy_timeout = 250"} {
		if _, err := s.w.conn.ExecContext(ctx, "PRAGMA "+pragma); err != nil && isCorrupt(err) {
			s.trouble(ctx, "checkpoint", err)
			return
		}
	}
}
