package evidence

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"
)

const (
	maxFPMStatus    = 2 << 20
	maxFPMProcesses = 10_000
)

// What php-fpm's scoreboard keeps of a request, without the final NUL.
const (
	fpmURI   = 127
	fpmQuery = 511
)

// fpmProcess is one worker of a pool, as the pool's status page has it.
type fpmProcess struct {
	PID      int32  `json:"pid"`
	State    string `json:"state"`
	Requests int64  `json:"requests"`
	Duration int64  `json:"request duration"` // microseconds
	Method   string `json:"request method"`
	URI      string `json:"request uri"` // the script's, decoded, and the query: not what was asked for, where that was rewritten
	Script   string `json:"script"`
}

func (p *fpmProcess) running() bool { return p.State == "Running" }

// uriCut reports whether more of the URI was there than php-fpm keeps.
func (p *fpmProcess) uriCut() bool {
	uri, query, _ := strings.Cut(p.URI, "?")
	return len(uri) >= fpmURI || len(query) >= fpmQuery
}

// path is the URI's without the query.
func (p *fpmProcess) path() string {
	path, _, _ := strings.Cut(p.URI, "?")
	return path
}

// escaped is the URI in the form of a request: php-fpm has its path without escapes.
func (p *fpmProcess) escaped() string {
	path, query, found := strings.Cut(p.URI, "?")
	if path = (&url.URL{Path: path}).EscapedPath(); found {
		return path + "?" + query
	}
	return path
}

type fpmStatus struct {
	Pool      string       `json:"pool"`
	Idle      int          `json:"idle processes"`
	Total     int          `json:"total processes"`
	Processes []fpmProcess `json:"processes"`
}

// parseFPM reads the status page in its JSON form. What it says must agree in itself: URIs
// are strangers' text, and a version that did not escape them would let them write rows.
func parseFPM(b []byte) (fpmStatus, error) {
	var s fpmStatus
	if len(b) > maxFPMStatus {
		return s, fmt.Errorf("read php-fpm's status: more than %d bytes", maxFPMStatus)
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return fpmStatus{}, fmt.Errorf("read php-fpm's status: %w", err)
	}
	if s.Pool == "" || len(s.Processes) > maxFPMProcesses || len(s.Processes) != s.Total {
		return fpmStatus{}, fmt.Errorf("read php-fpm's status: pool %.40q of %d processes shows %d", s.Pool, s.Total, len(s.Processes))
	}
	seen := map[int32]bool{}
	for i := range s.Processes {
		p := &s.Processes[i]
		if p.PID <= 0 || seen[p.PID] || p.Duration < 0 {
			return fpmStatus{}, fmt.Errorf("read php-fpm's status: process %d", p.PID)
		}
		seen[p.PID] = true
	}
	return s, nil
}

// fpmSample is one reading of a pool's status page.
type fpmSample struct {
	fpmStatus
	before, after int64
	wall          time.Time
	path          string // of the status page itself
}

// process finds the worker with that pid.
func (s *fpmSample) process(pid int32) *fpmProcess {
	for i := range s.Processes {
		if s.Processes[i].PID == pid {
			return &s.Processes[i]
		}
	}
	return nil
}

// span is when the request of a running worker began: the page has it to the microsecond.
func (s *fpmSample) span(p *fpmProcess) span {
	millis := p.Duration / 1000
	return span{startMin: s.before - millis - 1, startMax: s.after - millis, endMin: s.before, endMax: never}
}

// noneWaits reports whether no request waited for a worker. One may be idle, or one answers
// us: then we asked where all requests come in, and would have waited behind them. Only
// pm.status_listen is answered by none of them.
func (s *fpmSample) noneWaits() bool {
	return s.Idle > 0 || slices.ContainsFunc(s.Processes, func(p fpmProcess) bool { return p.running() && p.path() == s.path })
}

// askFPM reads a pool's status page.
func askFPM(ctx context.Context, p Pool, o *Options) (fpmSample, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	ask := o.AskPool
	if ask == nil {
		ask = AskPool
	}
	s := fpmSample{path: p.StatusPath, before: o.Now().Boot}
	body, err := ask(ctx, p)
	if err == nil {
		s.fpmStatus, err = parseFPM(body)
	}
	if err == nil && s.Pool != p.Name {
		err = fmt.Errorf("it answers for pool %.40q", s.Pool)
	}
	if err != nil {
		return fpmSample{}, fmt.Errorf("ask for the status of php-fpm's pool %.40q at %.120q: %w", p.Name, p.Address, err)
	}
	m := o.Now()
	s.after, s.wall = m.Boot+1, m.Wall
	return s, nil
}

// AskPool asks a pool for its status page, in the JSON form, and for nothing else. Whoever
// may connect to the pool's socket, that of pm.status_listen included, can run PHP as the
// pool's user: see Options.AskPool. ctx needs a deadline.
func AskPool(ctx context.Context, p Pool) ([]byte, error) {
	network, err := p.network()
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(p.StatusPath, "/") {
		return nil, errors.New("no pm.status_path")
	}
	var d net.Dialer
	return askUntilFree(ctx, p, func() (net.Conn, error) { return d.DialContext(ctx, network, p.Address) })
}

const (
	askTries = 5
	askPause = time.Millisecond // before the second try, doubled for each after it
)

// askUntilFree asks again a pool whose scoreboard was locked when it was asked: php-fpm does
// not wait for a worker that holds it, though none does for more than some microseconds, and
// answers 500, before PHP 8 503.
func askUntilFree(ctx context.Context, p Pool, dial func() (net.Conn, error)) ([]byte, error) {
	for try := 1; ; try++ {
		body, err := askOnce(ctx, p, dial)
		var status badStatus
		if !errors.As(err, &status) || !status.busy() || try == askTries {
			return body, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(askPause << (try - 1)):
		}
	}
}

func askOnce(ctx context.Context, p Pool, dial func() (net.Conn, error)) ([]byte, error) {
	c, err := dial()
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }() // the answer was read by then
	return askOver(ctx, c, p)
}

// askOver asks over a connection to the pool.
func askOver(ctx context.Context, c net.Conn, p Pool) ([]byte, error) {
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(askTime)
	}
	if err := c.SetDeadline(deadline); err != nil {
		return nil, err
	}
	_, err := c.Write(appendFCGIRequest(nil, [][2]string{
		{"GATEWAY_INTERFACE", "CGI/1.1"}, {"SERVER_PROTOCOL", "HTTP/1.1"}, {"SERVER_SOFTWARE", "osmd"},
		{"REQUEST_METHOD", "GET"}, {"QUERY_STRING", "full&json"}, {"REMOTE_ADDR", "127.0.0.1"},
		{"SCRIPT_NAME", p.StatusPath}, {"SCRIPT_FILENAME", p.StatusPath}, {"REQUEST_URI", p.StatusPath + "?full&json"},
	}))
	if err != nil {
		return nil, err
	}
	answer, err := readFCGIAnswer(c, maxFPMStatus)
	if err != nil {
		return nil, err
	}
	return cgiBody(answer)
}
