package eximacl

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"osm/policy"
)

// MaxAnswer is the size in bytes that an answer may have, its LF included.
const MaxAnswer = 1 << 10

const (
	maxRef    = 32
	maxQuoted = 440 // of log and of text, escapes included: both fit into MaxAnswer
	marker    = "osm=1"
)

// Answer is what Exim is told about one message.
type Answer struct {
	Action policy.Verdict
	Ref    string // opaque reference: letters, digits and "-", at most 32
	Log    string // for Exim's log
	Text   string // for the SMTP client
	// WhenFree says that a frozen message leaves the queue by itself: Exim keeps it with the
	// message, and there it is found if the decision was lost in a crash.
	WhenFree bool
}

// AppendAnswer appends a as one line that ends with the marker and LF, at most
// [MaxAnswer] bytes. Bytes that are not printable ASCII leave as "?"; values that are
// too long are cut.
func AppendAnswer(dst []byte, a Answer) []byte {
	dst = append(dst, "action="...)
	dst = append(dst, a.Action.String()...)
	if a.Ref != "" {
		dst = appendRef(append(dst, " ref="...), a.Ref)
	}
	if a.WhenFree {
		dst = append(append(dst, " release="...), policy.WhenFree.String()...)
	}
	if a.Log != "" {
		dst = appendQuoted(append(dst, " log="...), a.Log)
	}
	if a.Text != "" {
		dst = appendQuoted(append(dst, " text="...), a.Text)
	}
	return append(dst, " "+marker+"\n"...)
}

// appendRef writes a bare word: nothing that Exim's ${extract} could take for a quote,
// a blank or an escape.
func appendRef(dst []byte, s string) []byte {
	for i := range min(len(s), maxRef) {
		c := s[i]
		if !refByte(c) {
			c = '?'
		}
		dst = append(dst, c)
	}
	return dst
}

func refByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-'
}

func appendQuoted(dst []byte, s string) []byte {
	dst = append(dst, '"')
	room := maxQuoted
	for i := range len(s) {
		c := s[i]
		need := 1
		if c == '"' || c == '\\' {
			need = 2
		}
		if room -= need; room < 0 {
			break
		}
		switch {
		case need == 2:
			dst = append(dst, '\\', c)
		case c < ' ' || c > '~':
			dst = append(dst, '?')
		default:
			dst = append(dst, c)
		}
	}
	return append(dst, '"')
}

// ParseAnswer reads an answer as strictly as the ACL does: it must be one line of at
// most [MaxAnswer] bytes with a known action, and the marker must be its last word.
// Unknown words before the marker are ignored.
func ParseAnswer(b []byte) (Answer, error) {
	if len(b) > MaxAnswer {
		return Answer{}, errors.New("answer is larger than 1 KiB")
	}
	b = bytes.TrimSuffix(b, []byte{'\n'})
	for _, c := range b {
		if c < ' ' || c > '~' {
			return Answer{}, fmt.Errorf("answer %.80q holds a byte that is not printable", b)
		}
	}
	words, ok := bytes.CutSuffix(b, []byte(" "+marker))
	if !ok {
		return Answer{}, fmt.Errorf("answer %.80q does not end with %s", b, marker)
	}
	return parseWords(string(words))
}

func parseWords(s string) (Answer, error) {
	var a Answer
	acted := false
	for s = strings.TrimLeft(s, " "); s != ""; s = strings.TrimLeft(s, " ") {
		name, rest, ok := strings.Cut(s, "=")
		if !ok {
			return Answer{}, fmt.Errorf("answer: %.80q is not name=value", s)
		}
		value, rest, err := cutValue(rest)
		if err != nil {
			return Answer{}, fmt.Errorf("answer: %.80q: %w", name, err)
		}
		s = rest
		switch name {
		case "action":
			if a.Action, acted = policy.ParseVerdict(value); !acted {
				return Answer{}, fmt.Errorf("answer: action %.80q is not known", value)
			}
		case "ref":
			a.Ref = value
		case "release":
			a.WhenFree = value == policy.WhenFree.String()
		case "log":
			a.Log = value
		case "text":
			a.Text = value
		}
	}
	if !acted {
		return Answer{}, errors.New("answer has no action")
	}
	return a, nil
}

// cutValue takes one value, quoted or bare, off the front of s.
func cutValue(s string) (value, rest string, err error) {
	if !strings.HasPrefix(s, `"`) {
		value, rest, _ = strings.Cut(s, " ")
		return value, rest, nil
	}
	var out []byte
	for i := 1; i < len(s); i++ {
		switch c := s[i]; c {
		case '"':
			return string(out), s[i+1:], nil
		case '\\':
			if i++; i < len(s) {
				out = append(out, s[i])
			}
		default:
			out = append(out, c)
		}
	}
	return "", "", errors.New("quote is not closed")
}
