package main

import "testing"

func TestLooksForEvidenceAloneAreBounded(t *testing.T) {
	var l looks
	const uid, start = 1001, 5_000_000
	taken := 0
	for now := int64(start); now < start+10_000; now++ { // a thousand a second, for ten seconds
		if l.take(uid, now) {
			taken++
		}
	}
	if want := looksAtOnce + 10*looksPerSecond; taken < want-1 || taken > want+1 {
		t.Errorf("ten seconds of flood: %d looks, want %d", taken, want)
	}
	if !l.take(uid+1, start) {
		t.Error("another user lost his look to the flood")
	}
	for range looksAtOnce {
		if !l.take(uid, start+60_000) {
			t.Fatal("a minute after the flood the looks at once are not there again")
		}
	}
}
