package packetmon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"osm/internal/origin"
)

const (
	addressesFresh    = 60 * time.Second // how long this host's addresses are believed
	addressesAgain    = time.Second      // how soon they are read again for one that is not among them
	listenerFresh     = 60 * time.Second // how long it is believed what a listener is
	listenerTime      = 100 * time.Millisecond
	maxKnownListeners = 256
	// maxServerEnds bounds the questions about one connection: hosts may have thousands of
	// addresses, while redirecting rules lead to the loopback address or to the client's own.
	maxServerEnds = 8
	maxSearches   = 50 // a second: walks through all sockets, of a millisecond or more each
)

// ownAddresses knows this host's addresses. It is safe for concurrent use.
type ownAddresses struct {
	boot func() int64

	mu   sync.Mutex
	set  map[netip.Addr]bool
	list []netip.Addr // of set, in the kernel's order
	read int64        // boot time; 0 = never
	err  error
}

// has reports whether a is an address of this host. Whatever is in no list of addresses,
// such as all of 127.0.0.0/8, is told by its kind.
func (o *ownAddresses) has(a netip.Addr) bool {
	if a.IsLoopback() {
		return true
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	age := time.Duration(o.boot() - o.read)
	known := o.set[a]
	if o.read == 0 || age > addressesFresh || !known && age >= addressesAgain {
		o.refresh()
		known = o.set[a]
	}
	return known
}

// all returns this host's addresses that are of a's family.
func (o *ownAddresses) all(like netip.Addr) []netip.Addr {
	o.has(like) // reads them, if that is due
	o.mu.Lock()
	defer o.mu.Unlock()
	var of []netip.Addr
	for _, a := range o.list {
		if a.Is4() == like.Is4() && len(of) < maxServerEnds {
			of = append(of, a)
		}
	}
	return of
}

// refresh reads the addresses; the old ones stay if it cannot.
func (o *ownAddresses) refresh() {
	o.read = o.boot()
	addresses, err := net.InterfaceAddrs()
	if o.err = err; err != nil {
		return
	}
	set, list := make(map[netip.Addr]bool, len(addresses)), make([]netip.Addr, 0, len(addresses))
	for _, address := range addresses {
		n, ok := address.(*net.IPNet)
		if !ok {
			continue
		}
		if a, ok := netip.AddrFromSlice(n.IP); ok && !set[a.Unmap()] {
			set[a.Unmap()] = true
			list = append(list, a.Unmap())
		}
	}
	o.set, o.list = set, list
}

// problem says what is lost while the addresses cannot be read.
func (o *ownAddresses) problem() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil {
		return ""
	}
	return fmt.Sprintf("this host's addresses cannot be read (%.200v): connections to its own mail server by one of them may be counted twice; "+
		"let the watch use netlink", o.err)
}

// mailServers tells whether a listener of this host is its mail server.
type mailServers struct {
	diag     *origin.Diag
	holders  func(context.Context, []origin.Socket, []int32, func(origin.Chain, []origin.Socket)) error // [origin.Processes.Holders]
	exim     string
	excluded func(uid uint32) bool
	boot     func() int64
	kinds    map[origin.Socket]listenerKind // for one goroutine
}

type listenerKind struct {
	exim  bool
	until int64 // boot time
}

// at returns the listener that takes connections to an address of ours. It is the mail
// server if sure; else that depends on its program ([mailServers.runsExim]), if anybody
// listens at all. Only root can give a user a listener on a port below 1024, so the socket's
// owner says enough for the most.
func (s *mailServers) at(a netip.AddrPort) (listener origin.Socket, sure bool, err error) {
	listener, err = s.diag.Listener(a)
	if err != nil {
		return origin.Socket{}, false, err
	}
	return listener, listener.UID == 0 || s.excluded(listener.UID), nil
}

// known returns what was found out about the listener not long ago, if that was done.
func (s *mailServers) known(listener origin.Socket) (exim, ok bool) {
	if s.exim == "" || listener.Inode == 0 {
		return false, true
	}
	k, ok := s.kinds[listener]
	return k.exim, ok && s.boot() < k.until
}

// runsExim reports whether a process with the listener is seen to run Exim's program. It is
// for one goroutine: it may look through all processes. What could not be seen in time is not
// kept: the mail server's next connections would be counted as passing it by.
func (s *mailServers) runsExim(ctx context.Context, listener origin.Socket) bool {
	ctx, cancel := context.WithTimeout(ctx, listenerTime)
	defer cancel()
	k, told := listenerKind{until: s.boot() + int64(listenerFresh)}, false
	err := s.holders(ctx, []origin.Socket{listener}, nil, func(c origin.Chain, _ []origin.Socket) { k.exim, told = c.RunsExim, !c.Unread })
	if err != nil || !told {
		return false
	}
	if len(s.kinds) >= maxKnownListeners {
		clear(s.kinds) // they are found again
	}
	s.kinds[listener] = k
	return k.exim
}

// redirected reports whether a connection that stands between local and another host ended
// on this host in truth: a firewall rule brought it to our own server, which has the other
// end then. Rules of the nat table lead to the loopback address, and mostly keep the port;
// with all it is also asked for others of our ports and addresses, which costs a question
// for each.
func (s *mailServers) redirected(seen *Seen, own []netip.Addr, ports []uint16, all bool) (bool, error) {
	local, remote := seen.Local, seen.Remote
	if !local.IsValid() || local.Port() == 0 {
		return false, errors.New("the connection's own port is not known")
	}
	loopback := netip.IPv6Loopback()
	if local.Addr().Is4() {
		loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	servers := []netip.AddrPort{netip.AddrPortFrom(loopback, remote.Port()), netip.AddrPortFrom(local.Addr(), remote.Port())}
	if all {
		for _, port := range append([]uint16{remote.Port()}, ports...) {
			for _, a := range append([]netip.Addr{loopback, local.Addr()}, own...) {
				if to := netip.AddrPortFrom(a, port); !slices.Contains(servers, to) {
					servers = append(servers, to)
				}
			}
		}
	}
	return s.diag.RedirectedTo(local, time.Duration(s.boot()-seen.At), servers)
}

// perSecond lets so many through in each second. It is for one goroutine.
type perSecond struct {
	limit, n int
	second   int64
}

func (p *perSecond) allow(now int64) bool {
	if second := now / int64(time.Second); second != p.second {
		p.second, p.n = second, 0
	}
	p.n++
	return p.n <= p.limit
}
