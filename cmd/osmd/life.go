package main

import (
	"context"
	"fmt"
)

// life runs the daemon's parts. Each is started after those it needs and stopped before
// them: the policy socket closes first, the database last.
type life struct {
	parts []*part
	ended chan error // the first part that ended by itself
}

type part struct {
	name   string
	cancel context.CancelFunc
	done   chan struct{}
	err    error
}

func newLife() *life { return &life{ended: make(chan error, 1)} }

// start runs a part until stop; run blocks until all that it started has ended.
func (l *life) start(name string, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	p := &part{name: name, cancel: cancel, done: make(chan struct{})}
	l.parts = append(l.parts, p)
	go func() {
		defer close(p.done)
		p.err = run(ctx)
		if ctx.Err() != nil {
			return
		}
		err := p.err
		if err == nil {
			err = fmt.Errorf("it ended by itself")
		}
		select {
		case l.ended <- fmt.Errorf("%s: %w", name, err):
		default:
		}
	}()
}

// stop ends the parts, last started first, each fully before the next. It returns what
// they reported.
func (l *life) stop() []error {
	var errs []error
	for i := len(l.parts) - 1; i >= 0; i-- {
		p := l.parts[i]
		p.cancel()
		<-p.done
		if p.err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", p.name, p.err))
		}
	}
	l.parts = nil
	return errs
}
