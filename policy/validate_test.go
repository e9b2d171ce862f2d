package policy

import (
	"strings"
	"testing"
	"time"
)

func TestShippedTriggersAreRight(t *testing.T) {
	r := &Rules{Triggers: DefaultTriggers(), Settings: DefaultSettings()}
	if err := r.Validate(); err != nil {
		t.Errorf("Validate: %v", err)
	}
	for _, tr := range r.Triggers {
		verdict := Freeze
		if tr.Watch.Direct() {
			verdict = Accept // nobody asks about them
		}
		if tr.Mode != Observe || tr.Verdict != verdict || len(tr.Actions) != 1 || tr.Provenance.Where != "default" {
			t.Errorf("trigger %s: %+v, want it to observe, freeze and report", tr.Name, tr)
		}
	}
}

func TestValidateNamesEveryMistake(t *testing.T) {
	good := enforcing("account-hour", WatchAccount, 10, Recipients)
	bad := func(change func(*Trigger)) *Rules {
		x := good
		change(&x)
		return rulesOf(x)
	}
	override := func(o Override) *Rules {
		return &Rules{Triggers: []Trigger{good, enforcing("login-hour", WatchLogin, 1, Messages)}, Overrides: []Override{o}}
	}
	exempt := func(e Exemption) *Rules {
		return &Rules{Triggers: []Trigger{good}, Exemptions: []Exemption{e}}
	}
	hold := func(h Hold) *Rules { return &Rules{Holds: []Hold{h}} }
	max := ptr(int64(1))
	tests := []struct {
		name  string
		rules *Rules
		want  string // each part must be in the text; "" = right
	}{
		{"a right one", rulesOf(good), ""},
		{"a name with a blank", bad(func(t *Trigger) { t.Name = "a b" }), `name = "a b"|a-z`},
		{"no name", bad(func(t *Trigger) { t.Name = "" }), "1 to 64"},
		{"a name too long", bad(func(t *Trigger) { t.Name = strings.Repeat("x", 65) }), "1 to 64"},
		{"a name twice", rulesOf(good, good), "given once"},
		{"connections", bad(func(t *Trigger) { t.Watch, t.Count, t.Verdict = WatchDirect, Connections, Accept }), ""},
		{"connections that cannot be held", bad(func(t *Trigger) { t.Watch, t.Count = WatchDirect, Connections }), `verdict = "freeze"|cannot be held`},
		{"connections counted as recipients", bad(func(t *Trigger) { t.Watch, t.Verdict = WatchDirectDirectory, Accept }), `count = "recipients"|connections for a direct`},
		{"mail counted as connections", bad(func(t *Trigger) { t.Count = Connections }), `count = "connections"|connections for a direct`},
		{"a period of nothing", bad(func(t *Trigger) { t.Per = 0 }), `per = "0s"|1s to 31d`},
		{"a period too long", bad(func(t *Trigger) { t.Per = 32 * 24 * time.Hour }), `per = "768h0m0s"|1s to 31d`},
		{"a period of odd length", bad(func(t *Trigger) { t.Per = time.Second + 1 }), "whole milliseconds"},
		{"a maximum below zero", bad(func(t *Trigger) { t.Max = -1 }), `max = "-1"|0 to`},
		{"a maximum of zero", bad(func(t *Trigger) { t.Max = 0 }), ""},
		{"discard unconfirmed", bad(func(t *Trigger) { t.Verdict = Discard }), "confirm_loss"},
		{"discard confirmed", bad(func(t *Trigger) { t.Verdict, t.ConfirmLoss = Discard, true }), ""},
		{"defer", bad(func(t *Trigger) { t.Verdict = Defer }), ""},
		{"an unknown action", bad(func(t *Trigger) { t.Actions = []Action{{Name: "hodl"}} }), `actions = "hodl"|nearest is "hold"`},
		{"an action twice", bad(func(t *Trigger) { t.Actions = []Action{{Name: "hold"}, {Name: "hold"}} }), "each action once"},
		{"an action on what the trigger does not watch", bad(func(t *Trigger) { t.Actions = []Action{{Name: ActionBlockLogin}} }), "only a login trigger"},
		{"a step too far", bad(func(t *Trigger) { t.Actions = []Action{{Name: ActionHold, From: 101}} }), "hold from the 1st"},
		{"a script without a name", bad(func(t *Trigger) { t.Actions = []Action{{Name: ActionRunScript}} }), "names a script"},
		{"discarding without consent", bad(func(t *Trigger) { t.Actions = []Action{{Name: ActionDiscard}} }), "confirm_loss"},
		{"a report with a length", bad(func(t *Trigger) { t.Actions = []Action{{Name: "report", For: 1}} }), "report has no length"},
		{"values of no enum", bad(func(t *Trigger) { t.Verdict, t.Mode, t.Count, t.Release = 9, 9, 9, 9 }), "verdict = |mode = |count = |release = "},
		{"several at once", bad(func(t *Trigger) { t.Per, t.Max, t.Name = 0, -1, "A" }), "per = |max = |name = "},
		{"an override of an account", override(Override{Level: LevelAccount, Name: "shop", Max: max}), ""},
		{"an override of nobody", override(Override{Level: LevelAccount, Max: max}), "the name of the account"},
		{"an override that sets nothing", override(Override{Level: LevelAccount, Name: "shop"}), "sets nothing"},
		{"an override of an unknown trigger", override(Override{Level: LevelAccount, Name: "shop", Trigger: "acount-hour", Max: max}), `trigger = "acount-hour"|nearest is "account-hour"`},
		{"a period below the server", override(Override{Level: LevelAccount, Name: "shop", Per: ptr(time.Hour)}), "only for the whole server"},
		{"a period for the server", override(Override{Level: LevelServer, Per: ptr(time.Hour)}), ""},
		{"a period for the server for a while", override(Override{Level: LevelServer, Per: ptr(time.Hour), Until: noon().Wall}), "has no end"},
		{"a server with a name", override(Override{Level: LevelServer, Name: "x", Max: max}), "the server has no name"},
		{"a mailbox's login trigger", override(Override{Level: LevelMailbox, Name: "a@shop.example", Trigger: "login-hour", Max: max}), ""},
		{"all of a mailbox's triggers", override(Override{Level: LevelMailbox, Name: "a@shop.example", Max: max}), ""},
		{"a mailbox's account trigger", override(Override{Level: LevelMailbox, Name: "a@shop.example", Trigger: "account-hour", Max: max}), "watches login"},
		{"no mailbox", override(Override{Level: LevelMailbox, Name: "shop", Max: max}), "user@domain"},
		{"discard by an override", override(Override{Level: LevelAccount, Name: "shop", Verdict: ptr(Discard)}), "account-hour needs confirm_loss"},
		{"an override's wrong values", override(Override{Level: LevelAccount, Name: "shop", Max: ptr(int64(-1)), Mode: ptr(Mode(9)), Verdict: ptr(Verdict(9)), Release: ptr(Release(9)), Actions: &[]Action{{}}}), "max = |mode = |verdict = |release = |actions = "},
		{"an exempt account", exempt(Exemption{Scope: ScopeAccount, Value: "shop"}), ""},
		{"an exempt nobody", exempt(Exemption{Scope: ScopeAccount}), "the name of the account"},
		{"an exempt address", exempt(Exemption{Scope: ScopeIP, Value: "2001:db8::/32"}), ""},
		{"an exempt address that is none", exempt(Exemption{Scope: ScopeIP, Value: "192.0.2"}), "an address or a network"},
		{"an exempt domain that is none", exempt(Exemption{Scope: ScopeRecipientDomain, Value: "a b"}), "a domain"},
		{"an exempt directory of nobody", exempt(Exemption{Scope: ScopeDirectory, Value: "/x"}), "name it"},
		{"an exempt directory that is not clean", exempt(Exemption{Scope: ScopeDirectory, Account: "shop", Value: "/x/../y"}), "absolute path"},
		{"an exempt Subject that would never match", exempt(Exemption{Scope: ScopeSubject, Account: "shop", Value: "Invoice 12"}), `invoice #`},
		{"an exempt mailbox in capitals", exempt(Exemption{Scope: ScopeMailbox, Value: "A@shop.example"}), "lower case"},
		{"a ceiling below zero", exempt(Exemption{Scope: ScopeAccount, Value: "shop", Ceiling: -1}), "ceiling"},
		{"an exemption from an unknown trigger", exempt(Exemption{Scope: ScopeAccount, Value: "shop", Trigger: "x"}), "nearest"},
		{"an exemption of no scope", exempt(Exemption{Scope: 9}), "scope"},
		{"a hold of an account", hold(Hold{Scope: ScopeAccount, Account: "shop", Verdict: Freeze}), ""},
		{"a hold that defers", hold(Hold{Scope: ScopeAccount, Account: "shop", Verdict: Defer}), "freeze or discard"},
		{"a hold of an address", hold(Hold{Scope: ScopeIP, Value: "192.0.2.1", Verdict: Freeze}), "account, mailbox, directory or subject"},
		{"a hold of a Subject of nobody", hold(Hold{Scope: ScopeSubject, Value: "x", Verdict: Freeze}), "name it"},
		{"wrong settings", &Rules{Settings: Settings{HeldMaxBytes: -1, HeldMaxMessages: -1, HoldGrace: -1, DistinctPerAccount: 1 << 20}}, "held_max_messages|held_max_bytes|hold_grace|distinct_per_account"},
		{"too many triggers", &Rules{Triggers: make([]Trigger, MaxTriggers+1)}, "at most 64 triggers"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.rules.Validate()
			if tt.want == "" {
				if err != nil {
					t.Fatalf("Validate = %v, want it right", err)
				}
				return
			}
			if err == nil {
				t.Fatal("Validate finds nothing")
			}
			for part := range strings.SplitSeq(tt.want, "|") {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("Validate = %v\nwant %q in it", err, part)
				}
			}
			engineDoesNotMind(t, tt.rules)
		})
	}
}

// engineDoesNotMind proves that wrong rules, should they get past the check, stop
// neither the daemon nor mail for want of a rule.
func engineDoesNotMind(t *testing.T, r *Rules) {
	t.Helper()
	e := newTestEngine(t, r)
	for range 20 {
		s, id := fromScript("shop", "/d", "x", 1)
		if d := e.Check(noon(), s, id); d.Verdict > Deny {
			t.Errorf("verdict %d", d.Verdict)
		}
	}
}

func TestNearest(t *testing.T) {
	names := []string{"account-hour", "account-day", "login-hour"}
	for in, want := range map[string]string{"acount-hour": "account-hour", "account-dy": "account-day", "login": "login-hour"} {
		if got := Nearest(in, names); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", in, got, want)
		}
	}
	if got := Nearest("x", nil); got != "" {
		t.Errorf("Nearest of nothing = %q", got)
	}
}

func TestAnOverridesActionsMustApplyToItsTrigger(t *testing.T) {
	block := &[]Action{{Name: ActionBlockLogin}}
	for _, row := range []struct {
		trigger string
		wrong   bool
	}{{"account-hour", true}, {"login-hour", false}, {"", false}} {
		o := Override{Level: LevelServer, Trigger: row.trigger, Actions: block}
		if m := ValidateOverride(&o, DefaultTriggers()); (len(m) > 0) != row.wrong {
			t.Errorf("block-login for trigger %q: %v", row.trigger, m)
		}
	}
}
