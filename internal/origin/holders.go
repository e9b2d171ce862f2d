package origin

import (
	"context"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	scanChunk = 256 // descriptors listed at a time
	probePIDs = 64  // newest processes tried before /proc is listed
)

// Socket is a socket and whose it is, as sock_diag tells them.
type Socket struct{ UID, Inode uint32 }

// eachHolder looks for the processes that hold the sockets, first those that are named and
// then the newest first, and hands each with those it holds to found, which closes it.
func eachHolder(ctx context.Context, of []Socket, first []int32, found func(proc, []Socket)) error {
	h := holders{want: map[uint32]map[uint32]bool{}, found: found, spent: map[uint32]time.Duration{}}
	for _, s := range of {
		if s.Inode == 0 {
			continue // a socket that was closed: nobody holds it
		}
		if h.want[s.UID] == nil {
			h.want[s.UID] = map[uint32]bool{}
		}
		h.want[s.UID][s.Inode] = true
	}
	if deadline, ok := ctx.Deadline(); ok {
		h.share = time.Until(deadline) / 2
	}
	for _, pid := range first {
		h.try(ctx, int(pid))
	}
	if len(h.want) == 0 {
		return nil
	}
	last := lastPID()
	tried := min(probePIDs, last)
	for pid := last; pid > last-tried && len(h.want) > 0; pid-- {
		h.try(ctx, pid)
	}
	if len(h.want) == 0 {
		return nil
	}
	pids, err := listPIDs(last - tried)
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if len(h.want) == 0 {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		h.try(ctx, pid)
	}
	return nil
}

// holders is one search.
type holders struct {
	want  map[uint32]map[uint32]bool // inodes by uid
	found func(proc, []Socket)
	// spent is the time that each user's processes took. Whoever has many descriptors in many
	// processes would have the whole time for himself: he gets share where others wait, too.
	spent map[uint32]time.Duration
	share time.Duration // 0 = all
}

// try looks at one process, if it belongs to one of the users.
func (h *holders) try(ctx context.Context, pid int) {
	var st unix.Stat_t
	if err := unix.Lstat("/proc/"+strconv.Itoa(pid), &st); err != nil {
		return
	}
	inodes := h.want[st.Uid]
	if len(inodes) == 0 {
		return
	}
	p, err := openProc(pid)
	if err != nil {
		return
	}
	began := bootNow()
	held := p.holds(ctx, st.Uid, inodes)
	if len(held) > 0 {
		p, err = p.whole()
	}
	switch {
	case len(held) == 0:
		p.close()
	case err == nil:
		h.found(p, held)
	}
	h.spent[st.Uid] += bootNow() - began
	if len(inodes) == 0 || h.share > 0 && len(h.want) > 1 && h.spent[st.Uid] > h.share {
		delete(h.want, st.Uid)
	}
}

// whole returns the process that p, which it closes then, is a thread of. Threads are numbered
// as processes are, and /proc opens them by their number though it does not list them.
func (p proc) whole() (proc, error) {
	pid, err := 0, error(nil)
	if e := p.read("status", maxStatus, func(b []byte) { pid, err = parseThreadGroup(b) }); e != nil {
		err = e
	}
	if err == nil && pid == p.pid {
		return p, nil
	}
	p.close()
	if err != nil {
		return proc{}, err
	}
	return openProc(pid)
}

// holds looks through the process's descriptors, as far as ctx lets it, for the inodes and
// takes what it finds off them.
func (p proc) holds(ctx context.Context, uid uint32, inodes map[uint32]bool) (held []Socket) {
	fd, err := unix.Openat(p.dir, "fd", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	dir := os.NewFile(uintptr(fd), "fd")
	defer func() { _ = dir.Close() }() // opened for reading
	var buf [64]byte
	for ctx.Err() == nil {
		names, err := dir.Readdirnames(scanChunk)
		for _, name := range names {
			n, err := unix.Readlinkat(fd, name, buf[:])
			if err != nil {
				continue
			}
			if inode, ok := socketInode(buf[:n]); ok && inodes[inode] {
				held = append(held, Socket{UID: uid, Inode: inode})
				if delete(inodes, inode); len(inodes) == 0 {
					return held
				}
			}
		}
		if err != nil {
			return held
		}
	}
	return held
}

// socketInode reads "socket:[4711]".
func socketInode(link []byte) (uint32, bool) {
	s, ok1 := strings.CutPrefix(string(link), "socket:[")
	s, ok2 := strings.CutSuffix(s, "]")
	inode, err := strconv.ParseUint(s, 10, 32)
	if !ok1 || !ok2 || err != nil {
		return 0, false
	}
	return uint32(inode), true
}

// lastPID returns the number that the kernel gave last, 0 when it does not say.
func lastPID() int {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	return parseLastPID(string(b))
}

func parseLastPID(s string) int {
	fields := strings.Fields(s)
	if len(fields) < 5 {
		return 0
	}
	pid, err := strconv.Atoi(fields[4])
	if err != nil || pid < 0 || pid > 1<<22 {
		return 0
	}
	return pid
}
