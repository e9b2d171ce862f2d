package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"osm/internal/control"
)

// printable writes a text so that it cannot do anything to a terminal: whatever is not
// a visible character is written as an escape. Everything that a stranger may have
// written goes through here.
func printable(s string) string {
	ok := utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
	if ok {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r < 0x100:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r < 0x10000:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
		i += n
	}
	return b.String()
}

// cut shortens a text to n characters.
func cut(s string, n int) string {
	if n <= 0 || utf8.RuneCountInString(s) <= n {
		return s
	}
	runes := []rune(s)
	return string(runes[:max(n-3, 0)]) + "..."
}

// when writes a moment for people: in their own zone, without the day when it is today.
func (e *env) when(t control.Time) string {
	if t.IsZero() {
		return "-"
	}
	local, now := t.In(e.loc), e.now().In(e.loc)
	switch {
	case local.Year() == now.Year() && local.YearDay() == now.YearDay():
		return local.Format("15:04:05")
	case local.Year() == now.Year():
		return local.Format("Jan 02 15:04")
	}
	return local.Format("2006-01-02 15:04")
}

// moment writes a moment in full.
func (e *env) moment(t control.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.In(e.loc).Format("2006-01-02 15:04:05 MST")
}

// ago writes how long something has been so.
func (e *env) ago(t control.Time) string {
	if t.IsZero() {
		return "-"
	}
	return about(e.now().Sub(t.Time))
}

// about writes a length of time with as many digits as people want to read.
func about(d time.Duration) string {
	d = max(d, 0)
	switch {
	case d < time.Minute:
		return strconv.Itoa(int(d.Seconds())) + "s"
	case d < time.Hour:
		return strconv.Itoa(int(d.Minutes())) + "m"
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return strconv.Itoa(int(d.Hours()/24)) + "d"
}

// number writes a number with its thousands set apart.
func number(n int64) string {
	s := strconv.FormatInt(n, 10)
	start := 0
	if n < 0 {
		start = 1
	}
	for i := len(s) - 3; i > start; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// size writes bytes.
func size(n int64) string {
	switch {
	case n < 1000:
		return strconv.FormatInt(n, 10) + " B"
	case n < 1e6:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	case n < 1e9:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%.1f GB", float64(n)/1e9)
}

// bar draws how much of a limit is used; a bar that is over its end says so.
func bar(used, limit int64, width int) string {
	if limit <= 0 {
		if used > 0 {
			return "[" + strings.Repeat("#", width) + "]"
		}
		return "[" + strings.Repeat(".", width) + "]"
	}
	full := int(min(used, limit) * int64(width) / limit)
	if used > 0 && full == 0 {
		full = 1
	}
	return "[" + strings.Repeat("#", full) + strings.Repeat(".", width-full) + "]"
}

// dash stands for nothing.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// plural writes a number with its noun.
func plural(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return number(n) + " " + noun + "s"
}
