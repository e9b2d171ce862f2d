package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"osm/policy"
)

// Decision is a stored decision, as JSON shows it.
type Decision struct {
	Ref              string `json:"ref"`
	At               Time   `json:"at"`
	MessageID        string `json:"message_id"`
	Source           string `json:"source"`
	Account          string `json:"account"`
	Mailbox          string `json:"mailbox"`
	Basis            string `json:"basis"`
	ClientIP         string `json:"client_ip"`
	WorkingDirectory string `json:"working_directory"`
	Script           string `json:"script"`
	EnvelopeSender   string `json:"envelope_sender"`
	Subject          string `json:"subject"`
	Recipients       int64  `json:"recipients"`
	Size             int64  `json:"size"`
	Verdict          string `json:"verdict"`
	Would            string `json:"would"`
	Reason           string `json:"reason"`
	Trigger          string `json:"trigger"`
	Unchecked        bool   `json:"unchecked,omitempty"`
	Over             []Over `json:"over,omitempty"` // only of one decision, not in lists

	Seq        uint64 `json:"-"`
	SubKey     string `json:"-"`
	SubjectKey string `json:"-"`
	Counted    bool   `json:"-"`
	Claimed    bool   `json:"-"`
	HoldID     int64  `json:"-"` // the hold that stopped it, 0 if none
	EventID    int64  `json:"-"` // the event that put that hold
}

const decisionColumns = `seq, at, account, flags, verdict, would, recipients, size, message_id, client_ip, mailbox, basis, directory,
	script, sub_key, envelope_sender, subject, subject_key, trigger, hold, event, over`

// decision reads a row of decisionColumns.
func (c *cursor) decision(ctx context.Context, v []value, key *[16]byte) (d Decision, err error) {
	flags := integer(v[3])
	d = Decision{
		Seq: uint64(integer(v[0])), At: Time{moment(integer(v[1]))}, Source: sourceOf(flags).String(),
		Verdict: policy.Verdict(integer(v[4])).String(), Would: policy.Verdict(integer(v[5])).String(), Reason: reasonOf(flags).String(),
		Recipients: integer(v[6]), Size: integer(v[7]), MessageID: str(v[8]), Unchecked: reasonOf(flags).Unchecked(),
		Counted: flags&flagCounted != 0, Claimed: flags&flagClaimed != 0, HoldID: integer(v[19]), EventID: integer(v[20]),
	}
	d.Ref = policy.RefOf(d.Seq, *key)
	if ip := addressOf(v[9]); ip.IsValid() {
		d.ClientIP = ip.String()
	}
	if d.Account, err = c.account(ctx, v[2]); err != nil {
		return d, err
	}
	for i, to := range [...]*string{&d.Mailbox, &d.Basis, &d.WorkingDirectory, &d.Script, &d.SubKey, &d.EnvelopeSender, &d.Subject, &d.SubjectKey, &d.Trigger} {
		if *to, err = c.text(ctx, v[10+i]); err != nil {
			return d, err
		}
	}
	if over := str(v[21]); over != "" {
		if err := json.Unmarshal([]byte(over), &d.Over); err != nil {
			return d, fmt.Errorf("read the triggers of decision %s: %w", d.Ref, err)
		}
	}
	return d, nil
}

// DecisionBySeq finds a decision by its number, also one that is too old to be kept but
// that an event or the register of held mail still names. The error is [ErrNotFound] if
// there is none, or not yet: it may still wait to be written.
func (s *Store) DecisionBySeq(ctx context.Context, seq uint64) (d Decision, err error) {
	err = s.read(ctx, "find decision", func(ctx context.Context, c *cursor) error {
		return c.firstOf(ctx, decisionSources, "seq = ?", []value{int64(seq)}, func(v []value) (err error) {
			d, err = c.decision(ctx, v, s.refKey.Load())
			return err
		})
	})
	return d, err
}

// decisionSources are where a decision may stand, the best first. What the register knows
// of a held message lacks the grounds, the script and the triggers: it is for a message
// whose decision was lost, in a crash or with a damaged database.
var decisionSources = []string{
	"SELECT " + decisionColumns + " FROM decisions",
	"SELECT " + decisionColumns + " FROM kept",
	`SELECT seq, held_at, account, flags, ` + frozenVerdict + `, 0, recipients, size, message_id, client_ip, mailbox, NULL, directory,
		NULL, sub_key, envelope_sender, subject, subject_key, trigger, hold, NULL, NULL FROM held`,
}

const frozenVerdict = "1" // policy.Freeze, as it is stored

// firstOf reads the first row that one of the sources has.
func (c *cursor) firstOf(ctx context.Context, sources []string, where string, args []value, fn func(v []value) error) error {
	for _, source := range sources {
		if err := c.one(ctx, source+" WHERE "+where+" LIMIT 1", args, fn); !errors.Is(err, ErrNotFound) {
			return err
		}
	}
	return ErrNotFound
}

// Decided finds a decision as it was made: with everything that its message counts for
// when it leaves the queue. Its boot time, its triggers and its recipients are not known.
func (s *Store) Decided(ctx context.Context, seq uint64) (d policy.Decision, err error) {
	const more = ", directory_account FROM "
	sources := []string{"SELECT " + decisionColumns + more + "decisions", "SELECT " + decisionColumns + more + "kept"}
	err = s.read(ctx, "find decision", func(ctx context.Context, c *cursor) error {
		return c.firstOf(ctx, sources, "seq = ?", []value{int64(seq)}, func(v []value) (err error) {
			d, err = c.decided(ctx, v, s.refKey.Load())
			return err
		})
	})
	return d, err
}

// decided reads a row of decisionColumns and directory_account.
func (c *cursor) decided(ctx context.Context, v []value, key *[16]byte) (policy.Decision, error) {
	v[21] = nil // the triggers
	of, err := c.decision(ctx, v, key)
	if err != nil {
		return policy.Decision{}, err
	}
	flags := integer(v[3])
	d := policy.Decision{
		Seq: of.Seq, Ref: of.Ref, At: policy.Moment{Wall: of.At.Time}, Verdict: policy.Verdict(integer(v[4])), Reason: reasonOf(flags),
		Trigger: of.Trigger, HoldID: of.HoldID, EventID: of.EventID, Release: releaseOf(flags), Counted: of.Counted, SubjectKey: of.SubjectKey,
		Identity: policy.Identity{Account: of.Account, Mailbox: of.Mailbox, Basis: of.Basis, Directory: of.WorkingDirectory, Script: of.Script, SubKey: of.SubKey},
		Submission: &policy.Submission{MessageID: of.MessageID, EnvelopeSender: of.EnvelopeSender, Subject: of.Subject, Recipients: int(of.Recipients),
			Size: of.Size, ClientIP: addressOf(v[9])},
	}
	if d.Identity.DirectoryAccount, err = c.text(ctx, v[22]); err != nil {
		return d, err
	}
	flagged(&d.Identity, flags, addressOf(v[9]))
	return d, nil
}

// DecisionByRef finds a decision by its reference; see [Store.DecisionBySeq].
func (s *Store) DecisionByRef(ctx context.Context, ref string) (Decision, error) {
	seq, ok := policy.SeqOf(ref, s.RefKey())
	if !ok || seq > math.MaxInt64 {
		return Decision{}, fmt.Errorf("find decision %.16q: %w", ref, ErrNotFound)
	}
	return s.DecisionBySeq(ctx, seq)
}

// A message is decided on when all of it was received, which is after the time in its id
// and at most so long after.
const (
	idSlack = 5 * time.Second
	idFor   = 2 * time.Hour
)

// DecisionByMessageID finds the newest decision on an Exim message id, of 16 or 23
// characters, by the time in its first six.
func (s *Store) DecisionByMessageID(ctx context.Context, id string) (d Decision, err error) {
	at, ok := messageTime(id)
	if !ok {
		return d, fmt.Errorf("find message %.32q: %w: that is no message id of Exim", id, ErrNotFound)
	}
	from, to := at.Add(-idSlack), at.Add(idFor)
	err = s.read(ctx, "find message", func(ctx context.Context, c *cursor) error {
		low, high, err := c.seqsOf(ctx, from, to)
		if err != nil {
			return err
		}
		found := func(v []value) (err error) {
			d, err = c.decision(ctx, v, s.refKey.Load())
			return err
		}
		err = c.one(ctx, "SELECT "+decisionColumns+" FROM decisions WHERE seq BETWEEN ? AND ? AND message_id = ? ORDER BY seq LIMIT 1",
			[]value{low, high, id}, found)
		if errors.Is(err, ErrNotFound) { // too old for the table of minutes: the others have an index
			err = c.firstOf(ctx, decisionSources[1:], "message_id = ?", []value{id}, found)
		}
		return err
	})
	return d, err
}

// messageTime reads the time in an Exim message id: "1vN3xQ-000abc-2F", or from 4.97
// "1vN3xQ-000000006Ds-2F0K". Its first six characters are the seconds since 1970 in base 62.
func messageTime(id string) (time.Time, bool) {
	if !(len(id) == 16 && id[6] == '-' && id[13] == '-') && !(len(id) == 23 && id[6] == '-' && id[18] == '-') {
		return time.Time{}, false
	}
	var seconds int64
	for i := 0; i < len(id); i++ {
		var digit byte
		switch c := id[i]; {
		case c >= '0' && c <= '9':
			digit = c - '0'
		case c >= 'A' && c <= 'Z':
			digit = c - 'A' + 10
		case c >= 'a' && c <= 'z':
			digit = c - 'a' + 36
		case c == '-' && (i == 6 || i == len(id)-3 || i == len(id)-5):
			continue
		default:
			return time.Time{}, false
		}
		if i < 6 {
			seconds = seconds*62 + int64(digit)
		}
	}
	return time.Unix(seconds, 0).UTC(), true
}

// seqsOf gives the lowest and the highest number of the decisions of a time: maybe some
// more, none less, even where the wall clock was set.
func (c *cursor) seqsOf(ctx context.Context, from, to time.Time) (low, high int64, err error) {
	low, high = 1, 0
	err = c.each(ctx, "SELECT min(first_seq), max(last_seq) FROM minutes WHERE minute BETWEEN ? AND ?",
		[]value{floorDiv(ms(from), 60_000), floorDiv(ms(to), 60_000)}, func(v []value) error {
			if v[0] != nil {
				low, high = integer(v[0]), integer(v[1])
			}
			return nil
		})
	return low, high, err
}

// floorDiv is the number of the minute or hour that a moment lies in.
func floorDiv(ms, by int64) int64 { return ms / by }
