package control_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"osm/internal/control"
	"osm/internal/control/controltest"
	"osm/policy"
)

// enforced is a limit of three messages an hour, and another by directory.
const enforced = `
[[trigger]]
name = "account-hour"
max = 3
count = "messages"
mode = "enforce"

[[trigger]]
name = "directory-hour"
mode = "off"
`

func operator() control.Actor { return control.Actor{Name: "root", Role: control.Operator} }

func bob() control.Actor {
	return control.Actor{Name: "bob", Role: control.Reseller, Reseller: "bob"}
}

// stopped sends four messages of shop, the last of which is frozen.
func stopped(d *controltest.Daemon) *policy.Decision {
	var last *policy.Decision
	for i := range 4 {
		last = d.Send(controltest.Mail{Account: "shop", Directory: "/home/shop/public_html", Subject: fmt.Sprintf("Invoice %d", 8840+i), Sender: "shop@shop.example"})
	}
	return last
}

func TestExplainTellsEverythingOfAStoppedMessage(t *testing.T) {
	d := controltest.New(t, enforced)
	last := stopped(d)
	c := control.NewClient(d.Socket)
	defer c.Close()
	for _, name := range []string{last.Ref, strings.ToUpper(last.Ref), "ref=" + last.Ref, last.Submission.MessageID} {
		x, err := c.Explain(t.Context(), name)
		if err != nil {
			t.Fatalf("Explain(%s): %v", name, err)
		}
		if x.Decision == nil || x.Decision.Ref != last.Ref || x.Decision.Verdict != "freeze" {
			t.Fatalf("Explain(%s).Decision = %+v", name, x.Decision)
		}
		if x.Event == nil || x.Event.Trigger != "account-hour" || x.Event.Stopped != 1 {
			t.Errorf("Explain(%s).Event = %+v", name, x.Event)
		}
		if x.Held == nil || x.Held.State != "held" {
			t.Errorf("Explain(%s).Held = %+v", name, x.Held)
		}
		if len(x.FilledBy) != 3 {
			t.Errorf("Explain(%s): filled by %d messages, want 3", name, len(x.FilledBy))
		}
		if len(x.Usage) == 0 || x.Usage[0].Used != 3 || x.Usage[0].FreeAt.IsZero() {
			t.Errorf("Explain(%s).Usage = %+v", name, x.Usage)
		}
		for _, want := range []string{"account shop", "account-hour", "3 messages", "3 of 3", "uid 1001 called sendmail"} {
			if !strings.Contains(x.Why, want) {
				t.Errorf("Explain(%s).Why lacks %q: %s", name, want, x.Why)
			}
		}
		if !strings.Contains(x.Next, "release or discard") || x.Command != "osmctl held release "+last.Ref {
			t.Errorf("Explain(%s): next %q, command %q", name, x.Next, x.Command)
		}
	}
	for name, status := range map[string]int{"00000000": 404, "1vN3xQ-000abc-2F": 404, "what?": 404, "this is no reference": 400} {
		_, err := c.Explain(t.Context(), name)
		var e *control.Error
		if !errors.As(err, &e) || e.Status != status {
			t.Errorf("Explain(%q) = %v, want status %d", name, err, status)
		}
	}
}

func TestDescribeCountsNothing(t *testing.T) {
	d := controltest.New(t, enforced)
	c := control.NewClient(d.Socket)
	defer c.Close()
	for range 5 {
		x, err := c.Describe(t.Context(), control.Describe{Mailbox: "Info@shop.example", ClientIP: "192.0.2.1", Subject: "Hello", Recipients: []string{"a@example.com"}})
		if err != nil {
			t.Fatal(err)
		}
		if x.Decision.Verdict != "accept" || x.Decision.Account != "shop" || !x.Described || len(x.Steps) == 0 {
			t.Fatalf("Describe = %+v", x)
		}
		for _, u := range x.Usage {
			if u.Used != 0 {
				t.Fatalf("describing counted: %+v", u)
			}
		}
	}
	stopped(d)
	x, err := c.Describe(t.Context(), control.Describe{Account: "shop", Directory: "/home/shop/x"})
	if err != nil {
		t.Fatal(err)
	}
	if x.Decision.Verdict != "freeze" || !strings.Contains(x.Next, "free again at 2026-11-23 13:0") || x.Command != "osmctl reset account-hour/shop" || len(x.FilledBy) != 3 {
		t.Errorf("Describe of a sender who is over = %+v", x)
	}
	for _, wrong := range []control.Describe{{}, {Account: "shop", Source: "pigeon"}, {Account: "blog", Mailbox: "a@shop.example"}, {Account: "shop", ClientIP: "x"}, {Account: "shop", Count: -1}, {Account: "shop", Directory: "rel"}} {
		if _, err := c.Describe(t.Context(), wrong); err == nil {
			t.Errorf("Describe(%+v) was accepted", wrong)
		}
	}
}

func TestHeldMailIsSettledOnceAndOnlyAsManyAsWereMeant(t *testing.T) {
	d := controltest.New(t, enforced)
	stopped(d)
	for range 5 {
		d.Send(controltest.Mail{Account: "shop", Directory: "/home/shop/public_html", Subject: "Invoice 1"})
	}
	for range 4 {
		d.Send(controltest.Mail{Account: "blog", Directory: "/home/blog"})
	}
	d.Flush()
	c := control.NewClient(d.Socket)
	defer c.Close()
	l, err := c.Held(t.Context(), control.Query{Limit: 3})
	if err != nil || len(l.Items) != 3 || l.Next == "" {
		t.Fatalf("Held = %d items, next %q, %v", len(l.Items), l.Next, err)
	}
	sel := control.Selection{Account: "shop", Subject: "Invoice 77"}
	five := 5
	_, err = c.ReleaseHeld(t.Context(), control.Settle{Selection: sel, Expect: &five})
	var e *control.Error
	if !errors.As(err, &e) || e.Status != http.StatusConflict {
		t.Fatalf("release of another number than expected = %v, want 409", err)
	}
	plan, err := c.ReleaseHeld(t.Context(), control.Settle{Selection: sel, DryRun: true})
	if err != nil || plan.Matched != 6 || plan.Changed != 0 {
		t.Fatalf("dry run = %+v, %v", plan, err)
	}
	done, err := c.ReleaseHeld(t.Context(), control.Settle{Selection: sel, Expect: &plan.Matched})
	if err != nil || done.Changed != 6 {
		t.Fatalf("release = %+v, %v", done, err)
	}
	if again, err := c.ReleaseHeld(t.Context(), control.Settle{Selection: sel}); err != nil || again.Changed != 0 {
		t.Errorf("release again = %+v, %v, want nothing", again, err)
	}
	if d.Kicked() == 0 {
		t.Error("the register was not told")
	}
	if l, err := c.Held(t.Context(), control.Query{Where: map[string]string{"account": "blog", "state": "held"}}); err != nil || len(l.Items) != 1 {
		t.Errorf("blog's held mail = %+v, %v: another account's was touched", l, err)
	}
	if _, err := c.DiscardHeld(t.Context(), control.Settle{}); err == nil {
		t.Error("discarding everything was accepted")
	}
	audit, err := c.Audit(t.Context(), control.Query{})
	if err != nil || len(audit.Items) != 1 || audit.Items[0].What != "held release" || !strings.Contains(audit.Items[0].Target, "account shop") {
		t.Errorf("Audit = %+v, %v", audit, err)
	}
}

func TestAHoldStopsAndItsEndFrees(t *testing.T) {
	d := controltest.New(t, enforced)
	c := control.NewClient(d.Socket)
	defer c.Close()
	h, err := c.PutHold(t.Context(), control.Hold{Scope: "subject", Account: "shop", Value: "Invoice 8841", Reason: "spam run", Until: control.Time{Time: controltest.Start().Add(time.Hour)}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.PutHold(t.Context(), control.Hold{Scope: "subject", Account: "shop", Value: "Invoice 9"}); err == nil || !strings.Contains(err.Error(), "stands") {
		t.Errorf("a second hold on the same = %v", err)
	}
	dec := d.Send(controltest.Mail{Account: "shop", Directory: "/home/shop", Subject: "Invoice 7"})
	if dec.Verdict != policy.Freeze || dec.HoldID != h.ID {
		t.Fatalf("a held Subject was decided %v (hold %d)", dec.Verdict, dec.HoldID)
	}
	x, err := c.Explain(t.Context(), dec.Ref)
	if err != nil || !strings.Contains(x.Why, fmt.Sprintf("hold %d", h.ID)) || !strings.Contains(x.Why, "spam run") || !strings.Contains(x.Next, "stands until 2026-11-23 13:00:00 UTC") {
		t.Errorf("Explain = %+v, %v", x, err)
	}
	if _, err := c.EndHold(t.Context(), h.ID, "wrong one"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.EndHold(t.Context(), h.ID, ""); err == nil {
		t.Error("a hold was ended twice")
	}
	if got := d.Released(); len(got) != 1 || got[0].ID != h.ID {
		t.Errorf("released holds = %+v", got)
	}
	if dec := d.Send(controltest.Mail{Account: "shop", Directory: "/home/shop", Subject: "Invoice 7"}); dec.Verdict != policy.Accept {
		t.Errorf("after the hold ended: %v", dec.Verdict)
	}
	for _, wrong := range []control.Hold{
		{Scope: "planet"}, {Scope: "account"}, {Scope: "mailbox", Value: "nobody"}, {Scope: "directory", Account: "shop", Value: "relative"},
		{Scope: "account", Account: "shop", Verdict: "deny"}, {Scope: "account", Account: "shop", ID: 5},
		{Scope: "account", Account: "shop", Until: control.Time{Time: controltest.Start().Add(-time.Hour)}},
	} {
		if _, err := c.PutHold(t.Context(), wrong); err == nil {
			t.Errorf("PutHold(%+v) was accepted", wrong)
		}
	}
}

func TestLimitsActAtOnceAndAreWrittenDown(t *testing.T) {
	d := controltest.New(t, enforced)
	c := control.NewClient(d.Socket)
	defer c.Close()
	max := int64(5)
	l, err := c.SetLimit(t.Context(), control.Limit{Level: "account", Name: "shop", Trigger: "account-hour", Max: &max, Reason: "newsletter"})
	if err != nil {
		t.Fatal(err)
	}
	stopped(d)
	if last := d.Send(controltest.Mail{Account: "shop"}); last.Verdict != policy.Accept {
		t.Errorf("the fifth of five = %v", last.Verdict)
	}
	if last := d.Send(controltest.Mail{Account: "shop"}); last.Verdict != policy.Freeze {
		t.Errorf("the sixth of five = %v", last.Verdict)
	}
	observe := "observe"
	if l, err = c.SetLimit(t.Context(), control.Limit{Level: "account", Name: "shop", Trigger: "account-hour", Mode: &observe}); err != nil || l.Max == nil || *l.Max != 5 {
		t.Errorf("setting the mode = %+v, %v: the maximum must stay", l, err)
	}
	x, err := c.Usage(t.Context(), "shop", control.Query{})
	if err != nil || x.Items[0].Max != 5 || x.Items[0].Mode != "observe" || !strings.Contains(x.Items[0].Origin, "account shop") {
		t.Errorf("Usage = %+v, %v", x, err)
	}
	cfg, err := c.Config(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var shown string
	for _, s := range cfg.Items {
		if s.Key == "for account shop: max" {
			shown = s.Value + " " + s.Origin
		}
	}
	if !strings.HasPrefix(shown, "5 database, by ") {
		t.Errorf("config show has %q", shown)
	}
	if text, err := c.ExportConfig(t.Context()); err != nil || !strings.Contains(text, "[[for]]") {
		t.Errorf("config export = %v\n%s", err, text)
	}
	if _, err := c.RemoveLimit(t.Context(), l.ID, ""); err != nil {
		t.Fatal(err)
	}
	if last := d.Send(controltest.Mail{Account: "shop"}); last.Verdict != policy.Freeze {
		t.Errorf("after the limit was removed: %v", last.Verdict)
	}
	wrong := "sometimes"
	for _, bad := range []control.Limit{
		{Level: "galaxy"}, {Level: "account", Name: "shop"}, {Level: "account", Name: "shop", Trigger: "acount-hour", Max: &max},
		{Level: "account", Name: "shop", Mode: &wrong}, {Level: "mailbox", Name: "a@b.example", Trigger: "account-hour", Max: &max},
	} {
		if _, err := c.SetLimit(t.Context(), bad); err == nil {
			t.Errorf("SetLimit(%+v) was accepted", bad)
		}
	}
	audit, err := c.Audit(t.Context(), control.Query{})
	if err != nil || len(audit.Items) != 3 || audit.Items[0].What != "limit remove" || !strings.Contains(audit.Items[1].Old, `"max":5`) || !strings.Contains(audit.Items[1].New, `"observe"`) {
		t.Errorf("Audit = %+v, %v", audit, err)
	}
}

func TestExemptionsLift(t *testing.T) {
	d := controltest.New(t, enforced)
	c := control.NewClient(d.Socket)
	defer c.Close()
	e, err := c.AddExemption(t.Context(), control.Exemption{Scope: "account", Value: "shop", Trigger: "account-hour", Ceiling: 4, Reason: "trusted"})
	if err != nil {
		t.Fatal(err)
	}
	if last := stopped(d); last.Verdict != policy.Accept {
		t.Errorf("the fourth with a ceiling of four = %v", last.Verdict)
	}
	l, err := c.Exemptions(t.Context(), control.Query{})
	if err != nil || len(l.Items) != 1 || l.Items[0].Hits != 1 {
		t.Errorf("Exemptions = %+v, %v, want one that was used once", l, err)
	}
	if _, err := c.RemoveExemption(t.Context(), e.ID, "done"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.RemoveExemption(t.Context(), e.ID, ""); err == nil {
		t.Error("an exemption was removed twice")
	}
	if _, err := c.AddExemption(t.Context(), control.Exemption{Scope: "ip", Value: "300.0.0.1"}); err == nil {
		t.Error("a wrong address was accepted")
	}
}

func TestResetFreesOneSender(t *testing.T) {
	d := controltest.New(t, enforced)
	stopped(d)
	c := control.NewClient(d.Socket)
	defer c.Close()
	if err := c.Reset(t.Context(), "account-hour", "shop", "customer called"); err != nil {
		t.Fatal(err)
	}
	if dec := d.Send(controltest.Mail{Account: "shop"}); dec.Verdict != policy.Accept {
		t.Errorf("after the reset: %v", dec.Verdict)
	}
	var e *control.Error
	if err := c.Reset(t.Context(), "account-hour", "nobody", ""); !errors.As(err, &e) || e.Status != 404 {
		t.Errorf("reset of an empty counter = %v, want 404", err)
	}
	if err := c.Reset(t.Context(), "acount-hour", "shop", ""); !errors.As(err, &e) || e.Status != 422 || !strings.Contains(e.Message, "account-hour") {
		t.Errorf("reset of an unknown trigger = %v", err)
	}
}

func TestAResellerSeesAndSetsOnlyWhatIsHis(t *testing.T) {
	d := controltest.New(t, enforced+"\n[[for]]\nreseller = \"bob\"\nmax = 10\n")
	stopped(d)
	for range 4 {
		d.Send(controltest.Mail{Account: "blog", Directory: "/home/blog"})
	}
	blogs := d.Send(controltest.Mail{Account: "blog"})
	d.Flush()
	s, ctx := d.Service, t.Context()
	page := control.Page{Limit: 100}
	if l, err := s.Events(ctx, bob(), control.EventFilter{}, page); err != nil || len(l.Items) != 0 {
		t.Errorf("Events of a reseller whose accounts are within limits = %+v, %v", l, err)
	}
	if l, err := s.Events(ctx, operator(), control.EventFilter{}, page); err != nil || len(l.Items) != 1 {
		t.Errorf("Events of an operator = %+v, %v", l, err)
	}
	if l, err := s.Top(ctx, bob(), time.Time{}, "", page); err != nil || len(l.Items) != 1 || l.Items[0].Account != "shop" {
		t.Errorf("Top of a reseller = %+v, %v", l, err)
	}
	max, much := int64(10), int64(11)
	enforceOff := "off"
	_, refusedTail := s.Held(ctx, bob(), control.Selection{Account: "blog"}, page)
	_, refusedUsage := s.Usage(ctx, bob(), "blog", page)
	_, refusedExplain := s.Explain(ctx, bob(), blogs.Ref)
	_, refusedStatus := s.Status(ctx, bob())
	_, refusedRelease := s.ReleaseHeld(ctx, bob(), control.Settle{Selection: control.Selection{Account: "shop"}})
	_, refusedDiscard := s.DiscardHeld(ctx, bob(), control.Settle{Selection: control.Selection{Refs: []string{blogs.Ref}}})
	_, refusedMuch := s.SetLimit(ctx, bob(), control.Limit{Level: "account", Name: "shop", Trigger: "account-hour", Max: &much})
	_, refusedMode := s.SetLimit(ctx, bob(), control.Limit{Level: "account", Name: "shop", Trigger: "account-hour", Mode: &enforceOff})
	_, refusedOther := s.SetLimit(ctx, bob(), control.Limit{Level: "account", Name: "blog", Trigger: "account-hour", Max: &max})
	_, refusedLevel := s.SetLimit(ctx, bob(), control.Limit{Level: "reseller", Name: "bob", Trigger: "account-hour", Max: &max})
	_, refusedPackage := s.SetLimit(ctx, bob(), control.Limit{Level: "package", Name: "gold", Trigger: "account-hour", Max: &max})
	_, refusedExempt := s.AddExemption(ctx, bob(), control.Exemption{Scope: "account", Value: "shop"})
	_, refusedHold := s.PutHold(ctx, bob(), control.Hold{Scope: "account", Account: "blog"})
	_, refusedConfig := s.Config(ctx, bob())
	_, refusedAudit := s.Audit(ctx, bob(), time.Time{}, page)
	for name, err := range map[string]error{"held of another": refusedTail, "usage of another": refusedUsage, "explain another's": refusedExplain,
		"discard another's": refusedDiscard, "another's limit": refusedOther, "hold another": refusedHold} {
		var e *control.Error
		if !errors.As(err, &e) || e.Status != http.StatusNotFound {
			t.Errorf("%s by a reseller = %v, want 404", name, err)
		}
	}
	for name, err := range map[string]error{"status": refusedStatus,
		"release": refusedRelease, "more than his own limit": refusedMuch, "switch off": refusedMode,
		"his own limit": refusedLevel, "a package's limit": refusedPackage, "exempt": refusedExempt, "config": refusedConfig, "audit": refusedAudit,
		"reset": s.Reset(ctx, bob(), control.ResetRequest{Trigger: "account-hour", Key: "shop"})} {
		var e *control.Error
		if !errors.As(err, &e) || e.Status != http.StatusForbidden {
			t.Errorf("%s by a reseller = %v, want 403", name, err)
		}
	}
	if _, err := s.SetLimit(ctx, bob(), control.Limit{Level: "account", Name: "shop", Trigger: "account-hour", Max: &max}); err != nil {
		t.Errorf("a limit within his own = %v", err)
	}
	h, err := s.PutHold(ctx, bob(), control.Hold{Scope: "mailbox", Value: "info@news.example"})
	if err != nil || h.Account != "news" {
		t.Fatalf("a hold on his own mailbox = %+v, %v", h, err)
	}
	if _, err := s.EndHold(ctx, bob(), h.ID, ""); err != nil {
		t.Errorf("ending his own hold = %v", err)
	}
	byRoot, err := s.PutHold(ctx, operator(), control.Hold{Scope: "account", Account: "news"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.EndHold(ctx, bob(), byRoot.ID, ""); err == nil {
		t.Error("a reseller ended an operator's hold")
	}
}

func TestTailFollowsAndNeverBlocks(t *testing.T) {
	d := controltest.New(t, enforced)
	c := control.NewClient(d.Socket)
	defer c.Close()
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan control.TailLine, 10)
	ended := make(chan error, 1)
	go func() {
		ended <- c.Tail(ctx, control.Query{Where: map[string]string{"account": "shop"}}, func(l control.TailLine) error {
			select {
			case got <- l:
			case <-ctx.Done(): // more came than are looked at
			}
			return nil
		})
	}()
	for len(got) == 0 { // until the reader listens
		d.Send(controltest.Mail{Account: "shop", Subject: "hello"})
		d.Send(controltest.Mail{Account: "blog"})
		d.Flush()
	}
	if l := <-got; l.Decision == nil || l.Account != "shop" || l.Subject != "hello" {
		t.Errorf("first line = %+v", l)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Tail after Ctrl-C = %v", err)
	}
	slow := make(chan struct{})
	begun := make(chan struct{}, 1)
	go func() {
		ended <- d.Service.Tail(t.Context(), operator(), "", false, func(l control.TailLine) error {
			select {
			case begun <- struct{}{}:
			default:
			}
			<-slow
			if l.Missed > 0 {
				return fmt.Errorf("missed %d", l.Missed)
			}
			return nil
		})
	}()
	<-begun
	for range 1000 {
		d.Send(controltest.Mail{Account: "news"})
	}
	close(slow)
	if err := <-ended; err == nil || !strings.HasPrefix(err.Error(), "missed ") {
		t.Errorf("a slow reader = %v, want to be told what it missed", err)
	}
}

func TestStatusCountsTheModesThatAreSetForTheServer(t *testing.T) {
	d := controltest.New(t, enforced) // one enforces, one is off
	c := control.NewClient(d.Socket)
	defer c.Close()
	before, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	observe, enforce := "observe", "enforce"
	for _, l := range []control.Limit{
		{Level: "server", Trigger: "account-hour", Mode: &observe},
		{Level: "server", Trigger: "login-hour", Mode: &enforce},
		{Level: "server", Trigger: "account-day", Mode: &enforce},
		{Level: "account", Name: "shop", Trigger: "scripts-hour", Mode: &enforce}, // not for all
	} {
		if _, err := c.SetLimit(t.Context(), l); err != nil {
			t.Fatal(err)
		}
	}
	after, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	was, is := before.Config.Triggers, after.Config.Triggers
	if was.Enforcing != 1 || is.Enforcing != 2 || is.Observing != was.Observing-1 || is.Off != was.Off {
		t.Errorf("before %+v, after %+v; want one more to enforce and one less to observe", was, is)
	}
}

func TestStatusDoctorBackupAndReload(t *testing.T) {
	d := controltest.New(t, enforced)
	stopped(d)
	d.Flush()
	d.SetState(control.State{Checks: 4, Alarms: []control.Alarm{{Name: "executor", Text: "it does not answer"}}, Inspect: control.Part{OK: true, Text: "it answers"}})
	c := control.NewClient(d.Socket)
	defer c.Close()
	s, err := c.Status(t.Context())
	if err != nil || !s.Store.OK || s.Held.Messages != 1 || s.OpenEvents != 1 || s.Checks != 4 || s.Accounts.Accounts != 3 || s.Config.Triggers.Enforcing != 1 || s.Config.Triggers.Off != 1 {
		t.Errorf("Status = %+v, %v", s, err)
	}
	l, err := c.Doctor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	wrong := map[string]bool{}
	for _, check := range l.Items {
		if !check.OK {
			wrong[check.Name] = true
		}
	}
	if len(wrong) != 1 || !wrong["alarm executor"] {
		t.Errorf("Doctor finds wrong: %v", wrong)
	}
	if l, err := c.CheckConfig(t.Context(), "[log]\nlevel = 5\n"); err != nil || len(l.Items) != 1 || !strings.Contains(l.Items[0], "log.level") {
		t.Errorf("CheckConfig = %+v, %v", l, err)
	}
	path := filepath.Join(d.Dir, "copy.db")
	if b, err := c.Backup(t.Context(), path); err != nil || b.Bytes == 0 {
		t.Errorf("Backup = %+v, %v", b, err)
	}
	d.SetConfig(strings.Replace(enforced, "max = 3", "max = 30", 1))
	if r, err := c.Reload(t.Context()); err != nil || !strings.Contains(r.Text, "in force") {
		t.Errorf("Reload = %+v, %v", r, err)
	}
	if dec := d.Send(controltest.Mail{Account: "shop"}); dec.Verdict != policy.Accept {
		t.Errorf("after the reload: %v", dec.Verdict)
	}
	if _, err := c.Top(t.Context(), control.Query{Since: "24h"}); err != nil {
		t.Errorf("Top = %v", err)
	}
	if status, _ := do(t, d, "GET", "/v1/usage/"+url.PathEscape("(unknown)"), "", nil); status != 200 {
		t.Errorf("usage of (unknown) = %d", status)
	}
}

func TestFiveThousandHeldMessagesAreListedAndReleased(t *testing.T) {
	d := controltest.New(t, strings.Replace(enforced, "max = 3", "max = 0", 1))
	for i := range 5000 {
		d.Send(controltest.Mail{Account: "shop", Subject: fmt.Sprintf("Invoice %d", i), Directory: "/home/shop"})
	}
	d.Flush()
	c := control.NewClient(d.Socket)
	defer c.Close()
	begin, seen, q := time.Now(), 0, control.Query{Limit: 1000, Where: map[string]string{"account": "shop"}}
	for {
		l, err := c.Held(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		seen += len(l.Items)
		if q.After = l.Next; q.After == "" {
			break
		}
	}
	if took := time.Since(begin); seen != 5000 || took > 10*time.Second {
		t.Errorf("%d held messages listed in %s, want all 5,000, and soon", seen, took)
	}
	t.Logf("listed %d in %s", seen, time.Since(begin))
	begin = time.Now()
	done, err := c.ReleaseHeld(t.Context(), control.Settle{Selection: control.Selection{Account: "shop"}})
	if took := time.Since(begin); err != nil || done.Changed != seen || took > 20*time.Second {
		t.Errorf("release of all = %+v, %v in %s", done, err, took)
	}
	t.Logf("released %d in %s", done.Changed, time.Since(begin))
}
