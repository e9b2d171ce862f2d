package report

import (
	"strconv"

	"osm/policy"
	store "osm/sql"
)

// maxArguments is how many arguments of a program a report has.
const maxArguments = 10

// Connection is one of the connections that bypassed Exim and were over, see
// [store.Connection].
type Connection struct {
	Ref              string     `json:"ref"`
	At               store.Time `json:"at"`
	Account          string     `json:"account"`
	UID              int64      `json:"uid"` // -1: not known
	Basis            string     `json:"basis"`
	SeenBy           string     `json:"seen_by"`
	Local            string     `json:"local"`
	Remote           string     `json:"remote"`
	Outcome          string     `json:"outcome"`
	PID              int64      `json:"pid"`
	Executable       string     `json:"executable"`
	Arguments        []string   `json:"arguments" max:"256"`
	StartedBy        string     `json:"started_by"`
	WorkingDirectory string     `json:"working_directory"`
	Script           string     `json:"script"`
	Cgroup           string     `json:"cgroup"`
	Would            string     `json:"would"`
	Reason           string     `json:"reason"`
	Trigger          string     `json:"trigger"`
}

func connectionOf(c *store.Connection) Connection {
	out := Connection{
		Ref: c.Ref, At: c.At, Account: c.Account, UID: -1, Basis: c.Basis, SeenBy: c.SeenBy, Local: c.Local, Remote: c.Remote, Outcome: c.Outcome,
		PID: c.PID, Executable: c.Executable, Arguments: append([]string{}, c.Arguments[:min(len(c.Arguments), maxArguments)]...),
		WorkingDirectory: c.WorkingDirectory, Script: c.Script, Cgroup: c.Cgroup, Would: c.Would, Reason: c.Reason, Trigger: c.Trigger,
	}
	if c.UID != nil {
		out.UID = *c.UID
	}
	if c.StartedBy != nil {
		out.StartedBy = c.StartedBy.Executable
	}
	return out
}

// direct says that an event is about connections that bypass Exim, not about messages.
func direct(e *Event) bool { return e.Count == policy.Connections.String() }

// noun is what an event counts when it says how many were over.
func noun(e *Event) string {
	if direct(e) {
		return "connection"
	}
	return "message"
}

// Direct says that the event is about connections that bypass Exim.
func (l letter) Direct() bool { return direct(&l.Report.Event) }

// Noun is "message", or "connection" of an event about those.
func (l letter) Noun(e Event) string { return noun(&e) }

// User is whose socket it was: "uid 1001", or "an unknown user".
func (l letter) User(c Connection) string {
	if c.UID < 0 {
		return "an unknown user"
	}
	return "uid " + strconv.FormatInt(c.UID, 10)
}
