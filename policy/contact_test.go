package policy

import (
	"net/mail"
	"strings"
	"testing"
)

func TestValidContact(t *testing.T) {
	label := strings.Repeat("a", 63)
	for _, tt := range []struct {
		name, in string
		want     bool
	}{
		{"an address", "owner@shop.example", true},
		{"capitals, dots and a tag", "Anna.Owner+mail@Shop.Example", true},
		{"every letter of an atom", "!#$%&'*+-/=?^_`{|}~@shop.example", true},
		{"a domain of one label", "shop@localhost", true},
		{"254 bytes", strings.Repeat("a", 64) + "@" + label + "." + label + "." + label[:61], true},
		{"255 bytes", strings.Repeat("a", 64) + "@" + label + "." + label + "." + label[:62], false},
		{"a local part of 65 bytes", strings.Repeat("a", 65) + "@shop.example", false},
		{"a label of 64 bytes", "owner@" + label + "a.example", false},
		{"nothing", "", false},
		{"no domain", "root", false},
		{"an empty domain", "owner@", false},
		{"an empty local part", "@shop.example", false},
		{"two of them", "a@shop.example,b@shop.example", false},
		{"an at sign too many", "a@b@shop.example", false},
		{"a name before it", "Owner <owner@shop.example>", false},
		{"a quoted local part", `"owner"@shop.example`, false},
		{"an address in brackets", "owner@[192.0.2.1]", false},
		{"a final dot", "owner@shop.example.", false},
		{"two dots", "own..er@shop.example", false},
		{"a dot in front", ".owner@shop.example", false},
		{"a label that ends with a dash", "owner@shop-.example", false},
		{"an underscore in the domain", "owner@my_shop.example", false},
		{"an option", "-oQ/tmp@shop.example", false},
		{"a second header", "owner@shop.example\r\nBcc: all@news.example", false},
		{"a space", "own er@shop.example", false},
		{"letters beyond ASCII", "öwner@shop.example", false},
		{"a byte that is no text", "own\xffer@shop.example", false},
		{"a rune whose last byte is a letter", "owne\u0172@shop.example", false},
		{"cPanel's word for none", "*unknown*", false},
	} {
		if got := ValidContact(tt.in); got != tt.want {
			t.Errorf("%s: ValidContact(%q) = %v, want %v", tt.name, tt.in, got, tt.want)
		}
	}
}

// What is accepted is the same single address to whoever parses it as a header's value.
func FuzzValidContact(f *testing.F) {
	f.Add("owner@shop.example")
	f.Add("a@b,c@d")
	f.Add("\"a\"@[::1]")
	f.Fuzz(func(t *testing.T, s string) {
		if !ValidContact(s) {
			return
		}
		if a, err := mail.ParseAddress(s); err != nil || a.Address != s || a.Name != "" || len(s) > maxContact {
			t.Errorf("ValidContact(%q), and as a header: %v, %v", s, a, err)
		}
	})
}
