package cpanel

import (
	"fmt"
	"strings"
	"testing"
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
	l := newLive(t)
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
	t.Run("the operator is told by mail, which counts for nobody", func(t *testing.T) {
		var sent struct {
			Items []struct{ Account, Source, Subject string }
		}
		l.eventually("the report", func() bool {
			l.osmctl(&sent, "decisions", "--account", "(system)")
			return len(sent.Items) > 0 && strings.Contains(sent.Items[0].Subject, "shop")
		})
		if queue := l.Run("exim", "-bp"); !strings.Contains(queue, "abuse@elsewhere.example") {
			t.Errorf("the queue:\n%s\nsent %+v", queue, sent)
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
