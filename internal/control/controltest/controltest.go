// Package controltest runs the daemon's side of the control API for tests: a real
// engine, a real store in a temporary folder, and the real service on a real unix
// socket, with a clock that only moves when a test moves it. It is imported by tests
// alone.
package controltest

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"osm/counters"
	"osm/internal/config"
	"osm/internal/control"
	"osm/policy"
	store "osm/sql"
)

// Daemon is what a test talks to.
type Daemon struct {
	Socket  string
	Service *control.Service
	Engine  *policy.Engine
	Store   *store.Store
	Dir     string

	t         testing.TB
	tracker   *policy.Tracker
	nextID    int64
	stopStore func()

	mu       sync.Mutex // guards what follows
	now      policy.Moment
	cfg      config.Config // as the file says
	inForce  config.Config
	state    control.State
	nextMail int
	accounts *policy.AccountMap
	kicked   int
	released []policy.Hold
}

// Start is when the clock of every test stands at the beginning.
func Start() time.Time { return time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC) }

// New starts a daemon with the settings in text, an osm.toml.
func New(t testing.TB, text string) *Daemon {
	t.Helper()
	return NewWithPage(t, text, nil)
}

// NewWithPage starts a daemon that serves a page too; page may be nil.
func NewWithPage(t testing.TB, text string, page func(*control.Service) http.Handler) *Daemon {
	t.Helper()
	d := &Daemon{t: t, Dir: t.TempDir(), accounts: Accounts(), now: policy.Moment{Wall: Start(), Boot: policy.BootShift}}
	d.cfg = d.parse(text)
	d.inForce = d.cfg
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	var err error
	d.Store, err = store.Open(t.Context(), store.Options{Path: filepath.Join(d.Dir, "osm.db"), Log: log, Now: func() time.Time { return d.Clock().Wall }, BootID: "test"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		running.Wait()
		if err := d.Store.Close(); err != nil {
			t.Error(err)
		}
	})
	storing, stop := context.WithCancel(ctx)
	stored := make(chan struct{})
	d.stopStore = func() { stop(); <-stored }
	running.Go(func() {
		defer close(stored)
		if err := d.Store.Run(storing); err != nil {
			t.Error(err)
		}
	})
	d.Engine = policy.NewEngine(counters.New(counters.Options{Shards: 1}), d.cfg.Rules())
	d.Engine.SetRefKey(d.Store.RefKey())
	d.tracker = policy.NewTracker(func() int64 { d.nextID++; return d.nextID }, 0)
	d.Service, err = control.NewService(control.Options{
		Version: "1.0", StartedAt: Start().Add(-time.Hour), Engine: d.Engine, Store: d.Store, Clock: d.Clock, Log: log, Zone: time.UTC,
		Accounts: func() *policy.AccountMap { d.mu.Lock(); defer d.mu.Unlock(); return d.accounts }, Config: d.config, State: func() control.State { d.mu.Lock(); defer d.mu.Unlock(); return d.state },
		Reload: d.reload, Changed: d.changed, Kick: func() { d.mu.Lock(); defer d.mu.Unlock(); d.kicked++ },
		Released: func(h policy.Hold) { d.mu.Lock(); defer d.mu.Unlock(); d.released = append(d.released, h) },
		WasReset: func(trigger, key string) { d.tracker.End(trigger, key) },
	})
	if err != nil {
		t.Fatal(err)
	}
	d.Socket = filepath.Join(d.Dir, "control.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: d.Socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	var web http.Handler
	if page != nil {
		web = page(d.Service)
	}
	running.Go(func() {
		if err := control.Serve(ctx, l, d.Service, log, web); err != nil {
			t.Error(err)
		}
	})
	return d
}

// LoseStore ends the daemon's database, which does not come back: nothing can be read or
// written any more.
func (d *Daemon) LoseStore() {
	d.t.Helper()
	d.stopStore()
	if err := d.Store.Close(); err != nil {
		d.t.Fatal(err)
	}
}

func (d *Daemon) parse(text string) config.Config {
	d.t.Helper()
	cfg, err := config.Parse([]byte(text), "/etc/osm/osm.toml", time.UTC)
	if err != nil {
		d.t.Fatalf("the test's settings: %v", err)
	}
	return cfg
}

// Accounts is a panel with two resellers: bob has shop and news, carol has blog.
func Accounts() *policy.AccountMap {
	return policy.NewAccountMap(policy.AccountMapInput{
		Accounts: []policy.Account{
			{Name: "shop", Home: "/home/shop", Reseller: "bob", Package: "gold", UID: 1001, MainDomain: "shop.example"},
			{Name: "news", Home: "/home/news", Reseller: "bob", Package: "gold", UID: 1002, MainDomain: "news.example"},
			{Name: "blog", Home: "/home/blog", Reseller: "carol", Package: "silver", UID: 1003, MainDomain: "blog.example"},
		},
		Domains:  map[string]string{"shop.example": "shop", "news.example": "news", "blog.example": "blog"},
		LoadedAt: Start().Add(-time.Minute), Panel: "passwd",
	})
}

// Clock is the test's time.
func (d *Daemon) Clock() policy.Moment {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.now
}

// Advance lets time pass.
func (d *Daemon) Advance(by time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.now = d.now.Add(by)
}

// SetState says what the daemon tells of itself.
func (d *Daemon) SetState(s control.State) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.state = s
}

// SetAccounts puts another panel in the place of [Accounts].
func (d *Daemon) SetAccounts(m *policy.AccountMap) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.accounts = m
}

// SetConfig changes what the next reload reads.
func (d *Daemon) SetConfig(text string) {
	cfg := d.parse(text)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cfg = cfg
}

// Kicked is how often the register of held mail was told that something can be done.
func (d *Daemon) Kicked() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.kicked
}

// Released are the holds that were ended.
func (d *Daemon) Released() []policy.Hold {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]policy.Hold(nil), d.released...)
}

func (d *Daemon) config() config.Config {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.inForce
}

func (d *Daemon) reload(ctx context.Context) (string, error) { return "", d.changed(ctx) }

// changed makes the rules of configuration and database.
func (d *Daemon) changed(ctx context.Context) error {
	stored, err := d.Store.Settings(ctx)
	if err != nil {
		return err
	}
	d.mu.Lock()
	cfg, wrong := d.cfg.With(control.StoredSettings(stored))
	d.inForce = cfg
	d.mu.Unlock()
	if len(wrong) > 0 {
		return wrong
	}
	rules := cfg.Rules()
	overrides, err := d.Store.Overrides(ctx)
	if err != nil {
		return err
	}
	exemptions, err := d.Store.Exemptions(ctx)
	if err != nil {
		return err
	}
	if rules.Holds, err = d.Store.Holds(ctx); err != nil {
		return err
	}
	rules.Overrides = append(rules.Overrides, overrides...)
	for _, e := range exemptions {
		rules.Exemptions = append(rules.Exemptions, e.Exemption)
	}
	d.Engine.SetRules(rules)
	return nil
}

// Mail is one message of a test.
type Mail struct {
	Account, Mailbox, Directory, Subject, Sender, IP string
	Recipients                                       int // 0 = 1
}

// Send lets the engine decide about a message as the daemon does, and records it.
func (d *Daemon) Send(m Mail) *policy.Decision {
	d.t.Helper()
	id := policy.Identity{Account: m.Account, Mailbox: m.Mailbox, Source: policy.SourceScript, Basis: "uid 1001 called sendmail", Directory: m.Directory, DirectoryAccount: m.Account}
	if a, ok := Accounts().ByName(m.Account); ok {
		id.Reseller, id.Package = a.Reseller, a.Package
	}
	now := d.Clock()
	d.mu.Lock()
	d.nextMail++
	n := d.nextMail
	d.mu.Unlock()
	s := &policy.Submission{MessageID: messageID(now.Wall, n), CallerUID: 1001, Size: 2300, Recipients: max(m.Recipients, 1), EnvelopeSender: m.Sender,
		Subject: m.Subject, WorkingDirectory: m.Directory, RecipientList: "someone@elsewhere.example"}
	if m.IP != "" {
		id.Source, id.IPClass, id.Basis = policy.SourceLogin, policy.IPLogin, "logged in as "+m.Mailbox
		id.ClientIP = netip.MustParseAddr(m.IP)
		s.ClientIP = id.ClientIP
	}
	dec := d.Engine.Check(now, s, id)
	d.record(dec)
	return dec
}

// record stores a decision and shows it to those who follow.
func (d *Daemon) record(dec *policy.Decision) {
	d.t.Helper()
	if !d.Store.Append(dec) {
		d.t.Fatal("the store had no room")
	}
	for _, c := range d.tracker.Add(dec) {
		if !d.Store.AppendEvent(c.Event, dec.Seq) {
			d.t.Fatal("the store had no room for an event")
		}
	}
	d.Service.Publish(dec)
}

// Conn is one connection of a test that bypasses Exim.
type Conn struct {
	Account, Directory, Remote string // Remote "" = 198.51.100.7:25
	UID                        uint32 // 0 = not known
	Argument                   string // one more of its process
	Over                       bool   // say that it is over the shipped trigger of 30 an hour, which only observes
}

// Connect records a connection as the daemon does.
func (d *Daemon) Connect(c Conn) *policy.Decision {
	d.t.Helper()
	if c.Remote == "" {
		c.Remote = "198.51.100.7:25"
	}
	at := &policy.Connection{Seen: "packet", Local: netip.MustParseAddrPort("192.0.2.1:40001"), Remote: netip.MustParseAddrPort(c.Remote), UID: c.UID, UIDKnown: c.UID != 0,
		Outcome: policy.OutcomeEstablished, Basis: "socket diagnosis", Cgroup: "/user.slice", Chain: []policy.Process{
			{PID: 700, UID: c.UID, Executable: "/usr/bin/php", WorkingDirectory: c.Directory, Args: []string{"php", "mailer.php"}, Started: 4711},
			{PID: 1, Executable: "/usr/lib/systemd/systemd", WorkingDirectory: "/", Args: []string{"systemd", "--secret"}},
		}}
	if c.Argument != "" {
		at.Chain[0].Args = append(at.Chain[0].Args, c.Argument)
	}
	id := policy.Identity{Account: c.Account, Source: policy.SourceDirect, Basis: "the socket is owned by uid 1001", Directory: c.Directory, DirectoryAccount: c.Account}
	if a, ok := Accounts().ByName(c.Account); ok {
		id.Reseller, id.Package = a.Reseller, a.Package
	}
	dec := d.Engine.Check(d.Clock(), &policy.Submission{CallerUID: -1, Direct: at}, id)
	if c.Over {
		dec.Reason = policy.ReasonOver
		dec.Over = []policy.Over{{Trigger: "direct-hour", Watch: policy.WatchDirect, Key: c.Account, Account: c.Account, Mode: policy.Observe, Verdict: policy.Accept,
			Max: 30, Per: time.Hour, Count: policy.Connections, Used: 30, Units: 1, FreeAt: d.Clock().Wall.Add(20 * time.Minute)}}
	}
	d.record(dec)
	return dec
}

// Flush waits until everything that was sent is stored.
func (d *Daemon) Flush() {
	d.t.Helper()
	if err := d.Store.Flush(d.t.Context()); err != nil {
		d.t.Fatal(err)
	}
}

// messageID makes an id as Exim does: the seconds in base 62, then a number.
func messageID(at time.Time, n int) string {
	const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	b := make([]byte, 6)
	for i, s := 5, at.Unix(); i >= 0; i, s = i-1, s/62 {
		b[i] = digits[s%62]
	}
	return fmt.Sprintf("%s-%06d-00", b, n)
}
