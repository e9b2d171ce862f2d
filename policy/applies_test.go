package policy

import (
	"net/netip"
	"slices"
	"testing"
)

func TestWhichActionsATriggerMayHave(t *testing.T) {
	always := []string{ActionReport, ActionHold, ActionDiscard, ActionBlockIP, ActionRunScript}
	panel := []string{ActionPanelHold, ActionSuspendAccount}
	programs := []string{ActionRenameScript, ActionBlockDirect}
	for w, more := range map[Watch][][]string{
		WatchAccount: {panel, programs}, WatchSubject: {panel, programs}, WatchScripts: {panel, programs},
		WatchDirectory: {panel, programs, {ActionRenamePath}},
		WatchLogin:     {panel, {ActionBlockLogin}},
		WatchClientIP:  {}, WatchAutomatic: {panel},
		WatchDirect: {panel, programs}, WatchDirectDirectory: {panel, programs, {ActionRenamePath}},
	} {
		may := slices.Concat(append(more, always)...)
		for _, action := range AllActions() {
			why, ok := Applies(action, w)
			if want := slices.Contains(may, action); ok != want || ok != (why == "") {
				t.Errorf("Applies(%s, %v) = %q, %v; want %v, and a reason where not", action, w, why, ok, want)
			}
		}
	}
}

func TestTargetsOfWhatIsSentDirectly(t *testing.T) {
	shop := func(w Watch, key string) Event {
		return Event{Watch: w, Account: "shop", Key: key, Mailbox: "info@shop.example"}
	}
	claimed := shop(WatchDirectDirectory, "shop /home/shop/x")
	claimed.Claimed = true
	visitor := []Evidence{{Confidence: ConfidenceHigh, Script: "/home/shop/x/y.php", ClientIP: netip.MustParseAddr("192.0.2.7")}}
	for _, row := range []struct {
		name   string
		action string
		ev     Event
		want   Target
		none   bool
	}{
		{"direct mail is blocked for the account", ActionBlockDirect, shop(WatchDirect, "shop"), Target{Account: "shop"}, false},
		{"that of a directory for the whole account", ActionBlockDirect, shop(WatchDirectDirectory, "shop /home/shop/x"), Target{Account: "shop"}, false},
		{"that of an account which sends by sendmail too", ActionBlockDirect, shop(WatchSubject, "shop win"), Target{Account: "shop"}, false},
		{"a stolen password blocks none", ActionBlockDirect, shop(WatchLogin, "info@shop.example"), Target{}, true},
		{"nor do auto-replies", ActionBlockDirect, shop(WatchAutomatic, "shop"), Target{}, true},
		{"nor does an address", ActionBlockDirect, Event{Watch: WatchClientIP, Key: "login 192.0.2.1"}, Target{}, true},
		{"nor does a claim", ActionBlockDirect, claimed, Target{}, true},
		{"a shared web user is many accounts", ActionBlockDirect, Event{Watch: WatchDirect, Account: SharedAccount("www-data"), Key: "(shared:www-data)"}, Target{}, true},
		{"what is nobody's has no uid to block", ActionBlockDirect, Event{Watch: WatchDirect, Account: AccountUnknown, Key: "(unknown) uid 9"}, Target{}, true},
		{"the system is not blocked", ActionBlockDirect, Event{Watch: WatchDirect, Account: AccountSystem, Key: "(system)"}, Target{}, true},
		{"the directory that sent directly is renamed", ActionRenamePath, shop(WatchDirectDirectory, "shop /home/shop/two words"), Target{Account: "shop", Path: "/home/shop/two words"}, false},
		{"what is no path is not", ActionRenamePath, shop(WatchDirectDirectory, "shop (gone)"), Target{}, true},
		{"the script that evidence names is renamed", ActionRenameScript, shop(WatchDirect, "shop"), Target{Account: "shop", Path: "/home/shop/x/y.php"}, false},
		{"the visitor that evidence names is blocked", ActionBlockIP, shop(WatchDirect, "shop"), Target{IP: netip.MustParseAddr("192.0.2.7")}, false},
		{"the account is suspended", ActionSuspendAccount, shop(WatchDirect, "shop"), Target{Account: "shop"}, false},
		{"the panel holds the account's mail", ActionPanelHold, shop(WatchDirectDirectory, "shop /home/shop/x"), Target{Account: "shop"}, false},
		{"no mailbox is behind it", ActionBlockLogin, shop(WatchDirect, "shop"), Target{}, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			got, why := TargetOf(row.action, &row.ev, visitor)
			if (why != "") != row.none {
				t.Fatalf("TargetOf(%s, %+v) = %+v, %q; want none: %v", row.action, row.ev, got, why, row.none)
			}
			if !row.none && got != row.want {
				t.Errorf("TargetOf(%s, %+v) = %+v, want %+v", row.action, row.ev, got, row.want)
			}
		})
	}
}
