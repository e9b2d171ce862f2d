package control_test

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"osm/internal/control"
	"osm/internal/control/controltest"
	"osm/policy"
)

// failed reports whether an error has a status and says something.
func failed(err error, status int, says string) bool {
	var e *control.Error
	return errors.As(err, &e) && e.Status == status && strings.Contains(e.Message+" "+e.Hint+" "+strings.Join(e.Mistakes, " "), says)
}

func page(n int, after string) control.Page { return control.Page{Limit: n, After: after} }

// busy sends some mail of three accounts over two hours.
func busy(d *controltest.Daemon) {
	for i := range 6 {
		d.Send(controltest.Mail{Account: "shop", Directory: "/home/shop/public_html", Subject: fmt.Sprintf("Invoice %d", i), Sender: "shop@shop.example"})
		d.Send(controltest.Mail{Account: "news", Mailbox: "info@news.example", IP: "192.0.2.7", Subject: "Offer", Recipients: 2})
		d.Advance(10 * time.Minute)
	}
	d.Advance(time.Hour)
	d.Send(controltest.Mail{Account: "blog", Directory: "/home/blog", Subject: "Hello"})
	d.Send(controltest.Mail{Account: policy.AccountUnknown, Subject: "who"})
	d.Flush()
}

func TestRatesHaveEveryPieceOfTheTime(t *testing.T) {
	d := controltest.New(t, enforced)
	busy(d)
	s, ctx := d.Service, t.Context()
	sum := func(l control.List[control.Bucket]) (messages, stopped int64) {
		for i, b := range l.Items {
			if i > 0 && b.At.Sub(l.Items[i-1].At.Time) <= 0 {
				t.Errorf("piece %d at %s is not after the one before", i, b.At)
			}
			messages, stopped = messages+b.Messages, stopped+b.Stopped
		}
		return messages, stopped
	}
	for _, c := range []struct {
		name              string
		a                 control.Actor
		account           string
		since, step       time.Duration
		pieces            int
		messages, stopped int64
	}{
		{"the last hour of the server", operator(), "", 0, 0, 61, 2, 0},
		{"three hours of the server", operator(), "", 3 * time.Hour, 10 * time.Minute, 19, 8, 6},
		{"a day of an account", operator(), "shop", 0, 0, 25, 3, 3},
		{"a day of all that are his", bob(), "", 0, 0, 25, 6, 6},
		{"his account in two pieces", bob(), "news", 24 * time.Hour, 12 * time.Hour, 3, 3, 3},
	} {
		since := time.Time{}
		if c.since > 0 {
			since = d.Clock().Wall.Add(-c.since)
		}
		l, err := s.Rates(ctx, c.a, c.account, since, c.step)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if messages, stopped := sum(l); len(l.Items) != c.pieces || messages != c.messages || stopped != c.stopped {
			t.Errorf("%s: %d pieces, %d passed, %d stopped; want %d, %d, %d", c.name, len(l.Items), messages, stopped, c.pieces, c.messages, c.stopped)
		}
	}
	for name, err := range map[string]error{
		"a step of seconds":          second(s.Rates(ctx, operator(), "", time.Time{}, time.Second)),
		"minutes of an account":      second(s.Rates(ctx, operator(), "shop", time.Time{}, time.Minute)),
		"more pieces than are drawn": second(s.Rates(ctx, operator(), "", d.Clock().Wall.Add(-100*24*time.Hour), time.Minute)),
		"the future":                 second(s.Rates(ctx, operator(), "", d.Clock().Wall.Add(time.Hour), 0)),
	} {
		if !failed(err, http.StatusBadRequest, "") {
			t.Errorf("%s: %v, want 400", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestNearIsAsFreshAsAFewSeconds(t *testing.T) {
	d := controltest.New(t, enforced)
	s, ctx := d.Service, t.Context()
	near := func(a control.Actor) (keys []string) {
		t.Helper()
		l, err := s.Near(ctx, a, page(100, ""))
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range l.Items {
			keys = append(keys, fmt.Sprintf("%s %s %d/%d", n.Trigger, n.Key, n.Used, n.Max))
		}
		return keys
	}
	if got := near(operator()); got != nil {
		t.Errorf("nobody sent anything: %v", got)
	}
	stopped(d)
	for range 2 {
		d.Send(controltest.Mail{Account: "blog"})
	}
	if got := near(operator()); got != nil {
		t.Errorf("a moment later: %v, want the walk of before", got)
	}
	d.Advance(3 * time.Second)
	want := []string{"account-hour shop 3/3", "account-hour blog 2/3"}
	if got := near(operator()); !slices.Equal(got, want) {
		t.Errorf("near: %v, want %v", got, want)
	}
	if got := near(bob()); !slices.Equal(got, want[:1]) {
		t.Errorf("a reseller's: %v, want %v", got, want[:1])
	}
	six := int64(6)
	if _, err := s.SetLimit(ctx, operator(), control.Limit{Level: "account", Name: "shop", Trigger: "account-hour", Max: &six}); err != nil {
		t.Fatal(err)
	}
	if got := near(bob()); !slices.Equal(got, []string{"account-hour shop 3/6"}) {
		t.Errorf("after a change of the limit: %v", got)
	}
}

func TestAccountsAreListedAndSearched(t *testing.T) {
	d := controltest.New(t, enforced)
	busy(d)
	s, ctx := d.Service, t.Context()
	for _, c := range []struct {
		name, q string
		a       control.Actor
		want    []string
	}{
		{"all, with whom nobody knows", "", operator(), []string{"(unknown)", "blog", "news", "shop"}},
		{"by name", "SHO", operator(), []string{"shop"}},
		{"by domain", "ews.exam", operator(), []string{"news"}},
		{"by mailbox", "Somebody@blog.example", operator(), []string{"blog"}},
		{"by part of a mailbox's domain", "x@log.example", operator(), nil},
		{"his own", "", bob(), []string{"news", "shop"}},
		{"another's", "blog", bob(), nil},
		{"another's mailbox", "a@blog.example", bob(), nil},
		{"a reseller's without accounts", "", control.Actor{Name: "dora", Role: control.Reseller, Reseller: "dora"}, nil},
		{"nobody's", "", control.Actor{Name: "x", Role: control.Reseller}, nil},
	} {
		l, err := s.Accounts(ctx, c.a, c.q, page(100, ""))
		var got []string
		for _, one := range l.Items {
			got = append(got, one.Account)
		}
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, %v, want %v", c.name, got, err, c.want)
		}
	}
	var all []string
	for after := ""; ; {
		l, err := s.Accounts(ctx, operator(), "", page(1, after))
		if err != nil || len(l.Items) != 1 {
			t.Fatalf("a page of one: %+v, %v", l, err)
		}
		all = append(all, l.Items[0].Account)
		if after = l.Next; after == "" {
			break
		}
	}
	if !slices.Equal(all, []string{"(unknown)", "blog", "news", "shop"}) {
		t.Errorf("page by page: %v", all)
	}
	l, err := s.Accounts(ctx, operator(), "shop.ex", page(100, ""))
	if err != nil || l.Items[0].Matched != "shop.example" || l.Items[0].Messages != 3 || l.Items[0].Stopped != 3 || l.Items[0].Reseller != "bob" {
		t.Errorf("the row of shop = %+v, %v", l, err)
	}
	if _, err := s.Accounts(ctx, operator(), strings.Repeat("x", 400), page(1, "")); !failed(err, 400, "320") {
		t.Errorf("a long search = %v", err)
	}
}

func TestAnAccountTellsFromWhereItSends(t *testing.T) {
	d := controltest.New(t, enforced)
	busy(d)
	s, ctx := d.Service, t.Context()
	a, err := s.Account(ctx, bob(), "news", time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	if a.Looked != 6 || len(a.History) != 25 || a.Messages != 3 || a.Stopped != 3 || !slices.Equal(a.Domains, []string{"news.example"}) {
		t.Errorf("news = %+v", a)
	}
	if want := []control.Share{{Value: "info@news.example", Messages: 3, Recipients: 6, Stopped: 3}}; !slices.Equal(a.Mailboxes, want) {
		t.Errorf("mailboxes %+v, want %+v", a.Mailboxes, want)
	}
	if len(a.ClientIPs) != 1 || a.ClientIPs[0].Value != "192.0.2.7" || len(a.Subjects) != 1 || a.Scripts == nil || len(a.Directories) != 0 {
		t.Errorf("shares = %+v", a)
	}
	if a, err := s.Account(ctx, operator(), policy.AccountUnknown, d.Clock().Wall.Add(-400*24*time.Hour)); err != nil || a.Looked != 1 || !a.System || len(a.History) != 31*24+1 {
		t.Errorf("(unknown) = %d looked at, %d hours, %v", a.Looked, len(a.History), err)
	}
	missing := second(s.Account(ctx, bob(), "nobody", time.Time{}))
	for _, name := range []string{"blog", policy.AccountUnknown, "root"} {
		err := second(s.Account(ctx, bob(), name, time.Time{}))
		if !failed(err, 404, "") || err.Error() != strings.Replace(missing.Error(), "nobody", name, 1) {
			t.Errorf("%s for another's reseller = %v, want as of one that does not exist: %v", name, err, missing)
		}
	}
	if _, err := s.Account(ctx, operator(), "nobody", time.Time{}); !failed(err, 404, "nobody") {
		t.Errorf("an account that does not exist = %v", err)
	}
}

// An account may have more domains than are shown; the limits of its mailboxes are shown
// whatever domain they are of, and nobody else's.
func TestAnAccountTellsItsLimitsOfAllItsDomains(t *testing.T) {
	d := controltest.New(t, enforced+"\n[[for]]\nmailbox = \"filed@d24.example\"\ntrigger = \"login-hour\"\nmax = 3\n")
	domains := map[string]string{"shop.example": "shop", "blog.example": "blog"}
	for i := range 25 {
		domains[fmt.Sprintf("d%02d.example", i)] = "shop"
	}
	d.SetAccounts(policy.NewAccountMap(policy.AccountMapInput{Domains: domains, Accounts: []policy.Account{
		{Name: "shop", Home: "/home/shop", Reseller: "bob", UID: 1001, MainDomain: "shop.example"},
		{Name: "blog", Home: "/home/blog", Reseller: "carol", UID: 1003, MainDomain: "blog.example"},
	}}))
	s, ctx := d.Service, t.Context()
	for _, l := range []control.Limit{
		limitOf("account", "shop", "account-hour", 4), limitOf("mailbox", "late@d23.example", "login-hour", 5),
		limitOf("mailbox", "other@blog.example", "login-hour", 6), limitOf("account", "blog", "account-hour", 7), limitOf("server", "", "account-hour", 8),
	} {
		if _, err := s.SetLimit(ctx, operator(), l); err != nil {
			t.Fatal(err)
		}
	}
	a, err := s.Account(ctx, bob(), "shop", time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range a.Limits {
		names = append(names, l.Name)
	}
	if want := []string{"filed@d24.example", "shop", "late@d23.example"}; !slices.Equal(names, want) {
		t.Errorf("the limits are of %q, want %q", names, want)
	}
	if len(a.Domains) != 20 || a.More != 6 || a.Domains[0] != "shop.example" {
		t.Errorf("the domains are %q and %d more, want 20, the main one first, and 6 more", a.Domains, a.More)
	}
}

func TestDecisionsAreListed(t *testing.T) {
	d := controltest.New(t, enforced+"\n[[trigger]]\nname = \"login-hour\"\nmax = 2\nmode = \"observe\"\n")
	busy(d)
	s, ctx := d.Service, t.Context()
	for _, c := range []struct {
		name             string
		a                control.Actor
		account, verdict string
		since            time.Duration
		want             int
	}{
		{"all", operator(), "", "", 0, 14},
		{"stopped", operator(), "", "stopped", 0, 6},
		{"frozen ones of an account", operator(), "shop", "freeze", 0, 3},
		{"deferred ones", operator(), "", "defer", 0, 0},
		{"what an observing trigger would have stopped", operator(), "", "observed", 0, 2},
		{"of the last hour", operator(), "", "", time.Hour, 2},
		{"a reseller's", bob(), "", "", 0, 12},
		{"a reseller's stopped", bob(), "", "stopped", 0, 6},
		{"of a reseller without accounts", control.Actor{Name: "dora", Role: control.Reseller, Reseller: "dora"}, "", "", 0, 0},
	} {
		since := time.Time{}
		if c.since > 0 {
			since = d.Clock().Wall.Add(-c.since)
		}
		got, after := 0, ""
		for {
			l, err := s.Decisions(ctx, c.a, c.account, c.verdict, since, page(5, after))
			if err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			got += len(l.Items)
			if after = l.Next; after == "" {
				break
			}
		}
		if got != c.want {
			t.Errorf("%s: %d messages, want %d", c.name, got, c.want)
		}
	}
	for name, err := range map[string]error{
		"an unknown verdict": second(s.Decisions(ctx, operator(), "", "eaten", time.Time{}, page(1, ""))),
		"a wrong mark":       second(s.Decisions(ctx, operator(), "", "", time.Time{}, page(1, "x"))),
	} {
		if !failed(err, 400, "") {
			t.Errorf("%s = %v, want 400", name, err)
		}
	}
}

func TestTriggersTellWhereEachValueStands(t *testing.T) {
	d := controltest.New(t, enforced+"\n[[for]]\npackage = \"gold\"\ntrigger = \"account-hour\"\nmax = 50\n")
	s, ctx := d.Service, t.Context()
	max, observe := int64(70), "observe"
	for _, l := range []control.Limit{
		{Level: "account", Name: "shop", Trigger: "account-hour", Max: &max}, {Level: "server", Trigger: "account-hour", Mode: &observe},
		{Level: "mailbox", Name: "info@shop.example", Trigger: "login-hour", Max: &max},
	} {
		if _, err := s.SetLimit(ctx, operator(), l); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		a           control.Actor
		level, name string
		trigger     string
		max         int64
		origin      map[string]string
	}{
		{operator(), "", "", "account-hour", 3, map[string]string{"max": "file, line 4", "mode": "database, by root", "per": "default"}},
		{bob(), "server", "", "account-hour", 3, map[string]string{"max": "file, line 4"}},
		{operator(), "package", "gold", "account-hour", 50, map[string]string{"max": "package gold (file)"}},
		{bob(), "package", "gold", "account-hour", 50, nil},
		{bob(), "reseller", "bob", "account-hour", 3, nil},
		{bob(), "account", "news", "account-hour", 50, map[string]string{"max": "package gold (file)", "mode": "database, by root"}},
		{bob(), "account", "shop", "account-hour", 70, map[string]string{"max": "account shop (database, by root)"}},
		{bob(), "mailbox", "Info@shop.example", "login-hour", 70, map[string]string{"max": "mailbox info@shop.example (database, by root)"}},
	} {
		l, err := s.Triggers(ctx, c.a, c.level, c.name)
		i := slices.IndexFunc(l.Items, func(e control.Effective) bool { return e.Trigger == c.trigger })
		if err != nil || i < 0 || l.Items[i].Max != c.max || len(l.Items) != 10 {
			t.Errorf("%s %s: %+v, %v, want %s with max %d", c.level, c.name, l.Items, err, c.trigger, c.max)
			continue
		}
		for field, want := range c.origin {
			if got := l.Items[i].Origin[field]; got != want {
				t.Errorf("%s %s: %s of %s stands in %q, want %q", c.level, c.name, field, c.trigger, got, want)
			}
		}
	}
	for _, c := range [][2]string{{"account", "blog"}, {"account", "nobody"}, {"mailbox", "a@blog.example"}, {"mailbox", "a@nowhere.example"}, {"package", "silver"}, {"package", "none"}, {"reseller", "carol"}, {"reseller", "none"}} {
		if _, err := s.Triggers(ctx, bob(), c[0], c[1]); !failed(err, 404, c[1]) {
			t.Errorf("%s %s for a reseller = %v, want 404", c[0], c[1], err)
		}
	}
	for _, c := range [][2]string{{"galaxy", "x"}, {"account", ""}, {"server", "x"}} {
		if _, err := s.Triggers(ctx, operator(), c[0], c[1]); !failed(err, 400, "") {
			t.Errorf("%s %q = %v, want 400", c[0], c[1], err)
		}
	}
}
