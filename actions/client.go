package actions

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"
)

// Executor is the client of the executor's socket. It holds no connection between calls,
// so the executor may be restarted at any time. It may be used by many goroutines.
type Executor struct {
	socket string
	// Timeout of one call when its context has no earlier deadline. The executor needs up
	// to three times its own command limit: waiting its turn, then acting.
	Timeout time.Duration
	// ChangeTimeout is that of one change or check: the executor waits for the one before
	// it, looks how it stands, does it and looks again, each with a limit of its own.
	ChangeTimeout time.Duration
}

// NewExecutor returns a client for the unix socket at path.
func NewExecutor(socket string) *Executor {
	return &Executor{socket: socket, Timeout: 2 * time.Minute, ChangeTimeout: 7 * time.Minute}
}

// QueueList calls f for each message in Exim's queue that we froze (frozen still or not),
// in no order. skipped is how many of the spool's files could not be read. An error of f
// ends the list and is returned.
func (x *Executor) QueueList(ctx context.Context, f func(QueueMessage) error) (skipped int, err error) {
	last, err := x.call(ctx, request{Verb: verbQueueList}, func(a *answer) error {
		if a.Message == nil || !ValidMessageID(a.Message.MessageID) {
			return errors.New("the executor's list holds something else than a message")
		}
		return f(*a.Message)
	})
	return last.Skipped, err
}

// QueueHeaders returns the header lines of a message that we froze, at most 32 KiB.
func (x *Executor) QueueHeaders(ctx context.Context, id string) (string, error) {
	last, err := x.call(ctx, request{Verb: verbQueueHeaders, IDs: []string{id}}, nil)
	return last.Text, err
}

// Thaw thaws frozen messages of ours; Exim's next queue run delivers them. At most
// [MaxBatch] ids.
func (x *Executor) Thaw(ctx context.Context, ids ...string) ([]Result, error) {
	return x.act(ctx, verbQueueThaw, ids)
}

// Deliver thaws frozen messages of ours and starts their delivery, but does not wait for
// it. Doing it again is harmless: what is not frozen any more is not touched. At most
// [MaxBatch] ids.
func (x *Executor) Deliver(ctx context.Context, ids ...string) ([]Result, error) {
	return x.act(ctx, verbQueueDeliver, ids)
}

// Remove removes frozen messages of ours from the queue; Exim makes no bounce. At most
// [MaxBatch] ids.
func (x *Executor) Remove(ctx context.Context, ids ...string) ([]Result, error) {
	return x.act(ctx, verbQueueRemove, ids)
}

func (x *Executor) act(ctx context.Context, verb string, ids []string) ([]Result, error) {
	last, err := x.call(ctx, request{Verb: verb, IDs: ids}, nil)
	return last.Results, err
}

// EximOptions returns Exim's effective settings by their names, and what its ACLs ask
// ([ScriptsAsk], [SMTPAsks]); a switch is "true" or "false".
func (x *Executor) EximOptions(ctx context.Context) (map[string]string, error) {
	last, err := x.call(ctx, request{Verb: verbEximOptions}, nil)
	return last.Options, err
}

// EximVersion returns what exim -bV says, cut.
func (x *Executor) EximVersion(ctx context.Context) (string, error) {
	last, err := x.call(ctx, request{Verb: verbEximVersion}, nil)
	return last.Text, err
}

// Apply does one change. The error's type is [ExecutorError] where the executor answered.
// It may be asked again for the same change: one that is in force is not done twice. The
// path may hold any bytes.
func (x *Executor) Apply(ctx context.Context, c Change) (Record, error) {
	c.Path = wirePath(c.Path)
	return x.changed(ctx, request{Verb: verbApply, Change: &c})
}

// Undo takes a change back, by its record's id.
func (x *Executor) Undo(ctx context.Context, record string) (Record, error) {
	return x.changed(ctx, request{Verb: verbUndo, Record: record})
}

func (x *Executor) changed(ctx context.Context, req request) (Record, error) {
	last, err := x.call(ctx, req, nil)
	if last.Record == nil {
		return Record{}, err
	}
	return *last.Record, err
}

// Records lists the changes that are in force, the oldest first.
func (x *Executor) Records(ctx context.Context) ([]Record, error) {
	var out []Record
	_, err := x.call(ctx, request{Verb: verbRecords}, func(a *answer) error {
		if a.Record != nil {
			out = append(out, *a.Record)
		}
		return nil
	})
	return out, err
}

// call sends one request and reads its answer, line by line.
func (x *Executor) call(ctx context.Context, req request, each func(*answer) error) (answer, error) {
	fail := func(err error, next string) (answer, error) {
		e := explain(req, err, next)
		if ctx.Err() != nil {
			return answer{}, fmt.Errorf("%w (%w)", e, ctx.Err())
		}
		return answer{}, e
	}
	limit := x.Timeout
	switch req.Verb {
	case verbApply, verbUndo, verbCheck:
		limit = x.ChangeTimeout
	case verbRunScript:
		limit = max(limit, maxScriptTime+time.Minute)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	c, err := new(net.Dialer).DialContext(ctx, "unix", x.socket)
	if err != nil {
		return fail(err, "is \"osmd executor\" running, and may this user open its socket?")
	}
	defer c.Close()
	// The context's own deadline is already earlier or equal.
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	b, err := json.Marshal(req)
	if err != nil {
		return fail(err, "")
	}
	b = append(b, '\n')
	if req.Script != nil {
		b = append(b, req.Script.Report...)
	}
	if _, err := c.Write(b); err != nil {
		return fail(fmt.Errorf("send the request: %w", err), "see the executor's log")
	}
	r := bufio.NewReaderSize(c, maxAnswerLine)
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return fail(fmt.Errorf("the answer was cut: %w", err), "see the executor's log: it closes on strangers and when it is overloaded")
		}
		var a answer
		if err := json.Unmarshal(line, &a); err != nil {
			return fail(fmt.Errorf("decode the answer: %w", err), "do osmd and its executor have the same version?")
		}
		switch {
		case a.End && a.Error != nil:
			return a, a.Error
		case a.End:
			return a, nil
		case each != nil:
			if err := each(&a); err != nil {
				return answer{}, err
			}
		}
	}
}

// Busy reports whether err is the executor's brake, and after which time the same call
// may be made again.
func Busy(err error) (after time.Duration, busy bool) {
	var e *ExecutorError
	if errors.As(err, &e) && e.RetryAfter > 0 {
		return e.RetryAfter, true
	}
	return 0, false
}
