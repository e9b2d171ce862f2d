package actions

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"osm/internal/report"
	"osm/policy"
)

// hook is an operator's own receiver of reports.
type hook struct {
	*httptest.Server
	mu     sync.Mutex
	got    []report.Report
	status int // that it answers with; 0 = 200
	bad    []string
}

func newHook(t *testing.T, secret string) *hook {
	h := &hook{}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		defer h.mu.Unlock()
		body, err := io.ReadAll(r.Body)
		sign, at := r.Header.Get(report.SignatureHeader), int64(0)
		fmt.Sscanf(sign, "t=%d", &at)
		if err != nil || at == 0 || sign != report.Sign([]byte(secret), time.Unix(at, 0), body) {
			h.bad = append(h.bad, sign)
		}
		if h.status != 0 {
			w.WriteHeader(h.status)
			return
		}
		var one report.Report
		if err := json.Unmarshal(body, &one); err != nil {
			h.bad = append(h.bad, err.Error())
		}
		h.got = append(h.got, one)
	}))
	t.Cleanup(h.Close)
	return h
}

func (h *hook) reports() []report.Report {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]report.Report(nil), h.got...)
}

func (h *hook) answer(status int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.status = status
}

// notified is a notifier with one webhook, and a clock that is moved by hand.
func notified(t *testing.T) (*shop, *hook, *Notifier) {
	s := newShop(t, limit(0, policy.Manual))
	h := newHook(t, "s3cret")
	n := NewNotifier(NotifierOptions{
		Store: s.store, Log: slog.New(slog.DiscardHandler), Now: s.now, Host: "host.example", Version: "test", Alarm: func(string) {},
		Settings: func() NotifySettings {
			return NotifySettings{Webhook: h.URL, Secret: []byte("s3cret"), Digest: time.Hour}
		},
	})
	return s, h, n
}

// A run of 50,000 messages over the limit is told once at its beginning, and then at most
// once in each hour, with what came meanwhile.
func TestALongRunIsToldOnceAndThenInDigests(t *testing.T) {
	s, h, n := notified(t)
	ev := overEvent(policy.Enforce).Event
	ev.At, ev.LastAt, ev.Stopped = s.now().Wall, s.now().Wall, 1
	tell := func() {
		t.Helper()
		if err := s.store.UpsertEvent(t.Context(), ev); err != nil {
			t.Fatal(err)
		}
		if _, err := n.Tell(t.Context(), &ev); err != nil {
			t.Fatal(err)
		}
	}
	tell()
	for minute := range 3 * 60 { // 280 messages a minute
		s.advance(time.Minute)
		ev.LastAt, ev.Stopped = s.now().Wall, ev.Stopped+280
		tell()
		if err := n.Due(t.Context()); err != nil {
			t.Fatalf("minute %d: %v", minute, err)
		}
	}
	got := h.reports()
	if len(got) < 3 || len(got) > 4 {
		t.Fatalf("%d reports in three hours, want the first and one an hour", len(got))
	}
	if got[0].Kind != report.First || got[0].Event.ID != ev.ID {
		t.Errorf("the first is %s of event %d", got[0].Kind, got[0].Event.ID)
	}
	for _, r := range got[1:] {
		if r.Kind != report.Digest || r.Since.IsZero() {
			t.Errorf("a later one is %s since %v, want a digest", r.Kind, r.Since)
		}
	}
	if len(h.bad) > 0 {
		t.Errorf("wrong signatures or bodies: %q", h.bad)
	}
	// The run has ended: nobody is told again.
	for range 3 * 60 {
		s.advance(time.Minute)
		if err := n.Due(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := n.goesOn(t.Context(), s.now().Wall); err != nil {
			t.Fatal(err)
		}
	}
	if after := h.reports(); len(after) > len(got)+1 {
		t.Errorf("%d more reports after its end, want at most the last digest", len(after)-len(got))
	}
}

// Another trigger of the same sender waits for the digest; another sender does not.
func TestOneSenderIsToldAboutOnce(t *testing.T) {
	s, h, n := notified(t)
	for i, who := range []struct{ account, trigger string }{{"shop", "account-hour"}, {"shop", "subject-hour"}, {"blog", "account-hour"}} {
		ev := overEvent(policy.Enforce).Event
		ev.ID, ev.Account, ev.Key, ev.Trigger = int64(10+i), who.account, who.account, who.trigger
		ev.At, ev.LastAt = s.now().Wall, s.now().Wall
		if err := s.store.UpsertEvent(t.Context(), ev); err != nil {
			t.Fatal(err)
		}
		if _, err := n.Tell(t.Context(), &ev); err != nil {
			t.Fatal(err)
		}
	}
	s.advance(settleTime)
	if err := n.Due(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := h.reports()
	if len(got) != 2 || got[0].Event.Account == got[1].Event.Account {
		t.Fatalf("%d reports, want one of each sender", len(got))
	}
	for _, r := range got {
		if r.Event.Account == "shop" && len(r.Also) != 1 {
			t.Errorf("shop's report tells of %d other events, want its second trigger", len(r.Also))
		}
	}
}

// A receiver that is down is tried again, and told when it is back: once.
func TestAReceiverThatIsDownIsToldLater(t *testing.T) {
	s, h, n := notified(t)
	h.answer(http.StatusBadGateway)
	alarms := []string{}
	n.o.Alarm = func(text string) { alarms = append(alarms, text) }
	ev := overEvent(policy.Enforce).Event
	ev.At, ev.LastAt = s.now().Wall, s.now().Wall
	if err := s.store.UpsertEvent(t.Context(), ev); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Tell(t.Context(), &ev); err != nil {
		t.Fatal(err)
	}
	s.advance(settleTime)
	if err := n.Due(t.Context()); err == nil || len(alarms) != 1 || alarms[0] == "" {
		t.Fatalf("a receiver that is down: %v, alarms %q", err, alarms)
	}
	if err := n.Due(t.Context()); err != nil {
		t.Errorf("tried again at once: %v", err)
	}
	h.answer(0)
	s.advance(time.Minute)
	if err := n.Due(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.advance(time.Hour)
	if err := n.Due(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := h.reports(); len(got) != 1 || alarms[len(alarms)-1] != "" {
		t.Errorf("%d reports, alarms %q; want one, and the alarm over", len(got), alarms)
	}
	stored, err := s.store.Event(t.Context(), ev.ID)
	list := stored.Notices
	if err != nil || len(list) != 1 || list[0].State != "sent" || list[0].Attempts != 2 {
		t.Errorf("notices = %+v, %v", list, err)
	}
}

// What was only observed, or rests on a claim, is the operator's business alone.
func TestCustomersAreToldOnlyWhatWasDoneToThem(t *testing.T) {
	n := NewNotifier(NotifierOptions{Contact: func(account string) (string, string) { return "owner@" + account, "boss@" + account }})
	for _, row := range []struct {
		name string
		edit func(*policy.Event)
		want string
	}{
		{"enforced", func(*policy.Event) {}, "owner@shop boss@shop"},
		{"observed", func(e *policy.Event) { e.Mode = policy.Observe }, " "},
		{"claimed", func(e *policy.Event) { e.Claimed = true }, " "},
		{"an address of many", func(e *policy.Event) { e.Watch = policy.WatchClientIP }, " "},
	} {
		ev := overEvent(policy.Enforce).Event
		row.edit(&ev)
		customer, reseller := n.contacts(&ev)
		if got := fmt.Sprintf("%s %s", customer, reseller); got != row.want {
			t.Errorf("%s: %q, want %q", row.name, got, row.want)
		}
	}
}
