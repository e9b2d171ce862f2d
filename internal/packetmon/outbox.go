package packetmon

import (
	"context"
	"sync"

	"osm/policy"
)

// The records that wait while nobody takes them.
const (
	maxWaiting      = 10_000
	maxWaitingBytes = 32 << 20
)

// outbox holds the records until they are taken, in their order. When it is full the oldest
// are dropped. It is safe for concurrent use.
type outbox struct {
	ready chan struct{} // holds a token while there may be records

	mu      sync.Mutex
	waiting []Record
	first   uint64 // number of waiting[0]: how many went before
	bytes   int
	dropped uint64
}

func newOutbox() *outbox { return &outbox{ready: make(chan struct{}, 1)} }

func (o *outbox) put(r Record) {
	o.mu.Lock()
	o.waiting = append(o.waiting, r)
	o.bytes += weight(&r.Connection)
	for len(o.waiting) > maxWaiting || o.bytes > maxWaitingBytes {
		o.dropped++
		o.shift(1)
	}
	o.mu.Unlock()
	o.signal()
}

func (o *outbox) signal() {
	select {
	case o.ready <- struct{}{}:
	default:
	}
}

// shift forgets the n oldest.
func (o *outbox) shift(n int) {
	for i := range n {
		o.bytes -= weight(&o.waiting[i].Connection)
		o.waiting[i] = Record{}
	}
	o.waiting = o.waiting[n:]
	o.first += uint64(n)
}

// peek returns at most n of the oldest records and the number of the first.
func (o *outbox) peek(n int) ([]Record, uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]Record(nil), o.waiting[:min(n, len(o.waiting))]...), o.first
}

// taken forgets the n records from number first on. Those of them that had to make room
// meanwhile were counted as dropped, though they were taken after all.
func (o *outbox) taken(first uint64, n int) {
	o.mu.Lock()
	end := first + uint64(n)
	if gone := min(o.first, end); gone > first {
		o.dropped -= gone - first
	}
	if end > o.first {
		o.shift(int(end - o.first))
	}
	more := len(o.waiting) > 0
	o.mu.Unlock()
	if more {
		o.signal()
	}
}

func (o *outbox) lost() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.dropped
}

// next waits for a record and takes it.
func (o *outbox) next(ctx context.Context) (Record, error) {
	for {
		select {
		case <-ctx.Done():
			return Record{}, context.Cause(ctx)
		case <-o.ready:
		}
		o.mu.Lock()
		if len(o.waiting) == 0 {
			o.mu.Unlock()
			continue
		}
		r := o.waiting[0]
		o.shift(1)
		more := len(o.waiting) > 0
		o.mu.Unlock()
		if more {
			o.signal()
		}
		return r, nil
	}
}

// weight is about how much memory a connection takes.
func weight(c *policy.Connection) int {
	n := 512 + len(c.Cgroup) + len(c.Basis)
	for i := range c.Chain {
		n += processWeight(&c.Chain[i])
	}
	return n
}

func processWeight(p *policy.Process) int {
	n := 256 + len(p.Executable) + len(p.WorkingDirectory) + len(p.ScriptFilename) + len(p.RemoteAddr) +
		len(p.RequestURI) + len(p.ServerName) + len(p.HTTPHost)
	for _, a := range p.Args {
		n += 16 + len(a)
	}
	return n
}
