package control

import (
	"context"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"osm/policy"
	store "osm/sql"
)

// Connection is one connection to a mail port that bypassed Exim.
type Connection = store.Connection

// Process is a process that was looked at when it connected.
type Process = store.Process

// ConnectionFilter says which connections are wanted; what is empty does not matter.
type ConnectionFilter struct {
	Account   string
	Directory string // of the process, exactly
	Remote    string // where to: an address, a network, a port, or an address with its port
	UID       string // of the socket
	Since     time.Time
}

// destinations are those that a filter wants; what is not set does not matter.
type destinations struct {
	net  netip.Prefix
	port uint16
}

func (d destinations) contain(to netip.AddrPort) bool {
	return (!d.net.IsValid() || d.net.Contains(to.Addr().Unmap())) && (d.port == 0 || d.port == to.Port())
}

// parseRemote reads where connections are wanted to go.
func parseRemote(s string) (d destinations, err error) {
	if n, err := strconv.ParseUint(strings.TrimPrefix(s, ":"), 10, 16); err == nil && n > 0 {
		return destinations{port: uint16(n)}, nil
	}
	if to, err := netip.ParseAddrPort(s); err == nil && to.Port() != 0 {
		ip := to.Addr().WithZone("").Unmap()
		return destinations{netip.PrefixFrom(ip, ip.BitLen()), to.Port()}, nil
	}
	if p, err := netip.ParsePrefix(s); err == nil && !p.Addr().Is4In6() {
		return destinations{net: p.Masked()}, nil
	}
	if ip, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		ip = ip.WithZone("").Unmap()
		return destinations{net: netip.PrefixFrom(ip, ip.BitLen())}, nil
	}
	return d, badRequest("remote is %.60q: it is an address, a network such as 192.0.2.0/24, a port such as :25, or an address with its port", s)
}

// wanted checks a filter and reads its parts.
func (s *Service) wanted(a Actor, f *ConnectionFilter) (to destinations, uid *int64, err error) {
	if f.Account != "" {
		if err := s.mayAccount(a, f.Account); err != nil {
			return to, nil, err
		}
	}
	if f.Remote != "" {
		if to, err = parseRemote(f.Remote); err != nil {
			return to, nil, err
		}
	}
	if f.UID != "" {
		n, err := strconv.ParseUint(f.UID, 10, 32)
		if err != nil {
			return to, nil, badRequest("uid is %.40q: it is the number of a user", f.UID)
		}
		own := int64(n)
		uid = &own
	}
	return to, uid, nil
}

// Connections lists connections that bypassed Exim, the newest first.
func (s *Service) Connections(ctx context.Context, a Actor, f ConnectionFilter, p Page) (List[Connection], error) {
	to, uid, err := s.wanted(a, &f)
	if err != nil {
		return List[Connection]{}, err
	}
	if err := pageMark(p); err != nil {
		return List[Connection]{}, err
	}
	s.upToDate(ctx)
	list, next, err := s.o.Store.Connections(ctx, store.ConnectionFilter{Account: f.Account, Accounts: s.ownAccounts(a), Since: f.Since, Directory: f.Directory,
		Remote: to.net, RemotePort: to.port, UID: uid, Limit: p.Limit, After: p.After})
	return List[Connection]{Items: s.seenConnections(a, list), Next: next}, found(err, "", "no connections")
}

// seenConnections are those that the actor may see, as far as he may see them.
func (s *Service) seenConnections(a Actor, list []Connection) []Connection {
	out := make([]Connection, 0, len(list))
	for i := range list {
		if s.visible(a, list[i].Account) {
			out = append(out, discreet(a, list[i]))
		}
	}
	return out
}

// discreet leaves out what a reseller is not to read: what the processes of other users
// than the account's were told.
func discreet(a Actor, c Connection) Connection {
	if a.Role == Operator {
		return c
	}
	hidden := func(p Process) Process {
		p.WorkingDirectory, p.Arguments, p.ArgumentsCut = "", []string{}, false
		return p
	}
	if c.StartedBy != nil {
		p := hidden(*c.StartedBy)
		c.StartedBy = &p
	}
	processes := make([]Process, 0, len(c.Processes))
	for _, p := range c.Processes {
		if p.UID != c.Processes[0].UID {
			p = hidden(p)
		}
		processes = append(processes, p)
	}
	c.Processes = processes
	return c
}

// ConnectionLine is one line of the stream of connections.
type ConnectionLine struct {
	*Connection
	Missed uint64 `json:"missed,omitempty"` // as in a [TailLine]
	Idle   bool   `json:"idle,omitempty"`
}

// TailConnections calls f for each connection as it is seen, until ctx ends or f fails;
// see [Service.Tail].
func (s *Service) TailConnections(ctx context.Context, a Actor, w ConnectionFilter, f func(ConnectionLine) error) error {
	to, uid, err := s.wanted(a, &w)
	if err != nil {
		return err
	}
	keep := func(d *policy.Decision) bool {
		if !isConnection(d) {
			return false
		}
		c := d.Submission.Direct
		return (w.Account == "" || d.Identity.Account == w.Account || d.Identity.DirectoryAccount == w.Account) &&
			(w.Directory == "" || d.Identity.Directory == w.Directory) && (uid == nil || c.UIDKnown && int64(c.UID) == *uid) &&
			to.contain(c.Remote) && s.visible(a, d.Identity.Account)
	}
	return s.follow(ctx, keep, func(d *policy.Decision, missed uint64) error {
		if d == nil {
			return f(ConnectionLine{Idle: true})
		}
		one := discreet(a, store.ConnectionOf(d))
		one.Processes = nil
		return f(ConnectionLine{Connection: &one, Missed: missed})
	})
}

// isConnection reports whether a decision is about a connection, not about a message.
func isConnection(d *policy.Decision) bool {
	return d.Identity.Source == policy.SourceDirect && d.Submission != nil && d.Submission.Direct != nil
}

// connectionRoutes are the operations on what bypasses Exim.
func connectionRoutes(s *Service) map[string]operation {
	filter := func(c *call, since time.Time) ConnectionFilter {
		q := c.URL.Query()
		return ConnectionFilter{Account: q.Get("account"), Directory: q.Get("directory"), Remote: q.Get("remote"), UID: q.Get("uid"), Since: since}
	}
	return map[string]operation{
		"GET /v1/connections": listed(s, func(ctx context.Context, c *call, p Page, since time.Time) (List[Connection], error) {
			return s.Connections(ctx, c.actor, filter(c, since), p)
		}),
		"GET /v1/connections/tail": streamed(func(ctx context.Context, c *call, line func(any) error) error {
			return s.TailConnections(ctx, c.actor, filter(c, time.Time{}), func(l ConnectionLine) error { return line(l) })
		}),
	}
}
