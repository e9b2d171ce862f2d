package control_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"

	"osm/internal/control"
	"osm/internal/control/controltest"
)

// do sends a raw request.
func do(t *testing.T, d *controltest.Daemon, method, path, body string, header http.Header) (int, string) {
	t.Helper()
	resp, text := raw(t, d, method, path, body, header)
	return resp.StatusCode, text
}

// headerOf sends a raw request and returns the answer's header.
func headerOf(t *testing.T, d *controltest.Daemon, method, path, body string) http.Header {
	t.Helper()
	resp, _ := raw(t, d, method, path, body, nil)
	return resp.Header
}

func raw(t *testing.T, d *controltest.Daemon, method, path, body string, header http.Header) (*http.Response, string) {
	t.Helper()
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var dial net.Dialer
		return dial.DialContext(ctx, "unix", d.Socket)
	}}}
	req, err := http.NewRequestWithContext(t.Context(), method, "http://osmd"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

func TestWhatTheAPIRefuses(t *testing.T) {
	d := controltest.New(t, enforced)
	for _, c := range []struct {
		name, method, path, body string
		status                   int
		says                     string
	}{
		{"an unknown path", "GET", "/v1/nothing", "", 404, "control-api.md"},
		{"a wrong method", "DELETE", "/v1/status", "", 404, ""},
		{"a limit out of range", "GET", "/v1/events?limit=1001", "", 400, "1000"},
		{"a limit that is no number", "GET", "/v1/events?limit=x", "", 400, "limit"},
		{"a wrong mark", "GET", "/v1/events?after=x", "", 400, "next"},
		{"a wrong mark of settings", "GET", "/v1/config?after=x", "", 400, "next"},
		{"a limit of checks that is no number", "GET", "/v1/doctor?limit=x", "", 400, "limit"},
		{"an unknown order", "GET", "/v1/top?by=size", "", 400, "stopped"},
		{"a wrong time", "GET", "/v1/events?since=yesterday", "", 400, "RFC 3339"},
		{"a field that does not exist", "POST", "/v1/holds", `{"scpe":"account"}`, 400, "scpe"},
		{"two values", "POST", "/v1/holds", `{} {}`, 400, "more than one"},
		{"no JSON", "POST", "/v1/reset", "x", 400, "JSON"},
		{"an empty body", "POST", "/v1/reset", "", 400, "JSON"},
		{"a body over 1 MiB", "POST", "/v1/holds", `{"reason":"` + strings.Repeat("x", 1<<20) + `"}`, 413, "1048576"},
		{"a hold without a number", "DELETE", "/v1/holds/x", "", 400, "id"},
		{"a backup to a relative path", "POST", "/v1/backup", `{"path":"x.db"}`, 400, "absolute"},
		{"a file that exists", "POST", "/v1/backup", `{"path":"` + d.Socket + `"}`, 409, "already"},
	} {
		status, body := do(t, d, c.method, c.path, c.body, nil)
		var e control.Error
		if err := json.Unmarshal([]byte(body), &e); err != nil {
			t.Errorf("%s: body %q: %v", c.name, body, err)
		}
		if status != c.status || !strings.Contains(e.Message+e.Hint, c.says) || e.Message == "" {
			t.Errorf("%s = %d %s, want %d and %q", c.name, status, body, c.status, c.says)
		}
	}
}

func TestWhoAsksIsToldByTheKernel(t *testing.T) {
	d := controltest.New(t, enforced)
	header := http.Header{"X-Osm-User": {"bob"}, "X-Osm-Role": {"reseller"}, "X-Osm-Reseller": {"bob"}}
	status, body := do(t, d, "GET", "/v1/status", "", header)
	if status != http.StatusForbidden {
		t.Errorf("status with asserted headers = %d %s: a reseller must not see it, nor anybody but root assert", status, body)
	}
	if os.Geteuid() == 0 {
		if _, err := d.Service.PutHold(t.Context(), operator(), control.Hold{Scope: "account", Account: "shop"}); err != nil {
			t.Fatal(err)
		}
		if status, body := do(t, d, "GET", "/v1/holds", "", http.Header{"X-Osm-User": {"carol"}, "X-Osm-Role": {"reseller"}}); status != 200 || strings.Contains(body, "shop") {
			t.Errorf("another reseller's holds = %d %s", status, body)
		}
		if status, _ := do(t, d, "GET", "/v1/holds", "", http.Header{"X-Osm-Role": {"king"}}); status != 400 {
			t.Errorf("an unknown role = %d", status)
		}
		if status, _ := do(t, d, "GET", "/v1/holds", "", http.Header{"X-Osm-User": {"a b"}}); status != 400 {
			t.Errorf("a name with a blank = %d", status)
		}
	}
}

func TestListsGoOn(t *testing.T) {
	d := controltest.New(t, enforced)
	for i := range 7 {
		if _, err := d.Service.AddExemption(t.Context(), operator(), control.Exemption{Scope: "ip", Value: fmt.Sprintf("192.0.2.%d", i)}); err != nil {
			t.Fatal(err)
		}
	}
	c := control.NewClient(d.Socket)
	defer c.Close()
	seen, q := map[int64]bool{}, control.Query{Limit: 3}
	for range 3 {
		l, err := c.Exemptions(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range l.Items {
			seen[e.ID] = true
		}
		q.After = l.Next
	}
	if len(seen) != 7 || q.After != "" {
		t.Errorf("three pages of three = %d exemptions, next %q, want all 7", len(seen), q.After)
	}
	if status, body := do(t, d, "GET", "/v1/holds", "", nil); status != 200 || strings.TrimSpace(body) != `{"items":[]}` {
		t.Errorf("an empty list = %d %s", status, body)
	}
}
