package evidence

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"osm/policy"
)

const (
	askTime   = 300 * time.Millisecond // for one question, all addresses included
	askAgain  = 15 * time.Second       // after nobody answered
	maxKey    = 256
	keyFormat = "KEY" // in a path: the key's place
)

// sample is one reading of Apache's status page, and the boot times between which it was
// taken.
type sample struct {
	rows          []row
	before, after int64
	wall          time.Time
}

// apache asks for the status page. It is safe for concurrent use by way of its turn.
type apache struct {
	client  *http.Client
	servers []string // "http://127.0.0.1:80"
	paths   []string
	keyFile string
	now     func() policy.Moment

	turn chan struct{} // held by the one who asks; the fields below are his

	good   string // server and path, without the key, that answered last
	quiet  int64  // boot time before which it is not asked
	last   error  // why
	latest result // shared by all who waited for it
}

// result is what one question brought; before is known of a failed one as well.
type result struct {
	sample
	err error
}

func newApache(o Options) (*apache, error) {
	a := &apache{servers: o.Apache, paths: o.ApachePaths, keyFile: o.ApacheKeyFile, now: o.Now, turn: make(chan struct{}, 1)}
	if len(a.paths) == 0 {
		a.paths = DefaultApachePaths()
	}
	var errs []error
	for _, s := range a.servers {
		errs = append(errs, checkServer(s))
	}
	// Each question has a connection of its own: a kept one would occupy one of Apache's
	// processes between them. No proxy of the environment is used.
	a.client = &http.Client{
		Transport: &http.Transport{
			DialContext: dialLoopback, DisableKeepAlives: true, DisableCompression: true,
			MaxResponseHeaderBytes: 32 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return a, errors.Join(errs...)
}

// checkServer allows addresses of this host only, as numbers: no name can lead elsewhere.
func checkServer(server string) error {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "http" || u.Path != "" || u.RawQuery != "" || u.User != nil {
		return fmt.Errorf("status server %.80q is not of the form http://127.0.0.1:80", server)
	}
	ip, err := netip.ParseAddr(u.Hostname())
	if err != nil || !ip.IsLoopback() {
		return fmt.Errorf("status server %.80q is not a loopback address: only this host is asked", server)
	}
	return nil
}

func dialLoopback(ctx context.Context, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if ip, err := netip.ParseAddr(host); err != nil || !ip.IsLoopback() {
		return nil, fmt.Errorf("%.80q is not a loopback address", address)
	}
	var d net.Dialer
	return d.DialContext(ctx, network, address)
}

// ask reads the status page, as it is now or later. One question is under way at a time,
// and all who waited for it share its answer: a hundred messages do not make a hundred
// questions. Nobody but the caller may change the rows, and he does not.
func (a *apache) ask(ctx context.Context) (sample, error) {
	if len(a.servers) == 0 {
		return sample{}, errors.New("no address of Apache's status page is configured")
	}
	since := a.now().Boot
	select {
	case a.turn <- struct{}{}:
		defer func() { <-a.turn }()
	case <-ctx.Done():
		return sample{}, fmt.Errorf("ask for Apache's status page: %w", ctx.Err())
	}
	if a.latest.before <= since {
		before := a.now().Boot
		s, err := a.find(ctx)
		if err != nil {
			s.before = before
		}
		if err != nil && ctx.Err() != nil {
			return sample{}, err // a caller in a hurry proves nothing to the others
		}
		a.latest = result{s, err}
	}
	return a.latest.sample, a.latest.err
}

// find asks at the address that answered last or, failing that, at the others. After
// nobody had the page it is left alone for a while.
func (a *apache) find(ctx context.Context) (sample, error) {
	if a.last != nil && a.now().Boot < a.quiet {
		return sample{}, a.last
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	if a.good != "" {
		if s, err := a.get(ctx, a.good); err == nil {
			return s, nil
		}
	}
	var errs []error
	for _, server := range a.servers {
		for _, path := range a.paths {
			s, err := a.get(ctx, server+path)
			if err == nil {
				a.good, a.last = server+path, nil
				return s, nil
			}
			errs = append(errs, err)
		}
	}
	err := worst(errs)
	if ctx.Err() == nil { // a busy server may have it the next time
		a.good, a.last, a.quiet = "", err, a.now().Boot+askAgain.Milliseconds()
	}
	return sample{}, err
}

// worst picks what an operator has to know: that the page was found without requests says
// more than that it is not at three other places.
func worst(errs []error) error {
	for _, err := range errs {
		if errors.Is(err, errNotExt) {
			return err
		}
	}
	return errs[len(errs)-1]
}

// get asks one address, in which KEY stands for the key. No error names the key.
func (a *apache) get(ctx context.Context, address string) (sample, error) {
	target := address
	if strings.Contains(address, keyFormat) {
		key, err := a.key()
		if err != nil {
			return sample{}, err
		}
		target = strings.Replace(address, keyFormat, url.PathEscape(key), 1)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return sample{}, fmt.Errorf("ask for Apache's status page at %s: not an address", address)
	}
	req.Header.Set("User-Agent", "osmd")
	req.Header.Set("Cache-Control", "no-cache")
	s := sample{before: a.now().Boot}
	res, err := a.client.Do(req)
	if err != nil {
		var inURL *url.Error // its text has the address with the key
		if errors.As(err, &inURL) {
			err = inURL.Err
		}
		return sample{}, fmt.Errorf("ask for Apache's status page at %s: %w", address, err)
	}
	defer func() { _ = res.Body.Close() }() // read as far as it is wanted
	if res.StatusCode != http.StatusOK {
		return sample{}, fmt.Errorf("ask for Apache's status page at %s: status %d", address, res.StatusCode)
	}
	if age := res.Header.Get("Age"); age != "" && age != "0" {
		return sample{}, fmt.Errorf("ask for Apache's status page at %s: it is an old one of a cache", address)
	}
	rows, err := parseStatus(res.Body)
	now := a.now()
	if err != nil {
		return sample{}, fmt.Errorf("ask for Apache's status page at %s: %w", address, err)
	}
	s.rows, s.after, s.wall = a.withoutOurs(rows), now.Boot+1, now.Wall // the clock cuts to the millisecond
	return s, nil
}

// withoutOurs leaves out requests for the status page itself: our own among them, in whose
// address the key may stand.
func (a *apache) withoutOurs(rows []row) []row {
	var ours []string
	for _, p := range a.paths {
		p, _, _ = strings.Cut(p, "?")
		if strings.Contains(p, keyFormat) {
			key, err := a.key()
			if err != nil {
				continue
			}
			p = strings.Replace(p, keyFormat, url.PathEscape(key), 1)
		}
		ours = append(ours, p)
	}
	return slices.DeleteFunc(rows, func(r row) bool {
		l, ok := r.line()
		path, _, query := strings.Cut(l.target, "?")
		return ok && slices.ContainsFunc(ours, func(p string) bool {
			return path == p || !l.whole && !query && strings.HasPrefix(p, path) && len(path) > len("/server-status")
		})
	})
}

// key reads the secret part of the address, anew each time: the panel may change it.
func (a *apache) key() (string, error) {
	if a.keyFile == "" {
		return "", errors.New("no file with the key of Apache's status page is configured")
	}
	f, err := os.Open(a.keyFile)
	if err != nil {
		return "", fmt.Errorf("read the key of Apache's status page: %w", err)
	}
	defer func() { _ = f.Close() }() // opened for reading
	b, err := io.ReadAll(io.LimitReader(f, maxKey+1))
	if err != nil {
		return "", fmt.Errorf("read the key of Apache's status page: %w", err)
	}
	key := strings.TrimSpace(string(b))
	if key == "" || len(key) > maxKey || strings.ContainsAny(key, "/?#% \r\n\t") {
		return "", fmt.Errorf("read the key of Apache's status page: %q does not hold one word", a.keyFile)
	}
	return key, nil
}
