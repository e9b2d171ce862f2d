package control_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"osm/internal/control"
	"osm/internal/control/controltest"
)

// wantStatus fails the test unless err is an error of the API with that status.
func wantStatus(t *testing.T, what string, err error, status int) {
	t.Helper()
	var e *control.Error
	if !errors.As(err, &e) || e.Status != status {
		t.Errorf("%s = %v, want status %d", what, err, status)
	}
}

// maxOf is a limit of one account or mailbox.
func maxOf(level, name, trigger string, max int64) control.Limit {
	return control.Limit{Level: level, Name: name, Trigger: trigger, Max: &max}
}

func TestAHoldOnAMailboxIsPutByItsOwnerAlone(t *testing.T) {
	d := controltest.New(t, enforced)
	s, ctx := d.Service, t.Context()
	for what, h := range map[string]control.Hold{
		"a stranger's mailbox in the name of an account of his": {Scope: "mailbox", Account: "shop", Value: "ceo@blog.example"},
		"a stranger's mailbox":                           {Scope: "mailbox", Value: "ceo@blog.example"},
		"a stranger's mailbox with a second @":           {Scope: "mailbox", Account: "shop", Value: "x@shop.example@blog.example"},
		"a mailbox that may become somebody's":           {Scope: "mailbox", Account: "shop", Value: "ceo@later.example"},
		"a mailbox of nobody, in the name of no account": {Scope: "mailbox", Value: "ceo@later.example"},
	} {
		_, err := s.PutHold(ctx, bob(), h)
		wantStatus(t, what, err, http.StatusNotFound)
	}
	_, err := s.PutHold(ctx, bob(), control.Hold{Scope: "mailbox", Account: "shop", Value: "info@news.example"})
	wantStatus(t, "the mailbox of another account of his", err, http.StatusUnprocessableEntity)
	_, err = s.PutHold(ctx, operator(), control.Hold{Scope: "mailbox", Account: "shop", Value: "ceo@blog.example"})
	wantStatus(t, "an operator's hold for the wrong account", err, http.StatusUnprocessableEntity)
	if h, err := s.PutHold(ctx, bob(), control.Hold{Scope: "mailbox", Account: "shop", Value: "Info@shop.example"}); err != nil || h.Account != "shop" {
		t.Errorf("a hold on his own mailbox = %+v, %v", h, err)
	}
	if h, err := s.PutHold(ctx, operator(), control.Hold{Scope: "mailbox", Value: "ceo@later.example"}); err != nil {
		t.Errorf("an operator's hold on a mailbox that the maps do not know = %+v, %v", h, err)
	}
}

func TestAResellerCannotTakeOverAnOperatorsLimit(t *testing.T) {
	d := controltest.New(t, enforced)
	s, ctx := d.Service, t.Context()
	mode := "enforce"
	set := maxOf("account", "shop", "account-hour", 1)
	set.Mode = &mode
	mine, err := s.SetLimit(ctx, operator(), set)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.SetLimit(ctx, bob(), maxOf("account", "shop", "account-hour", 3))
	wantStatus(t, "a reseller's change of an operator's limit", err, http.StatusForbidden)
	if err == nil || !strings.Contains(err.Error(), "set by root") {
		t.Errorf("the refusal is %v, want who set the limit", err)
	}
	_, err = s.RemoveLimit(ctx, bob(), mine.ID, "")
	wantStatus(t, "a reseller's removal of an operator's limit", err, http.StatusForbidden)

	if _, err := s.SetLimit(ctx, operator(), maxOf("account", "news", "account-hour", 1)); err != nil {
		t.Fatal(err)
	}
	_, err = s.SetLimit(ctx, bob(), maxOf("account", "news", "account-hour", 3))
	wantStatus(t, "a reseller's change of an operator's maximum", err, http.StatusForbidden)

	// Once it has ended the account is as free as if nothing had been set.
	set.Until = control.Time{Time: controltest.Start().Add(time.Hour)}
	if _, err := s.SetLimit(ctx, operator(), set); err != nil {
		t.Fatal(err)
	}
	d.Advance(2 * time.Hour)
	his, err := s.SetLimit(ctx, bob(), maxOf("account", "shop", "account-hour", 3))
	if err != nil || his.Mode != nil {
		t.Fatalf("a reseller's limit after the operator's had ended = %+v, %v", his, err)
	}
	if his, err = s.SetLimit(ctx, bob(), maxOf("account", "shop", "account-hour", 2)); err != nil || *his.Max != 2 {
		t.Errorf("a reseller's change of his own limit = %+v, %v", his, err)
	}
}

func TestAResellerDoesNotOutrankWhatAnOperatorSetForAnAccount(t *testing.T) {
	d := controltest.New(t, enforced+`
[[for]]
account = "shop"
trigger = "account-hour"
max = 2

[[for]]
account = "news"
max = 2

[[for]]
mailbox = "info@news.example"
trigger = "login-hour"
max = 5
`)
	s, ctx := d.Service, t.Context()
	for _, c := range []struct {
		what   string
		limit  control.Limit
		refuse bool
	}{
		{"more than the file's for the account", maxOf("account", "shop", "account-hour", 3), true},
		{"as much as the file's for the account", maxOf("account", "shop", "account-hour", 2), false},
		{"more than the file's for all triggers of the account", maxOf("account", "news", "account-hour", 3), true},
		{"more than the file's for the mailbox", maxOf("mailbox", "info@news.example", "login-hour", 6), true},
		{"as much as the file's for the mailbox", maxOf("mailbox", "info@news.example", "login-hour", 5), false},
		{"more for a mailbox than its account has", maxOf("mailbox", "ceo@news.example", "login-hour", 3), true},
		{"what no operator spoke of", maxOf("mailbox", "ceo@shop.example", "login-hour", 100), false},
		{"more than his own after he set less", maxOf("mailbox", "ceo@shop.example", "login-hour", 150), false},
		{"more than he has himself", maxOf("mailbox", "ceo@shop.example", "login-hour", 1_000_000), true},
	} {
		_, err := s.SetLimit(ctx, bob(), c.limit)
		if c.refuse {
			wantStatus(t, c.what, err, http.StatusForbidden)
		} else if err != nil {
			t.Errorf("%s = %v", c.what, err)
		}
	}
}

func TestHalfAnAssertionIsRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root asserts anybody")
	}
	d := controltest.New(t, enforced)
	for what, h := range map[string]http.Header{
		"a reseller without a role":        {"X-Osm-User": {"bob"}, "X-Osm-Reseller": {"bob"}},
		"a role that is empty":             {"X-Osm-User": {"bob"}, "X-Osm-Role": {""}},
		"a reseller as an operator":        {"X-Osm-User": {"bob"}, "X-Osm-Role": {"operator"}, "X-Osm-Reseller": {"bob"}},
		"an empty reseller without a role": {"X-Osm-User": {"bob"}, "X-Osm-Reseller": {""}},
		"two roles":                        {"X-Osm-User": {"bob"}, "X-Osm-Role": {"operator", "reseller"}},
	} {
		if status, body := do(t, d, "GET", "/v1/status", "", h); status != http.StatusBadRequest {
			t.Errorf("%s = %d %s, want 400", what, status, body)
		}
	}
	if status, body := do(t, d, "GET", "/v1/status", "", http.Header{"X-Osm-User": {"anna"}, "X-Osm-Role": {"operator"}}); status != 200 {
		t.Errorf("an operator = %d %s", status, body)
	}
}

// oneAddress is a limit of four messages an hour from one address.
const oneAddress = `
[[trigger]]
name = "client-ip-hour"
max = 4
count = "messages"
mode = "enforce"
verdict = "defer"
`

func TestBehindOneAddressEachResellerSeesHisOwn(t *testing.T) {
	d := controltest.New(t, oneAddress)
	s, ctx := d.Service, t.Context()
	send := func(account string) string {
		d.Advance(time.Second)
		return d.Send(controltest.Mail{Account: account, Mailbox: "info@" + account + ".example", IP: "192.0.2.7", Subject: "of " + account}).Ref
	}
	for _, account := range []string{"blog", "shop", "blog", "blog"} {
		send(account)
	}
	send("blog") // over first: the event bears its name
	ref := send("shop")
	d.Flush()
	carol := control.Actor{Name: "carol", Role: control.Reseller, Reseller: "carol"}
	whole, err := s.Explain(ctx, operator(), ref)
	if err != nil || len(whole.FilledBy) != 4 || whole.Event == nil || whole.Event.Account != "blog" || whole.Event.Stopped != 2 {
		t.Fatalf("an operator is told %+v (event %+v), %v", whole.FilledBy, whole.Event, err)
	}
	his, err := s.Explain(ctx, bob(), ref)
	if err != nil {
		t.Fatal(err)
	}
	if len(his.FilledBy) != 1 || his.FilledBy[0].Account != "shop" {
		t.Errorf("a reseller sees that %+v filled the limit, want his own alone", his.FilledBy)
	}
	if his.Event != nil {
		t.Errorf("a reseller sees another's event %+v", his.Event)
	}
	if said, err := json.Marshal(his); err != nil || strings.Contains(string(said), "blog") {
		t.Errorf("a reseller is told of another's account: %s, %v", said, err)
	}
	e, err := s.Event(ctx, carol, whole.Event.ID)
	if err != nil || e.Account != "blog" || len(e.Messages) != 1 || e.Messages[0].Account != "blog" {
		t.Errorf("the event of a reseller's account = %+v, %v, want its own message alone", e, err)
	}
	if said := strings.Join(e.Evidence, "; "); strings.Contains(said, "shop") || !strings.Contains(said, "info@blog.example: 1 of 1 messages") {
		t.Errorf("the evidence is %s", said)
	}
}
