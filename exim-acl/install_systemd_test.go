package eximacl

import (
	"fmt"
	"strings"
	"testing"

	privatebox "osm/tests/box"
)

// TestInstallUnderSystemd runs with a stand-in for systemctl that notes its arguments:
// no systemd runs where the tests do.
func TestInstallUnderSystemd(t *testing.T) {
	b := installer(t, true)
	for i, home := range []string{"/home2/a", "/data/hosting/shard1/b", "/data/hosting/c", "/var/www/vhosts/d", "/var/lib/e", "/opt/f", "/etc/../home3/g", "/home4 x/h", "/", "/home%n/i", "/usr/local/j"} {
		b.Run("sh", "-c", fmt.Sprintf("echo 'u%d:x:%d:100::%s:/bin/sh' >>/etc/passwd", i, 5000+i, home))
	}
	before := b.everything()
	b.systemctl()
	b.installs(0, "install")
	calls := b.Read("/run/calls")
	if !strings.Contains(calls, "enable --quiet --now osm-policy.socket osm-control.socket osm-inspect.socket osm-executor.socket osm-watch.socket osmd.service") {
		t.Errorf("systemctl was called with:\n%s", calls)
	}
	if out := b.Run("grep", "^SocketGroup=", "/etc/systemd/system/osm-policy.socket"); out != "SocketGroup=Debian-exim\n" {
		t.Errorf("the policy socket's group: %s", out)
	}
	b.Run("systemd-analyze", "verify", "--man=no", "osmd.service", "osm-inspect.service", "osm-executor.service", "osm-watch.service",
		"osm-policy.socket", "osm-control.socket", "osm-inspect.socket", "osm-executor.socket", "osm-watch.socket")
	for unit, most := range map[string]string{"osmd": "15", "osm-inspect": "20", "osm-executor": "30", "osm-watch": "30"} {
		b.Run("systemd-analyze", "security", "--offline=yes", "--threshold="+most, "/etc/systemd/system/"+unit+".service")
	}
	if out := b.Run("grep", "^ReadWritePaths=.*home", "/etc/systemd/system/osm-executor.service"); out != "ReadWritePaths=-/data/hosting -/home -/home2 -/var/www\n" {
		t.Errorf("where the executor may rename scripts: %q", out)
	}
	for unit, start := range startLimits(b) {
		if start != "StartLimitIntervalSec=120\nStartLimitBurst=20\n" {
			t.Errorf("%s may be started so often: %q, want as often as osmd", unit, start)
		}
	}
	b.installs(0, "uninstall", "--purge")
	if d := privatebox.Differences(before, b.everything()); d != "" {
		t.Errorf("not as before:\n%s", d)
	}
}

func startLimits(b *box) map[string]string {
	limits := map[string]string{}
	for _, unit := range []string{"osmd", "osm-inspect", "osm-executor", "osm-watch"} {
		limits[unit], _ = b.Try("", "grep", "^StartLimit", "/etc/systemd/system/"+unit+".service")
	}
	return limits
}

// systemctl puts a stand-in in the place of systemctl; what it is called with is kept in
// /run/calls.
func (b *box) systemctl() {
	b.T.Helper()
	b.Run("mkdir", "-p", "/run/systemd/system")
	b.Write("/run/systemctl", "#!/bin/sh\necho \"$*\" >>/run/calls\ncase $1 in is-enabled) exit 1 ;; esac\n")
	b.Run("chmod", "755", "/run/systemctl")
	b.Run("mount", "--bind", "/run/systemctl", "/usr/bin/systemctl")
}

// A socket that is open keeps its group and its settings whatever its unit says.
func TestInstallOpensSocketsAnewThatAreNotAsTheirUnitSays(t *testing.T) {
	b := installer(t, true)
	b.systemctl()
	b.installs(0, "install")
	b.Run("perl", "-e", `use IO::Socket::UNIX; for (@ARGV) { IO::Socket::UNIX->new(Local => $_, Listen => 1) or die }`, "/run/osm/policy.sock", "/run/osm/control.sock")
	b.Run("chgrp", "osm-admin", "/run/osm/control.sock")
	const services = "osmd.service osm-inspect.service osm-executor.service osm-watch.service"
	for _, tt := range []struct {
		name, group string
		change      []string
		want        string // the restart
	}{
		{"nothing", "Debian-exim", []string{"true"}, ""},
		{"Exim has got another group", "mail", []string{"true"}, "try-restart osm-policy.socket " + services},
		{"a socket's unit is another one", "Debian-exim", []string{"sed", "-i", "s/^Backlog=.*/Backlog=1/", "/etc/systemd/system/osm-control.socket"}, "try-restart osm-control.socket " + services},
		{"a service's unit is another one", "Debian-exim", []string{"sed", "-i", "s/^RestartSec=.*/RestartSec=9/", "/etc/systemd/system/osmd.service"}, "try-restart " + services},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b.Run("chgrp", tt.group, "/run/osm/policy.sock")
			b.Run(tt.change...)
			b.Run("rm", "-f", "/run/calls")
			b.installs(0, "install")
			got := ""
			for line := range strings.Lines(b.Read("/run/calls")) {
				if strings.HasPrefix(line, "try-restart") {
					got += strings.TrimSpace(line)
				}
			}
			if got != tt.want {
				t.Errorf("restarted: %q, want %q", got, tt.want)
			}
		})
	}
}

func TestInstallReloadsEximsDaemon(t *testing.T) {
	b := installer(t, true)
	b.daemon()
	b.installs(0, "install", "--fail-closed")
	b.comesToAnswer("451", "it did not take the new configuration")
}

// The configuration itself stays the same: only the included text differs.
func TestInstallReloadsEximsDaemonWhenOnlyTheTextOfTheACLChanged(t *testing.T) {
	b := installer(t, true)
	b.installs(0, "install")
	b.daemon()
	b.comesToAnswer("250", "it is not open without the daemon")
	b.installs(0, "install", "--fail-closed")
	b.comesToAnswer("451", "it did not take the new text")
}

func TestInstallNamesADaemonThatItCouldNotReload(t *testing.T) {
	b := installer(t, true)
	b.daemon()
	b.Run("rm", "/run/exim4/exim.pid")
	if out := b.installs(0, "install"); !strings.Contains(out, "was not told") {
		t.Errorf("no warning that Exim's daemon goes on as before:\n%s", out)
	}
}

// comesToAnswer waits until Exim's daemon answers so: a HUP takes its time.
func (b *box) comesToAnswer(want, otherwise string) {
	b.T.Helper()
	got := ""
	for range 100 {
		if got = b.smtp("x"); strings.HasPrefix(got, want) {
			return
		}
	}
	b.T.Errorf("Exim's daemon answers %q, want %s: %s", got, want, otherwise)
}
