package evidence

import (
	"net/url"
	"strconv"
	"strings"
)

// requestLine is what Apache keeps of the first line of a request.
type requestLine struct {
	method, target string
	whole          bool // target is not cut
}

// cutMark ends a URL that is not whole.
const cutMark = "…"

func (l requestLine) url() string {
	if l.whole {
		return l.target
	}
	return l.target + cutMark
}

// line reads the row's request; ok is false for what is no request line: an HTTP/2
// connection's state, "..reading..", or the tail alone of a long one (SeeRequestTail).
func (r *row) line() (l requestLine, ok bool) {
	method, rest, found := strings.Cut(unescapeLog(r.request), " ")
	if !found || !isMethod(method) || !strings.HasPrefix(rest, "/") && !strings.HasPrefix(rest, "http") && rest != "*" {
		return requestLine{}, false
	}
	target, _, whole := strings.Cut(rest, " ")
	return requestLine{method, target, whole}, true
}

func isMethod(s string) bool {
	for _, c := range []byte(s) {
		if c < 'A' || c > 'Z' {
			return false
		}
	}
	return s != ""
}

// unescapeLog undoes what Apache does to bytes that are not printable, to quotes and to
// backslashes.
func unescapeLog(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		switch c := s[i]; c {
		case 'x':
			n, err := strconv.ParseUint(s[i+1:min(i+3, len(s))], 16, 8)
			if err != nil {
				b.WriteString(`\x`)
				continue
			}
			b.WriteByte(byte(n))
			i += 2
		case 'b', 'n', 'r', 't', 'v':
			b.WriteByte(map[byte]byte{'b': '\b', 'n': '\n', 'r': '\r', 't': '\t', 'v': '\v'}[c])
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// likeness is whether a row may be the request for a URI.
type likeness uint8

const (
	another likeness = iota
	unclear          // the row does not say what is asked for
	same
)

// like compares the row with a method and a URI as [decoded] has it; uriCut: it may go on.
func (r *row) like(method, uri string, uriCut bool) likeness {
	if r.multiplexed() {
		return unclear
	}
	l, ok := r.line()
	target := decoded(l.target)
	if !l.whole {
		target = decoded(withoutHalfEscape(l.target))
	}
	switch {
	case !ok:
		return unclear
	case method != "" && l.method != method:
		return another
	case target == uri && l.whole && !uriCut,
		!l.whole && strings.HasPrefix(uri, target),
		uriCut && strings.HasPrefix(target, uri):
		return same
	}
	return another
}

// decoded is a request's target as two of them are compared: the path without escapes and
// doubled slashes, as a server makes it before PHP sees it, and the query as it is.
func decoded(target string) string {
	if rest, ok := strings.CutPrefix(target, "http://"); ok { // a proxy's form
		if i := strings.IndexByte(rest, '/'); i >= 0 {
			target = rest[i:]
		}
	}
	path, query, found := strings.Cut(target, "?")
	if plain, err := url.PathUnescape(path); err == nil {
		path = plain
	}
	for strings.Contains(path, "//") {
		path = strings.ReplaceAll(path, "//", "/")
	}
	if found {
		path += "?" + query
	}
	return strings.ToValidUTF8(path, "") // php-fpm leaves out what is no UTF-8
}

// withoutHalfEscape leaves out what remains of an escape that was cut in the middle.
func withoutHalfEscape(s string) string {
	if i := strings.LastIndexByte(s, '%'); i >= 0 && len(s)-i < 3 && !strings.Contains(s, "?") {
		return s[:i]
	}
	return s
}

// multiplexed reports whether one row stands for many requests at once, as with HTTP/2.
func (r *row) multiplexed() bool {
	return r.protocol != "" && !strings.HasPrefix(strings.ToLower(r.protocol), "http/")
}

// mayServe reports whether the row may be a request that is under way.
func (r *row) mayServe() bool { return r.busy() || r.multiplexed() && r.state != '_' }

// host is the virtual host's name; cut: it may go on.
func (r *row) host() (name string, cut bool) {
	cut = len(r.vhost) >= maxVhost
	if i := strings.LastIndexByte(r.vhost, ':'); i >= 0 && !strings.HasSuffix(r.vhost, "]") {
		return strings.ToLower(r.vhost[:i]), false
	}
	return strings.ToLower(r.vhost), cut
}

// maxVhost is what Apache's scoreboard keeps of a virtual host's name and port.
const maxVhost = 31
