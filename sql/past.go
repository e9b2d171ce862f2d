package store

import (
	"context"
	"slices"
	"time"

	"osm/policy"
)

// PastFilter says which decisions of the past are wanted.
type PastFilter struct {
	Since    time.Time
	Accounts []string // of these, and what a claim charges to a directory of theirs; nil = of everybody
	Newest   int64    // look at so many of the newest numbers
	// Connections: those that bypassed Exim instead of messages.
	Connections bool
}

// Past is how far back decisions can be looked at.
type Past struct {
	From time.Time // of the oldest one, where none are stored or looked at from before; zero: of all that was asked for
	Cut  bool      // there are older ones that were asked for and are not looked at
}

// PastOf finds how many decisions lie in the past that a filter asks for, and where it
// begins when only the newest are looked at.
func (s *Store) PastOf(ctx context.Context, f PastFilter) (numbers int64, p Past, err error) {
	err = s.read(ctx, "look at the past", func(ctx context.Context, c *cursor) error {
		low, high, err := c.seqsOf(ctx, f.Since, time.UnixMilli(farFuture))
		if err != nil {
			return err
		}
		numbers = max(high-low+1, 0)
		if numbers > f.Newest {
			low, p.Cut = high-f.Newest+1, true
		}
		if !p.Cut {
			low = 0 // is anything stored from before?
		}
		return c.each(ctx, "SELECT at FROM decisions WHERE seq >= ? ORDER BY seq LIMIT 1", []value{low}, func(v []value) error {
			if at := moment(integer(v[0])); p.Cut || at.After(f.Since) {
				p.From = at
			}
			return nil
		})
	})
	return numbers, p, err
}

// EachPast hands every decision on a message (or every connection) of the past to fn, stopped ones too, in the
// order of their numbers and on this boot's clock. Those that nobody could read, and the
// panel's own, are not among them. fn must not keep the row.
func (s *Store) EachPast(ctx context.Context, f PastFilter, now policy.Moment, fn func(*Counted) error) error {
	return s.readLong(ctx, "read the past", func(ctx context.Context, c *cursor) error {
		low, high, err := c.seqsOf(ctx, f.Since, time.UnixMilli(farFuture))
		if err != nil {
			return err
		}
		low = max(low, high-f.Newest+1)
		boots, err := c.boots(ctx, s.o.BootID, now)
		if err != nil {
			return err
		}
		query, args, err := c.pastQuery(ctx, f)
		if err != nil {
			return err
		}
		wanted, row := make(map[string]bool, len(f.Accounts)), new(Counted)
		for _, a := range f.Accounts {
			wanted[a] = true
		}
		for ; low <= high; low += scanRows {
			err := c.each(ctx, query, slices.Concat([]value{low, min(high, low+scanRows-1), ms(f.Since)}, args), func(v []value) error {
				if err := c.counted(ctx, v, boots, row); err != nil {
					return err
				}
				if id := &row.Identity; f.Accounts != nil && !wanted[id.Account] && !(id.Claimed && wanted[id.DirectoryAccount]) {
					return nil
				}
				return fn(row)
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// pastQuery reads the columns that counters need.
func (c *cursor) pastQuery(ctx context.Context, f PastFilter) (query string, args []value, err error) {
	query = "SELECT " + countedColumns + " FROM decisions WHERE seq BETWEEN ? AND ? AND at >= ? AND flags & 15 <> ? AND flags >> ? & 31 <> ?"
	args = []value{int64(policy.SourceSystem), int64(flagReason), int64(policy.ReasonMalformed)}
	if f.Connections {
		// Where they may go is not kept: those that an exemption let go there are no limit's.
		query += " AND flags & 15 = " + sourceDirect + " AND (flags & ? <> 0 OR flags >> ? & 31 <> ?)"
		args = append(args, int64(flagCounted), int64(flagReason), int64(policy.ReasonExempt))
	} else {
		query += " AND flags & 15 <> " + sourceDirect
	}
	if f.Accounts != nil {
		ids, _, err := c.accountIDs(ctx, f.Accounts)
		if err != nil {
			return "", nil, err
		}
		query, args = query+" AND (account IN (SELECT value FROM json_each(?)) OR flags & ? <> 0)", append(args, ids, int64(flagClaimed))
	}
	return query + " ORDER BY seq", args, nil
}
