package main

import (
	"context"
	"time"

	"osm/actions"
	"osm/policy"
)

// buildRunner makes what does the actions of events.
func (d *daemon) buildRunner() {
	d.runner = actions.NewRunner(actions.RunnerOptions{
		Store: d.store, Executor: d.executor, Log: d.log.With("component", "actions"), Now: d.clock, Changed: d.changed,
		Grace:      func() time.Duration { return d.engine.Rules().Settings.HoldGrace },
		Alarm:      d.actionFailed,
		ClockWrong: func() bool { return d.store.ClockSet() != "" },
		Report:     d.tell, Document: d.document,
		LiftOnNewPassword: func() bool { return d.settings.config().Actions.LiftOnNewPassword },
		Kick: func() {
			select {
			case d.due <- struct{}{}:
			default:
			}
		},
	})
}

// actionFailed tells that an action will not be done by itself. It is told for a day.
func (d *daemon) actionFailed(text string) {
	d.failedAt.Store(d.wall().UnixMilli())
	d.alarms.raise("actions-failed", text)
}

// plan says what follows an event, with all that is known about it.
func (d *daemon) plan(ctx context.Context, c policy.EventChange) ([]actions.Step, error) {
	if !c.New && !c.Again {
		return nil, nil
	}
	rules, now := d.engine.Rules(), d.clock()
	x := actions.Context{Rules: rules, Holds: d.planner, Now: now, DryRun: d.settings.config().Actions.DryRun,
		Requests: d.witnesses.requests(&c.Event), Early: now.Wall.Sub(c.Event.At) < evidenceTime}
	if climbs(c.Actions) {
		if err := d.store.Flush(ctx); err != nil {
			return nil, err
		}
		n, err := d.store.Times(ctx, &c.Event, now.Wall.Add(-rules.Settings.Again))
		if err != nil {
			return nil, err
		}
		x.Times = n
		if c.Again { // this time is not written down yet
			x.Times++
		}
	}
	return actions.Plan(c, &x), nil
}

// evidenceTime is how long an event's actions wait for evidence that they need.
const evidenceTime = 5 * time.Second

// climbs reports whether some actions follow only from a later time on.
func climbs(list []policy.Action) bool {
	for _, a := range list {
		if a.From > 1 {
			return true
		}
	}
	return false
}

// planAgain plans the actions of a stored event anew.
func (d *daemon) planAgain(ctx context.Context, ev policy.Event) ([]actions.Step, error) {
	return d.plan(ctx, d.askedBy(ev, d.clock()))
}

// dueEvery is how often it is looked for actions that are to be tried again or undone.
const dueEvery = 5 * time.Second

// lookEvery is how often it is looked whether what was done stands still.
const lookEvery = 5 * time.Minute

// followUp does slow actions, tries failed ones again, and ends those whose time is over. The panel's
// commands may be slow: it waits beside everything else.
func (d *daemon) followUp(ctx context.Context) error {
	tick, look := time.NewTicker(dueEvery), time.NewTicker(lookEvery)
	defer tick.Stop()
	defer look.Stop()
	for {
		select {
		case <-look.C:
			if err := d.runner.Look(ctx); err != nil && ctx.Err() == nil {
				d.log.Warn("how actions stand", "err", err)
			}
			continue
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-d.due:
		}
		if at := d.failedAt.Load(); at != 0 && d.wall().UnixMilli()-at > 24*time.Hour.Milliseconds() {
			d.failedAt.Store(0)
			d.alarms.clear("actions-failed")
		}
		if !d.store.Health().OK {
			continue
		}
		if err := d.runner.Due(ctx, d.planAgain); err != nil && ctx.Err() == nil {
			d.log.Warn("actions that were due", "err", err)
		}
	}
}
