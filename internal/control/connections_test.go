package control_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"osm/internal/control"
	"osm/internal/control/controltest"
	"osm/policy"
)

func connect(d *controltest.Daemon) {
	for range 3 {
		d.Connect(controltest.Conn{Account: "shop", Directory: "/home/shop/public_html", UID: 1001})
		d.Advance(time.Second)
	}
	d.Connect(controltest.Conn{Account: "blog", Directory: "/home/blog", UID: 1003, Remote: "[2001:db8::25]:587"})
	d.Connect(controltest.Conn{Account: "(unknown)"})
	d.Send(controltest.Mail{Account: "shop"})
}

func TestConnectionsAreListedByTheirFilters(t *testing.T) {
	d := controltest.New(t, "")
	connect(d)
	for name, c := range map[string]struct {
		actor  control.Actor
		filter control.ConnectionFilter
		want   int
		status int
	}{
		"all":                            {operator(), control.ConnectionFilter{}, 5, 0},
		"an account":                     {operator(), control.ConnectionFilter{Account: "shop"}, 3, 0},
		"a directory":                    {operator(), control.ConnectionFilter{Directory: "/home/blog"}, 1, 0},
		"a uid":                          {operator(), control.ConnectionFilter{UID: "1001"}, 3, 0},
		"root, whose nothing unknown is": {operator(), control.ConnectionFilter{UID: "0"}, 0, 0},
		"an address":                     {operator(), control.ConnectionFilter{Remote: "198.51.100.7"}, 4, 0},
		"an address, mapped":             {operator(), control.ConnectionFilter{Remote: "::ffff:198.51.100.7"}, 4, 0},
		"a network":                      {operator(), control.ConnectionFilter{Remote: "2001:db8::/32"}, 1, 0},
		"a port":                         {operator(), control.ConnectionFilter{Remote: ":587"}, 1, 0},
		"a port without its colon":       {operator(), control.ConnectionFilter{Remote: "25"}, 4, 0},
		"an address with another port":   {operator(), control.ConnectionFilter{Remote: "198.51.100.7:465"}, 0, 0},
		"an IPv6 address with its port":  {operator(), control.ConnectionFilter{Remote: "[2001:db8::25]:587"}, 1, 0},
		"a time":                         {operator(), control.ConnectionFilter{Since: controltest.Start().Add(2 * time.Second)}, 3, 0},
		"a reseller's":                   {bob(), control.ConnectionFilter{}, 3, 0},
		"a reseller's own account":       {bob(), control.ConnectionFilter{Account: "shop"}, 3, 0},
		"another's account":              {bob(), control.ConnectionFilter{Account: "blog"}, 0, 422},
		"a host name":                    {operator(), control.ConnectionFilter{Remote: "mail.example"}, 0, 400},
		"a port that is none":            {operator(), control.ConnectionFilter{Remote: ":70000"}, 0, 400},
		"a uid that is none":             {operator(), control.ConnectionFilter{UID: "root"}, 0, 400},
	} {
		l, err := d.Service.Connections(t.Context(), c.actor, c.filter, page(100, ""))
		var refused *control.Error
		if errors.As(err, &refused) && c.status != 0 && (refused.Status == c.status || refused.Status == 404) {
			continue
		}
		if err != nil || len(l.Items) != c.want {
			t.Errorf("%s: %d, %v; want %d", name, len(l.Items), err, c.want)
		}
	}
	first, err := d.Service.Connections(t.Context(), operator(), control.ConnectionFilter{}, page(2, ""))
	if err != nil || len(first.Items) != 2 || first.Next == "" {
		t.Fatalf("first page: %+v, %v", first, err)
	}
	rest, err := d.Service.Connections(t.Context(), operator(), control.ConnectionFilter{}, page(10, first.Next))
	if err != nil || len(rest.Items) != 3 || rest.Next != "" {
		t.Errorf("the rest: %+v, %v", rest, err)
	}
	if _, err := d.Service.Connections(t.Context(), operator(), control.ConnectionFilter{}, page(10, "x")); err == nil {
		t.Error("a mark that no page gave is taken")
	}
	// They are in no list of messages.
	if l, err := d.Service.Decisions(t.Context(), operator(), "", "", time.Time{}, page(10, "")); err != nil || len(l.Items) != 1 {
		t.Errorf("messages: %d, %v; want the one", len(l.Items), err)
	}
	if l, err := d.Service.Top(t.Context(), operator(), time.Time{}, "connections", page(10, "")); err != nil || len(l.Items) != 3 || l.Items[0].Connections != 3 || l.Items[0].Messages != 1 {
		t.Errorf("top: %+v, %v; want shop with three connections and a message first", l, err)
	}
}

func TestAResellerReadsNothingOfOtherUsersProcesses(t *testing.T) {
	d := controltest.New(t, "")
	shops := d.Connect(controltest.Conn{Account: "shop", UID: 1001, Over: true})
	d.Flush()
	for name, ask := range map[string]func(a control.Actor) (any, error){
		"list": func(a control.Actor) (any, error) {
			return d.Service.Connections(t.Context(), a, control.ConnectionFilter{}, page(10, ""))
		},
		"explain": func(a control.Actor) (any, error) { return d.Service.Explain(t.Context(), a, shops.Ref) },
		"event":   func(a control.Actor) (any, error) { return d.Service.Event(t.Context(), a, 1) },
	} {
		for who, secret := range map[string]bool{"operator": true, "reseller": false} {
			a := operator()
			if !secret {
				a = bob()
			}
			v, err := ask(a)
			b, _ := json.Marshal(v)
			if err != nil || strings.Contains(string(b), "--secret") != secret || !strings.Contains(string(b), "mailer.php") {
				t.Errorf("%s, asked by a %s: %s, %v", name, who, b, err)
			}
		}
	}
}

func TestAConnectionIsExplainedAsOne(t *testing.T) {
	d := controltest.New(t, "")
	for range 3 {
		d.Connect(controltest.Conn{Account: "shop", Directory: "/home/shop/public_html", UID: 1001})
		d.Advance(time.Minute)
	}
	over := d.Connect(controltest.Conn{Account: "shop", Directory: "/home/shop/public_html", UID: 1001, Over: true})
	d.Flush()
	x, err := d.Service.Explain(t.Context(), operator(), over.Ref)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"This connection of account shop from 192.0.2.1:40001 to 198.51.100.7:25", "the other end answered", "Process 700 made it (/usr/bin/php in /home/shop/public_html)",
		"trigger direct-hour lets 30 connections pass in any hour", "30 of 30 had been used", "this connection counts as 1"} {
		if !strings.Contains(x.Why, want) {
			t.Errorf("why = %q, want %q in it", x.Why, want)
		}
	}
	if text := x.Why + x.Next; strings.Contains(strings.ToLower(text), "message") || strings.Contains(text, "mail ") {
		t.Errorf("a connection is told of as a message: %s %s", x.Why, x.Next)
	}
	if x.Event == nil || x.Command != "osmctl event 1" || x.Connection == nil || x.Held != nil || len(x.FilledBy) != 0 || len(x.FilledByConnections) == 0 {
		t.Errorf("explanation = %+v", x)
	}
	e, err := d.Service.Event(t.Context(), operator(), 1)
	if err != nil || len(e.Messages) != 0 || len(e.Connections) != 1 || !strings.Contains(strings.Join(e.Evidence, "|"), "destination 198.51.100.7:25: 1 of 1 connections") {
		t.Errorf("event = %+v, %v", e, err)
	}
	within := d.Connect(controltest.Conn{Account: "blog", Directory: "/home/blog"})
	x, err = d.Service.Explain(t.Context(), operator(), within.Ref)
	if err != nil || x.Command != "osmctl connections --account blog" || x.Event != nil {
		t.Errorf("one within its limits: %+v, %v", x, err)
	}
}

// TestALimitOfConnections goes the whole way: the engine finds who is over, the event and
// the explanation tell of it.
func TestALimitOfConnections(t *testing.T) {
	d := controltest.New(t, "[[trigger]]\nname = \"direct-hour\"\nmax = 3\nmode = \"enforce\"\n[[trigger]]\nname = \"account-hour\"\nmax = 3\ncount = \"messages\"\nmode = \"enforce\"\n")
	var last string
	for range 5 {
		last = d.Connect(controltest.Conn{Account: "shop", Directory: "/home/shop/tmp", UID: 1001}).Ref
		d.Advance(time.Second)
	}
	if mail := d.Send(controltest.Mail{Account: "shop"}); mail.Verdict != policy.Accept {
		t.Errorf("connections used up what the account may send: %+v", mail)
	}
	d.Flush()
	s, ctx := d.Service, t.Context()
	x, err := s.Explain(ctx, bob(), last)
	if err != nil || x.Event == nil || len(x.FilledByConnections) != 4 || len(x.Usage) == 0 {
		t.Fatalf("explanation = %+v, %v; want its event, the four before it and the counters", x, err)
	}
	for _, want := range []string{"It was over a limit: trigger direct-hour lets 3 connections pass in any hour", "4 of 3 had been used", "What its trigger does beside is in event 1."} {
		if !strings.Contains(x.Why+" "+x.Next, want) {
			t.Errorf("told: %s %s; want %q", x.Why, x.Next, want)
		}
	}
	for _, u := range x.Usage {
		if u.Count != "connections" {
			t.Errorf("a connection fills %+v", u)
		}
	}
	e, err := s.Event(ctx, bob(), 1)
	if err != nil || e.Stopped != 2 || len(e.Connections) != 2 || e.Count != "connections" || e.Key != "shop" {
		t.Errorf("event = %+v, %v; want the two that were over", e, err)
	}
	if _, err := s.PutHold(ctx, operator(), control.Hold{Scope: "account", Account: "shop"}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.AddExemption(ctx, operator(), control.Exemption{Scope: "destination", Value: "203.0.113.0/24"}); err != nil {
		t.Fatal(err)
	}
	held := d.Connect(controltest.Conn{Account: "shop", UID: 1001})
	allowed := d.Connect(controltest.Conn{Account: "shop", UID: 1001, Remote: "203.0.113.9:587"})
	d.Flush()
	for ref, want := range map[string]string{held.Ref: "Hold 1 stood on account shop: it stops mail, and no connection.", allowed.Ref: "An exemption lets this sender connect there: it is not counted."} {
		if x, err := s.Explain(ctx, bob(), ref); err != nil || !strings.Contains(x.Why, want) {
			t.Errorf("told: %s, %v; want %q", x.Why, err, want)
		}
	}
}

func TestAPreviewOfALimitOfConnections(t *testing.T) {
	d := controltest.New(t, "[[trigger]]\nname = \"direct-hour\"\nmax = 3\nmode = \"enforce\"\n")
	for range 5 {
		d.Connect(controltest.Conn{Account: "shop", Directory: "/home/shop/tmp", UID: 1001})
		d.Advance(time.Second)
	}
	d.Send(controltest.Mail{Account: "shop"})
	s, ctx, one := d.Service, t.Context(), int64(1)
	if _, err := s.AddExemption(ctx, operator(), control.Exemption{Scope: "destination", Value: "203.0.113.0/24"}); err != nil {
		t.Fatal(err)
	}
	d.Connect(controltest.Conn{Account: "shop", UID: 1001, Remote: "203.0.113.9:587"}) // a relay service's: not looked at
	d.Flush()
	for level, limit := range map[string]control.Limit{"server": {Level: "server", Trigger: "direct-hour", Max: &one}, "account": {Level: "account", Name: "shop", Trigger: "direct-hour", Max: &one}} {
		p, err := s.PreviewLimit(ctx, operator(), limit, 0, time.Time{})
		if err != nil || p.Messages != 5 || p.Observed != 4 || p.Stopped != 0 || p.Now != 2 || p.Noun != "connection" || !strings.Contains(p.Text, "reported 4 connections of 1 account; the limits in force would have reported 2 connections.") {
			t.Errorf("preview for the %s = %+v, %v", level, p, err)
		}
	}
	mail := control.Limit{Level: "server", Trigger: "account-hour", Max: &one}
	if p, err := s.PreviewLimit(ctx, operator(), mail, 0, time.Time{}); err != nil || p.Messages != 1 || p.Noun != "message" {
		t.Errorf("preview of a limit of messages = %+v, %v; want the one message looked at", p, err)
	}
}

func TestConnectionsAreFollowedApartFromMail(t *testing.T) {
	d := controltest.New(t, "")
	c := control.NewClient(d.Socket)
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	enough := errors.New("enough")
	listening, got := make(chan struct{}), make(chan control.Connection, 10)
	ended := make(chan error, 2)
	go func() {
		first := true
		ended <- d.Service.TailConnections(ctx, bob(), control.ConnectionFilter{Remote: ":25"}, func(l control.ConnectionLine) error {
			if first {
				first = false
				close(listening)
			}
			if l.Idle {
				return nil
			}
			got <- *l.Connection
			return enough
		})
	}()
	<-listening
	mail := make(chan error, 1)
	both := make(chan struct{})
	go func() {
		opened := false
		mail <- d.Service.Tail(ctx, operator(), "", false, func(l control.TailLine) error {
			if !opened {
				opened = true
				close(both)
			}
			if l.Idle {
				return nil
			}
			if l.Source == "direct" {
				return errors.New("a connection among messages")
			}
			return enough
		})
	}()
	<-both
	d.Connect(controltest.Conn{Account: "blog"})                                       // another's
	d.Connect(controltest.Conn{Account: "shop", UID: 1001, Remote: "203.0.113.5:587"}) // another port
	d.Send(controltest.Mail{Account: "shop"})
	shops := d.Connect(controltest.Conn{Account: "shop", UID: 1001})
	if err := <-ended; !errors.Is(err, enough) {
		t.Fatal(err)
	}
	if one := <-got; one.Ref != shops.Ref || one.Remote != "198.51.100.7:25" || one.StartedBy == nil || len(one.StartedBy.Arguments) != 0 {
		t.Errorf("got %+v", one)
	}
	if err := <-mail; !errors.Is(err, enough) {
		t.Error(err)
	}
	// Over the socket, too.
	go func() {
		ended <- c.TailConnections(ctx, control.Query{Where: map[string]string{"account": "shop"}}, func(control.ConnectionLine) error { return enough })
	}()
	for {
		d.Connect(controltest.Conn{Account: "shop"})
		select {
		case err := <-ended:
			if !errors.Is(err, enough) {
				t.Error(err)
			}
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}
