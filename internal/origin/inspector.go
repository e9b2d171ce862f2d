package origin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"osm/policy"
)

const (
	inspectorConns   = 8
	inspectorTime    = 50 * time.Millisecond // for one question, the way there and back included
	inspectorBreaker = 3                     // failures in a row after which it is left alone
	inspectorQuiet   = time.Second           // for so long
)

// ErrInspectorAway says that the inspector failed some times in a row and is not
// asked for a moment, so that its absence costs nothing.
var ErrInspectorAway = errors.New("inspector away")

// Inspector asks the root side about processes. It connects when it is first asked
// and again whenever the connection broke. It is safe for concurrent use.
type Inspector struct {
	socket string
	conns  chan net.Conn        // idle places; nil = not connected
	pools  chan struct{}        // places of questions about pools, which have connections of their own
	now    func() time.Duration // since boot

	mu         sync.Mutex
	failures   int // in a row
	quietUntil time.Duration
	last       error
}

// NewInspector returns a client of the inspector that listens on socket.
func NewInspector(socket string) *Inspector {
	i := &Inspector{socket: socket, conns: make(chan net.Conn, inspectorConns), pools: make(chan struct{}, poolConns), now: bootNow}
	for range inspectorConns {
		i.conns <- nil
	}
	return i
}

// Close closes the kept connections; questions under way end first.
func (i *Inspector) Close() error {
	var errs []error
	for range poolConns {
		i.pools <- struct{}{}
	}
	for range inspectorConns {
		if c := <-i.conns; c != nil {
			errs = append(errs, c.Close())
		}
	}
	return errors.Join(errs...)
}

// Err returns why the inspector is not being asked at present, nil if it answers.
func (i *Inspector) Err() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.failures < inspectorBreaker {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrInspectorAway, i.last)
}

// Chain returns the process pid and up to six of its parents, nearest first, and
// whether its parent is a delivery of Exim's: it, its parent and that one's parent run
// Exim's own program, the last as root or as Exim's user. [ErrNotFound] means that the
// process is gone.
//
// The number may have been given to another process since it was told: the caller looks
// afterwards whether the one he means still lives.
func (i *Inspector) Chain(ctx context.Context, pid int32) (chain []policy.Process, parentIsExim bool, err error) {
	if pid <= 0 {
		return nil, false, ErrNotFound
	}
	a, err := i.ask(ctx, question{kind: askChain, pid: uint32(pid)})
	if err != nil {
		return nil, false, fmt.Errorf("inspect process %d: %w", pid, err)
	}
	return a.processes, a.parentIsExim, nil
}

// Owner returns the process of user uid that holds the socket with that inode, as
// [Diag.ClientOwner] named them, or [ErrNotFound].
func (i *Inspector) Owner(ctx context.Context, uid, inode uint32) (policy.Process, error) {
	if inode == 0 {
		return policy.Process{}, ErrNotFound
	}
	a, err := i.ask(ctx, question{kind: askOwner, uid: uid, inode: inode})
	if err != nil {
		return policy.Process{}, fmt.Errorf("find the process of uid %d with socket %d: %w", uid, inode, err)
	}
	if len(a.processes) == 0 {
		return policy.Process{}, ErrNotFound
	}
	return a.processes[0], nil
}

// Maps has the account maps copied again, and returns when they are.
func (i *Inspector) Maps(ctx context.Context) error {
	if _, err := i.ask(ctx, question{kind: askMaps}); err != nil {
		return fmt.Errorf("copy the account maps: %w", err)
	}
	return nil
}

// ask sends one question over a kept connection.
func (i *Inspector) ask(caller context.Context, q question) (answer, error) {
	if err := i.allowed(); err != nil {
		return answer{}, err
	}
	if err := caller.Err(); err != nil {
		return answer{}, fmt.Errorf("ask the inspector: %w", err)
	}
	limit := inspectorTime
	if q.kind == askMaps {
		limit += mapsTime
	}
	ctx, cancel := context.WithTimeout(caller, limit)
	defer cancel()
	var c net.Conn
	select {
	case c = <-i.conns:
	case <-ctx.Done():
		return answer{}, fmt.Errorf("ask the inspector: all connections busy: %w", ctx.Err())
	}
	kept := c != nil
	a, c, err := i.exchange(ctx, c, q)
	if err != nil && kept && ctx.Err() == nil {
		a, c, err = i.exchange(ctx, nil, q) // it was started anew meanwhile
	}
	i.conns <- c
	if err == nil || caller.Err() == nil && q.kind != askMaps { // a caller in a hurry proves nothing, nor do slow maps
		i.note(err)
	}
	switch {
	case err != nil:
		return answer{}, err
	case a.status == statusGone:
		return answer{}, ErrNotFound
	case a.status != statusOK:
		return answer{}, errors.New("ask the inspector: question refused")
	}
	return a, nil
}

// exchange asks over c, or over a new connection if c is nil, and returns the
// connection if it can be used again.
func (i *Inspector) exchange(ctx context.Context, c net.Conn, q question) (answer, net.Conn, error) {
	if c == nil {
		var err error
		if c, err = i.connect(ctx); err != nil {
			return answer{}, nil, err
		}
	}
	a, err := talk(ctx, c, q)
	if err != nil {
		// An answer that comes late must not be taken for the next one's.
		return answer{}, nil, errors.Join(err, c.Close())
	}
	return a, c, nil
}

func talk(ctx context.Context, c net.Conn, q question) (answer, error) {
	if err := put(ctx, c, q); err != nil {
		return answer{}, err
	}
	return readAnswer(c)
}

// put sends a question; the answer, too, must then come before ctx's deadline.
func put(ctx context.Context, c net.Conn, q question) error {
	deadline, _ := ctx.Deadline()
	if err := c.SetDeadline(deadline); err != nil {
		return fmt.Errorf("ask the inspector: %w", err)
	}
	if _, err := c.Write(appendQuestion(make([]byte, 0, questionLen), q)); err != nil {
		return fmt.Errorf("ask the inspector: %w", err)
	}
	return nil
}

// connect accepts as inspector only root, or ourselves where everything runs in one
// process: nobody else's word about processes is worth anything.
func (i *Inspector) connect(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", i.socket)
	if err != nil {
		return nil, fmt.Errorf("connect to the inspector: %w", err)
	}
	peer, err := PeerOf(c.(*net.UnixConn))
	if err == nil && peer.UID != 0 && peer.UID != uint32(os.Getuid()) {
		err = fmt.Errorf("connect to the inspector: it runs as uid %d", peer.UID)
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// allowed refuses while the breaker is open. Once the quiet time is over one question
// tries, and the others stay refused until it is known how that went.
func (i *Inspector) allowed() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.failures < inspectorBreaker {
		return nil
	}
	now := i.now()
	if now < i.quietUntil {
		return fmt.Errorf("%w: %w", ErrInspectorAway, i.last)
	}
	i.quietUntil = now + inspectorQuiet
	return nil
}

func (i *Inspector) note(err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if err == nil {
		i.failures, i.last = 0, nil
		return
	}
	i.failures++
	i.last = err
	i.quietUntil = i.now() + inspectorQuiet
}
