package packetmon

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"osm/internal/origin"
)

const (
	// dumpTimeout bounds one dump, which takes a millisecond: a machine that gives us no
	// processor for so long has other troubles, and the source ends with an error.
	dumpTimeout = 10 * time.Second
	dumpBuffer  = 64 << 10 // the kernel sends at most 32 KiB in one datagram

	sockDiagByFamily = 20      // linux/sock_diag.h
	diagRequestLen   = 16 + 56 // nlmsghdr + inet_diag_req_v2

	// linux/inet_diag.h: the attribute that holds a filter program, and its instructions.
	diagBytecode                       = 1
	diagJump, diagDportGE, diagDportLE = 1, 4, 5

	// Kernel's enum of TCP states.
	tcpEstablished, tcpSynSent, tcpFinWait1, tcpFinWait2, tcpCloseWait, tcpLastAck, tcpListen, tcpClosing = 1, 2, 4, 5, 8, 9, 10, 11

	// connectedStates are all of a connection but TIME_WAIT, which has no owner left and
	// stands for a minute after each of Exim's deliveries, too.
	connectedStates = 1<<tcpEstablished | 1<<tcpSynSent | 1<<tcpFinWait1 | 1<<tcpFinWait2 |
		1<<tcpCloseWait | 1<<tcpLastAck | 1<<tcpClosing
)

// diagSocket is one TCP socket as the kernel describes it.
type diagSocket origin.TCPSocket

// dumper asks the kernel for its TCP sockets by sock_diag, which needs no privilege. It is
// not safe for concurrent use, but for close. It sees the network namespace that it was
// opened in.
type dumper struct {
	file    *os.File
	conn    syscall.RawConn
	refuses bool // this kernel takes no filter
	seq     uint32
	buf     []byte
}

func openDumper() (*dumper, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("open a sock_diag socket: %w", err)
	}
	d := &dumper{file: os.NewFile(uintptr(fd), "sock_diag"), buf: make([]byte, dumpBuffer)}
	if d.conn, err = d.file.SyscallConn(); err != nil {
		return nil, errors.Join(fmt.Errorf("use a sock_diag socket: %w", err), d.close())
	}
	return d, nil
}

func (d *dumper) close() error {
	if err := d.file.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("close a sock_diag socket: %w", err)
	}
	return nil
}

// dump calls each for every socket of the family (AF_INET6 has those that speak IPv4, too)
// in one of the states; code is a filter that the kernel may refuse, nil is none.
func (d *dumper) dump(family uint8, states uint32, code []byte, each func(diagSocket)) error {
	if d.refuses {
		code = nil
	}
	err := d.ask(family, states, code, each)
	if code != nil && (errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP)) {
		d.refuses = true // it does so before its first answer
		err = d.ask(family, states, nil, each)
	}
	if err != nil {
		return fmt.Errorf("ask sock_diag for TCP sockets: %w", err)
	}
	return nil
}

func (d *dumper) ask(family uint8, states uint32, code []byte, each func(diagSocket)) error {
	d.seq++
	request := dumpRequest(d.seq, family, states, code)
	if err := d.file.SetDeadline(time.Now().Add(dumpTimeout)); err != nil {
		return err
	}
	kernel := &unix.SockaddrNetlink{Family: unix.AF_NETLINK}
	if err := wait(d.conn.Write, func(fd int) error { return unix.Sendto(fd, request, 0, kernel) }); err != nil {
		return err
	}
	for {
		var n, flags int
		var from unix.Sockaddr
		if err := wait(d.conn.Read, func(fd int) (err error) {
			n, _, flags, from, err = unix.Recvmsg(fd, d.buf, nil, 0)
			return err
		}); err != nil {
			return err
		}
		if nl, ok := from.(*unix.SockaddrNetlink); !ok || nl.Pid != 0 {
			continue // not from the kernel
		}
		if flags&unix.MSG_TRUNC != 0 {
			return fmt.Errorf("an answer of more than %d bytes", len(d.buf))
		}
		done, err := origin.ParseSockets(d.buf[:n], d.seq, func(s origin.TCPSocket) { each(diagSocket(s)) })
		if done || err != nil {
			return err
		}
	}
}

// wait does something with a socket that is not to block, when it can be done.
func wait(ready func(func(fd uintptr) bool) error, do func(fd int) error) error {
	var done error
	err := ready(func(fd uintptr) bool {
		for again := true; again; again = errors.Is(done, unix.EINTR) {
			done = do(int(fd))
		}
		return !errors.Is(done, unix.EAGAIN)
	})
	if err != nil {
		return err
	}
	return done
}

// dumpRequest builds nlmsghdr, inet_diag_req_v2 and, with code, the attribute of a filter.
func dumpRequest(seq uint32, family uint8, states uint32, code []byte) []byte {
	ne := binary.NativeEndian
	b := make([]byte, diagRequestLen, diagRequestLen+4+len(code))
	ne.PutUint16(b[4:], sockDiagByFamily)
	ne.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	ne.PutUint32(b[8:], seq)
	b[16], b[17] = family, unix.IPPROTO_TCP
	ne.PutUint32(b[20:], states)
	ne.PutUint64(b[64:], ^uint64(0)) // no cookie
	if code != nil {
		b = ne.AppendUint16(b, uint16(4+len(code)))
		b = ne.AppendUint16(b, diagBytecode)
		b = append(b, code...)
	}
	ne.PutUint32(b, uint32(len(b)))
	return b
}

// dportBytecode builds the kernel's filter "the remote port is one of these". An instruction
// has a code, and how many bytes to go on if it holds (8 bits) and if not (16). A comparison
// is two of them, the second with the port; ending exactly at the end takes the socket, and
// four bytes behind it refuses it. Equality has no instruction on old kernels.
func dportBytecode(p ports) []byte {
	const each = 8 + 8 + 4 // not less than; not more than; jump to the end
	ne := binary.NativeEndian
	op := func(b []byte, code, yes uint8, no int) []byte {
		return ne.AppendUint16(append(b, code, yes), uint16(no))
	}
	var b []byte
	for i, port := range p {
		rest := (len(p) - i - 1) * each
		b = op(b, diagDportGE, 8, each)
		b = op(b, 0, 0, int(port))
		b = op(b, diagDportLE, 8, each-8)
		b = op(b, 0, 0, int(port))
		b = op(b, diagJump, 4, 4+rest+4)
	}
	return op(b, diagJump, 4, 8)
}
