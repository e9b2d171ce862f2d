package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/urfave/cli/v2"
)

// env is what a command meets: where it prints, what time it is, who runs it. A test
// brings its own.
type env struct {
	out, err io.Writer
	in       io.Reader
	now      func() time.Time
	loc      *time.Location
	terminal bool // out is a terminal of this width
	width    int
	asks     bool // in is a terminal: a question will be answered
	uid      int
	sudoUser string
}

// wantsJSON reports whether --json was given.
func wantsJSON(c *cli.Context) bool { return c.Bool("json") }

// print writes a value as one JSON document with --json, else by text.
func (e *env) print(c *cli.Context, v any, text func()) error {
	if wantsJSON(c) {
		return e.json(v)
	}
	text()
	return nil
}

// json writes one document. What is not visible is escaped in it too: JSON alone would
// let some control characters through.
func (e *env) json(v any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	_, err := e.out.Write(visibleJSON(b.Bytes()))
	return err
}

// visibleJSON escapes what is neither a visible character nor JSON's own white space;
// such characters stand in strings only, where an escape means the same.
func visibleJSON(in []byte) []byte {
	var out bytes.Buffer
	for len(in) > 0 {
		r, n := utf8.DecodeRune(in)
		switch {
		case r == '\n' || unicode.IsPrint(r):
			out.WriteRune(r)
		case r >= 0x10000:
			r -= 0x10000
			fmt.Fprintf(&out, `\u%04x\u%04x`, 0xd800+(r>>10), 0xdc00+(r&0x3ff))
		default:
			fmt.Fprintf(&out, `\u%04x`, r)
		}
		in = in[n:]
	}
	return out.Bytes()
}

// line prints one line; its values are made printable.
func (e *env) line(format string, args ...any) {
	for i, a := range args {
		if s, ok := a.(string); ok {
			args[i] = printable(s)
		}
	}
	fmt.Fprintf(e.out, format+"\n", args...)
}

// column is one column of a table.
type column struct {
	title string
	right bool // for numbers
	limit int  // characters on a terminal; 0 = all
}

// columns makes columns of titles: "^" before one sets it to the right, "~40" behind
// one cuts it on a terminal.
func columns(titles ...string) []column {
	out := make([]column, 0, len(titles))
	for _, t := range titles {
		c := column{}
		t, c.right = strings.CutPrefix(t, "^")
		c.title = t
		if name, limit, ok := strings.Cut(t, "~"); ok {
			c.title = name
			_, _ = fmt.Sscan(limit, &c.limit) // a constant of ours
		}
		out = append(out, c)
	}
	return out
}

// table prints rows in aligned columns.
func (e *env) table(cols []column, rows [][]string) {
	cells := make([][]string, 0, len(rows)+1)
	head := make([]string, len(cols))
	for i, c := range cols {
		head[i] = strings.ToUpper(c.title)
	}
	cells = append(cells, head)
	for _, row := range rows {
		line := make([]string, len(cols))
		for i := range cols {
			line[i] = printable(row[i])
			if e.terminal {
				line[i] = cut(line[i], cols[i].limit)
			}
		}
		cells = append(cells, line)
	}
	width := make([]int, len(cols))
	for _, line := range cells {
		for i, s := range line {
			width[i] = max(width[i], utf8.RuneCountInString(s))
		}
	}
	for _, line := range cells {
		var b strings.Builder
		for i, s := range line {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(s))
			if cols[i].right {
				b.WriteString(pad + s)
			} else {
				b.WriteString(s + pad)
			}
			if i < len(cols)-1 {
				b.WriteString("  ")
			}
		}
		text := strings.TrimRight(b.String(), " ")
		if e.terminal && e.width > 0 {
			text = cut(text, e.width)
		}
		fmt.Fprintln(e.out, text)
	}
}

// facts prints names with their values, one a line; a value of several lines is
// indented under its first.
func (e *env) facts(pairs ...string) {
	width := 0
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			width = max(width, len(pairs[i]))
		}
	}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			fmt.Fprintf(e.out, "%-*s  %s\n", width+1, pairs[i]+":", printable(pairs[i+1]))
		}
	}
}

// wrap prints a paragraph in lines of at most 92 characters behind an indent, whose words
// stand before the first line alone.
func (e *env) wrap(indent, text string) {
	width := 92
	if e.terminal && e.width > 20 {
		width = min(width, e.width)
	}
	line := indent
	for _, word := range strings.Fields(printable(text)) {
		if len(line) > len(indent) && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
			fmt.Fprintln(e.out, line)
			line = strings.Repeat(" ", len(indent))
		}
		if len(line) > len(indent) {
			line += " "
		}
		line += word
	}
	if len(line) > len(indent) {
		fmt.Fprintln(e.out, line)
	}
}

// more says that a list goes on.
func (e *env) more(next string) {
	if next != "" {
		e.line("(more: add --after %s)", next)
	}
}
