package eximacl

import (
	"strings"
	"testing"

	privatebox "osm/tests/box"
)

// TestInstallUnderSystemd runs with a stand-in for systemctl that notes its arguments:
// no systemd runs where the tests do.
func TestInstallUnderSystemd(t *testing.T) {
	b := installer(t, true)
	before := b.everything()
	b.Run("mkdir", "-p", "/run/systemd/system")
	b.Write("/run/systemctl", "#!/bin/sh\necho \"$*\" >>/run/calls\ncase $1 in is-enabled) exit 1 ;; esac\n")
	b.Run("chmod", "755", "/run/systemctl")
	b.Run("mount", "--bind", "/run/systemctl", "/usr/bin/systemctl")
	b.installs(0, "install")
	calls := b.Read("/run/calls")
	if !strings.Contains(calls, "enable --quiet --now osm-policy.socket osm-control.socket osm-inspect.socket osm-executor.socket osmd.service") {
		t.Errorf("systemctl was called with:\n%s", calls)
	}
	if out := b.Run("grep", "^SocketGroup=", "/etc/systemd/system/osm-policy.socket"); out != "SocketGroup=Debian-exim\n" {
		t.Errorf("the policy socket's group: %s", out)
	}
	b.Run("systemd-analyze", "verify", "--man=no", "osmd.service", "osm-inspect.service", "osm-executor.service",
		"osm-policy.socket", "osm-control.socket", "osm-inspect.socket", "osm-executor.socket")
	for unit, most := range map[string]string{"osmd": "15", "osm-inspect": "20", "osm-executor": "30"} {
		b.Run("systemd-analyze", "security", "--offline=yes", "--threshold="+most, "/etc/systemd/system/"+unit+".service")
	}
	b.installs(0, "uninstall", "--purge")
	if d := privatebox.Differences(before, b.everything()); d != "" {
		t.Errorf("not as before:\n%s", d)
	}
}

func TestInstallReloadsEximsDaemon(t *testing.T) {
	b := installer(t, true)
	b.daemon()
	b.installs(0, "install", "--fail-closed")
	got := ""
	for range 100 { // a HUP takes its time
		if got = b.smtp("x"); strings.HasPrefix(got, "451") {
			return
		}
	}
	t.Errorf("Exim's daemon answers %q, want 451: it did not take the new configuration", got)
}
