package policy

import (
	"container/list"
	"sync"
	"time"
)

// EventChange is an event that was raised, added to or ended, and what belongs to it.
type EventChange struct {
	Event Event
	New   bool // raised just now: the moment for its actions. Ended: Event.Open is false
	// Again: a message went over though the event is open and asks for a hold (or to discard),
	// which would have stopped it before. That hold has ended, or was never put.
	Again bool
	// Actions and Release are what the trigger says for this sender; only when New or Again.
	Actions []Action
	Release Release
}

// Tracker makes events of decisions: one for each trigger and key from the moment it
// goes over until it has been below for a whole period, however many messages are
// stopped in between. It keeps a bounded number open; when there are more, the one that
// was quiet longest is ended, so that a flood of keys costs the report of the oldest.
type Tracker struct {
	nextID func() int64
	max    int

	mu      sync.Mutex // guards what follows
	open    map[eventKey]*list.Element
	byID    map[int64]*list.Element
	quiet   *list.List // of *openEvent, longest quiet first
	evicted uint64
}

type eventKey struct{ trigger, key string }

type openEvent struct {
	event    Event
	lastOver int64 // boot time of the last message that was over
	askedAt  int64 // boot time at which its hold was last asked for
}

// askEvery is how often an event asks again for its hold: it takes a moment until one
// stands, and an operator's release is to be respected for longer than that.
const askEvery = 10 * time.Second

// NewTracker makes a tracker that keeps at most max events open (0 = 10,000) and takes
// the number of each new one from nextID.
func NewTracker(nextID func() int64, max int) *Tracker {
	if max <= 0 {
		max = 10_000
	}
	return &Tracker{nextID: nextID, max: max, open: make(map[eventKey]*list.Element), byID: make(map[int64]*list.Element), quiet: list.New()}
}

// Add takes a decision and returns the events it changed.
//
// A message that a hold stopped adds to the event that put the hold, but keeps it open
// no longer: it counted nothing, so its sender is below.
func (t *Tracker) Add(d *Decision) []EventChange {
	if len(d.Over) == 0 && d.EventID == 0 {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	var changes []EventChange
	if el := t.byID[d.EventID]; el != nil && d.EventID != 0 {
		ev := &el.Value.(*openEvent).event
		ev.Stopped++
		ev.LastAt = later(ev.LastAt, d.At.Wall)
		changes = append(changes, EventChange{Event: *ev})
	}
	for i := range d.Over {
		changes = t.over(changes, &d.Over[i], d.At)
	}
	return changes
}

// over adds one message to the event of o, or raises it.
func (t *Tracker) over(changes []EventChange, o *Over, at Moment) []EventChange {
	el := t.open[eventKey{o.Trigger, o.Key}]
	if el != nil {
		ev := el.Value.(*openEvent)
		// A trigger that begins to enforce raises a new one: its actions have not been done.
		if !ev.lapsed(at) && (ev.event.Mode == o.Mode || o.Mode == Observe) {
			ev.event.Stopped++
			ev.event.LastAt, ev.event.FreeAt = later(ev.event.LastAt, at.Wall), o.FreeAt
			ev.lastOver = max(ev.lastOver, at.Boot)
			t.quiet.MoveToBack(el)
			return append(changes, ev.changed(o, at))
		}
		changes = append(changes, t.end(el))
	}
	if len(t.open) >= t.max {
		t.evicted++
		changes = append(changes, t.end(t.quiet.Front()))
	}
	ev := &openEvent{lastOver: at.Boot, askedAt: at.Boot, event: Event{
		ID: t.nextID(), At: at.Wall, LastAt: at.Wall, Trigger: o.Trigger, Watch: o.Watch, Key: o.Key,
		Account: o.Account, Mailbox: o.Mailbox, Mode: o.Mode, Verdict: o.Verdict, Max: o.Max, Per: o.Per,
		Count: o.Count, Used: o.Used, Stopped: 1, FreeAt: o.FreeAt, Claimed: o.Claimed, Open: true,
	}}
	t.add(ev)
	return append(changes, EventChange{Event: ev.event, New: true, Actions: o.Actions, Release: o.Release})
}

// changed is the change by one more message that was over.
func (ev *openEvent) changed(o *Over, at Moment) EventChange {
	c := EventChange{Event: ev.event}
	if o.Mode != Enforce || at.Boot-ev.askedAt < askEvery.Milliseconds() {
		return c
	}
	for i := range o.Actions {
		if a := o.Actions[i].Name; a == ActionHold || a == ActionDiscard {
			ev.askedAt = at.Boot
			c.Again, c.Actions, c.Release = true, o.Actions, o.Release
		}
	}
	return c
}

func (t *Tracker) add(ev *openEvent) {
	el := t.quiet.PushBack(ev)
	t.open[eventKey{ev.event.Trigger, ev.event.Key}] = el
	t.byID[ev.event.ID] = el
}

// end closes an event and forgets it.
func (t *Tracker) end(el *list.Element) EventChange {
	ev := t.quiet.Remove(el).(*openEvent)
	delete(t.open, eventKey{ev.event.Trigger, ev.event.Key})
	delete(t.byID, ev.event.ID)
	ev.event.Open = false
	return EventChange{Event: ev.event}
}

// lapsed reports whether the sender has been below for a whole period.
func (ev *openEvent) lapsed(now Moment) bool {
	return now.Boot-ev.lastOver >= ev.event.Per.Milliseconds()
}

// Close ends the events whose sender has been below for a whole period. It is to be
// called now and then.
func (t *Tracker) Close(now Moment) []EventChange {
	t.mu.Lock()
	defer t.mu.Unlock()
	var changes []EventChange
	for el := t.quiet.Front(); el != nil; {
		next := el.Next()
		if el.Value.(*openEvent).lapsed(now) {
			changes = append(changes, t.end(el))
		}
		el = next
	}
	return changes
}

// End closes the event of one key at once, because its counter was reset: the next time
// it goes over is news again.
func (t *Tracker) End(trigger, key string) (EventChange, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	el := t.open[eventKey{trigger, key}]
	if el == nil {
		return EventChange{}, false
	}
	return t.end(el), true
}

// Restore takes over the events that were open when the daemon stopped, in the order of
// their last message. Those that lapsed meanwhile come out of the next [Tracker.Close].
// What it returns had no place: another event of the same trigger and key is open, or too
// many are. They are to be ended.
func (t *Tracker) Restore(open []Event, now Moment) (left []Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range open {
		switch {
		case t.byID[e.ID] != nil: // it is its own
		case t.open[eventKey{e.Trigger, e.Key}] != nil || len(t.open) >= t.max:
			left = append(left, e)
		default:
			e.Open = true
			since := max(now.Wall.Sub(e.LastAt), 0)
			t.add(&openEvent{event: e, lastOver: now.Boot - since.Milliseconds()})
		}
	}
	return left
}

// Open returns how many events are open, and how many were ended for want of room.
func (t *Tracker) Open() (open int, evicted uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.open), t.evicted
}

// later keeps an event's last moment from going back with the clock.
func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
