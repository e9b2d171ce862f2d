package control

import (
	"context"
	"time"

	"osm/internal/config"
	store "osm/sql"
)

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
	Domains  []string `json:"domains"` // the first 20
	System   bool     `json:"system,omitempty"`
	// Matched is what of it matched a search: a domain, a mailbox's domain, the name.
	Matched string `json:"matched,omitempty"`
	store.Tally
}

// Part is declared in api.go; Share is one part of what an account sent.
type Share struct {
	Value      string `json:"value"` // mailbox, directory, Subject, client IP or script
	Messages   int64  `json:"messages"`
	Recipients int64  `json:"recipients"`
	Stopped    int64  `json:"stopped"`
}

// AccountDetail is what one account sent, and from where.
type AccountDetail struct {
	Account
	Since       Time     `json:"since"`  // of the shares: as asked for, or later where that would take too long
	Looked      int64    `json:"looked"` // decisions looked at for the shares
	Mailboxes   []Share  `json:"mailboxes"`
	Directories []Share  `json:"directories"`
	Subjects    []Share  `json:"subjects"`
	ClientIPs   []Share  `json:"client_ips"`
	Scripts     []Share  `json:"scripts"`
	History     []Bucket `json:"history"` // an hour each
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
	Messages int64  `json:"messages"` // decisions looked at
	Stopped  int64  `json:"stopped"`  // messages that the change would have stopped
	Accounts int64  `json:"accounts"` // of so many accounts
	Now      int64  `json:"now"`      // messages that the rules in force would have stopped
	Text     string `json:"text"`     // "Over the last 7 days this would have stopped 14 messages of 3 accounts; …"
	Items    []struct {
		Account string `json:"account"`
		Stopped int64  `json:"stopped"`
		FirstAt Time   `json:"first_at"`
	} `json:"items"` // the accounts with the most, at most 20
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

// Rates adds up messages by verdict in pieces of step: of the whole server in whole
// minutes, of one account (or, for a reseller, of all his) in whole hours.
func (s *Service) Rates(ctx context.Context, a Actor, account string, since time.Time, step time.Duration) (List[Bucket], error) {
	return List[Bucket]{}, unavailable("", "not built")
}

// Near lists the counters closest to their maximum, enforcing or observing ones, the
// fullest first.
func (s *Service) Near(ctx context.Context, a Actor, p Page) (List[Near], error) {
	return List[Near]{}, unavailable("", "not built")
}

// Accounts lists accounts by name, or those whose name or domain holds q, or that own the
// mailbox q, with what they sent in the last 24 hours.
func (s *Service) Accounts(ctx context.Context, a Actor, q string, p Page) (List[Account], error) {
	return List[Account]{}, unavailable("", "not built")
}

// Account tells all about one.
func (s *Service) Account(ctx context.Context, a Actor, name string, since time.Time) (AccountDetail, error) {
	return AccountDetail{}, unavailable("", "not built")
}

// Decisions lists messages that were decided about, the newest first.
func (s *Service) Decisions(ctx context.Context, a Actor, account, verdict string, since time.Time, p Page) (List[Decision], error) {
	return List[Decision]{}, unavailable("", "not built")
}

// Triggers lists every trigger as it is in force at a level ("server", "reseller",
// "package", "account", "mailbox") for a name.
func (s *Service) Triggers(ctx context.Context, a Actor, level, name string) (List[Effective], error) {
	return List[Effective]{}, unavailable("", "not built")
}

// PreviewLimit tells what a limit would have done to the mail since a moment, if it had
// been set (remove = 0) or removed (remove = its number).
func (s *Service) PreviewLimit(ctx context.Context, a Actor, l Limit, remove int64, since time.Time) (Preview, error) {
	return Preview{}, unavailable("", "not built")
}

// Settings lists the settings that can be changed while the daemon runs.
func (s *Service) Settings(ctx context.Context, a Actor) (List[Setting], error) {
	return List[Setting]{}, unavailable("", "not built")
}

// Set changes a setting, and wins over the file; unset (value nil) gives the file's back.
func (s *Service) Set(ctx context.Context, a Actor, key string, value *string, reason string) (Setting, error) {
	return Setting{}, unavailable("", "not built")
}

// Undo takes one change of the audit back, where that can be done.
func (s *Service) Undo(ctx context.Context, a Actor, id int64, reason string) (AuditEntry, error) {
	return AuditEntry{}, unavailable("", "not built")
}

// NewLoginLink makes a one-time link for an operator or a reseller; it holds for ten
// minutes.
func (s *Service) NewLoginLink(ctx context.Context, a Actor, l LoginLink) (LoginLink, error) {
	return LoginLink{}, unavailable("", "not built")
}

// RedeemLoginLink uses a link up and tells for whom it was.
func (s *Service) RedeemLoginLink(ctx context.Context, a Actor, token string) (LoginLink, error) {
	return LoginLink{}, unavailable("", "not built")
}

var _ = config.Nearest // used by the settings
