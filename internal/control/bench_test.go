package control_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"osm/counters"
	"osm/internal/config"
	"osm/internal/control"
	"osm/policy"
	store "osm/sql"
)

// The size of a large server.
const (
	largeAccounts  = 10_000
	largeReseller  = 50 // accounts of one reseller
	largeDecisions = 1_000_000
	largeEvents    = 100_000
	largeSpan      = 7 * 24 * time.Hour
)

// largeNow is the present of the benchmark, behind the last of its messages.
func largeNow() policy.Moment {
	return policy.Moment{Wall: time.Date(2026, 11, 23, 12, 30, 0, 0, time.UTC), Boot: policy.BootShift + (100 * 24 * time.Hour).Milliseconds()}
}

func largeAccount(n int) policy.Account {
	return policy.Account{Name: fmt.Sprintf("acct%05d", n), Home: fmt.Sprintf("/home/acct%05d", n), UID: uint32(2000 + n), Package: "gold",
		Reseller: fmt.Sprintf("reseller%03d", n/largeReseller), MainDomain: fmt.Sprintf("shop%05d.example", n)}
}

// largeDecision is one message: a few accounts send most of the mail.
func largeDecision(r *rand.Rand, seq uint64) *policy.Decision {
	n := int(float64(largeAccounts) * r.Float64() * r.Float64() * r.Float64())
	back := time.Duration(int64(largeSpan) / largeDecisions * (largeDecisions - int64(seq)))
	now := largeNow()
	at := policy.Moment{Wall: now.Wall.Add(-back), Boot: now.Boot - back.Milliseconds()}
	a := largeAccount(n)
	d := &policy.Decision{Seq: seq, At: at, Counted: true, Identity: policy.Identity{Account: a.Name},
		Submission: &policy.Submission{MessageID: fmt.Sprintf("1vN3xQ-%06d-00", seq), Recipients: 1 + int(seq%3), Size: 5000, EnvelopeSender: "info@" + a.MainDomain}}
	id := &d.Identity
	if seq%2 == 0 {
		id.Source, id.Mailbox, id.IPClass = policy.SourceLogin, fmt.Sprintf("user%d@%s", seq%5, a.MainDomain), policy.IPLogin
		id.ClientIP = netip.AddrFrom4([4]byte{203, 0, byte(n), byte(n >> 8)})
		d.Submission.Subject = fmt.Sprintf("Re: offer %x", r.IntN(1<<20))
	} else {
		id.Source, id.Directory, id.DirectoryAccount = policy.SourceScript, a.Home+"/public_html", a.Name
		id.Script, d.Submission.Subject = a.Home+"/public_html/mail.php", "Your order has arrived"
	}
	d.SubjectKey, _ = policy.FoldSubject(d.Submission.Subject)
	if seq%50 == 0 {
		d.Counted, d.Verdict, d.Reason, d.Trigger = false, policy.Defer, policy.ReasonOver, "account-hour"
	}
	return d
}

// large is a service on a database of a large server; the folder OSM_BENCH_DIR keeps it
// for the next run.
func large(b *testing.B) *control.Service {
	b.Helper()
	dir := os.Getenv("OSM_BENCH_DIR")
	if dir == "" {
		dir = b.TempDir()
	}
	path := filepath.Join(dir, "large.db")
	_, statErr := os.Stat(path)
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	st, err := store.Open(b.Context(), store.Options{Path: path, Log: log, Now: func() time.Time { return largeNow().Wall }, BootID: "bench"})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = st.Run(ctx) })
	b.Cleanup(func() { cancel(); running.Wait(); _ = st.Close() })
	if statErr != nil {
		fillLarge(b, st)
	}
	in := policy.AccountMapInput{Domains: map[string]string{}, Panel: "cpanel"}
	for n := range largeAccounts {
		a := largeAccount(n)
		in.Accounts, in.Domains[a.MainDomain] = append(in.Accounts, a), a.Name
	}
	accounts := policy.NewAccountMap(in)
	cfg := config.Default()
	engine := policy.NewEngine(counters.New(counters.Options{}), cfg.Rules())
	err = st.ReplaySince(b.Context(), 0, largeNow().Wall.Add(-24*time.Hour), largeNow(), func(c *store.Counted) error {
		engine.ReplayStored(c.At, c.Seq, c.Identity, c.SubjectKey, c.Recipients, nil)
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	begun := time.Now()
	s, err := control.NewService(control.Options{Engine: engine, Store: st, Log: log, Zone: time.UTC, Accounts: func() *policy.AccountMap { return accounts },
		Clock:  func() policy.Moment { return largeNow().Add(time.Since(begun).Truncate(time.Millisecond)) },
		Config: func() config.Config { return cfg }, Changed: func(context.Context) error { return nil }})
	if err != nil {
		b.Fatal(err)
	}
	return s
}

func fillLarge(b *testing.B, st *store.Store) {
	b.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	for seq := uint64(1); seq <= largeDecisions; seq++ {
		st.Append(largeDecision(r, seq))
		if seq%10_000 == 0 {
			if err := st.Flush(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	}
	for id := int64(1); id <= largeEvents; id++ {
		at := largeNow().Wall.Add(-time.Duration(largeEvents-id) * 300 * time.Millisecond * 10)
		a := largeAccount(r.IntN(largeAccounts))
		st.AppendEvent(policy.Event{ID: id, At: at, LastAt: at, Trigger: "account-hour", Key: a.Name, Account: a.Name, Mode: policy.Enforce, Verdict: policy.Freeze,
			Max: 300, Per: time.Hour, Used: 300, Stopped: 5, Open: id > largeEvents-20}, 0)
		if id%5_000 == 0 {
			if err := st.Flush(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	}
	if h := st.Health(); h.Dropped != 0 {
		b.Fatalf("%d had no room", h.Dropped)
	}
}

// BenchmarkCallsOfALargeServer is what each page waits for on a server with 10,000
// accounts, 100,000 events and a million decisions. None may take 100 ms but the preview.
func BenchmarkCallsOfALargeServer(b *testing.B) {
	s := large(b)
	ctx, root, page := b.Context(), operator(), control.Page{Limit: 100}
	reseller := control.Actor{Name: "reseller001", Role: control.Reseller, Reseller: "reseller001"}
	quiet := control.Actor{Name: "reseller199", Role: control.Reseller, Reseller: "reseller199"}
	now := largeNow().Wall
	day, week := now.Add(-24*time.Hour), now.Add(-largeSpan)
	max := int64(20)
	for _, c := range []struct {
		name string
		call func() error
	}{
		{"rates/server", func() error { _, err := s.Rates(ctx, root, "", time.Time{}, 0); return err }},
		{"rates/server-week", func() error { _, err := s.Rates(ctx, root, "", week, time.Hour); return err }},
		{"rates/account-week", func() error { _, err := s.Rates(ctx, root, "acct00000", week, time.Hour); return err }},
		{"rates/reseller-week", func() error { _, err := s.Rates(ctx, reseller, "", week, time.Hour); return err }},
		{"near/first", func() error { s.ForgetNear(); _, err := s.Near(ctx, root, page); return err }},
		{"near", func() error { _, err := s.Near(ctx, root, page); return err }},
		{"near/reseller", func() error { _, err := s.Near(ctx, reseller, page); return err }},
		{"accounts", func() error { _, err := s.Accounts(ctx, root, "", page); return err }},
		{"accounts/1000", func() error { _, err := s.Accounts(ctx, root, "", control.Page{Limit: 1000}); return err }},
		{"accounts/search", func() error { _, err := s.Accounts(ctx, root, "shop099", page); return err }},
		{"accounts/mailbox", func() error { _, err := s.Accounts(ctx, root, "info@shop09999.example", page); return err }},
		{"account/busy", func() error { _, err := s.Account(ctx, root, "acct00000", day); return err }},
		{"account/busy-week", func() error { _, err := s.Account(ctx, root, "acct00000", week); return err }},
		{"account/quiet-week", func() error { _, err := s.Account(ctx, root, "acct09990", week); return err }},
		{"decisions", func() error { _, err := s.Decisions(ctx, root, "", "", time.Time{}, page); return err }},
		{"decisions/stopped", func() error { _, err := s.Decisions(ctx, root, "", "stopped", time.Time{}, page); return err }},
		{"decisions/observed", func() error { _, err := s.Decisions(ctx, root, "", "observed", time.Time{}, page); return err }},
		{"decisions/denied", func() error { _, err := s.Decisions(ctx, root, "", "deny", time.Time{}, page); return err }},
		{"decisions/account", func() error { _, err := s.Decisions(ctx, root, "acct00000", "", time.Time{}, page); return err }},
		{"decisions/quiet", func() error { _, err := s.Decisions(ctx, root, "acct09990", "", time.Time{}, page); return err }},
		{"decisions/reseller", func() error { _, err := s.Decisions(ctx, reseller, "", "", time.Time{}, page); return err }},
		{"decisions/quiet-reseller", func() error { _, err := s.Decisions(ctx, quiet, "", "stopped", time.Time{}, page); return err }},
		{"top", func() error { _, err := s.Top(ctx, root, day, "", page); return err }},
		{"top/reseller", func() error { _, err := s.Top(ctx, reseller, day, "", page); return err }},
		{"events", func() error { _, err := s.Events(ctx, root, control.EventFilter{Since: day}, page); return err }},
		{"events/open", func() error { _, err := s.Events(ctx, root, control.EventFilter{OpenOnly: true}, page); return err }},
		{"events/reseller", func() error { _, err := s.Events(ctx, reseller, control.EventFilter{}, page); return err }},
		{"events/unknown-trigger", func() error { _, err := s.Events(ctx, root, control.EventFilter{Trigger: "none"}, page); return err }},
		{"held", func() error { _, err := s.Held(ctx, root, control.Selection{}, page); return err }},
		{"held/reseller", func() error { _, err := s.Held(ctx, reseller, control.Selection{State: "all"}, page); return err }},
		{"triggers", func() error { _, err := s.Triggers(ctx, root, "account", "acct00000"); return err }},
		{"usage", func() error { _, err := s.Usage(ctx, root, "acct00000", page); return err }},
		{"status", func() error { _, err := s.Status(ctx, root); return err }},
		{"settings", func() error { _, err := s.Settings(ctx, root); return err }},
		{"audit", func() error { _, err := s.Audit(ctx, root, time.Time{}, page); return err }},
		{"preview/account", func() error {
			_, err := s.PreviewLimit(ctx, root, control.Limit{Level: "account", Name: "acct00000", Trigger: "account-hour", Max: &max}, 0, time.Time{})
			return err
		}},
		{"preview/server", func() error {
			p, err := s.PreviewLimit(ctx, root, control.Limit{Level: "server", Trigger: "account-hour", Max: &max}, 0, time.Time{})
			b.Log(p.Text, p.Since)
			return err
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			begun := worked(b)
			for b.Loop() {
				if err := c.call(); err != nil {
					b.Fatal(err)
				}
			}
			mean := (worked(b) - begun) / time.Duration(b.N)
			b.ReportMetric(float64(mean)/float64(time.Millisecond), "cpu-ms/op")
			if mean > 100*time.Millisecond && !strings.HasPrefix(c.name, "preview") {
				b.Errorf("%s a call", mean)
			}
		})
	}
}

// worked is how long this process has used processors: what others do at the same time
// does not count.
func worked(b *testing.B) time.Duration {
	b.Helper()
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
