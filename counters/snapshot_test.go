package counters

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
)

// sameSlots maps the fingerprints "s0", "s1" … to their numbers.
func sameSlots(s string) (n uint16, ok bool) {
	_, err := fmt.Sscanf(s, "s%d", &n)
	return n, err == nil && int(n) < len(headerAt(0).Slots)
}

func headerAt(boot int64) Header {
	return Header{WallMs: 1_700_000_000_000 + boot, BootMs: boot, BootID: "first", Slots: []string{"s0", "s1", "s2", "s3", "s4"}}
}

func snapshotOf(t testing.TB, table *Table, h Header) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := table.WriteSnapshot(&b, h); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// someCounters fills a table with counters of several shapes; the newest was counted at 10 hours.
func someCounters(t testing.TB) *Table {
	t.Helper()
	table := New(Options{Shards: 8})
	r := rand.New(rand.NewPCG(5, 6))
	var asks []Ask
	for i := range 400 {
		a := Ask{Slot: uint16(i % 5), Group: fmt.Sprint("user", i%37), Period: []int64{second, hour, day, 31 * day}[i%4], Units: 1}
		if i%3 > 0 {
			a.Name = fmt.Sprint("name", i%11)
		}
		asks = append(asks, a)
	}
	for i := range int64(20_000) {
		a := asks[r.IntN(len(asks))]
		a.Units = 1 + r.Uint32N(5)
		table.Count(i*10*hour/20_000, []Ask{a})
	}
	table.Count(10*hour, asks[:7])
	return table
}

func allUsage(t *Table, now int64) map[string][]string {
	m := map[string][]string{}
	for i := range 40 {
		group := fmt.Sprint("user", i)
		if u := usage(t, now, group); u != nil {
			m[group] = u
		}
	}
	return m
}

func TestASnapshotBringsBackEveryCount(t *testing.T) {
	table := someCounters(t)
	h := headerAt(10 * hour)
	file := snapshotOf(t, table, h)
	for _, shards := range []int{1, 8, 256} {
		back := New(Options{Shards: shards})
		got, minSeq, err := back.ReadSnapshot(bytes.NewReader(file), headerAt(10*hour), sameSlots)
		if err != nil || !reflect.DeepEqual(got, h) || minSeq != 20_001 {
			t.Fatalf("%d shards: header %+v, number %d, error %v; want %+v and 20001", shards, got, minSeq, err, h)
		}
		if back.NextSeq() <= 20_001 {
			t.Error("numbers begin anew")
		}
		for _, now := range []int64{10 * hour, 10*hour + second, 10*hour + 45*minute, 30 * hour, 30 * day} {
			if got, want := allUsage(back, now), allUsage(table, now); !reflect.DeepEqual(got, want) {
				t.Fatalf("%d shards, at %d: got %v\nwant %v", shards, now, got, want)
			}
		}
	}
}

func TestWhatHasRunOutIsNeitherWrittenNorRead(t *testing.T) {
	table := New(Options{})
	table.Count(0, []Ask{{Slot: 1, Group: "shop", Period: hour, Units: 3}, {Slot: 2, Group: "shop", Period: day, Units: 3}})
	small := snapshotOf(t, table, headerAt(5*hour))
	table.Count(5*hour, []Ask{{Slot: 1, Group: "shop", Period: hour, Units: 3}})
	if large := snapshotOf(t, table, headerAt(5*hour)); len(large) <= len(small) {
		t.Errorf("%d bytes without the hour's counter, %d with it", len(small), len(large))
	}
	back := New(Options{})
	if _, _, err := back.ReadSnapshot(bytes.NewReader(small), headerAt(2*day), sameSlots); err != nil || back.Stats().Keys != 0 {
		t.Errorf("%d keys two days later, error %v; want none", back.Stats().Keys, err)
	}
}

func TestSlotsAreMappedByTheirFingerprint(t *testing.T) {
	table := New(Options{})
	for slot := range uint16(7) { // 5 and 6 are not in the header, 3 is unused
		table.Count(0, []Ask{{Slot: slot, Group: "shop", Period: hour, Units: uint32(slot) + 1}})
	}
	h := headerAt(0)
	h.Slots[3] = ""
	back := New(Options{})
	_, _, err := back.ReadSnapshot(bytes.NewReader(snapshotOf(t, table, h)), headerAt(0), func(s string) (uint16, bool) {
		return map[string]uint16{"s0": 40, "s1": 0, "s4": 65535}[s], s != "s2"
	})
	if got, want := usage(back, 0, "shop"), []string{"0//3600000=2", "40//3600000=1", "65535//3600000=5"}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
}

func TestAfterAnotherBootTimesAreMovedByTheWallClock(t *testing.T) {
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 1))
		period := []int64{second, hour, 31 * day}[seed%3]
		a := Ask{Slot: 1, Group: "shop", Period: period, Units: 1, Max: 50}
		table := New(Options{})
		wall := int64(1_700_000_000_000)
		boot1, boot2 := r.Int64N(1<<35), r.Int64N(1<<20) // the machine ran for long; it has just started
		var log []sent
		now := boot1
		for range 200 {
			now += r.Int64N(period / 20)
			if ok, _ := ask1(table, now, a); ok {
				log = append(log, sent{wall + now - boot1, 1})
			}
		}
		h := Header{WallMs: wall + now - boot1, BootMs: now, BootID: "first", Slots: []string{"", "s1"}}
		down := r.Int64N(period / 2)
		at := Header{WallMs: h.WallMs + down, BootMs: boot2, BootID: "second"}
		back := New(Options{})
		if _, _, err := back.ReadSnapshot(bytes.NewReader(snapshotOf(t, table, h)), at, sameSlots); err != nil {
			t.Fatal(err)
		}
		for i := range int64(400) {
			boot := boot2 + i*period/200
			clock := at.WallMs + boot - boot2
			var res [1]Result
			back.Peek(boot, []Ask{a}, res[:])
			least, most := within(log, clock, period), within(log, clock, period+2*period/subs+4)
			if res[0].Used < least || res[0].Used > most {
				t.Fatalf("pattern %d, %d ms after the start: used %d, want %d to %d", seed, boot-boot2, res[0].Used, least, most)
			}
		}
	}
}

func TestAWallClockThatWentBackHoldsNobodyForLongerThanAPeriod(t *testing.T) {
	table := New(Options{})
	a := Ask{Slot: 1, Group: "shop", Period: hour, Units: 1, Max: 1}
	ask1(table, day, a)
	back := New(Options{})
	now := Header{WallMs: headerAt(day).WallMs - 7*day, BootMs: 0, BootID: "second"}
	if _, _, err := back.ReadSnapshot(bytes.NewReader(snapshotOf(t, table, headerAt(day))), now, sameSlots); err != nil {
		t.Fatal(err)
	}
	if at := back.FreeAt(0, a); at != hour+hour/subs {
		t.Errorf("free at %d, want after an hour and a sub-window", at)
	}
}

func TestReplayedTimesOfTheFutureHoldNobodyForLongerThanAPeriod(t *testing.T) {
	back := New(Options{})
	if _, _, err := back.ReadSnapshot(bytes.NewReader(snapshotOf(t, New(Options{}), headerAt(day))), headerAt(day), sameSlots); err != nil {
		t.Fatal(err)
	}
	a := Ask{Slot: 1, Group: "shop", Period: hour, Units: 1, Max: 1}
	back.Replay(30*day, 1, []Ask{a})
	if at := back.FreeAt(day, a); at != day+hour+hour/subs {
		t.Errorf("free %d ms after the start, want an hour and a sub-window", at-day)
	}
}

// stored is a decision as the database keeps it.
type stored struct {
	at   int64
	seq  uint64
	asks []Ask
}

func TestSnapshotAndReplayGiveTheExactCountsThoughWrittenWhileCounting(t *testing.T) {
	for round := range uint64(6) {
		table := New(Options{Shards: 16})
		var wg sync.WaitGroup
		var files [][]byte
		logs := make([][]stored, 4)
		for w := range logs {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(round, uint64(w)))
				res := make([]Result, 3)
				for range 4000 {
					asks := []Ask{
						{Slot: 1, Group: fmt.Sprint("user", r.IntN(40)), Period: hour, Units: 1, Max: 150},
						{Slot: 2, Group: fmt.Sprint("user", r.IntN(40)), Name: "x", Period: hour, Units: 1 + r.Uint32N(3), Max: 1 << 30},
						{Slot: 3, Group: fmt.Sprint("user", r.IntN(40)), Period: hour, Units: 1, Max: 40, Kind: Watching},
					}
					if ok, seq := table.Admit(hour, asks, res); ok {
						logs[w] = append(logs[w], stored{hour, seq, asks})
					}
				}
			})
		}
		wg.Go(func() {
			for range 10 {
				files = append(files, snapshotOf(t, table, headerAt(hour)))
			}
		})
		wg.Wait()
		all := slices.Concat(logs...)
		slices.SortFunc(all, func(a, b stored) int { return int(int64(a.seq) - int64(b.seq)) })
		want := allUsage(table, hour)
		for i, file := range files {
			back := New(Options{Shards: 4})
			_, minSeq, err := back.ReadSnapshot(bytes.NewReader(file), headerAt(hour), sameSlots)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range all {
				if d.seq > minSeq {
					back.Replay(d.at, d.seq, d.asks)
				}
			}
			if got := allUsage(back, hour); !reflect.DeepEqual(got, want) {
				t.Fatalf("round %d, snapshot %d from number %d: counts differ\ngot  %v\nwant %v", round, i, minSeq, got, want)
			}
		}
	}
}

func TestReplayLeavesAloneWhatTheSnapshotContained(t *testing.T) {
	ask := func(slot uint16, group string) []Ask {
		return []Ask{{Slot: slot, Group: group, Period: hour, Units: 1}}
	}
	table := New(Options{})
	table.Count(0, ask(1, "kept"))  // 1
	table.Count(0, ask(1, "reset")) // 2
	table.Reset(1, "reset", "")
	file := snapshotOf(t, table, headerAt(0))
	restore := func() *Table {
		back := New(Options{})
		if _, _, err := back.ReadSnapshot(bytes.NewReader(file), headerAt(0), func(s string) (uint16, bool) {
			n, _ := sameSlots(s)
			return n, n != 2
		}); err != nil {
			t.Fatal(err)
		}
		return back
	}
	for _, row := range []struct {
		name string
		do   func(t *Table)
		want string
	}{
		{"a counter that the snapshot held is not counted again", func(t *Table) { t.Replay(0, 1, ask(1, "kept")) }, "[1//3600000=1] []"},
		{"a counter that was reset before the snapshot stays so", func(t *Table) { t.Replay(0, 2, ask(1, "reset")) }, "[1//3600000=1] []"},
		{"a later decision is counted", func(t *Table) { t.Replay(0, 3, ask(1, "kept")); t.Replay(0, 4, ask(1, "reset")) }, "[1//3600000=2] [1//3600000=1]"},
		{"a slot that the snapshot had under no name is filled from the beginning", func(t *Table) { t.Replay(0, 1, ask(7, "kept")) }, "[1//3600000=1 7//3600000=1] []"},
		{"a slot whose counters were left out is filled from the beginning", func(t *Table) { t.Replay(0, 2, ask(2, "reset")) }, "[1//3600000=1] [2//3600000=1]"},
		{"a slot that was forgotten is filled from the beginning", func(t *Table) { t.ResetSlot(1); t.Replay(0, 2, ask(1, "reset")) }, "[] [1//3600000=1]"},
		{"after the restore all is counted", func(t *Table) { t.DropRestore(); t.Replay(0, 1, ask(1, "kept")) }, "[1//3600000=2] []"},
		{"what ran out long ago leaves no key", func(t *Table) { t.Replay(-3*hour, 9, ask(1, "reset")) }, "[1//3600000=1] []"},
	} {
		t.Run(row.name, func(t *testing.T) {
			back := restore()
			row.do(back)
			if got := fmt.Sprint(usage(back, 0, "kept"), usage(back, 0, "reset")); got != row.want {
				t.Errorf("got %v, want %v", got, row.want)
			}
		})
	}
}

func TestWhatIsCountedBeforeTheSnapshotIsReadIsKept(t *testing.T) {
	table := someCounters(t)
	file := snapshotOf(t, table, headerAt(10*hour))
	back := New(Options{})
	for _, target := range []*Table{table, back} {
		for i := range 50 {
			target.Count(10*hour+1, []Ask{
				{Slot: 1, Group: fmt.Sprint("user", i), Period: hour, Units: 2},
				{Slot: 2, Group: fmt.Sprint("user", i), Name: "name3", Period: day, Units: 2},
			})
		}
	}
	if _, _, err := back.ReadSnapshot(bytes.NewReader(file), headerAt(10*hour+2), sameSlots); err != nil {
		t.Fatal(err)
	}
	if got, want := allUsage(back, 10*hour+2), allUsage(table, 10*hour+2); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
}

func TestADamagedSnapshotIsAnErrorAndLeavesTheTableEmpty(t *testing.T) {
	table := New(Options{Shards: 2})
	for i := range 20 {
		table.Count(int64(i)*minute, []Ask{{Slot: uint16(i % 5), Group: fmt.Sprint("user", i%3), Name: "n", Period: hour, Units: 1}})
	}
	file := snapshotOf(t, table, headerAt(hour))
	read := func(b []byte) (int, error) {
		back := New(Options{Shards: 1})
		_, _, err := back.ReadSnapshot(bytes.NewReader(b), headerAt(hour), sameSlots)
		return back.Stats().Keys, err
	}
	if n, err := read(file); n == 0 || err != nil {
		t.Fatalf("the whole file gives %d keys and %v", n, err)
	}
	for i := range file {
		if n, err := read(file[:i]); err == nil || n != 0 {
			t.Fatalf("cut after %d of %d bytes: %d keys, error %v", i, len(file), n, err)
		}
		for _, bit := range []byte{1, 128} {
			bad := bytes.Clone(file)
			bad[i] ^= bit
			if n, err := read(bad); err == nil || n != 0 {
				t.Fatalf("byte %d of %d changed: %d keys, error %v", i, len(file), n, err)
			}
		}
	}
	if n, err := read(append(bytes.Clone(file), 0)); err == nil || n != 0 {
		t.Fatalf("a byte too many: %d keys, error %v", n, err)
	}
}

func TestALengthThatIsOnlyAnnouncedAllocatesNothing(t *testing.T) {
	file := snapshotOf(t, New(Options{}), headerAt(0))[:len(magic)+2]
	file = append(file, sectionHeader, 0, 0, 0, 0x40)
	back := New(Options{})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, _, err := back.ReadSnapshot(bytes.NewReader(file), headerAt(0), sameSlots)
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; err == nil || got > 1<<20 {
		t.Errorf("%d bytes allocated, error %v", got, err)
	}
}

type fullDisk struct{ left int }

func (f *fullDisk) Write(b []byte) (int, error) {
	if f.left -= len(b); f.left < 0 {
		return 0, io.ErrShortWrite
	}
	return len(b), nil
}

func TestASnapshotThatCannotBeWrittenIsAnError(t *testing.T) {
	table := someCounters(t)
	size := len(snapshotOf(t, table, headerAt(10*hour)))
	for _, left := range []int{0, 10, 50, size / 2, size - 1} {
		if err := table.WriteSnapshot(&fullDisk{left}, headerAt(10*hour)); !errors.Is(err, io.ErrShortWrite) {
			t.Errorf("%d bytes of room: error %v", left, err)
		}
	}
	for name, h := range map[string]Header{
		"a time out of range":    {WallMs: 1 << 60},
		"a boot id too long":     {BootID: strings.Repeat("x", maxName+1)},
		"too many slots":         {Slots: make([]string, maxSlots+1)},
		"a fingerprint too long": {Slots: []string{strings.Repeat("x", maxName+1)}},
	} {
		if err := table.WriteSnapshot(io.Discard, h); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// reseal gives every section its right length where it fits, and its right checksum, so that what
// is fuzzed is the decoder and not the checksum.
func reseal(b []byte) []byte {
	b = bytes.Clone(b)
	at := len(magic) + 2
	for at+9 <= len(b) {
		n := int(binary.LittleEndian.Uint32(b[at+1:]))
		if n < 0 || n > len(b)-at-9 {
			n = len(b) - at - 9
			binary.LittleEndian.PutUint32(b[at+1:], uint32(n))
		}
		binary.LittleEndian.PutUint32(b[at+5+n:], crc32.Checksum(b[:at+5+n], crcTable))
		at += 9 + n
	}
	return b
}

// FuzzReadSnapshot: whatever the file, there is no panic; after an error the table is empty; and
// what was read is written and read again with the same counts.
func FuzzReadSnapshot(f *testing.F) {
	small := New(Options{Shards: 1})
	small.Count(hour, []Ask{{Slot: 1, Group: "shop", Name: "a", Period: hour, Units: 3}})
	small.Count(hour+minute, []Ask{{Slot: 1, Group: "shop", Name: "a", Period: hour, Units: 3}, {Slot: 2, Group: "ip:1", Period: second, Units: 1 << 31}})
	f.Add(snapshotOf(f, small, headerAt(hour+minute)), hour+minute, true)
	f.Add(snapshotOf(f, New(Options{Shards: 2}), headerAt(0)), int64(0), false)
	for i := range 12 {
		small.Count(hour+int64(i)*5*minute, []Ask{{Slot: 3, Group: "shop", Name: fmt.Sprint(i % 9), Period: day, Units: 1}})
	}
	f.Add(snapshotOf(f, small, headerAt(2*hour)), 2*hour, false)
	f.Fuzz(func(t *testing.T, file []byte, boot int64, sameBoot bool) {
		now := headerAt(boot % (1 << 45))
		if !sameBoot {
			now.BootID = "second"
		}
		table := New(Options{Shards: 4, PerGroup: 8})
		if _, _, err := table.ReadSnapshot(bytes.NewReader(reseal(file)), now, sameSlots); err != nil {
			if st := table.Stats(); st.Keys != 0 || st.Groups != 0 {
				t.Fatalf("error %v, but %+v", err, st)
			}
			return
		}
		if allocated := table.Stats().Bytes; allocated > 64<<10+200*int64(len(file)) {
			t.Fatalf("%d bytes of file became %d in memory", len(file), allocated)
		}
		back := New(Options{Shards: 1, PerGroup: 8})
		if _, _, err := back.ReadSnapshot(bytes.NewReader(snapshotOf(t, table, now)), now, sameSlots); err != nil {
			t.Fatalf("what was read cannot be read again: %v", err)
		}
		for gi := range back.shards[0].groups {
			group := string(back.shards[0].groupName(&back.shards[0].groups[gi]))
			if got, want := usage(back, now.BootMs, group), usage(table, now.BootMs, group); !reflect.DeepEqual(got, want) {
				t.Fatalf("group %.40q: %v, want %v", group, got, want)
			}
		}
		table.Sweep(now.BootMs)
	})
}
