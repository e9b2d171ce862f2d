package policy

import "time"

// Verdict is what is to happen to a message, in Exim's verbs.
type Verdict uint8

// The verdicts. When several triggers are over, the first of deny, freeze, defer,
// discard, accept wins (design section 5): the lossless one before the lossy one.
const (
	Accept Verdict = iota
	Freeze
	Discard
	Defer
	Deny
)

var verdictNames = [...]string{"accept", "freeze", "discard", "defer", "deny"}

func (v Verdict) String() string { return name(verdictNames[:], int(v)) }

// ParseVerdict is the inverse of String.
func ParseVerdict(s string) (Verdict, bool) {
	i, ok := parse(verdictNames[:], s)
	return Verdict(i), ok
}

// Watch is what a trigger counts per.
type Watch uint8

// The watches. The two direct ones count connections that bypass Exim, and nothing else does.
const (
	WatchAccount Watch = iota
	WatchSubject
	WatchScripts
	WatchDirectory
	WatchLogin
	WatchClientIP
	WatchAutomatic
	WatchDirect
	WatchDirectDirectory
)

var watchNames = [...]string{"account", "subject", "scripts", "directory", "login", "client-ip", "automatic", "direct", "direct-directory"}

// Direct reports whether w watches connections that bypass Exim, and no mail.
func (w Watch) Direct() bool { return w == WatchDirect || w == WatchDirectDirectory }

// PerDirectory reports whether w counts an account's directories apart.
func (w Watch) PerDirectory() bool { return w == WatchDirectory || w == WatchDirectDirectory }

func (w Watch) String() string { return name(watchNames[:], int(w)) }

// ParseWatch is the inverse of String.
func ParseWatch(s string) (Watch, bool) { i, ok := parse(watchNames[:], s); return Watch(i), ok }

// Mode says whether a trigger acts.
type Mode uint8

// The modes.
const (
	Off Mode = iota
	Observe
	Enforce
)

var modeNames = [...]string{"off", "observe", "enforce"}

func (m Mode) String() string { return name(modeNames[:], int(m)) }

// ParseMode is the inverse of String.
func ParseMode(s string) (Mode, bool) { i, ok := parse(modeNames[:], s); return Mode(i), ok }

// Release says what happens to mail that a trigger froze (design section 6).
type Release uint8

// The releases.
const (
	Manual Release = iota
	WhenFree
)

var releaseNames = [...]string{"manual", "when-free"}

func (r Release) String() string { return name(releaseNames[:], int(r)) }

// ParseRelease is the inverse of String.
func ParseRelease(s string) (Release, bool) {
	i, ok := parse(releaseNames[:], s)
	return Release(i), ok
}

// Action is one thing that follows when a trigger goes over.
type Action struct {
	Name string
	For  time.Duration // how long it stands; 0 = until it is undone
	// From makes steps of a ladder: the action follows only from that time on that the same
	// sender goes over within [Settings.Again]. 0 and 1 = at once.
	From        int64
	Script      string // of run-script: the name of the entry in executor.toml
	ConfirmLoss bool   // needed for discard
}

// Trigger watches one thing and says what follows when it goes over.
type Trigger struct {
	Name        string // [a-z0-9-], at most 64, unique
	Watch       Watch
	Max         int64         // this many pass in any period of this length; the next is over
	Per         time.Duration // 1s to 31d
	Count       Unit
	Verdict     Verdict
	Release     Release
	Actions     []Action
	Mode        Mode
	ConfirmLoss bool // needed for Verdict Discard
	Provenance  Provenance
}

// Provenance says where a value was set: shown by "config show" and by explain.
type Provenance struct {
	Where  string // "default", "file" or "database"
	By     string // who set it, for the database
	At     time.Time
	Reason string
}

// Level is a depth of inheritance: the deeper one wins.
type Level uint8

// The levels, from the widest to the narrowest.
const (
	LevelServer Level = iota
	LevelReseller
	LevelPackage
	LevelAccount
	LevelMailbox // only for login triggers
)

var levelNames = [...]string{"server", "reseller", "package", "account", "mailbox"}

func (l Level) String() string { return name(levelNames[:], int(l)) }

// ParseLevel is the inverse of String.
func ParseLevel(s string) (Level, bool) { i, ok := parse(levelNames[:], s); return Level(i), ok }

// Override changes fields of one trigger, or of all, for one reseller, package,
// account or mailbox (or the server: only by the database). A nil field is inherited.
// Watch, Per and Count cannot be overridden below the server: a counter has one window.
type Override struct {
	ID         int64 // database row; 0 for the file's
	Level      Level
	Name       string // the reseller, package, account or mailbox; "" at server level
	Trigger    string // "" = all triggers
	Max        *int64
	Per        *time.Duration // server level only
	Verdict    *Verdict
	Release    *Release
	Mode       *Mode
	Actions    *[]Action
	Until      time.Time // zero = for ever; the moment at which it ends
	Provenance Provenance
}

// Scope is what an exemption or a hold matches by.
type Scope uint8

// The scopes. A hold knows mailbox, account, directory and subject only.
const (
	ScopeAccount Scope = iota
	ScopeMailbox
	ScopeDirectory // exact directory of one account
	ScopeSubject   // folded Subject within one account
	ScopeIP
	ScopeRecipientDomain
	ScopeDestination // where connections that bypass Exim may go: a relay service
)

var scopeNames = [...]string{"account", "mailbox", "directory", "subject", "ip", "recipient-domain", "destination"}

func (s Scope) String() string { return name(scopeNames[:], int(s)) }

// ParseScope is the inverse of String.
func ParseScope(s string) (Scope, bool) { i, ok := parse(scopeNames[:], s); return Scope(i), ok }

// Exemption lifts triggers for what it matches up to a ceiling.
type Exemption struct {
	ID      int64
	Scope   Scope
	Account string // needed for directory and subject; "" otherwise allowed
	Value   string // mailbox, directory, subject, IP or CIDR (destination too), domain; the account's name for ScopeAccount
	Trigger string // "" = all
	// Ceiling replaces Max where it is larger; 0 = no limit at all.
	Ceiling    int64
	Until      time.Time // zero = for ever
	Provenance Provenance
}

// Hold is a standing freeze (or discard) of all that matches.
type Hold struct {
	ID         int64
	Scope      Scope // mailbox, account, directory or subject
	Account    string
	Value      string  // mailbox, directory or folded subject; "" for the account
	Verdict    Verdict // Freeze or Discard
	Release    Release // what happens to mail frozen by it once it has ended
	Trigger    string  // the trigger that put it; "" = put by hand
	EventID    int64
	Claimed    bool      // the event rests on a claim: it never makes a wider hold of this one
	Until      time.Time // zero = until released
	Provenance Provenance
}

// Settings are the engine's own knobs.
type Settings struct {
	HeldMaxMessages    int64         // frozen messages an account may have in the queue
	HeldMaxBytes       int64         // their size together
	HeldFullDiscard    bool          // script mail beyond it is discarded, not frozen with an alarm
	HoldGrace          time.Duration // no automatic hold again on what an operator has just released
	NearPercent        int64         // of a maximum, from which on [Decision.Near] is set; 0 = never
	Again              time.Duration // a sender that goes over again within it climbs the ladder of actions
	DistinctPerAccount int           // cap of distinct subjects and of distinct directories an account
}

// Rules is everything that decisions are made by. It is built whole and swapped whole.
type Rules struct {
	Triggers   []Trigger
	Overrides  []Override
	Exemptions []Exemption
	Holds      []Hold
	Settings   Settings
	Disabled   bool // checking is switched off: everything is accepted and only recorded
}
