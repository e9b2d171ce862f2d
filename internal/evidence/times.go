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

// when is the time of a message: its process was started between forkMin and forkMax, and
// Exim asked about it at asked. Without a process of its own (SMTP from the script itself)
// forked is false.
type when struct {
	forked           bool
	forkMin, forkMax int64
	asked            int64
}

func messageTime(child *policy.Process, at policy.Moment) when {
	w := when{forkMin: at.Boot, forkMax: at.Boot, asked: at.Boot}
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
	waited                // it was under way when Exim asked: it is the one unless the script did not wait for sendmail
	certain               // it was under way when the process was started
)

func (s span) fit(w when) fit {
	switch {
	case s.startMin > w.forkMax || s.endMax < w.forkMin:
		return impossible
	case w.forked && s.startMax <= w.forkMin && s.endMin >= w.forkMax:
		return certain
	case s.startMax <= w.asked && s.endMin >= w.asked:
		return waited
	}
	return possible
}
