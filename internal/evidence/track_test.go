package evidence

import (
	"testing"
	"time"

	"osm/policy"
)

// at is a sample taken in the 4 ms before a boot time.
func at(boot int64) sample { return sample{before: boot - 4, after: boot} }

func seen(state byte, seconds, millis, accesses int64) row {
	return row{slot: "1-0", pid: 7, state: state, seconds: seconds, millis: millis, accesses: accesses, client: "192.0.2.1", request: "GET /a.php HTTP/1.1"}
}

func begin(t *testing.T, r row, s sample) *track {
	t.Helper()
	tr, ok := newTrack(r, s)
	if !ok {
		t.Fatalf("%+v begins no track", r)
	}
	return tr
}

// A request that began at 10,000 and a message whose process started at 10,100: one look
// tells the second only.
func TestARequestsBeginIsNarrowedDown(t *testing.T) {
	message := when{exact: true, min: 10_100, max: 10_110}
	one := begin(t, seen('W', 0, 0, 3), at(10_200))
	if f := one.span.fit(message); f != possible {
		t.Errorf("after one sample the fit is %d, want possible", f)
	}

	t.Run("by the second that is up", func(t *testing.T) {
		tr := begin(t, seen('W', 0, 0, 3), at(10_200))
		for boot := int64(10_225); boot < 11_100; boot += 25 {
			seconds := (boot - 10_002) / 1000
			if !tr.add(seen('W', seconds, 0, 3), at(boot)) {
				t.Fatalf("the sample at %d contradicts %+v", boot, tr.span)
			}
		}
		if f := tr.span.fit(message); f != certain || tr.span.startMax-tr.span.startMin > 40 {
			t.Errorf("%+v fits %d, want certain", tr.span, f)
		}
	})
	t.Run("by its end", func(t *testing.T) {
		tr := begin(t, seen('W', 0, 0, 3), at(10_200))
		if !tr.add(seen('K', 0, 205, 4), at(10_225)) || !tr.over() {
			t.Fatalf("the end contradicts %+v", tr.span)
		}
		if f := tr.span.fit(message); f != certain {
			t.Errorf("%+v fits %d, want certain", tr.span, f)
		}
	})
	t.Run("a request that began after the message", func(t *testing.T) {
		tr := begin(t, seen('W', 0, 0, 3), at(10_200))
		if !tr.add(seen('_', 0, 30, 4), at(10_225)) {
			t.Fatalf("the end contradicts %+v", tr.span)
		}
		if f := tr.span.fit(message); f != impossible {
			t.Errorf("%+v fits %d, want impossible", tr.span, f)
		}
	})
	t.Run("one that ended before the message", func(t *testing.T) {
		tr := begin(t, seen('_', 2, 500, 4), at(12_200))
		if f := tr.span.fit(when{exact: true, min: 10_900, max: 10_910}); f != impossible {
			t.Errorf("%+v fits %d, want impossible", tr.span, f)
		}
	})
	t.Run("one that ended long enough after it", func(t *testing.T) {
		tr := begin(t, seen('_', 1, 5000, 4), at(15_800))
		if f := tr.span.fit(message); f != certain {
			t.Errorf("%+v fits %d, want certain", tr.span, f)
		}
	})
}

func TestAnotherRequestOnTheSameProcessIsNotTheSameTrack(t *testing.T) {
	other := seen('W', 0, 0, 3)
	other.client = "192.0.2.2"
	for name, r := range map[string]row{
		"another visitor":                 other,
		"the same visitor once more":      seen('W', 0, 0, 4),
		"an end of a later request":       seen('_', 0, 5, 5),
		"a process that reads":            seen('R', 0, 0, 3),
		"a time that contradicts the old": seen('W', 5, 0, 3),
	} {
		tr := begin(t, seen('W', 0, 0, 3), at(10_200))
		before := tr.span
		if tr.add(r, at(10_225)) || tr.span != before {
			t.Errorf("%s: taken for the same request: %+v", name, tr.span)
		}
	}
	for _, r := range []row{{state: 'W', request: "..reading.."}, {state: 'R', request: "GET / HTTP/1.1"}, {state: 'G', request: "GET / HTTP/1.1"}} {
		if _, ok := newTrack(r, at(10_200)); ok {
			t.Errorf("%+v begins a track", r)
		}
	}
}

func TestALaterMessageOfTheSameRequestNeedsNoWait(t *testing.T) {
	first := begin(t, seen('W', 0, 0, 3), at(10_200))
	second := begin(t, seen('W', 0, 0, 3), at(10_400))
	if !second.continues(first) {
		t.Fatal("the same request is not known any more")
	}
	if f := second.span.fit(when{exact: true, min: 10_300, max: 10_310}); f != certain || second.samples < 2 {
		t.Errorf("%+v fits %d after %d samples, want certain after 2", second.span, f, second.samples)
	}
	for name, r := range map[string]row{"its next request": seen('W', 0, 0, 4), "an end": seen('_', 0, 10, 4)} {
		if tr := begin(t, r, at(10_400)); tr.continues(first) {
			t.Errorf("%s is taken for the earlier request", name)
		}
	}
	if begin(t, seen('W', 0, 0, 3), at(10_400)).continues(nil) {
		t.Error("a request continues nothing")
	}
}

func TestSMTPFromTheScriptItselfIsNeverCertain(t *testing.T) {
	s := span{startMin: 10_000, startMax: 10_050, endMin: 10_500, endMax: never}
	for asked, want := range map[int64]fit{9_900: impossible, 10_020: possible, 10_300: connected} {
		if f := s.fit(when{min: asked, max: asked}); f != want {
			t.Errorf("asked at %d it fits %d, want %d", asked, f, want)
		}
	}
}

func TestAClockThatWasSetIsSeen(t *testing.T) {
	wall := time.UnixMilli(1_800_000_000_000)
	message := policy.Moment{Wall: wall, Boot: 1000}
	for name, c := range map[string]struct {
		later policy.Moment
		set   bool
	}{
		"no": {policy.Moment{Wall: wall.Add(2 * time.Second), Boot: 3020}, false}, "forth": {policy.Moment{Wall: wall.Add(7 * time.Second), Boot: 3000}, true},
		"back": {policy.Moment{Wall: wall.Add(-time.Second), Boot: 3000}, true}, "not known": {policy.Moment{Boot: 3000}, false},
	} {
		if got := clockSet(message, c.later); got != c.set {
			t.Errorf("set %s: %t", name, got)
		}
	}
}
