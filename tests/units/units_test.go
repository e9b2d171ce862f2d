package units

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"osm/actions"
	"osm/tests/lab"
)

// rules let each account send three messages.
const rules = `
[held]
release_rate = "600/min"
[[trigger]]
name = "account-hour"
max = 3
count = "messages"
mode = "enforce"
`

// again is what systemd does for a service: it keeps the sockets and starts the program
// again when it ends. systemd-socket-activate starts it only once.
const again = `while :; do
	/bin/sh -c 'LISTEN_PID=$$; export LISTEN_PID; exec "$@"' sh "$@" </dev/null
done`

// part is a service that was started as by its unit.
type part struct {
	t    *testing.T
	unit unit
	args []string
	cmd  *exec.Cmd
}

// start makes the sockets of a service with their owners and modes, and has the service
// started with the first connection, without some of its capabilities.
func start(t *testing.T, service, log string, without ...string) *part {
	t.Helper()
	p := &part{t: t, unit: readUnit(t, service).without(without)}
	p.args = p.unit.command(t, machine.Dir+"/etc/osm.toml", machine.Dir+"/etc/executor.toml")
	args, names := []string{}, []string{}
	for _, s := range p.unit.sockets(t) {
		path := filepath.Join(machine.Run, filepath.Base(s.get(t, "ListenStream")))
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		args, names = append(args, "-l", path), append(names, s.get(t, "FileDescriptorName"))
	}
	args = append(args, "--fdname="+strings.Join(names, ":"), "/usr/bin/setpriv")
	args = append(append(args, p.unit.rights(t)...), "/bin/sh", "-c", again, "sh")
	p.cmd = exec.Command("/usr/bin/systemd-socket-activate", append(args, p.args...)...)
	p.cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C"}
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL); err != nil {
			t.Error(err)
		}
		_ = p.cmd.Wait() // "signal: killed" is what was asked for
	})
	for _, s := range p.unit.sockets(t) {
		give(t, filepath.Join(machine.Run, filepath.Base(s.get(t, "ListenStream"))), s)
	}
	return p
}

// give waits for a socket and gives it owner and mode, as its unit says.
func give(t *testing.T, path string, s unit) {
	t.Helper()
	err := lab.WaitFor(10*time.Second, "the socket "+path, func() error {
		out, err := exec.Command("chown", s.get(t, "SocketUser")+":"+s.get(t, "SocketGroup"), path).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return os.Chmod(path, s.mode(t))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// pid waits for the service's process.
func (p *part) pid() (pid int) {
	p.t.Helper()
	err := lab.WaitFor(10*time.Second, strings.Join(p.args, " ")+" to run", func() (err error) {
		pid, err = lab.Descendant(p.cmd.Process.Pid, p.args...)
		if err == nil {
			_, err = exeIs(pid, p.args[0])
		}
		return err
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return pid
}

// exeIs tells a program from the shell that is about to become it.
func exeIs(pid int, program string) (bool, error) {
	exe, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/exe")
	if err == nil && exe != program {
		err = fmt.Errorf("process %d runs %s", pid, exe)
	}
	return err == nil, err
}

// parts are the four services.
type parts struct {
	osmd, inspect, executor, watch *part
	ctl                            *lab.Daemon
}

// startAll starts the four services and waits until the daemon answers.
func startAll(t *testing.T) *parts {
	t.Helper()
	return startWithout(t)
}

// startWithout starts them, and takes some of its capabilities from the one that watches.
func startWithout(t *testing.T, capabilities ...string) *parts {
	t.Helper()
	ctl := machine.Attach(machine.bin)
	machine.Sink.Reset()
	t.Cleanup(func() {
		if t.Failed() {
			text, _ := os.ReadFile(ctl.Log)
			t.Logf("log of the four:\n%s", text[max(0, len(text)-6000):])
		}
	})
	uid, err := strconv.Atoi(id(t, "-u", "osm"))
	if err != nil {
		t.Fatal(err)
	}
	state, err := os.MkdirTemp(machine.State, "units-") // nothing is known from the test before
	if err != nil {
		t.Fatal(err)
	}
	config := strings.Replace(machine.Config(rules), machine.State+"/osm.db", state+"/osm.db", 1)
	err = errors.Join(os.Chown(state, uid, uid), os.Chmod(machine.State, 0o755), ctl.WriteConfig(config),
		os.WriteFile(machine.Dir+"/etc/executor.toml", []byte(fmt.Sprintf("exim_spool = %q\nstate_dir = %q\n", machine.Spool, machine.Dir+"/changes")), 0o644))
	if err != nil {
		t.Fatal(err)
	}
	p := &parts{ctl: ctl}
	p.inspect = start(t, "osm-inspect.service", ctl.Log)
	p.executor = start(t, "osm-executor.service", ctl.Log)
	p.watch = start(t, "osm-watch.service", ctl.Log, capabilities...)
	p.osmd = start(t, "osmd.service", ctl.Log)
	err = lab.WaitFor(20*time.Second, "osmd to answer", func() error { _, err := ctl.Status(); return err })
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func id(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("id", args...).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// hasJustTheRights compares a process with its unit.
func (p *part) hasJustTheRights() {
	p.t.Helper()
	user, group := p.unit.get(p.t, "User"), p.unit.get(p.t, "Group")
	uid := id(p.t, "-u", user)
	gid := strings.Split(getent(p.t, "group", group), ":")[2]
	mask := p.unit.mask(p.t)
	for field, want := range map[string]string{
		"Uid": strings.Repeat(uid+"\t", 3) + uid, "Gid": strings.Repeat(gid+"\t", 3) + gid, "Groups": "",
		"CapEff": mask, "CapPrm": mask, "CapBnd": mask, "CapInh": fmt.Sprintf("%016x", 0), "CapAmb": fmt.Sprintf("%016x", 0), "NoNewPrivs": "1",
	} {
		if got, err := lab.ProcStatus(p.pid(), field); err != nil || got != want {
			p.t.Errorf("%s of %q: %q, %v; want %q", field, p.args, got, err, want)
		}
	}
}

func getent(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("getent", args...).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// explained is what of "osmctl explain" matters here.
type explained struct {
	Decision struct {
		Account, Verdict, Script, Source string
	}
}

func TestThePartsDoTheirWorkWithJustTheRightsOfTheirUnits(t *testing.T) {
	p := startAll(t)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()

	// Three pass and two are frozen. Which program of an account's called sendmail only the
	// inspector may see.
	to := []string{"to@sink.example"}
	p.inspect.connect(t) // a message does not wait for its start
	p.inspect.pid()
	for range 5 {
		cmd := machine.As(ctx, "shop", machine.HomeOf("shop"), "/usr/bin/timeout", "30", "/usr/sbin/sendmail", "-i", "-t")
		cmd.Stdin = strings.NewReader("To: to@sink.example\nSubject: units\n\nHello.\n")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("sendmail: %v: %s", err, out)
		}
	}
	// The owner of the other end of a loopback connection is asked of the kernel, by osmd.
	if err := machine.LoopbackSMTP(ctx, "blog", lab.Mail{From: "blog@blog.example", To: to, Subject: "units blog"}); err != nil {
		t.Fatal(err)
	}
	held := p.held(t, 2)
	var e explained
	if err := p.ctl.JSON(&e, "explain", held[0]); err != nil {
		t.Fatal(err)
	}
	if d := e.Decision; d.Account != "shop" || d.Verdict != "freeze" || d.Script != "/usr/bin/timeout" {
		t.Errorf("explained as %+v, want shop's, frozen, sent by timeout", d)
	}
	if used := p.used(t, "blog"); used != 1 {
		t.Errorf("blog has used %d, want 1", used)
	}

	// One is delivered and one removed, by the executor.
	for _, args := range [][]string{{"held", "release", held[0], "--yes"}, {"held", "discard", held[1], "--yes"}} {
		if _, err := p.ctl.Osmctl(args...); err != nil {
			t.Fatal(err)
		}
	}
	p.held(t, 0)
	err := lab.WaitFor(10*time.Second, "four deliveries and an empty queue", func() error {
		queue, err := machine.Queue(false)
		if n := machine.Sink.Count("Subject", "units"); err == nil && (n != 4 || len(queue) != 0) {
			err = fmt.Errorf("%d deliveries, queue %v", n, queue)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	p.renames(t)
	p.doctorSees(t, "question", "inspector", "executor", "exim hooks", "policy socket", "control socket", "inspect socket", "executor socket", "watch socket")
	for _, part := range []*part{p.osmd, p.inspect, p.executor, p.watch} {
		part.hasJustTheRights()
	}
}

// renames has the executor take a script of an account's away, and give it back.
func (p *parts) renames(t *testing.T) {
	t.Helper()
	script := machine.HomeOf("shop") + "/units.php"
	uid := machine.UID("shop")
	if err := errors.Join(os.WriteFile(script, []byte("<?php"), 0o640), os.Chown(script, uid, uid), os.Chmod(script, 0o640)); err != nil {
		t.Fatal(err)
	}
	x := actions.NewExecutor(machine.Run + "/executor.sock")
	r, err := x.Apply(t.Context(), actions.Change{Action: "rename-script", Account: "shop", Path: script})
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Lstat(script); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the script is still there: %v, %v", st, err)
	}
	if _, err := x.Undo(t.Context(), r.ID); err != nil {
		t.Error(err)
	}
	if st, err := os.Lstat(script); err != nil || st.Mode() != 0o640 {
		t.Errorf("after the undo the script is %v, %v", st, err)
	}
}

// held waits until so many messages are held and returns their references.
func (p *parts) held(t *testing.T, n int) (refs []string) {
	t.Helper()
	err := lab.WaitFor(10*time.Second, fmt.Sprint(n, " held messages"), func() error {
		var list struct{ Items []struct{ Ref string } }
		err := p.ctl.JSON(&list, "held", "list")
		if err == nil && len(list.Items) != n {
			err = fmt.Errorf("there are %d", len(list.Items))
		}
		refs = nil
		for _, m := range list.Items {
			refs = append(refs, m.Ref)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return refs
}

// used is how many messages of an account have passed.
func (p *parts) used(t *testing.T, account string) int64 {
	t.Helper()
	var list struct {
		Items []struct {
			Trigger string
			Used    int64
		}
	}
	if err := p.ctl.JSON(&list, "usage", account); err != nil {
		t.Fatal(err)
	}
	for _, u := range list.Items {
		if u.Trigger == "account-hour" {
			return u.Used
		}
	}
	t.Fatalf("no trigger account-hour in %+v", list)
	return 0
}

// doctorSees fails the test unless doctor finds the pieces in order.
func (p *parts) doctorSees(t *testing.T, names ...string) {
	t.Helper()
	checks, err := p.ctl.Doctor()
	if err != nil {
		t.Fatal(err)
	}
	good := map[string]bool{}
	for _, c := range checks {
		good[c.Name] = c.OK && !c.Skipped
	}
	for _, name := range names {
		if !good[name] {
			t.Errorf("doctor does not find %q in order: %+v", name, checks)
		}
	}
}

// TestARestartOnlyDelays restarts all four while mail comes in: the sockets stay.
func TestARestartOnlyDelays(t *testing.T) {
	p := startAll(t)
	if _, err := p.ctl.Osmctl("limit", "set", "--account", "blog", "--trigger", "account-hour", "--max", "1000"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	const senders, each = 4, 20
	var sending sync.WaitGroup
	for range senders {
		sending.Go(func() {
			for i := range each {
				if err := machine.Sendmail(ctx, "blog", machine.HomeOf("blog"), lab.Mail{From: "blog@blog.example", To: []string{"to@sink.example"}, Subject: fmt.Sprint("restart ", i)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for _, part := range []*part{p.osmd, p.inspect, p.executor, p.watch, p.osmd} {
		before := part.pid()
		if err := syscall.Kill(before, syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		part.connect(t) // starts it again where nobody asks
		err := lab.WaitFor(20*time.Second, fmt.Sprintf("%q to be started again", part.args), func() error {
			if pid := part.pid(); pid == before {
				return fmt.Errorf("it still is process %d", pid)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	sending.Wait()
	if missed := machine.LogLines("OSM unavailable"); len(missed) > 0 {
		t.Errorf("%d messages were not checked: %s", len(missed), missed[0])
	}
	if used := p.used(t, "blog"); used != senders*each {
		t.Errorf("blog has used %d, want %d", used, senders*each)
	}
	p.doctorSees(t, "question", "inspector", "executor")
}

// connect opens a connection to each of the service's sockets, and says nothing.
func (p *part) connect(t *testing.T) {
	t.Helper()
	for _, s := range p.unit.sockets(t) {
		c, err := net.Dial("unix", filepath.Join(machine.Run, filepath.Base(s.get(t, "ListenStream"))))
		if err != nil {
			t.Error(err)
			continue
		}
		c.Close()
	}
}
