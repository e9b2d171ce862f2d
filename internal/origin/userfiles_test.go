package origin

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"osm/policy"
)

func TestExportCollectsThePackages(t *testing.T) {
	dir := t.TempDir()
	users, maps := filepath.Join(dir, "users"), filepath.Join(dir, "maps")
	if err := os.Mkdir(users, 0o711); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(users, "shop"), "DNS=shop.example\nPLAN=Gold Plan\nOWNER=root\n")
	write(t, filepath.Join(users, "news"), "DNS=news.example\n")
	write(t, filepath.Join(users, "evil"), "PLAN=a\x1bb\n")
	if err := os.Symlink("/etc/passwd", filepath.Join(users, "link")); err != nil {
		t.Fatal(err)
	}
	e := export(t, ExportOptions{Users: users, Dir: maps})
	if got, want := content(t, filepath.Join(maps, plansName)), "shop: Gold Plan\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	write(t, filepath.Join(users, "news"), "PLAN=small\n")
	temp := filepath.Join(users, "blog.tmp")
	write(t, temp, "PLAN=big\n")
	if err := os.Rename(temp, filepath.Join(users, "blog")); err != nil {
		t.Fatal(err)
	}
	e.look()
	if got, want := content(t, filepath.Join(maps, plansName)), "blog: big\nnews: small\nshop: Gold Plan\n"; got != want {
		t.Errorf("after a change: got %q, want %q", got, want)
	}
}

// users is a folder of account files, of which each is replaced as a whole, as the panel
// does it.
type users struct {
	t   *testing.T
	dir string
}

func newUsers(t *testing.T) users {
	t.Helper()
	u := users{t: t, dir: filepath.Join(t.TempDir(), "users")}
	if err := os.Mkdir(u.dir, 0o711); err != nil {
		t.Fatal(err)
	}
	return u
}

func (u users) put(name, text string) {
	u.t.Helper()
	temp := filepath.Join(u.t.TempDir(), name)
	write(u.t, temp, text)
	if err := os.Rename(temp, filepath.Join(u.dir, name)); err != nil {
		u.t.Fatal(err)
	}
}

func TestExportCollectsTheContacts(t *testing.T) {
	u, maps := newUsers(t), filepath.Join(t.TempDir(), "maps")
	u.put("shop", "CONTACTEMAIL=owner@shop.example\nCONTACTEMAIL2=other@shop.example\nPLAN=Gold\n")
	u.put("news", "CONTACTEMAIL=\nDNS=news.example\n")
	u.put("evil", "CONTACTEMAIL=a@evil.example>\n")
	for _, name := range []string{"a:b", "shop (old)", "#shop#", "(unknown)", "sh\u00f6p", "shop\nnews", strings.Repeat("a", 65)} {
		u.put(name, "CONTACTEMAIL=owner@other.example\n")
	}
	secret := filepath.Join(t.TempDir(), "secret")
	write(t, secret, "CONTACTEMAIL=secret@host.example\n")
	if err := os.Symlink(secret, filepath.Join(u.dir, "link")); err != nil {
		t.Fatal(err)
	}
	e := export(t, ExportOptions{Users: u.dir, Dir: maps})
	copied := filepath.Join(maps, contactsName)
	if got, want := content(t, copied), "shop: owner@shop.example\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if fi, err := os.Stat(copied); err != nil || fi.Mode() != 0o640 {
		t.Errorf("the copy: %v, %v; want mode 0640, as addresses are nobody else's", fi.Mode(), err)
	}
	u.put("news", "CONTACTEMAIL=desk@news.example\n")
	u.put("shop", "CONTACTEMAIL=\n")
	e.look()
	if got, want := content(t, copied), "news: desk@news.example\n"; got != want {
		t.Errorf("after a change: got %q, want %q", got, want)
	}
	if e.log.Len() > 0 {
		t.Errorf("log: %s", e.log)
	}
}

// The panel's own list of packages takes the place of what the accounts' files say of
// them, and of nothing else.
func TestExportCollectsTheContactsBesideAListOfPackages(t *testing.T) {
	u, maps := newUsers(t), filepath.Join(t.TempDir(), "maps")
	list := filepath.Join(t.TempDir(), plansName)
	write(t, list, "shop: Listed\n")
	e := export(t, ExportOptions{Sources: []string{list}, Users: u.dir, Dir: maps})
	want := func(when, plans, contacts string) {
		t.Helper()
		if got := content(t, filepath.Join(maps, plansName)); got != plans {
			t.Errorf("%s: packages %q, want %q", when, got, plans)
		}
		if got := content(t, filepath.Join(maps, contactsName)); got != contacts {
			t.Errorf("%s: contacts %q, want %q", when, got, contacts)
		}
	}
	want("without accounts", "shop: Listed\n", "")
	u.put("shop", "CONTACTEMAIL=owner@shop.example\nPLAN=Gold\n")
	e.look()
	want("with one account", "shop: Listed\n", "shop: owner@shop.example\n")
	u.put("news", "CONTACTEMAIL=desk@news.example\nPLAN=Silver\n")
	e.look()
	want("with a new account", "shop: Listed\n", "news: desk@news.example\nshop: owner@shop.example\n")
	if err := os.Remove(list); err != nil {
		t.Fatal(err)
	}
	e.look() // the folder is as it was
	want("without the list", "news: Silver\nshop: Gold\n", "news: desk@news.example\nshop: owner@shop.example\n")
	write(t, list, "shop: Listed again\n")
	e.look()
	want("with the list again", "shop: Listed again\n", "news: desk@news.example\nshop: owner@shop.example\n")
	if e.log.Len() > 0 {
		t.Errorf("log: %s", e.log)
	}
}

func TestParseContact(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"the first of the two keys", "CONTACTEMAIL=a@shop.example\nCONTACTEMAIL2=b@shop.example\n", "a@shop.example"},
		{"whatever their order", "CONTACTEMAIL2=b@shop.example\nCONTACTEMAIL=a@shop.example\n", "a@shop.example"},
		{"the second where the first is empty", "CONTACTEMAIL=\nCONTACTEMAIL2=b@shop.example\n", "b@shop.example"},
		{"the second where the first is wrong", "CONTACTEMAIL=*unknown*\nCONTACTEMAIL2=b@shop.example\n", "b@shop.example"},
		{"the first of several", "CONTACTEMAIL=a@shop.example,b@shop.example\n", "a@shop.example"},
		{"the first good one of several", "CONTACTEMAIL=root, \"x\"@shop.example; b@shop.example\n", "b@shop.example"},
		{"line ends of DOS", "CONTACTEMAIL=a@shop.example\r\n", "a@shop.example"},
		{"another key that ends so", "XCONTACTEMAIL=a@shop.example\n# CONTACTEMAIL=b@shop.example\n", ""},
		{"a line that was cut", "PLAN=Gold\nCONTACTEMAIL=owner@shop.exam", ""},
		{"too long", "CONTACTEMAIL=" + strings.Repeat("a.", 120) + "a@shop.example\n", ""},
		{"control bytes", "CONTACTEMAIL=own\x1ber@shop.example\n", ""},
		{"none", "PLAN=Gold\n", ""},
	} {
		if got := parseContact([]byte(tt.in)); got != tt.want {
			t.Errorf("%s: parseContact(%q) = %q, want %q", tt.name, tt.in, got, tt.want)
		}
	}
}

func FuzzParsePlan(f *testing.F) {
	f.Add([]byte("DNS=a\nPLAN=Gold Plan\n"))
	f.Add([]byte("PLAN="))
	f.Fuzz(func(t *testing.T, b []byte) {
		plan := parsePlan(b)
		if len(plan) > 128 || strings.ContainsAny(plan, "\n\r\x00") || !bytes.Contains(b, []byte(plan)) {
			t.Errorf("parsePlan(%q): got %q", b, plan)
		}
	})
}

func FuzzParseContact(f *testing.F) {
	f.Add([]byte("CONTACTEMAIL=a@shop.example,b@shop.example\nCONTACTEMAIL2=\n"))
	f.Add([]byte("CONTACTEMAIL2=a@shop.example"))
	f.Fuzz(func(t *testing.T, b []byte) {
		contact := parseContact(b)
		if contact != "" && (!policy.ValidContact(contact) || !bytes.Contains(b, []byte(contact))) {
			t.Errorf("parseContact(%q): got %q", b, contact)
		}
	})
}
