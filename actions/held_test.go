package actions

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"osm/counters"
	"osm/policy"
	store "osm/sql"
)

// shop is everything that held mail needs, real: Exim, executor, store, engine.
type shop struct {
	t      *testing.T
	exim   *testExim
	store  *store.Store
	db     string // its file
	engine *policy.Engine
	client *Executor
	o      HeldOptions
	to     string       // whom submit writes to, if not to the usual recipient
	ahead  atomic.Int64 // ms by which both clocks are ahead
	wall   atomic.Int64 // ms by which the wall clock alone is ahead
}

// now is the time, moved by the test.
func (s *shop) now() policy.Moment {
	now := time.Now().Add(time.Duration(s.ahead.Load()) * time.Millisecond)
	return policy.Moment{Wall: now.Add(time.Duration(s.wall.Load()) * time.Millisecond).UTC(), Boot: now.UnixMilli()}
}

func (s *shop) advance(d time.Duration) { s.ahead.Add(d.Milliseconds()) }

// limit is a trigger that freezes.
func limit(max int64, release policy.Release) policy.Trigger {
	return policy.Trigger{
		Name: "account-hour", Watch: policy.WatchAccount, Max: max, Per: time.Hour, Count: policy.Messages,
		Verdict: policy.Freeze, Release: release, Mode: policy.Enforce,
	}
}

func newShop(t *testing.T, trigger policy.Trigger) *shop {
	t.Helper()
	s := &shop{t: t, exim: newTestExim(t, ourTimers), db: filepath.Join(t.TempDir(), "osm.db")}
	var err error
	s.store, err = store.Open(t.Context(), store.Options{
		Path: s.db, Log: slog.New(slog.DiscardHandler), BootID: "test",
		Now: func() time.Time { return s.now().Wall }, Clock: s.now,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.store.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("store.Run: %v", err)
		}
		s.store.Close()
	})
	s.engine = policy.NewEngine(counters.New(counters.Options{}), &policy.Rules{Triggers: []policy.Trigger{trigger}})
	s.engine.SetRefKey(s.store.RefKey())
	s.client = s.exim.executor(s.exim.options())
	s.o = HeldOptions{
		Store: s.store, Engine: s.engine, Executor: s.client, Log: slog.New(slog.DiscardHandler), Now: s.now,
		ReleaseEvery: time.Millisecond,
	}
	return s
}

// submit sends a message of an account: it is judged, queued by Exim as decided, and the
// decision is stored if keep is set. The owner's uid is 5 for shop, 6 for any other.
func (s *shop) submit(account, sender string, keep bool) *policy.Decision {
	s.t.Helper()
	sub := &policy.Submission{Protocol: "local", EnvelopeSender: strings.Trim(sender, "<>"), Recipients: 1, Size: 100, Subject: "hello from " + account}
	d := s.engine.Check(s.now(), sub, policy.Identity{Account: account, Source: policy.SourceScript})
	uid := uint32(6)
	if account == "shop" {
		uid = 5
	}
	more := ""
	if d.Release == policy.WhenFree {
		more = " release=when-free"
	}
	answer := fmt.Sprintf(`action=%s ref=%s%s log="%s" text="%s" osm=1`, d.Verdict, d.Ref, more, d.Log, d.Text)
	sub.MessageID = s.exim.send(letter{uid: uid, gid: 60, sender: sender, to: s.to, answer: answer, subject: sub.Subject})
	if keep && !s.store.Append(d) {
		s.t.Fatal("the store has no room")
	}
	return d
}

// freeze submits messages until n of the account are held, and returns those.
func (s *shop) freeze(account string, n int) []*policy.Decision {
	s.t.Helper()
	var held []*policy.Decision
	for len(held) < n {
		sender := account + "@shop.example"
		if len(held)%2 == 1 {
			sender = "<>"
		}
		if d := s.submit(account, sender, true); d.Verdict == policy.Freeze {
			held = append(held, d)
		}
	}
	s.flush()
	return held
}

func (s *shop) flush() {
	s.t.Helper()
	if err := s.store.Flush(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
}

// run runs a register until the returned function is called.
func (s *shop) run() (h *Held, stop func()) {
	s.t.Helper()
	h = NewHeld(s.o)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Errorf("Held.Run: %v", err)
		}
	})
	s.t.Cleanup(stop)
	return h, stop
}

// once makes a register do all that is due now.
func (s *shop) once(h *Held) {
	s.t.Helper()
	for range 100 {
		if h.step(s.t.Context()) > 100*time.Millisecond {
			break
		}
	}
	if p := h.Status().Problem; p != "" {
		s.t.Fatalf("problem: %s", p)
	}
}

// settle does what an operator's command does (control.Service): what matches and is held
// still at that moment is marked, and the register woken.
func (s *shop) settle(h *Held, actor string, f store.HeldFilter, to store.State) (n int) {
	s.t.Helper()
	f.State, f.Limit = store.StateHeld.String(), 1000
	list, _, err := s.store.HeldList(s.t.Context(), f)
	if err != nil {
		s.t.Errorf("list held messages: %v", err)
	}
	for i := range list {
		moved, err := s.store.SetHeldState(s.t.Context(), list[i].Ref, store.StateHeld, to, actor, "")
		if err != nil {
			s.t.Errorf("mark %s as %s: %v", list[i].Ref, to, err)
		}
		if moved {
			n++
		}
	}
	h.Kick()
	return n
}

func (s *shop) release(h *Held, actor string, f store.HeldFilter) int {
	s.t.Helper()
	return s.settle(h, actor, f, store.StateReleasing)
}

func (s *shop) discard(h *Held, actor string, f store.HeldFilter) int {
	s.t.Helper()
	return s.settle(h, actor, f, store.StateDiscarding)
}

func (s *shop) held(d *policy.Decision) store.Held {
	s.t.Helper()
	m, err := s.store.HeldByRef(s.t.Context(), d.Ref)
	if err != nil {
		s.t.Fatalf("HeldByRef(%s): %v", d.Ref, err)
	}
	return m
}

func (s *shop) wantState(d *policy.Decision, want store.State, note string) {
	s.t.Helper()
	if m := s.held(d); m.State != want.String() || !strings.Contains(m.LastError, note) {
		s.t.Errorf("message %s is %s by %q (%s), want %s (%s)", d.Ref, m.State, m.By, m.LastError, want, note)
	}
}

func TestReleasedOnceAndOnlyOnceByTwoOperatorsAtTheSameTime(t *testing.T) {
	s := newShop(t, limit(0, policy.Manual))
	shop, other := s.freeze("shop", 30), s.freeze("other", 2)
	h, _ := s.run()
	var wg sync.WaitGroup
	var total atomic.Int64
	for _, actor := range []string{"anna", "bert", "anna"} {
		wg.Go(func() { total.Add(int64(s.release(h, actor, store.HeldFilter{Account: "shop"}))) })
	}
	wg.Wait()
	if total.Load() != 30 {
		t.Errorf("three releases at once took %d messages, want each of the 30 once", total.Load())
	}
	waitFor(t, "all of shop's mail delivered", func() bool { return len(s.exim.ids()) == 2 })
	waitFor(t, "all of it written down", func() bool { return s.held(shop[29]).State == "released" && s.held(shop[0]).State == "released" })
	for _, d := range shop {
		s.wantState(d, store.StateReleased, "")
		if n := s.exim.deliveries(d.Submission.MessageID); n != 1 {
			t.Errorf("message %s was delivered %d times", d.Ref, n)
		}
		if by := s.held(d).By; by != "anna" && by != "bert" {
			t.Errorf("released by %q", by)
		}
	}
	for _, d := range other {
		s.wantState(d, store.StateHeld, "")
	}
}

func TestReleaseKeepsItsPace(t *testing.T) {
	s := newShop(t, limit(0, policy.Manual))
	s.o.ReleaseEvery = time.Second
	s.freeze("shop", 3)
	h := NewHeld(s.o)
	s.release(h, "anna", store.HeldFilter{})
	for want := 2; want >= 0; want-- {
		for range 5 {
			h.step(t.Context())
		}
		waitFor(t, "one delivery", func() bool { return len(s.exim.ids()) <= want })
		if n := len(s.exim.ids()); n != want {
			t.Fatalf("%d messages are left, want %d: one a second leaves", n, want)
		}
		s.advance(time.Second)
	}
}

func TestRestartFinishesWhatWasBegunAndDoesNothingTwice(t *testing.T) {
	s := newShop(t, limit(0, policy.Manual))
	held := s.freeze("shop", 4)
	waiting, delivered, removed, half := held[0], held[1], held[2], held[3]
	h := NewHeld(s.o)
	for _, d := range []*policy.Decision{waiting, delivered, half} {
		if n := s.release(h, "anna", store.HeldFilter{Ref: d.Ref}); n != 1 {
			t.Fatalf("%d released", n)
		}
	}
	if n := s.discard(h, "anna", store.HeldFilter{Ref: removed.Ref}); n != 1 {
		t.Fatalf("%d discarded", n)
	}
	// The executor did its work, and the daemon was killed before it wrote that down.
	if _, err := s.client.Deliver(t.Context(), delivered.Submission.MessageID); err != nil {
		t.Fatal(err)
	}
	if _, err := s.client.Remove(t.Context(), removed.Submission.MessageID); err != nil {
		t.Fatal(err)
	}
	if _, err := s.client.Thaw(t.Context(), half.Submission.MessageID); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the first delivery", func() bool { return s.exim.deliveries(delivered.Submission.MessageID) == 1 })

	s.advance(time.Second)
	_, stop := s.run()
	for _, d := range []*policy.Decision{waiting, delivered, half} {
		waitFor(t, "the release of "+d.Ref, func() bool { return s.held(d).State == "released" })
	}
	waitFor(t, "the removal", func() bool { return s.held(removed).State == "discarded" })
	waitFor(t, "the second delivery", func() bool { return s.exim.deliveries(waiting.Submission.MessageID) == 1 })
	stop()
	s.exim.run("-q") // what was thawed leaves with Exim's own queue run
	for _, d := range []*policy.Decision{waiting, delivered, half} {
		if n := s.exim.deliveries(d.Submission.MessageID); n != 1 {
			t.Errorf("delivered %d times, want once", n)
		}
	}
	if n := s.exim.deliveries(removed.Submission.MessageID); n != 0 {
		t.Errorf("what was discarded was delivered %d times", n)
	}
}

func TestDiscardLeavesARecordWithTheHeaders(t *testing.T) {
	s := newShop(t, limit(0, policy.Manual))
	held := s.freeze("shop", 3)
	h := NewHeld(s.o)
	if n := s.discard(h, "anna", store.HeldFilter{Account: "shop"}); n != 3 {
		t.Fatalf("%d discarded", n)
	}
	s.once(h)
	for _, d := range held {
		s.wantState(d, store.StateDiscarded, "")
		if m := s.held(d); m.By != "anna" {
			t.Errorf("discarded by %q", m.By)
		}
	}
	if left := s.exim.ids(); len(left) != 0 {
		t.Errorf("in the queue: %v: Exim made a bounce, or nothing was removed", left)
	}
	for _, d := range held {
		if n := s.exim.deliveries(d.Submission.MessageID); n != 0 {
			t.Errorf("delivered %d times", n)
		}
	}
	if n := s.release(h, "bert", store.HeldFilter{Account: "shop"}); n != 0 {
		t.Errorf("%d discarded messages were released", n)
	}
}

func TestWhatVanishesIsWrittenDown(t *testing.T) {
	s := newShop(t, limit(0, policy.Manual))
	held := s.freeze("shop", 4)
	byOwner, byRoot, thawed, stays := held[0], held[1], held[2], held[3]
	h := NewHeld(s.o)

	cmd := exec.Command("/usr/sbin/exim4", "-Mrm", byOwner.Submission.MessageID)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 5, Gid: 60}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("the owner removes his own mail: %v\n%s", err, out)
	}
	s.exim.run("-Mrm", byRoot.Submission.MessageID)
	s.exim.run("-Mt", thawed.Submission.MessageID)
	s.once(h)
	s.wantState(byOwner, store.StateHeld, "") // too young to be sure
	s.advance(2 * time.Minute)
	s.once(h)
	s.wantState(byOwner, store.StateGone, "removed by its owner")
	s.wantState(byRoot, store.StateGone, "by hand")
	s.wantState(thawed, store.StateGone, "thawed by hand")
	s.wantState(stays, store.StateHeld, "")
	audit, _, err := s.store.AuditList(t.Context(), time.Time{}, 10, "")
	if err != nil || len(audit) != 3 {
		t.Errorf("audit = %+v, %v; want the three", audit, err)
	}

	// Frozen again by hand: it is ours again.
	s.exim.run("-Mf", thawed.Submission.MessageID)
	s.advance(2 * time.Minute)
	s.once(h)
	s.wantState(thawed, store.StateHeld, "frozen again")

	// Removed just before it is released.
	s.exim.run("-Mrm", stays.Submission.MessageID)
	s.release(h, "anna", store.HeldFilter{Ref: stays.Ref})
	s.once(h)
	s.wantState(stays, store.StateGone, "before it was released")
}

func TestFrozenMailWhoseDecisionWasLostIsFound(t *testing.T) {
	s := newShop(t, limit(0, policy.Manual))
	lost := s.submit("shop", "a@b.example", false)
	s.o.Identify = func(m QueueMessage) policy.Identity {
		return policy.Identity{Account: "uid-" + m.CallerLogin, Source: policy.SourceScript}
	}
	h := NewHeld(s.o)
	s.once(h)
	if _, err := s.store.HeldByRef(t.Context(), lost.Ref); err == nil {
		t.Fatal("entered at once: its decision may still be on its way into the store")
	}
	s.advance(2 * time.Minute)
	s.once(h)
	s.wantState(lost, store.StateHeld, "")
	if m := s.held(lost); m.Account != "uid-games" || m.MessageID != lost.Submission.MessageID || m.EnvelopeSender != "a@b.example" {
		t.Errorf("entered as %+v", m)
	}
}

func TestWhenFreeMailWhoseDecisionWasLostStillLeavesByItself(t *testing.T) {
	s := newShop(t, limit(1, policy.WhenFree))
	s.o.Identify = func(QueueMessage) policy.Identity {
		return policy.Identity{Account: "shop", Source: policy.SourceScript}
	}
	s.submit("shop", "a@b.example", true)
	lost := s.submit("shop", "a@b.example", false)
	h := NewHeld(s.o)
	s.advance(2 * time.Minute)
	s.once(h)
	if m := s.held(lost); m.State != "held" || m.Release != "when-free" || m.Trigger != "account-hour" {
		t.Fatalf("entered as %+v, want it when-free and with its trigger", m)
	}
	s.advance(2 * time.Hour)
	s.once(h)
	s.wantState(lost, store.StateReleased, "")
}

func TestADecisionThatIsStoredIsTakenWhole(t *testing.T) {
	s := newShop(t, limit(0, policy.WhenFree))
	want := policy.Identity{
		Account: "(shared:nobody)", Source: policy.SourceScript, SubKey: "uid 65534", Basis: "uid 65534", Directory: "/home/shop/public_html",
		DirectoryAccount: "shop", Claimed: true, ClientIP: netip.MustParseAddr("192.0.2.7"), IPClass: policy.IPLogin, Script: "/home/shop/public_html/x.php",
	}
	sub := &policy.Submission{MessageID: "1xVSHx-0004hT-1j", Protocol: "local", Subject: "hello 5", Recipients: 2, Size: 100, EnvelopeSender: "a@b.example"}
	d := s.engine.Check(s.now(), sub, want)
	s.store.Append(d)
	s.flush()
	got, err := NewHeld(s.o).decisionOf(t.Context(), s.now(), &QueueMessage{MessageID: sub.MessageID, Ref: d.Ref, FrozenSince: s.now().Wall})
	if err != nil || got == nil {
		t.Fatalf("decisionOf = %v, %v", got, err)
	}
	if got.Identity != want {
		t.Errorf("identity\n got %+v\nwant %+v", got.Identity, want)
	}
	if got.Release != policy.WhenFree || got.SubjectKey != d.SubjectKey || got.Trigger != "account-hour" || got.Submission.Recipients != 2 || got.Submission.Size != 100 {
		t.Errorf("got %+v with %+v", got, got.Submission)
	}
}

// discarding is a trigger that lets nothing pass.
func discarding() policy.Trigger {
	t := limit(0, policy.Manual)
	t.Verdict, t.ConfirmLoss = policy.Discard, true
	return t
}

func TestDiscardThatTheACLCouldOnlyFreezeIsRemoved(t *testing.T) {
	s := newShop(t, discarding())
	h := NewHeld(s.o)
	s.once(h)
	first := s.submit("shop", "a@b.example", true)
	if first.Verdict != policy.Discard {
		t.Fatalf("verdict %v", first.Verdict)
	}
	s.flush()
	h.Frozen(first)
	s.once(h)
	if left := s.exim.ids(); len(left) != 1 {
		t.Errorf("in the queue: %v; want the message, whose decision may still be on its way into the store", left)
	}
	s.advance(discardEvery) // much less than a regular comparison takes
	s.once(h)
	s.wantState(first, store.StateDiscarded, "")
	if by := s.held(first).By; by != "trigger account-hour" {
		t.Errorf("by %q", by)
	}
	untold := s.submit("shop", "a@b.example", true) // as in a crash
	s.flush()
	s.advance(2 * time.Minute)
	s.once(h)
	s.wantState(untold, store.StateDiscarded, "")
	if left := s.exim.ids(); len(left) != 0 {
		t.Errorf("left in the queue: %v", left)
	}
}

func TestDiscardThatEximItselfDropsIsNoHeldMail(t *testing.T) {
	s := newShop(t, discarding())
	s.exim.configure(ourTimers + router)
	h := NewHeld(s.o)
	s.once(h)
	d := s.submit("shop", "a@b.example", true)
	s.flush()
	wantNothing := func(when string) {
		t.Helper()
		for range 3 {
			h.Frozen(d)
			s.advance(2 * time.Minute)
			s.once(h)
		}
		if m, err := s.store.HeldByRef(t.Context(), d.Ref); err == nil {
			t.Errorf("%s it is in the register: %+v", when, m)
		}
		if audit, _, err := s.store.AuditList(t.Context(), time.Time{}, 10, ""); err != nil || len(audit) != 0 {
			t.Errorf("%s the audit tells %+v, %v", when, audit, err)
		}
	}
	if ids := s.exim.ids(); len(ids) != 1 {
		t.Fatalf("in the queue: %v", ids)
	}
	wantNothing("while it waits for Exim's next queue run")
	s.exim.run("-q")
	if ids := s.exim.ids(); len(ids) != 0 || s.exim.deliveries(d.Submission.MessageID) != 0 {
		t.Fatalf("Exim did not drop it: %v", ids)
	}
	wantNothing("after Exim dropped it")
}
