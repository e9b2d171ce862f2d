package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"osm/actions"
	"osm/policy"
)

// task is something that needs the database, and is done again when it could not be done.
type task int

// The tasks, in the order in which they are done: holds come into force before it is asked
// which are missing.
const (
	taskRules    task = iota // put limits, exemptions and holds of the database in force
	taskReleases             // recall what operators released lately
	taskEvents               // take over the events that were open at the start
	taskActions              // carry out what open events still ask for
	taskCount
)

func (t task) String() string {
	return [...]string{"limits, exemptions and holds of the database", "what was released lately", "the open events", "the actions of open events"}[t]
}

// owedAgain is how long a task that failed waits.
const owedAgain = 10 * time.Second

// owed are the tasks that are to be done.
type owed struct {
	mu   sync.Mutex // guards todo
	todo [taskCount]bool

	// The rest is keepUp's.
	mended bool  // the database can be written
	again  int64 // boot clock: no attempt before
}

func (o *owed) add(t task) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.todo[t] = true
}

// take tells whether a task is to be done, and takes it off the list.
func (o *owed) take(t task) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	was := o.todo[t]
	o.todo[t] = false
	return was
}

// payOwed does what is to be done, as soon as the database lets it.
func (d *daemon) payOwed(ctx context.Context) {
	ok, now := d.store.Health().OK, d.clock().Boot
	if ok && !d.owed.mended {
		d.storeMended()
	}
	d.owed.mended = ok
	if !ok || now < d.owed.again {
		return
	}
	for t := range taskCount {
		if !d.owed.take(t) {
			continue
		}
		if err := d.pay(ctx, t); err != nil {
			d.owed.add(t)
			d.owed.again = now + owedAgain.Milliseconds()
			if ctx.Err() == nil {
				d.log.Warn("not done yet: "+t.String(), "err", err)
			}
			return
		}
	}
}

// storeMended begins anew with a database that could not be written, or not even read,
// until now: its key makes the references, and its rules are in force from now on.
func (d *daemon) storeMended() {
	d.engine.SetRefKey(d.store.RefKey())
	d.owed.add(taskRules)
}

func (d *daemon) pay(ctx context.Context, t task) error {
	switch t {
	case taskRules:
		if err := d.changed(ctx); err != nil {
			return err
		}
		d.held.Kick()
		return nil
	case taskReleases:
		return d.recallReleases(ctx)
	case taskEvents:
		return d.restoreEvents(ctx)
	}
	return d.actAgain(ctx)
}

// restoreEvents takes over the events that were open when the daemon last stopped. Those
// for which there is no place, because their senders went over again meanwhile, are ended.
func (d *daemon) restoreEvents(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, reading)
	defer cancel()
	open, err := d.store.OpenEvents(ctx)
	if err != nil {
		return err
	}
	for _, e := range d.tracker.Restore(open, d.clock()) {
		e.Open = false
		d.store.AppendEvent(e, 0)
	}
	return nil
}

// plannedSoon is how old an event is whose actions are certainly not on their way any more.
const plannedSoon = 5 * time.Second

var errOnTheirWay = errors.New("the actions of some events are on their way")

// actAgain carries out what open events ask for and what was not done: the database could
// not be written, the daemon was killed, or too many events came at once.
func (d *daemon) actAgain(ctx context.Context) error {
	d.acting.Lock()
	defer d.acting.Unlock()
	if len(d.planned) > 0 {
		return errOnTheirWay
	}
	if err := d.store.Flush(ctx); err != nil {
		return err
	}
	list, err := d.runner.Unfinished(ctx)
	if err != nil {
		return err
	}
	now := d.clock()
	var errs []error
	for _, u := range list {
		steps, err := d.plan(ctx, d.askedBy(u.Event, now))
		steps = actions.Remaining(steps, u.Done)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("event %d: %w", u.ID, err))
		case len(steps) == 0:
		case now.Wall.Sub(u.At).Abs() < plannedSoon:
			errs = append(errs, errOnTheirWay)
		default:
			if err := d.runner.Run(ctx, u.Event, steps); err != nil {
				errs = append(errs, fmt.Errorf("event %d: %w", u.ID, err))
			}
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	d.alarms.clear("actions")
	return nil
}

// askedBy is an event as it was when it was new, with what its trigger asks for now.
func (d *daemon) askedBy(e policy.Event, now policy.Moment) policy.EventChange {
	id := policy.Identity{Account: e.Account, Mailbox: e.Mailbox}
	if !e.Claimed {
		id = d.panel.Map().Place(id)
	}
	c := policy.EventChange{Event: e}
	c.Actions, c.Release, c.New = d.engine.Asks(now, e.Trigger, id)
	return c
}
