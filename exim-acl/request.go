package eximacl

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"strconv"

	"osm/policy"
)

// MaxRequest is the size in bytes that a request may have, its empty line included.
const MaxRequest = 64 << 10

// MaxRecipientList is the cap of rcpts64 in bytes, decoded. A list that fills it is
// taken for cut.
const MaxRecipientList = 4096

const maxWord = 64

// ErrTooLarge is returned for a request of more than [MaxRequest] bytes.
var ErrTooLarge = errors.New("request is larger than 64 KiB")

// kind is the form of a value on the wire.
type kind uint8

const (
	version kind = iota
	word
	text // base64
	number
	address
)

// field is one name of the wire and where its value goes. Only the accessor that
// belongs to its kind is set.
type field struct {
	name     string
	kind     kind
	min, max int64 // of a number; max is the cap in bytes of a word or text
	str      func(*policy.Submission) *string
	addr     func(*policy.Submission) *netip.Addr
	get      func(*policy.Submission) int64
	set      func(*policy.Submission, int64)
}

// fields is the table of the package comment, in the order in which the ACL sends.
var fields = [...]field{
	{name: "osm", kind: version},
	{name: "id", kind: word, max: maxWord, str: func(s *policy.Submission) *string { return &s.MessageID }},
	{name: "proto", kind: word, max: maxWord, str: func(s *policy.Submission) *string { return &s.Protocol }},
	{name: "ouid", kind: number, min: -1, max: 1<<32 - 1,
		get: func(s *policy.Submission) int64 { return s.CallerUID },
		set: func(s *policy.Submission, n int64) { s.CallerUID = n }},
	{name: "ip", kind: address, addr: func(s *policy.Submission) *netip.Addr { return &s.ClientIP }},
	{name: "port", kind: number, min: -1, max: 65535,
		get: func(s *policy.Submission) int64 { return int64(s.ClientPort) },
		set: func(s *policy.Submission, n int64) { s.ClientPort = uint16(max(n, 0)) }},
	{name: "lip", kind: address, addr: func(s *policy.Submission) *netip.Addr { return &s.LocalIP }},
	{name: "lport", kind: number, min: -1, max: 65535,
		get: func(s *policy.Submission) int64 { return int64(s.LocalPort) },
		set: func(s *policy.Submission, n int64) { s.LocalPort = uint16(max(n, 0)) }},
	{name: "size", kind: number, min: -1, max: 1 << 40,
		get: func(s *policy.Submission) int64 { return s.Size },
		set: func(s *policy.Submission, n int64) { s.Size = max(n, 0) }},
	{name: "nrcpt", kind: number, min: -1, max: 1 << 24,
		get: func(s *policy.Submission) int64 { return int64(s.Recipients) },
		set: func(s *policy.Submission, n int64) { s.Recipients = int(max(n, 0)) }},
	{name: "cwd64", kind: text, max: 1024, str: func(s *policy.Submission) *string { return &s.WorkingDirectory }},
	{name: "ident64", kind: text, max: 128, str: func(s *policy.Submission) *string { return &s.Ident }},
	{name: "auth64", kind: text, max: 256, str: func(s *policy.Submission) *string { return &s.AuthenticatedID }},
	{name: "authm64", kind: text, max: 64, str: func(s *policy.Submission) *string { return &s.Authenticator }},
	{name: "helo64", kind: text, max: 256, str: func(s *policy.Submission) *string { return &s.HELO }},
	{name: "from64", kind: text, max: 512, str: func(s *policy.Submission) *string { return &s.EnvelopeSender }},
	{name: "rcpts64", kind: text, max: MaxRecipientList, str: func(s *policy.Submission) *string { return &s.RecipientList }},
	{name: "hfrom64", kind: text, max: 512, str: func(s *policy.Submission) *string { return &s.HeaderFrom }},
	{name: "subj64", kind: text, max: 1024, str: func(s *policy.Submission) *string { return &s.Subject }},
	{name: "php64", kind: text, max: 512, str: func(s *policy.Submission) *string { return &s.PHPScript }},
	{name: "owner64", kind: text, max: 128, str: func(s *policy.Submission) *string { return &s.LocalUser }},
	{name: "vhost64", kind: text, max: 512, str: func(s *policy.Submission) *string { return &s.VhostOwner }},
	{name: "recent64", kind: text, max: 512, str: func(s *policy.Submission) *string { return &s.RecentAuth }},
	{name: "always64", kind: text, max: 256, str: func(s *policy.Submission) *string { return &s.AlwaysRelay }},
}

// strictBase64 takes nothing that an encoder would not have written.
var strictBase64 = base64.StdEncoding.Strict()

// span is where the text of a field lies among the texts of a request.
type span struct{ from, to int }

// parser holds the state of one ParseRequest.
type parser struct {
	s     *policy.Submission
	next  int // the field that comes next where the ACL's order is kept
	seen  [len(fields)]bool
	spans [len(fields)]span
}

// ParseRequest reads a request as the package comment describes it. The error names
// the field; the submission is nil then.
func ParseRequest(b []byte) (*policy.Submission, error) {
	if len(b) > MaxRequest {
		return nil, ErrTooLarge
	}
	p := parser{s: &policy.Submission{CallerUID: -1}}
	// The texts are decoded one behind the other, and then become one string.
	var space [1024]byte
	texts := space[:0]
	if len(b) > len(space) {
		texts = make([]byte, 0, len(b))
	}
	for {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			return nil, errors.New("request ends before its empty line")
		}
		if i == 0 {
			return p.finish(string(texts))
		}
		var err error
		if texts, err = p.line(texts, b[:i]); err != nil {
			return nil, err
		}
		b = b[i+1:]
	}
}

// line reads one line and appends what text it holds to texts.
func (p *parser) line(texts, line []byte) ([]byte, error) {
	end := bytes.IndexByte(line, '=')
	if end <= 0 {
		return nil, fmt.Errorf("line %.80q is not name=value", line)
	}
	i := p.field(line[:end])
	if i < 0 {
		return texts, nil
	}
	f, value := &fields[i], line[end+1:]
	if p.seen[i] {
		return nil, fmt.Errorf("%s is given twice", f.name)
	}
	p.seen[i] = true
	switch f.kind {
	case version:
		if string(value) != "1" {
			return nil, fmt.Errorf("version %.80q is not known", value)
		}
	case word:
		if len(value) > int(f.max) {
			return nil, fmt.Errorf("%s is longer than %d bytes", f.name, f.max)
		}
		p.spans[i] = span{len(texts), len(texts) + len(value)}
		return append(texts, value...), nil
	case text:
		return p.decode(texts, i, value)
	case number:
		n, err := parseNumber(value, f.min, f.max)
		if err != nil {
			return nil, fmt.Errorf("%s %.80q: %w", f.name, value, err)
		}
		if len(value) > 0 {
			f.set(p.s, n)
		}
	case address:
		a, err := parseAddress(value)
		if err != nil {
			return nil, fmt.Errorf("%s %.80q is not an address", f.name, value)
		}
		*f.addr(p.s) = a
	}
	return texts, nil
}

// field finds a name in the table, -1 if it is not there. It begins where the name is,
// unless a name was left out.
func (p *parser) field(name []byte) int {
	for range fields {
		i := p.next
		if p.next++; p.next == len(fields) {
			p.next = 0
		}
		if fields[i].name == string(name) {
			return i
		}
	}
	return -1
}

// decode appends the decoded value to texts, cut to its cap.
func (p *parser) decode(texts []byte, i int, value []byte) ([]byte, error) {
	f := &fields[i]
	// The decoder would skip a CR; on this wire nothing is skipped.
	if bytes.IndexByte(value, '\r') >= 0 {
		return nil, fmt.Errorf("%s is not base64: it holds a carriage return", f.name)
	}
	from := len(texts)
	out, err := strictBase64.AppendDecode(texts, value)
	if err != nil {
		return nil, fmt.Errorf("%s is not base64: %w", f.name, err)
	}
	out = out[:min(len(out), from+int(f.max))]
	p.spans[i] = span{from, len(out)}
	return out, nil
}

// finish gives each field its part of the texts.
func (p *parser) finish(texts string) (*policy.Submission, error) {
	if !p.seen[0] {
		return nil, errors.New("request does not say osm=1")
	}
	for i, sp := range p.spans {
		if sp.to > sp.from {
			*fields[i].str(p.s) = texts[sp.from:sp.to]
		}
	}
	p.s.RecipientsCut = len(p.s.RecipientList) >= MaxRecipientList
	return p.s, nil
}

func parseNumber(value []byte, min, max int64) (int64, error) {
	if len(value) == 0 {
		return 0, nil
	}
	if len(value) > 20 {
		return 0, errors.New("too many digits")
	}
	n, err := strconv.ParseInt(string(value), 10, 64)
	if err != nil {
		return 0, errors.New("not a number")
	}
	if n < min || n > max {
		return 0, fmt.Errorf("not between %d and %d", min, max)
	}
	return n, nil
}

// parseAddress drops an IPv6 zone: the address is what is counted.
func parseAddress(value []byte) (netip.Addr, error) {
	value, _, _ = bytes.Cut(value, []byte{'%'})
	if len(value) == 0 {
		return netip.Addr{}, nil
	}
	if len(value) > maxWord {
		return netip.Addr{}, errors.New("too long")
	}
	a, err := netip.ParseAddr(string(value))
	return a.Unmap(), err
}

// AppendRequest appends s as the ACL would send it: values cut to their caps, and the
// names that only cPanel's ACL sends left out where they are empty. It is the inverse
// of [ParseRequest], for tests, benchmarks and the doctor; control bytes in a word
// are replaced by "?", since they would change the structure.
func AppendRequest(dst []byte, s *policy.Submission) []byte {
	for i := range fields {
		f := &fields[i]
		switch f.kind {
		case version:
			dst = append(dst, "osm=1"...)
		case word:
			dst = appendWord(append(append(dst, f.name...), '='), *f.str(s), int(f.max))
		case text:
			v := *f.str(s)
			if v == "" && panelOnly(f.name) {
				continue
			}
			dst = append(append(dst, f.name...), '=')
			dst = base64.StdEncoding.AppendEncode(dst, []byte(v[:min(len(v), int(f.max))]))
		case number:
			dst = strconv.AppendInt(append(append(dst, f.name...), '='), f.get(s), 10)
		case address:
			dst = append(append(dst, f.name...), '=')
			if a := *f.addr(s); a.IsValid() {
				dst = a.Unmap().WithZone("").AppendTo(dst)
			}
		}
		dst = append(dst, '\n')
	}
	return append(dst, '\n')
}

func panelOnly(name string) bool {
	switch name {
	case "owner64", "vhost64", "recent64", "always64":
		return true
	}
	return false
}

func appendWord(dst []byte, s string, limit int) []byte {
	for i := range min(len(s), limit) {
		c := s[i]
		if c < ' ' || c > '~' {
			c = '?'
		}
		dst = append(dst, c)
	}
	return dst
}
