package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"osm/policy"
)

// Sender is what one account sent.
type Sender struct {
	Account string `json:"account"`
	Tally
}

// Top is who sent most.
type Top struct {
	Since Time     `json:"since"` // as asked for, or the full hour before where that hour is too large to be counted anew
	Items []Sender `json:"items"`
	Next  string   `json:"next,omitempty"` // the place of the next sender; "" at the end
}

// TopFilter says which senders are wanted.
type TopFilter struct {
	Since time.Time
	By    string                    // "messages", "recipients" or "stopped"
	Keep  func(account string) bool // nil: all accounts
	Limit int
	After string // what the page before gave as next
}

// partRows is how many decisions of a part of an hour are counted one by one.
const partRows = 250_000

// Top lists the accounts that sent most since a moment. Full hours come from the totals,
// the part of an hour before them from the decisions themselves. Places move while mail is
// sent: between two pages a sender may change from one to the other.
func (s *Store) Top(ctx context.Context, f TopFilter) (Top, error) {
	m, ok := measures[f.By]
	if !ok {
		return Top{}, fmt.Errorf("list top senders: %.40q is not messages, recipients or stopped", f.By)
	}
	place, err := strconv.Atoi(cmp.Or(f.After, "0"))
	if err != nil || place < 0 {
		return Top{}, fmt.Errorf("list top senders: %.40q is not where a page ended", f.After)
	}
	top := Top{Items: []Sender{}}
	err = s.read(ctx, "list top senders", func(ctx context.Context, c *cursor) error {
		part, from, full, err := c.partOfHour(ctx, f.Since)
		if err != nil {
			return err
		}
		top.Since = Time{from}
		rank := make(map[int64]int64)
		for id, t := range part {
			rank[id] = m.of(t)
		}
		// The plus sign keeps SQLite from grouping by walking all hours there are.
		err = c.each(ctx, "SELECT account, sum("+m.columns+") FROM hours WHERE hour >= ? GROUP BY +account", []value{full}, func(v []value) error {
			rank[integer(v[0])] += integer(v[1])
			return nil
		})
		if err != nil {
			return err
		}
		ids, more, err := c.kept(ctx, highest(rank), f.Keep, place, bounded(f.Limit))
		if err != nil {
			return err
		}
		for _, id := range ids {
			sender, err := c.sender(ctx, id, part[id], full)
			if err != nil {
				return err
			}
			top.Items = append(top.Items, sender)
		}
		if more {
			top.Next = strconv.Itoa(place + len(ids))
		}
		return nil
	})
	return top, err
}

// kept picks a page of the accounts that are wanted at all; more tells that it is not the
// last.
func (c *cursor) kept(ctx context.Context, ranked []int64, keep func(account string) bool, place, limit int) (page []int64, more bool, err error) {
	for _, id := range ranked {
		if keep != nil {
			name, err := c.accountName(ctx, id)
			if err != nil {
				return nil, false, err
			}
			if !keep(name) {
				continue
			}
		}
		switch {
		case place > 0:
			place--
		case len(page) == limit:
			return page, true, nil
		default:
			page = append(page, id)
		}
	}
	return page, false, nil
}

// measure is what senders can be ranked by.
type measure struct {
	columns string
	of      func(t *Tally) int64
}

var measures = map[string]measure{
	"messages":   {"messages", func(t *Tally) int64 { return t.Messages }},
	"recipients": {"recipients", func(t *Tally) int64 { return t.Recipients }},
	"stopped":    {"frozen + discarded + deferred + denied", func(t *Tally) int64 { return t.Stopped }},
}

// highest lists the accounts with the highest rank, without those that have none.
func highest(rank map[int64]int64) []int64 {
	ids := make([]int64, 0, len(rank))
	for id, n := range rank {
		if n > 0 {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b int64) int { return cmp.Or(cmp.Compare(rank[b], rank[a]), cmp.Compare(a, b)) })
	return ids
}

// sender adds up all that an account sent: part, and the hours from full on.
func (c *cursor) sender(ctx context.Context, id int64, part *Tally, full int64) (Sender, error) {
	name, err := c.accountName(ctx, id)
	if err != nil {
		return Sender{}, err
	}
	sender := Sender{Account: name}
	if part != nil {
		sender.Tally = *part
	}
	err = c.each(ctx, `WITH RECURSIVE h (hour) AS (SELECT ? UNION ALL SELECT hour + 1 FROM h WHERE hour < (SELECT max(hour) FROM hours))
		SELECT `+tallySums+" FROM h CROSS JOIN hours USING (hour) WHERE account = ?", []value{full, id}, func(v []value) error {
		sender.plus(v)
		return nil
	})
	return sender, err
}

// partOfHour counts the decisions between a moment and the next full hour by account; full
// is that hour's number. Where they are too many, the whole hour is to be taken: then from
// is its beginning.
func (c *cursor) partOfHour(ctx context.Context, since time.Time) (part map[int64]*Tally, from time.Time, full int64, err error) {
	hour := since.Truncate(time.Hour)
	full = ms(hour) / 3_600_000
	if hour.Equal(since) {
		return nil, since.UTC(), full, nil
	}
	next := hour.Add(time.Hour)
	low, high, err := c.seqsOf(ctx, since, next.Add(-time.Millisecond))
	if err != nil {
		return nil, since, 0, err
	}
	if high-low >= partRows {
		return nil, hour.UTC(), full, nil
	}
	part, err = c.countAccounts(ctx, low, high, since, next)
	return part, since.UTC(), full + 1, err
}

// countAccounts counts decisions one by one.
func (c *cursor) countAccounts(ctx context.Context, low, high int64, from, to time.Time) (map[int64]*Tally, error) {
	sums := make(map[int64]*Tally)
	err := c.each(ctx, "SELECT account, verdict, would, flags, recipients FROM decisions WHERE seq BETWEEN ? AND ? AND at >= ? AND at < ?",
		[]value{low, high, ms(from), ms(to)}, func(v []value) error {
			t := sums[integer(v[0])]
			if t == nil {
				t = new(Tally)
				sums[integer(v[0])] = t
			}
			t.add(&row{verdict: policy.Verdict(integer(v[1])), would: policy.Verdict(integer(v[2])), flags: integer(v[3]), recipients: integer(v[4])})
			return nil
		})
	return sums, err
}

// plus adds stored parts.
func (t *Tally) plus(v []value) {
	for i, c := range t.columns() {
		*c += integer(v[i])
	}
	t.Stopped = t.Frozen + t.Discarded + t.Deferred + t.Denied
}

// Bucket is what became of the messages of one piece of time.
type Bucket struct {
	At Time `json:"at"` // its beginning
	Tally
}

// maxBuckets is how many pieces of time a histogram has at most.
const maxBuckets = 2_000

// Histogram adds up all messages since a moment, in pieces of step (whole minutes). Pieces
// in which nothing was sent are left out.
func (s *Store) Histogram(ctx context.Context, since time.Time, step time.Duration) ([]Bucket, error) {
	minutes := int64(step / time.Minute)
	if minutes < 1 || step%time.Minute != 0 {
		return nil, fmt.Errorf("histogram: the step %s is not whole minutes", step)
	}
	list := []Bucket{}
	err := s.read(ctx, "histogram", func(ctx context.Context, c *cursor) error {
		err := c.each(ctx, "SELECT minute / ? * ? AS piece, "+tallySums+" FROM minutes WHERE minute >= ? GROUP BY piece ORDER BY piece",
			[]value{minutes, minutes, ms(since) / 60_000}, func(v []value) error {
				if len(list) == maxBuckets {
					return errEnough
				}
				b := Bucket{At: Time{moment(integer(v[0]) * 60_000)}}
				b.plus(v[1:])
				list = append(list, b)
				return nil
			})
		if errors.Is(err, errEnough) {
			return fmt.Errorf("more than %d pieces of %s", maxBuckets, step)
		}
		return err
	})
	return list, err
}
