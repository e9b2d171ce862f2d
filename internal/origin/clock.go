package origin

import (
	"os"
	"strings"
	"sync/atomic"
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

// asleepEvery is how often a clock looks whether the machine has slept.
const asleepEvery = time.Second

// Clock returns the function that reads both clocks. The boot clock goes on while the
// machine sleeps and no clock step moves it.
//
// CLOCK_BOOTTIME takes a system call. It is CLOCK_MONOTONIC, which Go reads with the wall
// time and without one, plus the time that the machine has slept; so only that is looked
// at, once a second at most: for a second after a sleep the clock may be behind, and it
// never steps back.
func Clock() func() policy.Moment {
	c := &clock{start: time.Now()}
	c.look()
	return c.now
}

// clock makes the boot clock out of Go's monotonic one.
type clock struct {
	start  time.Time
	offset atomic.Int64 // of boot time from the time since start, in nanoseconds
	looked atomic.Int64 // nanoseconds since start
}

func (c *clock) now() policy.Moment {
	t := time.Now()
	since := t.Sub(c.start)
	if last := c.looked.Load(); since-time.Duration(last) >= asleepEvery && c.looked.CompareAndSwap(last, int64(since)) {
		c.look()
	}
	boot := since + time.Duration(c.offset.Load())
	return policy.Moment{Wall: time.UnixMilli(t.UnixMilli()).UTC(), Boot: boot.Milliseconds() + policy.BootShift}
}

// look measures the offset. What passes between the two readings makes it too small, never
// too large: the largest one seen is the nearest.
func (c *clock) look() {
	boot := bootNow()
	offset := int64(boot - time.Since(c.start))
	for {
		old := c.offset.Load()
		if offset <= old || c.offset.CompareAndSwap(old, offset) {
			return
		}
	}
}

// bootNow returns the time since boot. It cannot fail on a kernel that has the clock,
// which all since 2.6.39 do.
func bootNow() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("the kernel has no clock of the time since boot: " + err.Error())
	}
	return time.Duration(ts.Nano())
}

// BootNanoseconds reads CLOCK_BOOTTIME.
func BootNanoseconds() int64 { return int64(bootNow()) }
