package door

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"osm/tests/lab"
)

// machine is set once by TestMain: there is one machine for a process.
var machine struct {
	*lab.Lab
	bin     string // folder of osmd and osmctl
	self    string // a copy of this program that every user may run
	states  int
	sources sync.Once
}

const raceEnv, raceOptions = "GORACE", "atexit_sleep_ms=0"

func TestMain(m *testing.M) {
	if child() { // started by a test, as another user
		return
	}
	// A program with the race detector waits a second before it ends, unless told not to.
	if err := os.Setenv(raceEnv, raceOptions); err != nil {
		fmt.Fprintln(os.Stderr, "door:", err)
		os.Exit(1)
	}
	if err := lab.Enter(); err != nil {
		fmt.Fprintln(os.Stderr, "door:", err)
		os.Exit(1)
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, "door:", err)
		return 1
	}
	dir, err := os.MkdirTemp("", "osm-door-")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(dir)
	machine.bin, machine.self = filepath.Join(dir, "bin"), filepath.Join(dir, "door.test")
	err = errors.Join(os.Chmod(dir, 0o755), os.Mkdir(machine.bin, 0o755), lab.Build(machine.bin, withRace), copySelf(machine.self))
	if err != nil {
		return fail(err)
	}
	var accounts []string
	for i := range 60 {
		accounts = append(accounts, fmt.Sprintf("acct%02d", i))
	}
	if machine.Lab, err = lab.New(lab.Options{Dir: dir, Accounts: accounts, TmpfsSpool: true}); err != nil {
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

// copySelf puts this program where users other than root may run it.
func copySelf(to string) error {
	from, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer from.Close()
	f, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from)
	return errors.Join(err, f.Close())
}

// world is one test's daemon, with an empty database, on the one machine.
type world struct {
	*lab.Daemon
	used    int   // accounts handed out
	logFrom int64 // where the test's part of Exim's log begins
}

// rules are two triggers for all, far from everybody: a test sets the limits of its own
// accounts by osmctl. The shipped ones observe.
const rules = `
[held]
release_rate = "600/min"
[[trigger]]
name = "messages"
watch = "account"
count = "messages"
max = 1000000
per = "1h"
mode = "enforce"
[[trigger]]
name = "recipients"
watch = "account"
count = "recipients"
max = 1000000
per = "1h"
mode = "enforce"
`

// start starts the daemon with an empty database, an empty queue and the rules; the end of
// the test ends it, and fails the test if it had a fault.
func start(t *testing.T, more ...string) *world {
	t.Helper()
	machine.sources.Do(func() { touchSources(t) })
	machine.states++
	machine.State = filepath.Join(machine.Dir, fmt.Sprint("state-", machine.states))
	if err := os.Mkdir(machine.State, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(machine.Logs + "/osmd.log"); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	w := &world{}
	if st, err := os.Stat(machine.Logs + "/mainlog"); err == nil {
		w.logFrom = st.Size()
	}
	t.Cleanup(func() { clean(t) })
	var err error
	if w.Daemon, err = machine.StartOsmd(machine.bin, rules+strings.Join(more, "\n")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.end(t) })
	return w
}

// end stops the daemon in order and looks for faults in its log.
func (w *world) end(t *testing.T) {
	if err := w.Stop(); err != nil {
		t.Errorf("the daemon did not end in order: %v", err)
	}
	text := w.log(t)
	for _, bad := range []string{"DATA RACE", "panic", "goroutine "} {
		if strings.Contains(text, bad) {
			t.Errorf("the daemon's log speaks of %q", bad)
		}
	}
	if t.Failed() {
		t.Logf("log of osmd:\n%s", text[max(0, len(text)-6000):])
	}
}

// log is what the daemon wrote in this test.
func (w *world) log(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(w.Log)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// clean empties Exim's queue, waiting for deliveries under way, and the sink.
func clean(t *testing.T) {
	eventually(t, 20*time.Second, "an empty queue", func() error {
		queue, err := machine.ReadQueue()
		if err != nil || len(queue) == 0 {
			return err
		}
		args := []string{"-Mrm"}
		for _, q := range queue[:min(len(queue), 500)] {
			args = append(args, q.ID)
		}
		_ = exec.Command("/usr/sbin/exim4", args...).Run() // one under delivery cannot be removed yet
		return fmt.Errorf("%d messages are left", len(queue))
	})
	machine.Sink.Reset()
}

// touchSources makes the go command take this test's result from its cache only as long as
// the product's files are the same: it notes what a test opens.
func touchSources(t *testing.T) {
	err := filepath.WalkDir("../..", func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		if name := d.Name(); name == ".git" || name == "bin" || name == "tests" {
			return filepath.SkipDir
		}
		_, err = os.Stat(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// next hands out an account that this test has not used yet.
func (w *world) next() string {
	w.used++
	return machine.Accounts[w.used-1]
}

// eventually waits until f returns nil.
func eventually(t *testing.T, limit time.Duration, what string, f func() error) {
	t.Helper()
	if err := lab.WaitFor(limit, what, f); err != nil {
		t.Fatal(err)
	}
}
