package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"osm/policy"
	store "osm/sql"
)

// refillAgain is how long a refill that failed waits.
const refillAgain = 10 * time.Second

// missing is what the counters lack: after a start what was decided since the snapshot,
// after a change of the rules all that a changed trigger would have counted. It is filled
// in from the database, one after the other; what fails is gone on with where it stopped.
// Until then no snapshot takes these counters for whole.
type missing struct {
	mu   sync.Mutex // guards list
	list []*lack
	kick chan struct{}
}

// lack is what some triggers' counters lack.
type lack struct {
	only      policy.Refill
	after     uint64 // all up to this number is in the counters
	snapshot  bool   // they came from the snapshot, and lack what was decided since
	unwritten bool   // some of it may wait to be stored
}

func newMissing() *missing { return &missing{kick: make(chan struct{}, 1)} }

func (m *missing) add(l *lack) {
	if len(l.only) == 0 {
		return
	}
	m.mu.Lock()
	m.list = append(m.list, l)
	m.mu.Unlock()
	select {
	case m.kick <- struct{}{}:
	default:
	}
}

// first is what is to be filled in next, nil if nothing is.
func (m *missing) first() *lack {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.list) == 0 {
		return nil
	}
	return m.list[0]
}

// sinceSnapshot reports whether the counters lack what was decided since the snapshot that
// they came from.
func (m *missing) sinceSnapshot() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.ContainsFunc(m.list, func(l *lack) bool { return l.snapshot })
}

// done forgets what first returned.
func (m *missing) done() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.list = m.list[1:]
}

// fillCounters fills in what the counters lack until ctx ends.
func (d *daemon) fillCounters(ctx context.Context) error {
	for {
		again := time.NewTimer(time.Hour)
		if _, _, err := d.fillAll(ctx); err != nil {
			again.Reset(refillAgain)
		}
		select {
		case <-ctx.Done():
			again.Stop()
			return nil
		case <-d.missing.kick:
		case <-again.C:
		}
		again.Stop()
	}
}

// fillAll fills in all that the counters lack, as far as it can be read: n decisions, the
// newest of which was made at newest.
func (d *daemon) fillAll(ctx context.Context) (n int, newest time.Time, err error) {
	for l := d.missing.first(); l != nil; l = d.missing.first() {
		more, last, err := d.fill(ctx, l)
		n += more
		if last.After(newest) {
			newest = last
		}
		if err != nil {
			if ctx.Err() == nil {
				err = fmt.Errorf("the counters of %s are not full yet: %w", strings.Join(l.only.Names(), ", "), err)
				d.alarms.setErr("counters-restore", err)
			}
			return n, newest, err
		}
		d.engine.Filled(l.only)
		d.missing.done()
	}
	d.table.DropRestore()
	d.alarms.clear("counters-restore")
	return n, newest, nil
}

var errUnwritten = errors.New("the latest decisions are not stored yet")

// fill counts stored decisions again for triggers that lack them.
func (d *daemon) fill(ctx context.Context, l *lack) (n int, newest time.Time, err error) {
	if l.unwritten && !d.written(ctx) {
		return 0, newest, errUnwritten
	}
	l.unwritten = false
	now := d.clock()
	err = d.store.ReplaySince(ctx, l.after, now.Wall.Add(-d.engine.Longest(l.only)), now, func(c *store.Counted) error {
		d.engine.ReplayStored(c.At, c.Seq, d.panel.Map().Place(c.Identity), c.SubjectKey, c.Recipients, l.only)
		n, newest, l.after = n+1, c.At.Wall, c.Seq
		return nil
	})
	if err != nil {
		err = fmt.Errorf("count stored decisions again: %w", err)
	}
	return n, newest, err
}
