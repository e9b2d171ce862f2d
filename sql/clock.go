package store

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"osm/policy"
)

const (
	// clockStep is by how much the wall clock may move against the boot clock, whose
	// rate is the same: time servers correct seconds, not hours.
	clockStep = time.Hour
	// clockSettles is how long a wall clock that was set is not believed: time enough
	// for somebody to see that the date is wrong.
	clockSettles = 24 * time.Hour
)

const clockWasSet = "the wall clock was set: nothing is deleted for its age for a day"

// clockGuard watches whether the wall clock can be believed when something is to be
// deleted for its age. A board whose battery is empty starts years ago, and one wrong
// answer of a time server in 2038: neither may empty the queue or the database.
type clockGuard struct {
	mu      sync.Mutex // guards what follows
	last    policy.Moment
	offset  int64  // of the wall clock against the boot clock, in ms
	settled int64  // boot clock: from then on it is believed
	set     string // how it was set; "" once it is believed
}

// clockState is what a start must know of the clocks before it.
type clockState struct {
	BootID  string `json:"boot_id"`
	Wall    int64  `json:"wall"` // ms, like the rest
	Boot    int64  `json:"boot"`
	Settled int64  `json:"settled"`
}

// begin takes over what was known when the daemon stopped. Without it a day must pass: a
// daemon that is started anew every night still deletes what is old.
func (g *clockGuard) begin(now policy.Moment, bootID string, was clockState) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.observe(now)
	doubt := now.Boot + clockSettles.Milliseconds()
	away := time.Duration(ms(now.Wall)-was.Wall) * time.Millisecond
	switch {
	case was.BootID == bootID && was.BootID != "":
		g.offset, g.settled = was.Wall-was.Boot, was.Settled
		g.step(now)
	case was.BootID == "" || away > clockStep: // the first start, or it was off for long: who knows
		g.settled = doubt
	case away < -clockStep:
		g.settled, g.set = doubt, fmt.Sprintf("it is %s before the time at which osmd last ran", (-away).Round(time.Second))
	default:
		g.settled = now.Boot + max(was.Settled-was.Boot, 0)
	}
}

// look notes what the clocks say now, and tells whether the wall clock is believed, and
// whether it was set since the last time.
func (g *clockGuard) look(now policy.Moment) (settled, stepped bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	stepped = g.step(now)
	g.last = now
	if settled = now.Boot >= g.settled; settled {
		g.set = ""
	}
	return settled, stepped
}

// step reports whether the wall clock was set. The caller holds mu.
func (g *clockGuard) step(now policy.Moment) bool {
	by := time.Duration(ms(now.Wall)-now.Boot-g.offset) * time.Millisecond
	if by.Abs() <= clockStep {
		return false
	}
	g.observe(now)
	g.settled = now.Boot + clockSettles.Milliseconds()
	g.set = fmt.Sprintf("it was set by %s", by.Round(time.Second))
	return true
}

// observe takes the clocks as they are. The caller holds mu.
func (g *clockGuard) observe(now policy.Moment) { g.last, g.offset = now, ms(now.Wall)-now.Boot }

// state is what the next start must know.
func (g *clockGuard) state(bootID string) clockState {
	g.mu.Lock()
	defer g.mu.Unlock()
	return clockState{bootID, ms(g.last.Wall), g.last.Boot, g.settled}
}

// ClockSettled reports whether the wall clock has run evenly for a day, across restarts:
// only then may anything be deleted for its age.
func (s *Store) ClockSettled() bool {
	if s.o.Clock == nil {
		return true
	}
	settled, stepped := s.clock.look(s.o.Clock())
	if stepped {
		s.log.Error(clockWasSet, "per", s.ClockSet())
	}
	return settled
}

// ClockSet tells how the wall clock was set within the last day; "" if it was not.
func (s *Store) ClockSet() string {
	s.clock.mu.Lock()
	defer s.clock.mu.Unlock()
	return s.clock.set
}

// beginClock reads what was known of the clocks when the daemon stopped. What cannot be
// read makes the guard begin anew.
func (s *Store) beginClock(ctx context.Context) {
	if s.o.Clock == nil {
		return
	}
	var was clockState
	if r := s.reader.Load(); r != nil {
		var text string
		if r.db.QueryRowContext(ctx, "SELECT value FROM meta WHERE key = 'clock'").Scan(&text) == nil {
			if json.Unmarshal([]byte(text), &was) != nil {
				was = clockState{}
			}
		}
	}
	s.clock.begin(s.o.Clock(), s.o.BootID, was)
	if set := s.ClockSet(); set != "" {
		s.log.Error(clockWasSet, "per", set)
	}
}

// writeClock writes down what the next start must know of the clocks.
func (s *Store) writeClock(ctx context.Context) {
	if s.o.Clock == nil {
		return
	}
	text, err := json.Marshal(s.clock.state(s.o.BootID))
	if err == nil {
		_, err = s.w.conn.ExecContext(ctx, "INSERT OR REPLACE INTO meta (key, value) VALUES ('clock', ?)", string(text))
	}
	if err != nil && ctx.Err() == nil {
		s.trouble(ctx, "write the clocks down", err)
	}
}
