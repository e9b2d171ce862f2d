package packetmon

import (
	"context"
	"errors"
	"testing"
	"time"

	"osm/internal/origin"
)

// A machine that has too much to do, or a process that is ending, says nothing of who listens.
func TestAListenerIsAskedAboutAgainUntilItsProgramIsSeen(t *testing.T) {
	now := int64(time.Hour)
	listener := origin.Socket{UID: bobUID, Inode: 7}
	for _, tt := range []struct {
		name string
		err  error
		by   []origin.Chain // who was found to hold it
		exim bool
		kept bool
	}{
		{"its program was not seen in time", nil, []origin.Chain{{Unread: true}}, false, false},
		{"not all processes were looked at", context.DeadlineExceeded, nil, false, false},
		{"the search broke after it was found", errors.New("broken"), []origin.Chain{{RunsExim: true}}, false, false},
		{"nobody holds it any more", nil, nil, false, false},
		{"it runs Exim's program", nil, []origin.Chain{{RunsExim: true}}, true, true},
		{"it runs another program", nil, []origin.Chain{{}}, false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &mailServers{exim: "/usr/sbin/exim4", boot: func() int64 { return now }, kinds: map[origin.Socket]listenerKind{}}
			s.holders = func(_ context.Context, of []origin.Socket, _ []int32, found func(origin.Chain, []origin.Socket)) error {
				for _, c := range tt.by {
					found(c, of)
				}
				return tt.err
			}
			if got := s.runsExim(t.Context(), listener); got != tt.exim {
				t.Errorf("runsExim: got %v, want %v", got, tt.exim)
			}
			if exim, ok := s.known(listener); ok != tt.kept || ok && exim != tt.exim {
				t.Errorf("known: got %v, %v; want %v, %v", exim, ok, tt.exim, tt.kept)
			}
			now += int64(listenerFresh)
			if _, ok := s.known(listener); ok {
				t.Error("it is believed for ever")
			}
		})
	}
}

// Slow answers are not kept, so whoever makes his own slow must not have all of the time.
func TestAListenerThatIsSlowToSeeHasNoMoreThanItsUsersTime(t *testing.T) {
	now, asked := int64(time.Hour), 0
	m := &Monitor{opt: Options{Boot: func() int64 { return now }}, events: make(chan sighting, someEvents)}
	m.mtas = &mailServers{exim: "/usr/sbin/exim4", boot: m.opt.Boot, kinds: map[origin.Socket]listenerKind{}}
	m.mtas.holders = func(context.Context, []origin.Socket, []int32, func(origin.Chain, []origin.Socket)) error {
		asked++
		now += int64(listenerTime)
		return context.DeadlineExceeded
	}
	k := newWorker(m)
	e := &sighting{listener: origin.Socket{UID: bobUID, Inode: 7}}
	ask := func() int {
		asked = 0
		for range 20 {
			if k.isMTA(t.Context(), e) {
				t.Error("an answer that was not had is believed")
			}
		}
		return asked
	}
	k.left = someEvents
	if most := int(userTime/listenerTime) + 1; ask() != most {
		t.Errorf("while others wait it was asked about %d times in a second, want %d", asked, most)
	}
	now += int64(time.Second)
	k.left = 0
	if ask() != 20 {
		t.Errorf("while nobody waits it was asked about %d times, want each time", asked)
	}
}
