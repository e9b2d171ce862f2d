package report

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"mime"
	"mime/quotedprintable"
	"net/mail"
	"strings"
	"time"
	"unicode"
)

// Mail is a letter as an RFC 5322 message, with CRLF line ends, for sendmail -i or SMTP. from
// and to are one address each, bare or with a name, in ASCII.
//
// The same report, text and addressee make the same bytes, header Message-ID included: a
// mail that is sent again after a doubtful answer is recognised as the same. All reports of
// an event share a line References, so that mail programs show them together.
// Auto-Submitted keeps auto-replies from answering (RFC 3834).
func Mail(r *Report, t Text, from, to string) ([]byte, error) {
	sender, err := address(from)
	if err != nil {
		return nil, fmt.Errorf("mail report %d: sender: %w", r.Event.ID, err)
	}
	addressee, err := address(to)
	if err != nil {
		return nil, fmt.Errorf("mail report %d: addressee: %w", r.Event.ID, err)
	}
	host := hostPart(r.Host)
	var b bytes.Buffer
	for _, h := range [][2]string{
		{"From", sender.String()},
		{"To", addressee.String()},
		{"Subject", encodedSubject(t.Subject)},
		{"Date", r.CreatedAt.UTC().Format(time.RFC1123Z)},
		{"Message-ID", fmt.Sprintf("<osm.%d.%s@%s>", r.Event.ID, mailKey(r, t, addressee.Address), host)},
		{"References", fmt.Sprintf("<osm.%d@%s>", r.Event.ID, host)},
		{"Auto-Submitted", "auto-generated"},
		{"X-OSM-Report", fmt.Sprint(r.Event.ID)},
		{"MIME-Version", "1.0"},
		{"Content-Type", "text/plain; charset=utf-8"},
		{"Content-Transfer-Encoding", "quoted-printable"},
	} {
		b.WriteString(h[0] + ": " + h[1] + "\r\n")
	}
	b.WriteString("\r\n")
	b.Write(quoted(t.Body))
	return b.Bytes(), nil
}

// address reads one address. Where customers choose theirs, it must be no list, and no
// option of the program that sends.
func address(s string) (*mail.Address, error) {
	a, err := mail.ParseAddress(s)
	switch {
	case err != nil:
		return nil, fmt.Errorf("address %.80q: %w", s, err)
	case len(s) > 600 || len(a.Address) > 320 || strings.HasPrefix(a.Address, "-"):
		return nil, fmt.Errorf("address %.80q: too long, or begins with a dash", s)
	case strings.ContainsFunc(a.Address, func(r rune) bool { return r > unicode.MaxASCII || unicode.IsControl(r) }):
		return nil, fmt.Errorf("address %.80q: only ASCII can be written to", s)
	}
	a.Name = visible(a.Name, 100)
	return a, nil
}

// encodedSubject is a Subject for the header: RFC 2047 where it is not ASCII, folded.
func encodedSubject(s string) string {
	s = strings.Map(oneLine, s)
	// What looks encoded would be decoded by the reader's program, and its controls with it.
	s = strings.ReplaceAll(s, "=?", "= ?")
	return strings.ReplaceAll(mime.QEncoding.Encode("utf-8", s), "?= =?", "?=\r\n =?")
}

// mailKey tells a letter and its addressee from all others of the event.
func mailKey(r *Report, t Text, to string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%d\n%s\n%s", to, r.Kind, r.CreatedAt.UnixMilli(), t.Subject, t.Body))
	return fmt.Sprintf("%x", sum[:8])
}

// hostPart is the host's name as a header Message-ID can hold it.
func hostPart(host string) string {
	plain := func(r rune) rune {
		if r == '-' || r == '.' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' {
			return r
		}
		return -1
	}
	parts := strings.FieldsFunc(strings.Map(plain, host), func(r rune) bool { return r == '.' })
	if len(parts) == 0 {
		return "localhost"
	}
	name := strings.Join(parts, ".")
	return strings.TrimRight(name[:min(len(name), 255)], ".")
}

// quoted is the body in quoted-printable. A dot or "From " at the start of a line is
// written in hex, on a line of its own: some programs take them for an end, or for the
// next mail.
func quoted(body string) []byte {
	var b bytes.Buffer
	w := quotedprintable.NewWriter(&b)
	_, _ = w.Write([]byte(body)) // a buffer takes everything
	_ = w.Close()
	var out []byte
	for line := range bytes.Lines(b.Bytes()) {
		for bytes.HasPrefix(line, []byte(".")) || bytes.HasPrefix(line, []byte("From ")) {
			out, line = fmt.Appendf(out, "=%02X=\r\n", line[0]), line[1:]
		}
		out = append(out, line...)
	}
	return out
}
