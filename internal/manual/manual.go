// Package manual writes manual pages in the language of man(7).
//
// It knows no page: the programs hand it their own definitions, so that a page cannot
// say what its program does not do. It reads and opens nothing.
package manual

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Page is one page in the making. What is written into it is text: it means nothing to
// the formatter, whatever stands in it.
type Page struct {
	b     bytes.Buffer
	fresh bool // nothing stands under the last heading yet
}

// New begins a page: a name, its section of the manual, and what it is in one line.
func New(name, section, title string) *Page {
	p := &Page{}
	p.request("TH", strings.ToUpper(name), section, "", "osm", "osm manual")
	p.Section("name")
	p.lines(Escape(name) + ` \- ` + Escape(title))
	return p
}

// Bytes returns the page.
func (p *Page) Bytes() []byte { return p.b.Bytes() }

// Section begins a section.
func (p *Page) Section(title string) {
	p.request("SH", strings.ToUpper(title))
	p.fresh = true
}

// Key begins a section whose title is written as it is: the name of a table in a file.
func (p *Page) Key(title string) {
	p.request("SH", title)
	p.fresh = true
}

// Sub begins a part of a section.
func (p *Page) Sub(title string) {
	p.request("SS", title)
	p.fresh = true
}

// Synopsis writes a command line: the program in bold, the rest as it is.
func (p *Page) Synopsis(program, rest string) {
	p.paragraph()
	p.lines(`\fB` + Escape(program) + `\fR ` + Escape(rest))
}

// Text writes paragraphs, apart by empty lines. Lines that are indented by four blanks
// stay as they are.
func (p *Page) Text(s string) {
	var prose []string
	flush := func() {
		if len(prose) > 0 {
			p.paragraph()
			p.lines(Escape(strings.Join(prose, " ")))
		}
		prose = nil
	}
	var code []string
	for line := range strings.SplitSeq(s+"\n", "\n") {
		if verbatim, ok := strings.CutPrefix(line, "    "); ok {
			flush()
			code = append(code, verbatim)
			continue
		}
		if len(code) > 0 {
			p.Code(code...)
			code = nil
		}
		if line = strings.TrimSpace(line); line == "" {
			flush()
			continue
		}
		prose = append(prose, line)
	}
	flush()
}

// Code writes lines that stay as they are, in bold.
func (p *Page) Code(lines ...string) {
	p.paragraph()
	p.b.WriteString(".nf\n.RS 4\n")
	for _, line := range lines {
		p.b.WriteString(guard(`\fB`+Escape(line)+`\fR`) + "\n")
	}
	p.b.WriteString(".RE\n.fi\n")
}

// Item writes a term and, indented below it, what it means.
func (p *Page) Item(term Term, text string) {
	p.b.WriteString(".TP\n" + guard(term.roff()) + "\n")
	p.lines(Escape(text))
	p.fresh = false
}

// Term is what an item explains: names, all of them in bold, and what stands for a value.
type Term struct {
	Names []string
	Value string
}

// File is the term of a path.
func File(path string) Term { return Term{Value: path} }

// Word is the term of one name.
func Word(name string) Term { return Term{Names: []string{name}} }

func (t Term) roff() string {
	var names []string
	for _, n := range t.Names {
		names = append(names, `\fB`+Escape(n)+`\fR`)
	}
	out := strings.Join(names, ", ")
	if t.Value != "" {
		out = strings.TrimSpace(out + ` \fI` + Escape(t.Value) + `\fR`)
	}
	return out
}

// SeeAlso ends the page with others, named as "osmd(8)".
func (p *Page) SeeAlso(pages ...string) {
	p.Section("see also")
	for i, page := range pages {
		name, section, _ := strings.Cut(page, "(")
		comma := ","
		if i == len(pages)-1 {
			comma = ""
		}
		fmt.Fprintf(&p.b, ".BR %s (%s%s\n", Escape(name), section, comma)
	}
}

// paragraph parts what follows from what stands there; under a heading nothing does.
func (p *Page) paragraph() {
	if !p.fresh {
		p.b.WriteString(".PP\n")
	}
	p.fresh = false
}

// request writes a line of the formatter's language; each argument is quoted.
func (p *Page) request(name string, args ...string) {
	p.b.WriteString("." + name)
	for _, a := range args {
		p.b.WriteString(` "` + strings.ReplaceAll(Escape(a), `"`, `""`) + `"`)
	}
	p.b.WriteByte('\n')
}

// maxLine is how long a line of a page's source is: what mandoc's lint asks for.
const maxLine = 79

// lines writes escaped text, broken into short lines.
func (p *Page) lines(text string) {
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > maxLine {
			p.b.WriteString(guard(line) + "\n")
			line = ""
		}
		line = strings.TrimPrefix(line+" "+word, " ")
	}
	if line != "" {
		p.b.WriteString(guard(line) + "\n")
	}
	p.fresh = false
}

// guard keeps a line of text from being read as a request.
func guard(line string) string {
	if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
		return `\&` + line
	}
	return line
}

// Escape makes a text mean nothing to the formatter.
func Escape(s string) string {
	return strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`).Replace(s)
}
