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
	By    string // "messages", "recipients", "stopped" or "connections"
	// Accounts are those that are ranked; nil: all there are.
	Accounts []string
	Limit    int
	After    string // what the page before gave as next
}

// partRows is how many decisions of a part of an hour are counted one by one.
const partRows = 250_000

// Top lists the accounts that sent most since a moment. Full hours come from the totals,
// the part of an hour before them from the decisions themselves. Places move while mail is
// sent: between two pages a sender may change from one to the other.
func (s *Store) Top(ctx context.Context, f TopFilter) (Top, error) {
	m, ok := measures[f.By]
	if !ok {
		return Top{}, fmt.Errorf("list top senders: %.40q is not messages, recipients, stopped or connections", f.By)
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
		query, args := "SELECT account, sum("+m.columns+") FROM hours WHERE hour >= ? GROUP BY +account", []value{full}
		if f.Accounts != nil {
			list, ids, err := c.accountIDs(ctx, f.Accounts)
			if err != nil {
				return err
			}
			if rank = only(rank, ids); len(ids) <= fewAccounts {
				query = hoursCTE + "SELECT account, sum(" + m.columns + ") FROM h CROSS JOIN hours USING (hour) WHERE account IN (SELECT value FROM json_each(?3)) GROUP BY account"
				args = []value{full, int64(farFuture) / 3_600_000, list}
			}
		}
		err = c.each(ctx, query, args, func(v []value) error {
			if _, wanted := rank[integer(v[0])]; wanted || f.Accounts == nil {
				rank[integer(v[0])] += integer(v[1])
			}
			return nil
		})
		if err != nil {
			return err
		}
		ids := highest(rank)
		ids = ids[min(place, len(ids)):]
		if limit := bounded(f.Limit); len(ids) > limit {
			ids = ids[:limit]
			top.Next = strconv.Itoa(place + limit)
		}
		top.Items, err = c.senders(ctx, ids, part, full)
		return err
	})
	return top, err
}

// measure is what senders can be ranked by.
type measure struct {
	columns string
	of      func(t *Tally) int64
}

var measures = map[string]measure{
	"messages":    {"messages", func(t *Tally) int64 { return t.Messages }},
	"recipients":  {"recipients", func(t *Tally) int64 { return t.Recipients }},
	"stopped":     {"frozen + discarded + deferred + denied", func(t *Tally) int64 { return t.Stopped }},
	"connections": {"connections", func(t *Tally) int64 { return t.Connections }},
}

// only keeps the ranks of some accounts.
func only(rank map[int64]int64, ids []int64) map[int64]int64 {
	kept := make(map[int64]int64, len(ids))
	for _, id := range ids {
		kept[id] = rank[id]
	}
	return kept
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

// senders adds up all that accounts sent: part, and the hours from full on.
func (c *cursor) senders(ctx context.Context, ids []int64, part map[int64]*Tally, full int64) ([]Sender, error) {
	sums := make(map[int64]*Tally, len(ids))
	for _, id := range ids {
		sums[id] = new(Tally)
		if part[id] != nil {
			*sums[id] = *part[id]
		}
	}
	err := c.each(ctx, hoursCTE+"SELECT j.value, "+tallySums+` FROM json_each(?3) j CROSS JOIN h CROSS JOIN hours t ON t.hour = h.hour AND t.account = j.value GROUP BY j.value`,
		[]value{full, int64(farFuture) / 3_600_000, jsonList(ids)}, func(v []value) error {
			var t Tally
			t.plus(v[1:])
			sums[integer(v[0])].Add(&t)
			return nil
		})
	if err != nil {
		return nil, err
	}
	list := make([]Sender, 0, len(ids))
	for _, id := range ids {
		name, err := c.accountName(ctx, id)
		if err != nil {
			return nil, err
		}
		list = append(list, Sender{Account: name, Tally: *sums[id]})
	}
	return list, nil
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

// Bucket is what became of the messages of one piece of time, and its connections.
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
	err := s.read(ctx, "histogram", func(ctx context.Context, c *cursor) (err error) {
		list, err = c.buckets(ctx, time.Minute, "SELECT minute / ?1 * ?1 AS piece, "+tallySums+" FROM minutes WHERE minute >= ?2 GROUP BY piece ORDER BY piece",
			minutes, ms(since)/60_000)
		return err
	})
	return list, err
}

// buckets reads pieces of time that a query numbers in a unit from 1970 on.
func (c *cursor) buckets(ctx context.Context, unit time.Duration, query string, args ...value) ([]Bucket, error) {
	list := []Bucket{}
	err := c.each(ctx, query, args, func(v []value) error {
		if len(list) == maxBuckets {
			return errEnough
		}
		b := Bucket{At: Time{moment(integer(v[0]) * unit.Milliseconds())}}
		b.plus(v[1:])
		list = append(list, b)
		return nil
	})
	if errors.Is(err, errEnough) {
		return nil, fmt.Errorf("more than %d pieces of time", maxBuckets)
	}
	return list, err
}
