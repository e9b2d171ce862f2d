package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"osm/internal/control"
	"osm/internal/control/controltest"
)

func TestWebRefusesToListenForEverybody(t *testing.T) {
	s := newShell(t)
	for _, args := range [][]string{
		{"web", "--listen", "0.0.0.0:8025"}, {"web", "--listen", "192.0.2.1:8025"}, {"web", "link", "--listen", "[::]:8025"}, {"web", "--public-url", "http://mail.example"},
	} {
		out := s.run(args...)
		if !strings.Contains(out, "--- status 2") || !strings.Contains(out, "osmctl: ") {
			t.Errorf("osmctl %q: %s", args, out)
		}
	}
}

func TestWebLink(t *testing.T) {
	s := newShell(t)
	var link oneWay
	ask := func(args ...string) {
		t.Helper()
		out, _, _ := strings.Cut(s.run(append([]string{"web", "link", "--json"}, args...)...), "--- ")
		link = oneWay{}
		if err := json.Unmarshal([]byte(out), &link); err != nil {
			t.Fatalf("%q: %v", out, err)
		}
	}
	s.env.uid, s.env.sudoUser = 0, "anna"
	ask()
	if link.User != "anna" || link.Role != control.Operator || !strings.HasPrefix(link.URL, "http://127.0.0.1:8025/login?t=") {
		t.Errorf("the link is %+v", link)
	}
	ask("--reseller", "bob", "--public-url", "https://mail.example/osm/")
	if link.User != "bob" || link.Reseller != "bob" || link.Role != control.Reseller || !strings.HasPrefix(link.URL, "https://mail.example/osm/login?t=") {
		t.Errorf("the link is %+v", link)
	}
	ask("--user", "dora", "--listen", "localhost:9000")
	if link.User != "dora" || !strings.HasPrefix(link.URL, "http://127.0.0.1:9000/login?t=") {
		t.Errorf("the link is %+v", link)
	}
	out := s.run("web", "link")
	if !strings.Contains(out, "For the operator anna, once, until ") || !strings.Contains(out, "--- status 0") {
		t.Errorf("it prints %s", out)
	}
}

// TestWeb serves the page of a real daemon, and logs in with the link that is printed.
func TestWeb(t *testing.T) {
	d := controltest.NewWithPage(t, settings, func(*control.Service) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			a, _ := control.ActorOf(r.Context())
			fmt.Fprintf(w, "%s for %s, %s", r.URL.Path, a.Name, a.Role)
		})
	})
	ctx, cancel := context.WithCancel(t.Context())
	out, in := io.Pipe()
	e := env{in: strings.NewReader(""), out: in, err: io.Discard, now: controltest.Start, loc: d.Clock().Wall.Location(), uid: 0, sudoUser: "anna"}
	done := make(chan int)
	go func() {
		done <- run(ctx, &e, []string{"osmctl", "-socket", d.Socket, "web", "--listen", "127.0.0.1:0"})
		_ = in.Close()
	}()
	lines := bufio.NewScanner(out)
	link := ""
	for link == "" && lines.Scan() {
		if line := strings.TrimSpace(lines.Text()); strings.Contains(line, "/login?t=") {
			link = line
		}
	}
	go func() { _, _ = io.Copy(io.Discard, out) }() // whatever else it says
	u, err := url.Parse(link)
	if err != nil || link == "" {
		t.Fatalf("it printed the link %q: %v", link, err)
	}
	ask := func(method, path, form string, header ...string) *http.Response {
		t.Helper()
		r, err := http.NewRequest(method, "http://"+u.Host+path, strings.NewReader(form))
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i+1 < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	resp := ask("POST", "/login", u.RawQuery, "Origin", "http://"+u.Host, "Content-Type", "application/x-www-form-urlencoded")
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusSeeOther || len(resp.Cookies()) != 1 {
		t.Fatalf("the login answered %s", resp.Status)
	}
	// What this user may assert is for the daemon to say, which knows who runs the test.
	resp = ask("GET", "/events/7", "", "Cookie", resp.Cookies()[0].String())
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.Body.Close() != nil {
		t.Fatal(err)
	}
	if want := "/web/events/7 for anna, operator"; string(text) != want && !strings.Contains(string(text), "only root may ask for somebody else") {
		t.Errorf("the page is %q, want %q", text, want)
	}
	cancel()
	if code := <-done; code != exitDone {
		t.Errorf("it ended with status %d", code)
	}
}
