package policy

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestEvidenceIsPrintableAndBounded(t *testing.T) {
	long := strings.Repeat("é\x1b\n", 2000)
	e := Evidence{
		Script: "/home/shop//x/../a\n.php", URL: "/" + long, Method: "GET\r\n" + long, VirtualHost: long, Basis: long,
		ClientIP: netip.MustParseAddr("::ffff:192.0.2.1"), PID: 7, SeenAt: time.UnixMilli(1), Confidence: ConfidenceHigh,
	}.Clean()
	if e.Script != `/home/shop/a\x0a.php` || e.ClientIP.String() != "192.0.2.1" || e.PID != 7 || e.Confidence != ConfidenceHigh {
		t.Errorf("%+v", e)
	}
	for text, limit := range map[string]int{e.URL: 512, e.Method: 16, e.VirtualHost: 255, e.Basis: 400} {
		if len(text) > limit || strings.ContainsAny(text, "\x1b\r\n") || text == "" {
			t.Errorf("%d bytes, want 1 to %d printable ones: %q", len(text), limit, text)
		}
	}
	if again := e.Clean(); again != e {
		t.Errorf("cleaned again it is %+v, want %+v", again, e)
	}
	if (Evidence{}).Clean() != (Evidence{}) {
		t.Error("nothing became something")
	}
}

func TestConfidenceHasNames(t *testing.T) {
	for _, c := range []Confidence{ConfidenceNone, ConfidenceLow, ConfidenceHigh} {
		if got, ok := ParseConfidence(c.String()); !ok || got != c {
			t.Errorf("%v is read as %v, %t", c, got, ok)
		}
	}
	if c, ok := ParseConfidence("certain"); ok {
		t.Errorf("an unknown name is %v", c)
	}
}

func TestTheScriptInPHPsHeader(t *testing.T) {
	for header, want := range map[string]string{
		"33:send.php": "send.php", " 1001:mailer.php(12) : eval()'d code\n": "mailer.php",
		"33:send.php\n 0:innocent.php":     "send.php",
		"shop.example/a.php for 192.0.2.1": "", "send.php": "", "": "", "33:": "", "33:../../etc": "etc", "x:y": "",
	} {
		if got := PHPScriptName(header); got != want {
			t.Errorf("%q names %q, want %q", header, got, want)
		}
	}
}
