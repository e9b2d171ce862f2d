package faults

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"osm/tests/lab"
)

// half is what the spammer has sent before the daemon is killed.
const half = 30

// sendHalf uses up a part of the spammer's limit and waits until that is on disk.
func sendHalf(t *testing.T, d *lab.Daemon) {
	t.Helper()
	first := storm{each: half}.run(t)
	first.accepted(t)
	answered(t)
	first.noneFrozen(t)
	first.explained(t, d)
}

func TestAfterAKillTheCountersComeBack(t *testing.T) {
	d := daemon(t, limited)
	sendHalf(t, d)
	if err := d.Kill(); err != nil {
		t.Fatal(err)
	}
	clean(t)
	away := storm{}.run(t)
	away.accepted(t)
	away.later(t, 0)
	away.noneFrozen(t)
	away.unavailable(t)
	clean(t)
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "doctor to tell of the gap", func() error {
		checks, err := d.Doctor()
		for _, c := range checks {
			if c.Name == "journal" && strings.Contains(c.Text, "osmd was away") {
				return nil
			}
		}
		return errors.Join(err, fmt.Errorf("it says %+v", checks))
	})
	usedIs(t, d, scriptAccount, half)
	all := storm{}.run(t)
	all.accepted(t)
	answered(t)
	all.frozenBut(t, d, limit-half)
}

// With a socket that systemd holds a killed daemon delays mail until it is back; not a
// message goes unchecked.
func TestWithSocketActivationAKillOnlyDelays(t *testing.T) {
	fresh(t)
	d, err := machine.StartActivated(machine.bin, limited)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			text, _ := os.ReadFile(d.Log)
			t.Logf("log of osmd:\n%s", text[max(0, len(text)-6000):])
		}
		if err := d.StopActivated(); err != nil {
			t.Error(err)
		}
		for _, path := range []string{machine.PolicySocket(), machine.ControlSocket()} {
			if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Error(err)
			}
		}
	})
	eventually(t, 20*time.Second, "osmd to answer", func() error { _, err := d.Status(); return err })
	sendHalf(t, d)
	clean(t)
	pid, err := lab.Descendant(d.PID(), "osmd", "-config")
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	all := storm{}.run(t)
	all.accepted(t)
	all.later(t, 0) // nobody waited for the whole second
	answered(t)
	all.frozenBut(t, d, limit-half)
	if again, err := lab.Descendant(d.PID(), "osmd", "-config"); err != nil || again == pid {
		t.Errorf("osmd is process %d after %d was killed (%v), want a new one", again, pid, err)
	}
	all.explained(t, d)
}

func TestAConfigurationWithMistakesChangesNothing(t *testing.T) {
	d := daemon(t, limited)
	wrong := machine.Config(limited + `
[[trigger]]
name = "login-hour"
max = -3
[[trigger]]
name = "subject-hour"
vredict = "deny"
[[trigger]]
name = "Odd Name"
watch = "moon"
max = 1
per = "1h"
`)
	if err := d.WriteConfig(wrong); err != nil {
		t.Fatal(err)
	}
	mistakes := []string{"max", "vredict", "Odd Name", "moon"}
	_, err := d.Osmctl("config", "reload")
	namesAll(t, "osmctl config reload", err, mistakes)
	_, err = d.Osmctl("config", "check", d.Config)
	namesAll(t, "osmctl config check", err, mistakes)
	alarm := alarmed(t, d, "config")
	for _, m := range mistakes {
		contains(t, "the alarm config", alarm.Text, m)
	}
	s, err := d.Status()
	if err != nil {
		t.Fatal(err)
	}
	contains(t, "status", s.Config.Error, "vredict")
	all := storm{}.run(t)
	all.decidedAsUsual(t, d)

	if err := d.WriteConfig(machine.Config(limited + "[log]\nlevel = \"warn\"\n")); err != nil {
		t.Fatal(err)
	}
	if err := d.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	calm(t, d, "config")
	usedIs(t, d, scriptAccount, limit) // after the reload as before
}

// namesAll fails the test unless a command ended with status 1 and named every mistake.
func namesAll(t *testing.T, command string, err error, mistakes []string) {
	t.Helper()
	var failed *lab.CtlError
	if !errors.As(err, &failed) || failed.Status() != 1 {
		t.Errorf("%s: %v, want exit status 1", command, err)
		return
	}
	for _, m := range mistakes {
		contains(t, command, failed.Out+failed.Stderr, m)
	}
}

func contains(t *testing.T, who, text, want string) {
	t.Helper()
	if !strings.Contains(text, want) {
		t.Errorf("%s does not name %q: %s", who, want, text)
	}
}

func TestAnAccountMapThatIsHalfWrittenIsNotUsed(t *testing.T) {
	machine.Panel = "directadmin"
	t.Cleanup(func() { machine.Panel = "" })
	const maps, login = "/etc/virtual/domainowners", "info@extra.example"
	whole := ""
	for i := range 500 {
		whole += fmt.Sprintf("d%03d.example: %s\n", i, thirdAccount)
	}
	whole += "extra.example: " + smtpAccount + "\n" // the last to be written
	secrets := machine.Dir + "/etc/passwords"
	old, err := os.ReadFile(secrets)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.WriteFile(secrets, old, 0o644) })
	err = errors.Join(os.MkdirAll("/etc/virtual", 0o755), os.WriteFile(maps, []byte(whole), 0o644),
		os.WriteFile(secrets, append(old, login+": secret\n"...), 0o644))
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]string{
		"cut off within a name": whole[:200*len("d000.example: blog\n")-2],
		"emptied":               "",
	}
	for name, broken := range tests {
		t.Run(name, func(t *testing.T) {
			d := daemon(t, limited)
			if err := os.WriteFile(maps, []byte(broken), 0o644); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.WriteFile(maps, []byte(whole), 0o644) })
			alarm := alarmed(t, d, "accounts")
			contains(t, "the alarm", alarm.Text, maps)
			all := storm{login: login, password: "secret"}.run(t)
			all.decidedAsUsual(t, d)
			usedIs(t, d, smtpAccount, 200)
			s, err := d.Status()
			if err != nil {
				t.Fatal(err)
			}
			if s.Accounts.OK {
				t.Errorf("status says that the accounts are well: %s", s.Accounts.Text)
			}
			if err := os.WriteFile(maps, []byte(whole), 0o644); err != nil {
				t.Fatal(err)
			}
			calm(t, d, "accounts")
		})
	}
}
