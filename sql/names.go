package store

import "strings"

// Bounds of what the writer remembers of texts and accounts.
const (
	namesRemembered    = 65_536
	namesBytes         = 8 << 20
	accountsRemembered = 100_000
	nameMin            = 4 // a shorter text is no longer than its number
)

// names gives texts that come again a number in the table names. A text seen for the
// first time is stored as it is, and so what never comes again costs no dictionary.
//
// It remembers texts in two generations: when the younger is full it becomes the older,
// and what is asked for moves back into the younger.
type names struct {
	young, old map[string]int64 // 0: seen once
	bytes      int              // of the texts in young
	next       int64            // the next free number
	fresh      []name           // given since the last commit, to be inserted
}

type name struct {
	id   int64
	text string
}

func newNames(next int64) names {
	return names{young: make(map[string]int64), old: make(map[string]int64), next: next}
}

// value is what is stored for a text: nothing, the text, or its number.
func (n *names) value(text string) any {
	if text == "" {
		return nil
	}
	if len(text) < nameMin {
		return text
	}
	id, seen := n.young[text]
	if !seen {
		id, seen = n.old[text]
		n.remember(text, id)
	}
	if !seen {
		return text
	}
	if id == 0 {
		id = n.next
		n.next++
		text = strings.Clone(text) // a map takes over the key it is given, and with it the row
		n.young[text] = id
		n.fresh = append(n.fresh, name{id, text})
	}
	return id
}

// remember puts a text into the younger generation. The text is a part of its row, which
// is not to be kept for it.
func (n *names) remember(text string, id int64) {
	if len(n.young) >= namesRemembered || n.bytes >= namesBytes {
		n.old, n.young, n.bytes = n.young, make(map[string]int64), 0
	}
	n.young[strings.Clone(text)] = id
	n.bytes += len(text)
}

// forget begins anew: after a rollback, whose numbers were not stored, or a new epoch.
func (n *names) forget() {
	clear(n.young)
	clear(n.old)
	n.fresh, n.bytes = nil, 0
}
