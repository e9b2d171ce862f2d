package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"osm/internal/config"
	"osm/internal/control"
	"osm/policy"
)

// reading bounds what is read from the database for a change of the rules.
const reading = 5 * time.Second

// settings are the rules' two sources. The file is what the operator wrote, the database
// what was set by osmctl or on the page; together they make the rules, which are built
// whole and swapped whole.
type settings struct {
	mu       sync.Mutex                    // one change at a time
	file     atomic.Pointer[config.Config] // as the file was read
	cfg      atomic.Pointer[config.Config] // in force: with the database's settings
	loadedAt atomic.Int64                  // Unix milliseconds
	problem  atomic.Pointer[string]        // of the last reload
}

func (s *settings) config() config.Config { return *s.cfg.Load() }

func (s *settings) lastProblem() string {
	if p := s.problem.Load(); p != nil {
		return *p
	}
	return ""
}

// rules joins what the file says with the database. A row that no longer fits (its trigger
// is gone from the file) is left out and reported; it comes back with its trigger.
func (d *daemon) rules(ctx context.Context, file config.Config) (*policy.Rules, config.Config, error) {
	ctx, cancel := context.WithTimeout(ctx, reading)
	defer cancel()
	cfg, odd, err := d.withSettings(ctx, file)
	r := cfg.Rules()
	if err != nil {
		return r, cfg, fmt.Errorf("read settings: %w", err)
	}
	overrides, err := d.store.Overrides(ctx)
	if err != nil {
		return r, cfg, fmt.Errorf("read limits: %w", err)
	}
	exemptions, err := d.store.Exemptions(ctx)
	if err != nil {
		return r, cfg, fmt.Errorf("read exemptions: %w", err)
	}
	holds, err := d.store.Holds(ctx)
	if err != nil {
		return r, cfg, fmt.Errorf("read holds: %w", err)
	}
	for i := range overrides {
		if m := policy.ValidateOverride(&overrides[i], r.Triggers); len(m) > 0 {
			odd = append(odd, fmt.Sprintf("limit %d: %v", overrides[i].ID, m))
			continue
		}
		r.Overrides = append(r.Overrides, overrides[i])
	}
	for i := range exemptions {
		e := exemptions[i].Exemption
		if m := policy.ValidateExemption(&e, r.Triggers); len(m) > 0 {
			odd = append(odd, fmt.Sprintf("exemption %d: %v", e.ID, m))
			continue
		}
		r.Exemptions = append(r.Exemptions, e)
	}
	r.Holds = holds
	d.alarms.set("settings", strings.Join(odd, "; "))
	return r, cfg, nil
}

// withSettings is the file with the database's settings; odd names those that cannot be.
func (d *daemon) withSettings(ctx context.Context, file config.Config) (cfg config.Config, odd []string, err error) {
	stored, err := d.store.Settings(ctx)
	if err != nil {
		return file, nil, err
	}
	cfg, wrong := file.With(control.StoredSettings(stored))
	for _, m := range wrong {
		odd = append(odd, "setting "+m.Error())
	}
	return cfg, odd, nil
}

// apply puts settings in force that are no rules.
func (d *daemon) apply(cfg config.Config) {
	d.store.SetRetention(cfg.Store.KeepDecisions, cfg.Store.KeepEvents)
	d.held.Set(cfg.Held.Keep, cfg.Held.ReleaseRate.Every())
	if d.o.level == nil {
		return
	}
	if err := d.o.level.UnmarshalText([]byte(cfg.Log.Level)); err != nil {
		d.log.Error("the log's level stays", "err", err)
	}
}

// changed makes the rules again after a change in the database or in the file. Where the
// database cannot be read, the rules in force stay.
func (d *daemon) changed(ctx context.Context) error {
	d.settings.mu.Lock()
	defer d.settings.mu.Unlock()
	return d.swap(ctx, *d.settings.file.Load())
}

// swap puts a file and what the database says in force, and has the counters of triggers
// filled that are new. The caller holds the settings' lock.
func (d *daemon) swap(ctx context.Context, file config.Config) error {
	r, cfg, err := d.rules(ctx, file)
	if err != nil {
		return fmt.Errorf("make the rules: %w", err)
	}
	refill := d.engine.SetRules(r)
	d.settings.file.Store(&file)
	d.settings.cfg.Store(&cfg)
	d.apply(cfg)
	if len(refill) > 0 {
		d.log.Info("filling the counters of changed triggers", "trigger", strings.Join(refill.Names(), " "))
		d.missing.add(&lack{only: refill, unwritten: true}) // meanwhile they count what comes
	}
	return nil
}

// reload reads the file again. With a mistake in it nothing changes.
func (d *daemon) reload(ctx context.Context) (string, error) {
	cfg, err := config.Load(d.o.config)
	if err != nil {
		text := err.Error()
		d.settings.problem.Store(&text)
		d.alarms.raise("config", "the file was refused at the last reload, the old settings hold: "+strings.ReplaceAll(text, "\n", "; "))
		return "", err
	}
	d.settings.mu.Lock()
	defer d.settings.mu.Unlock()
	old := *d.settings.file.Load()
	if err := d.swap(ctx, cfg); err != nil {
		return "", err
	}
	d.settings.loadedAt.Store(d.clock().Wall.UnixMilli())
	d.settings.problem.Store(nil)
	d.alarms.clear("config")
	d.panel.Reload()
	d.log.Info("configuration reloaded")
	return restartNeeded(old, cfg), nil
}

// restartNeeded names what changes only at the next start.
func restartNeeded(old, now config.Config) string {
	var parts []string
	add := func(differs bool, name string) {
		if differs {
			parts = append(parts, name)
		}
	}
	add(old.Server != now.Server, "[server]")
	add(old.Exim != now.Exim, "[exim]")
	add(old.Accounts.Source != now.Accounts.Source || old.Accounts.MinUID != now.Accounts.MinUID ||
		fmt.Sprint(old.Accounts.SharedUsers, old.Accounts.Domains, old.Accounts.Contacts) != fmt.Sprint(now.Accounts.SharedUsers, now.Accounts.Domains, now.Accounts.Contacts), "[accounts]")
	add(old.Store.Path != now.Store.Path, "store.path")
	add(old.Limits != now.Limits, "[limits]")
	add(old.Log.Format != now.Log.Format, "log.format")
	if len(parts) == 0 {
		return ""
	}
	return "changed in " + strings.Join(parts, ", ") + ": in force at the next start"
}

// written waits until what waits to be stored now is stored; false if that takes long.
func (d *daemon) written(ctx context.Context) bool {
	h := d.store.Health()
	want := h.Written + h.Dropped + uint64(h.Queued)
	ctx, cancel := context.WithTimeout(ctx, reading)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if h = d.store.Health(); h.Written+h.Dropped >= want {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
}
