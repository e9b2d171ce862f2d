package policy

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"osm/counters"
)

// noon is the moment at which tests begin.
func noon() Moment {
	return Moment{Wall: time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC), Boot: BootShift + 5_000_000}
}

// newTestEngine makes an engine with these rules and counters of its own.
func newTestEngine(t testing.TB, r *Rules) *Engine {
	t.Helper()
	e := NewEngine(counters.New(counters.Options{}), r)
	e.SetRefKey([16]byte{1, 2, 3})
	return e
}

// enforcing is a trigger that freezes.
func enforcing(name string, w Watch, max int64, u Unit) Trigger {
	return Trigger{Name: name, Watch: w, Max: max, Per: time.Hour, Count: u, Verdict: Freeze, Mode: Enforce,
		Actions: []Action{{Name: ActionReport}}, Provenance: Provenance{Where: "file"}}
}

func rulesOf(list ...Trigger) *Rules { return &Rules{Triggers: list} }

// fromScript is a message of an account's script.
func fromScript(account, directory, subject string, recipients int) (*Submission, Identity) {
	s := &Submission{MessageID: "1abcde-000001-AA", Protocol: "local", CallerUID: 1001, Recipients: recipients, Subject: subject, Size: 1000}
	return s, Identity{Account: account, Source: SourceScript, Directory: directory, DirectoryAccount: account}
}

// fromLogin is a message after SMTP AUTH.
func fromLogin(account, mailbox, ip string, recipients int) (*Submission, Identity) {
	a := netip.MustParseAddr(ip)
	s := &Submission{MessageID: "1abcde-000002-AA", Protocol: "esmtpsa", CallerUID: -1, ClientIP: a, Recipients: recipients, Subject: "hello", Size: 1000}
	return s, Identity{Account: account, Mailbox: mailbox, Source: SourceLogin, ClientIP: a, IPClass: IPLogin}
}

// send has n messages judged and returns how many passed.
func send(e *Engine, now Moment, n int, s *Submission, id Identity) (passed int) {
	for range n {
		if e.Check(now, s, id).Verdict == Accept {
			passed++
		}
	}
	return passed
}

func TestEachWatchCountsItsOwnMail(t *testing.T) {
	type message func() (*Submission, Identity)
	script := func() (*Submission, Identity) { return fromScript("shop", "/home/shop/www", "Invoice 1", 3) }
	login := func() (*Submission, Identity) { return fromLogin("shop", "info@shop.example", "192.0.2.1", 3) }
	automatic := func() (*Submission, Identity) {
		s, id := fromScript("shop", "", "Auto: away", 1)
		id.Source, id.DirectoryAccount = SourceAutomatic, ""
		return s, id
	}
	unknown := func() (*Submission, Identity) {
		s, id := fromScript(AccountUnknown, "/tmp", "x", 1)
		id.SubKey = "uid 1234"
		return s, id
	}
	shared := func() (*Submission, Identity) {
		s, id := fromScript(SharedAccount("nobody"), "/home/shop/www", "x", 1)
		id.DirectoryAccount, id.Claimed = "shop", true
		return s, id
	}
	tests := []struct {
		name    string
		watch   Watch
		unit    Unit
		message message
		usage   string // who is asked
		key     string // "" = not counted
		used    int64
	}{
		{"account counts a script's recipients", WatchAccount, Recipients, script, "shop", "shop", 3},
		{"account counts messages where told to", WatchAccount, Messages, script, "shop", "shop", 1},
		{"account counts logins too", WatchAccount, Recipients, login, "shop", "shop", 3},
		{"account leaves automatic mail alone", WatchAccount, Recipients, automatic, "shop", "", 0},
		{"account counts unknown senders each by itself", WatchAccount, Recipients, unknown, AccountUnknown, "(unknown) uid 1234", 1},
		{"account counts a shared web user under its own name", WatchAccount, Recipients, shared, SharedAccount("nobody"), "(shared:nobody)", 1},
		{"account does not count what is only claimed", WatchAccount, Recipients, shared, "shop", "", 0},
		{"subject counts the folded Subject", WatchSubject, Messages, script, "shop", "shop invoice #", 1},
		{"subject of unknown senders is each one's own", WatchSubject, Messages, unknown, AccountUnknown, "(unknown) uid 1234 x", 1},
		{"scripts counts a script", WatchScripts, Messages, script, "shop", "shop", 1},
		{"scripts leaves logins alone", WatchScripts, Messages, login, "shop", "", 0},
		{"directory counts a script's directory", WatchDirectory, Messages, script, "shop", "shop /home/shop/www", 1},
		{"directory counts a claim apart, under the claimed account", WatchDirectory, Messages, shared, "shop", "shop claimed /home/shop/www", 1},
		{"login counts the mailbox", WatchLogin, Recipients, login, "shop", "shop info@shop.example", 3},
		{"login leaves scripts alone", WatchLogin, Recipients, script, "shop", "", 0},
		{"client-ip counts the address", WatchClientIP, Recipients, login, "login 192.0.2.1", "login 192.0.2.1", 3},
		{"automatic counts automatic mail", WatchAutomatic, Messages, automatic, "shop", "shop", 1},
		{"automatic leaves scripts alone", WatchAutomatic, Messages, script, "shop", "", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := newTestEngine(t, rulesOf(enforcing("it", tt.watch, 100, tt.unit)))
			s, id := tt.message()
			if d := e.Check(noon(), s, id); d.Verdict != Accept || !d.Counted || d.Reason != ReasonWithin {
				t.Fatalf("Check = %v, counted %v, %v; want accepted", d.Verdict, d.Counted, d.Reason)
			}
			var key string
			var used int64
			for _, u := range e.Usage(noon(), tt.usage) {
				if u.Used > 0 {
					key, used = u.Key, u.Used
				}
			}
			if key != tt.key || used != tt.used {
				t.Errorf("Usage(%q) = %d under %q, want %d under %q", tt.usage, used, key, tt.used, tt.key)
			}
			err := e.Reset("it", tt.key)
			if (err == nil) != (tt.key != "") {
				t.Errorf("Reset(%q) = %v", tt.key, err)
			}
		})
	}
}

// The cap of names is for what senders choose. A mailbox that logged in and a sender
// without a name are counted however many there are, and so their triggers fire.
func TestNoMailboxAndNoUnknownSenderMakesRoomForAnother(t *testing.T) {
	const many = 300
	tests := []struct {
		name    string
		watch   Watch
		message func(i int) (*Submission, Identity)
	}{
		{"mailboxes of one account", WatchLogin, func(i int) (*Submission, Identity) {
			return fromLogin("shop", "box"+strconv.Itoa(i)+"@shop.example", "192.0.2.1", 1)
		}},
		{"unknown senders", WatchAccount, func(i int) (*Submission, Identity) {
			s, id := fromScript(AccountUnknown, "", "x", 1)
			id.SubKey = "uid " + strconv.Itoa(i)
			return s, id
		}},
		{"scripts of unknown senders", WatchScripts, func(i int) (*Submission, Identity) {
			s, id := fromScript(AccountSystem, "", "x", 1)
			id.SubKey = "user " + strconv.Itoa(i)
			return s, id
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := newTestEngine(t, rulesOf(enforcing("it", tt.watch, 2, Messages)))
			for round, want := range []int{many, many, 0} { // each in turn: the hardest order for a cap
				passed := 0
				for i := range many {
					s, id := tt.message(i)
					passed += send(e, noon(), 1, s, id)
				}
				if passed != want {
					t.Errorf("round %d: %d passed, want %d", round+1, passed, want)
				}
			}
		})
	}
}

func TestIPv6CountsByNetwork(t *testing.T) {
	e := newTestEngine(t, rulesOf(enforcing("ip", WatchClientIP, 1, Messages)))
	s, id := fromLogin("shop", "a@shop.example", "2001:db8:0:1::1", 1)
	if d := e.Check(noon(), s, id); d.Verdict != Accept {
		t.Fatalf("first message: %v", d.Verdict)
	}
	s, id = fromLogin("other", "a@other.example", "2001:db8:0:1:ffff::2", 1)
	if d := e.Check(noon(), s, id); d.Verdict != Freeze || d.Over[0].Key != "login 2001:db8:0:1::/64" {
		t.Errorf("second address of the network: %v %+v, want it stopped", d.Verdict, d.Over)
	}
	if err := e.Reset("ip", "login 2001:db8:0:1::/64"); err != nil {
		t.Errorf("Reset by the key as shown: %v", err)
	}
}

func TestVerdicts(t *testing.T) {
	with := func(v Verdict) Trigger {
		tr := enforcing("t-"+v.String(), WatchAccount, 0, Messages)
		tr.Verdict, tr.ConfirmLoss = v, true
		return tr
	}
	tests := []struct {
		name     string
		triggers []Trigger
		smtp     Verdict
		script   Verdict
		decides  string // for SMTP
	}{
		{"deny wins over everything", []Trigger{with(Discard), with(Freeze), with(Deny), with(Defer)}, Deny, Freeze, "t-deny"},
		{"freeze wins over defer and discard", []Trigger{with(Discard), with(Defer), with(Freeze)}, Freeze, Freeze, "t-freeze"},
		{"defer wins over discard", []Trigger{with(Discard), with(Defer)}, Defer, Freeze, "t-defer"},
		{"discard wins over accept", []Trigger{with(Accept), with(Discard)}, Discard, Discard, "t-discard"},
		{"accept lets it pass and says so", []Trigger{with(Accept)}, Accept, Accept, "t-accept"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := newTestEngine(t, rulesOf(tt.triggers...))
			s, id := fromLogin("shop", "a@shop.example", "192.0.2.1", 1)
			d := e.Check(noon(), s, id)
			if d.Verdict != tt.smtp || d.Trigger != tt.decides || len(d.Over) != len(tt.triggers) {
				t.Errorf("SMTP: %v by %q, %d over; want %v by %q, %d", d.Verdict, d.Trigger, len(d.Over), tt.smtp, tt.decides, len(tt.triggers))
			}
			s, id = fromScript("shop", "", "x", 1)
			if d := e.Check(noon(), s, id); d.Verdict != tt.script {
				t.Errorf("script: %v, want %v", d.Verdict, tt.script)
			}
		})
	}
}

func TestALargerMessageThanTheLimitIsNeverFree(t *testing.T) {
	e := newTestEngine(t, rulesOf(enforcing("account-hour", WatchAccount, 10, Recipients)))
	s, id := fromScript("shop", "", "x", 11)
	d := e.Check(noon(), s, id)
	if d.Reason != ReasonLargerThanLimit || d.Verdict != Freeze || !d.FreeAt().IsZero() || !d.Over[0].FreeAt.IsZero() {
		t.Errorf("11 of 10: %v %v free %v", d.Reason, d.Verdict, d.FreeAt())
	}
	if !strings.Contains(d.Text, "more than the sending limit") {
		t.Errorf("Text = %q", d.Text)
	}
	s.Recipients = 10
	if d := e.Check(noon(), s, id); d.Verdict != Accept {
		t.Errorf("a smaller one after it: %v, want accepted", d.Verdict)
	}
}

func TestASenderGetsFreeWhenSaid(t *testing.T) {
	e := newTestEngine(t, rulesOf(enforcing("account-hour", WatchAccount, 5, Recipients)))
	s, id := fromScript("shop", "", "x", 1)
	now := noon()
	if n := send(e, now, 5, s, id); n != 5 {
		t.Fatalf("%d of 5 passed", n)
	}
	now = now.Add(10 * time.Minute)
	d := e.Check(now, s, id)
	if d.Verdict != Freeze || d.FreeAt().IsZero() {
		t.Fatalf("the sixth: %v, free %v", d.Verdict, d.FreeAt())
	}
	wait := d.FreeAt().Sub(now.Wall)
	if wait > 50*time.Minute+time.Minute || wait < 50*time.Minute {
		t.Errorf("free in %v, want 50 minutes and at most a sixtieth of the period", wait)
	}
	if d := e.Check(now.Add(wait-time.Millisecond), s, id); d.Verdict != Freeze {
		t.Errorf("one millisecond before: %v", d.Verdict)
	}
	if d := e.Check(now.Add(wait), s, id); d.Verdict != Accept {
		t.Errorf("at the moment itself: %v", d.Verdict)
	}
}

func TestWallClockStepsChangeNothing(t *testing.T) {
	e := newTestEngine(t, rulesOf(enforcing("account-hour", WatchAccount, 2, Recipients)))
	s, id := fromScript("shop", "", "x", 1)
	now := noon()
	if n := send(e, now, 3, s, id); n != 2 {
		t.Fatalf("%d of 3 passed, want 2", n)
	}
	for _, step := range []time.Duration{-48 * time.Hour, 48 * time.Hour, 24 * 365 * time.Hour, -20 * 365 * 24 * time.Hour} {
		now.Wall = now.Wall.Add(step)
		d := e.Check(now, s, id)
		if d.Verdict != Freeze {
			t.Errorf("after a step of %v: %v, want still frozen", step, d.Verdict)
		}
		if wait := d.FreeAt().Sub(now.Wall); wait < 59*time.Minute || wait > 61*time.Minute {
			t.Errorf("after a step of %v: free in %v", step, wait)
		}
		now.Boot += 1000
	}
}

func TestObservingTouchesNothing(t *testing.T) {
	observer := enforcing("seen", WatchAccount, 2, Messages)
	observer.Mode = Observe
	both := newTestEngine(t, rulesOf(enforcing("account-hour", WatchAccount, 10, Messages), observer))
	alone := newTestEngine(t, rulesOf(enforcing("account-hour", WatchAccount, 10, Messages)))
	s, id := fromScript("shop", "", "x", 1)
	for i := range 20 {
		a, b := both.Check(noon(), s, id), alone.Check(noon(), s, id)
		if a.Verdict != b.Verdict {
			t.Fatalf("message %d: %v with the observer, %v without", i, a.Verdict, b.Verdict)
		}
		wantWould := Accept
		if i >= 2 {
			wantWould = Freeze
		}
		if a.Would != wantWould {
			t.Errorf("message %d: would %v, want %v", i, a.Would, wantWould)
		}
		if i == 5 && (a.Trigger != "seen" || a.Reason != ReasonWithin || !strings.HasPrefix(a.Log, "would=freeze trigger=seen used=2/2")) {
			t.Errorf("message %d: trigger %q, reason %v, log %q", i, a.Trigger, a.Reason, a.Log)
		}
	}
	for _, u := range both.Usage(noon(), "shop") {
		if want := map[string]int64{"account-hour": 10, "seen": 2}[u.Trigger]; u.Used != want {
			t.Errorf("%s used %d, want %d", u.Trigger, u.Used, want)
		}
	}
}

func TestAnAcceptingTriggerCountsAllThatPasses(t *testing.T) {
	tr := enforcing("told", WatchAccount, 2, Messages)
	tr.Verdict = Accept
	e := newTestEngine(t, rulesOf(tr))
	s, id := fromScript("shop", "", "x", 1)
	if n := send(e, noon(), 5, s, id); n != 5 {
		t.Fatalf("%d of 5 passed", n)
	}
	d := e.Check(noon(), s, id)
	if d.Reason != ReasonOver || d.Trigger != "told" || d.Over[0].Used != 5 || !d.Counted {
		t.Errorf("the sixth: %v by %q, used %d", d.Reason, d.Trigger, d.Over[0].Used)
	}
}

func TestSystemAndDisabled(t *testing.T) {
	e := newTestEngine(t, rulesOf(enforcing("account-hour", WatchAccount, 0, Messages)))
	s, id := fromScript(AccountSystem, "", "x", 1)
	id.Source = SourceSystem
	if d := e.Check(noon(), s, id); d.Verdict != Accept || d.Reason != ReasonSystem || d.Counted || d.Seq == 0 {
		t.Errorf("system mail: %v %v counted %v", d.Verdict, d.Reason, d.Counted)
	}
	e.SetRules(&Rules{Triggers: e.Rules().Triggers, Disabled: true, Holds: []Hold{{ID: 1, Scope: ScopeAccount, Account: "shop"}}})
	s, id = fromScript("shop", "", "x", 1)
	if d := e.Check(noon(), s, id); d.Verdict != Accept || d.Reason != ReasonDisabled || d.Counted {
		t.Errorf("switched off: %v %v counted %v", d.Verdict, d.Reason, d.Counted)
	}
}

func TestNoKeyIsEverEmpty(t *testing.T) {
	e := newTestEngine(t, rulesOf(enforcing("account-hour", WatchAccount, 10, Messages)))
	for _, d := range []*Decision{e.Check(noon(), &Submission{}, Identity{}), e.Check(noon(), nil, Identity{}), e.CountIn(noon(), nil, Identity{}, ReasonMalformed)} {
		if d.Identity.Account != AccountUnknown || d.Submission == nil || d.Verdict != Accept {
			t.Errorf("decision of nothing: %+v", d)
		}
	}
}

func TestExactlyTheLimitPassesUnderConcurrency(t *testing.T) {
	e := newTestEngine(t, &Rules{
		Triggers: []Trigger{
			enforcing("account-hour", WatchAccount, 100, Recipients), enforcing("subject-hour", WatchSubject, 500, Messages),
			enforcing("directory-hour", WatchDirectory, 150, Messages), enforcing("off", WatchAccount, 1, Messages),
		},
		Overrides: []Override{
			{Level: LevelAccount, Name: "raised", Trigger: "account-hour", Max: ptr(int64(140))},
			{Level: LevelServer, Trigger: "off", Mode: ptr(Off)},
		},
		Exemptions: []Exemption{
			{ID: 1, Scope: ScopeDirectory, Account: "lifted", Value: "/d", Trigger: "directory-hour"},
			{ID: 2, Scope: ScopeAccount, Value: "lifted", Trigger: "account-hour", Ceiling: 170},
		},
	})
	want := map[string]int64{"plain": 100, "raised": 140, "lifted": 170}
	got := map[string]*atomic.Int64{"plain": {}, "raised": {}, "lifted": {}}
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			for range 10 {
				for account, passed := range got {
					s, id := fromScript(account, "/d", "x", 1)
					if e.Check(noon(), s, id).Verdict == Accept {
						passed.Add(1)
					}
				}
			}
		})
	}
	wg.Wait()
	for account, n := range want {
		if p := got[account].Load(); p != n {
			t.Errorf("%s: %d passed of 500, want %d", account, p, n)
		}
	}
	hits := map[int64]int64{}
	for _, h := range e.ExemptionHits() {
		hits[h.Exemption.ID] = h.Hits
	}
	if hits[1] != 20 || hits[2] != 70 {
		t.Errorf("hits = %v, want 20 of the directory's above 150 and 70 of the account's above 100", hits)
	}
}

func ptr[T any](v T) *T { return &v }

func TestChangedRulesKeepWhatIsCounted(t *testing.T) {
	base := enforcing("account-hour", WatchAccount, 10, Messages)
	tests := []struct {
		name   string
		change func(*Trigger)
		used   int64
		refill string
	}{
		{"a new maximum", func(t *Trigger) { t.Max = 99 }, 3, ""},
		{"observe instead of enforce", func(t *Trigger) { t.Mode = Observe }, 3, ""},
		{"another verdict", func(t *Trigger) { t.Verdict = Defer }, 3, ""},
		{"another period", func(t *Trigger) { t.Per = 2 * time.Hour }, 0, "account-hour"},
		{"another unit", func(t *Trigger) { t.Count = Recipients }, 0, "account-hour"},
		{"another watch", func(t *Trigger) { t.Watch = WatchScripts }, 0, "account-hour"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := newTestEngine(t, rulesOf(base))
			s, id := fromScript("shop", "", "x", 1)
			var stored []*Decision
			for range 3 {
				stored = append(stored, e.Check(noon(), s, id))
			}
			changed := base
			tt.change(&changed)
			refill := e.SetRules(rulesOf(changed))
			if u := e.Usage(noon(), "shop"); strings.Join(refill.Names(), " ") != tt.refill || u[0].Used != tt.used {
				t.Errorf("refill %v, used %d; want %q, %d", refill, u[0].Used, tt.refill, tt.used)
			}
			after := e.Check(noon(), s, id)
			for _, d := range append(stored, after) {
				e.Replay(d.At, d.Seq, d.Submission, d.Identity, refill)
			}
			if u := e.Usage(noon(), "shop"); u[0].Used != 4 {
				t.Errorf("after the refill used %d, want 4: each once", u[0].Used)
			}
		})
	}
}

// usedBy is what a trigger has counted for an account, 0 if it shows nothing.
func usedBy(e *Engine, now Moment, trigger, account string) (used int64) {
	for _, u := range e.UsageOf(now, Identity{Account: account, Package: "basic"}) {
		if u.Trigger == trigger {
			used += u.Used
		}
	}
	return used
}

func TestATriggerThatWasOffIsRefilled(t *testing.T) {
	off, always := enforcing("account-hour", WatchAccount, 10, Messages), enforcing("account-day", WatchAccount, 99, Messages)
	off.Mode = Off
	e := newTestEngine(t, rulesOf(off, always))
	s, id := fromScript("shop", "", "x", 1)
	var stored []*Decision
	for range 4 {
		stored = append(stored, e.Check(noon(), s, id))
	}
	on := off
	on.Mode = Observe
	refill := e.SetRules(rulesOf(on, always))
	if names := refill.Names(); len(names) != 1 || names[0] != "account-hour" {
		t.Fatalf("refill = %v, want the trigger", refill)
	}
	stored = append(stored, e.Check(noon(), s, id)) // counted by itself
	for _, d := range stored {
		e.Replay(d.At, d.Seq, d.Submission, d.Identity, refill)
	}
	e.Filled(refill)
	if used := usedBy(e, noon(), "account-hour", "shop"); used != 5 {
		t.Errorf("used %d after the refill, want 5: each once", used)
	}
	if again := e.SetRules(rulesOf(on, always)); len(again) != 0 {
		t.Errorf("refill without a change = %v", again)
	}
	e.SetRules(rulesOf(off, always))
	if again := e.SetRules(rulesOf(on, always)); len(again) != 1 || usedBy(e, noon(), "account-hour", "shop") != 0 {
		t.Errorf("off and on again: refill %v, used %d; want it begun anew", again, usedBy(e, noon(), "account-hour", "shop"))
	}
	for _, d := range stored { // of the first change: those counters are given up
		e.Replay(d.At, d.Seq, d.Submission, d.Identity, refill)
	}
	if used := usedBy(e, noon(), "account-hour", "shop"); used != 0 {
		t.Errorf("used %d by a refill that was overtaken, want none", used)
	}
}

// A trigger that is on for one package counts everybody, so that switching it on for more
// neither forgets nor doubles what the first have sent.
func TestATriggerThatIsOnForSomeIsRightForAllAtOnce(t *testing.T) {
	tr := enforcing("account-hour", WatchAccount, 3, Messages)
	tr.Mode = Off
	basic := Override{Level: LevelPackage, Name: "basic", Trigger: "account-hour", Mode: ptr(Enforce)}
	e := newTestEngine(t, &Rules{Triggers: []Trigger{tr}, Overrides: []Override{basic}})
	in, inID := fromScript("shop", "", "x", 1)
	inID.Package = "basic"
	out, outID := fromScript("other", "", "x", 1)
	if n, m := send(e, noon(), 10, in, inID), send(e, noon(), 10, out, outID); n != 3 || m != 10 {
		t.Fatalf("%d of the package passed and %d of another, want 3 and 10", n, m)
	}
	if d := e.Check(noon(), out, outID); len(d.Over) != 0 || d.Reason != ReasonWithin || d.Would != Accept {
		t.Errorf("where it is off: %v, over %+v", d.Reason, d.Over)
	}
	if u := e.Usage(noon(), "other"); len(u) != 0 {
		t.Errorf("where it is off usage shows %+v", u)
	}
	d, usage := e.Try(noon(), out, outID)
	if len(usage) != 0 || d.Steps[0].Outcome != StepOff {
		t.Errorf("Try where it is off: %+v, %+v", d.Steps, usage)
	}
	tr.Mode = Enforce
	if refill := e.SetRules(&Rules{Triggers: []Trigger{tr}, Overrides: []Override{basic}}); len(refill) != 0 {
		t.Errorf("refill = %v, want none: it has counted all", refill)
	}
	if n, m := send(e, noon(), 10, in, inID), send(e, noon(), 10, out, outID); n != 0 || m != 0 {
		t.Errorf("%d of the package and %d of the other passed after it was switched on for all, want none", n, m)
	}
}

func TestSlotsAreNotGivenAwayAtOnce(t *testing.T) {
	a, b := enforcing("a", WatchAccount, 10, Messages), enforcing("b", WatchAccount, 10, Messages)
	e := newTestEngine(t, rulesOf(a))
	e.Filled(e.SetRules(rulesOf(b)))
	slot, ok := e.Slot(e.Slots()[1])
	if !ok || slot != 1 || e.Slots()[0] != "" {
		t.Fatalf("slots = %q", e.Slots())
	}
	if _, ok := e.Slot(""); ok {
		t.Error("the free slot has a fingerprint")
	}
	refill := e.SetRules(rulesOf(a, b))
	if s := e.Slots(); s[0] != "" {
		t.Errorf("slots = %q while a's are empty, want its left out", s)
	}
	e.Filled(refill)
	if s := e.Slots(); len(s) != 2 || !strings.HasPrefix(s[0], "a|") || !strings.HasPrefix(s[1], "b|") {
		t.Errorf("slots = %q, want a's used again", s)
	}
	if newer, whole := e.Restored([]string{"b|account|3600000|messages"}); strings.Join(newer.Names(), " ") != "b" || strings.Join(whole.Names(), " ") != "a" {
		t.Errorf("a snapshot that held b: newer %v, whole %v", newer, whole)
	}
}

func TestUncheckedMail(t *testing.T) {
	e := newTestEngine(t, rulesOf(enforcing("account-hour", WatchAccount, 2, Messages)))
	s, id := fromScript("shop", "", "x", 1)
	for range 5 {
		if d := e.CountIn(noon(), s, id, ReasonNotReady); d.Verdict != Accept || !d.Counted || d.Reason != ReasonNotReady || d.Log != "unchecked=not_ready" {
			t.Fatalf("CountIn: %+v", d)
		}
	}
	if u := e.Usage(noon(), "shop"); u[0].Used != 5 {
		t.Errorf("used %d, want 5: counted in", u[0].Used)
	}
	if d := e.Known(noon(), s, id); d.Verdict != Freeze || d.Reason != ReasonOver {
		t.Errorf("overload, known to be over: %v %v", d.Verdict, d.Reason)
	}
	s, id = fromScript("other", "", "x", 1)
	if d := e.Known(noon(), s, id); d.Verdict != Accept || d.Reason != ReasonOverload || !d.Counted {
		t.Errorf("overload, not known: %v %v", d.Verdict, d.Reason)
	}
}

func TestReferencesLeadBack(t *testing.T) {
	e := newTestEngine(t, rulesOf(enforcing("account-hour", WatchAccount, 1, Messages)))
	s, id := fromScript("shop", "", "x", 1)
	seen := map[string]bool{}
	var last uint64
	for range 100 {
		d := e.Check(noon(), s, id)
		seq, ok := SeqOf(d.Ref, [16]byte{1, 2, 3})
		if !ok || seq != d.Seq || seen[d.Ref] || d.Seq <= last {
			t.Fatalf("ref %q leads to %d, %v; want %d after %d", d.Ref, seq, ok, d.Seq, last)
		}
		seen[d.Ref], last = true, d.Seq
	}
}

func TestTextsSayWhatAClientMayKnow(t *testing.T) {
	e := newTestEngine(t, rulesOf(enforcing("account-hour", WatchAccount, 2, Recipients)))
	s, id := fromLogin("shop", "evil\" $acl@shop.example", "192.0.2.1", 2)
	s.Subject, s.EnvelopeSender, s.HELO = "${run{/bin/sh}}\r\n\x00", "\"x", "h\x7f"
	e.Check(noon(), s, id)
	d := e.Check(noon().Add(time.Minute), s, id)
	if d.Log != "trigger=account-hour used=2/2 per 1h units=2 free=13:00:10Z" && !strings.HasPrefix(d.Log, "trigger=account-hour used=2/2 per 1h units=2 free=13:00:") {
		t.Errorf("Log = %q", d.Log)
	}
	want := fmt.Sprintf("the sending limit of 2 recipients per 1h is reached, free again at %s UTC (ref %s)", d.FreeAt().Format("2006-01-02 15:04:05"), d.Ref)
	if d.Text != want {
		t.Errorf("Text = %q, want %q", d.Text, want)
	}
	for _, s := range []string{d.Log, d.Text} {
		if len(s) > 200 || strings.ContainsAny(s, "\"\\$\r\n\x00") || strings.Contains(s, "evil") {
			t.Errorf("%q holds what it must not", s)
		}
	}
}
