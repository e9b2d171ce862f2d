package actions

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	_ "github.com/mattn/go-sqlite3" // whoever else has the database open

	"osm/policy"
	store "osm/sql"
)

func TestWhenFreeDeliversTheWholeBacklogAtTheLimitsPace(t *testing.T) {
	s := newShop(t, limit(3, policy.WhenFree))
	shop := s.freeze("shop", 8) // three passed before
	other := s.freeze("other", 2)
	h := NewHeld(s.o)
	left := func() int { return len(s.exim.ids()) }
	passed := left() - 10
	s.advance(2 * time.Second)
	s.once(h)
	if n := left(); n != 10+passed {
		t.Fatalf("%d messages are left while the windows are full, want %d", n, 10+passed)
	}
	// No more than three of an account in any hour.
	for hour, want := range []int{5, 2, 0} {
		s.advance(62 * time.Minute)
		h.Kick()
		s.once(h)
		n := 0
		for _, d := range shop {
			if s.held(d).State == "held" {
				n++
			}
		}
		if n != want {
			t.Fatalf("after hour %d %d of shop's messages are held, want %d", hour+1, n, want)
		}
		if hour == 0 && (s.held(other[0]).State != "released" || s.held(other[1]).State != "released") {
			t.Error("another account waits for shop")
		}
		if s.held(shop[0]).State != "released" {
			t.Error("the oldest did not leave first")
		}
	}
	waitFor(t, "the deliveries", func() bool { return left() == passed })
	for _, d := range append(shop, other...) {
		s.wantState(d, store.StateReleased, "")
		if n := s.exim.deliveries(d.Submission.MessageID); n != 1 {
			t.Errorf("delivered %d times", n)
		}
	}
}

func TestWhenFreeWaitsForTheEndOfAHoldAndWakesByItself(t *testing.T) {
	s := newShop(t, limit(1, policy.WhenFree))
	d := s.freeze("shop", 1)[0]
	rules := *s.engine.Rules()
	held := rules
	held.Holds = []policy.Hold{{ID: 1, Scope: policy.ScopeAccount, Account: "shop"}}
	s.engine.SetRules(&held)
	h := NewHeld(s.o)
	s.advance(2 * time.Hour)
	s.once(h)
	s.wantState(d, store.StateHeld, "")
	s.engine.SetRules(&rules)
	s.advance(freeStuck) // nobody tells it
	s.once(h)
	s.wantState(d, store.StateReleased, "")
}

// used is what the windows of account shop hold.
func (s *shop) used() int64 {
	s.t.Helper()
	u := s.engine.Usage(s.now(), "shop")
	if len(u) != 1 {
		s.t.Fatalf("usage %+v", u)
	}
	return u[0].Used
}

func TestWhatEximDoesNotLetGoHoldsUpNobody(t *testing.T) {
	s := newShop(t, limit(2, policy.WhenFree))
	held := s.freeze("shop", 4)
	first, rest := held[0], held[1:]
	spool := s.exim.path("spool/input", first.Submission.MessageID+"-H")
	if err := os.Chown(spool, 0, 0); err != nil { // not Exim's: the executor does not touch it
		t.Fatal(err)
	}
	h := NewHeld(s.o)
	s.advance(2 * time.Hour)
	for range maxAttempts {
		s.once(h)
		s.advance(retryAfter)
	}
	s.once(h)
	s.wantState(first, store.StateHeld, "not a regular file of Exim's user")
	s.wantState(rest[0], store.StateReleased, "")
	if n := s.used(); n != 2 {
		t.Fatalf("%d of 2 used by the one that left and the one that could not", n)
	}
	s.advance(61 * time.Minute)
	s.once(h)
	for _, d := range rest {
		s.wantState(d, store.StateReleased, "")
	}
	for hour := range 5 { // it is tried once an hour, and counted each time
		s.advance(61 * time.Minute)
		for range 5 {
			s.once(h)
			s.advance(time.Second)
		}
		if n := s.used(); n != 1 {
			t.Errorf("hour %d: %d of 2 used although one message is tried once an hour", hour, n)
		}
	}
	if d := s.submit("shop", "a@b.example", true); d.Verdict != policy.Accept {
		t.Errorf("the account's new mail: %v", d.Verdict)
	}
	if err := os.Chown(spool, int(s.exim.uid), -1); err != nil {
		t.Fatal(err)
	}
	s.advance(2 * time.Hour)
	s.once(h)
	s.wantState(first, store.StateReleased, "")
}

func TestWhenFreeMailIsCountedOnceWhileTheStoreFails(t *testing.T) {
	s := newShop(t, limit(3, policy.WhenFree))
	held := s.freeze("shop", 3)
	s.advance(2 * time.Hour)
	outside(t, s.db, "CREATE TRIGGER no BEFORE UPDATE ON held BEGIN SELECT RAISE(ABORT, 'no'); END")
	h := NewHeld(s.o)
	for range 5 {
		h.step(t.Context())
		s.advance(failPause)
	}
	if n := s.used(); n != 1 || h.Status().Problem == "" {
		t.Errorf("%d of 3 used while nothing can leave, want one; problem %q", n, h.Status().Problem)
	}
	outside(t, s.db, "DROP TRIGGER no")
	s.once(h)
	for _, d := range held {
		s.wantState(d, store.StateReleased, "")
	}
	if n := s.used(); n != 3 {
		t.Errorf("%d used by three messages", n)
	}
}

// outside runs a statement on the database from outside, as another program would.
func outside(t *testing.T, path, text string) {
	t.Helper()
	db, err := sql.Open("sqlite3", "file:"+path+"?_busy_timeout=5000")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(text); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
}

func TestWhatEximFreezesAgainIsAPersonsFromThenOn(t *testing.T) {
	s := newShop(t, limit(1, policy.WhenFree))
	s.to = "x@refused.example" // which Exim cannot return to a null sender
	s.submit("shop", "<>", true)
	d := s.submit("shop", "<>", true)
	s.flush()
	h := NewHeld(s.o)
	s.advance(2 * time.Hour)
	s.once(h)
	s.wantState(d, store.StateReleased, "")
	waitFor(t, "Exim to freeze it again", func() bool {
		again := false
		if _, err := s.client.QueueList(t.Context(), func(m QueueMessage) error { again = again || m.Frozen() && m.Thawed; return nil }); err != nil {
			t.Fatal(err)
		}
		return again
	})
	for range 5 {
		s.advance(2 * time.Hour)
		s.once(h)
	}
	s.wantState(d, store.StateHeld, "frozen again by Exim, which could not deliver it and has no sender to return it to")
	if m := s.held(d); m.Release != "manual" || m.Attempts != 0 {
		t.Errorf("it is %+v, want it a person's", m)
	}
}

func TestExpiryRemovesWithoutABounceAndNotAfterAStepOfTheClock(t *testing.T) {
	s := newShop(t, limit(0, policy.Manual))
	held := s.freeze("shop", 2)
	h := NewHeld(s.o)
	for _, wrong := range []time.Duration{40 * 24 * time.Hour, 0, -40 * 24 * time.Hour, 0} { // the first before any comparison
		s.wall.Store(wrong.Milliseconds())
		s.once(h)
		s.advance(2 * time.Minute)
		s.once(h)
		s.wantState(held[0], store.StateHeld, "")
	}
	for range 31 {
		s.advance(24 * time.Hour)
		s.once(h)
	}
	for _, d := range held {
		s.wantState(d, store.StateExpired, "")
	}
	if left := s.exim.ids(); len(left) != 0 {
		t.Errorf("left in the queue: %v", left)
	}
}

func TestExecutorAwayDelaysAndLosesNothing(t *testing.T) {
	s := newShop(t, limit(1, policy.WhenFree))
	held := s.freeze("shop", 3)
	good := s.o.Executor
	s.o.Executor = NewExecutor(filepath.Join(t.TempDir(), "nobody.sock"))
	h := NewHeld(s.o)
	s.advance(2 * time.Hour)
	for range 5 {
		h.step(t.Context())
		s.advance(failPause)
	}
	if p := h.Status().Problem; p == "" {
		t.Error("the executor is away, and the status says nothing")
	}
	n := 0
	for _, d := range held {
		if s.held(d).State == "releasing" {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d messages were counted out while nothing could leave, want one", n)
	}
	h.o.Executor = good
	s.advance(failPause)
	s.once(h)
	waitFor(t, "the delivery", func() bool { return s.exim.deliveries(held[0].Submission.MessageID) == 1 })
	s.wantState(held[0], store.StateReleased, "")
}

func TestHeldTotalsReachTheEngine(t *testing.T) {
	s := newShop(t, limit(0, policy.Manual))
	rules := *s.engine.Rules()
	rules.Settings.HeldMaxMessages = 2
	s.engine.SetRules(&rules)
	s.freeze("shop", 2)
	h := NewHeld(s.o)
	s.once(h)
	if st := h.Status(); st.Messages != 2 || st.Bytes != 200 {
		t.Errorf("status %+v with two messages of 100 bytes held", st)
	}
	if d := s.engine.Check(s.now(), &policy.Submission{Recipients: 1}, policy.Identity{Account: "shop"}); d.Reason != policy.ReasonHeldFull {
		t.Errorf("reason %v with two of two held", d.Reason)
	}
	s.discard(h, "anna", store.HeldFilter{})
	s.once(h)
	s.advance(totalsEvery)
	s.once(h)
	if d := s.engine.Check(s.now(), &policy.Submission{Recipients: 1}, policy.Identity{Account: "shop"}); d.Reason == policy.ReasonHeldFull {
		t.Errorf("reason %v after the held mail was discarded", d.Reason)
	}
}

func TestFiveThousandHeldMessagesAreComparedAndListedInUnderASecond(t *testing.T) {
	s := newShop(t, limit(0, policy.Manual))
	first := s.freeze("shop", 1)[0]
	var refs []string
	for i := range 4999 {
		sub := &policy.Submission{MessageID: fmt.Sprintf("%s-%06d-%02d", first.Submission.MessageID[:6], i+1, (i+1)%60), Protocol: "local", Recipients: 1, Size: 100}
		d := s.engine.Check(s.now(), sub, policy.Identity{Account: fmt.Sprintf("acc%d", i%50), Source: policy.SourceScript})
		s.store.Append(d)
		refs = append(refs, d.Ref)
	}
	s.flush()
	s.exim.copies(first.Submission.MessageID, first.Ref, refs)
	s.advance(2 * time.Minute)
	h := NewHeld(s.o)
	n := 0
	compared := best(func() {
		if err := h.reconcile(t.Context(), s.now()); err != nil {
			t.Fatal(err)
		}
	})
	listed := best(func() { n = s.countHeld() })
	t.Logf("5,000 held: compared with the queue in %v, listed from the register in %v", compared, listed)
	if n != 5000 || compared > time.Second*slowdown || listed > time.Second*slowdown {
		t.Errorf("%d held messages: compared in %v, listed in %v; want 5000, each under a second", n, compared, listed)
	}
}

// countHeld lists the whole register.
func (s *shop) countHeld() (n int) {
	s.t.Helper()
	f := store.HeldFilter{Limit: 1000}
	for {
		list, next, err := s.store.HeldList(s.t.Context(), f)
		if err != nil {
			s.t.Fatal(err)
		}
		n += len(list)
		if f.After = next; next == "" {
			return n
		}
	}
}

// best is the shortest of three times that f took: the machine may be busy.
func best(f func()) time.Duration {
	least := time.Duration(1<<63 - 1)
	for range 3 {
		began := time.Now()
		f()
		least = min(least, time.Since(began))
	}
	return least
}
