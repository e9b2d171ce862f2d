package origin

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"osm/policy"
)

// BootID returns the kernel's name for the time since the last boot: boot times are
// comparable only under one boot id. It is "" where /proc cannot be read.
func BootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// Clock returns the function that reads both clocks. CLOCK_BOOTTIME goes on while the
// machine sleeps and no clock step moves it.
func Clock() func() policy.Moment {
	return func() policy.Moment {
		return policy.Moment{
			Wall: wallNow(),
			Boot: bootNow().Milliseconds() + policy.BootShift,
		}
	}
}

// bootNow returns the time since boot. It cannot fail on a kernel that has the clock,
// which all since 2.6.39 do.
func bootNow() time.Duration { return now(unix.CLOCK_BOOTTIME) }

func wallNow() time.Time {
	return time.Unix(0, int64(now(unix.CLOCK_REALTIME))).UTC().Truncate(time.Millisecond)
}

func now(clock int32) time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(clock, &ts); err != nil {
		panic("the kernel has no clock " + fmt.Sprint(clock) + ": " + err.Error())
	}
	return time.Duration(ts.Nano())
}
