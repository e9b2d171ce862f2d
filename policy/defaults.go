package policy

import "time"

// DefaultTriggers are the triggers that are shipped. All observe: nothing is stopped
// before an operator says so.
func DefaultTriggers() []Trigger {
	const hour, day = time.Hour, 24 * time.Hour
	list := []Trigger{
		{Name: "account-hour", Watch: WatchAccount, Max: 300, Per: hour, Count: Recipients},
		{Name: "account-day", Watch: WatchAccount, Max: 2000, Per: day, Count: Recipients},
		{Name: "subject-hour", Watch: WatchSubject, Max: 100, Per: hour, Count: Messages},
		{Name: "scripts-hour", Watch: WatchScripts, Max: 200, Per: hour, Count: Messages},
		{Name: "directory-hour", Watch: WatchDirectory, Max: 100, Per: hour, Count: Messages},
		{Name: "login-hour", Watch: WatchLogin, Max: 200, Per: hour, Count: Recipients},
		{Name: "client-ip-hour", Watch: WatchClientIP, Max: 500, Per: hour, Count: Recipients},
		{Name: "automatic-hour", Watch: WatchAutomatic, Max: 500, Per: hour, Count: Messages},
		{Name: "direct-hour", Watch: WatchDirect, Max: 30, Per: hour, Count: Connections},
		{Name: "direct-directory-hour", Watch: WatchDirectDirectory, Max: 30, Per: hour, Count: Connections},
	}
	for i := range list {
		t := &list[i]
		t.Verdict, t.Mode = Freeze, Observe
		if t.Watch.Direct() {
			t.Verdict = Accept
		}
		t.Actions = []Action{{Name: ActionReport}}
		t.Provenance = Provenance{Where: "default"}
	}
	return list
}

// DefaultSettings are the engine's own knobs as shipped.
func DefaultSettings() Settings {
	return Settings{
		HeldMaxMessages: 2000, HeldMaxBytes: 500 << 20,
		HoldGrace: time.Hour, Again: 24 * time.Hour, DistinctPerAccount: 256,
	}
}
