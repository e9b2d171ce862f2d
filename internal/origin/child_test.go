package origin

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const (
	aliceUID = 20001
	bobUID   = 20002
	// quickExit spares a test program built with -race the second it waits at its end.
	quickExit = "GORACE=atexit_sleep_ms=0"
)

// TestMain makes the test program, run again as another user, do one look-up, or run
// other programs as Exim does.
func TestMain(m *testing.M) {
	if os.Getenv("ORIGIN_TEST_EXIM") != "" {
		if err := actAsExim(os.Args[1:]); err != nil {
			fmt.Println(err)
		}
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL) // set-uid, it heeds no quickExit
	}
	if role := os.Getenv("ORIGIN_TEST_LOOKUP"); role != "" {
		client, server, _ := strings.Cut(role, " ")
		uid, inode, err := ClientOwner(netip.MustParseAddrPort(client), netip.MustParseAddrPort(server))
		fmt.Println(os.Getuid(), uid, inode > 0, err)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// actAsExim runs the first of programs with the others as its arguments, as alice if
// it can, as a delivery of Exim's runs the recipient's programs. Without any it is the
// Exim that a message is submitted to: it takes on its set-uid user, says its process
// and waits.
func actAsExim(programs []string) error {
	if len(programs) == 0 {
		if err := syscall.Setresuid(os.Geteuid(), os.Geteuid(), os.Geteuid()); err != nil {
			return err
		}
		fmt.Println(os.Getpid())
		_, err := io.Copy(io.Discard, os.Stdin)
		return err
	}
	cmd := exec.Command(programs[0], programs[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if os.Getuid() == 0 {
		if err := syscall.Setresuid(0, 0, 0); err != nil { // the set-uid file made it bob
			return err
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: aliceUID, Gid: aliceUID}}
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	_ = cmd.Wait() // it ends by a signal
	return nil
}

// child is a process of another user that the tests look at.
type child struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   *bufio.Reader
}

// spec says what to start; a zero dir is the test's own.
type spec struct {
	uid  uint32
	dir  string
	env  []string
	args []string
}

func start(t *testing.T, s spec) *child {
	t.Helper()
	cmd := exec.Command(s.args[0], s.args[1:]...)
	cmd.Dir, cmd.Env, cmd.Stderr = s.dir, append([]string{"PATH=/usr/bin:/bin", quickExit}, s.env...), os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: s.uid, Gid: s.uid}}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %q as uid %d (the tests need root): %v", s.args, s.uid, err)
	}
	c := &child{cmd: cmd, stdin: stdin, out: bufio.NewReader(stdout)}
	t.Cleanup(func() { c.end() })
	return c
}

// end lets the child come to its end and waits for it.
func (c *child) end() {
	_ = c.stdin.Close()
	_ = c.cmd.Wait()
}

func (c *child) line(t *testing.T) string {
	t.Helper()
	s, err := c.out.ReadString('\n')
	if err != nil {
		t.Fatalf("read from %q: %v", c.cmd.Args, err)
	}
	return strings.TrimSpace(s)
}

func (c *child) say(t *testing.T, s string) {
	t.Helper()
	if _, err := io.WriteString(c.stdin, s+"\n"); err != nil {
		t.Fatal(err)
	}
}

// publicDir returns a folder that other users can enter.
func publicDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "osm-origin-")
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
	return dir
}

// copyFile makes a copy of a program, which is another file than the original.
func copyFile(t *testing.T, from, to string) string {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o755); err != nil {
		t.Fatal(err)
	}
	return to
}
