package faults

import (
	"errors"
	"os"
	"syscall"
	"testing"
)

// The anchor: without any fault everything is asked about and decided.
func TestWithoutAFaultEveryMessageIsAnsweredAndDecided(t *testing.T) {
	d := daemon(t, limited)
	all := storm{}.run(t)
	all.decidedAsUsual(t, d)
	all.explained(t, d)
	s, err := d.Status()
	if err != nil {
		t.Fatal(err)
	}
	if s.Checks < uint64(all.asked()) || s.Unchecked > s.Shed || s.Shed == 0 && len(s.Alarms) > 0 {
		t.Errorf("status is %+v, want %d checks, none unchecked and no alarm", s, all.asked())
	}
}

func TestWhenTheDaemonIsNotThereMailPassesAtOnce(t *testing.T) {
	gone := func(path string) error {
		err := os.Remove(path)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	}
	tests := []struct {
		name   string
		doctor string // the piece that doctor names
		break_ func(t *testing.T)
	}{
		{"it was stopped in order", "daemon", func(*testing.T) {}},
		{"the socket is missing", "policy socket", func(t *testing.T) {
			if err := gone(machine.PolicySocket()); err != nil {
				t.Fatal(err)
			}
		}},
		{"the connection is refused", "question", func(t *testing.T) {
			if _, err := os.Stat(machine.PolicySocket()); err != nil {
				t.Fatalf("there is no socket that could refuse: %v", err)
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := daemon(t, limited)
			if err := d.Stop(); err != nil {
				t.Fatal(err)
			}
			tt.break_(t)
			all := storm{}.run(t)
			all.accepted(t)
			all.later(t, 0)
			all.noneFrozen(t)
			all.unavailable(t)
			doctorNames(t, d, tt.doctor)
		})
	}
}

func TestWhenTheSocketHasTheWrongOwnerMailPassesAtOnce(t *testing.T) {
	d := daemon(t, limited)
	if err := os.Chown(machine.PolicySocket(), 0, 0); err != nil {
		t.Fatal(err)
	}
	all := storm{}.run(t)
	all.accepted(t)
	all.later(t, 0)
	all.noneFrozen(t)
	all.unavailable(t)
	doctorNames(t, d, "policy socket")
}

// A fault after which all is well again: the next start is an ordinary one.
func TestAfterTheDaemonWasAwayItDecidesAgain(t *testing.T) {
	d := daemon(t, limited)
	if err := d.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = d.Wait()
	away := storm{each: 10}.run(t)
	away.accepted(t)
	away.unavailable(t)
	clean(t)
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	all := storm{}.run(t)
	all.decidedAsUsual(t, d)
}
