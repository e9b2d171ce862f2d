package store

import (
	"context"
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"osm/policy"
)

// mixed stores n decisions of logins and scripts, every tenth stopped.
func mixed(t *testing.T, f *fixture, n uint64) []*policy.Decision {
	t.Helper()
	var all []*policy.Decision
	for seq := uint64(1); seq <= n; seq++ {
		d := exampleDecision(seq)
		switch {
		case seq%10 == 0:
			d = frozen(d)
		case seq%10 == 5:
			d = scriptDecision(seq, "shop1")
		case seq%10 == 6: // a shared web user's, with a claim
			d = scriptDecision(seq, "(shared:nobody)")
			d.Identity.Directory, d.Identity.DirectoryAccount, d.Identity.Claimed = "/home/shop1/public_html", "shop1", true
		case seq%10 == 7:
			d.Would, d.Reason = policy.Deny, policy.ReasonOverload
		}
		all = append(all, d)
		f.Append(d)
	}
	f.flush(t)
	return all
}

func TestDecisionsAreListedByWhatIsAskedFor(t *testing.T) {
	f := start(t, "")
	all := mixed(t, f, 3_000)
	shop1 := func(d *policy.Decision) bool { return d.Identity.Account == "shop1" }
	from, to := day.Add(1000*time.Second), day.Add(2000*time.Second)
	for _, c := range []struct {
		name   string
		filter DecisionFilter
		want   func(d *policy.Decision) bool
	}{
		{"all", DecisionFilter{}, func(*policy.Decision) bool { return true }},
		{"an account", DecisionFilter{Account: "shop1"}, shop1},
		{"an account's stopped ones", DecisionFilter{Account: "shop1", Verdict: "stopped"}, func(d *policy.Decision) bool { return shop1(d) && d.Verdict != policy.Accept }},
		{"an account's frozen ones of a time", DecisionFilter{Account: "shop1", Verdict: "freeze", Since: from, Until: to}, func(d *policy.Decision) bool {
			return shop1(d) && d.Verdict == policy.Freeze && !d.At.Wall.Before(from) && d.At.Wall.Before(to)
		}},
		{"what was accepted", DecisionFilter{Verdict: "accept"}, func(d *policy.Decision) bool { return d.Verdict == policy.Accept }},
		{"what was denied", DecisionFilter{Verdict: "deny"}, func(d *policy.Decision) bool { return d.Verdict == policy.Deny }},
		{"a mailbox", DecisionFilter{Mailbox: "info@shop1.example"}, func(d *policy.Decision) bool { return d.Identity.Mailbox == "info@shop1.example" }},
		{"a directory", DecisionFilter{Directory: "/home/shop1/public_html"}, func(d *policy.Decision) bool { return d.Identity.Directory == "/home/shop1/public_html" }},
		{"whose directory", DecisionFilter{DirectoryAccount: "shop1", Source: "script"}, func(d *policy.Decision) bool { return d.Identity.DirectoryAccount == "shop1" }},
		{"an address", DecisionFilter{ClientIP: netip.MustParseAddr("192.0.2.9")}, func(d *policy.Decision) bool { return d.Identity.ClientIP == netip.MustParseAddr("192.0.2.9") }},
		{"a folded Subject that all have", DecisionFilter{Subject: "order #", Since: from}, func(d *policy.Decision) bool { return !d.At.Wall.Before(from) }},
		{"what was counted", DecisionFilter{Counted: true}, func(d *policy.Decision) bool { return d.Counted }},
		{"nobody's", DecisionFilter{Account: "nobody"}, func(*policy.Decision) bool { return false }},
	} {
		var want, got []uint64
		for i := len(all) - 1; i >= 0; i-- {
			if c.want(all[i]) {
				want = append(want, all[i].Seq)
			}
		}
		for c.filter.Limit = 333; ; {
			list, next, err := f.Decisions(context.Background(), c.filter)
			if err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			for _, d := range list {
				got = append(got, d.Seq)
			}
			if next == "" {
				break
			}
			c.filter.After = next
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %d, want %d", c.name, len(got), len(want))
		}
	}
	for _, wrong := range []DecisionFilter{{Verdict: "eat"}, {Source: "sky"}, {After: "x"}} {
		if _, _, err := f.Decisions(context.Background(), wrong); err == nil {
			t.Errorf("%+v: got no error", wrong)
		}
	}
}

func TestTheMessagesThatFilledACounterAreFound(t *testing.T) {
	f := start(t, "")
	all := mixed(t, f, 500)
	for _, c := range []struct {
		name string
		key  Filled
		want func(id *policy.Identity) bool
	}{
		{"account", Filled{Watch: policy.WatchAccount, Account: "shop1"}, func(id *policy.Identity) bool { return id.Account == "shop1" }},
		{"subject", Filled{Watch: policy.WatchSubject, Account: "shop1", SubjectKey: "order #"}, func(id *policy.Identity) bool { return id.Account == "shop1" }},
		{"scripts", Filled{Watch: policy.WatchScripts, Account: "shop1"}, func(id *policy.Identity) bool { return id.Account == "shop1" && id.Source == policy.SourceScript }},
		{"directory", Filled{Watch: policy.WatchDirectory, Account: "shop1", Directory: "/home/shop1/public_html"}, func(id *policy.Identity) bool { return id.DirectoryAccount == "shop1" }},
		{"login", Filled{Watch: policy.WatchLogin, Account: "shop2", Mailbox: "info@shop2.example"}, func(id *policy.Identity) bool { return id.Mailbox == "info@shop2.example" }},
		{"client-ip", Filled{Watch: policy.WatchClientIP, ClientIP: netip.MustParseAddr("192.0.2.9"), IPClass: policy.IPLogin}, func(id *policy.Identity) bool { return id.ClientIP == netip.MustParseAddr("192.0.2.9") }},
		{"automatic", Filled{Watch: policy.WatchAutomatic, Account: "shop1"}, func(*policy.Identity) bool { return false }},
	} {
		want := 0
		for _, d := range all {
			if d.Counted && c.want(&d.Identity) {
				want++
			}
		}
		list, err := f.MessagesThatFilled(context.Background(), c.key, day, day.Add(time.Hour), 1000)
		if err != nil || len(list) != want {
			t.Errorf("%s: got %d, %v; want %d", c.name, len(list), err, want)
		}
	}
	if _, err := f.MessagesThatFilled(context.Background(), Filled{Watch: policy.WatchDirect}, day, day, 1); err == nil {
		t.Error("a watch that counts no messages: got no error")
	}
}

func TestOnlyTheMessagesOfItsOwnCounterAreFound(t *testing.T) {
	f := start(t, "")
	seq := uint64(0)
	send := func(id policy.Identity) {
		seq++
		d := exampleDecision(seq)
		d.Identity, d.Submission.ClientIP = id, id.ClientIP
		f.Append(d)
	}
	unknown := func(who string) policy.Identity {
		return policy.Identity{Account: policy.AccountUnknown, Source: policy.SourceScript, SubKey: who, Directory: "/srv/x", DirectoryAccount: policy.AccountUnknown}
	}
	login := func(account, ip string) policy.Identity {
		return policy.Identity{Account: account, Source: policy.SourceLogin, Mailbox: "info@shop.example", ClientIP: netip.MustParseAddr(ip), IPClass: policy.IPLogin}
	}
	send(unknown("uid 4711"))
	send(unknown("uid 4711"))
	send(unknown("192.0.2.1"))
	send(policy.Identity{Account: "shop", Source: policy.SourceScript})
	send(policy.Identity{Account: "shop", Source: policy.SourceAutomatic, ClientIP: netip.MustParseAddr("2001:db8::9"), IPClass: policy.IPLogin})
	send(policy.Identity{Account: "shop", Source: policy.SourceLocal, Directory: "/home/shop", DirectoryAccount: "shop"})
	send(policy.Identity{Account: "shop", Source: policy.SourceScript, Directory: "/home/shop", DirectoryAccount: "shop"})
	send(login("shop", "2001:db8::1"))
	send(login("blog", "2001:db8::ffff:ffff:ffff:ffff"))
	send(login("shop", "2001:db8:0:1::1"))
	send(login("shop", "32.1.13.184")) // the first bytes of that network
	f.flush(t)
	for _, c := range []struct {
		name string
		key  Filled
		want int
	}{
		{"an unknown uid", Filled{Watch: policy.WatchAccount, Account: policy.AccountUnknown, SubKey: "uid 4711"}, 2},
		{"an unknown address", Filled{Watch: policy.WatchAccount, Account: policy.AccountUnknown, SubKey: "192.0.2.1"}, 1},
		{"an unknown uid's Subject", Filled{Watch: policy.WatchSubject, Account: policy.AccountUnknown, SubKey: "uid 4711", SubjectKey: "order #"}, 2},
		{"an unknown uid's scripts", Filled{Watch: policy.WatchScripts, Account: policy.AccountUnknown, SubKey: "uid 4711"}, 2},
		{"a directory of unknown uids", Filled{Watch: policy.WatchDirectory, Account: policy.AccountUnknown, SubKey: "uid 4711", Directory: "/srv/x"}, 3},
		{"an account without its auto-replies", Filled{Watch: policy.WatchAccount, Account: "shop"}, 6},
		{"a Subject without the auto-replies", Filled{Watch: policy.WatchSubject, Account: "shop", SubjectKey: "order #"}, 6},
		{"auto-replies alone", Filled{Watch: policy.WatchAutomatic, Account: "shop"}, 1},
		{"scripts of a directory", Filled{Watch: policy.WatchDirectory, Account: "shop", Directory: "/home/shop"}, 1},
		{"an IPv6 address, with its network", Filled{Watch: policy.WatchClientIP, ClientIP: netip.MustParseAddr("2001:db8::7"), IPClass: policy.IPLogin}, 2},
		{"an IPv4 address, alone", Filled{Watch: policy.WatchClientIP, ClientIP: netip.MustParseAddr("::ffff:32.1.13.184"), IPClass: policy.IPLogin}, 1},
	} {
		list, err := f.MessagesThatFilled(context.Background(), c.key, day, day.Add(time.Hour), 1000)
		if err != nil || len(list) != c.want {
			t.Errorf("%s: got %d, %v; want %d", c.name, len(list), err, c.want)
		}
	}
}

func TestTheTopOfManySendersIsReadPageByPage(t *testing.T) {
	f := start(t, "")
	for seq := uint64(1); seq <= 700; seq++ {
		f.Append(exampleDecision(seq)) // shop0 to shop6
	}
	f.flush(t)
	ctx := context.Background()
	for _, c := range []struct {
		name     string
		accounts []string
		want     int
	}{{"all", nil, 7}, {"some", []string{"shop0", "shop2", "shop4", "shop6", "stranger"}, 4}, {"none", []string{}, 0}} {
		seen := map[string]bool{}
		filter := TopFilter{Since: day, By: "messages", Accounts: c.accounts, Limit: 2}
		for pages := 0; pages == 0 || filter.After != ""; pages++ {
			top, err := f.Top(ctx, filter)
			if err != nil || len(top.Items) > 2 || pages > 4 {
				t.Fatalf("%s, page %d: %+v, %v", c.name, pages, top, err)
			}
			for _, s := range top.Items {
				if seen[s.Account] || c.accounts != nil && !slices.Contains(c.accounts, s.Account) {
					t.Errorf("%s: %s is listed twice, or at all", c.name, s.Account)
				}
				seen[s.Account] = true
			}
			filter.After = top.Next
		}
		if len(seen) != c.want {
			t.Errorf("%s: %d accounts on all pages, want %d", c.name, len(seen), c.want)
		}
	}
}

func TestTotalsAreWhatTheDecisionsSay(t *testing.T) {
	f := start(t, "")
	all := mixed(t, f, 3*3600) // three hours, a message a second
	ctx := context.Background()
	for _, since := range []time.Time{day, day.Add(40 * time.Minute), day.Truncate(time.Hour).Add(2 * time.Hour), day.Add(100 * time.Hour)} {
		want := make(map[string]Tally)
		var sum Tally
		for _, d := range all {
			if d.At.Wall.Before(since) {
				continue
			}
			r := pack(d)
			tally := want[d.Identity.Account]
			tally.add(&r)
			want[d.Identity.Account] = tally
			sum.add(&r)
		}
		for _, by := range []string{"messages", "recipients"} {
			top, err := f.Top(ctx, TopFilter{Since: since, By: by, Limit: 100})
			if err != nil || !top.Since.Equal(since) || len(top.Items) != len(want) {
				t.Fatalf("top by %s since %v: got %+v, %v; want %d accounts", by, since, top, err, len(want))
			}
			for i, s := range top.Items {
				if s.Tally != want[s.Account] {
					t.Errorf("top by %s since %v: %s got %+v, want %+v", by, since, s.Account, s.Tally, want[s.Account])
				}
				if i > 0 && measures[by].of(&s.Tally) > measures[by].of(&top.Items[i-1].Tally) {
					t.Errorf("top by %s since %v: %s stands below %s", by, since, s.Account, top.Items[i-1].Account)
				}
			}
		}
		if since.Second() != 0 {
			continue // a histogram begins with a whole minute
		}
		var got Tally
		list, err := f.Histogram(ctx, since, 10*time.Minute)
		for _, b := range list {
			for i, c := range b.columns() {
				*got.columns()[i] += *c
			}
			got.Stopped += b.Stopped
		}
		if err != nil || got != sum {
			t.Errorf("histogram since %v: got %+v, %v; want %+v", since, got, err, sum)
		}
	}
	if top, err := f.Top(ctx, TopFilter{Since: day, By: "stopped", Limit: 3}); err != nil || len(top.Items) != 3 || top.Items[0].Stopped == 0 {
		t.Errorf("top by stopped: got %+v, %v", top, err)
	}
	for _, wrong := range []TopFilter{{Since: day, By: "beauty"}, {Since: day, By: "stopped", After: "x"}, {Since: day, By: "stopped", After: "-1"}} {
		if _, err := f.Top(ctx, wrong); err == nil {
			t.Errorf("top of %+v: got no error", wrong)
		}
	}
	if _, err := f.Histogram(ctx, day, 90*time.Second); err == nil {
		t.Error("a step of one and a half minutes: got no error")
	}
}

func TestCountedDecisionsAreReplayedOnThisBootsClock(t *testing.T) {
	f := start(t, "")
	var want []Counted
	for _, d := range mixed(t, f, 300) {
		if d.Counted {
			want = append(want, Counted{d.Seq, d.At, d.Identity, d.SubjectKey, d.Submission.Recipients})
		}
	}
	for i := range want { // what counters do not need
		want[i].Identity.Basis, want[i].Identity.Script = "", ""
	}
	replay := func(f *fixture, seq uint64, since time.Time, now policy.Moment) (got []Counted) {
		t.Helper()
		err := f.ReplaySince(context.Background(), seq, since, now, func(c *Counted) error {
			got = append(got, *c)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	now := policy.Moment{Wall: day.Add(time.Hour), Boot: policy.BootShift + 3_600_000}
	if got := replay(f, 0, time.Time{}, now); !reflect.DeepEqual(got, want) {
		t.Errorf("all:\n got %+v\nwant %+v", got[:2], want[:2])
	}
	if got := replay(f, 100, time.Time{}, now); len(got) == 0 || got[0].Seq != 101 {
		t.Errorf("after number 100: got %d from %d on", len(got), got[0].Seq)
	}
	if got := replay(f, 0, day.Add(200*time.Second), now); len(got) == 0 || got[0].Seq != 201 { // 200 was stopped
		t.Errorf("from 200 s on: got %d from %d on", len(got), got[0].Seq)
	}

	// The wall clock is set by an hour: the boot clock of what follows is kept.
	jumped := exampleDecision(301)
	jumped.At.Wall = jumped.At.Wall.Add(time.Hour)
	f.Append(jumped)
	f.flush(t)
	if got := replay(f, 300, time.Time{}, now); len(got) != 1 || got[0].At != jumped.At {
		t.Errorf("after the clock was set: got %+v, want %+v", got, jumped.At)
	}

	// The machine is booted again: what was before is moved by wall clock.
	f.stop()
	again := start(t, f.path, func(o *Options) { o.BootID = "boot-2" })
	now = policy.Moment{Wall: day.Add(2 * time.Hour), Boot: policy.BootShift + 60_000} // up for a minute, two hours after the first message
	got := replay(again, 0, time.Time{}, now)
	if at := policy.BootShift + 60_000 - 7_200_000 + int64(1000); len(got) == 0 || got[0].At.Boot != at {
		t.Errorf("after a boot: the first message is at %d, want %d", got[0].At.Boot, at)
	}
	stop := errors.New("stop")
	if err := again.ReplaySince(context.Background(), 0, time.Time{}, now, func(*Counted) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("an error of fn: got %v", err)
	}
}

func FuzzMessageTime(f *testing.F) {
	for _, s := range []string{"1vN3xQ-000abc-2F", "1vN3xQ-000000006Ds-2F0K", "", "------------------", "zzzzzz-zzzzzz-zz"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, id string) {
		at, ok := messageTime(id)
		if !ok {
			return
		}
		if len(id) != 16 && len(id) != 23 {
			t.Errorf("%q is a message id?", id)
		}
		if again := messageID(at, 0)[:6]; again != id[:6] {
			t.Errorf("%q: the time %v is written %q", id, at, again)
		}
	})
}

func FuzzClean(f *testing.F) {
	for _, s := range []string{"", "plain", "a\x00b", "\xff\xfe", strings.Repeat("é", 300), "\u0085\u009b"} {
		f.Add(s, 20)
	}
	f.Fuzz(func(t *testing.T, s string, max int) {
		max = min(max&1023, 512)
		got := clean(s, max)
		if len(got) > max || !utf8.ValidString(got) || strings.IndexFunc(got, unicode.IsControl) >= 0 {
			t.Errorf("clean(%q, %d) = %q", s, max, got)
		}
		if clean(got, max) != got {
			t.Errorf("clean(%q, %d) is not clean: %q", s, max, got)
		}
	})
}
