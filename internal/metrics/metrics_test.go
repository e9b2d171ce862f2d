package metrics

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func scrape(t *testing.T, s *Set) string {
	t.Helper()
	rec := httptest.NewRecorder()
	s.Handler().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if rec.Code != http.StatusOK {
		t.Fatalf("scrape: got status %d, want 200: %s", rec.Code, rec.Body)
	}
	return rec.Body.String()
}

func TestScrapeShowsWhatWasCounted(t *testing.T) {
	s := New()
	s.Decisions.WithLabelValues("freeze", "script").Add(3)
	s.Unchecked.WithLabelValues("not_ready").Inc()
	s.AnswerSeconds.Observe(70e-6)
	s.InspectorErrors.Inc()
	if err := s.RegisterGaugeFunc("osm_held_messages", "Messages held.", func() float64 { return 42 }); err != nil {
		t.Fatal(err)
	}
	if err := s.RegisterCounterFunc("osm_evictions_total", "Keys evicted.", func() float64 { return 7 }); err != nil {
		t.Fatal(err)
	}
	text := scrape(t, s)
	for _, want := range []string{
		`osm_decisions_total{source="script",verdict="freeze"} 3`,
		`osm_unchecked_total{reason="not_ready"} 1`,
		`osm_answer_seconds_bucket{le="5e-05"} 0`,
		`osm_answer_seconds_bucket{le="0.0001"} 1`,
		`osm_answer_seconds_bucket{le="1"} 1`,
		"osm_inspector_errors_total 1", "osm_held_messages 42", "# TYPE osm_evictions_total counter", "osm_evictions_total 7",
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("scrape: line %q is missing in\n%s", want, text)
		}
	}
}

func TestEveryMetricHasOurPrefixAndAHelpText(t *testing.T) {
	s := New()
	s.Decisions.WithLabelValues("accept", "login").Inc()
	s.Unchecked.WithLabelValues("fault").Inc()
	for line := range strings.Lines(scrape(t, s)) {
		name, help, found := strings.Cut(strings.TrimPrefix(line, "# HELP "), " ")
		if !strings.HasPrefix(line, "# HELP ") {
			continue
		}
		if !strings.HasPrefix(name, "osm_") && !strings.HasPrefix(name, "go_") {
			t.Errorf("metric %q: want the prefix osm_", name)
		}
		if !found || strings.TrimSpace(help) == "" {
			t.Errorf("metric %q: no help text", name)
		}
	}
}

func TestRegisterRefusesWhatCannotBeShown(t *testing.T) {
	for _, tt := range []struct{ name, metric, help string }{
		{"a name without our prefix", "held_messages", "Messages held."},
		{"no help text", "osm_held_messages", ""},
		{"a name that is taken", "osm_inspector_errors_total", "Something else."},
		{"a name that Prometheus cannot show", "osm_a{b}", "Something."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := New().RegisterGaugeFunc(tt.metric, tt.help, func() float64 { return 0 }); err == nil {
				t.Errorf("RegisterGaugeFunc(%q, %q): got no error", tt.metric, tt.help)
			}
		})
	}
}

func TestTwoSetsShareNothing(t *testing.T) {
	a, b := New(), New()
	a.InspectorErrors.Inc()
	if strings.Contains(scrape(t, b), "osm_inspector_errors_total 1") {
		t.Error("the second set shows the first one's counter")
	}
}
