// Package panel gives a test the files of a cPanel server, as far as the stand-ins for
// whmapi1 and uapi read and change them, in a folder of its own.
//
// The stand-ins are those of tests/cpanel, where their faults are listed. It needs root,
// for the files in homes belong to the accounts, and is never linked into the product.
package panel

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Server is one such folder.
type Server struct {
	T   testing.TB
	Dir string // seen as / by the stand-ins
}

// New makes a server with these accounts: the mailboxes of each, of which each has a
// password. Accounts must be users of this machine; below Dir they have the same homes.
func New(t testing.TB, accounts map[string][]string) *Server {
	t.Helper()
	s := &Server{T: t, Dir: t.TempDir()}
	for _, d := range []string{"var/cpanel/users", "var/cpanel/suspended", "var/cpanel/suspendinfo", "run/standin"} {
		if err := os.MkdirAll(s.Path(d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s.Write("usr/local/cpanel/version", "11.116.0.10\n")
	s.Write("etc/outgoing_mail_hold_users", "somebody\n")
	domains := ""
	for name, mailboxes := range accounts {
		s.Write("var/cpanel/users/"+name, "USER="+name+"\nPLAN=default\n")
		seen := map[string]string{}
		for _, m := range mailboxes {
			local, domain, _ := strings.Cut(m, "@")
			seen[domain] += local + ":$6$salt$" + local + "hash:20000::::::\n"
		}
		for domain, text := range seen {
			domains += domain + ": " + name + "\n"
			s.Write(s.Shadow(name, domain), text)
			s.own(name, domain)
		}
	}
	s.Write("etc/userdomains", domains+"*: nobody\n")
	return s
}

// Shadow is where the passwords of a domain are, below Dir.
func (s *Server) Shadow(account, domain string) string {
	s.T.Helper()
	u, err := user.Lookup(account)
	if err != nil {
		s.T.Fatal(err)
	}
	return filepath.Join(u.HomeDir, "etc", domain, "shadow")
}

// own makes the domain's files the account's.
func (s *Server) own(account, domain string) {
	u, err := user.Lookup(account)
	if err != nil {
		s.T.Fatal(err)
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		s.T.Fatal(err)
	}
	at := s.Shadow(account, domain)
	for _, p := range []string{u.HomeDir, filepath.Dir(filepath.Dir(at)), filepath.Dir(at), at} {
		if err := os.Chown(s.Path(p), uid, -1); err != nil {
			s.T.Fatal(err)
		}
	}
	if err := os.Chmod(s.Path(at), 0o640); err != nil {
		s.T.Fatal(err)
	}
}

// Path is where a file of the server's is.
func (s *Server) Path(name string) string { return filepath.Join(s.Dir, name) }

// Write makes a file with its folders.
func (s *Server) Write(name, text string) {
	s.T.Helper()
	if err := os.MkdirAll(filepath.Dir(s.Path(name)), 0o755); err != nil {
		s.T.Fatal(err)
	}
	if err := os.WriteFile(s.Path(name), []byte(text), 0o644); err != nil {
		s.T.Fatal(err)
	}
}

// Read returns a file's text, "" if there is none.
func (s *Server) Read(name string) string {
	s.T.Helper()
	b, err := os.ReadFile(s.Path(name))
	if err != nil && !os.IsNotExist(err) {
		s.T.Fatal(err)
	}
	return string(b)
}

// Fault switches faults of the stand-ins on, and all others off.
func (s *Server) Fault(words ...string) {
	s.T.Helper()
	s.Write("run/standin/faults", strings.Join(words, "\n")+"\n")
}

// Calls are the arguments that the stand-ins got since the last time, a line for each,
// spaces between them.
func (s *Server) Calls() []string {
	s.T.Helper()
	text := s.Read("run/standin/calls")
	s.Write("run/standin/calls", "")
	return strings.Split(strings.TrimSuffix(strings.ReplaceAll(text, "\x1f", " "), "\n"), "\n")
}

// Prefix stands before a stand-in's program, so that it works on this server.
func (s *Server) Prefix() []string { return []string{"/usr/bin/env", "STANDIN_ROOT=" + s.Dir} }

// Program is where a stand-in is.
func (s *Server) Program(name string) string {
	s.T.Helper()
	dir, err := os.Getwd()
	for at := dir; err == nil && at != "/"; at = filepath.Dir(at) {
		p := filepath.Join(at, "tests/cpanel/tree/usr/local/cpanel/bin", name)
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	s.T.Fatalf("no stand-in for %s above %s", name, dir)
	return ""
}

// Run has an operator or the account's owner use one of the programs.
func (s *Server) Run(name string, args ...string) string {
	s.T.Helper()
	argv := append(append(s.Prefix(), s.Program(name)), args...)
	out, err := exec.Command(argv[0], argv[1:]...).Output()
	if err != nil {
		s.T.Fatalf("%s %q: %v: %s", name, args, err, out)
	}
	return string(out)
}

// Everything is each file of the server's with owner, mode and bytes, but not what the
// stand-ins keep for themselves.
func (s *Server) Everything() string {
	s.T.Helper()
	var b strings.Builder
	err := filepath.WalkDir(s.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == s.Path("run") {
			if err == nil {
				err = filepath.SkipDir
			}
			return err
		}
		st, err := os.Lstat(path)
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s %v %+v", strings.TrimPrefix(path, s.Dir), st.Mode(), owner(st))
		if st.Mode().IsRegular() {
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %q", text)
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		s.T.Fatal(err)
	}
	return b.String()
}
