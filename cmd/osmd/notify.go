package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"osm/actions"
	"osm/internal/evidence"
	"osm/internal/report"
	"osm/policy"
)

// buildNotifier makes what tells people.
func (d *daemon) buildNotifier() {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "localhost"
	}
	t := &letters{d: d}
	d.notifier = actions.NewNotifier(actions.NotifierOptions{
		Store: d.store, Log: d.log.With("component", "report"), Now: d.clock, Host: host, Version: version,
		Settings: t.settings, Contact: d.contact, ResellerOf: d.accountsOfReseller,
		Alarm: func(text string) { d.alarms.set("report", text) },
	})
}

// letters reads what the reports are made with; the files may change at any time.
type letters struct {
	d         *daemon
	mu        sync.Mutex // guards what follows
	dir       string
	at        time.Time
	templates *report.Templates
}

// templatesFor is how long templates are used before they are read again.
const templatesFor = time.Minute

func (t *letters) settings() actions.NotifySettings {
	cfg := t.d.settings.config().Report
	s := actions.NotifySettings{
		MailTo: cfg.MailTo, MailFrom: cfg.MailFrom, SMTP: cfg.SMTP, ToReseller: cfg.ToReseller, ToCustomer: cfg.ToCustomer, Digest: cfg.Digest,
		Webhook: cfg.Webhook, Syslog: cfg.Syslog, Templates: t.load(cfg.Templates),
	}
	if cfg.WebhookSecretFile != "" {
		secret, err := readSecret(cfg.WebhookSecretFile)
		if err != nil {
			t.d.alarms.raise("report", fmt.Sprintf("report.webhook_secret_file: %v; the webhook is not called without its signature", err))
			s.Webhook = ""
		}
		s.Secret = secret
	}
	return s
}

func (t *letters) load(dir string) *report.Templates {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.d.wall()
	if t.templates != nil && t.dir == dir && now.Sub(t.at).Abs() < templatesFor {
		return t.templates
	}
	got, err := report.LoadTemplates(dir, time.Local)
	if err != nil {
		t.d.log.Warn("templates of reports", "err", err)
	}
	if got != nil {
		t.templates = got
	}
	t.dir, t.at = dir, now
	return t.templates
}

// readSecret reads a short file.
func readSecret(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 4096))
	if b = bytes.TrimSpace(b); err == nil && len(b) == 0 {
		err = fmt.Errorf("%s is empty", path)
	}
	return b, err
}

// contact is where an account's owner and its reseller are written to.
func (d *daemon) contact(account string) (customer, reseller string) {
	m := d.panel.Map()
	a, ok := m.ByName(account)
	if !ok || a.System {
		return "", ""
	}
	if owner, ok := m.ByName(a.Reseller); ok && owner.Name != a.Name && !owner.System {
		reseller = owner.Contact
	}
	return a.Contact, reseller
}

// accountsOfReseller are the accounts that an account's reseller may see.
func (d *daemon) accountsOfReseller(account string) (names []string) {
	m := d.panel.Map()
	a, ok := m.ByName(account)
	if !ok || a.Reseller == "" {
		return nil
	}
	for _, other := range m.Accounts() {
		if other.Reseller == a.Reseller {
			names = append(names, other.Name)
		}
	}
	return names
}

// buildEvidence makes what finds out which web requests send.
func (d *daemon) buildEvidence() error {
	cfg := d.cfg.Evidence
	o := evidence.Options{ApacheKeyFile: cfg.ApacheKeyFile, PoolFiles: evidence.DefaultPoolFiles(), Now: d.clock,
		Owner: func(host string) (string, bool) {
			a, ok := d.panel.Map().ByDomain(host)
			return a.Name, ok
		}}
	if cfg.Apache != "" {
		o.Apache = []string{cfg.Apache}
	}
	for _, p := range cfg.Pools() {
		o.Pools = append(o.Pools, evidence.Pool{Name: p.Name, Address: p.Address, StatusPath: p.StatusPath})
	}
	asker := poolQuestions{named: o.Pools, inspector: d.flow.inspector}
	o.AskPool, o.StillRuns, o.StillOpen = asker.ask, asker.stillRuns, d.flow.stillOpen
	g, err := evidence.New(o)
	if err != nil {
		return fmt.Errorf("[evidence]: %w", err)
	}
	d.witnesses.gather = g.Gather
	return nil
}

// tell is the report action's way to people.
func (d *daemon) tell(ctx context.Context, ev *policy.Event, _ *actions.Step) (string, error) {
	return d.notifier.Tell(ctx, ev)
}

// document writes an event for a program of the operator's.
func (d *daemon) document(ctx context.Context, ev *policy.Event) ([]byte, string, error) {
	format, ok := report.ParseFormat(d.settings.config().Actions.ScriptFormat)
	if !ok {
		format = report.JSON
	}
	text, err := d.notifier.Document(ctx, ev.ID, format)
	return text, string(format), err
}
