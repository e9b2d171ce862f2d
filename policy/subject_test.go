package policy

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestFoldSubject(t *testing.T) {
	for _, tt := range []struct {
		name, raw, key, exact string
	}{
		{"as Exim hands it over: a leading blank and a newline", " Hello there\n", "hello there", "Hello there"},
		{"no Subject", "", "(no subject)", ""},
		{"nothing but white space", " \t\r\n ", "(no subject)", ""},
		{"nothing but invisible characters", "\u200b\u200d\ufeff\x01", "(no subject)", ""},
		{"folded over two lines", " A long\r\n\t subject \r\n here\n", "a long subject here", "A long subject here"},
		{"two Subject headers, joined by a newline", " First\n Second\n", "first second", "First Second"},
		{"Re is part of it", "Re: Fwd: Offer", "re: fwd: offer", "Re: Fwd: Offer"},
		{"control characters vanish", "Pay\x00pal\x07 \x1b[31mnow\x7f", "paypal [#mnow", "Paypal [31mnow"},
		{"zero-width characters vanish", "Pay\u200bPal \u202enow\u2060", "paypal now", "PayPal now"},
		{"a no-break space is a blank", "A\u00a0\u00a0B", "a b", "A B"},

		{"number", "Invoice 8841", "invoice #", "Invoice 8841"},
		{"number after a hash", "Ticket #77123 closed", "ticket ## closed", "Ticket #77123 closed"},
		{"number glued to a word", "Rechnung2024", "rechnung#", "Rechnung2024"},
		{"number before a word", "24h sale", "#h sale", "24h sale"},
		{"amount", "You owe 12,345.67 EUR", "you owe # eur", "You owe 12,345.67 EUR"},
		{"date and time", "Report 2024-01-31 10:22:33", "report # #", "Report 2024-01-31 10:22:33"},
		{"digits of another script", "رقم ١٢٣", "رقم #", "رقم ١٢٣"},
		{"dated word with joining characters", "Invoice-2024-0815", "invoice-#", "Invoice-2024-0815"},

		{"hex run", "Order 3f9ac1", "order *", "Order 3f9ac1"},
		{"hex run of letters alone is a word", "deadbeef facade", "deadbeef facade", "deadbeef facade"},
		{"short hex stays a word with a number", "A4 paper", "a# paper", "A4 paper"},
		{"random token", "Code K7QX92MZ for you", "code * for you", "Code K7QX92MZ for you"},
		{"UUID", "Job 550e8400-e29b-41d4-a716-446655440000 done", "job * done", "Job 550e8400-e29b-41d4-a716-446655440000 done"},
		{"UUID behind a word", "Job-550e8400-e29b-41d4-a716-446655440000", "job-*", "Job-550e8400-e29b-41d4-a716-446655440000"},
		{"base64 with padding", "x QWxhZGRpbjpvcGVuIHNlc2FtZQ== y", "x * y", "x QWxhZGRpbjpvcGVuIHNlc2FtZQ== y"},
		{"long base64 is one token", strings.Repeat("QWxhZGRpbjpvc3R9", 20) + " y", "* y", strings.Repeat("QWxhZGRpbjpvc3R9", 16)},

		{"long German words stay", "Donaudampfschifffahrtsgesellschaft Mund-Zu-Mund-Propaganda", "donaudampfschifffahrtsgesellschaft mund-zu-mund-propaganda",
			"Donaudampfschifffahrtsgesellschaft Mund-Zu-Mund-Propaganda"},
		{"camel case stays", "ThisIsACamelCaseSubjectLine", "thisisacamelcasesubjectline", "ThisIsACamelCaseSubjectLine"},
		{"umlauts are folded", "ÜBERRASCHUNG für Größe 42", "überraschung für größe #", "ÜBERRASCHUNG für Größe 42"},
		{"a word that touches an umlaut is no token", "Überx7k2m9qz", "überx#k#m#qz", "Überx7k2m9qz"},
		{"Chinese with a number is no token", "您的订单1234已发货", "您的订单#已发货", "您的订单1234已发货"},

		{"encoded word, B", "=?UTF-8?B?R3LDvMOfZSA0Mg==?=", "grüße #", "Grüße 42"},
		{"encoded word, Q, folded", "=?utf-8?q?Gr=C3=BC=C3=9Fe_?=\r\n =?utf-8?q?aus_K=C3=B6ln?=", "grüße aus köln", "Grüße aus Köln"},
		{"encoded word in text", "Hi =?iso-8859-1?Q?J=FCrgen?= there", "hi jürgen there", "Hi Jürgen there"},
		{"ISO-8859-15", "=?ISO-8859-15?Q?100_=A4?=", "# €", "100 €"},
		{"windows-1252", "=?windows-1252?Q?=80_=93hi=94?=", "€ “hi”", "€ “hi”"},
		{"unknown charset stays as written", "=?x-klingon?Q?nuqneH?= ok", "?x-klingon?q?nuqneh?= ok", "=?x-klingon?Q?nuqneH?= ok"},
		{"broken base64 stays as written", "=?utf-8?B?!!!?= ok", "?utf-#?b?!!!?= ok", "=?utf-8?B?!!!?= ok"},
		{"encoded word that never ends", "=?utf-8?q?abc", "?utf-#?q?abc", "=?utf-8?q?abc"},
		{"an encoded newline is a blank", "=?UTF-8?Q?a=0Aaction=3Ddiscard?=", "a action=discard", "a action=discard"},
		{"an encoded word within an encoded word stays", "=?utf-8?q?=3D=3Fus-ascii=3Fq=3Fx=3F=3D?=", "?us-ascii?q?x?=", "=?us-ascii?q?x?="},
		{"bytes that are no UTF-8 are read as windows-1252", "Gr\xfc\xdfe", "grüße", "Grüße"},
		{"Exim's own syntax is text", "${run{/bin/id}} }$\"\\", "${run{/bin/id}} }$\"\\", "${run{/bin/id}} }$\"\\"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			key, exact := FoldSubject(tt.raw)
			if key != tt.key || exact != tt.exact {
				t.Errorf("FoldSubject(%q) = %q, %q; want %q, %q", tt.raw, key, exact, tt.key, tt.exact)
			}
			checkFolded(t, tt.raw)
		})
	}
}

func TestSubjectsThatDifferInNumbersMatch(t *testing.T) {
	for _, tt := range []struct{ a, b string }{
		{"Invoice 8841", "invoice  9120"},
		{"Your code: K7QX92MZ", "Your code: 8FH2PQ1L"},
		{"Statement 1,200.50", "Statement 7"},
		{"=?utf-8?q?Invoice_8841?=", "Invoice 1"},
		{"Job 0f14d0ab-9605-4a62-a9e4-5ed26688389b", "Job 7c9e6679-7425-40de-944b-e07fc1f90ae7"},
		{"token dGhpcyBpcyBhIHRlc3QgMTIz", "token c29tZSBvdGhlciB0ZXh0IDc3Nw"},
	} {
		a, _ := FoldSubject(tt.a)
		b, _ := FoldSubject(tt.b)
		if a != b {
			t.Errorf("FoldSubject(%q) = %q and FoldSubject(%q) = %q; want the same key", tt.a, a, tt.b, b)
		}
	}
	a, _ := FoldSubject("Invoice 8841")
	b, _ := FoldSubject("Reminder 8841")
	if a == b {
		t.Errorf("an invoice and a reminder have the same key %q", a)
	}
}

func TestFoldSubjectIsBounded(t *testing.T) {
	for name, raw := range map[string]string{
		"64 KiB of one word":              strings.Repeat("a", 64<<10),
		"64 KiB of joined letters":        strings.Repeat("a-", 32<<10),
		"64 KiB of four-byte characters":  strings.Repeat("😀", 16<<10),
		"64 KiB that is no UTF-8":         strings.Repeat("\xf0\x9f", 32<<10),
		"64 KiB of openings":              strings.Repeat("=?", 32<<10),
		"64 KiB of unended encoded words": strings.Repeat("=?utf-8?q?", 6554),
		"a cut in the middle of a rune":   strings.Repeat("a", maxSubjectRaw-1) + "ü",
	} {
		t.Run(name, func(t *testing.T) { checkFolded(t, raw) })
	}
}

func checkFolded(t *testing.T, raw string) {
	t.Helper()
	key, exact := FoldSubject(raw)
	if key == "" || len(key) > maxSubjectKey || len(exact) > maxSubjectExact {
		t.Errorf("FoldSubject(%.200q): key of %d bytes, exact of %d bytes; want 1..%d, 0..%d", raw, len(key), len(exact), maxSubjectKey, maxSubjectExact)
	}
	for _, s := range []string{key, exact} {
		if !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) || strings.TrimSpace(s) != s {
			t.Errorf("FoldSubject(%.200q) gave %q; want valid UTF-8, no control characters, no blanks around it", raw, s)
		}
	}
	if again, _ := FoldSubject(key); again != key {
		t.Errorf("FoldSubject(%.200q) = %q, but folding that gives %q", raw, key, again)
	}
}

func FuzzFoldSubject(f *testing.F) {
	for _, s := range []string{
		"", " Invoice 8841\n", "=?UTF-8?B?R3LDvMOfZSA0Mg==?=", "=?utf-8?q?=3D=3Fus-ascii=3Fq=3Fx=3F=3D?=", "İstanbul 12", "a==?=?",
		"=?windows-1252?Q?=81=80?=", "Job 550e8400-e29b-41d4-a716-446655440000", "\xff\xfe=?x?y?z?=", "ǅ 𝐀𝟗 １２", "x QWxhZGRpbjpvcGVuIHNlc2FtZQ== y",
	} {
		f.Add(s)
	}
	f.Fuzz(checkFolded)
}

func BenchmarkFoldSubject(b *testing.B) {
	for _, bb := range []struct{ name, raw string }{
		{"ascii", " Your invoice 8841 from Shop Example is ready\n"},
		{"tokens", " Job 550e8400-e29b-41d4-a716-446655440000 finished at 10:22\n"},
		{"encoded", " =?UTF-8?Q?Gr=C3=BC=C3=9Fe_aus_K=C3=B6ln?=\n"},
		{"hostile", strings.Repeat("a-", 32<<10)},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				FoldSubject(bb.raw)
			}
		})
	}
}
