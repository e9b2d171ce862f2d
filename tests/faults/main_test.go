package faults

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"osm/tests/lab"
)

// machine is set once by TestMain: there is one machine for a process.
var machine struct {
	*lab.Lab
	bin    string
	states int
}

// The accounts: the shop sends by SMTP AUTH, scripts of spam send by sendmail.
const (
	smtpAccount   = "shop"
	scriptAccount = "spam"
	thirdAccount  = "blog"
)

func TestMain(m *testing.M) {
	if err := lab.Enter(); err != nil {
		fmt.Fprintln(os.Stderr, "faults:", err)
		os.Exit(1)
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, "faults:", err)
		return 1
	}
	dir, err := os.MkdirTemp("", "osm-faults-")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		return fail(err)
	}
	defer detach(dir)
	machine.bin = filepath.Join(dir, "bin")
	if err := errors.Join(os.Mkdir(machine.bin, 0o755), lab.Build(machine.bin, false), overlay(dir)); err != nil {
		return fail(err)
	}
	machine.Lab, err = lab.New(lab.Options{
		Dir: dir, Accounts: []string{smtpAccount, scriptAccount, thirdAccount}, TmpfsSpool: true, QueueOnly: true,
	})
	if err != nil {
		return fail(err)
	}
	defer machine.Close()
	if err := machine.SetACL(machine.Guard(false)); err != nil {
		return fail(err)
	}
	if err := machine.StartExim(); err != nil {
		return fail(err)
	}
	return m.Run()
}

// overlay makes /etc changeable. What is changed lies on a tmpfs: not every file system
// can be the upper one of an overlay.
func overlay(dir string) error {
	etc := filepath.Join(dir, "overlay")
	if err := os.Mkdir(etc, 0o755); err != nil {
		return err
	}
	if err := syscall.Mount("tmpfs", etc, "tmpfs", 0, "size=64m"); err != nil {
		return fmt.Errorf("mount a tmpfs on %q: %w", etc, err)
	}
	return lab.OverlayEtc(etc)
}

// detach takes away what would keep the folder from being removed.
func detach(dir string) {
	for _, d := range []string{"/spool", "/overlay"} {
		_ = syscall.Unmount(dir+d, syscall.MNT_DETACH)
	}
}

// limited lets spam send 50 messages and everybody else as much as he likes, so that it
// shows whether messages are decided about.
const limited = `
[held]
max_messages = 20000
release_rate = "600/min"
[[trigger]]
name = "account-hour"
max = 100000
mode = "enforce"
[[for]]
account = "spam"
trigger = "account-hour"
max = 50
`

// limit is how many messages of spam pass by those rules.
const limit = 50

// fresh gives the test an empty queue, an empty log and a folder of its own for the
// daemon's database.
func fresh(t *testing.T) {
	t.Helper()
	if err := lab.DependOnProduct(); err != nil {
		t.Fatal(err)
	}
	machine.states++
	machine.State = filepath.Join(machine.Dir, fmt.Sprint("state-", machine.states))
	if err := os.Mkdir(machine.State, 0o755); err != nil {
		t.Fatal(err)
	}
	clean(t)
	t.Cleanup(func() { clean(t) })
}

func clean(t *testing.T) {
	t.Helper()
	err := errors.Join(machine.EmptySpool(), emptied(machine.Logs+"/mainlog"), emptied(machine.Logs+"/osmd.log"))
	if err != nil {
		t.Fatal(err)
	}
	machine.Sink.Reset()
}

// emptied cuts a file to nothing; who writes to it appends.
func emptied(path string) error {
	err := os.Truncate(path, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// daemon starts the real daemon with an empty database; the test's end ends it.
func daemon(t *testing.T, rules string) *lab.Daemon {
	t.Helper()
	fresh(t)
	return start(t, rules)
}

// start starts the daemon in the state folder that the test has prepared.
func start(t *testing.T, rules string) *lab.Daemon {
	t.Helper()
	d, err := machine.StartOsmd(machine.bin, rules)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			text, _ := os.ReadFile(d.Log)
			t.Logf("log of osmd:\n%s", text[max(0, len(text)-6000):])
		}
		if err := d.Kill(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// eventually waits until f returns nil.
func eventually(t *testing.T, limit time.Duration, what string, f func() error) {
	t.Helper()
	if err := lab.WaitFor(limit, what, f); err != nil {
		t.Fatal(err)
	}
}

// alarmed waits until the alarm stands.
func alarmed(t *testing.T, d *lab.Daemon, name string) *lab.Alarm {
	t.Helper()
	var a *lab.Alarm
	eventually(t, 15*time.Second, "the alarm "+name, func() error {
		s, err := d.Status()
		if err != nil {
			return err
		}
		if a = s.Alarm(name); a == nil {
			return fmt.Errorf("alarms are %+v", s.Alarms)
		}
		return nil
	})
	return a
}

// calm waits until the alarm is over.
func calm(t *testing.T, d *lab.Daemon, name string) {
	t.Helper()
	eventually(t, 20*time.Second, "the end of the alarm "+name, func() error {
		s, err := d.Status()
		if err != nil {
			return err
		}
		if a := s.Alarm(name); a != nil {
			return fmt.Errorf("it stands: %s", a.Text)
		}
		return nil
	})
}

// doctorNames asks doctor, and fails the test unless it names the piece as broken.
func doctorNames(t *testing.T, d *lab.Daemon, name string) lab.Check {
	t.Helper()
	checks, err := d.Doctor()
	if err != nil {
		t.Error(err)
		return lab.Check{}
	}
	for _, c := range checks {
		if c.Name == name && !c.OK {
			return c
		}
	}
	t.Errorf("doctor does not name %q as broken: %+v", name, checks)
	return lab.Check{}
}
