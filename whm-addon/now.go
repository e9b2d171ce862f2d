package whm

import (
	"slices"
	"strings"
	"time"

	"osm/internal/control"
)

// nowBody is what is going on at this moment.
type nowBody struct {
	Status  *control.Status // nil: not for resellers
	Broken  []namedPart     // what is not connected
	Well    []namedPart
	Waiting waiting
	Near    []control.Near
	Events  map[string]control.Event // the open ones, by trigger and key
	Chart   *chart
	Past    *chart // connections past Exim; nil where there was none
	Stopped []control.Decision
	Faults  []string // parts of the page that could not be read
}

// namedPart is a part of the daemon with what to do when it is not connected.
type namedPart struct {
	Name string
	control.Part
	Hint string
}

// waiting is how much waits to be looked at.
type waiting struct {
	Messages int64
	More     bool // at least so many
	Bytes    int64
	Holds    int
	Events   int
}

// nowPage shows first what a person must act on.
func (c *call) nowPage() error {
	b := &nowBody{}
	if c.actor.Role == control.Operator {
		s, err := c.p.service.Status(c.Context(), c.actor)
		if err != nil {
			return err
		}
		b.Status = &s
		b.Broken, b.Well = partsOf(&s)
		b.Waiting = waiting{Messages: s.Held.Messages, Bytes: s.Held.Bytes, Holds: s.Holds, Events: s.OpenEvents}
	} else if err := c.waitingOf(&b.Waiting); err != nil {
		return err
	}
	c.nowLists(b)
	return c.show("now", "now", "Now", b)
}

// partsOf sorts the daemon's parts: the broken ones apart.
func partsOf(s *control.Status) (broken, well []namedPart) {
	for _, p := range []namedPart{
		{"Exim", s.Exim, ""},
		{"Database", s.Store, "mail is decided from memory meanwhile; look at the disk that store.path is on"},
		{"Accounts", s.Accounts.Part, "the maps before stay in force; look at the panel's files"},
		{"Inspector", s.Inspect, "scripts are told apart by user and directory only; systemctl status osm-inspect"},
		{"Executor", s.Executor, "held mail cannot be released or removed; systemctl status osm-executor"},
		{"Connections past Exim", s.Monitor.Part, "some are not seen, or not whose they are; systemctl status osm-watch"},
	} {
		if p.OK {
			well = append(well, p)
		} else if p.Text != "" || p.Name == "Exim" || p.Name == "Database" {
			broken = append(broken, p)
		}
	}
	return broken, well
}

// nowLists fills the lists. One that cannot be read leaves the others as they are: this is
// the page that people look at when something is broken.
func (c *call) nowLists(b *nowBody) {
	near, err := c.p.service.Near(c.Context(), c.actor, control.Page{Limit: nearListed})
	b.Near = near.Items
	b.fault(err)
	open, err := c.p.service.Events(c.Context(), c.actor, control.EventFilter{OpenOnly: true}, control.Page{Limit: allListed})
	b.fault(err)
	if b.Status == nil {
		b.Waiting.Events = len(open.Items)
	}
	b.Events = make(map[string]control.Event, len(open.Items))
	for _, e := range open.Items {
		b.Events[e.Trigger+" "+e.Key] = e
	}
	span, step, n, title := time.Hour, time.Minute, 60, "Messages per minute in the last hour"
	if c.actor.Role != control.Operator {
		span, step, n, title = 24*time.Hour, time.Hour, 24, "Messages per hour in the last 24 hours"
	}
	from := c.now.Truncate(step).Add(step - span)
	rates, err := c.p.service.Rates(c.Context(), c.actor, "", from, step)
	b.fault(err)
	b.Chart = c.p.newChart("rates", title, rates.Items, from, step, n)
	if past := c.p.connectionChart("past", strings.Replace(title, "Messages", "Connections past Exim", 1), rates.Items, from, step, n); !past.Empty() {
		b.Past = past
	}
	stopped, err := c.p.service.Decisions(c.Context(), c.actor, "", "stopped", c.now.Add(-7*24*time.Hour), control.Page{Limit: shortListed})
	b.Stopped = stopped.Items
	b.fault(err)
}

// EventOf is the open event of a counter.
func (b *nowBody) EventOf(n control.Near) *control.Event {
	if e, ok := b.Events[n.Trigger+" "+n.Key]; ok {
		return &e
	}
	return nil
}

// fault notes what could not be read.
func (b *nowBody) fault(err error) {
	if err == nil {
		return
	}
	e := problem(err)
	text := e.Message
	if e.Hint != "" {
		text += " (" + e.Hint + ")"
	}
	if !slices.Contains(b.Faults, text) {
		b.Faults = append(b.Faults, text)
	}
}

// waitingOf counts the held mail and the holds of a reseller's accounts.
func (c *call) waitingOf(w *waiting) error {
	held, err := c.p.service.Held(c.Context(), c.actor, control.Selection{}, control.Page{Limit: allListed})
	if err != nil {
		return err
	}
	for _, h := range held.Items {
		w.Messages++
		w.Bytes += h.Size
	}
	w.More = held.Next != ""
	holds, err := c.allHolds("")
	if err != nil {
		return err
	}
	w.Holds = len(holds)
	return nil
}
