package webfront

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"strings"

	"golang.org/x/net/netutil"

	"osm/internal/systemd"
)

// maxConnections is how many browsers' connections are open at once; more wait in the
// listen queue.
const maxConnections = 256

// DefaultListen is where the page is served unless told otherwise.
const DefaultListen = "127.0.0.1:8025"

// Listen makes the listening socket, or takes the one that the program was started with:
// systemd's, or whoever else made it. Any other than a loopback address is refused,
// because the front speaks plain HTTP: what is typed on the way could be read by all.
func Listen(address string) (net.Listener, error) {
	l, err := systemd.TCPListener()
	if err != nil {
		return nil, err
	}
	if l == nil {
		at, err := ParseListen(address)
		if err != nil {
			return nil, err
		}
		if l, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at)); err != nil {
			return nil, fmt.Errorf("serve the page: %w", err)
		}
	}
	if a, ok := l.Addr().(*net.TCPAddr); !ok || !a.IP.IsLoopback() {
		return nil, errors.Join(notLoopback(l.Addr().String()), l.Close())
	}
	return netutil.LimitListener(l, maxConnections), nil
}

// ParseListen reads the address to listen on: a loopback address, or "localhost", and a
// port.
func ParseListen(address string) (netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("listen on %.80q: an address and a port are needed, such as %s", address, DefaultListen)
	}
	if host == "localhost" { // whatever the hosts file says
		host = "127.0.0.1"
	}
	at, err := netip.ParseAddrPort(net.JoinHostPort(host, port))
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("listen on %.80q: an address and a port are needed, such as %s", address, DefaultListen)
	}
	if !at.Addr().IsLoopback() {
		return netip.AddrPort{}, notLoopback(address)
	}
	return at, nil
}

func notLoopback(address string) error {
	return fmt.Errorf("listen on %.80q: the page is served on a loopback address only, such as %s; for other hosts put a web server with TLS before it and say with --public-url how it is reached", address, DefaultListen)
}

// plainPath is a prefix that means the same in a cookie, a link and a header.
var plainPath = regexp.MustCompile(`^(/[A-Za-z0-9._~-]+)*$`)

// ParsePublic reads the address at which a web server makes the front reachable.
func ParsePublic(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, fmt.Errorf("public URL %.80q: it is no URL", s)
	}
	clean := strings.TrimSuffix(u.Path, "/")
	switch {
	case u.Scheme != "https" && (u.Scheme != "http" || !loopback(u.Hostname())):
		return nil, fmt.Errorf("public URL %.80q: it must begin with https:// (a login must not be readable on the way)", s)
	case u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("public URL %.80q: a host and a path are needed and nothing else, such as https://mail.example/osm", s)
	case !plainPath.MatchString(clean) || (clean != "" && path.Clean(clean) != clean):
		return nil, fmt.Errorf("public URL %.80q: the path may hold letters, digits and ._~- between its slashes", s)
	}
	return &url.URL{Scheme: u.Scheme, Host: strings.ToLower(u.Host), Path: clean}, nil
}

// loopback reports whether a host name means this host to a browser, whatever a
// stranger's name server says.
func loopback(name string) bool {
	if name == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(name)
	return err == nil && a.IsLoopback()
}

// Link is the address of a one-time link, for the page that is reachable at public or,
// where that is nil, listens on an address.
func Link(public *url.URL, listen, token string) string {
	u := url.URL{Scheme: "http", Host: listen}
	if public != nil {
		u = *public
	}
	u.Path += loginPath
	u.RawQuery = url.Values{"t": {token}}.Encode()
	return u.String()
}
