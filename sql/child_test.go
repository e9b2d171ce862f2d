package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"osm/policy"
)

// childVariable names the scenario that this program plays instead of running the tests:
// some need a process or mounts of their own.
const childVariable = "OSM_STORE_TEST_CHILD"

func TestMain(m *testing.M) {
	scenario := os.Getenv(childVariable)
	if scenario == "" {
		os.Exit(m.Run())
	}
	play, ok := map[string]func(dir string) error{"writer": playWriter, "full disk": playFullDisk, "read-only disk": playReadOnlyDisk}[scenario]
	if !ok {
		fmt.Println("there is no scenario", scenario)
		os.Exit(2)
	}
	if err := play(os.Args[1]); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// child starts this program with a scenario, before it the given command.
func child(t *testing.T, scenario string, before ...string) *exec.Cmd {
	t.Helper()
	args := append(before, os.Args[0], t.TempDir())
	c := exec.Command(args[0], args[1:]...)
	c.Env = append(os.Environ(), childVariable+"="+scenario)
	return c
}

// mounting is a child that may mount: it has a mount namespace of its own.
func mounting(t *testing.T, scenario string) {
	t.Helper()
	unshare := []string{"unshare", "--mount"}
	if os.Geteuid() != 0 {
		unshare = append(unshare, "--map-root-user")
	}
	if out, err := child(t, scenario, unshare...).CombinedOutput(); err != nil {
		t.Errorf("%v:\n%s", err, out)
	}
}

// running opens a store in a child and runs it; stop ends it.
func running(path string) (s *Store, stop func() error, err error) {
	f := &fixture{log: new(logs)}
	s, err = Open(context.Background(), Options{Path: path, BootID: "boot-1", Now: time.Now, Log: newLog(f.log)})
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	return s, func() error {
		cancel()
		return errors.Join(<-done, s.Close())
	}, nil
}

// await is until for a child.
func await(what string, cond func() bool) error {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(30 * time.Second)
	for !cond() {
		select {
		case <-ticker.C:
		case <-deadline:
			return fmt.Errorf("waited 30 s in vain: %s", what)
		}
	}
	return nil
}

// playWriter stores decisions until it is killed, and says how many are on disk.
func playWriter(dir string) error {
	s, _, err := running(filepath.Join(dir, "osm.db"))
	if err != nil {
		return err
	}
	for seq := uint64(1); ; seq++ {
		s.Append(frozen(exampleDecision(seq)))
		if seq%500 == 0 {
			if err := s.Flush(context.Background()); err != nil {
				return err
			}
			fmt.Println(seq)
		}
	}
}

func TestAKillLosesNothingThatWasWritten(t *testing.T) {
	c := child(t, "writer")
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	lines, last := bufio.NewScanner(out), 0
	for lines.Scan() {
		if last, err = strconv.Atoi(lines.Text()); err != nil {
			t.Fatal(err)
		}
		if last >= 20_000 {
			c.Process.Kill()
		}
	}
	c.Wait()
	path := filepath.Join(c.Args[1], "osm.db")
	f := start(t, path)
	if h := f.Health(); !h.OK || h.SetAside != "" {
		t.Fatalf("after a kill: %+v", h)
	}
	for _, table := range []string{"decisions", "held"} {
		if n := ask(t, path, "SELECT count(*) FROM "+table); n < int64(last) {
			t.Errorf("%d %s after a kill, want at least the %d that were written", n, table, last)
		}
	}
	if n, sum := ask(t, path, "SELECT count(*) FROM decisions"), ask(t, path, "SELECT sum(frozen) FROM hours"); n != sum {
		t.Errorf("the totals say %d, there are %d decisions", sum, n)
	}
	d, err := f.DecisionBySeq(context.Background(), uint64(last))
	if err != nil || d.Mailbox != exampleDecision(uint64(last)).Identity.Mailbox {
		t.Errorf("the last one written: got %+v, %v", d, err)
	}
	f.Append(exampleDecision(f.MaxSeq() + 1))
	f.flush(t)
}

func mount(args ...string) error {
	if out, err := exec.Command("mount", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("mount %v: %w: %s", args, err, out)
	}
	return nil
}

// playFullDisk fills a small disk, goes on in memory and writes everything as soon as
// there is room.
func playFullDisk(dir string) error {
	if err := mount("-t", "tmpfs", "-o", "size=4m", "none", dir); err != nil {
		return err
	}
	s, stop, err := running(filepath.Join(dir, "osm.db"))
	if err != nil {
		return err
	}
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 2<<20), 0o600); err != nil {
		return err
	}
	seq := uint64(0)
	for s.Health().OK && seq < 40_000 {
		for range 200 {
			seq++
			if !s.Append(exampleDecision(seq)) {
				return fmt.Errorf("decision %d was refused", seq)
			}
		}
		s.Flush(context.Background()) // an error is what is waited for
	}
	if s.Health().OK {
		return errors.New("the disk did not get full")
	}
	if _, err := s.DecisionBySeq(context.Background(), 1); err != nil {
		return fmt.Errorf("read while the disk is full: %w", err)
	}
	_, err = s.PutHold(context.Background(), policy.Hold{Account: "shop"})
	if err != nil && !errors.Is(err, ErrUnavailable) {
		return fmt.Errorf("put a hold while the disk is full: got %w, want ErrUnavailable", err)
	}
	if err := os.Remove(ballast); err != nil {
		return err
	}
	if err := await("the store mends itself", func() bool { return s.Health().OK }); err != nil {
		err = fmt.Errorf("%w: %+v", err, s.Health())
		return err
	}
	if err := s.Flush(context.Background()); err != nil {
		return err
	}
	for n := uint64(1); n <= seq; n += 97 {
		if _, err := s.DecisionBySeq(context.Background(), n); err != nil {
			return fmt.Errorf("decision %d: %w", n, err)
		}
	}
	if h := s.Health(); h.Written != seq || h.Dropped != 0 {
		return fmt.Errorf("of %d: %+v", seq, h)
	}
	return stop()
}

func TestAFullDiskStopsNothingAndMends(t *testing.T) { mounting(t, "full disk") }

// playReadOnlyDisk starts on a disk that cannot be written, which then can.
func playReadOnlyDisk(dir string) error {
	if err := mount("-t", "tmpfs", "none", dir); err != nil {
		return err
	}
	path := filepath.Join(dir, "osm.db")
	s, stop, err := running(path)
	if err != nil {
		return err
	}
	s.Append(exampleDecision(1))
	if _, err := s.PutHold(context.Background(), policy.Hold{Account: "shop"}); err != nil {
		return err
	}
	key := s.RefKey()
	if err := stop(); err != nil {
		return err
	}
	if err := mount("-o", "remount,ro", dir); err != nil {
		return err
	}
	if s, stop, err = running(path); err != nil {
		return fmt.Errorf("open on a read-only disk: %w", err)
	}
	if s.RefKey() != key || s.MaxSeq() != 1 {
		return fmt.Errorf("on a read-only disk: the key is the same: %v, highest number %d", s.RefKey() == key, s.MaxSeq())
	}
	if holds, err := s.Holds(context.Background()); err != nil || len(holds) != 1 {
		return fmt.Errorf("on a read-only disk: %d holds, %w", len(holds), err)
	}
	if s.Health().OK || !s.Append(exampleDecision(2)) {
		return fmt.Errorf("on a read-only disk: %+v", s.Health())
	}
	if err := s.Flush(context.Background()); !errors.Is(err, ErrUnavailable) {
		return fmt.Errorf("write on a read-only disk: got %w, want ErrUnavailable", err)
	}
	if err := mount("-o", "remount,rw", dir); err != nil {
		return err
	}
	if err := await("the store mends itself", func() bool { return s.Health().OK }); err != nil {
		err = fmt.Errorf("%w: %+v", err, s.Health())
		return err
	}
	if _, err := s.DecisionBySeq(context.Background(), 2); err != nil {
		return err
	}
	return stop()
}

func TestAReadOnlyDiskStopsNothingAndMends(t *testing.T) { mounting(t, "read-only disk") }
