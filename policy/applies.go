package policy

import (
	"net/netip"
	"slices"
	"strings"
)

// Applies reports whether an action makes sense for what a trigger watches, and if not, why.
func Applies(action string, w Watch) (why string, ok bool) {
	switch action {
	case ActionBlockLogin:
		if w != WatchLogin {
			return "only a login trigger watches a mailbox", false
		}
	case ActionRenamePath:
		if !w.PerDirectory() {
			return "only directory and direct-directory triggers watch a directory", false
		}
	case ActionRenameScript:
		if !ofPrograms(w) {
			return "no script is behind what a " + w.String() + " trigger watches", false
		}
	case ActionBlockDirect:
		// A stolen password says nothing of the account's own programs; whoever sends by
		// sendmail may go over to sending directly when that is stopped.
		if !ofPrograms(w) {
			return "no program of one account is behind what a " + w.String() + " trigger watches", false
		}
	case ActionSuspendAccount, ActionPanelHold:
		if w == WatchClientIP {
			return "an address is used by many accounts", false
		}
	}
	return "", true
}

// ofPrograms reports whether programs of an account can be behind what is watched.
func ofPrograms(w Watch) bool {
	return slices.Contains([]Watch{WatchAccount, WatchSubject, WatchScripts, WatchDirectory, WatchDirect, WatchDirectDirectory}, w)
}

// NeedsEvidence reports whether the target of an action is found in what is known about the
// web requests that sent, and nowhere else.
func NeedsEvidence(action string, ev *Event) bool {
	if _, ok := Applies(action, ev.Watch); !ok || ev.Claimed {
		return false
	}
	return action == ActionRenameScript || action == ActionBlockIP && ev.Watch != WatchClientIP
}

// Target is whom an action that the executor does is done to.
type Target struct {
	Account, Mailbox, Path string
	IP                     netip.Addr
}

// TargetOf finds the target of an action in an event, with what was found out about the
// web requests that sent; why says in words why there is none.
//
// What rests on a claim starts nothing against anybody, and neither does what stands for
// many senders. Of evidence only what is certain counts: requests must hold nothing else.
func TargetOf(action string, ev *Event, requests []Evidence) (t Target, why string) {
	t.Account = ev.Account
	if why, ok := Applies(action, ev.Watch); !ok {
		return t, why
	}
	if action == ActionBlockIP && ev.Watch == WatchClientIP {
		return addressTarget(ev.Key)
	}
	switch {
	case ev.Watch == WatchClientIP:
		return t, "an address is used by many accounts"
	case ev.Claimed:
		return t, "what rests on a claim starts nothing against an account"
	case nameless(ev.Account) || manySenders(ev.Account):
		return t, "it is not one account that sent"
	}
	switch action {
	case ActionBlockLogin:
		t.Mailbox = ev.Mailbox
	case ActionPanelHold:
		if ev.Watch == WatchLogin {
			t.Mailbox = ev.Mailbox
		}
	case ActionRenamePath:
		if t.Path, _ = strings.CutPrefix(ev.Key, ev.Account+" "); !strings.HasPrefix(t.Path, "/") {
			return t, "it is not known in which directory"
		}
	case ActionRenameScript:
		if t.Path = onlyOne(requests, func(e *Evidence) string { return e.Script }); t.Path == "" {
			return t, "no evidence names one script's file with certainty"
		}
	case ActionBlockIP:
		ip := onlyOne(requests, func(e *Evidence) string {
			if !e.ClientIP.IsValid() {
				return ""
			}
			return e.ClientIP.String()
		})
		if t.Account, t.IP = "", parseAddr(ip); ip == "" {
			return t, "no evidence names one visitor's address with certainty"
		}
	}
	return t, ""
}

// addressTarget reads the address of a client-ip trigger's key: "login 192.0.2.1".
func addressTarget(key string) (t Target, why string) {
	_, rest, _ := strings.Cut(key, " ")
	prefix, ok := parsePrefix(rest)
	if !ok || !prefix.IsSingleIP() {
		return t, "it was a whole network that went over, and only one address can be blocked"
	}
	t.IP = prefix.Addr()
	return t, ""
}

func parseAddr(s string) netip.Addr {
	ip, _ := netip.ParseAddr(s)
	return ip
}

// onlyOne is the value that all certain evidence which has one agrees on, else "".
func onlyOne(requests []Evidence, value func(*Evidence) string) string {
	one := ""
	for i := range requests {
		v := ""
		if requests[i].Confidence == ConfidenceHigh {
			v = value(&requests[i])
		}
		if v != "" && one != "" && v != one {
			return ""
		}
		if v != "" {
			one = v
		}
	}
	return one
}
