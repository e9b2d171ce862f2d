package report

import (
	"fmt"
	"unicode"
	"unicode/utf8"
)

// The YAML is written by hand, because a report needs a fifth of a page of the language:
// block maps and lists whose names are our own, and texts that are always in double quotes. A
// quoted text is never a number, a date, "yes", a tag, an anchor or an alias, in no version
// of YAML; a library would decide for each text anew whether it needs quotes.

// appendYAML writes a document.
func appendYAML(b []byte, n *node) []byte {
	b = append(b, "---\n"...)
	return appendYAMLFields(b, n, 0, 0)
}

// appendYAMLFields writes an object. The first lines of fields are already indented: of an
// object in a list, whose first field stands behind the dash.
func appendYAMLFields(b []byte, n *node, depth, indented int) []byte {
	for i, name := range n.names {
		if i >= indented {
			b = appendIndent(b, depth)
		}
		b = append(append(b, name...), ':')
		b = appendYAMLValue(b, &n.nodes[i], depth)
	}
	return b
}

// appendYAMLValue writes what stands behind "name:" or, in a list, behind "-".
func appendYAMLValue(b []byte, n *node, depth int) []byte {
	switch {
	case n.kind == kindObject && len(n.nodes) > 0:
		return appendYAMLFields(append(b, '\n'), n, depth+1, 0)
	case n.kind == kindList && len(n.nodes) > 0:
		b = append(b, '\n')
		for i := range n.nodes {
			b = append(appendIndent(b, depth+1), '-')
			if one := &n.nodes[i]; one.kind == kindObject && len(one.nodes) > 0 {
				b = appendYAMLFields(append(b, ' '), one, depth+2, 1)
			} else {
				b = appendYAMLValue(b, one, depth+1)
			}
		}
		return b
	}
	return append(appendYAMLScalar(append(b, ' '), n), '\n')
}

func appendYAMLScalar(b []byte, n *node) []byte {
	switch n.kind {
	case kindText:
		return appendYAMLText(b, n.text)
	case kindNothing:
		return append(b, "null"...)
	case kindList:
		return append(b, "[]"...)
	case kindObject:
		return append(b, "{}"...)
	}
	return append(b, n.text...)
}

// appendYAMLText writes a text in double quotes (YAML 1.2 section 5.7), on one line. All
// that is not plainly visible is escaped: control characters, which YAML forbids, line
// breaks of any kind, byte order marks, characters that change the direction. Beyond the
// 16-bit plane it takes \U, as PyYAML joins no surrogates.
func appendYAMLText(b []byte, s string) []byte {
	b = append(b, '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case unicode.IsPrint(r):
			b = utf8.AppendRune(b, r)
		case r < 0x10000:
			b = fmt.Appendf(b, `\u%04x`, r)
		default:
			b = fmt.Appendf(b, `\U%08x`, r)
		}
	}
	return append(b, '"')
}
