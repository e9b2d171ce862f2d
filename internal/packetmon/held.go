package packetmon

import (
	"fmt"
	"time"

	"osm/internal/origin"
	"osm/policy"
)

// What becomes of connections is waited for within these bounds. It shows refused ones, and
// those that a firewall rule brought to our own mail server: they are not to be counted twice.
const (
	holdTime = 100 * time.Millisecond // for what becomes of a connection
	maxHeld  = 4096
	maxEarly = 1024
)

// heldRecord is a connection of which it will be told what became.
type heldRecord struct {
	e     sighting
	chain origin.Chain
	why   string
	until int64 // boot time
	gone  bool  // handed on already
}

// hand hands e on, if nothing more will be told about it.
func (k *worker) hand(e *sighting, c origin.Chain, why string) {
	if e.source != SourceEBPF {
		k.m.emit(e, c, why)
		return
	}
	h := &heldRecord{e: *e, chain: c, why: why, until: k.m.opt.Boot() + int64(holdTime)}
	// The kernel gives the number to the next socket once this one is closed.
	k.release(k.held[e.seen.Socket])
	if len(k.order) >= maxHeld {
		k.m.count.unheld.Add(1)
		k.m.emit(&h.e, h.chain, h.why)
		return
	}
	k.held[e.seen.Socket] = h
	k.order = append(k.order, h)
	if early, ok := k.early[e.seen.Socket]; ok {
		delete(k.early, e.seen.Socket)
		if early.At >= e.seen.At {
			k.outcome(&early)
		}
	}
}

// outcome takes what became of a connection. It may be read before the connection itself:
// each processor has its own buffer.
func (k *worker) outcome(s *Seen) {
	h := k.held[s.Socket]
	if h == nil || s.At < h.e.seen.At {
		if len(k.early) >= maxEarly {
			clear(k.early) // of connections handed on long ago, for the most
		}
		k.early[s.Socket] = *s
		return
	}
	h.e.seen.Outcome = s.Outcome
	if s.Local.Port() != 0 {
		h.e.seen.Local = s.Local
	}
	if s.Outcome == policy.OutcomeEstablished && k.redirected(&h.e) {
		k.m.count.redirected.Add(1)
		k.drop(h)
		return
	}
	k.release(h)
}

// redirected reports whether a connection that was answered ended at our own mail server.
func (k *worker) redirected(e *sighting) bool {
	local, remote := e.seen.Local, e.seen.Remote
	if k.m.own.has(remote.Addr()) || !k.m.own.has(local.Addr()) {
		return false // of another network namespace: what happens there is not seen from here
	}
	// Rules are for users, and do not change by the second: who was led nowhere else is not
	// looked for everywhere again at once.
	u, now := k.user(e.seen.UID), k.m.opt.Boot()
	all := now-u.straight >= int64(time.Second) || remote.Port() != u.port
	here, err := k.m.mtas.redirected(&e.seen, k.m.own.all(local.Addr()), k.m.opt.Ports, all)
	if all && err == nil && !here {
		u.straight, u.port = now, remote.Port()
	}
	if here && err == nil && k.searches.allow(now) {
		// It is another one of his that was, if he has more than one from the same port.
		var another bool
		if another, err = k.m.diag.ConnectsElsewhere(e.seen.UID, local, remote); another {
			here = false
		}
	}
	if err != nil {
		e.basis += fmt.Sprintf("; whether it was redirected is not known (%.100v)", err)
	}
	return here
}

// expire hands on those that were held long enough. now is when the last outcome was taken:
// one that came later is not late for it.
func (k *worker) expire(now int64) {
	n := 0
	for ; n < len(k.order) && (k.order[n].gone || k.order[n].until <= now); n++ {
		if h := k.order[n]; !h.gone && h.e.seen.Outcome == policy.OutcomeUnknown {
			h.e.seen.Outcome = policy.OutcomeUnanswered
		}
		k.release(k.order[n])
		k.order[n] = nil
	}
	k.order = k.order[n:]
	if now-k.swept < int64(time.Second) {
		return
	}
	k.swept = now
	for socket, s := range k.early {
		if now-s.At > int64(time.Second) {
			delete(k.early, socket)
		}
	}
}

func (k *worker) release(h *heldRecord) {
	if h == nil || h.gone {
		return
	}
	k.drop(h)
	k.here(&h.e)
	k.m.emit(&h.e, h.chain, h.why)
}

// here gives a connection back to whom it was told to be whose, if its socket is found in this
// host's network, whichever its process is in: anybody can go to a network of his own once he
// has connected, or have all but one of his threads there.
func (k *worker) here(e *sighting) {
	if !e.elsewhere || !k.m.local(e.seen.Local.Addr()) || e.seen.Local.Port() == 0 && !k.searches.allow(k.m.opt.Boot()) {
		return
	}
	if ours, err := k.m.diag.Connects(e.told, e.seen.Local, e.seen.Remote); err == nil && ours {
		e.seen.UID, e.seen.UIDKnown, e.elsewhere = e.told, true, false
		e.basis = fmt.Sprintf("%s: uid %d connected, in this host's network, in which its process is not", e.source, e.told)
	}
}

func (k *worker) drop(h *heldRecord) {
	h.gone = true
	delete(k.held, h.e.seen.Socket)
}
