package cpanel

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	eximacl "osm/exim-acl"
	"osm/policy"
	"osm/tests/box"
)

// server is one stand-in of a server.
type server struct {
	*box.Box
	told int // bytes of the stand-ins' notes that were looked at
}

func newServer(t testing.TB) *server {
	t.Helper()
	s := &server{Box: box.New(t, "etc usr var", "/srv/tests/cpanel/setup")}
	for _, program := range []string{"osmd", "osmctl"} { // where a test needs none
		s.program("/run/bin/"+program, "")
	}
	return s
}

// program writes a small program.
func (s *server) program(path, text string) {
	s.T.Helper()
	s.Write(path, "#!/bin/sh\n"+text)
	s.Run("chmod", "755", path)
}

// installs runs install.sh and fails unless it ends with that status.
func (s *server) installs(want int, args ...string) string {
	s.T.Helper()
	s.NotTheMachine("/etc", "/usr", "/var")
	if args[0] == "install" {
		args = append(args, "--bin", "/run/bin")
	}
	out, code := s.Try("", append([]string{"/srv/exim-acl/install.sh"}, args...)...)
	if code != want {
		s.T.Fatalf("install.sh %q: exit status %d, want %d:\n%s", args, code, want, out)
	}
	return out
}

// everything is the list of all files that the installer or cPanel's programs could change.
func (s *server) everything() string {
	s.T.Helper()
	return s.List("etc", "usr/local/cpanel", "usr/local/sbin", "usr/local/share/man", "usr/lib/systemd", "var/cpanel", "var/lib")
}

// unchanged fails if something differs from an earlier list.
func (s *server) unchanged(before, when string) {
	s.T.Helper()
	if d := box.Differences(before, s.everything()); d != "" {
		s.T.Errorf("%s: not as before:\n%s", when, d)
	}
}

// fault switches faults of the stand-ins on, and all others off.
func (s *server) fault(words ...string) {
	s.T.Helper()
	s.Write("/run/standin/faults", strings.Join(words, "\n")+"\n")
}

// calls are the lines that the stand-ins noted since the last time.
func (s *server) calls() string {
	s.T.Helper()
	all := s.Run("cat", "/run/standin/calls") // is only added to: what is noted meanwhile is not lost
	since := all[s.told:]
	s.told = len(all)
	return since
}

// asked answers every question on the policy socket with accept, and keeps it. A Subject
// with "verdict NAME" is answered with that.
type asked struct {
	mu   sync.Mutex
	list []*policy.Submission
}

func (s *server) answers() *asked {
	s.T.Helper()
	path := filepath.Join(s.OSM, "policy.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		s.T.Fatal(err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		s.T.Fatal(err)
	}
	uid, err := strconv.ParseUint(strings.TrimSpace(s.Run("id", "-u", "mailnull")), 10, 32)
	if err != nil {
		s.T.Fatal(err)
	}
	a := new(asked)
	srv := &eximacl.Server{PeerOK: func(u uint32) bool { return u == uint32(uid) }, Check: a.check}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ctx, l) }()
	s.T.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			s.T.Errorf("Serve: %v", err)
		}
		l.Close()
	})
	return a
}

func (a *asked) check(_ eximacl.Conn, sub *policy.Submission) *policy.Decision {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.list = append(a.list, sub)
	d := &policy.Decision{Ref: "4k7qm2xd", Log: "over", Text: "Limit reached (4k7qm2xd)"}
	if _, word, ok := strings.Cut(sub.Subject, "verdict "); ok {
		d.Verdict, _ = policy.ParseVerdict(strings.TrimSpace(word))
	}
	return d
}

// take returns the questions so far and forgets them.
func (a *asked) take() []*policy.Submission {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := a.list
	a.list = nil
	return list
}

// script sends a message as a program of the user does, to be queued.
func (s *server) script(user, subject string, headers ...string) (string, int) {
	s.T.Helper()
	head := "To: friend@elsewhere.example\nFrom: " + user + "@whm.example\nSubject: " + subject + "\n" + strings.Join(append(headers, ""), "\n")
	return s.Try(head+"\nbody\n", "setpriv", "--reuid="+user, "--regid="+strings.TrimSpace(s.Run("id", "-g", user)), "--clear-groups", "--",
		"sh", "-c", "cd /tmp && exec sendmail -t -i -odq")
}

// smtp sends a message to Exim's daemon, logged in or not, and returns what the client sees.
func (s *server) smtp(subject string, more ...string) string {
	s.T.Helper()
	out, _ := s.Try("", append([]string{"swaks", "--server", "127.0.0.1", "--from", "info@shop.example", "--to", "friend@elsewhere.example",
		"--header", "Subject: " + subject, "--body", "body"}, more...)...)
	return out
}

// from plays an SMTP session with Exim as from an address elsewhere, and returns Exim's
// side of it. What is asked is asked; nothing is kept.
func (s *server) from(address string, recipients ...string) string {
	s.T.Helper()
	talk := "EHLO client.example\r\nMAIL FROM:<stranger@elsewhere.example>\r\n"
	for _, r := range recipients {
		talk += "RCPT TO:<" + r + ">\r\n"
	}
	out, _ := s.Try(talk+"DATA\r\nSubject: hello\r\n\r\nx\r\n.\r\nQUIT\r\n", "sh", "-c", `exec exim -bh "$0" 2>/dev/null`, address)
	return out
}
