package main

import (
	"net/http/httptest"
	"strings"
	"testing"

	eximacl "osm/exim-acl"
	"osm/internal/metrics"
)

func TestMetricsShowWhatTheServerCounted(t *testing.T) {
	d := &daemon{metrics: metrics.New()}
	d.registerServerMetrics(func(name, help string, f func() float64) {
		if err := d.metrics.RegisterCounterFunc("osm_"+name, help, f); err != nil {
			t.Fatal(err)
		}
	})
	d.server = &eximacl.Server{} // made after the metrics
	d.server.Stats.Shed.Add(2)
	d.server.Stats.Late.Add(1)
	d.server.Stats.Refused.Add(4)
	d.server.Stats.Malformed.Add(5)
	d.server.Stats.BadPeer.Add(6)
	d.server.Stats.Panics.Add(7)
	answer := httptest.NewRecorder()
	d.metrics.Handler().ServeHTTP(answer, httptest.NewRequest("GET", "/metrics", nil))
	for _, want := range []string{"osm_shed_total 3", "osm_refused_total 4", "osm_malformed_total 5", "osm_bad_peer_total 6", "osm_panics_total 7"} {
		if !strings.Contains(answer.Body.String(), want+"\n") {
			t.Errorf("the scrape lacks %q:\n%s", want, answer.Body)
		}
	}
}
