package policy

import (
	"strings"
	"testing"
)

func TestSoleRecipientDomain(t *testing.T) {
	tests := []struct {
		name, list string
		count      int
		cut        bool
		want       string // "" = no
	}{
		{"one recipient", "a@shop.example", 1, false, "shop.example"},
		{"several of one domain", "a@shop.example, b@shop.example", 2, false, "shop.example"},
		{"capitals make no difference", "a@Shop.Example, b@shop.example", 2, false, "shop.example"},
		{"two domains", "a@shop.example, b@other.example", 2, false, ""},
		{"a subdomain is another domain", "a@shop.example, b@x.shop.example", 2, false, ""},
		{"a list that was cut", "a@shop.example", 1, true, ""},
		{"fewer than Exim counted", "a@shop.example", 2, false, ""},
		{"more than Exim counted", "a@shop.example, b@shop.example", 1, false, ""},
		{"a quoted local part", `"x, y"@shop.example`, 1, false, ""},
		{"a quoted local part made to look like two", `"x@shop.example, y"@shop.example`, 2, false, ""},
		{"an escaped at", `a\@b@shop.example`, 1, false, ""},
		{"two ats", "a@b@shop.example", 1, false, ""},
		{"percent routing", "a%evil.example@shop.example", 1, false, ""},
		{"bang routing", "evil.example!a@shop.example", 1, false, ""},
		{"a source route", "@a.example:b@shop.example", 1, false, ""},
		{"an address literal", "a@[192.0.2.1]", 1, false, ""},
		{"no local part", "@shop.example", 1, false, ""},
		{"no domain", "postmaster", 1, false, ""},
		{"a final dot", "a@shop.example.", 1, false, ""},
		{"no blank after the comma", "a@shop.example,b@shop.example", 2, false, ""},
		{"an empty entry", "a@shop.example, ", 2, false, ""},
		{"not ASCII", "ä@shop.example", 1, false, ""},
		{"nothing", "", 0, false, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := soleRecipientDomain(&Submission{RecipientList: tt.list, Recipients: tt.count, RecipientsCut: tt.cut})
			if got != tt.want || ok != (tt.want != "") {
				t.Errorf("domain of %q = %q, %v; want %q", tt.list, got, ok, tt.want)
			}
		})
	}
}

func FuzzSoleRecipientDomain(f *testing.F) {
	f.Add("a@shop.example, b@shop.example", 2)
	f.Add(`"a, b"@x.example`, 1)
	f.Add("a@x, b@y", 2)
	f.Fuzz(func(t *testing.T, list string, n int) {
		d, ok := soleRecipientDomain(&Submission{RecipientList: list, Recipients: n})
		if !ok {
			return
		}
		if !plainDomain(d) || d != strings.ToLower(d) {
			t.Fatalf("domain %q of %q", d, list)
		}
		parts := strings.Split(list, ", ")
		if len(parts) != n || strings.ContainsAny(list, "\"\\()<>[]:;%!\r\n\x00") {
			t.Fatalf("%q with %d recipients was believed", list, n)
		}
		for _, p := range parts {
			if _, got, _ := strings.Cut(p, "@"); !strings.EqualFold(got, d) {
				t.Fatalf("%q of %q is not in %q", p, list, d)
			}
		}
	})
}
