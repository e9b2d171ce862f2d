package policy

import (
	"net/netip"
	"time"
)

// maxEvidenceBasis bounds what is said about the grounds of evidence, in bytes.
const maxEvidenceBasis = 400

// Confidence says how far a piece of evidence can be relied on.
type Confidence uint8

// The grades of confidence.
const (
	// ConfidenceNone: no script and no request is named; the basis may say why.
	ConfidenceNone Confidence = iota
	// ConfidenceLow: it rests on what the sender's own process says of itself, which he
	// can forge, or on the process having sent by SMTP within the request.
	ConfidenceLow
	// ConfidenceHigh: the web server's or PHP's own word, which the sender cannot change,
	// on a request that was under way when sendmail was started.
	ConfidenceHigh
)

var confidenceNames = [...]string{"none", "low", "high"}

func (c Confidence) String() string { return name(confidenceNames[:], int(c)) }

// ParseConfidence is the inverse of String.
func ParseConfidence(s string) (Confidence, bool) {
	i, ok := parse(confidenceNames[:], s)
	return Confidence(i), ok
}

// Evidence says which script sent a message and which web request made it do so, as far
// as that is certain: what is not known is empty. It is for people, never what is billed.
type Evidence struct {
	Script string // the file, an absolute path; from PHP's header alone maybe less

	// The request, as the visitor's program wrote it. URL is the path with its query; one
	// that the web server has cut ends in "…".
	URL, Method string
	VirtualHost string
	// ClientIP is the visitor: invalid where several could have been it.
	ClientIP netip.Addr

	PID        int32     // the process that served the request; 0 if none is known
	SeenAt     time.Time // when it was looked at, UTC
	Basis      string    // the grounds, in words
	Confidence Confidence
}

// Clean returns the evidence with all its texts bounded and printable: every one of them
// is a stranger's.
func (e Evidence) Clean() Evidence {
	if e.Script = printable(e.Script, maxPath); e.Script != "" && e.Script[0] == '/' {
		e.Script = CleanDirectory(e.Script)
	}
	e.URL = printable(e.URL, maxPath)
	e.Method = printable(e.Method, 16)
	e.VirtualHost = printable(e.VirtualHost, 255)
	e.Basis = printable(e.Basis, maxEvidenceBasis)
	e.ClientIP = plainAddr(e.ClientIP)
	return e
}

// PHPScriptName is the base name of the file that called mail(), as PHP's header
// X-PHP-Originating-Script has it, "" if the header is missing or another one. It is a
// claim.
func PHPScriptName(header string) string {
	c, ok := parsePHPHeader(header)
	if !ok || c.uid < 0 {
		return ""
	}
	return c.file
}
