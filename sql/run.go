package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"time"
)

// The writer's pace, in ticks.
const (
	tick            = 200 * time.Millisecond
	ticksCheckpoint = 5
	ticksFileCheck  = 25
	ticksRetention  = 300
	drainFor        = 5 * time.Second
)

// Run is the one writer. It stores what [Store.Append] took, in batches of at most 1,000
// rows or 200 ms, runs the other writes between them, lets old rows go, and mends what
// can be mended. When ctx ends it writes what is left (for at most 5 s), moves the log
// into the database and returns.
func (s *Store) Run(ctx context.Context) error {
	if !s.running.CompareAndSwap(false, true) {
		return errors.New("run store: it runs already, or has ended")
	}
	defer close(s.ended)
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for n := 1; ; {
		select {
		case <-ctx.Done():
			return s.finish(context.WithoutCancel(ctx))
		case o := <-s.ops:
			s.runOp(o)
		case <-s.q.full:
			s.store(ctx)
		case err := <-s.suspect:
			s.examine(ctx, err)
		case <-ticker.C:
			s.backoff.tick()
			s.store(ctx)
			s.keepHouse(ctx, n)
			n++
		}
		s.answerFlushes(ctx)
	}
}

// Flush waits until everything that was appended before is on disk, or cannot be.
func (s *Store) Flush(ctx context.Context) error { return s.do(ctx, "write what waits", nil) }

// answerFlushes writes what waits and tells those who wait for it.
func (s *Store) answerFlushes(ctx context.Context) {
	if len(s.flushes) == 0 {
		return
	}
	s.store(ctx)
	var err error
	if problem := s.health.problemNow(); problem != "" {
		err = fmt.Errorf("%w: %s", ErrUnavailable, problem)
	}
	for _, o := range s.flushes {
		o.done <- err
	}
	s.flushes = nil
}

// store writes what waits, if the database can be written.
func (s *Store) store(ctx context.Context) {
	if !s.backoff.ready() {
		return
	}
	if s.w == nil && !s.reopen(ctx, false) {
		return
	}
	if s.pending.empty() {
		s.pending = s.q.take(s.spare)
		s.spare = nil
	}
	for !s.pending.empty() {
		if !s.storeBatch(ctx) {
			return
		}
		select {
		case o := <-s.ops: // nobody waits for a long queue
			s.runOp(o)
		default:
		}
		s.purge(ctx)
		if s.w == nil {
			return
		}
	}
	if s.health.problemNow() != "" && s.probe(ctx) {
		s.recovered(ctx)
	}
}

// storeBatch writes the next rows of what was taken; ok is false if it could not.
func (s *Store) storeBatch(ctx context.Context) (ok bool) {
	rows := s.pending.rows
	part := s.pending
	part.rows = rows[:min(len(rows), batchRows)]
	if len(rows) > batchRows {
		part.events, part.messages = nil, nil // with the last of the rows
	}
	err := s.w.write(&part)
	if isOfRow(err) {
		var refused []row
		if refused, err = s.w.writeEach(&part); err == nil && len(refused) > 0 {
			s.log.Error("decisions were refused by the database", "used", len(refused))
			s.q.lost(refused)
		}
	}
	if err != nil {
		s.trouble(ctx, "store decisions", err)
		return false
	}
	s.q.done(part.rows)
	s.written.Add(uint64(len(part.rows)))
	s.backoff, s.distrust = backoff{}, false
	s.pending.rows = rows[min(len(rows), batchRows):]
	if len(s.pending.rows) == 0 {
		s.spare, s.pending = rows[:0], load{}
	}
	return true
}

// trouble deals with a write that failed: a damaged database is replaced, any other is
// tried again later, with a new connection.
func (s *Store) trouble(ctx context.Context, doing string, err error) {
	s.failed(doing, err)
	s.backoff.failed()
	switch {
	case isCorrupt(err) && s.distrust: // a check of the whole file found nothing, but it happened again
		s.closeWriter()
		if err := s.replaceDamaged(ctx, err); err != nil {
			s.failed("replace the damaged database", err)
			return
		}
		s.distrust = false
		s.reopen(ctx, false)
	case isCorrupt(err):
		s.distrust = true
		s.reopen(ctx, true)
	case s.w != nil && (s.backoff.next >= 8 || !s.w.usable(ctx)):
		s.reopen(ctx, false)
	}
}

// closeWriter ends the writer's connection.
func (s *Store) closeWriter() {
	if s.w != nil {
		s.w.close()
		s.w = nil
	}
}

// usable reports whether the connection still reads. After an I/O error it may not.
func (w *writer) usable(ctx context.Context) bool {
	var one int
	return w.conn.QueryRowContext(ctx, "SELECT count(*) FROM meta").Scan(&one) == nil
}

// reopen closes all connections and opens new ones, after a check of the whole file if
// full. The readers too: SQLite shares the memory of the log among the connections of a
// process, and one that was opened on a read-only disk keeps it read-only for all.
func (s *Store) reopen(ctx context.Context, full bool) (ok bool) {
	s.closeWriter()
	if r := s.reader.Swap(nil); r != nil {
		r.close()
	}
	err := s.openWriter(ctx, full)
	if err == nil {
		return true
	}
	s.failed("open", err)
	s.backoff.failed()
	s.readOnlyStart(ctx)
	return false
}

// probe reports whether the database can be written, where nothing waits to be.
func (s *Store) probe(ctx context.Context) bool {
	_, err := s.w.conn.ExecContext(ctx, "INSERT OR REPLACE INTO meta (key, value) VALUES ('written_at', ?)", ms(s.o.Now()))
	if err != nil {
		s.trouble(ctx, "write", err)
		return false
	}
	return true
}

// recovered ends the alarm, and enters into the journal what was lost meanwhile.
func (s *Store) recovered(ctx context.Context) {
	s.mended()
	n, from, to := s.q.gap()
	if n == 0 {
		return
	}
	text := fmt.Sprintf("%d decisions from %s to %s were not stored: the database could not keep up or be written", n, from.Format(timeLayout), to.Format(timeLayout))
	s.log.Error("decisions were not stored", "used", n, "since", from)
	if _, err := s.w.conn.ExecContext(ctx, insertJournal, ms(s.o.Now()), "gap", text); err != nil {
		s.trouble(ctx, "write journal", err)
	}
}

// examine looks closer after a reader met damage.
func (s *Store) examine(ctx context.Context, err error) {
	s.failed("read", err)
	s.reopen(ctx, true)
}

// keepHouse does what is to be done now and then; n counts ticks.
func (s *Store) keepHouse(ctx context.Context, n int) {
	if s.w == nil || !s.backoff.ready() {
		return
	}
	if n%ticksFileCheck == 0 && s.fileIsGone() {
		s.failed("write", fmt.Errorf("somebody took the file %q away or replaced it", s.o.Path))
		s.reopen(ctx, false)
		return
	}
	if n%ticksCheckpoint == 0 && s.health.problemNow() == "" && s.q.gapped() {
		s.recovered(ctx)
	}
	if n%ticksRetention == 1 {
		s.beginPurge(ctx)
	}
	s.purge(ctx)
	if n%ticksCheckpoint == 0 {
		s.checkpoint(ctx)
	}
}

// fileIsGone reports whether the path names another file than the one that is open.
func (s *Store) fileIsGone() bool {
	fi, err := os.Stat(s.o.Path)
	return err != nil || !os.SameFile(fi, s.w.file)
}

// finish writes what is left and closes the writer.
func (s *Store) finish(ctx context.Context) error {
	s.q.close()
	ctx, cancel := context.WithTimeout(ctx, drainFor)
	defer cancel()
	for attempt := 0; attempt < 3 && ctx.Err() == nil; attempt++ {
		s.backoff = backoff{}
		for rows, _, _ := s.q.depth(); rows > 0 && s.backoff.ready() && ctx.Err() == nil; rows, _, _ = s.q.depth() {
			s.store(ctx)
		}
		s.store(ctx)
	}
	var err error
	if rows, _, _ := s.q.depth(); rows > 0 {
		err = fmt.Errorf("close store: %d decisions could not be stored: %s", rows, s.health.problemNow())
	}
	if s.w != nil {
		s.w.conn.ExecContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)") // what stays in the log is read from there
		err = errors.Join(err, s.w.close())
		s.w = nil
	}
	return err
}

// op is a transaction to be run between two batches.
type op struct {
	ctx  context.Context
	fn   func(ctx context.Context, tx *sql.Tx) error // nil: write what waits
	done chan error
}

// opFor is how long a transaction waits and runs if its caller set no deadline.
const opFor = 5 * time.Second

// do runs fn in a transaction of the writer, between two batches. doing says what is
// tried, for the error.
func (s *Store) do(ctx context.Context, doing string, fn func(ctx context.Context, tx *sql.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, opFor)
	defer cancel()
	o := op{ctx: ctx, fn: fn, done: make(chan error, 1)}
	var err error
	select {
	case s.ops <- o:
		select {
		case err = <-o.done:
		case <-ctx.Done():
			err = ctx.Err()
		case <-s.ended: // it may have been the last
			select {
			case err = <-o.done:
			default:
				err = ErrClosed
			}
		}
	case <-ctx.Done():
		err = ctx.Err()
	case <-s.ended:
		err = ErrClosed
	}
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// runOp runs one transaction.
func (s *Store) runOp(o op) {
	switch {
	case o.ctx.Err() != nil:
		o.done <- o.ctx.Err()
		return
	case o.fn == nil:
		s.flushes = append(s.flushes, o)
		return
	}
	if s.w == nil {
		o.done <- fmt.Errorf("%w: %s", ErrUnavailable, s.health.problemNow())
		return
	}
	err := s.w.transact(o.ctx, o.fn)
	if isOfDatabase(err) && o.ctx.Err() == nil {
		s.trouble(context.WithoutCancel(o.ctx), "write", err)
		err = fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	o.done <- err
}

// transact runs fn in a transaction, to its end: where ctx ends meanwhile database/sql
// rolls back behind our backs, and the next transaction would begin within this one.
func (w *writer) transact(ctx context.Context, fn func(ctx context.Context, tx *sql.Tx) error) error {
	ctx = context.WithoutCancel(ctx)
	tx, err := w.conn.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := fn(ctx, tx); err != nil {
		tx.Rollback()
		return err
	}
	return tx.Commit()
}
