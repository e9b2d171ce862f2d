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

// when is the time, between min and max, at which the request that sent was under way: its
// process for the message was started then, or it began to connect. Without a process of
// its own (SMTP from the script itself to Exim) exact is false, and it is when Exim asked.
type when struct {
	exact    bool
	min, max int64
}

func messageTime(child *policy.Process, at policy.Moment) when {
	w := when{min: at.Boot, max: at.Boot}
	if child != nil && child.Started > 0 {
		w.exact = true
		w.min = ticksBoot(child.Started)
		w.max = w.min + tickMillis
	}
	return w
}

// How much earlier, in milliseconds, a connection may have begun than it was seen to: the
// kernel tells ebpf its own time. The others see it later. That the process had the socket
// then says that its request was under way, unless PHP kept the socket from an earlier one
// (pfsockopen), which is why they are never exact.
const (
	lateEBPF   = 5
	latePacket = 30
	latePoll   = 250
	timeCut    = 2 // on its way here the time is cut to the millisecond, twice
)

// connectTime is when a process connected, as the source saw it.
func connectTime(source string, at policy.Moment) when {
	w := when{min: at.Boot - latePoll, max: at.Boot + timeCut}
	switch source {
	case sourceEBPF:
		w.exact, w.min = true, at.Boot-lateEBPF
	case sourcePacket:
		w.min = at.Boot - latePacket
	}
	return w
}

// The sources of [policy.Connection.Seen] whose word on the time is better than poll's.
const (
	sourceEBPF   = "ebpf"
	sourcePacket = "packet"
)

// fit is how well a request's time agrees with a message's.
type fit uint8

const (
	impossible fit = iota // it ended before, or began after the message
	possible              // it may have been another one, before or after it
	connected             // the process sent by SMTP itself, and it was under way when Exim asked, or the connection was seen
	certain               // it was under way when the process was started, or when it connected
)

// That a request was under way when Exim asked proves nothing where a process was started
// for the message: a script may leave it behind, and the next visitor's request follows
// within milliseconds.
func (s span) fit(w when) fit {
	switch {
	case s.startMin > w.max || s.endMax < w.min:
		return impossible
	case s.startMax > w.min || s.endMin < w.max:
		return possible
	case !w.exact:
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
