package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"osm/internal/panel"
)

// alarmStands is how long an alarm about something that comes and goes stands after it
// was last seen.
const alarmStands = time.Minute

// look raises and clears the alarms about the daemon itself, once a second.
func (d *daemon) look() {
	h := d.store.Health()
	text := ""
	if !h.OK {
		text = fmt.Sprintf("decisions are kept in memory only (%d so far): %s", h.Queued, h.Problem)
	}
	d.alarms.set("store", text)
	if h.SetAside != "" {
		text := "a damaged database was set aside as " + h.SetAside + " and a new one begun; remove the file once it is not needed"
		if h.Lost != "" {
			text += "; not everything could be read of: " + h.Lost + ": look whether holds, limits and exemptions are what they should be"
		}
		d.alarms.set("store-set-aside", text)
	}
	text = ""
	if set := d.store.ClockSet(); set != "" {
		text = "the wall clock cannot be believed: " + set + "; nothing is deleted for its age, and no hold is closed, until it has run evenly for a day"
	}
	d.alarms.set("clock", text)
	d.rising("store-dropped", h.Dropped, "decisions found no room and were not stored: %d so far")
	st := &d.server.Stats
	shed := uint64(st.Shed.Load() + st.Late.Load())
	d.rising("overload", shed, "more questions at once than exim.max_connections, or answers past the deadline: only known senders are stopped; %d so far; busiest: "+d.flow.busy.most())
	d.rising("refused", uint64(st.Refused.Load()), "far too many questions at once: closed, accepted unchecked; %d so far; busiest: "+d.flow.busy.most())
	d.rising("unchecked", d.uncheckedTotal(), "messages were accepted unchecked: %d so far; see osmctl status")
	d.rising("unanswered", uint64(st.Unsent.Load()), "Exim asked and gave up before its answer: accepted unchecked; %d so far; the daemon stood still or was too slow")
	d.rising("bad-peer", uint64(st.BadPeer.Load()), "somebody who is not Exim asked on the policy socket: %d times so far; see the log")
	d.rising("malformed", uint64(st.Malformed.Load()), "questions of Exim could not be understood: %d so far; is the ACL of this version?")
	d.rising("panics", uint64(st.Panics.Load()), "faults in the daemon, each of one message, which was accepted: %d so far; please report the log")
	d.rising("held-full", d.flow.heldFull.Load(), "an account has more held mail than held.max_messages or held.max_bytes: %d messages so far; see osmctl held list")
	text = ""
	if err := d.flow.inspector.Err(); err != nil {
		text = "osmd inspect does not answer, scripts are told apart by uid and directory only: " + err.Error()
	}
	d.alarms.set("inspector", text)
	d.lookAtWatch()
	held := d.held.Status()
	d.alarms.set("held", held.Problem)
	d.alarms.set("exim-hooks", strings.Join(held.Hooks, "; "))
	d.alarms.set("exim-timers", strings.Join(held.Alarms, "; "))
	d.alarms.set("accounts", strings.Join(mapProblems(d.panel.Status().Files), "; "))
	for _, name := range d.children.gone() {
		d.alarms.raise("part-"+name, "osmd "+name+" has ended; restart osmd to have it again")
	}
}

// rising raises an alarm while a counter has risen within the last minute.
func (d *daemon) rising(name string, count uint64, text string) {
	w := d.watched[name]
	now := d.clock()
	if count > w.count {
		d.watched[name] = watched{count: count, at: now.Boot}
		d.alarms.raise(name, fmt.Sprintf(text, count))
		return
	}
	if now.Boot-w.at > alarmStands.Milliseconds() {
		d.alarms.clear(name)
	}
}

// watched is what a counter was when it last rose.
type watched struct {
	count uint64
	at    int64
}

// mapProblems says what is wrong with the files that accounts are read from.
func mapProblems(files []panel.FileStatus) []string {
	var out []string
	for _, f := range files {
		if f.Err != "" {
			out = append(out, f.Path+": "+f.Err)
		}
	}
	return out
}

// busiest counts who asks in times of overload, so that the alarm can name somebody. It
// forgets every ten seconds and is bounded.
type busiest struct {
	mu    sync.Mutex
	since int64
	asked map[string]int
	last  string
}

const (
	busyFor  = 10_000 // milliseconds
	busyKeys = 1000
)

func (b *busiest) add(who string, boot int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.asked == nil || boot-b.since > busyFor {
		b.asked, b.since = map[string]int{}, boot
	}
	if _, known := b.asked[who]; known || len(b.asked) < busyKeys {
		b.asked[who]++
	}
}

func (b *busiest) most() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var names []string
	for name := range b.asked {
		names = append(names, name)
	}
	if len(names) == 0 {
		return cmp.Or(b.last, "not known")
	}
	b.last = slices.MaxFunc(names, func(x, y string) int { return cmp.Compare(b.asked[x], b.asked[y]) })
	return b.last
}
