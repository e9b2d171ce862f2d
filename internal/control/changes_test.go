package control_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"osm/internal/control"
	"osm/internal/control/controltest"
	"osm/policy"
)

// observing is a server on its first day: a limit that only observes.
const observing = `
[[trigger]]
name = "account-hour"
max = 3
count = "messages"
mode = "observe"
`

func limitOf(level, name, trigger string, max int64) control.Limit {
	return control.Limit{Level: level, Name: name, Trigger: trigger, Max: &max}
}

func TestAPreviewSaysWhatALimitWouldHaveDone(t *testing.T) {
	d := controltest.New(t, observing+"\n[[trigger]]\nname = \"account-day\"\nmode = \"off\"\n")
	s, ctx := d.Service, t.Context()
	for i := range 10 {
		d.Send(controltest.Mail{Account: "shop", Subject: fmt.Sprintf("Invoice %d", i)})
		if i < 5 {
			d.Send(controltest.Mail{Account: "blog", Subject: "Hello"})
		}
		d.Advance(time.Minute)
	}
	d.Advance(47*time.Hour + 50*time.Minute)
	d.Send(controltest.Mail{Account: "news", Subject: "News"})
	enforce, observe := "enforce", "observe"
	for _, c := range []struct {
		name    string
		limit   control.Limit
		stopped int64
		seen    int64
		of      int64
		text    string
	}{
		{"enforce what observes", control.Limit{Level: "server", Trigger: "account-hour", Mode: &enforce}, 7 + 2, 0, 2,
			"Over the last 2 days this would have stopped 9 messages of 2 accounts; the limits in force would have stopped none."},
		{"a lower one that observes", limitOf("server", "", "account-hour", 1), 0, 9 + 4, 2,
			"Over the last 2 days this would have reported 13 messages of 2 accounts and stopped none, as it only observes; the limits in force would have stopped none."},
		{"for one account", control.Limit{Level: "account", Name: "blog", Trigger: "account-hour", Mode: &enforce}, 2, 0, 1,
			"Over the last 2 days this would have stopped 2 messages of 1 account; the limits in force would have stopped none."},
		{"for a package", control.Limit{Level: "package", Name: "gold", Mode: &enforce}, 7, 0, 1,
			"Over the last 2 days this would have stopped 7 messages of 1 account; the limits in force would have stopped none."},
		{"for a reseller without mail", control.Limit{Level: "reseller", Name: "dora", Trigger: "account-hour", Mode: &enforce}, 0, 0, 0, "no message was sent"},
		{"that changes nothing", control.Limit{Level: "server", Trigger: "account-hour", Mode: &observe, Max: ptr(int64(1000))}, 0, 0, 0,
			"Over the last 2 days this would have stopped no message; the limits in force would have stopped none."},
	} {
		p, err := s.PreviewLimit(ctx, operator(), c.limit, 0, time.Time{})
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if p.Stopped != c.stopped || p.Observed != c.seen || p.Accounts != c.of || !strings.Contains(p.Text, c.text) || int64(len(p.Items)) != c.of {
			t.Errorf("%s: %d stopped, %d observed of %d accounts %+v, %q\nwant %d, %d of %d, %q", c.name, p.Stopped, p.Observed, p.Accounts, p.Items, p.Text, c.stopped, c.seen, c.of, c.text)
		}
	}
	if l, err := s.Limits(ctx, operator(), "", "", page(10, "")); err != nil || len(l.Items) != 0 {
		t.Errorf("a preview has set a limit: %+v, %v", l, err)
	}
	if p, err := s.PreviewLimit(ctx, operator(), control.Limit{Level: "server", Trigger: "account-hour", Mode: &enforce}, 0, d.Clock().Wall.Add(-time.Hour)); err != nil || p.Messages != 1 || p.Stopped != 0 || !p.Whole || !p.Since.Equal(d.Clock().Wall.Add(-time.Hour)) {
		t.Errorf("the last hour = %+v, %v", p, err)
	}
}

// A preview that does not reach as far back as was asked for must say so: nobody may take
// the mail of some hours for that of a week.
func TestAPreviewSaysHowFarItLooked(t *testing.T) {
	const week = 7 * 24 * time.Hour
	for name, c := range map[string]struct {
		preview control.Preview
		back    time.Duration
		want    string
	}{
		"all of it": {control.Preview{Whole: true, Messages: 900, Stopped: 14, Accounts: 3}, week,
			"Over the last 7 days this would have stopped 14 messages of 3 accounts; the limits in force would have stopped none."},
		"a part of it": {control.Preview{Messages: 310_000, Stopped: 14, Accounts: 3, Now: 1}, 31 * time.Hour,
			"Over the last 31 hours this would have stopped 14 messages of 3 accounts; the limits in force would have stopped 1 message. " +
				"This looks back 31 hours and not 7 days: on a server with so much mail more cannot be judged again at once."},
	} {
		if got := control.PreviewText(&c.preview, c.back, week); got != c.want {
			t.Errorf("%s: %q\nwant %q", name, got, c.want)
		}
	}
}

func ptr[T any](v T) *T { return &v }

// TestAPreviewAgreesWithWhatHappens previews the rules in force by removing a limit that
// says the same, after the engine has stopped mail by them.
func TestAPreviewAgreesWithWhatHappens(t *testing.T) {
	d := controltest.New(t, enforced)
	s, ctx := d.Service, t.Context()
	set, err := s.SetLimit(ctx, operator(), limitOf("account", "shop", "account-hour", 5))
	if err != nil {
		t.Fatal(err)
	}
	var stops int64
	for i := range 60 {
		if d.Send(controltest.Mail{Account: []string{"shop", "blog", "news"}[i%3]}).Verdict != policy.Accept && i%3 == 0 {
			stops++
		}
		d.Advance(2 * time.Minute)
	}
	p, err := s.PreviewLimit(ctx, operator(), control.Limit{}, set.ID, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	if p.Now != stops || p.Stopped <= stops || p.Messages != 20 {
		t.Errorf("without the limit %d of %d messages would be stopped, now %d; want more than the %d that were", p.Stopped, p.Messages, p.Now, stops)
	}
	for name, c := range map[string]struct {
		a      control.Actor
		limit  control.Limit
		remove int64
		status int
	}{
		"a limit that is not there":     {operator(), control.Limit{}, 99, 404},
		"a limit that cannot be":        {operator(), limitOf("account", "shop", "acount-hour", 1), 0, 422},
		"another's":                     {bob(), limitOf("account", "blog", "account-hour", 1), 0, 404},
		"of one that does not exist":    {bob(), limitOf("account", "nobody", "account-hour", 1), 0, 404},
		"of another's mailbox":          {bob(), limitOf("mailbox", "a@blog.example", "login-hour", 1), 0, 404},
		"of the server by a reseller":   {bob(), limitOf("server", "", "account-hour", 1), 0, 403},
		"more than he has himself":      {bob(), limitOf("account", "news", "account-hour", 4), 0, 403},
		"a limit that an operator set":  {bob(), control.Limit{}, set.ID, 403},
		"without a level":               {operator(), control.Limit{}, 0, 400},
		"a moment that has not come":    {operator(), limitOf("account", "shop", "account-hour", 1), -1, 404},
		"a limit of a trigger, removed": {operator(), control.Limit{}, set.ID + 1, 404},
	} {
		if _, err := s.PreviewLimit(ctx, c.a, c.limit, c.remove, time.Time{}); !failed(err, c.status, "") {
			t.Errorf("%s = %v, want %d", name, err, c.status)
		}
	}
	if p, err := s.PreviewLimit(ctx, bob(), limitOf("account", "news", "account-hour", 2), 0, time.Time{}); err != nil || p.Messages != 20 || len(p.Items) != 1 || p.Items[0].Account != "news" {
		t.Errorf("a reseller's own = %+v, %v", p, err)
	}
}

func TestASettingWinsOverTheFile(t *testing.T) {
	d := controltest.New(t, enforced+"\n[held]\nkeep = \"20d\"\n")
	c := control.NewClient(d.Socket)
	defer c.Close()
	ctx := t.Context()
	of := func(key string) control.Setting {
		t.Helper()
		l, err := c.Settings(ctx)
		i := slices.IndexFunc(l.Items, func(s control.Setting) bool { return s.Key == key })
		if err != nil || i < 0 {
			t.Fatalf("settings without %s: %+v, %v", key, l, err)
		}
		return l.Items[i]
	}
	if s := of("held.keep"); s.Value != "20d" || s.Default != "30d" || s.Origin != "file, line 13" {
		t.Errorf("the file's = %+v", s)
	}
	off, long := "off", "25d"
	set, err := c.Set(ctx, "checking", &off, "moving the queue")
	if err != nil || set.Value != "false" || !strings.HasPrefix(set.Origin, "database, by ") || set.Reason != "moving the queue" {
		t.Fatalf("Set = %+v, %v", set, err)
	}
	for range 5 {
		if dec := d.Send(controltest.Mail{Account: "shop"}); dec.Verdict != policy.Accept || dec.Reason != policy.ReasonDisabled {
			t.Fatalf("with checking off: %v, %v", dec.Verdict, dec.Reason)
		}
	}
	if _, err := c.Set(ctx, "held.keep", &long, ""); err != nil {
		t.Fatal(err)
	}
	d.SetConfig(enforced) // and a reload leaves it so
	if _, err := c.Reload(ctx); err != nil {
		t.Fatal(err)
	}
	if s := of("held.keep"); s.Value != "25d" {
		t.Errorf("after a reload = %+v", s)
	}
	if st, err := c.Status(ctx); err != nil || st.Config.Checking {
		t.Errorf("status says that checking is on: %v", err)
	}
	text, err := c.ExportConfig(ctx)
	if err != nil || !strings.Contains(text, "checking = false") || !strings.Contains(text, ": moving the queue\n") {
		t.Errorf("config export: %v\n%s", err, text)
	}
	if s, err := c.Set(ctx, "held.keep", nil, ""); err != nil || s.Value != "30d" || s.Origin != "default" {
		t.Errorf("unset = %+v, %v", s, err)
	}
	short, soon := "12h", "soon"
	for _, w := range []struct {
		key    string
		value  *string
		status int
		says   string
	}{
		{"held.keep", nil, 404, "was not set here"}, {"chekcing", &off, 404, `did you mean "checking"`}, {"exim.deadline", &soon, 404, "takes a restart"},
		{"held.keep", &soon, 422, "must be a duration"}, {"store.keep_events", ptr("2d"), 422, "at least store.keep_decisions"},
		{"store.keep_decisions", &short, 422, "account-day"},
	} {
		if _, err := c.Set(ctx, w.key, w.value, ""); !failed(err, w.status, w.says) {
			t.Errorf("Set(%s) = %v, want %d and %q", w.key, err, w.status, w.says)
		}
	}
	audit, err := c.Audit(ctx, control.Query{})
	if err != nil || len(audit.Items) != 4 {
		t.Fatalf("audit = %+v, %v", audit, err)
	}
	if a := audit.Items[3]; a.What != "setting set" || a.Target != "checking" || !strings.Contains(a.Old, `"value":"true"`) || !strings.HasSuffix(a.New, `"value":"false","where":"database"} (moving the queue)`) {
		t.Errorf("the first change = %+v", a)
	}
	for name, err := range map[string]error{"settings": second(d.Service.Settings(ctx, bob())), "set": second(d.Service.Set(ctx, bob(), "checking", &off, ""))} {
		if !failed(err, 403, "operator") {
			t.Errorf("%s by a reseller = %v, want 403", name, err)
		}
	}
}

// lastChange is the newest row of the audit.
func lastChange(t *testing.T, d *controltest.Daemon) control.AuditEntry {
	t.Helper()
	l, err := d.Service.Audit(t.Context(), operator(), time.Time{}, page(1, ""))
	if err != nil || len(l.Items) != 1 {
		t.Fatalf("audit = %+v, %v", l, err)
	}
	return l.Items[0]
}

func TestEachKindOfChangeIsTakenBackAndAgain(t *testing.T) {
	d := controltest.New(t, enforced)
	s, ctx, root := d.Service, t.Context(), operator()
	state := func() string {
		t.Helper()
		var b strings.Builder
		limits, err1 := s.Limits(ctx, root, "", "", page(100, ""))
		holds, err2 := s.Holds(ctx, root, "", page(100, ""))
		exempts, err3 := s.Exemptions(ctx, root, page(100, ""))
		settings, err4 := s.Settings(ctx, root)
		for _, err := range []error{err1, err2, err3, err4} {
			if err != nil {
				t.Fatal(err)
			}
		}
		for _, l := range limits.Items {
			max := int64(-1)
			if l.Max != nil {
				max = *l.Max
			}
			fmt.Fprintf(&b, "limit %s %s %s %d %v %s %s %s\n", l.Level, l.Name, l.Trigger, max, l.Until, l.By, l.At, l.Reason)
		}
		for _, h := range holds.Items {
			fmt.Fprintf(&b, "hold %s %s %s %s %v %s %s\n", h.Scope, h.Account, h.Value, h.Release, h.Until, h.By, h.Reason)
		}
		for _, x := range exempts.Items {
			fmt.Fprintf(&b, "exempt %s %s %s %d %v %s %s\n", x.Scope, x.Account, x.Value, x.Ceiling, x.Until, x.By, x.Reason)
		}
		for _, x := range settings.Items {
			fmt.Fprintf(&b, "%s = %s (%s)\n", x.Key, x.Value, x.Origin)
		}
		return b.String()
	}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	friday := control.Time{Time: controltest.Start().Add(100 * time.Hour)}
	for _, step := range []struct {
		name, undo string
		do         func()
	}{
		{"set a limit", "remove limit 1 (account shop, trigger account-hour)", func() {
			l := limitOf("account", "shop", "account-hour", 5000)
			l.Until, l.Reason = friday, `newsletter <b>"4711"</b> & more`
			check(second(s.SetLimit(ctx, root, l)))
		}},
		{"set it again", "set limit 1 (account shop, trigger account-hour) back to max 5,000", func() {
			check(second(s.SetLimit(ctx, control.Actor{Name: "anna", Role: control.Operator}, limitOf("account", "shop", "account-hour", 7))))
		}},
		{"remove it", "set the limit of account shop, trigger account-hour again: max 7", func() { check(second(s.RemoveLimit(ctx, root, lastLimit(t, d), "done"))) }},
		{"set one of many fields", "remove limit 1 (server, trigger account-hour)", func() {
			l := control.Limit{Level: "server", Trigger: "account-hour", Mode: ptr("observe"), Verdict: ptr("defer"), Release: ptr("when-free"), Per: ptr(control.Period(2 * time.Hour)),
				Actions: &[]control.LimitEntry{{Name: "report"}, {Name: "hold", For: control.Period(time.Hour)}}}
			check(second(s.SetLimit(ctx, root, l)))
		}},
		{"put a hold", "end hold 1 on mailbox info@shop.example", func() {
			check(second(s.PutHold(ctx, root, control.Hold{Scope: "mailbox", Value: "info@shop.example", Release: "when-free", Reason: "stolen"})))
		}},
		{"end it", "put the hold on mailbox info@shop.example again", func() {
			l, err := s.Holds(ctx, root, "", page(1, ""))
			check(err)
			check(second(s.EndHold(ctx, root, l.Items[0].ID, "changed the password")))
		}},
		{"exempt", "remove exemption 1 of ip 192.0.2.0/24", func() {
			check(second(s.AddExemption(ctx, root, control.Exemption{Scope: "ip", Value: "192.0.2.0/24", Ceiling: 50, Until: friday, Reason: "monitoring"})))
		}},
		{"remove the exemption", "exempt ip 192.0.2.0/24 again", func() {
			l, err := s.Exemptions(ctx, root, page(1, ""))
			check(err)
			check(second(s.RemoveExemption(ctx, root, l.Items[0].ID, "")))
		}},
		{"change a setting", "let osm.toml decide on checking again (it was true)", func() { check(second(s.Set(ctx, root, "checking", ptr("off"), "why"))) }},
		{"change it again", "set checking back to false", func() { check(second(s.Set(ctx, root, "checking", ptr("on"), ""))) }},
		{"unset it", "set checking back to true", func() { check(second(s.Set(ctx, root, "checking", nil, ""))) }},
	} {
		d.Advance(time.Minute)
		before := state()
		step.do()
		after, change := state(), lastChange(t, d)
		if change.Undo != step.undo || before == after {
			t.Errorf("%s: undo would %q, want %q", step.name, change.Undo, step.undo)
		}
		for i, want := range []string{before, after, before, after} { // back, and forth, twice
			done, err := s.Undo(ctx, root, change.ID, "mistake")
			if err != nil {
				t.Fatalf("%s: undo %d of change %d: %v", step.name, i, change.ID, err)
			}
			if got := state(); got != want {
				t.Errorf("%s: after undo %d:\n%s\nwant\n%s", step.name, i, got, want)
			}
			if last := lastChange(t, d); done.ID != last.ID || done.Undo == "" || !strings.Contains(last.Old+last.New, fmt.Sprintf("undo of change %d: mistake", change.ID)) && !strings.Contains(state(), "undo of change") {
				t.Errorf("%s: the change that undid it is %+v, in the audit %+v", step.name, done, last)
			}
			if _, err := s.Undo(ctx, root, change.ID, ""); !failed(err, 409, "changed since") {
				t.Errorf("%s: undo of the same again = %v, want 409", step.name, err)
			}
			change = done
		}
	}
}

func TestWhatCannotBeTakenBack(t *testing.T) {
	d := controltest.New(t, enforced)
	s, ctx, root := d.Service, t.Context(), operator()
	last := stopped(d)
	d.Flush()
	undo := func() error { return second(s.Undo(ctx, root, lastChange(t, d).ID, "")) }
	if _, err := s.DiscardHeld(ctx, root, control.Settle{Selection: control.Selection{Refs: []string{last.Ref}}}); err != nil {
		t.Fatal(err)
	}
	if err := undo(); !failed(err, 422, "cannot be taken back") {
		t.Errorf("mail that was discarded = %v, want 422", err)
	}
	if err := s.Reset(ctx, root, control.ResetRequest{Trigger: "account-hour", Key: "shop"}); err != nil {
		t.Fatal(err)
	}
	if err := undo(); !failed(err, 422, "cannot be taken back") {
		t.Errorf("a counter that was reset = %v, want 422", err)
	}
	if _, err := s.Undo(ctx, root, 99, ""); !failed(err, 404, "no change 99") {
		t.Errorf("a change that was not made = %v, want 404", err)
	}
	l := limitOf("account", "shop", "account-hour", 9)
	l.Until = control.Time{Time: d.Clock().Wall.Add(time.Hour)}
	set, err := s.SetLimit(ctx, root, l)
	if err != nil {
		t.Fatal(err)
	}
	first := lastChange(t, d)
	if _, err := s.RemoveLimit(ctx, root, set.ID, ""); err != nil {
		t.Fatal(err)
	}
	removed := lastChange(t, d)
	if _, err := s.Undo(ctx, root, first.ID, ""); !failed(err, 409, "") {
		t.Errorf("a limit that was removed since = %v, want 409", err)
	}
	if _, err := s.SetLimit(ctx, root, limitOf("account", "shop", "account-hour", 8)); err != nil { // gets the same number
		t.Fatal(err)
	}
	for _, change := range []control.AuditEntry{first, removed} {
		if _, err := s.Undo(ctx, root, change.ID, ""); !failed(err, 409, "") {
			t.Errorf("%s while another stands = %v, want 409", change.What, err)
		}
	}
	if _, err := s.RemoveLimit(ctx, root, lastLimit(t, d), ""); err != nil {
		t.Fatal(err)
	}
	d.Advance(2 * time.Hour)
	if _, err := s.Undo(ctx, root, removed.ID, ""); !failed(err, 409, "its time is over") {
		t.Errorf("a limit whose time is over = %v, want 409", err)
	}
}

func lastLimit(t *testing.T, d *controltest.Daemon) int64 {
	t.Helper()
	l, err := d.Service.Limits(t.Context(), operator(), "", "", page(100, ""))
	if err != nil || len(l.Items) == 0 {
		t.Fatalf("limits = %+v, %v", l, err)
	}
	return l.Items[len(l.Items)-1].ID
}

func TestAResellerTakesBackHisOwnChanges(t *testing.T) {
	d := controltest.New(t, enforced+"\n[[for]]\nreseller = \"bob\"\nmax = 10\n")
	s := d.Service
	ctx, noted := control.Noting(t.Context())
	if _, err := s.SetLimit(ctx, operator(), limitOf("account", "shop", "account-hour", 50)); err != nil { // more than bob could
		t.Fatal(err)
	}
	byRoot := noted.ID()
	if _, err := s.SetLimit(ctx, bob(), limitOf("account", "news", "account-hour", 8)); err != nil {
		t.Fatal(err)
	}
	his := noted.ID()
	if byRoot == 0 || his <= byRoot {
		t.Fatalf("changes %d and %d are noted", byRoot, his)
	}
	carol := control.Actor{Name: "carol", Role: control.Reseller, Reseller: "carol"}
	operatorBob := control.Actor{Name: "bob", Role: control.Operator}
	missing := second(s.Undo(ctx, bob(), 99, ""))
	for name, err := range map[string]error{"an operator's": second(s.Undo(ctx, bob(), byRoot, "")), "another reseller's": second(s.Undo(ctx, carol, his, ""))} {
		if !failed(err, 404, "there is no change") {
			t.Errorf("%s = %v, want as of one that does not exist: %v", name, err, missing)
		}
	}
	done, err := s.Undo(ctx, bob(), his, "")
	if err != nil || noted.ID() != done.ID {
		t.Fatalf("his own = %+v, %v, noted %d", done, err, noted.ID())
	}
	l, err := s.Limits(ctx, operator(), "account", "", page(10, ""))
	if err != nil || len(l.Items) != 1 || l.Items[0].Name != "shop" || *l.Items[0].Max != 50 || l.Items[0].By != "root" {
		t.Errorf("the limits of before = %+v, %v", l.Items, err)
	}
	if _, err := s.Undo(ctx, operatorBob, byRoot, ""); err != nil {
		t.Errorf("an operator takes everybody's back: %v", err)
	}
	h, err := s.PutHold(ctx, bob(), control.Hold{Scope: "account", Account: "news"})
	if err != nil {
		t.Fatal(err)
	}
	put := noted.ID()
	if _, err := s.EndHold(ctx, bob(), h.ID, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Undo(ctx, bob(), put, ""); !failed(err, 409, "") {
		t.Errorf("a hold that was ended = %v", err)
	}
	if again, err := s.Undo(ctx, bob(), noted.ID(), ""); err != nil || again.What != "hold put" {
		t.Errorf("the end of a hold = %+v, %v", again, err)
	}
}

func TestOfTwoWhoTakeTheSameChangeBackOneDoes(t *testing.T) {
	d := controltest.New(t, enforced)
	if _, err := d.Service.AddExemption(t.Context(), operator(), control.Exemption{Scope: "ip", Value: "192.0.2.1"}); err != nil {
		t.Fatal(err)
	}
	id := lastChange(t, d).ID
	var done sync.WaitGroup
	results := make([]error, 8)
	for i := range results {
		done.Go(func() { _, results[i] = d.Service.Undo(t.Context(), operator(), id, "") })
	}
	done.Wait()
	won := 0
	for _, err := range results {
		switch {
		case err == nil:
			won++
		case !failed(err, 409, ""):
			t.Errorf("one who came later = %v, want 409", err)
		}
	}
	if won != 1 {
		t.Errorf("%d took it back, want one", won)
	}
}

func TestALoginLinkWorksOnce(t *testing.T) {
	d := controltest.New(t, enforced)
	c := control.NewClient(d.Socket)
	defer c.Close()
	ctx := t.Context()
	link, err := c.NewLoginLink(ctx, control.LoginLink{User: "anna"})
	if err != nil || len(link.Token) != 43 || link.Role != control.Operator || !link.ExpiresAt.Equal(controltest.Start().Add(10*time.Minute)) {
		t.Fatalf("NewLoginLink = %+v, %v", link, err)
	}
	other, err := c.NewLoginLink(ctx, control.LoginLink{Reseller: "bob"})
	if err != nil || other.Token == link.Token || other.User != "bob" || other.Role != control.Reseller {
		t.Fatalf("a reseller's = %+v, %v", other, err)
	}
	for _, wrong := range []string{"", "x", link.Token[:42], link.Token + "x", strings.ToUpper(link.Token)} {
		if _, err := c.RedeemLoginLink(ctx, wrong); !failed(err, 404, "ten minutes") {
			t.Errorf("token %q = %v, want 404", wrong, err)
		}
	}
	got, err := c.RedeemLoginLink(ctx, link.Token)
	if err != nil || got.User != "anna" || got.Role != control.Operator || got.Token != "" {
		t.Fatalf("RedeemLoginLink = %+v, %v", got, err)
	}
	if _, err := c.RedeemLoginLink(ctx, link.Token); !failed(err, 404, "") {
		t.Errorf("the same again = %v, want 404", err)
	}
	d.Advance(10 * time.Minute)
	if _, err := c.RedeemLoginLink(ctx, other.Token); !failed(err, 404, "") {
		t.Errorf("after ten minutes = %v, want 404", err)
	}
	audit, err := c.Audit(ctx, control.Query{})
	if err != nil || len(audit.Items) != 3 || audit.Items[0].What != "login" || audit.Items[2].What != "login link" || audit.Items[2].Target != "anna" {
		t.Errorf("audit = %+v, %v", audit, err)
	}
	for _, a := range audit.Items {
		if strings.Contains(a.New+a.Old+a.Target, link.Token[:10]) {
			t.Errorf("the token stands in the audit: %+v", a)
		}
	}
	for name, l := range map[string]control.LoginLink{
		"a token of one's own":            {Token: "x"},
		"a role that is none":             {Role: "king"},
		"root as a reseller":              {User: "root", Role: control.Reseller},
		"a name with a blank":             {User: "a b"},
		"an operator who is a reseller's": {User: "anna", Role: control.Operator, Reseller: "bob"},
	} {
		if _, err := c.NewLoginLink(ctx, l); !failed(err, 400, "") {
			t.Errorf("%s = %v, want 400", name, err)
		}
	}
	if _, err := c.NewLoginLink(ctx, control.LoginLink{Reseller: "nobody"}); !failed(err, 422, "no account belongs") {
		t.Errorf("a reseller without accounts = %v, want 422", err)
	}
	for name, err := range map[string]error{"make": second(d.Service.NewLoginLink(ctx, bob(), control.LoginLink{Reseller: "bob"})), "redeem": second(d.Service.RedeemLoginLink(ctx, bob(), "x"))} {
		if !failed(err, 403, "operator") {
			t.Errorf("%s by a reseller = %v, want 403", name, err)
		}
	}
	for i := range 100 {
		if _, err := c.NewLoginLink(ctx, control.LoginLink{User: "anna"}); err != nil {
			t.Fatalf("link %d of 100: %v", i, err)
		}
	}
	if _, err := c.NewLoginLink(ctx, control.LoginLink{User: "anna"}); !failed(err, 429, "100") {
		t.Errorf("the 101st open link = %v, want 429", err)
	}
	d.Advance(10 * time.Minute)
	if _, err := c.NewLoginLink(ctx, control.LoginLink{User: "anna"}); err != nil {
		t.Errorf("after those have ended: %v", err)
	}
}

// echo is a page that tells who asks and what it got.
func echo(*control.Service) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/web/panic" {
			panic("broken")
		}
		a, ok := control.ActorOf(r.Context())
		body, err := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %v %s %s %s %d %v %s", r.Method, r.URL.Path, ok, a.Name, a.Role, a.Reseller, len(body), err, r.Header.Get("X-OSM-Session"))
	})
}

func TestThePageIsServedWithItsActor(t *testing.T) {
	d := controltest.NewWithPage(t, enforced, echo)
	asserted := http.Header{"X-Osm-User": {"bob"}, "X-Osm-Role": {"reseller"}, "X-Osm-Session": {"s1"}}
	status, body := do(t, d, "POST", "/web/held/settle?x=y", "a=b", asserted)
	if os.Geteuid() == 0 {
		if want := "POST /web/held/settle true bob reseller bob 3 <nil> s1"; status != 200 || body != want {
			t.Errorf("a reseller's page = %d %q, want %q", status, body, want)
		}
	} else if status != 403 {
		t.Errorf("asserted by a user who is not root = %d, want 403", status)
	}
	if status, body := do(t, d, "GET", "/web/", "", nil); status != 200 || !strings.Contains(body, "operator") {
		t.Errorf("without an assertion = %d %q, want an operator", status, body)
	}
	if status, _ := do(t, d, "POST", "/web/x", strings.Repeat("x", 1<<20+1), nil); status != 413 {
		t.Errorf("a body over 1 MiB = %d, want 413", status)
	}
	if status, body := do(t, d, "GET", "/web/panic", "", nil); status != 500 || strings.Contains(body, "broken") {
		t.Errorf("a page that panics = %d %q, want 500 without its words", status, body)
	}
	if status, _ := do(t, d, "GET", "/v1/status", "", nil); status != 200 {
		t.Errorf("the API beside it = %d", status)
	}
	without := controltest.New(t, enforced)
	if status, _ := do(t, without, "GET", "/web/", "", nil); status != 404 {
		t.Errorf("without a page = %d, want 404", status)
	}
}

func TestAChangeTellsItsNumber(t *testing.T) {
	d := controltest.New(t, enforced)
	c := control.NewClient(d.Socket)
	defer c.Close()
	header := func(method, path, body string) string {
		t.Helper()
		return headerOf(t, d, method, path, body).Get("X-Osm-Change")
	}
	if got := header("PUT", "/v1/settings", `{"key":"checking","value":"off"}`); got != fmt.Sprint(lastChange(t, d).ID) {
		t.Errorf("the change is number %q, want %d", got, lastChange(t, d).ID)
	}
	if got := header("GET", "/v1/settings", ""); got != "" {
		t.Errorf("a look is change number %q", got)
	}
	if got := header("POST", "/v1/audit/1/undo", ""); got != "2" {
		t.Errorf("the undo is number %q, want 2", got)
	}
	if got := header("PUT", "/v1/settings", `{"key":"checking","value":"perhaps"}`); got != "" {
		t.Errorf("what was refused is change number %q", got)
	}
}
