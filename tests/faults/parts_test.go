package faults

import (
	"errors"
	"net"
	"os"
	"syscall"
	"testing"

	eximacl "osm/exim-acl"
	"osm/policy"
	"osm/tests/lab"
)

// killPart kills one of the two parts that are root.
func killPart(t *testing.T, d *lab.Daemon, name string) {
	t.Helper()
	pid, err := lab.Descendant(d.PID(), "osmd", name)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

func TestWithoutTheInspectorScriptsAreToldApartByUIDAndDirectory(t *testing.T) {
	d := daemon(t, limited)
	killPart(t, d, "inspect")
	alarmed(t, d, "part-inspect")
	all := storm{}.run(t)
	all.decidedAsUsual(t, d)
	usedIs(t, d, scriptAccount, limit)
	alarmed(t, d, "inspector")
	s, err := d.Status()
	if err != nil {
		t.Fatal(err)
	}
	if s.Inspect.OK || !s.Executor.OK {
		t.Errorf("status says inspect %+v, executor %+v, want the first alone to be broken", s.Inspect, s.Executor)
	}
	doctorNames(t, d, "inspector")
}

func TestWithoutTheExecutorMailIsStoppedAndWaits(t *testing.T) {
	d := daemon(t, limited)
	killPart(t, d, "executor")
	alarmed(t, d, "part-executor")
	all := storm{}.run(t)
	all.decidedAsUsual(t, d)
	doctorNames(t, d, "executor")
	s, err := d.Status()
	if err != nil {
		t.Fatal(err)
	}
	if s.Executor.OK || !s.Inspect.OK {
		t.Errorf("status says executor %+v, inspect %+v, want the first alone to be broken", s.Executor, s.Inspect)
	}
}

// The server is the product's own; only what it asks is ours, and has a bug.
func TestAPanicInOneRequestStaysThere(t *testing.T) {
	fresh(t)
	path := machine.PolicySocket()
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := errors.Join(os.Chown(path, 0, machine.EximGID), os.Chmod(path, 0o660)); err != nil {
		t.Fatal(err)
	}
	s := &eximacl.Server{
		Check: func(_ eximacl.Conn, s *policy.Submission) *policy.Decision {
			if s.Local() {
				panic("a bug that only script mail meets")
			}
			return &policy.Decision{Verdict: policy.Freeze, Ref: "abcd1234", Submission: s}
		},
		PeerOK: func(uid uint32) bool { return int(uid) == machine.EximUID },
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(t.Context(), l) }()
	all := storm{}.run(t)
	all.accepted(t)
	all.later(t, 0)
	answered(t)
	if script, shop := all.notLost(t); script != 0 || shop != all.asked()/2 {
		t.Errorf("%d script messages and %d by SMTP are frozen, want 0 and %d", script, shop, all.asked()/2)
	}
	if n := s.Stats.Panics.Load(); n != int64(all.asked()/2) {
		t.Errorf("%d panics are counted, want %d", n, all.asked()/2)
	}
	select {
	case err := <-ended:
		t.Errorf("the server has ended: %v", err)
	default:
	}
}

func TestFailClosedDefersSMTPAndAcceptsScripts(t *testing.T) {
	if err := machine.SetACL(machine.Guard(true)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := machine.SetACL(machine.Guard(false)); err != nil {
			t.Error(err)
		}
	})
	fresh(t)
	if err := os.Remove(machine.PolicySocket()); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	all := storm{}.run(t)
	for _, m := range all {
		var reply *lab.SMTPReply
		switch {
		case m.control || m.script:
			if m.err != nil {
				t.Fatalf("%s: not accepted: %v", m.subject, m.err)
			}
		case !errors.As(m.err, &reply) || reply.Code != 451:
			t.Fatalf("%s: got %v, want a 451", m.subject, m.err)
		}
	}
	all.later(t, 0)
	all.noneFrozen(t) // and the deferred ones are not in the queue
	for words, want := range map[string]int{"OSM unavailable, accepted unchecked": 200, "OSM unavailable, deferred": 200} {
		if got := len(machine.LogLines(words)); got != want {
			t.Errorf("Exim's log says %d times %q, want %d", got, words, want)
		}
	}
	// With the daemon there is nothing to defer.
	clean(t)
	start(t, limited)
	again := storm{each: 20}.run(t)
	again.accepted(t)
	answered(t)
}
