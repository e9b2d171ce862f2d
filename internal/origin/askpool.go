package origin

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"sync"
	"time"
)

// Bounds of questions about php-fpm's pools. Whoever may ask must not be able to load
// php-fpm with it, nor hinder the questions about messages.
const (
	poolTime    = 300 * time.Millisecond // for a pool to answer
	poolsAtOnce = 4                      // asked by the root side, whoever wants to know
	poolEvery   = 50 * time.Millisecond  // between two in the long run
	poolBurst   = 10                     // questions that may come at once all the same
	poolConns   = 2                      // the daemon's own, beside inspectorConns
)

// PoolNumber is what the wire has of a pool's name or address: the 32-bit FNV-1a hash. The
// root side compares it with the pools it knows, so nothing that is asked for is ever used.
func PoolNumber(text string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(text)) // never fails
	return h.Sum32()
}

// Pool returns the status page of a php-fpm pool as the inspector, which knows the pools of
// php-fpm's own files, has it from that pool. It takes 350 ms at most. That it fails says
// nothing about the inspector's answers to other questions, which have other connections:
// it does not count for [Inspector.Err].
func (i *Inspector) Pool(ctx context.Context, name, address string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, poolTime+inspectorTime)
	defer cancel()
	select {
	case i.pools <- struct{}{}:
		defer func() { <-i.pools }()
	case <-ctx.Done():
		return nil, fmt.Errorf("ask the inspector for pool %.40q: others wait for their answer: %w", name, ctx.Err())
	}
	page, err := i.page(ctx, question{kind: askPool, name: PoolNumber(name), address: PoolNumber(address)})
	if err != nil {
		return nil, fmt.Errorf("ask the inspector for pool %.40q: %w", name, err)
	}
	return page, nil
}

// page asks over a connection that is used once: these questions are few.
func (i *Inspector) page(ctx context.Context, q question) ([]byte, error) {
	c, err := i.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }() // the answer was read by then
	if err := put(ctx, c, q); err != nil {
		return nil, err
	}
	b, err := readFrame(c)
	if err != nil {
		return nil, err
	}
	status, page, err := parsePage(b)
	if err == nil && status != statusOK {
		err = errors.New("it has no such page, or is asked too often")
	}
	return page, err
}

// poolAsks is the root side's part: it lets only so many questions through.
type poolAsks struct {
	ask   func(ctx context.Context, name, address uint32) ([]byte, error)
	now   func() time.Duration // since boot
	slots chan struct{}

	mu   sync.Mutex
	next time.Duration // when one more is due in the long run
}

func newPoolAsks(ask func(ctx context.Context, name, address uint32) ([]byte, error)) *poolAsks {
	return &poolAsks{ask: ask, now: bootNow, slots: make(chan struct{}, poolsAtOnce)}
}

// page answers a question about a pool, or tells why not: nobody waits for his turn.
func (p *poolAsks) page(ctx context.Context, q question) ([]byte, error) {
	if p.ask == nil {
		return nil, errors.New("no pools are asked here")
	}
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	default:
		return nil, errors.New("too many pools are being asked")
	}
	if !p.turn() {
		return nil, errors.New("pools were asked too often")
	}
	ctx, cancel := context.WithTimeout(ctx, poolTime)
	defer cancel()
	return p.ask(ctx, q.name, q.address)
}

// turn reports whether one more may be asked now.
func (p *poolAsks) turn() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	next := max(p.next, now) + poolEvery
	if next-now > poolBurst*poolEvery {
		return false
	}
	p.next = next
	return true
}
