package main

import (
	"context"
	"errors"
	"time"

	"osm/actions"
	"osm/policy"
	store "osm/sql"
)

// upkeepEvery is how often the daemon looks whether something is to be written down.
const upkeepEvery = time.Second

// keepUp does what the house has to do with the database, which may be locked or slow: it
// waits beside everything else.
func (d *daemon) keepUp(ctx context.Context) error {
	tick := time.NewTicker(upkeepEvery)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			d.writeHits(context.WithoutCancel(ctx))
			return nil
		case <-tick.C:
			d.payOwed(ctx)
			if n%expiredEvery == 0 || d.holdIsOver() {
				d.endHolds(ctx)
			}
			if n%hitsEvery == hitsEvery-1 {
				d.writeHits(ctx)
			}
		}
	}
}

// expiredEvery is after how many rounds the database is asked for holds whose time is over,
// beside those in the rules: they ran out while no daemon was there.
const expiredEvery = 60

// holdIsOver reports whether the time of a hold in the rules is over.
func (d *daemon) holdIsOver() bool {
	now := d.clock().Wall
	for _, h := range d.engine.Rules().Holds {
		if !h.Until.IsZero() && !now.Before(h.Until) {
			return true
		}
	}
	return false
}

// endHolds closes the holds whose time is over and takes them out of the rules, so that
// when-free mail of theirs goes on. While the date may be wrong none is ended for good.
func (d *daemon) endHolds(ctx context.Context) {
	if d.store.ClockSet() != "" {
		return
	}
	over, err := d.store.ExpiredHolds(ctx)
	for i := 0; i < len(over) && err == nil; i++ {
		if err = d.store.EndHold(ctx, over[i].ID, actions.ByTime); errors.Is(err, store.ErrNotFound) {
			err = nil // somebody was quicker
		}
	}
	if err != nil && ctx.Err() == nil {
		d.log.Warn("holds that are over could not be closed in the database", "err", err)
	}
	if !d.holdIsOver() {
		return
	}
	if err := d.changed(ctx); err != nil && ctx.Err() == nil {
		d.log.Warn("rules were not made again after the end of a hold", "err", err)
	}
	d.held.Kick()
}

// hitsEvery is after how many rounds the use of exemptions is written down.
const hitsEvery = 30

// writeHits adds what exemptions were used for since the last time. What cannot be
// written now is written the next time.
func (d *daemon) writeHits(ctx context.Context) {
	more, now := map[int64]int64{}, map[int64]int64{}
	for _, h := range d.engine.ExemptionHits() {
		id := h.Exemption.ID
		if id == 0 {
			continue // of the file: it has no row
		}
		now[id] = h.Hits
		if n := h.Hits - d.hits[id]; n > 0 {
			more[id] = n
		}
	}
	if len(more) == 0 {
		return
	}
	if err := d.store.AddExemptionHits(ctx, more); err != nil {
		d.log.Warn("the use of exemptions was not written down yet", "err", err)
		return
	}
	d.hits = now
}

// aliveEvery is how often systemd is told that the daemon is alive, a fraction of the time
// after which it would start it anew.
const aliveEvery = time.Second

// keepAlive tells systemd that messages can be judged. It waits for no disk: a database
// that is stuck must not end the daemon, which decides without it. A lock that is never
// given back must.
func (d *daemon) keepAlive(ctx context.Context) error {
	tick := time.NewTicker(aliveEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			d.throughMemory()
			d.alive()
		}
	}
}

// throughMemory goes where each message goes, counts nothing, and does not come back where
// a message would not.
func (d *daemon) throughMemory() {
	id := policy.Identity{Account: policy.AccountUnknown, SubKey: "nobody"}
	d.engine.ReplayStored(d.clock(), 0, id, "", 1, policy.Refill{}) // the rules, no counter
	d.table.Stats()                                                 // the lock of every counter
	d.panel.Map()
	d.tracker.Open()
	d.store.Queued()
}
