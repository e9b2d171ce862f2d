package packetmon

import (
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
)

// testable sees what the test of the source connects to, as tell has it.
type testable struct {
	*fed
	add  error
	tell func(Seen) []Seen
}

func (s *testable) AddPort(port uint16) error {
	if s.add != nil {
		return s.add
	}
	for _, seen := range s.tell(Seen{At: sinceBoot(), Remote: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port),
		UID: uint32(os.Getuid()), UIDKnown: true, PID: int32(os.Getpid()), Socket: 1}) {
		s.in <- seen
	}
	return nil
}

func (s *testable) RemovePort(uint16) error { return nil }

func TestTheSelfTestSaysWhichStepFailed(t *testing.T) {
	for _, tt := range []struct {
		name  string
		add   error
		tell  func(Seen) []Seen
		level Level
		want  string
	}{
		{"all is well", nil, func(s Seen) []Seen { return []Seen{s} }, LevelOK, "ok: a connection of our own was seen"},
		{"somebody else's connection comes between", nil, func(s Seen) []Seen {
			other := s
			other.UID, other.PID = aliceUID, 1
			return []Seen{other, s}
		}, LevelOK, "ok"},
		{"it is not seen", nil, func(Seen) []Seen { return nil }, LevelDegraded, "failed: see our own connection"},
		{"the port cannot be added", errors.New("map full"), nil, LevelDegraded, "failed: watch port"},
		{"the process is another one", nil, func(s Seen) []Seen { s.PID = 1; return []Seen{s} }, LevelDegraded, "failed: find our own process: got 1"},
		{"the process is none", nil, func(s Seen) []Seen { s.PID = 1 << 22; return []Seen{s} }, LevelDegraded, "failed: find our own process: not found"},
		{"the user is not known", nil, func(s Seen) []Seen { s.UID, s.PID, s.Inode = 0, 0, 0; return []Seen{s} }, LevelDegraded, "failed: find the user"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &testable{fed: newFed(SourceEBPF), add: tt.add, tell: tt.tell}
			m := monitored(t, Options{Ports: []uint16{25}, Openers: []Opener{{Name: SourceEBPF, Open: func() (Source, error) { return s, nil }}}})
			waitStatus(t, m, func(s Status) bool { return strings.HasPrefix(s.SelfTest, tt.want) && s.Level == tt.level })
			if n := m.Status().Counts; n != (Counts{}) {
				t.Errorf("the test was counted: %+v", n)
			}
			nothingMore(t, m)
		})
	}
	m := monitored(t, Options{Ports: []uint16{25}, Openers: []Opener{newFed(SourcePoll).opener()}})
	waitStatus(t, m, func(s Status) bool { return strings.HasPrefix(s.SelfTest, "not made") })
}
