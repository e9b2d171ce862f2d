package main

import (
	"context"
	"sync"
	"time"

	"osm/policy"
	store "osm/sql"
)

// Bounds of looking for evidence.
const (
	maxLooking    = 16               // messages that are looked into at once
	lookingEvery  = 150              // milliseconds between two of one account
	maxWitnessed  = 10_000           // accounts of which something is remembered
	maxPerAccount = 20               // pieces of evidence of one
	forgetEvery   = 10_000           // milliseconds between two looks at all accounts for room
	witnessedFor  = 10 * time.Minute // before an event it is still about
)

// witness is what was found out about one message.
type witness struct {
	at        policy.Moment
	ref       string
	directory string
	direct    bool // a connection that bypassed Exim, and no message
	found     policy.Evidence
}

// witnesses finds out which web requests send for senders that come near a limit, and keeps
// it for the events that they may become. It is told of messages before their answer and
// does nothing on their way.
type witnesses struct {
	gather func(context.Context, *policy.Submission, []policy.Process, policy.Identity, policy.Moment) policy.Evidence
	store  *store.Store
	clock  func() policy.Moment
	slots  chan struct{}
	start  func(func()) // in the background, waited for at the end

	mu     sync.Mutex // guards what follows
	of     map[string]*witnessed
	events map[string]map[int64]policy.Event // that are open and whose evidence is kept, by account
	open   int                               // of them

	fullUntil int64 // boot time: of has no room
}

type witnessed struct {
	next  int64 // boot time: not looked into before
	found []witness
}

func newWitnesses(s *store.Store, clock func() policy.Moment, start func(func())) *witnesses {
	return &witnesses{store: s, clock: clock, start: start, slots: make(chan struct{}, maxLooking), of: map[string]*witnessed{}, events: map[string]map[int64]policy.Event{}}
}

// see begins to look into a message, unless too much is looked into already.
func (w *witnesses) see(ctx context.Context, d *policy.Decision, chain []policy.Process) {
	if w.gather == nil || !d.Near || len(chain) == 0 || !w.turn(d) {
		return
	}
	select {
	case w.slots <- struct{}{}:
	default:
		return
	}
	w.start(func() { // ends within seconds: gather is bounded, and ends with ctx
		defer func() { <-w.slots }()
		found := w.gather(ctx, d.Submission, chain, d.Identity, d.At)
		if found.Confidence != policy.ConfidenceNone {
			w.keep(ctx, d, found.Clean())
		}
	})
}

// turn reports whether the account may be looked into again.
func (w *witnesses) turn(d *policy.Decision) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	a := w.of[evidenceAccount(&d.Identity)]
	if a == nil {
		if len(w.of) >= maxWitnessed && !w.forget(d.At.Boot) {
			return false
		}
		a = &witnessed{}
		w.of[evidenceAccount(&d.Identity)] = a
	}
	if d.At.Boot < a.next {
		return false
	}
	a.next = d.At.Boot + lookingEvery
	return true
}

// forget drops the accounts of which nothing is worth remembering, and reports whether
// there is room. It looks at all of them, so not more than once in a while: it is called
// while a message waits.
func (w *witnesses) forget(now int64) (room bool) {
	if now < w.fullUntil {
		return false
	}
	w.fullUntil = now + forgetEvery
	for name, a := range w.of {
		if now-a.next > witnessedFor.Milliseconds() {
			delete(w.of, name)
		}
	}
	return len(w.of) < maxWitnessed
}

// evidenceAccount is the account that a message's evidence is about: of a shared web
// user's script the one whose directory it ran in.
func evidenceAccount(id *policy.Identity) string {
	if id.Claimed && id.DirectoryAccount != "" {
		return id.DirectoryAccount
	}
	return id.Account
}

// keep remembers evidence, and adds it to the open events it belongs to.
func (w *witnesses) keep(ctx context.Context, d *policy.Decision, found policy.Evidence) {
	x := witness{at: d.At, ref: d.Ref, directory: d.Identity.Directory, direct: d.Identity.Source == policy.SourceDirect, found: found}
	account := evidenceAccount(&d.Identity)
	w.mu.Lock()
	of := w.add(account, &x)
	if charged := d.Identity.Account; charged != account {
		// The shared web user's own events tell which of the sites they come from.
		of = append(of, w.add(charged, &x)...)
	}
	w.mu.Unlock()
	for _, id := range of {
		w.put(ctx, id, x)
	}
}

// add remembers evidence about an account and returns its open events that it belongs to;
// w.mu is held.
func (w *witnesses) add(account string, x *witness) (of []int64) {
	a := w.of[account]
	if a == nil && (len(w.of) < maxWitnessed || w.forget(x.at.Boot)) {
		a = &witnessed{}
		w.of[account] = a
	}
	if a != nil {
		a.next = max(a.next, x.at.Boot) // by which it is known how long it has been remembered
		a.found = append(a.found[max(0, len(a.found)-maxPerAccount+1):len(a.found):len(a.found)], *x)
	}
	for id, ev := range w.events[account] {
		if x.about(&ev, account) {
			of = append(of, id)
		}
	}
	return of
}

// about reports whether evidence belongs to an event.
func (x *witness) about(ev *policy.Event, account string) bool {
	switch {
	case ev.Account != account || ev.Watch == policy.WatchLogin || ev.Watch == policy.WatchClientIP || ev.Watch.Direct() != x.direct:
		return false
	case ev.Watch.PerDirectory():
		hold, _ := policy.Culprit(ev)
		return hold.Value == x.directory
	}
	return true
}

func (w *witnesses) put(ctx context.Context, event int64, x witness) {
	// What cannot be written is not worth an alarm: the event stands without it.
	_ = w.store.PutEvidence(ctx, event, store.Time{Time: x.at.Wall}, x.ref, x.found)
}

// raised gives an event what is known about its sender already, and from now on what comes
// to be known.
func (w *witnesses) raised(ctx context.Context, ev policy.Event) {
	w.mu.Lock()
	if w.open < maxWitnessed {
		if w.events[ev.Account] == nil {
			w.events[ev.Account] = map[int64]policy.Event{}
		}
		w.events[ev.Account][ev.ID] = ev
		w.open++
	}
	known := w.known(&ev)
	w.mu.Unlock()
	for _, x := range known {
		w.put(ctx, ev.ID, x)
	}
}

// ended is told of an event that is over.
func (w *witnesses) ended(ev *policy.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	of := w.events[ev.Account]
	if _, known := of[ev.ID]; !known {
		return
	}
	delete(of, ev.ID)
	w.open--
	if len(of) == 0 {
		delete(w.events, ev.Account)
	}
}

// known is what is remembered about the sender of an event; w.mu is held.
func (w *witnesses) known(ev *policy.Event) (list []witness) {
	a := w.of[ev.Account]
	if a == nil {
		return nil
	}
	now := w.clock().Boot
	for _, x := range a.found {
		if x.about(ev, ev.Account) && now-x.at.Boot < witnessedFor.Milliseconds() {
			list = append(list, x)
		}
	}
	return list
}

// requests is what is known about the sender of an event, for its actions.
func (w *witnesses) requests(ev *policy.Event) (list []policy.Evidence) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, x := range w.known(ev) {
		list = append(list, x.found)
	}
	return list
}
