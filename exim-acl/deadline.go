package eximacl

import (
	"context"
	"sync"
	"time"
)

// deadlines watches over the exchanges in flight: one look at all of them now and then
// instead of a timer for each, which would cost more than the answer's own deadline is
// worth knowing to the millisecond.
type deadlines struct {
	every time.Duration // how late an exchange may be found to be late
	base  time.Time     // of deadlines: no clock step moves them
	wake  chan struct{} // something is in flight again

	mu    sync.Mutex // guards what follows, and the links of the exchanges
	first *exchange
}

func newDeadlines(shortest time.Duration) *deadlines {
	return &deadlines{every: max(shortest/16, time.Millisecond), base: time.Now(), wake: make(chan struct{}, 1)}
}

// in is the moment after so long a time.
func (d *deadlines) in(t time.Duration) int64 { return int64(time.Since(d.base) + t) }

func (d *deadlines) add(x *exchange) {
	d.mu.Lock()
	empty := d.first == nil
	if x.after = d.first; x.after != nil {
		x.after.before = x
	}
	d.first = x
	d.mu.Unlock()
	if empty {
		select {
		case d.wake <- struct{}{}:
		default:
		}
	}
}

func (d *deadlines) remove(x *exchange) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if x.before != nil {
		x.before.after = x.after
	} else {
		d.first = x.after
	}
	if x.after != nil {
		x.after.before = x.before
	}
}

// run looks for exchanges whose deadline has passed until ctx ends, and has each expire.
func (d *deadlines) run(ctx context.Context, expire func(*exchange)) {
	timer := time.NewTimer(d.every)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.wake:
		}
		for late, some := d.late(nil); some; late, some = d.late(late[:0]) {
			for _, x := range late {
				expire(x)
			}
			timer.Reset(d.every)
			select {
			case <-ctx.Done():
				return
			case <-timer.C:
			}
		}
	}
}

// late appends the exchanges whose deadline has passed and puts their deadline off, so
// that each is found once; some is whether any is in flight.
func (d *deadlines) late(to []*exchange) (_ []*exchange, some bool) {
	at := d.in(0)
	d.mu.Lock()
	defer d.mu.Unlock()
	for x := d.first; x != nil; x = x.after {
		if x.deadline.Load() <= at {
			x.deadline.Store(never)
			to = append(to, x)
		}
	}
	return to, d.first != nil
}

// never is no deadline.
const never = 1<<63 - 1
