package actions

import (
	"fmt"
	"regexp"
	"strings"
	"time"
)

// The executor's verbs.
const (
	verbQueueList    = "queue-list"
	verbQueueHeaders = "queue-headers"
	verbQueueThaw    = "queue-thaw"
	verbQueueDeliver = "queue-deliver"
	verbQueueRemove  = "queue-remove"
	verbEximOptions  = "exim-options"
	verbEximVersion  = "exim-version"
)

// Limits of the wire.
const (
	// MaxBatch is how many message ids one request may name.
	MaxBatch = 200

	maxRequest    = 16 << 10 // its line
	maxAnswerLine = 64 << 10
	maxHeaders    = 32 << 10 // of queue-headers
)

// reMessageID is Exim's message id: 6-6-2 characters up to 4.96, 6-11-4 from 4.97.
var reMessageID = regexp.MustCompile(`^[0-9A-Za-z]{6}-[0-9A-Za-z]{6,11}-[0-9A-Za-z]{2,4}$`)

// ValidMessageID reports whether s has the form of Exim's message id.
func ValidMessageID(s string) bool { return len(s) <= 23 && reMessageID.MatchString(s) }

// request is what a client sends: one line.
type request struct {
	Verb string   `json:"verb"`
	IDs  []string `json:"ids,omitempty"`

	Change *Change `json:"change,omitempty"` // of apply
	Record string  `json:"record,omitempty"` // of undo and check: the id
	Script *Script `json:"script,omitempty"` // of run-script
	Body   int     `json:"body,omitempty"`   // of run-script: so many bytes of report follow the line
}

// answer is one line of what it gets back.
type answer struct {
	Message *QueueMessage     `json:"message,omitempty"`
	Results []Result          `json:"results,omitempty"`
	Text    string            `json:"text,omitempty"`
	Options map[string]string `json:"options,omitempty"`
	Skipped int               `json:"skipped,omitempty"` // spool files that could not be read
	Record  *Record           `json:"record,omitempty"`  // of apply and undo; records: one in each line
	State   *State            `json:"state,omitempty"`   // of check
	Exit    int               `json:"exit,omitempty"`    // of run-script; what it said is in the lines before
	Error   *ExecutorError    `json:"error,omitempty"`
	End     bool              `json:"end,omitempty"`
}

// QueueMessage is one message in Exim's queue that we froze (or that the ACL froze
// because it could not discard it). It is read from the spool's -H file.
type QueueMessage struct {
	MessageID       string    `json:"message_id"`
	Ref             string    `json:"ref"`                   // from our answer in acl_m_osm
	Action          string    `json:"action"`                // of our answer: freeze or discard
	Trigger         string    `json:"trigger,omitempty"`     // that decided, by our answer
	HoldID          int64     `json:"hold_id,omitempty"`     // likewise
	WhenFree        bool      `json:"when_free,omitempty"`   // by our answer it leaves by itself
	Thawed          bool      `json:"thawed,omitempty"`      // by hand or by us: if it is frozen, then by Exim itself
	FrozenSince     time.Time `json:"frozen_since,omitzero"` // zero: it is not frozen any more
	ReceivedAt      time.Time `json:"received_at"`
	Size            int64     `json:"size"`            // bytes of the body's file
	EnvelopeSender  string    `json:"envelope_sender"` // "" is the null sender
	CallerUID       int64     `json:"caller_uid"`
	CallerLogin     string    `json:"caller_login"`
	AuthenticatedID string    `json:"authenticated_id"`        // a login name for local submissions too
	Authenticator   string    `json:"authenticator,omitempty"` // not empty only after SMTP AUTH
	ClientIP        string    `json:"client_ip,omitempty"`     // "" for local submissions
	Recipients      int       `json:"recipients"`              // 0: could not be read
}

// Frozen reports whether Exim keeps the message frozen.
func (m *QueueMessage) Frozen() bool { return !m.FrozenSince.IsZero() }

// Outcome is what became of one message of a request.
type Outcome string

// The outcomes.
const (
	OutcomeDone      Outcome = "done"       // thawed, thawed and on its way, or removed
	OutcomeGone      Outcome = "gone"       // it is not in the queue
	OutcomeNotFrozen Outcome = "not-frozen" // in the queue, but somebody has thawed it: not touched
	OutcomeNotOurs   Outcome = "not-ours"   // we did not freeze it: not touched
	OutcomeFailed    Outcome = "failed"     // Exim did not do it; Detail holds what it said
)

// Result is the outcome for one message.
type Result struct {
	MessageID string  `json:"message_id"`
	Outcome   Outcome `json:"outcome"`
	Detail    string  `json:"detail,omitempty"`
}

// ExecutorError says what was asked of the executor, on what, why it was not done, and
// what a person can do next.
type ExecutorError struct {
	What string `json:"what"`
	On   string `json:"on,omitempty"`
	Why  string `json:"why"`
	Next string `json:"next,omitempty"`
	// Gone is set when the message, or for the list the queue itself, is not there.
	Gone bool `json:"gone,omitempty"`
	// Exim is set when it is Exim that failed: it cannot use its configuration.
	Exim bool `json:"exim,omitempty"`
	// Refused is set when it is never done: the same request will be refused again.
	Refused bool `json:"refused,omitempty"`
	// LeftAlone is set when there is nothing to be done: somebody else did it already, or
	// what it is about is not there.
	LeftAlone bool `json:"left_alone,omitempty"`
	// Braked is set with RetryAfter when an action's hourly rate is used up.
	Braked bool `json:"braked,omitempty"`
	// RetryAfter is set when a brake held the request back: nothing was done, and it
	// may be sent again after this time.
	RetryAfter time.Duration `json:"retry_after,omitempty"`
}

// Error puts the parts into one line.
func (e *ExecutorError) Error() string {
	var b strings.Builder
	b.WriteString("executor: " + e.What)
	if e.On != "" {
		fmt.Fprintf(&b, " on %.200s", e.On)
	}
	fmt.Fprintf(&b, ": %.2000s", e.Why)
	if e.Next != "" {
		b.WriteString("; " + e.Next)
	}
	return b.String()
}
