package faults

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"osm/tests/lab"
)

// waits is how much later a message may be accepted when nobody answers.
const waits = 1300 * time.Millisecond

func TestWhenTheDaemonIsStoppedMailPassesAfterTheTimeout(t *testing.T) {
	d := daemon(t, limited)
	stop(t, d)
	found := make(chan bool)
	go func() { // meanwhile: it is patient too
		defer close(found)
		doctorNames(t, d, "question")
	}()
	all := patient().run(t)
	<-found
	cont(t, d)
	all.accepted(t)
	all.later(t, waits)
	all.noneFrozen(t)
	all.unavailable(t)
	// It sees afterwards that nobody waited for its answers, and what became of the mail.
	alarmed(t, d, "unanswered")
	eventually(t, 10*time.Second, "the spammer's mail to be counted", func() error {
		n, err := used(d, scriptAccount, "account-hour")
		if err == nil && n != 200 {
			err = fmt.Errorf("%d are counted, want all 200 that passed", n)
		}
		return err
	})
	all.explained(t, d)
	if list, err := listHeld(d); err != nil || len(list) > 0 {
		t.Errorf("%d messages are listed as held (%v), though all have passed", len(list), err)
	}
	clean(t)
	again := storm{each: 20}.run(t)
	again.accepted(t)
	answered(t)
}

func stop(t *testing.T, d *lab.Daemon) {
	t.Helper()
	if err := d.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "osmd to stand still", func() error {
		state, err := lab.ProcStatus(d.PID(), "State")
		if err == nil && state[0] != 'T' {
			err = fmt.Errorf("it is %s", state)
		}
		return err
	})
}

func cont(t *testing.T, d *lab.Daemon) {
	t.Helper()
	if err := d.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
}

// impostor answers in the place of the daemon, each in its own bad way. The connection
// is closed when it returns; over ends with the test.
type impostor func(c net.Conn, over <-chan struct{})

// listen puts it on the policy socket with the right owner and mode.
func (i impostor) listen(t *testing.T) {
	t.Helper()
	path := machine.PolicySocket()
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chown(path, 0, machine.EximGID), os.Chmod(path, 0o660)); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	over := make(chan struct{})
	t.Cleanup(func() { l.Close(); close(over); wg.Wait() })
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				i(c, over)
			})
		}
	})
}

// question reads up to the empty line.
func question(c net.Conn) {
	r := bufio.NewReader(c)
	for {
		line, err := r.ReadString('\n')
		if err != nil || line == "\n" {
			return
		}
	}
}

func TestWhenTheAnswerIsNoneMailPassesInTime(t *testing.T) {
	whole := `action=freeze ref=abc log="x" osm=1`
	tests := []struct {
		name  string
		by    time.Duration
		waits bool // for Exim's timeout
		say   impostor
	}{
		{"rubbish", 0, false, func(c net.Conn, over <-chan struct{}) {
			question(c)
			fmt.Fprint(c, "\x00\xff}{${run{/bin/false}}\nosm=no action=deny")
		}},
		{"another known action without the marker", 0, false, func(c net.Conn, over <-chan struct{}) {
			question(c)
			fmt.Fprint(c, `action=freeze ref=abc log="osm"`)
		}},
		{"an unknown action with the marker", 0, false, func(c net.Conn, over <-chan struct{}) {
			question(c)
			fmt.Fprint(c, `action=explode ref=abc osm=1`)
		}},
		{"half a line", 0, false, func(c net.Conn, over <-chan struct{}) {
			question(c)
			fmt.Fprint(c, whole[:len(whole)/2])
		}},
		{"closed at once", 0, false, func(c net.Conn, over <-chan struct{}) {}},
		{"nothing, and the socket left open", waits, true, func(c net.Conn, over <-chan struct{}) { question(c); <-over }},
		{"a whole answer, and the socket left open", waits, true, func(c net.Conn, over <-chan struct{}) {
			question(c)
			fmt.Fprint(c, whole)
			<-over
		}},
		{"a byte now and then", waits, true, func(c net.Conn, over <-chan struct{}) {
			question(c)
			tick := time.NewTicker(300 * time.Millisecond)
			defer tick.Stop()
			for i := range whole {
				if _, err := c.Write([]byte{whole[i]}); err != nil {
					return
				}
				<-tick.C
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			fresh(t)
			tt.say.listen(t)
			load := storm{}
			if tt.waits {
				load = patient()
			}
			all := load.run(t)
			all.accepted(t)
			all.later(t, tt.by)
			all.noneFrozen(t)
			all.unavailable(t)
		})
	}
}

// The queue of a socket is as long as the kernel allows. It fills up when the daemon
// stands still long enough; here strangers do it, who never ask.
func TestWhenTheListenQueueIsFullMailPassesAfterTheTimeout(t *testing.T) {
	d := daemon(t, limited)
	stop(t, d)
	conns := fill(t, machine.PolicySocket())
	t.Logf("%d connections wait in the queue", len(conns))
	all := patient().run(t)
	for _, fd := range conns {
		if err := syscall.Close(fd); err != nil {
			t.Error(err)
		}
	}
	cont(t, d)
	all.accepted(t)
	all.later(t, 2500*time.Millisecond)
	all.noneFrozen(t)
	all.unavailable(t)
	alarmed(t, d, "bad-peer")
	clean(t)
	again := storm{each: 20}.run(t)
	again.accepted(t)
	answered(t)
}

// fill connects until nobody can connect any more.
func fill(t *testing.T, path string) []int {
	t.Helper()
	var fds []int
	for range 20_000 {
		fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		err = syscall.Connect(fd, &syscall.SockaddrUnix{Name: path})
		if err == nil {
			fds = append(fds, fd)
			continue
		}
		if err := errors.Join(syscall.Close(fd)); err != nil {
			t.Fatal(err)
		}
		if !errors.Is(err, syscall.EAGAIN) {
			t.Fatalf("connection %d: %v", len(fds), err)
		}
		return fds
	}
	t.Fatal("the queue never fills up")
	return nil
}
