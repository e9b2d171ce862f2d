package report

import (
	"encoding/json"
	"fmt"
)

// Format is one of the languages in which a report is written for programs.
type Format string

// The formats.
const (
	JSON Format = "json"
	YAML Format = "yaml" // read by parsers of YAML 1.1 and 1.2
	XML  Format = "xml"  // XML 1.0
	Perl Format = "perl" // a file for do FILE
)

// ParseFormat is the format of that name.
func ParseFormat(s string) (Format, bool) {
	switch f := Format(s); f {
	case JSON, YAML, XML, Perl:
		return f, true
	}
	return "", false
}

// Encode writes the report in a format: whole, UTF-8, at most [MaxEncoded] bytes, with a
// line break at the end. An error is a fault of the program: of an unknown format.
func (r *Report) Encode(f Format) ([]byte, error) {
	document, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode report: %w", err)
	}
	if f == JSON {
		return append(document, '\n'), nil
	}
	tree, err := treeOf(document)
	if err != nil {
		return nil, err
	}
	switch f {
	case YAML:
		return appendYAML(nil, &tree), nil
	case XML:
		return appendXML(nil, &tree), nil
	case Perl:
		return appendPerl(nil, &tree), nil
	}
	return nil, fmt.Errorf("encode report: unknown format %.20q", f)
}

// appendIndent begins a line of a given depth.
func appendIndent(b []byte, depth int) []byte {
	for range depth {
		b = append(b, "  "...)
	}
	return b
}
