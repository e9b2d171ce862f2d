package store

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"osm/policy"
)

// Connection is a stored connection that bypassed Exim, as JSON shows it.
type Connection struct {
	Ref              string    `json:"ref"`
	At               Time      `json:"at"`
	Account          string    `json:"account"`
	UID              *int64    `json:"uid"` // null: not known, and so nobody's
	Source           string    `json:"source"`
	SeenBy           string    `json:"seen_by"` // ebpf, packet or poll
	Local            string    `json:"local"`   // address:port of this host; without what is not known
	Remote           string    `json:"remote"`
	Outcome          string    `json:"outcome"`
	PID              int64     `json:"pid"` // 0: not known
	Executable       string    `json:"executable"`
	Arguments        []string  `json:"arguments"`
	StartedBy        *Process  `json:"started_by"` // the first of its parents that another user owns
	WorkingDirectory string    `json:"working_directory"`
	Script           string    `json:"script"`
	Cgroup           string    `json:"cgroup"`
	Basis            string    `json:"basis"`
	Would            string    `json:"would"`
	Reason           string    `json:"reason"`
	Trigger          string    `json:"trigger"`
	Over             []Over    `json:"over"`
	Processes        []Process `json:"processes,omitempty"` // with its parents, nearest first; only of one connection

	Seq     uint64 `json:"-"`
	SubKey  string `json:"-"`
	Claimed bool   `json:"-"`
	Counted bool   `json:"-"`
}

// Process is a process that was looked at when it connected.
type Process struct {
	PID              int64    `json:"pid"`
	UID              int64    `json:"uid"`
	Executable       string   `json:"executable"`
	WorkingDirectory string   `json:"working_directory"`
	Arguments        []string `json:"arguments"`
	ArgumentsCut     bool     `json:"arguments_cut,omitempty"` // there were more than are kept
	Started          int64    `json:"started"`                 // clock ticks since boot
}

// Bounds of what is kept of the processes of one connection, in bytes but for the first two.
const (
	chainMax      = 8
	argsMax       = 64
	argsBytes     = 2 << 10 // of all arguments of all processes, the nearest first
	processesMax  = 12 << 10
	cgroupMax     = 256
	seenMax       = 16
	connectionRow = 160 // about what it takes beside its texts
)

// connection is the part of a row that a message has not. It shares no memory with the
// submission.
type connection struct {
	seen, cgroup, processes string
	local, remote           netip.AddrPort
	uid                     value
	outcome, pid            int64
}

// bytes is about how much memory it takes while it waits.
func (c *connection) bytes() int {
	return connectionRow + len(c.seen) + len(c.cgroup) + len(c.processes)
}

// packConnection bounds and cleans what is known of a connection.
func packConnection(d *policy.Connection) *connection {
	c := &connection{
		seen: clean(d.Seen, seenMax), local: d.Local, remote: d.Remote, outcome: int64(d.Outcome),
		cgroup: clean(d.Cgroup, cgroupMax), processes: processesJSON(d.Chain),
	}
	if d.UIDKnown {
		c.uid = int64(d.UID)
	}
	if len(d.Chain) > 0 {
		c.pid = int64(d.Chain[0].PID)
	}
	return c
}

// processesJSON writes the nearest processes that fit into the column.
func processesJSON(chain []policy.Process) string {
	chain = chain[:min(len(chain), chainMax)]
	list, left := make([]Process, len(chain)), argsBytes
	for i := range chain {
		p := &chain[i]
		one := Process{PID: int64(p.PID), UID: int64(p.UID), Started: p.Started, Arguments: []string{},
			Executable: clean(p.Executable, textMax[textScript]), WorkingDirectory: clean(p.WorkingDirectory, textMax[textDirectory])}
		for _, arg := range p.Args {
			if left <= 0 || len(one.Arguments) == argsMax {
				one.ArgumentsCut = true
				break
			}
			kept := clean(arg, left)
			one.ArgumentsCut = one.ArgumentsCut || len(kept) < len(arg)
			one.Arguments = append(one.Arguments, kept)
			left -= len(kept) + 1
		}
		list[i] = one
	}
	var b bytes.Buffer
	for ; len(list) > 0; list = list[:len(list)-1] {
		b.Reset()
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false) // who shows it escapes it
		if e.Encode(list) == nil && b.Len() <= processesMax {
			return strings.TrimSuffix(b.String(), "\n")
		}
	}
	return "[]"
}

const insertConnection = `INSERT OR IGNORE INTO connections (seq, seen, local_ip, local_port, remote_ip, remote_port, uid, outcome, pid, cgroup, processes)
	VALUES (?,?,?,?,?,?,?,?,?,?,?)`

// connect stores the part of a decision that a message has not.
func (w *writer) connect(r *row) error {
	c := r.connection
	for i, v := range [...]value{int64(r.seq), c.seen, address(c.local.Addr()), int64(c.local.Port()), address(c.remote.Addr()), int64(c.remote.Port()),
		c.uid, c.outcome, c.pid, c.cgroup, c.processes} {
		w.st.connection.set(i, v)
	}
	return w.st.connection.run()
}

const (
	connectionColumns = decisionColumns + `, directory_account, seen, local_ip, local_port, remote_ip, remote_port, uid, outcome, pid, cgroup, processes`
	connectionFirst   = 23 // the place of seen among them
)

// connection reads a row of connectionColumns.
func (c *cursor) connection(ctx context.Context, v []value, key *[16]byte) (Connection, error) {
	d, err := c.decision(ctx, v, key)
	if err != nil {
		return Connection{}, err
	}
	of := v[connectionFirst:]
	out := Connection{
		Ref: d.Ref, At: d.At, Account: d.Account, Source: d.Source, SeenBy: str(of[0]), Outcome: policy.Outcome(integer(of[6])).String(),
		Local: endpoint(of[1], of[2]), Remote: endpoint(of[3], of[4]), PID: integer(of[7]), Arguments: []string{}, WorkingDirectory: d.WorkingDirectory,
		Script: d.Script, Cgroup: str(of[8]), Basis: d.Basis, Would: d.Would, Reason: d.Reason, Trigger: d.Trigger, Over: d.Over,
		Seq: d.Seq, SubKey: d.SubKey, Claimed: d.Claimed, Counted: d.Counted,
	}
	if uid, known := of[5].(int64); known {
		out.UID = &uid
	}
	if err := json.Unmarshal([]byte(str(of[9])), &out.Processes); err != nil {
		return out, fmt.Errorf("read the processes of connection %s: %w", d.Ref, err)
	}
	out.fromProcesses()
	return out, nil
}

// fromProcesses fills in what the processes tell.
func (c *Connection) fromProcesses() {
	if c.Over == nil {
		c.Over = []Over{}
	}
	if len(c.Processes) == 0 {
		return
	}
	first := &c.Processes[0]
	c.Executable, c.Arguments = first.Executable, first.Arguments
	for i := range c.Processes {
		if c.Processes[i].UID != first.UID {
			c.StartedBy = &c.Processes[i]
			return
		}
	}
}

// ConnectionOf is a connection as the API shows it, before it is stored: the same as it
// comes back.
func ConnectionOf(d *policy.Decision) Connection {
	id, at := &d.Identity, d.Submission.Direct
	c := packConnection(at)
	out := Connection{
		Ref: d.Ref, At: Time{d.At.Wall}, Account: id.Account, Source: id.Source.String(), SeenBy: c.seen, Outcome: at.Outcome.String(),
		Local: endpointText(at.Local.Addr(), at.Local.Port()), Remote: endpointText(at.Remote.Addr(), at.Remote.Port()), PID: c.pid, Arguments: []string{},
		WorkingDirectory: clean(id.Directory, textMax[textDirectory]), Script: clean(id.Script, textMax[textScript]), Cgroup: c.cgroup,
		Basis: clean(id.Basis, textMax[textBasis]), Would: d.Would.String(), Reason: d.Reason.String(), Trigger: d.Trigger,
		Seq: d.Seq, SubKey: id.SubKey, Claimed: id.Claimed, Counted: d.Counted,
	}
	if uid, known := c.uid.(int64); known {
		out.UID = &uid
	}
	// What was written a moment ago is read: it cannot fail.
	_ = json.Unmarshal([]byte(c.processes), &out.Processes)
	if len(d.Over) > 0 {
		_ = json.Unmarshal([]byte(overJSON(d.Over)), &out.Over)
	}
	out.fromProcesses()
	return out
}

func endpoint(ip, port value) string { return endpointText(addressOf(ip), uint16(integer(port))) }

// endpointText writes an end of a connection as far as it is known.
func endpointText(ip netip.Addr, port uint16) string {
	switch {
	case !ip.IsValid():
		return ""
	case port == 0:
		return ip.Unmap().String()
	}
	return netip.AddrPortFrom(ip.Unmap(), port).String()
}

// ConnectionFilter says which connections are wanted; what is left empty does not matter.
type ConnectionFilter struct {
	Account          string
	Accounts         []string // of any of these; nil = of everybody
	Since            time.Time
	Until            time.Time // before
	Directory        string
	DirectoryAccount string // whose directory it is, be it by a claim
	SubKey           string // who it was within an account that stands for many
	Remote           netip.Prefix
	RemotePort       uint16
	UID              *int64
	Counted          bool // only those that entered the windows
	Limit            int
	After            string // what the page before gave as next
}

// decisions are the conditions that every decision can meet.
func (f *ConnectionFilter) decisions() *DecisionFilter {
	return &DecisionFilter{Account: f.Account, Accounts: f.Accounts, Since: f.Since, Until: f.Until, Directory: f.Directory, DirectoryAccount: f.DirectoryAccount,
		SubKey: f.SubKey, Counted: f.Counted, Source: policy.SourceDirect.String(), Limit: f.Limit, After: f.After}
}

// Connections lists connections, the newest first. next is "" at the end. A search that
// takes too long ends early, with what was found and where to go on.
func (s *Store) Connections(ctx context.Context, f ConnectionFilter) (list []Connection, next string, err error) {
	list = []Connection{}
	err = s.read(ctx, "list connections", func(ctx context.Context, c *cursor) error {
		next, err = s.searchConnections(ctx, c, &f, &list)
		return err
	})
	if err != nil {
		return nil, "", err
	}
	return list, next, nil
}

// ConnectionsThatFilled lists the counted connections of one counter between two moments,
// the newest first; see [Store.MessagesThatFilled].
func (s *Store) ConnectionsThatFilled(ctx context.Context, k Filled, from, to time.Time, limit int) ([]Connection, error) {
	f := ConnectionFilter{Since: from, Until: to, Counted: true, Limit: limit}
	switch k.Watch {
	case policy.WatchDirect:
		f.Account, f.SubKey = k.Account, k.subKey()
	case policy.WatchDirectDirectory:
		f.DirectoryAccount, f.Directory = k.Account, k.Directory
	default:
		return nil, fmt.Errorf("list connections: a %s trigger counts no connections", k.Watch)
	}
	list, _, err := s.Connections(ctx, f)
	return list, err
}

// searchConnections fills a page of connections.
func (s *Store) searchConnections(ctx context.Context, c *cursor, f *ConnectionFilter, list *[]Connection) (next string, err error) {
	of := f.decisions()
	where, args, none, err := c.where(ctx, of)
	if err != nil || none {
		return "", err
	}
	p, err := c.paging(ctx, of)
	if err != nil {
		return "", err
	}
	// Of one account an index knows them; of everybody they are walked through as they are.
	from := "connections CROSS JOIN decisions"
	if f.Account != "" {
		from, p.straight = "decisions CROSS JOIN connections", true
		p.spans = []span{{0, math.MaxInt64}}
	} else if p.spans, err = c.minuteSpans(ctx, "connections", f.Since, p.until); err != nil {
		return "", err
	}
	more, moreArgs := f.where()
	query := "SELECT " + connectionColumns + " FROM " + from + " USING (seq) WHERE seq BETWEEN ? AND ? AND at >= ? AND at < ?" + where + more + " ORDER BY seq DESC"
	limit, key := bounded(f.Limit), s.refKey.Load()
	return p.each(func(low, high int64) error {
		return c.each(ctx, query, slices.Concat([]value{low, high, ms(f.Since), ms(p.until)}, args, moreArgs), func(v []value) error {
			if ok, err := c.matches(ctx, v, of); err != nil || !ok {
				return err
			}
			one, err := c.connection(ctx, v, key)
			if err != nil {
				return err
			}
			one.Processes = nil // shown with one connection only
			if *list = append(*list, one); len(*list) == limit {
				return errEnough
			}
			return nil
		})
	}, func() uint64 {
		if len(*list) == 0 {
			return 0
		}
		return (*list)[len(*list)-1].Seq
	})
}

// where writes the conditions that only a connection can meet.
func (f *ConnectionFilter) where() (where string, args []value) {
	if f.UID != nil {
		where, args = where+" AND uid = ?", append(args, *f.UID)
	}
	if f.Remote.IsValid() {
		first, last := ends(f.Remote)
		where, args = where+" AND length(remote_ip) = ? AND remote_ip BETWEEN ? AND ?", append(args, int64(len(first)), first, last)
	}
	if f.RemotePort != 0 {
		where, args = where+" AND remote_port = ?", append(args, int64(f.RemotePort))
	}
	return where, args
}

// connectionSources are where the decision of a connection may stand.
var connectionSources = []string{
	"SELECT " + connectionColumns + " FROM decisions CROSS JOIN connections USING (seq)",
	"SELECT " + connectionColumns + " FROM kept CROSS JOIN connections USING (seq)",
}

// ConnectionBySeq finds a connection by its number, also one that is too old to be kept but
// that an event still names. The error is [ErrNotFound] if there is none, as for the number
// of a message.
func (s *Store) ConnectionBySeq(ctx context.Context, seq uint64) (out Connection, err error) {
	err = s.read(ctx, "find connection", func(ctx context.Context, c *cursor) error {
		return c.firstOf(ctx, connectionSources, "seq = ?", []value{int64(seq)}, func(v []value) (err error) {
			out, err = c.connection(ctx, v, s.refKey.Load())
			return err
		})
	})
	return out, err
}

// connectionsOf lists the connections that an event kept.
func (s *Store) connectionsOf(ctx context.Context, c *cursor, event int64) (list []Connection, err error) {
	const ofEvent = " WHERE seq IN (SELECT seq FROM event_messages WHERE event = ?1)"
	query := strings.Join(connectionSources, ofEvent+" UNION ALL ") + ofEvent + " ORDER BY 1"
	err = c.each(ctx, query, []value{event}, func(v []value) error {
		one, err := c.connection(ctx, v, s.refKey.Load())
		one.Processes = nil
		list = append(list, one)
		return err
	})
	return list, err
}
