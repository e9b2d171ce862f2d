package store

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// damaged makes a database with a row of each kind that must outlive damage, and damages
// it. It returns its path and the key of its references.
func damaged(t *testing.T, more func(f *fixture)) (path string, key [16]byte) {
	t.Helper()
	f := start(t, "")
	precious(t, f)
	if more != nil {
		more(f)
	}
	for seq := uint64(2); seq < 20_000; seq++ {
		f.Append(exampleDecision(seq))
	}
	if err := f.stop(); err != nil {
		t.Fatal(err)
	}
	damage(t, f.path, 0.7)
	return f.path, f.RefKey()
}

// wantSalvaged checks that all was carried over, that the damaged file was kept, and that
// nothing else lies about.
func wantSalvaged(t *testing.T, f *fixture, key [16]byte) {
	t.Helper()
	until(t, "the store mends itself", func() bool { return f.Health().OK })
	wantPrecious(t, f)
	if f.RefKey() != key || f.MaxSeq() < 20_000 {
		t.Errorf("the key of references was kept: %v; highest number %d", f.RefKey() == key, f.MaxSeq())
	}
	h := f.Health()
	if fi, err := os.Stat(h.SetAside); err != nil || fi.Size() < 1<<20 {
		t.Errorf("the damaged database %q: %v", h.SetAside, err)
	}
	files, err := os.ReadDir(filepath.Dir(f.path))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range files {
		if strings.Contains(e.Name(), ".salvage") {
			t.Errorf("%s was left behind", e.Name())
		}
	}
	f.Append(exampleDecision(f.MaxSeq() + 1))
	f.flush(t)
}

func TestASalvageThatFailsIsTriedAgainUntilAllIsCarriedOver(t *testing.T) {
	const lines = 300
	path, key := damaged(t, func(f *fixture) {
		for range lines {
			if _, err := f.AddAudit(context.Background(), Audit{Old: strings.Repeat("x", 4000)}); err != nil {
				t.Fatal(err)
			}
		}
	})
	var pages atomic.Int64
	pages.Store(90) // enough for a new database, but not for the audit
	f := start(t, path, func(o *Options) { o.maxPages = func() int { return int(pages.Load()) } })
	if h := f.Health(); h.OK || h.SetAside != "" || !strings.Contains(h.Problem, "full") {
		t.Fatalf("without room for what can be read: %+v, want the damaged database in its place", h)
	}
	pages.Store(1 << 30)
	wantSalvaged(t, f, key)
	if n := ask(t, path, "SELECT count(*) FROM audit"); n != lines {
		t.Errorf("%d lines of the audit were carried over, want %d", n, lines)
	}
	if lost := f.Health().Lost; lost != "" {
		t.Errorf("reported as lost: %s", lost)
	}
}

func TestASalvageThatWasBrokenOffIsFinished(t *testing.T) {
	const stamp = "20260314-092653"
	rename := func(t *testing.T, from, to string) {
		t.Helper()
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name  string
		crash func(t *testing.T, path string)
	}{
		{"while the new database was filled", func(t *testing.T, path string) {
			for _, suffix := range databaseFiles {
				if err := os.WriteFile(path+draftSuffix+suffix, []byte("half a database"), 0o640); err != nil {
					t.Fatal(err)
				}
			}
		}},
		{"when the new database was whole", func(t *testing.T, path string) {
			salvage(t, path)
			rename(t, path, path+wholeSuffix+stamp)
			rename(t, path+asideSuffix+stamp, path)
		}},
		{"when the damaged one was set aside", func(t *testing.T, path string) {
			salvage(t, path)
			rename(t, path, path+wholeSuffix+stamp)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			path, key := damaged(t, nil)
			c.crash(t, path)
			wantSalvaged(t, start(t, path), key)
		})
	}
}

// salvage has the damaged database replaced.
func salvage(t *testing.T, path string) {
	t.Helper()
	f, err := open(t, path)
	if err != nil || f.Health().SetAside == "" {
		t.Fatalf("%+v, %v", f.Health(), err)
	}
	f.w.conn.ExecContext(context.Background(), "PRAGMA wal_checkpoint(TRUNCATE)")
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestWhatCouldNotBeReadOfADamagedDatabaseIsNamed(t *testing.T) {
	f := start(t, "")
	precious(t, f)
	f.stop()
	damage(t, f.path, 0) // it is no database at all
	again := start(t, f.path)
	if h := again.Health(); !h.OK || !strings.Contains(h.Lost, "holds") {
		t.Errorf("got %+v, want the holds among what was lost", h)
	}
	list, _, err := again.Journal(context.Background(), time.Time{}, 0, "")
	if err != nil || len(list) != 1 || !strings.HasSuffix(list[0].Text, "carried over: nothing") {
		t.Errorf("journal: %+v, %v", list, err)
	}
}
