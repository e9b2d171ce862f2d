package units

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
	bin    string
	far    *lab.Far
	tracer error // why there are no tracepoints here; nil = there are
}

// firstUID keeps apart from the tests that run at the same time: the tracepoint tells of the
// whole machine.
const firstUID = 25001

func TestMain(m *testing.M) {
	if err := lab.Enter(); err != nil {
		fmt.Fprintln(os.Stderr, "units:", err)
		os.Exit(1)
	}
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "units:", err)
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	dir, err := os.MkdirTemp("", "osm-units-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	machine.bin = filepath.Join(dir, "bin")
	err = errors.Join(os.Chmod(dir, 0o755), os.Mkdir(machine.bin, 0o755), lab.Build(machine.bin, false), buildKnock())
	if err != nil {
		return 1, err
	}
	// Where systemd runs tracefs is there already; this mount is the test's own namespace's.
	machine.tracer = syscall.Mount("tracefs", "/sys/kernel/tracing", "tracefs", 0, "")
	machine.Lab, err = lab.New(lab.Options{Dir: dir, FirstUID: firstUID, Accounts: []string{"shop", "blog"}})
	if err != nil {
		return 1, err
	}
	defer machine.Close()
	machine.Direct = `source = "auto"`
	if machine.far, err = lab.NewFar(); err != nil {
		return 1, err
	}
	defer machine.far.Close()
	if err := errors.Join(machine.far.MailServers(25, 587), machine.SetACL(machine.Guard(false)), machine.StartExim()); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// buildKnock makes the program that connects past Exim.
func buildKnock() error {
	cmd := exec.Command("go", "build", "-o", machine.bin+"/", "osm/tests/direct/knock")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w: %.2000s", err, out)
	}
	return nil
}
