package control

import (
	"os"
	"strings"
	"testing"
)

// newCPanel is a host on which the installer has put everything in its place.
func newCPanel(t *testing.T) *Host {
	t.Helper()
	h := newHost(t)
	for path, text := range map[string]string{
		cpanelVersion: "11.116.0.10\n",
		cpanelACLs + "ACL_OUTGOING_SMTP_CHECKALL_BLOCK/zz_osm_out_smtp":       "x\n",
		cpanelACLs + "ACL_OUTGOING_NOTSMTP_CHECKALL_BLOCK/zz_osm_out_notsmtp": "x\n",
		cpanelSwitches: "acl_another=0\nacl_zz_osm_out_smtp=1\n",
		cpanelConf: "OSM_BLACKHOLE = yes\nbegin acl\n# BEGIN INSERT zz_osm_out_smtp\n# END INSERT zz_osm_out_smtp\n" +
			"# BEGIN INSERT zz_osm_out_notsmtp\n# END INSERT zz_osm_out_notsmtp\nbegin routers\nosm_discard:\n",
		whmApp: "service=whostmgr\n", chkservdConf: "exim:1\nosmd:1\n", "/etc/chkserv.d/osmd": "x\n", "/run/systemd/system/x": "",
	} {
		h.put(t, path, text, 0o644)
	}
	h.put(t, whmCGI, "#!/bin/sh\n", 0o700)
	return h
}

func TestDoctorLooksAtCPanelsPieces(t *testing.T) {
	if list := newHost(t).cpanel(); len(list) != 0 {
		t.Errorf("without cPanel: %+v", list)
	}
	for _, tt := range []struct {
		name, check, says string
		ok                bool
		change            func(*Host)
	}{
		{"everything is there", "cpanel smtp", "stands in", true, func(*Host) {}},
		{"an administrator's switch", "cpanel scripts", "acl_zz_osm_out_notsmtp=0 in /etc/exim.conf.localopts", false, func(h *Host) {
			h.put(t, cpanelSwitches, "acl_zz_osm_out_notsmtp=0\n", 0o644)
		}},
		{"no switches at all", "cpanel scripts", "stands in", true, func(h *Host) { h.remove(t, cpanelSwitches) }},
		{"built without the file", "cpanel smtp", `no "# BEGIN INSERT zz_osm_out_smtp"`, false, func(h *Host) {
			h.put(t, cpanelConf, "# BEGIN INSERT zz_osm_out_smtp_other\n# BEGIN INSERT zz_osm_out_notsmtp\n", 0o644)
		}},
		{"the file is gone", "cpanel smtp", "zz_osm_out_smtp is missing", false, func(h *Host) {
			h.remove(t, cpanelACLs+"ACL_OUTGOING_SMTP_CHECKALL_BLOCK/zz_osm_out_smtp")
		}},
		{"a file that others may change", "cpanel scripts", "changed by others", false, func(h *Host) {
			h.put(t, cpanelACLs+"ACL_OUTGOING_NOTSMTP_CHECKALL_BLOCK/zz_osm_out_notsmtp", "x", 0o666)
		}},
		{"the router is gone", "cpanel router", "is delivered", false, func(h *Host) { h.put(t, cpanelConf, "OSM_BLACKHOLE = yes\n", 0o644) }},
		{"no router is needed", "cpanel router", "then removed", true, func(h *Host) { h.put(t, cpanelConf, "\n", 0o644) }},
		{"WHM knows the page", "whm page", "WHM knows it", true, func(*Host) {}},
		{"WHM forgot the page", "whm page", "does not know the page", false, func(h *Host) { h.remove(t, whmApp) }},
		{"no CGI", "whm page", "is missing", false, func(h *Host) { h.remove(t, whmCGI) }},
		{"a CGI that is no program", "whm page", "is no program", false, func(h *Host) { h.put(t, whmCGI, "", 0o600) }},
		{"a CGI that others may change", "whm page", "changed by others", false, func(h *Host) { h.put(t, whmCGI, "", 0o777) }},
		{"the watchdog", "chkservd", "looks after", true, func(*Host) {}},
		{"the watchdog forgot", "chkservd", "does not know osmd", false, func(h *Host) { h.put(t, chkservdConf, "exim:1\n", 0o644) }},
		{"the watchdog was switched off", "chkservd", "switched it off", true, func(h *Host) { h.put(t, chkservdConf, "osmd:0\n", 0o644) }},
	} {
		h := newCPanel(t)
		tt.change(h)
		seen := false
		for _, c := range h.cpanel() {
			if c.Name != tt.check {
				continue
			}
			seen = true
			if c.OK != tt.ok || !strings.Contains(c.Text, tt.says) || !c.OK && c.Hint == "" {
				t.Errorf("%s: %+v, want ok %v and %q", tt.name, c, tt.ok, tt.says)
			}
		}
		if !seen {
			t.Errorf("%s: there is no check %q", tt.name, tt.check)
		}
	}
}

func (h *Host) remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(h.Root + path); err != nil {
		t.Fatal(err)
	}
}
