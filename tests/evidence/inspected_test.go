package evidence

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"osm/internal/evidence"
	"osm/internal/origin"
	"osm/policy"
)

const (
	askerEnv = "EVIDENCE_ASKER" // makes the test program an asker: "INSPECTOR POOL ADDRESS"
	askerUID = 20042            // who may ask the inspector, and nothing of the pools
)

// actAsAsker says whether the pool may be asked directly, and what the inspector tells of it.
func actAsAsker(socket, name, address string) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, err := evidence.AskPool(ctx, evidence.Pool{Name: name, Address: address, StatusPath: "/fpm-status"})
	fmt.Println("directly:", errors.Is(err, fs.ErrPermission))
	i := origin.NewInspector(socket)
	page, err := i.Pool(ctx, name, address)
	fmt.Printf("by the inspector: %v %s\n", err, page)
}

// asker is a program of askerUID's that asks the inspector for a pool.
func asker(t *testing.T, socket, name, address string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "asker")
	must(t, copyProgram(program))
	for dir := filepath.Dir(program); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		must(t, os.Chmod(dir, 0o755))
	}
	cmd := exec.Command(program)
	cmd.Env = []string{askerEnv + "=" + strings.Join([]string{socket, name, address}, " ")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: askerUID, Gid: askerUID}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

func copyProgram(to string) error {
	from, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer from.Close()
	f, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from)
	return errors.Join(err, f.Close())
}

// inspectPools serves an inspector for askerUID that knows the pools of one file.
func inspectPools(t *testing.T, file string) (socket string) {
	t.Helper()
	socket = filepath.Join(filepath.Dir(file), fmt.Sprint("inspect-", time.Now().UnixNano()))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket})
	must(t, err)
	must(t, os.Chmod(socket, 0o666))
	pools := evidence.NewPoolAsker([]string{file}, machine.clock)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- origin.ServeInspect(ctx, l, origin.InspectOptions{UID: askerUID, Exim: "/usr/sbin/exim4", Log: slog.New(slog.DiscardHandler),
			Pool: func(ctx context.Context, name, address uint32) ([]byte, error) {
				return pools.Ask(ctx, func(p evidence.Pool) bool {
					return origin.PoolNumber(p.Name) == name && origin.PoolNumber(p.Address) == address
				})
			}})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return socket
}

// Who may not connect to a pool gets its status page, and nothing else, by the inspector.
func TestTheInspectorAsksAPoolForWhoeverMayNot(t *testing.T) {
	s := newServer(t)
	socket := s.startFPM(t, fmt.Sprintf(fpmPool, s.dir))
	waitForWorkers(t, evidence.Pool{Name: account, Address: socket, StatusPath: "/fpm-status"}, 16)
	file := s.dir + "/fpm.conf"
	inspector := inspectPools(t, file)
	for try := 1; ; try++ { // the pool has 300 ms for its answer
		got := asker(t, inspector, account, socket)
		if !strings.HasPrefix(got, "directly: true\n") {
			t.Fatalf("asked for the pool:\n%s", got)
		}
		if strings.Contains(got, "\nby the inspector: <nil> {\"pool\":\"shop\"") && strings.Contains(got, `"request uri":"\/fpm-status?full&json"`) {
			break
		}
		if try == tries {
			t.Fatalf("asked for the pool:\n%s", got)
		}
	}
	// One that listens but stands in no file.
	if got := asker(t, inspector, "blog", socket); strings.Contains(got, "<nil>") {
		t.Errorf("a pool that is in no file was asked:\n%s", got)
	}
	must(t, os.Symlink(socket, s.dir+"/other.sock"))
	if got := asker(t, inspector, account, s.dir+"/other.sock"); strings.Contains(got, "<nil>") {
		t.Errorf("a socket that is in no file was asked:\n%s", got)
	}
	must(t, os.Chmod(file, 0o666))
	if got := asker(t, inspectPools(t, file), account, socket); strings.Contains(got, "<nil>") {
		t.Errorf("a pool of a file that others can write was asked:\n%s", got)
	}
}

// The whole way as it is installed: the gatherer knows the pools of the files and has the
// inspector ask them.
func TestEvidenceByTheInspectorsAnswer(t *testing.T) {
	s := newServer(t)
	pool := strings.Replace(fpmPool, "pm.max_children = 16", "pm.max_children = 4\npm.status_listen = %[1]s/status.sock", 1)
	socket := s.startFPM(t, fmt.Sprintf(pool, s.dir))
	waitForWorkers(t, evidence.Pool{Name: account, Address: s.dir + "/status.sock", StatusPath: "/fpm-status"}, 4)
	s.startApache(t, event+fcgiTo(socket))
	page := s.page(t, "send.php", sendPage)
	i := origin.NewInspector(inspectPools(t, s.dir+"/fpm.conf"))
	o := apacheOnly
	o.PoolFiles = []string{s.dir + "/fpm.conf"}
	o.AskPool = func(ctx context.Context, p evidence.Pool) ([]byte, error) { return i.Pool(ctx, p.Name, p.Address) }
	visitOnce(t, gatherer(t, o), page, "script "+page, func(e policy.Evidence) bool {
		return e.Script == page && e.Confidence == policy.ConfidenceHigh
	})
	must(t, i.Close())
}
