package store

import (
	"context"
	"fmt"
	"reflect"
	"testing"
	"time"

	"osm/policy"
)

func TestSharesAreWhatAnAccountsMessagesHaveInCommon(t *testing.T) {
	f := start(t, "")
	all := mixed(t, f, 3_000)
	ctx, since := context.Background(), day.Add(1000*time.Second)
	got, err := f.Shares(ctx, "shop1", since)
	if err != nil {
		t.Fatal(err)
	}
	var looked int64
	mailboxes, scripts := map[string]*Share{}, map[string]*Share{}
	count := func(in map[string]*Share, key string, d *policy.Decision) {
		if key == "" {
			return
		}
		addShare(in, key, d.Verdict != policy.Accept, int64(d.Submission.Recipients))
	}
	for _, d := range all {
		if d.Identity.Account != "shop1" || d.At.Wall.Before(since) {
			continue
		}
		looked++
		count(mailboxes, d.Identity.Mailbox, d)
		count(scripts, d.Identity.Script, d)
	}
	if got.Looked != looked || looked == 0 || !got.Since.Equal(since) {
		t.Errorf("looked at %d since %s, want %d since %s", got.Looked, got.Since, looked, since)
	}
	same := func(s string) string { return s }
	if want := most(mailboxes, same); !reflect.DeepEqual(got.Mailboxes, want) {
		t.Errorf("mailboxes %+v, want %+v", got.Mailboxes, want)
	}
	if want := most(scripts, same); !reflect.DeepEqual(got.Scripts, want) || len(want) == 0 {
		t.Errorf("scripts %+v, want %+v", got.Scripts, want)
	}
	if len(got.Subjects) != 1 || got.Subjects[0].Value != "order #" || len(got.ClientIPs) == 0 {
		t.Errorf("Subjects %+v, addresses %+v", got.Subjects, got.ClientIPs)
	}
	if none, err := f.Shares(ctx, "nobody", since); err != nil || none.Looked != 0 || len(none.Mailboxes) != 0 {
		t.Errorf("nobody's: %+v, %v", none, err)
	}
}

func TestSharesOfTooManyMessagesSaySinceWhen(t *testing.T) {
	f := start(t, "")
	const n, rows = 3_000, 1_000
	for seq := uint64(1); seq <= n; seq++ {
		d := exampleDecision(seq)
		d.Identity.Account = "shop1"
		if seq%10 != 0 { // most of it is somebody else's
			d.Identity.Account = "other"
		}
		f.Append(d)
	}
	f.flush(t)
	got, err := f.shares(context.Background(), "shop1", day, rows)
	if err != nil {
		t.Fatal(err)
	}
	if first := exampleDecision(n - rows + 1).At.Wall; !got.Since.Equal(first) || got.Looked != rows/10 {
		t.Errorf("looked at %d since %s, want %d since %s", got.Looked, got.Since, rows/10, first)
	}
	if got, err = f.shares(context.Background(), "shop1", day, n); err != nil || !got.Since.Equal(day) || got.Looked != n/10 {
		t.Errorf("all: looked at %d since %s, %v", got.Looked, got.Since, err)
	}
}

func TestRatesOfAccountsAreWhatTheDecisionsSay(t *testing.T) {
	f := start(t, "")
	all := mixed(t, f, 9_000)
	ctx, since := context.Background(), day.Add(time.Hour).Truncate(time.Hour)
	names := []string{"shop1", "(shared:nobody)", "nobody"}
	want := map[int64]Tally{}
	totals := map[string]Tally{}
	for _, d := range all {
		if d.At.Wall.Before(since) {
			continue
		}
		r := pack(d)
		for _, name := range names {
			if d.Identity.Account != name {
				continue
			}
			piece, total := want[d.At.Wall.Truncate(time.Hour).UnixMilli()], totals[name]
			piece.add(&r)
			total.add(&r)
			want[d.At.Wall.Truncate(time.Hour).UnixMilli()], totals[name] = piece, total
		}
	}
	many := append([]string{}, names...)
	for i := range fewAccounts + 1 { // so many that the hours are read whole
		many = append(many, fmt.Sprintf("acct%d", i))
	}
	for i, name := range many[len(names):] {
		d := exampleDecision(uint64(20_000 + i))
		d.Identity.Account, d.At.Wall = name, day.Add(-48*time.Hour)
		f.Append(d)
	}
	f.flush(t)
	for what, list := range map[string][]string{"few": names, "many": many} {
		got, err := f.HistogramOf(ctx, list, since, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != len(want) {
			t.Errorf("%s: %d pieces, want %d", what, len(got), len(want))
		}
		for _, b := range got {
			if b.Tally != want[b.At.UnixMilli()] {
				t.Errorf("%s at %s: %+v, want %+v", what, b.At, b.Tally, want[b.At.UnixMilli()])
			}
		}
	}
	sums, err := f.Tallies(ctx, many, since)
	if err != nil || !reflect.DeepEqual(sums, totals) {
		t.Errorf("totals %+v, %v, want %+v", sums, err, totals)
	}
	if _, err := f.HistogramOf(ctx, names, since, time.Minute); err == nil {
		t.Error("pieces of a minute: got no error")
	}
	if list, err := f.AccountNames(ctx, "(", ")", 10); err != nil || len(list) != 1 || list[0] != "(shared:nobody)" {
		t.Errorf("names in parentheses: %v, %v", list, err)
	}
	if top, err := f.Top(ctx, TopFilter{Since: since, By: "messages", Accounts: names[:1], Limit: 10}); err != nil || len(top.Items) != 1 || top.Items[0].Tally != totals["shop1"] {
		t.Errorf("top of one account: %+v, %v, want %+v", top.Items, err, totals["shop1"])
	}
}

func TestThePastComesInOrderAndCutWhereItIsTooLong(t *testing.T) {
	f := start(t, "")
	all := mixed(t, f, 3_000)
	ctx, now := context.Background(), policy.Moment{Wall: day.Add(time.Hour), Boot: policy.BootShift + time.Hour.Milliseconds()}
	read := func(filter PastFilter) (seqs []uint64) {
		t.Helper()
		last := int64(0)
		err := f.EachPast(ctx, filter, now, func(c *Counted) error {
			if c.At.Boot < last {
				t.Errorf("message %d comes before the one before it", c.Seq)
			}
			seqs, last = append(seqs, c.Seq), c.At.Boot
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return seqs
	}
	for _, c := range []struct {
		name   string
		filter PastFilter
		want   func(d *policy.Decision) bool
		cut    bool
	}{
		{"all, stopped ones too", PastFilter{Since: day, Newest: 5_000}, func(*policy.Decision) bool { return true }, false},
		{"since", PastFilter{Since: day.Add(1500 * time.Second), Newest: 5_000}, func(d *policy.Decision) bool { return !d.At.Wall.Before(day.Add(1500 * time.Second)) }, false},
		{"the newest", PastFilter{Since: day, Newest: 1_000}, func(d *policy.Decision) bool { return d.Seq > 2_000 }, true},
		{"of an account, with what is claimed for it", PastFilter{Since: day, Newest: 5_000, Accounts: []string{"shop1"}}, func(d *policy.Decision) bool {
			return d.Identity.Account == "shop1" || d.Identity.Claimed && d.Identity.DirectoryAccount == "shop1"
		}, false},
		{"of nobody", PastFilter{Since: day, Newest: 5_000, Accounts: []string{}}, func(*policy.Decision) bool { return false }, false},
	} {
		var want []uint64
		for _, d := range all {
			if c.want(d) {
				want = append(want, d.Seq)
			}
		}
		if got := read(c.filter); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %d messages, want %d", c.name, len(got), len(want))
		}
		_, past, err := f.PastOf(ctx, c.filter)
		from := time.Time{}
		if first := exampleDecision(1).At.Wall; c.cut {
			from = exampleDecision(2_001).At.Wall
		} else if first.After(c.filter.Since) {
			from = first
		}
		if err != nil || past.Cut != c.cut || !past.From.Equal(from) {
			t.Errorf("%s: %+v, %v, want it from %s", c.name, past, err, from)
		}
	}
}

func TestSettingsAreReplacedAndDeleted(t *testing.T) {
	f := start(t, "")
	ctx := context.Background()
	put := func(key, value, by string) {
		t.Helper()
		if err := f.PutSetting(ctx, Setting{Key: key, Value: value, Provenance: policy.Provenance{By: by, At: day, Reason: "why"}}); err != nil {
			t.Fatal(err)
		}
	}
	put("held.keep", "20d", "anna")
	put("checking", "false", "root")
	put("held.keep", "10d", "bert")
	want := []Setting{
		{"checking", "false", policy.Provenance{Where: "database", By: "root", At: day, Reason: "why"}},
		{"held.keep", "10d", policy.Provenance{Where: "database", By: "bert", At: day, Reason: "why"}},
	}
	if list, err := f.Settings(ctx); err != nil || !reflect.DeepEqual(list, want) {
		t.Errorf("settings %+v, %v, want %+v", list, err, want)
	}
	if err := f.DeleteSetting(ctx, "checking"); err != nil {
		t.Fatal(err)
	}
	if err := f.DeleteSetting(ctx, "checking"); nothing(err) != nil || err == nil {
		t.Errorf("deleting it again: %v, want ErrNotFound", err)
	}
	if list, err := f.Settings(ctx); err != nil || len(list) != 1 {
		t.Errorf("settings %+v, %v, want one", list, err)
	}
}
