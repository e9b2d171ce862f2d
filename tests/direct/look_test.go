package direct

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"osm/tests/lab"
)

// monitor is the part of the daemon's status that is about connections.
type monitor struct {
	OK       bool   `json:"ok"`
	Text     string `json:"text"`
	Source   string `json:"source"`
	Level    string `json:"level"`
	SelfTest string `json:"self_test"`
	Better   []struct {
		Name  string `json:"name"`
		Error string `json:"error"`
	} `json:"better"`
	Problems []string          `json:"problems"`
	Counts   map[string]uint64 `json:"counts"`
}

// statusOf asks for it; alarms are no error.
func statusOf(d *lab.Daemon) (monitor, error) {
	var s struct {
		Monitor monitor `json:"monitor"`
	}
	err := d.Document(&s, "status")
	return s.Monitor, err
}

// watching waits until the source watches.
func watching(t *testing.T, d *lab.Daemon, source string) *lab.Daemon {
	t.Helper()
	err := lab.WaitFor(time.Minute, "the source "+source, func() error {
		m, err := statusOf(d)
		if err == nil && (m.Source != source && source != "" || m.Source == "off" || m.SelfTest == "" && m.Source != "poll") {
			err = fmt.Errorf("it is %q: %s", m.Source, m.Text)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// connection is one row of "osmctl connections".
type connection struct {
	Ref        string   `json:"ref"`
	Account    string   `json:"account"`
	UID        *int     `json:"uid"`
	SeenBy     string   `json:"seen_by"`
	Remote     string   `json:"remote"`
	Outcome    string   `json:"outcome"`
	PID        int      `json:"pid"`
	Executable string   `json:"executable"`
	Arguments  []string `json:"arguments"`
	Directory  string   `json:"working_directory"`
	Script     string   `json:"script"`
	Basis      string   `json:"basis"`
	Trigger    string   `json:"trigger"`
}

// connections lists what was seen, the newest first.
func connections(d *lab.Daemon, args ...string) ([]connection, error) {
	var all []connection
	for next := ""; ; {
		var l struct {
			Items []connection `json:"items"`
			Next  string       `json:"next"`
		}
		more := append([]string{"connections", "--limit", "1000"}, args...)
		if next != "" {
			more = append(more, "--after", next)
		}
		if err := d.JSON(&l, more...); err != nil {
			return nil, err
		}
		for _, c := range l.Items {
			if ours(c) {
				all = append(all, c)
			}
		}
		if next = l.Next; next == "" {
			return all, nil
		}
	}
}

// ours leaves out what other tests do at the same time: the tracepoint tells of the whole
// machine, and their hosts have other users.
func ours(c connection) bool {
	if c.UID == nil {
		return !strings.Contains(c.Basis, "another network namespace")
	}
	return slices.Contains([]int{machine.UID(spammer), machine.UID(neighbour), machine.EximUID, containedUID, 0}, *c.UID)
}

// wanted waits until there are n connections with those arguments.
func wanted(t *testing.T, d *lab.Daemon, n int, args ...string) []connection {
	t.Helper()
	var all []connection
	err := lab.WaitFor(time.Minute, fmt.Sprintf("%d connections", n), func() (err error) {
		if all, err = connections(d, args...); err == nil && len(all) < n {
			err = fmt.Errorf("there are %d", len(all))
		}
		return err
	})
	if err != nil {
		m, _ := statusOf(d)
		t.Fatalf("%v\nmonitor: %+v\nconnections: %+v", err, m, all)
	}
	return all
}

// script writes a file into a folder of the account's home and returns the folder.
func script(t *testing.T, account, folder, name, text string) string {
	t.Helper()
	dir := filepath.Join(machine.HomeOf(account), folder)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// as runs a program as the account to its end.
func as(t *testing.T, account, dir, name string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if out, err := machine.As(ctx, account, dir, name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v as %s: %v: %.500s", name, args, account, err, out)
	}
}

// command is one of the account's, with time enough: what it runs ends by itself, or
// with its standard input.
func command(t *testing.T, account, dir, name string, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	t.Cleanup(cancel)
	return machine.As(ctx, account, dir, name, args...)
}

// staying starts a program that connects and stays until its standard input ends. end sees to
// that, and tells how the program ended.
func staying(t *testing.T, cmd *exec.Cmd) (in io.Writer, end func() error) {
	t.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	return stdin, func() error {
		_ = stdin.Close()
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("%v: %w: %.500s", cmd.Args, err, out.String())
		}
		return nil
	}
}

// held has such a program stay while look looks: no delay of the watch makes it too late.
func held(t *testing.T, cmd *exec.Cmd, look func()) {
	t.Helper()
	_, end := staying(t, cmd)
	defer func() {
		if err := end(); err != nil {
			t.Error(err)
		}
	}()
	look()
}

// againTime is for how long is tried again what the watch had no time for: it takes some
// milliseconds for each process, and no more. What is wrong is wrong the first time.
const againTime = 30 * time.Second

// told has a program connect, which stays, and again where the watch had no time to read all
// that is wanted of its process. It counts the connections by n, and returns the last.
func told(t *testing.T, d *lab.Daemon, n *int, whole func(connection) bool, command func() *exec.Cmd) (c connection) {
	t.Helper()
	for began := time.Now(); ; {
		*n++
		held(t, command(), func() { c = wanted(t, d, *n)[0] })
		if whole(c) || time.Since(began) > againTime {
			return c
		}
		t.Logf("there was no time to read all of its process: %+v", c)
	}
}

// processRead reports whether its process was found and read, but for its memory.
func processRead(c connection) bool {
	return c.PID != 0 && c.Directory != "" && c.Executable != ""
}
