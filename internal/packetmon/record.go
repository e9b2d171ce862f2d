package packetmon

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"osm/policy"
)

// The bounds of a record. Everything in its processes was written by whoever runs them.
const (
	maxChain    = 7    // as the reader of processes has it
	maxPath     = 4095 // the kernel's
	maxArgs     = 32
	maxArgBytes = 2048
	maxVariable = 512
	maxCgroup   = 256
	maxBasis    = 1024
	maxTexts    = 40 << 10 // all texts of the processes
	maxSeen     = 16

	// Times on the wire stay within what can be written as a date.
	minMillis, maxMillis = 0, 253_402_300_799_999 // the years 1970 to 9999
)

// Record is one connection that bypassed Exim, with all that could be found out about it.
type Record struct {
	At         time.Time // wall time, UTC, milliseconds
	Connection policy.Connection
}

// bound cuts r to what a record may have, and reports whether it was within already. Paths
// that are too long are dropped, as a part of one is another path. Where all together is too
// much, the process itself is told about before those above it.
func bound(r *Record) (within bool) {
	c := &r.Connection
	b := bounder{within: true}
	ms := r.At.UnixMilli()
	if kept := min(max(ms, minMillis), maxMillis); kept != ms || !r.At.Equal(time.UnixMilli(ms)) || r.At.Location() != time.UTC {
		b.within = b.within && kept == ms && r.At.Equal(time.UnixMilli(ms))
		r.At = time.UnixMilli(kept).UTC()
	}
	if seen := legible(c.Seen, maxSeen); seen != c.Seen {
		c.Seen, b.within = seen, false
	}
	b.cut(&c.Cgroup, maxCgroup)
	b.cut(&c.Basis, maxBasis)
	b.address(&c.Local)
	b.address(&c.Remote)
	if c.Outcome > policy.OutcomeUnanswered {
		c.Outcome, b.within = policy.OutcomeUnknown, false
	}
	if c.UIDKnown && c.Elsewhere {
		c.Elsewhere, b.within = false, false
	}
	if !c.UIDKnown && c.UID != 0 {
		c.UID, b.within = 0, false
	}
	b.chain(c)
	return b.within
}

func (b *bounder) chain(c *policy.Connection) {
	if len(c.Chain) > maxChain {
		c.Chain, b.within = c.Chain[:maxChain], false
	}
	room := maxTexts
	for i := range c.Chain {
		p := &c.Chain[i]
		b.process(p)
		size := textsOf(p)
		if size > room { // of those above, who they are is enough
			p.Args, b.within = nil, false
			p.ScriptFilename, p.RemoteAddr, p.RequestURI, p.ServerName, p.HTTPHost = "", "", "", "", ""
			size = textsOf(p)
		}
		if size > room {
			c.Chain = c.Chain[:i]
			break
		}
		room -= size
	}
	if len(c.Chain) == 0 {
		c.Chain = nil
	}
}

func textsOf(p *policy.Process) int {
	n := len(p.Executable) + len(p.WorkingDirectory) + len(p.ScriptFilename) + len(p.RemoteAddr) + len(p.RequestURI) +
		len(p.ServerName) + len(p.HTTPHost)
	for _, a := range p.Args {
		n += len(a)
	}
	return n
}

// bounder notes whether anything had to be cut.
type bounder struct{ within bool }

func (b *bounder) cut(s *string, limit int) {
	if len(*s) > limit {
		*s, b.within = strings.Clone((*s)[:limit]), false
	}
}

func (b *bounder) path(s *string) {
	if len(*s) > maxPath {
		*s, b.within = "", false
	}
}

// address takes off a zone, which names an interface, and the form of IPv4 in IPv6.
func (b *bounder) address(a *netip.AddrPort) {
	plain := netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
	if !plain.IsValid() {
		plain = netip.AddrPort{}
	}
	if plain != *a {
		*a, b.within = plain, false
	}
}

func (b *bounder) process(p *policy.Process) {
	b.path(&p.Executable)
	b.path(&p.WorkingDirectory)
	for _, v := range []*string{&p.ScriptFilename, &p.RemoteAddr, &p.RequestURI, &p.ServerName, &p.HTTPHost} {
		b.cut(v, maxVariable)
	}
	if len(p.Args) > maxArgs {
		p.Args, b.within = p.Args[:maxArgs:maxArgs], false
	}
	room := maxArgBytes
	for i := range p.Args {
		if len(p.Args[i]) > room {
			args := slices.Clone(p.Args[:i+1])
			args[i] = args[i][:room]
			p.Args, b.within = args, false
			break
		}
		room -= len(p.Args[i])
	}
	if len(p.Args) == 0 {
		p.Args = nil
	}
}

// wireRecord is a record on the wire. Texts that somebody else wrote are base64: they may
// be no UTF-8, and come back byte for byte.
type wireRecord struct {
	At        int64          `json:"at"` // milliseconds
	Seen      string         `json:"seen"`
	Local     netip.AddrPort `json:"local"`
	Remote    netip.AddrPort `json:"remote"`
	UID       *uint32        `json:"uid"` // null if it is not known
	Elsewhere bool           `json:"elsewhere,omitempty"`
	Outcome   string         `json:"outcome"`
	Cgroup64  []byte         `json:"cgroup64,omitempty"`
	Basis64   []byte         `json:"basis64,omitempty"`
	Chain     []wireProcess  `json:"chain,omitempty"`
}

type wireProcess struct {
	PID          int32     `json:"pid"`
	UID          uint32    `json:"uid"`
	Started      int64     `json:"started"`
	Executable64 []byte    `json:"executable64,omitempty"`
	Directory64  []byte    `json:"working_directory64,omitempty"`
	Args64       [][]byte  `json:"args64,omitempty"`
	Variables64  [5][]byte `json:"variables64"`
}

func toWire(r *Record) *wireRecord {
	c := &r.Connection
	w := &wireRecord{At: r.At.UnixMilli(), Seen: c.Seen, Local: c.Local, Remote: c.Remote, Outcome: c.Outcome.String(), Elsewhere: c.Elsewhere,
		Cgroup64: []byte(c.Cgroup), Basis64: []byte(c.Basis)}
	if c.UIDKnown {
		w.UID = &c.UID
	}
	for i := range c.Chain {
		p := &c.Chain[i]
		wp := wireProcess{PID: p.PID, UID: p.UID, Started: p.Started,
			Executable64: []byte(p.Executable), Directory64: []byte(p.WorkingDirectory),
			Variables64: [5][]byte{[]byte(p.ScriptFilename), []byte(p.RemoteAddr), []byte(p.RequestURI), []byte(p.ServerName), []byte(p.HTTPHost)}}
		for _, a := range p.Args {
			wp.Args64 = append(wp.Args64, []byte(a))
		}
		w.Chain = append(w.Chain, wp)
	}
	return w
}

func (w *wireRecord) record() (Record, error) {
	outcome, ok := policy.ParseOutcome(w.Outcome)
	if !ok {
		return Record{}, fmt.Errorf("outcome %.40q of a connection is none of ours", w.Outcome)
	}
	r := Record{At: time.UnixMilli(w.At).UTC(), Connection: policy.Connection{Seen: w.Seen, Local: w.Local, Remote: w.Remote,
		Outcome: outcome, Elsewhere: w.Elsewhere, Cgroup: string(w.Cgroup64), Basis: string(w.Basis64)}}
	c := &r.Connection
	if w.UID != nil {
		c.UID, c.UIDKnown = *w.UID, true
	}
	for i := range w.Chain {
		wp := &w.Chain[i]
		v := &wp.Variables64
		p := policy.Process{PID: wp.PID, UID: wp.UID, Started: wp.Started,
			Executable: string(wp.Executable64), WorkingDirectory: string(wp.Directory64),
			ScriptFilename: string(v[0]), RemoteAddr: string(v[1]), RequestURI: string(v[2]), ServerName: string(v[3]), HTTPHost: string(v[4])}
		for _, a := range wp.Args64 {
			p.Args = append(p.Args, string(a))
		}
		c.Chain = append(c.Chain, p)
	}
	if !bound(&r) {
		return Record{}, errors.New("record of a connection goes beyond its bounds")
	}
	return r, nil
}

// Message is a line of the wire from the watch to the daemon: JSON of maxLine bytes at most,
// ended by a line feed, of a record or of the monitor's status.
type Message struct {
	Record *Record
	Status *Status
}

const maxLine = 64 << 10

type wireLine struct {
	Record *wireRecord `json:"record,omitempty"`
	Status *Status     `json:"status,omitempty"`
}

// AppendMessage writes a line. What goes beyond the bounds is cut.
func AppendMessage(dst []byte, m Message) ([]byte, error) {
	var w wireLine
	if m.Record != nil {
		r := *m.Record
		r.Connection.Chain = slices.Clone(r.Connection.Chain)
		bound(&r)
		w.Record = toWire(&r)
	}
	if m.Status != nil {
		s := *m.Status
		s.bound()
		w.Status = &s
	}
	b, err := json.Marshal(w)
	if err != nil {
		return dst, fmt.Errorf("write a record of a connection: %w", err)
	}
	if len(b) >= maxLine {
		return dst, fmt.Errorf("write a record of a connection: it takes %d bytes", len(b))
	}
	return append(append(dst, b...), '\n'), nil
}

// ParseMessage reads a line, without its line feed. What it returns is within the bounds.
func ParseMessage(b []byte) (Message, error) {
	if len(b) >= maxLine {
		return Message{}, fmt.Errorf("line of %d bytes is too long", len(b))
	}
	var w wireLine
	if err := json.Unmarshal(b, &w); err != nil {
		return Message{}, fmt.Errorf("read what the watch tells: %w", err)
	}
	switch {
	case (w.Record == nil) == (w.Status == nil):
		return Message{}, errors.New("read what the watch tells: neither a record nor a status")
	case w.Status != nil:
		w.Status.bound()
		return Message{Status: w.Status}, nil
	}
	r, err := w.Record.record()
	if err != nil {
		return Message{}, fmt.Errorf("read what the watch tells: %w", err)
	}
	return Message{Record: &r}, nil
}
