package policy

import (
	"net/netip"
	"testing"
	"time"
)

// testMap is a host with some accounts, a reseller's among them, and Debian's users.
func testMap() *AccountMap {
	return NewAccountMap(AccountMapInput{
		Accounts: []Account{
			{Name: "root", UID: 0, Home: "/root"},
			{Name: "toor", UID: 0},
			{Name: "daemon", UID: 1, Home: "/usr/sbin", System: true},
			{Name: "www-data", UID: 33, Home: "/var/www", System: true},
			{Name: "nobody", UID: 65534, Home: "/nonexistent", System: true},
			{Name: "Debian-exim", UID: 102, Home: "/var/spool/exim4"},
			{Name: "mysql", UID: 110, Home: "/home/mysql", System: true},
			{Name: "shop", UID: 1001, Home: "/home/shop", Reseller: "anna", Package: "gold", MainDomain: "shop.example"},
			{Name: "news", UID: 1002, Home: "/home2/news/", Package: "news", MainDomain: "news.example"},
			{Name: "sub", UID: 1003, Home: "/home/shop/clients/sub"},
			{Name: "shop-ftp", UID: 1001, Home: "/home/shop"},
			{Name: "one", UID: 1004, Home: "/srv/both"},
			{Name: "two", UID: 1005, Home: "/srv/both"},
			{Name: "rootdir", UID: 1006, Home: "/"},
			{Name: "nohome", UID: 1007},
			{Name: "(unknown)", UID: 1008, Home: "/home/unknown"},
			{Name: "", UID: 1009},
			{Name: "shop", UID: 1010, Home: "/home/shop-again"},
		},
		SubUIDs: []SubUIDs{{"shop", 100_000, 65_536}},
		Domains: map[string]string{
			"shop.example": "shop", "WWW.Shop.Example.": "shop", "news.example": "news", "*": "nobody", "lost.example": "nobody",
			"gone.example": "deleted", "db.example": "mysql", "": "shop",
		},
		SharedUsers: []string{"www-data", "nobody", "apache", "root", "(x)"},
		RecentAuth: map[netip.Addr]string{
			netip.MustParseAddr("203.0.113.5"):        "info@shop.example|shop.example",
			netip.MustParseAddr("::ffff:203.0.113.6"): "",
		},
		AlwaysRelay: []netip.Prefix{
			netip.MustParsePrefix("198.51.100.77/24"), netip.MustParsePrefix("::ffff:192.0.2.0/120"), netip.MustParsePrefix("2001:db8::/32"), {},
		},
		EximUID: 102, Panel: "passwd", LoadedAt: time.Unix(1700000000, 0),
	})
}

func TestAccountMapLookups(t *testing.T) {
	m := testMap()
	lookup := func(f func(string) (Account, bool), s string) string {
		a, ok := f(s)
		switch {
		case !ok:
			return "-"
		case a.System:
			return a.Name + " (system)"
		}
		return a.Name
	}
	uid := func(uid uint32) string {
		return lookup(func(string) (Account, bool) { return m.ByUID(uid) }, "")
	}
	for _, tt := range []struct{ name, got, want string }{
		{"an account by name", lookup(m.ByName, "shop"), "shop"},
		{"names are case-sensitive", lookup(m.ByName, "Shop"), "-"},
		{"a name that looks like ours is no account", lookup(m.ByName, "(unknown)"), "-"},
		{"the empty name is no account", lookup(m.ByName, ""), "-"},
		{"root is a system user whatever the loader says", lookup(m.ByName, "root"), "root (system)"},
		{"Exim's user is a system user whatever the loader says", lookup(m.ByName, "Debian-exim"), "Debian-exim (system)"},
		{"an account by uid", uid(1002), "news"},
		{"of two names with one uid the first", uid(1001), "shop"},
		{"a system user by uid", uid(110), "mysql (system)"},
		{"the uid of a name that was given twice", uid(1010), "-"},
		{"an unknown uid", uid(4711), "-"},
		{"a domain", lookup(m.ByDomain, "shop.example"), "shop"},
		{"a domain that was written with capitals and a dot", lookup(m.ByDomain, "www.shop.example"), "shop"},
		{"a subdomain without an entry", lookup(m.ByDomain, "mail.shop.example"), "-"},
		{"the panel's catch-all is no domain", lookup(m.ByDomain, "*"), "-"},
		{"the empty domain", lookup(m.ByDomain, ""), "-"},
		{"a domain of the shared web user is nobody's", lookup(m.ByDomain, "lost.example"), "-"},
		{"a domain of a deleted account", lookup(m.ByDomain, "gone.example"), "-"},
		{"a domain of a system user", lookup(m.ByDomain, "db.example"), "-"},
		{"a home itself", lookup(m.ByPath, "/home/shop"), "shop"},
		{"a directory in a home", lookup(m.ByPath, "/home/shop/public_html/a b"), "shop"},
		{"the longest home wins", lookup(m.ByPath, "/home/shop/clients/sub/www"), "sub"},
		{"beside the longest home", lookup(m.ByPath, "/home/shop/clients/other"), "shop"},
		{"a home that was written with a slash behind it", lookup(m.ByPath, "/home2/news/x"), "news"},
		{"a neighbour with the same beginning", lookup(m.ByPath, "/home/shop2"), "-"},
		{"the folder of the homes", lookup(m.ByPath, "/home"), "-"},
		{"the root directory is nobody's", lookup(m.ByPath, "/"), "-"},
		{"a system user's home is nobody's", lookup(m.ByPath, "/home/mysql/x"), "-"},
		{"the shared web user's home is nobody's", lookup(m.ByPath, "/var/www/html"), "-"},
		{"a home of two accounts is neither's", lookup(m.ByPath, "/srv/both/x"), "-"},
		{"a relative path", lookup(m.ByPath, "home/shop"), "-"},
		{"no path", lookup(m.ByPath, ""), "-"},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, tt.got, tt.want)
		}
	}
}

func TestAccountMapSharedUsers(t *testing.T) {
	m := testMap()
	if name, ok := m.SharedUID(33); name != "www-data" || !ok {
		t.Errorf("SharedUID(33) = %q, %v; want www-data", name, ok)
	}
	for _, uid := range []uint32{0, 1001, 4711} {
		if name, ok := m.SharedUID(uid); ok {
			t.Errorf("SharedUID(%d) = %q, want none", uid, name)
		}
	}
	for name, want := range map[string]bool{"nobody": true, "apache": true, "root": false, "shop": false, "(x)": false} {
		if got := m.SharedUser(name); got != want {
			t.Errorf("SharedUser(%q) = %v, want %v", name, got, want)
		}
	}
	for _, a := range m.Accounts() {
		if a.System || m.SharedUser(a.Name) {
			t.Errorf("Accounts lists %q, who has no hosting account", a.Name)
		}
	}
	if n := len(m.Accounts()); n != 8 {
		t.Errorf("Accounts lists %d accounts, want 8", n)
	}
}

func TestAccountMapRelays(t *testing.T) {
	m := testMap()
	for ip, want := range map[string]bool{
		"198.51.100.1": true, "::ffff:198.51.100.1": true, "198.51.101.1": false, "192.0.2.255": true, "2001:db8:1::1": true, "2001:db9::1": false,
	} {
		if got := m.AlwaysRelay(netip.MustParseAddr(ip)); got != want {
			t.Errorf("AlwaysRelay(%s) = %v, want %v", ip, got, want)
		}
	}
	if entry, ok := m.RecentAuth(netip.MustParseAddr("::ffff:203.0.113.5")); entry != "info@shop.example|shop.example" || !ok {
		t.Errorf("RecentAuth of an IPv4 address in IPv6 form = %q, %v", entry, ok)
	}
	if entry, ok := m.RecentAuth(netip.MustParseAddr("203.0.113.6")); entry != "" || !ok {
		t.Errorf("RecentAuth of an address without an entry = %q, %v; want \"\", true", entry, ok)
	}
	if _, ok := m.RecentAuth(netip.Addr{}); ok || m.AlwaysRelay(netip.Addr{}) {
		t.Error("the invalid address may relay")
	}
}

func TestWhoseASubordinateUIDIs(t *testing.T) {
	m := NewAccountMap(AccountMapInput{
		Accounts: []Account{{Name: "root", System: true}, {Name: "web", UID: 33}, {Name: "shop", UID: 1001}, {Name: "news", UID: 1002},
			{Name: "late", UID: 100_005}, {Name: "wide", UID: 1003}},
		SharedUsers: []string{"web"},
		SubUIDs: []SubUIDs{
			{"news", 300_000, 10}, {"shop", 100_000, 65_536}, {"shop", 100_100, 5}, {"nobody-here", 400_000, 10}, {"root", 500_000, 10}, {"news", 500_008, 4},
			{"web", 600_000, 10}, {"news", 700_000, 0}, {"news", 300_008, 10}, {"shop", 300_015, 10}, {"wide", 4_294_967_290, 100}, {"wide", 0, 50},
		},
	})
	for _, tt := range []struct {
		name string
		uid  uint32
		want string
	}{
		{"the first", 100_000, "shop"}, {"the last", 165_535, "shop"}, {"behind the last", 165_536, ""}, {"before the first", 99_999, ""},
		{"of a range within another of the same user", 100_103, "shop"}, {"behind the inner range", 100_200, "shop"},
		{"a user's own in somebody's range", 100_005, ""},
		{"of an overlap of the same user", 300_009, "news"}, {"of an overlap of two", 300_016, ""}, {"behind the overlap", 300_020, "shop"},
		{"of a user that is not there", 400_001, ""}, {"of root's containers", 500_001, ""}, {"of root's and a user's", 500_009, ""}, {"behind root's", 500_010, "news"}, {"of the web server", 600_001, ""},
		{"of an empty range", 700_000, ""}, {"of a range beyond the last uid", 4_294_967_295, "wide"}, {"of a range that holds root", 40, ""},
	} {
		a, found := m.BySubUID(tt.uid)
		if a.Name != tt.want || found != (tt.want != "") {
			t.Errorf("%s: BySubUID(%d) = %q, %v; want %q", tt.name, tt.uid, a.Name, found, tt.want)
		}
	}
}

func TestAnEmptyAccountMapKnowsNobody(t *testing.T) {
	m := NewAccountMap(AccountMapInput{})
	if _, ok := m.ByUID(0); ok || m.Domains() != 0 || len(m.Accounts()) != 0 {
		t.Error("an empty map knows somebody")
	}
	if _, known := m.EximUID(); known {
		t.Error("an empty map knows Exim's uid")
	}
}

func TestAccountMapLookupsDoNotAllocate(t *testing.T) {
	m := testMap()
	ip4, ip6 := netip.MustParseAddr("::ffff:198.51.100.1"), netip.MustParseAddr("2001:db8::1")
	n := testing.AllocsPerRun(100, func() {
		m.ByName("shop")
		m.ByUID(1001)
		m.BySubUID(100_001)
		m.ByDomain("shop.example")
		m.ByPath("/home/shop/public_html/wp-content/uploads")
		m.SharedUID(33)
		m.RecentAuth(ip4)
		m.AlwaysRelay(ip4)
		m.AlwaysRelay(ip6)
	})
	if n != 0 {
		t.Errorf("the lookups allocate %v times, want never", n)
	}
}
