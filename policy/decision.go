package policy

import "time"

// Reason says why a decision came out as it did; its text is for people.
type Reason uint8

// The reasons.
const (
	ReasonWithin          Reason = iota // within every limit
	ReasonOver                          // a trigger is over
	ReasonLargerThanLimit               // more units than the limit even on an empty window
	ReasonHold                          // a standing hold matches
	ReasonHeldFull                      // the account has too much held mail already
	ReasonExempt                        // passed because of an exemption
	ReasonDisabled                      // checking is switched off
	ReasonSystem                        // the panel's own service mail is not counted
	ReasonNotReady                      // counters were not back yet: accepted unchecked, counted in
	ReasonOverload                      // more connections than the cap: only what is known is stopped
	ReasonMalformed                     // the request could not be understood
	ReasonFault                         // a fault of ours: accepted
	ReasonUnanswered                    // Exim no longer waited for the answer: it passed
)

var reasonNames = [...]string{"within_limits", "over", "larger_than_limit", "hold", "held_full", "exempt", "disabled", "system", "not_ready", "overload", "malformed", "fault", "unanswered"}

func (r Reason) String() string { return name(reasonNames[:], int(r)) }

// ParseReason is the inverse of String.
func ParseReason(s string) (Reason, bool) { i, ok := parse(reasonNames[:], s); return Reason(i), ok }

// Unchecked reports whether the message was let pass without being judged.
func (r Reason) Unchecked() bool {
	return r == ReasonNotReady || r == ReasonOverload || r == ReasonMalformed || r == ReasonFault || r == ReasonUnanswered
}

// Over is one trigger that the message is over, or would be in observe mode.
type Over struct {
	Trigger string
	Watch   Watch
	Key     string // as people write it: "shop", "shop /home/shop/public_html", "shop Invoice #"
	Account string // whose event it is (for a claim: the claimed account)
	Mailbox string
	Mode    Mode // Observe or Enforce
	Verdict Verdict
	Release Release
	Actions []Action
	Max     int64
	Per     time.Duration
	Count   Unit
	Used    int64     // units in the window before this message
	Units   int64     // units of this message
	FreeAt  time.Time // wall time at which it would fit; zero = never (larger than the limit)
	Claimed bool      // the key rests on a claim: no action on an account
}

// Decision is a verdict and everything that led to it.
type Decision struct {
	Seq        uint64 // rises by one per decision, never reused
	Ref        string // short and opaque, made of Seq
	At         Moment
	Verdict    Verdict
	Would      Verdict // what observing triggers would have said; Accept if nothing
	Reason     Reason
	Trigger    string  // the trigger (or the hold's) that decided; "" if none
	HoldID     int64   // the hold that matched
	EventID    int64   // the event that put that hold; 0 = put by hand
	Release    Release // what happens to the message later, if it was frozen
	Over       []Over  // every trigger that is over, observing ones too
	Counted    bool    // it entered the windows
	Near       bool    // a counter is close to its maximum: who sends is worth finding out
	Log        string  // for Exim's log: one printable ASCII line, at most 200 bytes
	Text       string  // for the SMTP client: the same
	Identity   Identity
	Submission *Submission
	SubjectKey string        // the folded Subject
	Took       time.Duration // from accept to answer, set by the front-end
	Steps      []Step        // how it came about; only [Engine.Try] fills it
}

// Usage is one counter of an account, as "osmctl usage" and the API show it.
type Usage struct {
	Trigger string
	Watch   Watch
	Key     string
	Mode    Mode
	Used    int64
	Max     int64
	Per     time.Duration
	Count   Unit
	FreeAt  time.Time // when one more unit passes; zero = now
	Origin  string    // where Max comes from: "default", "file", "account shop (database, by root)"
}

// Event is a trigger that went over for one key. It stays open, and further stopped
// messages add to it, until the sender has been below for a whole period.
type Event struct {
	ID      int64
	At      time.Time // went over
	LastAt  time.Time // last message stopped
	Trigger string
	Watch   Watch
	Key     string
	Account string
	Mailbox string
	Mode    Mode
	Verdict Verdict
	Max     int64
	Per     time.Duration
	Count   Unit
	Used    int64 // in the window when it went over
	Stopped int64 // messages stopped (or that would have been): attempts, a client's retries included
	FreeAt  time.Time
	Claimed bool
	Open    bool
}
