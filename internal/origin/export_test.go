package origin

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// exporting is a running [ExportMaps] whose looks the test decides on.
type exporting struct {
	tick chan time.Time
	log  *bytes.Buffer
}

// look makes it look once and waits until it has: a tick is only taken between two
// looks.
func (e exporting) look() {
	e.tick <- time.Time{}
	e.tick <- time.Time{}
}

func export(t *testing.T, o ExportOptions) exporting {
	t.Helper()
	e := exporting{tick: make(chan time.Time), log: &bytes.Buffer{}}
	o.Tick, o.Log = e.tick, slog.New(slog.NewTextHandler(e.log, nil))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- ExportMaps(ctx, o) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("ExportMaps: %v", err)
		}
	})
	e.look()
	return e
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(b)
}

func TestExportCopiesWhatChanges(t *testing.T) {
	dir := t.TempDir()
	source, maps := filepath.Join(dir, "userdomains"), filepath.Join(dir, "maps")
	write(t, source, "shop.example: shop\n")
	old := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	if err := os.Chtimes(source, old, old); err != nil {
		t.Fatal(err)
	}
	e := export(t, ExportOptions{Sources: []string{source, filepath.Join(dir, "missing")}, Dir: maps, GID: aliceUID})
	copied := filepath.Join(maps, "userdomains")
	if got := content(t, copied); got != "shop.example: shop\n" {
		t.Errorf("the first copy: got %q", got)
	}
	fi, err := os.Stat(copied)
	if err != nil {
		t.Fatal(err)
	}
	if st := fi.Sys().(*syscall.Stat_t); fi.Mode() != 0o640 || st.Uid != 0 || st.Gid != aliceUID || !fi.ModTime().Equal(old) {
		t.Errorf("the copy: mode %v, owner %d:%d, time %v; want 0640, 0:%d, %v", fi.Mode(), st.Uid, st.Gid, fi.ModTime(), aliceUID, old)
	}
	if fi, err := os.Stat(maps); err != nil || fi.Mode().Perm() != 0o750 {
		t.Errorf("the folder: %v, %v; want mode 0750", fi.Mode(), err)
	}
	write(t, source, "shop.example: shop\nnews.example: news\n")
	e.look()
	if got := content(t, copied); strings.Count(got, "\n") != 2 {
		t.Errorf("after a change: got %q", got)
	}
	if err := os.Remove(source); err != nil {
		t.Fatal(err)
	}
	e.look()
	if got := content(t, copied); strings.Count(got, "\n") != 2 {
		t.Errorf("while the source is missing: got %q, want the last copy", got)
	}
	names, err := os.ReadDir(maps)
	if err != nil || len(names) != 1 || e.log.Len() > 0 {
		t.Errorf("got files %v, %v and log %s; want one copy and nothing to say", names, err, e.log)
	}
}

func TestExportRefusesWhatIsNoPlainFile(t *testing.T) {
	for _, tt := range []struct {
		name string
		make func(path string) error
	}{
		{"a symbolic link", func(path string) error { return os.Symlink("/etc/shadow", path) }},
		{"a pipe that nobody writes to", func(path string) error { return syscall.Mkfifo(path, 0o600) }},
		{"a folder", func(path string) error { return os.Mkdir(path, 0o700) }},
		{"a huge file", func(path string) error {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				return err
			}
			return os.Truncate(path, maxExport+1)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			source := filepath.Join(dir, "userdomains")
			if err := tt.make(source); err != nil {
				t.Fatal(err)
			}
			e := export(t, ExportOptions{Sources: []string{source}, Dir: filepath.Join(dir, "maps")})
			e.look()
			if _, err := os.Lstat(filepath.Join(dir, "maps", "userdomains")); !os.IsNotExist(err) {
				t.Errorf("it was exported (%v)", err)
			}
			if n := strings.Count(e.log.String(), "map not exported"); n != 1 {
				t.Errorf("said %d times, want once: %s", n, e.log)
			}
		})
	}
}

func TestExportRefusesAFolderOfOthers(t *testing.T) {
	for _, tt := range []struct {
		name string
		make func(path string) error
	}{
		{"another user's", func(path string) error {
			if err := os.Mkdir(path, 0o750); err != nil {
				return err
			}
			return os.Chown(path, aliceUID, aliceUID)
		}},
		{"one in which the group may write", func(path string) error {
			if err := os.Mkdir(path, 0o750); err != nil {
				return err
			}
			return os.Chmod(path, 0o770)
		}},
		{"a symbolic link", func(path string) error { return os.Symlink("/root", path) }},
		{"a file", func(path string) error { return os.WriteFile(path, nil, 0o600) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "maps")
			if err := tt.make(dir); err != nil {
				t.Fatal(err)
			}
			err := ExportMaps(t.Context(), ExportOptions{Dir: dir, Tick: make(chan time.Time), Log: slog.New(slog.DiscardHandler)})
			if err == nil {
				t.Error("got no error")
			}
		})
	}
}

func TestExportReplacesALeftOver(t *testing.T) {
	dir := t.TempDir()
	maps := filepath.Join(dir, "maps")
	if err := os.Mkdir(maps, 0o750); err != nil {
		t.Fatal(err)
	}
	victim := filepath.Join(dir, "victim")
	write(t, victim, "untouched")
	if err := os.Symlink(victim, filepath.Join(maps, ".userdomains.new")); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "userdomains"), "a.example: a\n")
	export(t, ExportOptions{Sources: []string{filepath.Join(dir, "userdomains")}, Dir: maps})
	if got := content(t, filepath.Join(maps, "userdomains")); got != "a.example: a\n" || content(t, victim) != "untouched" {
		t.Errorf("got copy %q and %q behind the link", got, content(t, victim))
	}
}

func TestExportLooksAtOnceWhenToldTo(t *testing.T) {
	dir := t.TempDir()
	source, maps := filepath.Join(dir, "userdomains"), filepath.Join(dir, "maps")
	write(t, source, "shop.example: shop\n")
	again := make(chan struct{})
	export(t, ExportOptions{Sources: []string{source}, Dir: maps, GID: aliceUID, Again: again})
	write(t, source, "shop.example: shop\nnew.example: new\n")
	again <- struct{}{}
	again <- struct{}{} // it has looked when it takes the second
	if got := content(t, filepath.Join(maps, "userdomains")); got != "shop.example: shop\nnew.example: new\n" {
		t.Errorf("after a look: %q", got)
	}
}
