package origin

import (
	"context"
	"errors"
	"math"

	"golang.org/x/sys/unix"

	"osm/policy"
)

// Processes reads what processes are, in the process that calls it: it takes the rights to
// look at those of others. It is safe for concurrent use.
type Processes struct {
	exim   string
	memory *memoryReads
	net    fileID // our network namespace
}

// NewProcesses returns a reader that knows Exim's program by its file. It calls stuck, again
// and again, while all reads of processes' memory have hung for long: of no process are the
// arguments told then, and only a new process of our own helps.
func NewProcesses(exim string, stuck func(error)) *Processes {
	own, err := fileAt(unix.AT_FDCWD, "/proc/thread-self/ns/net")
	if err != nil {
		own = fileID{} // nobody is known to be elsewhere then
	}
	return &Processes{exim: exim, memory: newMemoryReads(stuck), net: own}
}

// Chain is what could be read of a process and of those above it.
type Chain struct {
	// Processes has the process and its parents, nearest first, up to the first that runs as
	// root, or of a process of root's as another user: who started it. There are seven at most.
	Processes []policy.Process
	EUID      uint32 // the effective uid of the process: the owner of its folder in /proc
	Cgroup    string // as /proc/PID/cgroup has it, see [parseCgroup]
	RunsExim  bool   // it runs Exim's program
	Unread    bool   // its program could not be told, or not in time: RunsExim says nothing
	Hidden    bool   // its working directory may not be read by us
	Elsewhere bool   // it is in another network namespace than we are
	Placeless bool   // it was ending, so that this could not be read
}

// Chain describes the process pid. [ErrNotFound] means that it is gone. The number may have
// been given to another process since it was told: its start time tells.
func (ps *Processes) Chain(ctx context.Context, pid int32) (Chain, error) {
	p, err := openProc(int(pid))
	if err != nil {
		return Chain{}, err
	}
	return ps.lineage(ctx, p)
}

// Holders finds, in one pass over all processes, who holds the sockets, and calls found for
// each process at once, as it may end at any time; the newest one of the socket's user
// is taken. Sockets that nobody holds any more are passed over. It returns what kept it from
// looking at all of them. Processes of which it is likely may be named to be looked at first.
func (ps *Processes) Holders(ctx context.Context, of []Socket, first []int32, found func(Chain, []Socket)) error {
	return eachHolder(ctx, of, first, func(p proc, held []Socket) {
		if c, err := ps.lineage(ctx, p); err == nil {
			found(c, held)
		}
	})
}

// lineage describes p, which it closes, and its parents up to the first that tells who started it.
func (ps *Processes) lineage(ctx context.Context, p proc) (Chain, error) {
	second, err := p.dup()
	if err != nil {
		p.close()
		return Chain{}, err
	}
	defer second.close()
	var c Chain
	var st unix.Stat_t
	if err := unix.Fstat(second.dir, &st); err == nil { // once it has ended this says 0
		c.EUID = st.Uid
	}
	var runs programs
	c.Processes, runs = ps.chain(ctx, p, foreign)
	if len(c.Processes) == 0 {
		return Chain{}, ErrNotFound
	}
	c.RunsExim, c.Unread = runs[0].exim, !runs[0].told
	c.Cgroup, c.Hidden = second.cgroup(), second.hidden("cwd")
	c.Elsewhere, c.Placeless = ps.elsewhere(second)
	return c, nil
}

// elsewhere reports whether p is known to be in another network namespace than we are, and
// whether it had none any more, as processes that end have.
func (ps *Processes) elsewhere(p proc) (elsewhere, placeless bool) {
	its, err := fileAt(p.dir, "ns/net")
	if err != nil {
		return false, errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH)
	}
	return ps.net != fileID{} && its != ps.net, false
}

// foreign, [told] and alone tell when a chain is long enough. Above a user's process it is
// when root's is reached: a CGI program is below the web server's user, and that one's
// process is the web server's only if root runs it too.
func foreign(chain []policy.Process) bool {
	first, last := &chain[0], &chain[len(chain)-1]
	return last.UID != first.UID && (last.UID == 0 || first.UID == 0)
}

func alone(chain []policy.Process) bool { return true }

// programs says of each process of a chain whether its program could be told in time, and
// whether that is Exim's.
type programs [maxProcesses]struct{ told, exim bool }

// chain describes p, which it closes, and its parents until they are enough, and tells which
// of them run Exim's program.
func (ps *Processes) chain(ctx context.Context, p proc, enough func([]policy.Process) bool) (chain []policy.Process, runs programs) {
	var held []proc
	defer func() {
		for _, p := range held {
			p.close()
		}
	}()
	for started := int64(math.MaxInt64); ; {
		held = append(held, p)
		described, parent, err := p.describe()
		// Whoever started after his child is not its parent: that one ended, and its number
		// was given away, before it was opened.
		if err != nil || described.Started > started {
			break
		}
		started = described.Started
		chain = append(chain, described)
		if len(chain) == maxProcesses || parent == 0 || ctx.Err() != nil || enough(chain) {
			break
		}
		if p, err = openProc(parent); err != nil {
			break
		}
	}
	exim, err := fileAt(unix.AT_FDCWD, ps.exim)
	if err != nil {
		exim = fileID{}
	}
	for from := 0; from < len(chain); {
		to := from + 1
		for to < len(chain) && chain[to].UID == chain[from].UID {
			to++
		}
		for i, m := range ps.memory.read(ctx, held[from:to], chain[from].UID, exim) {
			p := &chain[from+i]
			p.Args = m.args
			runs[from+i].told, runs[from+i].exim = m.told, m.exim
			fill(p, m.env)
		}
		from = to
	}
	return chain, runs
}

func fill(p *policy.Process, env [5]string) {
	p.ScriptFilename, p.RemoteAddr, p.RequestURI, p.ServerName, p.HTTPHost = env[0], env[1], env[2], env[3], env[4]
}

// hidden reports whether we may not read one of the process's links.
func (p proc) hidden(name string) bool {
	var buf [1]byte
	_, err := unix.Readlinkat(p.dir, name, buf[:])
	return errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM)
}
