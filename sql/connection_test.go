package store

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"osm/policy"
)

// directDecision is a connection of a script in an account's directory.
func directDecision(seq uint64, account string) *policy.Decision {
	dir := "/home/" + account + "/public_html"
	return &policy.Decision{
		Seq: seq, At: policy.Moment{Wall: day.Add(time.Duration(seq) * time.Second), Boot: policy.BootShift + int64(seq)*1000}, Counted: true,
		Identity: policy.Identity{Account: account, Source: policy.SourceDirect, Basis: "uid 1001 of the socket", Directory: dir, DirectoryAccount: account, Script: dir + "/mail.php"},
		Submission: &policy.Submission{CallerUID: -1, Direct: &policy.Connection{
			Seen: "ebpf", Local: netip.MustParseAddrPort("192.0.2.1:40001"), Remote: netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(seq)}), 25),
			UID: 1001, UIDKnown: true, Outcome: policy.OutcomeEstablished, Cgroup: "/lve1001",
			Chain: []policy.Process{
				{PID: 700, UID: 1001, Executable: "/usr/bin/php", WorkingDirectory: dir, Args: []string{"php", "mail.php"}, Started: 12345},
				{PID: 600, UID: 1001, Executable: "/bin/sh", WorkingDirectory: "/", Args: []string{"sh", "-c", "php mail.php"}, Started: 12340},
				{PID: 500, UID: 0, Executable: "/usr/sbin/crond", WorkingDirectory: "/", Args: []string{"crond"}, Started: 99},
			},
		}},
	}
}

func TestAConnectionComesBackAsItWas(t *testing.T) {
	f := start(t, "")
	ctx := context.Background()
	d := directDecision(7, "shop")
	d.Would, d.Trigger, d.Reason = policy.Freeze, "direct-hour", policy.ReasonOver
	d.Over = []policy.Over{{Trigger: "direct-hour", Watch: policy.WatchDirect, Key: "shop", Mode: policy.Observe, Count: policy.Connections, Max: 30, Per: time.Hour, Used: 30, Units: 1}}
	d.Ref = policy.RefOf(7, f.RefKey())
	bare := directDecision(8, "blog")
	bare.Ref, bare.Identity.Directory, bare.Submission.Direct = policy.RefOf(8, f.RefKey()), "", &policy.Connection{Seen: "packet", Remote: netip.MustParseAddrPort("[2001:db8::1]:465"), Local: netip.MustParseAddrPort("[2001:db8::9]:0")}
	for _, d := range []*policy.Decision{d, bare} {
		if !f.Append(d) {
			t.Fatal("Append refused a connection")
		}
	}
	f.flush(t)
	got, err := f.ConnectionBySeq(ctx, 7)
	if err != nil || !reflect.DeepEqual(got, ConnectionOf(d)) {
		t.Errorf("the stored connection is not what was shown before:\n got %+v, %v\nwant %+v", got, err, ConnectionOf(d))
	}
	if got.UID == nil || *got.UID != 1001 || got.PID != 700 || got.Executable != "/usr/bin/php" || got.StartedBy == nil || got.StartedBy.PID != 500 ||
		got.Local != "192.0.2.1:40001" || got.Remote != "198.51.100.7:25" || got.Outcome != "established" || got.SeenBy != "ebpf" || got.Cgroup != "/lve1001" ||
		fmt.Sprint(got.Arguments) != "[php mail.php]" || len(got.Over) != 1 || got.Over[0].Count != "connections" || got.Would != "freeze" || len(got.Processes) != 3 {
		t.Errorf("got %+v", got)
	}
	other, err := f.ConnectionBySeq(ctx, 8)
	if err != nil || other.UID != nil || other.PID != 0 || other.StartedBy != nil || other.Local != "2001:db8::9" || other.Remote != "[2001:db8::1]:465" || other.Outcome != "unknown" {
		t.Errorf("a connection of which little is known: %+v, %v", other, err)
	}
	b, err := json.Marshal(other)
	if err != nil || !strings.Contains(string(b), `"uid":null`) || !strings.Contains(string(b), `"over":[]`) || !strings.Contains(string(b), `"arguments":[]`) {
		t.Errorf("as JSON: %s, %v", b, err)
	}
	if d, err := f.DecisionByRef(ctx, got.Ref); err != nil || d.Source != "direct" || d.MessageID != "" || d.Account != "shop" {
		t.Errorf("its decision: %+v, %v", d, err)
	}
}

func TestWhatIsOnlyAddedUpIsNotKept(t *testing.T) {
	f := start(t, "")
	for seq := uint64(1); seq <= 10; seq++ {
		if seq%5 == 0 {
			f.Append(directDecision(seq, "shop"))
		} else {
			f.Tally(directDecision(seq, "shop"))
		}
	}
	f.flush(t)
	ctx, since := context.Background(), day.Add(-time.Hour)
	list, _, err := f.Connections(ctx, ConnectionFilter{Account: "shop", Since: since})
	if err != nil || len(list) != 2 || list[0].Seq != 10 || list[1].Seq != 5 {
		t.Errorf("got %+v, %v, want two of ten", list, err)
	}
	top, err := f.Top(ctx, TopFilter{Since: since, By: "connections", Limit: 10})
	if err != nil || len(top.Items) != 1 || top.Items[0].Connections != 10 {
		t.Errorf("got %+v, %v, want all ten added up", top, err)
	}
}

func TestConnectionsAreNoMessages(t *testing.T) {
	f := start(t, "")
	ctx, since := context.Background(), day.Add(-time.Hour)
	for seq := uint64(1); seq <= 40; seq++ {
		d := directDecision(seq, "shop")
		d.Would = policy.Freeze
		if seq%4 == 0 {
			d = scriptDecision(seq, "shop")
		}
		f.Append(d)
	}
	f.flush(t)
	want := Tally{Messages: 10, Connections: 30}
	for seq := int64(4); seq <= 40; seq += 4 {
		want.Recipients += seq%5 + 1
	}
	sum := func(list []Bucket) (t Tally) {
		for i := range list {
			t.Add(&list[i].Tally)
		}
		return t
	}
	if list, err := f.Histogram(ctx, since, time.Minute); err != nil || sum(list) != want {
		t.Errorf("histogram: %+v, %v; want %+v", sum(list), err, want)
	}
	if list, err := f.HistogramOf(ctx, []string{"shop"}, since, time.Hour); err != nil || sum(list) != want {
		t.Errorf("histogram of the account: %+v, %v; want %+v", sum(list), err, want)
	}
	if sums, err := f.Tallies(ctx, []string{"shop"}, since.Truncate(time.Hour)); err != nil || sums["shop"] != want {
		t.Errorf("tallies: %+v, %v; want %+v", sums, err, want)
	}
	for _, by := range []string{"messages", "connections"} {
		for name, at := range map[string]time.Time{"of full hours": since.Truncate(time.Hour), "of a part of an hour": day} {
			if top, err := f.Top(ctx, TopFilter{Since: at, By: by}); err != nil || len(top.Items) != 1 || top.Items[0].Tally != want {
				t.Errorf("top by %s %s: %+v, %v; want %+v", by, name, top, err, want)
			}
		}
	}
	if s, err := f.Shares(ctx, "shop", since); err != nil || s.Looked != 10 {
		t.Errorf("shares: %+v, %v; want those of 10 messages", s, err)
	}
	for name, filter := range map[string]DecisionFilter{"all": {}, "an account": {Account: "shop"}, "accepted": {Verdict: "accept"}, "of a reseller": {Accounts: []string{"shop"}}} {
		if list, _, err := f.Decisions(ctx, filter); err != nil || len(list) != 10 {
			t.Errorf("messages, %s: %d, %v; want 10", name, len(list), err)
		}
	}
	if list, _, err := f.Decisions(ctx, DecisionFilter{Verdict: "observed"}); err != nil || len(list) != 0 {
		t.Errorf("observed messages: %d, %v; want none", len(list), err)
	}
	if list, _, err := f.Decisions(ctx, DecisionFilter{Source: "direct"}); err != nil || len(list) != 30 {
		t.Errorf("decisions of source direct: %d, %v; want 30", len(list), err)
	}
	now := policy.Moment{Wall: day.Add(time.Hour), Boot: policy.BootShift + 3_600_000}
	for connections, want := range map[bool]int{false: 10, true: 30} {
		n := 0
		err := f.EachPast(ctx, PastFilter{Since: since, Newest: 1000, Connections: connections}, now, func(*Counted) error { n++; return nil })
		if err != nil || n != want {
			t.Errorf("the past, connections %v: %d, %v; want %d", connections, n, err, want)
		}
	}
	var direct int
	for _, c := range replayed(t, f, 0, time.Time{}, now) {
		if c.Identity.Source == policy.SourceDirect {
			direct++
			if c.Identity.Account != "shop" || c.Identity.DirectoryAccount != "shop" || c.Identity.Directory != "/home/shop/public_html" {
				t.Fatalf("came back as %+v", c.Identity)
			}
		}
	}
	if direct != 30 {
		t.Errorf("%d connections came back for the counters, want 30", direct)
	}
}

func TestConnectionsAreListedByWhatIsAskedFor(t *testing.T) {
	f := start(t, "")
	ctx := context.Background()
	var all []*policy.Decision
	for seq := uint64(1); seq <= 900; seq++ {
		d := directDecision(seq, fmt.Sprintf("shop%d", seq%3))
		switch {
		case seq%9 == 0:
			d.Submission.Direct.UIDKnown = false
			d.Submission.Direct.Remote = netip.MustParseAddrPort("[2001:db8::25]:587")
		case seq%9 == 1:
			d.Submission.Direct.UID = 1002
			d.Identity.Directory = "/home/elsewhere"
		case seq%9 > 5:
			f.Append(exampleDecision(seq))
			continue
		}
		all = append(all, d)
		f.Append(d)
	}
	f.flush(t)
	uid := int64(1002)
	direct := func(d *policy.Decision) *policy.Connection { return d.Submission.Direct }
	from, to := day.Add(100*time.Second), day.Add(200*time.Second)
	for _, c := range []struct {
		name   string
		filter ConnectionFilter
		want   func(d *policy.Decision) bool
	}{
		{"all", ConnectionFilter{}, func(*policy.Decision) bool { return true }},
		{"an account", ConnectionFilter{Account: "shop1"}, func(d *policy.Decision) bool { return d.Identity.Account == "shop1" }},
		{"an account that never was", ConnectionFilter{Account: "nobody"}, func(*policy.Decision) bool { return false }},
		{"a reseller's accounts", ConnectionFilter{Accounts: []string{"shop0", "shop2"}}, func(d *policy.Decision) bool { return d.Identity.Account != "shop1" }},
		{"a reseller's accounts, one of them", ConnectionFilter{Accounts: []string{"shop0"}, Account: "shop1"}, func(*policy.Decision) bool { return false }},
		{"a reseller without accounts", ConnectionFilter{Accounts: []string{}}, func(*policy.Decision) bool { return false }},
		{"a time", ConnectionFilter{Since: from, Until: to}, func(d *policy.Decision) bool { return !d.At.Wall.Before(from) && d.At.Wall.Before(to) }},
		{"an account's of a time", ConnectionFilter{Since: from, Account: "shop1"}, func(d *policy.Decision) bool { return !d.At.Wall.Before(from) && d.Identity.Account == "shop1" }},
		{"a directory", ConnectionFilter{Directory: "/home/elsewhere"}, func(d *policy.Decision) bool { return d.Identity.Directory == "/home/elsewhere" }},
		{"an address", ConnectionFilter{Remote: netip.MustParsePrefix("198.51.100.7/32")}, func(d *policy.Decision) bool { return direct(d).Remote.Addr() == netip.MustParseAddr("198.51.100.7") }},
		{"a network", ConnectionFilter{Remote: netip.MustParsePrefix("198.51.100.0/28")}, func(d *policy.Decision) bool {
			return netip.MustParsePrefix("198.51.100.0/28").Contains(direct(d).Remote.Addr())
		}},
		{"an IPv6 network", ConnectionFilter{Remote: netip.MustParsePrefix("2001:db8::/64")}, func(d *policy.Decision) bool { return direct(d).Remote.Addr().Is6() }},
		{"a port", ConnectionFilter{RemotePort: 587}, func(d *policy.Decision) bool { return direct(d).Remote.Port() == 587 }},
		{"a uid, which no unknown one is", ConnectionFilter{UID: &uid}, func(d *policy.Decision) bool { return direct(d).UIDKnown && direct(d).UID == 1002 }},
	} {
		var want []uint64
		for i := len(all) - 1; i >= 0; i-- {
			if c.want(all[i]) {
				want = append(want, all[i].Seq)
			}
		}
		var got []uint64
		for c.filter.Limit = 37; ; {
			list, next, err := f.Connections(ctx, c.filter)
			if err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			for i := range list {
				got = append(got, list[i].Seq)
			}
			if c.filter.After = next; next == "" {
				break
			}
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %d numbers %.80s, want %d %.80s", c.name, len(got), fmt.Sprint(got), len(want), fmt.Sprint(want))
		}
	}
	if _, _, err := f.Connections(ctx, ConnectionFilter{After: "x"}); err == nil {
		t.Error("a mark that no page gave: got no error")
	}
}

func TestTheConnectionsThatFilledACounterAreFound(t *testing.T) {
	f := start(t, "")
	seq := uint64(0)
	send := func(account, directory, subKey string, counted bool) {
		seq++
		d := directDecision(seq, account)
		d.Identity.Directory, d.Identity.SubKey, d.Counted = directory, subKey, counted
		f.Append(d)
	}
	send("shop", "/home/shop/a", "", true)
	send("shop", "/home/shop/b", "", true)
	send("shop", "/home/shop/b", "", false) // was over
	send("blog", "/home/shop/b", "", true)
	send(policy.AccountUnknown, "", "uid 7", true)
	send(policy.AccountUnknown, "", "uid 8", true)
	seq++
	f.Append(scriptDecision(seq, "shop"))
	f.flush(t)
	for _, c := range []struct {
		name string
		key  Filled
		want int
	}{
		{"an account", Filled{Watch: policy.WatchDirect, Account: "shop"}, 2},
		{"a directory of an account", Filled{Watch: policy.WatchDirectDirectory, Account: "shop", Directory: "/home/shop/b"}, 1},
		{"an unknown uid", Filled{Watch: policy.WatchDirect, Account: policy.AccountUnknown, SubKey: "uid 7"}, 1},
	} {
		list, err := f.ConnectionsThatFilled(context.Background(), c.key, day, day.Add(time.Hour), 100)
		if err != nil || len(list) != c.want {
			t.Errorf("%s: got %d, %v; want %d", c.name, len(list), err, c.want)
		}
	}
	if list, err := f.MessagesThatFilled(context.Background(), Filled{Watch: policy.WatchAccount, Account: "shop"}, day, day.Add(time.Hour), 100); err != nil || len(list) != 1 {
		t.Errorf("the messages of the account: %d, %v; want 1", len(list), err)
	}
	if _, err := f.ConnectionsThatFilled(context.Background(), Filled{Watch: policy.WatchAccount, Account: "shop"}, day, day, 1); err == nil {
		t.Error("a watch that counts no connections: got no error")
	}
}

func TestWhatProcessesCallThemselvesIsStoredHarmless(t *testing.T) {
	f := start(t, "")
	long := strings.Repeat("é<\"\\", 40_000)
	var many []string
	for range 5_000 {
		many = append(many, "-x")
	}
	chain := []policy.Process{{PID: 1 << 30, UID: 1<<32 - 1, Executable: "/tmp/\x1b[2J\n", WorkingDirectory: "\xff\xfe", Args: []string{"\x00\r\n", "'); DROP TABLE connections; --", long}}}
	for range 40 {
		chain = append(chain, policy.Process{PID: 2, Executable: long, WorkingDirectory: long, Args: many, Started: -1})
	}
	d := directDecision(1, "shop")
	d.Submission.Direct.Chain, d.Submission.Direct.Cgroup, d.Submission.Direct.Seen, d.Submission.Direct.Basis = chain, long, long, long
	d.Submission.Direct.Outcome = 250
	f.Append(d)
	f.flush(t)
	if n := ask(t, f.path, "SELECT length(CAST(processes AS BLOB)) + length(CAST(cgroup AS BLOB)) + length(seen) FROM connections"); n > processesMax+cgroupMax+seenMax {
		t.Errorf("a connection takes %d bytes", n)
	}
	got, err := f.ConnectionBySeq(context.Background(), 1)
	if err != nil || len(got.Processes) == 0 || len(got.Processes) > chainMax || !got.Processes[0].ArgumentsCut || got.Processes[0].argsLen() > argsBytes {
		t.Fatalf("got %+v, %v", got, err)
	}
	b, _ := json.Marshal(got)
	if !utf8.Valid(b) || strings.ContainsFunc(string(b), unicode.IsControl) {
		t.Errorf("control characters came back: %q", b)
	}
}

// argsLen is how long the arguments are together.
func (p *Process) argsLen() (n int) {
	for _, a := range p.Arguments {
		n += len(a)
	}
	return n
}

func TestConnectionsGoWithTheirDecisionsAndStayForTheirEvents(t *testing.T) {
	f, err := open(t, "", func(o *Options) { o.KeepDecisions, o.KeepEvents = 24*time.Hour, 30*24*time.Hour })
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	event := policy.Event{ID: 5, At: day, LastAt: day, Account: "shop", Watch: policy.WatchDirect, Count: policy.Connections}
	for seq := uint64(1); seq <= 5_000; seq++ {
		d := directDecision(seq, "shop")
		if seq > 4_990 {
			d.At.Wall = d.At.Wall.Add(48 * time.Hour)
		}
		if seq >= 10 && seq < 13 {
			f.AppendEvent(event, seq)
		}
		f.Append(d)
	}
	f.store(ctx)
	f.now.Store(day.Add(49*time.Hour + 90*time.Minute).UnixMilli())
	f.purgeAll()
	if n := ask(t, f.path, "SELECT count(*) FROM connections"); n != 13 {
		t.Errorf("%d connections are left, want the 10 young ones and the event's 3", n)
	}
	e, err := f.Event(ctx, 5)
	if err != nil || len(e.Connections) != 3 || len(e.Messages) != 0 || e.Connections[0].Remote != "198.51.100.10:25" || e.Connections[0].Account != "shop" {
		t.Fatalf("the event: %+v, %v; want its three connections and no message", e, err)
	}
	if c, err := f.ConnectionBySeq(ctx, 11); err != nil || len(c.Processes) != 3 {
		t.Errorf("a connection that an event names: %+v, %v", c, err)
	}
	if list, _, err := f.Connections(ctx, ConnectionFilter{Account: "shop"}); err != nil || len(list) != 10 {
		t.Errorf("listed: %d, %v; want 10", len(list), err)
	}
	copied := f.path + ".copy"
	if err := f.Backup(ctx, copied); err != nil || ask(t, copied, "SELECT count(*) FROM connections") != 13 {
		t.Errorf("the backup: %v, want it with its 13 connections", err)
	}
	// From a damaged database comes what the events need, and nothing that is nobody's.
	if err := f.replaceDamaged(ctx, errCorrupt); err != nil {
		t.Fatal(err)
	}
	f.Close()
	again, err := open(t, f.path, func(o *Options) { o.KeepDecisions, o.KeepEvents = 24*time.Hour, 30*24*time.Hour })
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if e, err := again.Event(ctx, 5); err != nil || len(e.Connections) != 3 || ask(t, f.path, "SELECT count(*) FROM connections") != 3 {
		t.Errorf("after the damage: %+v, %v; want the event's three connections alone", e, err)
	}
	again.now.Store(day.Add(60 * 24 * time.Hour).UnixMilli())
	for range 3 {
		again.purgeAll()
	}
	if n := ask(t, f.path, "SELECT (SELECT count(*) FROM connections) + (SELECT count(*) FROM kept)"); n != 0 {
		t.Errorf("%d rows outlive their event", n)
	}
}

func TestADatabaseFromBeforeTheBackDoorIsBroughtUpToDate(t *testing.T) {
	f := start(t, "")
	f.Append(scriptDecision(1, "shop"))
	f.stop()
	for _, text := range []string{"DROP TABLE connections", "DROP INDEX decisions_direct", "ALTER TABLE minutes DROP COLUMN connections", "ALTER TABLE hours DROP COLUMN connections", "PRAGMA user_version = 3"} {
		outside(t, f.path, text)
	}
	again := start(t, f.path)
	again.Append(directDecision(2, "shop"))
	again.flush(t)
	if list, err := again.Histogram(context.Background(), day, time.Minute); err != nil || len(list) != 1 || list[0].Messages != 1 || list[0].Connections != 1 {
		t.Errorf("got %+v, %v", list, err)
	}
}

// TestAHundredThousandConnectionsAreListedAtOnce has them among as many messages.
func TestAHundredThousandConnectionsAreListedAtOnce(t *testing.T) {
	if testing.Short() {
		t.Skip("it writes 200,000 decisions")
	}
	f := start(t, "")
	ctx := context.Background()
	for seq := uint64(1); seq <= 200_000; seq++ {
		d := exampleDecision(seq)
		if seq%2 == 0 {
			d = directDecision(seq, fmt.Sprintf("acct%d", seq%200))
		}
		d.At.Wall = day.Add(time.Duration(seq) * 100 * time.Millisecond)
		for !f.Append(d) {
			f.flush(t)
		}
	}
	f.flush(t)
	uid := int64(4711)
	var many []string
	for i := range 500 {
		many = append(many, fmt.Sprintf("acct%d", i))
	}
	begun := time.Now()
	ask(t, f.path, "SELECT count(*) FROM decisions WHERE subject LIKE '%there is none%'")
	usual := time.Since(begun) // of a look at every row, on this machine
	for name, filter := range map[string]ConnectionFilter{
		"the newest": {}, "an account's": {Account: "acct100"}, "a reseller's": {Accounts: many}, "a uid that has none": {UID: &uid},
		"an address": {Remote: netip.MustParsePrefix("198.51.100.0/32")}, "a directory that has none": {Directory: "/nowhere"},
		"an account's of the last hour": {Account: "acct100", Since: day.Add(4 * time.Hour)},
	} {
		begun = time.Now()
		list, next, err := f.Connections(ctx, filter)
		took := time.Since(begun)
		t.Logf("%s: %d in %s", name, len(list), took)
		if err != nil || took > 2*time.Second+5*usual || next == "" && len(list) == 0 && filter.UID == nil && filter.Directory == "" {
			t.Errorf("%s: %d, next %q, %v in %s", name, len(list), next, err, took)
		}
	}
}
