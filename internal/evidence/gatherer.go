package evidence

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"sync"
	"time"

	"osm/policy"
)

const (
	defaultPatience = 1200 * time.Millisecond
	gatherTime      = 4 * askTime // for all questions about one message, beside patience
	sampleEvery     = 25 * time.Millisecond
	maxTracks       = 1024
	trackAge        = 60_000 // milliseconds
)

// DefaultApachePaths are the places of Apache's status page, KEY standing for the key: cPanel's
// hidden one in both forms, its plain one, and Apache's own.
func DefaultApachePaths() []string {
	return []string{"/" + keyFormat, "/whm-server-status?key=" + keyFormat, "/whm-server-status", "/server-status"}
}

// DefaultPoolFiles are the files in which Debian, Red Hat and cPanel keep php-fpm's pools.
func DefaultPoolFiles() []string {
	return []string{"/etc/php/*/fpm/pool.d/*.conf", "/etc/php-fpm.d/*.conf", "/opt/cpanel/ea-php*/root/etc/php-fpm.d/*.conf"}
}

// Options says where a [Gatherer] looks.
type Options struct {
	Apache        []string // servers whose status page is asked, "http://127.0.0.1:80"; loopback only, none: not asked
	ApachePaths   []string // nil: DefaultApachePaths
	ApacheKeyFile string   // holds the secret part of the address; "" = there is none
	Pools         []Pool   // of php-fpm
	PoolFiles     []string // patterns of files with more of them
	// AskPool asks a pool in the gatherer's place; nil: [AskPool]. It is for a daemon that may
	// not connect to the pools itself.
	AskPool func(context.Context, Pool) ([]byte, error)
	// StillRuns tells whether a process is the one that was seen, for a daemon to which /proc
	// does not show others' processes; nil: only /proc is asked.
	StillRuns func(context.Context, *policy.Process) bool
	// StillOpen tells whether a connection that bypassed Exim is still open, in the hands of
	// the process that made it; nil: not known.
	StillOpen func(context.Context, *policy.Connection) bool
	// Patience is how long one message's request may be watched, beside the questions
	// themselves; 0 = 1.2 s. Apache tells times in seconds only: within this time either a
	// second is up or the request ends, and its beginning is known.
	Patience time.Duration
	// Owner tells whose account a virtual host is, for servers of many; nil: never known.
	Owner func(host string) (account string, ok bool)
	Now   func() policy.Moment
}

// Gatherer finds out what request was behind a message. It is safe for concurrent use.
type Gatherer struct {
	opt    Options
	apache *apache
	pools  *pools

	mu     sync.Mutex
	tracks map[int32]*track // requests seen at work, by process
}

// New checks the addresses, all of which must be this host's.
func New(o Options) (*Gatherer, error) {
	if o.Now == nil {
		return nil, errors.New("evidence needs a clock")
	}
	if o.Patience == 0 {
		o.Patience = defaultPatience
	}
	a, err := newApache(o)
	for _, p := range o.Pools {
		if _, bad := p.network(); bad != nil {
			err = errors.Join(err, fmt.Errorf("php-fpm pool %.40q: %w", p.Name, bad))
		}
	}
	if err != nil {
		return nil, err
	}
	pools := &pools{fixed: o.Pools, globs: o.PoolFiles, now: o.Now}
	return &Gatherer{opt: o, apache: a, pools: pools, tracks: map[int32]*track{}}, nil
}

// Gather looks for the request behind a message: chain is what the kernel said of the
// processes that submitted it, at the time of its decision; of a connection that bypassed
// Exim, those that made it, at the time when it was seen. It is to be called as soon as
// may be, since requests are short, and takes two and a half seconds at most. That nothing is
// known is an answer, not an error.
func (g *Gatherer) Gather(ctx context.Context, s *policy.Submission, chain []policy.Process, id policy.Identity, at policy.Moment) policy.Evidence {
	ctx, cancel := context.WithTimeout(ctx, g.opt.Patience+gatherTime)
	defer cancel()
	looked := len(chain) > 0
	if s.Direct != nil && looked {
		if chain[0].Started > 0 && ticksBoot(chain[0].Started) > at.Boot+timeCut {
			return policy.Evidence{Basis: fmt.Sprintf("process %d began later than its connection: another one made it", chain[0].PID)}
		}
		chain = inFront(chain)
	}
	q := question{g: g, s: s, id: &id, caller: readChain(chain), at: at}
	q.when = q.time()
	e := q.claim(looked)
	q.await(ctx)
	switch q.handler {
	case module:
		e = q.module(ctx, e)
	case cgi:
		e = q.cgi(ctx, e)
	case fpm:
		e = q.fpm(ctx, e)
	}
	if e.Basis != "" && e.SeenAt.IsZero() {
		e.SeenAt = at.Wall
	}
	return e.Clean()
}

// inFront puts an empty process in the place that sendmail has for mail.
func inFront(chain []policy.Process) []policy.Process {
	return append(make([]policy.Process, 1, 1+len(chain)), chain...)
}

// question is one message, or one connection past Exim, whose request is looked for.
type question struct {
	g    *Gatherer
	s    *policy.Submission
	id   *policy.Identity
	at   policy.Moment
	when when
	caller
}

// connectsItself reports whether the worker made the connection, and no process that it
// started.
func (q *question) connectsItself() bool {
	return q.s.Direct != nil && q.child != nil && q.child.PID == 0
}

// time is when the request that is looked for was under way.
func (q *question) time() when {
	if q.connectsItself() {
		return connectTime(q.s.Direct.Seen, q.at)
	}
	return messageTime(q.child, q.at)
}

// await lets the time go by at which the request was under way, so that whoever is asked
// speaks of later: a connection is looked into within a few milliseconds.
func (q *question) await(ctx context.Context) {
	left := q.when.max - q.g.opt.Now().Boot
	if !q.connectsItself() || left < 0 {
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(time.Duration(left+1) * time.Millisecond):
	}
}

// then says in words what happened at that time.
func (q *question) then() string {
	switch {
	case q.connectsItself():
		return "when it connected"
	case !q.when.exact:
		return "when it sent by SMTP"
	case q.s.Direct != nil:
		return fmt.Sprintf("when process %d was started", q.child.PID)
	}
	return "when sendmail was started"
}

// directory is where the script worked, as the kernel has it. PHP changes to that of the
// script.
func (q *question) directory() string {
	if c := q.s.Direct; c != nil && len(c.Chain) > 0 {
		return policy.CleanDirectory(c.Chain[0].WorkingDirectory)
	}
	return policy.CleanDirectory(q.s.WorkingDirectory)
}

// claim is what the message and its processes say of themselves, without any request.
// Below a web server's or php-fpm's own process the arguments and the environment are those
// of what the script started, and PHP's header has a name without its folder: no file is
// named by those, nor by the header where no process was looked at.
func (q *question) claim(looked bool) policy.Evidence {
	if q.handler == module || q.handler == fpm {
		e := policy.Evidence{PID: q.worker.PID}
		if called := policy.PHPScriptName(q.s.PHPScript); called != "" {
			e.Basis = fmt.Sprintf("PHP's header names %.80q, the working directory is %.200q (claims)", called, q.directory())
		}
		return e
	}
	switch {
	case q.id.Script == "":
		return policy.Evidence{}
	case !looked:
		return policy.Evidence{Basis: fmt.Sprintf("no process was looked at; %.200q by %s", q.id.Script, q.id.ScriptBasis)}
	}
	return policy.Evidence{Script: q.id.Script, Basis: q.id.ScriptBasis, Confidence: policy.ConfidenceLow}
}

// note adds to a claim why nothing better is known.
func note(e policy.Evidence, text string, args ...any) policy.Evidence {
	if text = fmt.Sprintf(text, args...); e.Basis != "" {
		text = e.Basis + "; " + text
	}
	e.Basis = text
	return e
}

// module is for scripts that run within one of Apache's processes: its row is the request,
// if the time agrees.
func (q *question) module(ctx context.Context, claim policy.Evidence) policy.Evidence {
	t, s, err := q.follow(ctx)
	if err != nil {
		return note(claim, "%v", err)
	}
	e := fromRow(&t.row, s.wall)
	switch f := q.fit(t.span, t.open); {
	case t.samples < 2 || f < connected:
		return note(claim, "Apache status, worker %d: not certain which of its requests it was", q.worker.PID)
	case f == connected:
		e.Confidence = policy.ConfidenceLow
	default:
		e.Confidence = policy.ConfidenceHigh
	}
	e.Basis = fmt.Sprintf("Apache status, worker %d, whose request was under way %s", q.worker.PID, q.then())
	script, called := q.agreedScript(e.URL)
	switch {
	case script != "":
		e.Script = script
		return note(e, "script by working directory, URL and PHP's header")
	case called != "":
		return note(e, "PHP's header names %.80q", called)
	case q.s.Direct != nil:
		return note(e, "%s", q.unnamedScript())
	}
	return e
}

// unnamedScript tells what is known of the script behind a connection: there is no header of
// PHP's, and what was asked for may be served by another file of the same folder.
func (q *question) unnamedScript() string {
	return fmt.Sprintf("the script's working directory is %.200q", q.directory())
}

// follow samples the row of the worker until the time of its request is known well enough,
// the request has ended, or patience has.
func (q *question) follow(ctx context.Context) (*track, sample, error) {
	until := q.g.opt.Now().Boot + q.g.opt.Patience.Milliseconds()
	s, r, err := q.workerRow(ctx)
	if err != nil {
		return nil, s, err
	}
	t, ok := newTrack(r, s)
	if !ok {
		return nil, s, fmt.Errorf("no request to be seen in Apache's status, worker %d", q.worker.PID)
	}
	q.g.recall(t)
	if t.row.busy() && t.span.fit(q.when) == possible {
		t.open = q.stillOpen(ctx)
	}
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for q.unsettled(t) && q.g.opt.Now().Boot < until {
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
		next, r, err := q.workerRow(ctx)
		if err != nil && ctx.Err() == nil {
			continue // a busy server may answer the next time
		}
		if err != nil || !t.add(r, next) {
			break
		}
		s = next
	}
	if clockSet(q.at, policy.Moment{Wall: s.wall, Boot: s.after}) {
		return nil, s, errors.New("the clock was set since: Apache's times say nothing")
	}
	if !q.workerRuns(ctx) {
		return nil, s, fmt.Errorf("process %d of Apache's status is not the one that it was", q.worker.PID)
	}
	q.g.remember(t)
	return t, s, nil
}

// unsettled reports whether another sample may tell more of the request's time.
func (q *question) unsettled(t *track) bool {
	f := t.span.fit(q.when)
	return f != impossible && !t.over() && (f < connected || t.samples < 2)
}

// fit is how well a request's time agrees with that of the message or the connection. PHP
// closes at a request's end what it opened (but for pfsockopen), so that a connection that
// is still open after the request was seen at work is its own, if the time allows it: that
// is for pages that connect as soon as they begin.
func (q *question) fit(s span, open bool) fit {
	f := s.fit(q.when)
	if f == possible && open {
		return connected
	}
	return f
}

// stillOpen reports whether the worker that connected has that connection still.
func (q *question) stillOpen(ctx context.Context) bool {
	return q.connectsItself() && q.g.opt.StillOpen != nil && q.g.opt.StillOpen(ctx, q.s.Direct)
}

// askApache asks a second time where the server was too busy for the first.
func (g *Gatherer) askApache(ctx context.Context) (sample, error) {
	s, err := g.apache.ask(ctx)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return g.apache.ask(ctx)
	}
	return s, err
}

// workerRow is the row of the worker, if it serves one request at a time.
func (q *question) workerRow(ctx context.Context) (sample, row, error) {
	s, err := q.g.askApache(ctx)
	if err != nil {
		return s, row{}, err
	}
	var found row
	for _, r := range s.rows {
		switch {
		case r.pid != q.worker.PID:
		case found.pid != 0:
			return s, row{}, fmt.Errorf("process %d of Apache's status serves several requests at once", q.worker.PID)
		default:
			found = r
		}
	}
	if found.pid == 0 {
		return s, row{}, fmt.Errorf("process %d is not in Apache's status", q.worker.PID)
	}
	return s, found, nil
}

// recall lets a track go on where an earlier message of the same request left it.
func (g *Gatherer) recall(t *track) {
	g.mu.Lock()
	defer g.mu.Unlock()
	t.continues(g.tracks[t.row.pid])
}

func (g *Gatherer) remember(t *track) {
	now := g.opt.Now().Boot
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.tracks) >= maxTracks {
		for pid, old := range g.tracks {
			if now-old.span.endMin > trackAge {
				delete(g.tracks, pid)
			}
		}
	}
	if t.row.busy() && !t.over() && len(g.tracks) < maxTracks {
		g.tracks[t.row.pid] = t
	}
}

// fromRow is the request that a row shows.
func fromRow(r *row, seen time.Time) policy.Evidence {
	l, _ := r.line()
	host, cut := r.host()
	if cut {
		host += cutMark
	}
	c := candidate{row: *r}
	return policy.Evidence{URL: l.url(), Method: l.method, VirtualHost: host, ClientIP: c.client(), PID: r.pid, SeenAt: seen}
}

// agreedScript is the script where the URL, the kernel's working directory (PHP changes to
// that of the script) and PHP's own header say the same. With rewritten URLs, included files
// and pages that change their directory they do not, and none is named; called is then the
// header's word.
func (q *question) agreedScript(url string) (script, called string) {
	called = policy.PHPScriptName(q.s.PHPScript)
	asked, _, _ := strings.Cut(decoded(url), "?")
	if strings.HasSuffix(asked, "/") {
		asked += "index.php"
	}
	dir := q.directory()
	inURL := strings.TrimSuffix(path.Dir(asked), "/")
	if called == "" || called != path.Base(asked) || dir == "" || !strings.HasSuffix(dir, inURL) {
		return "", called
	}
	return path.Join(dir, called), called
}
