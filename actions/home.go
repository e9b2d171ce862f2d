package actions

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// home is an account's home, open by a handle: whatever is renamed or linked meanwhile, it
// stays this folder.
type home struct {
	account
	fd   int
	path []string // where it really is, by its components: every link of root's followed
	st   unix.Stat_t
}

func (h *home) close() { unix.Close(h.fd) }

// inHome runs f with the rights to files that the account has, and no more: what the user
// himself could not touch, f cannot touch, whatever he puts in its way.
//
// It waits at most limit. A file system that does not answer (NFS, FUSE) keeps the thread
// for as long as that lasts, because nothing can end a system call; the executor goes on.
func inHome[T any](ctx context.Context, limit time.Duration, a account, f func(*home) (T, error)) (T, error) {
	type result struct {
		v   T
		err error
	}
	done := make(chan result, 1)
	onOwnThread(func() {
		var r result
		defer func() {
			if p := recover(); p != nil {
				r.err = fmt.Errorf("panic in the home of %s: %v\n%s", a.name, p, debug.Stack())
			}
			done <- r
		}()
		h, err := openHome(a)
		if err != nil {
			r.err = err
			return
		}
		defer h.close()
		if r.err = becomeAccount(a); r.err == nil {
			r.v, r.err = f(h)
		}
	})
	t := time.NewTimer(limit)
	defer t.Stop()
	var none T
	select {
	case r := <-done:
		return r.v, r.err
	case <-ctx.Done():
		return none, ctx.Err()
	case <-t.C:
		return none, fmt.Errorf("the file system of %q does not answer within %v", a.home, limit)
	}
}

// onOwnThread starts f on a thread that ends with it: rights to files belong to a thread,
// and nothing else may ever run with those that f takes.
//
// A goroutine that never unlocks its thread takes it along, but for the process's first
// one: that cannot end, and would be kept with f's rights, shown by /proc as the
// process's own. While that one waits here, f cannot get it.
func onOwnThread(f func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			f()
			return
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			runtime.LockOSThread()
			f()
		}()
		<-ended
		runtime.UnlockOSThread()
	}()
}

// becomeAccount gives this thread the account's rights to files. The kernel takes root's
// own (CAP_DAC_OVERRIDE, CAP_FOWNER …) away with the file-system uid. It must be locked.
func becomeAccount(a account) error {
	if err := unix.Setgroups(nil); err != nil {
		return fmt.Errorf("drop groups: %w", err)
	}
	// Neither call says whether it did anything; asked for -1 it tells what is in force.
	_, err1 := unix.SetfsgidRetGid(int(a.gid))
	_, err2 := unix.SetfsuidRetUid(int(a.uid))
	gid, err3 := unix.SetfsgidRetGid(-1)
	uid, err4 := unix.SetfsuidRetUid(-1)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return fmt.Errorf("take the rights of account %q: %w", a.name, err)
	}
	if uint32(uid) != a.uid || uint32(gid) != a.gid {
		return fmt.Errorf("take the rights of account %q: they are those of uid %d, gid %d", a.name, uid, gid)
	}
	return nil
}

const maxLinks = 40 // as the kernel's

// openHome opens the home that passwd names, as root. It goes only through folders that
// root alone can change, and follows only links that root made (/home -> /home2): nobody
// else can lead it elsewhere.
func openHome(a account) (_ *home, err error) {
	no := func(why, next string) (*home, error) {
		return nil, refusal{fmt.Sprintf("the home %q of %s %s", a.home, a.name, why), next}
	}
	w, err := newWalk()
	if err != nil {
		return nil, err
	}
	defer func() { unix.Close(w.fd) }()
	todo, err := splitPath(a.home)
	if err != nil {
		return nil, err
	}
	for len(todo) > 0 {
		var rest []string
		if rest, err = w.step(todo[0]); err != nil {
			switch {
			case errors.Is(err, unix.ENOENT):
				return no("is not there", "under systemd, see ReadWritePaths and InaccessiblePaths of osm-executor.service")
			case errors.Is(err, errWalk):
				return no(err.Error(), "give its folders to root alone, or set the home's real path in passwd")
			}
			return nil, fmt.Errorf("open the home %q: %w", a.home, err)
		}
		todo = append(rest, todo[1:]...)
	}
	switch {
	case w.st.Uid != a.uid && !w.roots():
		return no(fmt.Sprintf("belongs to uid %d", w.st.Uid), "give it to its account")
	case len(w.path) < 2:
		return no("is "+joinPath(w.path), "give the account a home of its own")
	}
	fd, err := unix.FcntlInt(uintptr(w.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the home %q: %w", a.home, err)
	}
	return &home{account: a, fd: fd, path: w.path, st: w.st}, nil
}

// errWalk is a place that somebody else than root may change.
var errWalk = errors.New("cannot be trusted")

// walk is a folder on the way to a home.
type walk struct {
	fd    int
	st    unix.Stat_t
	path  []string
	links int
}

func newWalk() (*walk, error) {
	w := &walk{fd: -1}
	return w, w.to(unix.AT_FDCWD, "/", nil)
}

const folderFlags = unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC | unix.O_DIRECTORY

// to goes to a folder.
func (w *walk) to(at int, name string, path []string) error {
	fd, err := unix.Openat(at, name, folderFlags, 0) // O_DIRECTORY has an automounter mount it
	if err != nil {
		return err
	}
	unix.Close(w.fd)
	w.fd, w.path = fd, path
	return unix.Fstat(fd, &w.st)
}

// roots reports whether root alone can change what is in the folder.
func (w *walk) roots() bool { return w.st.Uid == 0 && w.st.Mode&0o022 == 0 }

// step goes one component further. Where that is a link, it stays, or goes back to the
// root, and returns what is to be gone instead.
func (w *walk) step(name string) (rest []string, err error) {
	if name == ".." { // of a link
		return nil, w.to(w.fd, name, w.path[:max(len(w.path)-1, 0)])
	}
	// In a sticky folder (/tmp) nobody else can move a folder of root's, or put one there.
	alone, sticky := w.roots(), w.st.Uid == 0 && w.st.Mode&unix.S_ISVTX != 0
	shared := fmt.Errorf("%w: %q can be changed by others than root", errWalk, joinPath(w.path))
	if !alone && !sticky {
		return nil, shared
	}
	err = w.to(w.fd, name, append(slices.Clone(w.path), name))
	switch {
	case !alone && (err != nil || w.st.Uid != 0):
		return nil, shared
	case !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, unix.ELOOP):
		return nil, err
	}
	target, err := w.readlink(name)
	if err != nil {
		return nil, err
	}
	if w.links++; w.links > maxLinks {
		return nil, fmt.Errorf("%w: it leads through too many links", errWalk)
	}
	if strings.HasPrefix(target, "/") {
		err = w.to(unix.AT_FDCWD, "/", nil)
	}
	rest = strings.FieldsFunc(target, func(r rune) bool { return r == '/' })
	return slices.DeleteFunc(rest, func(s string) bool { return s == "." }), err
}

// readlink reads a link that root made.
func (w *walk) readlink(name string) (string, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(w.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return "", err
	}
	at := joinPath(append(slices.Clone(w.path), name))
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return "", fmt.Errorf("%w: %q is no folder", errWalk, at)
	}
	if st.Uid != 0 {
		return "", fmt.Errorf("%w: the symbolic link %q belongs to uid %d", errWalk, at, st.Uid)
	}
	b := make([]byte, maxPath)
	n, err := unix.Readlinkat(w.fd, name, b)
	if err != nil {
		return "", err
	}
	return string(b[:n]), nil
}
