package cpanel

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// daemon is osmd's side of the control socket: it keeps what it is asked.
type daemon struct {
	mu     sync.Mutex
	asked  []*http.Request
	bodies []string
	answer http.HandlerFunc // nil: 200
}

func (d *daemon) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	d.mu.Lock()
	d.asked, d.bodies = append(d.asked, r), append(d.bodies, string(body))
	answer := d.answer
	d.mu.Unlock()
	if answer != nil {
		answer(w, r)
	}
}

// take returns the only request since the last time, nil if there was none.
func (d *daemon) take(t *testing.T) (*http.Request, string) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.asked) > 1 {
		t.Errorf("osmd was asked %d times", len(d.asked))
	}
	if len(d.asked) == 0 {
		return nil, ""
	}
	r, body := d.asked[0], d.bodies[0]
	d.asked, d.bodies = nil, nil
	return r, body
}

// control serves d where the CGI looks for osmd.
func (s *server) control(d http.Handler) (stop func()) {
	s.T.Helper()
	path := filepath.Join(s.OSM, "control.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		s.T.Fatal(err)
	}
	srv := &http.Server{Handler: d}
	go srv.Serve(l)
	stop = func() { srv.Shutdown(context.Background()); os.Remove(path) }
	s.T.Cleanup(stop)
	return stop
}

const (
	token        = "/cpsess0123456789"
	installedCGI = "/usr/local/cpanel/whostmgr/docroot/cgi/osm/index.cgi"
)

// whm is the installed CGI as WHM runs it for somebody.
func (s *server) whm(user string) *WHM {
	way := s.Enter()
	way[0] = "/usr/bin/" + way[0] // an absolute path is asked for
	return &WHM{User: user, Token: token, Program: append(way, installedCGI)}
}

// get asks WHM for a page; query is what stands behind index.cgi.
func get(t *testing.T, w *WHM, query string, headers ...string) *http.Response {
	t.Helper()
	r := httptest.NewRequest("GET", "https://whm.example:2087"+w.Token+Entry+query, nil)
	return ask(w, r, headers...)
}

func ask(w *WHM, r *http.Request, headers ...string) *http.Response {
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	rec := httptest.NewRecorder()
	w.ServeHTTP(rec, r)
	return rec.Result()
}

func text(t *testing.T, r *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestCGI(t *testing.T) {
	s := newServer(t)
	s.installs(0, "install")
	d := new(daemon)
	stop := s.control(d)

	t.Run("it tells osmd who asks, and nothing that the browser claims", func(t *testing.T) {
		r := get(t, s.whm("root"), "?p=events/12&since=24h&q=a%20b",
			"X-OSM-User: boss", "X-OSM-Role: operator", "X-OSM-Reseller: x", "X-OSM-Session: stolen", "X_OSM_User: boss", "Cookie: whmsession=secret",
			"Authorization: whm root:secret", "X-Forwarded-For: 192.0.2.1", "Accept: text/html", "Accept-Language: de", "Sec-Fetch-Site: same-origin")
		if r.StatusCode != 200 {
			t.Fatalf("status %d: %s", r.StatusCode, text(t, r))
		}
		q, _ := d.take(t)
		if q.Method != "GET" || q.RequestURI != "/web/events/12?since=24h&q=a%20b" {
			t.Errorf("asked %s %s", q.Method, q.RequestURI)
		}
		var got []string
		for name := range q.Header {
			got = append(got, name+": "+strings.Join(q.Header[name], "|"))
		}
		slices.Sort(got)
		want := []string{"Accept-Language: de", "Accept: text/html", "Sec-Fetch-Site: same-origin", "X-Osm-Base: index.cgi", "X-Osm-Frame: 1",
			"X-Osm-Links: query", "X-Osm-Origin: https://whm.example:2087", "X-Osm-Role: operator", "X-Osm-Session: cpsess0123456789", "X-Osm-User: root"}
		if !slices.Equal(got, want) {
			t.Errorf("headers\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	})

	t.Run("who may", func(t *testing.T) { s.whoMay(t, d) })

	t.Run("paths", func(t *testing.T) {
		for query, want := range map[string]string{
			"?p=":                                 "/web/",
			"?p":                                  "/web/",
			"?p=now&":                             "/web/now",
			"?p=senders/%2528unknown%2529":        "/web/senders/%28unknown%29",
			"?p=senders%2Fa+b":                    "/web/senders/a%20b",
			"?a=1&p=held&p2=x":                    "/web/held?a=1&p2=x",
			"?p=held?x=1":                         "/web/held%3Fx=1",
			"?p=100%25":                           "/web/100%25",
			"?p=caf%C3%A9":                        "/web/caf%C3%A9",
			"?p=a/../b":                           "",
			"?p=..":                               "",
			"?p=.":                                "",
			"?p=/etc":                             "",
			"?p=a%0d%0aX-OSM-User:%20x":           "",
			"?p=a%00":                             "",
			"?p=a&p=b":                            "",
			"?p=" + strings.Repeat("x", 2100):     "",
			"?p=held&q=%0d%0aX-OSM-User:%20x":     "/web/held?q=%0d%0aX-OSM-User:%20x",
			"?p=static/style.1a2b3c.css":          "/web/static/style.1a2b3c.css",
			"?p=senders/shop.example%252Fx&s=1;2": "/web/senders/shop.example%2Fx?s=1;2",
		} {
			r := get(t, s.whm("root"), query)
			q, _ := d.take(t)
			switch {
			case want == "" && (q != nil || r.StatusCode != 400):
				t.Errorf("%s: status %d, asked %v, want 400 and no question", query, r.StatusCode, q)
			case want != "" && (q == nil || q.RequestURI != want || q.Header.Get("X-OSM-User") != "root"):
				t.Errorf("%s: status %d, asked %+v, want %s", query, r.StatusCode, q, want)
			}
		}
	})

	t.Run("forms", func(t *testing.T) { s.forms(t, d) })
	t.Run("origins and logins", func(t *testing.T) { s.logins(t, d) })
	t.Run("answers", func(t *testing.T) { s.passesAnswers(t, d) })

	t.Run("WHM's frame", func(t *testing.T) {
		r := get(t, s.whm("rita"), "")
		page := text(t, r)
		if q, _ := d.take(t); q != nil || r.StatusCode != 200 {
			t.Errorf("status %d, asked %v", r.StatusCode, q)
		}
		if !strings.Contains(page, "WHM (a stand-in)") || !strings.Contains(page, `<iframe title="osm" src="index.cgi?p="`) || !strings.HasSuffix(page, "</html>\n") {
			t.Errorf("the frame:\n%s", page)
		}
		if r := get(t, s.whm("theo"), ""); r.StatusCode != 403 || strings.Contains(text(t, r), "iframe") {
			t.Errorf("who may not see the page is shown the frame: %d", r.StatusCode)
		}
	})

	stop()
	t.Run("osmd is away", func(t *testing.T) {
		r := get(t, s.whm("root"), "?p=now")
		page := text(t, r)
		if r.StatusCode != 503 || !strings.Contains(page, "osmctl doctor") || !strings.Contains(page, "No such file or directory") {
			t.Errorf("status %d:\n%s", r.StatusCode, page)
		}
		if csp := r.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") {
			t.Errorf("its policy is %q", csp)
		}
	})
	t.Run("osmd says rubbish", func(t *testing.T) { s.rubbish(t) })
}

// whoMay asks as different people, with cPanel's modules, and without.
func (s *server) whoMay(t *testing.T, d *daemon) {
	people := func(how string) {
		t.Helper()
		for user, want := range map[string]string{
			"root": "operator root ", "boss": "operator boss ", "rita": "reseller rita rita", "theo": "", "shop": "", "nobody": "", "": "",
			"rita:all": "", "root\nx": "", "ro.ot": "", "-x": "", strings.Repeat("r", 65): "",
		} {
			r := get(t, s.whm(user), "?p=now")
			q, _ := d.take(t)
			switch {
			case want == "" && (q != nil || r.StatusCode != 403):
				t.Errorf("%s: %q: status %d, asked %v, want 403 and no question", how, user, r.StatusCode, q)
			case want != "" && q == nil:
				t.Errorf("%s: %q: status %d and no question", how, user, r.StatusCode)
			case want != "":
				if got := q.Header.Get("X-OSM-Role") + " " + q.Header.Get("X-OSM-User") + " " + q.Header.Get("X-OSM-Reseller"); got != want {
					t.Errorf("%s: %q is %q, want %q", how, user, got, want)
				}
			}
		}
	}
	people("with cPanel's modules")
	s.Run("mv", "/usr/local/cpanel/Whostmgr", "/usr/local/cpanel/Whostmgr.away")
	people("without cPanel's modules")
	if page := text(t, get(t, s.whm("root"), "")); !strings.Contains(page, `<iframe title="osm"`) {
		t.Errorf("the frame without cPanel's modules:\n%s", page)
	}
	s.Run("mv", "/usr/local/cpanel/Whostmgr.away", "/usr/local/cpanel/Whostmgr")
}

func (s *server) forms(t *testing.T, d *daemon) {
	post := func(w *WHM, body string, headers ...string) *http.Response {
		r := httptest.NewRequest("POST", "https://whm.example:2087"+token+Entry+"?p=held/release", strings.NewReader(body))
		return ask(w, r, append([]string{"Content-Type: application/x-www-form-urlencoded", "Origin: https://whm.example:2087"}, headers...)...)
	}
	body := "csrf=x&refs=" + strings.Repeat("a\x00é", 1000)
	if r := post(s.whm("root"), body); r.StatusCode != 200 {
		t.Errorf("status %d: %s", r.StatusCode, text(t, r))
	}
	q, got := d.take(t)
	if q.Method != "POST" || got != body || q.Header.Get("Content-Type") != "application/x-www-form-urlencoded" || q.Header.Get("Origin") != "https://whm.example:2087" {
		t.Errorf("asked %s with %d bytes, %v", q.Method, len(got), q.Header)
	}
	if r := post(s.whm("root"), ""); r.StatusCode != 411 { // Go's server leaves the length out
		t.Errorf("without a length: status %d", r.StatusCode)
	}
	largest := strings.Repeat("x", 1<<20)
	if r := post(s.whm("root"), largest); r.StatusCode != 200 {
		t.Errorf("1 MiB: status %d", r.StatusCode)
	}
	if _, got := d.take(t); got != largest {
		t.Errorf("1 MiB: %d bytes arrived", len(got))
	}
	if r := post(s.whm("root"), largest+"x"); r.StatusCode != 413 {
		t.Errorf("more than 1 MiB: status %d", r.StatusCode)
	}
	// WHM announces more than it sends, or nonsense.
	for length, want := range map[string]string{"100": "400", "-1": "411", "1e3": "411", "99999999999": "411", "": "411"} {
		out, _ := s.Try("short", "env", "-i", "REMOTE_USER=root", "REQUEST_METHOD=POST", "QUERY_STRING=p=x", "CONTENT_LENGTH="+length,
			installedCGI)
		if !strings.HasPrefix(out, "Status: "+want) {
			t.Errorf("length %q: %.60q, want %s", length, out, want)
		}
	}
	for _, method := range []string{"PUT", "DELETE", "OPTIONS", "GET /v1/held\r\nX"} {
		out, _ := s.Try("", "env", "-i", "REMOTE_USER=root", "REQUEST_METHOD="+method, "QUERY_STRING=p=x",
			installedCGI)
		if !strings.HasPrefix(out, "Status: 405") {
			t.Errorf("method %q: %.60q, want 405", method, out)
		}
	}
	if q, _ := d.take(t); q != nil {
		t.Errorf("osmd was asked %s %s", q.Method, q.RequestURI)
	}
}

func (s *server) logins(t *testing.T, d *daemon) {
	tests := []struct {
		name            string
		change          func(*WHM)
		headers         []string
		origin, session string
	}{
		{"plain HTTP", func(w *WHM) { w.Port = "2086" }, nil, "http://whm.example:2087", "cpsess0123456789"},
		{"plain HTTP behind a web server with TLS", func(w *WHM) { w.Port = "2086" }, []string{"Origin: https://whm.example:2087"}, "https://whm.example:2087", "cpsess0123456789"},
		{"another site's form", func(*WHM) {}, []string{"Origin: https://evil.example"}, "https://whm.example:2087", "cpsess0123456789"},
		{"an origin with a line in it", func(w *WHM) { w.Env = []string{"HTTP_ORIGIN=https://x\r\nX-OSM-User: evil"} }, nil, "https://whm.example:2087", "cpsess0123456789"},
		{"a host that is none", func(w *WHM) { w.Env = []string{"HTTP_HOST=a b"} }, nil, "", "cpsess0123456789"},
		{"no token", func(w *WHM) { w.Token = "" }, nil, "https://whm.example:2087", ""},
		{"no token, but a login", func(w *WHM) { w.Token = "" }, []string{"Cookie: a=b; whostmgrsession=root%3aAbCdEf123"}, "https://whm.example:2087",
			fmt.Sprintf("%x", sha256.Sum256([]byte("osm root%3aAbCdEf123")))},
		{"a token that is none", func(w *WHM) { w.Env = []string{"cp_security_token=/cpsess1\r\nX: y"} }, nil, "https://whm.example:2087", ""},
	}
	for _, tt := range tests {
		w := s.whm("root")
		tt.change(w)
		r := httptest.NewRequest("GET", "https://whm.example:2087"+w.Token+Entry+"?p=now", nil)
		r.TLS = nil // WHM says by its port whether it speaks TLS
		ask(w, r, tt.headers...)
		q, _ := d.take(t)
		if q == nil {
			t.Errorf("%s: no question", tt.name)
			continue
		}
		if got := q.Header.Get("X-OSM-Origin"); got != tt.origin {
			t.Errorf("%s: origin %q, want %q", tt.name, got, tt.origin)
		}
		if got := q.Header.Get("X-OSM-Session"); got != tt.session {
			t.Errorf("%s: session %q, want %q", tt.name, got, tt.session)
		}
		if q.Header.Get("X-OSM-User") != "root" {
			t.Errorf("%s: user %q", tt.name, q.Header.Get("X-OSM-User"))
		}
	}
}

func (s *server) passesAnswers(t *testing.T, d *daemon) {
	large := bytes.Repeat([]byte("\x00\xffabc\r\n"), 300_000)
	d.answer = func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/web/moved":
			w.Header().Set("Location", "index.cgi?p=held")
			w.Header().Set("Set-Cookie", "a=b")
			w.Header().Set("X-Odd", "a")
			w.WriteHeader(http.StatusSeeOther)
		case "/web/large":
			w.Header().Set("Content-Type", "application/octet-stream")
			w.Header().Set("Content-Security-Policy", "default-src 'none'")
			w.Header().Set("Cache-Control", "no-store")
			w.Write(large)
		default:
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, "<h1>There is no such page</h1>")
		}
	}
	defer func() { d.answer = nil }()
	r := get(t, s.whm("root"), "?p=moved")
	if r.StatusCode != 303 || r.Header.Get("Location") != "index.cgi?p=held" || r.Header.Get("Set-Cookie") != "" || r.Header.Get("X-Odd") != "a" {
		t.Errorf("a redirect: %d, %v", r.StatusCode, r.Header)
	}
	d.take(t)
	r = get(t, s.whm("root"), "?p=large")
	if got := text(t, r); r.StatusCode != 200 || got != string(large) || r.Header.Get("Content-Type") != "application/octet-stream" ||
		r.Header.Get("Content-Security-Policy") != "default-src 'none'" || r.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("a large answer: %d, %d bytes, %v", r.StatusCode, len(got), r.Header)
	}
	d.take(t)
	r = get(t, s.whm("root"), "?p=nothing")
	if r.StatusCode != 404 || text(t, r) != "<h1>There is no such page</h1>" {
		t.Errorf("a missing page: %d", r.StatusCode)
	}
	d.take(t)
	head := httptest.NewRequest("HEAD", "https://whm.example:2087"+token+Entry+"?p=large", nil)
	if r := ask(s.whm("root"), head); r.StatusCode != 200 || text(t, r) != "" || r.Header.Get("Content-Type") != "application/octet-stream" {
		t.Errorf("HEAD: %d, %v", r.StatusCode, r.Header)
	}
	d.take(t)
}

// rubbish is served by something that speaks no HTTP.
func (s *server) rubbish(t *testing.T) {
	path := filepath.Join(s.OSM, "control.sock")
	for _, says := range []string{"", "HTTP/1.0 ", "200 OK\r\n\r\nx", "HTTP/1.0 999 x\r\n\r\n", strings.Repeat("x", 200_000), "HTTP/1.0 200 OK\r\nX-A: b"} {
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		var served sync.WaitGroup
		served.Go(func() {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Read(make([]byte, 4096))
			io.WriteString(c, says)
			c.Close()
		})
		r := get(t, s.whm("root"), "?p=now")
		if page := text(t, r); r.StatusCode != 503 || !strings.Contains(page, "osm does not answer") {
			t.Errorf("%.30q: status %d: %.200s", says, r.StatusCode, page)
		}
		l.Close()
		served.Wait()
	}
}
