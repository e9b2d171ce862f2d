package report

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// plain is a report as its JSON says, in maps and lists; numbers are json.Number.
func plain(t *testing.T, document []byte) any {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(document))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("JSON: %v\n%.300q", err, document)
	}
	return v
}

// encoded is a report in a format.
func encoded(t *testing.T, r *Report, f Format) []byte {
	t.Helper()
	b, err := r.Encode(f)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) > MaxEncoded {
		t.Errorf("%s is %d bytes, more than MaxEncoded", f, len(b))
	}
	return b
}

// readYAML reads YAML with a parser of its own.
func readYAML(document []byte) (any, error) {
	var v any
	if err := yaml.Unmarshal(document, &v); err != nil {
		return nil, err
	}
	return numbersOf(v), nil
}

// numbersOf writes numbers as plain has them.
func numbersOf(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k := range v {
			v[k] = numbersOf(v[k])
		}
	case []any:
		for i := range v {
			v[i] = numbersOf(v[i])
		}
	case int:
		return json.Number(strconv.Itoa(v))
	}
	return v
}

// element is an XML element with all that is below it.
type element struct {
	XMLName  xml.Name
	Null     string    `xml:"null,attr"`
	Escape   string    `xml:"escape,attr"`
	Text     string    `xml:",chardata"`
	Children []element `xml:",any"`
}

// readXML reads XML with Go's parser, into the shape of like: XML alone does not tell a
// number from a text.
func readXML(document []byte, like any) (any, error) {
	d := xml.NewDecoder(bytes.NewReader(document))
	d.Strict = true
	var root element
	if err := d.Decode(&root); err != nil {
		return nil, err
	}
	if rest := document[d.InputOffset():]; string(rest) != "\n" {
		return nil, fmt.Errorf("something follows the root: %.80q", rest)
	}
	return root.shaped(like)
}

func (e *element) shaped(like any) (any, error) {
	switch like := like.(type) {
	case map[string]any:
		out := map[string]any{}
		for i := range e.Children {
			c := &e.Children[i]
			v, err := c.shaped(like[c.XMLName.Local])
			if err != nil {
				return nil, err
			}
			out[c.XMLName.Local] = v
		}
		return out, nil
	case []any:
		out := []any{}
		for i := range e.Children {
			if e.Children[i].XMLName.Local != "item" || i >= len(like) {
				return nil, fmt.Errorf("list %s: entry %d is %s", e.XMLName.Local, i, e.Children[i].XMLName.Local)
			}
			v, err := e.Children[i].shaped(like[i])
			if err != nil {
				return nil, err
			}
			out = append(out, v)
		}
		return out, nil
	}
	if len(e.Children) > 0 {
		return nil, fmt.Errorf("%s has elements inside: %v", e.XMLName.Local, e.Children)
	}
	return e.scalar(like)
}

func (e *element) scalar(like any) (any, error) {
	switch {
	case e.Null == "true":
		return nil, nil
	case e.Escape == "json":
		var s string
		err := json.Unmarshal([]byte(`"`+e.Text+`"`), &s)
		return s, err
	}
	switch like.(type) {
	case json.Number:
		return json.Number(e.Text), nil
	case bool:
		return strconv.ParseBool(e.Text)
	}
	return e.Text, nil
}

// perlReader reads the part of Perl that a report may consist of, and nothing else: what
// it accepts contains no code.
type perlReader struct {
	s string
}

func readPerl(document []byte) (any, error) {
	p := &perlReader{string(document)}
	comment, rest, _ := strings.Cut(p.s, "\n")
	if !strings.HasPrefix(comment, "#") {
		return nil, errors.New("no comment")
	}
	p.s = rest
	if !p.take("$VAR1 = ") {
		return nil, p.unexpected()
	}
	v, err := p.value()
	if err == nil && p.s != ";\n" {
		err = p.unexpected()
	}
	return v, err
}

func (p *perlReader) unexpected() error { return fmt.Errorf("unexpected %.40q", p.s) }

func (p *perlReader) take(s string) bool {
	rest, ok := strings.CutPrefix(p.s, s)
	if ok {
		p.s = rest
	}
	return ok
}

func (p *perlReader) space() { p.s = strings.TrimLeft(p.s, " \n") }

func (p *perlReader) value() (any, error) {
	switch {
	case p.take("undef"):
		return nil, nil
	case p.take("{"):
		return p.hash()
	case p.take("["):
		return p.list()
	case strings.HasPrefix(p.s, "'") || strings.HasPrefix(p.s, "chr("):
		return p.text()
	}
	digits := len(p.s) - len(strings.TrimLeft(p.s, "-0123456789"))
	n := p.s[:digits]
	if _, err := strconv.ParseInt(n, 10, 64); err != nil {
		return nil, p.unexpected()
	}
	p.s = p.s[digits:]
	return json.Number(n), nil
}

func (p *perlReader) hash() (any, error) {
	out := map[string]any{}
	for p.space(); !p.take("}"); p.space() {
		k, err := p.text()
		if err != nil || !p.take(" => ") {
			return nil, errors.Join(err, p.unexpected())
		}
		if out[k], err = p.value(); err != nil || !p.take(",") {
			return nil, errors.Join(err, p.unexpected())
		}
	}
	return out, nil
}

func (p *perlReader) list() (any, error) {
	out := []any{}
	for p.space(); !p.take("]"); p.space() {
		v, err := p.value()
		if err != nil || !p.take(",") {
			return nil, errors.Join(err, p.unexpected())
		}
		out = append(out, v)
	}
	return out, nil
}

func (p *perlReader) text() (string, error) {
	var b strings.Builder
	for {
		switch {
		case p.take("chr("):
			n, rest, _ := strings.Cut(p.s, ")")
			code, err := strconv.ParseUint(n, 10, 8)
			if err != nil || code >= ' ' && code != 0x7f {
				return "", p.unexpected()
			}
			b.WriteByte(byte(code))
			p.s = rest
		case p.take("'"):
			if err := p.quoted(&b); err != nil {
				return "", err
			}
		default:
			return "", p.unexpected()
		}
		if !p.take(" . ") {
			return b.String(), nil
		}
	}
}

func (p *perlReader) quoted(b *strings.Builder) error {
	for i := 0; i < len(p.s); i++ {
		switch c := p.s[i]; {
		case c == '\'':
			p.s = p.s[i+1:]
			return nil
		case c < ' ' || c == 0x7f:
			return fmt.Errorf("a control byte in quotes: %.40q", p.s[i:])
		case c == '\\':
			if i++; i == len(p.s) || p.s[i] != '\\' && p.s[i] != '\'' {
				return fmt.Errorf("an escape that Perl does not know: %.40q", p.s[i-1:])
			}
		}
		b.WriteByte(p.s[i])
	}
	return p.unexpected()
}

// asPerl is a JSON value as Perl has it: truths are numbers.
func asPerl(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k := range v {
			out[k] = asPerl(v[k])
		}
		return out
	case []any:
		out := []any{}
		for _, one := range v {
			out = append(out, asPerl(one))
		}
		return out
	case bool:
		if v {
			return json.Number("1")
		}
		return json.Number("0")
	}
	return v
}
