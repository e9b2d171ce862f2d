package counters

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// fiveAsks are those of a usual message: two of the account, its Subject, directory and mailbox.
func fiveAsks(account int, subject string) []Ask {
	name := "account" + strconv.Itoa(account)
	return []Ask{
		{Slot: 1, Group: name, Period: hour, Units: 2, Max: 1 << 40},
		{Slot: 2, Group: name, Period: day, Units: 2, Max: 1 << 40},
		{Slot: 3, Group: name, Name: subject, Period: hour, Units: 1, Max: 1 << 40},
		{Slot: 4, Group: name, Name: "/home/" + name + "/public", Period: hour, Units: 1, Max: 1 << 40},
		{Slot: 5, Group: name, Name: "info@" + name + ".example", Period: hour, Units: 2, Max: 1 << 40},
	}
}

func BenchmarkAdmit5Keys(b *testing.B) {
	for _, accounts := range []int{1_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprintf("accounts=%d", accounts), func(b *testing.B) {
			table := New(Options{})
			for i := range accounts {
				table.Count(0, fiveAsks(i, "weekly news for you all"))
			}
			const prepared = 1 << 16
			asks := make([][]Ask, prepared)
			r := rand.New(rand.NewPCG(1, 2))
			for i := range asks {
				asks[i] = fiveAsks(r.IntN(accounts), "weekly news for you all")
			}
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				res := make([]Result, 5)
				for i := rand.IntN(prepared); pb.Next(); i++ {
					table.Admit(int64(i>>6), asks[i%prepared], res)
				}
			})
		})
	}
}

func BenchmarkHostileSubjects(b *testing.B) {
	for _, names := range []int{1_000_000, 10_000_000} {
		b.Run(fmt.Sprintf("names=%d", names), func(b *testing.B) {
			for range b.N {
				table := New(Options{})
				for i := range 100_000 {
					table.Count(0, fiveAsks(i, "news")[:2])
				}
				before := liveHeap()
				start := time.Now()
				flood(table, names)
				b.ReportMetric(float64(time.Since(start).Nanoseconds())/float64(names), "ns/name")
				b.ReportMetric(float64(liveHeap()-before)/(1<<20), "MiB-more")
				if n := table.Stats().Keys; n != 200_000+defaultPerGroup+1 {
					b.Fatalf("%d keys", n)
				}
			}
		})
	}
}

// residentMiB returns the resident set of this process.
func residentMiB(b *testing.B) float64 {
	f, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		b.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(f))[1])
	if err != nil {
		b.Fatal(err)
	}
	return float64(pages*os.Getpagesize()) / (1 << 20)
}

// Each key has a name of about 24 bytes and five messages spread over an hour.
func BenchmarkMemoryPerMillionKeys(b *testing.B) {
	const keys = 1_000_000
	for _, shape := range []struct {
		name     string
		perGroup int
	}{{"1 key per group", 1}, {"5 keys per group", 5}, {"50 keys per group", 50}} {
		b.Run(shape.name, func(b *testing.B) {
			for range b.N {
				before := liveHeap()
				table := New(Options{})
				for msg := range int64(5) {
					for i := range keys {
						a := Ask{Period: hour, Units: 1, Slot: uint16(1 + i%shape.perGroup%5)}
						if shape.perGroup == 1 {
							a.Group = fmt.Sprintf("long-account-name%07d", i)
						} else {
							a.Group = fmt.Sprintf("account%07d", i/shape.perGroup)
							a.Name = fmt.Sprintf("/home/account/public%04d", i%shape.perGroup)
						}
						table.Count(msg*10*minute, []Ask{a})
					}
				}
				rss := residentMiB(b)
				b.ReportMetric(float64(liveHeap()-before)/(1<<20), "MiB-live")
				b.ReportMetric(rss, "MiB-resident")
				if n := table.Stats().Keys; n != keys {
					b.Fatalf("%d keys", n)
				}
			}
		})
	}
}

func BenchmarkRebuildMillionKeys(b *testing.B) {
	table := New(Options{})
	for i := range 200_000 {
		table.Count(0, fiveAsks(i, "news"))
	}
	var held []time.Duration
	for b.Loop() {
		for i := range table.shards { // as Sweep does, but timed by shard and always built anew
			s := &table.shards[i]
			start := time.Now()
			s.mu.Lock()
			s.rebuild(s.alive(1))
			s.mu.Unlock()
			held = append(held, time.Since(start))
		}
	}
	slices.Sort(held)
	b.ReportMetric(float64(held[len(held)/2].Microseconds()), "µs-lock-p50")
	b.ReportMetric(float64(held[len(held)*99/100].Microseconds()), "µs-lock-p99")
}

func BenchmarkSnapshotMillionKeys(b *testing.B) {
	table := New(Options{})
	for i := range 200_000 {
		for msg := range int64(5) {
			table.Count(msg*10*minute, fiveAsks(i, "news"))
		}
	}
	h := Header{BootMs: 50 * minute, BootID: "boot", Slots: []string{"", "a", "b", "c", "d", "e"}}
	slot := func(s string) (uint16, bool) { return uint16(s[0]), true }
	for b.Loop() {
		var file bytes.Buffer
		start := time.Now()
		if err := table.WriteSnapshot(&file, h); err != nil {
			b.Fatal(err)
		}
		written := time.Now()
		size := file.Len()
		if _, _, err := New(Options{}).ReadSnapshot(&file, h, slot); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(written.Sub(start).Milliseconds()), "ms-write")
		b.ReportMetric(float64(time.Since(written).Milliseconds()), "ms-read")
		b.ReportMetric(float64(size)/(1<<20), "MiB-file")
	}
}
