package policy

import (
	"bytes"
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"osm/counters"
)

// sent is what the database keeps of a counted message.
type sent struct {
	at         Moment
	seq        uint64
	id         Identity // without its place in the panel
	subjectKey string
	recipients int
}

func sentOf(d *Decision) sent {
	id := d.Identity
	id.Reseller, id.Package = "", ""
	return sent{d.At, d.Seq, id, d.SubjectKey, d.Submission.Recipients}
}

// machine is an engine with what outlives it: the snapshot and the database.
type machine struct {
	t        *testing.T
	e        *Engine
	table    *counters.Table
	stored   []sent
	snapshot []byte
	accounts *AccountMap
}

func newMachine(t *testing.T, r *Rules) *machine {
	m := &machine{t: t, accounts: NewAccountMap(AccountMapInput{Accounts: []Account{
		{Name: "shop", UID: 1001, Package: "basic"}, {Name: "other", UID: 1002}}})}
	m.table = counters.New(counters.Options{})
	m.e = NewEngine(m.table, r)
	return m
}

func (m *machine) header(now Moment) counters.Header {
	return counters.Header{WallMs: now.Wall.UnixMilli(), BootMs: now.Boot, BootID: "a", Slots: m.e.Slots()}
}

// send has n messages of an account's script judged, and stores what is counted.
func (m *machine) send(now Moment, account string, n int) (passed int) {
	for range n {
		s, id := fromScript(account, "/d", "Invoice 1", 1)
		if d := m.e.Check(now, s, m.accounts.Place(id)); d.Counted {
			m.stored = append(m.stored, sentOf(d))
			passed++
		}
	}
	return passed
}

// leave lets n held messages go.
func (m *machine) leave(now Moment, account string, n int) (left int) {
	for range n {
		_, id := fromScript(account, "/d", "", 1)
		if l := m.e.AdmitHeld(now, m.accounts.Place(id), "invoice #", 1); l.Admitted {
			m.stored = append(m.stored, sent{now, l.Seq, id, "invoice #", 1})
			left++
		}
	}
	return left
}

func (m *machine) write(now Moment) {
	m.t.Helper()
	var b bytes.Buffer
	if err := m.table.WriteSnapshot(&b, m.header(now)); err != nil {
		m.t.Fatal(err)
	}
	m.snapshot = b.Bytes()
}

// replay reads up to n stored messages after a number, as the daemon does.
func (m *machine) replay(after uint64, only Refill, n int) {
	for _, d := range m.stored {
		if d.seq > after && n > 0 {
			n--
			m.e.ReplayStored(d.at, d.seq, m.accounts.Place(d.id), d.subjectKey, d.recipients, only)
		}
	}
}

// restart begins again from the snapshot and the database. Without finish the refill of
// counters that the snapshot did not hold is broken off after two messages.
func (m *machine) restart(now Moment, r *Rules, finish bool) {
	m.t.Helper()
	m.table = counters.New(counters.Options{})
	m.e = NewEngine(m.table, r)
	var h counters.Header
	var after uint64
	if m.snapshot != nil {
		var err error
		if h, after, err = m.table.ReadSnapshot(bytes.NewReader(m.snapshot), m.header(now), m.e.Slot); err != nil {
			m.t.Fatal(err)
		}
	}
	if n := len(m.stored); n > 0 {
		m.table.SetSeq(m.stored[n-1].seq)
	}
	newer, whole := m.e.Restored(h.Slots)
	m.replay(after, newer, len(m.stored))
	m.e.Filled(newer)
	if !finish {
		m.replay(0, whole, 2)
		return
	}
	m.replay(0, whole, len(m.stored))
	m.e.Filled(whole)
	m.table.DropRestore()
}

func (m *machine) want(when string, now Moment, account string, used map[string]int64) {
	m.t.Helper()
	for trigger, n := range used {
		if got := usedBy(m.e, now, trigger, account); got != n {
			m.t.Errorf("%s: %s has used %d of %s, want %d", when, account, got, trigger, n)
		}
	}
}

// TestNothingIsForgottenOrDoubledByARestart stops an engine in mid-stream: some messages
// are in the snapshot, some only stored, some left the queue by themselves, and the rules
// have changed afterwards.
func TestNothingIsForgottenOrDoubledByARestart(t *testing.T) {
	account, subject := enforcing("account-hour", WatchAccount, 10, Recipients), enforcing("subject-hour", WatchSubject, 50, Messages)
	scripts, off := enforcing("scripts-hour", WatchScripts, 30, Messages), enforcing("packaged", WatchAccount, 40, Messages)
	off.Mode = Off
	basic := Override{Level: LevelPackage, Name: "basic", Trigger: "packaged", Mode: ptr(Enforce), Max: ptr(int64(9))}
	before := &Rules{Triggers: []Trigger{account, subject, off}, Overrides: []Override{basic}}
	m := newMachine(t, before)
	m.send(noon(), "shop", 2)
	m.leave(noon(), "shop", 1)
	m.send(noon(), "other", 1)
	m.write(noon())
	m.send(noon(), "shop", 2)
	m.leave(noon(), "shop", 2)
	m.send(noon(), "other", 1)

	now := noon().Add(time.Minute)
	on := off
	on.Mode = Observe
	for _, row := range []struct {
		name  string
		rules *Rules
		shop  map[string]int64
		other map[string]int64
	}{
		{"the same rules", before, map[string]int64{"account-hour": 7, "subject-hour": 7, "packaged": 7}, map[string]int64{"account-hour": 2}},
		{"one trigger more", &Rules{Triggers: []Trigger{scripts, account, subject, off}, Overrides: []Override{basic}},
			map[string]int64{"scripts-hour": 7, "account-hour": 7, "subject-hour": 7, "packaged": 7}, map[string]int64{"scripts-hour": 2}},
		{"a trigger of one package switched on for all", &Rules{Triggers: []Trigger{account, subject, on}, Overrides: []Override{basic}},
			map[string]int64{"packaged": 7}, map[string]int64{"packaged": 2}},
	} {
		t.Run(row.name, func(t *testing.T) {
			again := *m
			again.t = t
			again.restart(now, row.rules, true)
			again.want("from the snapshot", now, "shop", row.shop)
			again.want("from the snapshot", now, "other", row.other)
			if n := again.send(now, "shop", 10); n != min(3, 9-int(row.shop["packaged"])) && row.shop["packaged"] != 0 {
				t.Errorf("%d more passed", n)
			}
			again = *m
			again.t, again.snapshot = t, nil
			again.restart(now, row.rules, true)
			again.want("without a snapshot", now, "shop", row.shop)
			again.want("without a snapshot", now, "other", row.other)
		})
	}
}

// A trigger that was off for all before the restart and is on after it is filled from the
// database, though a snapshot was written while it was off.
func TestATriggerSwitchedOnAcrossARestartIsRefilled(t *testing.T) {
	on, always := enforcing("account-hour", WatchAccount, 10, Messages), enforcing("scripts-hour", WatchScripts, 99, Messages)
	off := on
	off.Mode = Off
	m := newMachine(t, rulesOf(off, always))
	m.send(noon(), "shop", 6)
	m.write(noon())
	m.restart(noon().Add(time.Minute), rulesOf(on, always), true)
	m.want("switched on", noon(), "shop", map[string]int64{"account-hour": 6, "scripts-hour": 6})
}

// A refill that was broken off is begun anew at the next start: no snapshot takes the
// counters for whole meanwhile.
func TestASnapshotDuringARefillSealsNothing(t *testing.T) {
	old, added := enforcing("account-hour", WatchAccount, 99, Messages), enforcing("scripts-hour", WatchScripts, 10, Messages)
	m := newMachine(t, rulesOf(old))
	m.send(noon(), "shop", 8)
	m.write(noon())
	used := map[string]int64{"account-hour": 8, "scripts-hour": 8}

	m.restart(noon(), rulesOf(old, added), false)
	m.write(noon())
	m.restart(noon(), rulesOf(old, added), true)
	m.want("after a start that broke off", noon(), "shop", used)

	// The same for a change of the rules while mail comes in.
	m.restart(noon(), rulesOf(old), true)
	refill := m.e.SetRules(rulesOf(old, added))
	m.send(noon(), "shop", 1)
	m.replay(0, refill, 3)
	m.write(noon())
	m.restart(noon(), rulesOf(old, added), true)
	m.want("after a change that was broken off", noon(), "shop", map[string]int64{"account-hour": 9, "scripts-hour": 9})
}

// Rules change while mail comes in. Whatever a decision was counted by, it is in the
// counters once: in the new ones by itself or by the refill.
func TestNoMessageFallsBetweenOldAndNewRules(t *testing.T) {
	for round := range 20 {
		hour := enforcing("account-hour", WatchAccount, 1<<30, Messages)
		minutes := hour
		minutes.Per = 30 * time.Minute
		e := newTestEngine(t, rulesOf(hour))
		var mu sync.Mutex
		var stored []sent
		var senders sync.WaitGroup
		begun := make(chan struct{}, 4)
		for range 4 {
			senders.Go(func() {
				for i := range 300 {
					s, id := fromScript("shop", "/d", "x", 1)
					d := e.Check(noon(), s, id)
					mu.Lock()
					stored = append(stored, sentOf(d))
					mu.Unlock()
					if i == 20 {
						begun <- struct{}{}
					}
				}
			})
		}
		for range 4 {
			<-begun
		}
		refill := e.SetRules(rulesOf(minutes))
		senders.Wait()
		slices.SortFunc(stored, func(a, b sent) int { return cmp.Compare(a.seq, b.seq) })
		for _, d := range stored {
			e.ReplayStored(d.at, d.seq, d.id, d.subjectKey, d.recipients, refill)
		}
		if used := usedBy(e, noon(), "account-hour", "shop"); used != 1200 {
			t.Fatalf("round %d: used %d, want 1200", round, used)
		}
	}
}

// How far back decisions are read follows from the periods in force, not from those in the
// file.
func TestTheLongestPeriodIsTheOneInForce(t *testing.T) {
	hour, day := enforcing("account-hour", WatchAccount, 1, Messages), enforcing("account-day", WatchAccount, 1, Messages)
	day.Per = 24 * time.Hour
	e := newTestEngine(t, &Rules{Triggers: []Trigger{hour, day}, Overrides: []Override{{ID: 1, Level: LevelServer, Trigger: "account-hour", Per: ptr(7 * 24 * time.Hour)}}})
	newer, whole := e.Restored([]string{e.Slots()[1]})
	if got := e.Longest(newer); got != 24*time.Hour {
		t.Errorf("of the day's trigger %v, want a day", got)
	}
	if got := e.Longest(whole); got != 7*24*time.Hour {
		t.Errorf("of the hour's trigger %v, want the seven days of the database", got)
	}
}

func TestRulesMayBeSwappedWhileMailComesIn(t *testing.T) {
	kept := enforcing("account-hour", WatchAccount, 100, Messages)
	e := newTestEngine(t, rulesOf(kept))
	var passed atomic.Int64
	var senders sync.WaitGroup
	for range 8 {
		senders.Go(func() {
			for range 50 {
				s, id := fromScript("shop", "/d", "x", 1)
				if e.Check(noon(), s, id).Verdict == Accept {
					passed.Add(1)
				}
			}
		})
	}
	for i := range 50 {
		other := enforcing("other", WatchDirectory, 1000, Messages)
		other.Per = time.Duration(i%3+1) * time.Minute
		e.SetRules(rulesOf(other, kept))
		e.Usage(noon(), "shop")
		e.HeldChanged("shop", int64(i), 0)
	}
	senders.Wait()
	if n := passed.Load(); n != 100 {
		t.Errorf("%d passed, want exactly 100", n)
	}
}
