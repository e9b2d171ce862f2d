package privilege

import (
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

	"golang.org/x/sys/unix"
)

const daemonID = 20077

// TestMain makes the test program, run again as root, drop and then try everything
// that only root may do.
func TestMain(m *testing.M) {
	switch os.Getenv("PRIVILEGE_TEST_ROLE") {
	case "drop":
		err := DropTo(User{Name: "osm-test", UID: daemonID, GID: daemonID}, []int{20078},
			append(os.Environ(), "PRIVILEGE_TEST_ROLE=dropped"))
		fmt.Println("drop:", err)
		os.Exit(2)
	case "dropped":
		fmt.Println("seal:", Seal())
		fmt.Println("dumpable:", must(unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)))
		attempts()
		os.Exit(0)
	case "seal":
		fmt.Println("seal:", Seal())
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func must(n int, err error) int {
	if err != nil {
		return -1
	}
	return n
}

// attempts tries what must fail and says which of it did not.
func attempts() {
	victim, err := strconv.Atoi(os.Getenv("PRIVILEGE_TEST_VICTIM"))
	say("victim", err == nil)
	status, err := os.ReadFile("/proc/self/status")
	say("status", err == nil)
	for line := range strings.Lines(string(status)) {
		if name, _, _ := strings.Cut(line, ":"); strings.HasPrefix(name, "Cap") || name == "NoNewPrivs" || name == "Groups" || name == "Uid" || name == "Gid" {
			fmt.Println("has", strings.Join(strings.Fields(line), " "))
		}
	}
	read := func(path string) bool {
		_, err := os.ReadFile(path)
		return err == nil
	}
	say("read shadow", read("/etc/shadow"))
	_, err = os.ReadDir(os.Getenv("PRIVILEGE_TEST_SPOOL"))
	say("read the spool", err == nil)
	say("read root's environment", read(fmt.Sprintf("/proc/%d/environ", victim)))
	_, err = os.Readlink(fmt.Sprintf("/proc/%d/exe", victim))
	say("read root's program", err == nil)
	say("attach to root's process", unix.PtraceAttach(victim) == nil)
	say("seize root's process", unix.PtraceSeize(victim) == nil)
	var buf [8]byte
	_, err = unix.ProcessVMReadv(victim, []unix.Iovec{{Base: &buf[0], Len: 8}}, []unix.RemoteIovec{{Base: 4096, Len: 8}}, 0)
	say("read root's memory", errors.Is(err, unix.EFAULT) || err == nil)
	say("signal root's process", syscall.Kill(victim, syscall.Signal(0)) == nil)
	say("set uid 0", syscall.Setuid(0) == nil)
	say("set gid 0", syscall.Setgid(0) == nil)
	say("set groups", syscall.Setgroups([]int{0}) == nil)
	out, err := exec.Command(os.Getenv("PRIVILEGE_TEST_SETUID"), "-u").CombinedOutput()
	say("become root by a set-uid program", err == nil && strings.TrimSpace(string(out)) == "0")
	fmt.Println("done")
}

func say(what string, worked bool) { fmt.Printf("%s: %v\n", what, worked) }

// world makes what the attempts are about: a process of root, Exim's spool, a set-uid
// program, and a copy of the test program that everybody may execute.
func world(t *testing.T) (program string, env []string) {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "osm-privilege-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program = install(t, self, filepath.Join(dir, "program"), 0o755)
	setuid := install(t, "/usr/bin/id", filepath.Join(dir, "id"), 0o755|os.ModeSetuid)
	spool := filepath.Join(dir, "spool")
	if err := os.Mkdir(spool, 0o750); err != nil {
		t.Fatal(err)
	}
	victim := exec.Command("sleep", "600")
	victim.Env = []string{"SECRET=1"}
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = victim.Process.Kill()
		_ = victim.Wait()
	})
	return program, []string{"PATH=/usr/bin:/bin", "GORACE=atexit_sleep_ms=0", // no second of waiting with -race
		"PRIVILEGE_TEST_VICTIM=" + strconv.Itoa(victim.Process.Pid),
		"PRIVILEGE_TEST_SPOOL=" + spool, "PRIVILEGE_TEST_SETUID=" + setuid}
}

func install(t *testing.T, from, to string, mode os.FileMode) string {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(to, mode); err != nil {
		t.Fatal(err)
	}
	return to
}

func TestWhatWasRootCanDoNothingOfRootsAnyMore(t *testing.T) {
	program, env := world(t)
	cmd := exec.Command(program, "an argument")
	cmd.Env = append(env, "PRIVILEGE_TEST_ROLE=drop")
	b, err := cmd.CombinedOutput()
	out := string(b)
	if err != nil || !strings.HasSuffix(out, "done\n") {
		t.Fatalf("the child (needs root): %v\n%s", err, out)
	}
	for _, want := range []string{"seal: <nil>", "dumpable: 0", "victim: true", "status: true",
		"has Uid: 20077 20077 20077 20077", "has Gid: 20077 20077 20077 20077", "has Groups: 20077 20078",
		"has CapInh: 0000000000000000", "has CapPrm: 0000000000000000", "has CapEff: 0000000000000000",
		"has CapBnd: 0000000000000000", "has CapAmb: 0000000000000000", "has NoNewPrivs: 1"} {
		if !strings.Contains(out, want+"\n") {
			t.Errorf("line %q is missing", want)
		}
	}
	for line := range strings.Lines(out) {
		what, worked, _ := strings.Cut(strings.TrimSpace(line), ": ")
		if worked == "true" && what != "victim" && what != "status" {
			t.Errorf("could still %s", what)
		}
	}
	if t.Failed() {
		t.Log(out)
	}
}

// The attempts prove nothing if they fail for everybody.
func TestTheAttemptsWorkForRoot(t *testing.T) {
	program, env := world(t)
	cmd := exec.Command(program)
	cmd.Env = append(env, "PRIVILEGE_TEST_ROLE=dropped")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("the child (needs root): %v\n%s", err, out)
	}
	for _, want := range []string{"seal: check privileges: the process could become root again",
		"read shadow: true", "read the spool: true", "read root's environment: true", "attach to root's process: true",
		"signal root's process: true", "become root by a set-uid program: true"} {
		if !strings.Contains(string(out), want+"\n") {
			t.Errorf("line %q is missing in\n%s", want, out)
		}
	}
}

func TestSealRefusesWhoCouldComeBack(t *testing.T) {
	program, env := world(t)
	for _, tt := range []struct {
		name string
		run  []string
		want string
	}{
		{"an ordinary user", []string{"--reuid=20077", "--regid=20077", "--clear-groups"}, "seal: <nil>"},
		{"root without capabilities", []string{"--inh-caps=-all", "--bounding-set=-all"}, "seal: check privileges"},
		{"a user with root's group", []string{"--reuid=20077", "--regid=0", "--clear-groups"}, "seal: check privileges"},
		{"a user among root's groups", []string{"--reuid=20077", "--regid=20077", "--groups=0"}, "seal: check privileges"},
		{"a user with root as real user", []string{"--ruid=0", "--euid=20077", "--regid=20077", "--clear-groups"}, "seal: check privileges"},
		{"a user with one capability", []string{"--reuid=20077", "--regid=20077", "--clear-groups", "--inh-caps=+net_raw", "--ambient-caps=+net_raw"},
			"seal: check privileges"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cmd := exec.Command("setpriv", append(tt.run, program)...)
			cmd.Env = append(env, "PRIVILEGE_TEST_ROLE=seal")
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.HasPrefix(string(out), tt.want) {
				t.Errorf("setpriv %v: got %q, %v; want %q", tt.run, out, err, tt.want)
			}
		})
	}
}

func TestDropToRefusesRoot(t *testing.T) {
	for _, u := range []User{{}, {Name: "a", UID: 5}, {Name: "b", GID: 5}} {
		if err := DropTo(u, nil, nil); err == nil {
			t.Fatalf("DropTo(%+v): got no error", u)
		}
	}
}

func TestLastOfEach(t *testing.T) {
	got := lastOfEach([]string{"A=1", "B=2", "A=3", "C"})
	if want := []string{"B=2", "A=3", "C"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestUnprivileged(t *testing.T) {
	good := "Name:\tx\nUid:\t5\t5\t5\t5\nGid:\t5\t5\t5\t5\nGroups:\t\nCapInh:\t0\nCapPrm:\t0\nCapEff:\t0\nCapBnd:\tff\nCapAmb:\t0\n"
	for _, tt := range []struct {
		name, in string
		ok       bool
	}{
		{"nothing of root's", good, true},
		{"saved uid 0", strings.Replace(good, "5\t5\t5\t5", "5\t5\t0\t5", 1), false},
		{"a group of root's", strings.Replace(good, "Groups:\t", "Groups:\t7 0 8", 1), false},
		{"an inheritable capability", strings.Replace(good, "CapInh:\t0", "CapInh:\t2000", 1), false},
		{"a line is missing", strings.Replace(good, "CapAmb:\t0\n", "", 1), false},
		{"nothing at all", "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := unprivileged(tt.in); (err == nil) != tt.ok {
				t.Errorf("unprivileged(%q): got %v", tt.in, err)
			}
		})
	}
}

func TestLookups(t *testing.T) {
	root, err := LookupUser("root")
	if err != nil || root.UID != 0 || root.Name != "root" {
		t.Errorf("LookupUser(root): got %+v, %v", root, err)
	}
	if byNumber, err := LookupUser("0"); err != nil || byNumber != root {
		t.Errorf("LookupUser(0): got %+v, %v; want %+v", byNumber, err, root)
	}
	if gid, err := LookupGroup("root"); err != nil || gid != 0 {
		t.Errorf("LookupGroup(root): got %d, %v", gid, err)
	}
	if _, err := LookupUser("no-such-user-here"); err == nil {
		t.Error("LookupUser of nobody: got no error")
	}
	if _, err := LookupGroup("no-such-group-here"); err == nil {
		t.Error("LookupGroup of none: got no error")
	}
}
