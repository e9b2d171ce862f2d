package whm

import (
	"fmt"
	"html/template"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"

	"osm/internal/control"
)

// connectionsBody is a list of connections that bypassed Exim.
type connectionsBody struct {
	Account, Remote, Directory, UID, Since string
	List                                   control.List[control.Connection]
	Wrong                                  *control.Error // with what was asked for
}

// connectionsPage lists connections, the newest first.
func (c *call) connectionsPage() error {
	b := &connectionsBody{Account: c.query("account"), Remote: c.query("remote"), Directory: c.query("directory"), UID: c.query("uid")}
	var since time.Time
	since, b.Since = c.since("24h")
	list, err := c.p.service.Connections(c.Context(), c.actor, control.ConnectionFilter{Account: b.Account, Remote: b.Remote, Directory: b.Directory, UID: b.UID, Since: since}, c.page())
	if e := problem(err); err != nil && e.Status == http.StatusBadRequest {
		b.Wrong, c.typed.Err = e, &control.Error{Status: e.Status}
		return c.show("connections", "connections", "Connections", b)
	}
	if err != nil {
		return err
	}
	b.List = list
	return c.show("connections", "connections", "Connections", b)
}

// accountConnections are the last ones of an account; none where its page is for mail alone.
func (c *call) accountConnections(b *accountBody, since time.Time) error {
	list, err := c.p.service.Connections(c.Context(), c.actor, control.ConnectionFilter{Account: b.Name, Since: since}, control.Page{Limit: shortListed})
	b.Connections = list.Items
	return err
}

// ofConnections reports whether an event is about connections, not about messages.
func ofConnections(e control.Event) bool { return e.Count == "connections" }

// nounOf is what an event's counted ones are called.
func nounOf(e control.Event) string {
	if ofConnections(e) {
		return "connection"
	}
	return "message"
}

// outcomeBadge is what became of a connection, as far as it was seen.
func outcomeBadge(c control.Connection) template.HTML {
	switch c.Outcome {
	case "established":
		return word{"Answered", "check", "passed"}.badge()
	case "refused":
		return word{"Refused", "cross", "denied"}.badge()
	case "unanswered":
		return word{"No answer", "clock", "deferred"}.badge()
	}
	return word{"Not known", "dot", "plain"}.badge()
}

// connectionBadge says whether a connection was over a limit.
func connectionBadge(c control.Connection) template.HTML {
	if len(c.Over) > 0 {
		return word{"Over a limit", "alarm", "frozen"}.badge()
	}
	return word{"Seen", "eye", "plain"}.badge()
}

// uidText is whose socket it was; what is not known is nobody's.
func uidText(c control.Connection) string {
	if c.UID == nil {
		return "not known"
	}
	return strconv.FormatInt(*c.UID, 10)
}

// processText names a process; "" where it was gone before it could be looked at.
func processText(c control.Connection) string {
	switch {
	case c.PID == 0:
		return ""
	case c.Executable == "":
		return fmt.Sprintf("process %d", c.PID)
	}
	return fmt.Sprintf("%s (%d)", path.Base(c.Executable), c.PID)
}

// argumentsText is how a process was started.
func argumentsText(p control.Process) string {
	text := strings.Join(p.Arguments, " ")
	if p.ArgumentsCut {
		text += " …"
	}
	return text
}
