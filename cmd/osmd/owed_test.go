package main

import (
	"context"
	"database/sql"
	"os"
	"path/filepath"
	"testing"
	"time"

	_ "github.com/mattn/go-sqlite3" // whoever else has the database open

	"osm/actions"
	"osm/internal/config"
	"osm/policy"
)

// holding is the configuration with one trigger that enforces and puts holds.
func holding() config.Config {
	cfg := config.Default()
	t := account("account-hour", 0, time.Hour)
	t.Actions, t.Release = []policy.Action{{Name: policy.ActionReport}, {Name: policy.ActionHold, For: time.Hour}}, policy.WhenFree
	cfg.Triggers = []policy.Trigger{t}
	return cfg
}

// newActor is a daemon that carries out what follows an event.
func newActor(t *testing.T) *bench {
	t.Helper()
	b := newKeeper(t)
	b.actor()
	return b
}

func (b *bench) actor() {
	b.complete()
	cfg := holding()
	b.settings.file.Store(&cfg)
	b.settings.cfg.Store(&cfg)
	if err := b.changed(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	b.planned = make(chan policy.EventChange, maxPlanned)
	b.runner = actions.NewRunner(actions.RunnerOptions{Store: b.store, Log: b.log, Now: b.clock, Changed: b.changed})
}

// over has a message of shop go over its limit, and its event stored.
func (b *bench) over() {
	b.t.Helper()
	d := b.engine.Check(b.now, &policy.Submission{Protocol: "local", Recipients: 1}, policy.Identity{Account: "shop", Source: policy.SourceScript})
	b.follow(b.tracker.Add(d), d)
	if err := b.store.Flush(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) outside(text string) {
	b.t.Helper()
	db, err := sql.Open("sqlite3", "file:"+filepath.Join(b.dir, "osm.db")+"?_busy_timeout=5000")
	if err != nil {
		b.t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(text); err != nil {
		b.t.Fatalf("%s: %v", text, err)
	}
}

// wantHeld checks that one hold stands on shop, and what is written down beside the event.
func (b *bench) wantHeld(when string) {
	b.t.Helper()
	holds, err := b.store.Holds(b.t.Context())
	if err != nil || len(holds) != 1 || holds[0].Account != "shop" || holds[0].Release != policy.WhenFree || holds[0].EventID != 1 {
		b.t.Errorf("%s: holds %+v, %v; want one on shop", when, holds, err)
	}
	if list := b.engine.Rules().Holds; len(list) != 1 {
		b.t.Errorf("%s: holds in force: %+v", when, list)
	}
	e, err := b.store.Event(b.t.Context(), 1)
	if err != nil {
		b.t.Fatal(err)
	}
	done := map[string]int{}
	for _, a := range e.Actions {
		if a.State == "done" {
			done[a.Name]++
		}
	}
	if done["report"] != 1 || done["hold"] != 1 {
		b.t.Errorf("%s: actions %+v, want each done once", when, e.Actions)
	}
	if list := b.alarms.list(); len(list) != 0 {
		b.t.Errorf("%s: alarms %+v", when, list)
	}
}

func TestAHoldThatCouldNotBeStoredIsPutWhenTheDatabaseMends(t *testing.T) {
	for name, table := range map[string]string{"nothing can be written": "actions", "only the hold cannot": "holds"} {
		t.Run(name, func(t *testing.T) {
			b := newActor(t)
			b.over()
			b.outside("CREATE TRIGGER no BEFORE INSERT ON " + table + " BEGIN SELECT RAISE(ABORT, 'no'); END")
			if table == "actions" {
				b.outside("CREATE TRIGGER neither BEFORE INSERT ON holds BEGIN SELECT RAISE(ABORT, 'no'); END")
			}
			b.carryOut(t.Context(), <-b.planned)
			if list := b.alarms.list(); len(list) != 1 || list[0].name != "actions" {
				t.Fatalf("alarms %+v", list)
			}
			b.pass(time.Minute)
			b.payOwed(t.Context())
			if list := b.alarms.list(); len(list) != 1 {
				t.Errorf("alarms while it still fails: %+v", list)
			}
			b.outside("DROP TRIGGER no")
			if table == "actions" {
				b.outside("DROP TRIGGER neither")
			}
			for range 3 {
				b.pass(owedAgain)
				b.payOwed(t.Context())
			}
			b.wantHeld("mended")
		})
	}
}

func TestWhatWaitedWhenTheDaemonWasKilledIsDoneAtTheNextStart(t *testing.T) {
	b := newActor(t)
	b.over()
	b.kill() // its actions were planned and not begun
	b.pass(time.Minute)
	b.start(&policy.Rules{})
	b.actor()
	for range 3 {
		b.owed.add(taskActions)
		b.pass(owedAgain)
		b.payOwed(t.Context())
	}
	b.wantHeld("after the start")
	if n := b.restored(); n != 1 {
		t.Errorf("%d events are open, want the one", n)
	}
}

// restored takes over the open events and tells how many there are.
func (b *bench) restored() int {
	if err := b.restoreEvents(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	open, _ := b.tracker.Open()
	return open
}

func TestAnEventWhoseActionsAreOnTheirWayIsLeftAlone(t *testing.T) {
	b := newActor(t)
	b.over()
	b.owed.add(taskActions)
	b.payOwed(t.Context())
	if holds, err := b.store.Holds(t.Context()); err != nil || len(holds) != 0 {
		t.Errorf("holds %+v, %v", holds, err)
	}
	b.carryOut(t.Context(), <-b.planned)
	b.pass(owedAgain)
	b.payOwed(t.Context())
	b.wantHeld("carried out")
}

func TestTheDatabasesRulesAreInForceAsSoonAsItCanBeRead(t *testing.T) {
	b := newActor(t)
	b.put("shop")
	key, file := b.store.RefKey(), filepath.Join(b.dir, "osm.db")
	b.kill()
	if err := os.Rename(file, file+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(file, 0o755); err != nil {
		t.Fatal(err)
	}
	b.start(&policy.Rules{})
	b.complete()
	b.engine.SetRefKey(b.store.RefKey())
	cfg := holding()
	b.settings.file.Store(&cfg)
	b.settings.cfg.Store(&cfg)
	if _, _, err := b.rules(t.Context(), cfg); err == nil || b.store.Health().OK {
		t.Fatalf("%v, %+v: the database could be read", err, b.store.Health())
	}
	b.payOwed(t.Context())
	if n := len(b.engine.Rules().Holds); n != 0 {
		t.Fatalf("%d holds in force", n)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".away", file); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := b.store.Flush(ctx); err != nil || !b.store.Health().OK {
		t.Fatalf("%v, %+v", err, b.store.Health())
	}
	b.pass(owedAgain)
	b.payOwed(t.Context())
	if list := b.engine.Rules().Holds; len(list) != 1 || list[0].Account != "shop" {
		t.Errorf("holds in force: %+v, want that of the database", list)
	}
	d := b.engine.Check(b.now, &policy.Submission{}, policy.Identity{Account: "shop"})
	if seq, ok := policy.SeqOf(d.Ref, key); !ok || seq != d.Seq {
		t.Errorf("the reference %q leads to %d, want %d by the key of the database", d.Ref, seq, d.Seq)
	}
}
