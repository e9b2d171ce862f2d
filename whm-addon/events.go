package whm

import (
	"cmp"
	"net/http"
	"slices"
	"strings"
	"time"

	"osm/internal/control"
)

// messagesBody is a list of messages that were decided about.
type messagesBody struct {
	Account, Verdict, Since string
	List                    control.List[control.Decision]
}

// messagesPage lists messages, the newest first.
func (c *call) messagesPage() error {
	b := &messagesBody{Account: c.query("account"), Verdict: c.query("verdict")}
	var since time.Time
	since, b.Since = c.since("24h")
	var err error
	b.List, err = c.p.service.Decisions(c.Context(), c.actor, b.Account, b.Verdict, since, c.page())
	if err != nil {
		return err
	}
	return c.show("messages", "messages", "Messages", b)
}

// eventsBody is a list of events.
type eventsBody struct {
	Account, Trigger, Since string
	Open                    bool
	List                    control.List[control.Event]
	Triggers                []control.Effective // to choose from
}

// eventsPage lists who went over a limit, the newest first.
func (c *call) eventsPage() error {
	b := &eventsBody{Account: c.query("account"), Trigger: c.query("trigger"), Open: c.query("open") == "1"}
	var since time.Time
	since, b.Since = c.since("7d")
	var err error
	b.List, err = c.p.service.Events(c.Context(), c.actor, control.EventFilter{Since: since, Account: b.Account, Trigger: b.Trigger, OpenOnly: b.Open}, c.page())
	if err != nil {
		return err
	}
	b.Triggers = c.triggers()
	return c.show("events", "events", "Events", b)
}

// triggers are the names to choose from; a page is worth having without them.
func (c *call) triggers() []control.Effective {
	level, name := "server", ""
	if c.actor.Role != control.Operator {
		level, name = "reseller", c.actor.Reseller
	}
	list, err := c.p.service.Triggers(c.Context(), c.actor, level, name)
	if err != nil {
		return nil
	}
	return list.Items
}

// eventBody is one event and what settles it.
type eventBody struct {
	Event    control.Event
	Part     string // what of the account it is about; "" = all of it
	FilledBy []control.Decision
	// FilledByConnections are in place of messages, of an event about connections.
	FilledByConnections []control.Connection
	Usage               *control.Usage // of its counter now
	Held                control.Selection
	Waiting             int // messages that wait and belong to it
	More                bool
	Alike               []alike        // them by Subject; nil where they have one and the same
	Others              int            // of them, those with other Subjects
	Holds               []control.Hold // that it put
	Settle              settling
}

// alike is held mail with the same Subject but for its numbers: what a visitor wrote by a
// hacked form stands apart from the spam.
type alike struct {
	Subject string // of the oldest of them
	Count   int
	Differ  bool // in their numbers
}

// alikeShown is how many Subjects are told apart.
const alikeShown = 6

// sortAlike puts held mail apart by its Subjects, the most frequent first.
func sortAlike(list []control.HeldMessage) (groups []alike, others int) {
	at := map[string]int{}
	for i := range list {
		h := &list[i]
		n, seen := at[h.SubjectKey]
		if !seen {
			n = len(groups)
			at[h.SubjectKey] = n
			groups = append(groups, alike{Subject: h.Subject})
		}
		groups[n].Count++
		groups[n].Differ = groups[n].Differ || h.Subject != groups[n].Subject
	}
	if len(groups) < 2 {
		return nil, 0
	}
	slices.SortStableFunc(groups, func(a, b alike) int { return cmp.Compare(b.Count, a.Count) })
	shown := groups[:min(len(groups), alikeShown)]
	for _, g := range groups[len(shown):] {
		others += g.Count
	}
	return shown, others
}

// settling is what can be done about an event, besides its held mail.
type settling struct {
	Level, Name  string // whose limit would be raised
	Scope, Value string // what a hold or an exemption would be about
}

// HeldWith is the mail that waits because of the event and has a Subject.
func (b *eventBody) HeldWith(subject string) control.Selection {
	s := b.Held
	s.Subject = subject
	return s
}

// eventPage shows one event: what went over, on what evidence, and what settles it.
func (c *call) eventPage() error {
	id, err := c.idOf("id")
	if err != nil {
		return err
	}
	e, err := c.p.service.Event(c.Context(), c.actor, id)
	if err != nil {
		return err
	}
	b := &eventBody{Event: e, Part: keyPart(e.Watch, e.Key), Settle: settlingOf(&e)}
	if err := c.eventHeld(b); err != nil {
		return err
	}
	first := "" // tells what it was stopped for
	if len(e.Messages) > 0 {
		first = e.Messages[0].Ref
	} else if len(e.Connections) > 0 {
		first = e.Connections[0].Ref
	}
	if first != "" {
		x, err := c.p.service.Explain(c.Context(), c.actor, first)
		if err == nil {
			b.FilledBy, b.FilledByConnections = x.FilledBy, x.FilledByConnections
		}
	}
	usage, err := c.p.service.Usage(c.Context(), c.actor, cmp.Or(e.Account, e.Key), control.Page{Limit: allListed})
	for i := range usage.Items {
		if u := &usage.Items[i]; err == nil && u.Trigger == e.Trigger && u.Key == e.Key {
			b.Usage = u
		}
	}
	return c.show("event", "events", "Event "+decimal(e.ID), b)
}

// eventHeld counts the mail that waits because of an event, and finds the holds it put.
func (c *call) eventHeld(b *eventBody) error {
	e := &b.Event
	b.Held = control.Selection{Account: e.Account, Trigger: e.Trigger}
	switch e.Watch {
	case "login":
		b.Held.Mailbox = e.Mailbox
	case "directory":
		b.Held.Directory = b.Part
	case "subject":
		b.Held.Subject = b.Part
	}
	held, err := c.p.service.Held(c.Context(), c.actor, b.Held, control.Page{Limit: allListed})
	if err != nil {
		return err
	}
	b.Waiting, b.More = len(held.Items), held.Next != ""
	b.Alike, b.Others = sortAlike(held.Items)
	holds, err := c.allHolds(e.Account)
	if err != nil {
		return err
	}
	for _, h := range holds {
		if h.EventID == e.ID {
			b.Holds = append(b.Holds, h)
		}
	}
	return nil
}

// settlingOf says what a limit, a hold or an exemption for an event would be about: the
// smallest thing that the trigger tells apart.
func settlingOf(e *control.Event) settling {
	part := keyPart(e.Watch, e.Key)
	switch e.Watch {
	case "login":
		return settling{Level: "mailbox", Name: e.Mailbox, Scope: "mailbox", Value: e.Mailbox}
	case "directory", "direct-directory":
		return settling{Level: "account", Name: e.Account, Scope: "directory", Value: part}
	case "subject":
		return settling{Level: "account", Name: e.Account, Scope: "subject", Value: part}
	case "client-ip":
		return settling{Scope: "ip", Value: part}
	}
	return settling{Level: "account", Name: e.Account, Scope: "account", Value: e.Account}
}

// explainBody answers why a message was stopped, or what would happen to one.
type explainBody struct {
	Ref      string
	Open     bool // the form that describes a message
	X        *control.Explanation
	Missing  *control.Error // nothing was found
	Describe control.Describe
	Count    string
	Settle   *settleButton
}

// explainPage answers "Why did my mail stop?".
func (c *call) explainPage() error {
	b := &explainBody{Ref: c.query("ref")}
	b.Describe.Account = c.query("account")
	b.Open = b.Describe.Account != "" || c.query("describe") == "1"
	var x control.Explanation
	var err error
	switch {
	case c.query("describe") == "1":
		x, err = c.describe(b)
	case b.Ref != "":
		x, err = c.p.service.Explain(c.Context(), c.actor, b.Ref)
	default:
		return c.show("explain", "explain", "Why did my mail stop?", b)
	}
	if e := problem(err); err != nil && e.Status >= 400 && e.Status < 500 {
		b.Missing = e
		c.typed.Err = &control.Error{Status: e.Status}
		return c.show("explain", "explain", "Why did my mail stop?", b)
	}
	if err != nil {
		return err
	}
	b.X, b.Settle = &x, settleOf(&x, c.actor.Role == control.Operator)
	return c.show("explain", "explain", "Why did my mail stop?", b)
}

// describe asks what would happen to a message that is described.
func (c *call) describe(b *explainBody) (control.Explanation, error) {
	d := &b.Describe
	*d = control.Describe{Account: c.query("account"), Mailbox: c.query("mailbox"), Source: c.query("source"), ClientIP: c.query("client_ip"),
		Directory: c.query("working_directory"), Subject: c.query("subject")}
	b.Count = c.query("recipients_count")
	n, err := number("the number of recipients", b.Count)
	if err != nil {
		return control.Explanation{}, err
	}
	if n != nil {
		d.Count = int(min(*n, 1<<30))
	}
	d.Recipients = strings.FieldsFunc(c.query("recipients"), func(r rune) bool { return r == ',' || r == ' ' || r == '\n' || r == '\r' })
	return c.p.service.Describe(c.Context(), c.actor, *d)
}

// settleButton is the one action that settles a message, as a button: the same that the
// explanation names as a command.
type settleButton struct {
	Text   string
	Page   string // where it leads
	Post   bool
	Fields [][2]string // of the form, or the query
	Danger bool
}

// settleOf makes a button of an explanation's command; nil where there is none, or where it
// is an operator's.
func settleOf(x *control.Explanation, operator bool) *settleButton {
	w := commandWords(x.Command)
	if len(w) < 2 || w[0] != "osmctl" || !operator && operatorsCommand(w) {
		return nil
	}
	switch rest := w[2:]; {
	case w[1] == "held" && len(rest) == 2 && rest[0] == "release":
		return &settleButton{Text: "Release this message…", Page: "held/confirm", Post: true, Fields: [][2]string{{"do", "release"}, {"ref", rest[1]}}}
	case w[1] == "connections":
		return &settleButton{Text: "Its connections", Page: "connections", Fields: [][2]string{{"account", flagOf(rest, "--account")}}}
	case w[1] == "held":
		return &settleButton{Text: "Look at the held mail", Page: "held", Fields: [][2]string{{"account", flagOf(rest, "--account")}}}
	case w[1] == "release" && len(rest) == 1:
		return &settleButton{Text: "End hold " + rest[0] + "…", Page: pagePath("holds", rest[0], "end")}
	case w[1] == "reset" && len(rest) == 1:
		trigger, key, _ := strings.Cut(rest[0], "/")
		return &settleButton{Text: "Reset the counter…", Page: "reset", Fields: [][2]string{{"trigger", trigger}, {"key", key}}}
	case w[1] == "limit" && len(rest) > 0 && rest[0] == "set":
		return raiseButton(rest)
	case w[1] == "usage" && len(rest) == 1:
		return &settleButton{Text: "Look at the sender", Page: pagePath("senders", rest[0])}
	case w[1] == "status":
		return &settleButton{Text: "Look at how osm is doing", Page: "now"}
	case w[1] == "config":
		return &settleButton{Text: "Look at the settings", Page: "settings"}
	}
	return nil
}

// operatorsCommand reports whether only an operator may do what a command does.
func operatorsCommand(w []string) bool {
	switch w[1] {
	case "held":
		return len(w) > 2 && w[2] == "release"
	case "release", "reset", "status", "config":
		return true
	}
	return false
}

// raiseButton leads to the form that raises a limit.
func raiseButton(flags []string) *settleButton {
	level, name := "account", flagOf(flags, "--account")
	if m := flagOf(flags, "--mailbox"); m != "" {
		level, name = "mailbox", m
	}
	return &settleButton{Text: "Raise the limit…", Page: "limits/edit", Fields: [][2]string{
		{"level", level}, {"name", name}, {"trigger", flagOf(flags, "--trigger")}, {"max", flagOf(flags, "--max")}, {"until", flagOf(flags, "--until")},
	}}
}

func flagOf(words []string, flag string) string {
	for i := 0; i+1 < len(words); i++ {
		if words[i] == flag {
			return words[i+1]
		}
	}
	return ""
}

// commandWords parts a command as a shell does, as far as explanations quote: words in
// single quotes, with '\” for a quote within.
func commandWords(s string) []string {
	var words []string
	var word strings.Builder
	inWord, quotes := false, false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\'':
			quotes, inWord = !quotes, true
		case c == '\\' && !quotes && i+1 < len(s):
			i++
			word.WriteByte(s[i])
		case c == ' ' && !quotes:
			if inWord {
				words = append(words, word.String())
			}
			word.Reset()
			inWord = false
		default:
			word.WriteByte(c)
			inWord = true
		}
	}
	if inWord {
		words = append(words, word.String())
	}
	return words
}

// heldMessagePage shows one held message, with its headers while it waits.
func (c *call) heldMessagePage() error {
	h, err := c.p.service.HeldMessage(c.Context(), c.actor, c.PathValue("ref"))
	if err != nil {
		if problem(err).Status == http.StatusBadRequest {
			return refusal(http.StatusNotFound, "", "there is no such held message")
		}
		return err
	}
	return c.show("heldmessage", "held", "Held message "+h.Ref, &h)
}
