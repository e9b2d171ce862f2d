package panel

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestContactsComeFromTheCopyAndTheConfigurationWins(t *testing.T) {
	h := cPanelHost(t)
	h.write("/etc/usercontacts", "shop: not@shop.example\n") // no file of cPanel's
	w := h.watch(Options{Maps: filepath.Join(h.root, "maps"), Contacts: map[string]string{"news": "boss@news.example"}})
	want := func(when, shop, news string) {
		t.Helper()
		for name, want := range map[string]string{"shop": shop, "news": news, "old": ""} {
			if a, _ := w.Map().ByName(name); a.Contact != want {
				t.Errorf("%s: contact of %s: got %q, want %q", when, name, a.Contact, want)
			}
		}
		for _, f := range w.Status().Files {
			if f.Err != "" {
				t.Errorf("%s: %s: %s", when, f.Path, f.Err)
			}
		}
	}
	want("before the inspector has written it", "", "boss@news.example")
	h.write("/maps/usercontacts", "shop: owner@shop.example\nnews: desk@news.example\n")
	h.look()
	want("with the copy", "owner@shop.example", "boss@news.example")
	h.write("/maps/usercontacts", "")
	h.look()
	want("when customers have taken theirs away", "", "boss@news.example")
}

func TestAWrongContactLeavesTheOnesBefore(t *testing.T) {
	h := cPanelHost(t)
	h.write("/maps/usercontacts", "shop: owner@shop.example\n")
	w := h.watch(Options{Maps: filepath.Join(h.root, "maps")})
	h.write("/maps/usercontacts", "shop: owner@shop.example, all@news.example\n")
	h.look()
	if f := w.Status().Files[7]; !strings.Contains(f.Err, "line 1") || !strings.HasSuffix(f.Path, "/maps/usercontacts") {
		t.Errorf("status: got %+v, want a mistake in line 1 of usercontacts", f)
	}
	if a, _ := w.Map().ByName("shop"); a.Contact != "owner@shop.example" {
		t.Errorf("contact of shop: got %q", a.Contact)
	}
}

// Without a panel the configuration alone tells.
func TestContactsComeFromTheConfigurationWithoutAPanel(t *testing.T) {
	h := newHost(t, map[string]string{"/etc/passwd": passwdText})
	w := h.watch(Options{Source: Passwd, Contacts: map[string]string{"shop": "owner@shop.example", "nobody2": "x@shop.example"}})
	if a, _ := w.Map().ByName("shop"); a.Contact != "owner@shop.example" {
		t.Errorf("contact of shop: got %q", a.Contact)
	}
	if _, found := w.Map().ByName("nobody2"); found {
		t.Error("a contact made an account")
	}
}
