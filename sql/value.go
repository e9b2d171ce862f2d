package store

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Time is a moment as JSON shows it: RFC 3339 in UTC with milliseconds; null if zero.
type Time struct{ time.Time }

const timeLayout = "2006-01-02T15:04:05.000Z"

// MarshalJSON writes the moment.
func (t Time) MarshalJSON() ([]byte, error) {
	if t.IsZero() {
		return []byte("null"), nil
	}
	return t.UTC().AppendFormat(nil, `"`+timeLayout+`"`), nil
}

// UnmarshalJSON reads any RFC 3339 moment, or null.
func (t *Time) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("read time %.40q: %w", b, err)
	}
	if s == "" {
		*t = Time{}
		return nil
	}
	at, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return fmt.Errorf("read time %.40q: %w", s, err)
	}
	t.Time = at.UTC()
	return nil
}

// Period is a length of time as JSON shows it: a Go duration such as "1h" or "1h30m".
type Period time.Duration

// String writes the period without idle parts; [time.ParseDuration] reads it.
func (p Period) String() string {
	s := time.Duration(p).String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// MarshalJSON writes the period as a text.
func (p Period) MarshalJSON() ([]byte, error) { return []byte(`"` + p.String() + `"`), nil }

// UnmarshalJSON reads a Go duration.
func (p *Period) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("read period %.40q: %w", b, err)
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("read period %.40q: %w", s, err)
	}
	*p = Period(d)
	return nil
}

// ms is a moment as it is stored; 0 for none.
func ms(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// orNull is a moment as it is stored in a column that may be NULL.
func orNull(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UnixMilli()
}

// moment is the inverse of ms.
func moment(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

// appendClean appends a stranger's text as it is stored: valid UTF-8, without control
// characters, at most max bytes.
func appendClean(dst []byte, s string, max int) []byte {
	plain := len(s) <= max
	for i := 0; plain && i < len(s); i++ {
		plain = s[i] >= ' ' && s[i] < 0x7f
	}
	if plain {
		return append(dst, s...)
	}
	end := len(dst) + max
	for _, r := range s { // an invalid byte comes as utf8.RuneError
		if unicode.IsControl(r) {
			r = utf8.RuneError
		}
		if len(dst)+utf8.RuneLen(r) > end {
			break
		}
		dst = utf8.AppendRune(dst, r)
	}
	return dst
}

// clean is appendClean to a text of its own.
func clean(s string, max int) string { return string(appendClean(nil, s, max)) }
