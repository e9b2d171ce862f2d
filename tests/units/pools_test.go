package units

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"osm/internal/origin"
	"osm/tests/lab"
)

// debianPool is a pool whose sockets are the web server's, as on Debian.
const debianPool = `[units]
user = shop
group = shop
listen = %[1]s/units.sock
listen.owner = www-data
listen.group = www-data
listen.mode = 0660
pm = static
pm.max_children = 2
pm.status_path = /fpm-status
php_admin_value[sendmail_path] = /usr/sbin/sendmail -t -i
`

// startFPM runs php-fpm on a pool where Debian keeps them, in a folder of its own there.
func startFPM(t *testing.T) (socket string) {
	t.Helper()
	programs, err := filepath.Glob("/usr/sbin/php-fpm[0-9]*")
	if err != nil || len(programs) == 0 {
		t.Fatal("there is no php-fpm (package php-fpm)")
	}
	etc := "/etc/php"
	err = errors.Join(os.MkdirAll(etc, 0o755), syscall.Mount("tmpfs", etc, "tmpfs", 0, "mode=0755"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(etc, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	run, err := os.MkdirTemp(machine.Dir, "php-") // www-data's, as /run/php
	if err != nil {
		t.Fatal(err)
	}
	file := etc + "/8.2/fpm/pool.d/units.conf"
	conf := etc + "/8.2/fpm/php-fpm.conf"
	err = errors.Join(os.Chmod(run, 0o755), os.Chown(run, 33, 33), os.MkdirAll(filepath.Dir(file), 0o755),
		os.WriteFile(file, fmt.Appendf(nil, debianPool, run), 0o644),
		os.WriteFile(conf, fmt.Appendf(nil, "[global]\nerror_log = %s/fpm.log\ninclude = %s\n", machine.Dir, file), 0o644))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(programs[len(programs)-1], "--nodaemonize", "--fpm-config", conf)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait() // its end was asked for
	})
	socket = run + "/units.sock"
	err = lab.WaitFor(10*time.Second, "php-fpm to answer", func() error {
		c, err := net.Dial("unix", socket)
		if err == nil {
			err = c.Close()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return socket
}

// The rights of the inspector's unit are enough to ask a pool, whosever its socket is.
func TestTheInspectorMayAskThePoolsOfPHPFPM(t *testing.T) {
	socket := startFPM(t)
	p := startAll(t)
	i := origin.NewInspector(machine.Run + "/inspect.sock")
	var page []byte
	err := lab.WaitFor(20*time.Second, "the pool's page", func() (err error) { page, err = i.Pool(t.Context(), "units", socket); return err })
	if err != nil || !strings.HasPrefix(string(page), `{"pool":"units"`) {
		t.Errorf("the pool's page is %q, %v", page, err)
	}
	if page, err := i.Pool(t.Context(), "units", "/run/other.sock"); err == nil {
		t.Errorf("a pool that is in no file: %q", page)
	}
	if err := i.Close(); err != nil {
		t.Error(err)
	}
	p.inspect.hasJustTheRights()
}

// overPage sends one message more than an account may, and takes its time as a page does
// that sends much.
const overPage = `<?php
usleep(200000);
for ($i = 0; $i < 4; $i++) mail("to@sink.example", "over", "Hello.\n");
usleep(4000000);
`

// The daemon itself sees neither the pool's socket nor, as its unit has it, the worker. What
// it comes to know is enough to take the script out of the way, and to give it back.
func TestTheScriptOfAPoolIsKnownAsInstalled(t *testing.T) {
	hideProcesses(t)
	socket := startFPM(t)
	p := startAll(t)
	script := machine.HomeOf("shop") + "/over.php"
	uid := machine.UID("shop")
	if err := errors.Join(os.WriteFile(script, []byte(overPage), 0o644), os.Chmod(script, 0o644), os.Chown(script, uid, uid)); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(script)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.ctl.Osmctl("limit", "set", "--account", "shop", "--trigger", "account-hour", "--actions", "report,rename-script=1h"); err != nil {
		t.Fatal(err)
	}
	runPage(t, socket, script)
	err = lab.WaitFor(10*time.Second, "an event with the script", func() error {
		var list struct{ Items []struct{ ID int64 } }
		if err := p.ctl.JSON(&list, "events", "--account", "shop"); err != nil || len(list.Items) == 0 {
			return fmt.Errorf("no event: %w", err)
		}
		var e struct {
			Requests []struct{ Script, URL, Basis, Confidence string }
		}
		err := p.ctl.JSON(&e, "event", fmt.Sprint(list.Items[0].ID))
		if err == nil && (len(e.Requests) == 0 || e.Requests[0].Script != script || e.Requests[0].Confidence != "high" || e.Requests[0].URL != "/over.php?a=1") {
			err = fmt.Errorf("its evidence is %+v", e.Requests)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	p.renamedAndBack(t, script, before)
	var st struct{ Alarms []struct{ Name string } }
	if err := p.ctl.JSON(&st, "status"); err != nil {
		t.Error(err)
	}
	for _, a := range st.Alarms {
		if a.Name == "inspector" {
			t.Error("there is an alarm about the inspector")
		}
	}
	if _, err := p.ctl.Osmctl("held", "discard", p.held(t, 1)[0], "--yes"); err != nil { // the queue is the other tests' too
		t.Error(err)
	}
	p.held(t, 0)
}

// knockPage connects to another host's mail server as soon as it begins, once more than an
// account may, and has the connections for a while.
const knockPage = `<?php
for ($i = 0; $i < 3; $i++) fgets($mail[] = fsockopen("%s", 25));
usleep(3000000);
`

// A page that speaks SMTP itself is known by the event of the connection that was too many,
// although the daemon itself sees neither the worker nor its socket's holder.
func TestThePageOfAPoolThatConnectsIsKnownAsInstalled(t *testing.T) {
	if machine.tracer != nil {
		t.Skipf("NOT TESTED: this kernel gives us no tracepoints, so the ebpf source cannot be used here: %v", machine.tracer)
	}
	hideProcesses(t)
	socket := startFPM(t)
	p := startAll(t)
	p.watching(t)
	script := machine.HomeOf("shop") + "/over.php"
	uid := machine.UID("shop")
	if err := errors.Join(os.WriteFile(script, fmt.Appendf(nil, knockPage, lab.FarIPv4), 0o644), os.Chown(script, uid, uid)); err != nil {
		t.Fatal(err)
	}
	if _, err := p.ctl.Osmctl("limit", "set", "--account", "shop", "--trigger", "direct-hour", "--max", "2"); err != nil {
		t.Fatal(err)
	}
	runPage(t, socket, script)
	err := lab.WaitFor(10*time.Second, "an event with the page", func() error {
		var list struct {
			Items []struct {
				ID      int64
				Trigger string
			}
		}
		if err := p.ctl.JSON(&list, "events", "--account", "shop"); err != nil || len(list.Items) != 1 || list.Items[0].Trigger != "direct-hour" {
			return fmt.Errorf("events %+v, %w", list.Items, err)
		}
		var e struct {
			Requests []struct{ Script, URL, Basis, Confidence string }
		}
		err := p.ctl.JSON(&e, "event", fmt.Sprint(list.Items[0].ID))
		if err == nil && (len(e.Requests) == 0 || e.Requests[0].Script != script || e.Requests[0].URL != "/over.php?a=1") {
			err = fmt.Errorf("its evidence is %+v", e.Requests)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// renamedAndBack waits until the script is out of the way, and takes that back.
func (p *parts) renamedAndBack(t *testing.T, script string, before os.FileInfo) {
	t.Helper()
	err := lab.WaitFor(20*time.Second, "the script to be out of the way", func() error {
		if _, err := os.Lstat(script); !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("it is there: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var list struct {
		Items []struct {
			ID            int64
			Name, Outcome string
		}
	}
	err = lab.WaitFor(10*time.Second, "the action to be in force", func() error {
		if err := p.ctl.JSON(&list, "actions", "--standing"); err != nil || len(list.Items) != 1 || list.Items[0].Name != "rename-script" {
			return fmt.Errorf("in force: %+v, %v", list.Items, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if out, err := p.ctl.Osmctl("undo", fmt.Sprint(list.Items[0].ID)); err != nil {
		t.Fatalf("undo: %v: %s", err, out)
	}
	after, err := os.Stat(script)
	if err != nil || !os.SameFile(before, after) || after.Mode() != before.Mode() || !after.ModTime().Equal(before.ModTime()) {
		t.Errorf("after the undo: %+v, %v; before: %+v", after, err, before)
	}
}

// hideProcesses does for all but root's part with CAP_SYS_PTRACE what ProtectProc=invisible
// of the daemon's unit does.
func hideProcesses(t *testing.T) {
	t.Helper()
	if got := readUnit(t, "osmd.service").get(t, "ProtectProc"); got != "invisible" {
		t.Fatalf("the daemon's unit has ProtectProc=%s", got)
	}
	if err := syscall.Mount("proc", "/proc", "proc", 0, "hidepid=invisible"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount("/proc", syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// runPage has the pool run a page, as a web server does, and waits for its end.
func runPage(t *testing.T, socket, script string) {
	t.Helper()
	record := func(kind byte, content string) string {
		return string([]byte{1, kind, 0, 1, byte(len(content) >> 8), byte(len(content)), 0, 0}) + content
	}
	var params strings.Builder
	for _, kv := range [][2]string{{"REQUEST_METHOD", "GET"}, {"SCRIPT_FILENAME", script}, {"SCRIPT_NAME", "/over.php"},
		{"REQUEST_URI", "/over.php?a=1"}, {"QUERY_STRING", "a=1"}} {
		fmt.Fprintf(&params, "%c%c%s%s", len(kv[0]), len(kv[1]), kv[0], kv[1])
	}
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte(record(1, "\x00\x01\x00\x00\x00\x00\x00\x00") + record(4, params.String()) + record(4, "") + record(5, ""))); err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(c)
	if err != nil || strings.Contains(string(out), "Status: ") || strings.Contains(string(out), "rror") {
		t.Fatalf("the page answers %q, %v", out, err)
	}
}
