package policy

import (
	"strconv"
	"strings"
	"testing"
	"time"
)

func newTestTracker(max int) *Tracker {
	var id int64
	return NewTracker(func() int64 { id++; return id }, max)
}

// overDecision is a decision of a message that one trigger is over.
func overDecision(at Moment, key string, m Mode) *Decision {
	return &Decision{At: at, Over: []Over{{Trigger: "account-hour", Key: key, Account: key, Mode: m, Verdict: Freeze,
		Per: time.Hour, Max: 10, Used: 10, Units: 1, Actions: []Action{{Name: ActionHold}}}}}
}

func TestOneEventUntilBelowForAWholePeriod(t *testing.T) {
	tr := newTestTracker(0)
	now := noon()
	first := tr.Add(overDecision(now, "shop", Enforce))
	if len(first) != 1 || !first[0].New || first[0].Event.ID != 1 || first[0].Event.Stopped != 1 || !first[0].Event.Open || len(first[0].Actions) != 1 {
		t.Fatalf("going over: %+v", first)
	}
	for i := range 20 { // every half period: never below for a whole one
		now = now.Add(30 * time.Minute)
		c := tr.Add(overDecision(now, "shop", Enforce))
		if len(c) != 1 || c[0].New || c[0].Event.ID != 1 || c[0].Event.Stopped != int64(i+2) || !c[0].Event.LastAt.Equal(now.Wall) || !c[0].Event.At.Equal(noon().Wall) {
			t.Fatalf("message %d: %+v", i, c)
		}
		if ended := tr.Close(now); len(ended) != 0 {
			t.Fatalf("ended while going on: %+v", ended)
		}
	}
	if ended := tr.Close(now.Add(time.Hour - time.Millisecond)); len(ended) != 0 {
		t.Errorf("ended a millisecond too early")
	}
	now = now.Add(time.Hour)
	c := tr.Add(overDecision(now, "shop", Enforce))
	if len(c) != 2 || c[0].Event.ID != 1 || c[0].Event.Open || !c[1].New || c[1].Event.ID != 2 {
		t.Errorf("after a whole period: %+v, want the first ended and a new one", c)
	}
	if ended := tr.Close(now.Add(time.Hour)); len(ended) != 1 || ended[0].Event.Open || ended[0].Event.ID != 2 {
		t.Errorf("ended: %+v", ended)
	}
	if n, _ := tr.Open(); n != 0 {
		t.Errorf("%d open", n)
	}
}

func TestEventsRunOnTheBootClock(t *testing.T) {
	tr := newTestTracker(0)
	now := noon()
	tr.Add(overDecision(now, "shop", Enforce))
	now.Wall = now.Wall.Add(48 * time.Hour)
	if c := tr.Close(now); len(c) != 0 {
		t.Errorf("a step of the wall clock ended it: %+v", c)
	}
	now.Wall = now.Wall.Add(-96 * time.Hour)
	if c := tr.Add(overDecision(now, "shop", Enforce)); c[0].New || c[0].Event.LastAt.Before(c[0].Event.At) {
		t.Errorf("a step back: %+v", c)
	}
}

func TestBeginningToEnforceRaisesANewEvent(t *testing.T) {
	tr := newTestTracker(0)
	tr.Add(overDecision(noon(), "shop", Observe))
	c := tr.Add(overDecision(noon(), "shop", Enforce))
	if len(c) != 2 || c[0].Event.Open || !c[1].New || c[1].Event.Mode != Enforce {
		t.Errorf("%+v", c)
	}
	if c := tr.Add(overDecision(noon(), "shop", Observe)); len(c) != 1 || c[0].New {
		t.Errorf("observing again: %+v, want it added", c)
	}
}

func TestMailStoppedByAHoldAddsToItsEvent(t *testing.T) {
	tr := newTestTracker(0)
	now := noon()
	tr.Add(overDecision(now, "shop", Enforce))
	later := now.Add(50 * time.Minute)
	c := tr.Add(&Decision{At: later, Reason: ReasonHold, HoldID: 4, EventID: 1})
	if len(c) != 1 || c[0].Event.Stopped != 2 || !c[0].Event.LastAt.Equal(later.Wall) {
		t.Errorf("%+v", c)
	}
	if c := tr.Close(now.Add(time.Hour)); len(c) != 1 {
		t.Error("mail that a hold stopped keeps the event open: its sender is below")
	}
	if c := tr.Add(&Decision{At: later, Reason: ReasonHold, HoldID: 4, EventID: 1}); c != nil {
		t.Errorf("of an ended event: %+v", c)
	}
}

func TestEventsAreBounded(t *testing.T) {
	tr := newTestTracker(3)
	for i := range 3 {
		tr.Add(overDecision(noon(), "k"+strconv.Itoa(i), Enforce))
	}
	tr.Add(overDecision(noon(), "k0", Enforce))
	c := tr.Add(overDecision(noon(), "k3", Enforce))
	if len(c) != 2 || c[0].Event.Key != "k1" || c[0].Event.Open || !c[1].New {
		t.Errorf("%+v, want the one that was quiet longest ended", c)
	}
	if n, evicted := tr.Open(); n != 3 || evicted != 1 {
		t.Errorf("%d open, %d evicted", n, evicted)
	}
}

func TestEventsComeBackAfterARestart(t *testing.T) {
	tr := newTestTracker(0)
	c := tr.Add(overDecision(noon(), "shop", Enforce))
	again := NewTracker(func() int64 { return 99 }, 0)
	now := noon().Add(40 * time.Minute)
	now.Boot = BootShift + 1000 // the machine was restarted
	other := c[0].Event
	other.ID = 7 // of the same trigger and key: it would stay open for ever
	if left := again.Restore([]Event{c[0].Event, c[0].Event, other}, now); len(left) != 1 || left[0].ID != 7 {
		t.Errorf("%+v had no place, want number 7", left)
	}
	if c := again.Add(overDecision(now, "shop", Enforce)); len(c) != 1 || c[0].New || c[0].Event.ID != 1 || c[0].Event.Stopped != 2 {
		t.Errorf("%+v, want it added to the first", c)
	}
	fresh := NewTracker(func() int64 { return 99 }, 0)
	fresh.Restore([]Event{c[0].Event}, now)
	if e := fresh.Close(now.Add(20 * time.Minute)); len(e) != 1 {
		t.Error("the time the daemon was down does not count as below")
	}
	fresh.Restore([]Event{c[0].Event}, now)
	if e, ok := fresh.End("account-hour", "shop"); !ok || e.Event.Open {
		t.Errorf("End: %+v, %v", e, ok)
	}
	if _, ok := fresh.End("account-hour", "shop"); ok {
		t.Error("ended twice")
	}
}

func TestPlanHold(t *testing.T) {
	const grace = time.Hour
	held := func(h Hold) *Rules {
		h.Provenance.At = noon().Wall.Add(-time.Minute)
		return &Rules{Holds: []Hold{h}, Settings: Settings{HoldGrace: grace}}
	}
	none := &Rules{Settings: Settings{HoldGrace: grace}}
	subject := Event{Watch: WatchSubject, Account: "shop", Key: "shop invoice #"}
	directory := Event{Watch: WatchDirectory, Account: "shop", Key: "shop /home/shop/a b"}
	claim := Event{Watch: WatchDirectory, Account: "shop", Key: "shop claimed /home/shop/www", Claimed: true}
	own := Event{Watch: WatchDirectory, Account: "shop", Key: "shop /home/shop/www"}
	tests := []struct {
		name     string
		event    Event
		rules    *Rules
		released *Hold
		want     string // scope, account and value; "" = none
		why      string
	}{
		{"account holds the account", Event{Watch: WatchAccount, Account: "shop", Key: "shop"}, none, nil, "account shop ", ""},
		{"scripts holds the account", Event{Watch: WatchScripts, Account: "shop", Key: "shop"}, none, nil, "account shop ", ""},
		{"automatic holds the account", Event{Watch: WatchAutomatic, Account: "shop", Key: "shop"}, none, nil, "account shop ", ""},
		{"login holds the mailbox", Event{Watch: WatchLogin, Account: "shop", Key: "shop a@shop.example", Mailbox: "a@shop.example"}, none, nil, "mailbox shop a@shop.example", ""},
		{"subject holds the Subject", subject, none, nil, "subject shop invoice #", ""},
		{"directory holds the directory", directory, none, nil, "directory shop /home/shop/a b", ""},
		{"a claim holds the directory", claim, none, nil, "directory shop /home/shop/www", ""},
		{"client-ip holds nothing and says so", Event{Watch: WatchClientIP, Account: "shop", Key: "login 192.0.2.1"}, none, nil, "", "address"},
		{"unknown senders are not held together", Event{Watch: WatchAccount, Account: AccountUnknown, Key: "(unknown) uid 1"}, none, nil, "", "unknown"},
		{"a shared user is not held as a whole", Event{Watch: WatchAccount, Account: "(shared:nobody)", Key: "(shared:nobody)"}, none, nil, "", "shared"},
		{"a shared user's Subject is", Event{Watch: WatchSubject, Account: "(shared:nobody)", Key: "(shared:nobody) x"}, none, nil, "subject (shared:nobody) x", ""},
		{"the second Subject moves it up to the account", subject, held(Hold{Scope: ScopeSubject, Account: "shop", Value: "first"}), nil, "account shop ", ""},
		{"a Subject after a directory does too", subject, held(Hold{Scope: ScopeDirectory, Account: "shop", Value: "/d"}), nil, "account shop ", ""},
		{"another account's hold does not", subject, held(Hold{Scope: ScopeSubject, Account: "other", Value: "first"}), nil, "subject shop invoice #", ""},
		{"a mailbox's hold does not", subject, held(Hold{Scope: ScopeMailbox, Account: "shop", Value: "a@shop.example"}), nil, "subject shop invoice #", ""},
		{"an ended one does not", subject, held(Hold{Scope: ScopeSubject, Account: "shop", Value: "first", Until: noon().Wall}), nil, "subject shop invoice #", ""},
		{"one that rests on a claim does not", subject, held(Hold{Scope: ScopeDirectory, Account: "shop", Value: "/d", Claimed: true}), nil, "subject shop invoice #", ""},
		{"a claim never moves up", claim, held(Hold{Scope: ScopeDirectory, Account: "shop", Value: "/d"}), nil, "directory shop /home/shop/www", ""},
		{"a claim's hold does not cover the owner's own mail", own, held(Hold{Scope: ScopeDirectory, Account: "shop", Value: "/home/shop/www", Claimed: true}), nil, "directory shop /home/shop/www", ""},
		{"the owner's hold covers a claim", claim, held(Hold{Scope: ScopeDirectory, Account: "shop", Value: "/home/shop/www"}), nil, "", "stands"},
		{"the account's hold does not cover a claim", claim, held(Hold{Scope: ScopeAccount, Account: "shop"}), nil, "directory shop /home/shop/www", ""},
		{"a mailbox of nobody known is held", Event{Watch: WatchLogin, Account: AccountUnknown, Key: "(unknown) a@gone.example", Mailbox: "a@gone.example"}, none, nil, "mailbox (unknown) a@gone.example", ""},
		{"a shared user's second Subject does not move up", Event{Watch: WatchSubject, Account: "(shared:nobody)", Key: "(shared:nobody) x"}, held(Hold{Scope: ScopeSubject, Account: "(shared:nobody)", Value: "y"}), nil, "subject (shared:nobody) x", ""},
		{"where the account is held nothing is added", subject, held(Hold{Scope: ScopeAccount, Account: "shop"}), nil, "", "stands"},
		{"where the Subject is held nothing is added", Event{Watch: WatchAccount, Account: "shop", Key: "shop"}, held(Hold{Scope: ScopeAccount, Account: "shop"}), nil, "", "stands"},
		{"what an operator has just released is left", subject, none, &Hold{Scope: ScopeSubject, Account: "shop", Value: "invoice #"}, "", "released"},
		{"so is a part of a released account", subject, none, &Hold{Scope: ScopeAccount, Account: "shop"}, "", "released"},
		{"what was released elsewhere does not matter", subject, none, &Hold{Scope: ScopeSubject, Account: "shop", Value: "y"}, "subject shop invoice #", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := NewHoldPlanner()
			if tt.released != nil {
				p.Released(*tt.released, noon().Add(-grace/2))
			}
			c := EventChange{Event: tt.event, New: true, Actions: []Action{{Name: ActionReport}, {Name: ActionHold, For: time.Hour}}, Release: WhenFree}
			c.Event.ID, c.Event.Mode, c.Event.At, c.Event.Trigger = 5, Enforce, noon().Wall, "t"
			h, why, ok := p.Plan(c, c.Actions[1], tt.rules, noon())
			got := ""
			if ok {
				got = h.Scope.String() + " " + h.Account + " " + h.Value
			}
			if got != tt.want || !strings.Contains(why, tt.why) || (tt.why == "") != (why == "") {
				t.Fatalf("hold %q, why %q; want %q, %q", got, why, tt.want, tt.why)
			}
			if ok && (h.EventID != 5 || h.Trigger != "t" || h.Release != WhenFree || !h.Until.Equal(noon().Wall.Add(time.Hour)) || h.Claimed != tt.event.Claimed || ValidateHold(&h) != nil) {
				t.Errorf("hold = %+v (%v)", h, ValidateHold(&h))
			}
			if tt.released != nil && tt.why != "" {
				if _, why, ok := p.Plan(c, c.Actions[1], tt.rules, noon().Add(grace)); !ok {
					t.Errorf("after the grace time none: %s", why)
				}
			}
		})
	}
}

func TestOnlyNewEnforcedEventsPlanAHold(t *testing.T) {
	c := EventChange{Event: Event{Watch: WatchAccount, Account: "shop", Key: "shop", Mode: Enforce}, New: true, Actions: []Action{{Name: ActionHold}}}
	for name, change := range map[string]func(*EventChange){
		"not new":        func(c *EventChange) { c.New = false },
		"only observing": func(c *EventChange) { c.Event.Mode = Observe },
	} {
		x := c
		change(&x)
		if h, why, ok := NewHoldPlanner().Plan(x, Action{Name: ActionHold}, &Rules{}, noon()); ok || why != "" {
			t.Errorf("%s: %+v %q", name, h, why)
		}
	}
	if h, _, ok := NewHoldPlanner().Plan(c, Action{Name: ActionHold}, &Rules{}, noon()); !ok || !h.Until.IsZero() {
		t.Errorf("a hold without a length: %+v, %v", h, ok)
	}
}

// A hold that has ended while its sender goes on is put again, without a second report, and
// not within the grace time after an operator's release.
func TestAHoldThatEndedWhileItsSenderGoesOnIsPutAgain(t *testing.T) {
	tr, p := newTestTracker(0), NewHoldPlanner()
	over := func(at Moment) EventChange {
		d := overDecision(at, "shop", Enforce)
		d.Over[0].Actions = []Action{{Name: ActionReport}, {Name: ActionHold, For: 20 * time.Minute}}
		d.Over[0].Release = WhenFree
		c := tr.Add(d)
		return c[len(c)-1]
	}
	r := &Rules{Settings: Settings{HoldGrace: 30 * time.Minute}}
	hold := Action{Name: ActionHold, For: 20 * time.Minute}
	now := noon()
	first := over(now)
	h, _, ok := p.Plan(first, hold, r, now)
	if !first.New || !ok {
		t.Fatalf("the first: %+v", first)
	}
	if c := over(now.Add(time.Second)); c.Again || c.New {
		t.Errorf("a message before the hold stands asks again: %+v", c)
	}
	r.Holds = []Hold{h}
	now = now.Add(11 * time.Second)
	c := over(now)
	if _, why, ok := p.Plan(c, hold, r, now); ok || why != "" {
		t.Errorf("while the hold stands another is put, or it is said that none is: %q", why)
	}
	now = now.Add(20 * time.Minute) // its time is over
	c = over(now)
	if !c.Again || c.New || len(c.Actions) != 2 {
		t.Fatalf("after its end: %+v, want it to ask again, with all that its trigger asks for", c)
	}
	again, _, ok := p.Plan(c, hold, r, now)
	if !ok || again.EventID != first.Event.ID || again.Release != WhenFree || !again.Until.Equal(now.Wall.Add(20*time.Minute)) {
		t.Errorf("after its end: %+v, %v; want it again", again, ok)
	}
	p.Released(again, now)
	now = now.Add(20 * time.Minute)
	r.Holds = nil
	if _, why, ok := p.Plan(over(now), hold, r, now); ok || why != "" {
		t.Errorf("within the grace time: put %v, said %q", ok, why)
	}
	now = now.Add(20 * time.Minute)
	if _, _, ok := p.Plan(over(now), hold, r, now); !ok {
		t.Error("after the grace time none is put")
	}
	now = now.Add(time.Minute)
	d := overDecision(now, "shop", Observe)
	if c := tr.Add(d); len(c) != 1 || c[0].Again {
		t.Errorf("a trigger that observes asks again: %+v", c)
	}
}

func TestReleasesAreBounded(t *testing.T) {
	p := NewHoldPlanner()
	for i := range maxReleased + 10 {
		p.Released(Hold{Scope: ScopeAccount, Account: strconv.Itoa(i)}, noon())
		p.Released(Hold{Scope: ScopeAccount, Account: strconv.Itoa(i)}, noon())
	}
	if len(p.released) != maxReleased || len(p.order) != maxReleased {
		t.Errorf("%d remembered", len(p.released))
	}
}
