package packetmon

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"osm/internal/origin"
	"osm/policy"
)

// sighting is a connection on its way to a record, or what became of one.
type sighting struct {
	source string
	seen   Seen // its UID is not known unless UIDKnown
	basis  string
	// listener takes the connection, which goes to this host: it is looked whether that one
	// is the mail server, if it is not zero.
	listener origin.Socket
	late     bool // the kernel had forgotten the owner
	skipped  bool // the process was not looked for
	follows  bool // tells only what became of seen.Socket
	// glimpse is what was read of its process at once; nil = nothing was. Whoever takes the
	// event closes it.
	glimpse *origin.Glimpse
	// elsewhere: it was made in another network namespace, by told, if that was so.
	elsewhere bool
	told      uint32
}

// watcher is one source at work. Its see is called by the source's goroutine.
type watcher struct {
	m    *Monitor
	name string
	// since is when this source took over: what began earlier the one before it has told.
	since int64
}

// see takes a connection from the source. It must be quick, as the kernel's buffer fills
// meanwhile, and asks the kernel for the owner before anything else that takes time: a
// connection may be gone within microseconds.
func (w *watcher) see(s *Seen) {
	m := w.m
	// The source's later word on a connection. Only ebpf gives one; the others say all at once.
	if w.name == SourceEBPF && s.Outcome != policy.OutcomeUnknown {
		if !m.ours(s.Remote.Port()) {
			return
		}
		select {
		case m.events <- sighting{source: w.name, seen: *s, follows: true}:
		default: // its record goes out without it
		}
		return
	}
	if w.probed(s) || s.At < w.since || !m.ours(s.Remote.Port()) {
		return
	}
	m.count.seen.Add(1)
	if w.repeated(s) {
		m.count.repeats.Add(1)
		return
	}
	e := sighting{source: w.name, seen: *s}
	redirected := m.owner(&e)
	if e.seen.UIDKnown && m.excluded(e.seen.UID) {
		m.hour.looked(m.minute(), true)
		m.count.excluded.Add(1)
		return
	}
	if m.own.has(s.Remote.Addr()) && m.toMTA(&e, s.Remote, redirected) {
		return // whose it is does not matter here
	}
	m.hour.looked(m.minute(), e.seen.UIDKnown)
	m.glance(&e)
	select {
	case m.events <- e:
	default:
		e.skipped = true
		m.forget(&e)
		if m.strange(&e) {
			e.foreign(false)
		}
		m.emit(&e, origin.Chain{}, "there was too much to do to look for its process")
	}
}

// maxGlimpses is how many processes are held open at once until somebody has time for them.
const maxGlimpses = 256

// glance reads at once what little there is of the process that the source named: it may end
// while the event waits for its turn. Where many wait it would be too late anyway.
func (m *Monitor) glance(e *sighting) {
	if e.seen.PID <= 0 || m.glimpses.Load() >= maxGlimpses {
		return
	}
	if g, err := m.processes.Glimpse(e.seen.PID, e.seen.UID); err == nil {
		m.glimpses.Add(1)
		e.glimpse = g
	}
}

// forget lets a process go that nobody looked at.
func (m *Monitor) forget(e *sighting) {
	if e.glimpse != nil {
		e.glimpse.Close()
		e.glimpse = nil
		m.glimpses.Add(-1)
	}
}

// repeated reports whether this connection was reported before. That takes both ends: the
// kernel gives the socket's place to the next one at once, so the number alone says nothing.
func (w *watcher) repeated(s *Seen) bool {
	if w.name == SourceEBPF || s.Local.Port() == 0 {
		return false // told by the connect itself, which happens once
	}
	m := w.m
	repeated := m.repeats.seen(connectionKey{s.Local, s.Remote, s.Socket}, m.opt.Boot())
	m.count.forgot.Store(m.repeats.forgot)
	return repeated
}

// owner finds out whose the connection is, where the source was not told, and reports
// whether a firewall rule brought it to this host; its Remote is what was wanted then.
func (m *Monitor) owner(e *sighting) (redirected bool) {
	s := &e.seen
	switch {
	case s.UIDKnown && s.PID != 0:
		e.basis = fmt.Sprintf("%s: uid %d connected", e.source, s.UID)
		return false
	case s.UIDKnown && (s.UID != 0 || s.Inode != 0):
		e.basis = ownedBasis(e.source, s)
		return false
	case s.UIDKnown: // uid 0 of no socket is what the kernel says of one that nobody owns
		s.UIDKnown = false
		e.tooLate()
		return false
	}
	o, err := m.diag.OutgoingOwner(s.Local, s.Remote, func() bool { return m.worthSearching(s) })
	m.asked(err)
	switch {
	case errors.Is(err, origin.ErrNotFound):
		e.tooLate()
		return false
	case err != nil:
		e.basis = fmt.Sprintf("%s: unknown: the kernel could not be asked (%v)", e.source, err)
		return false
	}
	s.UID, s.UIDKnown, s.Inode = o.UID, true, o.Inode
	e.basis = ownedBasis(e.source, s)
	if o.Redirected {
		e.basis += fmt.Sprintf("; a firewall rule brought it to %v", s.Remote)
		if o.Wanted.IsValid() {
			s.Remote = o.Wanted
		}
	}
	return o.Redirected
}

// worthSearching reports whether a connection to this host that the kernel does not know may
// have been brought here by a firewall rule, and has to be searched for: that takes a walk
// through all sockets. A mail server's own are told without.
func (m *Monitor) worthSearching(s *Seen) bool {
	if s.Local.Addr().IsLoopback() || !m.own.has(s.Remote.Addr()) {
		return false
	}
	_, sure, err := m.mtas.at(s.Remote)
	return err == nil && !sure && m.searches.allow(m.opt.Boot())
}

func ownedBasis(source string, s *Seen) string {
	if s.Inode == 0 {
		return fmt.Sprintf("%s: its socket, closed by now, belonged to uid %d", source, s.UID)
	}
	return fmt.Sprintf("%s: socket %d belongs to uid %d", source, s.Inode, s.UID)
}

// foreign takes back whose it is: the same uid may be another user's in a container.
func (e *sighting) foreign(certain bool) {
	where := "but in another network namespace"
	if !certain {
		where = "but perhaps in another network namespace"
	}
	e.basis += fmt.Sprintf("; %s, where uid %d may be somebody else", where, e.seen.UID)
	e.told = e.seen.UID
	e.seen.UID, e.seen.UIDKnown, e.seen.Inode, e.elsewhere = 0, false, 0, true
}

func (e *sighting) tooLate() {
	e.seen.UID, e.seen.Inode = 0, 0
	e.basis, e.late = e.source+": unknown: too late to ask the kernel", true
}

// toMTA reports whether a connection to an address of this host goes to its mail server,
// whose own question about the message counts it. It is counted here then. Where that
// depends on the listener's program, the event says so.
func (m *Monitor) toMTA(e *sighting, to netip.AddrPort, redirected bool) bool {
	listener, sure, err := m.mtas.at(to)
	if err != nil || !sure {
		e.listener = listener
		return false
	}
	// Who connects to the loopback address comes from there, unless he wanted to go elsewhere.
	m.passed(redirected || e.late && to.Addr().IsLoopback() && !e.seen.Local.Addr().IsLoopback())
	return true
}

func (m *Monitor) passed(redirected bool) {
	if redirected {
		m.count.redirected.Add(1)
	} else {
		m.count.toMTA.Add(1)
	}
}

// emit makes the record and hands it on. why says how the process was found, or why not.
func (m *Monitor) emit(e *sighting, c origin.Chain, why string) {
	s := &e.seen
	r := Record{At: m.wall(s.At), Connection: policy.Connection{
		Seen: e.source, Local: s.Local, Remote: s.Remote, UID: s.UID, UIDKnown: s.UIDKnown,
		Elsewhere: e.elsewhere, Chain: c.Processes, Cgroup: c.Cgroup, Outcome: s.Outcome, Basis: e.basis,
	}}
	if why != "" {
		r.Connection.Basis += "; " + why
	}
	r.Connection.Basis = legible(r.Connection.Basis, maxBasis)
	bound(&r)
	if s.UIDKnown {
		m.hour.told(m.minute(), len(c.Processes) > 0)
	} else {
		m.count.uidUnknown.Add(1)
	}
	if e.late {
		m.count.tooLate.Add(1)
	}
	if len(c.Processes) == 0 {
		m.count.processUnknown.Add(1)
	}
	if e.skipped {
		m.count.skipped.Add(1)
	}
	m.count.records.Add(1)
	m.out.put(r)
}

// describe says in words what there is to say about the process that was found.
func describe(e *sighting, c *origin.Chain, how string) string {
	p := &c.Processes[0]
	var b strings.Builder
	fmt.Fprintf(&b, "process %d %s", p.PID, how)
	if p.Executable == "" && p.WorkingDirectory == "" && !c.Hidden {
		b.WriteString(", which was ending")
	}
	if p.UID != e.seen.UID {
		fmt.Fprintf(&b, ", which runs as uid %d by now", p.UID)
	}
	if c.EUID != p.UID {
		fmt.Fprintf(&b, ", with the rights of uid %d", c.EUID)
	}
	if c.RunsExim {
		b.WriteString("; it runs Exim's program as a user who is not Exim's")
	}
	if c.Hidden {
		b.WriteString("; its program and directory may not be read by us")
	}
	return b.String()
}
