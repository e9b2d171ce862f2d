package report

import (
	"fmt"
	"slices"
	"strconv"

	"osm/policy"
	store "osm/sql"
)

// summary is the event in one sentence, for a log, a chat or a list.
func summary(r *Report) string {
	e := &r.Event
	text := fmt.Sprintf("%s went over %s: %s in %s", e.Key, e.Trigger, numbers(e), e.Per)
	if r.Kind == Digest {
		text = fmt.Sprintf("%s is over %s: %d more %ss", e.Key, e.Trigger, r.StoppedSince, noun(e))
	}
	text += "; " + becomes(e)
	if e.Claimed {
		text += "; whose it is rests on a claim"
	}
	return text
}

// numbers are what was used of what is allowed: "300 of 300 recipients".
func numbers(e *Event) string { return fmt.Sprintf("%d of %d %s", e.Used, e.Max, e.Count) }

// becomes says what happens to mail that is over.
func becomes(e *Event) string {
	did, known := map[string]string{
		policy.Accept.String(): "passes", policy.Freeze.String(): "is frozen in the queue", policy.Discard.String(): "is thrown away",
		policy.Defer.String(): "is deferred", policy.Deny.String(): "is refused",
	}[e.Verdict]
	switch {
	case direct(e) && observed(e):
		return "the trigger only observes"
	case direct(e):
		return "they bypass Exim, and are seen and not stopped"
	case observed(e):
		return "the trigger only observes, all mail passes"
	case !known:
		return "further mail: " + e.Verdict
	}
	return "further mail " + did
}

// observed says that the trigger stops nothing.
func observed(e *Event) bool { return e.Mode == policy.Observe.String() }

// commandsOf are the commands of an event. What was done last is undone first.
func commandsOf(event int64, actions []store.Action) Commands {
	c := Commands{Explain: "osmctl event " + strconv.FormatInt(event, 10), Undo: []string{}}
	for _, a := range slices.Backward(actions) {
		if a.Inverse != "" && a.UndoneAt.IsZero() && !slices.Contains(c.Undo, a.Inverse) && len(c.Undo) < maxUndo {
			c.Undo = append(c.Undo, a.Inverse)
		}
	}
	return c
}
