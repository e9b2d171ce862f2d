package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"osm/actions"
	"osm/counters"
	"osm/internal/config"
	"osm/internal/panel"
	"osm/policy"
	store "osm/sql"
)

// bench is the part of the daemon that keeps the counters, on a real database, with a panel
// in which the account shop has the package basic. It is killed and started again at will.
type bench struct {
	*daemon
	t    *testing.T
	dir  string
	now  policy.Moment // the present; pass moves it
	at   atomic.Pointer[policy.Moment]
	stop func()
}

// moment is the time at which these tests begin.
func moment() policy.Moment {
	return policy.Moment{Wall: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC), Boot: policy.BootShift + 9_000_000}
}

func newBench(t *testing.T, rules *policy.Rules) *bench {
	t.Helper()
	b := &bench{t: t, dir: t.TempDir(), now: moment()}
	b.pass(0)
	for path, text := range map[string]string{
		"/usr/local/cpanel/version": "11.120\n", "/etc/passwd": "shop:x:1001:1001::/home/shop:/bin/sh\nother:x:1002:1002::/home/other:/bin/sh\n",
		"/etc/userdomains": "shop.example: shop\nother.example: other\n", "/etc/trueuserdomains": "shop.example: shop\nother.example: other\n",
		"/etc/trueuserowners": "shop: anna\nother: root\n", "/etc/userplans": "shop: basic\n",
	} {
		path = filepath.Join(b.dir, "host", path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b.start(rules)
	t.Cleanup(func() { b.kill() })
	return b
}

// pass lets time pass; the parts that run beside the test see it too.
func (b *bench) pass(d time.Duration) {
	b.now = b.now.Add(d)
	now := b.now
	b.at.Store(&now)
}

// start starts anew and brings the counters back.
func (b *bench) start(rules *policy.Rules) {
	b.t.Helper()
	log := slog.New(slog.DiscardHandler)
	d := &daemon{log: log, clock: func() policy.Moment { return *b.at.Load() }, missing: newMissing(), planner: policy.NewHoldPlanner(), stopping: b.t.Context()}
	d.alarms = newAlarms(log, d.wall)
	b.daemon = d
	b.openStore()
	d.witnesses = newWitnesses(d.store, d.clock, d.background.Go)
	d.table = counters.New(counters.Options{})
	d.table.SetSeq(firstSeq(d.store))
	d.engine = policy.NewEngine(d.table, rules)
	d.panel = panel.New(panel.Options{Root: filepath.Join(b.dir, "host"), Source: panel.CPanel, Now: d.wall, Log: log})
	d.snaps = &snapshots{path: filepath.Join(b.dir, "counters.snapshot"), table: d.table, engine: d.engine, clock: d.clock, wait: d.missing.sinceSnapshot}
	d.restore(b.t.Context())
}

func (b *bench) openStore() {
	b.t.Helper()
	s, err := store.Open(b.t.Context(), store.Options{Path: filepath.Join(b.dir, "osm.db"), Log: b.log, Now: b.wall, BootID: "boot"})
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = s.Run(ctx) })
	b.store = s
	b.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		_ = s.Close()
	})
}

// kill ends it without a last snapshot.
func (b *bench) kill() {
	b.background.Wait()
	b.stop()
}

// send has n messages of an account's script judged and stored, and returns how many passed.
func (b *bench) send(account string, n int) (passed int) {
	b.t.Helper()
	for range n {
		id := b.panel.Map().Place(policy.Identity{Account: account, Source: policy.SourceScript, Directory: "/home/" + account, DirectoryAccount: account})
		d := b.engine.Check(b.now, &policy.Submission{Protocol: "local", Recipients: 1, Subject: "x"}, id)
		if d.Verdict == policy.Accept {
			passed++
		}
		if !b.store.Append(d) {
			b.t.Fatal("the store has no room")
		}
	}
	if err := b.store.Flush(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	return passed
}

func (b *bench) write() {
	b.t.Helper()
	if err := b.snaps.write(); err != nil {
		b.t.Fatal(err)
	}
}

// want fails the test unless the account has used so much of a trigger.
func (b *bench) want(when, account, trigger string, used int64) {
	b.t.Helper()
	for _, u := range b.engine.UsageOf(b.now, b.panel.Map().Place(policy.Identity{Account: account})) {
		if u.Trigger == trigger && u.Used != used {
			b.t.Errorf("%s: %s has used %d of %s, want %d", when, account, u.Used, trigger, used)
		}
	}
}

func account(name string, max int64, per time.Duration) policy.Trigger {
	return policy.Trigger{Name: name, Watch: policy.WatchAccount, Max: max, Per: per, Count: policy.Messages, Verdict: policy.Freeze, Mode: policy.Enforce}
}

func ptr[T any](v T) *T { return &v }

func TestARestartKnowsThePlaceOfAnAccountInThePanel(t *testing.T) {
	off := account("packaged", 5, time.Hour)
	off.Mode = policy.Off
	observed := account("observed", 300, time.Hour)
	observed.Mode = policy.Observe
	b := newBench(t, &policy.Rules{Triggers: []policy.Trigger{account("account-hour", 300, time.Hour), off, observed}, Overrides: []policy.Override{
		{Level: policy.LevelPackage, Name: "basic", Trigger: "packaged", Mode: ptr(policy.Enforce)},
		{Level: policy.LevelPackage, Name: "basic", Trigger: "observed", Max: ptr(int64(2))}}})
	rules := b.engine.Rules()
	if n := b.send("shop", 3); n != 3 {
		t.Fatalf("%d passed", n)
	}
	b.write()
	b.send("shop", 1)
	for _, snapshot := range []bool{true, false} {
		b.kill()
		if !snapshot {
			if err := os.Remove(b.snaps.path); err != nil {
				t.Fatal(err)
			}
		}
		b.start(rules)
		b.want(fmt.Sprintf("with a snapshot: %v", snapshot), "shop", "packaged", 4)
		b.want(fmt.Sprintf("with a snapshot: %v", snapshot), "shop", "account-hour", 4)
		b.want(fmt.Sprintf("with a snapshot: %v", snapshot), "shop", "observed", 2) // counts what it would have admitted
		b.write()
	}
	if n := b.send("shop", 9); n != 1 {
		t.Errorf("%d more passed, want the last of the five", n)
	}
}

// What was decided after the snapshot is counted once also for a trigger that the snapshot
// did not have.
func TestATriggerThatIsNewAtTheStartCountsEachMessageOnce(t *testing.T) {
	old := account("account-hour", 300, time.Hour)
	b := newBench(t, &policy.Rules{Triggers: []policy.Trigger{old}})
	b.send("shop", 2)
	b.write()
	b.send("shop", 3)
	b.kill()
	b.start(&policy.Rules{Triggers: []policy.Trigger{old, account("account-day", 300, 24*time.Hour)}})
	b.want("of both triggers", "shop", "account-hour", 5)
	b.want("of both triggers", "shop", "account-day", 5)
}

func TestARestartReadsAsFarBackAsThePeriodInForce(t *testing.T) {
	rules := &policy.Rules{Triggers: []policy.Trigger{account("account-hour", 300, time.Hour)}, Overrides: []policy.Override{
		{ID: 1, Level: policy.LevelServer, Trigger: "account-hour", Per: ptr(7 * 24 * time.Hour)}}}
	b := newBench(t, rules)
	b.send("shop", 4)
	b.pass(6 * 24 * time.Hour)
	b.kill()
	b.start(rules)
	b.want("six days later, without a snapshot", "shop", "account-hour", 4)
}

// The database cannot be read when counters are to be filled: they are filled as soon as it
// can, and no snapshot takes them for full meanwhile.
func TestARefillThatFailsIsTriedAgain(t *testing.T) {
	hour, day := account("account-hour", 300, time.Hour), account("account-day", 300, 24*time.Hour)
	b := newBench(t, &policy.Rules{Triggers: []policy.Trigger{hour}})
	b.send("shop", 4)
	b.write()
	both := &policy.Rules{Triggers: []policy.Trigger{hour, day}}

	b.missing.add(&lack{only: b.engine.SetRules(both)})
	b.stop()
	if _, _, err := b.fillAll(t.Context()); err == nil {
		t.Fatal("counters were filled from a database that is closed")
	}
	if list := b.alarms.list(); len(list) != 1 || list[0].name != "counters-restore" || !strings.Contains(list[0].text, "account-day") {
		t.Errorf("alarms: %+v, want one that names the trigger", list)
	}
	b.write() // every ten seconds
	b.want("not yet", "shop", "account-day", 0)
	b.openStore()
	b.send("shop", 1)
	if n, _, err := b.fillAll(t.Context()); err != nil || n != 5 {
		t.Errorf("the second attempt read %d decisions, %v", n, err)
	}
	if list := b.alarms.list(); len(list) != 0 {
		t.Errorf("alarms after it: %+v", list)
	}
	b.want("filled", "shop", "account-day", 5)
	b.want("filled", "shop", "account-hour", 5)

	// The same, and the daemon is killed before the second attempt.
	b.kill()
	b.start(&policy.Rules{Triggers: []policy.Trigger{hour}})
	b.write()
	b.missing.add(&lack{only: b.engine.SetRules(both)})
	b.stop()
	if _, _, err := b.fillAll(t.Context()); err == nil {
		t.Fatal("no error")
	}
	b.write()
	b.start(both)
	b.want("after a kill", "shop", "account-day", 5)
	b.want("after a kill", "shop", "account-hour", 5)
}

// While the decisions since the snapshot are missing the snapshot stays as it is.
func TestASnapshotIsNotReplacedByLess(t *testing.T) {
	rules := &policy.Rules{Triggers: []policy.Trigger{account("account-hour", 300, time.Hour)}}
	b := newBench(t, rules)
	b.send("shop", 4)
	b.write()
	b.send("shop", 1)
	before, err := os.ReadFile(b.snaps.path)
	if err != nil {
		t.Fatal(err)
	}
	newer, _ := b.engine.Restored(b.engine.Slots())
	b.missing.add(&lack{only: newer, snapshot: true})
	b.write()
	if now, err := os.ReadFile(b.snaps.path); err != nil || !bytes.Equal(now, before) {
		t.Errorf("it was written anew, %v", err)
	}
	b.kill()
	b.start(rules)
	b.want("after a kill", "shop", "account-hour", 5)
}

// A refill goes on where it stopped, and one that a change of the rules has overtaken
// counts nothing.
func TestARefillGoesOnWhereItStopped(t *testing.T) {
	hour := account("account-hour", 300, time.Hour)
	b := newBench(t, &policy.Rules{})
	b.send("shop", 6)
	l := &lack{only: b.engine.SetRules(&policy.Rules{Triggers: []policy.Trigger{hour}})}
	if n, _, err := b.fill(t.Context(), l); n != 6 || err != nil {
		t.Fatalf("read %d decisions, %v", n, err)
	}
	b.missing.add(l) // as if the last step had failed
	if n, _, err := b.fillAll(t.Context()); n != 0 || err != nil {
		t.Errorf("read %d decisions again, %v", n, err)
	}
	b.want("once", "shop", "account-hour", 6)
	longer := hour
	longer.Per = 2 * time.Hour
	overtaken := b.engine.SetRules(&policy.Rules{Triggers: []policy.Trigger{longer}})
	b.engine.SetRules(&policy.Rules{Triggers: []policy.Trigger{hour}})
	b.missing.add(&lack{only: b.engine.SetRules(&policy.Rules{Triggers: []policy.Trigger{longer}})})
	b.missing.add(&lack{only: overtaken})
	if _, _, err := b.fillAll(t.Context()); err != nil {
		t.Error(err)
	}
	b.want("after two changes", "shop", "account-hour", 6)
}

// A daemon that is killed has given more numbers than it has stored.
func TestNumbersAreNotGivenAgainAfterAKill(t *testing.T) {
	b := newBench(t, &policy.Rules{Triggers: []policy.Trigger{account("account-hour", 300, time.Hour)}})
	b.send("shop", 1)
	var last uint64
	for range 70_000 { // more than the store lets wait
		last = b.engine.Check(b.now, &policy.Submission{}, policy.Identity{Account: "shop"}).Seq
	}
	b.kill()
	b.start(&policy.Rules{})
	if next := b.table.NextSeq(); next <= last {
		t.Errorf("the next number is %d, and %d was given before", next, last)
	}
}

// What an operator released is not held again within the grace time, restart or not; what
// ended by itself may be.
func TestAReleaseIsRememberedAcrossARestart(t *testing.T) {
	rules := &policy.Rules{Settings: policy.Settings{HoldGrace: time.Hour}}
	b := newBench(t, rules)
	for name, by := range map[string]string{"released": "anna", "expired": actions.ByTime} {
		id, err := b.store.PutHold(t.Context(), policy.Hold{Scope: policy.ScopeAccount, Account: name, Verdict: policy.Freeze})
		if err != nil {
			t.Fatal(err)
		}
		if err := b.store.EndHold(t.Context(), id, by); err != nil {
			t.Fatal(err)
		}
	}
	plan := func(account string) bool {
		c := policy.EventChange{New: true, Actions: []policy.Action{{Name: policy.ActionHold}},
			Event: policy.Event{Watch: policy.WatchAccount, Account: account, Key: account, Mode: policy.Enforce}}
		_, _, ok := b.planner.Plan(c, c.Actions[0], rules, b.now)
		return ok
	}
	b.pass(50 * time.Minute)
	b.kill()
	b.start(rules)
	if err := b.recallReleases(t.Context()); err != nil {
		t.Fatal(err)
	}
	if plan("released") || !plan("expired") {
		t.Errorf("a hold is put again on what was released: %v, on what ended by itself: %v; want only that", plan("released"), plan("expired"))
	}
	b.pass(11 * time.Minute)
	if !plan("released") {
		t.Error("after the grace time none is put")
	}
}

func TestTheShippedRulesAreFullAfterAStart(t *testing.T) {
	cfg := config.Default()
	b := newBench(t, cfg.Rules())
	b.send("shop", 3)
	b.write()
	b.send("shop", 2)
	b.kill()
	b.start(cfg.Rules())
	for _, u := range b.engine.Usage(b.now, "shop") {
		if want := int64(5); u.Used != want && u.Watch != policy.WatchAutomatic {
			t.Errorf("%s of %s: used %d, want %d", u.Trigger, u.Key, u.Used, want)
		}
	}
	if l := b.missing.first(); l != nil || slices.Contains(b.engine.Slots(), "") {
		t.Errorf("still missing: %+v, slots %q", l, b.engine.Slots())
	}
}
