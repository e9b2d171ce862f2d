package policy

import (
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"osm/counters"
)

func TestOverrides(t *testing.T) {
	day := func(n int) time.Time { return noon().Wall.AddDate(0, 0, n) }
	db := func(id int64, at int) Provenance {
		return Provenance{Where: "database", By: "root", At: day(at)}
	}
	maxOf := func(n int64) *int64 { return &n }
	tests := []struct {
		name      string
		overrides []Override
		max       int64
		origin    string
	}{
		{"nothing set", nil, 10, "file"},
		{"another account's", []Override{{Level: LevelAccount, Name: "other", Max: maxOf(5)}}, 10, "file"},
		{"another trigger's", []Override{{Level: LevelAccount, Name: "shop", Trigger: "other", Max: maxOf(5)}}, 10, "file"},
		{"all triggers of the account", []Override{{Level: LevelAccount, Name: "shop", Max: maxOf(20)}}, 20, "account shop (file)"},
		{"deeper wins whatever the order", []Override{
			{Level: LevelAccount, Name: "shop", Max: maxOf(20)}, {Level: LevelPackage, Name: "gold", Max: maxOf(30)}, {Level: LevelReseller, Name: "anna", Max: maxOf(40)}}, 20, "account shop (file)"},
		{"the package before the reseller", []Override{
			{Level: LevelPackage, Name: "gold", Max: maxOf(30)}, {Level: LevelReseller, Name: "anna", Max: maxOf(40)}}, 30, "package gold (file)"},
		{"a deeper one of the file wins over the database", []Override{
			{ID: 1, Level: LevelServer, Max: maxOf(30), Provenance: db(1, 0)}, {Level: LevelAccount, Name: "shop", Max: maxOf(20)}}, 20, "account shop (file)"},
		{"the database wins over the file within a level", []Override{
			{ID: 1, Level: LevelAccount, Name: "shop", Max: maxOf(30), Provenance: db(1, 0)}, {Level: LevelAccount, Name: "shop", Max: maxOf(20)}}, 30, "account shop (database, by root)"},
		{"the newest wins within a level", []Override{
			{ID: 2, Level: LevelAccount, Name: "shop", Max: maxOf(30), Provenance: db(2, -1)}, {ID: 1, Level: LevelAccount, Name: "shop", Max: maxOf(20), Provenance: db(1, -2)}}, 30, "account shop (database, by root)"},
		{"the one written later wins in the file", []Override{
			{Level: LevelAccount, Name: "shop", Max: maxOf(20)}, {Level: LevelAccount, Name: "shop", Max: maxOf(30)}}, 30, "account shop (file)"},
		{"an ended one is ignored", []Override{
			{Level: LevelAccount, Name: "shop", Max: maxOf(20), Until: noon().Wall}}, 10, "file"},
		{"one that has not ended counts", []Override{
			{Level: LevelAccount, Name: "shop", Max: maxOf(20), Until: day(1)}}, 20, "account shop (file)"},
		{"the server's from the database", []Override{
			{ID: 1, Level: LevelServer, Max: maxOf(7), Provenance: db(1, 0)}}, 7, "server (database, by root)"},
		{"the server's ended one does not hide an older", []Override{
			{ID: 1, Level: LevelServer, Max: maxOf(7), Provenance: db(1, -2)}, {ID: 2, Level: LevelServer, Max: maxOf(8), Provenance: db(2, -1), Until: day(-1)}}, 7, "server (database, by root)"},
		{"a mailbox says nothing of an account trigger", []Override{
			{Level: LevelMailbox, Name: "info@shop.example", Max: maxOf(1)}}, 10, "file"},
		{"fields go separately", []Override{
			{Level: LevelReseller, Name: "anna", Max: maxOf(40)}, {Level: LevelAccount, Name: "shop", Release: ptr(WhenFree)}}, 40, "reseller anna (file)"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := newTestEngine(t, &Rules{Triggers: []Trigger{enforcing("account-hour", WatchAccount, 10, Messages)}, Overrides: tt.overrides})
			s, id := fromLogin("shop", "info@shop.example", "192.0.2.1", 1)
			id.Reseller, id.Package = "anna", "gold"
			if n := send(e, noon(), 50, s, id); int64(n) != tt.max {
				t.Errorf("%d passed, want %d", n, tt.max)
			}
			u := e.UsageOf(noon(), Identity{Account: "shop", Reseller: "anna", Package: "gold"})
			if len(u) != 1 || u[0].Max != tt.max || u[0].Origin != tt.origin {
				t.Errorf("usage = %+v, want max %d from %q", u, tt.max, tt.origin)
			}
		})
	}
}

func TestMailboxOverridesOnlyLoginTriggers(t *testing.T) {
	e := newTestEngine(t, &Rules{
		Triggers:  []Trigger{enforcing("login-hour", WatchLogin, 10, Messages), enforcing("account-hour", WatchAccount, 20, Messages)},
		Overrides: []Override{{Level: LevelMailbox, Name: "info@shop.example", Max: ptr(int64(3))}},
	})
	s, id := fromLogin("shop", "info@shop.example", "192.0.2.1", 1)
	if n := send(e, noon(), 10, s, id); n != 3 {
		t.Errorf("%d of the mailbox passed, want 3", n)
	}
	s, id = fromLogin("shop", "other@shop.example", "192.0.2.1", 1)
	if n := send(e, noon(), 20, s, id); n != 10 {
		t.Errorf("%d of the other mailbox passed, want 10", n)
	}
}

func TestOverridesOfEveryField(t *testing.T) {
	tr := enforcing("account-hour", WatchAccount, 0, Messages)
	tr.ConfirmLoss = true
	e := newTestEngine(t, &Rules{Triggers: []Trigger{tr}, Overrides: []Override{
		{Level: LevelAccount, Name: "off", Mode: ptr(Off)},
		{Level: LevelAccount, Name: "observed", Mode: ptr(Observe)},
		{Level: LevelAccount, Name: "discarded", Verdict: ptr(Discard)},
		{Level: LevelAccount, Name: "delayed", Release: ptr(WhenFree), Actions: &[]Action{{Name: ActionHold, For: time.Hour}}},
	}})
	check := func(account string) *Decision {
		s, id := fromScript(account, "", "x", 1)
		return e.Check(noon(), s, id)
	}
	if d := check("off"); d.Verdict != Accept || len(d.Over) != 0 {
		t.Errorf("off: %v, %d over", d.Verdict, len(d.Over))
	}
	if d := check("observed"); d.Verdict != Accept || d.Would != Freeze {
		t.Errorf("observed: %v, would %v", d.Verdict, d.Would)
	}
	if d := check("discarded"); d.Verdict != Discard {
		t.Errorf("discarded: %v", d.Verdict)
	}
	if d := check("delayed"); d.Release != WhenFree || d.Over[0].Actions[0].Name != ActionHold {
		t.Errorf("delayed: %v, actions %v", d.Release, d.Over[0].Actions)
	}
}

func TestTheServersPeriodComesFromTheDatabase(t *testing.T) {
	tr := enforcing("account-hour", WatchAccount, 1, Messages)
	e := newTestEngine(t, rulesOf(tr))
	refill := e.SetRules(&Rules{Triggers: []Trigger{tr}, Overrides: []Override{{ID: 1, Level: LevelServer, Trigger: "account-hour", Per: ptr(time.Minute)}}})
	if len(refill) != 1 {
		t.Errorf("refill = %v", refill)
	}
	s, id := fromScript("shop", "", "x", 1)
	send(e, noon(), 2, s, id)
	if d := e.Check(noon().Add(2*time.Minute), s, id); d.Verdict != Accept {
		t.Errorf("after two minutes of a period of one: %v", d.Verdict)
	}
}

func TestAClaimedDirectoryHasTheLimitsOfItsAccount(t *testing.T) {
	e := newTestEngine(t, &Rules{
		Triggers:  []Trigger{enforcing("directory-hour", WatchDirectory, 5, Messages)},
		Overrides: []Override{{Level: LevelAccount, Name: "shop", Max: ptr(int64(8))}, {Level: LevelAccount, Name: "(shared:nobody)", Max: ptr(int64(1))}},
	})
	s, id := claimed("shop", "/home/shop/www")
	if n := send(e, noon(), 20, s, id); n != 8 {
		t.Errorf("%d passed, want 8", n)
	}
	d := e.Check(noon(), s, id)
	if o := d.Over[0]; !o.Claimed || o.Account != "shop" || o.Key != "shop claimed /home/shop/www" || d.Identity.Account != "(shared:nobody)" {
		t.Errorf("over = %+v", o)
	}
}

// A script under the shared web user goes into a neighbour's directory, and into many more:
// neither does it use up what the neighbour's own scripts may send there, nor do his
// counters make room for it.
func TestAClaimUsesUpNobodysOwnDirectory(t *testing.T) {
	e := NewEngine(counters.New(counters.Options{PerGroup: 8}), rulesOf(enforcing("directory-hour", WatchDirectory, 5, Messages)))
	own, ownID := fromScript("shop", "/home/shop/cron", "x", 1)
	if n := send(e, noon(), 3, own, ownID); n != 3 {
		t.Fatalf("%d of the owner's passed, want 3", n)
	}
	s, id := claimed("shop", "/home/shop/cron")
	if n := send(e, noon(), 9, s, id); n != 5 {
		t.Errorf("%d claims passed, want 5", n)
	}
	for i := range 50 {
		s, id := claimed("shop", "/home/shop/"+strconv.Itoa(i))
		send(e, noon(), 5, s, id)
	}
	keys := map[string]int64{}
	for _, u := range e.Usage(noon(), "shop") {
		keys[u.Key] = u.Used
	}
	if keys["shop /home/shop/cron"] != 3 || keys["shop claimed /home/shop/49"] != 5 || len(keys) != 9 {
		t.Errorf("usage = %v, want the owner's own with 3, and 8 claims apart", keys)
	}
	if n := send(e, noon(), 9, own, ownID); n != 2 {
		t.Errorf("%d more of the owner's passed, want 2", n)
	}
	if err := e.Reset("directory-hour", "shop claimed /home/shop/49"); err != nil {
		t.Error(err)
	}
}

// claimed is a message of a shared web user that claims to come from a directory of account.
func claimed(account, directory string) (*Submission, Identity) {
	s, id := fromScript(SharedAccount("nobody"), directory, "x", 1)
	id.DirectoryAccount, id.Claimed = account, true
	return s, id
}

func TestExemptions(t *testing.T) {
	script := func() (*Submission, Identity) { return fromScript("shop", "/home/shop/www", "Invoice 12", 1) }
	login := func() (*Submission, Identity) { return fromLogin("shop", "info@shop.example", "192.0.2.77", 1) }
	claim := func() (*Submission, Identity) { return claimed("shop", "/home/shop/www") }
	domain := func(list string, n int, cut bool) func() (*Submission, Identity) {
		return func() (*Submission, Identity) {
			s, id := script()
			s.RecipientList, s.Recipients, s.RecipientsCut = list, n, cut
			return s, id
		}
	}
	tests := []struct {
		name    string
		exempt  Exemption
		message func() (*Submission, Identity)
		passed  int // of 12 messages, with a limit of 4
	}{
		{"an account's, without limit", Exemption{Scope: ScopeAccount, Value: "shop"}, script, 12},
		{"an account's, with a ceiling", Exemption{Scope: ScopeAccount, Value: "shop", Ceiling: 9}, script, 9},
		{"a ceiling below the limit takes nothing away", Exemption{Scope: ScopeAccount, Value: "shop", Ceiling: 2}, script, 4},
		{"another account's", Exemption{Scope: ScopeAccount, Value: "other"}, script, 4},
		{"another trigger's", Exemption{Scope: ScopeAccount, Value: "shop", Trigger: "login-hour"}, script, 4},
		{"an ended one", Exemption{Scope: ScopeAccount, Value: "shop", Until: noon().Wall}, script, 4},
		{"a mailbox's", Exemption{Scope: ScopeMailbox, Value: "info@shop.example"}, login, 12},
		{"a mailbox's says nothing of scripts", Exemption{Scope: ScopeMailbox, Value: "info@shop.example"}, script, 4},
		{"a directory's", Exemption{Scope: ScopeDirectory, Account: "shop", Value: "/home/shop/www"}, script, 12},
		{"a directory's is exact", Exemption{Scope: ScopeDirectory, Account: "shop", Value: "/home/shop"}, script, 4},
		{"a directory's of another account", Exemption{Scope: ScopeDirectory, Account: "other", Value: "/home/shop/www"}, script, 4},
		{"a claimed directory frees nobody's account", Exemption{Scope: ScopeDirectory, Account: "shop", Value: "/home/shop/www", Trigger: "account-hour"}, claim, 4},
		{"a claimed account frees nobody's account", Exemption{Scope: ScopeAccount, Value: "shop", Trigger: "account-hour"}, claim, 4},
		{"a Subject's", Exemption{Scope: ScopeSubject, Account: "shop", Value: "invoice #"}, script, 12},
		{"a Subject's of another account", Exemption{Scope: ScopeSubject, Account: "other", Value: "invoice #"}, script, 4},
		{"an address's", Exemption{Scope: ScopeIP, Value: "192.0.2.77"}, login, 12},
		{"a network's", Exemption{Scope: ScopeIP, Value: "192.0.2.0/24"}, login, 12},
		{"another network's", Exemption{Scope: ScopeIP, Value: "198.51.100.0/24"}, login, 4},
		{"a network's for another account", Exemption{Scope: ScopeIP, Account: "other", Value: "192.0.2.0/24"}, login, 4},
		{"a recipient domain's", Exemption{Scope: ScopeRecipientDomain, Value: "Intern.example"}, domain("a@intern.example", 1, false), 12},
		{"a recipient domain's with a stranger among them", Exemption{Scope: ScopeRecipientDomain, Value: "intern.example"}, domain("a@intern.example, b@x.example", 2, false), 2},
		{"a recipient domain's with a list that is not whole", Exemption{Scope: ScopeRecipientDomain, Value: "intern.example"}, domain("a@intern.example", 1, true), 4},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := newTestEngine(t, &Rules{
				Triggers:   []Trigger{enforcing("account-hour", WatchAccount, 4, Recipients)},
				Exemptions: []Exemption{tt.exempt},
			})
			s, id := tt.message()
			n := send(e, noon(), 12, s, id)
			if n != tt.passed {
				t.Errorf("%d of 12 passed, want %d", n, tt.passed)
			}
			if hits := e.ExemptionHits()[0].Hits; hits != int64(max(n-4, 0)) {
				t.Errorf("%d hits, want %d", hits, max(n-4, 0))
			}
			used := e.Usage(noon(), id.Account)[0].Used
			if want := int64(n * s.Recipients); used != want {
				t.Errorf("used %d, want %d: what is exempt is counted all the same", used, want)
			}
			e.SetRules(e.Rules())
			if hits := e.ExemptionHits()[0].Hits; hits != int64(max(n-4, 0)) {
				t.Errorf("%d hits after the rules were swapped, want them kept", hits)
			}
		})
	}
}

func TestAnExemptMessageSaysSo(t *testing.T) {
	e := newTestEngine(t, &Rules{
		Triggers:   []Trigger{enforcing("account-hour", WatchAccount, 0, Messages)},
		Exemptions: []Exemption{{Scope: ScopeAccount, Value: "shop"}},
	})
	s, id := fromScript("shop", "", "x", 1)
	if d := e.Check(noon(), s, id); d.Verdict != Accept || d.Reason != ReasonExempt || len(d.Over) != 0 {
		t.Errorf("%v, %v, %d over", d.Verdict, d.Reason, len(d.Over))
	}
}

func TestHolds(t *testing.T) {
	script := func() (*Submission, Identity) { return fromScript("shop", "/home/shop/www", "Invoice 12", 1) }
	login := func() (*Submission, Identity) { return fromLogin("shop", "info@shop.example", "192.0.2.77", 1) }
	recent := func() (*Submission, Identity) {
		s, id := login()
		id.Source, id.IPClass = SourceRelay, IPRecentAuth
		return s, id
	}
	automatic := func() (*Submission, Identity) {
		s, id := script()
		id.Source = SourceAutomatic
		return s, id
	}
	claim := func() (*Submission, Identity) { return claimed("shop", "/home/shop/www") }
	tests := []struct {
		name    string
		holds   []Hold
		message func() (*Submission, Identity)
		want    Verdict
	}{
		{"an account's stops its scripts", []Hold{{ID: 7, Scope: ScopeAccount, Account: "shop"}}, script, Freeze},
		{"an account's stops its logins", []Hold{{ID: 7, Scope: ScopeAccount, Account: "shop"}}, login, Freeze},
		{"an account's stops its automatic mail", []Hold{{ID: 7, Scope: ScopeAccount, Account: "shop"}}, automatic, Freeze},
		{"an account's does not stop who claims to be it", []Hold{{ID: 7, Scope: ScopeAccount, Account: "shop"}}, claim, Accept},
		{"another account's", []Hold{{ID: 7, Scope: ScopeAccount, Account: "other"}}, script, Accept},
		{"a mailbox's stops its login", []Hold{{ID: 7, Scope: ScopeMailbox, Account: "shop", Value: "info@shop.example"}}, login, Freeze},
		{"a mailbox's stops only authenticated mail", []Hold{{ID: 7, Scope: ScopeMailbox, Account: "shop", Value: "info@shop.example"}}, recent, Accept},
		{"another mailbox's", []Hold{{ID: 7, Scope: ScopeMailbox, Account: "shop", Value: "x@shop.example"}}, login, Accept},
		{"a directory's", []Hold{{ID: 7, Scope: ScopeDirectory, Account: "shop", Value: "/home/shop/www"}}, script, Freeze},
		{"a directory's is exact", []Hold{{ID: 7, Scope: ScopeDirectory, Account: "shop", Value: "/home/shop"}}, script, Accept},
		{"a directory's that rests on a claim leaves the owner's own mail alone", []Hold{{ID: 7, Scope: ScopeDirectory, Account: "shop", Value: "/home/shop/www", Claimed: true}}, script, Accept},
		{"a directory's that rests on a claim stops claims", []Hold{{ID: 7, Scope: ScopeDirectory, Account: "shop", Value: "/home/shop/www", Claimed: true}}, claim, Freeze},
		{"a directory's stops a claim of it", []Hold{{ID: 7, Scope: ScopeDirectory, Account: "shop", Value: "/home/shop/www"}}, claim, Freeze},
		{"a Subject's", []Hold{{ID: 7, Scope: ScopeSubject, Account: "shop", Value: "invoice #"}}, script, Freeze},
		{"a Subject's of another account", []Hold{{ID: 7, Scope: ScopeSubject, Account: "other", Value: "invoice #"}}, script, Accept},
		{"an ended one", []Hold{{ID: 7, Scope: ScopeAccount, Account: "shop", Until: noon().Wall}}, script, Accept},
		{"one that has not ended", []Hold{{ID: 7, Scope: ScopeAccount, Account: "shop", Until: noon().Wall.Add(time.Second)}}, script, Freeze},
		{"a discarding one", []Hold{{ID: 7, Scope: ScopeAccount, Account: "shop", Verdict: Discard}}, script, Discard},
		{"freezing before discarding", []Hold{{ID: 6, Scope: ScopeAccount, Account: "shop", Verdict: Discard}, {ID: 7, Scope: ScopeSubject, Account: "shop", Value: "invoice #"}}, script, Freeze},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := newTestEngine(t, &Rules{Triggers: []Trigger{enforcing("account-hour", WatchAccount, 4, Recipients)}, Holds: tt.holds})
			s, id := tt.message()
			d := e.Check(noon(), s, id)
			if d.Verdict != tt.want {
				t.Fatalf("%v by %v, want %v", d.Verdict, d.Reason, tt.want)
			}
			if tt.want == Accept {
				return
			}
			if d.Reason != ReasonHold || d.HoldID != 7 || d.Counted || d.Seq == 0 || !strings.HasPrefix(d.Log, "hold=7") {
				t.Errorf("%v, hold %d, counted %v, log %q", d.Reason, d.HoldID, d.Counted, d.Log)
			}
			if u := e.Usage(noon(), id.Account); u[0].Used != 0 {
				t.Errorf("used %d: a hold counts nothing", u[0].Used)
			}
			if k := e.Known(noon(), s, id); k.Verdict != tt.want {
				t.Errorf("in overload %v, want the hold known", k.Verdict)
			}
		})
	}
}

func TestHeldFull(t *testing.T) {
	rules := func(discard bool) *Rules {
		return &Rules{Triggers: []Trigger{enforcing("account-hour", WatchAccount, 0, Messages)},
			Settings: Settings{HeldMaxMessages: 5, HeldMaxBytes: 1 << 20, HeldFullDiscard: discard}}
	}
	e := newTestEngine(t, rules(false))
	e.HeldChanged("shop", 2, 100)
	s, id := fromLogin("shop", "a@shop.example", "192.0.2.1", 1)
	for i := range 3 {
		if d := e.Check(noon(), s, id); d.Verdict != Freeze {
			t.Fatalf("message %d with room for it: %v", i, d.Verdict)
		}
	}
	d := e.Check(noon(), s, id)
	if d.Verdict != Defer || d.Reason != ReasonHeldFull || !strings.HasSuffix(d.Log, "held_full") {
		t.Errorf("SMTP beyond the share: %v %v %q", d.Verdict, d.Reason, d.Log)
	}
	s, id = fromScript("shop", "", "x", 1)
	if d := e.Check(noon(), s, id); d.Verdict != Freeze || d.Reason != ReasonHeldFull {
		t.Errorf("script beyond the share: %v %v, want frozen with an alarm", d.Verdict, d.Reason)
	}
	e.SetRules(rules(true))
	if d := e.Check(noon(), s, id); d.Verdict != Discard || d.Reason != ReasonHeldFull {
		t.Errorf("script where the operator said discard: %v %v", d.Verdict, d.Reason)
	}
	e.HeldChanged("shop", 0, 0)
	if d := e.Check(noon(), s, id); d.Verdict != Freeze || d.Reason == ReasonHeldFull {
		t.Errorf("after the queue was emptied: %v %v", d.Verdict, d.Reason)
	}
	s.Size = 2 << 20
	if d := e.Check(noon(), s, id); d.Verdict != Discard {
		t.Errorf("one of more bytes than the share: %v", d.Verdict)
	}
	s, id = fromScript("neighbour", "", "x", 1)
	if d := e.Check(noon(), s, id); d.Verdict != Freeze {
		t.Errorf("the neighbour's: %v", d.Verdict)
	}
}

// Exim gave up before it had the answer: the message has passed and is not in the queue.
func TestAnAnswerThatWasNotTakenHoldsNothing(t *testing.T) {
	tr := enforcing("account-hour", WatchAccount, 1, Messages)
	e := newTestEngine(t, &Rules{Triggers: []Trigger{tr}, Settings: Settings{HeldMaxMessages: 2, HeldMaxBytes: 1 << 20}})
	s, id := fromScript("shop", "", "x", 1)
	accepted := e.Check(noon(), s, id)
	if d := e.Unanswered(accepted); d != accepted {
		t.Errorf("an accepted message becomes %+v", d)
	}
	for i := range 5 {
		d := e.Check(noon(), s, id)
		if d.Verdict != Freeze || d.Reason != ReasonOver {
			t.Fatalf("message %d: %v, %v; want it frozen with room for it", i, d.Verdict, d.Reason)
		}
		if d = e.Unanswered(d); d.Verdict != Accept || d.Reason != ReasonUnanswered || !d.Counted {
			t.Fatalf("message %d passed as %v, %v, counted %v", i, d.Verdict, d.Reason, d.Counted)
		}
	}
	if list := e.HeldAccounts(); len(list) != 0 {
		t.Errorf("the engine believes that %v have held mail", list)
	}
	e.Check(noon(), s, id)
	if list := e.HeldAccounts(); len(list) != 1 || list[0] != "shop" {
		t.Errorf("accounts with held mail: %v, want shop", list)
	}
	if used := e.Usage(noon(), "shop")[0].Used; used != 6 {
		t.Errorf("used %d, want the 6 that passed", used)
	}
}

func TestHeldMailLeavesAtTheLimitsPace(t *testing.T) {
	e := newTestEngine(t, rulesOf(enforcing("account-hour", WatchAccount, 3, Recipients)))
	_, id := fromScript("shop", "", "x", 1)
	now := noon()
	for i := range 3 {
		if l := e.AdmitHeld(now, id, "x", 1); !l.Admitted || l.Seq == 0 {
			t.Fatalf("message %d does not leave an empty window, or without a number: %+v", i, l)
		}
	}
	l := e.AdmitHeld(now, id, "x", 1)
	if l.Admitted || l.FreeAt.Before(now.Wall.Add(59*time.Minute)) {
		t.Fatalf("the fourth: %+v", l)
	}
	if l := e.AdmitHeld(now.Add(l.FreeAt.Sub(now.Wall)), id, "x", 1); !l.Admitted {
		t.Error("it does not leave at the moment that was said")
	}
	if l := e.AdmitHeld(now, id, "x", 4); l.Admitted || !l.FreeAt.IsZero() {
		t.Errorf("four recipients of three: %+v; want never", l)
	}
	e.SetRules(&Rules{Triggers: e.Rules().Triggers, Holds: []Hold{{ID: 1, Scope: ScopeSubject, Account: "shop", Value: "x"}}})
	now = now.Add(2 * time.Hour)
	if l := e.AdmitHeld(now, id, "x", 1); l.Admitted || !l.FreeAt.IsZero() {
		t.Errorf("while a hold stands: %+v", l)
	}
	if l := e.AdmitHeld(now, id, "y", 1); !l.Admitted {
		t.Error("a hold on another Subject keeps it")
	}
}

// What a package or reseller may send holds for held mail too: its identity comes out of the
// store without its place in the panel.
func TestHeldMailLeavesByTheLimitsOfItsPlaceInThePanel(t *testing.T) {
	m := NewAccountMap(AccountMapInput{Accounts: []Account{{Name: "shop", UID: 1001, Reseller: "anna", Package: "basic"}, {Name: "other", UID: 1002}}})
	observing := enforcing("account-hour", WatchAccount, 300, Messages)
	observing.Mode = Observe
	off := observing
	off.Mode = Off
	tests := []struct {
		name    string
		trigger Trigger
		over    Override
		shop    int // of 10 messages
	}{
		{"a package's maximum", enforcing("account-hour", WatchAccount, 300, Messages), Override{Level: LevelPackage, Name: "basic", Max: ptr(int64(2))}, 2},
		{"a reseller's maximum", enforcing("account-hour", WatchAccount, 300, Messages), Override{Level: LevelReseller, Name: "anna", Max: ptr(int64(3))}, 3},
		{"enforced for a package alone", observing, Override{Level: LevelPackage, Name: "basic", Max: ptr(int64(4)), Mode: ptr(Enforce)}, 4},
		{"switched on for a package alone", off, Override{Level: LevelPackage, Name: "basic", Max: ptr(int64(5)), Mode: ptr(Enforce)}, 5},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := newTestEngine(t, &Rules{Triggers: []Trigger{tt.trigger}, Overrides: []Override{tt.over}})
			for account, want := range map[string]int{"shop": tt.shop, "other": 10} {
				n := 0
				for range 10 {
					if e.AdmitHeld(noon(), m.Place(Identity{Account: account, Source: SourceScript}), "x", 1).Admitted {
						n++
					}
				}
				if n != want {
					t.Errorf("%d of %s's held messages left at once, want %d", n, account, want)
				}
			}
		})
	}
	if id := m.Place(Identity{Account: AccountUnknown}); id.Reseller != "" || id.Package != "" {
		t.Errorf("nobody's place: %+v", id)
	}
}

func TestTryChangesNothingAndTellsEverything(t *testing.T) {
	observer := enforcing("seen", WatchAccount, 1, Messages)
	observer.Mode = Observe
	off := enforcing("off", WatchAccount, 1, Messages)
	off.Mode = Off
	e := newTestEngine(t, &Rules{
		Triggers: []Trigger{enforcing("account-hour", WatchAccount, 2, Recipients), observer, off, enforcing("login-hour", WatchLogin, 1, Messages), enforcing("scripts-hour", WatchScripts, 1, Messages)},
		Exemptions: []Exemption{
			{ID: 3, Scope: ScopeAccount, Value: "shop", Trigger: "scripts-hour", Provenance: Provenance{Where: "database", By: "root", Reason: "ticket 4711"}},
			{ID: 4, Scope: ScopeAccount, Value: "shop", Until: noon().Wall.Add(-time.Hour)},
		},
		Holds: []Hold{{ID: 8, Scope: ScopeSubject, Account: "shop", Value: "other"}, {ID: 9, Scope: ScopeAccount, Account: "shop", Until: noon().Wall}},
	})
	s, id := fromScript("shop", "/home/shop", "x", 1)
	send(e, noon(), 2, s, id)
	before := e.Usage(noon(), "shop")
	d, usage := e.Try(noon(), s, id)
	if d.Verdict != Freeze || d.Trigger != "account-hour" || d.Would != Freeze || d.Seq != 0 || d.Ref != "" || d.Counted {
		t.Errorf("%v by %q, would %v, seq %d, ref %q", d.Verdict, d.Trigger, d.Would, d.Seq, d.Ref)
	}
	outcomes := map[string]string{}
	for _, st := range d.Steps {
		outcomes[st.Rule] = st.Outcome
		if st.Text == "" {
			t.Errorf("step %+v says nothing", st)
		}
	}
	want := map[string]string{
		"hold 8": StepApart, "hold 9": StepEnded,
		"exemption 3 of account (database, by root)": StepApplies, "exemption 4 of account (file)": StepEnded,
		"trigger account-hour": StepOver, "trigger seen": StepOver, "trigger off": StepOff,
		"trigger login-hour": StepApart, "trigger scripts-hour": StepLifted,
	}
	for rule, outcome := range want {
		if outcomes[rule] != outcome {
			t.Errorf("step %q = %q, want %q (%v)", rule, outcomes[rule], outcome, d.Steps)
		}
	}
	if len(usage) != 3 || usage[0].Used != 2 || usage[0].Max != 2 || usage[0].FreeAt.IsZero() || usage[0].Origin != "file" {
		t.Errorf("usage = %+v", usage)
	}
	after := e.Usage(noon(), "shop")
	for i := range before {
		if before[i] != after[i] {
			t.Errorf("Try changed %+v to %+v", before[i], after[i])
		}
	}
	for _, h := range e.ExemptionHits() {
		if want := map[int64]int64{3: 1}[h.Exemption.ID]; h.Hits != want {
			t.Errorf("exemption %d has %d hits, want the %d of Check", h.Exemption.ID, h.Hits, want)
		}
	}
}

func TestTryAgreesWithCheck(t *testing.T) {
	r := &Rules{Triggers: DefaultTriggers(), Settings: DefaultSettings()}
	for i := range r.Triggers {
		r.Triggers[i].Mode, r.Triggers[i].Max = Enforce, int64(3+i)
	}
	e := newTestEngine(t, r)
	for i := range 40 {
		s, id := fromScript("shop", "/home/shop/www", strings.Repeat("x", i%3), 1+i%2)
		if i%4 == 0 {
			s, id = fromLogin("shop", "info@shop.example", "192.0.2.1", 1)
		}
		tried, _ := e.Try(noon(), s, id)
		d := e.Check(noon(), s, id)
		if tried.Verdict != d.Verdict || tried.Trigger != d.Trigger || tried.Reason != d.Reason || len(tried.Over) != len(d.Over) {
			t.Errorf("message %d: tried %v by %q, checked %v by %q", i, tried.Verdict, tried.Trigger, d.Verdict, d.Trigger)
		}
	}
}

func TestKeysReadBack(t *testing.T) {
	for _, key := range []string{"login 192.0.2.1", "recent-auth 2001:db8::/64", "always-relay 2001:db8::1"} {
		group, name, ok := parseKey(WatchClientIP, key)
		if !ok || name != "" {
			t.Errorf("parseKey(%q) = %q, %q, %v", key, group, name, ok)
		}
	}
	for _, key := range []string{"", "login", "login x", "x 192.0.2.1", " 192.0.2.1"} {
		if _, _, ok := parseKey(WatchClientIP, key); ok {
			t.Errorf("parseKey(%q) is believed", key)
		}
	}
	for _, key := range []string{"shop /home/shop/www", "shop claimed /home/shop/www", "shop"} {
		if group, name, ok := parseKey(WatchDirectory, key); !ok || keyText(group, name) != key {
			t.Errorf("parseKey(%q) = %q, %q, %v: it is written %q", key, group, name, ok, keyText(group, name))
		}
	}
	if g := ipGroup(IPLogin, netip.MustParseAddr("::ffff:192.0.2.1")); g != "ip:login:192.0.2.1" {
		t.Errorf("an IPv4 address in IPv6 form counts as %q", g)
	}
	e := newTestEngine(t, rulesOf(enforcing("account-hour", WatchAccount, 1, Messages)))
	if err := e.Reset("acount-hour", "shop"); err == nil || !strings.Contains(err.Error(), `nearest is "account-hour"`) {
		t.Errorf("Reset of a misspelt trigger: %v", err)
	}
}

func TestTryTellsWhatIsOverBehindAHold(t *testing.T) {
	observer := enforcing("seen", WatchAccount, 1, Messages)
	observer.Mode = Observe
	e := newTestEngine(t, &Rules{
		Triggers: []Trigger{enforcing("account-hour", WatchAccount, 1, Messages), observer},
		Holds:    []Hold{{ID: 8, Scope: ScopeAccount, Account: "shop", Trigger: "directory-hour"}},
	})
	s, id := fromScript("shop", "/home/shop", "x", 1)
	e.CountIn(noon(), s, id, ReasonNotReady)
	d, _ := e.Try(noon(), s, id)
	if d.Verdict != Freeze || d.Reason != ReasonHold || d.HoldID != 8 || d.Trigger != "directory-hour" || d.Would != Accept || d.Counted {
		t.Errorf("tried %v for %v by %q, hold %d, would %v; want what the hold says", d.Verdict, d.Reason, d.Trigger, d.HoldID, d.Would)
	}
	if len(d.Over) != 2 || d.Over[0].Trigger != "account-hour" || d.Over[0].FreeAt.IsZero() {
		t.Errorf("over behind the hold: %+v, want both triggers", d.Over)
	}
}
