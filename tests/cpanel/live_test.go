package cpanel

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"osm/tests/lab"
)

// live is a stand-in server on which the real daemon runs, installed by the real installer.
type live struct {
	*server
	daemon *exec.Cmd
	log    string
}

// prepare is done before the daemon starts.
func newLive(t *testing.T, prepare ...func(*live)) *live {
	t.Helper()
	if err := lab.DependOnProduct(); err != nil {
		t.Fatal(err)
	}
	l := &live{server: newServer(t)}
	bin := filepath.Join(l.Dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := lab.Build(bin, false); err != nil {
		t.Fatal(err)
	}
	l.Run("mount", "--bind", bin, "/run/bin")
	l.installs(0, "install")
	for _, f := range prepare {
		f(l)
	}
	l.log = filepath.Join(l.Dir, "osmd.log")
	t.Cleanup(func() {
		l.daemon.Process.Kill()
		l.daemon.Wait()
		if t.Failed() {
			text, _ := os.ReadFile(l.log)
			t.Logf("log of osmd:\n%s", text[max(0, len(text)-6000):])
		}
	})
	l.start()
	return l
}

// start starts the daemon and waits until it answers.
func (l *live) start() {
	l.T.Helper()
	l.daemon = l.Command("/usr/local/sbin/osmd", "-config", "/etc/osm/osm.toml")
	log, err := os.OpenFile(l.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		l.T.Fatal(err)
	}
	defer log.Close()
	l.daemon.Stdout, l.daemon.Stderr = log, log
	if err := l.daemon.Start(); err != nil {
		l.T.Fatal(err)
	}
	l.eventually("osmd answers", func() bool { _, code := l.Try("", ctl, "status"); return code == 0 })
}

const ctl = "/usr/local/sbin/osmctl"

// osmctl decodes what osmctl prints as JSON, whatever its exit status.
func (l *live) osmctl(into any, args ...string) {
	l.T.Helper()
	out, err := l.Command(append(append([]string{ctl}, args...), "--json")...).Output()
	if jsonErr := json.Unmarshal(out, into); jsonErr != nil {
		l.T.Fatalf("osmctl %q: %v, %v: %s", args, err, jsonErr, out)
	}
}

// wrong are the names of what doctor finds, and all that it says.
func (l *live) wrong() (names []string, all string) {
	l.T.Helper()
	var list struct{ Items []lab.Check }
	l.osmctl(&list, "doctor")
	for _, c := range list.Items {
		all += c.Name + ": " + c.Text + "\n"
		if !c.OK {
			names = append(names, c.Name)
		}
	}
	return names, all
}

func TestTheDaemonOnCPanel(t *testing.T) {
	l := newLive(t)
	if names, all := l.wrong(); len(names) > 0 || !strings.Contains(all, "zz_osm_out_smtp stands in /etc/exim.conf") || !strings.Contains(all, "WHM knows it") {
		t.Errorf("after the installation doctor finds %q in\n%s", names, all)
	}
	t.Run("mail is charged as cPanel would", func(t *testing.T) { l.charges(t) })
	t.Run("held mail", func(t *testing.T) { l.holds(t) })
	t.Run("the page", func(t *testing.T) { l.page(t) })
	t.Run("a new account is known at once", func(t *testing.T) { l.newAccount(t) })
	t.Run("what cPanel takes away is found", func(t *testing.T) { l.drifts(t) })
}

func (l *live) charges(t *testing.T) {
	l.smtp("by login", "--auth-user", "info@shop.example", "--auth-password", "pw-shop")
	l.script("blog", "by script")
	l.script("nobody", "by nobody", "X-PHP-Script: blog.example/mail.php for 192.0.2.9")
	l.Run("setpriv", "--reuid=20002", "--regid=20002", "--clear-groups", "--", "swaks", "--server", "127.0.0.1",
		"--from", "a@blog.example", "--to", "friend@elsewhere.example", "--header", "Subject: by this host", "--body", "x")
	l.from("192.0.2.77", "friend@elsewhere.example")
	l.from("198.51.100.1", "info@shop.example")
	want := []string{"login shop by login", "local blog by this host", "relay shop hello", "script blog by nobody", "script blog by script"}
	var got []string
	l.eventually("five decisions", func() bool {
		var list struct {
			Items []struct{ Source, Account, Subject string }
		}
		l.osmctl(&list, "decisions")
		got = nil
		for _, d := range list.Items {
			if d.Source != "system" { // the installer's own message, and doctor's question
				got = append(got, d.Source+" "+d.Account+" "+strings.TrimSpace(d.Subject))
			}
		}
		slices.Sort(got)
		return len(got) >= len(want)
	})
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("decisions\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	var account struct{ Reseller, Package string }
	l.osmctl(&account, "account", "shop")
	if account.Reseller != "rita" || account.Package != "gold" {
		t.Errorf("account shop is %+v, want reseller rita and package gold", account)
	}
}

func (l *live) holds(t *testing.T) {
	var hold struct{ ID int64 }
	l.osmctl(&hold, "hold", "put", "--account", "shop", "--reason", "a test")
	l.script("shop", "held")
	if out := l.Run("exim", "-bp"); strings.Count(out, "*** frozen ***") != 1 {
		t.Errorf("the queue:\n%s", out)
	}
	var list struct {
		Items []struct{ Ref, Account, Subject string }
	}
	l.eventually("the held message", func() bool { l.osmctl(&list, "held", "list"); return len(list.Items) == 1 })
	if len(list.Items) != 1 || list.Items[0].Account != "shop" {
		t.Fatalf("held %+v", list.Items)
	}
	if out, code := l.Try("", ctl, "held", "discard", "--yes", list.Items[0].Ref); code != 0 {
		t.Errorf("discard: exit status %d: %s", code, out)
	}
	l.eventually("the message to be gone", func() bool { return !strings.Contains(l.Run("exim", "-bp"), "frozen") })
	l.Run(ctl, "release", fmt.Sprint(hold.ID))
}

func (l *live) page(t *testing.T) {
	r := get(t, l.whm("root"), "?p=now", "Accept: text/html")
	if page := text(t, r); r.StatusCode != 200 || !strings.Contains(page, "index.cgi?p=") || !strings.Contains(r.Header.Get("Content-Security-Policy"), "frame-ancestors 'self'") {
		t.Errorf("status %d, %v:\n%.2000s", r.StatusCode, r.Header, page)
	}
	for query, want := range map[string]int{"?p=senders/shop": 200, "?p=senders/blog": 404, "?p=senders/nobody-here": 404} {
		if r := get(t, l.whm("rita"), query); r.StatusCode != want {
			t.Errorf("a reseller's %s: status %d, want %d", query, r.StatusCode, want)
		}
	}
	if r := get(t, l.whm("theo"), "?p=now"); r.StatusCode != 403 {
		t.Errorf("a reseller who may not: status %d", r.StatusCode)
	}
}

func (l *live) newAccount(t *testing.T) {
	l.Run("sh", "-c", `echo 'new:x:20009:20009::/home/new:/bin/bash' >>/etc/passwd
		sed -i '1i new.example: new' /etc/userdomains`)
	out, code := l.Try(`{"data":{"user":"new","pass":"secret"}}`, "/usr/local/cpanel/3rdparty/bin/osm-maps")
	if code != 0 || out != "1 ok\n" {
		t.Errorf("the hook: exit status %d, %q", code, out)
	}
	l.eventually("the new account", func() bool {
		return strings.Contains(l.Run(ctl, "accounts", "new.example"), "new.example")
	})
	if out, code := l.Try("", ctl, "accounts", "--reread"); code != 0 || !strings.Contains(out, "new.example") {
		t.Errorf("accounts --reread: exit status %d: %s", code, out)
	}
}

func (l *live) drifts(t *testing.T) {
	l.Run("/usr/local/cpanel/scripts/upcp")
	if names, all := l.wrong(); len(names) > 0 {
		t.Errorf("after an update of cPanel doctor finds %q in\n%s", names, all)
	}
	tests := []struct {
		name         string
		breaks, mend string
		finds        []string
		says         string
	}{
		{"an administrator's switch", "echo acl_zz_osm_out_notsmtp=0 >>/etc/exim.conf.localopts; buildeximconf", "sed -i /zz_osm/d /etc/exim.conf.localopts; buildeximconf",
			[]string{"cpanel scripts"}, "acl_zz_osm_out_notsmtp=0 in /etc/exim.conf.localopts switches it off"},
		{"a file was removed", "mv " + smtpACL + " /run; buildeximconf", "mv /run/zz_osm_out_smtp " + smtpACL + "; buildeximconf",
			[]string{"cpanel smtp"}, "is missing"},
		{"a builder that forgets", "echo forgets >/run/standin/faults; buildeximconf", "rm /run/standin/faults; buildeximconf",
			[]string{"cpanel scripts", "cpanel smtp"}, `no "# BEGIN INSERT zz_osm_out_smtp"`},
		{"WHM forgot the page", "mv /var/cpanel/apps/osm.conf /run/app", "mv /run/app /var/cpanel/apps/osm.conf", []string{"whm page"}, "WHM does not know the page"},
		{"the router was taken out", "cp /etc/exim.conf.local /run/local; sed -i '/^osm_discard:/,/no_expn/d' /etc/exim.conf.local; buildeximconf",
			"cp /run/local /etc/exim.conf.local; buildeximconf", []string{"cpanel router"}, "is delivered"},
		{"a reset in WHM", "upcp --reset", "sed -i /zz_osm/d /etc/exim.conf.localopts; cp /run/standin/exim.conf.local.before-reset /etc/exim.conf.local; buildeximconf",
			[]string{"cpanel scripts", "cpanel smtp", "exim timers"}, "acl_zz_osm_out_smtp=0"},
	}
	for _, tt := range tests {
		l.shell(tt.breaks)
		names, all := l.wrong()
		for _, want := range tt.finds {
			if !slices.Contains(names, want) {
				t.Errorf("%s: doctor finds %q, want %q; it says\n%s", tt.name, names, want, all)
			}
		}
		if !strings.Contains(all, tt.says) {
			t.Errorf("%s: doctor does not say %q:\n%s", tt.name, tt.says, all)
		}
		if slices.Contains(tt.finds, "cpanel smtp") || slices.Contains(tt.finds, "cpanel scripts") {
			l.alarmed(true, "20d")
		}
		l.shell(tt.mend)
		l.alarmed(false, "21d")
		if names, all := l.wrong(); len(names) > 0 {
			t.Errorf("mended after %s: doctor finds %q in\n%s", tt.name, names, all)
		}
	}
}

// alarmed makes the daemon look at Exim's settings, and waits until its alarm about the
// hooks stands, or does not.
func (l *live) alarmed(want bool, keep string) {
	l.T.Helper()
	l.Run(ctl, "settings", "set", "held.keep", keep) // it then looks at once
	l.eventually(fmt.Sprintf("the alarm exim-hooks %v", want), func() bool {
		var s lab.Status
		l.osmctl(&s, "status")
		return (s.Alarm("exim-hooks") != nil) == want
	})
}

// shell runs a few commands, with cPanel's scripts on the path.
func (l *live) shell(commands string) {
	l.T.Helper()
	l.Run("sh", "-ec", "PATH=/usr/local/cpanel/scripts:$PATH; "+commands)
}
