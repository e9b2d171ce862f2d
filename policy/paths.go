package policy

import (
	"fmt"
	"path"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxPath bounds a directory and a script file, in bytes.
const maxPath = 512

// deleted is what the kernel appends to the path of a directory or program that is gone.
const deleted = " (deleted)"

// CleanDirectory returns a working directory as it is counted and shown: absolute,
// without "." and "..", at most 512 bytes of printable UTF-8 (other bytes as \xNN), or
// "" if cwd is not absolute. It looks at the text alone, never at the disk, and what
// it returns it leaves as it is.
func CleanDirectory(cwd string) string {
	if !strings.HasPrefix(cwd, "/") {
		return ""
	}
	dir := printable(cwd, maxPath)
	for {
		clean := path.Clean(strings.TrimSuffix(dir, deleted))
		if clean == dir {
			return clean
		}
		dir = clean
	}
}

// absoluteFile returns file made absolute with dir, cleaned as a directory is, or ""
// where neither is absolute.
func absoluteFile(file, dir string) string {
	if file == "" {
		return ""
	}
	if !strings.HasPrefix(file, "/") {
		file = cutText(dir, maxPath) + "/" + cutText(file, maxPath)
	}
	return CleanDirectory(file)
}

// printable returns at most max bytes of s; what cannot be printed, or would show
// something else than it is, is written as an escape.
func printable(s string, max int) string {
	s = cutText(s, max)
	if plainLine(s) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s) && b.Len() < max; {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1, r < utf8.RuneSelf && !unicode.IsPrint(r):
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case unicode.IsPrint(r):
			b.WriteRune(r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
		i += n
	}
	return cutText(b.String(), max)
}

// quoted returns s for use within a sentence: as it is if it is one short plain word,
// else quoted and cut to 80 characters.
func quoted(s string) string {
	if len(s) > 80 || s == "" {
		return fmt.Sprintf("%.80q", s)
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; c <= ' ' || c > '~' || c == '"' || c == '\\' {
			return fmt.Sprintf("%.80q", s)
		}
	}
	return s
}
