package policy

import (
	"testing"
	"time"

	"osm/counters"
)

func TestWhatATriggerAsksForIsInheritedAsItsMaximumIs(t *testing.T) {
	enforce, whenFree, actions := Enforce, WhenFree, []Action{{Name: ActionHold, For: time.Hour}}
	e := NewEngine(counters.New(counters.Options{}), &Rules{
		Triggers: []Trigger{{Name: "account-hour", Watch: WatchAccount, Max: 3, Per: time.Hour, Verdict: Freeze, Mode: Observe, Actions: []Action{{Name: ActionReport}}}},
		Overrides: []Override{
			{Level: LevelPackage, Name: "basic", Trigger: "account-hour", Mode: &enforce},
			{Level: LevelAccount, Name: "shop", Trigger: "account-hour", Release: &whenFree, Actions: &actions},
		},
	})
	for _, c := range []struct {
		name    string
		trigger string
		id      Identity
		action  string
		release Release
		ok      bool
	}{
		{"everybody", "account-hour", Identity{Account: "other"}, ActionReport, Manual, false},
		{"its package", "account-hour", Identity{Account: "other", Package: "basic"}, ActionReport, Manual, true},
		{"itself", "account-hour", Identity{Account: "shop", Package: "basic"}, ActionHold, WhenFree, true},
		{"a trigger that is gone", "login-hour", Identity{Account: "shop"}, "", Manual, false},
	} {
		got, release, ok := e.Asks(noon(), c.trigger, c.id)
		name := ""
		if len(got) > 0 {
			name = got[0].Name
		}
		if name != c.action || release != c.release || ok != c.ok {
			t.Errorf("%s: %v, %v, %v; want %s, %v, %v", c.name, got, release, ok, c.action, c.release, c.ok)
		}
	}
}
