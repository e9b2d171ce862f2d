package store

import (
	"context"
	"encoding/json"
	"time"
)

// span is a stretch of decisions' numbers. Lists of them begin with the newest and do not
// overlap: what is searched for lies in them, so that the rest need not be read.
type span struct{ low, high int64 }

// spanGap is how many numbers between two spans are rather read than skipped.
const spanGap = 2_000

// addSpan puts a span that is older than those before it into the list.
func addSpan(list []span, s span) []span {
	if n := len(list); n > 0 && s.high+spanGap >= list[n-1].low {
		list[n-1].low, list[n-1].high = min(list[n-1].low, s.low), max(list[n-1].high, s.high)
		return list
	}
	return append(list, s)
}

// hoursCTE makes the table h of the hours between two, as far as anything was sent then.
const hoursCTE = `WITH RECURSIVE ends (low, high) AS (SELECT max(?1, (SELECT min(hour) FROM hours)), min(?2, (SELECT max(hour) FROM hours))),
	h (hour) AS (SELECT low FROM ends WHERE low <= high UNION ALL SELECT hour + 1 FROM h WHERE hour < (SELECT high FROM ends)) `

// activeSpans lists where decisions of some accounts can be: the hours in which any of them
// sent something. accounts is a JSON list of their numbers.
func (c *cursor) activeSpans(ctx context.Context, accounts string, since, until time.Time) ([]span, error) {
	var list []span
	err := c.each(ctx, hoursCTE+`SELECT (SELECT min(first_seq) FROM minutes WHERE minute BETWEEN h.hour * 60 AND h.hour * 60 + 59),
		(SELECT max(last_seq) FROM minutes WHERE minute BETWEEN h.hour * 60 AND h.hour * 60 + 59)
		FROM h WHERE EXISTS (SELECT 1 FROM hours t WHERE t.hour = h.hour AND t.account IN (SELECT value FROM json_each(?3))) ORDER BY h.hour DESC`,
		[]value{ms(since) / 3_600_000, ms(until) / 3_600_000, accounts}, func(v []value) error {
			if v[0] != nil {
				list = addSpan(list, span{integer(v[0]), integer(v[1])})
			}
			return nil
		})
	return list, err
}

// minuteSpans lists where decisions with some outcome can be: the minutes that have one by
// their totals.
func (c *cursor) minuteSpans(ctx context.Context, columns string, since, until time.Time) ([]span, error) {
	var list []span
	err := c.each(ctx, "SELECT first_seq, last_seq FROM minutes WHERE minute BETWEEN ? AND ? AND "+columns+" > 0 ORDER BY minute DESC",
		[]value{floorDiv(ms(since), 60_000), floorDiv(ms(until), 60_000)}, func(v []value) error {
			list = addSpan(list, span{integer(v[0]), integer(v[1])})
			return nil
		})
	return list, err
}

// accountIDs gives the numbers of accounts as a JSON list, for IN; those that no decision
// was ever charged to have none.
func (c *cursor) accountIDs(ctx context.Context, names []string) (list string, ids []int64, err error) {
	ids = []int64{}
	err = c.each(ctx, "SELECT a.id FROM json_each(?) j CROSS JOIN accounts a ON a.name = j.value", []value{jsonList(names)}, func(v []value) error {
		ids = append(ids, integer(v[0]))
		return nil
	})
	return jsonList(ids), ids, err
}

// jsonList writes a list as SQLite's json_each reads it.
func jsonList[T string | int64](list []T) string {
	if len(list) == 0 {
		return "[]"
	}
	b, err := json.Marshal(list)
	if err != nil {
		return "[]" // texts and numbers can always be written
	}
	return string(b)
}
