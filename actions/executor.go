package actions

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"osm/policy"
)

// ExecutorOptions is everything that the executor goes by. It comes from root-owned
// /etc/osm/executor.toml, never from the database or a request. Zero values mean the
// default.
type ExecutorOptions struct {
	PeerUIDs []uint32 // who may ask besides root: osm's uid
	EximUID  uint32   // Exim's run-time user, who owns the spool's files
	SpoolDir string   // Exim's spool_directory
	Exim     string   // the program; default /usr/sbin/exim4
	// DeliverPrefix is put before the program for deliveries alone: see [OutsideUnit].
	DeliverPrefix []string

	CommandLimit  time.Duration // of one command but deliveries; default 30s
	DeliverLimit  time.Duration // of one delivery; default 30m, longer than Exim's own timeouts
	DeliverGrace  time.Duration // for a running delivery when the executor stops; default 5s
	DeliverAtOnce int           // default 4
	IDsPerSecond  int           // brake on thaw, deliver and remove together; default 200
	MaxConns      int           // default 16

	// What may be done to accounts, mailboxes, paths and addresses.
	Actions []string       // that are allowed
	Rates   map[string]int // of each action, at most so many an hour; 0 = none
	// CommandPrefix is put before commands of panel and firewall, as DeliverPrefix before
	// deliveries.
	CommandPrefix []string
	StateDir      string        // where changes in force are written down, root's alone
	ChangeLimit   time.Duration // of one command of a change; default 2m
	MinUID        uint32        // lower uids are system users
	Protected     []string      // accounts that nothing is ever done to
	RenameAny     bool          // rename-path also takes public_html and the like
	Panel         PanelOptions
	Firewall      FirewallOptions
	Scripts       map[string]ScriptOptions // by name, what run-script may run
	ReportDir     string                   // of reports that a script reads as a file; default /run/osm-executor
	ScriptsApart  bool                     // systemd started the executor: scripts run in units of their own

	Log *slog.Logger
	Now func() time.Time
}

func (o *ExecutorOptions) fill() error {
	if o.SpoolDir == "" || o.Now == nil || o.Log == nil {
		return errors.New("executor options: SpoolDir, Now and Log must be set")
	}
	setDefault(&o.Exim, "/usr/sbin/exim4")
	setDefault(&o.CommandLimit, 30*time.Second)
	setDefault(&o.DeliverLimit, 30*time.Minute)
	setDefault(&o.DeliverGrace, 5*time.Second)
	setDefault(&o.DeliverAtOnce, 4)
	setDefault(&o.IDsPerSecond, 200)
	setDefault(&o.MaxConns, 16)
	setDefault(&o.ChangeLimit, 2*time.Minute)
	setDefault(&o.ReportDir, "/run/osm-executor")
	return nil
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// executor is the root side.
type executor struct {
	o          ExecutorOptions
	queue      queue
	exim       command
	deliveries deliveries
	brake      brake
	acting     chan struct{} // one request at a time reads the queue or runs Exim

	changers map[string]changer
	records  records
	rates    hourly
	changing chan struct{} // one change at a time

	scripting chan struct{} // scripts under way
}

// allChangers is every change there is, by its action.
func (x *executor) allChangers() map[string]changer {
	return map[string]changer{
		policy.ActionPanelHold:      x.panelHold(),
		policy.ActionBlockLogin:     x.blockLogin(),
		policy.ActionSuspendAccount: x.suspendAccount(),
		policy.ActionBlockIP:        x.blockIP(),
		policy.ActionBlockDirect:    &blockDirect{x},
		policy.ActionRenamePath:     &renamer{x: x, folder: true},
		policy.ActionRenameScript:   &renamer{x: x},
	}
}

// allowed are the changes that the options allow.
func (x *executor) allowed() map[string]changer {
	out := map[string]changer{}
	for name, k := range x.allChangers() {
		if slices.Contains(x.o.Actions, name) {
			out[name] = k
		}
	}
	return out
}

// ServeExecutor answers requests on l until ctx ends and everything it started has ended.
// It closes l.
func ServeExecutor(ctx context.Context, l *net.UnixListener, o ExecutorOptions) error {
	if err := o.fill(); err != nil {
		return err
	}
	x := &executor{
		o:     o,
		queue: queue{dir: o.SpoolDir, uid: o.EximUID},
		exim:  command{program: o.Exim, limit: o.CommandLimit},
		deliveries: deliveries{
			cmd:   command{prefix: o.DeliverPrefix, program: o.Exim, limit: o.DeliverLimit},
			grace: o.DeliverGrace,
			todo:  make(chan string, 5*MaxBatch),
		},
		brake:  brake{rate: float64(o.IDsPerSecond), now: o.Now},
		acting: make(chan struct{}, 1),

		records:  records{o.StateDir},
		rates:    hourly{rates: o.Rates},
		changing: make(chan struct{}, 1),

		scripting: make(chan struct{}, scriptsAtOnce),
	}
	x.changers = x.allowed()
	x.dropReports()
	handOnNothing()
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { x.deliveries.run(ctx, o.DeliverAtOnce, x.deliveryFailed) })
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer func() { stop(); cancel(); l.Close(); wg.Wait() }()

	slots := make(chan struct{}, o.MaxConns)
	for {
		c, err := l.AcceptUnix()
		if ctx.Err() != nil {
			if err == nil {
				c.Close()
			}
			return nil
		}
		if err != nil {
			if !pauseAccept(ctx, err) {
				return fmt.Errorf("accept on the executor's socket: %w", err)
			}
			continue
		}
		select {
		case slots <- struct{}{}:
			wg.Go(func() {
				defer func() { <-slots }()
				x.serve(ctx, c)
			})
		default: // the peer sees its connection closed and says so
			c.Close()
		}
	}
}

// pauseAccept reports whether accepting can go on after err: out of file descriptors is a
// passing state.
func pauseAccept(ctx context.Context, err error) bool {
	if !errors.Is(err, unix.EMFILE) && !errors.Is(err, unix.ENFILE) && !errors.Is(err, unix.ECONNABORTED) {
		return false
	}
	t := time.NewTimer(50 * time.Millisecond)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
	return true
}

func (x *executor) deliveryFailed(id, said string, err error) {
	x.o.Log.Warn("delivery did not end well; Exim's next queue run tries again", "message_id", id, "said", said, "err", err)
}

// serve answers one connection.
func (x *executor) serve(ctx context.Context, c *net.UnixConn) {
	defer c.Close()
	defer func() {
		if r := recover(); r != nil {
			x.o.Log.Error("panic while answering a request", "err", r, "stack", string(debug.Stack()))
		}
	}()
	uid, err := peerUID(c)
	if err != nil || (uid != 0 && !slices.Contains(x.o.PeerUIDs, uid)) {
		x.o.Log.Warn("a stranger connected to the executor", "uid", uid, "err", err)
		return
	}
	// Waiting for another request, then this one's own command, then writing the answer.
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	c.SetWriteDeadline(time.Now().Add(max(3*max(x.o.CommandLimit, x.o.ChangeLimit), maxScriptTime) + 30*time.Second))
	w := &answerWriter{w: bufio.NewWriterSize(c, 32<<10)}
	req, err := readRequest(c)
	if err != nil {
		w.end(answer{Error: &ExecutorError{What: "read the request", Why: err.Error()}})
		return
	}
	last := x.answer(ctx, req, w)
	if last.Error != nil && last.Error.RetryAfter == 0 && !last.Error.Gone && !last.Error.LeftAlone {
		x.o.Log.Warn("request refused or failed", "verb", cut(req.Verb, 32), "err", last.Error)
	}
	w.end(last)
}

// readRequest reads a line and, of run-script alone, the report behind it.
func readRequest(r io.Reader) (request, error) {
	var req request
	limited := &io.LimitedReader{R: r, N: maxRequest}
	buffered := bufio.NewReader(limited)
	line, err := buffered.ReadBytes('\n')
	if err != nil {
		return req, fmt.Errorf("no whole line within %d bytes and 5 seconds: %w", maxRequest, err)
	}
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&req); err != nil {
		return req, fmt.Errorf("decode: %w", err)
	}
	if req.Body == 0 {
		return req, nil
	}
	if req.Verb != verbRunScript || req.Script == nil || req.Body < 0 || req.Body > maxReport {
		return req, fmt.Errorf("%d bytes after the line: only run-script has a report there, of at most %d", req.Body, maxReport)
	}
	limited.N = int64(max(0, req.Body-buffered.Buffered()))
	req.Script.Report = make([]byte, req.Body)
	if _, err := io.ReadFull(buffered, req.Script.Report); err != nil {
		return req, fmt.Errorf("no whole report of %d bytes within 5 seconds: %w", req.Body, err)
	}
	return req, nil
}

// answer does what req asks and returns the last line of the answer.
func (x *executor) answer(ctx context.Context, req request, w *answerWriter) answer {
	if err := x.validate(req); err != nil {
		return answer{Error: err}
	}
	switch req.Verb {
	case verbApply, verbUndo, verbRecords:
		return x.change(ctx, req, w)
	case verbCheck:
		return x.lookAtChange(ctx, req)
	case verbRunScript:
		return x.runScript(ctx, req, w)
	}
	if !turn(ctx, x.acting, x.o.CommandLimit) {
		return answer{Error: &ExecutorError{What: req.Verb, Why: "another request is still under way", Next: "try again", RetryAfter: time.Second}}
	}
	defer func() { <-x.acting }()
	switch req.Verb {
	case verbQueueList:
		ctx, cancel := context.WithTimeout(ctx, x.o.CommandLimit)
		defer cancel()
		skipped, err := x.queue.list(ctx, w.message)
		return answer{Skipped: skipped, Error: explain(req, err, "see the spool directory in executor.toml")}
	case verbQueueHeaders:
		text, err := x.queue.headers(req.IDs[0])
		if errors.Is(err, os.ErrNotExist) {
			return answer{Error: &ExecutorError{What: req.Verb, On: req.IDs[0], Why: "the message is not in Exim's queue", Gone: true}}
		}
		return answer{Text: text, Error: explain(req, err, "")}
	case verbEximOptions:
		options, err := x.options(ctx)
		e := explain(req, err, "run exim -bP by hand")
		if e != nil {
			e.Exim = ctx.Err() == nil
		}
		return answer{Options: options, Error: e}
	case verbEximVersion:
		said, err := x.exim.run(ctx, "-bV")
		return answer{Text: said, Error: explain(req, err, "run exim -bV by hand")}
	}
	return x.act(ctx, req)
}

// turn waits for the request before this one, not longer than that may last. Whoever has
// his turn ends it by taking from the channel.
func turn(ctx context.Context, one chan struct{}, limit time.Duration) bool {
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case one <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	case <-t.C:
		return false
	}
}

// validate checks a request again, whatever the client has checked.
func (x *executor) validate(req request) *ExecutorError {
	bad := func(why string) *ExecutorError {
		return &ExecutorError{What: "check the request", On: fmt.Sprintf("%.40q", req.Verb), Why: why}
	}
	least, most := 0, 0
	switch req.Verb {
	case verbQueueThaw, verbQueueDeliver, verbQueueRemove:
		least, most = 1, MaxBatch
	case verbQueueHeaders:
		least, most = 1, 1
	case verbQueueList, verbEximOptions, verbEximVersion, verbRecords:
	case verbApply:
		if req.Change == nil {
			return bad("names no change")
		}
		if err := validateChange(req.Change); err != nil {
			return explainChange(req, err)
		}
	case verbUndo, verbCheck:
		if !reRecord.MatchString(req.Record) {
			return bad(fmt.Sprintf("%.40q is no record", req.Record))
		}
	case verbRunScript:
		if err := x.validateScript(&req); err != nil {
			return bad(err.Error())
		}
	default:
		return bad("no such verb")
	}
	if n := len(req.IDs); n < least || n > most {
		return bad(fmt.Sprintf("%d message ids, want %d to %d", n, least, most))
	}
	for i, id := range req.IDs {
		if !ValidMessageID(id) {
			return bad(fmt.Sprintf("%.40q is no message id", id))
		}
		if slices.Contains(req.IDs[:i], id) {
			return bad(fmt.Sprintf("message id %s is named twice", id))
		}
	}
	return nil
}

func explain(req request, err error, next string) *ExecutorError {
	if err == nil {
		return nil
	}
	e := &ExecutorError{What: req.Verb, Why: err.Error(), Next: next}
	// Exim makes the folder of its queue with its first message.
	e.Gone = req.Verb == verbQueueList && errors.Is(err, os.ErrNotExist)
	if len(req.IDs) > 0 {
		e.On = req.IDs[0]
	}
	return e
}

// peerUID asks the kernel who is at the other end.
func peerUID(c *net.UnixConn) (uint32, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("ask for the peer's credentials: %w", err)
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, fmt.Errorf("ask for the peer's credentials: %w", err)
	}
	if credErr != nil {
		return 0, fmt.Errorf("ask for the peer's credentials: %w", credErr)
	}
	return cred.Uid, nil
}

// answerWriter writes the lines of one answer; nothing is kept of them.
type answerWriter struct{ w *bufio.Writer }

func (a *answerWriter) message(m *QueueMessage) error { return a.line(answer{Message: m}) }

func (a *answerWriter) line(v answer) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	if _, err := a.w.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("write the answer: %w", err)
	}
	return nil
}

// end writes the last line. An error of it is the client's to see: its answer is cut.
func (a *answerWriter) end(v answer) {
	v.End = true
	if a.line(v) == nil {
		a.w.Flush()
	}
}
