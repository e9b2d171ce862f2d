package panel

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"osm/policy"
)

func TestParseDomains(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		want     map[string]string
		line     int // of the first mistake, 0 = none
	}{
		{"with and without a space", "a.example: a\nb.example:b\n", map[string]string{"a.example": "a", "b.example": "b"}, 0},
		{"capitals and a final dot", "A.Example.: a\n", map[string]string{"a.example": "a"}, 0},
		{"the wild card at the end", "a.example: a\n*: nobody\n", map[string]string{"a.example": "a"}, 0},
		{"the first of two counts", "a.example: a\na.example: b\n", map[string]string{"a.example": "a"}, 0},
		{"line ends of DOS", "a.example: a\r\n", map[string]string{"a.example": "a"}, 0},
		{"comments and empty lines", "# x\n\n  \na.example: a\n", map[string]string{"a.example": "a"}, 0},
		{"good lines behind a bad one", "a.example\nb.example: b\n", map[string]string{"b.example": "b"}, 1},
		{"no user", "a.example:\n", map[string]string{}, 1},
		{"no domain", ": a\n", map[string]string{}, 1},
		{"an address", "x@a.example: a\n", map[string]string{}, 1},
		{"a name of ours", "a.example: (unknown)\n", map[string]string{}, 1},
		{"bytes that are no text", "\xff\xfe: a\n", map[string]string{}, 1},
		{"a zero byte", "a.example: a\x00b\n", map[string]string{}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseDomains([]byte(tt.in))
			var wrong *LineError
			line := 0
			if errors.As(err, &wrong) {
				line = wrong.Line
			}
			if !maps.Equal(got, tt.want) || line != tt.line {
				t.Errorf("parseDomains(%q): got %v, %v; want %v, mistake in line %d", tt.in, got, err, tt.want, tt.line)
			}
		})
	}
}

func TestParsePasswd(t *testing.T) {
	good := "root:x:0:0:root:/root:/bin/sh\n+@nis::::::\nshop:x:1001:1001:,,,:/home//shop/:/bin/sh\nhomeless:x:1002:1002::relative:/bin/sh\n"
	users, err := parsePasswd([]byte(good))
	want := []user{{"root", 0, "/root"}, {"shop", 1001, "/home/shop"}, {"homeless", 1002, ""}}
	if err != nil || !slices.Equal(users, want) {
		t.Errorf("got %v, %v; want %v", users, err, want)
	}
	for _, bad := range []string{"shop:x:1001", "shop:x:-1:1::/h:/s", "shop:x:99999999999:1::/h:/s", ":x:5:5::/h:/s", "a b:x:5:5::/h:/s"} {
		if users, err := parsePasswd([]byte(bad + "\n")); err == nil || len(users) > 0 {
			t.Errorf("parsePasswd(%q): got %v, %v", bad, users, err)
		}
	}
}

func TestParseRecent(t *testing.T) {
	for _, tt := range []struct {
		name, in, ip, entry string
		ok                  bool
	}{
		{"an address alone", "192.0.2.1", "192.0.2.1", "", true},
		{"with an entry", "192.0.2.1: a@b.example|b.example", "192.0.2.1", "a@b.example|b.example", true},
		{"with an equals sign", "192.0.2.1=a@b.example|b.example", "192.0.2.1", "a@b.example|b.example", true},
		{"IPv6 alone", "2001:db8::1", "2001:db8::1", "", true},
		{"IPv6 with an entry", "2001:db8::1: a|b", "2001:db8::1", "a|b", true},
		{"an IPv4 address in IPv6", "::ffff:192.0.2.1", "192.0.2.1", "", true},
		{"an entry with control bytes", "192.0.2.1: a\x1b|b", "192.0.2.1", "", true},
		{"a cut address", "192.0.2", "192.0.2.1", "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseRecent([]byte(tt.in + "\n"))
			entry, found := got[netip.MustParseAddr(tt.ip)]
			if found != tt.ok || entry != tt.entry || (err == nil) != tt.ok {
				t.Errorf("parseRecent(%q): got %v, %v; want %q", tt.in, got, err, tt.entry)
			}
		})
	}
}

func TestScanStopsAtTheLineLimit(t *testing.T) {
	n := 0
	err := scan([]byte(strings.Repeat("x\n", maxLines+5)), func(string) error { n++; return nil })
	if err == nil || n != maxLines {
		t.Errorf("got %d lines, %v; want %d and an error", n, err, maxLines)
	}
}

func TestParseSubUIDs(t *testing.T) {
	got, err := parseSubUIDs([]byte("# made by useradd\nshop:100000:65536\n1002:165536:65536\nshop:300000:1\n"))
	want := []policy.SubUIDs{{User: "shop", First: 100000, Count: 65536}, {User: "1002", First: 165536, Count: 65536}, {User: "shop", First: 300000, Count: 1}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
	for _, bad := range []string{"shop:100000", "shop:-1:5", "shop:1:4294967296", ":1:2", "shop:1:2:3", "shop:0x10:2"} {
		if got, err := parseSubUIDs([]byte(bad + "\nnews:5:6\n")); err == nil || len(got) != 1 {
			t.Errorf("parseSubUIDs(%q) = %v, %v; want the other line, and an error", bad, got, err)
		}
	}
}

func FuzzParseDomains(f *testing.F) {
	f.Add([]byte("a.example: a\n*: nobody\n"))
	f.Add([]byte("A.: b"))
	f.Add([]byte("..: b\na..: b\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, _ := parseDomains(b)
		var text strings.Builder
		for domain, user := range got {
			if !validDomain(domain) || !validName(user) || domain != strings.ToLower(domain) {
				t.Errorf("got %q: %q", domain, user)
			}
			fmt.Fprintf(&text, "%s: %s\n", domain, user)
		}
		again, err := parseDomains([]byte(text.String()))
		if err != nil || !maps.Equal(got, again) {
			t.Errorf("written and read again: got %v, %v; want %v", again, err, got)
		}
	})
}

func FuzzParseUsers(f *testing.F) {
	f.Add([]byte("shop: root\nnews: Gold Plan\n"))
	f.Add([]byte("shop: owner@shop.example\nnews: a@b, c@d\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		owners, _ := parseOwners(b)
		for user, owner := range owners {
			if !validName(user) || !validName(owner) {
				t.Errorf("got %q: %q", user, owner)
			}
		}
		contacts, _ := parseContacts(b)
		for user, contact := range contacts {
			if !validName(user) || !policy.ValidContact(contact) {
				t.Errorf("got %q: %q", user, contact)
			}
		}
		plans, _ := parsePlans(b)
		for user, plan := range plans {
			if !validName(user) || plan == "" || len(plan) > maxPlan || !printable(plan, true) {
				t.Errorf("got %q: %q", user, plan)
			}
		}
	})
}

func FuzzParsePasswd(f *testing.F) {
	f.Add([]byte(passwdText))
	f.Add([]byte("+::::::\n-a\n"))
	f.Add([]byte("shop:100000:65536\n1002:1:4294967295\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		users, _ := parsePasswd(b)
		if len(users) > strings.Count(string(b), "\n")+1 {
			t.Errorf("%d users from %q", len(users), b)
		}
		for _, u := range users {
			if !validName(u.name) || u.home != "" && u.home[0] != '/' {
				t.Errorf("got %+v", u)
			}
		}
		ranges, _ := parseSubUIDs(b)
		for _, r := range ranges {
			if !validName(r.User) {
				t.Errorf("got %+v", r)
			}
		}
	})
}

func FuzzParseAddresses(f *testing.F) {
	f.Add([]byte("192.0.2.1: a|b\n2001:db8::1\n"))
	f.Add([]byte("198.51.100.0/24\nfe80::1%eth0\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		recent, _ := parseRecent(b)
		for ip, entry := range recent {
			if !ip.IsValid() || ip.Is4In6() || ip.Zone() != "" || len(entry) > maxEntry || !printable(entry, true) {
				t.Errorf("got %v: %q", ip, entry)
			}
		}
		networks, _ := parseRelay(b)
		for _, n := range networks {
			if !n.IsValid() || n != n.Masked() {
				t.Errorf("got %v", n)
			}
		}
	})
}
