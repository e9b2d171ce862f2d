package control

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"osm/actions"
	"osm/internal/config"
	"osm/policy"
	store "osm/sql"
)

// Options are what the operations work on.
type Options struct {
	Version   string
	StartedAt time.Time
	Engine    *policy.Engine
	Store     *store.Store
	Executor  *actions.Executor // nil: held mail has no headers to show, and doctor says so
	Clock     func() policy.Moment
	Log       *slog.Logger
	Accounts  func() *policy.AccountMap
	Config    func() config.Config // what is in force: the file's with the database's settings, without its limits
	State     func() State         // what only the daemon knows
	Metrics   http.Handler         // nil: no figures
	Zone      *time.Location       // of the times in sentences for people; nil = the server's own

	// Reload reads the file again; what is wrong with it is a [config.Mistakes], and the
	// settings in force stay. The text says what changes only at the next start.
	Reload func(ctx context.Context) (text string, err error)
	// Changed makes the rules again of configuration and database, after a change there.
	Changed func(ctx context.Context) error
	// Released is told of a hold that an operator ended; it must not be put again at once.
	Released func(policy.Hold)
	// WasReset is told of a counter that an operator reset: its event ends.
	WasReset func(trigger, key string)
	// Kick tells the register of held mail that something can be done.
	Kick func()
	// Reread reads the panel's lists of accounts and domains again; nil: they are watched
	// and no more.
	Reread func(ctx context.Context) error
	// Undo takes back what an action did at the panel, the firewall or in a home.
	Undo func(ctx context.Context, action int64, by string) (store.Action, error)
	// Doctor adds checks that only the daemon can make.
	Doctor func(ctx context.Context) []Check
}

// State is what only the daemon knows of itself.
type State struct {
	ConfigLoadedAt time.Time
	ConfigError    string // of the last reload
	Exim           Part
	Monitor        Monitor
	Inspect        Part
	Executor       Part
	Accounts       Part // of the panel's maps
	Checks         uint64
	Shed           uint64
	Unchecked      uint64
	Alarms         []Alarm
}

// Service is every operation of the control API as a method, the actor first. What an
// actor may see and change is decided here and nowhere else.
type Service struct {
	o       Options
	tails   tails
	dir     atomic.Pointer[directory]
	nearest nearCache
	links   loginLinks
	rehears chan struct{} // holds the one preview that runs
	undoing sync.Mutex    // one change is taken back at a time
}

// NewService returns the operations. Engine, Store, Clock, Log, Accounts, Config and
// Changed must be set.
func NewService(o Options) (*Service, error) {
	if o.Engine == nil || o.Store == nil || o.Clock == nil || o.Log == nil || o.Accounts == nil || o.Config == nil || o.Changed == nil {
		return nil, errors.New("control options: Engine, Store, Clock, Log, Accounts, Config and Changed must be set")
	}
	if o.State == nil {
		o.State = func() State { return State{} }
	}
	if o.Zone == nil {
		o.Zone = time.Local
	}
	if o.Released == nil {
		o.Released = func(policy.Hold) {}
	}
	if o.WasReset == nil {
		o.WasReset = func(string, string) {}
	}
	if o.Kick == nil {
		o.Kick = func() {}
	}
	o.Log = o.Log.With("component", "control")
	return &Service{o: o, rehears: make(chan struct{}, 1)}, nil
}

// operatorOnly refuses everybody else.
func operatorOnly(a Actor, what string) error {
	if a.Role == Operator {
		return nil
	}
	return forbidden("only an operator may %s", what)
}

// visible reports whether the actor may see what belongs to an account.
func (s *Service) visible(a Actor, account string) bool {
	if a.Role == Operator {
		return true
	}
	owner, ok := s.o.Accounts().ByName(account)
	return a.Role == Reseller && a.Reseller != "" && ok && !owner.System && owner.Reseller == a.Reseller
}

// mayAccount refuses an account that the actor may not see, in the words that tell that
// there is none: whoever asks must not learn which names exist.
func (s *Service) mayAccount(a Actor, account string) error {
	if s.visible(a, account) {
		return nil
	}
	return noAccount(account)
}

func noAccount(name string) error {
	return notFound("osmctl accounts lists them", "there is no account %.80q", name)
}

// ownerOfDomain and ownerOfPath are the panel's word on whose something is, as far as the
// actor may know it.
func (s *Service) ownerOfDomain(a Actor, domain string) (policy.Account, bool) {
	owner, ok := s.o.Accounts().ByDomain(domain)
	if !ok || !s.visible(a, owner.Name) {
		return policy.Account{}, false
	}
	return owner, true
}

func (s *Service) ownerOfPath(a Actor, clean string) (policy.Account, bool) {
	owner, ok := s.o.Accounts().ByPath(clean)
	if !ok || !s.visible(a, owner.Name) {
		return policy.Account{}, false
	}
	return owner, true
}

// found makes an error of the store fit for the API.
func found(err error, hint, format string, args ...any) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, store.ErrNotFound):
		return notFound(hint, format, args...)
	case errors.Is(err, store.ErrUnavailable), errors.Is(err, store.ErrClosed):
		return unavailable("mail is decided from memory meanwhile; see osmctl status", "%v", err)
	case errors.Is(err, context.DeadlineExceeded):
		return unavailable("ask for less: a shorter time, or one account", "reading took too long")
	}
	return err
}
