package eximacl

import "golang.org/x/sys/unix"

// PeerWaits reports whether the process that asks still has its end of the connection
// open. Then it lives, and its number was not given to another process: what was read
// about PeerPID until now is about it. It costs one system call, on every kernel; a pidfd
// of the peer (SO_PEERPIDFD, Linux 6.5) would have to be handed on and resolved as well.
//
// Exim stops sending after its question, which closes nothing.
func (c Conn) PeerWaits() bool {
	if c.x == nil {
		return true
	}
	raw, err := c.x.conn.SyscallConn()
	if err != nil {
		return false
	}
	waits := false
	if err := raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd)}}
		_, err := unix.Poll(fds, 0)
		waits = err == nil && fds[0].Revents&(unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) == 0
	}); err != nil {
		return false // answered and closed meanwhile
	}
	return waits
}
