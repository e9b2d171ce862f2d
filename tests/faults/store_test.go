package faults

import (
	"bytes"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"osm/tests/lab"

	_ "github.com/mattn/go-sqlite3" // whoever else has the database open
)

// smallDisk puts the test's state folder on a file system of its own.
func smallDisk(t *testing.T, size string) {
	t.Helper()
	if err := syscall.Mount("tmpfs", machine.State, "tmpfs", 0, "size="+size); err != nil {
		t.Fatal(err)
	}
	state := machine.State
	t.Cleanup(func() {
		if err := syscall.Unmount(state, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// database is the daemon's database.
func database() string { return machine.State + "/osm.db" }

func TestWhenTheDiskIsFullMailIsDecidedFromMemory(t *testing.T) {
	fresh(t)
	smallDisk(t, "4m")
	d := start(t, limited)
	filler := machine.State + "/filler"
	fillUp(t, filler)
	all := storm{}.run(t)
	all.decidedAsUsual(t, d)
	alarmed(t, d, "store")
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	calm(t, d, "store")
	all.explained(t, d)
}

// fillUp leaves no byte free.
func fillUp(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 16; size > 0; {
		_, err := f.Write(make([]byte, size))
		switch {
		case errors.Is(err, syscall.ENOSPC):
			size /= 2
		case err != nil:
			t.Fatal(err)
		}
	}
}

func TestWhenTheDatabaseIsLockedMailIsDecidedFromMemory(t *testing.T) {
	d := daemon(t, limited)
	db, err := sql.Open("sqlite3", "file:"+database()+"?_busy_timeout=5000")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	c, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.ExecContext(t.Context(), "BEGIN EXCLUSIVE"); err != nil {
		t.Fatal(err)
	}
	all := storm{}.run(t)
	all.decidedAsUsual(t, d)
	alarmed(t, d, "store")
	if _, err := c.ExecContext(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	calm(t, d, "store")
	all.explained(t, d)
}

// A file system that is open for writing cannot be made read-only without an error of
// the disk, so that the daemon meets it when it starts.
func TestWhenTheDiskIsReadOnlyMailIsDecidedFromMemory(t *testing.T) {
	fresh(t)
	smallDisk(t, "16m")
	d := start(t, limited)
	if err := d.Stop(); err != nil {
		t.Fatal(err)
	}
	remount(t, syscall.MS_RDONLY)
	t.Cleanup(func() { remount(t, 0) })
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	all := storm{}.run(t)
	all.decidedAsUsual(t, d)
	alarmed(t, d, "store")
	remount(t, 0)
	calm(t, d, "store")
	all.explained(t, d)
}

func remount(t *testing.T, flags uintptr) {
	t.Helper()
	if err := syscall.Mount("", machine.State, "", syscall.MS_REMOUNT|flags, ""); err != nil {
		t.Errorf("remount: %v", err)
	}
}

// rubbish is what the pages of a damaged database hold.
func rubbish(t *testing.T) []byte {
	t.Helper()
	b := make([]byte, 1024)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	return b
}

// damage overwrites the database from its second page on, or all of it.
func damage(t *testing.T, from int64, with []byte) {
	t.Helper()
	f, err := os.OpenFile(database(), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if fi.Size() <= from {
		t.Fatalf("the database has %d bytes: nothing to damage", fi.Size())
	}
	for at := from; at < fi.Size(); at += int64(len(with)) {
		if _, err := f.WriteAt(with, at); err != nil {
			t.Fatal(err)
		}
	}
}

// setAside fails the test unless the damaged database lies beside the new one.
func setAside(t *testing.T, damaged []byte) {
	t.Helper()
	files, err := filepath.Glob(database() + ".corrupt-*")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, damaged) {
			return
		}
	}
	t.Errorf("the damaged database was not kept; beside the new one lie %q", files)
}

// stopWithNoLog stops the daemon by a signal at a moment when all that it stored is in the
// database itself: what stands in the write-ahead log would heal a damaged file.
func stopWithNoLog(t *testing.T, d *lab.Daemon) {
	t.Helper()
	db, err := sql.Open("sqlite3", "file:"+database())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	eventually(t, 20*time.Second, "the log to be moved into the database", func() error {
		if err := d.Signal(syscall.SIGSTOP); err != nil {
			return err
		}
		var busy, frames, moved int
		err := db.QueryRow("PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &frames, &moved)
		if err == nil && busy != 0 {
			err = errors.New("somebody still reads or writes it")
		}
		if err != nil {
			return errors.Join(err, d.Signal(syscall.SIGCONT))
		}
		return nil
	})
}

func TestADatabaseThatIsDamagedWhileInUseIsSetAside(t *testing.T) {
	d := daemon(t, limited)
	// So many that the first of them stand in pages of their own, which nothing that comes
	// later writes anew.
	const first = 45
	before := storm{each: first}.run(t)
	before.explained(t, d)
	queue, err := machine.ReadQueue()
	if err != nil || len(queue) == 0 {
		t.Fatalf("%d messages in the queue, %v", len(queue), err)
	}
	old := queue[0].ID
	for _, m := range queue {
		old = min(old, m.ID) // it begins with the time
	}
	stopWithNoLog(t, d)
	bad := rubbish(t)
	damage(t, 4096, bad)
	cont(t, d)
	clean(t)
	all := storm{}.run(t)
	all.accepted(t)
	all.later(t, 0)
	answered(t)
	all.frozenBut(t, d, limit-first)
	// What nobody reads nobody misses: it is met by whoever looks back.
	eventually(t, 40*time.Second, "somebody who reads to meet the damage", func() error {
		for _, args := range [][]string{{"top"}, {"events"}, {"explain", old}} {
			_, _ = d.Osmctl(args...) // what it answers from a damaged database is not the question
		}
		s, err := d.Status()
		if err == nil && s.Alarm("store-set-aside") == nil {
			err = fmt.Errorf("alarms are %+v", s.Alarms)
		}
		return err
	})
	setAside(t, bad)
	calm(t, d, "store")
	clean(t)
	after := storm{each: 20}.run(t)
	after.accepted(t)
	after.explained(t, d)
}

func TestADatabaseThatIsDamagedAtTheStartIsSetAside(t *testing.T) {
	for name, from := range map[string]int64{"from its first byte": 0, "behind its header": 4096} {
		t.Run(name, func(t *testing.T) {
			d := daemon(t, limited)
			if err := d.Stop(); err != nil {
				t.Fatal(err)
			}
			bad := rubbish(t)
			damage(t, from, bad)
			if err := d.Start(); err != nil {
				t.Fatal(err)
			}
			alarmed(t, d, "store-set-aside")
			all := storm{}.run(t)
			all.decidedAsUsual(t, d)
			setAside(t, bad)
			all.explained(t, d)
		})
	}
}
