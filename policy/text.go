package policy

import (
	"strconv"
	"strings"
	"time"
)

// maxText is the length of [Decision.Log] and [Decision.Text], in bytes.
const maxText = 200

// write makes the texts of a decision. Nothing that a stranger wrote stands in them: no
// key, no address, no Subject. The reference leads to those.
func (d *Decision) write() {
	if d.Verdict == Accept && len(d.Over) == 0 {
		if d.Reason.Unchecked() {
			d.Log = "unchecked=" + d.Reason.String()
		}
		return
	}
	var buf [maxText]byte
	d.Log = plainText(d.appendLog(buf[:0]))
	if d.Verdict != Accept {
		d.Text = plainText(d.appendText(buf[:0]))
	}
}

// appendLog writes the line for Exim's log, in the manner of
// "trigger=account-hour used=300/300 per 1h free=14:05:10Z".
func (d *Decision) appendLog(b []byte) []byte {
	if d.Verdict == Accept && d.Would != Accept {
		b = append(append(append(b, "would="...), d.Would.String()...), ' ')
	}
	if d.HoldID != 0 || d.Reason == ReasonHold {
		b = strconv.AppendInt(append(b, "hold="...), d.HoldID, 10)
		if d.Trigger != "" {
			b = append(append(b, " trigger="...), d.Trigger...)
		}
	}
	if o := d.decider(); o != nil {
		b = append(append(b, "trigger="...), o.Trigger...)
		b = strconv.AppendInt(append(b, " used="...), o.Used, 10)
		b = strconv.AppendInt(append(b, '/'), o.Max, 10)
		b = append(append(b, " per "...), PeriodText(o.Per)...)
		if o.Units > 1 {
			b = strconv.AppendInt(append(b, " units="...), o.Units, 10)
		}
		if o.FreeAt.IsZero() {
			b = append(b, " free=never"...)
		} else {
			b = append(b, " free="...)
			b = o.FreeAt.UTC().AppendFormat(b, freeLayout(d.At.Wall, o.FreeAt))
		}
	}
	if d.Reason == ReasonHeldFull {
		b = append(b, " held_full"...)
	}
	if d.Verdict == Accept && d.Reason.Unchecked() {
		b = append(append(b, " unchecked="...), d.Reason.String()...)
	}
	return b
}

// freeLayout leaves the day out where nobody can mistake it.
func freeLayout(now, free time.Time) string {
	if free.Sub(now) < 12*time.Hour {
		return "15:04:05Z"
	}
	return "2006-01-02T15:04:05Z"
}

// appendText writes what the mail client is told.
func (d *Decision) appendText(b []byte) []byte {
	o := d.decider()
	switch {
	case d.Reason == ReasonHeldFull:
		b = append(b, "too much outgoing mail of this sender is held already, try again later"...)
	case o == nil:
		b = append(b, "outgoing mail of this sender is on hold"...)
	case d.Reason == ReasonLargerThanLimit:
		b = strconv.AppendInt(append(b, "this message counts as "...), o.Units, 10)
		b = appendLimit(append(b, ", more than the sending limit of "...), o)
	default:
		b = appendLimit(append(b, "the sending limit of "...), o)
		b = append(b, " is reached"...)
		if free := d.FreeAt(); !free.IsZero() {
			b = free.UTC().AppendFormat(append(b, ", free again at "...), "2006-01-02 15:04:05 UTC")
		}
	}
	return append(append(append(b, " (ref "...), d.Ref...), ')')
}

func appendLimit(b []byte, o *Over) []byte {
	b = strconv.AppendInt(b, o.Max, 10)
	b = append(append(append(b, ' '), o.Count.String()...), " per "...)
	return append(b, PeriodText(o.Per)...)
}

// decider is the trigger that decided, or would have; nil if it was none.
func (d *Decision) decider() *Over {
	if d.Reason == ReasonHold {
		return nil
	}
	for i := range d.Over {
		o := &d.Over[i]
		if o.Trigger == d.Trigger {
			return o
		}
	}
	return nil
}

// FreeAt is when a message like this one would pass all enforcing triggers: the wall
// time at which the last of them has room, or zero if one never has or none is over.
func (d *Decision) FreeAt() (free time.Time) {
	for i := range d.Over {
		o := &d.Over[i]
		if o.Mode != Enforce || o.Verdict == Accept {
			continue
		}
		if o.FreeAt.IsZero() {
			return time.Time{}
		}
		if o.FreeAt.After(free) {
			free = o.FreeAt
		}
	}
	return free
}

// PeriodText writes a period as people do: "1h", not "1h0m0s".
func PeriodText(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// plainText keeps the printable ASCII of b, without the two characters that an answer
// would have to escape, and cuts it to [maxText] bytes.
func plainText(b []byte) string {
	n := 0
	for _, c := range b {
		if c >= ' ' && c <= '~' && c != '"' && c != '\\' && n < maxText {
			b[n] = c
			n++
		}
	}
	return string(b[:n])
}
