package eximacl

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"osm/policy"
)

// box is a private view of this machine: mount, network and process namespaces of its own,
// with copies on write of the folders that Exim and the installer use. What happens in it
// leaves the machine as it was, no mail can leave it, and nobody else's process is seen.
type box struct {
	t   testing.TB
	dir string
	pid string // of the process that keeps the namespaces: the first in its own
	osm string // seen as /run/osm inside
}

const boxScript = `set -e
cd /
read -r pid rest </proc/self/stat # as the outside counts
mount -t proc proc /proc
for d in etc usr/local var/lib var/spool var/log var/mail; do
	mkdir -p "$0/$d/upper" "$0/$d/work"
	chmod --reference="/$d" "$0/$d/upper"
	chown --reference="/$d" "$0/$d/upper"
	mount -t overlay -o "lowerdir=/$d,upperdir=$0/$d/upper,workdir=$0/$d/work" overlay "/$d"
done
mount -t tmpfs -o mode=0755 tmpfs /run
mkdir -p /run/osm /run/lock
install -d -o Debian-exim -g Debian-exim -m 0750 /run/exim4
mount --bind "$0/run-osm" /run/osm
mount --bind "$1" /srv
mount -o remount,bind,ro /srv
ip link set lo up
echo "$pid"
cat # and the shell, as the first process, takes care of those without a parent`

func newBox(t testing.TB) *box {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("this test needs root: it makes namespaces and runs the real Exim")
	}
	dir, err := os.MkdirTemp("", "osm-box-") // the test's own name could hold a comma, which mount splits at
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	b := &box{t: t, dir: dir}
	b.osm = filepath.Join(b.dir, "run-osm")
	if err := os.Mkdir(b.osm, 0o755); err != nil {
		t.Fatal(err)
	}
	module, err := filepath.Abs("..") // seen as /srv inside
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { // Exim's user must pass
		t.Fatal(err)
	}
	holder := exec.Command("unshare", "--mount", "--net", "--pid", "--fork", "--propagation", "private", "sh", "-c", boxScript, b.dir, module)
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

// command is a program that runs in the box.
func (b *box) command(args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	b.t.Cleanup(cancel)
	c := exec.CommandContext(ctx, "nsenter", append([]string{"--mount", "--net", "--pid", "--target", b.pid, "--"}, args...)...)
	c.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive"}
	return c
}

// try runs a program with stdin and returns its output and exit status.
func (b *box) try(stdin string, args ...string) (string, int) {
	b.t.Helper()
	c := b.command(args...)
	c.Stdin = strings.NewReader(stdin)
	out, err := c.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		b.t.Fatalf("%q: %v: %s", args, err, out)
	}
	return string(out), c.ProcessState.ExitCode()
}

// run is try for what must succeed.
func (b *box) run(args ...string) string {
	b.t.Helper()
	out, code := b.try("", args...)
	if code != 0 {
		b.t.Fatalf("%q: exit status %d: %s", args, code, out)
	}
	return out
}

func (b *box) write(path, text string) {
	b.t.Helper()
	if out, code := b.try(text, "sh", "-c", `mkdir -p "$(dirname "$0")" && cat >"$0"`, path); code != 0 {
		b.t.Fatalf("write %s: %s", path, out)
	}
}

func (b *box) read(path string) string {
	b.t.Helper()
	out, _ := b.try("", "cat", path)
	return out
}

// daemon starts Exim's SMTP daemon in the box and waits until it listens.
func (b *box) daemon() {
	b.t.Helper()
	c := b.command("/usr/sbin/exim4", "-bdf", "-oX", "127.0.0.1:25", "-oP", "/run/exim4/exim.pid")
	stderr, err := c.StderrPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	go io.Copy(io.Discard, stderr)
	for range 1000 {
		if _, code := b.try("", "bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/25 && read -t 5 x <&3"); code == 0 {
			return
		}
	}
	b.t.Fatal("Exim's daemon does not listen")
}

// serve starts s on the box's policy socket, open to Exim's group.
func (b *box) serve(s *Server) (stop func()) {
	b.t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(b.osm, "policy.sock"), Net: "unix"})
	if err != nil {
		b.t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(b.osm, "policy.sock"), 0o666); err != nil {
		b.t.Fatal(err)
	}
	uid := b.eximUID()
	s.PeerOK = func(u uint32) bool { return u == uid }
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, l) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-served; err != nil {
				b.t.Errorf("Serve: %v", err)
			}
			l.Close()
		})
	}
	b.t.Cleanup(stop)
	return stop
}

func (b *box) eximUID() uint32 {
	b.t.Helper()
	n, err := strconv.ParseUint(strings.TrimSpace(b.run("id", "-u", "Debian-exim")), 10, 32)
	if err != nil {
		b.t.Fatal(err)
	}
	return uint32(n)
}

var verdictInSubject = regexp.MustCompile(`verdict (\w+)`)

// bySubject answers what the message's Subject asks for and keeps the questions.
type bySubject struct {
	Server
	mu    sync.Mutex
	asked []*policy.Submission
}

func newBySubject() *bySubject {
	s := new(bySubject)
	s.Check = func(_ Conn, sub *policy.Submission) *policy.Decision {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.asked = append(s.asked, sub)
		d := &policy.Decision{Ref: "4k7qm2xd", Log: "over \"limit\"", Text: "Limit reached, 100% (4k7qm2xd) $pid ${run{/bin/id}}"}
		if m := verdictInSubject.FindStringSubmatch(sub.Subject); m != nil {
			d.Verdict, _ = policy.ParseVerdict(m[1])
		}
		return d
	}
	return s
}

// take returns the questions so far and forgets them.
func (s *bySubject) take() []*policy.Submission {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := s.asked
	s.asked = nil
	return asked
}

// rubbish answers every question with text, whatever it was.
func (b *box) rubbish(text string) (stop func()) {
	return b.listen(func(c net.Conn) {
		io.Copy(io.Discard, c)
		io.WriteString(c, text)
		c.Close()
	})
}

// silent takes questions and never answers.
func (b *box) silent() (stop func()) {
	return b.listen(func(c net.Conn) { b.t.Cleanup(func() { c.Close() }) })
}

func (b *box) listen(serve func(net.Conn)) (stop func()) {
	b.t.Helper()
	path := filepath.Join(b.osm, "policy.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		b.t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			served.Go(func() { serve(c) })
		}
	})
	return func() { l.Close(); served.Wait() }
}
