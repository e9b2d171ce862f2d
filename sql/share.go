package store

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"
)

// Share is one part of what an account sent.
type Share struct {
	Value      string `json:"value"` // mailbox, directory, Subject without its numbers, client IP or script
	Messages   int64  `json:"messages"`
	Recipients int64  `json:"recipients"`
	Stopped    int64  `json:"stopped"`
}

// Shares is what an account's messages have in common, those with the most first.
type Shares struct {
	Since       time.Time // of what was looked at: as asked for, or later
	Looked      int64     // messages of the account
	Mailboxes   []Share
	Directories []Share
	Subjects    []Share
	ClientIPs   []Share
	Scripts     []Share
}

// Bounds of adding shares up: beside them the page has more to show.
const (
	shareRows  = 300_000 // decisions of everybody that are passed over
	shareStep  = 20_000
	shareFor   = 60 * time.Millisecond
	sharesKept = 20
)

// Shares adds up the newest messages of an account by mailbox, directory, Subject, client
// IP and script. Where that would take too long it ends early, and says since when.
func (s *Store) Shares(ctx context.Context, account string, since time.Time) (Shares, error) {
	return s.shares(ctx, account, since, shareRows)
}

func (s *Store) shares(ctx context.Context, account string, since time.Time, rows int64) (Shares, error) {
	out := Shares{Since: since.UTC()}
	err := s.read(ctx, "add up an account's messages", func(ctx context.Context, c *cursor) error {
		id, err := c.accountID(ctx, account)
		if err != nil || id == 0 {
			return err
		}
		sums := newShareSums()
		reached, err := c.sharesOf(ctx, id, since, rows, sums)
		if err != nil {
			return err
		}
		if reached > 0 { // not all was looked at: from where on?
			err := c.each(ctx, "SELECT at FROM decisions WHERE seq >= ? ORDER BY seq LIMIT 1", []value{reached}, func(v []value) error {
				out.Since = later(out.Since, moment(integer(v[0])))
				return nil
			})
			if err != nil {
				return err
			}
		}
		out.Looked = sums.looked
		for i, to := range [...]*[]Share{&out.Mailboxes, &out.Directories, &out.Subjects, &out.Scripts} {
			*to = most(sums.texts[i], func(s string) string { return s })
		}
		out.ClientIPs = most(sums.ips, netip.Addr.String)
		return nil
	})
	return out, err
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

const shareQuery = `SELECT mailbox, directory, subject_key, script, client_ip, verdict, recipients FROM decisions
	WHERE seq BETWEEN ? AND ? AND account = ? AND at >= ? AND flags & 15 <> ` + sourceDirect + ` ORDER BY seq DESC`

// sharesOf adds up, newest first. reached is 0 when everything was looked at, or the number
// down to which it was.
func (c *cursor) sharesOf(ctx context.Context, id int64, since time.Time, left int64, sums *shareSums) (reached int64, err error) {
	spans, err := c.activeSpans(ctx, jsonList([]int64{id}), since, time.UnixMilli(farFuture))
	if err != nil {
		return 0, err
	}
	bounded, cancel := context.WithTimeout(ctx, shareFor)
	defer cancel()
	for _, sp := range spans {
		for high := sp.high; high >= sp.low; {
			if left <= 0 {
				return high + 1, nil
			}
			low := max(sp.low, high-min(left, shareStep)+1)
			err := c.each(bounded, shareQuery, []value{low, high, id, ms(since)}, func(v []value) error { return sums.add(ctx, c, v) })
			if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
				// Of the step that was broken off some rows are counted: it is named as not looked at.
				return high + 1, nil
			}
			if err != nil {
				return 0, err
			}
			left -= high - low + 1
			high = low - 1
		}
	}
	return 0, nil
}

// shareSums adds messages up.
type shareSums struct {
	texts  [4]map[string]*Share
	ips    map[netip.Addr]*Share
	looked int64
}

func newShareSums() *shareSums {
	s := &shareSums{ips: make(map[netip.Addr]*Share)}
	for i := range s.texts {
		s.texts[i] = make(map[string]*Share)
	}
	return s
}

// add counts one row of shareQuery.
func (s *shareSums) add(ctx context.Context, c *cursor, v []value) error {
	s.looked++
	stopped, recipients := integer(v[5]) != 0, integer(v[6])
	for i := range s.texts {
		text, err := c.text(ctx, v[i])
		if err != nil {
			return err
		}
		if text != "" {
			addShare(s.texts[i], text, stopped, recipients)
		}
	}
	if ip := addressOf(v[4]); ip.IsValid() {
		addShare(s.ips, ip, stopped, recipients)
	}
	return nil
}

func addShare[K comparable](sums map[K]*Share, key K, stopped bool, recipients int64) {
	one := sums[key]
	if one == nil {
		one = new(Share)
		sums[key] = one
	}
	if stopped {
		one.Stopped++
		return
	}
	one.Messages++
	one.Recipients += recipients
}

// most lists the largest shares.
func most[K comparable](sums map[K]*Share, name func(K) string) []Share {
	list := make([]Share, 0, len(sums))
	for key, one := range sums {
		one.Value = name(key)
		list = append(list, *one)
	}
	slices.SortFunc(list, func(a, b Share) int {
		return cmp.Or(cmp.Compare(b.Messages+b.Stopped, a.Messages+a.Stopped), cmp.Compare(a.Value, b.Value))
	})
	return list[:min(len(list), sharesKept)]
}
