package store

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"
	"time"

	"osm/policy"
)

// State is what has become of a held message.
type State uint8

// The states. The first three wait in Exim's queue.
const (
	StateHeld       State = iota
	StateReleasing        // somebody is letting it go; after a crash: look into the queue
	StateDiscarding       // somebody is removing it; likewise
	StateReleased
	StateDiscarded
	StateGone    // not in the queue any more, and not by us
	StateExpired // removed because it was held too long
	stateCount
)

var stateNames = [stateCount]string{"held", "releasing", "discarding", "released", "discarded", "gone", "expired"}

func (s State) String() string {
	if s >= stateCount {
		return "?"
	}
	return stateNames[s]
}

// ParseState is the inverse of String.
func ParseState(name string) (State, bool) {
	for i, n := range stateNames {
		if n == name {
			return State(i), true
		}
	}
	return 0, false
}

// Held is a message that was frozen, as JSON shows it.
type Held struct {
	Ref              string `json:"ref"`
	MessageID        string `json:"message_id"`
	Account          string `json:"account"`
	Mailbox          string `json:"mailbox"`
	EnvelopeSender   string `json:"envelope_sender"`
	Subject          string `json:"subject"`
	WorkingDirectory string `json:"working_directory"`
	Recipients       int64  `json:"recipients"`
	RecipientList    string `json:"recipient_list"` // as far as it was kept
	Size             int64  `json:"size"`
	HeldAt           Time   `json:"held_at"`
	Trigger          string `json:"trigger"`
	Release          string `json:"release"`
	State            string `json:"state"`
	StateAt          Time   `json:"state_at"`
	By               string `json:"by,omitempty"` // who settled it
	Attempts         int64  `json:"attempts,omitempty"`
	LastError        string `json:"last_error,omitempty"`

	Seq        uint64          `json:"-"`
	SubjectKey string          `json:"-"`
	HoldID     int64           `json:"-"`
	Identity   policy.Identity `json:"-"` // what it counts for when it leaves
}

const heldColumns = `seq, message_id, account, mailbox, envelope_sender, subject, subject_key, directory, directory_account, sub_key,
	client_ip, flags, recipients, recipient_list, size, held_at, trigger, hold, release, state, state_at, by, attempts, last_error`

// heldOf reads a row of heldColumns.
func (s *Store) heldOf(v []value) Held {
	h := Held{
		Seq: uint64(integer(v[0])), MessageID: str(v[1]), Account: str(v[2]), Mailbox: str(v[3]), EnvelopeSender: str(v[4]), Subject: str(v[5]),
		SubjectKey: str(v[6]), WorkingDirectory: str(v[7]), Recipients: integer(v[12]), RecipientList: str(v[13]), Size: integer(v[14]),
		HeldAt: Time{moment(integer(v[15]))}, Trigger: str(v[16]), HoldID: integer(v[17]), Release: policy.Release(integer(v[18])).String(),
		State: State(integer(v[19])).String(), StateAt: Time{moment(integer(v[20]))}, By: str(v[21]), Attempts: integer(v[22]), LastError: str(v[23]),
	}
	h.Ref = policy.RefOf(h.Seq, *s.refKey.Load())
	h.Identity = policy.Identity{Account: h.Account, Mailbox: h.Mailbox, Directory: h.WorkingDirectory, DirectoryAccount: str(v[8]), SubKey: str(v[9])}
	flagged(&h.Identity, integer(v[11]), addressOf(v[10]))
	return h
}

// AddHeld enters frozen messages into the register. Decisions that froze a message are
// entered with [Store.Append] already; this is for those that are found in the queue. A
// message that is known stays as it is.
func (s *Store) AddHeld(ctx context.Context, decisions ...*policy.Decision) error {
	return s.do(ctx, "store held message", func(ctx context.Context, tx *sql.Tx) error {
		for _, d := range decisions {
			frozen := *d
			frozen.Verdict = policy.Freeze
			r := pack(&frozen)
			values := heldValues(&r)
			if _, err := tx.ExecContext(ctx, insertHeld, values[:]...); err != nil {
				return err
			}
		}
		return nil
	})
}

// heldValues are the values of insertHeld.
func heldValues(r *row) [21]any {
	return [21]any{
		int64(r.seq), r.text[textMessageID], r.text[textAccount], r.text[textMailbox], r.text[textSender], r.text[textSubject],
		r.text[textSubjectKey], r.text[textDirectory], r.text[textDirectoryAccount], r.text[textSubKey], address(r.ip), r.flags, r.recipients,
		r.text[textRecipients], r.size, r.at, r.text[textTrigger], r.hold, int64(releaseOf(r.flags)), int64(StateHeld), r.at,
	}
}

// HeldFilter says which held messages are wanted; what is left empty does not matter.
type HeldFilter struct {
	Ref       string
	Account   string
	Accounts  []string // of any of these; nil = of everybody
	Mailbox   string
	Directory string
	Subject   string // as people write it, or folded
	Trigger   string
	State     string // "" = waiting in the queue: held, releasing or discarding; "all" = all
	Release   string
	Before    time.Time // held before
	Limit     int
	After     string
}

// HeldList lists held messages, the oldest first; next is "" at the end.
func (s *Store) HeldList(ctx context.Context, f HeldFilter) (list []Held, next string, err error) {
	q := query{text: "SELECT " + heldColumns + " FROM held WHERE 1"}
	if err := s.heldWhere(&q, &f); err != nil {
		return nil, "", fmt.Errorf("list held messages: %w", err)
	}
	limit := bounded(f.Limit)
	list, err = rowsOf(ctx, s, "list held messages", q.text+" ORDER BY seq LIMIT ?", append(q.args, int64(limit)), s.heldOf)
	if len(list) == limit {
		next = strconv.FormatUint(list[limit-1].Seq, 10)
	}
	return list, next, err
}

// heldWhere adds the conditions of a filter.
func (s *Store) heldWhere(q *query, f *HeldFilter) error {
	switch f.State {
	case "":
		q.and("state <= 2")
	case "all":
	default:
		state, ok := ParseState(f.State)
		if !ok {
			return fmt.Errorf("%.40q is no state of a held message", f.State)
		}
		if state <= StateDiscarding {
			q.and("state <= 2") // so that SQLite sees that the index fits
		}
		q.and("state = ?", int64(state))
	}
	if f.Ref != "" {
		seq, _ := policy.SeqOf(f.Ref, s.RefKey())
		q.and("seq = ?", int64(seq))
	}
	if f.Release != "" {
		release, ok := policy.ParseRelease(f.Release)
		if !ok {
			return fmt.Errorf("%.40q is no kind of release", f.Release)
		}
		q.and("release = ?", int64(release))
	}
	if f.Subject != "" {
		key, _ := policy.FoldSubject(f.Subject)
		q.and("subject_key = ?", key)
	}
	if !f.Before.IsZero() {
		q.and("held_at < ?", ms(f.Before))
	}
	q.equal("account", f.Account)
	q.among("account", f.Accounts)
	q.equal("mailbox", f.Mailbox)
	q.equal("directory", f.Directory)
	q.equal("trigger", f.Trigger)
	return q.above("seq", f.After)
}

// HeldByRef finds a held message, in any state, by its reference. The error is
// [ErrNotFound] if there is none.
func (s *Store) HeldByRef(ctx context.Context, ref string) (Held, error) {
	seq, ok := policy.SeqOf(ref, s.RefKey())
	if !ok {
		return Held{}, fmt.Errorf("find held message %.16q: %w", ref, ErrNotFound)
	}
	return s.heldOne(ctx, "seq = ?", int64(seq))
}

// HeldByMessageID finds a held message, in any state, by Exim's message id.
func (s *Store) HeldByMessageID(ctx context.Context, id string) (Held, error) {
	return s.heldOne(ctx, "message_id = ?", id)
}

// HeldOldestWhenFree finds the message of an account that is to go next when its limits
// allow it.
func (s *Store) HeldOldestWhenFree(ctx context.Context, account string) (Held, error) {
	return s.heldOne(ctx, "state <= 2 AND state = 0 AND release = 1 AND account = ?", account)
}

// heldOne finds the oldest held message that meets a condition.
func (s *Store) heldOne(ctx context.Context, where string, arg value) (h Held, err error) {
	err = s.read(ctx, "find held message", func(ctx context.Context, c *cursor) error {
		return c.one(ctx, "SELECT "+heldColumns+" FROM held WHERE "+where+" ORDER BY seq LIMIT 1", []value{arg}, func(v []value) error {
			h = s.heldOf(v)
			return nil
		})
	})
	return h, err
}

// SetHeldState moves a held message from one state to another, and tells whether it was
// in the first: of two who want to release it only one may. With a text the attempt is
// counted and the text kept as what went wrong.
func (s *Store) SetHeldState(ctx context.Context, ref string, from, to State, by, wrong string) (moved bool, err error) {
	seq, ok := policy.SeqOf(ref, s.RefKey())
	if !ok {
		return false, fmt.Errorf("change held message %.16q: %w", ref, ErrNotFound)
	}
	err = s.do(ctx, "change held message", func(ctx context.Context, tx *sql.Tx) error {
		result, err := tx.ExecContext(ctx, `UPDATE held SET state = ?, state_at = ?, by = ?, attempts = attempts + ?, last_error = ?
			WHERE seq = ? AND state = ?`, int64(to), ms(s.o.Now()), clean(by, 128), truth(wrong != ""), clean(wrong, 1024), int64(seq), int64(from))
		if err != nil {
			return err
		}
		n, err := result.RowsAffected()
		moved = n == 1
		return err
	})
	return moved && err == nil, err
}

// LeaveHeld moves a held message on to releasing because its limits have room for it, and
// tells whether it was held still. seq and at are its number and time where it was counted
// (0 = it was not): [Store.ReplaySince] hands it on like a decision.
func (s *Store) LeaveHeld(ctx context.Context, ref string, seq uint64, at policy.Moment, by string) (moved bool, err error) {
	of, ok := policy.SeqOf(ref, s.RefKey())
	if !ok {
		return false, fmt.Errorf("let held message %.16q go: %w", ref, ErrNotFound)
	}
	counted := [4]value{}
	if seq != 0 {
		counted = [4]value{int64(seq), ms(at.Wall), s.o.BootID, at.Boot}
	}
	err = s.do(ctx, "let held message go", func(ctx context.Context, tx *sql.Tx) error {
		result, err := tx.ExecContext(ctx, `UPDATE held SET state = ?, state_at = ?, by = ?, last_error = '',
			left_seq = ?, left_at = ?, left_boot_id = ?, left_boot = ? WHERE seq = ? AND state = ?`,
			int64(StateReleasing), ms(s.o.Now()), clean(by, 128), counted[0], counted[1], counted[2], counted[3], int64(of), int64(StateHeld))
		if err != nil {
			return err
		}
		n, err := result.RowsAffected()
		moved = n == 1
		return err
	})
	return moved && err == nil, err
}

// HoldAgain moves a settled message back to held, because it was found frozen in the queue;
// how says in words by whom. With manual it does not leave by itself any more.
func (s *Store) HoldAgain(ctx context.Context, ref string, from State, manual bool, by, how string) (moved bool, err error) {
	seq, ok := policy.SeqOf(ref, s.RefKey())
	if !ok {
		return false, fmt.Errorf("hold message %.16q again: %w", ref, ErrNotFound)
	}
	err = s.do(ctx, "hold message again", func(ctx context.Context, tx *sql.Tx) error {
		result, err := tx.ExecContext(ctx, `UPDATE held SET state = ?, state_at = ?, by = ?, attempts = 0, last_error = ?,
			release = CASE WHEN ? THEN ? ELSE release END WHERE seq = ? AND state = ?`,
			int64(StateHeld), ms(s.o.Now()), clean(by, 128), clean(how, 1024), manual, int64(policy.Manual), int64(seq), int64(from))
		if err != nil {
			return err
		}
		n, err := result.RowsAffected()
		moved = n == 1
		return err
	})
	return moved && err == nil, err
}

// HeldTotal is how much an account has waiting in the queue.
type HeldTotal struct {
	Account  string `json:"account"`
	Messages int64  `json:"messages"`
	Bytes    int64  `json:"bytes"`
	WhenFree int64  `json:"when_free"` // of them, messages that go by themselves when limits allow it
}

// HeldTotals lists how much each account has waiting in the queue.
func (s *Store) HeldTotals(ctx context.Context) ([]HeldTotal, error) {
	return rowsOf(ctx, s, "add up held messages", `SELECT account, count(*), sum(size), sum(state = 0 AND release = 1)
		FROM held INDEXED BY held_waiting WHERE state <= 2 GROUP BY account`, nil, func(v []value) HeldTotal {
		return HeldTotal{str(v[0]), integer(v[1]), integer(v[2]), integer(v[3])}
	})
}
