package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"osm/internal/panel"
)

// From the inspector's copy and the configuration to whom a report is sent.
func TestReportsFindTheContactsOfAnAccountAndItsReseller(t *testing.T) {
	root := t.TempDir()
	for path, text := range map[string]string{
		"/etc/passwd": "root:x:0:0::/root:/bin/sh\nanna:x:1001:1001::/home/anna:/bin/sh\nshop:x:1002:1002::/home/shop:/bin/sh\n" +
			"news:x:1003:1003::/home/news:/bin/sh\nblog:x:1004:1004::/home/blog:/bin/sh\nlost:x:1005:1005::/home/lost:/bin/sh\n",
		"/etc/userdomains":     "anna.example: anna\nshop.example: shop\nnews.example: news\nblog.example: blog\nlost.example: lost\n",
		"/etc/trueuserowners":  "anna: anna\nshop: anna\nnews: anna\nblog: root\nlost: gone\n",
		"/copies/usercontacts": "root: root@host.example\nanna: anna@reseller.example\nshop: owner@shop.example\nblog: me@blog.example\n",
	} {
		full := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	d := &daemon{panel: panel.New(panel.Options{Root: root, Maps: filepath.Join(root, "copies"), Source: panel.CPanel,
		Contacts: map[string]string{"news": "desk@news.example"}, Now: time.Now, Log: slog.New(slog.DiscardHandler)})}
	for account, want := range map[string][2]string{
		"shop": {"owner@shop.example", "anna@reseller.example"},
		"news": {"desk@news.example", "anna@reseller.example"},
		"anna": {"anna@reseller.example", ""}, // who is his own reseller is told once
		"blog": {"me@blog.example", ""},       // root's are the operators
		"lost": {"", ""},
		"root": {"", ""},
		"none": {"", ""},
	} {
		customer, reseller := d.contact(account)
		if customer != want[0] || reseller != want[1] {
			t.Errorf("contact(%q) = %q, %q; want %q, %q", account, customer, reseller, want[0], want[1])
		}
	}
}
