package actions

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// act thaws, delivers or removes messages: those that, read again at this moment, are
// frozen and ours. What became of each is read from the spool afterwards, because Exim's
// texts and exit status differ between its versions and cover a whole batch.
func (x *executor) act(ctx context.Context, req request) answer {
	if wait := x.brake.take(len(req.IDs)); wait > 0 {
		return answer{Error: &ExecutorError{
			What: req.Verb, Why: fmt.Sprintf("more than %d messages a second", x.o.IDsPerSecond),
			Next: "try again", RetryAfter: wait,
		}}
	}
	results := make([]Result, len(req.IDs))
	var ready []string
	for i, id := range req.IDs {
		results[i] = Result{MessageID: id, Outcome: OutcomeDone}
		if results[i].Outcome, results[i].Detail = x.check(id); results[i].Outcome == OutcomeDone {
			ready = append(ready, id)
		}
	}
	if len(ready) > 0 {
		said, err := x.exim.run(ctx, append([]string{eximOption(req.Verb)}, ready...)...)
		if err != nil {
			said = strings.TrimSpace(err.Error() + ": " + said)
		}
		for i := range results {
			if r := &results[i]; r.Outcome == OutcomeDone {
				x.outcome(req.Verb, r, said)
			}
		}
	}
	x.logActed(req.Verb, results)
	return answer{Results: results}
}

// eximOption is what Exim is called with. Delivering is thawing, and then a delivery
// apart ([deliveries]) that keeps to Exim's retry rules.
func eximOption(verb string) string {
	if verb == verbQueueRemove {
		return "-Mrm"
	}
	return "-Mt"
}

// check says whether a message may be touched: OutcomeDone if so.
func (x *executor) check(id string) (Outcome, string) {
	m, err := x.queue.read(id)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return OutcomeGone, ""
	case err != nil:
		return OutcomeFailed, err.Error()
	case m.Action == "":
		return OutcomeNotOurs, ""
	case !m.Frozen():
		return OutcomeNotFrozen, ""
	}
	return OutcomeDone, ""
}

// outcome looks at the spool after Exim has been run for r.
func (x *executor) outcome(verb string, r *Result, said string) {
	m, err := x.queue.read(r.MessageID)
	gone := errors.Is(err, os.ErrNotExist)
	switch {
	case verb == verbQueueRemove && gone:
		return
	case verb == verbQueueRemove, err != nil && !gone, err == nil && m.Frozen():
		r.Outcome, r.Detail = OutcomeFailed, said
		if said == "" {
			r.Detail = "exim said nothing, and the message is still there"
		}
	case verb == verbQueueDeliver && !gone:
		if !x.deliveries.add(r.MessageID) {
			r.Detail = "thawed; it leaves with Exim's next queue run"
		}
	}
}

func (x *executor) logActed(verb string, results []Result) {
	counts := map[Outcome]int{}
	for _, r := range results {
		counts[r.Outcome]++
		if r.Outcome == OutcomeFailed {
			x.o.Log.Warn("exim did not do it", "verb", verb, "message_id", r.MessageID, "err", cut(r.Detail, 500))
		}
	}
	x.o.Log.Info("acted on the queue", "verb", verb, "done", counts[OutcomeDone], "gone", counts[OutcomeGone],
		"not_frozen", counts[OutcomeNotFrozen], "not_ours", counts[OutcomeNotOurs], "failed", counts[OutcomeFailed])
}

// eximOptionNames is what exim-options reads; none of them can hold a secret.
var eximOptionNames = []string{
	"acl_not_smtp", "acl_smtp_data", "auto_thaw", "freeze_tell", "ignore_bounce_errors_after", "log_file_path",
	"log_selector", "queue_only", "queue_run_max", "smtp_accept_max", "smtp_accept_queue", "spool_directory",
	"split_spool_directory", "timeout_frozen_after", "untrusted_set_sender",
}

// options asks Exim for its effective settings, and what its ACLs ask. A switch is "true"
// or "false".
func (x *executor) options(ctx context.Context) (map[string]string, error) {
	said, err := x.exim.run(ctx, append([]string{"-bP"}, eximOptionNames...)...)
	options := parseOptions(said)
	// A name that this version does not know makes the exit status 1; the others count.
	if len(options) == 0 {
		if err == nil {
			err = errors.New("exim named no option")
		}
		return nil, fmt.Errorf("read Exim's options: %w (%.500s)", err, said)
	}
	x.asks(ctx, options)
	return options, nil
}

// parseOptions reads the output of exim -bP: "name = value", or for a switch "name" or
// "no_name".
func parseOptions(said string) map[string]string {
	options := map[string]string{}
	known := func(name string) bool {
		for _, n := range eximOptionNames {
			if n == name {
				return true
			}
		}
		return false
	}
	for line := range strings.Lines(said) {
		line = strings.TrimSpace(line)
		if name, value, ok := strings.Cut(line, " ="); ok && known(name) {
			options[name] = strings.TrimSpace(value)
		} else if off, ok := strings.CutPrefix(line, "no_"); ok && known(off) {
			options[off] = "false"
		} else if known(line) {
			options[line] = "true"
		}
	}
	return options
}

// brake is a token bucket of one second's worth. It refuses instead of waiting: whoever
// asks for more than the rate has time.
type brake struct {
	rate float64 // a second
	now  func() time.Time
	left float64
	at   time.Time
}

// take takes n, or says how long to wait until n are there. A request for more than the
// bucket holds passes when it is full and leaves it in debt.
func (b *brake) take(n int) (wait time.Duration) {
	now := b.now()
	if b.at.IsZero() || now.Before(b.at) { // the wall clock stepped back: no debt from the future
		b.left = b.rate
	} else {
		b.left = min(b.rate, b.left+b.rate*now.Sub(b.at).Seconds())
	}
	b.at = now
	need := min(float64(n), b.rate)
	if b.left < need {
		return time.Duration((need-b.left)/b.rate*float64(time.Second)).Round(time.Millisecond) + time.Millisecond
	}
	b.left -= float64(n)
	return 0
}
