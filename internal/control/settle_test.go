package control_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"osm/internal/control"
	"osm/internal/control/controltest"
	"osm/policy"
)

// deferring is a limit of 300 recipients an hour after which clients are told to wait.
const deferring = `
[[trigger]]
name = "account-hour"
max = 300
mode = "enforce"
verdict = "defer"

[[trigger]]
name = "account-day"
max = 2000
mode = "enforce"
verdict = "defer"
`

// fromMailbox is a message of shop to so many recipients.
func fromMailbox(recipients int) controltest.Mail {
	return controltest.Mail{Account: "shop", Mailbox: "info@shop.example", IP: "192.0.2.7", Subject: "Offer", Recipients: recipients}
}

func explained(t *testing.T, d *controltest.Daemon, ref string) control.Explanation {
	t.Helper()
	d.Flush()
	x, err := d.Service.Explain(t.Context(), operator(), ref)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func TestFreeIsWhenTheWholeMessageFits(t *testing.T) {
	d := controltest.New(t, deferring)
	for range 14 {
		d.Send(fromMailbox(20)) // 280 of 300
	}
	d.Advance(time.Minute)
	dec := d.Send(fromMailbox(60))
	if dec.Verdict != policy.Defer {
		t.Fatalf("60 more than 280 of 300 = %v", dec.Verdict)
	}
	d.Advance(time.Minute)
	live, err := d.Service.Describe(t.Context(), operator(), control.Describe{Mailbox: "info@shop.example", ClientIP: "192.0.2.7", Count: 60})
	if err != nil {
		t.Fatal(err)
	}
	for what, x := range map[string]control.Explanation{"the message": explained(t, d, dec.Ref), "one like it": live} {
		if !strings.Contains(x.Next, "free again at 2026-11-23 13:0") || strings.Contains(x.Next, "free now") || x.Command != "osmctl reset account-hour/shop" {
			t.Errorf("%s: next %q, command %q", what, x.Next, x.Command)
		}
	}
	d.Advance(2 * time.Hour)
	if x := explained(t, d, dec.Ref); !strings.Contains(x.Next, "free now") || x.Command != "osmctl usage shop" {
		t.Errorf("two hours later: next %q, command %q", x.Next, x.Command)
	}
}

func TestTheCommandForAMessageLargerThanTheLimitMakesRoomForIt(t *testing.T) {
	d := controltest.New(t, deferring)
	for range 10 {
		d.Send(fromMailbox(25)) // 250 of 300
	}
	dec := d.Send(fromMailbox(400))
	x := explained(t, d, dec.Ref)
	if want := "osmctl limit set --account shop --trigger account-hour --max 650 --until 1d"; x.Command != want {
		t.Fatalf("command %q, want %q", x.Command, want)
	}
	if _, err := d.Service.SetLimit(t.Context(), operator(), maxOf("account", "shop", "account-hour", 650)); err != nil {
		t.Fatal(err)
	}
	if x := explained(t, d, dec.Ref); !strings.Contains(x.Next, "free now") {
		t.Errorf("after the command: next %q", x.Next)
	}
	if again := d.Send(fromMailbox(400)); again.Verdict != policy.Accept {
		t.Errorf("after the command the message is %v", again.Verdict)
	}
}

func TestEveryTriggerWithoutRoomIsNamed(t *testing.T) {
	d := controltest.New(t, strings.Replace(deferring, "max = 2000", "max = 310", 1))
	for range 3 {
		d.Send(fromMailbox(100))
	}
	x := explained(t, d, d.Send(fromMailbox(20)).Ref) // 320 in the hour and in the day
	if !strings.Contains(x.Next, "trigger account-hour (shop), trigger account-day (shop)") || !strings.Contains(x.Next, "free again at 2026-11-24") {
		t.Errorf("next %q, want both triggers, and when the later one has room", x.Next)
	}
	if x.Command != "osmctl reset account-hour/shop && osmctl reset account-day/shop" {
		t.Errorf("command %q, want what settles both", x.Command)
	}
}

func TestAHoldOnAFullCounterTakesBothCommands(t *testing.T) {
	d := controltest.New(t, deferring)
	for range 3 {
		d.Send(fromMailbox(100))
	}
	over := d.Send(fromMailbox(1))
	h, err := d.Service.PutHold(t.Context(), operator(), control.Hold{Scope: "mailbox", Value: "info@shop.example", Verdict: "discard"})
	if err != nil {
		t.Fatal(err)
	}
	held := d.Send(fromMailbox(1))
	if held.HoldID != h.ID || len(held.Over) != 0 {
		t.Fatalf("a message of a held mailbox = %+v", held)
	}
	want := fmt.Sprintf("osmctl release %d && osmctl reset account-hour/shop", h.ID)
	for what, ref := range map[string]string{"the message that the hold stopped": held.Ref, "the one before it": over.Ref} {
		if x := explained(t, d, ref); x.Command != want || !strings.Contains(x.Next, "trigger account-hour (shop)") {
			t.Errorf("%s: next %q, command %q, want %q", what, x.Next, x.Command, want)
		}
	}
	live, err := d.Service.Describe(t.Context(), operator(), control.Describe{Mailbox: "info@shop.example", ClientIP: "192.0.2.7"})
	if err != nil || live.Command != want || live.Decision.Reason != "hold" || live.Decision.Would != "accept" {
		t.Errorf("one like it: %+v, %v", live, err)
	}
}
