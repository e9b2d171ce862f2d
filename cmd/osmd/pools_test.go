package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"osm/internal/evidence"
	"osm/internal/origin"
	"osm/policy"
)

// statusAnswer is a FastCGI answer with the body "direct".
const statusAnswer = "\x01\x06\x00\x01\x00\x0a\x00\x00A: b\r\n\r\ndi\x01\x06\x00\x01\x00\x04\x00\x00rect\x01\x03\x00\x01\x00\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// servePool answers each question with statusAnswer.
func servePool(t *testing.T, network, address string) net.Listener {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 4096)) // the question is one write
			_, _ = c.Write([]byte(statusAnswer))
			c.Close()
		}
	}()
	return l
}

// serveInspect is an inspector whose pool is "shop" at that address; its page is "asked".
func serveInspect(t *testing.T, address string) *origin.Inspector {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "inspect")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() {
		served <- origin.ServeInspect(ctx, l, origin.InspectOptions{UID: uint32(os.Getuid()), Log: slog.New(slog.DiscardHandler),
			Pool: func(_ context.Context, n, a uint32) ([]byte, error) {
				if n != origin.PoolNumber("shop") || a != origin.PoolNumber(address) {
					return nil, fs.ErrNotExist
				}
				return []byte("asked"), nil
			}})
	}()
	i := origin.NewInspector(socket)
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-served, i.Close()); err != nil {
			t.Error(err)
		}
	})
	return i
}

func TestWhoAsksAPool(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "pool")
	servePool(t, "unix", socket)
	port := servePool(t, "tcp", "127.0.0.1:0").Addr().String()
	pool := func(address string) evidence.Pool {
		return evidence.Pool{Name: "shop", Address: address, StatusPath: "/s"}
	}
	q := poolQuestions{inspector: serveInspect(t, socket)}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for _, tt := range []struct {
		name, address string
		named         []evidence.Pool
		want          string
	}{
		{"a pool of the files is asked by the inspector", socket, nil, "asked"},
		{"one that the operator named is asked by the daemon", socket, []evidence.Pool{pool(socket)}, "direct"},
		{"one at a TCP port too", port, nil, "direct"},
		{"one that the inspector does not know by nobody", socket + "2", nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			q.named = tt.named
			if got, err := q.ask(ctx, pool(tt.address)); string(got) != tt.want || (err == nil) != (tt.want != "") {
				t.Errorf("got %q, %v; want %q", got, err, tt.want)
			}
		})
	}
	away := poolQuestions{inspector: origin.NewInspector(filepath.Join(t.TempDir(), "none"))}
	for range 10 {
		if got, err := away.ask(ctx, pool(socket)); err == nil {
			t.Errorf("without an inspector: got %q", got)
		}
	}
	if err := away.inspector.Err(); err != nil {
		t.Errorf("that raises an alarm: %v", err)
	}
}

func TestAProcessThatOnlyTheInspectorSees(t *testing.T) {
	q := poolQuestions{inspector: serveInspect(t, "")}
	// A question has 50 ms, which a busy machine may need for itself.
	var chain []policy.Process
	var err error
	for began := time.Now(); len(chain) == 0; {
		if chain, _, err = q.inspector.Chain(t.Context(), int32(os.Getpid())); err != nil && time.Since(began) > 30*time.Second {
			t.Fatal(err)
		}
	}
	self := chain[0]
	other := self
	other.Started--
	for name, tt := range map[string]struct {
		p    policy.Process
		want bool
	}{
		"itself": {self, true}, "started at another time": {other, false}, "none": {policy.Process{PID: 1 << 22}, false},
	} {
		got := q.stillRuns(t.Context(), &tt.p)
		for began := time.Now(); tt.want && !got && time.Since(began) < 30*time.Second; {
			got = q.stillRuns(t.Context(), &tt.p)
		}
		if got != tt.want {
			t.Errorf("%s: runs %v, want %v", name, got, tt.want)
		}
	}
}
