package policy

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

func place(account string) Identity {
	id := Identity{Account: account}
	if account == "rich" {
		id.Package = "gold"
	}
	return id
}

func TestNearListsTheFullestFirst(t *testing.T) {
	quiet := enforcing("quiet", WatchScripts, 10, Messages)
	quiet.Mode = Off
	watching := enforcing("watching", WatchDirectory, 4, Messages)
	watching.Mode = Observe
	e := newTestEngine(t, &Rules{
		Triggers: []Trigger{enforcing("account-hour", WatchAccount, 10, Messages), watching, quiet, enforcing("ip", WatchClientIP, 8, Messages)},
		Overrides: []Override{
			{Level: LevelPackage, Name: "gold", Trigger: "account-hour", Max: ptr(int64(100))},
			{Level: LevelAccount, Name: "tiny", Trigger: "account-hour", Max: ptr(int64(2))},
			{Level: LevelAccount, Name: "none", Trigger: "account-hour", Max: ptr(int64(0))},
		},
		Exemptions: []Exemption{{Scope: ScopeAccount, Value: "free", Ceiling: 0}, {Scope: ScopeAccount, Value: "raised", Ceiling: 12}},
	})
	for account, n := range map[string]int{"shop": 6, "rich": 40, "tiny": 1, "none": 1, "free": 50, "raised": 11, "idle": 2, "over": 12} {
		s, id := fromScript(account, "/home/"+account, "hello", 1)
		id.Package = place(account).Package
		id.Directory = ""
		send(e, noon(), n, s, id)
	}
	s, id := fromLogin("mail", "info@mail.example", "192.0.2.1", 1)
	send(e, noon(), 4, s, id)
	s, id = fromScript("dir", "/home/dir", "hello", 1)
	send(e, noon(), 3, s, id)
	var got []string
	for _, n := range e.Near(noon(), 0.5, 100, place) {
		got = append(got, fmt.Sprintf("%s|%s|%s %d/%d", n.Account, n.Trigger, n.Key, n.Used, n.Max))
	}
	want := []string{"over|account-hour|over 10/10", "raised|account-hour|raised 11/12", "dir|watching|dir /home/dir 3/4", "shop|account-hour|shop 6/10",
		"|ip|login 192.0.2.1 4/8", "tiny|account-hour|tiny 1/2"}
	if !slices.Equal(got, want) {
		t.Errorf("near:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if list := e.Near(noon(), 0.5, 2, place); len(list) != 2 || list[0].Key != "over" || list[0].FreeAt.IsZero() {
		t.Errorf("the first two: %+v", list)
	}
	for _, n := range e.Near(noon().Add(2*time.Hour), 0.5, 100, place) {
		t.Errorf("after two hours: %+v", n)
	}
}

// TestNearAgreesWithUsage looks at many random counters in both ways.
func TestNearAgreesWithUsage(t *testing.T) {
	e := newTestEngine(t, &Rules{Triggers: []Trigger{enforcing("account-hour", WatchAccount, 40, Recipients), enforcing("subject", WatchSubject, 30, Messages)}})
	for n := range 2_000 {
		s, id := fromScript(fmt.Sprintf("acct%d", n%37), "/x", fmt.Sprintf("Subject %s", strings.Repeat("x", n%5)), 1+n%3)
		e.Check(noon(), s, id)
	}
	near := map[string]int64{}
	for _, n := range e.Near(noon(), 0.5, math.MaxInt, place) {
		near[n.Trigger+"/"+n.Key] = n.Used
	}
	found := 0
	for n := range 37 {
		for _, u := range e.Usage(noon(), fmt.Sprintf("acct%d", n)) {
			if 2*u.Used < u.Max {
				continue
			}
			found++
			if near[u.Trigger+"/"+u.Key] != u.Used {
				t.Errorf("%s of %s: %d near, %d used", u.Trigger, u.Key, near[u.Trigger+"/"+u.Key], u.Used)
			}
		}
	}
	if found != len(near) || found == 0 {
		t.Errorf("%d counters are near, usage has %d", len(near), found)
	}
}

func TestEffectiveTellsWhoSetEachField(t *testing.T) {
	db := func(at int) Provenance {
		return Provenance{Where: "database", By: "root", At: noon().Wall.AddDate(0, 0, at)}
	}
	e := newTestEngine(t, &Rules{
		Triggers: []Trigger{enforcing("account-hour", WatchAccount, 10, Messages), enforcing("login-hour", WatchLogin, 5, Messages)},
		Overrides: []Override{
			{ID: 1, Level: LevelServer, Mode: ptr(Observe), Per: ptr(2 * time.Hour), Trigger: "account-hour", Provenance: db(0)},
			{Level: LevelReseller, Name: "anna", Max: ptr(int64(40))},
			{ID: 2, Level: LevelPackage, Name: "gold", Trigger: "account-hour", Release: ptr(WhenFree), Provenance: db(0)},
			{ID: 3, Level: LevelAccount, Name: "shop", Trigger: "account-hour", Max: ptr(int64(70)), Until: noon().Wall, Provenance: db(-1)},
			{ID: 4, Level: LevelAccount, Name: "shop", Trigger: "account-hour", Verdict: ptr(Defer), Actions: &[]Action{}, Provenance: db(0)},
			{ID: 5, Level: LevelMailbox, Name: "info@shop.example", Max: ptr(int64(3)), Provenance: db(0)},
		},
	})
	shop := Identity{Account: "shop", Package: "gold", Reseller: "anna"}
	mailbox := shop
	mailbox.Mailbox = "info@shop.example"
	text := func(id Identity) string {
		var b strings.Builder
		for _, x := range e.Effective(noon().Wall, id) {
			from := func(o *Override) string {
				if o == nil {
					return "-"
				}
				return o.Level.String()
			}
			fmt.Fprintf(&b, "%s max=%d/%s per=%s/%s verdict=%s/%s release=%s/%s mode=%s/%s actions=%d/%s\n", x.Name, x.Max, from(x.From.Max), x.Per, from(x.From.Per),
				x.Verdict, from(x.From.Verdict), x.Release, from(x.From.Release), x.Mode, from(x.From.Mode), len(x.Actions), from(x.From.Actions))
		}
		return b.String()
	}
	for name, c := range map[string]struct {
		id   Identity
		want string
	}{
		"server": {Identity{}, `account-hour max=10/- per=2h0m0s/server verdict=freeze/- release=manual/- mode=observe/server actions=1/-
login-hour max=5/- per=1h0m0s/- verdict=freeze/- release=manual/- mode=enforce/- actions=1/-
`},
		"account": {shop, `account-hour max=40/reseller per=2h0m0s/server verdict=defer/account release=when-free/package mode=observe/server actions=0/account
login-hour max=40/reseller per=1h0m0s/- verdict=freeze/- release=manual/- mode=enforce/- actions=1/-
`},
		"mailbox": {mailbox, `account-hour max=40/reseller per=2h0m0s/server verdict=defer/account release=when-free/package mode=observe/server actions=0/account
login-hour max=3/mailbox per=1h0m0s/- verdict=freeze/- release=manual/- mode=enforce/- actions=1/-
`},
	} {
		if got := text(c.id); got != c.want {
			t.Errorf("%s:\n%swant\n%s", name, got, c.want)
		}
	}
}

// TestARehearsalSaysWhatTheEngineSaid lets an engine and a rehearsal of the same rules judge
// the same mail.
func TestARehearsalSaysWhatTheEngineSaid(t *testing.T) {
	watching := enforcing("watching", WatchDirectory, 4, Messages)
	watching.Mode = Observe
	r := &Rules{
		Triggers:   []Trigger{enforcing("account-hour", WatchAccount, 20, Recipients), enforcing("login-hour", WatchLogin, 6, Messages), watching},
		Overrides:  []Override{{Level: LevelAccount, Name: "acct1", Max: ptr(int64(5)), Until: noon().Wall.AddDate(0, 0, 10)}},
		Exemptions: []Exemption{{Scope: ScopeAccount, Value: "acct2", Ceiling: 40}},
		Holds:      []Hold{{ID: 1, Scope: ScopeAccount, Account: "acct3"}}, // is left out
	}
	real := *r
	real.Holds = nil
	e, h := newTestEngine(t, &real), NewRehearsal(r, noon().Wall)
	stopped, observed := 0, 0
	for n := range 5_000 {
		at := noon().Add(time.Duration(n) * 3 * time.Second)
		account := fmt.Sprintf("acct%d", n*7%5)
		s, id := fromScript(account, "/home/"+account, "hello", 1+n%4)
		if n%3 == 0 {
			s, id = fromLogin(account, "info@"+account+".example", "192.0.2.1", 1+n%4)
		}
		want := e.Check(at, s, id)
		got := h.Judge(at, id, want.SubjectKey, s.Recipients)
		if got.Verdict != want.Verdict || got.Would != want.Would || len(got.Over) != len(want.Over) {
			t.Fatalf("message %d: rehearsed %s (would %s), was %s (would %s)", n, got.Verdict, got.Would, want.Verdict, want.Would)
		}
		if n%1000 == 0 {
			h.Sweep()
		}
		if got.Verdict != Accept {
			stopped++
		}
		if got.Would != Accept {
			observed++
		}
	}
	if stopped == 0 || observed == 0 {
		t.Errorf("%d stopped, %d observed: the mail tries nothing", stopped, observed)
	}
}

func TestARehearsalDoesNotRunBackwards(t *testing.T) {
	h := NewRehearsal(rulesOf(enforcing("account-hour", WatchAccount, 3, Messages)), noon().Wall)
	_, id := fromScript("shop", "/home/shop", "x", 1)
	passed := 0
	for n := range 10 { // another boot's clock was moved by the wall clock, which was set
		if h.Judge(noon().Add(-time.Duration(n)*time.Hour), id, "x", 1).Verdict == Accept {
			passed++
		}
	}
	if passed != 3 {
		t.Errorf("%d passed, want 3", passed)
	}
}
