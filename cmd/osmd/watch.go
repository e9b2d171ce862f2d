package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"osm/internal/config"
	"osm/internal/origin"
	"osm/internal/packetmon"
	"osm/internal/privilege"
	"osm/internal/systemd"
)

// watch is "osmd watch": it sees connections that bypass Exim and hands them to the daemon.
func watch(configPath string) error {
	cfg, log, l, err := rootPart(configPath, watchSocket)
	if err != nil {
		return err
	}
	id, err := lookupIDs(cfg)
	if err != nil {
		return err
	}
	ctx, stop := untilDaemonEnds()
	defer stop()
	notify(log, systemd.Ready)
	return serveWatch(ctx, cfg, l, uint32(id.osm.UID), log)
}

// serveWatch watches until ctx ends, for the daemon's user.
func serveWatch(ctx context.Context, cfg config.Config, l *net.UnixListener, uid uint32, log *slog.Logger) error {
	var ports []uint16
	for _, p := range cfg.Direct.Ports {
		ports = append(ports, uint16(p))
	}
	x := newExcluded(cfg)
	m, err := packetmon.New(packetmon.Options{
		Ports: ports, Source: cfg.Direct.Source, Exim: cfg.Exim.Binary, Excluded: x.has,
		Openers: packetmon.Openers(packetmon.SourceOptions{Ports: ports, Boot: origin.BootNanoseconds}),
		Clock:   origin.Clock(), Boot: origin.BootNanoseconds, Log: log,
	})
	if err != nil {
		return fmt.Errorf("watch connections: %w", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.Run(ctx) })
	g.Go(func() error { return x.keep(ctx) })
	g.Go(func() error {
		return packetmon.Serve(ctx, l, m, packetmon.ServeOptions{UID: uid, Log: log})
	})
	return g.Wait()
}

// excludedEvery is how often the names of excluded users are looked up again: a panel makes
// and removes users while we run.
const excludedEvery = time.Minute

// excluded are the users whose connections are none of the back door's business.
type excluded struct {
	names []string
	// customers have this uid or a higher one: who has a name that is exempt by default, such
	// as "list" on a host without a panel, is not exempt for that.
	customers uint32
	root      bool
	uids      atomic.Pointer[map[uint32]bool]
}

func newExcluded(cfg config.Config) *excluded {
	x := &excluded{names: append([]string{cfg.Exim.User}, cfg.Direct.ExemptUsers...), customers: uint32(cfg.Accounts.MinUID), root: !cfg.Direct.CountRoot}
	x.look()
	return x
}

// look finds the uids of the names that this host has.
func (x *excluded) look() {
	uids := map[uint32]bool{0: x.root}
	byDefault := config.Default().Direct.ExemptUsers
	for _, name := range x.names {
		u, err := privilege.LookupUser(name)
		if err != nil || u.UID == 0 || uint32(u.UID) >= x.customers && slices.Contains(byDefault, name) {
			continue
		}
		uids[uint32(u.UID)] = true
	}
	x.uids.Store(&uids)
}

func (x *excluded) has(uid uint32) bool { return (*x.uids.Load())[uid] }

func (x *excluded) keep(ctx context.Context) error {
	tick := time.NewTicker(excludedEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			x.look()
		}
	}
}
