package report

import (
	"bytes"
	"cmp"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"
	"time"
	"unicode"
)

// Audience is whom a letter is for.
type Audience string

// The audiences. Only the operator's letter has commands and what was done.
const (
	Operator Audience = "operator"
	Reseller Audience = "reseller"
	Customer Audience = "customer"
)

// Bounds of letters and their templates.
const (
	maxSubjectLine = 200
	maxBody        = 64 << 10
	maxTemplate    = 64 << 10
)

//go:embed templates/*.txt
var shippedFiles embed.FS

// Text is a letter. Subject is one line; Body has lines ended by LF. Both are valid UTF-8
// without control characters, at most 200 bytes and 64 KiB.
type Text struct{ Subject, Body string }

// Templates makes letters. It does not change once loaded, and may be used by many.
type Templates struct {
	shipped, own map[string]*template.Template
	zone         *time.Location
}

// LoadTemplates reads the templates in a folder, NAME.txt each: operator-first,
// operator-digest, reseller-first and so on. A template that is not there, or not right,
// is the shipped one; a folder that is not there is an empty one, and so is "". The error
// names every mistake; the templates can be used all the same. Times are written in zone.
//
// A template is in the language of text/template. Its first line is "Subject: …", then
// an empty line, then the body. It is given the [Report], with texts made safe for people,
// and what the shipped ones use beside it; docs/report-schema.md describes that.
func LoadTemplates(dir string, zone *time.Location) (*Templates, error) {
	t := &Templates{shipped: map[string]*template.Template{}, own: map[string]*template.Template{}, zone: cmp.Or(zone, time.UTC)}
	for _, name := range templateNames() {
		content, err := shippedFiles.ReadFile("templates/" + name + ".txt")
		if err == nil {
			t.shipped[name], err = newTemplate(name, string(content))
		}
		if err != nil {
			return nil, fmt.Errorf("shipped template %s: %w", name, err)
		}
	}
	if dir == "" {
		return t, nil
	}
	return t, t.loadOwn(dir)
}

// newTemplate reads a template, to which those of parts.txt are known.
func newTemplate(name, content string) (*template.Template, error) {
	parts, err := shippedFiles.ReadFile("templates/parts.txt")
	if err != nil {
		return nil, err
	}
	t, err := template.New("parts").Parse(string(parts))
	if err != nil {
		return nil, err
	}
	return t.New(name).Parse(content)
}

func templateNames() []string {
	var names []string
	for _, a := range []Audience{Operator, Reseller, Customer} {
		names = append(names, string(a)+"-"+string(First), string(a)+"-"+string(Digest))
	}
	return names
}

// loadOwn reads the operator's templates and tries each.
func (t *Templates) loadOwn(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read templates: %w", err)
	}
	var mistakes []error
	for _, e := range entries {
		name, isText := strings.CutSuffix(e.Name(), ".txt")
		if !isText {
			continue
		}
		if !slices.Contains(templateNames(), name) {
			mistakes = append(mistakes, fmt.Errorf("template %.80q in %s: there is no such template; the names are %s", e.Name(), dir, strings.Join(templateNames(), ", ")))
			continue
		}
		own, err := readTemplate(filepath.Join(dir, e.Name()), name)
		if err == nil {
			err = t.try(own)
		}
		if err != nil {
			mistakes = append(mistakes, fmt.Errorf("%w; the shipped template is used", err))
			continue
		}
		t.own[name] = own
	}
	return errors.Join(mistakes...)
}

func readTemplate(path, name string) (*template.Template, error) {
	if st, err := os.Stat(path); err != nil || !st.Mode().IsRegular() {
		return nil, cmp.Or(err, fmt.Errorf("template %s: not a regular file", path))
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	content, err := io.ReadAll(io.LimitReader(f, maxTemplate+1))
	if err != nil {
		return nil, err
	}
	if len(content) > maxTemplate {
		return nil, fmt.Errorf("template %s: larger than %d KiB", path, maxTemplate>>10)
	}
	return newTemplate(name, strings.ReplaceAll(string(content), "\r\n", "\n"))
}

// try runs a template once with each branch that reports have, so that a misspelt field is
// found when it is loaded and not at night.
func (t *Templates) try(own *template.Template) error {
	full := &Report{
		Event: Event{Mode: "enforce"}, Also: make([]Event, 1), Evidence: []Evidence{{Script: "/x", Confidence: "low"}}, Messages: make([]Message, 1),
		Actions: make([]Action, 1), Commands: Commands{Undo: make([]string, 1)},
		Top: Top{Mailboxes: Shares{Most: make([]Share, 1)}},
	}
	observing := &Report{Event: Event{Mode: "observe"}}
	direct := &Report{Event: Event{Count: "connections", Mode: "enforce"}, Connections: make([]Connection, 1)}
	for _, r := range []*Report{full, observing, direct} {
		if _, err := t.render(own, r, Operator); err != nil {
			return err
		}
	}
	return nil
}

// Text writes a report for somebody. The text can always be used: where the operator's
// template fails, the error says so and the text is the shipped template's.
//
// A reseller or customer is shown what the report holds, so make it with [Facts].Accounts.
func (t *Templates) Text(r *Report, a Audience) (Text, error) {
	if a != Operator && a != Reseller {
		a = Customer // the one that says least
	}
	kind := First
	if r.Kind == Digest {
		kind = Digest
	}
	name := string(a) + "-" + string(kind)
	var failed error
	if own := t.own[name]; own != nil {
		text, err := t.render(own, r, a)
		if err == nil {
			return text, nil
		}
		failed = err
	}
	text, err := t.render(t.shipped[name], r, a)
	if err != nil {
		return Text{}, fmt.Errorf("shipped %w", err)
	}
	return text, failed
}

// render runs a template and takes its output apart.
func (t *Templates) render(tmpl *template.Template, r *Report, a Audience) (Text, error) {
	var out limited
	err := tmpl.Execute(&out, letter{Report: forPeople(r), Audience: a, zone: t.zone})
	if err != nil && !errors.Is(err, errLong) {
		return Text{}, fmt.Errorf("template %w", err)
	}
	head, body, _ := strings.Cut(strings.TrimLeft(out.String(), "\n"), "\n")
	subject, ok := strings.CutPrefix(head, "Subject: ")
	if !ok {
		return Text{}, fmt.Errorf("template %s: its first line must begin with %q", tmpl.Name(), "Subject: ")
	}
	body = strings.Trim(strings.ToValidUTF8(strings.Map(printable, body), ""), "\n")
	for strings.Contains(body, "\n\n\n") { // parts that had nothing to say
		body = strings.ReplaceAll(body, "\n\n\n", "\n\n")
	}
	if errors.Is(err, errLong) {
		body += "\n[The rest was cut off.]"
	}
	return Text{Subject: cut(strings.TrimSpace(strings.Map(oneLine, subject)), maxSubjectLine), Body: body + "\n"}, nil
}

// printable drops what a template of the operator's could bring in by itself.
func printable(r rune) rune {
	if unicode.IsControl(r) && r != '\n' && r != '\t' {
		return -1
	}
	return r
}

func oneLine(r rune) rune {
	if unicode.IsControl(r) {
		return ' '
	}
	return r
}

var errLong = errors.New("longer than a letter may be")

// limited keeps what a template writes, up to the bound of a letter.
type limited struct{ bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if l.Len()+len(p) > maxBody-100 { // room for the Subject and for what says that it was cut
		return 0, errLong
	}
	return l.Buffer.Write(p)
}
