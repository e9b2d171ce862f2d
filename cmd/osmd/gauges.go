package main

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	eximacl "osm/exim-acl"
	"osm/internal/metrics"
	"osm/policy"
)

// decisionCounters are the counters of decisions, by verdict and source. To look one up by
// its labels costs more than to count.
type decisionCounters [policy.Deny + 1][policy.SourceDirect + 1]prometheus.Counter

func countersOf(m *metrics.Set) *decisionCounters {
	var c decisionCounters
	for v := range c {
		for s := range c[v] {
			c[v][s] = m.Decisions.WithLabelValues(policy.Verdict(v).String(), policy.Source(s).String())
		}
	}
	return &c
}

// registerMetrics adds the figures that are asked for at each scrape.
func (d *daemon) registerMetrics() error {
	var errs []error
	gauge := func(name, help string, f func() float64) {
		errs = append(errs, d.metrics.RegisterGaugeFunc("osm_"+name, help, f))
	}
	counter := func(name, help string, f func() float64) {
		errs = append(errs, d.metrics.RegisterCounterFunc("osm_"+name, help, f))
	}
	gauge("store_queue", "Decisions that wait to be stored.", func() float64 { return float64(d.store.Health().Queued) })
	gauge("store_lag_seconds", "Age of the oldest decision that waits to be stored.", func() float64 {
		return time.Duration(d.store.Health().Lag).Seconds()
	})
	gauge("store_ok", "1 while the database can be written.", func() float64 { return one(d.store.Health().OK) })
	gauge("store_bytes", "Size of the database file.", func() float64 { return float64(d.store.Health().DBBytes) })
	gauge("store_log_bytes", "Size of the write-ahead log.", func() float64 { return float64(d.store.Health().LogBytes) })
	counter("store_written_total", "Decisions stored.", func() float64 { return float64(d.store.Health().Written) })
	counter("store_dropped_total", "Decisions that found no room to wait and were not stored.", func() float64 { return float64(d.store.Health().Dropped) })
	gauge("counters_keys", "Counters in memory.", func() float64 { return float64(d.table.Stats().Keys) })
	gauge("counters_bytes", "Memory of the counters.", func() float64 { return float64(d.table.Stats().Bytes) })
	counter("counters_evictions_total", "Subjects and directories that gave way to new ones of the same account.", func() float64 { return float64(d.table.Stats().Evictions) })
	gauge("accounts_age_seconds", "Age of the last whole look at the account maps.", func() float64 {
		return d.wall().Sub(d.panel.Status().CheckedAt).Seconds()
	})
	gauge("accounts", "Accounts of the panel.", func() float64 { return float64(d.panel.Status().Accounts) })
	gauge("events_open", "Triggers and keys that are over.", func() float64 {
		open, _ := d.tracker.Open()
		return float64(open)
	})
	gauge("holds", "Standing holds.", func() float64 { return float64(len(d.engine.Rules().Holds)) })
	gauge("held_messages", "Frozen messages in Exim's queue.", func() float64 { return float64(d.held.Status().Messages) })
	gauge("held_bytes", "Size of the frozen messages in Exim's queue.", func() float64 { return float64(d.held.Status().Bytes) })
	gauge("actions_queue", "New events that wait for their actions.", func() float64 { return float64(len(d.planned)) })
	gauge("alarms", "Alarms that stand.", func() float64 { return float64(len(d.alarms.list())) })
	gauge("monitor_ok", "1 while every connection that bypasses Exim is seen, and whose it is.", func() float64 { return one(d.monitorPart().OK) })
	d.registerMonitorMetrics(counter)
	d.registerServerMetrics(counter)
	gauge("ready", "1 once the counters are back.", func() float64 { return one(d.flow.ready.Load()) })
	return errors.Join(errs...)
}

// registerServerMetrics adds what the server of the policy socket counts. It is made after
// the metrics, and is there before anybody asks for them.
func (d *daemon) registerServerMetrics(counter func(name, help string, f func() float64)) {
	of := func(name, help string, n func(*eximacl.Stats) int64) {
		counter(name, help, func() float64 { return float64(n(&d.server.Stats)) })
	}
	of("shed_total", "Questions answered only from what was known, because of too many connections or a passed deadline.",
		func(s *eximacl.Stats) int64 { return s.Shed.Load() + s.Late.Load() })
	of("refused_total", "Connections closed at once because there were far too many; their messages were accepted unchecked.",
		func(s *eximacl.Stats) int64 { return s.Refused.Load() })
	of("malformed_total", "Requests that could not be understood; their messages were accepted.",
		func(s *eximacl.Stats) int64 { return s.Malformed.Load() })
	of("bad_peer_total", "Connections refused because of the user that made them.",
		func(s *eximacl.Stats) int64 { return s.BadPeer.Load() })
	of("panics_total", "Panics caught; each cost one request, whose message was accepted.",
		func(s *eximacl.Stats) int64 { return s.Panics.Load() })
}

// registerMonitorMetrics adds what the watch counts of connections that bypass Exim.
func (d *daemon) registerMonitorMetrics(counter func(name, help string, f func() float64)) {
	told := func(name string) func() float64 {
		return func() float64 { return float64(d.back.count(name)) }
	}
	counter("monitor_seen_total", "Connections to mail ports that the source of the back door reported.", told("seen"))
	counter("monitor_records_total", "Connections past Exim that were handed on to be counted.", told("records"))
	counter("monitor_repeats_total", "Connections that were reported once more, and not counted again.", told("repeats"))
	counter("monitor_excluded_total", "Connections of Exim's own and other exempted users.", told("excluded"))
	counter("monitor_to_mta_total", "Connections to this host's own mail server, which the door counts.", told("to_mta"))
	counter("monitor_redirected_total", "Connections that a firewall rule brought to this host's own mail server.", told("redirected"))
	counter("monitor_uid_unknown_total", "Connections of which it is not known whose they are.", told("uid_unknown"))
	counter("monitor_process_unknown_total", "Connections whose process was gone before it could be looked at.", told("process_unknown"))
	counter("monitor_lost_total", "Connections that the kernel dropped before they could be read.", told("lost"))
	counter("monitor_dropped_total", "Connections for which the daemon's absence left no more room.", told("dropped"))
}

func one(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
