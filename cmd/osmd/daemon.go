package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"osm/actions"
	"osm/counters"
	eximacl "osm/exim-acl"
	"osm/internal/config"
	"osm/internal/control"
	"osm/internal/metrics"
	"osm/internal/origin"
	"osm/internal/packetmon"
	"osm/internal/panel"
	"osm/internal/privilege"
	"osm/internal/systemd"
	"osm/policy"
	store "osm/sql"
)

// daemon is the running whole: what each part needs of the others.
type daemon struct {
	cfg     config.Config
	o       options
	log     *slog.Logger
	clock   func() policy.Moment
	started time.Time
	sockets map[string]*net.UnixListener

	settings  settings
	alarms    *alarms
	metrics   *metrics.Set
	store     *store.Store
	table     *counters.Table
	engine    *policy.Engine
	panel     *panel.Watcher
	flow      *flow
	witnesses *witnesses
	server    *eximacl.Server
	snaps     *snapshots
	missing   *missing
	service   *control.Service
	page      http.Handler // what browsers see
	children  *children
	back      backDoor

	tracker  *policy.Tracker
	planner  *policy.HoldPlanner
	planned  chan policy.EventChange // new events that wait for their actions
	acting   sync.Mutex              // one event's actions at a time
	due      chan struct{}           // an action waits for its turn
	failedAt atomic.Int64            // Unix milliseconds: an action failed for good
	owed     owed
	executor *actions.Executor
	held     *actions.Held
	runner   *actions.Runner
	notifier *actions.Notifier

	watched map[string]watched // by keepHouse alone
	hits    map[int64]int64    // of exemptions, as far as they are written down; by keepUp alone

	life       *life
	background sync.WaitGroup // ends with stopping
	stopping   context.Context
}

// serve runs the daemon, unprivileged, until it is told to stop.
func serve(cfg config.Config, o options, sockets map[string]*net.UnixListener, log *slog.Logger) error {
	if err := privilege.Seal(); err != nil {
		return fmt.Errorf("%w\n(osmd reads what strangers wrote and must not be root: start it as root, or by its systemd unit, and it becomes %s)", err, cfg.Server.User)
	}
	for _, name := range []string{policySocket, controlSocket} {
		if sockets[name] == nil {
			return fmt.Errorf("the %s socket was not handed over: systemd needs osm-%s.socket", name, name)
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	// Signals stay caught until the end: a second one must not break off the orderly stop.
	stopping, cancel := context.WithCancel(ctx)
	defer cancel()
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	d := &daemon{
		cfg: cfg, o: o, log: log, clock: origin.Clock(), sockets: sockets, life: newLife(),
		stopping: stopping, watched: map[string]watched{}, planned: make(chan policy.EventChange, maxPlanned), due: make(chan struct{}, 1), children: watchChildren(), missing: newMissing(),
	}
	d.started = d.clock().Wall
	d.back.off = cfg.Direct.Source == packetmon.SourceOff
	d.alarms = newAlarms(log, d.wall)
	err := d.build(ctx)
	if err == nil {
		err = d.run(ctx, hup)
	}
	notify(log, systemd.Stopping)
	cancel()
	errs := append([]error{err}, d.life.stop()...)
	d.background.Wait()
	if d.store != nil {
		errs = append(errs, d.store.Close())
	}
	return errors.Join(errs...)
}

// build makes the parts; nothing is asked or answered yet.
func (d *daemon) build(ctx context.Context) error {
	var err error
	d.metrics = metrics.New()
	d.store, err = store.Open(ctx, store.Options{
		Path: d.cfg.Store.Path, Log: d.log, Now: d.wall, Clock: d.clock, BootID: origin.BootID(),
		KeepDecisions: d.cfg.Store.KeepDecisions, KeepEvents: d.cfg.Store.KeepEvents,
	})
	if err != nil {
		return err
	}
	d.table = counters.New(counters.Options{PerGroup: int(d.cfg.Limits.DistinctPerAccount)})
	d.table.SetSeq(firstSeq(d.store))
	d.settings.file.Store(&d.cfg)
	d.settings.loadedAt.Store(d.started.UnixMilli())
	rules, cfg, err := d.rules(ctx, d.cfg)
	d.settings.cfg.Store(&cfg)
	if err != nil { // what the file says holds until the database can be read
		d.log.Error("settings, limits, exemptions and holds of the database are not in force", "err", err)
		d.alarms.raise("settings", err.Error())
		d.owed.add(taskRules)
	}
	d.owed.mended = d.store.Health().OK
	d.engine = policy.NewEngine(d.table, rules)
	d.engine.SetRefKey(d.store.RefKey())
	d.panel = panel.New(panel.Options{
		Maps: mapsDir(d.cfg), Source: d.cfg.Accounts.Source, Domains: d.cfg.Accounts.Domains,
		Contacts: d.cfg.Accounts.Contacts, SharedUsers: d.cfg.Accounts.SharedUsers, MinUID: uint32(d.cfg.Accounts.MinUID),
		EximUser: d.cfg.Exim.User, Now: d.wall, Log: d.log.With("component", "panel"),
	})
	d.witnesses = newWitnesses(d.store, d.clock, d.background.Go)
	d.flow = &flow{
		see:   func(dec *policy.Decision, chain []policy.Process) { d.witnesses.see(d.stopping, dec, chain) },
		clock: d.clock, engine: d.engine, panel: d.panel, diag: origin.NewDiag(),
		inspector: origin.NewInspector(d.cfg.Server.InspectSocket), metrics: d.metrics, decided: countersOf(d.metrics), log: d.log,
		record: d.record, opened: make(chan struct{}), pending: make(chan pending, maxPending),
	}
	d.snaps = &snapshots{path: filepath.Join(filepath.Dir(d.cfg.Store.Path), "counters.snapshot"),
		table: d.table, engine: d.engine, clock: d.clock, wait: d.missing.sinceSnapshot}
	if err := d.buildActions(); err != nil {
		return err
	}
	d.apply(cfg)
	if err := d.newService(); err != nil {
		return err
	}
	if err := d.registerMetrics(); err != nil {
		return err
	}
	return d.newServer()
}

// seqMargin is more decisions than can wait unwritten when the daemon is killed: their
// references stand in Exim's log and in the clients' hands, and are not given again.
const seqMargin = 100_000

// firstSeq is the number after which those of this start begin.
func firstSeq(s *store.Store) uint64 { return s.MaxSeq() + seqMargin }

func (d *daemon) wall() time.Time { return d.clock().Wall }

func (d *daemon) newServer() error {
	exim, err := privilege.LookupUser(d.cfg.Exim.User)
	if err != nil {
		return fmt.Errorf("exim.user: %w", err)
	}
	d.server = &eximacl.Server{
		Check: d.flow.check, Overload: d.flow.overload, Malformed: d.flow.malformed, Fault: d.flow.fault,
		Unsent: d.flow.unsent,
		Done:   d.flow.done, PeerOK: func(uid uint32) bool { return uid == uint32(exim.UID) },
		Deadline: d.cfg.Exim.Deadline, MaxConns: int(d.cfg.Exim.MaxConnections), Log: d.log.With("component", "eximacl"),
	}
	return nil
}

// buildActions makes what follows after the answer.
func (d *daemon) buildActions() error {
	d.executor = actions.NewExecutor(d.cfg.Server.ExecutorSocket)
	d.planner = policy.NewHoldPlanner()
	if err := d.recallReleases(d.stopping); err != nil {
		d.log.Error("what was released lately is not known: it may be held again at once", "err", err)
		d.owed.add(taskReleases)
	}
	held := d.settings.config().Held
	d.held = actions.NewHeld(actions.HeldOptions{
		Store: d.store, Engine: d.engine, Executor: d.executor, Log: d.log.With("component", "held"), Now: d.clock,
		Keep: held.Keep, ReleaseEvery: held.ReleaseRate.Every(),
		Identify: d.ownerOf, Place: func(id policy.Identity) policy.Identity { return d.panel.Map().Place(id) },
	})
	d.buildNotifier()
	d.buildRunner()
	if err := d.buildEvidence(); err != nil {
		return err
	}
	return d.buildTracker()
}

// recallReleases tells the planner of holds what operators released shortly before the
// start: that is not put again at once either.
func (d *daemon) recallReleases(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, reading)
	defer cancel()
	now := d.clock()
	ended, err := d.store.EndedHolds(ctx, now.Wall.Add(-d.engine.Rules().Settings.HoldGrace))
	if err != nil {
		return err
	}
	for _, h := range slices.Backward(ended) { // the oldest first
		if h.EndedBy != "" && h.EndedBy != actions.ByTime {
			d.planner.Released(h.Hold, now.Add(-max(now.Wall.Sub(h.EndedAt), 0)))
		}
	}
	return nil
}

// buildTracker takes over the events that were open when the daemon last stopped.
func (d *daemon) buildTracker() error {
	ctx, cancel := context.WithTimeout(d.stopping, reading)
	defer cancel()
	var last atomic.Int64
	next, err := d.store.NextEventID(ctx)
	if err != nil { // numbers of a database that cannot be read must not come again
		next = d.wall().UnixMilli()
	}
	last.Store(next - 1)
	d.tracker = policy.NewTracker(func() int64 { return last.Add(1) }, 0)
	if err := d.restoreEvents(ctx); err != nil {
		d.log.Error("open events could not be read: their senders will be reported again", "err", err)
		d.owed.add(taskEvents)
	}
	d.owed.add(taskActions) // what was planned when the daemon stopped or was killed
	return nil
}

// ownerOf finds the owner of a frozen message whose decision was lost in a crash, by what
// Exim wrote down.
func (d *daemon) ownerOf(m actions.QueueMessage) policy.Identity {
	s := &policy.Submission{
		MessageID: m.MessageID, CallerUID: m.CallerUID, AuthenticatedID: m.AuthenticatedID, Authenticator: m.Authenticator,
		Ident: m.CallerLogin, EnvelopeSender: m.EnvelopeSender, Recipients: m.Recipients, Size: m.Size,
	}
	if ip, err := netip.ParseAddr(m.ClientIP); err == nil {
		s.ClientIP = ip
	}
	return policy.Identify(s, &policy.Origin{}, d.panel.Map())
}

// run starts the parts in the order in which they need each other and waits for the end.
// Questions are taken from the start: until the counters are back they wait, at most up
// to their deadline.
func (d *daemon) run(ctx context.Context, hup <-chan os.Signal) error {
	d.life.start("store", d.store.Run)
	d.life.start("panel", d.panel.Run)
	// The copies of the panel's maps are made while we start: what was missing at our first
	// look is there at once, instead of at the watcher's next. Without them it says so.
	d.background.Go(func() { _ = d.reread(d.stopping) })
	d.life.start("policy", func(ctx context.Context) error { return d.server.Serve(ctx, d.sockets[policySocket]) })
	d.restore(ctx)
	d.life.start("counters", func(ctx context.Context) error {
		return d.snaps.run(ctx, func(err error) { d.alarms.setErr("counters", err) })
	})
	d.life.start("refill", d.fillCounters)
	d.life.start("held", d.held.Run)
	d.life.start("actions", d.act)
	d.life.start("follow-up", d.followUp)
	d.life.start("reports", d.notifier.Run)
	d.flow.open()
	d.life.start("back door", d.followWatch)
	d.life.start("house", d.keepHouse)
	d.life.start("upkeep", d.keepUp)
	d.life.start("alive", d.keepAlive)
	d.life.start("control", d.control)
	d.log.Info("ready", "version", version, "accounts", d.panel.Status().Accounts)
	notify(d.log, systemd.Ready)
	for {
		select {
		case <-ctx.Done():
			d.log.Info("stopping")
			return nil
		case err := <-d.life.ended:
			return err
		case <-hup:
			d.hangUp(ctx)
		}
	}
}
