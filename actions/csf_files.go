package actions

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// csfHeld is what csf has against one address.
type csfHeld struct {
	bans []tempBan // of csf.tempban, those that have ended too: lfd takes them out later
	deny []string  // lines of csf.deny
}

// tempBan is a line of csf.tempban: epoch|IP|ports|direction|seconds|comment.
type tempBan struct {
	since      int64
	ports, dir string // "*" or "25,465"; in, out or inout
	seconds    int64
	comment    string
}

func (b tempBan) ours(r *Record) bool { return strings.Contains(b.comment, mark(r)) }

func (b tempBan) ends() time.Time { return time.Unix(b.since+b.seconds, 0) }

// covers reports whether nothing comes in on the mail ports.
func (b tempBan) covers(now time.Time) bool {
	if !strings.HasPrefix(b.dir, "in") || !now.Before(b.ends()) {
		return false
	}
	ports := strings.Split(b.ports, ",")
	return b.ports == "*" || !slices.ContainsFunc(strings.Split(mailPorts, ","), func(p string) bool { return !slices.Contains(ports, p) })
}

// ours reports whether one of them is of this record.
func (h *csfHeld) ours(r *Record) bool {
	return slices.ContainsFunc(h.bans, func(b tempBan) bool { return b.ours(r) }) ||
		slices.ContainsFunc(h.deny, func(l string) bool { return strings.Contains(l, mark(r)) })
}

// by is the entry that keeps the address out already, "" for none.
func (h *csfHeld) by(now time.Time) string {
	if len(h.deny) > 0 {
		return "csf.deny: " + cut(strconv.Quote(h.deny[0]), 120)
	}
	for _, b := range h.bans {
		if b.covers(now) {
			return fmt.Sprintf("csf.tempban: ports %s until %s, %.80q", cut(b.ports, 40), b.ends().UTC().Format("2006-01-02 15:04:05 UTC"), b.comment)
		}
	}
	return ""
}

// held reads what csf has against addr.
func (f csf) held(addr netip.Addr) (*csfHeld, error) {
	h := &csfHeld{}
	tempban := filepath.Join("/", f.root, "var/lib/csf/csf.tempban")
	unlock, err := shared(tempban)
	if err != nil {
		return nil, err
	}
	defer unlock()
	left := int64(maxListBytes)
	if err := eachLine(tempban, &left, func(line string) bool {
		if b, a, ok := parseTempBan(line); ok && a == addr {
			h.bans = append(h.bans, b)
		}
		return true
	}); err != nil {
		return nil, err
	}
	left = maxListBytes
	files := []string{"/etc/csf/csf.deny"}
	for i := 0; i < len(files) && i < maxListFiles; i++ {
		if err := eachLine(filepath.Join("/", f.root, files[i]), &left, func(line string) bool {
			if name, ok := strings.CutPrefix(line, "Include"); ok {
				files = appendNew(files, strings.TrimSpace(name))
				return true
			}
			// A rule such as "tcp|in|d=22|s=IP" blocks some ports only.
			if _, ok := names(line, addr); ok && !strings.Contains(line, "|") {
				h.deny = append(h.deny, line)
			}
			return true
		}); err != nil {
			return nil, err
		}
	}
	return h, nil
}

func parseTempBan(line string) (b tempBan, addr netip.Addr, ok bool) {
	f := strings.SplitN(line, "|", 6)
	if len(f) != 6 {
		return b, addr, false
	}
	addr, err := netip.ParseAddr(f[1])
	since, err2 := strconv.ParseInt(f[0], 10, 64)
	seconds, err3 := strconv.ParseInt(f[4], 10, 64)
	b = tempBan{since: since, ports: f[2], dir: f[3], seconds: seconds, comment: f[5]}
	return b, addr.Unmap(), errors.Join(err, err2, err3) == nil
}

// shared waits a little until nobody rewrites the file, as csf and lfd do in place under a
// lock: half of it would look like blocks that are gone.
func shared(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return func() {}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("lock csf's list: %w", err)
	}
	for range 40 {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); err == nil {
			return func() { f.Close() }, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	f.Close()
	return nil, fmt.Errorf("lock csf's list %q: %w", path, err)
}
