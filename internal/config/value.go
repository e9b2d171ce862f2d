package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// day is 24 hours: periods run on a clock that knows no daylight saving.
const day = 24 * time.Hour

// ParseDuration reads a Go duration that may also use d (24 hours) and w (7 days):
// "90m", "24h", "14d", "1d12h". Negative durations are refused.
func ParseDuration(s string) (time.Duration, error) {
	rest, total := strings.TrimSpace(s), 0.0
	if rest == "" {
		return 0, fmt.Errorf("duration is empty")
	}
	for rest != "" && rest != "0" {
		n := strings.IndexFunc(rest, func(r rune) bool { return r != '.' && (r < '0' || r > '9') })
		if n <= 0 {
			return 0, fmt.Errorf("duration %.40q has no unit: write 90s, 30m, 24h, 14d or 2w", s)
		}
		v, err := strconv.ParseFloat(rest[:n], 64)
		if err != nil {
			return 0, fmt.Errorf("duration %.40q: %.40q is no number", s, rest[:n])
		}
		unit, size := unitOf(rest[n:])
		if size == 0 {
			return 0, fmt.Errorf("duration %.40q: units are ms, s, m, h, d and w", s)
		}
		total += v * float64(size)
		rest = rest[n+len(unit):]
	}
	if total > math.MaxInt64/2 {
		return 0, fmt.Errorf("duration %.40q is longer than 146 years", s)
	}
	return time.Duration(total), nil
}

// unitOf returns the unit that s begins with, and its length in time.
func unitOf(s string) (string, time.Duration) {
	for _, u := range []struct {
		name string
		size time.Duration
	}{{"ms", time.Millisecond}, {"us", time.Microsecond}, {"µs", time.Microsecond}, {"ns", 1},
		{"s", time.Second}, {"m", time.Minute}, {"h", time.Hour}, {"d", day}, {"w", 7 * day}} {
		if strings.HasPrefix(s, u.name) {
			return u.name, u.size
		}
	}
	return "", 0
}

// FormatDuration writes d as an operator would: "90m", "24h", "14d". ParseDuration
// reads it back to the same value.
func FormatDuration(d time.Duration) string {
	switch {
	case d >= 2*day && d%day == 0:
		return strconv.FormatInt(int64(d/day), 10) + "d"
	case d >= time.Hour && d%time.Hour == 0:
		return strconv.FormatInt(int64(d/time.Hour), 10) + "h"
	case d >= time.Minute && d%time.Minute == 0:
		return strconv.FormatInt(int64(d/time.Minute), 10) + "m"
	case d >= time.Second && d%time.Second == 0:
		return strconv.FormatInt(int64(d/time.Second), 10) + "s"
	case d == 0:
		return "0s"
	}
	return d.String()
}

// byteUnits are what a size may end with; the first that divides a size is what it
// is written with.
func byteUnits() []struct {
	name string
	size int64
} {
	return []struct {
		name string
		size int64
	}{{"GB", 1e9}, {"GiB", 1 << 30}, {"MB", 1e6}, {"MiB", 1 << 20}, {"KB", 1e3}, {"KiB", 1 << 10}, {"B", 1}}
}

// ParseBytes reads a size: "500MB", "2GiB", "1000" (bytes). KB, MB and GB are powers
// of 1000, KiB, MiB and GiB of 1024.
func ParseBytes(s string) (int64, error) {
	num, size := strings.TrimSpace(s), int64(1)
	for _, u := range byteUnits() {
		if t, ok := strings.CutSuffix(num, u.name); ok {
			num, size = strings.TrimSpace(t), u.size
			break
		}
	}
	n, err := strconv.ParseInt(num, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/size {
		return 0, fmt.Errorf("size %.40q is not a number followed by KB, MB, GB, KiB, MiB or GiB", s)
	}
	return n * size, nil
}

// FormatBytes writes n with the largest unit that divides it.
func FormatBytes(n int64) string {
	for _, u := range byteUnits() {
		if n > 0 && n%u.size == 0 && u.size > 1 {
			return strconv.FormatInt(n/u.size, 10) + u.name
		}
	}
	return strconv.FormatInt(n, 10)
}

// Rate is how many messages may leave in a time: "60/min".
type Rate struct {
	N   int64
	Per time.Duration
}

// Every is the time between two messages at this rate.
func (r Rate) Every() time.Duration {
	if r.N <= 0 {
		return 0
	}
	return r.Per / time.Duration(r.N)
}

// String writes the rate as ParseRate reads it.
func (r Rate) String() string {
	for _, u := range rateUnits() {
		if r.Per == u.size {
			return strconv.FormatInt(r.N, 10) + "/" + u.name
		}
	}
	return strconv.FormatInt(r.N, 10) + "/" + FormatDuration(r.Per)
}

func rateUnits() []struct {
	name string
	size time.Duration
} {
	return []struct {
		name string
		size time.Duration
	}{{"s", time.Second}, {"min", time.Minute}, {"h", time.Hour}}
}

// ParseRate reads a rate: "60/min", "2/s", "500/h".
func ParseRate(s string) (Rate, error) {
	num, unit, ok := strings.Cut(strings.TrimSpace(s), "/")
	n, err := strconv.ParseInt(strings.TrimSpace(num), 10, 64)
	if ok && err == nil && n > 0 {
		unit = strings.TrimSpace(unit)
		for _, u := range rateUnits() {
			if unit == u.name {
				return Rate{N: n, Per: u.size}, nil
			}
		}
		if d, err := ParseDuration(unit); err == nil && d > 0 {
			return Rate{N: n, Per: d}, nil
		}
	}
	return Rate{}, fmt.Errorf("rate %.40q is not a number per s, min or h, such as 60/min", s)
}

// ParseUntil reads the moment at which something ends: a date (the end of that day
// in loc), a date and time in loc or with its own offset, or a duration from now.
func ParseUntil(s string, now time.Time, loc *time.Location) (time.Time, error) {
	s = strings.TrimSpace(s)
	if t, err := time.ParseInLocation(time.DateOnly, s, loc); err == nil {
		return endOfDay(t, loc), nil
	}
	for _, f := range []string{"2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02 15:04"} {
		if t, err := time.ParseInLocation(f, s, loc); err == nil {
			return t.UTC(), nil
		}
	}
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t.UTC().Truncate(time.Millisecond), nil
	}
	if d, err := ParseDuration(s); err == nil && d > 0 && !now.IsZero() {
		return now.Add(d).UTC().Truncate(time.Millisecond), nil
	}
	return time.Time{}, fmt.Errorf("%.40q is neither a date (2027-01-31), a date and time (2027-01-31T18:00), nor a duration (3d)", s)
}

// endOfDay is the last millisecond of t's day in loc.
func endOfDay(t time.Time, loc *time.Location) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day()+1, 0, 0, 0, 0, loc).Add(-time.Millisecond).UTC()
}
