package door

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"osm/tests/lab"
)

// mailOf is a message of an account.
func mailOf(account, subject string) lab.Mail {
	return lab.Mail{From: "box@" + machine.Domain(account), To: []string{"reader@elsewhere.example"}, Subject: subject}
}

// sends submits n messages by each of the paths.
func sends(t *testing.T, account, subject string, n int, by ...path) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for _, p := range by {
		if err := p.send(ctx, account, n, mailOf(account, subject)); err != nil {
			t.Fatalf("%s: %v", p.name, err)
		}
	}
}

func TestObserveModeLetsPassAndReports(t *testing.T) {
	w := start(t, `
[[trigger]]
name = "watched"
watch = "account"
max = 5
per = "1h"
mode = "observe"
actions = ["report", { hold = "1h" }]
`)
	account := w.next()
	seen := w.follow(t)
	sends(t, account, "Observed", 8, paths()[1])
	came(t, "Observed", 8, 0)
	for i, d := range seen.wait(t, 8) {
		want := "accept"
		if i >= 5 {
			want = "freeze"
		}
		if d.Verdict != "accept" || d.Would != want {
			t.Errorf("message %d: %s, would %s, want accept and would %s", i+1, d.Verdict, d.Would, want)
		}
	}
	eventually(t, 5*time.Second, "the event", func() error {
		events := list[event](t, w, "events", "--account", account)
		if len(events) != 1 || events[0].Trigger != "watched" || events[0].Mode != "observe" || events[0].Stopped != 3 || events[0].Max != 5 {
			return fmt.Errorf("events are %+v, want one that observed 3", events)
		}
		return nil
	})
	// What it would have stopped is not in its own window, and in every other's.
	if got := w.counted(t, account); got["watched/"+account] != 5 || got["messages/"+account] != 8 {
		t.Errorf("counted %v, want 5 for watched and 8 for messages", got)
	}
	if holds := list[hold](t, w, "hold", "list"); len(holds) != 0 {
		t.Errorf("an observing trigger put %+v", holds)
	}
	if got := list[held](t, w, "held", "list"); len(got) != 0 {
		t.Errorf("held: %+v", got)
	}
}

func TestHoldByHandStopsEverySourceOfOneAccountUntilItIsReleased(t *testing.T) {
	w := start(t)
	account, neighbour := w.next(), w.next()
	w.do(t, "hold", "put", "--account", account, "--reason", "a test")
	sends(t, account, "On hold", 1, paths()...)
	sends(t, neighbour, "Not on hold", 1, paths()...)
	came(t, "On hold", 0, 4)
	came(t, "Not on hold", 4, 0)
	x := w.explain(t, frozen(t, "On hold")[0])
	if x.Decision.Reason != "hold" {
		t.Errorf("explained as %+v", x.Decision)
	}
	only(t, account, w.counted(t, account), nil) // a hold counts nothing
	w.endHolds(t, 1)
	sends(t, account, "After the hold", 1, paths()...)
	came(t, "After the hold", 4, 0)
	came(t, "On hold", 0, 4) // its end lets nothing go

	w.registered(t, 4, account)
	w.do(t, "held", "release", "--account", account, "--yes")
	came(t, "On hold", 4, 0)
	if err := w.JSON(new(any), "held", "release", "--account", account, "--yes"); err == nil {
		t.Error("what was released can be released again")
	}
	came(t, "On hold", 4, 0)
}

// registered waits until so many messages of the account stand in the register.
func (w *world) registered(t *testing.T, n int, account string) []held {
	t.Helper()
	var all []held
	eventually(t, 5*time.Second, fmt.Sprint(n, " held messages"), func() error {
		if all = list[held](t, w, "held", "list", "--account", account); len(all) != n {
			return fmt.Errorf("%d in the register", len(all))
		}
		return nil
	})
	return all
}

// endHolds ends all holds that stand; there must be so many.
func (w *world) endHolds(t *testing.T, n int) {
	t.Helper()
	holds := list[hold](t, w, "hold", "list")
	if len(holds) != n {
		t.Fatalf("holds are %+v, want %d", holds, n)
	}
	for _, h := range holds {
		w.do(t, "release", fmt.Sprint(h.ID))
	}
}

func TestHoldOnAPartStopsThatPartAlone(t *testing.T) {
	w := start(t)
	php, sendmail, login := paths()[0], paths()[1], paths()[3]
	for _, c := range []struct {
		name     string
		put      func(account string) []string
		stops    path
		passes   path
		stopped  string // Subject
		passSubj string
	}{
		{"mailbox", func(a string) []string { return []string{"--mailbox", "info@" + machine.Domain(a)} }, login, sendmail, "Mailbox", "Not the mailbox"},
		{"directory", func(a string) []string { return []string{"--account", a, "--directory", www(a)} }, php, login, "Directory", "Not the directory"},
		{"subject", func(a string) []string { return []string{"--account", a, "--subject", "Invoice 7"} }, sendmail, sendmail, "invoice  8841", "Reminder"},
	} {
		t.Run(c.name, func(t *testing.T) {
			account, neighbour := w.next(), w.next()
			w.do(t, append([]string{"hold", "put"}, c.put(account)...)...)
			sends(t, account, c.stopped, 2, c.stops)
			sends(t, account, c.passSubj, 2, c.passes)
			sends(t, neighbour, c.passSubj, 1, c.stops)
			came(t, c.stopped, 0, 2)
			came(t, c.passSubj, 3, 0)
		})
	}
}

func TestHoldByActionStopsTheMailboxThatWentOver(t *testing.T) {
	w := start(t, `
[[trigger]]
name = "login-hour"
max = 3
mode = "enforce"
actions = ["report", { hold = "1h" }]
`)
	account := w.next()
	sends(t, account, "Stolen", 4, paths()[3])
	var holds []hold
	eventually(t, 5*time.Second, "the hold", func() error {
		if holds = list[hold](t, w, "hold", "list"); len(holds) == 0 {
			return fmt.Errorf("none stands")
		}
		return nil
	})
	want := hold{ID: holds[0].ID, Scope: "mailbox", Account: account, Value: "info@" + machine.Domain(account), Trigger: "login-hour"}
	if len(holds) != 1 || holds[0] != want {
		t.Fatalf("holds are %+v, want %+v", holds, want)
	}
	w.do(t, "reset", "login-hour/"+account+" "+want.Value) // the hold stands all the same
	sends(t, account, "Stolen", 2, paths()[3])
	sends(t, account, "His own script", 2, paths()[0])
	came(t, "Stolen", 3, 3)
	came(t, "His own script", 2, 0)
	w.endHolds(t, 1)
	sends(t, account, "Stolen", 2, paths()[3])
	came(t, "Stolen", 5, 3)
	for range 3 { // over again, but what an operator released is not put again
		sends(t, account, "Stolen", 1, paths()[3])
	}
	came(t, "Stolen", 6, 5)
	eventually(t, 5*time.Second, "the second event", func() error {
		if n := len(list[event](t, w, "events", "--account", account)); n != 2 {
			return fmt.Errorf("%d events", n)
		}
		return nil
	})
	if holds := list[hold](t, w, "hold", "list"); len(holds) != 0 {
		t.Errorf("held again within the grace time: %+v", holds)
	}
}

func TestLimitsExemptionsAndResetActAtOnce(t *testing.T) {
	w := start(t)
	account := w.next()
	sendmail := paths()[1]
	subject := 0
	// expect sends four messages, of which so many must pass.
	expect := func(passes int, after string) {
		t.Helper()
		subject++
		name := fmt.Sprint("Step ", subject)
		sends(t, account, name, 4, sendmail)
		came(t, name, passes, 4-passes)
		if t.Failed() {
			t.Fatal("after ", after)
		}
	}
	w.limitOf(t, account, "messages", 2)
	expect(2, "limit set --max 2")
	w.limitOf(t, account, "messages", 5)
	expect(3, "limit set --max 5")
	w.do(t, "limit", "set", "--account", account, "--trigger", "messages", "--max", "1")
	expect(0, "limit set --max 1: five are in the window")
	var x struct{ ID int64 }
	w.ask(t, &x, "exempt", "add", "--account", account, "--trigger", "messages", "--ceiling", "8", "--reason", "a test")
	expect(3, "exempt add --ceiling 8")
	w.do(t, "exempt", "remove", fmt.Sprint(x.ID))
	expect(0, "exempt remove")
	w.do(t, "reset", "messages/"+account)
	expect(1, "reset")
	for _, l := range list[struct{ ID int64 }](t, w, "limit", "show", "--account", account) {
		w.do(t, "limit", "remove", fmt.Sprint(l.ID))
	}
	expect(4, "limit remove")
	if got := w.counted(t, account)["messages/"+account]; got != 5 {
		t.Errorf("usage says %d, want 5", got)
	}
}

func TestWhenFreeDeliversTheWholeBacklogAtThePaceOfTheLimit(t *testing.T) {
	const n, most, per = 8, 3, 4 * time.Second
	w := start(t, `
[[trigger]]
name = "paced"
watch = "account"
count = "messages"
max = 3
per = "4s"
release = "when-free"
mode = "enforce"
`)
	account := w.next()
	sends(t, account, "Backlog", n, paths()[3])
	if stopped := len(frozen(t, "Backlog")); stopped != n-most {
		t.Fatalf("%d were frozen, want %d", stopped, n-most)
	}
	last := w.registered(t, n-most, account)[n-most-1]
	eventually(t, 5*time.Second, "the second that a message may take into the queue", func() error {
		if age := time.Since(last.HeldAt); age < 1100*time.Millisecond {
			return fmt.Errorf("held for %v", age)
		}
		return nil
	})
	w.do(t, "reset", "messages/"+account) // any change makes the register look at once
	eventually(t, 25*time.Second, "all of the backlog", func() error {
		if got := machine.Sink.Count("Subject", "Backlog"); got != n {
			return fmt.Errorf("%d of %d delivered", got, n)
		}
		return nil
	})
	var at []time.Time
	for _, d := range machine.Sink.Deliveries() {
		at = append(at, d.At)
	}
	slices.SortFunc(at, time.Time.Compare)
	// A delivery starts when the message is counted and arrives somewhat later.
	const slack = time.Second
	for i := most; i < len(at); i++ {
		if gap := at[i].Sub(at[i-most]); gap < per-slack {
			t.Errorf("messages %d to %d were delivered within %v, want %d in any %v", i-most+1, i+1, gap, most, per)
		}
	}
	states := map[string]int{}
	for _, h := range list[held](t, w, "held", "list", "--state", "all", "--account", account) {
		states[h.State+" by "+h.By]++
	}
	if len(states) != 1 || states["released by when-free"] != n-most {
		t.Errorf("the register says %v", states)
	}
}
