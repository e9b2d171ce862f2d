package cpanel

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	eximacl "osm/exim-acl"
	"osm/policy"
	"osm/tests/box"
)

const (
	smtpACL   = "/usr/local/cpanel/etc/exim/acls/ACL_OUTGOING_SMTP_CHECKALL_BLOCK/zz_osm_out_smtp"
	scriptACL = "/usr/local/cpanel/etc/exim/acls/ACL_OUTGOING_NOTSMTP_CHECKALL_BLOCK/zz_osm_out_notsmtp"
)

// kept are the lines of what stays without --purge: the operator's settings and the store.
var kept = regexp.MustCompile(`(?m)^(etc/osm|var/lib/osm|var/lib/osm-install)( |/).*\n`)

func TestInstallAgainAndARebuildChangeNothing(t *testing.T) {
	s := newServer(t)
	s.systemd()
	s.installs(0, "install")
	installed := s.everything()
	s.calls()
	if out := s.installs(0, "install"); strings.Contains(out, "wrote") || strings.Contains(out, "restarted") || strings.Contains(out, "registered") {
		t.Errorf("the second install did:\n%s", out)
	}
	if calls := s.calls(); strings.Contains(calls, "restart") || strings.Contains(calls, "manage_hooks add") {
		t.Errorf("the second install called:\n%s", calls)
	}
	if out := s.installs(0, "install", "--dry-run"); !strings.Contains(out, "nothing to change") {
		t.Errorf("a dry run of a third install shows:\n%s", out)
	}
	if out := s.installs(0, "uninstall", "--dry-run"); !strings.Contains(out, "--- "+smtpACL) || !strings.Contains(out, "index.cgi") {
		t.Errorf("a dry run of uninstall shows:\n%s", out)
	}
	s.Run("/usr/local/cpanel/scripts/buildeximconf")
	s.unchanged(installed, "a second install, dry runs and a build of cPanel's own")
}

func TestUninstallLeavesTheBytesThatWereThere(t *testing.T) {
	tests := []struct {
		name    string
		prepare func(*server)
	}{
		{"as cPanel has it", func(*server) {}},
		{"no file of the administrator's", func(s *server) { s.Run("rm", "/etc/exim.conf.local") }},
		{"settings of the administrator's, no last newline", func(s *server) {
			s.Write("/etc/exim.conf.local", "@CONFIG@\nmessage_size_limit = 20M\nlog_selector = +subject\n\n@ROUTEREND@\n# the last line")
			s.Run("chmod", "600", "/etc/exim.conf.local")
		}},
		{"switches and a watchdog's list without a last newline", func(s *server) {
			s.Write("/etc/exim.conf.localopts", "senderverify=1\nacl_x=0")
			s.Write("/etc/chkserv.d/chkservd.conf", "exim:1")
		}},
		{"files behind symbolic links", func(s *server) {
			s.behindALink("/etc/exim.conf.local")
			s.behindALink("/etc/exim.conf.localopts")
			s.behindALink("/etc/chkserv.d/chkservd.conf")
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newServer(t)
			s.systemd()
			tt.prepare(s)
			s.Run("/usr/local/cpanel/scripts/buildeximconf")
			before := s.everything()
			s.installs(0, "install")
			s.Run("sed", "-i", "--follow-symlinks", "1iacl_zz_osm_out_smtp=1", "/etc/exim.conf.localopts") // as WHM does when its settings are saved
			s.installs(0, "uninstall")
			if d := box.Differences(before, kept.ReplaceAllString(s.everything(), "")); d != "" {
				t.Errorf("not as before:\n%s", d)
			}
			s.installs(0, "uninstall", "--purge")
			s.unchanged(before, "uninstall --purge")
			if out, code := s.Try("", "id", "osm"); code == 0 {
				t.Errorf("the user osm is still there after --purge: %s", out)
			}
		})
	}
}

// behindALink moves a file away, as an administrator does who keeps his files elsewhere.
func (s *server) behindALink(path string) {
	s.T.Helper()
	s.Run("mkdir", "-p", "/etc/mine")
	s.Run("mv", path, "/etc/mine/")
	s.Run("ln", "-s", "/etc/mine/"+filepath.Base(path), path)
}

// systemd lets systemctl only note its arguments, and lets the installer believe in it.
func (s *server) systemd() {
	s.T.Helper()
	s.Run("mkdir", "-p", "/run/systemd/system")
	s.program("/run/systemctl", `echo "$*" >>/run/standin/systemctl; case $1 in is-enabled) exit 1 ;; esac`)
	s.Run("mount", "--bind", "/run/systemctl", "/usr/bin/systemctl")
}

func TestInstallWritesWhatTheGoPackageSays(t *testing.T) {
	s := newServer(t)
	s.installs(0, "install")
	for _, closed := range []bool{false, true} {
		if closed {
			s.installs(0, "install", "--fail-closed")
		}
		want := eximacl.ACLText(eximacl.ACLParams{EximUID: 47, CPanel: true, FailClosed: closed})
		for _, path := range []string{smtpACL, scriptACL} {
			got := s.Read(path)
			if !strings.HasSuffix(got, "\n"+want) {
				t.Errorf("%s ends not with the ACL text:\n%s", path, got)
			}
			if mode := s.Run("stat", "-c", "%a %U:%G", path); mode != "644 root:root\n" {
				t.Errorf("%s has %s, want 644 root:root", path, mode)
			}
			if m := regexp.MustCompile(`_[ODU]|\[%|verify=sender`).FindString(got); m != "" {
				t.Errorf("%s holds %q, which cPanel's builder would not leave alone", path, m)
			}
			if !strings.Contains(s.Read("/etc/exim.conf"), want) {
				t.Errorf("/etc/exim.conf does not hold the text of %s", path)
			}
		}
	}
	if got := s.Run("exim", "-bP", "timeout_frozen_after", "ignore_bounce_errors_after", "log_selector"); got !=
		"timeout_frozen_after = 5w\nignore_bounce_errors_after = 5w\nlog_selector = +incoming_port +smtp_connection +all_parents -skip_delivery\n" {
		t.Errorf("Exim's settings:\n%s", got)
	}
	if got := s.Run("exim", "-bP", "router_list"); !strings.HasPrefix(got, "osm_discard\n") {
		t.Errorf("Exim's routers:\n%s", got)
	}
	settings := s.Read("/etc/osm/osm.toml") + s.Read("/etc/osm/executor.toml")
	for _, want := range []string{"\n[exim]\n", `user = "mailnull"`, `group = "mail"`, `binary = "/usr/sbin/exim"`, `spool = "/var/spool/exim"`,
		`exim_user = "mailnull"`, `exim_binary = "/usr/sbin/exim"`, `exim_spool = "/var/spool/exim"`} {
		if !strings.Contains(settings, want) {
			t.Errorf("the settings have no line %s", want)
		}
	}
}

func TestOutgoingMailIsAskedAboutAndInboundMailNever(t *testing.T) {
	s := newServer(t)
	a := s.answers()
	if out := s.installs(0, "install"); !strings.Contains(out, "Exim asks osmd about every outgoing message, and osmd answers.") {
		t.Errorf("the installer says:\n%s", out)
	}
	if list := a.take(); len(list) != 2 || list[0].Local() || !list[1].Local() ||
		list[0].EnvelopeSender != "postmaster@whm.example" || list[1].EnvelopeSender != "postmaster@whm.example" {
		t.Errorf("its own two tests asked %+v", list)
	}
	if queued := s.Run("exim", "-bp"); queued != "" {
		t.Errorf("its own tests left in the queue: %s", queued)
	}
	s.asksAsItShould(a)
	// What cPanel does later leaves it in place.
	s.Run("/usr/local/cpanel/scripts/buildeximconf")
	s.Run("/usr/local/cpanel/scripts/upcp")
	s.asksAsItShould(a)
	s.installs(0, "uninstall")
	a.take()
	s.script("shop", "x")
	s.smtp("x", "--auth-user", "info@shop.example", "--auth-password", "pw-shop")
	if list := a.take(); len(list) != 0 {
		t.Errorf("asked %d times after uninstall", len(list))
	}
}

func (s *server) asksAsItShould(a *asked) {
	t := s.T
	t.Helper()
	login := []string{"--auth-user", "info@shop.example", "--auth-password", "pw-shop"}
	tests := []struct {
		name string
		send func()
		is   func(*policy.Submission) bool // nil: must not be asked about
	}{
		{"a script", func() { s.script("shop", "x") }, func(q *policy.Submission) bool {
			return q.Local() && q.CallerUID == 20001 && q.WorkingDirectory == "/tmp" && q.VhostOwner == ""
		}},
		{"a script of nobody's, whose site cPanel finds", func() {
			s.script("nobody", "x", "X-PHP-Script: blog.example/mail.php for 192.0.2.9")
		}, func(q *policy.Submission) bool {
			return q.Local() && q.Ident == "nobody" && q.VhostOwner == "20002:blog.example/mail.php" && strings.Contains(q.PHPScript, "blog.example")
		}},
		{"a mailbox with a password", func() { s.smtp("x", login...) }, func(q *policy.Submission) bool {
			return q.AuthenticatedID == "info@shop.example" && q.Authenticator == "dovecot_plain" && q.LocalUser == ""
		}},
		{"SMTP from this host", func() {
			s.Run("setpriv", "--reuid=20002", "--regid=20002", "--clear-groups", "--", "swaks", "--server", "127.0.0.1",
				"--from", "a@blog.example", "--to", "friend@elsewhere.example", "--body", "x")
		}, func(q *policy.Submission) bool { return q.LocalUser == "blog" && q.Authenticator == "" }},
		{"an address that logged in lately", func() { s.from("192.0.2.77", "friend@elsewhere.example") },
			func(q *policy.Submission) bool {
				return q.RecentAuth == "info@shop.example|shop.example" && q.ClientIP.String() == "192.0.2.77"
			}},
		{"an address that may always relay", func() { s.from("192.0.2.88", "friend@elsewhere.example") },
			func(q *policy.Submission) bool { return q.AlwaysRelay == "1" }},
		{"inbound mail", func() { s.from("198.51.100.1", "info@shop.example") }, nil},
		{"inbound mail that also tried to relay", func() {
			if out := s.from("198.51.100.1", "friend@elsewhere.example", "info@shop.example"); !strings.Contains(out, "550 relay not permitted") || !strings.Contains(out, "354") {
				t.Errorf("the session:\n%s", out)
			}
		}, nil},
		{"inbound mail of an address that may relay", func() { s.from("192.0.2.88", "info@shop.example") }, nil},
		{"a bounce of Exim's own", func() {
			s.Run("setpriv", "--reuid=mailnull", "--regid=mail", "--clear-groups", "--", "sh", "-c",
				"printf 'Subject: x\n\nx\n' | sendmail -i -odq -f '<>' friend@elsewhere.example")
		}, nil},
	}
	for _, tt := range tests {
		a.take()
		tt.send()
		list := a.take()
		switch {
		case tt.is == nil && len(list) > 0:
			t.Errorf("%s: asked about %+v", tt.name, list[0])
		case tt.is != nil && len(list) != 1:
			t.Errorf("%s: asked %d times, want once; log:\n%s", tt.name, len(list), s.Read("/var/log/exim_mainlog"))
		case tt.is != nil && !tt.is(list[0]):
			t.Errorf("%s: asked about %+v", tt.name, list[0])
		}
	}
	if out := s.smtp("verdict deny", login...); !strings.Contains(out, "550 Limit reached (4k7qm2xd)") {
		t.Errorf("a refusal seen by the client:\n%s", out)
	}
	s.script("shop", "verdict freeze")
	if out := s.Run("exim", "-bp"); !strings.Contains(out, "*** frozen ***") {
		t.Errorf("the message is not frozen:\n%s", out)
	}
	if out, code := s.script("shop", "verdict discard"); code != 0 {
		t.Errorf("a discarded message: exit status %d, %s", code, out)
	}
	s.Run("sh", "-c", "exim -bpr | awk '$3 { print $3 }' | xargs -r exim -M >/dev/null 2>&1; true")
	if log := s.Read("/var/log/exim_mainlog"); !strings.Contains(log, "=> :blackhole: <friend@elsewhere.example> R=osm_discard") {
		t.Errorf("the router did not drop the discarded message; log:\n%s", log)
	}
	s.Run("sh", "-c", "exim -bpr | awk '$3 { print $3 }' | xargs -r exim -Mrm >/dev/null; : >/var/log/exim_mainlog")
	a.take()
}

func TestInstallRefusesAndChangesNothing(t *testing.T) {
	tests := []struct {
		name, want string
		setUp      func(s *server)
	}{
		{"Exim cannot use what is in force", "mend that first", func(s *server) { s.Run("sh", "-c", "echo no_such_option >>/etc/exim.conf") }},
		{"cPanel cannot build what it has", "mend that first", func(s *server) { s.fault("dry-run") }},
		{"a part of cPanel is missing", "this cPanel is not whole", func(s *server) { s.Run("rm", "/usr/local/cpanel/bin/register_appconfig") }},
		{"no programs", "build it first", func(s *server) { s.Run("rm", "/run/bin/osmctl") }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newServer(t)
			tt.setUp(s)
			before := s.everything()
			if out := s.installs(1, "install"); !strings.Contains(out, tt.want) || !strings.Contains(out, "nothing was changed") {
				t.Errorf("it says %q, want %q and that nothing was changed", out, tt.want)
			}
			s.unchanged(before, "a refused install")
		})
	}
}

// TestInstallTakesBackWhatItDidWhenAStepFails lets each step fail in turn. buildeximconf is
// wrapped where a fault is to show itself only with osm's own files.
func TestInstallTakesBackWhatItDidWhenAStepFails(t *testing.T) {
	tests := []struct {
		name, want string
		setUp      func(s *server)
	}{
		{"the trial with our files fails", "cannot build Exim's new configuration", func(s *server) { s.whenOursAreThere("dry-run") }},
		{"the build fails", "cannot build Exim's configuration", func(s *server) { s.fault("build") }},
		{"the builder forgets our files", `there is no "# BEGIN INSERT zz_osm_out_notsmtp"`, func(s *server) { s.whenOursAreThere("forgets") }},
		{"the administrator's own ACLs", "ACL insert failed", func(s *server) {
			s.Write("/etc/exim.conf.local", "%ACLBLOCK%\ncheck_mail:\n  accept\ncheck_recipient:\n  accept\ncheck_message:\n  accept\ncheck_not_smtp:\n  accept\n")
			s.Run("/usr/local/cpanel/scripts/buildeximconf")
		}},
		{"no question is asked", "did not lead to a question", func(s *server) {
			s.Write("/usr/local/cpanel/etc/exim/acls/ACL_OUTGOING_SMTP_CHECKALL_BLOCK/begin_first", "  accept\n")
			s.Run("/usr/local/cpanel/scripts/buildeximconf")
		}},
		{"WHM refuses the page", "does not register the page", func(s *server) { s.fault("register") }},
		{"WHM only says that it took the page", "did not register the page", func(s *server) { s.fault("register-nothing") }},
		{"Exim takes less than before", "now answers its commands with 220 250 550", func(s *server) {
			s.Write("/usr/local/cpanel/etc/exim/acls/ACL_MAIL_PRE_BLOCK/begin_first", "  deny\n    condition = ${if exists{"+smtpACL+"}}\n")
			s.Run("/usr/local/cpanel/scripts/buildeximconf")
		}},
		{"Exim refuses all mail of scripts", "would refuse all mail of scripts: unknown ACL", func(s *server) {
			s.forgottenACL(".ifdef OSM_BLACKHOLE") // which ours sets
		}},
		{"Exim does not start again", "does not start again", func(s *server) { s.restartFailsWhile("-e " + smtpACL) }},
		{"Exim does not start again, and no hook was taken", "does not start again", func(s *server) {
			s.fault("hooks")
			s.restartFailsWhile("-e " + smtpACL)
		}},
		{"a folder cannot be written", "Read-only file system", func(s *server) {
			s.Run("mount", "-t", "tmpfs", "-o", "ro", "tmpfs", "/usr/local/cpanel/3rdparty/bin")
			s.Run("sh", "-c", "mount -o remount,rw /usr/local/cpanel/3rdparty/bin && ln -s /usr/bin/perl /usr/local/cpanel/3rdparty/bin/perl && mount -o remount,ro /usr/local/cpanel/3rdparty/bin")
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newServer(t)
			tt.setUp(s)
			before, users := s.everything(), s.Run("cat", "/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow")
			out := s.installs(1, "install")
			if !strings.Contains(out, tt.want) || !strings.Contains(out, "everything is as it was before") {
				t.Errorf("it says\n%s\nwant %q", out, tt.want)
			}
			s.unchanged(before, "a failed install")
			if now := s.Run("cat", "/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow"); now != users {
				t.Errorf("users before\n%s\nand after\n%s", users, now)
			}
			s.Run("exim", "-bV")
		})
	}
}

// whenOursAreThere puts a program before buildeximconf that switches a fault on as soon as
// one of our ACL files is in its place.
func (s *server) whenOursAreThere(fault string) {
	s.T.Helper()
	s.faultWhile("-e "+smtpACL, "buildeximconf", fault)
}

// restartFailsWhile lets Exim not start as long as the condition holds.
func (s *server) restartFailsWhile(condition string) {
	s.T.Helper()
	s.faultWhile(condition, "restartsrv_exim", "restart-exim")
}

func (s *server) faultWhile(condition, script, fault string) {
	s.T.Helper()
	path := "/usr/local/cpanel/scripts/" + script
	s.Run("mv", path, path+".real")
	s.program(path, fmt.Sprintf("if [ %s ]; then echo %s; fi >/run/standin/faults\nexec %s.real \"$@\"\n", condition, fault, path))
}

// forgottenACL lets the ACL of script mail go on to one that does not exist, if so.
func (s *server) forgottenACL(condition string) {
	s.T.Helper()
	s.Write("/usr/local/cpanel/etc/exim/acls/ACL_OUTGOING_NOTSMTP_CHECKALL_BLOCK/begin_first",
		condition+"\n  warn\n    acl = acl_forgotten\n.endif\n")
	s.Run("/usr/local/cpanel/scripts/buildeximconf")
}

func TestWhatIsBrokenAlreadyIsOnlyNamed(t *testing.T) {
	s := newServer(t)
	s.forgottenACL(".ifndef NEVER_SET")
	if out := s.installs(0, "install"); !strings.Contains(out, "refuses all mail of scripts, as it did before: unknown ACL") {
		t.Errorf("the installer says:\n%s", out)
	}
	if out := s.installs(1, "check"); !strings.Contains(out, "missing: Exim refuses all mail of scripts: unknown ACL") {
		t.Errorf("check says:\n%s", out)
	}
}

func TestWhatCouldNotBeTakenBackIsNamed(t *testing.T) {
	s := newServer(t)
	keeps := regexp.MustCompile(`(?m)^var/lib/osm-install\.kept-.*\n`)
	fails := func(verb string) {
		t.Helper()
		before := s.everything()
		s.fault("restart-exim")
		out := s.installs(1, verb)
		if strings.Contains(out, "everything is as it was") || !strings.Contains(out, "this failed: restart_exim_again") || !keeps.MatchString(s.everything()) {
			t.Errorf("%s says\n%s\nwant what could not be taken back", verb, out)
		}
		if d := box.Differences(keeps.ReplaceAllString(before, ""), keeps.ReplaceAllString(s.everything(), "")); d != "" {
			t.Errorf("%s: what could be given back was not:\n%s", verb, d)
		}
		s.fault()
	}
	fails("install")
	s.installs(0, "install")
	fails("uninstall")
	s.installs(0, "uninstall", "--purge")
}

func TestUninstallTakesBackWhatItDidWhenAStepFails(t *testing.T) {
	for fault, want := range map[string]string{
		"build": "cannot build Exim's configuration", "unregister": "does not take the page out of WHM",
		"unregister-nothing": "did not take the page out of WHM", "restart": "does not start again",
	} {
		t.Run(fault, func(t *testing.T) {
			s := newServer(t)
			if fault == "restart" {
				s.restartFailsWhile("! -e " + smtpACL + " -a ! -e /run/mended")
			}
			s.installs(0, "install")
			installed := s.everything()
			s.fault(fault)
			if out := s.installs(1, "uninstall"); !strings.Contains(out, want) || !strings.Contains(out, "everything is as it was before") {
				t.Errorf("it says\n%s\nwant %q", out, want)
			}
			s.unchanged(installed, "a failed uninstall")
			s.fault()
			s.Write("/run/mended", "")
			s.installs(0, "install")
			s.unchanged(installed, "an install after it")
			s.installs(0, "uninstall", "--purge")
		})
	}
}

func TestWhatTheAdministratorSwitchedOffStaysOff(t *testing.T) {
	s := newServer(t)
	a := s.answers()
	s.installs(0, "install")
	off := "acl_zz_osm_out_notsmtp=0\n"
	s.Run("sh", "-c", "printf '"+off+"' >>/etc/exim.conf.localopts")
	s.Run("/usr/local/cpanel/scripts/buildeximconf")
	out := s.installs(0, "install")
	if !strings.Contains(out, "acl_zz_osm_out_notsmtp=0 in /etc/exim.conf.localopts") || !strings.Contains(out, "Exim asks osmd about mail by SMTP, and osmd answers.") {
		t.Errorf("the installer says:\n%s", out)
	}
	if !strings.Contains(s.Read("/etc/exim.conf.localopts"), off) {
		t.Error("the installer switched it on")
	}
	a.take()
	s.script("shop", "x")
	if list := a.take(); len(list) != 0 {
		t.Errorf("asked %d times about a script", len(list))
	}
	if out := s.installs(1, "check"); !strings.Contains(out, "the administrator switched zz_osm_out_notsmtp off") {
		t.Errorf("check says:\n%s", out)
	}
	// WHM's reset switches both off and puts the administrator's file aside.
	s.Run("/usr/local/cpanel/scripts/upcp", "--reset")
	if out := s.installs(0, "install"); !strings.Contains(out, "mail of scripts") || !strings.Contains(out, "mail by SMTP is not checked") || strings.Contains(out, "Exim asks") {
		t.Errorf("after a reset the installer says:\n%s", out)
	}
	s.installs(0, "uninstall", "--purge")
}

func TestInstallDoesWithLessWhereCPanelCannotTakeAll(t *testing.T) {
	tests := []struct {
		fault, warning string
		router         bool
	}{
		{"no-local", "nothing was added to /etc/exim.conf.local", false},
		{"options", "trying with less", false},
		{"late", "does not come first", false},
		{"selector", "log_selector has lost +all_parents", true},
	}
	for _, tt := range tests {
		t.Run(tt.fault, func(t *testing.T) {
			s := newServer(t)
			s.behindALink("/etc/exim.conf.local") // which must stay one
			before := s.everything()
			a := s.answers()
			s.fault(tt.fault)
			out := s.installs(0, "install")
			if !strings.Contains(out, tt.warning) || !strings.Contains(out, "Exim asks osmd about every outgoing message") {
				t.Errorf("the installer says:\n%s", out)
			}
			installed := s.everything()
			s.installs(0, "install")
			s.unchanged(installed, "the second install")
			a.take()
			if out, code := s.script("shop", "verdict discard"); code != 0 {
				t.Errorf("a discarded message: exit status %d, %s", code, out)
			}
			if out := s.Run("exim", "-bp"); strings.Contains(out, "*** frozen ***") == tt.router {
				t.Errorf("without a router a discarded message must be frozen:\n%s", out)
			}
			s.installs(0, "uninstall", "--purge", "--force")
			s.fault()
			s.Run("/usr/local/cpanel/scripts/buildeximconf")
			s.unchanged(before, "uninstall")
		})
	}
}

func TestInstallLeavesTheAdministratorsSettingsAlone(t *testing.T) {
	s := newServer(t)
	s.Write("/etc/exim.conf.local", "@CONFIG@\ntimeout_frozen_after = 3d\nlog_selector = +subject\nauto_thaw = 6d\n")
	s.Run("/usr/local/cpanel/scripts/buildeximconf")
	out := s.installs(0, "install")
	for _, want := range []string{"timeout_frozen_after is 3d", "auto_thaw is 6d", "no -skip_delivery"} {
		if !strings.Contains(out, want) {
			t.Errorf("no warning with %q:\n%s", want, out)
		}
	}
	// What WHM's editor writes later is kept as well, and what is left of ours is taken out.
	s.Write("/etc/exim.conf.local", strings.Replace(s.Read("/etc/exim.conf.local"), "auto_thaw = 6d", "auto_thaw = 0s\nmessage_size_limit = 20M", 1)+"\n@AUTH@\n\n")
	s.installs(0, "uninstall", "--purge")
	if got, want := s.Read("/etc/exim.conf.local"), "@CONFIG@\ntimeout_frozen_after = 3d\nlog_selector = +subject\nauto_thaw = 0s\nmessage_size_limit = 20M\n"; got != want {
		t.Errorf("exim.conf.local is\n%q\nwant\n%q", got, want)
	}
}

// Without the line that ends ours nobody can tell where the administrator's begin.
func TestALostEndOfOurLinesIsNotGuessed(t *testing.T) {
	s := newServer(t)
	s.installs(0, "install")
	s.Run("sed", "-i", "0,/^# osm end$/{/^# osm end$/d}", "/etc/exim.conf.local")
	before := s.everything()
	for _, verb := range []string{"install", "uninstall"} {
		if out := s.installs(1, verb); !strings.Contains(out, "in /etc/exim.conf.local a line") || !strings.Contains(out, "nothing was changed") {
			t.Errorf("%s says %q, want the file named", verb, out)
		}
		s.unchanged(before, "a refused "+verb)
	}
}

func TestUninstallLeavesNoHeldMailToBounce(t *testing.T) {
	s := newServer(t)
	s.answers()
	s.installs(0, "install")
	s.script("shop", "passes")
	s.script("shop", "verdict freeze")
	s.script("blog", "verdict deny") // which is a freeze for script mail
	before := s.everything()
	if out := s.installs(1, "uninstall"); !strings.Contains(out, "osm holds 2 messages") || !strings.Contains(out, "nothing was changed") {
		t.Errorf("it says\n%s\nwant the two messages", out)
	}
	s.unchanged(before, "a refused uninstall")
	s.installs(0, "uninstall", "--force")
	if n := s.Run("exim", "-bpc"); n != "3\n" {
		t.Errorf("messages in the queue after uninstall: %s, want all 3", n)
	}
}

func TestHooksAreNoReasonToFail(t *testing.T) {
	s := newServer(t)
	before := s.everything()
	s.fault("hooks", "restart-chkservd")
	if out := s.installs(0, "install"); !strings.Contains(out, "manage_hooks did not take") {
		t.Errorf("the installer says:\n%s", out)
	}
	s.fault()
	s.Run("rm", "-f", "/var/lib/osm-install/hooks") // as if they had never been noted
	s.installs(0, "install")
	if n := strings.Count(s.Read("/var/cpanel/hooks.yaml"), "osm-"); n != 9 {
		t.Errorf("%d hooks, want 9:\n%s", n, s.Read("/var/cpanel/hooks.yaml"))
	}
	s.Run("rm", "-f", "/var/lib/osm-install/hooks")
	s.installs(0, "install")
	if n := strings.Count(s.Read("/var/cpanel/hooks.yaml"), "osm-"); n != 9 {
		t.Errorf("%d hooks after another install, want 9:\n%s", n, s.Read("/var/cpanel/hooks.yaml"))
	}
	s.installs(0, "uninstall", "--purge")
	s.unchanged(before, "uninstall")
}

func TestHookProgramsNeverBlockNorKeepWhatTheyAreTold(t *testing.T) {
	s := newServer(t)
	s.installs(0, "install")
	s.program("/usr/local/sbin/osmctl", `echo "$*" >>/run/standin/osmctl; if read -r x; then echo "$x" >>/run/standin/osmctl; fi
case $1 in doctor) echo "WRONG  something"; exit 1 ;; esac
exec sleep 300
`)
	s.program("/run/logger", `cat >>/run/standin/syslog`)
	s.Run("mount", "--bind", "/run/logger", "/usr/bin/logger")
	payload := `{"context":{"category":"Whostmgr","event":"Accounts::Create","stage":"post"},"data":{"user":"new","pass":"secret-word"},"hook":{}}`
	for _, program := range []string{"osm-maps", "osm-upgraded"} {
		out, code := s.Try(payload, "timeout", "10", "/usr/local/cpanel/3rdparty/bin/"+program, "11.116.0.10", "11.118.0.1")
		if code != 0 || out != "1 ok\n" {
			t.Errorf("%s: exit status %d, %q", program, code, out)
		}
	}
	s.eventually("the hooks' work", func() bool {
		did := s.Read("/run/standin/osmctl")
		return strings.Contains(did, "accounts --reread") && strings.Contains(did, "doctor") && strings.Contains(s.Read("/run/standin/syslog"), "WRONG  something")
	})
	if out, code := s.Try("", "grep", "-r", "secret-word", "/run", "/var", "/etc", "/usr/local"); code == 0 {
		t.Errorf("what the hook was told is kept: %s", out)
	}
}

// eventually waits for what another process does.
func (s *server) eventually(what string, done func() bool) {
	s.T.Helper()
	for began := time.Now(); time.Since(began) < 30*time.Second; {
		if done() {
			return
		}
	}
	s.T.Errorf("%s: not seen", what)
}

func TestARunThatWasKilledIsMended(t *testing.T) {
	s := newServer(t)
	before := s.everything()
	s.installs(0, "install")
	installed := s.everything()
	s.installs(0, "uninstall", "--purge")
	s.unchanged(before, "uninstall")
	for n, at := range []string{"buildeximconf", "register_appconfig", "manage_hooks", "restartsrv_exim"} {
		s.killedBy(at, "install")
		if n%2 == 0 {
			s.installs(0, "uninstall", "--purge")
			s.unchanged(before, "an uninstall after an install that was killed at "+at)
			s.installs(0, "install")
		} else {
			s.installs(0, "install")
			s.unchanged(installed, "an install after one that was killed at "+at)
		}
		s.killedBy(at, "uninstall")
		if n%2 == 0 {
			s.installs(0, "install")
			s.unchanged(installed, "an install after an uninstall that was killed at "+at)
		}
		s.installs(0, "uninstall", "--purge")
		s.unchanged(before, "an uninstall after one that was killed at "+at)
	}
}

// killedBy runs install.sh, which is killed when it calls a program of cPanel's.
func (s *server) killedBy(program, verb string) {
	s.T.Helper()
	path := "/usr/local/cpanel/bin/" + program
	if strings.Contains(program, "exim") {
		path = "/usr/local/cpanel/scripts/" + program
	}
	if verb == "uninstall" && program == "register_appconfig" {
		path = "/usr/local/cpanel/bin/unregister_appconfig"
	}
	s.program("/run/killer", `case "$*" in *dry_run* | list) exit 0 ;; esac
kill -9 $(cat /run/standin/installer)
`)
	s.Run("mount", "--bind", "/run/killer", path)
	args := verb
	if verb == "install" {
		args += " --bin /run/bin"
	}
	s.Try("", "sh", "-c", "echo $$ >/run/standin/installer; exec /srv/exim-acl/install.sh "+args)
	s.Run("umount", path)
}

func TestUnitsFitCPanel(t *testing.T) {
	s := newServer(t)
	s.systemd()
	s.installs(0, "install")
	for unit, want := range map[string]string{"osm-policy.socket": "SocketGroup=mail", "osm-executor.service": "ReadWritePaths=-/var/spool/exim -/var/log"} {
		if got := s.Read("/etc/systemd/system/" + unit); !strings.Contains(got, "\n"+want+"\n") {
			t.Errorf("%s has no line %s:\n%s", unit, want, got)
		}
	}
	s.Run("systemd-analyze", "verify", "--man=no", "osmd.service", "osm-inspect.service", "osm-executor.service", "osm-watch.service",
		"osm-policy.socket", "osm-control.socket", "osm-inspect.socket", "osm-executor.socket", "osm-watch.socket")
	if got := s.Read("/etc/chkserv.d/osmd"); got != "service[osmd]=x,x,x,systemctl restart osmd,osmd,osm\n" {
		t.Errorf("what cPanel's watchdog does: %q", got)
	}
	if got := s.Read("/etc/chkserv.d/chkservd.conf"); got != "cpsrvd:1\nexim:1\nosmd:1\n" {
		t.Errorf("what cPanel's watchdog watches: %q", got)
	}
	if calls := s.calls(); !strings.Contains(calls, "restartsrv_chkservd cpsrvd exim osmd") {
		t.Errorf("cPanel's programs were called with:\n%s", calls)
	}
	// Switched off in WHM it stays off.
	s.Run("sed", "-i", "s/^osmd:1/osmd:0/", "/etc/chkserv.d/chkservd.conf")
	s.installs(0, "install")
	if got := s.Read("/etc/chkserv.d/chkservd.conf"); !strings.Contains(got, "osmd:0\n") || strings.Contains(got, "osmd:1") {
		t.Errorf("after an install cPanel's watchdog watches: %q", got)
	}
}
