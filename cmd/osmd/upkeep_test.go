package main

import (
	"net"
	"path/filepath"
	"testing"
	"time"

	"osm/actions"
	"osm/internal/config"
	"osm/policy"
	store "osm/sql"
)

// newKeeper is a daemon that can look after itself, on a real database.
func newKeeper(t *testing.T) *bench {
	t.Helper()
	b := newBench(t, &policy.Rules{})
	b.complete()
	return b
}

// complete adds what a start leaves out that only brings the counters back.
func (b *bench) complete() {
	cfg := config.Default()
	b.settings.file.Store(&cfg)
	b.settings.cfg.Store(&cfg)
	b.tracker = policy.NewTracker(func() int64 { return 1 }, 0)
	b.held = actions.NewHeld(actions.HeldOptions{Store: b.store, Engine: b.engine, Executor: actions.NewExecutor("/nowhere"), Log: b.log, Now: b.clock})
}

// put stores a hold that stands for an hour.
func (b *bench) put(account string) int64 {
	b.t.Helper()
	id, err := b.store.PutHold(b.t.Context(), policy.Hold{Account: account, Until: b.now.Wall.Add(time.Hour)})
	if err != nil {
		b.t.Fatal(err)
	}
	return id
}

func (b *bench) wantEnded(id int64, by string) {
	b.t.Helper()
	if h, err := b.store.Hold(b.t.Context(), id); err != nil || h.EndedBy != by || h.EndedAt.IsZero() != (by == "") {
		b.t.Errorf("hold %d: %+v, %v; want it ended by %q", id, h, err, by)
	}
}

func TestHoldsThatRanOutWithoutADaemonAreClosedAtTheStart(t *testing.T) {
	b := newKeeper(t)
	id := b.put("shop")
	b.kill()
	b.pass(2 * time.Hour)
	b.start(&policy.Rules{})
	b.complete()
	b.endHolds(t.Context())
	b.wantEnded(id, actions.ByTime)
}

func TestAHoldThatAPersonHasEndedKeepsNoOtherFromItsEnd(t *testing.T) {
	b := newKeeper(t)
	released, over, stands := b.put("shop"), b.put("other"), int64(0)
	if err := b.changed(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.store.EndHold(t.Context(), released, "anna"); err != nil { // and the rules were not made again
		t.Fatal(err)
	}
	b.pass(time.Hour)
	stands = b.put("shop")
	b.endHolds(t.Context())
	b.wantEnded(released, "anna")
	b.wantEnded(over, actions.ByTime)
	b.wantEnded(stands, "")
	if list := b.engine.Rules().Holds; len(list) != 1 || list[0].ID != stands {
		t.Errorf("holds in force: %+v, want only the one that stands", list)
	}
}

// notified counts what systemd is told.
func notified(t *testing.T) func() (alive int) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "10000000")
	return func() (alive int) {
		var buf [256]byte
		_ = c.SetReadDeadline(time.Now().Add(3500 * time.Millisecond))
		for {
			n, err := c.Read(buf[:])
			if err != nil {
				return alive
			}
			if string(buf[:n]) == "WATCHDOG=1" {
				alive++
			}
		}
	}
}

func TestTheDaemonIsAliveWhileItsDatabaseIsStuck(t *testing.T) {
	b := newKeeper(t)
	b.put("shop")
	b.stop()
	b.pass(2 * time.Hour)
	stuck, err := store.Open(t.Context(), store.Options{Path: filepath.Join(b.dir, "osm.db"), Log: b.log, Now: b.wall, BootID: "boot"})
	if err != nil {
		t.Fatal(err)
	}
	defer stuck.Close()
	b.store = stuck // its writer does not run: whoever wants to write waits
	alive := notified(t)
	b.life = newLife()
	b.life.start("upkeep", b.keepUp)
	b.life.start("alive", b.keepAlive)
	if n := alive(); n < 2 {
		t.Errorf("systemd was told %d times in 3.5 s that the daemon is alive", n)
	}
	b.life.stop()
}

func TestADaemonThatCanJudgeNothingIsNotAlive(t *testing.T) {
	b := newKeeper(t)
	goOn := make(chan struct{})
	b.tracker = policy.NewTracker(func() int64 { <-goOn; return 1 }, 0)
	go b.tracker.Add(&policy.Decision{Over: []policy.Over{{Trigger: "account-hour"}}}) // never gives its lock back
	alive := notified(t)
	b.life = newLife()
	b.life.start("alive", b.keepAlive)
	if n := alive(); n > 1 {
		t.Errorf("systemd was told %d times that the daemon is alive", n)
	}
	close(goOn)
	b.life.stop()
}
