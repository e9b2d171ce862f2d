package report

import (
	"slices"
	"time"

	"osm/policy"
	store "osm/sql"
)

// Schema is the name and version of the document. The number changes when a field goes
// away or changes its meaning; new fields may come without it.
const Schema = "osm-report/1"

// Kind says why a report was written.
type Kind string

// The kinds of report.
const (
	First  Kind = "first"  // a trigger has just gone over
	Digest Kind = "digest" // what came since the report before
)

// Bounds of a report. With these an encoded report of hostile texts stays below
// [MaxEncoded], an ordinary one is about 10 KiB.
const (
	maxMessages = 10 // samples, of connections too: the first five and the last five
	maxEvidence = 10
	maxActions  = 20
	maxAlso     = 10
	maxUndo     = 20
	maxShares   = 5
	maxText     = 512 // bytes of a text whose field has no max of its own

	// MaxEncoded is the largest that an encoded report can be, in bytes.
	MaxEncoded = 4 << 20
)

// Report is an event written for a person or a program. Every field is always present in
// every format: no moment is null, no list is null. The max of a field is in bytes.
type Report struct {
	Schema     string     `json:"schema"`
	Kind       Kind       `json:"kind"`
	CreatedAt  store.Time `json:"created_at"`
	Host       string     `json:"host"`
	OSMVersion string     `json:"osm_version"`
	Summary    string     `json:"summary" max:"2048"`
	Page       string     `json:"page" max:"1024"`
	Event      Event      `json:"event"`
	// Of a digest: when the report before it was written, and how many messages were
	// stopped since then. Of a first report: null, and all of them.
	Since        store.Time `json:"since"`
	StoppedSince int64      `json:"stopped_since"`
	Also         []Event    `json:"also"` // other events of the same sender
	Evidence     []Evidence `json:"evidence"`
	Sampled      int64      `json:"sampled"` // messages or connections that Top was made from
	Top          Top        `json:"top"`
	Messages     []Message  `json:"messages"`
	// Of a trigger that watches what bypasses Exim, in place of messages.
	Connections []Connection `json:"connections"`
	Actions     []Action     `json:"actions"`
	Commands    Commands     `json:"commands"`
}

// Event is a trigger that went over, see [store.Event].
type Event struct {
	ID      int64        `json:"id"`
	At      store.Time   `json:"at"`
	LastAt  store.Time   `json:"last_at"`
	Trigger string       `json:"trigger"`
	Watch   string       `json:"watch"`
	Key     string       `json:"key" max:"1024"`
	Account string       `json:"account"`
	Mailbox string       `json:"mailbox"`
	Mode    string       `json:"mode"`
	Verdict string       `json:"verdict"`
	Max     int64        `json:"max"`
	Per     store.Period `json:"per"`
	Count   string       `json:"count"`
	Used    int64        `json:"used"`
	Stopped int64        `json:"stopped"`
	FreeAt  store.Time   `json:"free_at"`
	Claimed bool         `json:"claimed"`
	Open    bool         `json:"open"`
}

// Evidence is the script and the web request that a message came from, as far as it could
// be found, see [store.Evidence].
type Evidence struct {
	At          store.Time `json:"at"`
	Ref         string     `json:"ref"`
	Script      string     `json:"script" max:"1024"`
	URL         string     `json:"url" max:"1024"`
	Method      string     `json:"method"`
	VirtualHost string     `json:"virtual_host"`
	ClientIP    string     `json:"client_ip"`
	PID         int64      `json:"pid"`
	Basis       string     `json:"basis"`
	Confidence  string     `json:"confidence"`
}

// Message is one of the stopped messages, see [store.Decision].
type Message struct {
	Ref              string     `json:"ref"`
	At               store.Time `json:"at"`
	MessageID        string     `json:"message_id"`
	Source           string     `json:"source"`
	Account          string     `json:"account"`
	Mailbox          string     `json:"mailbox"`
	Basis            string     `json:"basis"`
	ClientIP         string     `json:"client_ip"`
	WorkingDirectory string     `json:"working_directory" max:"1024"`
	Script           string     `json:"script" max:"1024"`
	EnvelopeSender   string     `json:"envelope_sender"`
	Subject          string     `json:"subject"`
	Recipients       int64      `json:"recipients"`
	Size             int64      `json:"size"`
	Verdict          string     `json:"verdict"`
	Would            string     `json:"would"`
	Reason           string     `json:"reason"`
	Trigger          string     `json:"trigger"`
}

// Action is something that followed, see [store.Action].
type Action struct {
	ID      int64      `json:"id"`
	At      store.Time `json:"at"`
	Name    string     `json:"name"`
	Target  string     `json:"target" max:"1024"`
	State   string     `json:"state"`
	Outcome string     `json:"outcome" max:"1024"`
	Inverse string     `json:"inverse" max:"1024"`

	Until    store.Time `json:"until"`
	Attempts int64      `json:"attempts"`
	NextAt   store.Time `json:"next_at"`
	UndoneAt store.Time `json:"undone_at"`
	UndoneBy string     `json:"undone_by"`
}

// Commands are what an operator types: what explains the event, and what undoes each
// action that can be undone and was not yet, the last one first.
type Commands struct {
	Explain string   `json:"explain"`
	Undo    []string `json:"undo" max:"1024"`
}

// Facts are what a report is made from.
type Facts struct {
	Event store.Event   // with its messages, actions and evidence, as [store.Store.Event] gives it
	Also  []store.Event // other events of the same sender that are open or went over in the time
	Kind  Kind
	Now   time.Time
	// Of a digest: when the report before it was written, and the event's Stopped then.
	Since         time.Time
	StoppedBefore int64
	Host          string // this server's name
	Version       string // of osm
	Page          string // the address of the event's page; "" if there is none
	// Accounts whose messages, evidence, actions and events the reader may see; nil = all.
	// An event can hold messages of several accounts (an address is used by many): give the
	// accounts of the reseller, or the one of the customer, that the report is for.
	Accounts []string
}

// visible says that the reader may see what is an account's.
func (f *Facts) visible(account string) bool {
	return f.Accounts == nil || slices.Contains(f.Accounts, account)
}

// New makes the report of an event. It has at most 10 messages, the first five and the
// last five, 10 pieces of evidence, 10 other events and 20 actions. Texts become valid
// UTF-8 and are cut to the max of their field, where "…" then ends them.
func New(f Facts) *Report {
	messages := kept(f.Event.Messages, func(d *store.Decision) bool { return f.visible(d.Account) })
	connections := kept(f.Event.Connections, func(c *store.Connection) bool { return f.visible(c.Account) })
	if len(messages) > 0 {
		connections = nil // an event has one kind or the other, and a report is bounded by that
	}
	actions := kept(f.Event.Actions, func(a *store.Action) bool { return a.Account == "" || f.visible(a.Account) })
	also := kept(f.Also, func(e *store.Event) bool { return e.ID != f.Event.ID && f.visible(e.Account) })
	r := &Report{
		Schema: Schema, Kind: f.Kind, CreatedAt: store.Time{Time: f.Now}, Host: f.Host, OSMVersion: f.Version, Page: f.Page,
		Event: eventOf(&f.Event), Also: list(also, maxAlso, eventOf), Evidence: list(seen(&f, messages), maxEvidence, evidenceOf),
		Sampled: int64(len(messages) + len(connections)), Top: topOf(messages, connections), Messages: list(sample(messages), maxMessages, messageOf),
		Connections: list(sample(connections), maxMessages, connectionOf),
		Actions:     list(actions, maxActions, actionOf), Commands: commandsOf(f.Event.ID, actions),
		StoppedSince: f.Event.Stopped,
	}
	if f.Kind == Digest {
		r.Since, r.StoppedSince = store.Time{Time: f.Since}, max(f.Event.Stopped-f.StoppedBefore, 0)
	}
	r.Summary = summary(r)
	eachText(r, cut)
	return r
}

// list converts the first of a list; it is never nil.
func list[From, To any](in []From, most int, convert func(*From) To) []To {
	out := make([]To, 0, min(len(in), most))
	for i := range in[:min(len(in), most)] {
		out = append(out, convert(&in[i]))
	}
	return out
}

// sample takes the first and the last of messages or connections, which tell most: how it began and
// what it is now.
func sample[T any](m []T) []T {
	if len(m) <= maxMessages {
		return m
	}
	return slices.Concat(m[:maxMessages/2], m[len(m)-maxMessages/2:])
}

// kept is a list without what keep refuses; the list that was given stays as it is.
func kept[T any](in []T, keep func(*T) bool) []T {
	return slices.DeleteFunc(slices.Clone(in), func(one T) bool { return !keep(&one) })
}

// seen is the evidence that the reader may see. An event belongs to one account, save that
// of an address, which many use: there it is the evidence of the messages that he sees.
func seen(f *Facts, messages []store.Decision) []store.Evidence {
	if f.Accounts == nil || f.Event.Watch != policy.WatchClientIP.String() {
		return f.Event.Requests
	}
	return kept(f.Event.Requests, func(e *store.Evidence) bool {
		return slices.ContainsFunc(messages, func(d store.Decision) bool { return d.Ref == e.Ref })
	})
}

func eventOf(e *store.Event) Event {
	return Event{
		ID: e.ID, At: e.At, LastAt: e.LastAt, Trigger: e.Trigger, Watch: e.Watch, Key: e.Key, Account: e.Account, Mailbox: e.Mailbox,
		Mode: e.Mode, Verdict: e.Verdict, Max: e.Max, Per: e.Per, Count: e.Count, Used: e.Used, Stopped: e.Stopped, FreeAt: e.FreeAt,
		Claimed: e.Claimed, Open: e.Open,
	}
}

func evidenceOf(e *store.Evidence) Evidence {
	return Evidence{
		At: e.At, Ref: e.Ref, Script: e.Script, URL: e.URL, Method: e.Method, VirtualHost: e.VirtualHost, ClientIP: e.ClientIP, PID: e.PID,
		Basis: e.Basis, Confidence: e.Confidence,
	}
}

func messageOf(d *store.Decision) Message {
	return Message{
		Ref: d.Ref, At: d.At, MessageID: d.MessageID, Source: d.Source, Account: d.Account, Mailbox: d.Mailbox, Basis: d.Basis,
		ClientIP: d.ClientIP, WorkingDirectory: d.WorkingDirectory, Script: d.Script, EnvelopeSender: d.EnvelopeSender, Subject: d.Subject,
		Recipients: d.Recipients, Size: d.Size, Verdict: d.Verdict, Would: d.Would, Reason: d.Reason, Trigger: d.Trigger,
	}
}

func actionOf(a *store.Action) Action {
	return Action{
		ID: a.ID, At: a.At, Name: a.Name, Target: a.Target, State: a.State, Outcome: a.Outcome, Inverse: a.Inverse,
		Until: a.Until, Attempts: a.Attempts, NextAt: a.NextAt, UndoneAt: a.UndoneAt, UndoneBy: a.UndoneBy,
	}
}
