package packetmon

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"osm/internal/origin"
)

// asAlice runs the test again as a user without any right, and reports whether this is that
// run.
func asAlice(t *testing.T) bool {
	t.Helper()
	const inside = "PACKETMON_TEST_ALICE"
	if os.Getenv(inside) != "" {
		return true
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(publicDir(t), "test")
	if err := os.WriteFile(program, self, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-test.run=^"+t.Name()+"$")
	cmd.Dir, cmd.Env = "/", []string{inside + "=1", "GORACE=atexit_sleep_ms=0"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: aliceUID, Gid: aliceUID}}
	out, err := cmd.CombinedOutput()
	if err == nil {
		return false
	}
	if _, ended := err.(*exec.ExitError); !ended {
		t.Skipf("SKIPPED: run as uid %d: %v", aliceUID, err)
	}
	t.Fatalf("as uid %d: %v\n%s", aliceUID, err, out)
	return false
}

func TestWhatWeMayNotReadIsTold(t *testing.T) {
	if !asAlice(t) {
		if got := lookRights(true); len(got) > 0 && os.Getuid() == 0 {
			t.Errorf("as root: got %q", got)
		}
		return
	}
	for scan, want := range map[bool][]string{false: {problemWorkingDirectory}, true: {problemWorkingDirectory, problemDescriptors}} {
		got := lookRights(scan)
		got = slices.DeleteFunc(got, func(s string) bool { return s == problemHidden }) // as /proc is mounted
		if !slices.Equal(got, want) {
			t.Errorf("scan %v: got %q, want %q", scan, got, want)
		}
	}
	// of a process of root's the chain says that it is hidden, and no more than that
	c, err := origin.NewProcesses("", func(error) {}).Chain(context.Background(), int32(os.Getppid()))
	if err == nil && (!c.Hidden || c.Processes[0].WorkingDirectory != "" || c.Processes[0].UID != 0) {
		t.Errorf("root's process: got %+v", c)
	}
}
