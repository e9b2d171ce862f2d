package cpanel

import (
	"strings"
	"testing"
)

// The stand-ins for whmapi1 and uapi work on the server's own files, and take back all that
// they did. What osm makes of them is tested beside its code.
func TestThePanelsCommandsDoAndUndo(t *testing.T) {
	s := newServer(t)
	s.Run("/usr/local/cpanel/bin/whmapi1", "--output=json", "hold_outgoing_email", "user=blog") // makes the file
	before := s.everything()
	shadow := s.Read("/home/shop/etc/shop.example/shadow")
	for _, row := range []struct{ do, undo, file, want string }{
		{"whmapi1 suspendacct user=shop reason=a%20b --output=json", "whmapi1 --output=json unsuspendacct user=shop", "/var/cpanel/suspended/shop", "a b"},
		{"whmapi1 --output=json hold_outgoing_email user=shop", "whmapi1 --output=json release_outgoing_email user=shop", "/etc/outgoing_mail_hold_users", "blog\nshop\n"},
		{"uapi --output=json --user=shop Email hold_outgoing email=info%40shop.example", "uapi --output=json --user=shop Email release_outgoing email=info@shop.example",
			"/etc/outgoing_mail_hold_users", "blog\ninfo@shop.example\n"},
		{"uapi --output=json --user=shop Email suspend_login email=info@shop.example", "uapi --output=json --user=shop Email unsuspend_login email=info@shop.example",
			"/home/shop/etc/shop.example/shadow", strings.Replace(shadow, "info:", "info:!!", 1)},
	} {
		if out := s.Run(strings.Fields("/usr/local/cpanel/bin/" + row.do)...); !strings.Contains(out, `"result":1`) && !strings.Contains(out, `"status":1`) {
			t.Errorf("%s: %s", row.do, out)
		}
		if got := s.Read(row.file); got != row.want {
			t.Errorf("after %s %s is %q, want %q", row.do, row.file, got, row.want)
		}
		s.Run(strings.Fields("/usr/local/cpanel/bin/" + row.undo)...)
		if row.file != "/home/shop/etc/shop.example/shadow" {
			continue
		}
		if got := s.Read(row.file); got != shadow {
			t.Errorf("after %s %s is %q, want %q", row.undo, row.file, got, shadow)
		}
	}
	s.Run("sh", "-c", "rmdir /var/cpanel/suspended /var/cpanel/suspendinfo") // came with the first
	s.unchanged(before, "after all was undone")
}
