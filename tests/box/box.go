// Package box gives a test a private view of this machine: mount, network and process
// namespaces of its own, with copies on write of the folders that are to be changed. What
// happens in it leaves the machine as it was, no mail can leave it, and nobody else's
// process is seen in it.
//
// Unlike package lab, which the calling program enters for good, there may be any number
// of boxes at once, each for one test. It needs root, and is never linked into the product.
package box

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Box is one such view. It ends with its test.
type Box struct {
	T   testing.TB
	Dir string // outside; everybody may enter it
	OSM string // outside; seen as /run/osm inside
	pid string // of the process that keeps the namespaces: the first in its own
}

// Arguments: the box's folder, the module's (seen as /srv), the folders to be copied, and
// what else is to be run at the beginning.
const script = `set -e
cd /
read -r pid rest </proc/self/stat # as the outside counts
mount -t proc proc /proc
for d in $2; do
	mkdir -p "$0/$d/upper" "$0/$d/work"
	chmod --reference="/$d" "$0/$d/upper"
	chown --reference="/$d" "$0/$d/upper"
	mount -t overlay -o "lowerdir=/$d,upperdir=$0/$d/upper,workdir=$0/$d/work" overlay "/$d"
done
mount -t tmpfs -o mode=0755 tmpfs /run
mkdir -p /run/osm /run/lock
mount --bind "$0/run-osm" /run/osm
mount --bind "$1" /srv
mount -o remount,bind,ro /srv
ip link set lo up
eval "$3" </dev/null >&2
echo "$pid"
cat # and the shell, as the first process, takes care of those without a parent`

// New makes a box in which the folders ("etc", "usr/local") can be changed, and runs a
// few shell commands in it. The module is seen as /srv.
func New(t testing.TB, folders, setUp string) *Box {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("this test needs root: it makes namespaces and runs the real Exim")
	}
	dir, err := os.MkdirTemp("", "osm-box-") // the test's own name could hold a comma, which mount splits at
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	b := &Box{T: t, Dir: dir, OSM: filepath.Join(dir, "run-osm")}
	if err := os.Mkdir(b.OSM, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { // Exim's user must pass
		t.Fatal(err)
	}
	holder := exec.Command("unshare", "--mount", "--net", "--pid", "--fork", "--propagation", "private", "sh", "-c", script,
		dir, module(t), folders, setUp)
	in, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	holder.Stderr = &stderr
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close() // ends the process and with it the namespaces
		holder.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	b.pid = strings.TrimSpace(line)
	if _, bad := strconv.Atoi(b.pid); bad != nil {
		holder.Wait()
		t.Fatalf("private namespaces: %q, %v: %s", line, err, &stderr)
	}
	return b
}

// module is the folder of go.mod.
func module(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for at := dir; at != "/"; at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, "go.mod")); err == nil {
			return at
		}
	}
	t.Fatalf("there is no go.mod above %s", dir)
	return ""
}

// Enter is what stands before a command that is to run in the box.
func (b *Box) Enter() []string {
	return []string{"nsenter", "--mount", "--net", "--pid", "--target", b.pid, "--"}
}

// Command is a program that runs in the box, for a minute at most.
func (b *Box) Command(args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	b.T.Cleanup(cancel)
	argv := append(b.Enter(), args...)
	c := exec.CommandContext(ctx, argv[0], argv[1:]...)
	c.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive"}
	return c
}

// Try runs a program with stdin and returns its output and exit status.
func (b *Box) Try(stdin string, args ...string) (string, int) {
	b.T.Helper()
	c := b.Command(args...)
	c.Stdin = strings.NewReader(stdin)
	out, err := c.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		b.T.Fatalf("%q: %v: %s", args, err, out)
	}
	return string(out), c.ProcessState.ExitCode()
}

// Run is Try for what must succeed.
func (b *Box) Run(args ...string) string {
	b.T.Helper()
	out, code := b.Try("", args...)
	if code != 0 {
		b.T.Fatalf("%q: exit status %d: %s", args, code, out)
	}
	return out
}

// Write makes a file with its folders.
func (b *Box) Write(path, text string) {
	b.T.Helper()
	if out, code := b.Try(text, "sh", "-c", `mkdir -p "$(dirname "$0")" && cat >"$0"`, path); code != 0 {
		b.T.Fatalf("write %s: %s", path, out)
	}
}

// Read returns a file's text, or why there is none.
func (b *Box) Read(path string) string {
	b.T.Helper()
	out, _ := b.Try("", "cat", path)
	return out
}

// List is every file below the folders, with owner, mode and a sum of its bytes. What
// adding a user changes, and what belongs to the packages of the machine, is left out.
func (b *Box) List(folders ...string) string {
	b.T.Helper()
	return b.Run(append([]string{"sh", "-c", `cd / && set -- "$@" -path var/lib/apt -prune -o -path var/lib/dpkg -prune -o \
		! -path 'etc/passwd*' ! -path 'etc/group*' ! -path 'etc/*shadow*' ! -path 'etc/.pwd.lock' ! -path 'etc/subuid*' ! -path 'etc/subgid*'
		find "$@" -printf '%p %y %m %U:%G %l\n' | sort
		find "$@" -type f -print0 | xargs -0 cksum | awk '{ print $3, $1 }' | sort`, "list"}, folders...)...)
}

// NotTheMachine ends the test unless what is written to in the folders are copies.
func (b *Box) NotTheMachine(folders ...string) {
	b.T.Helper()
	for _, d := range folders {
		if got := b.Run("stat", "-f", "-c", "%T", d); got != "overlayfs\n" {
			b.T.Fatalf("%s in the box is %q, want an overlay", d, got)
		}
	}
}

// Differences tells what changed between two lists.
func Differences(before, after string) string {
	var out []string
	was, is := lines(before), lines(after)
	for line := range was {
		if !is[line] {
			out = append(out, "- "+line)
		}
	}
	for line := range is {
		if !was[line] {
			out = append(out, "+ "+line)
		}
	}
	return strings.Join(out, "\n")
}

func lines(s string) map[string]bool {
	m := map[string]bool{}
	for line := range strings.Lines(s) {
		m[strings.TrimSpace(line)] = true
	}
	return m
}
