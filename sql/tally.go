package store

import "osm/policy"

// Tally is what became of a number of messages; and how many connections bypassed Exim,
// which are no messages and are in none of the other numbers.
type Tally struct {
	Messages          int64 `json:"messages"` // passed
	Recipients        int64 `json:"recipients"`
	Frozen            int64 `json:"frozen"`
	Discarded         int64 `json:"discarded"`
	Deferred          int64 `json:"deferred"`
	Denied            int64 `json:"denied"`
	Stopped           int64 `json:"stopped"` // frozen, discarded, deferred and denied
	StoppedRecipients int64 `json:"stopped_recipients"`
	Observed          int64 `json:"observed"` // passed, but an observing trigger was over
	Unchecked         int64 `json:"unchecked"`
	Connections       int64 `json:"connections"` // that bypassed Exim
}

// tallyColumns are the columns of minutes and hours, in the order of [Tally.columns].
const tallyColumns = "messages, recipients, frozen, discarded, deferred, denied, stopped_recipients, observed, unchecked, connections"

// tallySums adds those columns up.
const tallySums = "sum(messages), sum(recipients), sum(frozen), sum(discarded), sum(deferred), sum(denied), sum(stopped_recipients), sum(observed), sum(unchecked), sum(connections)"

// add counts one decision.
func (t *Tally) add(r *row) {
	if sourceOf(r.flags) == policy.SourceDirect {
		t.Connections++
		return
	}
	switch r.verdict {
	case policy.Freeze:
		t.Frozen++
	case policy.Discard:
		t.Discarded++
	case policy.Defer:
		t.Deferred++
	case policy.Deny:
		t.Denied++
	default:
		t.Messages++
		t.Recipients += r.recipients
		if r.would != policy.Accept {
			t.Observed++
		}
		if reasonOf(r.flags).Unchecked() {
			t.Unchecked++
		}
		return
	}
	t.Stopped++
	t.StoppedRecipients += r.recipients
}

// Add adds another tally.
func (t *Tally) Add(o *Tally) {
	from := o.columns()
	for i, c := range t.columns() {
		*c += *from[i]
	}
	t.Stopped += o.Stopped
}

// columns are the stored parts.
func (t *Tally) columns() [10]*int64 {
	return [10]*int64{&t.Messages, &t.Recipients, &t.Frozen, &t.Discarded, &t.Deferred, &t.Denied, &t.StoppedRecipients, &t.Observed, &t.Unchecked, &t.Connections}
}

// rollup is what the decisions of one batch add to the tables minutes and hours.
type rollup struct {
	minutes map[int64]*minute
	hours   map[hourKey]*Tally
}

type minute struct {
	first, last uint64
	Tally
}

type hourKey struct{ hour, account int64 }

func newRollup() rollup {
	return rollup{minutes: make(map[int64]*minute), hours: make(map[hourKey]*Tally)}
}

// add counts one decision.
func (u *rollup) add(r *row, account int64) {
	m := u.minutes[r.at/60_000]
	if m == nil {
		m = &minute{first: r.seq, last: r.seq}
		u.minutes[r.at/60_000] = m
	}
	m.first, m.last = min(m.first, r.seq), max(m.last, r.seq)
	m.add(r)
	k := hourKey{r.at / 3_600_000, account}
	t := u.hours[k]
	if t == nil {
		t = new(Tally)
		u.hours[k] = t
	}
	t.add(r)
}

// clear makes it ready for the next batch.
func (u *rollup) clear() {
	clear(u.minutes)
	clear(u.hours)
}
