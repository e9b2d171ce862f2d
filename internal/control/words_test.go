package control

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"osm/policy"
	store "osm/sql"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", path, got, want)
	}
}

// noon is when the stories are told.
func noon() time.Time { return time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC) }

func at(d time.Duration) Time { return Time{Time: noon().Add(d)} }

// over300 is the account's limit, over by a message of 5.
func over300() *store.Over {
	return &store.Over{Trigger: "account-hour", Watch: "account", Key: "shop", Mode: "enforce", Verdict: "freeze", Used: 298, Units: 5, Max: 300,
		Per: Period(time.Hour), Count: "recipients", FreeAt: at(20 * time.Minute)}
}

func message() *Decision {
	return &Decision{Ref: "7k2m9qxd", At: at(-10 * time.Minute), MessageID: "1vN3xQ-000abc-2F", Source: "script", Account: "shop", Basis: "uid 1001 called sendmail",
		WorkingDirectory: "/home/shop/public_html", Subject: "Invoice 8841", Recipients: 5, Size: 2300, Verdict: "accept", Would: "accept", Reason: "within_limits"}
}

// full are triggers that have no room now.
func full(list ...*store.Over) []store.Over {
	var all []store.Over
	for _, o := range list {
		all = append(all, *o)
	}
	return all
}

func TestTheWordsOfAnExplanation(t *testing.T) {
	frozen := func(change func(*Decision)) *Decision {
		d := message()
		d.Verdict, d.Reason, d.Trigger = "freeze", "over", "account-hour"
		if change != nil {
			change(d)
		}
		return d
	}
	heldNow := func(state, release string) *HeldMessage {
		return &HeldMessage{Held: store.Held{Ref: "7k2m9qxd", State: state, Release: release, HeldAt: at(-10 * time.Minute), StateAt: at(-5 * time.Minute), By: "root"}}
	}
	hold := &policy.Hold{ID: 12, Scope: policy.ScopeDirectory, Account: "shop", Value: "/home/shop/public_html", Trigger: "directory-hour", EventID: 7,
		Until: noon().Add(50 * time.Minute), Provenance: policy.Provenance{At: noon().Add(-15 * time.Minute)}}
	byHand := &policy.Hold{ID: 13, Scope: policy.ScopeMailbox, Value: "info@shop.example", Provenance: policy.Provenance{By: "anna", At: noon().Add(-time.Hour), Reason: "stolen password"}}
	large := over300()
	large.Units, large.Used, large.FreeAt = 900, 0, Time{}
	login := &store.Over{Trigger: "login-hour", Watch: "login", Key: "shop info@shop.example", Mode: "enforce", Verdict: "deny", Used: 200, Units: 1, Max: 200, Per: Period(24 * time.Hour), Count: "messages", FreeAt: at(3 * time.Hour)}
	day := over300()
	day.Trigger, day.Max, day.Used, day.Per, day.FreeAt = "account-day", 2000, 1998, Period(24*time.Hour), at(5*time.Hour)
	largeLogin, claimed, address := *large, *large, *large
	largeLogin.Trigger, largeLogin.Watch, largeLogin.Key, largeLogin.Used = "login-hour", "login", "shop info@shop.example", 40
	claimed.Trigger, claimed.Watch, claimed.Key = "directory-hour", "directory", "shop /home/shop/public_html"
	address.Trigger, address.Watch, address.Key = "client-ip-hour", "client-ip", "login 192.0.2.1"
	subject := &store.Over{Trigger: "subject-hour", Watch: "subject", Key: "shop invoice #", Mode: "observe", Verdict: "freeze", Used: 100, Units: 1, Max: 100, Per: Period(time.Hour), Count: "messages"}
	for _, c := range []struct {
		name string
		s    story
	}{
		{"a message within its limits", story{d: message()}},
		{"a frozen script message that waits", story{d: frozen(nil), over: over300(), held: heldNow("held", "manual"), full: full(over300())}},
		{"a frozen message that leaves by itself", story{d: frozen(nil), over: over300(), held: heldNow("held", "when-free"), full: full(over300())}},
		{"a frozen message of a sender who is free again", story{d: frozen(nil), over: over300(), held: heldNow("held", "manual")}},
		{"a frozen message that is not registered yet", story{d: frozen(nil), over: over300(), full: full(over300())}},
		{"a message that was released", story{d: frozen(nil), over: over300(), held: heldNow("released", "manual")}},
		{"a message that somebody else removed", story{d: frozen(nil), over: over300(), held: heldNow("gone", "manual")}},
		{"a message larger than the limit", story{d: frozen(func(d *Decision) { d.Reason, d.Recipients = "larger_than_limit", 900 }), over: large, full: full(large), held: heldNow("held", "manual")}},
		{"a described message larger than the limit of its mailbox", story{d: frozen(func(d *Decision) { d.Reason, d.Recipients = "larger_than_limit", 900 }), over: &largeLogin, full: full(&largeLogin), described: true}},
		{"a described message larger than the limit of an address", story{d: frozen(func(d *Decision) { d.Reason, d.Recipients = "larger_than_limit", 900 }), over: &address, full: full(&address), described: true}},
		{"a message larger than the limit of a claimed directory", story{d: frozen(func(d *Decision) {
			d.Account, d.Basis, d.Claimed, d.Reason, d.Recipients = "(shared:www-data)", "uid 33 called sendmail; the working directory claims account shop", true, "larger_than_limit", 900
		}), over: &claimed, full: full(&claimed)}},
		{"a message that two triggers have no room for", story{d: frozen(nil), over: over300(), full: full(over300(), day)}},
		{"a message whose own trigger has room again but not another", story{d: frozen(nil), over: over300(), full: full(day)}},
		{"a message too large for one trigger and too late for another", story{d: frozen(func(d *Decision) { d.Reason, d.Recipients = "larger_than_limit", 900 }), over: large, full: full(large, day)}},
		{"a message refused to a mailbox", story{d: frozen(func(d *Decision) {
			d.Verdict, d.Trigger, d.Source, d.Mailbox, d.Basis = "deny", "login-hour", "login", "info@shop.example", "logged in as info@shop.example"
		}), over: login, full: full(login)}},
		{"a message deferred because too much is held", story{d: frozen(func(d *Decision) { d.Verdict, d.Reason = "defer", "held_full" }), over: over300(), full: full(over300())}},
		{"a message stopped by the hold of a trigger", story{d: frozen(func(d *Decision) { d.Reason, d.Trigger, d.HoldID = "hold", "directory-hour", 12 }), hold: hold, stops: hold, held: heldNow("held", "manual")}},
		{"a message discarded by a hold put by hand", story{d: frozen(func(d *Decision) {
			d.Verdict, d.Reason, d.Trigger, d.HoldID, d.Mailbox = "discard", "hold", "", 13, "info@shop.example"
		}), hold: byHand, stops: byHand}},
		{"a message stopped by a hold while its counter is full", story{d: frozen(func(d *Decision) { d.Reason, d.Trigger, d.HoldID = "hold", "directory-hour", 12 }), hold: hold, stops: hold, full: full(over300())}},
		{"a message on whose trigger a hold followed", story{d: frozen(nil), over: over300(), stops: hold, full: full(over300())}},
		{"a message stopped by a hold that has ended", story{d: frozen(func(d *Decision) { d.Reason, d.Trigger, d.HoldID = "hold", "", 12 }), hold: hold, held: heldNow("held", "manual")}},
		{"a message that an observing trigger would have stopped", story{d: func() *Decision {
			d := message()
			d.Would, d.Trigger, d.Reason = "freeze", "subject-hour", "within_limits"
			return d
		}(), over: subject}},
		{"a message of a shared web user", story{d: frozen(func(d *Decision) {
			d.Account, d.Basis, d.Claimed = "(shared:www-data)", "uid 33 called sendmail; the working directory claims account shop", true
		}), over: over300(), held: heldNow("held", "manual"), full: full(over300())}},
		{"a message of nobody known", story{d: frozen(func(d *Decision) { d.Account, d.SubKey, d.Basis = "(unknown)", "uid 4711", "" }), over: nil}},
		{"a message accepted unchecked at the start", story{d: func() *Decision { d := message(); d.Reason = "not_ready"; return d }()}},
		{"a message while checking is off", story{d: func() *Decision { d := message(); d.Reason = "disabled"; return d }()}},
		{"a described message that would pass", story{d: message(), described: true}},
		{"a described message that would be stopped", story{d: frozen(nil), over: over300(), described: true, full: full(over300())}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := c.s
			s.now, s.zone, s.keep = noon(), time.UTC, 30*24*time.Hour
			text := s.why() + s.next() + s.command()
			for _, wrong := range []string{"%!", "  ", "..", " .", "0001-01-01"} {
				if strings.Contains(text, wrong) {
					t.Errorf("%q in %s", wrong, text)
				}
			}
			golden(t, "words-"+strings.ReplaceAll(c.name, " ", "-")+".golden", fmt.Sprintf("%s\n\nNow: %s\n\nTo settle it: %s\n", s.why(), s.next(), s.command()))
		})
	}
}
