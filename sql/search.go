package store

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"osm/policy"
)

// DecisionFilter says which decisions are wanted; what is left empty does not matter.
type DecisionFilter struct {
	Account          string
	Accounts         []string  // of any of these; nil = of everybody
	Verdict          string    // "accept", "freeze" …; "stopped" = all but accept; "observed" = accepted, but a trigger that observes was over
	Since            time.Time // not before
	Until            time.Time // before
	Mailbox          string
	Directory        string
	DirectoryAccount string // whose directory it is, be it by a claim
	Subject          string // folded
	SubKey           string // who it was within an account that stands for many
	ClientIP         netip.Addr
	ClientNet        netip.Prefix
	IPClass          policy.IPClass
	Source           string // "": of all but the connections that bypassed Exim
	NoAutomatic      bool   // without auto-replies
	Counted          bool   // only those that entered the windows
	Limit            int
	After            string // what the page before gave as next
}

// scanRows is how many rows one query of a longer search looks at: in between the writer
// can move its log on.
const scanRows = 50_000

// errEnough ends a query whose page is full.
var errEnough = errors.New("the page is full")

// farFuture is later than any stored moment.
const farFuture = 1 << 47 // ms

// Decisions lists decisions, the newest first. next is "" at the end. A search that takes
// too long ends early, with what was found and where to go on.
func (s *Store) Decisions(ctx context.Context, f DecisionFilter) (list []Decision, next string, err error) {
	list = []Decision{}
	err = s.read(ctx, "list decisions", func(ctx context.Context, c *cursor) error {
		next, err = s.search(ctx, c, &f, &list)
		return err
	})
	if err != nil {
		return nil, "", err
	}
	return list, next, nil
}

// Filled is the key of a counter: what its messages have in common.
type Filled struct {
	Watch      policy.Watch
	Account    string // of a directory: whose it is
	SubKey     string // within (unknown) and (system), whose senders have counters of their own
	Mailbox    string
	Directory  string
	SubjectKey string
	ClientIP   netip.Addr
	IPClass    policy.IPClass
}

// subKey is who it was, where an account's senders have counters of their own.
func (k *Filled) subKey() string {
	if k.Account == policy.AccountUnknown || k.Account == policy.AccountSystem {
		return k.SubKey
	}
	return ""
}

// MessagesThatFilled lists the counted messages of one counter between two moments, the
// newest first: those that a stopped message was stopped for. What a counter counts is
// policy's to say; see the keys of its triggers.
func (s *Store) MessagesThatFilled(ctx context.Context, k Filled, from, to time.Time, limit int) ([]Decision, error) {
	f := DecisionFilter{Since: from, Until: to, Counted: true, NoAutomatic: k.Watch != policy.WatchAutomatic, Limit: limit}
	subKey := k.subKey()
	switch k.Watch {
	case policy.WatchAccount:
		f.Account, f.SubKey = k.Account, subKey
	case policy.WatchSubject:
		f.Account, f.SubKey, f.Subject = k.Account, subKey, k.SubjectKey
	case policy.WatchScripts:
		f.Account, f.SubKey, f.Source = k.Account, subKey, policy.SourceScript.String()
	case policy.WatchDirectory:
		f.DirectoryAccount, f.Directory, f.Source = k.Account, k.Directory, policy.SourceScript.String()
	case policy.WatchLogin:
		f.Account, f.Mailbox, f.Source = k.Account, k.Mailbox, policy.SourceLogin.String()
	case policy.WatchClientIP:
		f.ClientNet, f.IPClass = policy.CountedNet(k.ClientIP), k.IPClass
	case policy.WatchAutomatic:
		f.Account, f.SubKey, f.Source = k.Account, subKey, policy.SourceAutomatic.String()
	default:
		return nil, fmt.Errorf("list messages: a %s trigger counts no messages", k.Watch)
	}
	list, _, err := s.Decisions(ctx, f)
	return list, err
}

// search fills a page of decisions.
func (s *Store) search(ctx context.Context, c *cursor, f *DecisionFilter, list *[]Decision) (next string, err error) {
	where, args, none, err := c.where(ctx, f)
	if err != nil || none {
		return "", err
	}
	p, err := c.paging(ctx, f)
	if err != nil {
		return "", err
	}
	if p.spans, err = c.spans(ctx, f, p.until); err != nil {
		return "", err
	}
	query := "SELECT " + decisionColumns + ", directory_account FROM decisions WHERE seq BETWEEN ? AND ? AND at >= ? AND at < ?" + where + " ORDER BY seq DESC"
	limit, key := bounded(f.Limit), s.refKey.Load()
	return p.each(func(low, high int64) error {
		return c.each(ctx, query, slices.Concat([]value{low, high, ms(f.Since), ms(p.until)}, args), func(v []value) error {
			if ok, err := c.matches(ctx, v, f); err != nil || !ok {
				return err
			}
			v[21] = nil // the triggers are shown with one decision only
			d, err := c.decision(ctx, v, key)
			if err != nil {
				return err
			}
			if *list = append(*list, d); len(*list) == limit {
				return errEnough
			}
			return nil
		})
	}, func() uint64 {
		if len(*list) == 0 {
			return 0
		}
		return (*list)[len(*list)-1].Seq
	})
}

// paging is where a page of decisions is looked for.
type paging struct {
	low, high int64     // numbers
	until     time.Time // before
	spans     []span    // the newest first
	straight  bool      // an index leads there: no need to go in steps
}

// paging finds the numbers between which the page of a filter lies; where in between is
// for the caller to fill in.
func (c *cursor) paging(ctx context.Context, f *DecisionFilter) (p paging, err error) {
	p = paging{until: f.Until, straight: f.straight()}
	if p.until.IsZero() {
		p.until = time.UnixMilli(farFuture)
	}
	if p.low, p.high, err = c.within(ctx, f.Since, f.Until); err != nil || f.After == "" {
		return p, err
	}
	after, err := strconv.ParseInt(f.After, 10, 64)
	if err != nil {
		return p, fmt.Errorf("%.40q is not where a page ended", f.After)
	}
	p.high = min(p.high, after-1)
	return p, nil
}

// each reads the spans, the newest first, until the page is full or the time is up; next is
// where the next page begins. last is the number of the last row found, 0 if there is none.
func (p *paging) each(read func(low, high int64) error, last func() uint64) (next string, err error) {
	for _, sp := range p.spans {
		sp = span{max(sp.low, p.low), min(sp.high, p.high)}
		for sp.high >= sp.low {
			from := max(sp.low, sp.high-scanRows+1)
			if p.straight {
				from = sp.low
			}
			err := read(from, sp.high)
			switch tooLong := errors.Is(err, context.DeadlineExceeded); {
			case errors.Is(err, errEnough), tooLong && last() != 0:
				return strconv.FormatUint(last(), 10), nil
			case tooLong:
				return strconv.FormatInt(sp.high+1, 10), nil
			case err != nil:
				return "", err
			}
			sp.high = from - 1
		}
	}
	return "", nil
}

// straight reports whether an index leads straight to what is searched for.
func (f *DecisionFilter) straight() bool {
	return f.Account != "" && f.Verdict != "" && f.Verdict != policy.Accept.String() && f.Verdict != observed
}

// observed is what a filter calls a message that passed only because a trigger observes.
const observed = "observed"

// spans lists where what is searched for can be, the newest first.
func (c *cursor) spans(ctx context.Context, f *DecisionFilter, until time.Time) ([]span, error) {
	switch {
	case f.straight():
	case f.Account != "":
		ids, _, err := c.accountIDs(ctx, []string{f.Account})
		if err != nil {
			return nil, err
		}
		return c.activeSpans(ctx, ids, f.Since, until)
	case f.Verdict != "" && f.Verdict != policy.Accept.String():
		return c.minuteSpans(ctx, columnOf(f.Verdict), f.Since, until)
	case f.Accounts != nil:
		ids, _, err := c.accountIDs(ctx, f.Accounts)
		if err != nil {
			return nil, err
		}
		return c.activeSpans(ctx, ids, f.Since, until)
	}
	return []span{{0, math.MaxInt64}}, nil
}

// columnOf is the column of minutes that counts messages with an outcome.
func columnOf(verdict string) string {
	switch verdict {
	case observed:
		return "observed"
	case policy.Freeze.String():
		return "frozen"
	case policy.Discard.String():
		return "discarded"
	case policy.Defer.String():
		return "deferred"
	case policy.Deny.String():
		return "denied"
	}
	return "frozen + discarded + deferred + denied"
}

// within gives the numbers of the decisions of a time; zero times are no bounds.
func (c *cursor) within(ctx context.Context, since, until time.Time) (low, high int64, err error) {
	if !since.IsZero() || !until.IsZero() {
		if until.IsZero() {
			until = time.UnixMilli(farFuture)
		}
		return c.seqsOf(ctx, since, until)
	}
	err = c.each(ctx, "SELECT (SELECT min(seq) FROM decisions), (SELECT max(seq) FROM decisions)", nil, func(v []value) error {
		low, high = 1, 0
		if v[0] != nil {
			low, high = integer(v[0]), integer(v[1])
		}
		return nil
	})
	return low, high, err
}

// where writes the conditions that SQLite can check; none is true if nothing can match.
func (c *cursor) where(ctx context.Context, f *DecisionFilter) (where string, args []value, none bool, err error) {
	if f.Account != "" {
		id, err := c.accountID(ctx, f.Account)
		if err != nil || id == 0 {
			return "", nil, true, err
		}
		where, args = where+" AND account = ?", append(args, id)
	}
	if f.Accounts != nil {
		ids, known, err := c.accountIDs(ctx, f.Accounts)
		if err != nil || len(known) == 0 {
			return "", nil, true, err
		}
		where, args = where+" AND account IN (SELECT value FROM json_each(?))", append(args, ids)
	}
	if f.Verdict == "stopped" {
		where += " AND verdict <> 0"
	} else if f.Verdict == observed {
		where += " AND verdict = 0 AND would <> 0"
	} else if f.Verdict != "" {
		v, ok := policy.ParseVerdict(f.Verdict)
		if !ok {
			return "", nil, true, fmt.Errorf("%.40q is no verdict", f.Verdict)
		}
		if v != policy.Accept {
			where += " AND verdict <> 0" // so that SQLite sees that the index fits
		}
		where, args = where+" AND verdict = ?", append(args, int64(v))
	}
	if f.Source != "" {
		src, ok := policy.ParseSource(f.Source)
		if !ok {
			return "", nil, true, fmt.Errorf("%.40q is no source", f.Source)
		}
		where += " AND flags & 15 = " + strconv.Itoa(int(src)) // not as a parameter: connections have an index
	}
	if f.Source == "" {
		where += " AND flags & 15 <> " + sourceDirect
	}
	if f.NoAutomatic {
		where, args = where+" AND flags & 15 <> ?", append(args, int64(policy.SourceAutomatic))
	}
	if f.Counted {
		where, args = where+" AND flags & ? <> 0", append(args, int64(flagCounted))
	}
	if f.ClientIP.IsValid() {
		where, args = where+" AND client_ip = ?", append(args, address(f.ClientIP))
	}
	if f.ClientNet.IsValid() {
		first, last := ends(f.ClientNet)
		where, args = where+" AND length(client_ip) = ? AND client_ip BETWEEN ? AND ?", append(args, int64(len(first)), first, last)
	}
	if f.IPClass != policy.IPNone {
		where, args = where+" AND flags >> 4 & 7 = ?", append(args, int64(f.IPClass))
	}
	return where, args, false, nil
}

// ends are the first and the last address of a network, as they are stored.
func ends(p netip.Prefix) (first, last []byte) {
	first = p.Masked().Addr().AsSlice()
	last = slices.Clone(first)
	for bit := p.Bits(); bit < 8*len(last); bit++ {
		last[bit/8] |= 0x80 >> (bit % 8)
	}
	return first, last
}

// matches checks the conditions on texts, which SQLite cannot: they may be names.
func (c *cursor) matches(ctx context.Context, v []value, f *DecisionFilter) (bool, error) {
	for _, is := range [...]struct {
		column value
		wanted string
	}{{v[10], f.Mailbox}, {v[12], f.Directory}, {v[14], f.SubKey}, {v[17], f.Subject}} {
		if is.wanted == "" {
			continue
		}
		if text, err := c.text(ctx, is.column); err != nil || text != is.wanted {
			return false, err
		}
	}
	if f.DirectoryAccount == "" {
		return true, nil
	}
	var owner string
	var err error
	if integer(v[3])&flagOwnDir != 0 {
		owner, err = c.accountName(ctx, integer(v[2]))
	} else {
		owner, err = c.text(ctx, v[22])
	}
	return owner == f.DirectoryAccount, err
}
