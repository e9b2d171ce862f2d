package actions

import (
	"fmt"
	"time"
)

// TimerAlarms compares Exim's own timers with how long we keep held mail, and says for
// each that would free or bounce it earlier what would happen and which line in Exim's
// configuration prevents it. options is what [Executor.EximOptions] returned.
func TimerAlarms(options map[string]string, keep time.Duration) []string {
	var alarms []string
	add := func(format string, args ...any) { alarms = append(alarms, fmt.Sprintf(format, args...)) }
	for _, t := range []struct {
		name     string
		zeroOff  bool // 0s switches it off; otherwise it means "at once"
		whatDoes string
	}{
		{"timeout_frozen_after", true, "cancels and bounces held mail"},
		{"ignore_bounce_errors_after", false, "discards held mail with a null sender"},
	} {
		v, told := options[t.name]
		if !told {
			add("exim did not tell %s: held mail may leave the queue before held_keep", t.name)
			continue
		}
		d, ok := parseEximTime(v)
		switch {
		case !ok:
			add("exim's %s is %.40q, which is no time: held mail may leave the queue before held_keep", t.name, v)
		case d == 0 && t.zeroOff:
		case d <= keep:
			add("exim's %s = %s %s before held_keep (%s): set %s = %s", t.name, v, t.whatDoes, eximTime(keep), t.name, eximTime(keep+24*time.Hour))
		}
	}
	if v, told := options["auto_thaw"]; told {
		if d, ok := parseEximTime(v); !ok || d != 0 {
			add("exim's auto_thaw = %.40s delivers held mail by itself: set auto_thaw = 0s", v)
		}
	}
	return alarms
}

// parseEximTime reads a time as Exim writes it: "1w2d3h4m5s", up to two centuries.
func parseEximTime(s string) (time.Duration, bool) {
	const century = 100 * 365 * 24 * time.Hour // twice that still fits into a Duration
	units := map[byte]time.Duration{'w': 7 * 24 * time.Hour, 'd': 24 * time.Hour, 'h': time.Hour, 'm': time.Minute, 's': time.Second}
	if s == "" || len(s) > 40 {
		return 0, false
	}
	var sum, n time.Duration
	digits := 0
	for _, c := range []byte(s) {
		if c >= '0' && c <= '9' {
			if digits++; digits > 9 {
				return 0, false
			}
			n = n*10 + time.Duration(c-'0')
			continue
		}
		unit, ok := units[c]
		if !ok || digits == 0 || n > century/unit || sum > century {
			return 0, false
		}
		sum, n, digits = sum+n*unit, 0, 0
	}
	return sum, digits == 0
}

// eximTime writes a duration of whole hours as Exim reads it.
func eximTime(d time.Duration) string {
	if d%(24*time.Hour) == 0 {
		return fmt.Sprintf("%dd", d/(24*time.Hour))
	}
	return fmt.Sprintf("%dh", (d+time.Hour-1)/time.Hour)
}
