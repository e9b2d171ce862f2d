package door

import (
	"context"
	"fmt"
	"testing"
	"time"

	"osm/tests/lab"
)

// limitCase is one row: who sends how much by one path against which limit.
type limitCase struct {
	unit       string // of the trigger, which is called so
	senders    int    // at once
	each       int    // messages of one sender
	recipients int    // of one message
	max        int
	passes     int // messages of those
	thenSingle int // after them, messages to one recipient that still fit
}

func limitCases() []limitCase {
	return []limitCase{
		{unit: "messages", senders: 1, each: 12, recipients: 2, max: 8, passes: 8},
		{unit: "messages", senders: 50, each: 1, recipients: 2, max: 30, passes: 30},
		// 8 messages to 3 fill 24 of 25: the next is over, but one to a single recipient fits.
		{unit: "recipients", senders: 1, each: 12, recipients: 3, max: 25, passes: 8, thenSingle: 1},
		{unit: "recipients", senders: 50, each: 1, recipients: 3, max: 92, passes: 30, thenSingle: 2},
	}
}

func TestLimitNLetsExactlyNPassAndStopsTheNext(t *testing.T) {
	w := start(t)
	for _, p := range paths() {
		for _, c := range limitCases() {
			t.Run(fmt.Sprintf("%s, %d at once, %s", p.name, c.senders, c.unit), func(t *testing.T) {
				c.run(t, w, p)
			})
		}
	}
}

func (c limitCase) run(t *testing.T, w *world, p path) {
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	account := w.next()
	w.limitOf(t, account, c.unit, c.max)
	m := lab.Mail{From: "box@" + machine.Domain(account), Subject: "A run of mail by " + account}
	for i := range c.recipients {
		m.To = append(m.To, fmt.Sprintf("reader%d@elsewhere.example", i))
	}
	err := atOnce(c.senders, func(int) error { return p.send(ctx, account, c.each, m) })
	if err != nil {
		t.Fatal(err)
	}
	stopped := c.exactly(t, w, m.Subject, c.senders*c.each, c.passes)
	used := c.passes
	if c.unit == "recipients" {
		used *= c.recipients
	}
	c.explained(t, w, p, account, frozen(t, m.Subject)[0], used)

	single := lab.Mail{From: m.From, To: m.To[:1], Subject: m.Subject + " to one"}
	if err := p.send(ctx, account, c.thenSingle+2, single); err != nil {
		t.Fatal(err)
	}
	stopped += c.exactly(t, w, single.Subject, c.thenSingle+2, c.thenSingle)
	if got := w.counted(t, account)[c.unit+"/"+account]; got != int64(c.max) {
		t.Errorf("usage says %d of %s, want %d", got, c.unit, c.max)
	}
	eventually(t, 5*time.Second, "one event with all that was stopped", func() error {
		events := list[event](t, w, "events", "--account", account)
		if len(events) != 1 || events[0].Stopped != int64(stopped) || events[0].Trigger != c.unit || events[0].Key != account {
			return fmt.Errorf("events are %+v, want one of %s with %d stopped", events, c.unit, stopped)
		}
		return nil
	})
}

// exactly checks how many of the messages passed, and returns how many were stopped. More
// than that may pass only if they are marked as unchecked, on a machine too busy to answer
// in time, and then few.
func (c limitCase) exactly(t *testing.T, w *world, subject string, sent, passes int) (stopped int) {
	t.Helper()
	delivered, stopped := settled(t, subject, sent)
	if delivered == passes {
		return stopped
	}
	unchecked := w.unchecked(t)
	if delivered < passes || delivered-passes > unchecked || delivered-passes > few {
		t.Fatalf("%d of %d passed, want %d; %d messages were marked as unchecked", delivered, sent, passes, unchecked)
	}
	t.Logf("%d of %d passed, %d of them unchecked: this machine is very busy", delivered, sent, delivered-passes)
	return stopped
}

// explained checks what is said of a message that the limit froze.
func (c limitCase) explained(t *testing.T, w *world, p path, account, id string, used int) {
	t.Helper()
	x := w.explain(t, id)
	d := x.Decision
	if d.Verdict != "freeze" || d.Reason != "over" || d.Trigger != c.unit || d.Account != account || d.Source != p.source || d.MessageID != id {
		t.Errorf("explain %s: decision is %+v", id, d)
	}
	want := over{Trigger: c.unit, Key: account, Used: int64(used), Max: int64(c.max)}
	if len(d.Over) != 1 || d.Over[0] != want {
		t.Errorf("explain %s: over is %+v, want %+v", id, d.Over, want)
	}
	if x.Event == nil || x.Event.Trigger != c.unit || x.Event.Max != int64(c.max) {
		t.Errorf("explain %s: event is %+v", id, x.Event)
	}
	if x.Held == nil || x.Held.State != "held" || x.Next == "" || x.Command == "" {
		t.Errorf("explain %s: held is %+v, next %q, command %q", id, x.Held, x.Next, x.Command)
	}
	if again := w.explain(t, d.Ref); again.Decision.MessageID != id {
		t.Errorf("explain %s tells of message %s, want %s", d.Ref, again.Decision.MessageID, id)
	}
}
