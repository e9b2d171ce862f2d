package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"osm/counters"
	"osm/internal/origin"
	"osm/policy"
)

// snapshotEvery is how often the counters are written down: what a start has to replay
// is what was decided since.
const snapshotEvery = 10 * time.Second

// snapshots keeps the counters in a file beside the database.
type snapshots struct {
	path   string
	table  *counters.Table
	engine *policy.Engine
	clock  func() policy.Moment
	// wait says that the counters do not have yet what the file has and the decisions since:
	// it stays as it is.
	wait func() bool
}

func (s *snapshots) header() counters.Header {
	now := s.clock()
	return counters.Header{WallMs: now.Wall.UnixMilli(), BootMs: now.Boot, BootID: origin.BootID(), Slots: s.engine.Slots()}
}

// write replaces the file by the counters as they are now.
func (s *snapshots) write() error {
	if s.wait() {
		return nil
	}
	f, err := os.CreateTemp(filepath.Dir(s.path), filepath.Base(s.path)+".new-*")
	if err != nil {
		return fmt.Errorf("write counters: %w", err)
	}
	defer os.Remove(f.Name()) // after the rename there is nothing of that name
	w := bufio.NewWriterSize(f, 256<<10)
	err = s.table.WriteSnapshot(w, s.header())
	if err == nil {
		err = w.Flush()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), s.path)
	}
	if err != nil {
		return fmt.Errorf("write counters to %q: %w", s.path, err)
	}
	return nil
}

// restored is what a start found.
type restored struct {
	slots []string  // whose counters are back …
	after uint64    // … with all decisions up to this one
	at    time.Time // when the snapshot was made; zero: there was none to build on
}

// read brings the counters back. A snapshot that is missing or broken is no error of the
// start: the decisions are replayed instead, which takes longer.
func (s *snapshots) read() (restored, error) {
	f, err := os.Open(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return restored{}, nil
	}
	if err != nil {
		return restored{}, fmt.Errorf("read counters: %w", err)
	}
	defer f.Close()
	h, after, err := s.table.ReadSnapshot(bufio.NewReaderSize(f, 256<<10), s.header(), s.engine.Slot)
	if err != nil {
		return restored{}, fmt.Errorf("read counters from %q: %w", s.path, err)
	}
	return restored{slots: h.Slots, after: after, at: time.UnixMilli(h.WallMs)}, nil
}

// run writes the counters regularly and once more at the end; it also lets go of what
// has run out.
func (s *snapshots) run(ctx context.Context, report func(error)) error {
	tick := time.NewTicker(snapshotEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			report(s.write())
			return nil
		case <-tick.C:
			s.table.Sweep(s.clock().Boot)
			report(s.write())
		}
	}
}
