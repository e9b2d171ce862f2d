package policy

import (
	"unicode"
	"unicode/utf8"
)

// folder builds the key of a Subject in a buffer of its own, so that folding
// allocates nothing but the key.
type folder struct {
	buf  [maxSubjectKey + utf8.UTFMax]byte
	n    int
	full bool
}

// foldText makes the key of a Subject that [subjectText] has cleaned. The key holds
// no digit, no ASCII capital and no "=?", and every rule below needs one of them:
// that is why folding a key again changes nothing.
func foldText(text string) string {
	var f folder
	letterBefore := false // the character before is a letter beyond ASCII
	for i := 0; i < len(text) && !f.full; {
		if c := text[i]; c < utf8.RuneSelf {
			if !alnum(c) {
				f.put(rune(c))
				letterBefore = false
				i++
				continue
			}
			i += f.token(text[i:], letterBefore)
			letterBefore = false
			continue
		}
		r, n := utf8.DecodeRuneInString(text[i:])
		if unicode.IsDigit(r) {
			r = '#'
			for n < len(text)-i {
				next, m := utf8.DecodeRuneInString(text[i+n:])
				if !unicode.IsDigit(next) {
					break
				}
				n += m
			}
		}
		f.put(unicode.ToLower(r))
		letterBefore = unicode.IsLetter(r)
		i += n
	}
	return f.key()
}

func (f *folder) key() string {
	for f.n > 0 && f.buf[f.n-1] == ' ' {
		f.n--
	}
	if f.n == 0 {
		return noSubject
	}
	return string(f.buf[:f.n])
}

// put appends one character while there is room.
func (f *folder) put(r rune) {
	if r == '?' {
		// "=?" could make an encoded word of what was none.
		for f.n > 0 && f.buf[f.n-1] == '=' {
			f.n--
		}
	}
	if r < utf8.RuneSelf && f.n < maxSubjectKey && !f.full { // nearly always
		f.buf[f.n] = byte(r)
		f.n++
		return
	}
	if f.full || f.n+utf8.RuneLen(r) > maxSubjectKey {
		f.full = true
		return
	}
	f.n += utf8.EncodeRune(f.buf[f.n:], r)
}

// token folds what begins with an ASCII letter or digit and returns its length. It
// tries, from the longest: letters and digits joined by - _ + / = that look encoded
// (UUIDs, base64); one word that looks random; a word with numbers in it.
//
// A word that touches a letter beyond ASCII is never called random: Chinese and
// Japanese write whole sentences with numbers in them without a blank.
func (f *folder) token(s string, touched bool) int {
	word := scanWord(s)
	if n := encodedLen(s, word); n > 0 && !touched && !letterAt(s, n) {
		f.put('*')
		return n
	}
	if word.random() && !touched && !letterAt(s, word.len) {
		f.put('*')
		return word.len
	}
	if word.digits == word.len {
		f.put('#')
		return numberLen(s)
	}
	inNumber := false
	for i := range word.len {
		digit := s[i]-'0' <= 9
		if !digit {
			f.put(rune(lower(s[i])))
		} else if !inNumber {
			f.put('#')
		}
		inNumber = digit
	}
	return word.len
}

// looks is what a token looks like.
type looks struct {
	len, digits int
	turns       int // how often letters and digits take turns
	rises       int // how often a capital follows a small letter
	nonHex      bool
}

// random reports whether one word is no word: hexadecimal with digits and letters,
// or letters and digits that take turns more than once. "Invoice2024" is a word.
func (l looks) random() bool {
	if l.digits == 0 || l.digits == l.len {
		return false
	}
	return (l.len >= 6 && !l.nonHex) || (l.len >= 8 && l.turns >= 2)
}

// encoded reports whether a token of at least 16 characters changes its kind of
// character as often as base64 and UUIDs do. Without a digit it must do so more often:
// in "ThisIsACamelCaseSubject" every fifth character is a change.
func (l looks) encoded() bool {
	changes := l.turns + l.rises
	if l.len < 16 || changes < 4 {
		return false
	}
	return 4*changes >= l.len || (l.digits > 0 && 6*changes >= l.len)
}

// scanWord looks at the ASCII letters and digits at the start of s.
func scanWord(s string) looks {
	var l looks
	var last byte
	for l.len < len(s) && alnum(s[l.len]) {
		l.see(s[l.len], last)
		last = s[l.len]
		l.len++
	}
	return l
}

// encodedLen returns the length of the token at the start of s if it looks encoded, or
// 0. Single joining characters connect its words, the padding of base64 belongs to
// it. A first word of letters alone ("Invoice-550e8400-…") is left out of it.
func encodedLen(s string, first looks) int {
	if first.digits == 0 && first.len < len(s) && joiner(s[first.len]) {
		return 0
	}
	l := scanJoined(s[:min(len(s), maxSubjectKey)])
	if !l.encoded() {
		return 0
	}
	if l.len == maxSubjectKey {
		l = scanJoined(s)
	}
	for range 2 {
		if l.len < len(s) && s[l.len] == '=' {
			l.len++
		}
	}
	return l.len
}

// scanJoined looks at the words at the start of s that single joining characters
// connect. Each word starts anew: there is no rise in "Mund-Zu-Mund".
func scanJoined(s string) looks {
	var l looks
	var last byte
	for l.len < len(s) {
		c := s[l.len]
		switch {
		case alnum(c):
			l.see(c, last)
		case joiner(c) && l.len+1 < len(s) && alnum(s[l.len+1]):
			c = 0
		default:
			return l
		}
		last = c
		l.len++
	}
	return l
}

// see counts one letter or digit that follows last (0 at the start of a word).
func (l *looks) see(c, last byte) {
	digit := c-'0' <= 9
	if digit {
		l.digits++
	} else if low := lower(c); low > 'f' {
		l.nonHex = true
	}
	if last == 0 {
		return
	}
	switch lastDigit := last-'0' <= 9; {
	case digit != lastDigit:
		l.turns++
	case c <= 'Z' && last >= 'a' && !digit:
		l.rises++
	}
}

// numberLen returns the length of the number at the start of s: digits with single
// separators between them, as in amounts, dates, times and telephone numbers.
func numberLen(s string) int {
	n := 0
	for n < len(s) {
		switch {
		case s[n]-'0' <= 9:
			n++
		case separator(s[n]) && n+1 < len(s) && s[n+1]-'0' <= 9 && scanWord(s[n+1:]).allDigits():
			n++
		default:
			return n
		}
	}
	return n
}

func (l looks) allDigits() bool { return l.digits == l.len }

// letterAt reports whether a letter beyond ASCII stands at s[i].
func letterAt(s string, i int) bool {
	if i >= len(s) || s[i] < utf8.RuneSelf {
		return false
	}
	r, _ := utf8.DecodeRuneInString(s[i:])
	return unicode.IsLetter(r)
}

func alnum(c byte) bool { return c-'0' <= 9 || lower(c)-'a' <= 25 }

// lower returns an ASCII letter in lower case, and other bytes changed: only for letters
// and for comparing.
func lower(c byte) byte { return c | 0x20 }

func joiner(c byte) bool {
	return c == '-' || c == '_' || c == '+' || c == '/' || c == '='
}

func separator(c byte) bool {
	return c == '.' || c == ',' || c == ':' || c == '/' || c == '-' || c == '\''
}
