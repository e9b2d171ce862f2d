package packetmon

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const ebpfChild = "PACKETMON_TEST_EBPF_CHILD"

// TestEBPFChild is what the tests below run as other users: it opens the source, which reads
// tracefs at the directory named, or where it is mounted, and connects to itself.
func TestEBPFChild(t *testing.T) {
	dir := os.Getenv(ebpfChild)
	if dir == "" {
		return // not a child
	}
	if dir == "mounted" {
		dir = ""
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	e, err := OpenEBPF(EBPFOptions{Ports: []uint16{port}, Boot: ebpfBoot, tracefs: dir})
	if err != nil {
		fmt.Printf("answer: %v\n", err)
		return
	}
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := e.Run(ctx, func(s *Seen) {
		if s.PID == int32(os.Getpid()) {
			fmt.Printf("answer: seen of user %d\n", s.UID)
			cancel()
		}
	}); err != nil {
		fmt.Printf("answer: %v\n", err)
	}
}

// ebpfProgram is this test program where every user may run it.
func ebpfProgram(t *testing.T) string {
	t.Helper()
	needEBPF(t)
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "packetmon.test")
	if err := os.WriteFile(path, b, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func childsAnswer(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.CombinedOutput()
	_, after, found := strings.Cut(string(out), "answer: ")
	if err != nil || !found {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
	line, _, _ := strings.Cut(after, "\n")
	return line
}

func TestEBPFNeedsThreeCapabilitiesAndSaysWhichAreMissing(t *testing.T) {
	program, dir := ebpfProgram(t), ebpfTracefs(t)
	const noBPF = ": operation not permitted (needs CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN)"
	for _, row := range []struct{ name, user, caps, want string }{
		{"root with two", "0", "+bpf,+perfmon", "seen of user 0"},
		{"another user with these and one to read tracefs", "65534", "+bpf,+perfmon,+dac_read_search", "seen of user 65534"},
		{"root of an old kernel", "0", "+sys_admin", "seen of user 0"},
		{"another user of an old kernel", "65534", "+sys_admin,+dac_read_search", "seen of user 65534"},
		{"root with none", "0", "", "ebpf: make the map osm_ports" + noBPF},
		{"root without CAP_BPF", "0", "+perfmon", "ebpf: make the map osm_ports" + noBPF},
		{"root without CAP_PERFMON", "0", "+bpf", "ebpf: load the program osm_reset" + noBPF},
		{"another user with none", "65534", "", "permission denied (needs to be root, or CAP_DAC_READ_SEARCH)"},
		{"another user who reads tracefs", "65534", "+dac_read_search", "ebpf: make the map osm_ports" + noBPF},
	} {
		t.Run(row.name, func(t *testing.T) {
			caps := "-all"
			if row.caps != "" {
				caps += "," + row.caps
			}
			cmd := exec.Command("setpriv", "--reuid="+row.user, "--clear-groups", "--inh-caps="+caps, "--ambient-caps="+caps, "--bounding-set="+caps,
				program, "-test.run=^TestEBPFChild$")
			cmd.Dir, cmd.Env, cmd.ExtraFiles = "/", []string{ebpfChild + "=/proc/self/fd/3"}, []*os.File{dir}
			if got := childsAnswer(t, cmd); !strings.Contains(got, row.want) {
				t.Errorf("%q, want %q", got, row.want)
			}
		})
	}
}

func TestEBPFFindsTracefsWhereItIsMounted(t *testing.T) {
	program := ebpfProgram(t)
	for _, row := range []struct{ name, mount, want string }{
		{"at its own place", "mount -t tracefs tracefs /sys/kernel/tracing", "seen of user 0"},
		{"below debugfs", "mount -t debugfs debugfs /sys/kernel/debug", "seen of user 0"},
		{"nowhere", ":", "ebpf: tracefs is not mounted (mount -t tracefs tracefs /sys/kernel/tracing)"},
	} {
		t.Run(row.name, func(t *testing.T) {
			// The mounts are this child's alone.
			cmd := exec.Command("unshare", "-m", "--propagation", "private", "--", "sh", "-ec",
				`for d in /sys/kernel/debug/tracing /sys/kernel/debug /sys/kernel/tracing; do
					while umount $d 2>/dev/null; do :; done
				done; `+row.mount+`; exec "$0" -test.run='^TestEBPFChild$'`, program)
			cmd.Env = append(os.Environ(), ebpfChild+"=mounted")
			if got := childsAnswer(t, cmd); got != row.want {
				t.Errorf("%q, want %q", got, row.want)
			}
		})
	}
}

func TestEBPFDoesNotTellAContainerTheHostsConnections(t *testing.T) {
	program, dir := ebpfProgram(t), ebpfTracefs(t)
	cmd := exec.Command("unshare", "-p", "-f", "--mount-proc", "--propagation", "private", "--", program, "-test.run=^TestEBPFChild$")
	cmd.Env, cmd.ExtraFiles = append(os.Environ(), ebpfChild+"=/proc/self/fd/3"), []*os.File{dir}
	if got := childsAnswer(t, cmd); !strings.HasPrefix(got, "ebpf: this is a container") {
		t.Errorf("%q, want the reason", got)
	}
}
