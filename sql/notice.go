package store

import (
	"context"
	"database/sql"
	"time"
)

// Notice is something to be told to somebody, or told already.
type Notice struct {
	ID       int64  `json:"id"`
	At       Time   `json:"at"`       // when it was begun; of one that was sent: when it was sent
	Channel  string `json:"channel"`  // mail, webhook or syslog
	Audience string `json:"audience"` // operator, reseller or customer
	Sender   string `json:"sender"`   // whom it is about
	Account  string `json:"account"`
	EventID  int64  `json:"event_id"`
	Digest   bool   `json:"digest"` // tells what came since the one before
	State    string `json:"state"`
	Attempts int64  `json:"attempts"`
	NextAt   Time   `json:"next_at"`
	Detail   string `json:"detail"`
}

// States of a notice.
const (
	NoticeWaiting = "waiting"
	NoticeSent    = "sent"
	NoticeGivenUp = "given up"
)

const noticeColumns = "id, at, channel, audience, sender, account, event, digest, state, attempts, next_at, detail"

func noticeOf(v []value) Notice {
	return Notice{
		ID: integer(v[0]), At: Time{moment(integer(v[1]))}, Channel: str(v[2]), Audience: str(v[3]), Sender: str(v[4]), Account: str(v[5]),
		EventID: integer(v[6]), Digest: integer(v[7]) != 0, State: str(v[8]), Attempts: integer(v[9]), NextAt: Time{moment(integer(v[10]))}, Detail: str(v[11]),
	}
}

// Notify sees to it that a notice about n's sender goes out, whose newest message is of
// lastAt: at n.NextAt if nothing went to the same audience by the same channel for the
// length of digest, else as a digest when that time is over. A notice that waits already is
// enough, and so is one that was sent after lastAt.
func (s *Store) Notify(ctx context.Context, n Notice, lastAt time.Time, digest time.Duration) error {
	return s.do(ctx, "store notice", func(ctx context.Context, tx *sql.Tx) error {
		var waits, last int64
		err := tx.QueryRowContext(ctx, `SELECT ifnull(sum(state = ?), 0), ifnull(max(at), 0) FROM notices WHERE channel = ? AND audience = ? AND sender = ? AND at >= ?`,
			NoticeWaiting, n.Channel, n.Audience, clean(n.Sender, keyMax), ms(n.At.Add(-2*digest))).Scan(&waits, &last)
		if err != nil || waits > 0 || last >= ms(lastAt) {
			return err
		}
		next := n.NextAt.Time
		if free := moment(last).Add(digest); last > 0 && free.After(next) {
			n.Digest, next = true, free
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO notices (at, channel, audience, sender, account, event, digest, state, next_at) VALUES (?,?,?,?,?,?,?,?,?)`,
			ms(n.At.Time), n.Channel, n.Audience, clean(n.Sender, keyMax), clean(n.Account, 128), n.EventID, truth(n.Digest), NoticeWaiting, ms(next))
		return err
	})
}

// DueNotices lists what is to be told now, the longest due first, at most 200.
func (s *Store) DueNotices(ctx context.Context, now time.Time) ([]Notice, error) {
	return rowsOf(ctx, s, "list due notices", "SELECT "+noticeColumns+" FROM notices WHERE state = '"+NoticeWaiting+"' AND next_at <= ? ORDER BY next_at LIMIT 200",
		[]value{ms(now)}, noticeOf)
}

// NoticeBefore is when the notice before this one about the same sender went out; zero if
// there was none.
func (s *Store) NoticeBefore(ctx context.Context, n *Notice) (at time.Time, err error) {
	err = s.read(ctx, "find the notice before", func(ctx context.Context, c *cursor) error {
		return c.one(ctx, "SELECT ifnull(max(at), 0) FROM notices WHERE channel = ? AND audience = ? AND sender = ? AND state = ? AND id <> ?",
			[]value{n.Channel, n.Audience, n.Sender, NoticeSent, n.ID}, func(v []value) error {
				at = moment(integer(v[0]))
				return nil
			})
	})
	return at, err
}

// PutNotice stores what became of a notice.
func (s *Store) PutNotice(ctx context.Context, n Notice) error {
	return s.do(ctx, "store notice", func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "UPDATE notices SET at = ?, state = ?, attempts = ?, next_at = ?, detail = ? WHERE id = ?",
			ms(n.At.Time), n.State, n.Attempts, orNull(n.NextAt.Time), clean(n.Detail, 1024), n.ID)
		return err
	})
}
