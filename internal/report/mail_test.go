package report

import (
	"bytes"
	"net/mail"
	"strings"
	"testing"
	"time"
)

func TestMailIsAsItsGoldenFile(t *testing.T) {
	r := New(sampleFacts())
	text := letterOf(t, shippedTemplates(t), r, Customer)
	b, err := Mail(r, text, "Hosting Müller <osm@web1.example.net>", "info@forum.example")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "customer-first.eml", bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n"))) // line ends are asserted elsewhere
}

func mailID(t *testing.T, r *Report, text Text, to string) (id, references string) {
	t.Helper()
	b, err := Mail(r, text, "osm@web1.example.net", to)
	if err != nil {
		t.Fatal(err)
	}
	m, err := mail.ReadMessage(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return m.Header.Get("Message-ID"), m.Header.Get("References")
}

func TestAMailSentAgainHasTheSameMessageIDAndAnotherMailAnother(t *testing.T) {
	r, later := New(sampleFacts()), New(digestFacts())
	text := Text{"s", "b\n"}
	first, thread := mailID(t, r, text, "a@example.net")
	if again, _ := mailID(t, r, text, "a@example.net"); again != first {
		t.Errorf("sent again: %s, want %s", again, first)
	}
	for what, other := range map[string]func() (string, string){
		"to somebody else":  func() (string, string) { return mailID(t, r, text, "b@example.net") },
		"the digest":        func() (string, string) { return mailID(t, later, text, "a@example.net") },
		"with another text": func() (string, string) { return mailID(t, r, Text{"s", "c\n"}, "a@example.net") },
	} {
		id, references := other()
		if id == first {
			t.Errorf("%s: the same Message-ID %s", what, id)
		}
		if references != thread {
			t.Errorf("%s: References %s, want %s", what, references, thread)
		}
	}
}

func TestMailRefusesWhatIsNotOneAddress(t *testing.T) {
	r, text := New(sampleFacts()), Text{"s", "b\n"}
	for name, address := range map[string]string{
		"a list":             "a@example.net, b@example.net",
		"a second header":    "a@example.net\r\nBcc: b@example.net",
		"a line break":       "a\n@example.net",
		"nothing":            "",
		"no domain":          "root",
		"an option":          "-OQueueDirectory=/tmp@example.net",
		"not ASCII":          "müller@example.net",
		"control characters": "\"a\x01b\"@example.net",
		"too long":           strings.Repeat("a", 400) + "@example.net",
	} {
		if b, err := Mail(r, text, "osm@web1.example.net", address); err == nil {
			t.Errorf("%s: written to\n%s", name, b)
		}
		if _, err := Mail(r, text, address, "a@example.net"); err == nil {
			t.Errorf("%s: written from", name)
		}
	}
}

func TestAHostsNameMakesAValidMessageID(t *testing.T) {
	for host, want := range map[string]string{
		"web1.example.net": "web1.example.net", "": "localhost", "<x>\r\nBcc: y": "xBccy", "..a..b..": "a.b", strings.Repeat("a", 300): strings.Repeat("a", 255),
	} {
		if got := hostPart(host); got != want {
			t.Errorf("hostPart(%q) = %q, want %q", host, got, want)
		}
	}
}

func TestWhatLooksEncodedIsNotDecodedInASubject(t *testing.T) {
	if got := encodedSubject("=?utf-8?q?=0D=0ABcc:_x?="); strings.Contains(got, "=?") {
		t.Errorf("got %q", got)
	}
}

func TestTheSignatureIsTheHMACOfTimeAndBody(t *testing.T) {
	// The value was computed with: printf '%s' '1793698920.{"a":1}' | openssl dgst -sha256 -hmac secret
	const want = "t=1793698920,v1=a441d0549deee1a1fabb948f7d4589f77e90bdaee6b529d3afa25d0936f75cc8"
	if got := Sign([]byte("secret"), time.Unix(1793698920, 999e6), []byte(`{"a":1}`)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
