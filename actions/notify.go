package actions

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"osm/internal/report"
	"osm/policy"
	store "osm/sql"
)

// Channels by which people are told.
const (
	channelMail    = "mail"
	channelWebhook = "webhook"
	channelSyslog  = "syslog"
)

// NotifySettings say who is told and how. They may change at any time.
type NotifySettings struct {
	MailTo                 []string // operators
	MailFrom               string
	SMTP                   string // where mail is handed in, host:port
	ToReseller, ToCustomer bool
	Digest                 time.Duration
	Webhook                string
	Secret                 []byte // of the webhook
	Syslog                 bool
	Templates              *report.Templates
	Page                   string // the page's address, "" = none
}

// NotifierOptions are what a notifier works with.
type NotifierOptions struct {
	Store    *store.Store
	Log      *slog.Logger
	Now      func() policy.Moment
	Host     string // this server's name
	Version  string
	Settings func() NotifySettings
	// Contact finds where an account's owner and reseller are written to; "" = nowhere.
	Contact func(account string) (customer, reseller string)
	// ResellerOf names the accounts of an account's reseller: what he may read about.
	ResellerOf func(account string) []string
	// Alarm tells the operator that somebody could not be told, and with "" that it works again.
	Alarm func(text string)
}

// Notifier tells people about events: once when somebody goes over a limit, then at most
// one digest in each digest time for each sender. What waits is in the store: a restart
// tells nobody twice and forgets nobody.
type Notifier struct {
	o    NotifierOptions
	mail func(ctx context.Context, addr, from, to string, message []byte) error
}

// NewNotifier returns a notifier.
func NewNotifier(o NotifierOptions) *Notifier { return &Notifier{o: o, mail: sendMail} }

// settleTime is how long a first notice waits for evidence and for what else is done.
const settleTime = 5 * time.Second

// senderOf is the key under which nobody is told twice.
func senderOf(ev *policy.Event) string {
	if strings.HasPrefix(ev.Account, "(") || ev.Watch == policy.WatchClientIP {
		return ev.Key
	}
	return ev.Account
}

// Tell sees to it that everybody who is to know of an event is told, and says who.
func (n *Notifier) Tell(ctx context.Context, ev *policy.Event) (told string, err error) {
	s, now := n.o.Settings(), n.o.Now().Wall
	var names []string
	var errs []error
	put := func(channel, audience, name string) {
		errs = append(errs, n.o.Store.Notify(ctx, store.Notice{
			At: store.Time{Time: now}, NextAt: store.Time{Time: now.Add(settleTime)}, Channel: channel, Audience: audience,
			Sender: senderOf(ev), Account: ev.Account, EventID: ev.ID,
		}, ev.LastAt, s.Digest))
		names = append(names, name)
	}
	if len(s.MailTo) > 0 {
		put(channelMail, string(report.Operator), "operators")
	}
	customer, reseller := n.contacts(ev)
	if s.ToReseller && reseller != "" {
		put(channelMail, string(report.Reseller), "the reseller")
	}
	if s.ToCustomer && customer != "" {
		put(channelMail, string(report.Customer), "the customer")
	}
	if s.Webhook != "" {
		put(channelWebhook, string(report.Operator), "the webhook")
	}
	if s.Syslog {
		put(channelSyslog, string(report.Operator), "syslog")
	}
	if len(names) == 0 {
		return "", nil
	}
	return "tells " + strings.Join(names, ", "), errors.Join(errs...)
}

// contacts are the addresses of those whose account it is. What rests on a claim, and what
// was only observed, is the operator's business alone.
func (n *Notifier) contacts(ev *policy.Event) (customer, reseller string) {
	if ev.Claimed || ev.Mode != policy.Enforce || n.o.Contact == nil || ev.Watch == policy.WatchClientIP {
		return "", ""
	}
	return n.o.Contact(ev.Account)
}

// noticeEvery is how often it is looked for what is to be told, and digestEvery for events
// that go on.
const (
	noticeEvery = 2 * time.Second
	digestEvery = time.Minute
)

// Run tells people until ctx ends.
func (n *Notifier) Run(ctx context.Context) error {
	tick := time.NewTicker(noticeEvery)
	defer tick.Stop()
	var looked time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now := n.o.Now().Wall
		var err error
		if looked.IsZero() || now.Sub(looked).Abs() >= digestEvery {
			err = n.goesOn(ctx, now)
			looked = now
		}
		if err = errors.Join(err, n.Due(ctx)); err != nil && ctx.Err() == nil {
			n.o.Log.Warn("reports", "err", err)
		}
	}
}

// goesOn sees to it that who was told of an event is told that it goes on.
func (n *Notifier) goesOn(ctx context.Context, now time.Time) error {
	after := ""
	for range 10 { // at most 10,000 events
		list, next, err := n.o.Store.Events(ctx, store.EventFilter{Since: now.Add(-3 * digestEvery), Limit: 1000, After: after})
		if err != nil {
			return err
		}
		for i := range list {
			ev := list[i].Policy()
			if now.Sub(ev.At) < settleTime { // its own report is on its way
				continue
			}
			if _, err := n.Tell(ctx, &ev); err != nil {
				return err
			}
		}
		if after = next; next == "" {
			break
		}
	}
	return nil
}

// Due tells whom it is time to tell.
func (n *Notifier) Due(ctx context.Context) error {
	due, err := n.o.Store.DueNotices(ctx, n.o.Now().Wall)
	if err != nil {
		return err
	}
	if len(due) > 0 { // their events are written behind
		if err := n.o.Store.Flush(ctx); err != nil {
			return err
		}
	}
	var errs []error
	for i := range due {
		if ctx.Err() != nil {
			break
		}
		errs = append(errs, n.one(ctx, &due[i]))
	}
	return errors.Join(errs...)
}

// noticeWait is how long a notice waits that could not be given, by how often.
func noticeWait(attempts int64) (wait time.Duration, again bool) {
	return min(time.Minute<<min(attempts-1, 10), time.Hour), attempts <= 30 // about a day
}

// one tells of one notice, and writes down what came of it.
func (n *Notifier) one(ctx context.Context, x *store.Notice) error {
	detail, err := n.send(ctx, x)
	x.Attempts++
	now := n.o.Now().Wall
	var gone leftAlone
	switch {
	case err == nil:
		x.State, x.At, x.NextAt, x.Detail = store.NoticeSent, store.Time{Time: now}, store.Time{}, detail
		n.o.Alarm("")
	case errors.As(err, &gone):
		x.State, x.NextAt, x.Detail = store.NoticeGivenUp, store.Time{}, err.Error()
		err = nil
	default:
		x.Detail = err.Error()
		wait, again := noticeWait(x.Attempts)
		x.NextAt = store.Time{Time: now.Add(wait)}
		if !again {
			x.State, x.NextAt = store.NoticeGivenUp, store.Time{}
		}
		n.o.Alarm(fmt.Sprintf("%s to %s about %s: %v", x.Channel, x.Audience, cut(x.Sender, 120), err))
		err = fmt.Errorf("%s to %s about event %d: %w", x.Channel, x.Audience, x.EventID, err)
	}
	return errors.Join(err, n.o.Store.PutNotice(ctx, *x))
}

// send writes the report and hands it over.
func (n *Notifier) send(ctx context.Context, x *store.Notice) (detail string, err error) {
	s := n.o.Settings()
	r, err := n.write(ctx, x, &s)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	switch x.Channel {
	case channelWebhook:
		return n.post(ctx, r, &s)
	case channelSyslog:
		return "", writeSyslog(r)
	}
	return n.mailOut(ctx, x, r, &s)
}

// mailOut sends the letters of one notice. Each reader gets one of his own.
func (n *Notifier) mailOut(ctx context.Context, x *store.Notice, r *report.Report, s *NotifySettings) (string, error) {
	to := s.MailTo
	if a := report.Audience(x.Audience); a != report.Operator {
		customer, reseller := n.o.Contact(x.Account)
		to = []string{customer}
		if a == report.Reseller {
			to = []string{reseller}
		}
	}
	text, err := s.Templates.Text(r, report.Audience(x.Audience))
	if err != nil {
		n.o.Log.Warn("a template of a report could not be used, the built-in text was", "err", err)
	}
	var errs []error
	for _, one := range to {
		if one == "" {
			continue
		}
		if !strings.Contains(one, "@") {
			one += "@" + n.o.Host
		}
		message, err := report.Mail(r, text, s.from(n.o.Host), one)
		if err == nil {
			err = n.mail(ctx, s.SMTP, s.from(n.o.Host), one, message)
		}
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		return "", leftAlone{"there is nobody to write to any more"}
	}
	return strings.Join(to, ", "), errors.Join(errs...)
}

func (s *NotifySettings) from(host string) string {
	if s.MailFrom != "" {
		return s.MailFrom
	}
	return "osm@" + host
}

// write makes the report of a notice, with what the reader may see.
func (n *Notifier) write(ctx context.Context, x *store.Notice, s *NotifySettings) (*report.Report, error) {
	f, err := n.facts(ctx, x.EventID, x.Audience)
	if err != nil {
		return nil, err
	}
	if s.Page != "" {
		f.Page = fmt.Sprintf("%s/web/events/%d", strings.TrimSuffix(s.Page, "/"), x.EventID)
	}
	if x.Digest {
		f.Kind = report.Digest
		if f.Since, err = n.o.Store.NoticeBefore(ctx, x); err != nil {
			return nil, err
		}
	}
	also, _, err := n.o.Store.Events(ctx, store.EventFilter{Since: f.Since, Account: x.Account, OpenOnly: f.Since.IsZero(), Limit: 20})
	if err != nil {
		return nil, err
	}
	f.Also = also
	return report.New(f), nil
}

func (n *Notifier) facts(ctx context.Context, event int64, audience string) (f report.Facts, err error) {
	e, err := n.o.Store.Event(ctx, event)
	if errors.Is(err, store.ErrNotFound) {
		return f, leftAlone{"the event is not kept any more"}
	}
	if err != nil {
		return f, err
	}
	f = report.Facts{Event: e, Kind: report.First, Now: n.o.Now().Wall, Host: n.o.Host, Version: n.o.Version}
	switch report.Audience(audience) {
	case report.Customer:
		f.Accounts = []string{e.Account}
	case report.Reseller:
		f.Accounts = []string{e.Account}
		if n.o.ResellerOf != nil {
			f.Accounts = append(f.Accounts, n.o.ResellerOf(e.Account)...)
		}
	}
	return f, nil
}

// Document writes the report of an event for a program.
func (n *Notifier) Document(ctx context.Context, event int64, format report.Format) ([]byte, error) {
	f, err := n.facts(ctx, event, string(report.Operator))
	if err != nil {
		return nil, err
	}
	return report.New(f).Encode(format)
}
