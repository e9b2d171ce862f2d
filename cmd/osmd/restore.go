package main

import (
	"context"
	"fmt"
	"time"
)

// restore brings the counters back: the snapshot, then the decisions stored since. What
// cannot be read costs the counters, never a message: it is reported, mail flows, and what
// is missing is tried for until it is there ([daemon.fillCounters]).
func (d *daemon) restore(ctx context.Context) {
	began := d.clock()
	found, err := d.snaps.read()
	if err != nil {
		d.log.Error("counters could not be read: replaying all decisions instead", "err", err)
	}
	newer, whole := d.engine.Restored(found.slots)
	d.missing.add(&lack{only: newer, after: found.after, snapshot: true})
	d.missing.add(&lack{only: whole})
	n, last, _ := d.fillAll(ctx)
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
