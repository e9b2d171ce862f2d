package webfront

import (
	"cmp"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"osm/internal/control"
	"osm/internal/origin"
)

// Bounds of one request.
const (
	maxBody     = 1 << 20
	maxHeader   = 16 << 10
	daemonTime  = 65 * time.Second // a little more than the daemon takes at most
	maxLinkSize = 200
)

// Options says what a front needs.
type Options struct {
	// Socket is the daemon's control socket.
	Socket string
	// Public is how browsers reach the front where a web server stands before it, as
	// [ParsePublic] returns it; nil: they come straight to the loopback address.
	Public *url.URL
	// Asserts: the process is root, so the daemon believes for whom it asks.
	Asserts bool
	// Self is the user that the front runs as, shown where that is who changes things.
	Self string
	// Redeem uses a link up and tells for whom it was.
	Redeem func(ctx context.Context, token string) (control.LoginLink, error)
	Now    func() time.Time
	Log    *slog.Logger
}

// Front is the HTTP side of it.
type Front struct {
	o        Options
	sessions *sessions
	tries    *limiter
	daemon   *http.Transport
	pages    *template.Template
	style    []byte
	stylesAt string // path of the style sheet, with its hash
}

//go:embed page.html page.css
var files embed.FS

// The front's own paths; everything else is the daemon's.
const (
	loginPath  = "/login"
	logoutPath = "/logout"
)

// New makes a front.
func New(o Options) (*Front, error) {
	pages, err := template.ParseFS(files, "page.html")
	if err != nil {
		return nil, fmt.Errorf("read the front's pages: %w", err)
	}
	style, err := files.ReadFile("page.css")
	if err != nil {
		return nil, fmt.Errorf("read the front's style: %w", err)
	}
	sum := sha256.Sum256(style)
	return &Front{
		o: o, sessions: newSessions(o.Now), tries: newLimiter(o.Now), pages: pages, style: style,
		stylesAt: loginPath + "/" + hex.EncodeToString(sum[:8]) + ".css",
		daemon: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				d := net.Dialer{Timeout: 5 * time.Second}
				return d.DialContext(ctx, "unix", o.Socket)
			},
			DisableCompression: true, MaxIdleConns: 8, MaxIdleConnsPerHost: 8, MaxConnsPerHost: 32, IdleConnTimeout: 20 * time.Second,
			ResponseHeaderTimeout: daemonTime,
		},
	}, nil
}

// Serve answers on l until ctx ends, then lets running requests finish for a moment. It
// closes l.
func (f *Front) Serve(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler:           f,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       20 * time.Second,
		WriteTimeout:      daemonTime + 20*time.Second,
		IdleTimeout:       60 * time.Second,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(f.o.Log.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	defer f.daemon.CloseIdleConnections()
	stopped := make(chan struct{})
	unwatch := context.AfterFunc(ctx, func() {
		defer close(stopped)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if srv.Shutdown(grace) != nil {
			_ = srv.Close() // whoever is still reading is cut off
		}
	})
	err := srv.Serve(l)
	if unwatch() { // it ended by itself
		return fmt.Errorf("serve the page: %w", err)
	}
	<-stopped
	return nil
}

// ServeHTTP answers one request.
func (f *Front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !f.named(r.Host) {
		// Another name that leads here is a stranger's, who wants a browser to think that
		// this page is his (DNS rebinding).
		f.say(w, r, http.StatusMisdirectedRequest, message{
			Title: "Not the name of this page",
			Text:  "This page answers only to the names of this host. Behind a web server, say with --public-url how it is reached.",
		})
		return
	}
	path, ok := f.inside(r.URL.Path)
	switch {
	case !ok:
		f.missing(w, r)
	case path == f.stylesAt:
		f.serveStyle(w, r)
	case path == loginPath:
		f.login(w, r)
	case path == logoutPath:
		f.logout(w, r)
	default:
		f.page(w, r)
	}
}

// page hands a request on for whom has logged in.
func (f *Front) page(w http.ResponseWriter, r *http.Request) {
	// A page that refreshes its numbers does not keep a login alive that nobody uses.
	used := cmp.Or(r.Header.Get("Sec-Fetch-Mode"), "navigate") == "navigate"
	who, ok := f.who(r, used)
	if !ok {
		f.askForLogin(w, r)
		return
	}
	f.forward(w, r, who)
}

// named reports whether a Host header names this page: the public address, or this host
// itself by whatever port a tunnel has.
func (f *Front) named(host string) bool {
	if f.o.Public != nil && strings.EqualFold(host, f.o.Public.Host) {
		return true
	}
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	return loopback(strings.ToLower(strings.Trim(name, "[]")))
}

// origin is what a browser that is on this page names as its origin.
func (f *Front) origin(r *http.Request) string {
	if f.o.Public != nil {
		return f.o.Public.Scheme + "://" + f.o.Public.Host
	}
	return "http://" + strings.ToLower(r.Host)
}

// base is the prefix of every link.
func (f *Front) base() string {
	if f.o.Public == nil {
		return ""
	}
	return f.o.Public.Path
}

// inside is a path without the prefix, which the web server before the front may have
// taken off or not. A path that is not written plainly is none.
func (f *Front) inside(path string) (string, bool) {
	path = f.withoutBase(path)
	if !strings.HasPrefix(path, "/") {
		return "", false
	}
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "." || segment == ".." {
			return "", false
		}
	}
	return path, true
}

func (f *Front) withoutBase(path string) string {
	if path == f.base() {
		return "/"
	}
	if rest, ok := strings.CutPrefix(path, f.base()+"/"); ok {
		return "/" + rest
	}
	return path
}

// fromHere reports whether a POST comes from a page of this front. A browser says so in
// Origin or, where that is missing, in Sec-Fetch-Site.
func (f *Front) fromHere(r *http.Request) bool {
	if o := r.Header.Get("Origin"); o != "" {
		return o == f.origin(r)
	}
	return r.Header.Get("Sec-Fetch-Site") == "same-origin"
}

// visitor is who tries a link: the user at the other end of the connection, as the kernel
// knows him, and behind a web server whom that names.
func (f *Front) visitor(r *http.Request) string {
	name := "unknown"
	client, err := netip.ParseAddrPort(r.RemoteAddr)
	server, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	if err == nil && ok {
		if uid, _, err := origin.ClientOwner(client, server.AddrPort()); err == nil {
			name = fmt.Sprint("uid ", uid)
		}
	}
	if f.o.Public != nil {
		// The last entry is the web server's own.
		hops := strings.Split(r.Header.Get("X-Forwarded-For"), ",")
		if last := strings.TrimSpace(hops[len(hops)-1]); last != "" {
			name += fmt.Sprintf(" for %.60q", last)
		}
	}
	return name
}

// cookie is the name of the cookie. Browsers do not keep the cookies of two ports apart,
// so the port is in it; behind TLS the prefix makes sure that nobody else set it.
func (f *Front) cookie(r *http.Request) string {
	switch {
	case f.secure() && f.base() == "":
		return "__Host-osm"
	case f.secure():
		return "__Secure-osm"
	}
	_, port, err := net.SplitHostPort(r.Host)
	if err != nil {
		return "osm"
	}
	return "osm-" + port
}

func (f *Front) secure() bool { return f.o.Public != nil && f.o.Public.Scheme == "https" }

// setCookie lets the browser keep a login until it is closed; "" takes it away.
func (f *Front) setCookie(w http.ResponseWriter, r *http.Request, value string) {
	c := &http.Cookie{
		Name: f.cookie(r), Value: value, Path: cmp.Or(f.base(), "/"),
		HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: f.secure(),
	}
	if value == "" {
		c.MaxAge = -1
	}
	http.SetCookie(w, c)
}

// who has sent a request.
func (f *Front) who(r *http.Request, used bool) (session, bool) {
	for _, c := range r.CookiesNamed(f.cookie(r)) {
		if one, ok := f.sessions.find(c.Value, used); ok {
			return one, true
		}
	}
	return session{}, false
}

// errNotAsserted is a link whose bearer the daemon would not believe us to be.
var errNotAsserted = errors.New("the front does not run as root")
