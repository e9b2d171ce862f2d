package control

import (
	"time"

	store "osm/sql"
)

// Decision is one message that was decided about; of source "direct" it is a connection.
type Decision = store.Decision

// Event is a trigger that went over for one key. Its evidence says what its messages
// have in common.
type Event = store.Event

// HeldMessage is one message that waits frozen in Exim's queue, or did.
type HeldMessage struct {
	store.Held
	Headers string `json:"headers,omitempty"` // only of one message, while it is in the queue
}

// EventFilter says which events are wanted; what is empty does not matter.
type EventFilter struct {
	Since    time.Time
	Account  string
	Trigger  string
	OpenOnly bool
}

// Usage is one counter and what it allows.
type Usage struct {
	Trigger string `json:"trigger"`
	Watch   string `json:"watch"`
	Key     string `json:"key"`
	Mode    string `json:"mode"`
	Used    int64  `json:"used"`
	Max     int64  `json:"max"`
	Per     Period `json:"per"`
	Count   string `json:"count"`
	FreeAt  Time   `json:"free_at"` // null: there is room now
	Origin  string `json:"origin"`  // where max was set
}

// Top is one sender among those who sent most.
type Top = store.Sender

// Step is one rule that was looked at on the way to a decision.
type Step struct {
	Rule    string `json:"rule"`
	Key     string `json:"key,omitempty"`
	Outcome string `json:"outcome"`
	Text    string `json:"text"`
}

// Explanation is everything that is to be said about one message, or one connection.
type Explanation struct {
	Decision *Decision    `json:"decision"`
	Event    *Event       `json:"event"`
	Usage    []Usage      `json:"usage"`
	Held     *HeldMessage `json:"held"`
	Why      string       `json:"why"`     // rule, count, limit and on what grounds, in words
	Next     string       `json:"next"`    // what happens now, in words
	Command  string       `json:"command"` // what settles it, on one line
	// FilledBy are messages that used the limit up.
	FilledBy []Decision `json:"filled_by"`
	// Connection is what the reference names, where it is no message but a connection that
	// bypassed Exim; then FilledByConnections are those that used the limit up.
	Connection          *Connection  `json:"connection,omitempty"`
	FilledByConnections []Connection `json:"filled_by_connections,omitempty"`
	// Steps are the rules looked at, for a described message.
	Steps []Step `json:"steps,omitempty"`
	// Described: nothing was sent, this would happen.
	Described bool `json:"described,omitempty"`
}

// Describe is a message that somebody asks about without sending it.
type Describe struct {
	Account    string   `json:"account"`
	Mailbox    string   `json:"mailbox"`
	Source     string   `json:"source"`
	ClientIP   string   `json:"client_ip"`
	Directory  string   `json:"working_directory"`
	Subject    string   `json:"subject"`
	Recipients []string `json:"recipients"`
	// Count is the number of recipients where no addresses are given; 0 = 1.
	Count int `json:"recipients_count"`
}

// Hold is a standing freeze (or discard) of one sender.
type Hold struct {
	ID      int64  `json:"id"`
	Scope   string `json:"scope"`
	Account string `json:"account"`
	Value   string `json:"value"` // mailbox, directory or Subject; "" for the account
	Verdict string `json:"verdict"`
	Release string `json:"release"`
	Trigger string `json:"trigger"` // that put it; "" = by hand
	EventID int64  `json:"event_id"`
	Until   Time   `json:"until"` // null = until released
	By      string `json:"by"`
	At      Time   `json:"at"`
	Reason  string `json:"reason"`
}

// Limit is a change of one trigger, or all, for the server, a reseller, a package, an
// account or a mailbox. What is null is inherited; in a request it stays as it was set.
type Limit struct {
	ID      int64         `json:"id"`
	Level   string        `json:"level"`
	Name    string        `json:"name"`
	Trigger string        `json:"trigger"` // "" = all
	Max     *int64        `json:"max,omitempty"`
	Per     *Period       `json:"per,omitempty"` // server level only
	Verdict *string       `json:"verdict,omitempty"`
	Release *string       `json:"release,omitempty"`
	Mode    *string       `json:"mode,omitempty"`
	Actions *[]LimitEntry `json:"actions,omitempty"`
	Until   Time          `json:"until"`
	Forever bool          `json:"forever,omitempty"` // in a request: without an end, where it had one
	Where   string        `json:"where"`             // file or database
	By      string        `json:"by"`
	At      Time          `json:"at"`
	Reason  string        `json:"reason"`
}

// LimitEntry is one action of a limit.
type LimitEntry struct {
	Name        string `json:"name"`
	For         Period `json:"for,omitempty"`          // how long it stands; 0 = until it is undone
	From        int64  `json:"from,omitempty"`         // the step of the ladder; 0 and 1 = at once
	Script      string `json:"script,omitempty"`       // of run-script
	ConfirmLoss bool   `json:"confirm_loss,omitempty"` // of discard
}

// Exemption lifts triggers for what it matches, up to a ceiling.
type Exemption struct {
	ID      int64  `json:"id"`
	Scope   string `json:"scope"`
	Account string `json:"account"`
	Value   string `json:"value"`
	Trigger string `json:"trigger"`
	Ceiling int64  `json:"ceiling"` // 0 = no limit at all
	Until   Time   `json:"until"`
	Where   string `json:"where"`
	By      string `json:"by"`
	At      Time   `json:"at"`
	Reason  string `json:"reason"`
	Hits    int64  `json:"hits"` // messages it let pass since the daemon started
}

// Selection names held messages: by reference or message id, or by what they have in
// common. At least one field must be set.
type Selection struct {
	Refs      []string `json:"refs,omitempty"`
	Account   string   `json:"account,omitempty"`
	Mailbox   string   `json:"mailbox,omitempty"`
	Directory string   `json:"working_directory,omitempty"`
	Subject   string   `json:"subject,omitempty"`
	Trigger   string   `json:"trigger,omitempty"`
	State     string   `json:"state,omitempty"`
}

// Settle is a request to release or discard held messages.
type Settle struct {
	Selection
	// Expect is how many messages the caller means; another number changes nothing.
	// Null: any number.
	Expect *int   `json:"expect,omitempty"`
	DryRun bool   `json:"dry_run,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// Settled is what came of it.
type Settled struct {
	Matched int    `json:"matched"`
	Changed int    `json:"changed"` // 0 in a dry run
	Text    string `json:"text"`    // what happens now
}

// Check is one thing that was looked at: by doctor, or in a status.
type Check struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	// Skipped: it could not be looked at from here; Text says why.
	Skipped bool   `json:"skipped,omitempty"`
	Text    string `json:"text"`           // what was found
	Hint    string `json:"hint,omitempty"` // what to do when it is not ok
}

// Alarm is something that a person must act on.
type Alarm struct {
	At    Time   `json:"at"`
	Name  string `json:"name"` // one word, the same as long as it is the same alarm
	Text  string `json:"text"`
	Count int64  `json:"count,omitempty"`
}

// Part is how one part of the daemon is doing.
type Part struct {
	OK    bool   `json:"ok"`
	Text  string `json:"text"` // one line for people
	Since Time   `json:"since"`
}

// Status is the whole daemon on one page.
type Status struct {
	Version   string `json:"version"`
	StartedAt Time   `json:"started_at"`
	Config    struct {
		Path     string `json:"path"`
		Checking bool   `json:"checking"`
		LoadedAt Time   `json:"loaded_at"`
		// Error is what was wrong with the file when it was last read; the settings before
		// it are in force.
		Error    string `json:"error,omitempty"`
		Triggers struct {
			Enforcing int `json:"enforcing"`
			Observing int `json:"observing"`
			Off       int `json:"off"`
		} `json:"triggers"`
	} `json:"config"`
	Exim     Part    `json:"exim"`
	Store    Part    `json:"store"`
	Monitor  Monitor `json:"monitor"`
	Inspect  Part    `json:"inspect"`
	Executor Part    `json:"executor"`
	Accounts struct {
		Part
		Panel    string `json:"panel"`
		Accounts int    `json:"accounts"`
		Domains  int    `json:"domains"`
		LoadedAt Time   `json:"loaded_at"`
	} `json:"accounts"`
	Checks    uint64 `json:"checks"` // questions answered since the start
	Shed      uint64 `json:"shed"`
	Unchecked uint64 `json:"unchecked"`
	Held      struct {
		Messages int64 `json:"messages"`
		Bytes    int64 `json:"bytes"`
	} `json:"held"`
	Holds      int     `json:"holds"`
	OpenEvents int     `json:"open_events"`
	Alarms     []Alarm `json:"alarms"`
}

// Monitor tells how connections that bypass Exim are seen.
type Monitor struct {
	Part
	Source string `json:"source"` // ebpf, packet, poll or off
	Level  string `json:"level"`  // ok, degraded or off
	// Better are better sources that cannot be used here, and why.
	Better []RefusedSource `json:"better,omitempty"`
	// Problems say what is lost, and what to do.
	Problems []string `json:"problems,omitempty"`
	// Unseen is what this source cannot see even if all is well with it.
	Unseen   []string          `json:"unseen,omitempty"`
	SelfTest string            `json:"self_test,omitempty"`
	Counts   map[string]uint64 `json:"counts,omitempty"` // since the watch was started
}

// RefusedSource is a source of connections that cannot be used.
type RefusedSource struct {
	Name  string `json:"name"`
	Error string `json:"error"`
}

// AuditEntry is one change that somebody made.
type AuditEntry = store.Audit

// Bucket is what became of the messages of one piece of time.
type Bucket = store.Bucket

// Near is one counter that is close to its maximum or over it.
type Near struct {
	Account string `json:"account"` // "" where the key is no account's (a client IP)
	Usage
}

// Account is one sender that can be looked at: what the panel says of it.
type Account struct {
	Account  string   `json:"account"`
	Reseller string   `json:"reseller"`
	Package  string   `json:"package"`
	Domains  []string `json:"domains"`                // the first 20
	More     int      `json:"more_domains,omitempty"` // so many others
	System   bool     `json:"system,omitempty"`
	// Matched is what of it matched a search: a domain, a mailbox's domain, the name.
	Matched string `json:"matched,omitempty"`
	store.Tally
}

// Share is one part of what an account sent.
type Share = store.Share

// AccountDetail is what one account sent, and from where.
type AccountDetail struct {
	Account
	Since       Time     `json:"since"`  // of the shares: as asked for, or later where that would take too long
	Looked      int64    `json:"looked"` // messages of the account that the shares are made of
	Mailboxes   []Share  `json:"mailboxes"`
	Directories []Share  `json:"directories"`
	Subjects    []Share  `json:"subjects"`
	ClientIPs   []Share  `json:"client_ips"`
	Scripts     []Share  `json:"scripts"`
	History     []Bucket `json:"history"` // an hour each
	Limits      []Limit  `json:"limits"`  // that are set for it and for its mailboxes
}

// Effective is one trigger as it is in force for somebody, each value with its origin
// ("default", "file", "database, by root", "package gold (file)").
type Effective struct {
	Trigger string            `json:"trigger"`
	Watch   string            `json:"watch"`
	Count   string            `json:"count"`
	Max     int64             `json:"max"`
	Per     Period            `json:"per"`
	Verdict string            `json:"verdict"`
	Release string            `json:"release"`
	Mode    string            `json:"mode"`
	Actions []LimitEntry      `json:"actions"`
	Origin  map[string]string `json:"origin"` // by field: max, per, verdict, release, mode, actions
}

// Preview is what a change of limits would have done to the mail of the past.
type Preview struct {
	Since    Time   `json:"since"`    // as asked for, or later where reading that far back would take too long
	Whole    bool   `json:"whole"`    // since is what was asked for, or all that is kept
	Messages int64  `json:"messages"` // decisions looked at
	Stopped  int64  `json:"stopped"`  // messages that the change would have stopped
	Accounts int64  `json:"accounts"` // of so many accounts
	Now      int64  `json:"now"`      // messages that the rules in force would have stopped
	Text     string `json:"text"`     // "Over the last 7 days this would have stopped 14 messages of 3 accounts; …"
	// Noun is what was looked at: "message", or "connection", which a limit reports (Observed)
	// and does not stop.
	Noun string `json:"noun"`
	// Observed are messages that the change would have reported and let pass, because the
	// trigger only observes.
	Observed int64           `json:"observed"`
	Items    []PreviewSender `json:"items"` // the accounts with the most, at most 20
}

// PreviewSender is one account whose messages a change would have stopped, or reported.
type PreviewSender struct {
	Account string `json:"account"`
	Stopped int64  `json:"stopped"` // of an observing trigger: what it would have reported
	FirstAt Time   `json:"first_at"`
}

// Setting is one setting that can be changed while the daemon runs.
type Setting struct {
	Key     string   `json:"key"`   // as in osm.toml: "checking", "held.keep"
	Value   string   `json:"value"` // in force
	Default string   `json:"default"`
	Kind    string   `json:"kind"` // bool, duration, size, number, rate, choice
	Choices []string `json:"choices,omitempty"`
	Origin  string   `json:"origin"` // default, file, or database with who
	Text    string   `json:"text"`   // what it does, one sentence
	By      string   `json:"by,omitempty"`
	At      Time     `json:"at"`
	Reason  string   `json:"reason,omitempty"`
}

// LoginLink is a one-time way into the page on a host without WHM.
type LoginLink struct {
	Token     string `json:"token"`
	ExpiresAt Time   `json:"expires_at"`
	User      string `json:"user"`
	Role      Role   `json:"role"`
	Reseller  string `json:"reseller,omitempty"`
}
