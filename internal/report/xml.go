package report

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"strings"
)

// The XML has an element for each name, <item> for each entry of a list, and two
// attributes, both ours: null="true" where there is no value, and escape="json" where XML
// 1.0 has no way to write a text.

// appendXML writes a document.
func appendXML(b []byte, n *node) []byte {
	return appendElement(append(b, xml.Header...), "report", n, 0)
}

func appendElement(b []byte, name string, n *node, depth int) []byte {
	b = append(append(appendIndent(b, depth), '<'), name...)
	content, closed := n.text, true
	switch {
	case n.kind == kindNothing:
		b, closed = append(b, ` null="true"/>`...), false
	case (n.kind == kindList || n.kind == kindObject) && len(n.nodes) == 0:
		b, closed = append(b, "/>"...), false
	case n.kind == kindList || n.kind == kindObject:
		b = append(b, ">\n"...)
		for i := range n.nodes {
			b = appendElement(b, elementName(n, i), &n.nodes[i], depth+1)
		}
		b = appendIndent(b, depth)
	case strings.ContainsFunc(content, notXML):
		content = insideJSON(content)
		b = appendEscaped(append(b, ` escape="json">`...), content)
	default:
		b = appendEscaped(append(b, '>'), content)
	}
	if closed {
		b = append(append(append(b, "</"...), name...), '>')
	}
	return append(b, '\n')
}

func elementName(n *node, i int) string {
	if n.kind == kindList {
		return "item"
	}
	return n.names[i]
}

// appendEscaped writes the text of an element. Tab, LF and CR become references, as a
// parser would turn CR into LF.
func appendEscaped(b []byte, s string) []byte {
	out := bytes.NewBuffer(b)
	_ = xml.EscapeText(out, []byte(s)) // a buffer takes everything
	return out.Bytes()
}

// notXML says that a character cannot stand in an XML 1.0 document, not even as a
// reference (section 2.2). Surrogates do not occur in valid UTF-8.
func notXML(r rune) bool {
	return r < ' ' && r != '\t' && r != '\n' && r != '\r' || r == 0xFFFE || r == 0xFFFF
}

// insideJSON is the text as it stands between the quotes of a JSON string. JSON leaves the
// two noncharacters as they are, which XML cannot.
func insideJSON(s string) string {
	quoted, _ := json.Marshal(s) // a string can always be written
	inside := string(quoted[1 : len(quoted)-1])
	return strings.NewReplacer("\uFFFE", `\ufffe`, "\uFFFF", `\uffff`).Replace(inside)
}
