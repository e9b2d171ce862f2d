package main

import "testing"

func TestGarbageIsBoundedWhateverIsLive(t *testing.T) {
	for _, tt := range []struct {
		name string
		live uint64
		want int
	}{
		{"before the first collection", 0, 1600},
		{"a small server", 8 << 20, 800},
		{"a million counters", 128 << 20, 50},
		{"more than the collector could keep up with", 1 << 30, 25},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := percentOf(tt.live); got != tt.want {
				t.Errorf("percentOf(%d MiB) = %d, want %d", tt.live>>20, got, tt.want)
			}
		})
	}
}
