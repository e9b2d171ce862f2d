package evidence

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"osm/policy"
)

// PoolAsker asks php-fpm's pools for their status in the place of a daemon that may not
// connect to them. It runs as root and knows only the pools of php-fpm's own files: whoever
// has it ask can choose among those, and gets nothing but a status page. It is safe for
// concurrent use.
type PoolAsker struct {
	pools pools
}

// NewPoolAsker knows the pools of these patterns of files, such as [DefaultPoolFiles]. Only
// files of root's that nobody else can write count.
func NewPoolAsker(files []string, now func() policy.Moment) *PoolAsker {
	return &PoolAsker{pools{globs: files, now: now}}
}

// Ask returns the status page of the pool that is meant, as the pool wrote it. Unless just
// one is, none is asked; nor is one at a TCP port, which everybody can ask himself. ctx
// needs a deadline.
func (a *PoolAsker) Ask(ctx context.Context, meant func(Pool) bool) ([]byte, error) {
	found := a.pools.like(meant)
	if len(found) != 1 {
		return nil, fmt.Errorf("ask a pool of php-fpm: %d pools in its files are meant, not one", len(found))
	}
	p := found[0]
	page, err := askUntilFree(ctx, p, func() (net.Conn, error) { return dialRoots(ctx, p.Address) })
	if err != nil {
		return nil, fmt.Errorf("ask php-fpm's pool %.40q at %.120q: %w", p.Name, p.Address, err)
	}
	return page, nil
}

// dialRoots connects to a socket that root listens on, as php-fpm's master does for all of
// its pools. The folder may be another's (Debian's /run/php is www-data's): what he puts
// there instead must not lead root to a socket elsewhere, nor answer.
func dialRoots(ctx context.Context, name string) (net.Conn, error) {
	fd, err := openSocket(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(fd) }() // opened for its place only
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", "/proc/self/fd/"+strconv.Itoa(fd))
	if err != nil {
		return nil, err
	}
	if uid, err := listenerOf(c); err != nil || uid != 0 {
		return nil, errors.Join(fmt.Errorf("uid %d listens there, not root: %w", uid, os.ErrPermission), err, c.Close())
	}
	return c, nil
}

// listenerOf is whose process began to listen on the other end.
func listenerOf(c net.Conn) (uid uint32, err error) {
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var bad error
	err = raw.Control(func(fd uintptr) { cred, bad = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(err, bad); err != nil {
		return 0, err
	}
	return cred.Uid, nil
}

const maxLinks = 8

// openSocket finds a socket name by name. A symbolic link is followed only if it is root's
// and stands where root alone can write, on the whole way to it: /var/run is such a link.
// Openat2 could not tell the two apart, and the unit's RestrictSUIDSGID forbids it.
func openSocket(name string) (int, error) {
	if !path.IsAbs(name) {
		return -1, errors.New("not the path of a socket")
	}
	w, err := newWalk()
	if err != nil {
		return -1, err
	}
	todo := strings.Split(name, "/")
	for links := 0; len(todo) > 0; {
		next := todo[0]
		if todo = todo[1:]; next == "" || next == "." {
			continue
		}
		target, err := w.step(next)
		if err == nil && target != "" {
			if links++; links > maxLinks {
				err = unix.ELOOP
			}
			todo = append(strings.Split(target, "/"), todo...)
		}
		if err == nil && path.IsAbs(target) {
			err = w.restart()
		}
		if err != nil {
			w.close()
			return -1, err
		}
	}
	if w.kind != unix.S_IFSOCK {
		w.close()
		return -1, errors.New("not a socket")
	}
	return w.at, nil
}

// walk is the way to a file, as far as it was gone.
type walk struct {
	at     int    // opened for its place only
	kind   uint32 // of at: directory, socket …
	safely bool   // only root can have laid out the way here, and what is in this folder
}

func newWalk() (*walk, error) {
	w := &walk{at: -1}
	if err := w.restart(); err != nil {
		return nil, err
	}
	return w, nil
}

// restart goes back to the root directory.
func (w *walk) restart() error {
	fd, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	w.safely = true
	_, err = w.enter(fd)
	return err
}

// step goes one name on. Of a link that may be followed it returns the target instead.
func (w *walk) step(name string) (target string, err error) {
	fd, err := unix.Openat(w.at, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	return w.enter(fd)
}

// enter takes over fd.
func (w *walk) enter(fd int) (target string, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", errors.Join(err, unix.Close(fd))
	}
	kind := st.Mode & unix.S_IFMT
	if kind == unix.S_IFLNK {
		defer func() { _ = unix.Close(fd) }()
		if !w.safely || st.Uid != 0 {
			return "", errors.New("a symbolic link that somebody but root can have put there")
		}
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(fd, "", buf)
		return string(buf[:max(n, 0)]), err
	}
	w.close()
	w.at, w.kind = fd, kind
	w.safely = w.safely && st.Uid == 0 && st.Mode&0o022 == 0
	return "", nil
}

func (w *walk) close() {
	if w.at >= 0 {
		_ = unix.Close(w.at)
	}
	w.at = -1
}
