package policy

import (
	"errors"
	"io"
	"mime"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of [FoldSubject], in bytes.
const (
	maxSubjectRaw   = 4096
	maxSubjectKey   = 120
	maxSubjectExact = 256
)

// noSubject is the key of a message without a Subject, or with an invisible one.
const noSubject = "(no subject)"

// FoldSubject makes a raw Subject comparable.
//
// Exact is the Subject for people: RFC 2047 decoded, on one line, at most 256 bytes
// of valid UTF-8 without control or invisible characters. Key is what is compared:
// exact in lower case with each number replaced by "#" and each random-looking token
// by "*", at most 120 bytes, so that "Invoice 8841" and "Invoice 9120" have one key.
// Folding a key gives that key again. At most 4 KiB of raw are looked at.
func FoldSubject(raw string) (key, exact string) {
	text := subjectText(cutText(raw, maxSubjectRaw))
	if text == "" {
		return noSubject, ""
	}
	// A copy: a part of raw would keep the whole request in memory.
	exact = strings.Clone(strings.TrimRight(cutText(text, maxSubjectExact), " "))
	return foldText(text), exact
}

// subjectKey is the key of [FoldSubject] alone.
func subjectKey(raw string) string {
	if text := subjectText(cutText(raw, maxSubjectRaw)); text != "" {
		return foldText(text)
	}
	return noSubject
}

// subjectText returns the Subject as one line of printable characters.
func subjectText(raw string) string {
	raw = strings.Trim(raw, " \t\r\n")
	if plainLine(raw) {
		return raw
	}
	if strings.Contains(raw, "=?") {
		raw = decodeWords(raw)
	}
	return visibleLine(raw)
}

// plainLine reports whether s is printable ASCII with single blanks and without an
// encoded word, as most Subjects are.
func plainLine(s string) bool {
	var last byte
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c < ' ' || c > '~' || (c == ' ' && last == ' ') || (c == '?' && last == '=') {
			return false
		}
		last = c
	}
	return true
}

// visibleLine makes every run of white space one blank, drops what cannot be seen,
// and reads bytes that are no UTF-8 as Windows-1252, which is what old mailers send.
func visibleLine(s string) string {
	var b strings.Builder
	b.Grow(len(s))
	blank := false
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n == 1 {
			r = windows1252(s[i])
		}
		i += n
		switch {
		case unicode.IsSpace(r):
			blank = true
			continue
		case invisible(r):
			continue
		}
		if blank && b.Len() > 0 {
			b.WriteByte(' ')
		}
		blank = false
		b.WriteRune(r)
	}
	return b.String()
}

// invisible reports whether a character shows nothing: control and format characters
// (zero-width ones, changes of writing direction), private ones, and the few letters
// and marks that are empty by design.
func invisible(r rune) bool {
	switch {
	case r < utf8.RuneSelf:
		return r < ' ' || r == 0x7f
	case r == 0x034f, r == 0x115f, r == 0x1160, r == 0x2800, r == 0x3164, r == 0xffa0:
		return true
	case r >= 0xfe00 && r <= 0xfe0f, r >= 0xe0100 && r <= 0xe01ef: // variation selectors
		return true
	}
	return !unicode.IsGraphic(r)
}

// decodeWords replaces the RFC 2047 encoded words of s. A word that is broken or in a
// charset that we do not know stays as it is; white space between two words goes.
func decodeWords(s string) string {
	dec := mime.WordDecoder{CharsetReader: subjectCharset}
	var b strings.Builder
	b.Grow(len(s))
	afterWord := false
	for s != "" {
		start := strings.Index(s, "=?")
		if start < 0 {
			break
		}
		word := encodedWord(s[start:])
		text, err := "", errNoWord
		if word != "" {
			text, err = dec.Decode(word)
		}
		gap := s[:start]
		if err != nil {
			b.WriteString(s[:start+2])
			s, afterWord = s[start+2:], false
			continue
		}
		if !afterWord || strings.Trim(gap, " \t\r\n") != "" {
			b.WriteString(gap)
		}
		b.WriteString(text)
		s, afterWord = s[start+len(word):], true
	}
	b.WriteString(s)
	return b.String()
}

var errNoWord = errors.New("not an encoded word")

// encodedWord returns the encoded word "=?charset?encoding?text?=" at the start of s,
// or "" if there is none. No part may hold white space.
func encodedWord(s string) string {
	end := 2
	for range 2 {
		i := strings.IndexByte(s[end:], '?')
		if i < 0 {
			return ""
		}
		end += i + 1
	}
	i := strings.Index(s[end:], "?=")
	if i < 0 {
		return ""
	}
	word := s[:end+i+2]
	if strings.ContainsAny(word, " \t\r\n") {
		return ""
	}
	return word
}

// subjectCharset decodes the charsets that mime does not know itself and that old
// mailers use; others are an error, so that the word stays as it was written.
func subjectCharset(charset string, in io.Reader) (io.Reader, error) {
	var decode func(byte) rune
	switch strings.ToLower(charset) {
	case "windows-1252", "cp1252", "latin1":
		decode = windows1252
	case "iso-8859-15", "latin9":
		decode = latin9
	case "utf8":
		return io.LimitReader(in, maxSubjectRaw), nil
	default:
		return nil, errNoWord
	}
	p, err := io.ReadAll(io.LimitReader(in, maxSubjectRaw))
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	for _, c := range p {
		b.WriteRune(decode(c))
	}
	return strings.NewReader(b.String()), nil
}

// windows1252 decodes one byte; the five that it leaves undefined become the
// replacement character.
func windows1252(c byte) rune {
	const high = "€\uFFFD‚ƒ„…†‡ˆ‰Š‹Œ\uFFFDŽ\uFFFD\uFFFD‘’“”•–—˜™š›œ\uFFFDžŸ"
	if c < 0x80 || c > 0x9f {
		return rune(c)
	}
	n := int(c - 0x80)
	for _, r := range high {
		if n == 0 {
			return r
		}
		n--
	}
	return utf8.RuneError
}

// latin9 decodes one byte of ISO-8859-15: Latin-1 but for eight characters.
func latin9(c byte) rune {
	switch c {
	case 0xa4:
		return '€'
	case 0xa6:
		return 'Š'
	case 0xa8:
		return 'š'
	case 0xb4:
		return 'Ž'
	case 0xb8:
		return 'ž'
	case 0xbc:
		return 'Œ'
	case 0xbd:
		return 'œ'
	case 0xbe:
		return 'Ÿ'
	}
	return rune(c)
}

// cutText returns at most max bytes of s, not cutting a character in two.
func cutText(s string, max int) string {
	if len(s) <= max {
		return s
	}
	for i := max; i > max-utf8.UTFMax; i-- {
		if utf8.RuneStart(s[i]) {
			return s[:i]
		}
	}
	return s[:max] // no UTF-8 at all
}
