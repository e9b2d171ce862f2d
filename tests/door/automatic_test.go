package door

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"osm/tests/lab"
)

// forwards makes an account's .forward file.
func forwards(t *testing.T, account, text string) {
	t.Helper()
	if err := machine.WriteFile(account, filepath.Join(machine.HomeOf(account), ".forward"), text); err != nil {
		t.Fatal(err)
	}
}

// arrives sends n messages from somewhere in the world to an account.
func arrives(t *testing.T, account string, n int, subject string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	m := lab.Mail{From: "stranger@elsewhere.example", To: []string{"info@" + machine.Domain(account)}, Subject: subject}
	if err := inSession(ctx, lab.StrangerIP, "", "", n, m); err != nil {
		t.Fatal(err)
	}
}

// delivered waits until the sink has so many messages of the Subject.
func delivered(t *testing.T, subject string, n int) {
	t.Helper()
	eventually(t, 20*time.Second, fmt.Sprintf("%d deliveries of %q", n, subject), func() error {
		if got := machine.Sink.Count("Subject", subject); got != n {
			return fmt.Errorf("%d so far", got)
		}
		return nil
	})
}

func TestAutoReplyIsCountedAsAutomaticAndByNothingElse(t *testing.T) {
	w := start(t, "[[trigger]]\nname = \"automatic-hour\"\nmax = 4\nmode = \"enforce\"\n")
	seen := w.follow(t)
	account := w.next()
	forwards(t, account, "# Exim filter\nmail to $reply_address from info@"+machine.Domain(account)+" subject \"Away\" text \"Back on Monday.\"\nfinish\n")
	automatic, late := 0, 0
	for i := 0; automatic < 6 && i < 9; i++ {
		arrives(t, account, 1, "A question")
		switch d := seen.wait(t, i+1)[i]; {
		case d.Account != account || d.EnvelopeSender != "":
			t.Fatalf("decision is %+v", d)
		case d.Source == "automatic":
			automatic++
		case d.Source == "script": // there was no time to see who sent it
			late++
		default:
			t.Fatalf("decision is %+v", d)
		}
	}
	if automatic < 6 {
		t.Fatalf("%d are automatic, %d a script's", automatic, late)
	}
	came(t, "Away", 4+late, 2)
	got := w.counted(t, account)
	if got["automatic-hour/"+account] != 4 {
		t.Errorf("counted %v, want 4 automatic ones", got)
	}
	if late == 0 {
		only(t, account, got, map[string]int64{"automatic-hour/" + account: 4})
	}
	x := w.explain(t, frozen(t, "Away")[0])
	if x.Decision.Trigger != "automatic-hour" {
		t.Errorf("a stopped auto-reply is explained by %+v", x.Decision)
	}
}

func TestProgramInADotForwardIsAScript(t *testing.T) {
	w := start(t)
	seen := w.follow(t)
	account := w.next()
	script := filepath.Join(machine.HomeOf(account), "answer.sh")
	text := "#!/bin/sh\nprintf 'From: x@y.example\\nTo: z@elsewhere.example\\nSubject: By a program\\n\\nHi.\\n' | /usr/sbin/sendmail -t -i -f '<>'\n"
	if err := machine.WriteFile(account, script, text); err != nil {
		t.Fatal(err)
	}
	forwards(t, account, "|/bin/sh "+script+"\n")
	arrives(t, account, 3, "To a program")
	delivered(t, "By a program", 3)
	for _, d := range seen.wait(t, 3) {
		if d.Account != account || d.Source != "script" {
			t.Errorf("decision is %+v", d)
		}
	}
	got := w.counted(t, account)
	if got["scripts-hour/"+account] != 3 || got["messages/"+account] != 3 || got["automatic-hour/"+account] != 0 {
		t.Errorf("counted %v, want 3 messages of a script and no auto-reply", got)
	}
}

func TestPlainForwardIsNotAskedAbout(t *testing.T) {
	w := start(t)
	account := w.next()
	forwards(t, account, "somebody@elsewhere.example\n")
	arrives(t, account, 3, "To be forwarded")
	delivered(t, "To be forwarded", 3)
	w.checks(t, 0)
	only(t, account, w.counted(t, account), nil)
	only(t, "(unknown)", w.counted(t, "(unknown)"), nil)
}

func TestBounceOfEximItselfIsNotAskedAbout(t *testing.T) {
	w := start(t)
	account := w.next()
	m := lab.Mail{From: "author@elsewhere.example", To: []string{lab.Refused + "@elsewhere.example"}, Subject: "To nobody"}
	if err := bySendmail(t.Context(), account, 2, m); err != nil {
		t.Fatal(err)
	}
	const bounce = "Mail delivery failed: returning message to sender"
	delivered(t, bounce, 2)
	for _, d := range machine.Sink.Deliveries() {
		if d.Sender != "" || d.Header.Get("Subject") != bounce {
			t.Errorf("delivered: %+v", d)
		}
	}
	w.checks(t, 2) // the messages themselves
	if got := w.counted(t, account)["messages/"+account]; got != 2 {
		t.Errorf("%s is charged %d messages, want 2", account, got)
	}
	only(t, "(system)", w.counted(t, "(system)"), nil)
	only(t, "(unknown)", w.counted(t, "(unknown)"), nil)
}

// checks fails the test unless the daemon was asked exactly so often.
func (w *world) checks(t *testing.T, want uint64) {
	t.Helper()
	s, err := w.Status()
	if err != nil {
		t.Fatal(err)
	}
	if s.Checks != want || s.Unchecked != 0 {
		t.Errorf("%d questions answered and %d accepted unchecked, want %d and 0", s.Checks, s.Unchecked, want)
	}
	if lines := w.eximLog("OSM unavailable"); len(lines) != 0 {
		t.Errorf("Exim got no answer: %q", lines)
	}
}
