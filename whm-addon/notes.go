package whm

import (
	"cmp"
	"slices"
	"strconv"
	"sync"
	"time"

	"osm/internal/control"
)

// note is what a person is told on the next page about what was just done.
type note struct {
	Text string
	Undo *undoing // nil: it cannot be taken back
}

// undoing is the button that takes a change back.
type undoing struct {
	Page string // a POST
	Text string // what it does
}

// Bounds of the notes: they are kept in memory for people who look at the next page at
// once. Where there are too many the oldest goes; the audit has all that was done.
const (
	maxNoted  = 1000 // logins
	maxNotes  = 5    // of one login
	notesKept = 10 * time.Minute
)

// notes are the notes of every login.
type notes struct {
	mu sync.Mutex // guards of
	of map[string]noted
}

type noted struct {
	at   time.Time
	list []note
}

func (n *notes) add(key string, now time.Time, one note) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.of == nil {
		n.of = map[string]noted{}
	}
	for k, v := range n.of {
		if now.Sub(v.at) > notesKept {
			delete(n.of, k)
		}
	}
	if _, known := n.of[key]; !known && len(n.of) >= maxNoted {
		n.dropOldest()
	}
	list := append(n.of[key].list, one)
	n.of[key] = noted{at: now, list: list[max(0, len(list)-maxNotes):]}
}

func (n *notes) dropOldest() {
	keys := make([]string, 0, len(n.of))
	for k := range n.of {
		keys = append(keys, k)
	}
	delete(n.of, slices.MinFunc(keys, func(a, b string) int { return cmp.Compare(n.of[a].at.UnixNano(), n.of[b].at.UnixNano()) }))
}

// take returns the notes of a login and forgets them.
func (n *notes) take(key string, now time.Time) []note {
	n.mu.Lock()
	defer n.mu.Unlock()
	v := n.of[key]
	delete(n.of, key)
	if now.Sub(v.at) > notesKept {
		return nil
	}
	return v.list
}

// noteKey is whose notes are whose: those of one user in one session.
func (c *call) noteKey() string {
	return c.front.session + "\n" + c.actor.Name + "\n" + string(c.actor.Role) + "\n" + c.actor.Reseller
}

// say leaves a note for the next page.
func (c *call) say(text string, undo *undoing) {
	c.p.notes.add(c.noteKey(), c.now, note{Text: text, Undo: undo})
}

// undoLatest finds the audit row of what the actor has just changed, for a button that
// takes it back. Resellers have no audit; theirs is what the caller gives instead.
func (c *call) undoLatest(otherwise *undoing) *undoing {
	if c.actor.Role != control.Operator {
		return otherwise
	}
	list, err := c.p.service.Audit(c.Context(), c.actor, c.now, control.Page{Limit: 10})
	if err != nil {
		return nil
	}
	i := slices.IndexFunc(list.Items, func(a control.AuditEntry) bool { return a.User == c.actor.Name })
	if i < 0 || list.Items[i].Undo == "" {
		return nil
	}
	return &undoing{Page: "audit/" + strconv.FormatInt(list.Items[i].ID, 10) + "/undo", Text: list.Items[i].Undo}
}
