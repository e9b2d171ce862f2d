package eximacl

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// acceptor accepts connections as bare descriptors.
type acceptor struct {
	file *os.File // the listening socket once more: its owner may close his end
	raw  syscall.RawConn
}

func newAcceptor(l *net.UnixListener) (*acceptor, error) {
	f, err := l.File()
	if err != nil {
		return nil, err
	}
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &acceptor{f, raw}, nil
}

// next returns the connection that waits already, or -1.
func (a *acceptor) next() (fd int, err error) {
	if e := a.raw.Control(func(l uintptr) { fd, err = acceptNow(l) }); e != nil {
		return -1, e
	}
	if errors.Is(err, unix.EAGAIN) {
		return -1, nil
	}
	return fd, err
}

// wait waits for a connection.
func (a *acceptor) wait() (fd int, err error) {
	e := a.raw.Read(func(l uintptr) bool {
		fd, err = acceptNow(l)
		return !errors.Is(err, unix.EAGAIN)
	})
	if e != nil {
		return -1, e
	}
	return fd, err
}

func acceptNow(l uintptr) (fd int, err error) {
	for {
		if fd, _, err = unix.Accept4(int(l), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC); !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// stop ends all waiting.
func (a *acceptor) stop() { _ = a.file.SetDeadline(time.Unix(1, 0)) }

func (a *acceptor) close() { a.file.Close() }

// conn is an accepted connection: a bare descriptor that does not block. The runtime's
// poller, whose entering and leaving cost more system calls than the question itself, gets
// to know it only where something has to be waited for, and that is rare: the question lies
// there whole, and the answer always fits into an empty socket.
//
// One goroutine reads; whoever answers closes, and nobody else, so that nothing is read from
// or written to a descriptor that has become another's.
type conn struct {
	fd      int
	waiting atomic.Pointer[os.File] // owns fd once something is waited for
	expired atomic.Bool
}

// read reads what is there, and waits for more after it has called wait.
func (c *conn) read(b []byte, wait func()) (int, error) {
	f := c.waiting.Load()
	if f == nil {
		n, err := readNow(c.fd, b)
		if !errors.Is(err, unix.EAGAIN) {
			return n, err
		}
		wait()
		f = os.NewFile(uintptr(c.fd), "question")
		c.waiting.Store(f)
	}
	if c.expired.Load() {
		return 0, os.ErrDeadlineExceeded
	}
	return f.Read(b)
}

// expire ends a read that waits, and each that would have to.
func (c *conn) expire() {
	c.expired.Store(true)
	if f := c.waiting.Load(); f != nil {
		_ = f.SetReadDeadline(time.Unix(1, 0))
	}
}

// write writes b, which is no more than [MaxAnswer], or fails: it never waits.
func (c *conn) write(b []byte) error {
	for {
		n, err := unix.Write(c.fd, b)
		switch {
		case errors.Is(err, unix.EINTR):
		case err == nil && n < len(b):
			return fmt.Errorf("only %d of %d bytes of the answer were taken", n, len(b))
		default:
			return err
		}
	}
}

func (c *conn) close() {
	if f := c.waiting.Load(); f != nil {
		f.Close()
		return
	}
	unix.Close(c.fd)
}

// peer asks the kernel who connected (SO_PEERCRED): the credentials of the process at
// the moment of connect, which nobody can forge.
func (c *conn) peer() (pid int32, uid uint32, err error) {
	cred, err := unix.GetsockoptUcred(c.fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0, 0, fmt.Errorf("peer credentials: %w", err)
	}
	return cred.Pid, cred.Uid, nil
}

// PeerWaits reports whether the process that asks still has its end of the connection
// open. Then it lives, and its number was not given to another process: what was read
// about PeerPID until now is about it. It costs one system call, on every kernel; a pidfd
// of the peer (SO_PEERPIDFD, Linux 6.5) would have to be handed on and resolved as well.
//
// Exim stops sending after its question, which closes nothing. After the deadline, when the
// question was answered from memory, what is returned means nothing any more.
func (c Conn) PeerWaits() bool {
	if c.x == nil {
		return true
	}
	fds := []unix.PollFd{{Fd: int32(c.x.conn.fd)}}
	_, err := unix.Poll(fds, 0)
	return err == nil && fds[0].Revents&(unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) == 0
}

// readNow reads from a descriptor that does not block.
func readNow(fd int, b []byte) (int, error) {
	for {
		n, err := unix.Read(fd, b)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}
