package actions

import (
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

// object is a file, folder or whatever else below a home, open by a handle that can only
// be looked at: opening it starts nothing (a FIFO, a device) and does not need to read it.
type object struct {
	fd int
	st unix.Stat_t
}

func (o *object) close() { unix.Close(o.fd) }

func (o *object) folder() bool { return o.st.Mode&unix.S_IFMT == unix.S_IFDIR }
func (o *object) file() bool   { return o.st.Mode&unix.S_IFMT == unix.S_IFREG }
func (o *object) mode() uint32 { return o.st.Mode & 0o7777 }

func (o *object) look() error { return unix.Fstat(o.fd, &o.st) }

// open opens what parts lead to below the folder at, and follows no symbolic link, not
// even as the last: ELOOP or ENOTDIR, or the link itself. It does not leave the file
// system (EXDEV): what is mounted in a home is its administrator's, or comes from a
// program of the user's (FUSE) that answers what and when it likes.
func open(at int, parts []string, flags int) (*object, error) {
	flags |= unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC
	path := "."
	if len(parts) > 0 {
		path = joinPath(parts)[1:]
	}
	fd, err := unix.Openat2(at, path, &unix.OpenHow{Flags: uint64(flags),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV})
	// Linux before 5.6 has no openat2; filters of system calls refuse it, because they
	// cannot see its arguments (RestrictSUIDSGID of systemd: ENOSYS).
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		return openStepwise(at, parts, flags)
	}
	return opened(fd, err)
}

func opened(fd int, err error) (*object, error) {
	if err != nil {
		return nil, err
	}
	o := &object{fd: fd}
	if err := o.look(); err != nil {
		o.close()
		return nil, err
	}
	return o, nil
}

// openStepwise is open without openat2: one component after the other, none of them a
// link. A mount is seen only where it is another file system; one of the same (mount
// --bind) is gone through.
func openStepwise(at int, parts []string, flags int) (*object, error) {
	o, err := opened(unix.Openat(at, ".", folderFlags, 0))
	for i, part := range parts {
		if err != nil {
			return nil, err
		}
		dev, with := o.st.Dev, folderFlags
		if i == len(parts)-1 {
			with = flags
		}
		next, fault := opened(unix.Openat(o.fd, part, with, 0))
		o.close()
		if fault == nil && next.st.Dev != dev {
			next.close()
			fault = unix.EXDEV
		}
		o, err = next, fault
	}
	return o, err
}

// rename gives what is called from in this folder another name in it. It never replaces
// what has that name already (EEXIST). The names hold no slash.
func (o *object) rename(from, to string) error {
	err := unix.Renameat2(o.fd, from, o.fd, to, unix.RENAME_NOREPLACE)
	if !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EINVAL) {
		return err
	}
	// Some file systems (NFS, older ZFS) cannot. Our own name holds letters that nobody
	// can have guessed, so nothing is replaced by it. Back, a file is linked, which replaces
	// nothing either; a folder could take the place of an empty folder that is made between
	// the look and the rename.
	if ourName(from) {
		err = unix.Linkat(o.fd, from, o.fd, to, 0)
		if err == nil {
			return unix.Unlinkat(o.fd, from, 0)
		}
		if !errors.Is(err, unix.EPERM) { // what a folder answers
			return err
		}
	}
	var st unix.Stat_t
	if err := unix.Fstatat(o.fd, to, &st, unix.AT_SYMLINK_NOFOLLOW); !errors.Is(err, unix.ENOENT) {
		return errors.Join(unix.EEXIST, err)
	}
	return unix.Renameat(o.fd, from, o.fd, to)
}

// renameBy is rename for an account that took its own right to write in its folder away:
// that would be too easy a way to keep what is in there. It gets the right for a moment,
// as the user could give it to himself.
func (o *object) renameBy(a account, from, to string) error {
	err := o.rename(from, to)
	if !errors.Is(err, unix.EACCES) || o.st.Uid != a.uid {
		return err
	}
	mode := o.mode()
	if err := o.chmod(a, mode|0o300); err != nil {
		return err
	}
	err = o.rename(from, to)
	return errors.Join(err, o.chmod(a, mode))
}

// chmod changes the mode of just this object, whatever has its name now. A handle that
// was not opened for reading takes no fchmod, and the call that would do it (fchmodat2) is
// there only from Linux 6.6 on; the handle's own link in /proc is as good.
func (o *object) chmod(a account, mode uint32) error {
	// The kernel takes set-group-id away where the group is not one of the caller's. To
	// a folder it gives nothing but the group of what is made in it; to a file it would
	// give the rights of that group, so there the kernel keeps its say.
	foreign := o.folder() && mode&unix.S_ISGID != 0 && o.st.Gid != a.gid
	if foreign {
		if err := unix.Setgroups([]int{int(o.st.Gid)}); err != nil {
			return fmt.Errorf("add the folder's group: %w", err)
		}
	}
	err := unix.Chmod("/proc/self/fd/"+strconv.Itoa(o.fd), mode)
	if foreign {
		err = errors.Join(err, unix.Setgroups(nil))
	}
	return errors.Join(err, o.look())
}
