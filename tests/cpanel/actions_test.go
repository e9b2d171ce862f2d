package cpanel

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// row is an action as osmctl shows it.
type row struct {
	ID                                             int64
	Name, Target, State, Outcome, Inverse, Account string
}

// standing waits for the action to be in force.
func (l *live) standing(name, target string) (found row) {
	l.T.Helper()
	defer func() {
		if found.ID == 0 {
			l.T.Fatalf("actions:\n%s", l.Run(ctl, "actions"))
		}
	}()
	l.eventually(name+" of "+target, func() bool {
		var list struct{ Items []row }
		l.osmctl(&list, "actions", "--standing", "--name", name)
		for _, a := range list.Items {
			if a.Target == target && a.State == "done" {
				found = a
				return true
			}
		}
		return false
	})
	return found
}

// undone takes an action back and looks that nothing of it stands any more.
func (l *live) undone(a row) {
	l.T.Helper()
	if out, code := l.Try("", ctl, "undo", fmt.Sprint(a.ID), "--reason", "a test"); code != 0 {
		l.T.Fatalf("undo %d: exit status %d: %s", a.ID, code, out)
	}
	var list struct{ Items []row }
	l.osmctl(&list, "actions", "--standing")
	for _, one := range list.Items {
		if one.ID == a.ID {
			l.T.Errorf("after the undo it stands still: %+v", one)
		}
	}
	if out, code := l.Try("", ctl, "undo", fmt.Sprint(a.ID)); code != 1 || !strings.Contains(out, "not in force") {
		l.T.Errorf("a second undo: exit status %d: %s", code, out)
	}
}

// enforce lets a trigger stop what is over max, with these actions.
func (l *live) enforce(trigger string, max int, actions string) {
	l.T.Helper()
	l.Run(ctl, "limit", "set", "--trigger", trigger, "--max", fmt.Sprint(max), "--mode", "enforce", "--actions", actions, "--reason", "a test", "--server")
}

// What follows when somebody goes over a limit, from a real message to the changed state
// and back to the same bytes.
func TestWhatFollowsOnCPanel(t *testing.T) {
	l := newLive(t, func(l *live) {
		for user, address := range map[string]string{"shop": "owner@elsewhere.example", "rita": "rita@elsewhere.example"} {
			l.Run("sh", "-ec", `f=/var/cpanel/users/$0; (grep -v ^CONTACTEMAIL= $f || true; echo "CONTACTEMAIL=$1") >$f.new; mv $f.new $f`, user, address)
		}
	})
	l.Run(ctl, "settings", "set", "report.to_customer", "true")
	l.Run(ctl, "settings", "set", "report.to_reseller", "true")
	l.Run(ctl, "settings", "set", "report.mail_to", "abuse@elsewhere.example")
	t.Run("a stolen mailbox's login is blocked", func(t *testing.T) {
		shadow := l.Read("/home/shop/etc/shop.example/shadow")
		l.enforce("login-hour", 2, "report,block-login=1h")
		for i := range 3 {
			l.smtp(fmt.Sprint("stolen ", i), "--auth-user", "info@shop.example", "--auth-password", "pw-shop")
		}
		a := l.standing("block-login", "info@shop.example")
		if got := l.Read("/home/shop/etc/shop.example/shadow"); !strings.Contains(got, "info:!!") {
			t.Errorf("the mailbox's login: %q", got)
		}
		l.undone(a)
		if got := l.Read("/home/shop/etc/shop.example/shadow"); got != shadow {
			t.Errorf("after the undo %q, before %q", got, shadow)
		}
	})
	t.Run("operator, reseller and owner are told by mail, which counts for nobody", func(t *testing.T) {
		var sent struct {
			Items []struct{ Account, Source, Subject string }
		}
		l.eventually("the report", func() bool {
			l.osmctl(&sent, "decisions", "--account", "(system)")
			return len(sent.Items) > 0 && strings.Contains(sent.Items[0].Subject, "shop")
		})
		l.eventually("three letters", func() bool {
			queue := l.Run("exim", "-bp")
			return strings.Contains(queue, "abuse@elsewhere.example") && strings.Contains(queue, "owner@elsewhere.example") && strings.Contains(queue, "rita@elsewhere.example")
		})
		if t.Failed() || l.T.Failed() {
			t.Errorf("the queue:\n%s\nsent %+v", l.Run("exim", "-bp"), sent)
		}
	})
	t.Run("an account's mail is held by the panel, and the account suspended the second time", func(t *testing.T) {
		l.enforce("account-hour", 1, "report,panel-hold,suspend-account")
		l.script("blog", "one")
		l.script("blog", "two")
		hold, suspended := l.standing("panel-hold", "blog"), l.standing("suspend-account", "blog")
		if got := l.Read("/etc/outgoing_mail_hold_users"); got != "blog\n" {
			t.Errorf("the panel's list of held mail: %q", got)
		}
		if got := l.Read("/var/cpanel/suspended/blog"); !strings.Contains(got, "osm event") {
			t.Errorf("the panel's reason: %q", got)
		}
		l.undone(suspended)
		l.undone(hold)
		if out, _ := l.Try("", "sh", "-c", "cat /etc/outgoing_mail_hold_users; ls /var/cpanel/suspended"); strings.Contains(out, "blog") {
			t.Errorf("after the undo: %s", out)
		}
	})
	t.Run("whom somebody else suspended is left alone", func(t *testing.T) {
		l.Run("/usr/local/cpanel/bin/whmapi1", "--output=json", "suspendacct", "user=shop", "reason=unpaid")
		l.enforce("subject-hour", 0, "suspend-account")
		l.script("shop", "again")
		var list struct{ Items []row }
		l.eventually("it to be left out", func() bool {
			l.osmctl(&list, "actions", "--name", "suspend-account", "--account", "shop")
			return len(list.Items) > 0 && list.Items[0].State == "left out"
		})
		if !strings.Contains(list.Items[0].Outcome, "unpaid") || l.Read("/var/cpanel/suspended/shop") != "unpaid" {
			t.Errorf("it is %+v, and the panel's reason %q", list.Items[0], l.Read("/var/cpanel/suspended/shop"))
		}
	})
}

// A panel that hangs keeps nobody waiting: neither mail, nor another sender's hold. The
// operator sees it, and it is tried again.
func TestAPanelThatHangsKeepsNobodyWaiting(t *testing.T) {
	l := newLive(t, func(l *live) {
		l.Run("sh", "-c", `printf 'change_limit = "10s"\n' >>/etc/osm/executor.toml`)
	})
	l.fault("profile-d suspendacct")
	l.enforce("account-hour", 1, "suspend-account,hold=1h")
	l.script("blog", "one")
	l.script("blog", "two")
	l.eventually("the panel to be asked", func() bool {
		return strings.Contains(l.calls(), "suspendacct")
	})
	// Who waited for the panel would wait out most of its ten seconds.
	inTime := func(what string, do func()) {
		began := time.Now()
		if do(); time.Since(began) > 5*time.Second {
			t.Errorf("while the panel hangs %s took %v", what, time.Since(began))
		}
	}
	for i := range 10 {
		inTime("a message", func() { l.script("shop", fmt.Sprint("message ", i)) })
	}
	inTime("a hold", func() { l.standing("hold", "account shop") })
	l.eventually("the failure to be told", func() bool {
		var list struct{ Items []row }
		l.osmctl(&list, "actions", "--name", "suspend-account", "--account", "blog")
		return len(list.Items) == 1 && list.Items[0].State == "failed" && strings.Contains(list.Items[0].Outcome, "10s")
	})
}

// What is done to files, addresses, and by the operator's own program.
func TestWhatFollowsOutsideThePanel(t *testing.T) {
	l := newLive(t, func(l *live) {
		l.Run("sh", "-ec", `cp /srv/tests/panel/csf/csf /usr/sbin/csf; chmod 755 /usr/sbin/csf; mkdir -p /etc/csf /var/lib/csf
		echo 'TESTING = "0"' >/etc/csf/csf.conf; touch /etc/csf/csf.deny /etc/csf/csf.allow /etc/csf/csf.ignore /var/lib/csf/csf.tempban
		printf '[[script]]\nname = "ticket"\ncommand = ["/usr/local/sbin/ticket", "new"]\nuser = "nobody"\n' >>/etc/osm/executor.toml`)
		l.program("/usr/local/sbin/ticket", "cat >/run/ticket/$1; id -un >>/run/ticket/who\n")
		l.Run("install", "-d", "-o", "nobody", "/run/ticket")
	})
	t.Run("a directory that sends too much is renamed, and given back", func(t *testing.T) {
		l.Run("sh", "-ec", "cd /home/blog/public_html && mkdir 'up loads' && echo '<?php' >'up loads/x.php' && chown -R blog:blog 'up loads'")
		before := l.Run("find", "/home/blog", "-printf", "%p %m %u %g %s %i\\n")
		l.enforce("directory-hour", 1, "report,rename-path=1h")
		for range 2 {
			l.sendFrom("blog", "/home/blog/public_html/up loads")
		}
		a := l.standing("rename-path", "blog /home/blog/public_html/up loads")
		if out, code := l.Try("", "setpriv", "--reuid=blog", "--regid=blog", "--clear-groups", "cat", "/home/blog/public_html/up loads/x.php"); code == 0 {
			t.Errorf("the script can be read still: %s", out)
		}
		l.undone(a)
		if after := l.Run("find", "/home/blog", "-printf", "%p %m %u %g %s %i\\n"); after != before {
			t.Errorf("after the undo:\n%s\nbefore:\n%s", after, before)
		}
	})
	t.Run("the operator's program gets the report", func(t *testing.T) {
		l.enforce("directory-hour", 100, "report")
		l.enforce("scripts-hour", 3, "run-script=ticket")
		for range 3 {
			l.sendFrom("shop", "/home/shop/public_html")
		}
		l.sendFrom("shop", "/home/shop")
		var r struct {
			Schema string
			Event  struct{ Account, Trigger string }
		}
		l.eventually("the ticket", func() bool {
			out, code := l.Try("", "cat", "/run/ticket/who")
			return code == 0 && out == "nobody\n"
		})
		if err := json.Unmarshal([]byte(l.Read("/run/ticket/new")), &r); err != nil || r.Schema != "osm-report/1" || r.Event.Account != "shop" || r.Event.Trigger != "scripts-hour" {
			t.Errorf("the program was given %+v, %v", r, err)
		}
	})
	t.Run("mail is thrown away for a time, where that was asked for twice", func(t *testing.T) {
		if out, code := l.Try("", ctl, "limit", "set", "--server", "--trigger", "subject-hour", "--actions", "discard=1h"); code == 0 || !strings.Contains(out, "confirm_loss") {
			t.Errorf("asked for once: exit status %d: %s", code, out)
		}
		l.enforce("scripts-hour", 1000, "report")
		l.enforce("subject-hour", 1, "discard=1h confirm-loss")
		for range 2 {
			l.script("rita", "Buy now")
		}
		a := l.standing("discard", "subject rita buy now")
		queued := strings.Count(l.Run("exim", "-bp"), "<rita@whm.example>")
		if out, code := l.script("rita", "Buy now"); code != 0 {
			t.Errorf("whoever sends what is discarded sees exit status %d: %s", code, out)
		}
		l.Run("exim", "-q") // there it goes; what is not to be thrown away finds nobody who takes it
		if now := strings.Count(l.Run("exim", "-bp"), "<rita@whm.example>"); now != queued {
			t.Errorf("%d messages in the queue, after one that was to be discarded %d", queued, now)
		}
		l.undone(a)
	})
	t.Run("an account's processes are kept from other mail servers, beside csf, and let out again", func(t *testing.T) {
		// A network with nobody in it: who is not kept from it waits.
		l.Run("sh", "-ec", "ip link add wire type veth peer name end && ip link set end up && ip addr add 192.0.2.1/24 dev wire && ip link set wire up")
		l.enforce("subject-hour", 1000, "report")
		l.enforce("scripts-hour", 1, "report,block-direct=1h")
		for range 2 {
			l.sendFrom("blog", "/home/blog/public_html")
		}
		a := l.standing("block-direct", "blog")
		if uid := strings.TrimSpace(l.Run("id", "-u", "blog")); !strings.Contains(a.Outcome, "processes of blog (uid "+uid+")") ||
			!strings.Contains(l.Run("nft", "list", "set", "inet", "osm_direct", "blocked_uids"), uid+" timeout 1h") {
			t.Errorf("it is %+v, and the set is %s", a, l.Run("nft", "list", "set", "inet", "osm_direct", "blocked_uids"))
		}
		connect := func(account, host string) string {
			out, _ := l.Try("", "setpriv", "--reuid="+account, "--regid="+account, "--clear-groups", "--", "perl", "-MIO::Socket::INET",
				"-e", `print IO::Socket::INET->new(PeerAddr => $ARGV[0], PeerPort => 25, Timeout => 1) ? "connected" : "no: $!"`, host)
			return out
		}
		if out := connect("blog", "192.0.2.9"); !strings.Contains(out, "Connection refused") {
			t.Errorf("a process of the account's to another mail server: %s", out)
		}
		if out := connect("shop", "192.0.2.9"); strings.Contains(out, "Connection refused") {
			t.Errorf("a process of another account's: %s", out)
		}
		l.undone(a)
		if out := connect("blog", "192.0.2.9"); strings.Contains(out, "Connection refused") {
			t.Errorf("after the undo: %s", out)
		}
		if out := l.Run("nft", "list", "ruleset"); strings.Contains(out, "osm_direct") {
			t.Errorf("after the undo the rules are %s", out)
		}
	})
	t.Run("an address is blocked, and let in again", func(t *testing.T) {
		l.Run("sh", "-c", "echo 198.51.100.9 >>/etc/recent_authed_mail_ips")
		l.enforce("client-ip-hour", 1, "report,block-ip=1h")
		l.eventually("the list of addresses to be read", func() bool {
			l.Run(ctl, "accounts", "--reread")
			l.relayed("198.51.100.9")
			var list struct{ Items []row }
			l.osmctl(&list, "actions", "--name", "block-ip")
			return len(list.Items) > 0
		})
		a := l.standing("block-ip", "198.51.100.9")
		if got := l.Read("/var/lib/csf/csf.tempban"); !strings.Contains(got, "|198.51.100.9|25,465,587|in|3600|osm") {
			t.Errorf("csf's list of blocked addresses: %q", got)
		}
		l.undone(a)
		if got := l.Read("/var/lib/csf/csf.tempban"); got != "" {
			t.Errorf("after the undo: %q", got)
		}
	})
}

// sendFrom sends a message as a program in that directory does.
func (l *live) sendFrom(account, dir string) {
	l.T.Helper()
	l.Try("To: friend@elsewhere.example\nSubject: from a directory\n\nbody\n", "setpriv", "--reuid="+account, "--regid="+account, "--clear-groups", "--",
		"sh", "-c", `cd "$0" && exec sendmail -t -i -odq`, dir)
}

// relayed sends a message as from an address that may relay.
func (l *live) relayed(address string) {
	l.T.Helper()
	l.Try("EHLO client.example\r\nMAIL FROM:<info@shop.example>\r\nRCPT TO:<friend@elsewhere.example>\r\nDATA\r\nSubject: relayed\r\n\r\nx\r\n.\r\nQUIT\r\n",
		"exim", "-bs", "-odq", "-oMa", address)
}
