package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	"osm/actions"
	"osm/internal/config"
	"osm/internal/origin"
)

// startAlone is for whoever tries the daemon without root, in folders of his own: all
// parts are in one process, and look at and do only what he may.
func startAlone(cfg config.Config, o options, log *slog.Logger) error {
	for _, dir := range []string{cfg.Server.RunDir, filepath.Dir(cfg.Store.Path)} {
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return fmt.Errorf("%w\n(without root the daemon needs folders of its own: set server.run_dir, the five sockets and store.path)", err)
		}
	}
	sockets := map[string]*net.UnixListener{}
	for name, path := range map[string]string{
		policySocket: cfg.Server.PolicySocket, controlSocket: cfg.Server.ControlSocket,
		inspectSocket: cfg.Server.InspectSocket, executorSocket: cfg.Server.ExecutorSocket, watchSocket: cfg.Server.WatchSocket,
	} {
		l, err := listenUnix(path)
		if err != nil {
			return err
		}
		defer os.Remove(path)
		sockets[name] = l
	}
	exec, err := executorOptions(o.executor, log)
	if err != nil {
		return err
	}
	exec.PeerUIDs = []uint32{uint32(os.Getuid())}
	parts := newLife()
	parts.start(inspectSocket, func(ctx context.Context) error {
		return origin.ServeInspect(ctx, sockets[inspectSocket], origin.InspectOptions{UID: uint32(os.Getuid()), Exim: cfg.Exim.Binary, Pool: poolsInFiles(), Log: log})
	})
	parts.start(executorSocket, func(ctx context.Context) error { return actions.ServeExecutor(ctx, sockets[executorSocket], exec) })
	parts.start(watchSocket, func(ctx context.Context) error {
		return serveWatch(ctx, cfg, sockets[watchSocket], uint32(os.Getuid()), log)
	})
	err = serve(cfg, o, sockets, log)
	for _, e := range parts.stop() {
		log.Warn("a part ended badly", "err", e)
	}
	return err
}
