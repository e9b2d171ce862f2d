package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"osm/actions"
	"osm/internal/config"
	"osm/internal/origin"
	"osm/internal/privilege"
	"osm/internal/systemd"
)

// inspect is "osmd inspect": it answers the daemon's questions about processes, and
// keeps copies of the account maps that only root may read.
func inspect(configPath string) error {
	cfg, log, l, err := rootPart(configPath, inspectSocket)
	if err != nil {
		return err
	}
	id, err := lookupIDs(cfg)
	if err != nil {
		return err
	}
	ctx, stop := untilDaemonEnds()
	defer stop()
	g, ctx := errgroup.WithContext(ctx)
	again := make(chan struct{})
	g.Go(func() error {
		return origin.ServeInspect(ctx, l, origin.InspectOptions{UID: uint32(id.osm.UID), Exim: cfg.Exim.Binary, Log: log,
			Maps: func(ctx context.Context) error { return look(ctx, again) }, Pool: poolsInFiles()})
	})
	g.Go(func() error {
		err := origin.ExportMaps(ctx, origin.ExportOptions{Sources: origin.CPanelMaps(), Users: "/var/cpanel/users",
			Dir: mapsDir(cfg), GID: id.osmGID, Again: again, Log: log})
		if err != nil { // the answers about processes do not depend on it
			log.Error("cannot export the account maps", "err", err)
		}
		return nil
	})
	notify(log, systemd.Ready)
	return g.Wait()
}

// look has the maps looked at, and returns when that is done: they are when a second look
// begins.
func look(ctx context.Context, again chan<- struct{}) error {
	for range 2 {
		select {
		case again <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// execute is "osmd executor": it runs a fixed list of commands for the daemon.
func execute(configPath, executorPath string) error {
	_, log, l, err := rootPart(configPath, executorSocket)
	if err != nil {
		return err
	}
	o, err := executorOptions(executorPath, log)
	if err != nil {
		return err
	}
	ctx, stop := untilDaemonEnds()
	defer stop()
	notify(log, systemd.Ready)
	return actions.ServeExecutor(ctx, l, o)
}

func executorOptions(path string, log *slog.Logger) (actions.ExecutorOptions, error) {
	e, err := config.LoadExecutor(path)
	if err != nil {
		return actions.ExecutorOptions{}, err
	}
	peer, err := privilege.LookupUser(e.PeerUser)
	if err != nil {
		return actions.ExecutorOptions{}, fmt.Errorf("peer_user in %q: %w", path, err)
	}
	exim, err := privilege.LookupUser(e.EximUser)
	if err != nil {
		return actions.ExecutorOptions{}, fmt.Errorf("exim_user in %q: %w", path, err)
	}
	if len(e.DeliverPrefix) == 0 && os.Getenv("INVOCATION_ID") != "" { // set by systemd, not handed to our own children
		e.DeliverPrefix = actions.OutsideUnit()
	}
	o := actions.ExecutorOptions{
		PeerUIDs: []uint32{uint32(peer.UID)}, EximUID: uint32(exim.UID), SpoolDir: e.EximSpool, Exim: e.EximBinary,
		DeliverPrefix: e.DeliverPrefix, CommandLimit: e.CommandLimit, DeliverLimit: e.DeliverLimit,
		DeliverGrace: e.DeliverGrace, DeliverAtOnce: int(e.DeliverAtOnce), IDsPerSecond: int(e.IDsPerSecond),
		MaxConns: int(e.MaxConns), Log: log, Now: time.Now,
	}
	changeOptions(&o, &e)
	return o, nil
}

// changeOptions are those about accounts, mailboxes, paths and addresses.
func changeOptions(o *actions.ExecutorOptions, e *config.ExecutorConfig) {
	o.Actions, o.StateDir, o.ChangeLimit, o.MinUID, o.Protected = e.Actions, e.StateDir, e.ChangeLimit, uint32(e.MinUID), e.Protected
	o.RenameAny = e.RenameAny
	o.CommandPrefix = e.CommandPrefix
	if len(o.CommandPrefix) == 0 {
		o.CommandPrefix = e.DeliverPrefix
	}
	o.Rates = map[string]int{}
	for action, n := range e.Rates {
		o.Rates[action] = int(n)
	}
	o.Panel = actions.PanelOptions{Kind: e.Panel, WHMAPI1: e.WHMAPI1, UAPI: e.UAPI, Doveadm: e.Doveadm, Commands: map[string]actions.PanelCommand{}}
	for action, c := range e.Commands {
		o.Panel.Commands[action] = actions.PanelCommand(c)
	}
	o.Firewall = actions.FirewallOptions{Kind: e.Firewall, CSF: e.CSF, NFT: e.NFT, NeverBlock: e.NeverBlock}
	o.ScriptsApart = os.Getenv("INVOCATION_ID") != ""
	o.Scripts = map[string]actions.ScriptOptions{}
	for name, s := range e.Scripts {
		o.Scripts[name] = actions.ScriptOptions{Command: s.Command, User: s.User, File: s.File, TimeLimit: s.TimeLimit, OutputLimit: int(s.OutputLimit)}
	}
}

// rootPart is what the two have in common: configuration, log and their one socket.
func rootPart(configPath, name string) (config.Config, *slog.Logger, *net.UnixListener, error) {
	cfg, err := config.Load(configPath)
	if err != nil {
		return cfg, nil, nil, err
	}
	log, _, err := newLog(cfg.Log, os.Stderr)
	if err != nil {
		return cfg, nil, nil, err
	}
	log = log.With("component", name)
	slog.SetDefault(log)
	sockets, err := systemd.Listeners()
	if err != nil {
		return cfg, nil, nil, fmt.Errorf("take over the socket: %w", err)
	}
	l := sockets[name]
	if l == nil {
		return cfg, nil, nil, fmt.Errorf("osmd %s was not handed its socket: it is started by osmd itself, or by systemd's osm-%s.socket", name, name)
	}
	return cfg, log, l, nil
}

func mapsDir(cfg config.Config) string { return filepath.Join(cfg.Server.RunDir, "maps") }

// untilDaemonEnds is a context that ends with SIGTERM, or when the daemon that started
// us is gone, however it went: the pipe whose other end it holds has then ended.
func untilDaemonEnds() (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	fd, err := strconv.Atoi(os.Getenv(lifelineEnv))
	if err != nil {
		return ctx, stop // started by systemd
	}
	go func() { // ends with the process
		_, _ = io.Copy(io.Discard, os.NewFile(uintptr(fd), "lifeline"))
		stop()
	}()
	return ctx, stop
}

// notify tells systemd; a failure costs nothing but its view of us.
func notify(log *slog.Logger, states ...string) {
	if _, err := systemd.Notify(states...); err != nil {
		log.Warn("cannot notify systemd", "err", err)
	}
}
