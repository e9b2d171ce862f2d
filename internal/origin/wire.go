package origin

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"osm/policy"
)

// The inspector's wire, on a kept SOCK_STREAM connection, one answer per question in
// their order. All numbers are big-endian; a text is a 16-bit length and its bytes.
//
//	question  9 bytes: kind (1 = chain, 2 = owner, 3 = copy the account maps again,
//	          4 = status page of a pool), then pid and 0, or uid and inode, or 0 and 0,
//	          or the numbers ([PoolNumber]) of the pool's name and address
//	answer    32-bit length of the rest; status; 1 if the parent is Exim, else 0;
//	          number of processes; the processes, nearest first
//	page      the answer to 4: 32-bit length of the rest; status; the status page
//	process   pid, uid (32 bits each), start time (64); executable, working
//	          directory; number of arguments, the arguments; the five variables
const (
	questionLen = 9
	askChain    = 1
	askOwner    = 2
	askMaps     = 3
	askPool     = 4

	statusOK      = 0
	statusGone    = 1 // no such process or socket (any more)
	statusRefused = 2 // not a question, or one that is not answered

	maxParents   = 6
	maxProcesses = 1 + maxParents
	maxPath      = 4096
	maxArgs      = 32
	maxArgBytes  = 4096
	maxVariable  = 512
	maxAnswer    = 128 << 10
	maxPage      = maxAnswer - 1
)

// question is what the inspector can be asked.
type question struct {
	kind       uint8
	pid        uint32 // askChain
	uid, inode uint32 // askOwner

	name, address uint32 // askPool
}

func appendQuestion(dst []byte, q question) []byte {
	first, second := q.uid, q.inode
	switch q.kind {
	case askChain:
		first, second = q.pid, 0
	case askPool:
		first, second = q.name, q.address
	}
	dst = binary.BigEndian.AppendUint32(append(dst, q.kind), first)
	return binary.BigEndian.AppendUint32(dst, second)
}

func parseQuestion(b []byte) (question, error) {
	if len(b) != questionLen {
		return question{}, fmt.Errorf("question of %d bytes, want %d", len(b), questionLen)
	}
	first, second := binary.BigEndian.Uint32(b[1:]), binary.BigEndian.Uint32(b[5:])
	switch {
	case b[0] == askChain && first > 0 && first <= 1<<22 && second == 0: // 1<<22: PID_MAX_LIMIT
		return question{kind: askChain, pid: first}, nil
	case b[0] == askOwner && second != 0:
		return question{kind: askOwner, uid: first, inode: second}, nil
	case b[0] == askMaps && first == 0 && second == 0:
		return question{kind: askMaps}, nil
	case b[0] == askPool:
		return question{kind: askPool, name: first, address: second}, nil
	}
	return question{}, fmt.Errorf("question of kind %d about %d and %d is not one of ours", b[0], first, second)
}

// answer is what the inspector says.
type answer struct {
	status       uint8
	parentIsExim bool
	processes    []policy.Process
}

// appendAnswer writes a frame. Texts beyond their limits are cut.
func appendAnswer(dst []byte, a answer) []byte {
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0, a.status, 0, 0)
	if a.parentIsExim {
		dst[start+5] = 1
	}
	processes := a.processes[:min(len(a.processes), maxProcesses)]
	dst[start+6] = uint8(len(processes))
	for i := range processes {
		dst = appendProcess(dst, &processes[i])
	}
	binary.BigEndian.PutUint32(dst[start:], uint32(len(dst)-start-4))
	return dst
}

func appendProcess(dst []byte, p *policy.Process) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(p.PID))
	dst = binary.BigEndian.AppendUint32(dst, p.UID)
	dst = binary.BigEndian.AppendUint64(dst, uint64(p.Started))
	dst = appendText(dst, p.Executable, maxPath)
	dst = appendText(dst, p.WorkingDirectory, maxPath)
	args := p.Args[:min(len(p.Args), maxArgs)]
	dst = append(dst, uint8(len(args)))
	room := maxArgBytes
	for _, arg := range args {
		arg = arg[:min(len(arg), room)]
		room -= len(arg)
		dst = appendText(dst, arg, maxArgBytes)
	}
	for _, v := range []string{p.ScriptFilename, p.RemoteAddr, p.RequestURI, p.ServerName, p.HTTPHost} {
		dst = appendText(dst, v, maxVariable)
	}
	return dst
}

func appendText(dst []byte, s string, limit int) []byte {
	s = s[:min(len(s), limit)]
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(s)))
	return append(dst, s...)
}

// appendPage writes the frame that answers askPool. A page beyond maxPage is refused: half
// of one says nothing.
func appendPage(dst []byte, status uint8, page []byte) []byte {
	switch {
	case status != statusOK:
		page = nil
	case len(page) > maxPage:
		status, page = statusRefused, nil
	}
	dst = binary.BigEndian.AppendUint32(dst, uint32(1+len(page)))
	return append(append(dst, status), page...)
}

// parsePage reads a frame without its length. What follows another status than statusOK is
// passed over: an inspector that does not know the question refuses it in an answer's form.
func parsePage(b []byte) (status uint8, page []byte, err error) {
	if len(b) == 0 || len(b) > maxAnswer || b[0] > statusRefused {
		return 0, nil, errors.New("inspector's page has a wrong head")
	}
	if b[0] != statusOK {
		return b[0], nil, nil
	}
	return statusOK, b[1:], nil
}

// readAnswer reads one frame of an answer.
func readAnswer(r io.Reader) (answer, error) {
	b, err := readFrame(r)
	if err != nil {
		return answer{}, err
	}
	return parseAnswer(b)
}

// readFrame reads a frame and returns it without its length. It allocates no more than
// maxAnswer whatever is sent.
func readFrame(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, fmt.Errorf("read the inspector's answer: %w", err)
	}
	size := binary.BigEndian.Uint32(head[:])
	if size > maxAnswer {
		return nil, fmt.Errorf("inspector's answer of %d bytes is too long", size)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, fmt.Errorf("read the inspector's answer: %w", err)
	}
	return b, nil
}

// parseAnswer reads a frame without its length.
func parseAnswer(b []byte) (answer, error) {
	c := cutter{b: b}
	a := answer{status: c.uint8()}
	exim := c.uint8()
	count := int(c.uint8())
	if c.bad || a.status > statusRefused || exim > 1 || count > maxProcesses || len(b) > maxAnswer {
		return answer{}, errors.New("inspector's answer has a wrong head")
	}
	a.parentIsExim = exim == 1
	for range count {
		a.processes = append(a.processes, c.process())
	}
	if c.bad || len(c.b) > 0 {
		return answer{}, errors.New("inspector's answer is cut short or has something behind it")
	}
	return a, nil
}

// cutter takes values off the front of b; once something was missing or over its
// limit it is bad and gives nothing more.
type cutter struct {
	b   []byte
	bad bool
}

func (c *cutter) take(n int) []byte {
	if c.bad || n > len(c.b) {
		c.bad = true
		return make([]byte, min(n, 8))
	}
	b := c.b[:n]
	c.b = c.b[n:]
	return b
}

func (c *cutter) uint8() uint8   { return c.take(1)[0] }
func (c *cutter) uint32() uint32 { return binary.BigEndian.Uint32(c.take(4)) }
func (c *cutter) uint64() uint64 { return binary.BigEndian.Uint64(c.take(8)) }

func (c *cutter) text(limit int) string {
	n := int(binary.BigEndian.Uint16(c.take(2)))
	if n > limit {
		c.bad = true
	}
	if b := c.take(n); !c.bad {
		return string(b)
	}
	return ""
}

func (c *cutter) process() policy.Process {
	p := policy.Process{PID: int32(c.uint32()), UID: c.uint32(), Started: int64(c.uint64())}
	p.Executable, p.WorkingDirectory = c.text(maxPath), c.text(maxPath)
	n, total := int(c.uint8()), 0
	if n > maxArgs {
		c.bad = true
	}
	for range n {
		if c.bad {
			return p
		}
		p.Args = append(p.Args, c.text(maxArgBytes))
		total += len(p.Args[len(p.Args)-1])
	}
	if total > maxArgBytes {
		c.bad = true
	}
	p.ScriptFilename, p.RemoteAddr, p.RequestURI = c.text(maxVariable), c.text(maxVariable), c.text(maxVariable)
	p.ServerName, p.HTTPHost = c.text(maxVariable), c.text(maxVariable)
	return p
}
