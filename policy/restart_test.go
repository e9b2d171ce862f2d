package policy

import (
	"bytes"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"osm/counters"
)

// TestNothingIsForgottenOrDoubledByARestart stops an engine in mid-stream: some decisions
// are in the snapshot, some only stored, and the rules have one trigger more afterwards.
func TestNothingIsForgottenOrDoubledByARestart(t *testing.T) {
	r := rulesOf(enforcing("account-hour", WatchAccount, 10, Recipients), enforcing("subject-hour", WatchSubject, 50, Messages))
	table := counters.New(counters.Options{})
	e := NewEngine(table, r)
	s, id := fromScript("shop", "/d", "Invoice 1", 1)
	var stored []*Decision
	for range 4 {
		stored = append(stored, e.Check(noon(), s, id))
	}
	var snapshot bytes.Buffer
	header := counters.Header{WallMs: noon().Wall.UnixMilli(), BootMs: noon().Boot, BootID: "a", Slots: e.Slots()}
	if err := table.WriteSnapshot(&snapshot, header); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		stored = append(stored, e.Check(noon(), s, id))
	}

	more := rulesOf(append([]Trigger{enforcing("scripts-hour", WatchScripts, 30, Messages)}, r.Triggers...)...)
	table = counters.New(counters.Options{})
	e = NewEngine(table, more)
	now := noon().Add(time.Minute)
	present := counters.Header{WallMs: now.Wall.UnixMilli(), BootMs: now.Boot, BootID: "a"}
	old, _, err := table.ReadSnapshot(&snapshot, present, e.Slot)
	if err != nil {
		t.Fatal(err)
	}
	if m := e.Missing(old.Slots); len(m) != 1 || m[0] != "scripts-hour" {
		t.Errorf("Missing = %v, want the new trigger", m)
	}
	for _, d := range stored {
		e.ReplayStored(d.At, d.Seq, d.Identity, d.SubjectKey, d.Submission.Recipients, nil)
	}
	for _, u := range e.Usage(now, "shop") {
		if u.Used != 7 {
			t.Errorf("%s used %d after the restart, want 7", u.Trigger, u.Used)
		}
	}
	table.SetSeq(stored[len(stored)-1].Seq)
	if n := send(e, now, 10, s, id); n != 3 {
		t.Errorf("%d more passed, want 3", n)
	}
}

func TestRulesMayBeSwappedWhileMailComesIn(t *testing.T) {
	kept := enforcing("account-hour", WatchAccount, 100, Messages)
	e := newTestEngine(t, rulesOf(kept))
	var passed atomic.Int64
	var senders sync.WaitGroup
	for range 8 {
		senders.Go(func() {
			for range 50 {
				s, id := fromScript("shop", "/d", "x", 1)
				if e.Check(noon(), s, id).Verdict == Accept {
					passed.Add(1)
				}
			}
		})
	}
	for i := range 50 {
		other := enforcing("other", WatchDirectory, 1000, Messages)
		other.Per = time.Duration(i%3+1) * time.Minute
		e.SetRules(rulesOf(other, kept))
		e.Usage(noon(), "shop")
		e.HeldChanged("shop", int64(i), 0)
	}
	senders.Wait()
	if n := passed.Load(); n != 100 {
		t.Errorf("%d passed, want exactly 100", n)
	}
}
