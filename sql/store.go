package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"osm/policy"
)

// Options say where the database is and how long it keeps what.
type Options struct {
	Path   string
	Log    *slog.Logger
	Now    func() time.Time
	BootID string // names the boot that decisions' boot clocks belong to
	// Clock tells both clocks, so that it is noticed when the wall clock was set: nothing is
	// deleted for its age until a day later. Nil: Now is believed.
	Clock func() policy.Moment

	KeepDecisions time.Duration // 0 = for ever; totals as long
	KeepEvents    time.Duration // 0 = for ever; settled held mail, the audit and the journal as long

	maxPages func() int // of the database, so that a test can fill it
}

// Errors a caller branches on.
var (
	// ErrNotFound: there is no such row.
	ErrNotFound = errors.New("not found")
	// ErrUnavailable: the database cannot be written (or read) now.
	ErrUnavailable = errors.New("the database is not available")
	// ErrClosed: the writer has ended.
	ErrClosed = errors.New("the store is closed")
)

// Store is the database. Its methods may be called by any number of goroutines.
type Store struct {
	o       Options
	log     *slog.Logger
	q       *queue
	ops     chan op
	suspect chan error    // a reader met damage
	ended   chan struct{} // closed when Run has ended
	running atomic.Bool

	reader   atomic.Pointer[reader]
	refKey   atomic.Pointer[[16]byte]
	maxSeq   atomic.Uint64
	written  atomic.Uint64
	health   healthState
	w        *writer // owned by Run once it runs; nil while the database cannot be opened
	backoff  backoff
	distrust bool // the last failure was damage that no check found
	purging  purge
	clock    clockGuard
	pending  load  // taken from the queue, not yet written
	spare    []row // emptied, for the queue
	flushes  []op  // who waits for everything to be written
	settings atomic.Pointer[retention]
}

// Open opens the database, or makes it. A damaged one is set aside and a new one made. If
// it cannot be opened for a reason that may pass (a full or read-only disk, a lock), the
// store works in memory, [Store.Health] says so and [Store.Run] tries again; an error is
// returned only for what will not mend itself: a folder that is missing, or a database
// that is newer than this program.
func Open(ctx context.Context, o Options) (*Store, error) {
	if o.Log == nil || o.Now == nil {
		return nil, errors.New("open store: a logger and a clock are needed")
	}
	if !filepath.IsAbs(o.Path) {
		return nil, fmt.Errorf("open store %q: the path must be absolute", o.Path)
	}
	s := &Store{
		o: o, log: o.Log.With("component", "store"), q: newQueue(), ops: make(chan op, 64),
		suspect: make(chan error, 1), ended: make(chan struct{}),
	}
	s.SetRetention(o.KeepDecisions, o.KeepEvents)
	if _, err := os.Stat(filepath.Dir(o.Path)); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	err := s.openWriter(ctx, false)
	switch {
	case err == nil:
	case errors.Is(err, ErrNewer), ctx.Err() != nil:
		return nil, fmt.Errorf("open store %q: %w", o.Path, err)
	default:
		s.failed("open", err)
		s.readOnlyStart(ctx)
	}
	s.beginClock(ctx)
	return s, nil
}

// readOnlyStart opens readers, and finds out what can be known, while the database cannot
// be written.
func (s *Store) readOnlyStart(ctx context.Context) {
	for _, immutable := range []bool{false, true} {
		r := newReader(openReadOnly(s.o.Path, immutable), s.suspectDamage)
		if s.identify(ctx, r) == nil {
			s.reader.Store(r)
			return
		}
		r.close()
	}
	if s.refKey.Load() != nil {
		return
	}
	// Nothing can be read: references made now will not be found later.
	var key [16]byte
	rand.Read(key[:])
	s.refKey.Store(&key)
	s.maxSeq.Store(s.unknownFloor())
}

// Append hands a decision to the writer. It never blocks; false means that there was no
// room for it, which is counted. The decision may be used and changed afterwards.
func (s *Store) Append(d *policy.Decision) bool { return s.q.add(pack(d)) }

// Tally hands on a decision that is added up with the others, and not kept itself.
func (s *Store) Tally(d *policy.Decision) bool { return s.q.add(summed(d)) }

// AppendEvent hands the newest state of an event to the writer, and the number of the
// message that changed it (0 = none). It never blocks; false means that there was no
// room. Only the last state of each event is written.
func (s *Store) AppendEvent(e policy.Event, seq uint64) bool { return s.q.addEvent(e, seq) }

// Queued is how many decisions wait to be written. Unlike [Store.Health] it does not look
// at the disk.
func (s *Store) Queued() int {
	rows, _, _ := s.q.depth()
	return rows
}

// RefKey is the key that references are made with (policy.RefOf), the same at every start.
func (s *Store) RefKey() [16]byte { return *s.refKey.Load() }

// MaxSeq is the highest number of any stored decision when the store was opened, or one
// that is certainly higher.
func (s *Store) MaxSeq() uint64 { return s.maxSeq.Load() }

// Close ends the store. [Store.Run] must have returned, if it was called.
func (s *Store) Close() error {
	var err error
	if s.w != nil {
		err = s.w.close()
		s.w = nil
	}
	if r := s.reader.Swap(nil); r != nil {
		err = errors.Join(err, r.close())
	}
	return err
}
