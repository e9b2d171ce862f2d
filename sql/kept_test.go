package store

import (
	"context"
	"errors"
	"reflect"
	"testing"
	"time"

	"osm/policy"
)

// purgeAll deletes all that is too old now.
func (f *fixture) purgeAll() {
	ctx := context.Background()
	for f.beginPurge(ctx); len(f.purging.steps) > 0; {
		f.purge(ctx)
	}
}

func TestWhatAnEventOrHeldMailNamesOutlivesTheDecisions(t *testing.T) {
	f, err := open(t, "", func(o *Options) { o.KeepDecisions, o.KeepEvents = 14*24*time.Hour, 400*24*time.Hour })
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ctx := context.Background()
	for seq := uint64(1); seq <= 200; seq++ { // the texts come again: most of them are names
		d := scriptDecision(seq, "shop")
		d.Identity.DirectoryAccount = "neighbour"
		if seq >= 100 && seq <= 104 {
			frozen(d)
			d.Verdict, d.EventID = policy.Defer, 7
			f.AppendEvent(policy.Event{ID: 7, At: d.At.Wall, LastAt: d.At.Wall, Account: "shop"}, seq)
		}
		if seq == 150 {
			frozen(d)
		}
		f.Append(d)
	}
	f.store(ctx)
	before := map[uint64]Decision{}
	for _, seq := range []uint64{100, 150} {
		if before[seq], err = f.DecisionBySeq(ctx, seq); err != nil || before[seq].Basis == "" || len(before[seq].Over) == 0 {
			t.Fatalf("decision %d: %+v, %v", seq, before[seq], err)
		}
	}
	for days := range 30 { // held.keep
		f.now.Store(day.Add(time.Duration(days) * 24 * time.Hour).UnixMilli())
		f.purgeAll()
		f.purgeAll()
	}
	for query, want := range map[string]int64{"SELECT count(*) FROM decisions": 0, "SELECT count(*) FROM names": 0, "SELECT count(*) FROM kept": 6} {
		if n := ask(t, f.path, query); n != want {
			t.Errorf("after 30 days, %s: got %d, want %d", query, n, want)
		}
	}
	for seq, want := range before {
		for name, find := range map[string]func() (Decision, error){
			"reference":  func() (Decision, error) { return f.DecisionByRef(ctx, want.Ref) },
			"message id": func() (Decision, error) { return f.DecisionByMessageID(ctx, want.MessageID) },
		} {
			if got, err := find(); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("decision %d by its %s:\n got %+v, %v\nwant %+v", seq, name, got, err, want)
			}
		}
	}
	if e, err := f.Event(ctx, 7); err != nil || len(e.Messages) != 5 || e.Messages[0].WorkingDirectory != "/home/shop/public_html" {
		t.Errorf("the event: %+v, %v; want its five messages", e, err)
	}
	if f.MaxSeq() != 0 {
		t.Fatal("the store was not empty when it was opened")
	}
	again, err := open(t, f.path)
	if err != nil || again.MaxSeq() != 150 {
		t.Errorf("opened again: highest number %d, %v; want that of the held message", again.MaxSeq(), err)
	}
	again.Close()

	// Released, its row in the register goes after keep_events, and so do the event and
	// what they named.
	if ok, err := moveHeld(ctx, f, before[150].Ref); !ok || err != nil {
		t.Fatal(ok, err)
	}
	f.now.Store(day.Add(500 * 24 * time.Hour).UnixMilli())
	for range 3 {
		f.purgeAll()
	}
	if n := ask(t, f.path, "SELECT count(*) FROM kept"); n != 0 {
		t.Errorf("when nothing names them any more %d decisions are kept", n)
	}
}

// moveHeld releases a held message of a store whose writer does not run.
func moveHeld(ctx context.Context, f *fixture, ref string) (ok bool, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		ok, err = f.SetHeldState(ctx, ref, StateHeld, StateReleased, "root", "")
	}()
	f.runOp(<-f.ops)
	<-done
	return ok, err
}

func TestAHeldMessageWhoseDecisionWasLostIsExplainedFromTheRegister(t *testing.T) {
	f := start(t, "")
	ctx := context.Background()
	d := frozen(scriptDecision(9, "shop"))
	if err := f.AddHeld(ctx, d); err != nil {
		t.Fatal(err)
	}
	for name, find := range map[string]func() (Decision, error){
		"reference":  func() (Decision, error) { return f.DecisionByRef(ctx, policy.RefOf(9, f.RefKey())) },
		"message id": func() (Decision, error) { return f.DecisionByMessageID(ctx, d.Submission.MessageID) },
	} {
		got, err := find()
		if err != nil || got.Account != "shop" || got.Verdict != "freeze" || got.Reason != "over" || got.Subject != "Order 9" ||
			got.Trigger != "account-hour" || !got.At.Equal(d.At.Wall) || got.Recipients != 5 || got.MessageID != d.Submission.MessageID {
			t.Errorf("by its %s: got %+v, %v", name, got, err)
		}
	}
	if _, err := f.DecisionBySeq(ctx, 10); !errors.Is(err, ErrNotFound) {
		t.Errorf("a number that was never given: got %v, want ErrNotFound", err)
	}
}
