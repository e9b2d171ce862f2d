package whm

import (
	"fmt"
	"html/template"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"osm/internal/control"
)

// shown makes a text of strangers harmless to read: what cannot be seen, or turns what is
// around it, is written out. Escaping for HTML comes after it.
func shown(s string) string {
	if !strings.ContainsFunc(s, hidden) && utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		switch {
		case r < 0x20:
			b.WriteRune(0x2400 + r) // ␀ to ␟
		case r == 0x7f:
			b.WriteRune(0x2421)
		case hidden(r):
			fmt.Fprintf(&b, "⟨U+%04X⟩", r)
		default:
			b.WriteRune(r) // an invalid byte has become U+FFFD
		}
	}
	return b.String()
}

// hidden reports whether a character cannot be seen or moves others: controls, format
// characters (zero width, direction), line separators, private and unassigned ones.
func hidden(r rune) bool {
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Co, unicode.Cs) || r == 0x034f || r == 0x115f || r == 0x1160 || r == 0x3164 || r == 0xffa0
}

// shownLines is shown for a text of several lines.
func shownLines(s string) string {
	s = strings.ReplaceAll(s, "\r\n", "\n")
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = shown(strings.ReplaceAll(lines[i], "\t", "    "))
	}
	return strings.Join(lines, "\n")
}

// maxTitle bounds what is shown when a pointer rests on a text that was cut.
const maxTitle = 1000

// cut shortens a text to so many characters; whole is "" where nothing was cut.
func cut(s string, n int) (short, whole string) {
	if utf8.RuneCountInString(s) <= n {
		return s, ""
	}
	r := []rune(s)
	return string(r[:n-1]) + "…", string(r[:min(len(r), maxTitle)])
}

// quoted is a stranger's text as HTML: harmless, cut, and apart from the direction of what
// is around it.
func quoted(s string, n int) template.HTML {
	short, whole := cut(shown(s), n)
	if whole == "" {
		return template.HTML("<bdi>" + template.HTMLEscapeString(short) + "</bdi>")
	}
	return template.HTML(`<bdi title="` + template.HTMLEscapeString(whole) + `">` + template.HTMLEscapeString(short) + "</bdi>")
}

// tailed is quoted; of a path that is cut the end stays, because it tells more.
func tailed(s string, n int) template.HTML {
	r := []rune(shown(s))
	if len(r) <= n || !strings.HasPrefix(s, "/") {
		return quoted(s, n)
	}
	whole := template.HTMLEscapeString(string(r[:min(len(r), maxTitle)]))
	return template.HTML(`<bdi title="` + whole + `">…` + template.HTMLEscapeString(string(r[len(r)-n+1:])) + "</bdi>")
}

// keyText is what a counter's key names besides the account, as HTML.
func keyText(watch, key string, n int) template.HTML {
	if part := keyPart(watch, key); part != "" {
		return tailed(part, n)
	}
	return ""
}

// orNone is quoted, or a quiet word where there is nothing.
func orNone(s string, n int, none string) template.HTML {
	if s == "" {
		return template.HTML(`<span class="quiet">` + template.HTMLEscapeString(none) + "</span>")
	}
	return quoted(s, n)
}

// integer is any kind of number that templates come with.
func integer(v any) int64 {
	switch n := v.(type) {
	case int:
		return int64(n)
	case int64:
		return n
	case uint64:
		return int64(n)
	case *int64:
		if n != nil {
			return *n
		}
	}
	return 0
}

// decimal writes a number with its thousands set apart.
func decimal(v any) string {
	s := strconv.FormatInt(integer(v), 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// counted writes a number with its noun.
func counted(v any, noun string) string {
	if integer(v) == 1 {
		return "1 " + noun
	}
	return decimal(v) + " " + noun + "s"
}

// size writes bytes.
func size(v any) string {
	n := integer(v)
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

// percent is how much of a maximum is used; a maximum of nothing is full.
func percent(used, limit any) int64 {
	u, m := integer(used), integer(limit)
	switch {
	case m <= 0 && u <= 0:
		return 0
	case m <= 0:
		return 100
	}
	return int64(float64(u) / float64(m) * 100)
}

// period writes a length of time as people say it: "1 hour", "24 hours", "90 minutes".
func period(p control.Period) string {
	d := time.Duration(p)
	for _, u := range []struct {
		size time.Duration
		name string
	}{{24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}, {time.Second, "second"}} {
		if d >= u.size && d%u.size == 0 {
			return counted(int64(d/u.size), u.name)
		}
	}
	return p.String()
}

// roughly writes how long something takes, as people say it.
func roughly(d time.Duration) string {
	switch d = max(d, 0); {
	case d < 90*time.Second:
		return counted(int64(d.Round(time.Second)/time.Second), "second")
	case d < 90*time.Minute:
		return counted(int64(d.Round(time.Minute)/time.Minute), "minute")
	case d < 48*time.Hour:
		return counted(int64(d.Round(time.Hour)/time.Hour), "hour")
	}
	return counted(int64(d.Round(24*time.Hour)/(24*time.Hour)), "day")
}

// moment writes a time for both: a person whose browser runs no script reads it in the
// server's zone, with its name; the script puts it into the person's own.
func (p *pages) moment(t control.Time) template.HTML {
	if t.IsZero() {
		return `<span class="quiet">–</span>`
	}
	return p.timeTag(t, "full", t.In(p.zone).Format("2006-01-02 15:04:05 MST"))
}

// clockTime is a moment as short as a table wants it: the day only where it is not today.
func (p *pages) clockTime(t control.Time) template.HTML {
	if t.IsZero() {
		return `<span class="quiet">–</span>`
	}
	local, now := t.In(p.zone), p.clock().Wall.In(p.zone)
	switch {
	case local.YearDay() == now.YearDay() && local.Year() == now.Year():
		return p.timeTag(t, "short", local.Format("15:04:05 MST"))
	case local.Year() == now.Year():
		return p.timeTag(t, "short", local.Format("2 Jan 15:04 MST"))
	}
	return p.timeTag(t, "short", local.Format("2 Jan 2006 15:04 MST"))
}

func (p *pages) timeTag(t control.Time, form, text string) template.HTML {
	return template.HTML(fmt.Sprintf(`<time datetime="%s" data-form="%s">%s</time>`, t.UTC().Format("2006-01-02T15:04:05.000Z"), form, template.HTMLEscapeString(text)))
}

// ago and ahead tell how far away a moment is.
func (p *pages) ago(t control.Time) string { return roughly(p.clock().Wall.Sub(t.Time)) }

func (p *pages) ahead(t control.Time) string { return roughly(t.Sub(p.clock().Wall)) }
