package actions

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// insideEnv marks the test binary that runs in its own mount namespace.
const insideEnv = "OSM_ACTIONS_TEST_NAMESPACE"

// testGroups are what root has, and what nobody has whom it becomes.
var testGroups = []uint32{0, 4, 27}

// TestMain runs all tests of this package in a private mount namespace, so that they can
// put their own configuration in the place of Exim's without anybody outside seeing it.
func TestMain(m *testing.M) {
	if os.Getenv(insideEnv) != "" || os.Geteuid() != 0 {
		os.Exit(m.Run())
	}
	cmd := exec.Command("unshare", append([]string{"-m", "--propagation", "private", "--", "/proc/self/exe"}, os.Args[1:]...)...)
	self, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, "find the test binary:", err)
		os.Exit(1)
	}
	cmd.Args[5] = self
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// From the start: setgroups by the test itself would end the process if one of its threads,
	// which asUser takes root's rights from, were still there.
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Groups: testGroups}}
	if err := cmd.Run(); err != nil {
		if cmd.ProcessState != nil && cmd.ProcessState.ExitCode() > 0 {
			os.Exit(cmd.ProcessState.ExitCode())
		}
		fmt.Fprintln(os.Stderr, "run the tests in a mount namespace:", err)
		os.Exit(1)
	}
}

// eximConf freezes as our ACL does. What it answers is told by the message's own header
// X-Test-Answer, so that each test chooses. Everything is delivered into one file for each
// message, which begins with a line for each delivery. With the macro ROUTER a router drops
// what is to be discarded, as the installer's does, and the ACL does not freeze it.
const eximConf = `
primary_hostname = actions.example
spool_directory = DIR/spool
log_file_path = DIR/log/%slog
domainlist local_domains =
acl_not_smtp = acl_not_smtp
untrusted_set_sender = *
local_from_check = false
keep_environment =
never_users =
TIMERS
begin acl
acl_not_smtp:
  warn
    set acl_m_other = $h_subject:
    set acl_m_osm = $h_x-test-answer:
  warn
.ifdef ROUTER
    condition = ${if match{$acl_m_osm}{action=freeze}}
.else
    condition = ${if match{$acl_m_osm}{action=(freeze|discard)}}
.endif
    control = freeze/no_tell
  warn
    condition = ${if eq{$h_x-test-frozen:}{yes}}
    control = freeze/no_tell
  accept
begin routers
.ifdef ROUTER
discard:
  driver = redirect
  condition = ${if match{$acl_m_osm}{action=discard}}
  data = :blackhole:
.endif
refused:
  driver = redirect
  domains = refused.example
  allow_fail
  data = :fail: nobody takes it
all:
  driver = accept
  transport = sink
begin transports
sink:
  driver = appendfile
  file = DIR/sink/$message_exim_id
  message_prefix = "DELIVERED to $local_part@$domain\n"
  user = Debian-exim
  create_file = anywhere
begin retry
* * F,2h,1m
`

// testExim is a private Exim on a spool of its own.
type testExim struct {
	t   *testing.T
	dir string
	uid uint32
}

// stockTimers are Debian's: frozen mail lasts seven days, with a null sender two.
const stockTimers = "timeout_frozen_after = 7d\nignore_bounce_errors_after = 2d\n"

// router has Exim itself drop what is to be discarded.
const router = "ROUTER = yes\n"

// ourTimers are what our installer sets for held_keep = 30 days.
const ourTimers = "timeout_frozen_after = 31d\nignore_bounce_errors_after = 31d\n"

func newTestExim(t *testing.T, main string) *testExim {
	t.Helper()
	if os.Getenv(insideEnv) == "" {
		t.Fatal("this test drives a real Exim: run it as root, on a machine with exim4 and unshare")
	}
	u, err := user.Lookup("Debian-exim")
	if err != nil {
		t.Fatalf("this test drives a real Exim: %v", err)
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	x := &testExim{t: t, dir: t.TempDir(), uid: uint32(uid)}
	for _, d := range []string{filepath.Dir(x.dir), x.dir} { // Exim's user must get through
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"etc", "spool", "log", "sink"} {
		if err := os.Mkdir(x.path(d), 0o755); err != nil {
			t.Fatal(err)
		}
		if d != "etc" {
			if err := os.Chown(x.path(d), uid, gid); err != nil {
				t.Fatal(err)
			}
		}
	}
	x.configure(main)
	if err := unix.Mount(x.path("etc"), "/etc/exim4", "", unix.MS_BIND, ""); err != nil {
		t.Fatalf("mount the test's configuration: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount("/etc/exim4", unix.MNT_DETACH); err != nil {
			t.Errorf("unmount the test's configuration: %v", err)
		}
	})
	return x
}

func (x *testExim) path(elem ...string) string {
	return filepath.Join(append([]string{x.dir}, elem...)...)
}

// configure writes the configuration anew with lines of its main section.
func (x *testExim) configure(main string) {
	x.t.Helper()
	text := strings.NewReplacer("DIR", x.dir, "TIMERS", main).Replace(eximConf)
	if err := os.WriteFile(x.path("etc", "exim4.conf"), []byte(text), 0o644); err != nil {
		x.t.Fatal(err)
	}
}

// run runs Exim as root and fails the test if it fails.
func (x *testExim) run(args ...string) string {
	x.t.Helper()
	out, err := exec.Command("/usr/sbin/exim4", args...).CombinedOutput()
	if err != nil {
		x.t.Fatalf("exim4 %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// letter is one message that a local user submits.
type letter struct {
	uid, gid uint32
	sender   string // "<>" for the null sender
	to       string // "" = to@sink.example; nobody takes what is for refused.example
	answer   string // what acl_m_osm shall hold
	frozen   bool   // frozen by the ACL without being ours
	subject  string
}

func frozenAnswer(ref string) string {
	return `action=freeze ref=` + ref + ` log="over account-hour" text="later" osm=1`
}

// send submits a message through sendmail and returns its id.
func (x *testExim) send(l letter) string {
	x.t.Helper()
	before := x.ids()
	text := "To: " + cmp.Or(l.to, "to@sink.example") + "\nX-Test-Answer: " + l.answer + "\n"
	if l.frozen {
		text += "X-Test-Frozen: yes\n"
	}
	text += "Subject: " + l.subject + "\n\nthe body stays secret\n"
	cmd := exec.Command("/usr/sbin/sendmail", "-t", "-i", "-odq", "-f", l.sender)
	cmd.Stdin = strings.NewReader(text)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: l.uid, Gid: l.gid}}
	if out, err := cmd.CombinedOutput(); err != nil {
		x.t.Fatalf("sendmail: %v\n%s", err, out)
	}
	for id := range x.ids() {
		if !before[id] {
			return id
		}
	}
	x.t.Fatal("sendmail queued nothing")
	return ""
}

// ids are the messages in the queue.
func (x *testExim) ids() map[string]bool {
	x.t.Helper()
	ids := map[string]bool{}
	for _, pattern := range []string{"spool/input/*-H", "spool/input/?/*-H"} {
		names, err := filepath.Glob(x.path(pattern))
		if err != nil {
			x.t.Fatal(err)
		}
		for _, n := range names {
			ids[strings.TrimSuffix(filepath.Base(n), "-H")] = true
		}
	}
	return ids
}

// deliveries counts how often the message was delivered.
func (x *testExim) deliveries(id string) int {
	x.t.Helper()
	b, err := os.ReadFile(x.path("sink", id))
	if err != nil && !os.IsNotExist(err) {
		x.t.Fatal(err)
	}
	return bytes.Count(b, []byte("DELIVERED"))
}

// age makes a message in the queue older by d, as if it had waited so long.
func (x *testExim) age(id string, d time.Duration) {
	x.t.Helper()
	name := x.path("spool/input", id+"-H")
	b, err := os.ReadFile(name)
	if err != nil {
		x.t.Fatal(err)
	}
	now := time.Now().Unix()
	for s := now - 60; s <= now; s++ { // both the time of arrival and that of freezing
		b = bytes.ReplaceAll(b, []byte(strconv.FormatInt(s, 10)), []byte(strconv.FormatInt(s-int64(d.Seconds()), 10)))
	}
	if err := os.WriteFile(name, b, 0o640); err != nil {
		x.t.Fatal(err)
	}
}

// waitFor waits until ok holds: Exim's deliveries run beside the test.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("did not happen within 20 seconds: %s", what)
		}
	}
}

func (x *testExim) options() ExecutorOptions {
	return ExecutorOptions{
		EximUID: x.uid, SpoolDir: x.path("spool"), IDsPerSecond: 5000,
		Log: slog.New(slog.DiscardHandler), Now: time.Now,
	}
}

// executor starts the root side and returns a client of it.
func (x *testExim) executor(o ExecutorOptions) *Executor {
	x.t.Helper()
	return startExecutor(x.t, o)
}

func startExecutor(t *testing.T, o ExecutorOptions) *Executor {
	t.Helper()
	path := filepath.Join(t.TempDir(), "executor.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- ServeExecutor(ctx, l, o) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("ServeExecutor: %v", err)
		}
	})
	return NewExecutor(path)
}

func mkfifo(path string, uid int) error {
	if err := unix.Mkfifo(path, 0o644); err != nil {
		return err
	}
	return os.Chown(path, uid, -1)
}
