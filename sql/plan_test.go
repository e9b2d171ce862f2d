package store

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"osm/policy"
)

// TestNothingIsReadFromEndToEnd runs whatever the page asks for and looks at SQLite's plans:
// what grows with the mail is reached by an index or by numbers, never read whole.
func TestNothingIsReadFromEndToEnd(t *testing.T) {
	f := start(t, "")
	mixed(t, f, 3_000)
	for seq := uint64(3_001); seq <= 3_010; seq++ {
		f.Append(directDecision(seq, "shop1"))
	}
	f.flush(t)
	if err := f.UpsertEvent(context.Background(), policy.Event{ID: 1, At: day, LastAt: day, Account: "shop1", Key: "shop1", Trigger: "account-hour"}); err != nil {
		t.Fatal(err)
	}
	ctx, since := context.Background(), day.Add(-time.Hour)
	many := []string{"shop1", "(shared:nobody)"}
	for i := range fewAccounts + 1 {
		many = append(many, fmt.Sprintf("acct%d", i))
	}
	asks := map[string]func() error{
		"connections":               func() error { _, _, err := f.Connections(ctx, ConnectionFilter{}); return err },
		"connections since":         func() error { _, _, err := f.Connections(ctx, ConnectionFilter{Since: since}); return err },
		"connections of an account": func() error { _, _, err := f.Connections(ctx, ConnectionFilter{Account: "shop1"}); return err },
		"connections of a reseller": func() error { _, _, err := f.Connections(ctx, ConnectionFilter{Accounts: many}); return err },
		"connections that filled": func() error {
			_, err := f.ConnectionsThatFilled(ctx, Filled{Watch: policy.WatchDirect, Account: "shop1"}, since, day, 10)
			return err
		},
		"one connection":             func() error { _, err := f.ConnectionBySeq(ctx, 1); return nothing(err) },
		"an event":                   func() error { _, err := f.Event(ctx, 1); return err },
		"decisions of source direct": f.decisions(DecisionFilter{Source: "direct"}),
		"rates of an account":        func() error { _, err := f.HistogramOf(ctx, many[:1], since, time.Hour); return err },
		"rates of many accounts":     func() error { _, err := f.HistogramOf(ctx, many, since, time.Hour); return err },
		"rates of the server":        func() error { _, err := f.Histogram(ctx, since, time.Minute); return err },
		"totals of a page":           func() error { _, err := f.Tallies(ctx, many, since); return err },
		"names in parentheses":       func() error { _, err := f.AccountNames(ctx, "(", ")", 100); return err },
		"one name":                   func() error { _, err := f.KnowsAccount(ctx, "shop1"); return err },
		"shares":                     func() error { _, err := f.Shares(ctx, "shop1", since); return err },
		"the past":                   func() error { return f.past(ctx, PastFilter{Since: since, Newest: 1000}) },
		"the past of connections": func() error {
			return f.past(ctx, PastFilter{Since: since, Newest: 1000, Connections: true})
		},
		"the past of connections of some": func() error {
			return f.past(ctx, PastFilter{Since: since, Newest: 1000, Connections: true, Accounts: many})
		},
		"the past of an account": func() error { return f.past(ctx, PastFilter{Since: since, Newest: 1000, Accounts: many}) },
		"top of a reseller": func() error {
			_, err := f.Top(ctx, TopFilter{Since: since, By: "recipients", Accounts: many, Limit: 10})
			return err
		},
		"events of a reseller":       func() error { _, _, err := f.Events(ctx, EventFilter{Accounts: many}); return err },
		"events of an account":       func() error { _, _, err := f.Events(ctx, EventFilter{Account: "shop1"}); return err },
		"open events":                func() error { _, _, err := f.Events(ctx, EventFilter{OpenOnly: true}); return err },
		"held mail of a reseller":    func() error { _, _, err := f.HeldList(ctx, HeldFilter{Accounts: many}); return err },
		"a change":                   func() error { _, err := f.AuditEntry(ctx, 1); return nothing(err) },
		"settings":                   func() error { _, err := f.Settings(ctx); return err },
		"messages":                   f.decisions(DecisionFilter{}),
		"messages of an account":     f.decisions(DecisionFilter{Account: "shop1"}),
		"messages of a reseller":     f.decisions(DecisionFilter{Accounts: many}),
		"stopped messages":           f.decisions(DecisionFilter{Verdict: "stopped"}),
		"stopped of an account":      f.decisions(DecisionFilter{Account: "shop1", Verdict: "stopped"}),
		"stopped of a reseller":      f.decisions(DecisionFilter{Accounts: many, Verdict: "freeze"}),
		"observed messages":          f.decisions(DecisionFilter{Verdict: "observed"}),
		"observed of an account":     f.decisions(DecisionFilter{Account: "shop1", Verdict: "observed"}),
		"accepted of an account":     f.decisions(DecisionFilter{Account: "shop1", Verdict: "accept", Since: since}),
		"accepted of a whole server": f.decisions(DecisionFilter{Verdict: "accept", Since: since}),
	}
	for name, ask := range asks {
		t.Run(name, func(t *testing.T) {
			seen := map[string][]value{}
			f.reader.Load().asked = func(query string, args []value) { seen[query] = args }
			err := ask()
			f.reader.Load().asked = nil
			if err != nil {
				t.Fatal(err)
			}
			if len(seen) == 0 {
				t.Fatal("nothing was asked")
			}
			for query, args := range seen {
				f.plan(t, query, args)
			}
		})
	}
}

// plan fails where a query reads a table whole that grows with the mail.
func (f *fixture) plan(t *testing.T, query string, args []value) {
	t.Helper()
	err := f.read(context.Background(), "explain", func(ctx context.Context, c *cursor) error {
		return c.each(ctx, "EXPLAIN QUERY PLAN "+query, args, func(v []value) error {
			step := str(v[3])
			for _, table := range []string{"decisions", "events", "event_messages", "held", "hours", "t", "minutes", "names", "accounts", "a", "audit", "connections", "kept"} {
				whole := step == "SCAN "+table || strings.HasPrefix(step, "SCAN "+table+" ")
				if whole && !strings.HasSuffix(step, "USING INDEX events_open") { // which holds only what is open
					t.Errorf("%s\nin: %s", step, query)
				}
			}
			return nil
		})
	})
	if err != nil {
		t.Errorf("%v\nin: %s", err, query)
	}
}

func (f *fixture) decisions(filter DecisionFilter) func() error {
	return func() error {
		filter.Limit = 10
		_, _, err := f.Decisions(context.Background(), filter)
		return err
	}
}

func (f *fixture) past(ctx context.Context, filter PastFilter) error {
	if _, _, err := f.PastOf(ctx, filter); err != nil {
		return err
	}
	return f.EachPast(ctx, filter, policy.Moment{Wall: day, Boot: policy.BootShift}, func(*Counted) error { return nil })
}

// nothing is an error of a row that is not there.
func nothing(err error) error {
	if err != nil && !strings.Contains(err.Error(), ErrNotFound.Error()) {
		return err
	}
	return nil
}
