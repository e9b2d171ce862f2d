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
	var n int
	if found.whole {
		n, err = d.replay(ctx, 0, d.longestPeriod(), nil)
	} else {
		n, err = d.replay(ctx, found.after, d.longestPeriod(), nil)
		if err == nil && len(found.missing) > 0 {
			var more int
			more, err = d.refill(ctx, found.missing)
			n += more
		}
	}
	d.table.DropRestore()
	d.alarms.setErr("counters-restore", err)
	d.log.Info("counters are back", "used", d.table.Stats().Keys, "replayed", n, "took", d.clock().Wall.Sub(began.Wall))
}

// replay counts stored decisions with a number above after, not older than since.
func (d *daemon) replay(ctx context.Context, after uint64, since time.Duration, only map[string]bool) (n int, err error) {
	now := d.clock()
	err = d.store.ReplaySince(ctx, after, now.Wall.Add(-since), now, func(c *store.Counted) error {
		n++
		d.engine.ReplayStored(c.At, c.Seq, c.Identity, c.SubjectKey, c.Recipients, only)
		return nil
	})
	if err != nil {
		return n, fmt.Errorf("count stored decisions again: %w", err)
	}
	return n, nil
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
	return d.replay(ctx, 0, longest, only)
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
