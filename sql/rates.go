package store

import (
	"context"
	"fmt"
	"time"
)

// fewAccounts is up to how many accounts' totals are looked up one by one; of more the
// hours are read whole.
const fewAccounts = 400

// HistogramOf adds up the messages of some accounts since a moment, in pieces of step
// (whole hours, as the totals of accounts are kept by the hour). Pieces in which nothing
// was sent are left out.
func (s *Store) HistogramOf(ctx context.Context, accounts []string, since time.Time, step time.Duration) ([]Bucket, error) {
	hours := int64(step / time.Hour)
	if hours < 1 || step%time.Hour != 0 {
		return nil, fmt.Errorf("histogram of accounts: the step %s is not whole hours", step)
	}
	list := []Bucket{}
	err := s.read(ctx, "histogram of accounts", func(ctx context.Context, c *cursor) error {
		ids, known, err := c.accountIDs(ctx, accounts)
		if err != nil || len(known) == 0 {
			return err
		}
		list, err = c.buckets(ctx, time.Hour, histogramQuery(len(known)), ms(since)/3_600_000, int64(farFuture)/3_600_000, ids, hours)
		return err
	})
	return list, err
}

func histogramQuery(accounts int) string {
	if accounts > fewAccounts {
		return "SELECT hour / ?4 * ?4 AS piece, " + tallySums + ` FROM hours WHERE hour BETWEEN ?1 AND ?2
			AND account IN (SELECT value FROM json_each(?3)) GROUP BY piece ORDER BY piece`
	}
	return hoursCTE + "SELECT hour / ?4 * ?4 AS piece, " + tallySums + ` FROM h CROSS JOIN hours USING (hour)
		WHERE account IN (SELECT value FROM json_each(?3)) GROUP BY piece ORDER BY piece`
}

// Tallies adds up what accounts sent since a full hour, by their names; those that sent
// nothing are not among them.
func (s *Store) Tallies(ctx context.Context, accounts []string, since time.Time) (map[string]Tally, error) {
	sums := make(map[string]Tally, len(accounts))
	err := s.read(ctx, "add up accounts", func(ctx context.Context, c *cursor) error {
		return c.each(ctx, tallyQuery, []value{ms(since) / 3_600_000, int64(farFuture) / 3_600_000, jsonList(accounts)}, func(v []value) error {
			var t Tally
			t.plus(v[1:])
			sums[str(v[0])] = t
			return nil
		})
	})
	return sums, err
}

const tallyQuery = hoursCTE + "SELECT a.name, " + tallySums + ` FROM json_each(?3) j CROSS JOIN accounts a ON a.name = j.value
	CROSS JOIN h CROSS JOIN hours t ON t.hour = h.hour AND t.account = a.id GROUP BY a.id`

// AccountNames lists the names between two, among those that decisions were charged to.
func (s *Store) AccountNames(ctx context.Context, from, before string, limit int) ([]string, error) {
	return rowsOf(ctx, s, "list accounts", "SELECT name FROM accounts WHERE name >= ? AND name < ? ORDER BY name LIMIT ?",
		[]value{from, before, int64(bounded(limit))}, func(v []value) string { return str(v[0]) })
}

// KnowsAccount reports whether any decision was ever charged to an account.
func (s *Store) KnowsAccount(ctx context.Context, name string) (known bool, err error) {
	err = s.read(ctx, "find account", func(ctx context.Context, c *cursor) error {
		id, err := c.accountID(ctx, name)
		known = id != 0
		return err
	})
	return known, err
}
