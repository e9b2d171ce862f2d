package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	eximacl "osm/exim-acl"
	"osm/internal/metrics"
	"osm/internal/origin"
	"osm/internal/panel"
	"osm/policy"
)

// TestOriginIsOfThePeerThatStillWaits: once the process that asked has gone, its number may
// be another's, whose script must not become the evidence.
func TestOriginIsOfThePeerThatStillWaits(t *testing.T) {
	dir := t.TempDir()
	listen := func(name string) *net.UnixListener {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, name), Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	f := &flow{inspector: origin.NewInspector(filepath.Join(dir, "inspect")), metrics: metrics.New(),
		panel: panel.New(panel.Options{Root: dir, Source: panel.Passwd, Now: time.Now, Log: slog.New(slog.DiscardHandler)})}
	gone, found := make(chan bool), make(chan []policy.Process)
	server := &eximacl.Server{
		PeerOK: func(uint32) bool { return true },
		Check: func(c eximacl.Conn, s *policy.Submission) *policy.Decision {
			c.Wait()
			<-gone
			found <- f.origin(c, s).Chain
			return nil
		},
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 2)
	policySocket := listen("policy")
	go func() { served <- server.Serve(ctx, policySocket) }()
	inspectSocket := listen("inspect")
	go func() {
		served <- origin.ServeInspect(ctx, inspectSocket, origin.InspectOptions{Log: slog.New(slog.DiscardHandler)})
	}()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-served; err != nil {
				t.Error(err)
			}
		}
		f.inspector.Close()
		policySocket.Close()
	})
	ask := func(leave bool) []policy.Process {
		t.Helper()
		c, err := net.Dial("unix", filepath.Join(dir, "policy"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, "osm=1\nproto=local\nouid=0\n\n"); err != nil {
			t.Fatal(err)
		}
		if leave {
			c.Close()
		}
		gone <- leave
		return <-found
	}
	var chain []policy.Process
	for began := time.Now(); len(chain) == 0 && time.Since(began) < 30*time.Second; { // a starved machine takes its time
		chain = ask(false)
	}
	if len(chain) == 0 || int(chain[0].PID) != os.Getpid() {
		t.Fatalf("a peer that waits: got %+v, want process %d", chain, os.Getpid())
	}
	for range 10 {
		if chain := ask(true); len(chain) != 0 {
			t.Errorf("a peer that has gone: got %d processes, want none", len(chain))
		}
	}
}

// TestOriginOfASharedWebUsersLoopbackMailIsItsProcess: the uid alone does not tell whose
// script it was. Under overload nobody is waited for.
func TestOriginOfASharedWebUsersLoopbackMailIsItsProcess(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("this test needs root: it runs a process of another user")
	}
	const web = 33
	root, site := t.TempDir(), "/tmp"
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "etc/passwd"), []byte("www-data:x:33:33::/var/www:/usr/sbin/nologin\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(root, "inspect")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		served <- origin.ServeInspect(ctx, l, origin.InspectOptions{Log: slog.New(slog.DiscardHandler)})
	}()
	f := &flow{
		diag: origin.NewDiag(), inspector: origin.NewInspector(socket), metrics: metrics.New(),
		panel: panel.New(panel.Options{Root: root, Source: panel.Passwd, SharedUsers: []string{"www-data"}, Now: time.Now, Log: slog.New(slog.DiscardHandler)}),
	}
	mail, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	script := exec.Command("/usr/bin/perl", "-e", `use IO::Socket::INET; my $s = IO::Socket::INET->new(PeerAddr => $ARGV[0]) or die; <STDIN>`, mail.Addr().String())
	script.Dir, script.SysProcAttr = site, &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: web, Gid: web}}
	in, err := script.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := script.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		script.Wait()
		cancel()
		if err := errors.Join(<-served, f.inspector.Close(), f.diag.Close(), mail.Close()); err != nil {
			t.Error(err)
		}
	})
	conn, err := mail.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client, server := conn.RemoteAddr().(*net.TCPAddr).AddrPort(), conn.LocalAddr().(*net.TCPAddr).AddrPort()
	s := &policy.Submission{Protocol: "esmtp", CallerUID: 102, ClientIP: client.Addr(), ClientPort: client.Port(), LocalIP: server.Addr(), LocalPort: server.Port()}
	var o *policy.Origin
	for began := time.Now(); (o == nil || len(o.Chain) == 0) && time.Since(began) < 30*time.Second; { // a starved machine takes its time
		o = f.origin(eximacl.Conn{}, s)
	}
	if len(o.Chain) != 1 || int(o.Chain[0].PID) != script.Process.Pid || o.Chain[0].WorkingDirectory != site || o.ClientUID != web || !o.ClientKnown {
		t.Errorf("got uid %d (%v) and %+v, want uid %d and process %d in %s", o.ClientUID, o.ClientKnown, o.Chain, web, script.Process.Pid, site)
	}
	o = new(policy.Origin)
	if f.client(o, s); len(o.Chain) != 0 || o.ClientUID != web || !o.ClientKnown {
		t.Errorf("under overload: got %+v, want the uid alone", o)
	}
}
