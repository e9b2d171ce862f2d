package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"osm/policy"
	store "osm/sql"
)

// topSince is how far back the list of senders goes unless somebody says otherwise.
const topSince = 24 * time.Hour

// Top lists the accounts that sent most, by "recipients" or "messages" of what was
// accepted, by messages that were "stopped", or by "connections" that bypassed Exim.
func (s *Service) Top(ctx context.Context, a Actor, since time.Time, by string, p Page) (List[Top], error) {
	if by = orNothing(by, "recipients"); by != "recipients" && by != "messages" && by != "stopped" && by != "connections" {
		return List[Top]{}, badRequest("by is %.40q: it is recipients, messages, stopped or connections", by)
	}
	if since.IsZero() {
		since = s.o.Clock().Wall.Add(-topSince)
	}
	if err := pageMark(p); err != nil {
		return List[Top]{}, err
	}
	top, err := s.o.Store.Top(ctx, store.TopFilter{Since: since, By: by, Accounts: s.ownAccounts(a), Limit: p.Limit, After: p.After})
	return List[Top]{Items: top.Items, Next: top.Next}, found(err, "", "no senders")
}

// Usage lists the counters of an account; of (unknown) those of its sub-keys too.
func (s *Service) Usage(ctx context.Context, a Actor, account string, p Page) (List[Usage], error) {
	if account == "" || len(account) > 1024 {
		return List[Usage]{}, badRequest("an account is named by 1 to 1024 bytes")
	}
	if err := s.mayAccount(a, account); err != nil {
		return List[Usage]{}, err
	}
	rows := usageRows(s.o.Engine.UsageOf(s.o.Clock(), s.placed(policy.Identity{Account: account})))
	return numbered(rows, p)
}

// numbered cuts a page out of a whole list; next is the place in it.
func numbered[T any](all []T, p Page) (List[T], error) {
	from := 0
	if p.After != "" {
		n, err := strconv.Atoi(p.After)
		if err != nil || n < 0 {
			return List[T]{}, badRequest("after is %.40q: no value of next", p.After)
		}
		from = min(n, len(all))
	}
	end := min(from+p.Limit, len(all))
	l := List[T]{Items: all[from:end]}
	if end < len(all) {
		l.Next = strconv.Itoa(end)
	}
	return l, nil
}

// Events lists who went over, the newest first.
func (s *Service) Events(ctx context.Context, a Actor, f EventFilter, p Page) (List[Event], error) {
	if f.Account != "" {
		if err := s.mayAccount(a, f.Account); err != nil {
			return List[Event]{}, err
		}
	}
	if err := pageMark(p); err != nil {
		return List[Event]{}, err
	}
	list, next, err := s.o.Store.Events(ctx, store.EventFilter{Since: f.Since, Account: f.Account, Accounts: s.ownAccounts(a), Trigger: f.Trigger, OpenOnly: f.OpenOnly,
		Limit: p.Limit, After: p.After})
	return List[Event]{Items: list, Next: next}, found(err, "", "no events")
}

// pageMark checks that after is a number, as all marks of the store are.
func pageMark(p Page) error {
	if p.After == "" {
		return nil
	}
	if _, err := strconv.ParseUint(p.After, 10, 63); err != nil {
		return badRequest("after is %.40q: no value of next", p.After)
	}
	return nil
}

// Event finds one event, with its messages, what followed, and what its messages have
// in common.
func (s *Service) Event(ctx context.Context, a Actor, id int64) (Event, error) {
	e, err := s.o.Store.Event(ctx, id)
	if err == nil && !s.visible(a, e.Account) {
		err = store.ErrNotFound
	}
	if err != nil {
		return Event{}, found(err, "osmctl events lists them", "there is no event %d", id)
	}
	s.hide(a, &e)
	e.Evidence = append(evidence(e.Messages), connectionEvidence(e.Connections)...)
	for i := range e.Actions {
		withInverse(&e.Actions[i])
	}
	return e, nil
}

// hide leaves of an event's messages those that the actor may see: an address is used by
// many accounts.
func (s *Service) hide(a Actor, e *Event) {
	e.Messages = slices.DeleteFunc(e.Messages, func(d Decision) bool { return !s.visible(a, d.Account) })
	e.Connections = s.seenConnections(a, e.Connections)
	if a.Role != Operator { // whom the operator tells is his business
		e.Notices = nil
	}
	if e.Watch == policy.WatchClientIP.String() && a.Role != Operator {
		e.Requests = nil // of whoever used the address
	}
}

// minShare is the least share of the messages that is worth a line of evidence.
const minShare = 0.2

// trait is something that messages or connections may have in common.
type trait[T any] struct {
	what  string
	value func(*T) string
}

// evidence says what stopped messages have in common: the usual suspect first.
func evidence(messages []Decision) []string {
	return common(messages, "messages", []trait[Decision]{
		{"script", func(d *Decision) string { return d.Script }},
		{"directory", func(d *Decision) string { return d.WorkingDirectory }},
		{"mailbox", func(d *Decision) string { return d.Mailbox }},
		{"client IP", func(d *Decision) string { return d.ClientIP }},
		{"Subject (without numbers)", func(d *Decision) string { return d.SubjectKey }},
		{"envelope sender", func(d *Decision) string { return d.EnvelopeSender }},
	})
}

// connectionEvidence says what connections have in common.
func connectionEvidence(list []Connection) []string {
	return common(list, "connections", []trait[Connection]{
		{"program", func(c *Connection) string { return c.Executable }},
		{"script", func(c *Connection) string { return c.Script }},
		{"directory", func(c *Connection) string { return c.WorkingDirectory }},
		{"destination", func(c *Connection) string { return c.Remote }},
		{"user", func(c *Connection) string {
			if c.UID == nil {
				return ""
			}
			return "uid " + strconv.FormatInt(*c.UID, 10)
		}},
	})
}

func common[T any](items []T, noun string, traits []trait[T]) []string {
	out := []string{}
	for _, by := range traits {
		count := map[string]int{}
		for i := range items {
			if v := by.value(&items[i]); v != "" {
				count[v]++
			}
		}
		best := ""
		for v, n := range count {
			if n > count[best] || (n == count[best] && v < best) {
				best = v
			}
		}
		if n := count[best]; best != "" && float64(n) >= minShare*float64(len(items)) {
			out = append(out, fmt.Sprintf("%s %s: %d of %d %s", by.what, best, n, len(items), noun))
		}
	}
	return out
}

// eventOf finds the event that a message belongs to: the one that the trigger raised
// that stopped it, or that put the hold.
func (s *Service) eventOf(ctx context.Context, a Actor, d *Decision, o *store.Over) (*Event, error) {
	if d.EventID != 0 {
		e, err := s.o.Store.Event(ctx, d.EventID)
		if errors.Is(err, store.ErrNotFound) {
			return nil, nil // older than events are kept
		}
		e.Messages, e.Connections = nil, nil
		return s.ifVisible(a, &e), found(err, "", "no event")
	}
	if o == nil {
		return nil, nil
	}
	account := d.Account
	switch {
	case d.Claimed && (o.Watch == policy.WatchDirectory.String() || o.Watch == policy.WatchDirectDirectory.String()):
		account, _, _ = strings.Cut(o.Key, " ")
	case o.Watch == policy.WatchClientIP.String():
		account = "" // of whoever sent first from the address
	}
	list, _, err := s.o.Store.Events(ctx, store.EventFilter{Since: d.At.Time, Account: account, Trigger: o.Trigger, Key: o.Key, Limit: maxLimit})
	if err != nil {
		return nil, found(err, "", "no events")
	}
	i := slices.IndexFunc(list, func(e Event) bool { return !e.At.After(d.At.Time) })
	if i < 0 {
		return nil, nil
	}
	return s.ifVisible(a, &list[i]), nil
}

// ifVisible is the event, or nil where it is another account's: accounts can share an
// address.
func (s *Service) ifVisible(a Actor, e *Event) *Event {
	if s.visible(a, e.Account) {
		return e
	}
	return nil
}

// Audit lists who changed what, the newest first.
func (s *Service) Audit(ctx context.Context, a Actor, since time.Time, p Page) (List[AuditEntry], error) {
	if err := operatorOnly(a, "see who changed what"); err != nil {
		return List[AuditEntry]{}, err
	}
	if err := pageMark(p); err != nil {
		return List[AuditEntry]{}, err
	}
	list, next, err := s.o.Store.AuditList(ctx, since, p.Limit, p.After)
	if err != nil {
		return List[AuditEntry]{}, found(err, "", "no changes")
	}
	now := s.standing()
	for i := range list {
		back, err := now.back(ctx, &list[i])
		if err != nil {
			return List[AuditEntry]{}, err
		}
		list[i].Undo = back.text
	}
	return List[AuditEntry]{Items: list, Next: next}, nil
}
