package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"time"

	"osm/counters"
	"osm/internal/config"
	"osm/internal/origin"
	"osm/policy"
	store "osm/sql"
	"osm/tests/lab"
)

const (
	startDecisions = 5_000_000
	startAccounts  = 10_000
	startDays      = 4
	// afterSnapshot is what was decided since the last snapshot: ten seconds of a busy
	// server.
	afterSnapshot = 20_000
)

// past is the life that a server has behind it: what it decided and what it counted.
type past struct {
	store    *store.Store
	engine   *policy.Engine
	table    *counters.Table
	snapshot string
	clock    func() policy.Moment
}

// start measures how long a daemon takes that finds five million decisions and the
// counters of ten seconds ago: until it answers, and until they are right again.
func (b *bench) start() ([]figure, error) {
	if err := b.prepare(startAccounts); err != nil {
		return nil, err
	}
	l := *b.l
	l.Run, l.State = filepath.Join(b.dir, "start", "run"), filepath.Join(b.dir, "start", "state")
	for _, d := range []string{l.Run, l.State} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, err
		}
	}
	p, err := b.live(&l)
	if err != nil {
		return nil, err
	}
	snapshot, err := os.ReadFile(p.snapshot)
	if err != nil {
		return nil, err
	}
	var took sample
	for range min(b.o.rounds, 5) {
		// The last round wrote down everything when it ended.
		if err := os.WriteFile(p.snapshot, snapshot, 0o644); err != nil {
			return nil, err
		}
		seconds, err := b.startOnce(&l, p)
		if err != nil {
			return nil, err
		}
		took = append(took, seconds)
	}
	return []figure{{"start with 5 million decisions, to right counters", "-", took, " s", "≤ 1", 1, true}}, nil
}

// startOnce starts the daemon and waits for the counters of an account that has sent to
// the end.
func (b *bench) startOnce(l *lab.Lab, p *past) (float64, error) {
	account := startAccount(afterSnapshot - 1)
	most := p.used(account)
	began := time.Now()
	d, err := l.StartOsmd(b.o.bin, benchRules)
	if err != nil {
		return 0, err
	}
	defer d.Stop()
	var list struct {
		Items []struct {
			Trigger string `json:"trigger"`
			Used    int64  `json:"used"`
		} `json:"items"`
	}
	if err := d.JSON(&list, "usage", account); err != nil {
		return 0, err
	}
	took := time.Since(began)
	least := p.used(account)
	for _, u := range list.Items {
		if u.Used < least[u.Trigger] || u.Used > most[u.Trigger] {
			return 0, fmt.Errorf("%s of %s: %d used, want %d to %d", u.Trigger, account, u.Used, least[u.Trigger], most[u.Trigger])
		}
		delete(least, u.Trigger)
	}
	if len(least) > 0 {
		return 0, fmt.Errorf("counters of %s are missing: %v", account, least)
	}
	return took.Seconds(), nil
}

// used is what an account has used up now. As time goes on it only becomes less.
func (p *past) used(account string) map[string]int64 {
	used := map[string]int64{}
	for _, u := range p.engine.Usage(p.clock(), account) {
		used[u.Trigger] += u.Used
	}
	return used
}

// live lives through the past as osmd would have, but with a clock that is quicker.
func (b *bench) live(l *lab.Lab) (*past, error) {
	path := filepath.Join(b.dir, "start", "osm.toml")
	if err := os.WriteFile(path, []byte(l.Config(benchRules)), 0o644); err != nil {
		return nil, err
	}
	cfg, err := config.Load(path)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	p := &past{table: counters.New(counters.Options{}), clock: origin.Clock(), snapshot: filepath.Join(l.State, "counters.snapshot")}
	p.engine = policy.NewEngine(p.table, cfg.Rules())
	now := func() time.Time { return p.clock().Wall }
	p.store, err = store.Open(ctx, store.Options{Path: cfg.Store.Path, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Now: now, BootID: origin.BootID()})
	if err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- p.store.Run(ctx) }()
	err = p.decide()
	cancel()
	if runErr := <-ended; err == nil {
		err = runErr
	}
	if closeErr := p.store.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return nil, err
	}
	return p, ownAs(l.State, "osm")
}

// decide makes the decisions, the newest ones now.
func (p *past) decide() error {
	end := p.clock()
	const step = startDays * 24 * time.Hour / startDecisions
	for n := startDecisions - 1; n >= 0; n-- {
		if n == afterSnapshot-1 {
			if err := p.write(end); err != nil {
				return err
			}
		}
		s, id := startSubmission(n)
		for h := p.store.Health(); n%1000 == 0 && h.Queued > 20_000; h = p.store.Health() {
			if err := p.store.Flush(context.Background()); err != nil {
				return err
			}
		}
		if !p.store.Append(p.engine.Check(end.Add(-time.Duration(n)*step), s, id)) {
			return fmt.Errorf("decision %d was not stored", n)
		}
	}
	return nil
}

func (p *past) write(now policy.Moment) error {
	f, err := os.Create(p.snapshot)
	if err != nil {
		return err
	}
	defer f.Close()
	h := counters.Header{WallMs: now.Wall.UnixMilli(), BootMs: now.Boot, BootID: origin.BootID(), Slots: p.engine.Slots()}
	return p.table.WriteSnapshot(f, h)
}

func startAccount(n int) string { return fmt.Sprintf("u%d", n*7919%startAccounts) }

// startSubmission is the n-th last message.
func startSubmission(n int) (*policy.Submission, policy.Identity) {
	account := startAccount(n)
	mailbox := "info@" + account + ".example"
	s := &policy.Submission{
		MessageID: fmt.Sprintf("1vN3xQ-%06d-2F", n%1_000_000), Protocol: "esmtpa", CallerUID: -1, Size: 2300, Recipients: 1,
		AuthenticatedID: mailbox, Authenticator: "plain", EnvelopeSender: mailbox, Subject: " Your order 1234 is on its way\n",
	}
	id := policy.Identity{
		Account: account, Mailbox: mailbox, Source: policy.SourceLogin, Basis: "SMTP AUTH as " + mailbox + " (plain)",
		IPClass: policy.IPLogin, ClientIP: netip.AddrFrom4([4]byte{198, 51, byte(n >> 8), byte(n)}),
	}
	return s, id
}

// ownAs gives a folder's files to a user.
func ownAs(dir, name string) error {
	u, err := user.Lookup(name)
	if err != nil {
		return err
	}
	uid, uerr := strconv.Atoi(u.Uid)
	gid, gerr := strconv.Atoi(u.Gid)
	if err := errors.Join(uerr, gerr); err != nil {
		return err
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := os.Lchown(filepath.Join(dir, f.Name()), uid, gid); err != nil {
			return err
		}
	}
	return nil
}
