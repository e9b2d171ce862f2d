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
