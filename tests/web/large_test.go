package web

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"osm/counters"
	"osm/internal/config"
	"osm/internal/control"
	"osm/policy"
	store "osm/sql"
	whmaddon "osm/whm-addon"
)

// A large server: so many accounts, messages of the last seven days, and events.
const (
	largeAccounts  = 10_000
	largeDecisions = 200_000
	largeEvents    = 100_000
	largeHeld      = 5_000
	// pageTime is what each page may take on such a server, previewTime what a preview may:
	// it judges the mail of seven days again, and takes less of it where that takes too long.
	pageTime, previewTime = 200 * time.Millisecond, 5 * time.Second
)

// large is a daemon's page in this process, with a store that was filled directly.
type large struct {
	page  http.Handler
	actor control.Actor
	ref   string // of a held message
	token string // for forms
}

func newLarge(t testing.TB) *large {
	t.Helper()
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	now := policy.Moment{Wall: time.Now().UTC().Truncate(time.Second), Boot: policy.BootShift}
	begun := time.Now()
	clock := func() policy.Moment { return now.Add(time.Since(begun)) }
	s, err := store.Open(t.Context(), store.Options{Path: filepath.Join(t.TempDir(), "osm.db"), Log: log, Now: func() time.Time { return clock().Wall }, BootID: "large"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	accounts := largeMap(now.Wall)
	cfg, err := config.Parse([]byte("[[trigger]]\nname = \"directory-hour\"\nmode = \"enforce\"\nmax = 2\n"), "/etc/osm/osm.toml", time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	engine := policy.NewEngine(counters.New(counters.Options{Shards: 1}), cfg.Rules())
	engine.SetRefKey(s.RefKey())
	l := &large{actor: control.Actor{Name: "root", Role: control.Operator}}
	l.fill(t, s, engine, now)
	nothing := func(context.Context) error { return nil }
	service, err := control.NewService(control.Options{
		Version: "1.0", StartedAt: now.Wall.Add(-time.Hour), Engine: engine, Store: s, Clock: clock, Log: log, Zone: time.UTC,
		Accounts: func() *policy.AccountMap { return accounts }, Config: func() config.Config { return cfg }, State: func() control.State { return control.State{} },
		Reload: func(context.Context) (string, error) { return "", nil }, Changed: nothing, Kick: func() {},
		Released: func(policy.Hold) {}, WasReset: func(string, string) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	if l.page, err = whmaddon.New(whmaddon.Options{Service: service, Log: log, Clock: clock, Zone: time.UTC}); err != nil {
		t.Fatal(err)
	}
	_, form := l.serve(httptest.NewRequest(http.MethodGet, "/web/holds/new", nil), l.actor)
	l.token = answer{text: form.Body.String()}.hidden("csrf")
	return l
}

func largeName(i int) string { return fmt.Sprintf("acct%05d", i) }

func largeMap(now time.Time) *policy.AccountMap {
	in := policy.AccountMapInput{Domains: map[string]string{}, LoadedAt: now, Panel: "cpanel"}
	for i := range largeAccounts {
		name := largeName(i)
		in.Accounts = append(in.Accounts, policy.Account{Name: name, Home: "/home/" + name, Reseller: fmt.Sprint("reseller", i%50), Package: "gold", UID: uint32(10_000 + i), MainDomain: name + ".example"})
		in.Domains[name+".example"] = name
	}
	return policy.NewAccountMap(in)
}

// fill lets the accounts send, few of them most, as on a real server.
func (l *large) fill(t testing.TB, s *store.Store, engine *policy.Engine, now policy.Moment) {
	t.Helper()
	begun := time.Now()
	rnd := rand.New(rand.NewPCG(1, 2))
	few := rand.NewZipf(rnd, 1.1, 20, largeAccounts-1)
	span := 7 * 24 * time.Hour
	at := now.Add(-span)
	var frozen []*policy.Decision
	for n := range largeDecisions {
		at = at.Add(span / largeDecisions)
		name := largeName(int(few.Uint64()))
		dir := fmt.Sprintf("/home/%s/public_html/part%d", name, rnd.IntN(5))
		id := policy.Identity{Account: name, Reseller: "reseller1", Package: "gold", Source: policy.SourceScript, Basis: "uid called sendmail", Directory: dir, DirectoryAccount: name}
		d := engine.Check(at, &policy.Submission{
			MessageID: fmt.Sprintf("1v%04d-%08d-00", n%10_000, n), CallerUID: 10_000, Size: 2000, Recipients: 1 + rnd.IntN(3), EnvelopeSender: "web@" + name + ".example",
			Subject: fmt.Sprintf("Order %d of %s", n, name), WorkingDirectory: dir, RecipientList: "someone@elsewhere.example",
		}, id)
		for !s.Append(d) {
			flush(t, s)
		}
		if d.Verdict == policy.Freeze && len(frozen) < largeHeld {
			frozen = append(frozen, d)
			l.ref = d.Ref
		}
	}
	flush(t, s)
	if err := s.AddHeld(t.Context(), frozen...); err != nil {
		t.Fatal(err)
	}
	for n := range int64(largeEvents) {
		name := largeName(int(few.Uint64()))
		when := now.Wall.Add(-time.Duration(largeEvents-n) * 5 * time.Minute)
		e := policy.Event{
			ID: n + 1, At: when, LastAt: when.Add(time.Minute), Trigger: "directory-hour", Watch: policy.WatchDirectory, Key: name + " /home/" + name + "/public_html",
			Account: name, Mode: policy.Enforce, Verdict: policy.Freeze, Max: 100, Per: time.Hour, Count: policy.Messages, Used: 100, Stopped: n % 400, Open: n > largeEvents-50,
		}
		for !s.AppendEvent(e, 0) {
			flush(t, s)
		}
	}
	flush(t, s)
	t.Logf("%d accounts, %d messages, %d held, %d events stored in %v", largeAccounts, largeDecisions, len(frozen), largeEvents, time.Since(begun).Round(time.Millisecond))
}

func flush(t testing.TB, s *store.Store) {
	t.Helper()
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// pages are all that can be asked for.
func (l *large) pages() []string {
	name := largeName(0)
	return []string{
		"now", "senders", "senders?since=7d&by=stopped", "senders?all=1", "senders?q=acct09", "senders?q=" + name + ".example", "senders/" + name, "senders/" + name + "?since=7d",
		"messages", "messages?account=" + name, "messages?verdict=stopped&since=7d", "messages?account=" + largeName(largeAccounts-1) + "&since=7d",
		"events", "events?account=" + name + "&since=30d", "events?open=1&since=30d", "events/99999", "held", "held?account=" + name, "held?subject=Order", "held/" + l.ref,
		"limits", "limits?level=account&name=" + name, "limits/edit?level=account&trigger=account-hour&name=" + name, previewed, "exemptions", "audit", "settings", "help",
		"explain?ref=" + l.ref,
		resellers + "now", resellers + "senders", resellers + "senders?since=7d&by=stopped", resellers + "senders/" + name, resellers + "messages", resellers + "messages?verdict=stopped&since=7d",
		resellers + "events?since=30d", resellers + "held", resellers + "limits", resellers + "exemptions",
	}
}

// resellers are the pages of the reseller who has the account that sends most.
const resellers = "a reseller's "

// previewed is what a lower limit for all would have done to the mail of seven days.
const previewed = "limits/edit, the preview"

// ask makes one page, and returns how long that took.
func (l *large) ask(page string) (time.Duration, error) {
	var r *http.Request
	actor := l.actor
	if own, ok := strings.CutPrefix(page, resellers); ok {
		page, actor = own, control.Actor{Name: "reseller0", Role: control.Reseller, Reseller: "reseller0"}
	}
	if page != previewed {
		r = httptest.NewRequest(http.MethodGet, "/web/"+page, nil)
	} else {
		form := url.Values{"level": {"server"}, "trigger": {"account-hour"}, "max": {"20"}, "mode": {"enforce"}, "step": {"preview"}, "csrf": {l.token}}
		r = httptest.NewRequest(http.MethodPost, "/web/limits/edit", strings.NewReader(form.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Origin", "http://large.example")
	}
	took, w := l.serve(r, actor)
	if w.Code != http.StatusOK {
		return took, fmt.Errorf("%s: status %d: %.300s", page, w.Code, w.Body)
	}
	return took, nil
}

func (l *large) serve(r *http.Request, actor control.Actor) (time.Duration, *httptest.ResponseRecorder) {
	r.Header.Set("X-OSM-Session", "large")
	r.Header.Set("X-OSM-Origin", "http://large.example")
	w := httptest.NewRecorder()
	begun := time.Now()
	l.page.ServeHTTP(w, r.WithContext(control.WithActor(r.Context(), actor)))
	return time.Since(begun), w
}

// The times are only told: this machine may be doing other things too. The benchmark
// holds them to account.
func TestPagesOfALargeServer(t *testing.T) {
	dependOnProduct(t)
	l := newLarge(t)
	for _, page := range l.pages() {
		if _, err := l.ask(page); err != nil { // and warms up
			t.Error(err)
		}
	}
	for _, page := range l.pages() {
		took, err := l.ask(page)
		if err != nil {
			t.Error(err)
		}
		t.Logf("%8.1f ms  %s", took.Seconds()*1000, page)
	}
}

// BenchmarkPagesOfALargeServer fails where half of the tries of a page take longer than
// they may.
func BenchmarkPagesOfALargeServer(b *testing.B) {
	l := newLarge(b)
	var errs []error
	for _, page := range l.pages() {
		b.Run(page, func(b *testing.B) {
			var all []time.Duration
			for b.Loop() {
				took, err := l.ask(page)
				if err != nil {
					b.Fatal(err)
				}
				all = append(all, took)
			}
			slices.Sort(all)
			may := pageTime
			if page == previewed {
				may = previewTime
			}
			if middle := all[len(all)/2]; middle > may {
				errs = append(errs, fmt.Errorf("%s takes %v, and may take %v", page, middle, may))
			}
		})
	}
	if err := errors.Join(errs...); err != nil {
		b.Error(err)
	}
}
