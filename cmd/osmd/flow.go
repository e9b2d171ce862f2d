package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	eximacl "osm/exim-acl"
	"osm/internal/metrics"
	"osm/internal/origin"
	"osm/internal/panel"
	"osm/policy"
)

// lookTime bounds the look at the kernel that some messages need before their answer.
const lookTime = 60 * time.Millisecond

// flow is the way of one message: Exim asks, flow finds out whose it is, the engine
// decides and counts, the answer leaves, and only then is anything written down.
//
//	eximacl.Server ─▶ check: origin ─▶ policy.Identify ─▶ Engine.Check ─▶ answer
//	                                                                      │
//	              metrics, log, store, events, held register ◀── done ◀───┘
type flow struct {
	clock     func() policy.Moment
	engine    *policy.Engine
	panel     *panel.Watcher
	diag      *origin.Diag
	inspector *origin.Inspector
	metrics   *metrics.Set
	decided   *decisionCounters
	log       *slog.Logger
	record    func(*policy.Decision) // after the answer; never blocks
	// see is told of a message while whoever sent it still waits; never blocks.
	see func(d *policy.Decision, chain []policy.Process)

	ready   atomic.Bool   // the counters are back
	opened  chan struct{} // closed when ready
	pending chan pending  // accepted before the counters were back, to be counted in
	missed  atomic.Int64  // of those, how many found no place in pending

	unchecked atomic.Uint64 // accepted without being judged
	heldFull  atomic.Uint64 // stopped by, or in spite of, a full share of the queue
	lastAsked atomic.Int64  // Unix milliseconds
	busy      busiest
	looks     looks
}

// pending is a message that was accepted before it could be counted.
type pending struct {
	now policy.Moment
	s   *policy.Submission
	id  policy.Identity
}

// maxPending bounds the memory of a slow start: a busy server's few seconds.
const maxPending = 20_000

// check judges one message. It is called by the server within c.Deadline.
func (f *flow) check(c eximacl.Conn, s *policy.Submission) *policy.Decision {
	if !f.ready.Load() {
		c.Wait()
	}
	o := f.origin(c, s)
	id := policy.Identify(s, o, f.panel.Map())
	ready := f.ready.Load() || f.wait(c.Deadline)
	switch {
	case !c.Claim():
		return nil // it is being answered from memory: it must not be counted twice
	case !ready:
		return f.later(s, id)
	}
	d := f.engine.Check(f.clock(), s, id)
	if f.see != nil {
		f.see(d, o.Chain)
	}
	return d
}

// overload judges from memory: it waits for nobody. It still makes the one exact look-up
// of a loopback client's owner, some microseconds and tightly bounded, without which
// overload would hide him.
func (f *flow) overload(c eximacl.Conn, s *policy.Submission) *policy.Decision {
	o := &policy.Origin{}
	if policy.NeedsClientOwner(s) {
		f.client(o, s)
	}
	id := policy.Identify(s, o, f.panel.Map())
	now := f.clock()
	f.busy.add(who(s, o, &id), now.Boot)
	if !f.ready.Load() {
		return f.later(s, id)
	}
	return f.engine.Known(now, s, id)
}

// who names a sender for an operator who has to act at once: the uid where there is one.
func who(s *policy.Submission, o *policy.Origin, id *policy.Identity) string {
	switch {
	case s.Local() && s.CallerUID >= 0:
		return fmt.Sprintf("uid %d (account %s)", s.CallerUID, id.Account)
	case o.ClientKnown:
		return fmt.Sprintf("uid %d (account %s)", o.ClientUID, id.Account)
	case id.Mailbox != "":
		return fmt.Sprintf("mailbox %q (account %s)", cut(id.Mailbox, 120), id.Account)
	}
	return "account " + id.Account
}

// malformed accepts what could not be understood and charges nobody.
func (f *flow) malformed(eximacl.Conn, error) *policy.Decision {
	return f.unjudged(&policy.Submission{CallerUID: -1}, policy.ReasonMalformed)
}

// fault accepts a message whose check panicked.
func (f *flow) fault(_ eximacl.Conn, s *policy.Submission) *policy.Decision {
	return f.unjudged(s, policy.ReasonFault)
}

// unsent is for a message that has passed because Exim no longer waited: what was
// accepted is counted already, anything else becomes what really happened.
func (f *flow) unsent(_ eximacl.Conn, d *policy.Decision) *policy.Decision {
	return f.engine.Unanswered(d)
}

// unjudged goes without identity: it may be what failed.
func (f *flow) unjudged(s *policy.Submission, why policy.Reason) *policy.Decision {
	id := policy.Identity{Account: policy.AccountUnknown, SubKey: why.String(), Basis: "not found out: " + why.String()}
	if !f.ready.Load() {
		return f.later(s, id)
	}
	return f.engine.CountIn(f.clock(), s, id, why)
}

// origin asks the kernel who submitted, where the request alone does not tell.
func (f *flow) origin(c eximacl.Conn, s *policy.Submission) *policy.Origin {
	var o policy.Origin
	switch {
	case policy.NeedsClientOwner(s):
		c.Wait()
		inode := f.client(&o, s)
		// Only where the uid alone tells little: to find the process costs milliseconds
		// where there are many.
		if _, shared := f.panel.Map().SharedUID(o.ClientUID); !shared || !o.ClientKnown {
			break
		}
		ctx, cancel := context.WithTimeout(context.Background(), lookTime)
		defer cancel()
		process, err := f.inspector.Owner(ctx, o.ClientUID, inode)
		switch {
		case err == nil:
			o.Chain = []policy.Process{process}
		case !errors.Is(err, origin.ErrNotFound):
			f.metrics.InspectorErrors.Inc()
		}
	case policy.NeedsChain(s) && c.PeerPID > 0 && f.looksAt(s, &o):
		c.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), lookTime)
		defer cancel()
		chain, parentIsExim, err := f.inspector.Chain(ctx, c.PeerPID)
		if err != nil {
			f.metrics.InspectorErrors.Inc()
			break
		}
		if c.PeerWaits() { // else its number may have become another process's
			o.Chain, o.ParentIsExim = chain, parentIsExim
		}
	}
	return &o
}

// client asks the kernel, and only it, whose the client's end of a loopback connection is.
func (f *flow) client(o *policy.Origin, s *policy.Submission) (inode uint32) {
	client, server := netip.AddrPortFrom(s.ClientIP, s.ClientPort), netip.AddrPortFrom(s.LocalIP, s.LocalPort)
	end, err := f.diag.Client(client, server)
	o.ClientUID, o.ClientKnown, o.Redirected, o.Wanted = end.UID, err == nil, end.Redirected, end.Wanted
	return end.Inode
}

// wait lets a question wait for the counters, up to a little before its deadline.
func (f *flow) wait(deadline time.Time) bool {
	left := time.NewTimer(time.Until(deadline) - 30*time.Millisecond)
	defer left.Stop()
	select {
	case <-f.opened:
		return true
	case <-left.C:
		return false
	}
}

// later accepts a message now and has it counted and recorded as soon as that can be.
func (f *flow) later(s *policy.Submission, id policy.Identity) *policy.Decision {
	select {
	case f.pending <- pending{f.clock(), s, id}:
	default:
		f.missed.Add(1)
	}
	return nil // answered accept, without a reference
}

// open is called once the counters are back: it counts what was accepted meanwhile,
// then lets questions through.
func (f *flow) open() {
	drain := func() {
		for {
			select {
			case p := <-f.pending:
				f.done(f.engine.CountIn(p.now, p.s, p.id, policy.ReasonNotReady))
			default:
				return
			}
		}
	}
	drain()
	f.ready.Store(true)
	close(f.opened)
	drain() // those that saw the old state in between
}

// done is called after the answer has left.
func (f *flow) done(d *policy.Decision) {
	f.decided[d.Verdict][d.Identity.Source].Inc()
	f.lastAsked.Store(d.At.Wall.UnixMilli())
	if d.Reason == policy.ReasonHeldFull {
		f.heldFull.Add(1)
	}
	if d.Reason.Unchecked() {
		f.unchecked.Add(1)
		f.metrics.Unchecked.WithLabelValues(d.Reason.String()).Inc()
	}
	if d.Took > 0 {
		f.metrics.AnswerSeconds.Observe(d.Took.Seconds())
	}
	f.logDecision(d)
	f.record(d)
}

// logDecision writes a line for a verdict other than accept, and for each message at
// level debug. Nothing raw of a stranger is in it: slog quotes, and long texts are cut.
func (f *flow) logDecision(d *policy.Decision) {
	level := slog.LevelDebug
	if d.Verdict != policy.Accept {
		level = slog.LevelInfo
	}
	ctx := context.Background()
	if !f.log.Enabled(ctx, level) {
		return
	}
	attrs := []slog.Attr{
		slog.String("verdict", d.Verdict.String()), slog.String("ref", d.Ref),
		slog.String("account", d.Identity.Account), slog.String("reason", d.Reason.String()),
		slog.String("message_id", cut(d.Submission.MessageID, 32)),
	}
	if d.Identity.Mailbox != "" {
		attrs = append(attrs, slog.String("mailbox", cut(d.Identity.Mailbox, 120)))
	}
	if d.Trigger != "" {
		attrs = append(attrs, slog.String("trigger", d.Trigger))
	}
	for i := range d.Over {
		if o := &d.Over[i]; o.Trigger == d.Trigger {
			attrs = append(attrs, slog.Int64("used", o.Used), slog.Int64("max", o.Max))
		}
	}
	if d.Identity.ClientIP.IsValid() {
		attrs = append(attrs, slog.String("client_ip", d.Identity.ClientIP.String()))
	}
	attrs = append(attrs, slog.String("envelope_sender", cut(d.Submission.EnvelopeSender, 120)))
	f.log.LogAttrs(ctx, level, "message "+d.Verdict.String(), attrs...)
}

func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n]
}
