package evidence

// track follows one request on one of Apache's processes over several samples. Each sample
// tells the second in which it began; the moment at which that second is up, or at which
// the request ends, tells it to within the time between two samples.
type track struct {
	row     row // as it was first seen at work
	span    span
	samples int
	open    bool // after the first one the process had the connection still
}

// newTrack begins with the first sample of a process's row: false if it shows no request.
func newTrack(r row, s sample) (*track, bool) {
	if _, ok := r.line(); !ok {
		return nil, false
	}
	t := &track{row: r, samples: 1}
	switch {
	case r.busy():
		t.span = began(r, s)
	case r.ended():
		t.span = endedSpan(s.before-(r.seconds+1)*1000, s.after-r.seconds*1000, r.millis)
	default:
		return nil, false
	}
	return t, true
}

// began is the span of a request that was at work when the sample was taken.
func began(r row, s sample) span {
	return span{startMin: s.before - (r.seconds+1)*1000, startMax: s.after - r.seconds*1000, endMin: s.before, endMax: never}
}

func endedSpan(endMin, endMax, millis int64) span {
	return span{startMin: endMin - millis - 1, startMax: endMax - millis, endMin: endMin, endMax: endMax}
}

// add takes the next sample; false: the row is another request's now, or the two
// contradict each other, and nothing more can be learnt.
func (t *track) add(r row, s sample) bool {
	sameText := r.request == t.row.request && r.client == t.row.client && r.vhost == t.row.vhost && r.slot == t.row.slot
	switch {
	case !sameText || !t.row.busy() || t.over():
		return false
	case r.busy() && r.accesses == t.row.accesses:
		return t.narrow(began(r, s))
	case r.ended() && r.accesses == t.row.accesses+1:
		// It ended after the last sample that saw it at work.
		end := endedSpan(max(t.span.endMin, s.before-(r.seconds+1)*1000), s.after-r.seconds*1000, r.millis)
		return t.narrow(end)
	}
	return false
}

func (t *track) over() bool { return t.span.endMax != never }

func (t *track) narrow(by span) bool {
	n := span{
		startMin: max(t.span.startMin, by.startMin), startMax: min(t.span.startMax, by.startMax),
		endMin: max(t.span.endMin, by.endMin), endMax: min(t.span.endMax, by.endMax),
	}
	if n.startMin > n.startMax || n.endMin > n.endMax {
		return false
	}
	t.span = n
	t.samples++
	return true
}

// continues reports whether a newly begun track is the same request as an older one, and
// then takes over what was known: how often a process has ended a request is part of it.
func (t *track) continues(old *track) bool {
	if !t.row.busy() || old == nil || !old.row.busy() || t.row.pid != old.row.pid || t.row.accesses != old.row.accesses ||
		t.row.request != old.row.request || t.row.client != old.row.client || t.row.slot != old.row.slot {
		return false
	}
	return t.narrow(old.span)
}
