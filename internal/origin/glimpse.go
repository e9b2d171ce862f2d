package origin

import (
	"context"

	"golang.org/x/sys/unix"

	"osm/policy"
)

// Glimpse is what was read of a process at once, for one that may end at any time: all but
// what takes longer. It holds the process by its folder until it is closed.
type Glimpse struct {
	// Process is without arguments and variables.
	Process policy.Process
	p       proc
	euid    uint32
}

// Glimpse reads what is lost first when a process ends. [ErrNotFound] means that it is gone
// already; as with [Processes.Chain] its start time tells whether it is the one that was
// meant. uid is who runs it by the kernel's word: it costs less to see that this is so than to
// find out who it is.
func (ps *Processes) Glimpse(pid int32, uid uint32) (*Glimpse, error) {
	p, err := openProc(int(pid))
	if err != nil {
		return nil, err
	}
	g := &Glimpse{p: p}
	var st unix.Stat_t
	if err := unix.Fstat(p.dir, &st); err == nil {
		g.euid = st.Uid
	}
	var parent int
	g.Process, parent, err = p.describeAs(func() (uint32, error) {
		if g.euid == uid && uid != 0 { // the folder of a process that has ended is root's
			return uid, nil
		}
		return p.uid()
	})
	if err != nil {
		p.close()
		return nil, err
	}
	g.p.was = &described{g.Process, parent}
	return g, nil
}

// Close lets the process go.
func (g *Glimpse) Close() { g.p.close() }

// Whole returns all there is to say of the process, which may have ended meanwhile: then it
// is what was read at once. g is closed.
func (ps *Processes) Whole(ctx context.Context, g *Glimpse) Chain {
	c, err := ps.lineage(ctx, g.p)
	if err != nil { // nothing more could be opened
		return Chain{Processes: []policy.Process{g.Process}, EUID: g.euid, Unread: true, Placeless: true}
	}
	c.EUID = g.euid
	return c
}
