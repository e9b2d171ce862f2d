// Package config reads what the operator wrote: osm.toml, and executor.toml for the
// part that runs as root.
//
// Loading starts from [Default], decodes the file over it, and reports every mistake
// at once, each with line, key, value and what is allowed; an unknown key is a mistake
// that names the nearest known one. The package never writes a file, never talks to
// the daemon and knows no database: what was set there is merged in by [Config.Effective],
// for "config show" and "config export".
//
// The shipped osm.toml is embedded ([Shipped]) and says in its comments what each key
// does; the manual page osm.toml(5) is made of it, and a test proves that the values it
// shows are the defaults.
package config

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"osm/policy"
)

// Config is a whole configuration.
type Config struct {
	Path       string // the file it was read from; "" for the defaults
	Checking   bool   // false: every message is accepted and only recorded
	Server     Server
	Exim       Exim
	Accounts   Accounts
	Store      Store
	Held       Held
	Actions    Actions
	Report     Report
	Evidence   Evidence
	Direct     Direct
	Limits     Limits
	Log        Log
	Triggers   []policy.Trigger
	Overrides  []policy.Override
	Exemptions []policy.Exemption

	// lines tells on which line of Path a key was set; nil for the defaults.
	lines map[string]int
	// stored are the settings that the database has in place of the file's.
	stored map[string]policy.Provenance
}

// Server is the daemon's own sockets, users and folders.
type Server struct {
	PolicySocket   string // Exim asks here
	ControlSocket  string // osmctl and the page ask here
	InspectSocket  string // the part that looks at processes as root
	ExecutorSocket string // the part that runs the fixed list of verbs as root
	WatchSocket    string // the part that sees connections bypass Exim
	RunDir         string
	User, Group    string // what the daemon runs as
	AdminGroup     string // its members may use the control socket
	MetricsListen  string // loopback address and port for /metrics, "" = control socket only
}

// Exim is the mail server that asks.
type Exim struct {
	User, Group    string // what Exim runs as: only it may ask
	Binary         string
	Spool          string
	Deadline       time.Duration // after this a question is answered with what is known
	MaxConnections int64         // questions at once; more are answered from what is known
}

// Accounts says where the accounts come from.
type Accounts struct {
	Source      string            // auto, cpanel, directadmin or passwd
	SharedUsers []string          // users under which scripts of many accounts run
	MinUID      int64             // lower uids are the system's, not customers'
	Domains     map[string]string // domain to account, besides what the panel tells
	Contacts    map[string]string // account to its owner's e-mail address, in place of the panel's
}

// Store is the database and how long it keeps what.
type Store struct {
	Path                      string
	KeepDecisions, KeepEvents time.Duration
}

// Held bounds the mail that waits frozen in Exim's queue.
type Held struct {
	Keep        time.Duration // older held mail is removed without a bounce
	MaxMessages int64         // per account
	MaxBytes    int64         // per account
	Full        string        // freeze or discard: script mail beyond the two
	ReleaseRate Rate
	Grace       time.Duration // no new automatic hold on what an operator just released
}

// Actions says how actions follow one another.
type Actions struct {
	Again        time.Duration // who goes over again within it climbs the ladder
	ScriptFormat string        // of the report that run-script hands over: json, yaml, xml or perl
	// LiftOnNewPassword: a mailbox's login is let in again when its password was changed.
	LiftOnNewPassword bool
	DryRun            bool // say what would be done, and do nothing but report
}

// Report says who is told when a trigger goes over.
type Report struct {
	MailTo                 []string // operators; none = no mail
	MailFrom               string   // "" = osm@ and the host's name
	ToReseller, ToCustomer bool     // at the contact address of the account
	Digest                 time.Duration
	SMTP                   string // where mail is handed in: a loopback address and port
	Templates              string // texts in this folder are used in place of the built-in ones
	Webhook                string // "" = none
	WebhookSecretFile      string
	Syslog                 bool
}

// Evidence says where it is asked which web request sent.
type Evidence struct {
	Apache        string   // address of the web server, "" = not asked
	ApacheKeyFile string   // holds the secret part of the status page's address
	FPM           []string // "POOL SOCKET STATUS-PATH" of php-fpm's pools, beside those found in its own files
	NearPercent   int64    // of a limit, from which on evidence is gathered
}

// Direct says which connections to mail ports are looked for that bypass Exim.
type Direct struct {
	Source      string   // auto, ebpf, packet, poll or off
	Ports       []int64  // destination ports, TCP
	ExemptUsers []string // whose connections are not looked at, besides Exim's own user
	CountRoot   bool     // root's are counted too
}

// Pool is one of php-fpm's pools.
type Pool struct{ Name, Address, StatusPath string }

// Pools are the pools that the operator named.
func (e *Evidence) Pools() []Pool {
	var out []Pool
	for _, s := range e.FPM {
		if f := strings.Split(s, " "); len(f) == 3 {
			out = append(out, Pool{f[0], f[1], f[2]})
		}
	}
	return out
}

// Limits bounds memory.
type Limits struct {
	DistinctPerAccount int64 // subjects, and directories, that are told apart per account
}

// Log is how the daemon logs.
type Log struct {
	Level, Format string
}

// Default is the configuration of an empty file.
func Default() Config {
	return Config{
		Checking: true,
		Server: Server{
			PolicySocket: "/run/osm/policy.sock", ControlSocket: "/run/osm/control.sock",
			InspectSocket: "/run/osm/inspect.sock", ExecutorSocket: "/run/osm/executor.sock",
			WatchSocket: "/run/osm/watch.sock",
			RunDir:      "/run/osm", User: "osm", Group: "osm", AdminGroup: "osm-admin",
		},
		Exim: Exim{User: "Debian-exim", Group: "Debian-exim", Binary: "/usr/sbin/exim4", Spool: "/var/spool/exim4",
			Deadline: 250 * time.Millisecond, MaxConnections: 2000},
		Accounts: Accounts{Source: "auto", SharedUsers: []string{"nobody", "www-data", "apache"}, MinUID: 1000,
			Domains: map[string]string{}, Contacts: map[string]string{}},
		Store: Store{Path: "/var/lib/osm/osm.db", KeepDecisions: 14 * day, KeepEvents: 400 * day},
		Held: Held{Keep: 30 * day, MaxMessages: 2000, MaxBytes: 500e6, Full: "freeze",
			ReleaseRate: Rate{N: 60, Per: time.Minute}, Grace: 30 * time.Minute},
		Limits:   Limits{DistinctPerAccount: 256},
		Actions:  Actions{Again: 24 * time.Hour, ScriptFormat: "json"},
		Report:   Report{Digest: time.Hour, SMTP: "127.0.0.1:25", Templates: "/etc/osm/templates"},
		Evidence: Evidence{Apache: "http://127.0.0.1:80", NearPercent: 80},
		Direct: Direct{Source: "auto", Ports: []int64{25, 465, 587},
			ExemptUsers: []string{"mail", "mailman", "list", "mailnull", "postfix", "cpanel", "cpaneleximfilter", "cpaneleximscanner"}},
		Log:      Log{Level: "info", Format: "text"},
		Triggers: policy.DefaultTriggers(),
	}
}

// maxFile is more than any configuration needs: a file of ten thousand overrides has
// less than two megabytes.
const maxFile = 8 << 20

// Load reads and checks the file at path. The error is a [Mistakes] unless the file
// could not be read. Dates without a zone are the server's.
func Load(path string) (Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return Config{}, fmt.Errorf("read configuration: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return Config{}, fmt.Errorf("read configuration: %w", err)
	}
	if len(data) > maxFile {
		return Config{}, fmt.Errorf("read configuration %q: larger than %d bytes", path, maxFile)
	}
	return Parse(data, path, time.Local)
}

// Rules is what the engine decides by, as far as the file says. What was set in the
// database is appended by the caller: it is newer and wins within its level.
func (c *Config) Rules() *policy.Rules {
	return &policy.Rules{
		Triggers:   append([]policy.Trigger(nil), c.Triggers...),
		Overrides:  append([]policy.Override(nil), c.Overrides...),
		Exemptions: append([]policy.Exemption(nil), c.Exemptions...),
		Disabled:   !c.Checking,
		Settings: policy.Settings{
			HeldMaxMessages:    c.Held.MaxMessages,
			HeldMaxBytes:       c.Held.MaxBytes,
			HeldFullDiscard:    c.Held.Full == "discard",
			HoldGrace:          c.Held.Grace,
			Again:              c.Actions.Again,
			NearPercent:        c.Evidence.NearPercent,
			DistinctPerAccount: int(c.Limits.DistinctPerAccount),
		},
	}
}

// Origin tells where the value of a key stands: "default", the file's line, or the
// database and who set it there. Keys are written as in a message: "store.path",
// "trigger account-hour: max".
func (c *Config) Origin(key string) string {
	if p, ok := c.stored[key]; ok {
		p.Where = "database"
		return origin("", p)
	}
	if n := c.lines[key]; n > 0 {
		return fmt.Sprintf("file, line %d", n)
	}
	return "default"
}
