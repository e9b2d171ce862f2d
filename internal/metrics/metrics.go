// Package metrics holds the counters that the daemon shows to Prometheus.
//
// It counts what it is told and decides nothing. The front-ends and the daemon call
// it on the way of a message, so nothing in it blocks. Every name begins with
// "osm_", but for the Go runtime's own, which keep the names that dashboards know.
package metrics

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// prefix begins the name of every metric of ours.
const prefix = "osm_"

// Set is one daemon's metrics, in a registry of its own.
type Set struct {
	// Decisions counts the answers by verdict ("accept", "freeze" …) and source
	// ("login", "script" …).
	Decisions *prometheus.CounterVec
	// AnswerSeconds is the time from accepting a connection to its answer.
	AnswerSeconds prometheus.Histogram
	// Unchecked counts the messages accepted without being judged, by reason
	// ("not_ready", "overload", "malformed", "fault", "unanswered").
	Unchecked *prometheus.CounterVec
	// InspectorErrors counts the questions about a process that got no answer.
	InspectorErrors prometheus.Counter

	registry *prometheus.Registry
}

// New returns an empty set. Each call has its own registry, so that two daemons in
// one test do not share counters.
func New() *Set {
	s := &Set{
		Decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: prefix + "decisions_total",
			Help: "Messages decided, by verdict and by the way they were submitted.",
		}, []string{"verdict", "source"}),
		AnswerSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    prefix + "answer_seconds",
			Help:    "Time from accepting a connection of the MTA to its answer.",
			Buckets: answerBuckets(),
		}),
		Unchecked: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: prefix + "unchecked_total",
			Help: "Messages accepted without being judged, by reason.",
		}, []string{"reason"}),
		InspectorErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: prefix + "inspector_errors_total",
			Help: "Questions about a submitting process that got no answer.",
		}),
		registry: prometheus.NewRegistry(),
	}
	s.registry.MustRegister(s.Decisions, s.AnswerSeconds, s.Unchecked, s.InspectorErrors, collectors.NewGoCollector())
	return s
}

// answerBuckets spans from 50 µs, a decision from memory, over 250 ms, the daemon's
// own deadline, to 1 s, after which Exim no longer waits.
func answerBuckets() []float64 {
	return []float64{50e-6, 100e-6, 200e-6, 500e-6, 1e-3, 2e-3, 5e-3, 10e-3, 20e-3, 50e-3, 100e-3, 250e-3, 500e-3, 1}
}

// RegisterGaugeFunc adds a value that is asked for at each scrape. The name must
// begin with "osm_" and be new; f must be safe to call at any time and must not block.
func (s *Set) RegisterGaugeFunc(name, help string, f func() float64) error {
	if err := check(name, help); err != nil {
		return err
	}
	return s.register(name, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f))
}

// RegisterCounterFunc is RegisterGaugeFunc for a value that never falls; by custom
// its name ends in "_total".
func (s *Set) RegisterCounterFunc(name, help string, f func() float64) error {
	if err := check(name, help); err != nil {
		return err
	}
	return s.register(name, prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, f))
}

func check(name, help string) error {
	if !strings.HasPrefix(name, prefix) || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789_") != "" || help == "" {
		return fmt.Errorf("register metric %q: its name must be [a-z0-9_] and begin with %q, and its help must say what it is", name, prefix)
	}
	return nil
}

func (s *Set) register(name string, c prometheus.Collector) error {
	if err := s.registry.Register(c); err != nil {
		return fmt.Errorf("register metric %q: %w", name, err)
	}
	return nil
}

// Handler answers scrapes with the present values.
func (s *Set) Handler() http.Handler {
	return promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}
