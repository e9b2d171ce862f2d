package report

import (
	"cmp"
	"slices"

	store "osm/sql"
)

// Top is what the messages have in common: where most of them came from.
type Top struct {
	Mailboxes   Shares `json:"mailboxes"`
	Directories Shares `json:"directories"`
	Subjects    Shares `json:"subjects"`
	ClientIPs   Shares `json:"client_ips"`
	Scripts     Shares `json:"scripts"`
}

// Shares are the largest parts by one property, at most five, the largest first.
type Shares struct {
	Distinct int64   `json:"distinct"` // how many different ones there are
	Most     []Share `json:"most"`
}

// Share is a part of the messages.
type Share struct {
	Value    string `json:"value" max:"1024"`
	Messages int64  `json:"messages"`
	Percent  int64  `json:"percent"` // of all messages looked at, rounded
}

// topOf adds messages up. Subjects that differ in their numbers only are one; the first
// of them is shown.
func topOf(messages []store.Decision) Top {
	return Top{
		Mailboxes:   shares(messages, func(d *store.Decision) (string, string) { return d.Mailbox, d.Mailbox }),
		Directories: shares(messages, func(d *store.Decision) (string, string) { return d.WorkingDirectory, d.WorkingDirectory }),
		Subjects:    shares(messages, func(d *store.Decision) (string, string) { return cmp.Or(d.SubjectKey, d.Subject), d.Subject }),
		ClientIPs:   shares(messages, func(d *store.Decision) (string, string) { return d.ClientIP, d.ClientIP }),
		Scripts:     shares(messages, func(d *store.Decision) (string, string) { return d.Script, d.Script }),
	}
}

// shares adds messages up by a key; those without one belong to no share, but count in
// what the percentages are of.
func shares(messages []store.Decision, by func(*store.Decision) (key, shown string)) Shares {
	place := map[string]int{}
	all := []Share{}
	for i := range messages {
		key, shown := by(&messages[i])
		if key == "" {
			continue
		}
		at, known := place[key]
		if !known {
			at = len(all)
			place[key] = at
			all = append(all, Share{Value: shown})
		}
		all[at].Messages++
	}
	slices.SortStableFunc(all, func(a, b Share) int { return cmp.Compare(b.Messages, a.Messages) })
	out := Shares{Distinct: int64(len(all)), Most: all[:min(len(all), maxShares)]}
	n := int64(len(messages))
	for i := range out.Most {
		out.Most[i].Percent = (out.Most[i].Messages*100 + n/2) / n
	}
	return out
}
