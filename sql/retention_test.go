package store

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"osm/policy"
)

func TestOldRowsGoInSmallSteps(t *testing.T) {
	f, err := open(t, "", func(o *Options) { o.KeepDecisions, o.KeepEvents = 24*time.Hour, 30*24*time.Hour })
	if err != nil {
		t.Fatal(err)
	}
	const old, young = 9_000, 1_000
	for seq := uint64(1); seq <= old+young; seq++ {
		d := exampleDecision(seq)
		d.At.Wall = day.Add(time.Duration(seq) * time.Second)
		if seq > old {
			d.At.Wall = d.At.Wall.Add(48 * time.Hour)
		}
		f.Append(d)
	}
	f.AppendEvent(policy.Event{ID: 1, At: day, LastAt: day, Account: "shop"}, 1)
	f.AppendEvent(policy.Event{ID: 2, At: day, LastAt: day, Account: "shop", Open: true}, 1)
	f.AppendEvent(policy.Event{ID: 3, At: day, LastAt: day.Add(40 * 24 * time.Hour), Account: "shop"}, 1)
	ctx := context.Background()
	f.store(ctx)
	f.now.Store(day.Add(49 * time.Hour).UnixMilli())
	for f.beginPurge(ctx); len(f.purging.steps) > 0; {
		before := ask(t, f.path, "SELECT count(*) FROM decisions")
		f.purge(ctx)
		if gone := before - ask(t, f.path, "SELECT count(*) FROM decisions"); gone > purgeRows {
			t.Fatalf("one step deleted %d decisions, at most %d are allowed", gone, purgeRows)
		}
	}
	for query, want := range map[string]int64{
		"SELECT count(*) FROM decisions":                       young,
		"SELECT min(seq) FROM decisions":                       old + 1,
		"SELECT count(*) FROM events":                          3,
		"SELECT count(*) > 0 FROM names":                       1, // the present epoch's are in use
		"SELECT count(*) FROM minutes WHERE minute < 29558000": 0,
	} {
		if n := ask(t, f.path, query); n != want {
			t.Errorf("%s: got %d, want %d", query, n, want)
		}
	}
	if top, err := f.Top(ctx, TopFilter{Since: day, By: "messages", Limit: 100}); err != nil || len(top.Items) != 7 {
		t.Errorf("top after the purge: got %+v, %v", top, err)
	}
	f.now.Store(day.Add(35 * 24 * time.Hour).UnixMilli())
	for f.beginPurge(ctx); len(f.purging.steps) > 0; {
		f.purge(ctx)
	}
	if f.w.names.next == 1 || len(f.w.names.young) != 0 {
		t.Error("after a day no new epoch of names was begun")
	}
	for f.beginPurge(ctx); len(f.purging.steps) > 0; { // now that the old epoch has ended
		f.purge(ctx)
	}
	for query, want := range map[string]int64{
		"SELECT count(*) FROM decisions": 0, "SELECT count(*) FROM names": 0, "SELECT count(*) FROM hours": 0,
		"SELECT count(*) FROM events": 2, "SELECT count(*) FROM event_messages": 2, "SELECT count(*) FROM name_epochs WHERE last_name IS NULL": 1,
	} {
		if n := ask(t, f.path, query); n != want {
			t.Errorf("later, %s: got %d, want %d", query, n, want)
		}
	}
	f.run(t)
	f.Append(exampleDecision(20_000))
	f.flush(t)
}

func TestTheWriterDeletesByItself(t *testing.T) {
	f := start(t, "")
	f.Append(exampleDecision(1))
	f.flush(t)
	f.stop()
	again := start(t, f.path, func(o *Options) {
		o.KeepDecisions, o.KeepEvents = time.Hour, time.Hour
		o.Now = func() time.Time { return day.Add(10 * time.Hour) }
	})
	until(t, "the old decision is deleted", func() bool { return ask(t, f.path, "SELECT count(*) FROM decisions") == 0 })
	if again.MaxSeq() != 1 {
		t.Errorf("highest number %d, want 1", again.MaxSeq())
	}
}

func TestABackupIsTheDatabase(t *testing.T) {
	f := start(t, "")
	precious(t, f)
	for seq := uint64(2); seq <= 5_000; seq++ {
		f.Append(exampleDecision(seq))
	}
	f.flush(t)
	ctx := context.Background()
	copied := filepath.Join(t.TempDir(), "copy of ? osm.db")
	if err := f.Backup(ctx, copied); err != nil {
		t.Fatal(err)
	}
	f.Append(exampleDecision(5_001)) // it goes on
	f.flush(t)
	if err := f.Backup(ctx, copied); err == nil {
		t.Error("a backup was overwritten")
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(filepath.Join(t.TempDir(), "elsewhere"), link); err != nil {
		t.Fatal(err)
	}
	if err := f.Backup(ctx, link); err == nil {
		t.Error("a backup followed a symlink")
	}
	if err := f.Backup(ctx, "relative.db"); err == nil {
		t.Error("a relative path was taken")
	}
	if fi, err := os.Stat(copied); err != nil || fi.Mode().Perm()&0o007 != 0 {
		t.Errorf("the backup: mode %v, %v; nobody else may read it", fi.Mode(), err)
	}
	b := start(t, copied)
	if b.RefKey() != f.RefKey() || b.MaxSeq() != 5_000 {
		t.Errorf("the backup: key the same %v, highest number %d; want true, 5000", b.RefKey() == f.RefKey(), b.MaxSeq())
	}
	for _, table := range []string{"decisions", "names", "accounts", "hours", "minutes", "held", "holds", "events", "exemptions"} {
		digest := "SELECT count(*) FROM (SELECT * FROM " + table + " EXCEPT SELECT * FROM other." + table + ")"
		db := openReadOnly(f.path, false)
		var n int64 = -1
		if _, err := db.Exec("ATTACH ? AS other", copied); err != nil {
			t.Fatal(err)
		}
		db.SetMaxOpenConns(1)
		if err := db.QueryRow(digest).Scan(&n); err != nil || n > 2 { // what came after it
			t.Errorf("%s: %d rows are not in the backup, %v", table, n, err)
		}
		db.Close()
	}
	b.Append(exampleDecision(6_000))
	b.flush(t)
}
