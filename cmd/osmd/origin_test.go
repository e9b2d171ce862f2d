package main

import (
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	eximacl "osm/exim-acl"
	"osm/internal/metrics"
	"osm/internal/origin"
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
	f := &flow{inspector: origin.NewInspector(filepath.Join(dir, "inspect")), metrics: metrics.New()}
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
