package main

import (
	"context"
	"fmt"
	"time"

	"osm/actions"
	"osm/policy"
)

// record writes a decision down, after its answer. It never blocks: what finds no room is
// counted by whoever had none.
func (d *daemon) record(dec *policy.Decision) {
	// The event first: whoever finds the decision finds its event as well.
	d.follow(d.tracker.Add(dec), dec)
	if !d.o.withoutStore {
		d.store.Append(dec)
	}
	d.service.Publish(dec)
	if dec.Verdict == policy.Freeze || dec.Verdict == policy.Discard {
		d.held.Frozen(dec)
	}
}

// follow hands changed events to the store and new ones to the actions.
func (d *daemon) follow(changes []policy.EventChange, dec *policy.Decision) {
	for _, c := range changes {
		var seq uint64
		if dec != nil {
			seq = dec.Seq
		}
		d.store.AppendEvent(c.Event, seq)
		if !c.New && !c.Again {
			continue
		}
		select {
		case d.planned <- c:
		default:
			d.alarms.raise("actions", "too many events at once: the actions of some were left out")
		}
	}
}

// maxPlanned is how many new events may wait for their actions.
const maxPlanned = 4096

// act carries out what follows when a trigger goes over, one event after the other.
func (d *daemon) act(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case c := <-d.planned:
			steps := actions.Plan(c, d.engine.Rules(), d.planner, d.clock())
			if err := d.runner.Run(ctx, c.Event, steps); err != nil {
				d.log.Error("an action failed", "event", c.Event.ID, "account", c.Event.Account, "trigger", c.Event.Trigger, "err", err)
				d.alarms.raise("actions", fmt.Sprintf("event %d: %v", c.Event.ID, err))
			}
		}
	}
}

// houseEvery is how often the daemon looks after itself.
const houseEvery = time.Second

// keepHouse ends events whose sender has been below for a whole period, looks for what is
// wrong, sees to the garbage collector, and tells systemd that the daemon is alive.
func (d *daemon) keepHouse(ctx context.Context) error {
	tick := time.NewTicker(houseEvery)
	defer tick.Stop()
	collector := newCollector()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			d.writeHits(context.WithoutCancel(ctx))
			return nil
		case <-tick.C:
			d.follow(d.tracker.Close(d.clock()), nil)
			d.endHolds(ctx)
			d.look()
			d.alive()
			collector.tune()
			if n%hitsEvery == 0 {
				d.writeHits(ctx)
			}
		}
	}
}

// endedByTime is who ended a hold that no person ended.
const endedByTime = "its time"

// endHolds takes holds whose time is over out of the rules, so that when-free mail of
// theirs goes on. While the date may be wrong none is ended for good.
func (d *daemon) endHolds(ctx context.Context) {
	if d.store.ClockSet() != "" {
		return
	}
	now := d.clock().Wall
	for _, h := range d.engine.Rules().Holds {
		if h.Until.IsZero() || now.Before(h.Until) {
			continue
		}
		if err := d.store.EndHold(ctx, h.ID, endedByTime); err != nil {
			d.log.Warn("a hold that is over could not be closed in the database", "hold", h.ID, "err", err)
			return
		}
		if err := d.changed(ctx); err != nil {
			d.log.Warn("rules were not made again after the end of a hold", "err", err)
		}
		d.held.Kick()
		return // the next one a second later: the list has changed
	}
}

// hitsEvery is after how many rounds of the house the use of exemptions is written down.
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
