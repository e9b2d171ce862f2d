package origin

import (
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// ErrNotFound says that the kernel knows no such connection or process, or none that
// it can name an owner of.
var ErrNotFound = errors.New("not found")

// Peer is the process at the other end of a Unix socket as it was when it connected.
type Peer struct {
	PID      int32 // 0 when the process is outside our PID namespace
	UID, GID uint32
}

// PeerOf returns who connected to c, by SO_PEERCRED.
func PeerOf(c *net.UnixConn) (Peer, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return Peer{}, fmt.Errorf("read the peer of a socket: %w", err)
	}
	var cred *unix.Ucred
	var sockErr error
	if err := raw.Control(func(fd uintptr) {
		cred, sockErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return Peer{}, fmt.Errorf("read the peer of a socket: %w", err)
	}
	if sockErr != nil {
		return Peer{}, fmt.Errorf("read the peer of a socket: %w", sockErr)
	}
	return Peer{PID: cred.Pid, UID: cred.Uid, GID: cred.Gid}, nil
}
