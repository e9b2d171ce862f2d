package eximacl

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	privatebox "osm/tests/box"
)

// installer is a box with stock Debian Exim, as after "apt install".
func installer(t testing.TB, split bool) *box {
	t.Helper()
	b := newBox(t)
	b.Write("/run/bin/osmd", "#!/bin/sh\n")
	b.Write("/run/bin/osmctl", "#!/bin/sh\n")
	b.Run("chmod", "755", "/run/bin/osmd", "/run/bin/osmctl")
	b.use(split)
	return b
}

// use makes Exim's configuration split or not, as dpkg-reconfigure does.
func (b *box) use(split bool) {
	b.T.Helper()
	b.Run("sed", "-i", fmt.Sprintf("s/^dc_use_split_config=.*/dc_use_split_config='%v'/", split), "/etc/exim4/update-exim4.conf.conf")
	b.Run("update-exim4.conf")
}

// installs runs install.sh and fails unless it ends with that status.
func (b *box) installs(want int, args ...string) string {
	b.T.Helper()
	b.NotTheMachine("/etc", "/usr/local", "/var/lib")
	if args[0] == "install" {
		args = append(args, "--bin", "/run/bin")
	}
	out, code := b.Try("", append([]string{"/srv/exim-acl/install.sh"}, args...)...)
	if code != want {
		b.T.Fatalf("install.sh %q: exit status %d, want %d:\n%s", args, code, want, out)
	}
	return out
}

// everything is the list of all files that the installer could change.
func (b *box) everything() string {
	b.T.Helper()
	return b.List("etc", "usr/local/sbin", "usr/local/share/man", "var/lib")
}

// stock submits a message as nobody to the stock Exim, to be queued.
func (b *box) stock(subject string) int {
	_, code := b.Try("To: root\nSubject: "+subject+"\n\nbody\n",
		"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--", "sendmail", "-t", "-i", "-odq")
	return code
}

// overSMTP hands a message to Exim's ACLs as from 127.0.0.1 and returns the answer to
// DATA's end.
func (b *box) overSMTP(subject string) string {
	out, _ := b.Try("EHLO vm\r\nMAIL FROM:<postmaster@vm>\r\nRCPT TO:<postmaster@vm>\r\nDATA\r\nFrom: postmaster@vm\r\nSubject: "+subject+"\r\n\r\nx\r\n.\r\nQUIT\r\n",
		"sh", "-c", "exec exim4 -bh 127.0.0.1.33333 2>/dev/null")
	_, after, _ := strings.Cut(out, "354 ")
	_, after, _ = strings.Cut(after, "\n")
	first, _, _ := strings.Cut(after, "\n")
	return strings.TrimSpace(first)
}

// kept are the lines of what stays without --purge: the operator's settings and the store.
var kept = regexp.MustCompile(`(?m)^(etc/osm|var/lib/osm|var/lib/osm-install)( |/).*\n`)

func TestInstallAgainAndUninstallLeavesTheBytesThatWereThere(t *testing.T) {
	tests := []struct {
		name    string
		split   bool
		prepare func(*box)
	}{
		{"a split configuration", true, func(*box) {}},
		{"one from the template", false, func(*box) {}},
		{"local macros without a last newline", false, func(b *box) {
			b.Write("/etc/exim4/exim4.conf.localmacros", "MAIN_FORCE_SENDER = yes\n# the last line")
			b.Run("chmod", "640", "/etc/exim4/exim4.conf.localmacros")
			b.Run("chgrp", "Debian-exim", "/etc/exim4/exim4.conf.localmacros")
		}},
		{"empty local macros", false, func(b *box) { b.Write("/etc/exim4/exim4.conf.localmacros", "") }},
		{"local macros behind a symbolic link", false, func(b *box) {
			b.Write("/etc/mine/macros", "MAIN_FORCE_SENDER = yes\n")
			b.Run("chmod", "640", "/etc/mine/macros")
			b.Run("ln", "-s", "../mine/macros", "/etc/exim4/exim4.conf.localmacros")
		}},
		{"an acl_not_smtp of the operator's", true, func(b *box) {
			b.Write("/etc/exim4/conf.d/main/05_local", "# ours\nacl_not_smtp = acl_mine\n\n")
			b.Write("/etc/exim4/conf.d/acl/60_local", "acl_mine:\n  accept\n")
		}},
		{"an acl_not_smtp in the template", false, func(b *box) {
			b.Run("sed", "-i", "s/^begin acl/acl_not_smtp=accept\\n&/", "/etc/exim4/exim4.conf.template")
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := installer(t, tt.split)
			tt.prepare(b)
			b.Run("update-exim4.conf")
			before := b.everything()

			b.installs(0, "install")
			installed := b.everything()
			if out := b.installs(0, "install"); strings.Contains(out, "wrote") {
				t.Errorf("the second install wrote:\n%s", out)
			}
			if d := privatebox.Differences(installed, b.everything()); d != "" {
				t.Errorf("the second install changed:\n%s", d)
			}
			if out := b.installs(0, "install", "--dry-run"); !strings.Contains(out, "nothing to change") {
				t.Errorf("a dry run of a third install shows:\n%s", out)
			}
			b.installs(0, "uninstall")
			if d := privatebox.Differences(before, kept.ReplaceAllString(b.everything(), "")); d != "" {
				t.Errorf("not as before:\n%s", d)
			}
			b.installs(0, "uninstall", "--purge")
			if d := privatebox.Differences(before, b.everything()); d != "" {
				t.Errorf("not as before after --purge:\n%s", d)
			}
			if out, code := b.Try("", "id", "osm"); code == 0 {
				t.Errorf("the user osm is still there after --purge: %s", out)
			}
		})
	}
}

func TestInstallWritesTheFragments(t *testing.T) {
	b := installer(t, true)
	b.installs(0, "install")
	selector := strings.TrimSpace(strings.TrimPrefix(b.Run("grep", "^MAIN_LOG_SELECTOR = ", "/etc/exim4/conf.d/main/01_exim4-config_listmacrosdefs"), "MAIN_LOG_SELECTOR ="))
	for _, f := range Fragments(DebianParams{ACLParams: ACLParams{EximUID: b.eximUID()}, Frozen: "35d", Bounces: "35d", LogSelector: selector}) {
		if got := b.Read(f.Path); got != f.Text {
			t.Errorf("%s is\n%s\nwant\n%s", f.Path, got, f.Text)
		}
		if mode := b.Run("stat", "-c", "%a %U:%G", f.Path); mode != "644 root:root\n" {
			t.Errorf("%s has %s, want 644 root:root", f.Path, mode)
		}
	}
	if got, want := b.Run("/srv/exim-acl/install.sh", "acl", "--fail-closed"), ACLText(ACLParams{EximUID: b.eximUID(), FailClosed: true}); got != want {
		t.Errorf("install.sh acl prints\n%s\nwant\n%s", got, want)
	}
	out := b.Run("exim4", "-bP", "timeout_frozen_after", "ignore_bounce_errors_after", "log_selector", "acl_not_smtp")
	for _, want := range []string{"timeout_frozen_after = 5w", "ignore_bounce_errors_after = 5w", "-skip_delivery", "acl_not_smtp = acl_osm_not_smtp"} {
		if !strings.Contains(out, want) {
			t.Errorf("Exim's options have no %q:\n%s", want, out)
		}
	}
}

func TestInstalledEximAsks(t *testing.T) {
	for _, split := range []bool{true, false} {
		t.Run(fmt.Sprintf("split %v", split), func(t *testing.T) {
			b := installer(t, split)
			s := newBySubject()
			b.serve(&s.Server)
			if out := b.installs(0, "install"); !strings.Contains(out, "and osmd answers") || !strings.Contains(out, "osmd -config /etc/osm/osm.toml") {
				t.Errorf("the installer says:\n%s", out)
			}
			if asked := s.take(); len(asked) != 2 || asked[0].Local() || !asked[1].Local() || asked[0].EnvelopeSender != "postmaster@vm" || asked[1].EnvelopeSender != "postmaster@vm" {
				t.Errorf("its own two tests asked %+v", asked)
			}
			if queued := b.Run("exim4", "-bp"); queued != "" {
				t.Errorf("its own tests left in the queue: %s", queued)
			}
			b.asksBothWays(s)
			if out := b.installs(0, "check"); !strings.Contains(out, "complete") {
				t.Errorf("check says:\n%s", out)
			}
			// What Debian's tools do later must leave the hook in place.
			for _, other := range []bool{!split, split} {
				b.use(other)
				b.asksBothWays(s)
			}
			b.overlay("/usr")
			b.overlay("/var/cache") // debconf's
			b.Run("dpkg-reconfigure", "-fnoninteractive", "exim4-config")
			b.asksBothWays(s)
			if out := b.Run("dpkg", "-i", "--force-confold", b.packed("exim4-config")); !strings.Contains(out, "Setting up exim4-config") {
				t.Errorf("the package was not installed again:\n%s", out)
			}
			b.asksBothWays(s)
			b.installs(0, "uninstall")
			s.take()
			b.overSMTP("x")
			b.stock("x")
			if asked := s.take(); len(asked) != 0 {
				t.Errorf("asked %d times after uninstall", len(asked))
			}
		})
	}
}

// overlay puts a copy on write in the place of one more folder.
func (b *box) overlay(dir string) {
	b.T.Helper()
	b.Run("sh", "-c", `mkdir -p "$0$1/upper" "$0$1/work" && chmod --reference="$1" "$0$1/upper" &&
		mount -t overlay -o "lowerdir=$1,upperdir=$0$1/upper,workdir=$0$1/work" overlay "$1"`, b.Dir, dir)
}

// packed makes the package again out of what is installed of it, with its own scripts:
// the archive that it came in is not here any more.
func (b *box) packed(name string) string {
	b.T.Helper()
	deb := "/run/" + name + ".deb"
	b.Run("sh", "-ec", `mkdir -p "$1/DEBIAN" && cd /
		dpkg-query -W -f 'Package: ${Package}\nVersion: ${Version}\nArchitecture: ${Architecture}\nMaintainer: ${Maintainer}\nDepends: ${Depends}\nConflicts: ${Conflicts}\nDescription: ${Description}\n' "$0" >"$1/DEBIAN/control"
		for f in config postinst postrm preinst prerm templates conffiles md5sums; do
			[ ! -e "/var/lib/dpkg/info/$0.$f" ] || cp -p "/var/lib/dpkg/info/$0.$f" "$1/DEBIAN/$f"
		done
		dpkg -L "$0" | while read -r f; do [ ! -f "$f" ] || cp -p --parents "$f" "$1"; done
		dpkg-deb --build "$1" "$2"`, name, "/run/"+name, deb)
	return deb
}

func (b *box) asksBothWays(s *bySubject) {
	b.T.Helper()
	s.take()
	if got := b.overSMTP("verdict deny"); !strings.HasPrefix(got, "550 Limit reached") {
		b.T.Errorf("SMTP: %q, want 550", got)
	}
	if code := b.stock("verdict freeze"); code != 0 {
		b.T.Errorf("script: exit status %d, want 0", code)
	}
	asked := s.take()
	if len(asked) != 2 {
		b.T.Fatalf("asked %d times, want twice", len(asked))
	}
	if asked[0].Local() || !asked[1].Local() || asked[1].CallerUID != 65534 {
		b.T.Errorf("asked about %+v and %+v", asked[0], asked[1])
	}
	if !b.frozen() {
		b.T.Error("the script's message is not frozen")
	}
	b.forgetLog()
}

func TestInstallDiscardsScriptMailByTheRouterWhereItCan(t *testing.T) {
	b := installer(t, true)
	s := newBySubject()
	b.serve(&s.Server)
	b.installs(0, "install")
	if code := b.stock("verdict discard"); code != 0 {
		t.Errorf("exit status %d, want 0", code)
	}
	b.Run("exim4", "-qff")
	b.logged("=> :blackhole:", "R=osm_discard")
	b.use(false)
	b.forgetLog()
	b.stock("verdict discard")
	if !b.frozen() {
		t.Error("without the router the message is not frozen")
	}
}

func TestInstallChains(t *testing.T) {
	theirs := "  deny\n    condition = ${if match{$h_subject:}{theirs}}\n    message = theirs says no\n"
	tests := []struct {
		name  string
		split bool
		more  string // what else their ACLs hold
		asked int    // about what theirs refuses, both ways together
		setUp func(b *box, acl string)
	}{
		{"split, named ACLs", true, "", 0, func(b *box, acl string) {
			b.Write("/etc/exim4/conf.d/main/05_local", "acl_not_smtp = acl_mine\nCHECK_DATA_LOCAL_ACL_FILE = CONFDIR/mine.data\n")
			b.Write("/etc/exim4/conf.d/acl/60_local", "acl_mine:\n"+acl+"  accept\n")
			b.Write("/etc/exim4/mine.data", acl)
		}},
		{"split, set after everything else", true, "", 0, func(b *box, acl string) {
			b.Write("/etc/exim4/conf.d/main/95_local", "acl_not_smtp=acl_mine\nCHECK_DATA_LOCAL_ACL_FILE = /etc/exim4/mine.data\n")
			b.Write("/etc/exim4/conf.d/acl/60_local", "acl_mine:\n"+acl+"  accept\n")
			b.Write("/etc/exim4/mine.data", acl+"  accept\n")
		}},
		{"split, by a macro that is set", true, "", 0, func(b *box, acl string) {
			b.Write("/etc/exim4/conf.d/main/00_local", "MAIN_ACL_NOT_SMTP = acl_mine\nCHECK_DATA_LOCAL_ACL_FILE = /etc/exim4/mine.data\n")
			b.Write("/etc/exim4/conf.d/main/05_local", ".ifdef MAIN_ACL_NOT_SMTP\nacl_not_smtp = MAIN_ACL_NOT_SMTP\n.endif\n")
			b.Write("/etc/exim4/conf.d/acl/60_local", "acl_mine:\n"+acl+"  accept\n")
			b.Write("/etc/exim4/mine.data", acl)
		}},
		{"from the template, an ACL file", false, "", 0, func(b *box, acl string) {
			b.Write("/etc/exim4/exim4.conf.localmacros", "acl_not_smtp = /etc/exim4/mine.script\nCHECK_DATA_LOCAL_ACL_FILE = /etc/exim4/mine.data\n")
			b.Write("/etc/exim4/mine.script", acl+"accept\n")
			b.Write("/etc/exim4/mine.data", acl)
		}},
		{"an ACL that discards comes last", true, "  discard\n    condition = ${if match{$h_subject:}{drop it}}\n", 2, func(b *box, acl string) {
			b.Write("/etc/exim4/conf.d/main/05_local", "acl_not_smtp = acl_mine\nCHECK_DATA_LOCAL_ACL_FILE = /etc/exim4/mine.data\n")
			b.Write("/etc/exim4/conf.d/acl/60_local", "acl_mine:\n"+acl+"  accept\n")
			b.Write("/etc/exim4/mine.data", acl)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := installer(t, tt.split)
			tt.setUp(b, theirs+tt.more)
			b.Run("update-exim4.conf")
			before := b.everything()
			s := newBySubject()
			b.serve(&s.Server)
			b.installs(0, "install")
			b.asksBothWays(s)
			if got := b.overSMTP("theirs"); got != "550 theirs says no" {
				t.Errorf("SMTP: %q, want their refusal with its text", got)
			}
			if code := b.stock("theirs"); code == 0 {
				t.Error("script: their refusal was lost")
			}
			if asked := s.take(); len(asked) != tt.asked {
				t.Errorf("asked %d times about what theirs refuses, want %d", len(asked), tt.asked)
			}
			if tt.more != "" {
				b.forgetLog()
				b.stock("drop it")
				b.logged("non-SMTP ACL discarded recipients")
			}
			b.installs(0, "install")
			b.asksBothWays(s)
			b.installs(0, "uninstall", "--purge")
			if d := privatebox.Differences(before, b.everything()); d != "" {
				t.Errorf("not as before:\n%s", d)
			}
		})
	}
}

func TestInstallRefusesAndChangesNothing(t *testing.T) {
	tests := []struct {
		name, want string
		setUp      func(b *box)
	}{
		{"a broken configuration", "mend", func(b *box) { b.Write("/etc/exim4/conf.d/main/99_local", "no_such_option = 1\n") }},
		{"a broken configuration that is in force", "mend", func(b *box) { b.Run("sh", "-c", "echo no_such_option >>/var/lib/exim4/config.autogenerated") }},
		{"an include that Exim's user cannot read", "mend", func(b *box) {
			b.Write("/etc/exim4/closed", "  accept\n")
			b.Run("chmod", "600", "/etc/exim4/closed")
			b.Write("/etc/exim4/conf.d/acl/60_local", "acl_mine:\n.include /etc/exim4/closed\n")
		}},
		{"a configuration written by hand", "by hand", func(b *box) { b.Write("/etc/exim4/exim4.conf", "begin acl\n") }},
		{"an acl_not_smtp that is no name", "more than the name", func(b *box) {
			b.Write("/etc/exim4/conf.d/main/05_local", "acl_not_smtp = ${if eq {1}{1} {acl_a}{acl_b}}\n")
		}},
		{"local macros in a place that others can change", "others than root can change /etc/mine", func(b *box) {
			b.Write("/etc/mine/macros", "MAIN_FORCE_SENDER = yes\n")
			b.Run("chown", "nobody", "/etc/mine")
			b.Run("ln", "-s", "/etc/mine/macros", "/etc/exim4/exim4.conf.localmacros")
		}},
		{"an acl_not_smtp under a condition that does not hold", "Exim's own value is \"\"", func(b *box) {
			b.Write("/etc/exim4/conf.d/main/05_local", ".ifdef MAIN_ACL_NOT_SMTP\nacl_not_smtp = MAIN_ACL_NOT_SMTP\n.endif\n")
		}},
		{"an acl_not_smtp under a condition in the form that is not in use", "between an .ifdef and its .endif", func(b *box) {
			b.Write("/etc/exim4/exim4.conf.localmacros", ".ifdef MAIN_ACL_NOT_SMTP\nacl_not_smtp = MAIN_ACL_NOT_SMTP\n.endif\n")
		}},
		{"a person's user osm", "a user osm (uid 1234, home /home/osm, shell /bin/bash) that osm did not make", func(b *box) {
			b.Run("sh", "-c", "echo osm:x:1234:100::/home/osm:/bin/bash >>/etc/passwd")
		}},
		{"a system user osm with a home of its own", "a user osm (uid 234, home /srv/osm) that osm did not make", func(b *box) {
			b.Run("sh", "-c", "echo osm:x:234:100::/srv/osm:/usr/sbin/nologin >>/etc/passwd")
		}},
		{"a group osm with somebody in it", "a group osm that osm did not make, with daemon games in it", func(b *box) {
			b.Run("groupadd", "--system", "osm")
			b.Run("usermod", "-aG", "osm", "games")
			b.Run("usermod", "-g", "osm", "daemon")
		}},
		{"no programs", "build it first", func(b *box) { b.Run("rm", "/run/bin/osmctl") }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := installer(t, true)
			tt.setUp(b)
			before := b.everything()
			out := b.installs(1, "install")
			if !strings.Contains(out, tt.want) || !strings.Contains(out, "nothing was changed") {
				t.Errorf("it says %q, want %q and that nothing was changed", out, tt.want)
			}
			if d := privatebox.Differences(before, b.everything()); d != "" {
				t.Errorf("it changed:\n%s", d)
			}
		})
	}
}

// A user osm as a package makes it is taken as it is, and stays when osm goes.
func TestInstallUsesAUserThatIsMadeForIt(t *testing.T) {
	b := installer(t, true)
	b.Run("useradd", "--system", "--home-dir", "/var/lib/osm", "--no-create-home", "--shell", "/usr/sbin/nologin", "osm")
	b.Run("groupadd", "--system", "osm-admin")
	b.Run("usermod", "-aG", "osm-admin", "games")
	before := b.Run("cat", "/etc/passwd", "/etc/group")
	if out := b.installs(0, "install"); !strings.Contains(out, "who is in it rules osm: games") {
		t.Errorf("no warning of those who rule osm:\n%s", out)
	}
	b.installs(0, "uninstall", "--purge")
	if now := b.Run("cat", "/etc/passwd", "/etc/group"); now != before {
		t.Errorf("users before\n%s\nand after\n%s", before, now)
	}
}

func TestInstallTakesBackWhatItDidWhenAStepFails(t *testing.T) {
	tests := []struct {
		name, want string
		split      bool
		setUp      func(b *box)
	}{
		{"the hook was taken out of the DATA ACL", "did not lead to a question", true, func(b *box) {
			b.Run("sed", "-i", "/ifdef CHECK_DATA_LOCAL_ACL_FILE/,/endif/d", "/etc/exim4/conf.d/acl/40_exim4-config_check_data")
		}},
		{"Debian's tool refuses the result", "refuses the new configuration", false, func(b *box) {
			b.Run("sed", "-i", "s/^begin acl/CHECK_DATA_LOCAL_ACL_FILE = \\/etc\\/exim4\\/mine\\n&/", "/etc/exim4/exim4.conf.template")
			b.Write("/etc/exim4/mine", "")
		}},
		{"an acl_not_smtp that names no ACL", "refuse all mail of scripts: unknown ACL", true, func(b *box) {
			b.Write("/etc/exim4/conf.d/main/05_local", "acl_not_smtp = acl_forgotten\n")
		}},
		{"Exim takes less than before", "now answers its commands with 220 250 550", true, func(b *box) {
			b.Write("/etc/exim4/conf.d/main/00_local", "MAIN_ACL_CHECK_MAIL = acl_mine\n")
			b.Write("/etc/exim4/conf.d/acl/60_local", "acl_mine:\n  accept\n    condition = ${if !exists{/etc/exim4/osm/policy.acl}}\n")
		}},
		{"a file system is full", "No space left on device", true, func(b *box) {
			b.Run("mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", "/etc/logrotate.d")
			b.Run("sh", "-c", "head -c 4096 /dev/zero >/etc/logrotate.d/full")
		}},
		{"a folder cannot be written", "Read-only file system", true, func(b *box) {
			b.Run("mount", "-t", "tmpfs", "-o", "ro", "tmpfs", "/etc/logrotate.d")
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := installer(t, tt.split)
			tt.setUp(b)
			b.Run("update-exim4.conf")
			before, users := b.everything(), b.Run("cat", "/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow")
			out := b.installs(1, "install")
			if !strings.Contains(out, tt.want) || !strings.Contains(out, "everything is as it was before") {
				t.Errorf("it says\n%s\nwant %q", out, tt.want)
			}
			if d := privatebox.Differences(before, b.everything()); d != "" {
				t.Errorf("not as before:\n%s", d)
			}
			if now := b.Run("cat", "/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow"); now != users {
				t.Errorf("users before\n%s\nand after\n%s", users, now)
			}
			b.Run("exim4", "-bV")
		})
	}
}

func TestInstallKeepsWhatItCouldNotGiveBack(t *testing.T) {
	b := installer(t, true)
	b.Run("sed", "-i", "/ifdef CHECK_DATA_LOCAL_ACL_FILE/,/endif/d", "/etc/exim4/conf.d/acl/40_exim4-config_check_data") // the last step fails
	b.Write("/etc/exim4/exim4.conf.localmacros", "# mine\n")
	b.Run("update-exim4.conf")
	b.Write("/run/groupdel", "#!/bin/sh\nexit 1\n")
	b.Run("chmod", "755", "/run/groupdel")
	b.Run("mount", "--bind", "/run/groupdel", "/usr/sbin/groupdel")
	out := b.installs(1, "install")
	if strings.Contains(out, "everything is as it was") || !strings.Contains(out, "not everything could be taken back") || !strings.Contains(out, "this failed: drop group osm-admin") {
		t.Errorf("it says\n%s\nwant what could not be taken back", out)
	}
	said := regexp.MustCompile(`are in (/var/lib/osm-install\.kept-\w+/old)`).FindStringSubmatch(out)
	if said == nil {
		t.Fatalf("it does not say where the files are:\n%s", out)
	}
	if got := b.Run("grep", "-rl", "^# mine", said[1]); strings.Count(got, "\n") != 1 {
		t.Errorf("%s has no copy of exim4.conf.localmacros: %q", said[1], got)
	}
	if mode := b.Run("stat", "-c", "%a %U", strings.TrimSuffix(said[1], "/old")); mode != "700 root\n" {
		t.Errorf("the copies are open to others: %s", mode)
	}
	if got := b.Read("/etc/exim4/exim4.conf.localmacros"); got != "# mine\n" {
		t.Errorf("what could be given back was not: exim4.conf.localmacros is %q", got)
	}
	b.installs(1, "install")
	b.Run("ls", said[1]) // a later run leaves them
}

// A program may be larger than the memory that holds /run.
func TestInstallNeedsNoRoomInRun(t *testing.T) {
	b := installer(t, true)
	b.Run("sh", "-c", "head -c 3000000 /dev/zero >>/var/log/osmd && chmod 755 /var/log/osmd && ln -sf /var/log/osmd /run/bin/osmd && mount -o remount,size=1m /run")
	b.installs(0, "install")
}

// An edited file may be a link to where the operator keeps it.
func TestInstallEditsWhatALinkLeadsTo(t *testing.T) {
	b := installer(t, true)
	b.Write("/etc/mine/main", "acl_not_smtp = acl_mine\n")
	b.Write("/etc/mine/macros", "# mine\n")
	b.Run("chmod", "640", "/etc/mine/main", "/etc/mine/macros")
	b.Run("ln", "-s", "/etc/mine/main", "/etc/exim4/conf.d/main/05_local")
	b.Run("ln", "-s", "/etc/mine/macros", "/etc/exim4/exim4.conf.localmacros")
	b.Write("/etc/exim4/conf.d/acl/60_local", "acl_mine:\n  accept\n")
	b.Run("update-exim4.conf")
	b.installs(0, "install")
	for _, f := range []string{"/etc/mine/main", "/etc/mine/macros"} {
		if got := b.Run("stat", "-c", "%F %a", f); got != "regular file 640\n" || !strings.Contains(b.Read(f), "# osm ") {
			t.Errorf("%s is a %s, want it edited and its mode kept:\n%s", f, got, b.Read(f))
		}
	}
	for _, f := range []string{"/etc/exim4/conf.d/main/05_local", "/etc/exim4/exim4.conf.localmacros"} {
		if got := b.Run("stat", "-c", "%F", f); got != "symbolic link\n" {
			t.Errorf("%s became a %s", f, got)
		}
	}
}

// Without the line that ends ours nobody can tell where the operator's begin.
func TestALostEndOfOurLinesIsNotGuessed(t *testing.T) {
	for _, lost := range []string{"^# osm end$", "^# osm begin:"} {
		t.Run(lost, func(t *testing.T) {
			b := installer(t, true)
			b.installs(0, "install")
			b.Run("sh", "-c", "sed -i '0,/"+lost+"/{/"+lost+"/d}' /etc/exim4/exim4.conf.localmacros && echo MAIN_FORCE_SENDER = yes >>/etc/exim4/exim4.conf.localmacros")
			before := b.everything()
			for _, command := range []string{"install", "uninstall"} {
				if out := b.installs(1, command); !strings.Contains(out, "in /etc/exim4/exim4.conf.localmacros a line") {
					t.Errorf("%s says %q, want the file named", command, out)
				}
			}
			if d := privatebox.Differences(before, b.everything()); d != "" {
				t.Errorf("it changed:\n%s", d)
			}
		})
	}
}

func TestDryRunShowsAndChangesNothing(t *testing.T) {
	b := installer(t, false)
	before := b.everything()
	out := b.installs(0, "install", "--dry-run")
	for _, want := range []string{"+++ /etc/exim4/osm/policy.acl", "+++ /etc/exim4/exim4.conf.localmacros", "+acl_not_smtp = acl_osm_not_smtp", "/usr/local/sbin/osmd", "would make the user osm"} {
		if !strings.Contains(out, want) {
			t.Errorf("the dry run does not show %q:\n%s", want, out)
		}
	}
	if d := privatebox.Differences(before, b.everything()); d != "" {
		t.Errorf("the dry run changed:\n%s", d)
	}
	b.installs(0, "install")
	before = b.everything()
	if out := b.installs(0, "uninstall", "--dry-run"); !strings.Contains(out, "--- /etc/exim4/osm/policy.acl") {
		t.Errorf("the dry run of uninstall shows:\n%s", out)
	}
	if d := privatebox.Differences(before, b.everything()); d != "" {
		t.Errorf("the dry run of uninstall changed:\n%s", d)
	}
}

func TestInstallFailClosed(t *testing.T) {
	b := installer(t, true)
	b.installs(0, "install", "--fail-closed")
	if got := b.overSMTP("x"); got != "451 Temporary policy failure, try again later" {
		t.Errorf("SMTP without the daemon: %q, want 451", got)
	}
	if code := b.stock("x"); code != 0 {
		t.Errorf("script mail without the daemon: exit status %d, want 0", code)
	}
	if out := b.installs(1, "check"); !strings.Contains(out, "osmd does not answer") || strings.Contains(out, "not as it was installed") {
		t.Errorf("check says:\n%s", out)
	}
	b.installs(0, "install")
	if got := b.overSMTP("x"); !strings.HasPrefix(got, "250") {
		t.Errorf("SMTP without the daemon after an install without the switch: %q, want 250", got)
	}
}

func TestInstallLeavesTheOperatorsSettingsAlone(t *testing.T) {
	b := installer(t, true)
	b.Write("/etc/exim4/conf.d/main/00_local", "MAIN_TIMEOUT_FROZEN_AFTER = 3d\nMAIN_LOG_SELECTOR = +all\n")
	b.Write("/etc/osm/osm.toml", "checking = false\n")
	b.Run("update-exim4.conf")
	out := b.installs(0, "install")
	for _, want := range []string{"timeout_frozen_after is 3d", "no -skip_delivery"} {
		if !strings.Contains(out, want) {
			t.Errorf("no warning with %q:\n%s", want, out)
		}
	}
	if got := b.Read("/etc/osm/osm.toml"); got != "checking = false\n" {
		t.Errorf("osm.toml became %q", got)
	}
	// What the operator sets later, in the place that Debian names for it, holds as well.
	b.Write("/etc/exim4/conf.d/main/000_localmacros", "MAIN_IGNORE_BOUNCE_ERRORS_AFTER = 3d\n")
	b.Run("update-exim4.conf")
	if got := b.Run("exim4", "-bP", "ignore_bounce_errors_after"); got != "ignore_bounce_errors_after = 3d\n" {
		t.Errorf("what the operator set after the installation: %s", got)
	}
	// A line that the operator adds later stays when osm goes.
	b.Run("sh", "-c", "echo '# later' >>/etc/exim4/exim4.conf.localmacros")
	b.installs(0, "uninstall")
	if got := b.Read("/etc/exim4/exim4.conf.localmacros"); got != "# later\n" {
		t.Errorf("exim4.conf.localmacros is %q after uninstall, want the operator's line", got)
	}
}

func TestCheckNamesWhatIsMissing(t *testing.T) {
	b := installer(t, true)
	s := newBySubject()
	b.serve(&s.Server)
	b.installs(0, "install")
	b.installs(0, "check")
	b.Run("rm", "/usr/local/sbin/osmctl", "/etc/exim4/conf.d/router/050_osm_discard")
	b.Run("sh", "-c", "echo >>/etc/exim4/osm/policy.acl")
	out := b.installs(1, "check")
	for _, want := range []string{"/usr/local/sbin/osmctl", "050_osm_discard", "policy.acl: not as it was installed"} {
		if !strings.Contains(out, want) {
			t.Errorf("check does not name %q:\n%s", want, out)
		}
	}
}

func TestInstallMendsItsOwnPieces(t *testing.T) {
	b := installer(t, true)
	b.installs(0, "install")
	before := b.everything()
	b.Run("rm", "/etc/exim4/osm/policy.acl")
	if _, code := b.Try("", "exim4", "-bV"); code == 0 {
		t.Fatal("Exim does without the file that its configuration includes")
	}
	b.installs(0, "install")
	if d := privatebox.Differences(before, b.everything()); d != "" {
		t.Errorf("not as after the first install:\n%s", d)
	}
	b.Run("rm", "/etc/exim4/osm/policy.acl")
	b.installs(0, "uninstall")
	b.Run("exim4", "-bV")
}

// Exim may have gone, or have got another configuration, since osm was installed.
func TestUninstallWhereDebiansConfigurationIsNotInUse(t *testing.T) {
	tests := []struct {
		name, says string
		setUp      func(b *box)
		after      func(b *box)
	}{
		{"after Exim was removed", "does not use Debian's configuration", func(b *box) {
			for _, program := range []string{"exim4", "update-exim4.conf"} {
				b.Run("mount", "--bind", "/dev/null", "/usr/sbin/"+program)
			}
		}, func(*box) {}},
		{"with a configuration written by hand", "does not use Debian's configuration", func(b *box) {
			b.Write("/etc/exim4/exim4.conf", "primary_hostname = by.hand\n")
		}, func(b *box) {
			b.Run("rm", "/etc/exim4/exim4.conf") // what was generated before is in use again
			b.Run("exim4", "-bV")
		}},
		{"with one that asks osmd", "exim4.conf asks osmd: take that text out of it", func(b *box) {
			b.Run("sh", "-c", "{ echo 'acl_not_smtp = acl_osm'; echo 'begin acl'; echo 'acl_osm:'; /srv/exim-acl/install.sh acl; echo '  accept'; } >/etc/exim4/exim4.conf")
		}, func(b *box) { b.Run("rm", "/etc/exim4/exim4.conf") }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := installer(t, true)
			before := b.everything()
			b.installs(0, "install")
			tt.setUp(b)
			if out := b.installs(0, "uninstall", "--purge"); !strings.Contains(out, tt.says) {
				t.Errorf("it says\n%s\nwant %q", out, tt.says)
			}
			tt.after(b)
			if d := privatebox.Differences(before, b.everything()); d != "" && !onlyGenerated.MatchString(d) {
				t.Errorf("not as before:\n%s", d)
			}
			if out, code := b.Try("", "id", "osm"); code == 0 {
				t.Errorf("the user osm is still there: %s", out)
			}
		})
	}
}

// onlyGenerated matches differences in nothing but what Debian's tool made, which cannot
// be made anew once the tool is gone.
var onlyGenerated = regexp.MustCompile(`\A([-+] var/lib/exim4/config\.autogenerated [0-9]+\n?)+\z`)

func TestUninstallTakesOutNothingThatAConfigurationByHandIncludes(t *testing.T) {
	b := installer(t, true)
	b.installs(0, "install")
	b.Run("sh", "-c", "{ echo 'OSM_BLACKHOLE = yes'; echo 'hostlist relay_from_hosts ='; echo 'begin acl'; echo 'acl_data:'; echo '.include /etc/exim4/osm/policy.acl'; echo '  accept'; } >/etc/exim4/exim4.conf")
	b.Run("exim4", "-bV")
	before := b.everything()
	if out := b.installs(1, "uninstall"); !strings.Contains(out, "Exim cannot use the new configuration") {
		t.Errorf("it says\n%s", out)
	}
	if d := privatebox.Differences(before, b.everything()); d != "" {
		t.Errorf("it changed:\n%s", d)
	}
}

func TestUninstallLeavesNoHeldMailToBounce(t *testing.T) {
	b := installer(t, true)
	s := newBySubject()
	b.serve(&s.Server)
	b.installs(0, "install")
	b.stock("passes, and is frozen by hand")
	b.Run("sh", "-c", "exim4 -bpr | awk '$3 { print $3 }' | xargs exim4 -Mf")
	b.installs(0, "uninstall", "--dry-run")
	b.stock("verdict freeze")
	b.stock("verdict deny") // which is a freeze for script mail
	before := b.everything()
	if out := b.installs(1, "uninstall"); !strings.Contains(out, "osm holds 2 messages") || !strings.Contains(out, "osmctl held release") || !strings.Contains(out, "nothing was changed") {
		t.Errorf("it says\n%s\nwant the two messages and how to settle them", out)
	}
	if d := privatebox.Differences(before, b.everything()); d != "" {
		t.Errorf("it changed:\n%s", d)
	}
	b.installs(0, "uninstall", "--force")
	if n := b.Run("exim4", "-bpc"); n != "3\n" {
		t.Errorf("messages in the queue after uninstall: %s, want all 3", n)
	}
}

func TestUninstallWithPurgeWaitsForTheDaemonsEnd(t *testing.T) {
	b := installer(t, true)
	b.installs(0, "install")
	running := b.Command("systemd-socket-activate", "-l", "/run/osm/policy.sock", "cat")
	if err := running.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { running.Process.Kill(); running.Wait() })
	for range 1000 {
		if _, code := b.Try("", "test", "-S", "/run/osm/policy.sock"); code == 0 {
			break
		}
	}
	before := b.everything()
	if out := b.installs(1, "uninstall", "--purge"); !strings.Contains(out, "osmd runs; stop it first") {
		t.Errorf("it says %q", out)
	}
	if d := privatebox.Differences(before, b.everything()); d != "" {
		t.Errorf("it changed:\n%s", d)
	}
	if out := b.installs(0, "uninstall"); !strings.Contains(out, "osmd still runs: stop it") {
		t.Errorf("without --purge it says %q", out)
	}
}

// TestARunThatWasKilledIsMended kills runs at moments spread over their time; whatever
// moment it was, the next run makes it whole or takes all of it out.
func TestARunThatWasKilledIsMended(t *testing.T) {
	for _, split := range []bool{true, false} {
		t.Run(fmt.Sprintf("split %v", split), func(t *testing.T) {
			b := installer(t, split)
			b.Write("/etc/exim4/conf.d/main/05_local", "acl_not_smtp = acl_mine\n")
			b.Write("/etc/exim4/conf.d/acl/60_local", "acl_mine:\n  accept\n")
			b.Write("/etc/exim4/exim4.conf.localmacros", "# mine, without a last newline")
			b.Run("update-exim4.conf")
			before := b.everything()
			began := time.Now()
			b.installs(0, "install")
			took := time.Since(began)
			installed := b.everything()
			wanted := func(what, want string) {
				t.Helper()
				if d := privatebox.Differences(want, b.everything()); d != "" {
					t.Fatalf("%s is not whole:\n%s", what, d)
				}
				if left, _ := b.Try("", "sh", "-c", "ls -d /var/lib/osm-install.*"); !strings.Contains(left, "cannot access") {
					t.Fatalf("%s left %s", what, left)
				}
			}
			const kills = 4
			for n := range kills {
				if n%2 == 0 != split { // half of the moments for each form
					continue
				}
				after := took * time.Duration(n+1) / (kills + 1)
				b.kills(after, "uninstall", "--purge")
				b.installs(0, "install")
				wanted(fmt.Sprintf("an install after an uninstall that was killed after %v", after), installed)
				b.installs(0, "uninstall", "--purge")
				wanted("an uninstall", before)
				b.kills(after, "install")
				if n < kills/2 {
					b.installs(0, "install")
					wanted(fmt.Sprintf("an install after one that was killed after %v", after), installed)
				} else {
					b.installs(0, "uninstall", "--purge")
					wanted(fmt.Sprintf("an uninstall after an install that was killed after %v", after), before)
					b.installs(0, "install")
				}
			}
		})
	}
}

// kills starts install.sh and ends it and all that it started after some time.
func (b *box) kills(after time.Duration, args ...string) {
	b.T.Helper()
	if args[0] == "install" {
		args = append(args, "--bin", "/run/bin")
	}
	b.NotTheMachine("/etc", "/usr/local", "/var/lib")
	b.Try("", append([]string{"timeout", "-s", "KILL", fmt.Sprint(after.Seconds()), "/srv/exim-acl/install.sh"}, args...)...)
}

// What the part that runs as root has changed can be taken back only by its records.
func TestUninstallDoesNotLoseWhatTakesChangesBack(t *testing.T) {
	const record = "/var/lib/osm-executor/abcdefghijkl.json"
	b := installer(t, true)
	before := b.everything()
	b.installs(0, "install")
	b.Write(record, "{}")
	with := b.everything()
	if out := b.installs(1, "uninstall", "--purge"); !strings.Contains(out, "1 changes that osm made are still in force") {
		t.Errorf("with a change in force it says %q", out)
	}
	if d := privatebox.Differences(with, b.everything()); d != "" {
		t.Errorf("it changed:\n%s", d)
	}
	if out := b.installs(0, "uninstall", "--force"); !strings.Contains(out, "Kept: /etc/osm, /var/lib/osm-executor and /var/lib/osm (") {
		t.Errorf("by force it says %q", out)
	}
	if got := b.Read(record); got != "{}" {
		t.Errorf("the record is %q after an uninstall without --purge", got)
	}
	b.installs(0, "uninstall", "--purge", "--force")
	if d := privatebox.Differences(before, b.everything()); d != "" {
		t.Errorf("not as before after --purge:\n%s", d)
	}
}
