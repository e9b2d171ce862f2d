package report

import "strconv"

// The Perl is a file for do FILE, which gives back a reference to a hash. It holds nothing
// but hashes, lists, numbers, undef and single-quoted strings, in which Perl looks for
// nothing but \ and '. Two things make it come back as it was:
//
// Control bytes stand outside of the quotes as chr(N), because Perl turns a CR in a
// quoted string of a source file into LF.
//
// Text beyond ASCII is its UTF-8 bytes. do compiles the file without "use utf8", whatever
// its caller uses, so that a string has these bytes; utf8::decode makes characters of
// them.

// appendPerl writes a document.
func appendPerl(b []byte, n *node) []byte {
	b = append(b, "# Made by osm: read it with do FILE. Strings are UTF-8 bytes.\n$VAR1 = "...)
	return append(appendPerlValue(b, n, 0), ";\n"...)
}

func appendPerlValue(b []byte, n *node, depth int) []byte {
	switch n.kind {
	case kindNothing:
		return append(b, "undef"...)
	case kindText:
		return appendPerlText(b, n.text)
	case kindTruth:
		if n.text == "true" {
			return append(b, '1')
		}
		return append(b, '0')
	case kindList:
		return appendPerlNodes(b, n, depth, '[', ']')
	case kindObject:
		return appendPerlNodes(b, n, depth, '{', '}')
	}
	return append(b, n.text...)
}

// appendPerlNodes writes a list or a hash.
func appendPerlNodes(b []byte, n *node, depth int, open, end byte) []byte {
	b = append(b, open)
	if len(n.nodes) == 0 {
		return append(b, end)
	}
	b = append(b, '\n')
	for i := range n.nodes {
		b = appendIndent(b, depth+1)
		if n.kind == kindObject {
			b = append(appendPerlText(b, n.names[i]), " => "...)
		}
		b = append(appendPerlValue(b, &n.nodes[i], depth+1), ",\n"...)
	}
	return append(appendIndent(b, depth), end)
}

// appendPerlText writes a string: 'it\'s' . chr(10) . 'two lines'.
func appendPerlText(b []byte, s string) []byte {
	if s == "" {
		return append(b, "''"...)
	}
	quoted := false
	for i := range len(s) {
		control := s[i] < ' ' || s[i] == 0x7f
		if quoted && control {
			b, quoted = append(b, '\''), false
		}
		if !quoted && i > 0 {
			b = append(b, " . "...)
		}
		if control {
			b = append(strconv.AppendUint(append(b, "chr("...), uint64(s[i]), 10), ')')
			continue
		}
		if !quoted {
			b, quoted = append(b, '\''), true
		}
		if s[i] == '\\' || s[i] == '\'' {
			b = append(b, '\\')
		}
		b = append(b, s[i])
	}
	if quoted {
		b = append(b, '\'')
	}
	return b
}
