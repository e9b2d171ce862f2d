package control

import (
	"fmt"
	"strings"

	"osm/policy"
	store "osm/sql"
)

// What a story or a preview is about.
const (
	nounMessage    = "message"
	nounConnection = "connection"
)

func (s *story) noun() string {
	if s.connection != nil {
		return nounConnection
	}
	return nounMessage
}

// overOfConnection is the trigger that a connection was over, the one that decided first.
func overOfConnection(c *Connection) *store.Over {
	for i := range c.Over {
		if c.Over[i].Trigger == c.Trigger {
			return &c.Over[i]
		}
	}
	if len(c.Over) > 0 {
		return &c.Over[0]
	}
	return nil
}

// whyConnection tells of a connection that bypassed Exim, by which rule it was judged and
// on what grounds.
func (s *story) whyConnection() string {
	return joined([]string{s.connected(), s.process(), s.connectionRule(), s.holdBeside(), s.grounds()})
}

// connected tells where it went and what became of it.
func (s *story) connected() string {
	c := s.connection
	from := ""
	if c.Local != "" {
		from = " from " + c.Local
	}
	became := map[string]string{
		policy.OutcomeEstablished.String(): "the other end answered",
		policy.OutcomeRefused.String():     "it was refused by the destination or by a firewall on the way",
		policy.OutcomeUnanswered.String():  "nobody answered while it was looked at",
	}
	return fmt.Sprintf("This connection of %s%s to %s, begun at %s, went past Exim: %s.", sender(s.d), from, orNothing(c.Remote, "an unknown destination"),
		s.moment(c.At.Time), orNothing(became[c.Outcome], "what became of it is not known"))
}

// process tells who connected.
func (s *story) process() string {
	c := s.connection
	if c.PID == 0 {
		return "The process that made it was gone before it could be looked at."
	}
	text := fmt.Sprintf("Process %d made it", c.PID)
	if len(c.Processes) > 0 {
		text += fmt.Sprintf(" (%s", orNothing(c.Executable, "program unknown"))
		if c.WorkingDirectory != "" {
			text += " in " + c.WorkingDirectory
		}
		text += ")"
	}
	if c.Script != "" {
		text += ", running " + c.Script
	}
	if p := c.StartedBy; p != nil {
		text += fmt.Sprintf("; it was started by process %d of uid %d (%s)", p.PID, p.UID, orNothing(p.Executable, "program unknown"))
	}
	return text + "."
}

// connectionRule tells which rule it was judged by.
func (s *story) connectionRule() string {
	switch reason, _ := policy.ParseReason(s.connection.Reason); {
	case reason == policy.ReasonDisabled:
		return "Checking is switched off (the setting checking): every connection is only recorded."
	case reason == policy.ReasonSystem:
		return "It is the system's own, which is never counted."
	case reason.Unchecked():
		return "It was counted, but not checked: the daemon was not ready for it."
	case s.over != nil:
		text := "It was over a limit: "
		if s.over.Mode == policy.Observe.String() {
			text = "It was over a limit that only observes: "
		}
		return text + s.limit(s.over) + " " + s.numbers(s.over)
	case reason == policy.ReasonExempt && !s.d.Counted:
		return "An exemption lets this sender connect there: it is not counted."
	case reason == policy.ReasonExempt:
		return "It is over a limit, but an exemption lifts that limit for this sender."
	}
	return "Every limit that applies to it had room."
}

// holdBeside tells of a hold on the sender, which a connection is not stopped by.
func (s *story) holdBeside() string {
	if s.hold == nil {
		return ""
	}
	return fmt.Sprintf("Hold %d stood on %s: it stops mail, and no connection.", s.hold.ID, held(s.hold))
}

// nextConnection tells what follows.
func (s *story) nextConnection(e *Event) string {
	text := "Connections are seen and counted, and are not stopped by a limit itself."
	if s.over == nil {
		return text
	}
	switch {
	case e != nil && s.over.Mode == policy.Enforce.String():
		text += fmt.Sprintf(" What its trigger does beside is in event %d.", e.ID)
	case s.over.Mode == policy.Observe.String():
		text += " The trigger only observes: it reports and does nothing else."
	}
	if free := s.over.FreeAt; free.After(s.now) {
		text += fmt.Sprintf(" The sender is below the limit again at %s, in %s.", s.moment(free.Time), roughly(free.Sub(s.now)))
	}
	return text
}

// commandConnection is what shows the rest.
func (s *story) commandConnection(e *Event) string {
	if e != nil {
		return fmt.Sprintf("osmctl event %d", e.ID)
	}
	return strings.TrimSpace("osmctl connections --account " + quote(s.d.Account))
}
