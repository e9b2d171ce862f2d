package control

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"osm/policy"
	store "osm/sql"
)

// How far back the pictures of senders go unless somebody says otherwise, and at most.
const (
	ratesSince   = time.Hour
	accountSince = 24 * time.Hour
	maxHistory   = 31 * 24 * time.Hour
	maxPieces    = 2_000
)

// Rates adds up messages by verdict in pieces of step: of the whole server in whole
// minutes, of one account (or, for a reseller, of all his) in whole hours. Every piece of
// the time is there, empty ones too. Without a since it is the last hour in minutes, or
// the last day in hours.
func (s *Service) Rates(ctx context.Context, a Actor, account string, since time.Time, step time.Duration) (List[Bucket], error) {
	accounts := s.ownAccounts(a)
	if account != "" {
		if err := s.mayAccount(a, account); err != nil {
			return List[Bucket]{}, err
		}
		accounts = []string{account}
	}
	least, back := time.Minute, ratesSince
	if accounts != nil {
		least, back = time.Hour, accountSince
	}
	if step == 0 {
		step = least
	}
	now := s.o.Clock().Wall
	if since.IsZero() {
		since = now.Add(-back)
	}
	switch {
	case step%least != 0:
		return List[Bucket]{}, badRequest("step is %s: it is whole %ss here, such as %s", Period(step), longPeriod(Period(least)), Period(least))
	case since.After(now):
		return List[Bucket]{}, badRequest("since lies in the future")
	case now.Sub(since)/step >= maxPieces:
		return List[Bucket]{}, badRequest("that would be more than %s pieces of %s: take a longer step or a shorter time", decimal(maxPieces), Period(step))
	}
	var list []Bucket
	var err error
	if accounts != nil {
		list, err = s.o.Store.HistogramOf(ctx, accounts, since, step)
	} else {
		list, err = s.o.Store.Histogram(ctx, since, step)
	}
	if err != nil {
		return List[Bucket]{}, found(err, "", "no messages")
	}
	return List[Bucket]{Items: everyPiece(list, since, now, step)}, nil
}

// everyPiece puts the pieces in which nothing was sent between the others.
func everyPiece(list []Bucket, since, now time.Time, step time.Duration) []Bucket {
	known := make(map[int64]Bucket, len(list))
	for _, b := range list {
		known[b.At.UnixMilli()] = b
	}
	all := []Bucket{}
	size := step.Milliseconds()
	for at := since.UnixMilli() / size * size; at <= now.UnixMilli(); at += size {
		b, ok := known[at]
		if !ok {
			b.At = Time{Time: time.UnixMilli(at).UTC()}
		}
		all = append(all, b)
	}
	return all
}

// Counters that are at least so full are near their maximum.
const (
	nearShare = 0.5
	maxNear   = 5_000
	// nearFor is how long a walk over all counters is good for.
	nearFor = 3 * time.Second
)

// nearCache is the last walk over the counters: however many pages show it, the way of a
// message is not slowed down more often than every few seconds.
type nearCache struct {
	mu   sync.Mutex // guards what follows; whoever comes during a walk waits for it
	at   int64      // boot clock, ms
	list []policy.Near
}

func (c *nearCache) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list = nil
}

// near returns the counters that are near their maximum, as they were a moment ago.
func (s *Service) near() []policy.Near {
	c := &s.nearest
	c.mu.Lock()
	defer c.mu.Unlock()
	now := s.o.Clock()
	if c.list == nil || now.Boot-c.at >= nearFor.Milliseconds() {
		c.list = s.o.Engine.Near(now, nearShare, maxNear, func(account string) policy.Identity {
			return s.placed(policy.Identity{Account: account})
		})
		if c.list == nil {
			c.list = []policy.Near{}
		}
		c.at = now.Boot
	}
	return c.list
}

// Near lists the counters that are at least half full, enforcing or observing ones, the
// fullest first. It may be a few seconds old.
func (s *Service) Near(ctx context.Context, a Actor, p Page) (List[Near], error) {
	out := []Near{}
	for _, n := range s.near() {
		if s.visible(a, n.Account) {
			out = append(out, Near{Account: n.Account, Usage: usageRow(&n.Usage)})
		}
	}
	return numbered(out, p)
}

// maxSearch is the longest search, in bytes: no mailbox is longer.
const maxSearch = 320

// reread reads the panel's lists of accounts and domains again, for a hook of the panel's
// that has just changed one.
func (s *Service) reread(ctx context.Context, a Actor) error {
	if err := operatorOnly(a, "read the panel's lists again"); err != nil {
		return err
	}
	if s.o.Reread == nil {
		return unavailable("", "this daemon only watches the panel's lists")
	}
	if err := s.o.Reread(ctx); err != nil {
		return unavailable("osmctl status tells whether they are in order", "read the panel's lists again: %v", err)
	}
	return nil
}

// Accounts lists accounts by name, or those whose name or domain holds q, or that own the
// mailbox q, with what they sent in the last 24 hours. An operator's list begins with the
// names in parentheses that mail was charged to.
func (s *Service) Accounts(ctx context.Context, a Actor, q string, p Page) (List[Account], error) {
	q = strings.ToLower(strings.TrimSpace(q))
	if len(q) > maxSearch {
		return List[Account]{}, badRequest("a search has at most %d bytes", maxSearch)
	}
	d := s.directory()
	l := List[Account]{Items: []Account{}}
	for _, one := range s.nobodys(ctx, a, q) {
		addAccount(&l, one, p)
	}
	for i := range d.accounts {
		one := &d.accounts[i]
		if !s.visible(a, one.Name) {
			continue
		}
		if by, ok := d.matches(one, q); ok {
			if !addAccount(&l, d.account(one, by), p) {
				break
			}
		}
	}
	names := make([]string, 0, len(l.Items))
	for _, one := range l.Items {
		names = append(names, one.Account)
	}
	sums, err := s.o.Store.Tallies(ctx, names, s.o.Clock().Wall.Add(-accountSince))
	if err != nil {
		return List[Account]{}, found(err, "", "no accounts")
	}
	for i := range l.Items {
		l.Items[i].Tally = sums[l.Items[i].Account]
	}
	return l, nil
}

// addAccount puts an account behind the others on a page, whose mark is the name of its
// last one; false: the page is full, and there is more.
func addAccount(l *List[Account], one Account, p Page) bool {
	if p.After != "" && one.Account <= p.After {
		return true
	}
	if len(l.Items) == p.Limit {
		l.Next = l.Items[len(l.Items)-1].Account
		return false
	}
	l.Items = append(l.Items, one)
	return true
}

// maxDomains is how many of an account's domains are shown.
const maxDomains = 20

// account makes a row of the panel's account.
func (d *directory) account(one *policy.Account, by string) Account {
	domains := d.domains[one.Name]
	shown := domains[:min(len(domains), maxDomains)]
	return Account{
		Account: one.Name, Reseller: one.Reseller, Package: one.Package, Matched: by,
		Domains: append([]string{}, shown...), More: len(domains) - len(shown),
	}
}

// nobodys are the names that stand for no account of the panel, "(unknown)" and the like,
// as far as mail was charged to them.
func (s *Service) nobodys(ctx context.Context, a Actor, q string) []Account {
	if a.Role != Operator {
		return nil
	}
	names, err := s.o.Store.AccountNames(ctx, "(", ")", maxLimit)
	if err != nil {
		return nil // the accounts are worth showing without them, and what comes next fails too
	}
	var out []Account
	for _, name := range names {
		if strings.Contains(name, q) {
			out = append(out, nobody(name))
		}
	}
	return out
}

func nobody(name string) Account { return Account{Account: name, Domains: []string{}, System: true} }

// Account tells all about one.
func (s *Service) Account(ctx context.Context, a Actor, name string, since time.Time) (AccountDetail, error) {
	one, err := s.accountNamed(ctx, a, name)
	if err != nil {
		return AccountDetail{}, err
	}
	now := s.o.Clock().Wall
	switch {
	case since.IsZero():
		since = now.Add(-accountSince)
	case since.After(now):
		return AccountDetail{}, badRequest("since lies in the future")
	case now.Sub(since) > maxHistory:
		since = now.Add(-maxHistory)
	}
	out := AccountDetail{Account: one}
	history, err := s.o.Store.HistogramOf(ctx, []string{name}, since, time.Hour)
	if err != nil {
		return AccountDetail{}, found(err, "", "no messages")
	}
	for i := range history {
		out.Tally.Add(&history[i].Tally)
	}
	out.History = everyPiece(history, since, now, time.Hour)
	shares, err := s.o.Store.Shares(ctx, name, since)
	if err != nil {
		return AccountDetail{}, found(err, "", "no messages")
	}
	out.Since, out.Looked = Time{Time: shares.Since}, shares.Looked
	for from, to := range map[*[]Share]*[]Share{&shares.Mailboxes: &out.Mailboxes, &shares.Directories: &out.Directories,
		&shares.Subjects: &out.Subjects, &shares.ClientIPs: &out.ClientIPs, &shares.Scripts: &out.Scripts} {
		*to = append([]Share{}, *from...) // [] and never null
	}
	out.Limits, err = s.limitsOf(ctx, a, name)
	return out, err
}

// accountNamed finds an account of the panel, or one that mail was charged to.
func (s *Service) accountNamed(ctx context.Context, a Actor, name string) (Account, error) {
	if !s.visible(a, name) {
		return Account{}, noAccount(name)
	}
	d := s.directory()
	if one, ok := d.from.ByName(name); ok && !one.System {
		return d.account(&one, ""), nil
	}
	switch known, err := s.o.Store.KnowsAccount(ctx, name); {
	case err != nil:
		return Account{}, found(err, "", "no account")
	case !known:
		return Account{}, noAccount(name)
	}
	return nobody(name), nil
}

// mistyped refuses the name of an account that neither the panel nor any mail knows: what
// is set for it would do nothing, and whoever set it would think that it does. Without the
// panel's maps or the database nobody can tell, and the name is taken.
func (s *Service) mistyped(ctx context.Context, a Actor, name string) error {
	if name == "" || strings.HasPrefix(name, "(") || len(s.directory().accounts) == 0 {
		return nil
	}
	_, err := s.accountNamed(ctx, a, name)
	if statusOf(err) == http.StatusNotFound {
		return err
	}
	return nil
}

// Decisions lists messages that were decided about, the newest first: with a verdict, or
// "stopped", or "observed" (passed only because a trigger observes).
func (s *Service) Decisions(ctx context.Context, a Actor, account, verdict string, since time.Time, p Page) (List[Decision], error) {
	if _, known := policy.ParseVerdict(verdict); verdict != "" && verdict != "stopped" && verdict != "observed" && !known {
		return List[Decision]{}, badRequest("verdict is %.40q: it is accept, freeze, discard, defer, deny, stopped or observed", verdict)
	}
	if err := pageMark(p); err != nil {
		return List[Decision]{}, err
	}
	f := store.DecisionFilter{Account: account, Verdict: verdict, Since: since, Limit: p.Limit, After: p.After}
	if account != "" {
		if err := s.mayAccount(a, account); err != nil {
			return List[Decision]{}, err
		}
	} else {
		f.Accounts = s.ownAccounts(a)
	}
	list, next, err := s.o.Store.Decisions(ctx, f)
	if errors.Is(err, context.DeadlineExceeded) {
		return List[Decision]{}, unavailable("ask for less: a shorter time, or one account", "reading took too long")
	}
	return List[Decision]{Items: list, Next: next}, found(err, "", "no messages")
}
