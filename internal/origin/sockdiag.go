package origin

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// diagTimeout bounds waiting for a socket, and then asking. The kernel answers within
	// microseconds; only a machine that gives us no processor needs more, and without an
	// answer the message is nobody's.
	diagTimeout = 100 * time.Millisecond
	// diagSockets is how many look-ups run at once; each keeps a socket of its own. Those
	// of a busy machine may sleep while they hold one.
	diagSockets = 16

	sockDiagByFamily = 20      // linux/sock_diag.h
	diagRequestLen   = 16 + 56 // nlmsghdr + inet_diag_req_v2
	diagAnswerLen    = 72      // inet_diag_msg
	maxDiagAnswers   = 1024    // of one dump: only sockets on one source port

	// Kernel's enum of TCP states: those in which a connection still has an owner.
	tcpEstablished, tcpSynSent, tcpFinWait1, tcpFinWait2, tcpCloseWait = 1, 2, 4, 5, 8
	tcpSynRecv, tcpTimeWait, tcpListen                                 = 3, 6, 10

	// timeWait is how long the kernel remembers a connection that was closed here first.
	timeWait = 60 * time.Second

	ownedStates = 1<<tcpEstablished | 1<<tcpSynSent | 1<<tcpFinWait1 | 1<<tcpFinWait2 | 1<<tcpCloseWait
)

// Diag finds out whose a connection's end is, by the kernel's sock_diag. It needs no
// privilege. It is safe for concurrent use; its sockets are opened at the first use
// and kept.
//
// Netlink is spoken by hand: one exact question costs some microseconds, while the
// libraries dump all sockets or read /proc/net/tcp, a hundred times slower.
type Diag struct {
	sockets chan *diagSocket
}

// NewDiag returns a Diag that has opened nothing yet.
func NewDiag() *Diag {
	d := &Diag{sockets: make(chan *diagSocket, diagSockets)}
	for range diagSockets {
		d.sockets <- &diagSocket{}
	}
	return d
}

// Close closes the kept sockets. Look-ups that run meanwhile end first.
func (d *Diag) Close() error {
	var errs []error
	for range diagSockets {
		s := <-d.sockets
		errs = append(errs, s.close())
	}
	return errors.Join(errs...)
}

// ClientOwner returns the uid that owns the client's end of a connection from client
// to server, both on this host, and the inode of its socket.
//
// A connection that a firewall rule redirected to us is known to the kernel by the
// address the client wanted, so it is looked for by source port then, if our own end of it
// still stands: else the client is gone, and what has the same port is a neighbour's. The
// answer is [ErrNotFound] when the client is gone, and when the kernel says "uid 0, inode
// 0", which means that nobody owns the connection any more and never that root does.
func (d *Diag) ClientOwner(client, server netip.AddrPort) (uid, inode uint32, err error) {
	o, err := d.Client(client, server)
	return o.UID, o.Inode, err
}

// Client is [Diag.ClientOwner] with where the client wanted to go.
func (d *Diag) Client(client, server netip.AddrPort) (Outgoing, error) {
	return d.owner(client, server, func() bool { return true }, tcpEstablished)
}

// with asks by a socket of its own, about a connection's end.
func (d *Diag) with(end netip.AddrPort, ask func(*diagSocket) error) error {
	timer := time.NewTimer(diagTimeout)
	defer timer.Stop()
	var s *diagSocket
	select {
	case s = <-d.sockets:
	case <-timer.C:
		return fmt.Errorf("find the owner of %v: all look-ups busy", end)
	}
	defer func() { d.sockets <- s }()
	if err := s.open(time.Now().Add(diagTimeout)); err != nil {
		return err
	}
	err := ask(s)
	if err != nil && !errors.Is(err, ErrNotFound) {
		// An answer may still be on its way: it must not meet the next question.
		err = errors.Join(fmt.Errorf("find the owner of %v: %w", end, err), s.close())
	}
	return err
}

func unmapped(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// ClientOwner is [Diag.ClientOwner] on a socket of its own: for tools that ask once.
func ClientOwner(client, server netip.AddrPort) (uid, inode uint32, err error) {
	d := NewDiag()
	uid, inode, err = d.ClientOwner(client, server)
	return uid, inode, errors.Join(err, d.Close())
}

// diagSocket is one kept netlink socket; f is nil until it is used.
type diagSocket struct {
	f   *os.File
	seq uint32
	buf [16 << 10]byte
}

func (s *diagSocket) open(deadline time.Time) error {
	if s.f == nil {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_SOCK_DIAG)
		if err != nil {
			return fmt.Errorf("open a sock_diag socket: %w", err)
		}
		s.f = os.NewFile(uintptr(fd), "sock_diag")
	}
	if err := s.f.SetDeadline(deadline); err != nil {
		return errors.Join(fmt.Errorf("set a deadline on sock_diag: %w", err), s.close())
	}
	return nil
}

func (s *diagSocket) close() error {
	if s.f == nil {
		return nil
	}
	err := s.f.Close()
	s.f = nil
	return err
}

// exact asks for the one connection; known is false if there is none. The kernel answers with a listener on the same
// address and port when there is no such connection, so the answer's addresses are
// compared: anybody can listen on a port that has just become free.
func (s *diagSocket) exact(client, server netip.AddrPort) (uid, inode uint32, known bool, err error) {
	for _, family := range families(client) {
		sockets, err := s.ask(diagRequest{family: family, source: client, destination: server})
		if err != nil {
			return 0, 0, false, err
		}
		for _, a := range sockets {
			if a.source == client && a.destination == server {
				uid, inode, err := a.owner()
				return uid, inode, true, err
			}
		}
	}
	return 0, 0, false, nil
}

// families lists what to ask for: an IPv4 connection may belong to a socket of either
// family.
func families(client netip.AddrPort) []uint8 {
	if client.Addr().Is4() {
		return []uint8{unix.AF_INET, unix.AF_INET6}
	}
	return []uint8{unix.AF_INET6}
}

// redirected asks for all connections from the client's port and takes the one that
// was on its way to a mail port. Several users may share a source port towards
// different destinations: unless all candidates belong to one, nobody is named. Where they
// go different ways, wanted is not valid.
func (s *diagSocket) redirected(client, server netip.AddrPort) (uid, inode uint32, wanted netip.AddrPort, err error) {
	found := false
	for _, family := range families(client) {
		sockets, err := s.ask(diagRequest{family: family, source: client, dump: true})
		if err != nil {
			return 0, 0, netip.AddrPort{}, err
		}
		for _, a := range sockets {
			if a.source != client || !mailPort(a.destination.Port(), server.Port()) {
				continue
			}
			u, i, err := a.owner()
			if err != nil || found && u != uid {
				return 0, 0, netip.AddrPort{}, ErrNotFound
			}
			if found && wanted != a.destination {
				wanted = netip.AddrPort{}
			} else if !found {
				wanted = a.destination
			}
			uid, inode, found = u, i, true
		}
	}
	if !found {
		return 0, 0, netip.AddrPort{}, ErrNotFound
	}
	return uid, inode, wanted, nil
}

// stands returns [ErrNotFound] unless the connection's other end, from server to client, is
// in one of these states, or in any if there are none. It is asked last: a client that reset
// its connection and was not found has taken that end with it by now.
func (s *diagSocket) stands(server, client netip.AddrPort, states ...uint8) error {
	for _, family := range families(server) {
		if found, err := s.hasEnd(family, server, client, states); err != nil || found {
			return err
		}
	}
	return ErrNotFound
}

func (s *diagSocket) hasEnd(family uint8, server, client netip.AddrPort, states []uint8) (bool, error) {
	sockets, err := s.ask(diagRequest{family: family, source: server, destination: client})
	for _, a := range sockets {
		if a.source == server && a.destination == client && (len(states) == 0 || slices.Contains(states, a.state)) {
			return true, err
		}
	}
	return false, err
}

// mailPort reports whether a connection to port may have been redirected to server's.
func mailPort(port, server uint16) bool {
	return port == 25 || port == 465 || port == 587 || port == server
}

// ask sends one question and returns the sockets of its answer; none is no error.
func (s *diagSocket) ask(r diagRequest) ([]diagAnswer, error) {
	s.seq++
	request := r.message(s.seq)
	conn, err := s.f.SyscallConn()
	if err != nil {
		return nil, err
	}
	kernel := &unix.SockaddrNetlink{Family: unix.AF_NETLINK}
	if err := atOnce(conn, conn.Write, func(fd int) error { return unix.Sendto(fd, request, 0, kernel) }); err != nil {
		return nil, err
	}
	var all []diagAnswer
	for len(all) <= maxDiagAnswers {
		var n int
		var from unix.Sockaddr
		if err := atOnce(conn, conn.Read, func(fd int) (err error) {
			n, from, err = unix.Recvfrom(fd, s.buf[:], 0)
			return err
		}); err != nil {
			return nil, err
		}
		if nl, ok := from.(*unix.SockaddrNetlink); !ok || nl.Pid != 0 {
			continue // not from the kernel
		}
		answers, done, err := parseDiag(s.buf[:n], s.seq)
		all = append(all, answers...)
		if err != nil || done || !r.dump && len(all) > 0 {
			return all, err
		}
	}
	return nil, fmt.Errorf("more than %d sockets on one port", maxDiagAnswers)
}

// atOnce does what need not wait, and else waits for it until the deadline. The kernel
// answers while it is being asked: no deadline may come between, which passes where a busy
// machine gives us no processor.
func atOnce(conn syscall.RawConn, wait func(func(fd uintptr) bool) error, do func(fd int) error) error {
	var done error
	if err := conn.Control(func(fd uintptr) { done = do(int(fd)) }); err != nil {
		return err
	}
	if !again(done) {
		return done
	}
	if err := wait(func(fd uintptr) bool { done = do(int(fd)); return !again(done) }); err != nil {
		return err
	}
	return done
}

func again(err error) bool {
	return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR)
}

// diagRequest asks for one connection, or with dump for all from source's port, or to
// destination's if there is one.
type diagRequest struct {
	family              uint8
	source, destination netip.AddrPort
	dump                bool
}

// message builds nlmsghdr and inet_diag_req_v2. An IPv4 address in a question for
// AF_INET6 is written in its mapped form.
func (r diagRequest) message(seq uint32) []byte {
	ne, be := binary.NativeEndian, binary.BigEndian
	b := make([]byte, diagRequestLen)
	ne.PutUint32(b, diagRequestLen)
	ne.PutUint16(b[4:], sockDiagByFamily)
	flags := uint16(unix.NLM_F_REQUEST)
	states := ^uint32(0)
	if r.dump {
		flags |= unix.NLM_F_DUMP
		states = ownedStates
	}
	ne.PutUint16(b[6:], flags)
	ne.PutUint32(b[8:], seq)
	b[16], b[17] = r.family, unix.IPPROTO_TCP
	ne.PutUint32(b[20:], states)
	be.PutUint16(b[24:], r.source.Port())
	be.PutUint16(b[26:], r.destination.Port())
	if !r.dump {
		putAddr(b[28:44], r.source.Addr(), r.family)
		putAddr(b[44:60], r.destination.Addr(), r.family)
	}
	ne.PutUint64(b[64:], ^uint64(0)) // no cookie
	return b
}

func putAddr(dst []byte, a netip.Addr, family uint8) {
	if family == unix.AF_INET && a.Is4() {
		v4 := a.As4()
		copy(dst, v4[:])
		return
	}
	v6 := a.As16()
	copy(dst, v6[:])
}

// diagAnswer is one socket as the kernel describes it; addresses are unmapped.
type diagAnswer struct {
	source, destination netip.AddrPort
	uid, inode          uint32
	cookie              uint64
	state               uint8
	expires             time.Duration // until the state's timer runs out
}

// waited is for how long a connection in the state TIME_WAIT has been in it.
func (a diagAnswer) waited() time.Duration { return timeWait - a.expires }

// owner returns the socket's owner. A closed connection that the kernel still keeps
// (TIME_WAIT, on kernels before 6.17 FIN_WAIT1 too) shows uid 0 and inode 0.
func (a diagAnswer) owner() (uid, inode uint32, err error) {
	if a.uid == 0 && a.inode == 0 {
		return 0, 0, ErrNotFound
	}
	return a.uid, a.inode, nil
}

// parseDiag reads one datagram of answers to question seq; done is true when no more
// follow. "No such connection" is an empty answer and no error.
func parseDiag(b []byte, seq uint32) (answers []diagAnswer, done bool, err error) {
	done, err = eachAnswer(b, seq, func(a diagAnswer) { answers = append(answers, a) })
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) {
		err = nil // EINVAL: a kernel without that family
	}
	return answers, done, err
}

// TCPSocket is one TCP socket as sock_diag describes it; addresses are unmapped.
type TCPSocket struct {
	Local, Remote netip.AddrPort
	UID, Inode    uint32 // both 0: nobody has it any more
	Cookie        uint64 // no other socket has the same until the next boot
	State         uint8  // of the kernel's enum of TCP states
}

// ParseSockets reads one datagram of sock_diag's answers to question seq; done is true when
// no more follow. What the kernel refused is an errno.
func ParseSockets(b []byte, seq uint32, each func(TCPSocket)) (done bool, err error) {
	return eachAnswer(b, seq, func(a diagAnswer) {
		each(TCPSocket{Local: a.source, Remote: a.destination, UID: a.uid, Inode: a.inode, Cookie: a.cookie, State: a.state})
	})
}

func eachAnswer(b []byte, seq uint32, each func(diagAnswer)) (done bool, err error) {
	ne := binary.NativeEndian
	for len(b) >= unix.NLMSG_HDRLEN {
		size := int(ne.Uint32(b))
		if size < unix.NLMSG_HDRLEN || size > len(b) {
			return true, fmt.Errorf("sock_diag answer of %d bytes says %d", len(b), size)
		}
		kind, same := ne.Uint16(b[4:]), ne.Uint32(b[8:]) == seq
		body := b[unix.NLMSG_HDRLEN:size]
		b = b[min(len(b), (size+3)&^3):]
		if !same {
			continue
		}
		switch kind {
		case unix.NLMSG_DONE:
			return true, diagError(body)
		case unix.NLMSG_ERROR:
			if len(body) < 4 {
				return true, errors.New("sock_diag error without a number")
			}
			return true, diagError(body)
		case sockDiagByFamily:
			if a, ok := parseDiagAnswer(body); ok {
				each(a)
			}
		}
	}
	return false, nil
}

// diagError is what an error or the end of a dump says; the end has no number on old kernels.
func diagError(body []byte) error {
	if len(body) < 4 {
		return nil
	}
	if n := int32(binary.NativeEndian.Uint32(body)); n < 0 {
		return fmt.Errorf("ask sock_diag: %w", unix.Errno(-int64(n)))
	}
	return nil
}

// parseDiagAnswer reads an inet_diag_msg: family, state, timer, retransmits, id (ports,
// addresses, interface, cookie), expires, rqueue, wqueue, uid, inode.
func parseDiagAnswer(b []byte) (diagAnswer, bool) {
	if len(b) < diagAnswerLen {
		return diagAnswer{}, false
	}
	source, ok1 := diagAddr(b[0], b[8:24])
	destination, ok2 := diagAddr(b[0], b[24:40])
	if !ok1 || !ok2 {
		return diagAnswer{}, false
	}
	ne, be := binary.NativeEndian, binary.BigEndian
	return diagAnswer{
		source:      netip.AddrPortFrom(source, be.Uint16(b[4:])),
		destination: netip.AddrPortFrom(destination, be.Uint16(b[6:])),
		uid:         ne.Uint32(b[64:]),
		inode:       ne.Uint32(b[68:]),
		state:       b[1],
		// two words, the lower one first on every machine
		cookie:  uint64(ne.Uint32(b[48:]))<<32 | uint64(ne.Uint32(b[44:])),
		expires: time.Duration(ne.Uint32(b[52:])) * time.Millisecond,
	}, true
}

func diagAddr(family uint8, b []byte) (netip.Addr, bool) {
	switch family {
	case unix.AF_INET:
		return netip.AddrFrom4([4]byte(b[:4])), true
	case unix.AF_INET6:
		return netip.AddrFrom16([16]byte(b[:16])).Unmap(), true
	}
	return netip.Addr{}, false
}
