package report

import (
	"cmp"
	"slices"

	store "osm/sql"
)

// Top is what the messages (or connections) have in common: where most of them came from,
// and of connections also where most of them went.
type Top struct {
	Mailboxes   Shares `json:"mailboxes"`
	Directories Shares `json:"directories"`
	Subjects    Shares `json:"subjects"`
	ClientIPs   Shares `json:"client_ips"`
	Scripts     Shares `json:"scripts"`
	// Of connections.
	Destinations Shares `json:"destinations"`
	Executables  Shares `json:"executables"`
}

// Shares are the largest parts by one property, at most five, the largest first.
type Shares struct {
	Distinct int64   `json:"distinct"` // how many different ones there are
	Most     []Share `json:"most"`
}

// Share is a part of the messages, or of the connections.
type Share struct {
	Value    string `json:"value" max:"1024"`
	Messages int64  `json:"messages"`
	Percent  int64  `json:"percent"` // of all messages looked at, rounded
}

// topOf adds messages and connections up: an event has one kind or the other. Subjects
// that differ in their numbers only are one; the first of them is shown.
func topOf(messages []store.Decision, connections []store.Connection) Top {
	t := Top{
		Mailboxes:    shares(messages, func(d *store.Decision) (string, string) { return d.Mailbox, d.Mailbox }),
		Directories:  shares(messages, func(d *store.Decision) (string, string) { return d.WorkingDirectory, d.WorkingDirectory }),
		Subjects:     shares(messages, func(d *store.Decision) (string, string) { return cmp.Or(d.SubjectKey, d.Subject), d.Subject }),
		ClientIPs:    shares(messages, func(d *store.Decision) (string, string) { return d.ClientIP, d.ClientIP }),
		Scripts:      shares(messages, func(d *store.Decision) (string, string) { return d.Script, d.Script }),
		Destinations: shares(connections, func(c *store.Connection) (string, string) { return c.Remote, c.Remote }),
		Executables:  shares(connections, func(c *store.Connection) (string, string) { return c.Executable, c.Executable }),
	}
	if len(messages) == 0 {
		t.Directories = shares(connections, func(c *store.Connection) (string, string) { return c.WorkingDirectory, c.WorkingDirectory })
		t.Scripts = shares(connections, func(c *store.Connection) (string, string) { return c.Script, c.Script })
	}
	return t
}

// shares adds items up by a key; those without one belong to no share, but count in what
// the percentages are of.
func shares[T any](items []T, by func(*T) (key, shown string)) Shares {
	place := map[string]int{}
	all := []Share{}
	for i := range items {
		key, shown := by(&items[i])
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
	n := int64(len(items))
	for i := range out.Most {
		out.Most[i].Percent = (out.Most[i].Messages*100 + n/2) / n
	}
	return out
}
