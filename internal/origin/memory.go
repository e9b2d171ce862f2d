package origin

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"
)

// memoryReads bounds the reads of processes' memory. Such a read hangs for as long as
// the process's owner likes if he put a page there that his own file system has to
// deliver: so each has a goroutine of its own, is not waited for long, and a user who
// makes some hang loses only what is told about himself.
type memoryReads struct {
	restart context.CancelCauseFunc

	mu        sync.Mutex
	total     int
	perUID    map[uint32]int
	fullSince time.Duration // since boot; 0 = not full
}

func newMemoryReads(restart context.CancelCauseFunc) *memoryReads {
	return &memoryReads{restart: restart, perUID: map[uint32]int{}}
}

// read returns what the memory of processes of one user says, of as many as could be read
// before it took too long; nothing while too many reads are under way.
func (r *memoryReads) read(ctx context.Context, of []proc, uid uint32, exim fileID) []memory {
	if uid == 0 { // root does not make us wait
		read := make([]memory, len(of))
		for i, p := range of {
			read[i] = p.readMemory(exim)
		}
		return read
	}
	if ctx.Err() != nil || !r.begin(uid, bootNow()) {
		return nil
	}
	own := make([]proc, 0, len(of)) // the reader may outlive the question
	for _, p := range of {
		p, err := p.dup()
		if err != nil {
			break
		}
		own = append(own, p)
	}
	done := make(chan memory, len(own))
	go func() {
		defer r.end(uid)
		for _, p := range own {
			done <- p.readMemory(exim)
			p.close()
		}
	}()
	timer := time.NewTimer(memoryTime)
	defer timer.Stop()
	read := make([]memory, 0, len(own))
	for range own {
		select {
		case m := <-done:
			read = append(read, m)
		case <-timer.C:
			return read
		case <-ctx.Done():
			return read
		}
	}
	return read
}

func (r *memoryReads) begin(uid uint32, now time.Duration) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.total >= memoryTotal {
		if r.fullSince == 0 {
			r.fullSince = now
		}
		if now-r.fullSince > stuckTime {
			r.restart(errStuck)
		}
		return false
	}
	if r.perUID[uid] >= memoryPerUID {
		return false
	}
	r.total++
	r.perUID[uid]++
	return true
}

func (r *memoryReads) end(uid uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fullSince = 0
	r.total--
	if r.perUID[uid]--; r.perUID[uid] == 0 {
		delete(r.perUID, uid)
	}
}

// listPIDs returns all processes, those up to last first and the newest of them
// before the others: numbers above last were given before they began anew.
func listPIDs(last int) ([]int, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	names, err := dir.Readdirnames(-1)
	if cerr := dir.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	pids := make([]int, 0, len(names))
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			pids = append(pids, pid)
		}
	}
	slices.SortFunc(pids, func(a, b int) int {
		if (a > last) != (b > last) {
			return cmp.Compare(b2i(a > last), b2i(b > last))
		}
		return cmp.Compare(b, a)
	})
	return pids, nil
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}
