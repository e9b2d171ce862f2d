package packetmon

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"osm/internal/origin"
)

const (
	followFirst  = 50 * time.Millisecond // until the watch is tried again, doubled each time
	followLast   = time.Second
	followDial   = time.Second
	followSilent = 5 * time.Second // without a word the watch is taken for dead: it says its status each second
)

// FollowOptions says what becomes of what [Follow] is told. The functions are called one
// after the other, and should be quick; each may be nil.
type FollowOptions struct {
	Record  func(Record)
	Status  func(Status)
	Gone    func(error) // the watch cannot be reached, or went away: once, until it has been there again
	Skipped func(error) // a line that is none of ours was passed over
}

// Follow takes what the watch at socket tells until ctx ends, and connects anew whenever it
// went away. It returns nil.
func Follow(ctx context.Context, socket string, o FollowOptions) error {
	o.fill()
	told := false
	for wait := followFirst; ; wait = min(2*wait, followLast) {
		heard, err := follow(ctx, socket, &o)
		if ctx.Err() != nil {
			return nil
		}
		if heard {
			told, wait = false, followFirst
		}
		if !told {
			told = true
			o.Gone(err)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
}

func (o *FollowOptions) fill() {
	if o.Record == nil {
		o.Record = func(Record) {}
	}
	if o.Status == nil {
		o.Status = func(Status) {}
	}
	if o.Gone == nil {
		o.Gone = func(error) {}
	}
	if o.Skipped == nil {
		o.Skipped = func(error) {}
	}
}

// follow takes what one connection tells, and reports whether it told anything.
func follow(ctx context.Context, socket string, o *FollowOptions) (heard bool, err error) {
	c, err := connectWatch(ctx, socket)
	if err != nil {
		return false, err
	}
	defer func() { _ = c.Close() }() // nothing was written
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	r := bufio.NewReaderSize(c, maxLine)
	for {
		if err := c.SetReadDeadline(time.Now().Add(followSilent)); err != nil {
			return heard, fmt.Errorf("follow the watch: %w", err)
		}
		line, err := readLine(r)
		if errors.Is(err, errLongLine) {
			o.Skipped(err)
			continue
		}
		if err != nil {
			return heard, fmt.Errorf("follow the watch: %w", err)
		}
		m, err := ParseMessage(line)
		if err != nil {
			o.Skipped(err)
			continue
		}
		heard = true
		if m.Record != nil {
			o.Record(*m.Record)
		} else {
			o.Status(*m.Status)
		}
	}
}

// connectWatch believes only root, or ourselves where everything runs as one user.
func connectWatch(ctx context.Context, socket string) (net.Conn, error) {
	d := net.Dialer{Timeout: followDial}
	c, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("connect to the watch: %w", err)
	}
	peer, err := origin.PeerOf(c.(*net.UnixConn))
	if err == nil && peer.UID != 0 && peer.UID != uint32(os.Getuid()) {
		err = fmt.Errorf("connect to the watch: it runs as uid %d", peer.UID)
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// errLongLine says that a line had to be passed over, which was done.
var errLongLine = errors.New("the watch told a line that is too long")

// readLine returns the next line without its line feed, which is valid until the next call.
func readLine(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	if err == nil {
		return line[:len(line)-1], nil
	}
	if !errors.Is(err, bufio.ErrBufferFull) {
		return nil, err
	}
	for errors.Is(err, bufio.ErrBufferFull) {
		_, err = r.ReadSlice('\n')
	}
	if err != nil {
		return nil, err
	}
	return nil, errLongLine
}
