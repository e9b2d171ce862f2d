package origin

import (
	"regexp"
	"testing"
	"time"

	"osm/policy"
)

func TestClockGoesForwardAndNamesTheBoot(t *testing.T) {
	clock := Clock()
	a, b := clock(), clock()
	if a.Boot < policy.BootShift || b.Boot < a.Boot {
		t.Errorf("boot time: got %d, then %d; want at least %d and no step back", a.Boot, b.Boot, int64(policy.BootShift))
	}
	if a.Wall.Location() != time.UTC || a.Wall.Nanosecond()%1_000_000 != 0 || time.Since(a.Wall).Abs() > time.Minute {
		t.Errorf("wall time: got %v, want now in UTC with whole milliseconds", a.Wall)
	}
	if id := BootID(); !regexp.MustCompile(`^[0-9a-f-]{36}$`).MatchString(id) || id != BootID() {
		t.Errorf("BootID: got %q", id)
	}
}

func TestClockFindsOutWithinASecondThatTheMachineHasSlept(t *testing.T) {
	c := &clock{start: time.Now()}
	c.look()
	awake := c.offset.Load()
	const slept = time.Hour
	c.offset.Store(awake - int64(slept)) // as if it had been measured before an hour of sleep
	if behind := bootNow().Milliseconds() + policy.BootShift - c.now().Boot; behind < slept.Milliseconds()/2 {
		t.Errorf("right after a look the clock is %d ms behind, want no second look yet", behind)
	}
	c.looked.Store(int64(time.Since(c.start) - asleepEvery))
	before := bootNow().Milliseconds() + policy.BootShift
	if got := c.now().Boot; got < before-1000 || got > bootNow().Milliseconds()+policy.BootShift {
		t.Errorf("a second later the clock says %d, want about %d", got, before)
	}
	c.offset.Store(awake + int64(slept)) // never backwards, whatever is measured
	c.look()
	if got := c.offset.Load(); got != awake+int64(slept) {
		t.Errorf("the clock went back by %v", time.Duration(awake+int64(slept)-got))
	}
}

func BenchmarkClock(b *testing.B) {
	clock := Clock()
	for b.Loop() {
		clock()
	}
}
