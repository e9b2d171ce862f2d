package evidence

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"osm/internal/origin"
)

// poolsFile names pools of these sockets, by their index, in a file of that mode.
func poolsFile(t *testing.T, mode os.FileMode, sockets ...string) []string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "pools.conf")
	var text strings.Builder
	for i, s := range sockets {
		fmt.Fprintf(&text, "[pool%d]\nlisten = %s\npm.status_path = /s\n", i, s)
	}
	if err := os.WriteFile(name, []byte(text.String()), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(name, mode); err != nil {
		t.Fatal(err)
	}
	return []string{name}
}

func askNamed(t *testing.T, files []string, name string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), askTime)
	defer cancel()
	b, err := NewPoolAsker(files, origin.Clock()).Ask(ctx, func(p Pool) bool { return strings.HasPrefix(p.Name, name) })
	return string(b), err
}

func TestTheAskerAsksPoolsOfRootsFilesOnly(t *testing.T) {
	good := answerFPM(t, stdout(cgiHead+"page")).Address
	if got, err := askNamed(t, poolsFile(t, 0o644, good), "pool0"); err != nil || got != "page" {
		t.Errorf("got %q, %v", got, err)
	}
	for name, c := range map[string]struct {
		files []string
		pool  string
	}{
		"a pool that no file has":       {poolsFile(t, 0o644, good), "pool1"},
		"a file that others may write":  {poolsFile(t, 0o666, good), "pool0"},
		"a file that a group may write": {poolsFile(t, 0o664, good), "pool0"},
		"two pools are meant":           {poolsFile(t, 0o644, good, good+"2"), "pool"},
		"a TCP port":                    {poolsFile(t, 0o644, "127.0.0.1:9000"), "pool0"},
		"no socket":                     {poolsFile(t, 0o644, "/etc/passwd"), "pool0"},
		"nothing there":                 {poolsFile(t, 0o644, good+"/none"), "pool0"},
	} {
		if got, err := askNamed(t, c.files, c.pool); err == nil || got != "" {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
}

// The folder of a socket may be another user's.
func TestTheAskerIsNotLedElsewhere(t *testing.T) {
	const uid = 20001
	dir, err := os.MkdirTemp("/", "osm-asker-") // below folders of root's alone
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	users := filepath.Join(dir, "users")
	if err := os.Mkdir(users, 0o755); err != nil {
		t.Fatal(err)
	}
	link := func(to, from string, owner int) string {
		if err := os.Symlink(to, from); err != nil {
			t.Fatal(err)
		}
		if err := os.Lchown(from, owner, owner); err != nil {
			t.Fatal(err)
		}
		return from
	}
	theirs := link(answerFPM(t, stdout(cgiHead+"page")).Address, filepath.Join(users, "theirs"), uid)
	moved := link(answerFPM(t, stdout(cgiHead+"page")).Address, filepath.Join(users, "moved"), 0)
	roots := link(filepath.Dir(answerFPM(t, stdout(cgiHead+"page")).Address), filepath.Join(dir, "roots"), 0)
	loop := link("loop", filepath.Join(dir, "loop"), 0)
	if err := os.Chown(users, uid, uid); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ socket, says string }{
		"a user's link":                       {theirs, "a symbolic link that"},
		"a link of root's in a user's folder": {moved, "a symbolic link that"},
		"a loop":                              {loop, "too many levels"},
	} {
		if got, err := askNamed(t, poolsFile(t, 0o644, c.socket), "pool0"); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s was followed: %q, %v", name, got, err)
		}
	}
	if got, err := askNamed(t, poolsFile(t, 0o644, roots+"/../"+filepath.Base(roots)+"/s"), "pool0"); err == nil {
		t.Errorf("the link's parent is another folder: %q", got)
	}
	if got, err := askNamed(t, poolsFile(t, 0o644, roots+"/s"), "pool0"); err != nil || got != "page" {
		t.Errorf("root's own link: %q, %v", got, err)
	}
}

func TestTheAskerBelievesOnlyRootsListener(t *testing.T) {
	dir, err := os.MkdirTemp("/", "osm-asker-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	cmd := exec.Command("perl", "-MIO::Socket::UNIX", "-e", `$l = IO::Socket::UNIX->new(Local => $ARGV[0], Listen => 5) or die; $| = 1; print "\n"; <STDIN>`, socket)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 20001, Gid: 20001}}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close(); _ = cmd.Wait() })
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatalf("nobody listens there: %v", err)
	}
	defer c.Close()
	if got, err := askNamed(t, poolsFile(t, 0o644, socket), "pool0"); err == nil || !strings.Contains(err.Error(), "uid 20001 listens there") {
		t.Errorf("got %q, %v", got, err)
	}
}
