package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"strconv"
	"sync"
	"time"
)

// Bounds of one request.
const (
	maxBody    = 1 << 20
	maxHeader  = 16 << 10
	maxClients = 128 // connections at once; more wait in the listen queue
	// maxWork is the longest that an operation may take; a tail is no operation.
	maxWork   = 60 * time.Second
	maxBackup = 10 * time.Minute
	maxUndo   = 7 * time.Minute // a panel's command, and those before it
)

// Serve answers on l until ctx ends, then lets running requests finish for a moment. It
// closes l. web is the page below /web/; nil: there is none.
func Serve(ctx context.Context, l *net.UnixListener, s *Service, log *slog.Logger, web http.Handler) error {
	srv := &http.Server{
		Handler:           Handler(s, log, web),
		ConnContext:       withPeer,
		ReadHeaderTimeout: 5 * time.Second,
		WriteTimeout:      maxWork + 5*time.Second,
		IdleTimeout:       30 * time.Second,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	stopped := make(chan struct{})
	unwatch := context.AfterFunc(ctx, func() {
		defer close(stopped)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if srv.Shutdown(grace) != nil {
			_ = srv.Close() // whoever is still reading is cut off
		}
	})
	err := srv.Serve(newCappedListener(l, maxClients))
	if unwatch() { // it ended by itself
		return fmt.Errorf("serve control socket: %w", err)
	}
	<-stopped
	return nil
}

// Handler is the API in HTTP. Requests must come with a peer in their context, as
// [Serve] sees to.
func Handler(s *Service, log *slog.Logger, web http.Handler) http.Handler {
	mux := http.NewServeMux()
	for pattern, op := range routes(s) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { answer(w, r, op, log) })
	}
	if web != nil {
		mount(mux, web, log)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeError(w, notFound("see the list of paths in docs/control-api.md", "there is no %.20s %.120s", r.Method, r.URL.Path))
	})
	return mux
}

// call is one request with what the operations need of it.
type call struct {
	*http.Request
	w     http.ResponseWriter
	actor Actor
	body  []byte
}

// operation answers a call with a value that is written as JSON, or with nil when it
// wrote the answer itself.
type operation func(ctx context.Context, c *call) (any, error)

func answer(w http.ResponseWriter, r *http.Request, op operation, log *slog.Logger) {
	asked(w, r, log, func(actor Actor, body []byte) {
		ctx, noted := Noting(r.Context())
		v, err := op(ctx, &call{Request: r, w: w, actor: actor, body: body})
		if id := noted.ID(); id != 0 {
			w.Header().Set(headerChange, strconv.FormatInt(id, 10))
		}
		switch {
		case err != nil:
			if statusOf(err) == http.StatusInternalServerError {
				log.Error("control request could not be answered", "path", r.URL.Path, "err", err)
			}
			writeError(w, err)
		case v != nil:
			writeJSON(w, http.StatusOK, v)
		}
	})
}

// asked lets f answer a request once it is known who asks and the body is there. A panic
// ends that request alone.
func asked(w http.ResponseWriter, r *http.Request, log *slog.Logger, f func(actor Actor, body []byte)) {
	defer func() {
		if p := recover(); p != nil {
			log.Error("a control request panicked", "err", fmt.Sprint(p), "path", r.URL.Path, "stack", string(debug.Stack()))
			writeError(w, failure(http.StatusInternalServerError, "the stack is in the daemon's log; please report it", "the request could not be answered"))
		}
	}()
	actor, err := askedBy(r)
	var body []byte
	if err == nil {
		body, err = readBody(w, r)
	}
	if err != nil {
		writeError(w, err)
		return
	}
	f(actor, body)
}

// readBody takes the whole body in bounded time and size. The server has no general
// read timeout, because that would end a long answer too.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.ContentLength == 0 {
		return nil, nil
	}
	conn := http.NewResponseController(w)
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return nil, fmt.Errorf("set a deadline for the request: %w", err)
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, failure(http.StatusRequestEntityTooLarge, "", "the request is larger than %d bytes", maxBody)
	case err != nil:
		return nil, badRequest("the request's body: %v", err)
	}
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		return nil, fmt.Errorf("take the deadline off: %w", err)
	}
	return b, nil
}

// plain wraps an operation that takes less than maxWork and returns a value.
func plain[T any](do func(ctx context.Context, c *call) (T, error)) operation {
	return within(maxWork, do)
}

// within wraps an operation that may take its time.
func within[T any](limit time.Duration, do func(ctx context.Context, c *call) (T, error)) operation {
	return func(ctx context.Context, c *call) (any, error) {
		if limit > maxWork {
			if err := http.NewResponseController(c.w).SetWriteDeadline(time.Now().Add(limit + 5*time.Second)); err != nil {
				return nil, fmt.Errorf("allow for a long answer: %w", err)
			}
		}
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		v, err := do(ctx, c)
		if err != nil {
			return nil, err
		}
		return v, nil
	}
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	_ = e.Encode(v) // the client may have gone
}

func writeError(w http.ResponseWriter, err error) {
	var e *Error
	if !errors.As(err, &e) {
		e = &Error{Status: http.StatusInternalServerError, Message: err.Error()}
	}
	writeJSON(w, statusOf(e), e)
}

// read takes the body as JSON; what it does not know is an error, so that a misspelt
// field is never silently left out of a change.
func (c *call) read(v any) error {
	d := json.NewDecoder(bytes.NewReader(c.body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return badRequest("the request's JSON: %v", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return badRequest("the request holds more than one JSON value")
	}
	return nil
}

// maxLimit is the longest page of a list.
const maxLimit = 1000

// page reads limit and after.
func (c *call) page() (Page, error) {
	p := Page{Limit: 100, After: c.URL.Query().Get("after")}
	if s := c.URL.Query().Get("limit"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > maxLimit {
			return p, badRequest("limit is %.40q: it is a number from 1 to %d", s, maxLimit)
		}
		p.Limit = n
	}
	if len(p.After) > 200 {
		return p, badRequest("after is no value of next")
	}
	return p, nil
}

// moment reads a time from the query: RFC 3339, or a Go duration back from now.
func (c *call) moment(name string, now time.Time) (time.Time, error) {
	return moment(name, c.URL.Query().Get(name), now)
}

// moment reads a time as the API takes it; zero for none.
func moment(name, s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if at, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return at.UTC(), nil
	}
	if d, err := time.ParseDuration(s); err == nil && d > 0 {
		return now.Add(-d), nil
	}
	return time.Time{}, badRequest("%s is %.40q: it is an RFC 3339 time or a Go duration back from now, such as 24h", name, s)
}

// duration reads a length of time from the query; 0 for none.
func (c *call) duration(name string) (time.Duration, error) {
	s := c.URL.Query().Get(name)
	if s == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, badRequest("%s is %.40q: it is a Go duration such as 1m", name, s)
	}
	return d, nil
}

// number reads a path value.
func (c *call) number(name string) (int64, error) {
	n, err := strconv.ParseInt(c.PathValue(name), 10, 64)
	if err != nil || n <= 0 {
		return 0, badRequest("%.40q is no %s", c.PathValue(name), name)
	}
	return n, nil
}

// cappedListener hands out at most a number of connections at once.
type cappedListener struct {
	net.Listener
	slots chan struct{}
	done  chan struct{}
	once  sync.Once
}

func newCappedListener(l net.Listener, n int) *cappedListener {
	return &cappedListener{Listener: l, slots: make(chan struct{}, n), done: make(chan struct{})}
}

func (l *cappedListener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.done:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		<-l.slots
		_ = c.Close()
		return nil, fmt.Errorf("a control connection is no unix socket")
	}
	return &cappedConn{UnixConn: u, release: sync.OnceFunc(func() { <-l.slots })}, nil
}

func (l *cappedListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return l.Listener.Close()
}

type cappedConn struct {
	*net.UnixConn
	release func()
}

func (c *cappedConn) Close() error {
	c.release()
	return c.UnixConn.Close()
}
