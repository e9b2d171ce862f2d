package control_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"osm/internal/control"
	"osm/internal/control/controltest"
	"osm/policy"
	store "osm/sql"
)

// TestAnothersLooksLikeNothing has a reseller ask for what is another's and for what does
// not exist, by every call that takes a name: the answers differ in that name only.
func TestAnothersLooksLikeNothing(t *testing.T) {
	d := controltest.New(t, enforced+"\n[[for]]\nreseller = \"bob\"\nmax = 10\n")
	for range 4 {
		d.Send(controltest.Mail{Account: "blog", Directory: "/home/blog", Subject: "Secret"})
	}
	blogs := d.Send(controltest.Mail{Account: "blog", Directory: "/home/blog", Subject: "Secret"})
	connection := d.Connect(controltest.Conn{Account: "blog", Directory: "/home/blog", UID: 1003})
	d.Flush()
	s, ctx, p := d.Service, t.Context(), page(10, "")
	hold, err := s.PutHold(ctx, operator(), control.Hold{Scope: "account", Account: "blog"})
	if err != nil {
		t.Fatal(err)
	}
	limit, err := s.SetLimit(ctx, operator(), limitOf("account", "blog", "account-hour", 9))
	if err != nil {
		t.Fatal(err)
	}
	change := lastChange(t, d).ID
	done, err := d.Store.PutAction(ctx, store.Action{EventID: 1, Account: "blog", Name: "suspend-account", Target: "blog", State: "done", Record: "abcdefghijkl"})
	if err != nil {
		t.Fatal(err)
	}
	events, err := s.Events(ctx, operator(), control.EventFilter{}, p)
	if err != nil || len(events.Items) != 1 {
		t.Fatalf("events = %+v, %v", events, err)
	}
	event := events.Items[0].ID
	byName := map[string]func(name string) error{
		"usage":     func(n string) error { return second(s.Usage(ctx, bob(), n, p)) },
		"account":   func(n string) error { return second(s.Account(ctx, bob(), n, time.Time{})) },
		"rates":     func(n string) error { return second(s.Rates(ctx, bob(), n, time.Time{}, 0)) },
		"decisions": func(n string) error { return second(s.Decisions(ctx, bob(), n, "", time.Time{}, p)) },
		"connections": func(n string) error {
			return second(s.Connections(ctx, bob(), control.ConnectionFilter{Account: n}, p))
		},
		"tail of connections": func(n string) error {
			return s.TailConnections(ctx, bob(), control.ConnectionFilter{Account: n}, func(control.ConnectionLine) error { return errors.New("it is shown") })
		},
		"events":   func(n string) error { return second(s.Events(ctx, bob(), control.EventFilter{Account: n}, p)) },
		"held":     func(n string) error { return second(s.Held(ctx, bob(), control.Selection{Account: n}, p)) },
		"triggers": func(n string) error { return second(s.Triggers(ctx, bob(), "account", n)) },
		"triggers of pkg": func(n string) error {
			return second(s.Triggers(ctx, bob(), "package", strings.Replace(n, "blog", "silver", 1)))
		},
		"mailbox": func(n string) error { return second(s.Triggers(ctx, bob(), "mailbox", "a@"+n+".example")) },
		"tail": func(n string) error {
			return s.Tail(ctx, bob(), n, false, func(control.TailLine) error { return errors.New("it is shown") })
		},
		"discard": func(n string) error {
			return second(s.DiscardHeld(ctx, bob(), control.Settle{Selection: control.Selection{Account: n}}))
		},
		"limit": func(n string) error { return second(s.SetLimit(ctx, bob(), limitOf("account", n, "account-hour", 1))) },
		"mailbox limit": func(n string) error {
			return second(s.SetLimit(ctx, bob(), limitOf("mailbox", "a@"+n+".example", "login-hour", 1)))
		},
		"preview": func(n string) error {
			return second(s.PreviewLimit(ctx, bob(), limitOf("account", n, "account-hour", 1), 0, time.Time{}))
		},
		"hold": func(n string) error { return second(s.PutHold(ctx, bob(), control.Hold{Scope: "account", Account: n})) },
		"mailbox hold": func(n string) error {
			return second(s.PutHold(ctx, bob(), control.Hold{Scope: "mailbox", Value: "a@" + n + ".example"}))
		},
		"directory hold": func(n string) error {
			return second(s.PutHold(ctx, bob(), control.Hold{Scope: "directory", Value: "/home/" + n}))
		},
		"hold on another's mailbox beside his own account": func(n string) error {
			return second(s.PutHold(ctx, bob(), control.Hold{Scope: "mailbox", Account: "shop", Value: "a@" + n + ".example"}))
		},
		"actions":  func(n string) error { return second(s.Actions(ctx, bob(), control.ActionFilter{Account: n}, p)) },
		"describe": func(n string) error { return second(s.Describe(ctx, bob(), control.Describe{Account: n})) },
		"describe mailbox": func(n string) error {
			return second(s.Describe(ctx, bob(), control.Describe{Mailbox: "a@" + n + ".example"}))
		},
		"describe directory": func(n string) error { return second(s.Describe(ctx, bob(), control.Describe{Directory: "/home/" + n})) },
	}
	for what, ask := range byName {
		anothers, missing := ask("blog"), ask("nine")
		sameRefusal(t, what, anothers, missing, "blog", "nine", "silver", "nine")
	}
	ref, noRef := blogs.Ref, "zzzzzzzz"
	for what, c := range map[string][2]error{
		"explanation of a connection": {second(s.Explain(ctx, bob(), connection.Ref)), second(s.Explain(ctx, bob(), noRef))},
		"explain":                     {second(s.Explain(ctx, bob(), ref)), second(s.Explain(ctx, bob(), noRef))},
		"explain by id":               {second(s.Explain(ctx, bob(), blogs.Submission.MessageID)), second(s.Explain(ctx, bob(), "1vN3xQ-000abc-2F"))},
		"held message":                {second(s.HeldMessage(ctx, bob(), ref)), second(s.HeldMessage(ctx, bob(), noRef))},
		"discard by ref": {second(s.DiscardHeld(ctx, bob(), control.Settle{Selection: control.Selection{Refs: []string{ref}}})),
			second(s.DiscardHeld(ctx, bob(), control.Settle{Selection: control.Selection{Refs: []string{noRef}}}))},
	} {
		sameRefusal(t, what, c[0], c[1], ref, noRef, connection.Ref, noRef, blogs.Submission.MessageID, "1vN3xQ-000abc-2F")
	}
	for what, c := range map[string][2]error{
		"event":                   {second(s.Event(ctx, bob(), event)), second(s.Event(ctx, bob(), 99))},
		"end of a hold":           {second(s.EndHold(ctx, bob(), hold.ID, "")), second(s.EndHold(ctx, bob(), 99, ""))},
		"removal of a limit":      {second(s.RemoveLimit(ctx, bob(), limit.ID, "")), second(s.RemoveLimit(ctx, bob(), 99, ""))},
		"preview of such removal": {second(s.PreviewLimit(ctx, bob(), control.Limit{}, limit.ID, time.Time{})), second(s.PreviewLimit(ctx, bob(), control.Limit{}, 99, time.Time{}))},
		"undo of an action":       {second(s.UndoAction(ctx, bob(), done, "")), second(s.UndoAction(ctx, bob(), 99, ""))},
		"undo":                    {second(s.Undo(ctx, bob(), change, "")), second(s.Undo(ctx, bob(), 99, ""))},
	} {
		sameRefusal(t, what, c[0], c[1], " 1", " 99", " 2", " 99")
	}
	for what, n := range map[string]int{
		"top":         count(t)(s.Top(ctx, bob(), time.Time{}, "", p)),
		"events":      count(t)(s.Events(ctx, bob(), control.EventFilter{}, p)),
		"held":        count(t)(s.Held(ctx, bob(), control.Selection{State: "all"}, p)),
		"holds":       count(t)(s.Holds(ctx, bob(), "blog", p)),
		"limits":      count(t)(s.Limits(ctx, bob(), "account", "", p)),
		"actions":     count(t)(s.Actions(ctx, bob(), control.ActionFilter{}, p)),
		"near":        count(t)(s.Near(ctx, bob(), p)),
		"accounts":    count(t)(s.Accounts(ctx, bob(), "blog", p)),
		"connections": count(t)(s.Connections(ctx, bob(), control.ConnectionFilter{}, p)),
		"decisions":   count(t)(s.Decisions(ctx, bob(), "", "", time.Time{}, p)),
	} {
		if n != 0 {
			t.Errorf("%s of a reseller without mail: %d rows, want none", what, n)
		}
	}
}

func count(t *testing.T) func(l any, err error) int {
	return func(l any, err error) int {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		switch l := l.(type) {
		case control.List[control.Top]:
			return len(l.Items)
		case control.List[control.Event]:
			return len(l.Items)
		case control.List[control.HeldMessage]:
			return len(l.Items)
		case control.List[control.Hold]:
			return len(l.Items)
		case control.List[control.Limit]:
			return len(l.Items)
		case control.List[control.Action]:
			return len(l.Items)
		case control.List[control.Near]:
			return len(l.Items)
		case control.List[control.Account]:
			return len(l.Items)
		case control.List[control.Connection]:
			return len(l.Items)
		case control.List[control.Decision]:
			return len(l.Items)
		}
		t.Fatalf("%T is no list", l)
		return 0
	}
}

// sameRefusal fails unless both are refused alike, but for pairs of names in them.
func sameRefusal(t *testing.T, what string, anothers, missing error, pairs ...string) {
	t.Helper()
	var a, m *control.Error
	if !errors.As(anothers, &a) || !errors.As(missing, &m) {
		t.Errorf("%s: another's %v, missing %v: want both refused", what, anothers, missing)
		return
	}
	got, want := a.Message+"|"+a.Hint, m.Message+"|"+m.Hint
	for i := 0; i+1 < len(pairs); i += 2 {
		got, want = strings.ReplaceAll(got, pairs[i], "X"), strings.ReplaceAll(want, pairs[i+1], "X")
	}
	if a.Status != m.Status || got != want || a.Status != 404 && a.Status != 422 {
		t.Errorf("%s: another's is %d %q, what does not exist %d %q", what, a.Status, a.Message, m.Status, m.Message)
	}
}

// TestAccountsThatShareAnAddressDoNotSeeEachOther fills one address's limit by a reseller's
// account and another's.
func TestAccountsThatShareAnAddressDoNotSeeEachOther(t *testing.T) {
	d := controltest.New(t, "[[trigger]]\nname = \"client-ip-hour\"\nmax = 3\ncount = \"messages\"\nmode = \"enforce\"\n")
	blog := controltest.Mail{Account: "blog", Mailbox: "info@blog.example", IP: "192.0.2.7", Subject: "Secret"}
	shop := controltest.Mail{Account: "shop", Mailbox: "info@shop.example", IP: "192.0.2.7", Subject: "Mine"}
	for range 3 {
		d.Send(blog)
	}
	d.Send(blog) // its event
	last := d.Send(shop)
	d.Flush()
	if last.Verdict == policy.Accept {
		t.Fatal("the address is not over its limit")
	}
	s, ctx := d.Service, t.Context()
	x, err := s.Explain(ctx, bob(), last.Ref)
	if err != nil {
		t.Fatal(err)
	}
	if len(x.FilledBy) != 0 || x.Event != nil {
		t.Errorf("a reseller sees another's messages that filled the limit: %+v, %+v", x.FilledBy, x.Event)
	}
	if x, err := s.Explain(ctx, operator(), last.Ref); err != nil || len(x.FilledBy) != 3 || x.Event == nil {
		t.Errorf("an operator sees %d messages and event %v, %v; want all", len(x.FilledBy), x.Event, err)
	}
	e, err := s.Event(ctx, operator(), 1)
	if err != nil || len(e.Messages) != 2 {
		t.Fatalf("event = %+v, %v, want both stopped messages", e, err)
	}
	carol := control.Actor{Name: "carol", Role: control.Reseller, Reseller: "carol"}
	e, err = s.Event(ctx, carol, 1)
	if err != nil || len(e.Messages) != 1 || e.Messages[0].Account != "blog" || strings.Contains(strings.Join(e.Evidence, " "), "shop") {
		t.Errorf("the event's reseller sees %+v, %v, want the message of his own account", e, err)
	}
}
