package direct

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"osm/tests/lab"
)

// limited lets five connections an hour pass.
const limited = `
[[trigger]]
name = "direct-hour"
max = 5
mode = "enforce"
actions = ["report"]
[[trigger]]
name = "direct-directory-hour"
mode = "off"
`

type event struct {
	ID      int64  `json:"id"`
	Trigger string `json:"trigger"`
	Key     string `json:"key"`
	Used    int64  `json:"used"`
	Count   string `json:"count"`
	Stopped int64  `json:"stopped"`
}

func events(t *testing.T, d *lab.Daemon) (list []event) {
	t.Helper()
	var l struct {
		Items []event `json:"items"`
	}
	if err := d.JSON(&l, "events"); err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(l.Items, func(e event) bool { return e.Key != spammer && e.Key != neighbour }) // others' are other tests'
}

// raised waits for the one event.
func raised(t *testing.T, d *lab.Daemon) event {
	t.Helper()
	err := lab.WaitFor(time.Minute, "an event", func() error {
		if len(events(t, d)) == 0 {
			return errors.New("there is none")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return events(t, d)[0]
}

// connects has the spammer make more connections, until there are all. They stay until they
// were counted: of one that is over too soon it may not be known whose it was.
func connects(t *testing.T, d *lab.Daemon, all int, dir, to string, more int) {
	t.Helper()
	held(t, command(t, spammer, dir, machine.knock, "-to", to, "-n", strconv.Itoa(more), "-keep"), func() { wanted(t, d, all) })
}

func TestTheEventComesWithTheConnectionPastTheLimit(t *testing.T) {
	for _, source := range []string{"ebpf", "packet"} {
		t.Run(source, func(t *testing.T) {
			d := start(t, source, limited)
			dir := script(t, spammer, "public_html/forum", "x", "")
			connects(t, d, 5, dir, lab.FarIPv4+":25", 5)
			if list := events(t, d); len(list) != 0 {
				t.Fatalf("events %+v before the limit was passed", list)
			}
			n := 5 // and one more, or more than one until the event tells of one that could be read
			told(t, d, &n, processRead, func() *exec.Cmd { return command(t, spammer, dir, machine.knock, "-to", lab.FarIPv4+":25", "-keep") })
			if e := raised(t, d); e.Trigger != "direct-hour" || e.Key != spammer || e.Used != 5 || e.Count != "connections" {
				t.Errorf("event %+v, want one of direct-hour and %s at the 6th connection", e, spammer)
			}
			out, err := d.Osmctl("event", strconv.FormatInt(raised(t, d).ID, 10))
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range []string{lab.FarIPv4 + ":25", dir, "knock"} {
				if !strings.Contains(string(out), want) {
					t.Errorf("the event does not tell %q:\n%s", want, out)
				}
			}
		})
	}
}

func TestABlockedAccountConnectsNoMoreAndNobodyElseIsBlocked(t *testing.T) {
	for _, source := range []string{"ebpf", "packet"} {
		t.Run(source, func(t *testing.T) {
			machine.Executor = "actions = [\"block-direct\"]\nmin_uid = 20000\n"
			t.Cleanup(func() { machine.Executor = "" })
			d := start(t, source, strings.Replace(limited, `"report"`, `"report", { block-direct = "1h" }`, 1))
			home := machine.HomeOf(spammer)
			connects(t, d, 6, home, lab.FarIPv4+":25", 6)
			began := time.Now()
			blocked(t, d, func(ctx context.Context) *exec.Cmd {
				return machine.As(ctx, spammer, home, machine.knock, "-to", lab.FarIPv4+":587")
			})
			t.Logf("blocked %v after the connection past the limit", time.Since(began))
			as(t, neighbour, machine.HomeOf(neighbour), machine.knock, "-to", lab.FarIPv4+":25", "-n", "3")
			if err := machine.LoopbackSMTP(t.Context(), spammer, lab.Mail{From: "a@spam.example", To: []string{"b@far.example"}, Subject: "by Exim"}); err != nil {
				t.Errorf("mail by this host's own Exim: %v, want it to go on", err)
			}
			unblock(t, d)
			as(t, spammer, home, machine.knock, "-to", lab.FarIPv4+":587")
		})
	}
}

// blocked waits until the command cannot connect, which it is told at once.
func blocked(t *testing.T, d *lab.Daemon, connect func(context.Context) *exec.Cmd) {
	t.Helper()
	err := lab.WaitFor(time.Minute, "the block", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if err := connect(ctx).Run(); err == nil || ctx.Err() != nil {
			return fmt.Errorf("it is not refused: %v", err)
		}
		return nil
	})
	if err != nil {
		out, _ := d.Osmctl("actions")
		t.Fatalf("%v\n%s", err, out)
	}
}

// unblock undoes the block of direct mail, which is in effect a little before it is noted.
func unblock(t *testing.T, d *lab.Daemon) {
	t.Helper()
	type action struct {
		ID          int64
		Name, State string
	}
	var l struct {
		Items []action `json:"items"`
	}
	i := -1
	err := lab.WaitFor(time.Minute, "the action", func() error {
		err := d.JSON(&l, "actions")
		i = slices.IndexFunc(l.Items, func(a action) bool { return a.Name == "block-direct" && a.State == "done" })
		if err == nil && i < 0 {
			err = fmt.Errorf("actions %+v, want block-direct done among them", l.Items)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if out, err := d.Osmctl("undo", strconv.FormatInt(l.Items[i].ID, 10)); err != nil {
		t.Fatalf("undo: %v: %s", err, out)
	}
}

// contained is a command in a user namespace of the account's own, as a container without
// root is, on this host's network: its uid 33 is the 34th subordinate uid.
func contained(ctx context.Context, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, machine.knock, args...)
	cmd.Dir = dir
	own := machine.UID(spammer)
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: own, Size: 1}, {ContainerID: 1, HostID: firstSubUID, Size: subUIDs - 1}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids, Credential: &syscall.Credential{Uid: 33, Gid: 33}}
	return cmd
}

const (
	firstSubUID, subUIDs = 2_400_000_000, 65536
	containedUID         = firstSubUID + 32
)

func TestSubordinateUIDsAreCountedAndBlockedWithTheirAccount(t *testing.T) {
	list := filepath.Join(t.TempDir(), "subuid")
	if err := os.WriteFile(list, fmt.Appendf(nil, "%s:%d:%d\n", spammer, firstSubUID, subUIDs), 0o644); err != nil {
		t.Fatal(err)
	}
	if f, err := os.OpenFile("/etc/subuid", os.O_CREATE|os.O_EXCL, 0o644); err == nil { // none to put another over
		f.Close()
		t.Cleanup(func() { os.Remove("/etc/subuid") })
	}
	if err := syscall.Mount(list, "/etc/subuid", "", syscall.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount("/etc/subuid", syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	for _, source := range []string{"ebpf", "packet", "poll"} {
		t.Run(source, func(t *testing.T) {
			machine.Executor = "actions = [\"block-direct\"]\nmin_uid = 20000\n"
			t.Cleanup(func() { machine.Executor = "" })
			d := start(t, source, strings.Replace(limited, `"report"`, `"report", { block-direct = "1h" }`, 1))
			dir := script(t, spammer, "public_html/box", "x", "")
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			read := 0
			for n := range 6 { // one by one: each is looked for anew
				held(t, contained(ctx, dir, "-to", lab.FarIPv4+":25", "-keep"), func() {
					c := wanted(t, d, n+1, "--account", spammer)[0]
					if c.UID == nil || *c.UID != containedUID || c.Directory != dir && c.Directory != "" || !strings.Contains(c.Basis, "(subordinate to "+spammer+")") {
						t.Errorf("connection %+v (uid %v), want one of the 34th subordinate uid of %s, in %s", c, c.UID, spammer, dir)
					}
					if c.Directory == dir {
						read++
					}
				})
			}
			if read < 3 {
				t.Errorf("of %d of 6 connections it is told that they came from %s, want most", read, dir)
			}
			if e := raised(t, d); e.Key != spammer {
				t.Errorf("event %+v, want one of %s", e, spammer)
			}
			blocked(t, d, func(ctx context.Context) *exec.Cmd { return contained(ctx, dir, "-to", lab.FarIPv4+":587") })
			as(t, neighbour, machine.HomeOf(neighbour), machine.knock, "-to", lab.FarIPv4+":25")
			unblock(t, d)
			if out, err := contained(ctx, dir, "-to", lab.FarIPv4+":587").CombinedOutput(); err != nil {
				t.Errorf("after the undo: %v: %s", err, out)
			}
		})
	}
}

func TestAnAllowedRelayIsNotCounted(t *testing.T) {
	d := start(t, "packet", limited)
	if out, err := d.Osmctl("exempt", "add", "--account", spammer, "--destination", lab.FarIPv4, "--reason", "relay service, ticket 12"); err != nil {
		t.Fatalf("exempt: %v: %s", err, out)
	}
	home := machine.HomeOf(spammer)
	connects(t, d, 10, home, lab.FarIPv4+":587", 10)
	if list := events(t, d); len(list) != 0 {
		t.Errorf("events %+v for what is allowed", list)
	}
	connects(t, d, 16, home, "["+lab.FarIPv6+"]:25", 6)
	if e := raised(t, d); e.Used != 5 {
		t.Errorf("event %+v, want the 10 allowed ones left out", e)
	}
}

func TestConnectionsAreCountedAfterARestart(t *testing.T) {
	d := start(t, "packet", limited)
	home := machine.HomeOf(spammer)
	connects(t, d, 5, home, lab.FarIPv4+":25", 5)
	if err := d.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	watching(t, d, "packet")
	connects(t, d, 6, home, lab.FarIPv4+":25", 1)
	if e := raised(t, d); e.Used != 5 {
		t.Errorf("event %+v, want the 5 of before the restart counted", e)
	}
}

// Nobody follows while the daemon is killed and comes back: the watch keeps what it sees.
func TestAThousandAndMoreASecond(t *testing.T) {
	if testing.Short() {
		t.Skip("a flood of some seconds")
	}
	seconds := 3
	if s, err := strconv.Atoi(os.Getenv("OSM_SECONDS")); err == nil {
		seconds = s // 60 for the figure
	}
	for _, source := range []string{"ebpf", "packet"} {
		t.Run(source, func(t *testing.T) {
			d := start(t, source, "")
			n := 1000 * seconds
			busy := cpuOf(t, "watch", d)
			as(t, spammer, machine.HomeOf(spammer), machine.knock, "-to", lab.FarIPv4+":25", "-n", strconv.Itoa(n), "-rate", "1000")
			all, m := settled(t, d, n)
			whose := 0
			for _, c := range all {
				if c.Account == spammer {
					whose++
				} else if c.Account != "(unknown)" {
					t.Errorf("blamed %s", c.Account)
				}
			}
			t.Logf("%s: %d connections in %d s: %d recorded, whose is known of %d; watch: %.0f µs of processor each; counts %v", source, n, seconds, len(all), whose,
				(cpuOf(t, "watch", d)-busy).Seconds()*1e6/float64(n), m.Counts)
			if source == "ebpf" && (len(all) != n || whose != n) {
				t.Errorf("recorded %d, whose is known of %d, of %d connections: ebpf loses none", len(all), whose, n)
			}
		})
	}
}

// settled waits until each of n connections is recorded or said to be lost, which few may be.
func settled(t *testing.T, d *lab.Daemon, n int) (all []connection, m monitor) {
	t.Helper()
	err := lab.WaitFor(time.Minute, "all connections", func() (err error) {
		if all, err = connections(d); err != nil {
			return err
		}
		if m, err = statusOf(d); err == nil && (len(all) < n*95/100 || len(all)+int(m.Counts["lost"]) < n) {
			err = fmt.Errorf("of %d are recorded %d, and lost %d", n, len(all), m.Counts["lost"])
		}
		return err
	})
	if err != nil {
		t.Fatalf("%v\nmonitor: %+v", err, m)
	}
	return all, m
}

// cpuOf is the processor time that a part of the daemon has used.
func cpuOf(t *testing.T, part string, d *lab.Daemon) time.Duration {
	t.Helper()
	pid, err := lab.Descendant(d.PID(), "osmd", part)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100
}
