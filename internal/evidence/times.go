package evidence

import (
	"math"

	"osm/policy"
)

// Times are milliseconds on the clock of [policy.Moment.Boot]: no step of the wall clock
// moves one against the other. What is known to the second only is a range.

// tickMillis is the length of the kernel's clock tick as /proc shows it (USER_HZ is 100
// on all that Go runs on).
const tickMillis = 10

// ticksBoot is the beginning of the tick in which a process was started.
func ticksBoot(started int64) int64 { return started*tickMillis + policy.BootShift }

// never is the end of what has not ended.
const never = math.MaxInt64

// span is when a request began and ended, as far as is known.
type span struct{ startMin, startMax, endMin, endMax int64 }

// when is the time of a message: its process was started between forkMin and forkMax.
// Without a process of its own (SMTP from the script itself) forked is false, and both are
// when Exim asked.
type when struct {
	forked           bool
	forkMin, forkMax int64
}

func messageTime(child *policy.Process, at policy.Moment) when {
	w := when{forkMin: at.Boot, forkMax: at.Boot}
	if child != nil && child.Started > 0 {
		w.forked = true
		w.forkMin = ticksBoot(child.Started)
		w.forkMax = w.forkMin + tickMillis
	}
	return w
}

// fit is how well a request's time agrees with a message's.
type fit uint8

const (
	impossible fit = iota // it ended before, or began after the message
	possible              // it may have been another one, before or after it
	connected             // the process sent by SMTP itself, and it was under way when Exim asked
	certain               // it was under way when the process was started
)

// That a request was under way when Exim asked proves nothing where a process was started
// for the message: a script may leave it behind, and the next visitor's request follows
// within milliseconds.
func (s span) fit(w when) fit {
	switch {
	case s.startMin > w.forkMax || s.endMax < w.forkMin:
		return impossible
	case s.startMax > w.forkMin || s.endMin < w.forkMax:
		return possible
	case !w.forked:
		return connected
	}
	return certain
}

// clockSet reports whether the wall clock was set between a message and a later moment, up
// to what a daemon does to keep it right: Apache reckons with that clock.
func clockSet(message, later policy.Moment) bool {
	if message.Wall.IsZero() || later.Wall.IsZero() {
		return false
	}
	d := later.Wall.UnixMilli() - message.Wall.UnixMilli() - (later.Boot - message.Boot)
	return d > maxSlew || d < -maxSlew
}

// maxSlew is how far the two clocks may differ from a message to a look, in milliseconds.
const maxSlew = 50
