package store

import (
	"context"
	"errors"
	"reflect"
	"testing"
	"time"

	"osm/policy"
)

func TestHoldsStandUntilTheyEnd(t *testing.T) {
	f := start(t, "")
	ctx := context.Background()
	h := policy.Hold{
		Scope: policy.ScopeDirectory, Account: "shop", Value: "/home/shop/public_html", Verdict: policy.Freeze, Release: policy.WhenFree,
		Trigger: "directory-hour", EventID: 12, Claimed: true, Until: day.Add(time.Hour),
		Provenance: policy.Provenance{Where: "database", By: "root", At: day, Reason: "ticket 4711"},
	}
	id, err := f.PutHold(ctx, h)
	if err != nil {
		t.Fatal(err)
	}
	h.ID = id
	second, err := f.PutHold(ctx, policy.Hold{Scope: policy.ScopeAccount, Account: "cafe"})
	if err != nil || second == id {
		t.Fatal(second, err)
	}
	holds, err := f.Holds(ctx)
	if err != nil || len(holds) != 2 || !reflect.DeepEqual(holds[0], h) || !holds[1].Provenance.At.Equal(day) {
		t.Fatalf("holds:\n got %+v, %v\nwant %+v first", holds, err, h)
	}
	h.Until = day.Add(2 * time.Hour)
	if again, err := f.PutHold(ctx, h); err != nil || again != id {
		t.Errorf("a hold that is made longer: got number %d, %v; want %d", again, err, id)
	}
	f.now.Store(day.Add(2*time.Hour + time.Second).UnixMilli())
	if holds, err := f.Holds(ctx); err != nil || len(holds) != 1 || holds[0].ID != second {
		t.Errorf("when one is over: got %+v, %v", holds, err)
	}
	if expired, err := f.ExpiredHolds(ctx); err != nil || len(expired) != 1 || expired[0].ID != id {
		t.Errorf("expired: got %+v, %v", expired, err)
	}
	if err := errors.Join(f.EndHold(ctx, id, ""), f.EndHold(ctx, second, "root")); err != nil {
		t.Fatal(err)
	}
	if err := f.EndHold(ctx, id, "root"); !errors.Is(err, ErrNotFound) {
		t.Errorf("ending it again: got %v, want ErrNotFound", err)
	}
	ended, err := f.EndedHolds(ctx, day)
	if err != nil || len(ended) != 2 || ended[0].EndedBy != "root" && ended[1].EndedBy != "root" {
		t.Errorf("ended: got %+v, %v", ended, err)
	}
	if got, err := f.Hold(ctx, id); err != nil || got.EndedAt.IsZero() || got.EndedBy != "" {
		t.Errorf("one that expired: got %+v, %v", got, err)
	}
}

func TestOverridesComeBackFieldByField(t *testing.T) {
	f := start(t, "")
	ctx := context.Background()
	limit, per, verdict, release, mode := int64(5000), time.Hour, policy.Defer, policy.WhenFree, policy.Enforce
	actions := []policy.Action{{Name: "report"}, {Name: "hold", For: time.Hour}}
	by := policy.Provenance{Where: "database", By: "root", At: day, Reason: "newsletter, ticket 4711"}
	full := policy.Override{Level: policy.LevelAccount, Name: "shop", Trigger: "account-hour", Max: &limit, Per: &per, Verdict: &verdict,
		Release: &release, Mode: &mode, Actions: &actions, Until: day.Add(time.Hour), Provenance: by}
	empty := policy.Override{Level: policy.LevelServer, Trigger: "account-day", Provenance: by}
	for _, o := range []*policy.Override{&full, &empty} {
		id, err := f.PutOverride(ctx, *o)
		if err != nil {
			t.Fatal(err)
		}
		o.ID = id
	}
	list, err := f.Overrides(ctx)
	if err != nil || !reflect.DeepEqual(list, []policy.Override{full, empty}) {
		t.Errorf("got %+v, %v\nwant %+v", list, err, []policy.Override{full, empty})
	}
	same := policy.Override{Level: policy.LevelAccount, Name: "shop", Trigger: "account-hour", Provenance: by}
	if id, err := f.PutOverride(ctx, same); err != nil || id != full.ID {
		t.Errorf("the same level, name and trigger: got number %d, %v; want it to replace %d", id, err, full.ID)
	}
	if list, err := f.Overrides(ctx); err != nil || len(list) != 2 || list[0].Max != nil {
		t.Errorf("after it was replaced: got %+v, %v", list, err)
	}
	if err := f.DeleteOverride(ctx, full.ID); err != nil {
		t.Error(err)
	}
	if err := f.DeleteOverride(ctx, full.ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("deleting it again: got %v, want ErrNotFound", err)
	}
}

func TestExemptionsCountTheirHits(t *testing.T) {
	f := start(t, "")
	ctx := context.Background()
	e := policy.Exemption{Scope: policy.ScopeRecipientDomain, Account: "shop", Value: "example.com", Trigger: "account-hour", Ceiling: 900,
		Until: day.Add(time.Hour), Provenance: policy.Provenance{Where: "database", By: "root", At: day, Reason: "lists"}}
	id, err := f.PutExemption(ctx, e)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := f.AddExemptionHits(ctx, map[int64]int64{id: 2, 999: 1}); err != nil {
			t.Fatal(err)
		}
	}
	e.ID, e.Ceiling = id, 1000
	if _, err := f.PutExemption(ctx, e); err != nil {
		t.Fatal(err)
	}
	list, err := f.Exemptions(ctx)
	if want := (Exemption{e, 6, day}); err != nil || len(list) != 1 || !reflect.DeepEqual(list[0], want) {
		t.Errorf("got %+v, %v; want %+v", list, err, want)
	}
	if err := f.DeleteExemption(ctx, id); err != nil {
		t.Error(err)
	}
	if err := f.DeleteExemption(ctx, id); !errors.Is(err, ErrNotFound) {
		t.Errorf("deleting it again: got %v, want ErrNotFound", err)
	}
}

func TestTheAuditIsListedNewestFirst(t *testing.T) {
	f := start(t, "")
	ctx := context.Background()
	for i := range 25 {
		f.now.Store(day.Add(time.Duration(i) * time.Minute).UnixMilli())
		a := Audit{ActorUID: 0, User: "reseller1", Role: "reseller", What: "limit set", Target: "shop", Old: "300", New: "5000"}
		id, err := f.AddAudit(ctx, a)
		if err := errors.Join(err, f.AddEntry(ctx, "alarm", "x")); err != nil {
			t.Fatal(err)
		}
		if got, err := f.AuditEntry(ctx, id); err != nil || got.ID != id || got.Old != "300" {
			t.Fatalf("change %d: got %+v, %v", id, got, err)
		}
	}
	first, next, err := f.AuditList(ctx, day.Add(5*time.Minute), 15, "")
	if err != nil || len(first) != 15 || next == "" || !first[0].At.Equal(day.Add(24*time.Minute)) || first[0].New != "5000" {
		t.Fatalf("first page: %d rows, next %q, %v", len(first), next, err)
	}
	second, next, err := f.AuditList(ctx, day.Add(5*time.Minute), 15, next)
	if err != nil || len(second) != 5 || next != "" {
		t.Errorf("second page: %d rows, next %q, %v", len(second), next, err)
	}
	if _, _, err := f.AuditList(ctx, day, 15, "1; DROP TABLE audit"); err == nil {
		t.Error("a page that begins nowhere: got no error")
	}
	if list, _, err := f.Journal(ctx, day.Add(20*time.Minute), 0, ""); err != nil || len(list) != 5 {
		t.Errorf("journal: got %d, %v; want 5", len(list), err)
	}
}

func TestAnEventKeepsItsFirstAndItsLastMessages(t *testing.T) {
	f := start(t, "")
	ctx := context.Background()
	e := policy.Event{ID: 5, At: day, LastAt: day, Trigger: "account-hour", Watch: policy.WatchLogin, Key: "info@shop.example", Account: "shop",
		Mailbox: "info@shop.example", Mode: policy.Enforce, Verdict: policy.Freeze, Max: 300, Per: time.Hour, Count: policy.Messages, Used: 300,
		FreeAt: day.Add(time.Hour), Claimed: true, Open: true}
	for seq := uint64(1); seq <= 330; seq++ {
		f.Append(frozen(exampleDecision(seq)))
		e.Stopped, e.LastAt = int64(seq), day.Add(time.Duration(seq)*time.Second)
		if !f.AppendEvent(e, seq) {
			t.Fatal("AppendEvent refused an event")
		}
	}
	f.flush(t)
	got, err := f.Event(ctx, 5)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got.Policy(), e) {
		t.Errorf("got  %+v\nwant %+v", got.Policy(), e)
	}
	var seqs []uint64
	for _, m := range got.Messages {
		seqs = append(seqs, m.Seq)
	}
	if len(seqs) != 100 || seqs[0] != 1 || seqs[49] != 50 || seqs[50] != 281 || seqs[99] != 330 {
		t.Errorf("kept messages: got %v, want 1 to 50 and 281 to 330", seqs)
	}
	if err := f.AddEventMessages(ctx, 5, 7, 8); err != nil {
		t.Error(err)
	}
	if err := f.AddEventMessages(ctx, 6, 7); !errors.Is(err, ErrNotFound) {
		t.Errorf("messages of no event: got %v, want ErrNotFound", err)
	}
	if of, err := f.EventsOf(ctx, 8, "shop"); err != nil || len(of) != 1 || of[0].ID != 5 {
		t.Errorf("events of a message: got %+v, %v", of, err)
	}
	id, err := f.PutAction(ctx, Action{EventID: 5, At: Time{day}, Name: "hold", Target: "shop", State: "running", Inverse: "release 3"})
	if err != nil {
		t.Fatal(err)
	}
	if again, err := f.PutAction(ctx, Action{ID: id, State: "done", Outcome: "held"}); err != nil || again != id {
		t.Errorf("what became of an action: got %d, %v", again, err)
	}
	if got, err := f.Event(ctx, 5); err != nil || len(got.Actions) != 1 || got.Actions[0].State != "done" || got.Actions[0].Name != "hold" {
		t.Errorf("actions: got %+v, %v", got.Actions, err)
	}
}

func TestEventsAreListedByWhatIsAskedFor(t *testing.T) {
	f := start(t, "")
	ctx := context.Background()
	if id, err := f.NextEventID(ctx); err != nil || id != 1 {
		t.Errorf("the first event: got %d, %v", id, err)
	}
	for id := int64(1); id <= 30; id++ {
		e := policy.Event{ID: id, At: day, LastAt: day.Add(time.Duration(id) * time.Minute), Account: "shop", Trigger: "account-hour", Open: id > 20}
		if id%3 == 0 {
			e.Account = "cafe"
		}
		if id%5 == 0 {
			e.Trigger, e.Key = "login-hour", e.Account+" info@"+e.Account+".example"
		}
		if err := f.UpsertEvent(ctx, e); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name   string
		filter EventFilter
		want   int
	}{
		{"all", EventFilter{}, 30},
		{"of an account", EventFilter{Account: "cafe"}, 10},
		{"of a trigger", EventFilter{Trigger: "login-hour"}, 6},
		{"of both", EventFilter{Trigger: "login-hour", Account: "cafe"}, 2},
		{"of a key", EventFilter{Trigger: "login-hour", Key: "shop info@shop.example"}, 4},
		{"that are open", EventFilter{OpenOnly: true}, 10},
		{"since a moment", EventFilter{Since: day.Add(25 * time.Minute)}, 6},
	} {
		got, last := 0, int64(1<<62)
		for c.filter.Limit = 7; ; {
			list, next, err := f.Events(ctx, c.filter)
			if err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			for _, e := range list {
				if e.ID >= last {
					t.Errorf("%s: event %d after %d", c.name, e.ID, last)
				}
				last = e.ID
			}
			if got += len(list); next == "" {
				break
			}
			c.filter.After = next
		}
		if got != c.want {
			t.Errorf("%s: got %d, want %d", c.name, got, c.want)
		}
	}
	if open, err := f.OpenEvents(ctx); err != nil || len(open) != 10 {
		t.Errorf("open events: got %d, %v", len(open), err)
	}
	if id, err := f.NextEventID(ctx); err != nil || id != 31 {
		t.Errorf("next event: got %d, %v; want 31", id, err)
	}
}
