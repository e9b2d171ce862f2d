package units

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"osm/tests/lab"
)

// machine is set once by TestMain: there is one machine for a process.
var machine struct {
	*lab.Lab
	bin string
}

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
	err = errors.Join(os.Chmod(dir, 0o755), os.Mkdir(machine.bin, 0o755), lab.Build(machine.bin, false))
	if err != nil {
		return 1, err
	}
	machine.Lab, err = lab.New(lab.Options{Dir: dir, Accounts: []string{"shop", "blog"}})
	if err != nil {
		return 1, err
	}
	defer machine.Close()
	if err := errors.Join(machine.SetACL(machine.Guard(false)), machine.StartExim()); err != nil {
		return 1, err
	}
	return m.Run(), nil
}
