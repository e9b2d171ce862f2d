package faults

import (
	"errors"
	"testing"
	"time"

	"osm/tests/lab"
)

// What was set on the page or with osmctl holds whatever happens to the daemon, until
// somebody takes it back.
func TestSettingsHoldOverAReloadAndAKill(t *testing.T) {
	d := daemon(t, limited)
	osmctl := func(args ...string) {
		t.Helper()
		if _, err := d.Osmctl(args...); err != nil {
			t.Fatal(err)
		}
	}
	osmctl("settings", "set", "checking", "off", "--reason", "the queue is moved")
	passes := func(after string) {
		t.Helper()
		if err := settingIs(d, "checking", "false"); err != nil {
			t.Fatalf("%s: %v", after, err)
		}
		clean(t)
		all := storm{}.run(t)
		all.accepted(t)
		answered(t)
		all.noneFrozen(t)
	}
	passes("once it is switched off")
	osmctl("config", "reload")
	passes("after a reload")
	if err := d.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	passes("after a kill")
	var audit struct {
		Items []struct {
			ID   int64
			What string
			Undo string
		}
	}
	if err := d.JSON(&audit, "audit"); err != nil || len(audit.Items) != 2 || audit.Items[1].What != "setting set" || audit.Items[1].Undo == "" {
		t.Fatalf("the audit is %+v, %v; want the setting, which can be taken back, and the reload", audit, err)
	}
	osmctl("audit", "undo", "1", "--reason", "it has been moved")
	clean(t)
	all := storm{}.run(t)
	all.decidedAsUsual(t, d)
}

// A setting that does not go together with a changed file is left out, with an alarm, and
// comes back when the file allows it.
func TestASettingThatNoLongerFitsIsLeftOut(t *testing.T) {
	d := daemon(t, limited)
	if _, err := d.Osmctl("settings", "set", "store.keep_decisions", "20d"); err != nil {
		t.Fatal(err)
	}
	for _, keep := range []string{"16d", "400d"} {
		if err := d.WriteConfig(machine.Config("keep_events = \"" + keep + "\"\n" + limited)); err != nil { // in [store]
			t.Fatal(err)
		}
		_, err := d.Osmctl("config", "check", d.Config)
		var refused *lab.CtlError
		if keep == "16d" && !errors.As(err, &refused) {
			t.Errorf("config check does not tell that the setting would not fit: %v", err)
		}
		if _, err := d.Osmctl("config", "reload"); err != nil {
			t.Fatal(err)
		}
		if keep == "16d" {
			contains(t, "the alarm settings", alarmed(t, d, "settings").Text, "store.keep_decisions")
		} else {
			calm(t, d, "settings")
		}
		want := map[string]string{"16d": "14d", "400d": "20d"}[keep]
		eventually(t, 10*time.Second, "the setting to be "+want, func() error { return settingIs(d, "store.keep_decisions", want) })
	}
}

// settingIs compares a setting in force.
func settingIs(d *lab.Daemon, key, want string) error {
	var l struct{ Items []struct{ Key, Value string } }
	if err := d.JSON(&l, "settings", "list"); err != nil {
		return err
	}
	for _, s := range l.Items {
		if s.Key == key && s.Value == want {
			return nil
		}
	}
	return errors.New("it is not: " + key + " in " + want)
}
