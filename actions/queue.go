package actions

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// queue is Exim's queue on disk, read directly: for 5,000 frozen messages that is several
// times quicker than any of Exim's own listings, and it starts no process.
//
// The spool belongs to Exim's user, not to root, so nothing in it is trusted: every
// component below dir is opened without following a symlink, and only regular files that
// belong to Exim are read.
type queue struct {
	dir string // spool_directory; a path of root's own
	uid uint32 // Exim's run-time user
}

// errForeignFile: the file in the spool is a symlink, a device, or not Exim's.
var errForeignFile = errors.New("not a regular file of Exim's user")

// subdirectories returns the folders of the queue that exist: input/ itself and, with
// split_spool_directory, one for each letter and digit. Exim reads both ways too.
func (q queue) subdirectories() ([]string, error) {
	root, err := q.open("input")
	if err != nil {
		return nil, fmt.Errorf("open Exim's queue in %q: %w", q.dir, err)
	}
	defer root.Close()
	subs := []string{"input"}
	for _, c := range []byte("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz") {
		var st unix.Stat_t
		if unix.Fstatat(int(root.Fd()), string(c), &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			subs = append(subs, "input/"+string(c))
		}
	}
	return subs, nil
}

// open opens the folder sub of the spool, component by component.
func (q queue) open(sub string) (*os.File, error) {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC
	fd, err := unix.Open(q.dir, flags, 0)
	if err != nil {
		return nil, err
	}
	for name := range strings.SplitSeq(sub, "/") {
		next, err := unix.Openat(fd, name, flags|unix.O_NOFOLLOW, 0)
		unix.Close(fd)
		if err != nil {
			return nil, err
		}
		fd = next
	}
	return os.NewFile(uintptr(fd), filepath.Join(q.dir, sub)), nil
}

// openHeader opens one -H file in an open folder.
func (q queue) openHeader(dir *os.File, id string) (*os.File, error) {
	// O_NONBLOCK: a FIFO in the place of the file must not make us wait.
	fd, err := unix.Openat(int(dir.Fd()), id+"-H", unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, errForeignFile
	}
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Uid != q.uid {
		unix.Close(fd)
		return nil, errForeignFile
	}
	return os.NewFile(uintptr(fd), id+"-H"), nil
}

// list calls f for each message of ours in the queue, frozen or not, in no order, and
// returns how many -H files could not be read. It holds one message at a time in memory.
func (q queue) list(ctx context.Context, f func(*QueueMessage) error) (skipped int, err error) {
	subs, err := q.subdirectories()
	if err != nil {
		return 0, err
	}
	r := newSpoolFile(nil)
	for _, sub := range subs {
		n, err := q.listFolder(ctx, sub, r, f)
		skipped += n
		if err != nil {
			return skipped, err
		}
	}
	return skipped, nil
}

func (q queue) listFolder(ctx context.Context, sub string, r *spoolFile, f func(*QueueMessage) error) (skipped int, err error) {
	dir, err := q.open(sub)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil // removed since: Exim cleans up empty folders
	}
	if err != nil {
		return 0, fmt.Errorf("open Exim's queue in %q: %w", q.dir, err)
	}
	defer dir.Close()
	for {
		names, err := dir.Readdirnames(512)
		for _, name := range names {
			id, ok := strings.CutSuffix(name, "-H")
			if !ok || !ValidMessageID(id) {
				continue
			}
			m, err := q.readIn(dir, id, r)
			switch {
			case errors.Is(err, os.ErrNotExist): // delivered in the meantime
			case err != nil:
				skipped++
			case m.Action != "":
				if err := f(m); err != nil {
					return skipped, err
				}
			}
		}
		if ctx.Err() != nil {
			return skipped, ctx.Err()
		}
		if errors.Is(err, io.EOF) {
			return skipped, nil
		}
		if err != nil {
			return skipped, fmt.Errorf("read Exim's queue in %q: %w", q.dir, err)
		}
	}
}

// readIn reads one message of an open folder. A file whose list of recipients cannot be
// read is no error: all that decides about it stands before.
func (q queue) readIn(dir *os.File, id string, r *spoolFile) (*QueueMessage, error) {
	h, err := q.openHeader(dir, id)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	r.reset(h)
	m, variables, err := r.envelope(id)
	if err != nil && !variables {
		return nil, err
	}
	var st unix.Stat_t
	if unix.Fstatat(int(dir.Fd()), id+"-D", &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG {
		// The file begins with a line of its own name.
		m.Size = max(0, st.Size-int64(len(id)+len("-D\n")))
	}
	return &m, nil
}

// find opens the folder that holds the message. Exim names the split folder after the
// sixth character of the id and looks in both places, so that the option can be changed.
func (q queue) find(id string) (*os.File, error) {
	for _, sub := range []string{"input/" + id[5:6], "input"} {
		dir, err := q.open(sub)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		var st unix.Stat_t
		if unix.Fstatat(int(dir.Fd()), id+"-H", &st, unix.AT_SYMLINK_NOFOLLOW) == nil {
			return dir, nil
		}
		dir.Close()
	}
	return nil, os.ErrNotExist
}

// read reads one message, whoever froze it. The error is os.ErrNotExist when it is not in
// the queue.
func (q queue) read(id string) (*QueueMessage, error) {
	dir, err := q.find(id)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return q.readIn(dir, id, newSpoolFile(nil))
}

// headers returns the header lines of one of our messages; never its body.
func (q queue) headers(id string) (string, error) {
	dir, err := q.find(id)
	if err != nil {
		return "", err
	}
	defer dir.Close()
	h, err := q.openHeader(dir, id)
	if err != nil {
		return "", err
	}
	defer h.Close()
	f := newSpoolFile(h)
	m, _, err := f.envelope(id)
	if err != nil {
		return "", fmt.Errorf("read the -H file: %w", err)
	}
	if m.Action == "" {
		return "", errNotOurs
	}
	return f.headers(m.Recipients, maxHeaders)
}

var errNotOurs = errors.New("osm did not freeze this message")
