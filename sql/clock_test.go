package store

import (
	"context"
	"testing"
	"time"

	"osm/policy"
)

// clocks are both clocks of a test: the boot clock, and by how much the wall clock goes
// before or behind it.
type clocks struct {
	boot time.Duration
	wall time.Duration
}

func (c *clocks) now() policy.Moment {
	return policy.Moment{Wall: day.Add(c.boot + c.wall), Boot: policy.BootShift + c.boot.Milliseconds()}
}

func TestTheWallClockIsBelievedAfterADayOnly(t *testing.T) {
	const hour, month = time.Hour, 30 * 24 * time.Hour
	for _, c := range []struct {
		name    string
		before  clocks // of the boot clock: since a start that was not the first, and settled then
		reboot  bool
		after   clocks
		settled bool // at once
		set     bool // with an alarm
	}{
		{"a restart a moment later", clocks{boot: 25 * hour}, false, clocks{boot: 25*hour + time.Minute}, true, false},
		{"a restart within the first day", clocks{boot: hour}, false, clocks{boot: 2 * hour}, false, false},
		{"a restart much later on the same boot", clocks{boot: 25 * hour}, false, clocks{boot: 99 * hour}, true, false},
		{"the clock was set forward meanwhile", clocks{boot: 25 * hour}, false, clocks{25*hour + time.Minute, month}, false, true},
		{"the clock was set back meanwhile", clocks{boot: 25 * hour}, false, clocks{25*hour + time.Minute, -month}, false, true},
		{"the clock was corrected a little", clocks{boot: 25 * hour}, false, clocks{25*hour + time.Minute, time.Minute}, true, false},
		{"a reboot", clocks{boot: 25 * hour}, true, clocks{0, 25*hour + 5*time.Minute}, true, false},
		{"a reboot within the first day", clocks{boot: hour}, true, clocks{0, hour + 5*time.Minute}, false, false},
		{"the machine was off for a month, or its clock is wrong", clocks{boot: 25 * hour}, true, clocks{0, month}, false, false},
		{"after a reboot the clock is behind", clocks{boot: 25 * hour}, true, clocks{0, -month}, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			var first, second clockGuard
			var start clocks
			first.begin(start.now(), "one", clockState{})
			if settled, _ := first.look(start.now()); settled {
				t.Error("at the very first start the clock is believed at once")
			}
			first.look(c.before.now())
			boot := "one"
			if c.reboot {
				boot = "two"
			}
			second.begin(c.after.now(), boot, first.state("one"))
			settled, _ := second.look(c.after.now())
			if settled != c.settled || (second.set != "") != c.set {
				t.Errorf("believed %v (%q), want %v, with an alarm %v", settled, second.set, c.settled, c.set)
			}
			for range 23 {
				c.after.boot += hour
				second.look(c.after.now())
			}
			if settled, _ := second.look(c.after.now()); settled && !c.settled && c.before.boot > 24*hour {
				t.Error("believed within a day")
			}
			c.after.boot += hour
			if settled, _ := second.look(c.after.now()); !settled || second.set != "" {
				t.Errorf("a day later: believed %v, %q", settled, second.set)
			}
		})
	}
}

func TestAWrongDateDeletesNothing(t *testing.T) {
	var c clocks
	options := func(o *Options) {
		o.KeepDecisions, o.KeepEvents = 14*24*time.Hour, 30*24*time.Hour
		o.Clock, o.Now = c.now, func() time.Time { return c.now().Wall }
	}
	f, err := open(t, "", options)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	f.Append(exampleDecision(1))
	f.AppendEvent(policy.Event{ID: 1, At: day, LastAt: day, Account: "shop"}, 0)
	f.store(ctx)
	hours := func(n int) (decisions, events int64) {
		for range n {
			c.boot += time.Hour
			f.purgeAll()
		}
		return ask(t, f.path, "SELECT count(*) FROM decisions"), ask(t, f.path, "SELECT count(*) FROM events")
	}
	hours(25)
	c.wall = 10 * 365 * 24 * time.Hour
	if decisions, events := hours(23); decisions != 1 || events != 1 {
		t.Errorf("while the date is wrong: %d decisions and %d events, want what was there", decisions, events)
	}
	if f.ClockSet() == "" {
		t.Error("nobody is told that the clock was set")
	}
	f.Close()
	if f, err = open(t, f.path, options); err != nil { // it is still wrong
		t.Fatal(err)
	}
	c.wall = 0
	if decisions, events := hours(24); decisions != 1 || events != 1 {
		t.Errorf("after the date was mended: %d decisions and %d events, want what was there", decisions, events)
	}
	if decisions, events := hours(15 * 24); decisions != 0 || events != 1 {
		t.Errorf("15 days later: %d decisions and %d events, want only the event", decisions, events)
	}
	f.Close()
}
