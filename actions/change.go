package actions

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"
)

// The executor's verbs for what is done to an account, a mailbox, a path or an address.
const (
	verbApply   = "apply"   // do one change
	verbUndo    = "undo"    // take one change back, by its record's id
	verbRecords = "records" // list the changes that are in force
)

// Change asks the executor for one change. Which fields an action needs is its [changer]'s
// to say; every other one is empty.
type Change struct {
	Action  string        `json:"action"`            // such as "suspend-account"
	Account string        `json:"account,omitempty"` // whose it is; always but for block-ip
	Mailbox string        `json:"mailbox,omitempty"` // user@domain
	Path    string        `json:"path,omitempty"`    // absolute, as [wirePath] writes it
	IP      string        `json:"ip,omitempty"`
	For     time.Duration `json:"for,omitempty"`   // how long it is meant to last; 0 = until undone
	Event   int64         `json:"event,omitempty"` // why, for the records of panel and firewall
	Trigger string        `json:"trigger,omitempty"`
}

// Record is a change as the executor wrote it down before it did it. It is all that an undo
// goes by: a request names only its id.
type Record struct {
	ID string `json:"id"`
	Change
	At time.Time `json:"at"`
	// Done is false from before the change is begun until it is known to be in force.
	Done bool `json:"done"`
	// State is what the undo needs, in the changer's own words.
	State map[string]string `json:"state,omitempty"`
	// Outcome says in words what was done.
	Outcome string `json:"outcome,omitempty"`
}

// Target is what a change is done to, for people.
func (c *Change) Target() string {
	switch {
	case c.IP != "":
		return c.IP
	case c.Path != "":
		return strings.TrimSpace(c.Account + " " + showPath(c.Path))
	case c.Mailbox != "":
		return c.Mailbox
	}
	return c.Account
}

// reason is what stands in the records of panel and firewall: letters that none of them
// misreads, and the number by which [osmctl event] finds the rest.
func (r *Record) reason() string {
	return fmt.Sprintf("osm event %d %s record %s", r.Event, r.Trigger, r.ID)
}

// changer is one action of the executor: how it is checked, done, seen to be in force and
// taken back. An action is a file of its own that adds one line to [executor.changers].
//
// Nothing it is told can be trusted: it checks again whatever a request names. It trusts
// no exit status, but looks at the effect.
type changer interface {
	// check refuses what may never be done, before anything is written down: an error of
	// type refusal. An address or a path may be made canonical in c.
	check(ctx context.Context, c *Change) error
	// apply does it, puts what undo needs into r.State and says in words what was done. An
	// error that is a refusal or a leftAlone means that nothing was changed.
	apply(ctx context.Context, r *Record) (outcome string, err error)
	// undo takes it back and says in words what was done. What somebody else has undone or
	// changed since is left as it is; that is no error.
	undo(ctx context.Context, r *Record) (outcome string, err error)
}

// repeater is a changer whose change can be in force and be needed again all the same: what
// it was done to is out of the way, and something new has its place.
type repeater interface {
	again(ctx context.Context, c *Change) bool
}

// refusal is a change that is never done: trying again would be refused again.
type refusal struct {
	why  string
	next string // what a person can do, "" if nothing
}

func (r refusal) Error() string { return r.why }

// leftAlone is a change that was not done because there is nothing to be done: somebody
// else did it already, or what it is about is not there any more.
type leftAlone struct{ why string }

func (l leftAlone) Error() string { return l.why }

// nothingDone reports whether err means that nothing was changed.
func nothingDone(err error) bool {
	var r refusal
	var l leftAlone
	return errors.As(err, &r) || errors.As(err, &l)
}

// reTrigger is a trigger's name ([policy.ValidateTrigger]).
var reTrigger = regexp.MustCompile(`^[a-z0-9-]{0,64}$`)

const maxPath = 4096

// validateChange checks the form of a request, whatever the client has checked.
func validateChange(c *Change) error {
	for _, s := range []string{c.Account, c.Mailbox, c.IP} {
		if len(s) > 255 || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f || r > 0x7e }) {
			return refusal{why: fmt.Sprintf("%.80q is no name", s)}
		}
	}
	switch {
	case len(c.Path) > maxPath || strings.Contains(c.Path, "\x00"):
		return refusal{why: fmt.Sprintf("%.80q is no path", c.Path)}
	case !reTrigger.MatchString(c.Trigger):
		return refusal{why: fmt.Sprintf("%.80q is no trigger", c.Trigger)}
	case c.For < 0 || c.For > maxChangeFor:
		return refusal{why: fmt.Sprintf("%v is no length of time, want 0 to %v", c.For, maxChangeFor)}
	case c.Event < 0:
		return refusal{why: fmt.Sprintf("%d is no event", c.Event)}
	}
	return nil
}

const maxChangeFor = 366 * 24 * time.Hour

// change answers the verbs of this file.
func (x *executor) change(ctx context.Context, req request, w *answerWriter) answer {
	if req.Verb == verbRecords {
		list, err := x.records.list()
		for i := range list {
			if err == nil {
				err = w.line(answer{Record: &list[i]})
			}
		}
		return answer{Error: explain(req, err, "see state_dir in executor.toml")}
	}
	if !turn(ctx, x.changing, x.o.ChangeLimit) {
		return answer{Error: &ExecutorError{What: req.Verb, Why: "another change is still under way", Next: "try again", RetryAfter: time.Second}}
	}
	defer func() { <-x.changing }()
	var rec *Record
	var err error
	if req.Verb == verbUndo {
		rec, err = x.undo(ctx, req.Record)
	} else {
		rec, err = x.apply(ctx, req.Change)
	}
	x.logChange(req, rec, err)
	e := explainChange(req, err)
	if e != nil && rec != nil && req.Verb == verbUndo { // people know the change, not its id
		e.What, e.On = verbUndo+" "+rec.Action, rec.Target()
	}
	return answer{Record: rec, Error: e}
}

func explainChange(req request, err error) *ExecutorError {
	if err == nil {
		return nil
	}
	var busy *ExecutorError
	if errors.As(err, &busy) {
		return busy
	}
	e := &ExecutorError{What: req.Verb, On: req.Record, Why: err.Error(), Next: "see the executor's log"}
	if req.Change != nil {
		e.What, e.On = cut(req.Change.Action, 64), req.Change.Target()
	}
	var r refusal
	var l leftAlone
	switch {
	case errors.As(err, &r):
		e.Refused, e.Next = true, r.next
	case errors.As(err, &l):
		e.LeftAlone, e.Next = true, ""
	}
	return e
}

// apply does one change, unless it is in force already by our own doing: a request whose
// answer was lost may be sent again.
func (x *executor) apply(ctx context.Context, c *Change) (*Record, error) {
	k, allowed := x.changers[c.Action]
	if !allowed {
		return nil, refusal{"the executor may not do " + cut(c.Action, 64), "see actions in executor.toml"}
	}
	if err := k.check(ctx, c); err != nil {
		return nil, err
	}
	r, err := x.records.same(c)
	if err != nil {
		return nil, err
	}
	if r != nil && r.Done {
		if again, ok := k.(repeater); !ok || !again.again(ctx, c) {
			return r, nil
		}
		r = nil
	}
	if wait := x.rates.take(c.Action, x.o.Now()); wait > 0 {
		return nil, &ExecutorError{What: c.Action, On: c.Target(), RetryAfter: wait, Braked: true,
			Why:  fmt.Sprintf("more than %d an hour", x.o.Rates[c.Action]),
			Next: "decide by hand; the rate is set in executor.toml",
		}
	}
	if r == nil { // else it was begun before, and what that made of it is not known
		if r, err = x.records.begin(c, x.o.Now()); err != nil {
			return nil, err
		}
	}
	r.Outcome, err = k.apply(ctx, r)
	switch {
	case nothingDone(err):
		return nil, errors.Join(err, x.records.remove(r.ID))
	case err != nil: // perhaps half done: the record stays, so that it can be undone
		return r, errors.Join(err, x.records.put(r))
	}
	r.Done = true
	return r, x.records.put(r)
}

// undo takes one change back.
func (x *executor) undo(ctx context.Context, id string) (*Record, error) {
	r, err := x.records.get(id)
	if err != nil {
		return nil, err
	}
	k, ok := x.changers[r.Action]
	if !ok {
		return nil, refusal{"the executor may not do " + r.Action + " any more", "allow it in executor.toml until it is undone"}
	}
	if r.Outcome, err = k.undo(ctx, r); err != nil {
		return r, err
	}
	return r, x.records.remove(r.ID)
}

func (x *executor) logChange(req request, r *Record, err error) {
	action, target, id := "", "", req.Record
	if req.Change != nil {
		action, target = req.Change.Action, req.Change.Target()
	}
	if r != nil {
		action, target, id = r.Action, r.Target(), r.ID
	}
	attrs := []any{"verb", req.Verb, "action", cut(action, 64), "target", cut(target, 300), "record", cut(id, 64)}
	if err != nil {
		x.o.Log.Warn("change not made", append(attrs, "err", cut(err.Error(), 500))...)
		return
	}
	x.o.Log.Info("change made", append(attrs, "outcome", cut(r.Outcome, 500))...)
}

// hourly are brakes by action: at most so many changes in an hour.
type hourly struct {
	rates map[string]int
	mu    sync.Mutex
	taken map[string][]time.Time // of the last hour, oldest first
}

// take takes one, or says how long to wait until there is one.
func (h *hourly) take(action string, now time.Time) (wait time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.taken == nil {
		h.taken = map[string][]time.Time{}
	}
	last := h.taken[action]
	for len(last) > 0 && (now.Sub(last[0]) >= time.Hour || last[0].After(now)) {
		last = last[1:]
	}
	if len(last) >= h.rates[action] {
		h.taken[action] = last
		if len(last) == 0 { // none at all
			return time.Hour
		}
		return last[0].Add(time.Hour).Sub(now)
	}
	h.taken[action] = append(last, now)
	return 0
}
