package origin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"osm/policy"
)

const (
	inspectTime  = 30 * time.Millisecond // for one answer
	scanTime     = 20 * time.Millisecond // for finding the process that owns a socket
	memoryTime   = 5 * time.Millisecond  // for the arguments and environment of one process
	inspectIdle  = 5 * time.Minute       // a kept connection without a question
	inspectWrite = time.Second           // for the asker to take an answer
	defaultConns = 16
	memoryTotal  = 64               // reads of processes' memory at once
	memoryPerUID = 8                // of processes of one user
	stuckTime    = 10 * time.Second // all memory reads hang: start anew
	mapsTime     = 2 * time.Second  // for copying the account maps
)

// errStuck ends [ServeInspect], so that whoever runs it starts it anew: reads that
// hang in the kernel end only with their process.
var errStuck = errors.New("all reads of processes' memory hang")

// InspectOptions says whom [ServeInspect] answers and what it needs to know.
type InspectOptions struct {
	UID   uint32 // who may ask, besides root: the user osm
	Exim  string // Exim's program, an absolute path
	Conns int    // connections served at once, 0 = 16; more are closed
	// Maps copies the account maps again and returns when that is done; nil = there are none.
	Maps func(ctx context.Context) error
	// Pool returns the status page of the one php-fpm pool whose name and address, by what
	// this host's own files say, have these numbers ([PoolNumber]); nil = none is asked.
	Pool func(ctx context.Context, name, address uint32) ([]byte, error)
	Log  *slog.Logger
}

// ServeInspect answers questions about processes until ctx ends or l fails; it then
// waits for the answers being given. It is the root side: it reads /proc of others,
// answers the questions of the wire and nothing else, and writes nothing itself.
func ServeInspect(ctx context.Context, l *net.UnixListener, o InspectOptions) error {
	if o.Conns <= 0 {
		o.Conns = defaultConns
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s := &inspectServer{opt: o, processes: NewProcesses(o.Exim, cancel), pools: newPoolAsks(o.Pool)}
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	slots := make(chan struct{}, o.Conns)
	var running sync.WaitGroup
	defer running.Wait()
	for {
		c, err := l.AcceptUnix()
		if ctx.Err() != nil {
			closeIf(c)
			if cause := context.Cause(ctx); errors.Is(cause, errStuck) {
				return cause
			}
			return nil
		}
		if err != nil {
			cancel(nil)
			return fmt.Errorf("accept a question about a process: %w", err)
		}
		select {
		case slots <- struct{}{}:
			running.Go(func() {
				defer func() { <-slots }()
				s.serve(ctx, c)
			})
		default:
			closeIf(c)
		}
	}
}

func closeIf(c *net.UnixConn) {
	if c != nil {
		_ = c.Close() // nothing was written that could be lost
	}
}

type inspectServer struct {
	opt       InspectOptions
	processes *Processes
	pools     *poolAsks
}

// serve answers the questions of one connection in their order.
func (s *inspectServer) serve(ctx context.Context, c *net.UnixConn) {
	defer closeIf(c)
	defer context.AfterFunc(ctx, func() { closeIf(c) })()
	defer func() {
		if p := recover(); p != nil {
			s.opt.Log.Error("panic while answering about a process", "err", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
	}()
	peer, err := PeerOf(c)
	if err != nil || peer.UID != 0 && peer.UID != s.opt.UID {
		s.opt.Log.Warn("question about a process refused", "uid", peer.UID, "err", err)
		return
	}
	var buf [questionLen]byte
	for {
		if err := c.SetDeadline(time.Now().Add(inspectIdle)); err != nil {
			return
		}
		if _, err := io.ReadFull(c, buf[:]); err != nil {
			return // the asker has gone, or sleeps
		}
		frame := s.reply(ctx, buf[:])
		if err := c.SetDeadline(time.Now().Add(inspectWrite)); err != nil {
			return
		}
		if _, err := c.Write(frame); err != nil || frame[4] == statusRefused {
			return
		}
	}
}

// reply is the frame that answers a question.
func (s *inspectServer) reply(ctx context.Context, b []byte) []byte {
	switch q, err := parseQuestion(b); {
	case err != nil:
		return appendAnswer(nil, answer{status: statusRefused})
	case q.kind == askMaps:
		return appendAnswer(nil, s.maps(ctx))
	case q.kind == askPool:
		page, err := s.pools.page(ctx, q)
		if err != nil {
			return appendPage(nil, statusRefused, nil)
		}
		return appendPage(nil, statusOK, page)
	default:
		return appendAnswer(nil, s.answer(ctx, q))
	}
}

// maps has the account maps copied again.
func (s *inspectServer) maps(ctx context.Context) answer {
	if s.opt.Maps == nil {
		return answer{status: statusGone}
	}
	ctx, cancel := context.WithTimeout(ctx, mapsTime)
	defer cancel()
	if err := s.opt.Maps(ctx); err != nil {
		return answer{status: statusGone}
	}
	return answer{}
}

// answer takes at most inspectTime, whatever the processes do.
func (s *inspectServer) answer(ctx context.Context, q question) answer {
	ctx, cancel := context.WithTimeout(ctx, inspectTime)
	defer cancel()
	var p proc
	var err error
	enough := told
	if q.kind == askOwner {
		enough = alone
		p, err = ownerOf(ctx, Socket{UID: q.uid, Inode: q.inode})
	} else {
		p, err = openProc(int(q.pid))
	}
	if err != nil {
		return answer{status: statusGone}
	}
	chain, runs := s.processes.chain(ctx, p, enough)
	if len(chain) == 0 {
		return answer{status: statusGone}
	}
	return answer{processes: chain, parentIsExim: delivers(chain, &runs)}
}

// told reports whether a chain has told all it can: above the first process of root's
// nobody's script is to be found. Only [delivers] has to look once more.
func told(chain []policy.Process) bool {
	n := len(chain)
	if chain[n-1].UID != 0 || chain[0].UID == 0 {
		return false
	}
	return n != 2 || chain[0].Executable != chain[1].Executable
}

// delivers reports whether the first process was run by a delivery of Exim's. That the
// parent runs Exim's program does not prove it: "exim -be '${run{exim -f <> …}}'" gives
// anybody such a parent, running as himself. A true delivery is a process with the
// recipient's uid below one that is root's or, where Exim gave up root, has Exim's own
// uid, which a submitting Exim always has; nobody else can start that pair. Seen with
// Exim 4.96 for -odi, -odb and queue runs.
func delivers(chain []policy.Process, runs *programs) bool {
	return len(chain) > 2 && runs[0].exim && runs[1].exim && runs[2].exim &&
		(chain[2].UID == 0 || chain[2].UID == chain[0].UID)
}

// ownerOf finds the newest process of a user that holds a socket: the process that
// opened it may have left it to its children.
func ownerOf(ctx context.Context, of Socket) (proc, error) {
	ctx, cancel := context.WithTimeout(ctx, scanTime)
	defer cancel()
	var owner proc
	found := false
	err := eachHolder(ctx, []Socket{of}, nil, func(p proc, _ []Socket) { owner, found = p, true })
	if !found && err == nil {
		err = ErrNotFound
	}
	return owner, err
}
