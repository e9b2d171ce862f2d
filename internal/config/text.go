package config

import (
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

// isTriggerName allows what a trigger may be called: it becomes part of URLs, of
// metrics and of Exim's log.
func isTriggerName(s string) bool {
	ok, _ := regexp.MatchString(`^[a-z0-9][a-z0-9-]{0,63}$`, s)
	return ok
}

// isName allows the name of an account, a directory or another key: a stranger's
// text, bounded.
func isName(s string) bool { return s != "" && len(s) <= 1024 && !hasControl(s) }

func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == utf8.RuneError })
}

// clean makes a text from outside fit for one line of a message.
func clean(s string) string {
	if len(s) > 120 {
		s = strings.ToValidUTF8(s[:117], "") + "..."
	}
	if !hasControl(s) {
		return s
	}
	return strconv.Quote(s)
}

// splitList cuts a comma-separated list; empty parts are left out.
func splitList(s string) []string {
	var out []string
	for _, one := range strings.Split(s, ",") {
		if one = strings.TrimSpace(one); one != "" {
			out = append(out, one)
		}
	}
	return out
}

// cut is strings.Cut with both parts trimmed.
func cut(s, sep string) (before, after string, found bool) {
	before, after, found = strings.Cut(s, sep)
	return strings.TrimSpace(before), strings.TrimSpace(after), found
}

// OneLine makes a text fit for one line: a blank for each control byte and each byte
// that is no UTF-8, cut to max bytes.
func OneLine(s string, max int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || (r >= 0x7f && r < 0xa0) || r == utf8.RuneError {
			return ' '
		}
		return r
	}, s)
	if len(s) > max {
		s = strings.ToValidUTF8(s[:max], "")
	}
	return strings.TrimSpace(s)
}
