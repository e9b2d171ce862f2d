package actions

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"osm/policy"
	standin "osm/tests/panel"
)

// The accounts of these tests are users that every Debian has.
const (
	panelShop = "games"
	panelBlog = "lp"
	panelInfo = "info@shop.example"
)

// testPanel is a stand-in of a cPanel server with an executor beside it.
type testPanel struct {
	*standin.Server
	o ExecutorOptions
}

func newTestPanel(t *testing.T) *testPanel {
	t.Helper()
	s := standin.New(t, map[string][]string{
		panelShop: {panelInfo, "sales+eu@shop.example", "xinfo@shop.example"},
		panelBlog: {"me@blog.example"},
	})
	s.Write("var/cpanel/suspended/old", "unpaid bill 3\n")
	return &testPanel{Server: s, o: ExecutorOptions{
		EximUID: 101, SpoolDir: t.TempDir(), Log: slog.New(slog.DiscardHandler), Now: time.Now,
		Actions: policy.ExecutorActions(), StateDir: filepath.Join(t.TempDir(), "records"), MinUID: 2, Protected: []string{"man"},
		CommandPrefix: s.Prefix(), CommandLimit: 30 * time.Second, ChangeLimit: 30 * time.Second,
		Rates: map[string]int{policy.ActionSuspendAccount: 100, policy.ActionPanelHold: 100, policy.ActionBlockLogin: 100},
		Panel: PanelOptions{Kind: "auto", WHMAPI1: s.Program("whmapi1"), UAPI: s.Program("uapi"), root: s.Dir},
	}}
}

func (p *testPanel) client(t *testing.T) *Executor { return startExecutor(t, p.o) }

// panelVerb is one change by the panel, with what the stand-in's files show of it.
type panelVerb struct {
	name     string
	change   Change
	do, undo string // the panel's functions
	stands   func(p *testPanel) bool
}

func panelVerbs() []panelVerb {
	held := func(name string) func(p *testPanel) bool {
		return func(p *testPanel) bool { return strings.Contains(p.Read("etc/outgoing_mail_hold_users"), name+"\n") }
	}
	return []panelVerb{
		{"suspend-account", Change{Action: policy.ActionSuspendAccount, Account: panelShop, Event: 17, Trigger: "account-hour"},
			"suspendacct", "unsuspendacct", func(p *testPanel) bool { return p.Read("var/cpanel/suspended/"+panelShop) != "" }},
		{"panel-hold of an account", Change{Action: policy.ActionPanelHold, Account: panelShop}, "hold_outgoing_email", "release_outgoing_email", held(panelShop)},
		{"panel-hold of a mailbox", Change{Action: policy.ActionPanelHold, Account: panelShop, Mailbox: panelInfo}, "hold_outgoing", "release_outgoing", held(panelInfo)},
		{"block-login", Change{Action: policy.ActionBlockLogin, Account: panelShop, Mailbox: panelInfo}, "suspend_login", "unsuspend_login",
			func(p *testPanel) bool {
				return strings.Contains(p.Read(p.Shadow(panelShop, "shop.example")), "\ninfo:!!") || strings.HasPrefix(p.Read(p.Shadow(panelShop, "shop.example")), "info:!!") ||
					p.blockedAside()
			}},
	}
}

// blockedAside reports whether the stand-in keeps info's login blocked where cPanel's files
// do not show it.
func (p *testPanel) blockedAside() bool {
	_, err := os.Stat(p.Path("run/standin/blocked-" + panelInfo))
	return err == nil
}

// panelFault is one way in which the panel goes wrong. %s stands for the function that does
// it.
type panelFault struct {
	words  string
	hangs  bool
	once   bool // tried on one function of each program alone, for it takes long
	done   bool // the change comes into force nevertheless, and is seen to be
	reason string
}

func panelFaults() []panelFault {
	return []panelFault{
		{words: "", done: true},
		{words: "profile-a %s", reason: "it cannot be done now <b>try</b> later"},
		{words: "profile-b %s", reason: "it cannot be done now <b>try</b> later"},
		{words: "profile-c %s", reason: "The function is not to be had"},
		{words: "profile-d %s", hangs: true, reason: "killed after"},
		{words: "profile-e %s", reason: "said nothing"},
		{words: "profile-a", reason: "it cannot be done now"},
		{words: "profile-c", reason: "is not to be had"},
		{words: "profile-d", hangs: true, once: true, reason: "killed after"},
		{words: "profile-e", reason: "said nothing"},
		{words: "lies %s", reason: "the panel says that it is"},
		{words: "rubbish %s", reason: `no answer that can be understood: <html>`},
		{words: "endless %s", hangs: true, once: true, reason: "killed after"},
		{words: "hang-after %s", hangs: true, done: true},
		{words: "fail-after %s", done: true},
		{words: "noise\ntext-before", done: true},
		{words: "strings\nno-data %s\nrefused-exit-1", done: true},
		{words: "flat", done: true},
	}
}

// limits are short where the panel hangs, but not so short that a busy machine reaches them.
func (f panelFault) limits(p *testPanel) {
	p.o.CommandLimit, p.o.ChangeLimit = 30*time.Second, 30*time.Second
	if f.hangs {
		p.o.ChangeLimit = 2 * time.Second
	}
	if f.words == "profile-d" {
		p.o.CommandLimit = 2 * time.Second
	}
}

func (f panelFault) skip(v panelVerb) bool {
	return f.once && v.change.Action == policy.ActionPanelHold
}

func (f panelFault) on(p *testPanel, function string) {
	p.Fault(strings.ReplaceAll(f.words, "%s", function))
}

func TestNothingIsSaidToBeDoneOnThePanelThatIsNot(t *testing.T) {
	for _, v := range panelVerbs() {
		for _, f := range panelFaults() {
			if f.skip(v) {
				continue
			}
			t.Run(v.name+"/"+strings.ReplaceAll(f.words, "%s", v.do), func(t *testing.T) {
				t.Parallel()
				p := newTestPanel(t)
				before := p.Everything()
				f.limits(p)
				client := p.client(t)
				f.on(p, v.do)
				r, err := client.Apply(t.Context(), v.change)
				if (err == nil) != f.done || r.Done != f.done || v.stands(p) != f.done {
					t.Fatalf("Apply = %+v, %v; in force: %v; want done: %v", r, err, v.stands(p), f.done)
				}
				checkPanelError(t, err, v, f)
				p.notHanging(t, f)
				p.Fault()
				panelFault{}.limits(p)
				client = p.client(t)
				if !f.done { // tried again by rule
					if r, err = client.Apply(t.Context(), v.change); err != nil || !r.Done || !v.stands(p) {
						t.Fatalf("Apply anew = %+v, %v; in force: %v", r, err, v.stands(p))
					}
				}
				if _, err := client.Undo(t.Context(), r.ID); err != nil {
					t.Fatalf("Undo: %v", err)
				}
				if after := p.Everything(); after != before {
					t.Errorf("not as before:\n%s\nwas:\n%s", after, before)
				}
			})
		}
	}
}

func checkPanelError(t *testing.T, err error, v panelVerb, f panelFault) {
	t.Helper()
	if f.done {
		return
	}
	var e *ExecutorError
	if !errors.As(err, &e) || e.Refused || e.LeftAlone || !strings.HasSuffix(e.What, v.change.Action) || e.On != v.change.Target() || !strings.Contains(e.Why, f.reason) {
		t.Errorf("error = %+v; want one to be tried again, about %s, with %q", e, v.change.Target(), f.reason)
	}
	if strings.ContainsFunc(e.Why, func(r rune) bool { return r < ' ' && r != '\n' }) || len(e.Why) > 2000 {
		t.Errorf("error is not fit for a page: %q", e.Why)
	}
}

// notHanging waits for the end of the program that hung.
func (p *testPanel) notHanging(t *testing.T, f panelFault) {
	t.Helper()
	pid := p.Read("run/standin/hanging")
	if strings.Contains(f.words, "profile-d") || strings.Contains(f.words, "hang") {
		if pid == "" {
			t.Fatal("nothing hung")
		}
		waitFor(t, "the end of process "+pid, func() bool { return !alive(pid) })
	}
}

func TestNothingIsSaidToBeUndoneOnThePanelThatIsNot(t *testing.T) {
	for _, v := range panelVerbs() {
		for _, f := range panelFaults() {
			if f.skip(v) {
				continue
			}
			t.Run(v.name+"/"+strings.ReplaceAll(f.words, "%s", v.undo), func(t *testing.T) {
				t.Parallel()
				p := newTestPanel(t)
				before := p.Everything()
				r, err := p.client(t).Apply(t.Context(), v.change)
				if err != nil {
					t.Fatalf("Apply: %v", err)
				}
				f.limits(p)
				client := p.client(t)
				f.on(p, v.undo)
				_, err = client.Undo(t.Context(), r.ID)
				seen := !v.stands(p) // where the panel alone shows it, a broken panel hides it
				if (err == nil) != f.done || seen != f.done {
					t.Fatalf("Undo: %v; undone: %v; want %v", err, seen, f.done)
				}
				checkPanelError(t, err, v, f)
				p.Fault()
				panelFault{}.limits(p)
				client = p.client(t)
				if _, err := client.Undo(t.Context(), r.ID); (err == nil) == f.done { // done: no such record any more
					t.Errorf("Undo anew: %v", err)
				}
				if after := p.Everything(); after != before {
					t.Errorf("not as before:\n%s\nwas:\n%s", after, before)
				}
				if left, err := client.Records(t.Context()); err != nil || len(left) != 0 {
					t.Errorf("Records = %v, %v; want none", left, err)
				}
			})
		}
	}
}

func TestWhatStoodBeforeOnThePanelIsLeftAlone(t *testing.T) {
	suspended := func(p *testPanel) { p.Run("whmapi1", "suspendacct", "user="+panelShop, "reason=unpaid%20bill%207") }
	for _, row := range []struct {
		name   string
		verb   int
		before func(p *testPanel)
		faults string
		why    string
	}{
		{"a suspended account", 0, suspended, "", "unpaid bill 7"},
		{"a suspended account, where cPanel would say ok", 0, suspended, "suspended-ok", "unpaid bill 7"},
		{"a suspended account, where cPanel would take another reason", 0, suspended, "suspended-over", "unpaid bill 7"},
		{"an account that is suspended at the same time", 0, func(*testPanel) {}, "raced", "unpaid bill 7"},
		{"the same where cPanel says ok", 0, func(*testPanel) {}, "raced\nsuspended-ok", "unpaid bill 7"},
		{"an account on hold", 1, func(p *testPanel) { p.Run("whmapi1", "hold_outgoing_email", "user="+panelShop) }, "", "hold_users"},
		{"a mailbox on hold", 2, func(p *testPanel) { p.Run("uapi", "--user="+panelShop, "Email", "hold_outgoing", "email="+panelInfo) }, "", "hold_users"},
		{"a login that is blocked", 3, func(p *testPanel) { p.Run("uapi", "--user="+panelShop, "Email", "suspend_login", "email="+panelInfo) }, "", ""},
		{"a login that is blocked, seen by its mark alone", 3, func(p *testPanel) { p.Run("uapi", "--user="+panelShop, "Email", "suspend_login", "email="+panelInfo) }, "no-login-field", ""},
		{"a mailbox that is not there", 3, func(p *testPanel) { p.Write(p.Shadow(panelShop, "shop.example"), "xinfo:$6$x:1::::::\n") }, "", "no mailbox"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			p := newTestPanel(t)
			row.before(p)
			before := p.Everything()
			p.Fault(strings.Split(row.faults, "\n")...)
			client := p.client(t)
			_, err := client.Apply(t.Context(), panelVerbs()[row.verb].change)
			var e *ExecutorError
			if !errors.As(err, &e) || !e.LeftAlone || !strings.Contains(e.Why, row.why) {
				t.Errorf("Apply: %v; want it left alone, with %q", err, row.why)
			}
			if left, err := client.Records(t.Context()); err != nil || len(left) != 0 {
				t.Errorf("Records = %v, %v; want none", left, err)
			}
			if strings.Contains(row.faults, "raced") {
				if got := p.Read("var/cpanel/suspended/" + panelShop); got != "unpaid bill 7" {
					t.Errorf("the reason of somebody else's suspension is now %q", got)
				}
				return
			}
			if after := p.Everything(); after != before {
				t.Errorf("changed:\n%s\nwas:\n%s", after, before)
			}
		})
	}
}

// What somebody else did since is theirs.
func TestUndoAndCheckTellOursFromTheirs(t *testing.T) {
	for _, row := range []struct {
		name     string
		verb     int
		since    func(p *testPanel)
		in       Known
		byOthers bool
		outcome  string // of the undo
		stands   bool   // after it
	}{
		{"still in force", 0, func(*testPanel) {}, Yes, false, "undone and seen", false},
		{"a hold still in force", 1, func(*testPanel) {}, Yes, false, "undone and seen", false},
		{"a mailbox's hold still in force", 2, func(*testPanel) {}, Yes, false, "undone and seen", false},
		{"a block still in force", 3, func(*testPanel) {}, Yes, false, "undone and seen", false},
		{"lifted by hand", 0, func(p *testPanel) { p.Run("whmapi1", "unsuspendacct", "user="+panelShop) }, No, true, "somebody else has done that", false},
		{"lifted and suspended by hand", 0, func(p *testPanel) {
			p.Run("whmapi1", "unsuspendacct", "user="+panelShop)
			p.Run("whmapi1", "suspendacct", "user="+panelShop, "reason=unpaid%20bill%209")
		}, No, true, "somebody else's: suspended since", true},
		{"a hold lifted by hand", 1, func(p *testPanel) { p.Run("whmapi1", "release_outgoing_email", "user="+panelShop) }, No, true, "somebody else has done that", false},
		{"a block lifted by hand", 3, func(p *testPanel) { p.Run("uapi", "--user="+panelShop, "Email", "unsuspend_login", "email="+panelInfo) }, No, true, "somebody else has done that", false},
		{"the mailbox removed", 3, func(p *testPanel) { p.Write(p.Shadow(panelShop, "shop.example"), "xinfo:$6$x:1::::::\n") }, No, true, "there is no mailbox", false},
		{"the domain given to another account", 3, func(p *testPanel) {
			p.Write("etc/userdomains", strings.ReplaceAll(p.Read("etc/userdomains"), "shop.example: "+panelShop, "shop.example: "+panelBlog))
		}, No, true, "is not " + panelShop + "'s any more", true},
		{"the account removed", 0, func(p *testPanel) { os.Remove(p.Path("var/cpanel/users/" + panelShop)) }, No, true, "not there any more", true},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			p := newTestPanel(t)
			v := panelVerbs()[row.verb]
			client := p.client(t)
			r, err := client.Apply(t.Context(), v.change)
			if err != nil {
				t.Fatalf("Apply: %v", err)
			}
			row.since(p)
			before := p.Everything()
			s, err := client.Check(t.Context(), r.ID)
			if err != nil || s.InForce != row.in || s.ByOthers != row.byOthers {
				t.Errorf("Check = %+v, %v; want in force %s, by others %v", s, err, row.in, row.byOthers)
			}
			if after := p.Everything(); after != before {
				t.Errorf("Check changed something:\n%s\nwas:\n%s", after, before)
			}
			u, err := client.Undo(t.Context(), r.ID)
			if err != nil || !strings.Contains(u.Outcome, row.outcome) || v.stands(p) != row.stands {
				t.Errorf("Undo = %q, %v; stands: %v; want %q, %v", u.Outcome, err, v.stands(p), row.outcome, row.stands)
			}
			if _, err := client.Check(t.Context(), r.ID); err == nil {
				t.Error("Check of what is undone gave no error")
			}
		})
	}
}

func TestThePanelIsNeverAskedForWhatIsNoAccountOrMailboxOfIt(t *testing.T) {
	p := newTestPanel(t)
	p.Write("etc/userdomains", p.Read("etc/userdomains")+"root.example: root\n")
	client := p.client(t)
	suspend := func(account string) Change { return Change{Action: policy.ActionSuspendAccount, Account: account} }
	login := func(account, mailbox string) Change {
		return Change{Action: policy.ActionBlockLogin, Account: account, Mailbox: mailbox}
	}
	for _, c := range []Change{
		suspend("root"), suspend("nobody"), suspend(""), suspend("man"), suspend("nosuchuser"), suspend("daemon"),
		suspend("--help"), suspend("../../etc"), suspend(panelShop + ";reboot"), suspend(panelShop + "&reason=x"), suspend("$(id)"),
		suspend("news"), // a user of the machine that cPanel does not know
		{Action: policy.ActionSuspendAccount, Account: panelShop, Mailbox: panelInfo},
		{Action: policy.ActionSuspendAccount, Account: panelShop, Path: "/etc/passwd"},
		{Action: policy.ActionPanelHold, Account: panelShop, IP: "192.0.2.1"},
		login(panelShop, ""), login(panelShop, "me@blog.example"), login(panelBlog, panelInfo), login(panelShop, "a@nowhere.example"), login("root", "a@root.example"),
		login(panelShop, "info"), login(panelShop, "*@shop.example"), login(panelShop, "inf?@shop.example"), login(panelShop, "-u@shop.example"),
		login(panelShop, "../x@shop.example"), login(panelShop, "a&email=b@shop.example"), login(panelShop, "a@shop.example/.."), login(panelShop, "a@*"),
		login(panelShop, `a"b@shop.example`), login(panelShop, "a@b@shop.example"), login(panelShop, "a@.."),
		{Action: policy.ActionPanelHold, Account: panelBlog, Mailbox: panelInfo},
	} {
		_, err := client.Apply(t.Context(), c)
		var e *ExecutorError
		if !errors.As(err, &e) || !e.Refused {
			t.Errorf("Apply(%+v) = %v, want it refused", c, err)
		}
	}
	if calls := p.Calls(); fmt.Sprint(calls) != "[]" {
		t.Errorf("the panel was asked: %q", calls)
	}
}

func TestWhatThePanelIsAsked(t *testing.T) {
	p := newTestPanel(t)
	client := p.client(t)
	r, err := client.Apply(t.Context(), panelVerbs()[0].change)
	if err != nil {
		t.Fatal(err)
	}
	want := "whmapi1 --output=json suspendacct user=" + panelShop + " reason=osm%20event%2017%20account-hour%20record%20" + r.ID
	if calls := p.Calls(); len(calls) != 2 || calls[1] != want {
		t.Errorf("calls = %q, want %q last", calls, want)
	}
	if got, want := p.Read("var/cpanel/suspended/"+panelShop), "osm event 17 account-hour record "+r.ID; got != want {
		t.Errorf("cPanel's reason is %q, want %q", got, want)
	}
	// The plus sign is the one character of a mailbox that decoding would change.
	r, err = client.Apply(t.Context(), Change{Action: policy.ActionPanelHold, Account: panelShop, Mailbox: "Sales+EU@shop.example"})
	if err != nil {
		t.Fatal(err)
	}
	if got := p.Read("etc/outgoing_mail_hold_users"); !strings.Contains(got, "sales+eu@shop.example\n") {
		t.Errorf("hold file: %q", got)
	}
	if again, err := client.Apply(t.Context(), Change{Action: policy.ActionPanelHold, Account: panelShop, Mailbox: "sales+eu@shop.example"}); err != nil || again.ID != r.ID {
		t.Errorf("Apply again = %+v, %v; want record %s", again, err, r.ID)
	}
}

// A try of ours failed, and an operator did it by hand before the next.
func TestWhatSomebodyDidBetweenTwoTriesIsTheirs(t *testing.T) {
	for _, v := range panelVerbs() {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			for _, undo := range []bool{true, false} {
				p := newTestPanel(t)
				client := p.client(t)
				p.Fault("profile-a " + v.do)
				if _, err := client.Apply(t.Context(), v.change); err == nil {
					t.Fatal("Apply gave no error")
				}
				p.Fault()
				if v.change.Mailbox == "" {
					p.Run("whmapi1", v.do, "user="+panelShop, "reason=by%20hand")
				} else {
					p.Run("uapi", "--user="+panelShop, "Email", v.do, "email="+panelInfo)
				}
				left, err := client.Records(t.Context())
				if err != nil || len(left) != 1 {
					t.Fatalf("Records = %v, %v", left, err)
				}
				if s, err := client.Check(t.Context(), left[0].ID); err != nil || s.InForce != No || !s.ByOthers {
					t.Errorf("Check = %+v, %v; want it somebody else's", s, err)
				}
				if undo {
					_, err = client.Undo(t.Context(), left[0].ID)
				} else if _, err = client.Apply(t.Context(), v.change); err != nil && strings.Contains(err.Error(), "not by this action") {
					err = nil
				}
				if left, _ := client.Records(t.Context()); err != nil || len(left) != 0 || !v.stands(p) {
					t.Errorf("by undo %v: %v; stands: %v; records %v", undo, err, v.stands(p), left)
				}
			}
		})
	}
}

// The executor may be killed between asking the panel and writing down that it was done.
func TestAChangeThatWasCutShortIsTakenUpAgain(t *testing.T) {
	for _, v := range panelVerbs() {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			p := newTestPanel(t)
			before := p.Everything()
			client := p.client(t)
			r, err := client.Apply(t.Context(), v.change)
			if err != nil {
				t.Fatal(err)
			}
			r.Done, r.Outcome = false, ""
			if err := (records{p.o.StateDir}).put(&r); err != nil {
				t.Fatal(err)
			}
			again, err := client.Apply(t.Context(), v.change)
			if err != nil || !again.Done || again.ID != r.ID {
				t.Fatalf("Apply anew = %+v, %v", again, err)
			}
			again.Done = false
			if err := (records{p.o.StateDir}).put(&again); err != nil {
				t.Fatal(err)
			}
			if _, err := client.Undo(t.Context(), r.ID); err != nil {
				t.Fatal(err)
			}
			if after := p.Everything(); after != before {
				t.Errorf("not as before:\n%s\nwas:\n%s", after, before)
			}
		})
	}
}
