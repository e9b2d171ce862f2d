package actions

import (
	"testing"
	"time"

	"osm/counters"
	"osm/policy"
	store "osm/sql"
)

// inBasic puts shop into the package basic, as the panel would.
func inBasic(id policy.Identity) policy.Identity {
	if id.Account == "shop" {
		id.Package = "basic"
	}
	return id
}

// packaged are rules by which a package may send two messages an hour and everybody else
// 300; the trigger only observes everybody else, where told so.
func packaged(mode policy.Mode) *policy.Rules {
	trigger, enforce, release, two := limit(300, policy.WhenFree), policy.Enforce, policy.WhenFree, int64(2)
	trigger.Mode = mode
	return &policy.Rules{Triggers: []policy.Trigger{trigger}, Overrides: []policy.Override{
		{Level: policy.LevelPackage, Name: "basic", Max: &two, Mode: &enforce, Release: &release}}}
}

func (s *shop) stillHeld(list []*policy.Decision) (n int) {
	for _, d := range list {
		if s.held(d).State == store.StateHeld.String() {
			n++
		}
	}
	return n
}

func TestWhenFreeKeepsToTheLimitOfThePackage(t *testing.T) {
	for name, mode := range map[string]policy.Mode{"its own maximum": policy.Enforce, "enforced for it alone": policy.Observe, "switched on for it alone": policy.Off} {
		t.Run(name, func(t *testing.T) {
			s := newShop(t, limit(0, policy.WhenFree))
			held := s.freeze("shop", 5)
			s.engine.SetRules(packaged(mode))
			s.o.Place = inBasic
			h := NewHeld(s.o)
			s.advance(2 * time.Second)
			s.once(h)
			if n := s.stillHeld(held); n != 3 {
				t.Errorf("%d of 5 are still held, want 3: two an hour may leave", n)
			}
		})
	}
}

// What left by itself has used up the limit, also for a daemon that was killed and has
// nothing but the database.
func TestWhatLeftByItselfIsCountedAfterAKill(t *testing.T) {
	s := newShop(t, limit(0, policy.WhenFree))
	held := s.freeze("shop", 5)
	rules := packaged(policy.Enforce)
	s.engine.SetRules(rules)
	s.o.Place = inBasic
	h := NewHeld(s.o)
	s.advance(2 * time.Second)
	s.once(h)

	table := counters.New(counters.Options{})
	s.engine = policy.NewEngine(table, rules)
	table.SetSeq(s.store.MaxSeq())
	n := 0
	err := s.store.ReplaySince(t.Context(), 0, s.now().Wall.Add(-time.Hour), s.now(), func(c *store.Counted) error {
		n++
		s.engine.ReplayStored(c.At, c.Seq, inBasic(c.Identity), c.SubjectKey, c.Recipients, nil)
		return nil
	})
	if err != nil || n != 2 {
		t.Fatalf("%d messages were replayed, %v; want the two that left", n, err)
	}
	if u := s.engine.UsageOf(s.now(), inBasic(policy.Identity{Account: "shop"})); len(u) != 1 || u[0].Used != 2 {
		t.Errorf("usage after the kill: %+v, want 2 used", u)
	}
	s.o.Engine = s.engine
	s.once(NewHeld(s.o))
	if n := s.stillHeld(held); n != 3 {
		t.Errorf("%d of 5 are still held after the kill, want 3", n)
	}
}

// The store fails between counting a message and writing that down: tried again, it is the
// same message that leaves, and it is counted once.
func TestAMessageThatCouldNotBeMarkedIsCountedOnce(t *testing.T) {
	s := newShop(t, limit(0, policy.WhenFree))
	d := s.freeze("shop", 1)[0]
	s.engine.SetRules(&policy.Rules{Triggers: []policy.Trigger{limit(3, policy.WhenFree)}})
	h := NewHeld(s.o)
	m := s.held(d)
	first := h.admitted(s.now(), &m)
	for range 5 {
		s.advance(failPause)
		if l := h.admitted(s.now(), &m); !l.Admitted || l.Seq != first.Seq {
			t.Fatalf("asked again: %+v, want number %d as before", l, first.Seq)
		}
	}
	if moved, err := h.marked(t.Context(), &m); !moved || err != nil {
		t.Fatalf("marked: %v, %v", moved, err)
	}
	if u := s.engine.Usage(s.now(), "shop"); u[0].Used != 1 || len(h.counted) != 0 {
		t.Errorf("used %d, %d remembered; want 1 and none", u[0].Used, len(h.counted))
	}
}

// A message that was to be frozen and never came into the queue takes no room in it for
// ever: also not for an account that never had any held mail.
func TestRoomForMailThatNeverCameIntoTheQueueIsGivenBack(t *testing.T) {
	s := newShop(t, limit(0, policy.Manual))
	s.freeze("shop", 1)
	h := NewHeld(s.o)
	s.once(h)
	s.engine.Check(s.now(), &policy.Submission{Recipients: 1, Size: 100}, policy.Identity{Account: "nobody"})
	if list := s.engine.HeldAccounts(); len(list) != 2 {
		t.Fatalf("accounts with held mail: %v", list)
	}
	s.advance(2 * time.Minute) // the next comparison with the queue
	s.once(h)
	if list := s.engine.HeldAccounts(); len(list) != 1 || list[0] != "shop" {
		t.Errorf("accounts with held mail: %v, want shop alone", list)
	}
}
