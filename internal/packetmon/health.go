package packetmon

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// lastHour counts by the minute. It is safe for concurrent use.
type lastHour struct {
	mu      sync.Mutex
	minutes [60]minute
	lost    uint64 // as of the last look
}

type minute struct {
	number                int64 // since boot
	looked, unknown, lost uint64
	owned, alone          uint64 // with a user; of them without a process
}

// at returns the place of a minute. The lock is held.
func (h *lastHour) at(number int64) *minute {
	m := &h.minutes[number%60]
	if m.number != number {
		*m = minute{number: number}
	}
	return m
}

// looked counts a connection whose owner was looked for.
func (h *lastHour) looked(number int64, known bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.at(number)
	m.looked++
	if !known {
		m.unknown++
	}
}

// told counts a record of a known user.
func (h *lastHour) told(number int64, process bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.at(number)
	m.owned++
	if !process {
		m.alone++
	}
}

// losses notes how many were lost in all.
func (h *lastHour) losses(number int64, all uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if all > h.lost {
		h.at(number).lost += all - h.lost
		h.lost = all
	}
}

// sum adds the hour up that ends with this minute.
func (h *lastHour) sum(number int64) (of minute) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, m := range h.minutes {
		if m.number > number-60 && m.number <= number {
			of.looked += m.looked
			of.unknown += m.unknown
			of.lost += m.lost
			of.owned += m.owned
			of.alone += m.alone
		}
	}
	return of
}

// fewRecords prove nothing: scripts that end at once have no process to be found.
const fewRecords = 10

// lookRights tells what we lack the rights for; with scan the right to list open files is
// needed. The processes of other users, not those of our own, are what it is about, so the
// capabilities tell it best.
func lookRights(scan bool) []string {
	caps, err := capabilities()
	if err != nil {
		return []string{legible(fmt.Sprintf("our own capabilities cannot be read (%v): what is lost by it is not known", err), maxStatusText)}
	}
	has := func(capability uint) bool { return caps>>capability&1 == 1 }
	var problems []string
	if !has(unix.CAP_SYS_PTRACE) {
		if _, err := os.Lstat("/proc/1"); err != nil {
			problems = append(problems, problemHidden)
		}
		problems = append(problems, problemWorkingDirectory)
	}
	if scan && !(has(unix.CAP_SYS_PTRACE) && (has(unix.CAP_DAC_READ_SEARCH) || has(unix.CAP_DAC_OVERRIDE))) {
		problems = append(problems, problemDescriptors)
	}
	return problems
}

// capabilities returns the effective ones of this thread, which are those of the process.
func capabilities() (uint64, error) {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData // the kernel fills in both
	if err := unix.Capget(&head, &data[0]); err != nil {
		return 0, err
	}
	return uint64(data[1].Effective)<<32 | uint64(data[0].Effective), nil
}

// keepEvery is how often the losses are read and the level is looked at.
const keepEvery = time.Second

// keep logs each change of the level once, until ctx ends.
func (m *Monitor) keep(ctx context.Context) {
	ticker := time.NewTicker(keepEvery)
	defer ticker.Stop()
	level := Level("")
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if s := m.Status(); s.Level != level {
			level = s.Level
			at := m.opt.Log.Warn
			if level == LevelOK || m.opt.Source == SourceOff {
				at = m.opt.Log.Info
			}
			at("watch of connections", "level", string(level), "source", s.Source, "problems", s.Problems)
		}
	}
}

// settled reports whether it is known what there is to see by: while the first source is
// opened, that there is none would be a false alarm.
func (m *Monitor) settled() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.active != nil || m.opt.Source == SourceOff || m.refusedAll.Load()
}

// Status tells how the monitor is.
func (m *Monitor) Status() Status {
	s := Status{Source: SourceOff, Level: LevelOff, Ports: slices.Clone(m.opt.Ports)}
	s.Counts = m.counts()
	hour := m.lastHour(s.Counts.Lost)
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, o := range m.opt.Openers {
		if m.active != nil && o.Name == m.active.Name() {
			break
		}
		if text, ok := m.refused[o.Name]; ok {
			s.Better = append(s.Better, Refused{Name: o.Name, Error: text})
		}
	}
	if m.active == nil {
		if m.opt.Source != SourceOff {
			s.Problems = []string{problemNone}
		}
		return s
	}
	s.Source, s.SelfTest = m.active.Name(), m.selfTest
	s.Problems = m.problems(s.Source, hour)
	switch s.Source {
	case SourcePacket:
		s.Unseen = []string{unseenPacket, unseenSpaces}
	case SourcePoll:
		s.Unseen = []string{unseenSpaces}
	}
	s.Level = LevelOK
	if len(s.Problems) > 0 {
		s.Level = LevelDegraded
	}
	return s
}

func (m *Monitor) lastHour(lost uint64) minute {
	now := m.minute()
	m.hour.losses(now, lost)
	return m.hour.sum(now)
}

// problems says what is lost at present. The lock is held.
func (m *Monitor) problems(source string, hour minute) []string {
	var p []string
	if source == SourcePoll {
		p = append(p, problemPoll)
	}
	if hour.lost > 0 {
		p = append(p, problemLost(hour.lost))
	}
	if hour.unknown*100 >= hour.looked*2 && hour.unknown > 0 {
		p = append(p, problemUnknown(hour.unknown, hour.looked))
	}
	if hour.owned >= fewRecords && hour.alone*2 >= hour.owned {
		p = append(p, problemAlone(hour.alone, hour.owned))
	}
	if m.diagErr != nil {
		p = append(p, problemDiag(m.diagErr))
	}
	p = append(p, m.rights...)
	if m.hidden.Load() && !slices.Contains(p, problemWorkingDirectory) {
		p = append(p, problemWorkingDirectory)
	}
	if at := m.stuckAt.Load(); at != 0 && m.opt.Boot()-at < int64(time.Minute) {
		p = append(p, problemStuck)
	}
	if text := m.own.problem(); text != "" {
		p = append(p, text)
	}
	if m.testErr != nil {
		p = append(p, problemSelfTest(m.testErr))
	}
	return p
}

func (m *Monitor) counts() Counts {
	c := &m.count
	m.mu.Lock()
	lost := m.lost
	if m.active != nil {
		lost += m.active.Lost()
	}
	m.mu.Unlock()
	return Counts{
		Seen: c.seen.Load(), Records: c.records.Load(), Repeats: c.repeats.Load(), Excluded: c.excluded.Load(),
		ToMTA: c.toMTA.Load(), Redirected: c.redirected.Load(), UIDUnknown: c.uidUnknown.Load(), TooLate: c.tooLate.Load(),
		ProcessUnknown: c.processUnknown.Load(), ProcessSkipped: c.skipped.Load(), Lost: lost, RepeatsForgot: c.forgot.Load(),
		Unheld: c.unheld.Load(), Faults: c.faults.Load(), Dropped: m.out.lost(),
	}
}
