package control

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"regexp"
	"strings"
)

// Where the installer puts its pieces on cPanel.
const (
	cpanelVersion  = "/usr/local/cpanel/version"
	cpanelACLs     = "/usr/local/cpanel/etc/exim/acls/"
	cpanelConf     = "/etc/exim.conf"
	cpanelSwitches = "/etc/exim.conf.localopts"
	cpanelBuild    = "/usr/local/cpanel/scripts/buildeximconf && /usr/local/cpanel/scripts/restartsrv_exim"
	whmCGI         = "/usr/local/cpanel/whostmgr/docroot/cgi/osm/index.cgi"
	whmApp         = "/var/cpanel/apps/osm.conf"
	chkservdConf   = "/etc/chkserv.d/chkservd.conf"
)

// cpanel checks what cPanel's Exim and WHM were told; nothing on another host. An update of
// cPanel, a reset in WHM or an administrator may have taken a piece out.
func (h *Host) cpanel() []Check {
	if !h.exists(cpanelVersion) {
		return nil
	}
	return []Check{
		h.cpanelACL("cpanel scripts", "ACL_OUTGOING_NOTSMTP_CHECKALL_BLOCK", "zz_osm_out_notsmtp", "mail of scripts (PHP mail(), sendmail)"),
		h.cpanelACL("cpanel smtp", "ACL_OUTGOING_SMTP_CHECKALL_BLOCK", "zz_osm_out_smtp", "mail by SMTP"),
		h.cpanelRouter(), h.whmPage(), h.chkservd(),
	}
}

// cpanelACL looks for one ACL file, its switch, and its place in what cPanel built.
func (h *Host) cpanelACL(name, block, file, what string) Check {
	path := cpanelACLs + block + "/" + file
	st, err := os.Stat(h.Root + path)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return skipped(name, "%s: only root may look", path)
	case err != nil:
		return bad(name, runInstall, "%s is missing: %s is not checked any more after cPanel's next build of Exim's configuration", path, what)
	}
	if c := h.rootsAlone(name, path, st); !c.OK {
		return c
	}
	switches, _, _, err := readPlain(h.Root + cpanelSwitches)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return skipped(name, "could not read %s: %v", cpanelSwitches, err)
	}
	if off, _ := regexp.Match(`(?m)^acl_`+file+`=0\s*$`, switches); off {
		return bad(name, "an administrator did that, or a reset of Exim's configuration in WHM: take the line out, then run "+cpanelBuild,
			"acl_%s=0 in %s switches it off: %s is accepted unchecked", file, cpanelSwitches, what)
	}
	conf, _, _, err := readPlain(h.Root + cpanelConf)
	if err != nil {
		return skipped(name, "could not read %s: %v", cpanelConf, err)
	}
	if in, _ := regexp.Match(`(?m)^\s*# BEGIN INSERT `+file+`\s*$`, conf); !in {
		return bad(name, cpanelBuild+`; where it says "ACL insert failed", the ACLs are replaced by an administrator's own text in /etc/exim.conf.local`,
			"%s does not hold %s (no \"# BEGIN INSERT %s\"): %s is accepted unchecked", cpanelConf, file, file, what)
	}
	return ok(name, "%s stands in %s", file, cpanelConf)
}

// cpanelRouter finds the one thing that would deliver what was to be discarded: the ACL
// relies on a router that is not there.
func (h *Host) cpanelRouter() Check {
	const name = "cpanel router"
	conf, _, _, err := readPlain(h.Root + cpanelConf)
	if err != nil {
		return skipped(name, "could not read %s: %v", cpanelConf, err)
	}
	relied := regexp.MustCompile(`(?m)^OSM_BLACKHOLE\s*=`).Match(conf)
	there := bytes.Contains(conf, []byte("\nosm_discard:"))
	switch {
	case relied && !there:
		return bad(name, runInstall, "%s sets OSM_BLACKHOLE but has no router osm_discard: discarded mail of scripts is delivered", cpanelConf)
	case !relied:
		return ok(name, "there is none: discarded mail of scripts is frozen, and then removed")
	}
	return ok(name, "osm_discard drops discarded mail of scripts")
}

// whmPage checks that WHM knows the page, and that nobody can change what WHM runs as root.
func (h *Host) whmPage() Check {
	const name = "whm page"
	st, err := os.Stat(h.Root + whmCGI)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return skipped(name, "only root may look")
	case err != nil:
		return bad(name, runInstall, "%s is missing: WHM has no page of osm", whmCGI)
	}
	if c := h.rootsAlone(name, whmCGI, st); !c.OK {
		return c
	}
	if st.Mode().Perm()&0o100 == 0 {
		return bad(name, "chmod 0700 "+whmCGI, "%s is no program (mode %04o)", whmCGI, st.Mode().Perm())
	}
	app, _, _, err := readPlain(h.Root + whmApp)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return skipped(name, "only root may look whether WHM knows it")
	case err != nil || !strings.Contains(string(app), "whostmgr"):
		return bad(name, runInstall, "WHM does not know the page: there is no %s", whmApp)
	}
	return ok(name, "WHM knows it")
}

// chkservd checks that cPanel's watchdog looks after the daemon, unless that was switched
// off.
func (h *Host) chkservd() Check {
	const name = "chkservd"
	list, _, _, err := readPlain(h.Root + chkservdConf)
	if err != nil || !h.exists("/run/systemd/system") {
		return skipped(name, "cPanel's watchdog cannot start the daemon here")
	}
	m := regexp.MustCompile(`(?m)^osmd:([01])\s*$`).FindSubmatch(list)
	switch {
	case m == nil || !h.exists("/etc/chkserv.d/osmd"):
		return bad(name, runInstall, "cPanel's watchdog does not know osmd (%s)", chkservdConf)
	case string(m[1]) == "0":
		return skipped(name, "an administrator switched it off for osmd in %s", chkservdConf)
	}
	return ok(name, "cPanel's watchdog looks after osmd")
}
