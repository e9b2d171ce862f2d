package config

import (
	"fmt"
	"strings"
)

// lineIndex finds the line on which each key of a TOML file stands: "store.path",
// "trigger[0]" for a table's own line, "trigger[0].max". It is for messages only: the
// file is parsed by the TOML package, which does not tell where it found a key, and a
// key that this index does not know is reported without a line.
func lineIndex(data string) map[string]int {
	index := map[string]int{}
	count := map[string]int{}
	prefix, skip := "", scanner{}
	for i, line := range strings.Split(data, "\n") {
		if skip.inside() {
			skip.feed(line)
			continue
		}
		text := strings.TrimSpace(line)
		switch {
		case text == "" || text[0] == '#':
		case strings.HasPrefix(text, "[["):
			name := bareKey(strings.TrimLeft(text, "["))
			prefix = fmt.Sprintf("%s[%d]", name, count[name])
			count[name]++
			index[prefix] = i + 1
		case text[0] == '[':
			prefix = bareKey(strings.TrimLeft(text, "["))
			index[prefix] = i + 1
		default:
			name, value, ok := strings.Cut(text, "=")
			if !ok {
				continue
			}
			full := bareKey(name)
			if prefix != "" {
				full = prefix + "." + full
			}
			if index[full] == 0 {
				index[full] = i + 1
			}
			skip.feed(value)
		}
	}
	return index
}

// bareKey cuts a key out of the beginning of s and takes its quotes off.
func bareKey(s string) string {
	s = strings.TrimSpace(s)
	if s != "" && (s[0] == '"' || s[0] == '\'') {
		if end := strings.IndexByte(s[1:], s[0]); end >= 0 {
			return s[1 : 1+end]
		}
	}
	if end := strings.IndexAny(s, "]=#"); end >= 0 {
		s = s[:end]
	}
	return strings.Trim(strings.TrimSpace(s), `"'`)
}

// scanner follows a value over several lines: an array, an inline table or a
// multi-line string.
type scanner struct {
	depth int
	quote string // `"""` or `'''` while inside a multi-line string
}

func (s *scanner) inside() bool { return s.depth > 0 || s.quote != "" }

func (s *scanner) feed(line string) {
	for line != "" {
		if s.quote != "" {
			_, after, found := strings.Cut(line, s.quote)
			if !found {
				return
			}
			s.quote, line = "", after
			continue
		}
		switch c := line[0]; {
		case c == '#':
			return
		case strings.HasPrefix(line, `"""`) || strings.HasPrefix(line, `'''`):
			s.quote, line = line[:3], line[3:]
			continue
		case c == '"' || c == '\'':
			line = afterString(line)
			continue
		case c == '[' || c == '{':
			s.depth++
		case (c == ']' || c == '}') && s.depth > 0:
			s.depth--
		}
		line = line[1:]
	}
}

// afterString returns what follows the one-line string that line begins with.
func afterString(line string) string {
	for i := 1; i < len(line); i++ {
		if line[i] == '\\' && line[0] == '"' {
			i++
		} else if line[i] == line[0] {
			return line[i+1:]
		}
	}
	return ""
}

// Nearest returns the known name that a person most likely meant by name, or "" if
// none is near enough to be worth a guess.
func Nearest(name string, known []string) string {
	for _, k := range known {
		if len(name) >= 3 && len(k) >= 3 && (strings.HasPrefix(name, k) || strings.HasPrefix(k, name)) {
			return k
		}
	}
	best, at := "", min(len(name)/2+1, 4)
	for _, k := range known {
		if d := distance(name, k); d < at {
			best, at = k, d
		}
	}
	return best
}

// distance is the number of letters to insert, delete, replace or swap between a and b.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
