package direct

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"osm/tests/lab"
)

// copied is a copy of the program that connects, of an owner and with a mode.
func copied(t *testing.T, to string, uid int, mode os.FileMode) string {
	t.Helper()
	b, err := os.ReadFile(machine.knock)
	if err == nil {
		err = errors.Join(os.WriteFile(to, b, 0o755), os.Chown(to, uid, uid), os.Chmod(to, mode))
	}
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// A set-uid program has the rights of its file's owner, to whom its sockets belong then, and
// is run by somebody else: neither root nor the owner is who connects.
func TestASetUIDProgramIsWhoseWhoRunsIt(t *testing.T) {
	home := machine.HomeOf(spammer)
	roots := copied(t, filepath.Join(machine.bin, "knock-root"), 0, 0o755|os.ModeSetuid)
	shops := copied(t, filepath.Join(machine.bin, "knock-shop"), machine.UID(neighbour), 0o755|os.ModeSetuid)
	const count = "count_root = true\n"
	for _, tt := range []struct {
		name, source, settings, program string
		excluded                        bool // as root's, which are not counted
	}{
		{"root's, told in the kernel", "ebpf", "", roots, false},
		{"root's, told in the kernel, where root is counted", "ebpf", count, roots, false},
		{"another account's, told in the kernel", "ebpf", "", shops, false},
		{"root's, by its packets", "packet", "", roots, true},
		{"root's, by its packets, where root is counted", "packet", count, roots, false},
		{"another account's, by its packets", "packet", "", shops, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			machine.direct = tt.settings
			t.Cleanup(func() { machine.direct = "" })
			d := start(t, tt.source, "")
			connect := func() *exec.Cmd { return command(t, spammer, home, tt.program, "-to", lab.FarIPv4+":25", "-keep") }
			if tt.excluded {
				held(t, connect(), func() { sees(t, d, "excluded", 1) })
				if all, err := connections(d); err != nil || len(all) != 0 {
					t.Errorf("connections %+v, %v; want none: the socket is root's", all, err)
				}
				return
			}
			n := 0
			c := told(t, d, &n, processRead, connect)
			if c.Account != spammer || c.UID == nil || *c.UID != machine.UID(spammer) || c.Executable != tt.program || c.Directory != home {
				t.Errorf("connection %+v, want it to be %s's, in %s", c, spammer, home)
			}
		})
	}
}

// places are processes whose working directory is not as simple as it looks. Each command
// makes one connection and stays until its standard input ends; dir is where it is said to work.
func places(t *testing.T) []place {
	t.Helper()
	home, uid := machine.HomeOf(spammer), strconv.Itoa(machine.UID(spammer))
	connect := fmt.Sprintf("-to %s:25 -keep", lab.FarIPv4)
	jail := filepath.Join(home, "jail")
	for _, dir := range []string{jail + "/public_html/x", home + "/public_html/m", home + "/elsewhere/x"} {
		if err := machine.MakeDir(spammer, dir); err != nil {
			t.Fatal(err)
		}
	}
	copied(t, jail+"/knock", 0, 0o755)
	become := "exec setpriv --reuid=" + uid + " --regid=" + uid + " --clear-groups "
	return []place{
		{"below another root", "/public_html/x", func(cmd *exec.Cmd) {
			cmd.Args = []string{"/knock", "-to", lab.FarIPv4 + ":25", "-keep"}
			cmd.Path, cmd.Dir = "/knock", "/public_html/x"
			cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: jail, Credential: &syscall.Credential{Uid: uint32(machine.UID(spammer)), Gid: uint32(machine.UID(spammer))}}
		}},
		{"among mounts of its own", home + "/public_html/m/x", func(cmd *exec.Cmd) {
			cmd.Path = "/usr/bin/unshare"
			cmd.Args = []string{"unshare", "--mount", "/bin/sh", "-c", fmt.Sprintf("mount --bind %[1]s/elsewhere %[1]s/public_html/m && cd %[1]s/public_html/m/x && %[2]s %[3]s %[4]s", home, become, machine.knock, connect)}
		}},
		{"in a directory that is gone", home + "/public_html/gone", func(cmd *exec.Cmd) {
			cmd.Path = "/bin/sh"
			cmd.Args = []string{"sh", "-c", fmt.Sprintf("mkdir %[1]s/public_html/gone && cd %[1]s/public_html/gone && rmdir %[1]s/public_html/gone && %[2]s %[3]s %[4]s", home, become, machine.knock, connect)}
		}},
	}
}

type place struct {
	name, dir string
	command   func(*exec.Cmd)
}

func TestTheDirectoryIsAsTheProcessSeesIt(t *testing.T) {
	for _, source := range []string{"ebpf", "packet"} {
		t.Run(source, func(t *testing.T) {
			d := start(t, source, "")
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			n := 0
			for _, p := range places(t) {
				c := told(t, d, &n, processRead, func() *exec.Cmd {
					cmd := exec.CommandContext(ctx, "/bin/true")
					p.command(cmd)
					return cmd
				})
				if c.Account != spammer || c.Directory != p.dir || c.PID == 0 {
					t.Errorf("%s: %+v, want it to be %s's in %q", p.name, c, spammer, p.dir)
				}
			}
		})
	}
}

// titles is a worker that writes into its title which script it is at work on, as lsphp
// does, and goes on to the next when it is told to; threads connects in a thread.
const (
	titles = `use IO::Socket::INET; for my $page ("a", "b") { $0 = "lsphp:/srv/$page.php";
		my $s = IO::Socket::INET->new(PeerAddr => "$ARGV[0]:25") or die; <STDIN> }`
	threads = `import socket, sys, threading
def connect():
    s = socket.create_connection((sys.argv[1], 25)); sys.stdin.read()
t = threading.Thread(target=connect); t.start(); t.join()`
)

func TestAWorkersTitleIsThatOfItsConnection(t *testing.T) {
	d := start(t, "ebpf", "")
	got, n := []string{""}, 0
	for began := time.Now(); slices.Contains(got, "") && time.Since(began) < againTime; n += 2 {
		got = bothTitles(t, d, n) // again where there was no time to read one
	}
	if want := []string{"lsphp:/srv/a.php", "lsphp:/srv/b.php"}; !slices.Equal(got, want) {
		t.Errorf("the titles were %q, want %q", got, want)
	}
}

// bothTitles are those of a worker's two connections, which come after n others.
func bothTitles(t *testing.T, d *lab.Daemon, n int) (got []string) {
	t.Helper()
	next, end := staying(t, command(t, spammer, machine.HomeOf(spammer), "/usr/bin/perl", "-e", titles, lab.FarIPv4))
	defer func() {
		if err := end(); err != nil {
			t.Error(err)
		}
	}()
	for i := range 2 {
		got = append(got, strings.Join(wanted(t, d, n+i+1)[0].Arguments, " "))
		if _, err := io.WriteString(next, "\n"); err != nil {
			t.Fatal(err)
		}
	}
	return got
}

func TestAThreadsConnectionIsItsProcess(t *testing.T) {
	for _, source := range []string{"ebpf", "packet"} {
		t.Run(source, func(t *testing.T) {
			d := start(t, source, "")
			var cmd *exec.Cmd
			n := 0
			c := told(t, d, &n, processRead, func() *exec.Cmd {
				cmd = command(t, spammer, machine.HomeOf(spammer), "/usr/bin/python3", "-c", threads, lab.FarIPv4)
				return cmd
			})
			if c.PID != cmd.Process.Pid || c.Account != spammer {
				t.Errorf("connection %+v, want it to be process %d of %s", c, cmd.Process.Pid, spammer)
			}
		})
	}
}
