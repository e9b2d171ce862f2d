package origin

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Outgoing is this host's end of a connection that goes out.
type Outgoing struct {
	Socket // Inode is 0 once the connection was closed here
	// Wanted is where its owner wanted it to go, if a firewall rule brought it to this host:
	// invalid if that is not known. It was brought here if Redirected.
	Wanted     netip.AddrPort
	Redirected bool
}

// OutgoingOwner returns whose the connection from local to remote is. Where here reports that
// remote is an address of this host, a connection that a firewall rule brought there is
// looked for by its port, as [Diag.ClientOwner] does; here is asked only if nothing is found
// otherwise. [ErrNotFound] means that it is too late to ask: the kernel has forgotten the
// owner, which is never root for that.
func (d *Diag) OutgoingOwner(local, remote netip.AddrPort, here func() bool) (Outgoing, error) {
	return d.owner(local, remote, here, tcpEstablished, tcpSynRecv)
}

// owner looks for the owner of local's end. One that was redirected is believed if remote's
// end stands in one of the states.
func (d *Diag) owner(local, remote netip.AddrPort, here func() bool, states ...uint8) (Outgoing, error) {
	if !local.IsValid() || !remote.IsValid() {
		return Outgoing{}, fmt.Errorf("find the owner of %v to %v: not an address", local, remote)
	}
	local, remote = unmapped(local), unmapped(remote)
	var o Outgoing
	err := d.with(local, func(s *diagSocket) (err error) {
		var known bool
		o.UID, o.Inode, known, err = s.exact(local, remote)
		if err != nil || known {
			return err
		}
		if !here() {
			return ErrNotFound
		}
		o.Redirected = true
		if o.UID, o.Inode, o.Wanted, err = s.redirected(local, remote); err != nil {
			return err
		}
		return s.stands(remote, local, states...)
	})
	if err != nil {
		return Outgoing{}, err
	}
	return o, nil
}

// Connects reports whether a user of this network has a connection from local to remote. Where
// local's port is not known it takes a walk through all sockets.
func (d *Diag) Connects(uid uint32, local, remote netip.AddrPort) (found bool, err error) {
	local, remote = unmapped(local), unmapped(remote)
	err = d.with(local, func(s *diagSocket) error {
		if local.Port() != 0 {
			owner, _, known, err := s.exact(local, remote)
			found = known && err == nil && owner == uid
			return err
		}
		for _, family := range families(local) {
			sockets, err := s.ask(diagRequest{family: family, source: local, destination: remote, dump: true})
			if err != nil {
				return err
			}
			found = found || slices.ContainsFunc(sockets, func(a diagAnswer) bool {
				return a.source.Addr() == local.Addr() && a.destination == remote && a.uid == uid && a.inode != 0
			})
		}
		return nil
	})
	return found, err
}

// ConnectsElsewhere reports whether the user has another connection from local's address and
// port, to a mail port that is not remote. It takes a walk through all sockets.
func (d *Diag) ConnectsElsewhere(uid uint32, local, remote netip.AddrPort) (found bool, err error) {
	local, remote = unmapped(local), unmapped(remote)
	err = d.with(local, func(s *diagSocket) error {
		for _, family := range families(local) {
			sockets, err := s.ask(diagRequest{family: family, source: local, dump: true})
			if err != nil {
				return err
			}
			found = found || slices.ContainsFunc(sockets, func(a diagAnswer) bool {
				return a.source == local && a.destination != remote && a.uid == uid && a.inode != 0 && mailPort(a.destination.Port(), remote.Port())
			})
		}
		return nil
	})
	return found, err
}

// Listener returns the socket that takes connections to an address of this host, which may
// listen on all addresses, or [ErrNotFound]. It is one question, as the kernel looks for the
// listener where a connection is not known.
func (d *Diag) Listener(at netip.AddrPort) (Socket, error) {
	if !at.IsValid() || at.Port() == 0 {
		return Socket{}, fmt.Errorf("find the listener of %v: not an address", at)
	}
	at = unmapped(at)
	nobody := netip.AddrPortFrom(netip.IPv6Unspecified(), 0)
	if at.Addr().Is4() {
		nobody = netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	}
	var listener Socket
	err := d.with(at, func(s *diagSocket) error {
		sockets, err := s.ask(diagRequest{family: families(at)[0], source: at, destination: nobody})
		for _, a := range sockets {
			if a.state == tcpListen && a.source.Port() == at.Port() {
				listener = Socket{UID: a.uid, Inode: a.inode}
				return err
			}
		}
		if err == nil {
			err = ErrNotFound
		}
		return err
	})
	return listener, err
}

// RedirectedTo reports whether a connection from client, begun so long ago, that wanted to go
// elsewhere was brought to one of servers on this host: there the other end stands, or was
// closed since and is not forgotten yet. It costs some microseconds for each.
//
// An end of another connection from the same port proves nothing: anybody may hold one
// connection to this host's server, or have had one a moment ago, and open others from the
// same address and port.
func (d *Diag) RedirectedTo(client netip.AddrPort, age time.Duration, servers []netip.AddrPort) (found bool, err error) {
	client = unmapped(client)
	err = d.with(client, func(s *diagSocket) error {
		for _, server := range servers {
			found, err = s.hasEndOf(client, unmapped(server), age)
			if err != nil || found {
				return err
			}
		}
		return nil
	})
	return found, err
}

// hasEndOf reports whether server has the end of a connection from client that the client
// does not know to be one to server.
func (s *diagSocket) hasEndOf(client, server netip.AddrPort, age time.Duration) (bool, error) {
	// Asked for its own family the kernel knows sockets of both.
	sockets, err := s.ask(diagRequest{family: families(client)[0], source: server, destination: client})
	if err != nil {
		return false, err
	}
	for _, a := range sockets {
		if a.source != server || a.destination != client || a.state == tcpTimeWait && a.waited() > age {
			continue
		}
		_, _, known, err := s.exact(client, server)
		if errors.Is(err, ErrNotFound) { // closed by now
			known, err = true, nil
		}
		return !known, err
	}
	return false, nil
}
