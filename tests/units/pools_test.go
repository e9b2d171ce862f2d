package units

import (
	"errors"
	"fmt"
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
	run := machine.Dir + "/php" // www-data's, as /run/php
	file := etc + "/8.2/fpm/pool.d/units.conf"
	conf := etc + "/8.2/fpm/php-fpm.conf"
	err = errors.Join(os.Mkdir(run, 0o755), os.Chown(run, 33, 33), os.MkdirAll(filepath.Dir(file), 0o755),
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
	page, err := i.Pool(t.Context(), "units", socket)
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
