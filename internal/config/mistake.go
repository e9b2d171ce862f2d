package config

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// Mistake is one thing that is wrong in a configuration.
type Mistake struct {
	File  string `json:"file"`  // as given to Load; "" when not read from a file
	Line  int    `json:"line"`  // 0 when it is not known
	Key   string `json:"key"`   // "store.keep_decisions", "trigger account-hour: max"
	Value string `json:"value"` // as written, cut to 80 bytes; "" for a missing key
	Text  string `json:"text"`  // what is allowed: "must be …"

	at string // the key as the line index knows it
}

func (m Mistake) Error() string {
	var b strings.Builder
	if m.File != "" {
		b.WriteString(filepath.Base(m.File))
		if m.Line > 0 {
			fmt.Fprintf(&b, ":%d", m.Line)
		}
		b.WriteString(": ")
	}
	if m.Key != "" {
		b.WriteString(m.Key)
		if m.Value != "" {
			b.WriteString(" = " + m.Value)
		}
		b.WriteString(": ")
	}
	b.WriteString(m.Text)
	return b.String()
}

// Mistakes is every mistake of a configuration, in the order of the file. It is the
// error that Load, Parse and Validate return.
type Mistakes []Mistake

func (m Mistakes) Error() string {
	lines := make([]string, 0, len(m))
	for _, one := range m {
		lines = append(lines, one.Error())
	}
	return strings.Join(lines, "\n")
}

// sort puts them in the order of the file.
func (m Mistakes) sort() {
	slices.SortStableFunc(m, func(a, b Mistake) int { return cmp.Compare(a.Line, b.Line) })
}

// orNil keeps an empty list from becoming a non-nil error.
func (m Mistakes) orNil() error {
	if len(m) == 0 {
		return nil
	}
	return m
}

// show prints a value for a message: cut, and with nothing that could move a
// terminal's cursor.
func show(v any) string {
	s := tomlValue(v)
	if len(s) > 80 {
		s = strings.ToValidUTF8(s[:77], "") + "..."
	}
	return s
}
