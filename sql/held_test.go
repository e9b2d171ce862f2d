package store

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"osm/policy"
)

func TestAFrozenMessageIsInTheRegister(t *testing.T) {
	f := start(t, "")
	ctx := context.Background()
	d := frozen(scriptDecision(9, "shop"))
	d.Release, d.HoldID, d.Identity.DirectoryAccount, d.Identity.Claimed, d.Identity.SubKey = policy.WhenFree, 4, "other", true, "uid 33"
	f.Append(d)
	f.Append(exampleDecision(10)) // was accepted
	f.flush(t)
	want := Held{
		Ref: policy.RefOf(9, f.RefKey()), MessageID: d.Submission.MessageID, Account: "shop", EnvelopeSender: "info@shop2.example", Subject: "Order 9",
		WorkingDirectory: "/home/shop/public_html", Recipients: 5, RecipientList: "a@example.com, b@example.com", Size: 1009, HeldAt: Time{d.At.Wall},
		Trigger: "account-hour", Release: "when-free", State: "held", StateAt: Time{d.At.Wall}, Seq: 9, SubjectKey: "order #", HoldID: 4,
		Identity: policy.Identity{Account: "shop", Source: policy.SourceScript, SubKey: "uid 33", Directory: "/home/shop/public_html", DirectoryAccount: "other", Claimed: true},
	}
	for name, find := range map[string]func() (Held, error){
		"by reference":        func() (Held, error) { return f.HeldByRef(ctx, want.Ref) },
		"by message id":       func() (Held, error) { return f.HeldByMessageID(ctx, want.MessageID) },
		"next when free":      func() (Held, error) { return f.HeldOldestWhenFree(ctx, "shop") },
		"as the list's first": func() (Held, error) { list, _, err := f.HeldList(ctx, HeldFilter{}); return list[0], err },
	} {
		if got, err := find(); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got %+v, %v\nwant %+v", name, got, err, want)
		}
	}
	if _, err := f.HeldByMessageID(ctx, "1vN3xQ-000abc-2F"); !errors.Is(err, ErrNotFound) {
		t.Errorf("an unknown message: got %v, want ErrNotFound", err)
	}
	if err := f.AddHeld(ctx, d, frozen(scriptDecision(11, "shop"))); err != nil { // the first is known
		t.Fatal(err)
	}
	if list, _, err := f.HeldList(ctx, HeldFilter{}); err != nil || len(list) != 2 {
		t.Errorf("after AddHeld: %d held messages, %v; want 2", len(list), err)
	}
}

func TestHeldMessagesAreListedByWhatIsAskedFor(t *testing.T) {
	f := start(t, "")
	ctx := context.Background()
	for seq := uint64(1); seq <= 2_500; seq++ {
		d := frozen(scriptDecision(seq, "shop"))
		if seq%10 == 0 {
			d = frozen(exampleDecision(seq))
			d.Trigger, d.Release = "login-hour", policy.WhenFree
		}
		f.Append(d)
	}
	f.flush(t)
	if ok, err := f.SetHeldState(ctx, policy.RefOf(1, f.RefKey()), StateHeld, StateReleased, "root", ""); !ok || err != nil {
		t.Fatal(ok, err)
	}
	for _, c := range []struct {
		name   string
		filter HeldFilter
		want   int
	}{
		{"all that waits", HeldFilter{}, 2_499},
		{"all", HeldFilter{State: "all"}, 2_500},
		{"what was released", HeldFilter{State: "released"}, 1},
		{"what is held", HeldFilter{State: "held", Account: "shop"}, 2_249},
		{"an account", HeldFilter{Account: "shop3"}, 36},
		{"a mailbox", HeldFilter{Mailbox: "info@shop3.example"}, 36},
		{"a directory", HeldFilter{Directory: "/home/shop/public_html"}, 2_249},
		{"a Subject as people write it", HeldFilter{Subject: "Order 12345"}, 2_499},
		{"another Subject", HeldFilter{Subject: "Invoice 12345"}, 0},
		{"a trigger", HeldFilter{Trigger: "login-hour"}, 250},
		{"when free", HeldFilter{Release: "when-free"}, 250},
		{"a reference", HeldFilter{Ref: policy.RefOf(70, f.RefKey())}, 1},
		{"before a moment", HeldFilter{Before: day.Add(101 * time.Second)}, 99},
		{"nobody's", HeldFilter{Account: "nobody"}, 0},
	} {
		got, after, seen := 0, "", make(map[string]bool)
		for {
			c.filter.Limit, c.filter.After = 700, after
			list, next, err := f.HeldList(ctx, c.filter)
			if err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			for _, h := range list {
				seen[h.Ref] = true
			}
			if got += len(list); next == "" {
				break
			}
			after = next
		}
		if got != c.want || len(seen) != got {
			t.Errorf("%s: got %d (%d different), want %d", c.name, got, len(seen), c.want)
		}
	}
	if _, _, err := f.HeldList(ctx, HeldFilter{State: "eaten"}); err == nil {
		t.Error("an unknown state: got no error")
	}
	totals, err := f.HeldTotals(ctx)
	if err != nil || len(totals) != 8 || totals[0].Account != "shop" || totals[0].Messages != 2_249 || totals[0].WhenFree != 0 || totals[1].WhenFree != totals[1].Messages {
		t.Errorf("totals: got %+v, %v", totals, err)
	}
}

func TestOnlyOneMayReleaseAMessage(t *testing.T) {
	f := start(t, "")
	ctx := context.Background()
	f.Append(frozen(scriptDecision(1, "shop")))
	f.flush(t)
	ref := policy.RefOf(1, f.RefKey())
	var won atomic.Int64
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			ok, err := f.SetHeldState(ctx, ref, StateHeld, StateReleasing, "root", "")
			if err != nil {
				t.Error(err)
			}
			if ok {
				won.Add(1)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Fatalf("%d of 50 may release it, want 1", won.Load())
	}
	f.now.Add(60_000)
	if ok, err := f.SetHeldState(ctx, ref, StateReleasing, StateHeld, "root", "exim: locked"); !ok || err != nil {
		t.Fatal(ok, err)
	}
	h, err := f.HeldByRef(ctx, ref)
	if err != nil || h.State != "held" || h.Attempts != 1 || h.LastError != "exim: locked" || h.By != "root" || !h.StateAt.Equal(day.Add(time.Minute)) {
		t.Errorf("after an attempt that failed: got %+v, %v", h, err)
	}
	if ok, err := f.SetHeldState(ctx, policy.RefOf(2, f.RefKey()), StateHeld, StateReleased, "", ""); ok || err != nil {
		t.Errorf("a message that is not held: got %v, %v", ok, err)
	}
	if _, err := f.SetHeldState(ctx, "!", StateHeld, StateReleased, "", ""); !errors.Is(err, ErrNotFound) {
		t.Errorf("no reference at all: got %v, want ErrNotFound", err)
	}
}

func TestJSONHasTheNamesOfTheGlossary(t *testing.T) {
	at := Time{time.Date(2026, 3, 14, 9, 26, 53, 589_793_238, time.FixedZone("CET", 3600))}
	for _, c := range []struct {
		name string
		is   any
		want string
	}{
		{"a decision", Decision{Ref: "r", At: at, Seq: 5}, `{"ref":"r","at":"2026-03-14T08:26:53.589Z","message_id":"","source":"","account":"","mailbox":"","basis":"","client_ip":"","working_directory":"","script":"","envelope_sender":"","subject":"","recipients":0,"size":0,"verdict":"","would":"","reason":"","trigger":""}`},
		{"an event", Event{ID: 1, Per: Period(90 * time.Minute)}, `{"id":1,"at":null,"last_at":null,"trigger":"","watch":"","key":"","account":"","mailbox":"","mode":"","verdict":"","max":0,"per":"1h30m","count":"","used":0,"stopped":0,"free_at":null,"claimed":false,"open":false}`},
		{"a held message", Held{Ref: "r"}, `{"ref":"r","message_id":"","account":"","mailbox":"","envelope_sender":"","subject":"","working_directory":"","recipients":0,"recipient_list":"","size":0,"held_at":null,"trigger":"","release":"","state":"","state_at":null}`},
		{"a sender", Sender{Account: "shop"}, `{"account":"shop","messages":0,"recipients":0,"frozen":0,"discarded":0,"deferred":0,"denied":0,"stopped":0,"stopped_recipients":0,"observed":0,"unchecked":0,"connections":0}`},
	} {
		b, err := json.Marshal(c.is)
		if err != nil || string(b) != c.want {
			t.Errorf("%s:\n got %s, %v\nwant %s", c.name, b, err, c.want)
		}
	}
	var back Time
	if err := json.Unmarshal([]byte(`"2026-03-14T09:26:53.589+01:00"`), &back); err != nil || !back.Equal(at.Truncate(time.Millisecond)) {
		t.Errorf("a time read back: got %v, %v", back, err)
	}
	for _, p := range []Period{0, Period(time.Second), Period(time.Hour), Period(24 * time.Hour), Period(61 * time.Minute), Period(10 * time.Minute), Period(1500 * time.Millisecond)} {
		var again Period
		b, err := json.Marshal(p)
		if err2 := json.Unmarshal(b, &again); err != nil || err2 != nil || again != p {
			t.Errorf("period %v: written %s, read back %v, %v, %v", time.Duration(p), b, again, err, err2)
		}
	}
}
