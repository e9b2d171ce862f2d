// Package panel reads whose account a user, domain or address is: from the hosting
// panel's own files, or from passwd and the configuration where there is no panel.
//
// It reads files and hands a [policy.AccountMap] to whoever judges; it never asks the
// panel's programs and never writes. Files are reread whole when they change. A file
// that is broken or half written keeps its previous content, and [Watcher.Status] says
// which line was wrong.
//
// What only root may read is read from the copies that the inspector exports.
package panel

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"osm/policy"
)

// The panels.
const (
	CPanel      = "cpanel"
	DirectAdmin = "directadmin"
	Passwd      = "passwd" // no panel
)

const (
	defaultMinUID = 1000
	pollInterval  = 2 * time.Second
	// rebuildShare bounds the time spent on building maps: a map that took a second is
	// not built anew within the next twenty.
	rebuildShare = 20
)

// Options says where accounts come from.
type Options struct {
	Root        string            // before every path, for tests; "" = the host's own
	Maps        string            // folder of the copies of what only root may read; "" = none
	Source      string            // CPanel, DirectAdmin or Passwd; "" or "auto" = what is there
	Domains     map[string]string // domain → user, from the configuration; wins over the panel's
	Contacts    map[string]string // user → e-mail address, from the configuration; wins over the panel's
	SharedUsers []string          // users under which the web server runs many accounts' scripts
	MinUID      uint32            // users of passwd from here on are accounts; 0 = 1000
	EximUser    string            // Exim's run-time user; "" = the usual ones
	Now         func() time.Time
	Tick        <-chan time.Time // when to look for changes; nil = every 2 s
	Log         *slog.Logger
}

// Status is what the watcher knows of its files.
type Status struct {
	Panel    string
	Accounts int
	Domains  int
	LoadedAt time.Time // when the present map was built
	// CheckedAt is when all files were last found whole or unchanged: behind the
	// present by more than some seconds, something is wrong with one of them.
	CheckedAt time.Time
	Files     []FileStatus
}

// FileStatus is one file's part of a [Status].
type FileStatus struct {
	Path    string    // as asked for
	From    string    // the copy it was read from, if not Path itself
	ReadAt  time.Time // zero = never
	Entries int
	Err     string // why its present content is not in use; "" if it is
}

// Watcher keeps an account map that is as new as the files. It is safe for
// concurrent use.
type Watcher struct {
	opt     Options
	current atomic.Pointer[policy.AccountMap]

	mu          sync.Mutex // guards the rest; held while files are read, never by Map
	panel       string
	files       []*file
	tables      tables
	loadedAt    time.Time
	checkedAt   time.Time
	accounts    int
	stale       bool // something was read that is not in the map yet
	nextRebuild time.Time

	status atomic.Pointer[Status]
}

// New reads all files once and returns a watcher whose map is ready for use. What
// could not be read is in [Watcher.Status].
func New(o Options) *Watcher {
	if o.MinUID == 0 {
		o.MinUID = defaultMinUID
	}
	w := &Watcher{opt: o}
	w.reload()
	return w
}

// Map returns the present map; never nil.
func (w *Watcher) Map() *policy.AccountMap { return w.current.Load() }

// Status returns what is known of the files.
func (w *Watcher) Status() Status {
	s := *w.status.Load()
	s.Files = slices.Clone(s.Files)
	return s
}

// Run looks for changed files until ctx ends.
func (w *Watcher) Run(ctx context.Context) error {
	tick := w.opt.Tick
	if tick == nil {
		t := time.NewTicker(pollInterval)
		defer t.Stop()
		tick = t.C
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick:
			w.reload()
		}
	}
}

// Reload looks for changed files now, as "config reload" does.
func (w *Watcher) Reload() { w.reload() }

func (w *Watcher) reload() {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.opt.Now()
	if panel := w.detect(); panel != w.panel {
		w.panel, w.tables, w.stale = panel, tables{}, true
		w.files = filesOf(panel, w.opt.Root, w.opt.Maps)
	}
	for _, f := range w.files {
		if f.refresh(&w.tables, now) {
			w.stale = true
		}
		w.report(f)
	}
	if w.stale && !now.Before(w.nextRebuild) {
		w.rebuild(now)
	}
	w.publish(now)
}

// detect says which panel is there. A panel once found stays: its files may be
// missing for a moment while they are replaced, and its accounts must not turn into
// other ones meanwhile.
func (w *Watcher) detect() string {
	if w.panel == CPanel || w.panel == DirectAdmin {
		return w.panel
	}
	switch w.opt.Source {
	case CPanel, DirectAdmin, Passwd:
		return w.opt.Source
	}
	switch {
	case w.exists("/usr/local/cpanel/version"), w.exists("/etc/userdomains"):
		return CPanel
	case w.exists("/etc/virtual/domainowners"):
		return DirectAdmin
	}
	return Passwd
}

func (w *Watcher) exists(path string) bool {
	_, err := os.Stat(filepath.Join(w.opt.Root, path))
	return err == nil
}

// rebuild makes a map of what was read last.
func (w *Watcher) rebuild(now time.Time) {
	t := &w.tables
	accounts := t.accounts(&w.opt)
	m := policy.NewAccountMap(policy.AccountMapInput{
		Accounts: accounts, SubUIDs: t.namedSubUIDs(), Domains: t.allDomains(w.opt.Domains), SharedUsers: w.opt.SharedUsers,
		RecentAuth: t.recent, AlwaysRelay: t.relay,
		EximUID: t.eximUID(w.opt.EximUser, w.panel), LoadedAt: now, Panel: w.panel,
	})
	w.current.Store(m)
	w.accounts = 0
	for _, a := range accounts {
		if !a.System {
			w.accounts++
		}
	}
	w.loadedAt, w.stale = now, false
	w.nextRebuild = now.Add(rebuildShare * w.opt.Now().Sub(now))
}

func (w *Watcher) publish(now time.Time) {
	s := &Status{Panel: w.panel, Accounts: w.accounts, Domains: w.Map().Domains(), LoadedAt: w.loadedAt}
	good := true
	for _, f := range w.files {
		s.Files = append(s.Files, f.status)
		good = good && f.status.Err == ""
	}
	if good {
		w.checkedAt = now
	}
	s.CheckedAt = w.checkedAt
	w.status.Store(s)
}

// report logs once what is wrong with a file, and once that it is well again.
func (w *Watcher) report(f *file) {
	switch {
	case f.status.Err == f.reported:
	case f.status.Err != "":
		w.opt.Log.Warn("account file not in use as it is", "path", f.status.Path, "err", f.status.Err)
	default:
		w.opt.Log.Info("account file in use again", "path", f.status.Path)
	}
	f.reported = f.status.Err
}
