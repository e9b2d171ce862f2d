package direct

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"osm/tests/lab"
)

// machine is set once by TestMain: there is one machine for a process.
var machine struct {
	*lab.Lab
	bin, knock string
	far        *lab.Far
	direct     string // more lines of [direct]
	states     int
	ebpf       error // why there are no tracepoints here; nil = there are
}

// firstUID keeps apart from the tests that run at the same time: the tracepoint tells of the
// whole machine, and a uid that connects elsewhere too is somebody else's now and then.
const firstUID = 24001

const (
	spammer   = "spam" // connects by itself
	neighbour = "shop"
)

func TestMain(m *testing.M) {
	if err := lab.Enter(); err != nil {
		fmt.Fprintln(os.Stderr, "direct:", err)
		os.Exit(1)
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, "direct:", err)
		return 1
	}
	dir, err := os.MkdirTemp("", "osm-direct-")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		return fail(err)
	}
	machine.bin, machine.knock = filepath.Join(dir, "bin"), filepath.Join(dir, "bin", "knock")
	if err := errors.Join(os.Mkdir(machine.bin, 0o755), lab.Build(machine.bin, false), buildKnock()); err != nil {
		return fail(err)
	}
	// Where systemd runs tracefs is there already; this mount is the test's own namespace's.
	machine.ebpf = syscall.Mount("tracefs", "/sys/kernel/tracing", "tracefs", 0, "")
	// What is for outside goes to the other host, at a port that is watched.
	machine.Lab, err = lab.New(lab.Options{Dir: dir, FirstUID: firstUID, Accounts: []string{spammer, neighbour}, TmpfsSpool: true,
		RouterExtra: "far:\n  driver = manualroute\n  domains = far.example\n  route_list = * " + lab.FarIPv4 + "\n  transport = sink\n"})
	if err != nil {
		return fail(err)
	}
	defer machine.Close()
	if machine.far, err = lab.NewFar(); err != nil {
		return fail(err)
	}
	defer machine.far.Close()
	err = errors.Join(machine.far.MailServers(25, 465, 587, 2525), machine.SetACL(machine.Guard(false)), machine.StartExim())
	if err != nil {
		return fail(err)
	}
	return m.Run()
}

// buildKnock makes the static binaries of the tests.
func buildKnock() error {
	cmd := exec.Command("go", "build", "-o", machine.bin+"/", "./knock", "./without")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w: %.2000s", err, out)
	}
	return nil
}

// sources are those that the tests are made for, each with what it promises.
func sources() []string { return []string{"ebpf", "packet", "poll"} }

// needs skips the test, loudly, where the kernel refuses the source.
func needs(t *testing.T, source string) {
	t.Helper()
	if source == "ebpf" && machine.ebpf != nil {
		t.Skipf("NOT TESTED: this kernel gives us no tracepoints, so the ebpf source cannot be used here: %v", machine.ebpf)
	}
}

// start starts the daemon with a source, in a state of its own.
func start(t *testing.T, source, rules string) *lab.Daemon {
	t.Helper()
	needs(t, source)
	return startAs(t, source, source, rules)
}

// startAs starts it with a setting for the source, by which it takes the one of that name.
func startAs(t *testing.T, setting, source, rules string) *lab.Daemon {
	t.Helper()
	if err := lab.DependOnProduct(); err != nil {
		t.Fatal(err)
	}
	machine.states++
	machine.State = filepath.Join(machine.Dir, fmt.Sprint("state-", machine.states))
	if err := os.Mkdir(machine.State, 0o755); err != nil {
		t.Fatal(err)
	}
	machine.Direct = fmt.Sprintf("source = %q\nports = [25, 465, 587, 2525]\n%s", setting, machine.direct)
	if err := os.Truncate(machine.Logs+"/osmd.log", 0); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	d, err := machine.StartOsmd(machine.bin, rules)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			text, _ := os.ReadFile(d.Log)
			t.Logf("log of osmd:\n%s", text[max(0, len(text)-5000):])
		}
	})
	return watching(t, d, source)
}
