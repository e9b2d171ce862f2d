package main

import (
	"context"
	"fmt"
	"time"

	"osm/policy"
	store "osm/sql"
)

// restore brings the counters back: the snapshot, then the decisions stored since. What
// cannot be read costs the counters, never a message: it is reported and mail flows.
func (d *daemon) restore(ctx context.Context) {
	began := d.clock()
	found, err := d.snaps.read()
	if err != nil {
		d.log.Error("counters could not be read: replaying all decisions instead", "err", err)
	}
	d.table.SetSeq(d.store.MaxSeq())
	n, last, err := d.replay(ctx, found.after, d.longestPeriod(), nil) // all of them without a snapshot
	if err == nil && len(found.missing) > 0 {
		var more int
		more, err = d.refill(ctx, found.missing)
		n += more
	}
	d.table.DropRestore()
	d.alarms.setErr("counters-restore", err)
	d.log.Info("counters are back", "used", d.table.Stats().Keys, "replayed", n, "took", d.clock().Wall.Sub(began.Wall))
	if last.Before(found.at) {
		last = found.at
	}
	d.reportGap(ctx, last, began.Wall)
}

// reportGap tells how long no daemon was there: Exim accepted what was sent meanwhile
// unchecked. last is when the one before gave its last sign of life.
func (d *daemon) reportGap(ctx context.Context, last, now time.Time) {
	away := now.Sub(last).Round(100 * time.Millisecond)
	if last.IsZero() || away <= 0 { // the first start, or the clock was set back
		return
	}
	const layout = "2006-01-02 15:04:05 MST"
	text := fmt.Sprintf("osmd was away for at most %s, from %s to %s: Exim accepted what was sent meanwhile unchecked, unless systemd kept the socket", away, last.Format(layout), now.Format(layout))
	d.log.Warn("osmd was away", "since", last, "took", away)
	d.background.Go(func() { // the database may be locked, and mail does not wait for that
		if err := d.store.AddEntry(ctx, "gap", text); err != nil {
			d.log.Warn("the time without a daemon is not in the journal", "err", err)
		}
	})
}

// replay counts stored decisions with a number above after, not older than since, and
// tells when the newest of them was made.
func (d *daemon) replay(ctx context.Context, after uint64, since time.Duration, only map[string]bool) (n int, newest time.Time, err error) {
	now := d.clock()
	err = d.store.ReplaySince(ctx, after, now.Wall.Add(-since), now, func(c *store.Counted) error {
		n++
		if c.At.Wall.After(newest) {
			newest = c.At.Wall
		}
		d.engine.ReplayStored(c.At, c.Seq, c.Identity, c.SubjectKey, c.Recipients, only)
		return nil
	})
	if err != nil {
		return n, newest, fmt.Errorf("count stored decisions again: %w", err)
	}
	return n, newest, nil
}

// refill counts the stored decisions again for triggers that start with empty counters.
func (d *daemon) refill(ctx context.Context, triggers []string) (int, error) {
	only := map[string]bool{}
	var longest time.Duration
	for _, name := range triggers {
		only[name] = true
	}
	for _, t := range d.engine.Rules().Triggers {
		if only[t.Name] {
			longest = max(longest, t.Per)
		}
	}
	n, _, err := d.replay(ctx, 0, longest, only)
	return n, err
}

func (d *daemon) longestPeriod() time.Duration {
	longest := time.Hour
	for _, t := range d.engine.Rules().Triggers {
		if t.Mode != policy.Off {
			longest = max(longest, t.Per)
		}
	}
	return longest
}
