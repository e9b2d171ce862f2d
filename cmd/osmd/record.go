package main

import (
	"context"
	"fmt"
	"time"

	"osm/policy"
)

// record writes a decision down, after its answer. It never blocks: what finds no room is
// counted by whoever had none.
func (d *daemon) record(dec *policy.Decision) {
	// The event first: whoever finds the decision finds its event as well.
	changes := d.tracker.Add(dec)
	kept := dec.Submission == nil || dec.Submission.Direct == nil || d.back.keeps(dec, changes)
	if kept {
		d.follow(changes, dec)
	} else {
		d.follow(changes, nil)
	}
	switch {
	case d.o.withoutStore:
	case kept:
		d.store.Append(dec)
	default:
		d.store.Tally(dec)
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
		if !c.Event.Open {
			d.witnesses.ended(&c.Event)
		}
		if !c.New && !c.Again {
			continue
		}
		select {
		case d.planned <- c:
		default:
			d.alarms.raise("actions", "too many events at once: the actions of some wait")
			d.owed.add(taskActions)
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
			d.carryOut(ctx, c)
		}
	}
}

// carryOut does what follows one event. What fails is done again ([actions.Runner.Due]).
func (d *daemon) carryOut(ctx context.Context, c policy.EventChange) {
	d.acting.Lock()
	defer d.acting.Unlock()
	if c.New {
		d.witnesses.raised(ctx, c.Event)
	}
	steps, err := d.plan(ctx, c)
	if err == nil {
		err = d.runner.Run(ctx, c.Event, steps)
	}
	if err != nil {
		d.log.Error("an action failed", "event", c.Event.ID, "account", c.Event.Account, "trigger", c.Event.Trigger, "err", err)
		d.alarms.raise("actions", fmt.Sprintf("event %d: %v", c.Event.ID, err))
		d.owed.add(taskRules) // a hold may be stored and not stand
		d.owed.add(taskActions)
	}
}

// houseEvery is how often the daemon looks after itself.
const houseEvery = time.Second

// keepHouse ends events whose sender has been below for a whole period, looks for what is
// wrong, and sees to the garbage collector. It waits for no database.
func (d *daemon) keepHouse(ctx context.Context) error {
	tick := time.NewTicker(houseEvery)
	defer tick.Stop()
	collector := newCollector()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			d.follow(d.tracker.Close(d.clock()), nil)
			d.look()
			collector.tune()
		}
	}
}
