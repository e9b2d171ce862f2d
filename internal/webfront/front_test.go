package webfront

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"osm/internal/control"
)

// rig is a front with a daemon's side that notes what it is asked, and a browser that
// keeps cookies and follows nothing.
type rig struct {
	t      *testing.T
	front  *Front
	server *httptest.Server
	socket string
	answer func(w http.ResponseWriter, r *http.Request)

	mu    sync.Mutex // guards what follows
	now   time.Time
	asked []*http.Request
	links map[string]control.LoginLink

	cookies map[string]string
}

// newRig starts a front as root would, with the links "ann" (an operator) and "bob" (a
// reseller).
func newRig(t *testing.T, change func(*Options)) *rig {
	t.Helper()
	dir, err := os.MkdirTemp("", "front") // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	g := &rig{
		t: t, socket: filepath.Join(dir, "control.sock"), now: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC), cookies: map[string]string{},
		links: map[string]control.LoginLink{
			"ann-link": {User: "ann", Role: control.Operator},
			"bob-link": {User: "bob", Role: control.Reseller, Reseller: "bob"},
		},
	}
	g.serveDaemon()
	o := Options{
		Socket: g.socket, Asserts: true, Self: "root", Redeem: g.redeem, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Now: func() time.Time { g.mu.Lock(); defer g.mu.Unlock(); return g.now },
	}
	if change != nil {
		change(&o)
	}
	if g.front, err = New(o); err != nil {
		t.Fatal(err)
	}
	g.server = httptest.NewServer(g.front)
	t.Cleanup(g.server.Close)
	t.Cleanup(g.front.daemon.CloseIdleConnections)
	return g
}

func (g *rig) serveDaemon() {
	l, err := net.Listen("unix", g.socket)
	if err != nil {
		g.t.Fatal(err)
	}
	daemon := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		g.mu.Lock()
		g.asked = append(g.asked, r)
		g.mu.Unlock()
		if g.answer != nil {
			g.answer(w, r)
			return
		}
		fmt.Fprint(w, "a page")
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = daemon.Serve(l) }()
	g.t.Cleanup(func() { _ = daemon.Close(); <-done })
}

func (g *rig) redeem(_ context.Context, token string) (control.LoginLink, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	l, ok := g.links[token]
	if !ok {
		return l, &control.Error{Status: http.StatusNotFound, Message: "there is no such link"}
	}
	delete(g.links, token)
	return l, nil
}

func (g *rig) advance(d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.now = g.now.Add(d)
}

// requests are what the daemon was asked so far.
func (g *rig) requests() []*http.Request {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.asked
}

// reply is what a browser got.
type reply struct {
	*http.Response
	text string
}

// do sends a request as the browser would: header are names and values.
func (g *rig) do(method, path, form string, header ...string) reply {
	g.t.Helper()
	var body io.Reader
	if form != "" {
		body = strings.NewReader(form)
	}
	r, err := http.NewRequest(method, g.server.URL+path, body)
	if err != nil {
		g.t.Fatal(err)
	}
	if form != "" {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for name, value := range g.cookies {
		r.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	for i := 0; i+1 < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
		}
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		g.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	for _, c := range resp.Cookies() {
		g.cookies[c.Name] = c.Value
		if c.MaxAge < 0 {
			delete(g.cookies, c.Name)
		}
	}
	return reply{resp, string(text)}
}

// origin is what the browser names when it is on the page.
func (g *rig) origin() string { return g.server.URL }

func (g *rig) logIn(token string) reply {
	g.t.Helper()
	return g.do("POST", "/login", "t="+token, "Origin", g.origin())
}

func (g *rig) wants(r reply, status int, words ...string) {
	g.t.Helper()
	if r.StatusCode != status {
		g.t.Errorf("%s %s: status %d, want %d: %.400s", r.Request.Method, r.Request.URL, r.StatusCode, status, r.text)
	}
	for _, w := range words {
		if !strings.Contains(r.text, w) {
			g.t.Errorf("%s %s: the page lacks %q: %.2000s", r.Request.Method, r.Request.URL, w, r.text)
		}
	}
}

func TestALinkLetsOneBrowserInOnce(t *testing.T) {
	g := newRig(t, nil)
	g.wants(g.do("GET", "/", ""), 403, "Not logged in", "osmctl web link")
	for range 3 { // previews
		g.wants(g.do("GET", "/login?t=ann-link", ""), 200, `value="ann-link"`, "<button>Log in</button>")
	}
	in := g.logIn("ann-link")
	g.wants(in, 303)
	if to := in.Header.Get("Location"); to != "/" {
		t.Errorf("it leads to %q, want /", to)
	}
	c := in.Cookies()
	if len(c) != 1 || !c[0].HttpOnly || c[0].SameSite != http.SameSiteStrictMode || c[0].Path != "/" || c[0].Secure || len(c[0].Value) < 26 {
		t.Errorf("the cookie is %+v", c)
	}
	g.wants(g.do("GET", "/", ""), 200, "a page")
	g.cookies = map[string]string{}
	g.wants(g.logIn("ann-link"), 403, "of no use any more")
	g.wants(g.do("GET", "/", ""), 403)
	if n := len(g.requests()); n != 1 {
		t.Errorf("the daemon was asked for %d pages, want 1", n)
	}
}

func TestTheDaemonIsToldWhoAsks(t *testing.T) {
	g := newRig(t, nil)
	g.logIn("bob-link")
	g.do("GET", "/senders/%28unknown%29?q=a%26b", "",
		"X-OSM-User", "root", "X-OSM-Role", "operator", "X-OSM-Reseller", "carol", "X-OSM-Session", "mine", "X-OSM-Frame", "1", "X-OSM-Origin", "http://evil.example",
		"Accept-Language", "de", "Authorization", "Basic x", "X-Forwarded-For", "203.0.113.1", "User-Agent", "x")
	g.do("POST", "/held/settle", "refs=a&csrf=b", "Origin", "http://evil.example", "Sec-Fetch-Site", "cross-site")
	asked := g.requests()
	if len(asked) != 2 {
		t.Fatalf("the daemon was asked %d times, want 2", len(asked))
	}
	if got := asked[0].RequestURI; got != "/web/senders/%28unknown%29?q=a%26b" {
		t.Errorf("it was asked for %q", got)
	}
	want := map[string]string{
		"X-Osm-User": "bob", "X-Osm-Role": "reseller", "X-Osm-Reseller": "bob", "X-Osm-Base": "", "X-Osm-Links": "path", "X-Osm-Origin": g.origin(), "X-Osm-Frame": "",
		"Accept-Language": "de", "Authorization": "", "X-Forwarded-For": "", "Cookie": "", "Accept-Encoding": "",
	}
	for name, value := range want {
		if got := strings.Join(asked[0].Header.Values(name), "|"); got != value {
			t.Errorf("%s is %q, want %q", name, got, value)
		}
	}
	session := asked[0].Header.Get("X-OSM-Session")
	if len(session) < 26 || session != asked[1].Header.Get("X-OSM-Session") {
		t.Errorf("the sessions are %q and %q", session, asked[1].Header.Get("X-OSM-Session"))
	}
	for _, secret := range g.cookies {
		if secret == session {
			t.Error("the daemon is told what is in the cookie")
		}
	}
	// Whether a form is ours is the daemon's to say: it needs what the browser said.
	if o, site := asked[1].Header.Get("Origin"), asked[1].Header.Get("Sec-Fetch-Site"); o != "http://evil.example" || site != "cross-site" {
		t.Errorf("the form came with Origin %q and Sec-Fetch-Site %q", o, site)
	}
	if body, _ := io.ReadAll(asked[1].Body); string(body) != "refs=a&csrf=b" {
		t.Errorf("the form came as %q", body)
	}
}

func TestTheDaemonsAnswerComesBackUnchanged(t *testing.T) {
	g := newRig(t, nil)
	g.answer = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "/events/1?x=y")
		w.Header().Set("Content-Security-Policy", "default-src 'none'")
		w.Header().Set("Set-Cookie", "a=b")
		w.WriteHeader(303)
	}
	g.logIn("ann-link")
	r := g.do("POST", "/x", "a=b", "Origin", g.origin())
	g.wants(r, 303)
	if r.Header.Get("Location") != "/events/1?x=y" || r.Header.Get("Content-Security-Policy") != "default-src 'none'" || r.Header.Get("Set-Cookie") != "" {
		t.Errorf("the answer's header is %v", r.Header)
	}
}

func TestOnlyOwnFormsLogInAndOut(t *testing.T) {
	g := newRig(t, nil)
	own := g.origin()
	for name, header := range map[string][]string{
		"another site":         {"Origin", "https://evil.example"},
		"another port":         {"Origin", "http://127.0.0.1:1"},
		"an opaque origin":     {"Origin", "null"},
		"nothing said":         {},
		"another site fetches": {"Sec-Fetch-Site", "cross-site"},
		"both, and they differ": {
			"Origin", "https://evil.example", "Sec-Fetch-Site", "same-origin"},
	} {
		if r := g.do("POST", "/login", "t=ann-link", header...); r.StatusCode != 403 || len(r.Cookies()) > 0 {
			t.Errorf("%s: login answered %d", name, r.StatusCode)
		}
	}
	g.wants(g.do("POST", "/login", "t=ann-link", "Sec-Fetch-Site", "same-origin"), 303)
	g.wants(g.do("POST", "/logout", "x=y", "Origin", "https://evil.example"), 403)
	g.wants(g.do("GET", "/logout", ""), 405)
	g.wants(g.do("GET", "/", ""), 200)
	kept := map[string]string{}
	for name, value := range g.cookies {
		kept[name] = value
	}
	out := g.do("POST", "/logout", "x=y", "Origin", own)
	g.wants(out, 303)
	if len(g.cookies) != 0 {
		t.Errorf("the browser keeps %v", g.cookies)
	}
	g.wants(g.do("GET", out.Header.Get("Location"), ""), 200, "Logged out")
	g.cookies = kept
	g.wants(g.do("GET", "/", ""), 403)
}

func TestWrongLinksAreLimited(t *testing.T) {
	g := newRig(t, nil)
	for i := range wrongTries {
		g.wants(g.logIn(fmt.Sprint("guess-", i)), 403)
	}
	r := g.logIn("ann-link")
	g.wants(r, 429, "Too many wrong links")
	if r.Header.Get("Retry-After") == "" {
		t.Error("it does not say when to try again")
	}
	g.advance(wrongPeriod)
	g.wants(g.logIn("ann-link"), 303)
	for _, strange := range []string{"", strings.Repeat("a", maxLinkSize+1), "a%00b", "%FF"} {
		g.wants(g.logIn(strange), 403)
	}
	for range 3 * maxVisitors { // many visitors cost no memory
		g.front.tries.begin(fmt.Sprint("visitor ", g.front.tries.now().UnixNano(), len(g.front.tries.visitors), g.t.Name()))
		g.advance(time.Millisecond)
	}
	if n := len(g.front.tries.visitors); n > maxVisitors {
		t.Errorf("%d visitors are remembered, want at most %d", n, maxVisitors)
	}
}

func TestRightLinksAreNotLimited(t *testing.T) {
	g := newRig(t, nil)
	for range 3 * wrongTries {
		g.links["one"] = control.LoginLink{User: "ann", Role: control.Operator}
		g.wants(g.logIn("one"), 303)
	}
}

func TestALoginRunsOut(t *testing.T) {
	g := newRig(t, nil)
	g.logIn("ann-link")
	for range 11 { // an hour at a time, less a minute
		g.advance(idleTime - time.Minute)
		g.wants(g.do("GET", "/", ""), 200)
	}
	g.advance(idleTime - time.Minute)
	g.wants(g.do("GET", "/", ""), 200)
	g.advance(loginTime - 12*(idleTime-time.Minute))
	g.wants(g.do("GET", "/", ""), 403) // used all the time, and over all the same

	g.links["again"] = control.LoginLink{User: "ann", Role: control.Operator}
	g.logIn("again")
	for range 3 { // a page that refreshes its numbers is nobody
		g.advance(idleTime / 3)
		g.do("GET", "/now?part=numbers", "", "Sec-Fetch-Mode", "cors")
	}
	g.wants(g.do("GET", "/", ""), 403)
}

func TestTheNumberOfLoginsIsBounded(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	s := newSessions(func() time.Time { now = now.Add(time.Millisecond); return now })
	first := s.begin(control.LoginLink{User: "first"})
	second := s.begin(control.LoginLink{User: "second"})
	for range maxSessions - 2 {
		s.begin(control.LoginLink{User: "more"})
	}
	if _, ok := s.find(first, true); !ok {
		t.Fatal("the first login has ended too early")
	}
	s.begin(control.LoginLink{User: "one too many"})
	if _, ok := s.find(second, true); ok {
		t.Error("the login that was used longest ago is still there")
	}
	if _, ok := s.find(first, true); !ok || len(s.all) != maxSessions {
		t.Errorf("there are %d logins, the first among them: %v", len(s.all), ok)
	}
}

func TestOnlyTheNamesOfThisHostAreAnswered(t *testing.T) {
	public, err := ParsePublic("https://mail.example:8443/osm")
	if err != nil {
		t.Fatal(err)
	}
	plain := newRig(t, nil)
	behind := newRig(t, func(o *Options) { o.Public = public })
	for host, want := range map[string][2]bool{ // without and with a public address
		"127.0.0.1:8025": {true, true}, "localhost": {true, true}, "LOCALHOST:9000": {true, true}, "[::1]:8025": {true, true}, "[::1]": {true, true}, "127.9.9.9": {true, true},
		"mail.example:8443": {false, true}, "Mail.Example:8443": {false, true}, "mail.example": {false, false},
		"evil.example": {false, false}, "evil.example:8025": {false, false}, "127.0.0.1.evil.example": {false, false}, "localhost.evil.example": {false, false},
		"192.0.2.1": {false, false}, "0.0.0.0:8025": {false, false}, "[::]:8025": {false, false}, "2130706433": {false, false}, "[::ffff:192.0.2.1]": {false, false},
	} {
		for i, g := range []*rig{plain, behind} {
			r := g.do("GET", "/login?t=x", "", "Host", host)
			if got := r.StatusCode == 200; got != want[i] || (!got && r.StatusCode != http.StatusMisdirectedRequest) {
				t.Errorf("Host %q, public %v: status %d, want it answered: %v", host, i == 1, r.StatusCode, want[i])
			}
		}
	}
}

func TestBehindAWebServer(t *testing.T) {
	public, err := ParsePublic("https://mail.example/osm/")
	if err != nil {
		t.Fatal(err)
	}
	g := newRig(t, func(o *Options) { o.Public = public })
	if got, want := Link(public, "127.0.0.1:8025", "a b"), "https://mail.example/osm/login?t=a+b"; got != want {
		t.Errorf("the link is %q, want %q", got, want)
	}
	g.wants(g.do("GET", "/osm/login?t=ann-link", "", "Host", "mail.example"), 200, `action="/osm/login"`, `href="/osm/login/`)
	g.wants(g.do("POST", "/osm/login", "t=ann-link", "Host", "mail.example", "Origin", g.origin()), 403)
	in := g.do("POST", "/osm/login", "t=ann-link", "Host", "mail.example", "Origin", "https://mail.example")
	g.wants(in, 303)
	c := in.Cookies()
	if len(c) != 1 || c[0].Name != "__Secure-osm" || !c[0].Secure || c[0].Path != "/osm" || in.Header.Get("Location") != "/osm/" {
		t.Errorf("the cookie is %+v, and it leads to %q", c, in.Header.Get("Location"))
	}
	for asked, want := range map[string]string{ // the web server takes the prefix off, or not
		"/osm/events/1?x=y": "/web/events/1?x=y", "/events/1": "/web/events/1", "/osm": "/web/", "/osm/": "/web/", "/": "/web/", "/osmosis": "/web/osmosis",
		"/osm/senders/a%2Fb": "/web/senders/a%2Fb",
	} {
		g.wants(g.do("GET", asked, ""), 200)
		all := g.requests()
		last := all[len(all)-1]
		if last.RequestURI != want || last.Header.Get("X-OSM-Base") != "/osm" || last.Header.Get("X-OSM-Origin") != "https://mail.example" {
			t.Errorf("%s: the daemon was asked for %q with %v, want %q", asked, last.RequestURI, last.Header, want)
		}
	}
	root, err := ParsePublic("https://mail.example")
	if err != nil {
		t.Fatal(err)
	}
	g = newRig(t, func(o *Options) { o.Public = root })
	if c := g.do("POST", "/login", "t=ann-link", "Origin", "https://mail.example").Cookies(); len(c) != 1 || c[0].Name != "__Host-osm" || c[0].Path != "/" || !c[0].Secure {
		t.Errorf("the cookie is %+v", c)
	}
}

func TestServedByAMemberOfTheGroupItIsForOperators(t *testing.T) {
	g := newRig(t, func(o *Options) { o.Asserts, o.Self = false, "dora" })
	g.wants(g.do("GET", "/login?t=x", ""), 200, "done by dora")
	r := g.logIn("bob-link")
	g.wants(r, 403, "For operators only", "dora", "let root run osmctl web")
	if len(r.Cookies()) > 0 {
		t.Error("a reseller was let in")
	}
	g.wants(g.logIn("ann-link"), 303)
	g.do("GET", "/", "")
	last := g.requests()[0]
	for _, name := range []string{"X-OSM-User", "X-OSM-Role", "X-OSM-Reseller"} {
		if v, there := last.Header[http.CanonicalHeaderKey(name)]; there {
			t.Errorf("%s is asserted: %q", name, v)
		}
	}
	if last.Header.Get("X-OSM-Session") == "" {
		t.Error("no session")
	}
}

func TestBoundsOfARequest(t *testing.T) {
	g := newRig(t, nil)
	g.logIn("ann-link")
	g.wants(g.do("POST", "/x", strings.Repeat("a", maxBody), "Origin", g.origin()), 200)
	g.wants(g.do("POST", "/x", strings.Repeat("a", maxBody+1), "Origin", g.origin()), 413, "Too large")
	for _, method := range []string{"PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"} {
		g.wants(g.do(method, "/x", ""), 405)
	}
	for _, path := range []string{"/../v1/status", "/%2e%2e/v1/status", "/a/../../v1/status", "/.%2e/v1", "/%2e", "/a/./b"} {
		r := g.do("GET", path, "")
		if r.StatusCode != 404 {
			t.Errorf("%s: status %d, want 404", path, r.StatusCode)
		}
	}
	for _, r := range g.requests() {
		if r.URL.Path != "/web/x" {
			t.Errorf("the daemon was asked for %q", r.RequestURI)
		}
	}
}

func TestWithoutTheDaemonItSaysSo(t *testing.T) {
	g := newRig(t, nil)
	g.logIn("ann-link")
	g.answer = func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	g.wants(g.do("GET", "/", ""), 503, "ended the connection", "Try again")
	if err := os.Rename(g.socket, g.socket+".away"); err != nil {
		t.Fatal(err)
	}
	g.front.daemon.CloseIdleConnections()
	g.wants(g.do("GET", "/", ""), 503, "osmd is not running", "systemctl start osmd")
	g.wants(g.do("POST", "/x", "a=b", "Origin", g.origin()), 503, "osmd is not running")
	g.front.o.Redeem = control.NewClient(g.socket).RedeemLoginLink
	g.wants(g.logIn("x"), 503, "there is no socket")
}

func TestOwnPagesHaveTheHeadersThatKeepThemSafe(t *testing.T) {
	g := newRig(t, nil)
	for _, r := range []reply{g.do("GET", "/", ""), g.do("GET", "/login?t=x", ""), g.do("GET", "/..", ""), g.do("POST", "/login", "t=x"), g.do("GET", "/", "", "Host", "evil.example"), g.logIn("ann-link")} {
		for name, want := range map[string]string{
			"Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
			"X-Content-Type-Options":  "nosniff", "Referrer-Policy": "same-origin", "Cache-Control": "no-store", "Cross-Origin-Opener-Policy": "same-origin",
		} {
			if got := r.Header.Get(name); got != want {
				t.Errorf("%s, status %d: %s is %q, want %q", r.Request.URL, r.StatusCode, name, got, want)
			}
		}
	}
	g.wants(g.do("GET", `/login?t="><script>alert(1)</script>`, ""), 200, "&#34;&gt;&lt;script&gt;")
	_, rest, _ := strings.Cut(g.do("GET", "/login?t=x", "").text, `rel="stylesheet" href="`)
	style, _, _ := strings.Cut(rest, `"`)
	r := g.do("GET", style, "")
	g.wants(r, 200, "color-scheme")
	if !strings.HasPrefix(r.Header.Get("Content-Type"), "text/css") || !strings.Contains(r.Header.Get("Cache-Control"), "immutable") {
		t.Errorf("the style sheet %q has the header %v", style, r.Header)
	}
}

// A browser that follows a link on another site leaves the cookie at home at first.
func TestALinkFromElsewhereFindsTheLogin(t *testing.T) {
	g := newRig(t, nil)
	g.wants(g.do("GET", "/events/7?x=y", "", "Sec-Fetch-Site", "cross-site"), 200, `http-equiv="refresh"`)
	g.wants(g.do("GET", "/events/7?x=y", "", "Sec-Fetch-Site", "same-origin"), 403, "Not logged in")
	g.wants(g.do("POST", "/x", "a=b", "Sec-Fetch-Site", "cross-site"), 403, "Not logged in")
}

func TestServeEndsWithItsContext(t *testing.T) {
	g := newRig(t, nil)
	l, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- g.front.Serve(ctx, l) }()
	resp, err := http.Get("http://" + l.Addr().String() + "/login?t=x")
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil || resp.StatusCode != 200 {
		t.Errorf("status %d, %v", resp.StatusCode, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("it ended with %v", err)
	}
}

func TestAddresses(t *testing.T) {
	for address, want := range map[string]string{
		"127.0.0.1:8025": "127.0.0.1:8025", "localhost:0": "127.0.0.1:0", "[::1]:80": "[::1]:80", "127.0.0.2:1": "127.0.0.2:1",
		"0.0.0.0:8025": "loopback address only", ":8025": "an address and a port", "192.0.2.1:8025": "loopback address only", "[::]:8025": "loopback address only",
		"8025": "an address and a port", "127.0.0.1": "an address and a port", "mail.example:8025": "an address and a port", "127.0.0.1:x": "an address and a port", "": "an address and a port",
	} {
		at, err := ParseListen(address)
		if got := cmp.Or(errorText(err), at.String()); !strings.Contains(got, want) {
			t.Errorf("ParseListen(%q) is %q, want %q", address, got, want)
		}
	}
	for address, want := range map[string]string{
		"https://mail.example": "https://mail.example", "https://Mail.Example/osm/": "https://mail.example/osm", "https://m.example:8443/a/b-c": "https://m.example:8443/a/b-c",
		"http://127.0.0.1:9000": "http://127.0.0.1:9000", "http://localhost/x": "http://localhost/x",
		"http://mail.example": "must begin with https", "mail.example": "must begin with https", "ftp://mail.example": "must begin with https", "https://": "a host",
		"https://u:p@mail.example": "nothing else", "https://mail.example/?a=b": "nothing else", "https://mail.example/#x": "nothing else",
		"https://mail.example/a b": "letters, digits", "https://mail.example/../x": "letters, digits", "https://mail.example//x": "letters, digits", "https://mail.example/a%2Fb%22": "letters, digits",
		"://": "no URL",
	} {
		u, err := ParsePublic(address)
		got := errorText(err)
		if err == nil {
			got = u.String()
		}
		if !strings.Contains(got, want) {
			t.Errorf("ParsePublic(%q) is %q, want %q", address, got, want)
		}
	}
	if _, err := Listen("0.0.0.0:0"); err == nil || !strings.Contains(err.Error(), "--public-url") {
		t.Errorf("listening everywhere: %v", err)
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// Whatever a browser asks for, the daemon is asked for something below /web/, and by no
// name that leads out of it again.
func FuzzEveryPathStaysBelowThePage(f *testing.F) {
	for _, s := range []string{"/", "/osm/events/1", "/../v1/status", "/%2e%2e/v1", "/a%2F..%2Fb", "//x", "/osm", "/osmosis", "/%6fsm/x", "/a//..//b", "/\x00"} {
		f.Add(s, "/osm")
		f.Add(s, "")
	}
	f.Fuzz(func(t *testing.T, raw, base string) {
		u, err := url.ParseRequestURI(raw)
		if err != nil || !plainPath.MatchString(base) {
			return
		}
		front := &Front{o: Options{Public: &url.URL{Scheme: "https", Host: "m.example", Path: base}}}
		if _, ok := front.inside(u.Path); !ok {
			return
		}
		to := front.target(&http.Request{URL: u})
		asked, err := url.ParseRequestURI(to.RequestURI())
		if err != nil {
			t.Fatalf("%q: the daemon is asked for %q: %v", raw, to.RequestURI(), err)
		}
		clean := filepath.Clean(asked.Path)
		if !strings.HasPrefix(asked.Path, "/web/") || (clean != "/web" && !strings.HasPrefix(clean, "/web/")) || asked.RawQuery != u.RawQuery {
			t.Fatalf("%q: the daemon is asked for %q", raw, to.RequestURI())
		}
	})
}
