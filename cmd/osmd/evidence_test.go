package main

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"osm/policy"
)

// looked is a bench whose witnesses find what the test says, at once.
func looked(t *testing.T, found policy.Evidence) (*bench, *int) {
	b := newBench(t, &policy.Rules{})
	asked := 0
	b.witnesses.start = func(f func()) { f() }
	b.witnesses.gather = func(context.Context, *policy.Submission, []policy.Process, policy.Identity, policy.Moment) policy.Evidence {
		asked++
		return found
	}
	return b, &asked
}

func nearDecision(at policy.Moment, account, directory string) *policy.Decision {
	return &policy.Decision{Ref: "r", At: at, Near: true, Submission: &policy.Submission{},
		Identity: policy.Identity{Account: account, Source: policy.SourceScript, Directory: directory}}
}

// What was found out while a sender came near his limit stands with the event that he then
// raises, and so does what is found later; another sender's does not.
func TestEvidenceComesToItsEvent(t *testing.T) {
	visitor := policy.Evidence{ClientIP: netip.MustParseAddr("192.0.2.7"), URL: "/send.php", Confidence: policy.ConfidenceHigh}
	b, _ := looked(t, visitor)
	chain := []policy.Process{{PID: 1}}
	now := b.clock()
	b.witnesses.see(t.Context(), nearDecision(now, "shop", "/home/shop/www"), chain)
	b.witnesses.see(t.Context(), nearDecision(now, "blog", "/home/blog/www"), chain)
	ev := policy.Event{ID: 5, Account: "shop", Key: "shop /home/shop/www", Watch: policy.WatchDirectory, Mode: policy.Enforce, Trigger: "t", Per: time.Hour, At: now.Wall, LastAt: now.Wall, Open: true}
	if err := b.store.UpsertEvent(t.Context(), ev); err != nil {
		t.Fatal(err)
	}
	b.witnesses.raised(t.Context(), ev)
	b.pass(time.Second)
	b.witnesses.see(t.Context(), nearDecision(b.clock(), "shop", "/home/shop/www"), chain)
	b.pass(time.Second)
	b.witnesses.see(t.Context(), nearDecision(b.clock(), "shop", "/home/shop/other"), chain)
	e, err := b.store.Event(t.Context(), 5)
	if err != nil || len(e.Requests) != 2 || e.Requests[0].ClientIP != "192.0.2.7" || e.Requests[0].URL != "/send.php" {
		t.Fatalf("requests = %+v, %v; want the one before and the one after, of this directory", e.Requests, err)
	}
	if got := b.witnesses.requests(&ev); len(got) != 2 {
		t.Errorf("for its actions: %+v", got)
	}
	b.witnesses.ended(&ev)
	if len(b.witnesses.events) != 0 || b.witnesses.open != 0 {
		t.Errorf("after its end %d events are remembered", b.witnesses.open)
	}
	b.pass(time.Second)
	b.witnesses.see(t.Context(), nearDecision(b.clock(), "shop", "/home/shop/www"), chain)
	if e, _ := b.store.Event(t.Context(), 5); len(e.Requests) != 2 {
		t.Errorf("after its end it got %d", len(e.Requests))
	}
}

// What a shared web user's script did is told with the events of the site that it claims to
// be of and with those of the web user, and of connections with those of connections only.
func TestEvidenceOfASharedWebUserComesToBothEvents(t *testing.T) {
	b, _ := looked(t, policy.Evidence{ClientIP: netip.MustParseAddr("192.0.2.7"), URL: "/send.php", Confidence: policy.ConfidenceHigh})
	now, dir := b.clock(), "/home/shop/www"
	shared := policy.SharedAccount("www-data")
	event := func(id int64, account, key string, watch policy.Watch) {
		ev := policy.Event{ID: id, Account: account, Key: key, Watch: watch, Mode: policy.Enforce, Trigger: "t", Per: time.Hour, At: now.Wall, LastAt: now.Wall, Open: true}
		if err := b.store.UpsertEvent(t.Context(), ev); err != nil {
			t.Fatal(err)
		}
		b.witnesses.raised(t.Context(), ev)
	}
	d := nearDecision(now, shared, dir)
	d.Submission = &policy.Submission{CallerUID: -1, Direct: &policy.Connection{}}
	d.Identity.Source, d.Identity.Claimed, d.Identity.DirectoryAccount = policy.SourceDirect, true, "shop"
	event(1, shared, shared, policy.WatchDirect)
	b.witnesses.see(t.Context(), d, []policy.Process{{PID: 1}})
	event(2, "shop", "shop "+dir, policy.WatchDirectDirectory)
	event(3, shared, shared, policy.WatchDirect)
	event(4, shared, shared, policy.WatchAccount)
	event(5, "blog", "blog", policy.WatchDirect)
	for id, want := range map[int64]int{1: 1, 2: 1, 3: 1, 4: 0, 5: 0} {
		if e, err := b.store.Event(t.Context(), id); err != nil || len(e.Requests) != want {
			t.Errorf("event %d has %+v, %v; want %d", id, e.Requests, err, want)
		}
	}
}

// A flood is looked into now and then, and accounts without number cost bounded memory.
func TestLookingForEvidenceIsBounded(t *testing.T) {
	b, asked := looked(t, policy.Evidence{Confidence: policy.ConfidenceHigh, Script: "/x"})
	chain := []policy.Process{{PID: 1}}
	at := b.clock()
	for range 1000 {
		b.witnesses.see(t.Context(), nearDecision(at, "shop", "/x"), chain)
	}
	if *asked != 1 {
		t.Errorf("looked %d times at once, want 1", *asked)
	}
	for i := range maxWitnessed + 1000 {
		b.witnesses.see(t.Context(), nearDecision(at, fmt.Sprint("account", i), "/x"), chain)
	}
	if len(b.witnesses.of) > maxWitnessed {
		t.Errorf("%d accounts are remembered", len(b.witnesses.of))
	}
	b.pass(2 * witnessedFor)
	b.witnesses.see(t.Context(), nearDecision(b.clock(), "new", "/x"), chain)
	if b.witnesses.of["new"] == nil {
		t.Error("when the others are old there is no room for a new one")
	}
}
