package actions

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// maxOutput is how much of a command's output is kept.
const maxOutput = 4 << 10

// command is how the executor runs Exim: always with a list of arguments, never a shell,
// with a clean environment, and never longer than its time limit.
type command struct {
	prefix  []string // set before the program, for deliveries
	program string
	limit   time.Duration
	output  int // how much of what it says is kept; 0 = maxOutput
}

// OutsideUnit is the prefix of deliveries where systemd started the executor. A delivery
// does what the executor's own unit must not: it reads .forward files in homes, becomes any
// user, runs his programs and connects to other hosts. Inside the unit Exim would not even
// see the .forward file, and deliver elsewhere.
//
// KillMode=process: the bounces and further deliveries that Exim begins go on after the
// process that began them; systemd would kill them with it.
func OutsideUnit() []string {
	return []string{"/usr/bin/systemd-run", "--quiet", "--collect", "--wait", "--pipe", "--property=KillMode=process", "--"}
}

// run starts the program with args, waits for it and returns what it said, cut. At the
// time limit or when ctx ends the whole process group is killed.
func (c command) run(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, c.limit)
	defer cancel()
	cmd, out := c.build(ctx, args)
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	err := cmd.Run()
	said := strings.TrimSpace(out.String())
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return said, fmt.Errorf("run %s %s: killed after %v", c.program, args[0], c.limit)
	}
	if err != nil {
		return said, fmt.Errorf("run %s %s: %w", c.program, args[0], err)
	}
	return said, nil
}

func (c command) build(ctx context.Context, args []string) (*exec.Cmd, *cappedBuffer) {
	argv := append(append(append([]string{}, c.prefix...), c.program), args...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	// A group of its own, so that what it starts can be ended with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = 2 * time.Second // a grandchild that keeps the pipe open
	out := &cappedBuffer{limit: cmp.Or(c.output, maxOutput)}
	cmd.Stdout, cmd.Stderr = out, out
	return cmd, out
}

// cappedBuffer keeps the first bytes written to it and forgets the rest.
type cappedBuffer struct {
	limit int
	buf   bytes.Buffer
}

func (b *cappedBuffer) Write(p []byte) (int, error) {
	b.buf.Write(p[:min(len(p), max(0, b.limit-b.buf.Len()))])
	return len(p), nil
}

func (b *cappedBuffer) String() string { return strings.ToValidUTF8(b.buf.String(), "�") }

// deliveries runs "exim -Mc" for messages that have been thawed, a few at a time and apart
// from the request: a slow remote host can make one delivery last many minutes, and killing
// Exim while it delivers is the one way in which a message could go out twice.
//
// Its queue is bounded. What does not fit, or was under way when the executor stopped, is
// thawed all the same and leaves with Exim's next queue run.
type deliveries struct {
	cmd   command
	grace time.Duration // how long stop lets a running delivery come to its end
	todo  chan string
}

// add reports whether the delivery will be started.
func (d *deliveries) add(id string) bool {
	select {
	case d.todo <- id:
		return true
	default:
		return false
	}
}

// run works until ctx ends and every delivery that it started has ended. failed is told
// of each that did not end well.
func (d *deliveries) run(ctx context.Context, atOnce int, failed func(id, said string, err error)) {
	var wg sync.WaitGroup
	for range atOnce {
		wg.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case id := <-d.todo:
					if said, err := d.deliver(ctx, id); err != nil {
						failed(id, said, err)
					}
				}
			}
		})
	}
	wg.Wait()
}

// deliver runs one delivery. When ctx ends it is given the grace time, then asked to end.
func (d *deliveries) deliver(ctx context.Context, id string) (string, error) {
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.cmd.limit)
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		timer := time.AfterFunc(d.grace, cancel)
		context.AfterFunc(limit, func() { timer.Stop() })
	})
	defer stop()
	cmd, out := d.cmd.build(limit, []string{"-Mc", id})
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	if err := cmd.Run(); err != nil {
		return strings.TrimSpace(out.String()), fmt.Errorf("deliver %s: %w", id, err)
	}
	return "", nil
}
