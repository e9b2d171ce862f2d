package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"osm/internal/control"
	"osm/internal/systemd"
	"osm/policy"
	store "osm/sql"
	whm "osm/whm-addon"
)

// newService makes the operations that osmctl and the page ask for.
func (d *daemon) newService() error {
	s, err := control.NewService(control.Options{
		Version: version, StartedAt: d.started, Engine: d.engine, Store: d.store, Executor: d.executor,
		Clock: d.clock, Log: d.log, Accounts: d.panel.Map, Config: d.settings.config, State: d.state,
		Metrics: d.metrics.Handler(), Reload: d.reload, Changed: d.changed, Kick: d.held.Kick, Reread: d.reread,
		Released: func(h policy.Hold) { d.planner.Released(h, d.clock()) },
		WasReset: d.wasReset,
		Undo:     d.runner.Undo,
	})
	if err != nil {
		return err
	}
	d.service = s
	d.page, err = whm.New(whm.Options{Service: s, Log: d.log, Clock: d.clock, Zone: time.Local})
	return err
}

// reread reads the panel's lists again at once, which is done every few seconds anyway:
// first the copies of what only root may read.
func (d *daemon) reread(ctx context.Context) error {
	err := d.flow.inspector.Maps(ctx)
	d.panel.Reload()
	return err
}

// hangUp reads the file again because of SIGHUP, as "osmctl config reload" does. The kernel
// does not tell who sent a signal: the audit names the signal, and the daemon's own uid.
func (d *daemon) hangUp(ctx context.Context) {
	_, err := d.service.Reload(ctx, control.Actor{Name: "SIGHUP", UID: uint32(os.Getuid()), Role: control.Operator})
	var refused *control.Error
	if errors.As(err, &refused) && len(refused.Mistakes) > 0 {
		err = fmt.Errorf("%w: %s", err, strings.Join(refused.Mistakes, "; "))
	}
	if err != nil {
		d.log.Error("configuration not reloaded, the old settings hold", "err", err)
	}
}

// wasReset ends the event of a counter that was reset, and writes the counters down at
// once: after a crash the snapshot would bring the old ones back.
func (d *daemon) wasReset(trigger, key string) {
	if c, ok := d.tracker.End(trigger, key); ok {
		d.follow([]policy.EventChange{c}, nil)
	}
	d.alarms.setErr("counters", d.snaps.write())
}

// control serves the control socket and, where it is set, the metrics' address.
func (d *daemon) control(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return control.Serve(ctx, d.sockets[controlSocket], d.service, d.log, d.page) })
	if d.cfg.Server.MetricsListen != "" {
		g.Go(func() error { return d.serveMetrics(ctx) })
	}
	return g.Wait()
}

func (d *daemon) serveMetrics(ctx context.Context) error {
	l, err := net.Listen("tcp", d.cfg.Server.MetricsListen)
	if err != nil {
		// The figures are on the control socket as well: mail must not wait for them.
		d.alarms.raise("metrics", fmt.Sprintf("server.metrics_listen: %v", err))
		<-ctx.Done()
		return nil
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", d.metrics.Handler())
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second, MaxHeaderBytes: 16 << 10}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}

// state is what only the daemon knows of itself.
func (d *daemon) state() control.State {
	st := &d.server.Stats
	out := control.State{
		ConfigLoadedAt: time.UnixMilli(d.settings.loadedAt.Load()).UTC(), ConfigError: d.settings.lastProblem(),
		Exim: d.eximPart(), Inspect: d.inspectPart(), Executor: d.executorPart(), Accounts: d.accountsPart(),
		Monitor:   d.monitorPart(),
		Checks:    uint64(st.Answered.Load()),
		Shed:      uint64(st.Shed.Load() + st.Late.Load() + st.Refused.Load()),
		Unchecked: d.uncheckedTotal(),
	}
	for _, a := range d.alarms.list() {
		out.Alarms = append(out.Alarms, control.Alarm{At: store.Time{Time: a.since}, Name: a.name, Text: a.text})
	}
	return out
}

func (d *daemon) uncheckedTotal() uint64 {
	return d.flow.unchecked.Load() + uint64(d.server.Stats.Refused.Load()+d.flow.missed.Load())
}

func (d *daemon) eximPart() control.Part {
	at := d.flow.lastAsked.Load()
	if at == 0 {
		return control.Part{Text: "Exim has not asked since the daemon started"}
	}
	return control.Part{OK: true, Text: "Exim asks", Since: store.Time{Time: time.UnixMilli(at).UTC()}}
}

func (d *daemon) inspectPart() control.Part {
	if err := d.flow.inspector.Err(); err != nil {
		return control.Part{Text: "not there: scripts are told apart by uid and directory only: " + err.Error()}
	}
	return control.Part{OK: true, Text: "answers"}
}

func (d *daemon) executorPart() control.Part {
	if slices.Contains(d.children.gone(), executorSocket) {
		return control.Part{Text: "it has ended: held mail can be neither released nor removed"}
	}
	if p := d.held.Status().Problem; p != "" {
		return control.Part{Text: "held mail waits: " + p}
	}
	return control.Part{OK: true, Text: "answers"}
}

func (d *daemon) accountsPart() control.Part {
	s := d.panel.Status()
	p := control.Part{OK: true, Since: store.Time{Time: s.LoadedAt},
		Text: fmt.Sprintf("%s: %d accounts, %d domains", s.Panel, s.Accounts, s.Domains)}
	if problems := mapProblems(s.Files); len(problems) > 0 {
		p.OK, p.Text = false, p.Text+"; "+strings.Join(problems, "; ")
	}
	return p
}

// alive tells systemd that the daemon does its work.
func (d *daemon) alive() {
	if systemd.Watchdog() > 0 {
		notify(d.log, systemd.Alive)
	}
}
