package packetmon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"osm/internal/origin"
	"osm/policy"
)

const (
	maxEvents   = 8192                   // that wait for their process
	maxSearch   = 1024                   // looked for in one pass over all processes
	batchTime   = 250 * time.Millisecond // for one pass
	chainTime   = 30 * time.Millisecond  // for one process of which the number is known
	someEvents  = 64                     // waiting: nobody has more than his share of the time
	manyEvents  = 1024                   // waiting: a user's process that was found just now is enough
	foundLately = 200 * time.Millisecond
	userTime    = 400 * time.Millisecond // of each second for one user's processes, who may make it slow
	maxUsers    = 4096                   // whose last process is remembered
	maxChains   = 1024                   // processes that were read in full, and
	chainFresh  = time.Second            // for how long that is believed of the rest of them

	clockHz = 100 // USER_HZ: the unit of start times, the same on all systems
)

// worker looks for the processes of the connections, and holds those of which the source
// will tell what becomes of them. All of it is for its one goroutine.
type worker struct {
	m     *Monitor
	held  map[uint64]*heldRecord // by Seen.Socket
	order []*heldRecord          // the oldest first
	early map[uint64]Seen        // outcomes that were read before their connection
	swept int64                  // when they were looked through last
	users map[uint32]*user
	left  int // of the batch that is worked on
	// chains are the processes that were read lately, by their numbers.
	chains   map[int32]readChain
	searches perSecond // for sockets of which the port is not known
}

// user is what is remembered of a uid: evidence for his next connections.
type user struct {
	last  string // his last process that was found, in words
	pid   int32  // its number: it may connect again
	found int64  // boot time
	// elsewhere is when a connection of his was in another network namespace; 0 = never.
	elsewhere int64
	// straight is when a connection of his to port was looked for at all our own servers, and
	// was not there.
	straight int64
	port     uint16
	second   int64 // in which his processes were looked at last, since boot
	spent    int64 // on them in it, in nanoseconds
}

func newWorker(m *Monitor) *worker {
	return &worker{m: m, searches: perSecond{limit: maxSearches}, held: map[uint64]*heldRecord{}, early: map[uint64]Seen{}, users: map[uint32]*user{}, chains: map[int32]readChain{}}
}

// run works until ctx ends; what is still held is handed on then.
func (k *worker) run(ctx context.Context) {
	timer := time.NewTimer(holdTime)
	defer timer.Stop()
	for {
		if len(k.order) > 0 {
			timer.Reset(max(time.Duration(k.order[0].until-k.m.opt.Boot()), time.Millisecond))
		}
		var batch []sighting
		select {
		case <-ctx.Done():
			k.finish()
			return
		case e := <-k.m.events:
			batch = k.batch(e)
		case <-timer.C:
			batch = k.batch()
		}
		taken := k.m.opt.Boot()
		k.guarded(ctx, batch)
		if len(batch) < maxSearch { // else what is waited for may be among those left
			k.expire(taken)
		}
	}
}

// batch takes what waits, behind what was taken.
func (k *worker) batch(batch ...sighting) []sighting {
	for len(batch) < maxSearch {
		select {
		case e := <-k.m.events:
			batch = append(batch, e)
		default:
			return batch
		}
	}
	return batch
}

// finish hands on what waits, without another look at anything.
func (k *worker) finish() {
	for {
		select {
		case e := <-k.m.events:
			k.m.forget(&e)
			if !e.follows {
				k.m.emit(&e, origin.Chain{}, "the watch was ended before its process was looked for")
			}
		default:
			for _, h := range k.order {
				k.release(h)
			}
			k.order = nil
			return
		}
	}
}

func (k *worker) guarded(ctx context.Context, batch []sighting) {
	defer func() {
		if p := recover(); p != nil {
			k.m.count.faults.Add(1)
			k.m.opt.Log.Error("panic while looking at a connection", "err", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
		for i := range batch {
			k.m.forget(&batch[i])
		}
	}()
	k.work(ctx, batch)
}

// work goes through a batch: processes with a known number one by one, as soon as possible,
// the others in one pass.
func (k *worker) work(ctx context.Context, batch []sighting) {
	var search []*sighting
	for i := range batch {
		e := &batch[i]
		k.left = len(batch) - 1 - i
		switch {
		case e.follows:
			k.outcome(&e.seen)
		case k.isMTA(ctx, e):
			k.m.passed(false)
		case e.source == SourcePoll && k.redirected(e): // it knows what was wanted, as ebpf does
			k.m.passed(true)
		case e.seen.PID > 0:
			k.known(ctx, e)
		case !e.seen.UIDKnown:
			k.hand(e, origin.Chain{}, "")
		case e.seen.Inode == 0:
			k.hand(e, origin.Chain{}, k.missing(e, "its process is not known"))
		case k.spared(e):
		default:
			search = append(search, e)
		}
		k.m.forget(e)
	}
	if len(search) > 0 {
		k.search(ctx, search)
	}
}

// isMTA reports whether the connection goes to a listener that is known, or seen now, to run
// Exim's program. Whoever makes that slow to see, which it then is each time, has his share of
// the time for it, too.
func (k *worker) isMTA(ctx context.Context, e *sighting) bool {
	if e.listener == (origin.Socket{}) {
		return false
	}
	if exim, ok := k.m.mtas.known(e.listener); ok {
		return exim
	}
	u, began := k.user(e.listener.UID), k.m.opt.Boot()
	if k.slow(u, began) {
		return false
	}
	exim := k.m.mtas.runsExim(ctx, e.listener)
	u.spend(began, k.m.opt.Boot())
	return exim
}

// waiting is how many connections wait for their turn.
func (k *worker) waiting() int { return k.left + len(k.m.events) }

// slow reports whether others wait while the user's processes have taken more than his share
// of this second.
func (k *worker) slow(u *user, now int64) bool {
	return k.waiting() >= someEvents && now/int64(time.Second) == u.second && u.spent > int64(userTime)
}

// spared hands e on without its process where there is too much to do, or where the user
// makes looking at his processes slow.
func (k *worker) spared(e *sighting) bool {
	u := k.users[e.seen.UID]
	if u == nil {
		return false
	}
	now := k.m.opt.Boot()
	why := "there was too much to do to look for its process"
	switch {
	case k.slow(u, now):
		why = "its user's processes take too long to look at"
	case k.waiting() < manyEvents || now-u.found > int64(foundLately):
		return false
	}
	e.skipped = true
	if k.m.strange(e) || e.seen.PID > 0 && k.elsewhere(e.seen.UID) {
		e.foreign(false)
	}
	k.hand(e, origin.Chain{}, k.missing(e, why))
	return true
}

// known looks at the process that the source named.
func (k *worker) known(ctx context.Context, e *sighting) {
	if k.spared(e) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, chainTime)
	defer cancel()
	began := k.m.opt.Boot()
	c, err := k.read(ctx, e)
	k.user(e.seen.UID).spend(began, k.m.opt.Boot())
	name := fmt.Sprintf("process %d", e.seen.PID)
	switch {
	case err == nil && c.Elsewhere && !startedAfter(&c.Processes[0], e.seen.At):
		k.user(e.seen.UID).elsewhere = k.m.opt.Boot()
		e.foreign(true)
		k.hand(e, c, "")
	case (err != nil || c.Placeless) && (k.m.foreign(e.seen.Local.Addr()) || k.elsewhere(e.seen.UID)):
		e.foreign(false)
		k.hand(e, origin.Chain{}, name+" was gone")
	case errors.Is(err, origin.ErrNotFound):
		k.hand(e, origin.Chain{}, k.missing(e, name+" was gone"))
	case err != nil:
		k.hand(e, origin.Chain{}, k.missing(e, fmt.Sprintf("%s cannot be read: %v", name, err)))
	case startedAfter(&c.Processes[0], e.seen.At):
		k.hand(e, origin.Chain{}, k.missing(e, name+" was gone, and its number given to another one"))
	case k.delivers(e, &c):
		k.m.count.excluded.Add(1)
	case c.Processes[0].UID != e.seen.UID && c.EUID != e.seen.UID:
		// It may have changed its user, or be of another numbering than ours: not a word on it
		// is better than a wrong one.
		k.hand(e, origin.Chain{}, k.missing(e, fmt.Sprintf("%s runs as uid %d", name, c.Processes[0].UID)))
	default:
		k.found(e, &c)
		k.hand(e, c, describe(e, &c, "did"))
	}
}

// read describes the process, by what was read of it at once if that was done. One that
// connects again and again is read in full now and then: the rest of it does not change.
func (k *worker) read(ctx context.Context, e *sighting) (origin.Chain, error) {
	g := e.glimpse
	if g == nil {
		return k.m.processes.Chain(ctx, e.seen.PID)
	}
	now := k.m.opt.Boot()
	if c, ok := k.chains[e.seen.PID]; ok && now-c.read < int64(chainFresh) && c.same(g) {
		k.m.forget(e)
		chain := c.chain
		chain.Processes = slices.Clone(chain.Processes)
		return chain, nil
	}
	e.glimpse = nil
	k.m.glimpses.Add(-1)
	c := k.m.processes.Whole(ctx, g)
	if titled(&c) || c.Unread {
		delete(k.chains, e.seen.PID)
		return c, nil
	}
	if len(k.chains) >= maxChains {
		clear(k.chains)
	}
	k.chains[e.seen.PID] = readChain{c, now}
	return c, nil
}

// titled reports whether a process tells in the place of its arguments what it is at work
// on, as lsphp and php-fpm do ("lsphp:/home/…"): that changes with every request.
func titled(c *origin.Chain) bool {
	args := c.Processes[0].Args
	return len(args) > 0 && strings.Contains(args[0], ":")
}

// readChain is a process that was read in full.
type readChain struct {
	chain origin.Chain
	read  int64 // boot time
}

// same reports whether it is the process of g, in the same place.
func (c *readChain) same(g *origin.Glimpse) bool {
	p := &c.chain.Processes[0]
	return p.Started == g.Process.Started && p.UID == g.Process.UID && p.Executable == g.Process.Executable && p.WorkingDirectory == g.Process.WorkingDirectory
}

// foreign reports whether an address at which a connection of an unknown process begins is
// no address of this host. One that is proves nothing: all have a loopback address.
func (m *Monitor) foreign(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !m.own.has(a)
}

// strange reports whether a connection of a process that was not looked at begins at such an
// address. The sources that name no process see this host's own network alone.
func (m *Monitor) strange(e *sighting) bool { return e.seen.PID > 0 && m.foreign(e.seen.Local.Addr()) }

// ambiguous is for how long a uid that connected in another network namespace is somebody
// else's where the process is gone: containers have uids of their own, and may have an
// address that we have, too.
const ambiguous = time.Hour

// elsewhere reports whether a uid is ambiguous.
func (k *worker) elsewhere(uid uint32) bool {
	u := k.users[uid]
	return u != nil && u.elsewhere > 0 && k.m.opt.Boot()-u.elsewhere < int64(ambiguous)
}

// local reports whether a is an address of this host that others have not got, too.
func (m *Monitor) local(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsLoopback() && m.own.has(a)
}

// delivers reports whether the process is Exim at its own work, which connects as Exim's
// user, who is passed over already, or as root. Whatever of Exim's a user's process runs now
// proves nothing: by "exim -be" and a ${readsocket anybody has it connect for him, and after
// he has connected he can become Exim with its rights, while another process of his has the
// connection.
func (k *worker) delivers(e *sighting, c *origin.Chain) bool {
	return e.seen.UID == 0 && c.RunsExim && (c.EUID == 0 || k.m.excluded(c.EUID))
}

// startedAfter reports whether p began after the boot time at, in nanoseconds: it has the
// number of the process that was meant. Start times are cut to ticks, and a tick's
// difference proves nothing.
func startedAfter(p *policy.Process, at int64) bool {
	return p.Started > at/(int64(time.Second)/clockHz)+1
}

// search looks in one pass for the processes that hold the connections' sockets.
func (k *worker) search(ctx context.Context, events []*sighting) {
	ctx, cancel := context.WithTimeout(ctx, batchTime)
	defer cancel()
	waiting := map[origin.Socket][]*sighting{}
	sockets := make([]origin.Socket, 0, len(events))
	var first []int32
	for _, e := range events {
		s := origin.Socket{UID: e.seen.UID, Inode: e.seen.Inode}
		if waiting[s] == nil {
			sockets = append(sockets, s)
			if u := k.users[s.UID]; u != nil && u.pid > 0 && !slices.Contains(first, u.pid) {
				first = append(first, u.pid)
			}
		}
		waiting[s] = append(waiting[s], e)
	}
	err := k.m.processes.Holders(ctx, sockets, first, func(c origin.Chain, held []origin.Socket) {
		for _, s := range held {
			for _, e := range waiting[s] {
				k.holder(e, &c)
			}
			delete(waiting, s)
		}
	})
	why := "its process was gone"
	if err != nil {
		why = "there was no time to look at all processes"
	}
	for _, s := range sockets {
		for _, e := range waiting[s] {
			e.skipped = err != nil
			k.hand(e, origin.Chain{}, k.missing(e, why))
		}
	}
}

func (k *worker) holder(e *sighting, c *origin.Chain) {
	if k.delivers(e, c) {
		k.m.count.excluded.Add(1)
		return
	}
	// Of a program with the rights of its file's owner the socket is his, and the process that
	// of who runs it, whom ebpf is told of. Who gave up rights for a while is root still.
	if p := &c.Processes[0]; p.UID != 0 && p.UID != e.seen.UID && c.EUID == e.seen.UID {
		e.seen.UID = p.UID
		e.basis += fmt.Sprintf("; uid %d runs it", p.UID)
		if k.m.excluded(p.UID) {
			k.m.count.excluded.Add(1)
			return
		}
	}
	k.found(e, c)
	k.hand(e, *c, describe(e, c, "holds it"))
}

// found remembers the process for later connections of its user.
func (k *worker) found(e *sighting, c *origin.Chain) {
	p := &c.Processes[0]
	if c.Hidden && p.UID != 0 { // some of root's are out of reach for everybody
		k.m.hidden.Store(true)
	}
	u := k.user(e.seen.UID)
	u.found, u.pid = k.m.opt.Boot(), p.PID
	u.last = legible(fmt.Sprintf("process %d, %.200q in %.200q", p.PID, p.Executable, p.WorkingDirectory), maxBasis/2)
}

func (k *worker) user(uid uint32) *user {
	u := k.users[uid]
	if u == nil {
		if len(k.users) >= maxUsers {
			clear(k.users) // evidence alone, and soon found again
		}
		u = &user{}
		k.users[uid] = u
	}
	return u
}

// spend counts the time that was taken by looking at a process of the user's.
func (u *user) spend(from, to int64) {
	if second := to / int64(time.Second); second != u.second {
		u.second, u.spent = second, 0
	}
	u.spent += to - from
}

// missing says why there is no process, and what an earlier connection told.
func (k *worker) missing(e *sighting, why string) string {
	if u := k.users[e.seen.UID]; e.seen.UIDKnown && u != nil && u.last != "" {
		return why + "; from an earlier connection of this uid: " + u.last
	}
	return why
}
