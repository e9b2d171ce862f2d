package main

import (
	"runtime/debug"
	"runtime/metrics"
)

// Of garbage the collector lets so much pile up, whatever the size of the live heap. By
// Go's default it is as much as is live: on a small server it would run several times a
// second, on one with millions of counters double the memory.
const (
	garbage    = 64 << 20
	minPercent = 25
	maxPercent = 1600
)

// collector sets how often Go's garbage collector runs, by what was live at its last run.
type collector struct {
	live    [1]metrics.Sample
	percent int
}

func newCollector() *collector {
	return &collector{live: [1]metrics.Sample{{Name: "/gc/heap/live:bytes"}}, percent: 100}
}

// tune is called now and then. Each change stops the program for some microseconds.
func (c *collector) tune() {
	metrics.Read(c.live[:])
	if c.live[0].Value.Kind() != metrics.KindUint64 {
		return // a version of Go that has no such figure
	}
	p := percentOf(c.live[0].Value.Uint64())
	if p*10 < c.percent*9 || p*10 > c.percent*11 {
		c.percent = p
		debug.SetGCPercent(p)
	}
}

func percentOf(live uint64) int {
	return int(min(max(garbage*100/max(live, 1), minPercent), maxPercent))
}
