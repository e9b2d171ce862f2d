package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"osm/policy"
)

func TestAFullDatabaseKeepsDecisionsInMemory(t *testing.T) {
	var pages atomic.Int64
	pages.Store(120)
	f := start(t, "", func(o *Options) { o.maxPages = func() int { return int(pages.Load()) } })
	seq := uint64(0)
	for f.Health().OK {
		for range 500 {
			seq++
			f.Append(exampleDecision(seq))
		}
		f.Flush(context.Background()) // an error is what is waited for
	}
	if h := f.Health(); h.Queued == 0 || !strings.Contains(h.Problem, "full") || h.Since.IsZero() {
		t.Errorf("full: got %+v", h)
	}
	var err error
	for n := 0; err == nil && n < 1000; n++ {
		_, err = f.AddAudit(context.Background(), Audit{Old: strings.Repeat("x", 4000)})
	}
	if !errors.Is(err, ErrUnavailable) {
		t.Errorf("writes into a full database: got %v, want ErrUnavailable", err)
	}
	pages.Store(1 << 30)
	until(t, "the store mends itself", func() bool { return f.Health().OK })
	f.flush(t)
	if n := ask(t, f.path, "SELECT count(*) FROM decisions"); n != int64(seq) {
		t.Errorf("after it mended: %d decisions, want all %d", n, seq)
	}
	if !strings.Contains(f.log.String(), "can be written again") {
		t.Errorf("not logged that it mended:\n%s", f.log)
	}
}

func TestALockedDatabaseIsWaitedFor(t *testing.T) {
	f := start(t, "")
	db := sql.OpenDB(&connector{dsn: dsn(f.path, "_txlock=immediate"), driver: readDriver()})
	defer db.Close()
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	f.Append(exampleDecision(1))
	until(t, "the lock is noticed", func() bool { return !f.Health().OK })
	if h := f.Health(); !strings.Contains(h.Problem, "locked") || h.Queued != 1 {
		t.Errorf("locked: got %+v", h)
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	until(t, "the store mends itself", func() bool { return f.Health().OK })
	f.flush(t)
	if _, err := f.DecisionBySeq(context.Background(), 1); err != nil {
		t.Errorf("after the lock: %v", err)
	}
}

func TestADatabaseLockedAtStartIsOpenedLater(t *testing.T) {
	f := start(t, "")
	f.Append(exampleDecision(5))
	key := f.RefKey()
	f.stop()
	db := sql.OpenDB(&connector{dsn: dsn(f.path, "_txlock=immediate"), driver: readDriver()})
	defer db.Close()
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	again := start(t, f.path)
	if again.Health().OK || again.RefKey() != key || again.MaxSeq() != 5 {
		t.Errorf("locked at start: %+v, key kept %v, highest number %d", again.Health(), again.RefKey() == key, again.MaxSeq())
	}
	again.Append(exampleDecision(6))
	tx.Rollback()
	until(t, "the store mends itself", func() bool { return again.Health().OK })
	again.flush(t)
	if n := ask(t, f.path, "SELECT count(*) FROM decisions"); n != 2 {
		t.Errorf("after the lock: %d decisions, want 2", n)
	}
}

// precious stores a row of each kind that must outlive a damaged database.
func precious(t *testing.T, f *fixture) {
	t.Helper()
	ctx := context.Background()
	_, err := f.PutHold(ctx, policy.Hold{Scope: policy.ScopeAccount, Account: "shop", Provenance: policy.Provenance{By: "root"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.PutExemption(ctx, policy.Exemption{Account: "shop"}); err != nil {
		t.Fatal(err)
	}
	if err := f.UpsertEvent(ctx, policy.Event{ID: 77, Account: "shop", Open: true}); err != nil {
		t.Fatal(err)
	}
	f.Append(frozen(scriptDecision(1, "shop")))
	f.flush(t)
}

// wantPrecious checks that they are there.
func wantPrecious(t *testing.T, f *fixture) {
	t.Helper()
	ctx := context.Background()
	holds, err := f.Holds(ctx)
	if err != nil || len(holds) != 1 || holds[0].Account != "shop" {
		t.Errorf("holds: got %+v, %v", holds, err)
	}
	if list, err := f.Exemptions(ctx); err != nil || len(list) != 1 {
		t.Errorf("exemptions: got %+v, %v", list, err)
	}
	if id, err := f.NextEventID(ctx); err != nil || id != 78 {
		t.Errorf("next event: got %d, %v; want 78", id, err)
	}
	if held, err := f.HeldByRef(ctx, policy.RefOf(1, f.RefKey())); err != nil || held.Account != "shop" {
		t.Errorf("held message: got %+v, %v", held, err)
	}
	if list, _, err := f.Journal(ctx, time.Time{}, 0, ""); err != nil || len(list) == 0 || list[0].Kind != "set_aside" {
		t.Errorf("journal: got %+v, %v", list, err)
	}
}

// damage overwrites a part of a file, from a fraction of its length on.
func damage(t *testing.T, path string, from float64) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	begin := int(float64(len(b))*from) &^ 4095
	for i := begin; i < len(b); i++ {
		b[i] = byte(i*7 + 13)
	}
	if err := os.WriteFile(path, b, 0o640); err != nil {
		t.Fatal(err)
	}
}

func TestADamagedDatabaseIsSetAsideAtStart(t *testing.T) {
	for _, c := range []struct {
		name  string
		harm  func(t *testing.T, path string)
		saved bool
	}{
		{"the end of it is garbage", func(t *testing.T, path string) { damage(t, path, 0.7) }, true},
		{"it is no database", func(t *testing.T, path string) { damage(t, path, 0) }, false},
		{"it was cut", func(t *testing.T, path string) {
			if err := os.Truncate(path, sizeOf(path)*7/10&^4095); err != nil {
				t.Fatal(err)
			}
		}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := start(t, "")
			precious(t, f)
			for seq := uint64(2); seq < 20_000; seq++ {
				f.Append(exampleDecision(seq))
			}
			f.stop()
			key := f.RefKey()
			c.harm(t, f.path)
			before, err := os.ReadFile(f.path)
			if err != nil {
				t.Fatal(err)
			}
			again := start(t, f.path)
			aside := f.path + ".corrupt-20260314-092653"
			h := again.Health()
			if !h.OK || h.SetAside != aside {
				t.Fatalf("got %+v, want a sound store and %q set aside", h, aside)
			}
			if after, err := os.ReadFile(aside); err != nil || !strings.HasPrefix(string(after), string(before)) {
				t.Errorf("the damaged file was changed: %v", err)
			}
			if again.MaxSeq() < 20_000 {
				t.Errorf("highest number %d: references would be given twice", again.MaxSeq())
			}
			if c.saved {
				if again.RefKey() != key {
					t.Error("the key of references was not carried over")
				}
				wantPrecious(t, again)
			}
			again.Append(exampleDecision(again.MaxSeq() + 1))
			again.flush(t)
		})
	}
}

// emptyLog moves all that stands in the write-ahead log into the database: it would heal a
// damaged one.
func emptyLog(t *testing.T, path string) {
	t.Helper()
	db := sql.OpenDB(&connector{dsn: dsn(path, "_busy_timeout=5000"), driver: readDriver()})
	defer db.Close()
	until(t, "the log is moved into the database", func() bool {
		var busy, frames, moved int
		err := db.QueryRow("PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &frames, &moved)
		return err == nil && busy == 0
	})
}

func TestADatabaseThatIsDamagedWhileRunningIsReplaced(t *testing.T) {
	f := start(t, "")
	precious(t, f)
	for seq := uint64(2); seq < 30_000; seq++ {
		f.Append(exampleDecision(seq))
	}
	f.flush(t)
	emptyLog(t, f.path)
	damage(t, f.path, 0.6)
	key := f.RefKey()
	until(t, "a reader meets the damage", func() bool {
		f.Decisions(context.Background(), DecisionFilter{Account: "nobody knows", Mailbox: "x"})
		f.Decisions(context.Background(), DecisionFilter{Mailbox: "x@y.example"})
		return f.Health().SetAside != "" && f.Health().OK
	})
	f.Append(exampleDecision(30_000))
	f.flush(t)
	if _, err := f.DecisionBySeq(context.Background(), 30_000); err != nil {
		t.Errorf("after the replacement: %v", err)
	}
	if f.RefKey() != key {
		t.Error("the key of references changed")
	}
	wantPrecious(t, f)
}

func TestAFileThatIsTakenAwayIsMadeAgain(t *testing.T) {
	f := start(t, "")
	f.Append(exampleDecision(1))
	f.flush(t)
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Rename(f.path+suffix, filepath.Join(t.TempDir(), "gone"+suffix)); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "the file is there again", func() bool { return sizeOf(f.path) > 0 && f.Health().OK })
	f.Append(exampleDecision(2))
	f.flush(t)
	if n := ask(t, f.path, "SELECT count(*) FROM decisions"); n != 1 {
		t.Errorf("in the new file: %d decisions, want 1", n)
	}
}

func TestAReaderThatNeverStopsDoesNotStopTheWriter(t *testing.T) {
	f := start(t, "")
	write := func(from, to uint64) time.Duration {
		began := time.Now()
		for seq := from; seq < to; seq++ {
			f.Append(exampleDecision(seq))
		}
		f.flush(t)
		return time.Since(began)
	}
	const rows, step = 150_000, 5000
	usual := write(0, step)
	db := openReadOnly(f.path, false)
	defer db.Close()
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	var n int
	if err := tx.QueryRow("SELECT count(*) FROM decisions").Scan(&n); err != nil {
		t.Fatal(err)
	}
	var slowest time.Duration
	for from := uint64(step); from < rows; from += step {
		slowest = max(slowest, write(from, from+step))
	}
	if h := f.Health(); !h.OK || h.Written != rows || slowest > 3*time.Second+5*usual {
		t.Errorf("with a reader: %+v, slowest %d rows %v, without one %v", h, step, slowest, usual)
	}
	long := sizeOf(f.path + "-wal")
	tx.Rollback()
	until(t, "the log is moved into the database", func() bool {
		return sizeOf(f.path) > 8<<20 && (long < logLarge || sizeOf(f.path+"-wal") < long)
	})
}

func TestTheQueueKeepsRoomForWhatWasStopped(t *testing.T) {
	f, err := open(t, "")
	if err != nil {
		t.Fatal(err)
	}
	taken := 0
	connection := directDecision(200_000, "shop")
	connection.Submission.Direct.Chain = nil // it is rows that are to be many here, not bytes
	for f.Append(connection) {
		connection.Seq++
		taken++
	}
	if taken != queueRows/2 {
		t.Errorf("%d connections were taken, want %d", taken, queueRows/2)
	}
	for seq := uint64(1); f.Append(exampleDecision(seq)); seq++ {
		taken++
	}
	if taken != queueRows*3/4 {
		t.Errorf("%d accepted decisions were taken, want %d", taken, queueRows*3/4)
	}
	for seq := uint64(100_000); f.Append(frozen(exampleDecision(seq))); seq++ {
		taken++
	}
	if taken != queueRows {
		t.Errorf("%d decisions were taken, want %d", taken, queueRows)
	}
	if h := f.Health(); h.Queued != queueRows || h.Dropped != 3 {
		t.Errorf("full: got %+v, want %d queued and 3 dropped", h, queueRows)
	}
	f.run(t)
	f.flush(t)
	if n := ask(t, f.path, "SELECT count(*) FROM decisions"); n != queueRows {
		t.Errorf("%d decisions stored, want %d", n, queueRows)
	}
	until(t, "the gap is in the journal", func() bool {
		list, _, err := f.Journal(context.Background(), time.Time{}, 0, "")
		return err == nil && len(list) == 1 && list[0].Kind == "gap" && strings.HasPrefix(list[0].Text, "3 decisions")
	})
	if rows, bytes, _ := f.q.depth(); rows != 0 || bytes != 0 {
		t.Errorf("when all is written %d rows and %d bytes wait", rows, bytes)
	}
}

func TestTheQueueIsBoundedInBytes(t *testing.T) {
	f, err := open(t, "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d, taken := frozen(exampleDecision(1)), 0
	big := strings.Repeat("x", 65_536)
	d.Submission.Subject, d.Submission.EnvelopeSender, d.Submission.RecipientList, d.Identity.Directory, d.Identity.Basis = big, big, big, big, big
	for f.Append(d) {
		taken++
	}
	if _, bytes, _ := f.q.depth(); bytes > queueBytes || taken >= queueRows {
		t.Errorf("%d large decisions taken, %d bytes", taken, bytes)
	}
}

func TestARowThatIsRefusedDoesNotHoldUpTheOthers(t *testing.T) {
	f := start(t, "")
	outside(t, f.path, "CREATE TRIGGER no BEFORE INSERT ON decisions WHEN new.seq = 3 BEGIN SELECT RAISE(ABORT, 'no'); END")
	for seq := uint64(1); seq <= 5; seq++ {
		f.Append(exampleDecision(seq))
	}
	f.AppendEvent(policy.Event{ID: 1, Account: "shop", Open: true}, 5)
	f.flush(t)
	if n := ask(t, f.path, "SELECT count(*) FROM decisions"); n != 4 {
		t.Errorf("%d decisions stored, want 4", n)
	}
	if h := f.Health(); h.Dropped != 1 || h.Queued != 0 || !h.OK {
		t.Errorf("got %+v, want one dropped", h)
	}
	if _, err := f.Event(context.Background(), 1); err != nil {
		t.Errorf("the event of the same batch: %v", err)
	}
}

func TestAWriteThatFailsLeavesNothingBehind(t *testing.T) {
	f := start(t, "")
	wrong := errors.New("wrong")
	err := f.do(context.Background(), "try", func(ctx context.Context, tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, insertJournal, 1, "x", "y"); err != nil {
			return err
		}
		return wrong
	})
	if !errors.Is(err, wrong) || !f.Health().OK {
		t.Errorf("got %v, %+v; want the error, and a sound store", err, f.Health())
	}
	if n := ask(t, f.path, "SELECT count(*) FROM journal"); n != 0 {
		t.Errorf("%d rows were left behind", n)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := f.AddEntry(ctx, "x", "y"); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: got %v", err)
	}
}

func TestASearchThatTakesTooLongEndsWithWhereToGoOn(t *testing.T) {
	f := start(t, "")
	for seq := uint64(1); seq <= 120_000; seq++ {
		if seq%20_000 == 0 {
			f.flush(t)
		}
		f.Append(exampleDecision(seq))
	}
	f.flush(t)
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Millisecond)
	defer cancel()
	began := time.Now()
	list, next, err := f.Decisions(ctx, DecisionFilter{Subject: "there is none"})
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v in spite of the deadline", took)
	}
	if err == nil && (len(list) != 0 || next == "") {
		t.Errorf("got %d decisions and next %q; want none, and where to go on", len(list), next)
	}
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if _, err := fmt.Sscan(next, new(uint64)); err == nil {
		if _, _, err := f.Decisions(context.Background(), DecisionFilter{Subject: "there is none", After: next}); err != nil {
			t.Errorf("going on after %s: %v", next, err)
		}
	}
}
