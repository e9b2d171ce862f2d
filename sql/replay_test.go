package store

import (
	"context"
	"fmt"
	"reflect"
	"testing"
	"time"

	"osm/policy"
)

// replayed reads what was counted.
func replayed(t *testing.T, f *fixture, seq uint64, since time.Time, now policy.Moment) (got []Counted) {
	t.Helper()
	err := f.ReplaySince(context.Background(), seq, since, now, func(c *Counted) error {
		got = append(got, *c)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// Held messages that left by themselves were counted: they come back between the decisions,
// in the order of the numbers, and their numbers are not given again.
func TestHeldMessagesThatLeftAreReplayedBetweenTheDecisions(t *testing.T) {
	f := start(t, "")
	ctx := context.Background()
	moments := map[uint64]policy.Moment{}
	ref := func(seq uint64) string { return policy.RefOf(seq, f.RefKey()) }
	leave := func(seq, as uint64) {
		t.Helper()
		at := policy.Moment{Wall: day.Add(time.Duration(as) * time.Second), Boot: policy.BootShift + int64(as)*1000}
		moments[as] = at
		if moved, err := f.LeaveHeld(ctx, ref(seq), as, at, "when-free"); !moved || err != nil {
			t.Fatalf("message %d: moved %v, %v", seq, moved, err)
		}
	}
	for _, seq := range []uint64{1, 2, 3, 4} {
		d := frozen(scriptDecision(seq, "shop"))
		d.Identity.SubKey, d.Identity.Mailbox = "uid 7", "a@shop.example"
		f.Append(d)
	}
	for _, seq := range []uint64{10, 20, 30} {
		f.Append(exampleDecision(seq))
	}
	f.flush(t)
	leave(1, 15)
	leave(2, 25)
	leave(3, 40)
	if moved, err := f.LeaveHeld(ctx, ref(4), 0, policy.Moment{}, "when-free"); !moved || err != nil { // not counted
		t.Fatal(moved, err)
	}
	if moved, err := f.LeaveHeld(ctx, ref(1), 50, moments[40], "when-free"); moved || err != nil {
		t.Errorf("a message leaves twice: %v, %v", moved, err)
	}
	h, err := f.HeldByRef(ctx, ref(1))
	if err != nil || h.State != "releasing" || h.By != "when-free" || !h.StateAt.Equal(day) {
		t.Errorf("after it left: %+v, %v", h, err)
	}
	now := policy.Moment{Wall: day.Add(time.Hour), Boot: policy.BootShift + 3_600_000}
	numbers := func(list []Counted) (out []uint64) {
		for _, c := range list {
			out = append(out, c.Seq)
		}
		return out
	}
	all := replayed(t, f, 0, time.Time{}, now)
	if got, want := numbers(all), []uint64{10, 15, 20, 25, 30, 40}; !reflect.DeepEqual(got, want) {
		t.Fatalf("numbers %v, want %v", got, want)
	}
	want := Counted{Seq: 15, At: moments[15], SubjectKey: "order #", Recipients: 2, Identity: policy.Identity{
		Account: "shop", Mailbox: "a@shop.example", Source: policy.SourceScript, SubKey: "uid 7", Directory: "/home/shop/public_html", DirectoryAccount: "shop"}}
	if !reflect.DeepEqual(all[1], want) {
		t.Errorf("the first that left:\n got %+v\nwant %+v", all[1], want)
	}
	if got := numbers(replayed(t, f, 20, time.Time{}, now)); fmt.Sprint(got) != "[25 30 40]" {
		t.Errorf("after number 20: %v", got)
	}
	if got := numbers(replayed(t, f, 0, day.Add(25*time.Second), now)); fmt.Sprint(got) != "[25 30 40]" {
		t.Errorf("from 25 s on: %v", got)
	}

	f.stop()
	again := start(t, f.path, func(o *Options) { o.BootID = "boot-2" })
	if again.MaxSeq() != 40 {
		t.Errorf("highest number %d, want that of the last that left", again.MaxSeq())
	}
	now.Boot = policy.BootShift + 60_000
	got := replayed(t, again, 30, time.Time{}, now)
	if at := policy.BootShift + 60_000 - 3_600_000 + int64(40_000); len(got) != 1 || got[0].At.Boot != at {
		t.Errorf("after a boot: %+v, want it at %d", got, at)
	}
}

func TestManyThatLeftAreReadInPages(t *testing.T) {
	f := start(t, "")
	const held = 2*leavingPage + 5
	for seq := uint64(1); seq <= held; seq++ {
		f.Append(frozen(scriptDecision(seq, "shop")))
	}
	f.flush(t)
	for seq := uint64(1); seq <= held; seq++ {
		if _, err := f.LeaveHeld(context.Background(), policy.RefOf(seq, f.RefKey()), held+seq, policy.Moment{Wall: day, Boot: policy.BootShift}, "when-free"); err != nil {
			t.Fatal(err)
		}
	}
	got := replayed(t, f, 0, day, policy.Moment{Wall: day.Add(time.Hour), Boot: policy.BootShift + 3_600_000})
	if len(got) != held || got[0].Seq != held+1 || got[held-1].Seq != 2*held {
		t.Errorf("%d came back, want %d", len(got), held)
	}
}

// The machine boots with its clock in the past: what was sent last counts as sent just now,
// in the distances in which it was sent, and nothing as sent in the future.
func TestAClockThatBootsInThePastPutsNothingIntoTheFuture(t *testing.T) {
	f := start(t, "")
	for seq := uint64(1); seq <= 100; seq++ { // one a minute
		d := exampleDecision(seq)
		d.At.Wall = day.Add(time.Duration(seq) * time.Minute)
		d.At.Boot = policy.BootShift + int64(seq)*60_000
		f.Append(d)
	}
	f.flush(t)
	f.stop()
	again := start(t, f.path, func(o *Options) { o.BootID = "boot-2" })
	now := policy.Moment{Wall: day.AddDate(-3, 0, 0), Boot: policy.BootShift + 5_000}
	got := replayed(t, again, 0, now.Wall.Add(-30*time.Minute), now)
	if len(got) != 31 || got[30].At.Boot != now.Boot || got[0].At.Boot != now.Boot-30*60_000 {
		t.Fatalf("%d decisions from %d on, want those of the last 30 minutes that were sent: the newest now", len(got), got[0].At.Boot-now.Boot)
	}
	// A clock that was ahead for a while and was set right again: neither that.
	d := exampleDecision(101)
	d.At.Wall, d.At.Boot = day.AddDate(4, 0, 0), policy.BootShift+1
	again.Append(d)
	d = exampleDecision(102)
	d.At.Wall, d.At.Boot = day.Add(3*time.Hour), policy.BootShift+2
	again.Append(d)
	again.flush(t)
	again.stop()
	third := start(t, f.path, func(o *Options) { o.BootID = "boot-3" })
	now = policy.Moment{Wall: day.Add(3 * time.Hour), Boot: policy.BootShift + 9_000}
	for _, c := range replayed(t, third, 0, time.Time{}, now) {
		if c.At.Boot > now.Boot {
			t.Errorf("number %d is counted %d ms from now", c.Seq, c.At.Boot-now.Boot)
		}
	}
}
