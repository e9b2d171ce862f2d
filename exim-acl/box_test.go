package eximacl

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"osm/policy"
	privatebox "osm/tests/box"
)

// box is a private view of this machine with an Exim in it.
type box struct{ *privatebox.Box }

func newBox(t testing.TB) *box {
	t.Helper()
	return &box{privatebox.New(t, "etc usr/local var/lib var/spool var/log var/mail",
		"install -d -o Debian-exim -g Debian-exim -m 0750 /run/exim4")}
}

// daemon starts Exim's SMTP daemon in the box and waits until it listens.
func (b *box) daemon() {
	b.T.Helper()
	c := b.Command("/usr/sbin/exim4", "-bdf", "-oX", "127.0.0.1:25", "-oP", "/run/exim4/exim.pid")
	stderr, err := c.StderrPipe()
	if err != nil {
		b.T.Fatal(err)
	}
	if err := c.Start(); err != nil {
		b.T.Fatal(err)
	}
	b.T.Cleanup(func() { c.Process.Kill(); c.Wait() })
	go io.Copy(io.Discard, stderr)
	for range 1000 {
		if _, code := b.Try("", "bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/25 && read -t 5 x <&3"); code == 0 {
			return
		}
	}
	b.T.Fatal("Exim's daemon does not listen")
}

// serve starts s on the box's policy socket, open to Exim's group.
func (b *box) serve(s *Server) (stop func()) {
	b.T.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(b.OSM, "policy.sock"), Net: "unix"})
	if err != nil {
		b.T.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(b.OSM, "policy.sock"), 0o666); err != nil {
		b.T.Fatal(err)
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
				b.T.Errorf("Serve: %v", err)
			}
			l.Close()
		})
	}
	b.T.Cleanup(stop)
	return stop
}

func (b *box) eximUID() uint32 {
	b.T.Helper()
	n, err := strconv.ParseUint(strings.TrimSpace(b.Run("id", "-u", "Debian-exim")), 10, 32)
	if err != nil {
		b.T.Fatal(err)
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
	return b.listen(func(c net.Conn) { b.T.Cleanup(func() { c.Close() }) })
}

func (b *box) listen(serve func(net.Conn)) (stop func()) {
	b.T.Helper()
	path := filepath.Join(b.OSM, "policy.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		b.T.Fatal(err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		b.T.Fatal(err)
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
