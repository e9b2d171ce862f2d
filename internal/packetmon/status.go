package packetmon

import (
	"fmt"
	"strings"
)

// Level says in one word how far the monitor can be relied on.
type Level string

// The levels.
const (
	LevelOK       Level = "ok"       // sees every connection and whose it is
	LevelDegraded Level = "degraded" // something is lost: [Status.Problems] says what
	LevelOff      Level = "off"      // sees nothing
)

// The bounds of a status.
const (
	maxStatusTexts = 16
	maxStatusText  = 600
	maxStatusPorts = 64
)

// Status is how the monitor is at one moment.
type Status struct {
	Source   string    `json:"source"` // that is active: "ebpf", "packet", "poll", or "off"
	Level    Level     `json:"level"`
	Better   []Refused `json:"better,omitempty"`   // better sources that are not active, and why
	Problems []string  `json:"problems,omitempty"` // each says what is lost by it, and what to do
	Unseen   []string  `json:"unseen,omitempty"`   // what this source cannot see, in the best of health
	Ports    []uint16  `json:"ports,omitempty"`
	SelfTest string    `json:"self_test,omitempty"` // what the last test of the source said
	Counts   Counts    `json:"counts"`
}

// Refused is a source that could not be opened or has failed.
type Refused struct {
	Name  string `json:"name"`
	Error string `json:"error"`
}

// Counts are the monitor's counters since it was started. Seen is the sum of what became of
// the connections: Records, Repeats, Excluded, ToMTA and Redirected, but for those still
// looked at. The others count records that say less than they could, and losses.
type Counts struct {
	Seen       uint64 `json:"seen"`       // connections that a source reported
	Records    uint64 `json:"records"`    // handed on
	Repeats    uint64 `json:"repeats"`    // reported once more
	Excluded   uint64 `json:"excluded"`   // of an excluded user, or Exim's own
	ToMTA      uint64 `json:"to_mta"`     // to this host's own mail server
	Redirected uint64 `json:"redirected"` // brought there by a firewall rule, as far as that can be told

	UIDUnknown     uint64 `json:"uid_unknown"`     // records without a uid
	TooLate        uint64 `json:"too_late"`        // of them: the kernel had forgotten the owner when it was asked
	ProcessUnknown uint64 `json:"process_unknown"` // records without a process
	ProcessSkipped uint64 `json:"process_skipped"` // of them: not looked for, as there was too much to do

	Lost          uint64 `json:"lost"`           // dropped by the kernel before they could be read
	RepeatsForgot uint64 `json:"repeats_forgot"` // remembered connections that had to make room early
	Unheld        uint64 `json:"unheld"`         // handed on without waiting for what became of them: too many waited
	Faults        uint64 `json:"faults"`         // connections given up by a fault of ours, which the log tells
	Dropped       uint64 `json:"dropped"`        // records that nobody took and for which there was no more room
}

// bound cuts texts and lists, and makes the texts printable.
func (s *Status) bound() {
	s.Source, s.Level = legible(s.Source, maxSeen), Level(legible(string(s.Level), maxSeen))
	s.SelfTest = legible(s.SelfTest, maxStatusText)
	s.Ports = append([]uint16(nil), s.Ports[:min(len(s.Ports), maxStatusPorts)]...)
	s.Problems, s.Unseen = legibles(s.Problems), legibles(s.Unseen)
	var better []Refused
	for _, r := range s.Better[:min(len(s.Better), maxStatusTexts)] {
		better = append(better, Refused{Name: legible(r.Name, maxSeen), Error: legible(r.Error, maxStatusText)})
	}
	s.Better = better
}

func legibles(texts []string) []string {
	var out []string
	for _, t := range texts[:min(len(texts), maxStatusTexts)] {
		out = append(out, legible(t, maxStatusText))
	}
	return out
}

// legible makes s printable ASCII of at most limit bytes: the rest of it may name what a
// stranger named.
func legible(s string, limit int) string {
	s = s[:min(len(s), limit)]
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}

// Lines of the problems that a source has by its nature, and of what is missing.
const (
	unseenPacket = "connections that this host's firewall refuses are not seen, and of those that the destination refuses at once " +
		"the user is not known; with the source ebpf both are"
	unseenSpaces = "connections from other network namespaces, such as containers, are not seen"
	problemNone  = "no source of connections can be used: what bypasses Exim is neither seen nor counted; " +
		"give the watch the capabilities of one of them"
	problemPoll = "only connections that last longer than the interval are seen (about 17 of 100 that last 10 ms); " +
		"give the watch the capabilities of a better source"
	problemWorkingDirectory = "programs and working directories of other users cannot be read: connections count for their user " +
		"alone, and triggers by directory see none; give the watch CAP_SYS_PTRACE"
	problemDescriptors = "open files of other users' processes cannot be listed: of a connection the user is known and not the process; " +
		"give the watch CAP_DAC_READ_SEARCH and CAP_SYS_PTRACE"
	problemHidden = "other users' processes are hidden from us (hidepid): connections count for their user alone; " +
		"give the watch CAP_SYS_PTRACE, or mount /proc for it without hidepid"
	problemStuck = "arguments of processes cannot be read, as all such reads hang: a user's file system does not answer; restart the watch"
)

func problemDiag(err error) string {
	return fmt.Sprintf("the kernel does not answer whose a socket is (%.300v): no user is known; let the watch use netlink", err)
}

func problemLost(n uint64) string {
	return fmt.Sprintf("in the last hour the kernel dropped %d connections before they could be read, which nobody counted; "+
		"give this machine more processor time or find who connects so often", n)
}

func problemUnknown(unknown, all uint64) string {
	return fmt.Sprintf("in the last hour the user of %d of %d connections could not be found out: they count as unknown; "+
		"let the source ebpf be used, or give the watch a higher priority", unknown, all)
}

func problemAlone(alone, all uint64) string {
	return fmt.Sprintf("in the last hour the process of %d of %d connections was not found: they count for their user alone, and triggers by "+
		"directory see none; processes of another namespace (a container) are hidden from the watch, or this machine has too much to do", alone, all)
}

func problemSelfTest(err error) string {
	return fmt.Sprintf("a connection of our own is not seen as it should be (%.300v): others may be missed or lack their process; "+
		"it is tried again every minute", err)
}
