package actions

import (
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

// spot is where in a home an object was, and which one it was.
type spot struct {
	below []string // components below the home, the name last
	mode  uint32   // permissions with set-id and sticky bits
	id    identity
}

// identity tells one object from all others of its file system.
type identity struct {
	dev, ino uint64
	typ      uint32
	uid, gid uint32
}

func identityOf(st *unix.Stat_t) identity {
	return identity{dev: uint64(st.Dev), ino: st.Ino, typ: st.Mode & unix.S_IFMT, uid: st.Uid, gid: st.Gid}
}

// is reports whether o is the object. NFS, btrfs and device mapper may give a file system
// another number when it is mounted again: then that of the home counts. A group may be
// changed by whoever owns the object.
func (s *spot) is(o *object, h *home) bool {
	got, want := identityOf(&o.st), s.id
	if got.dev != want.dev && got.dev == uint64(h.st.Dev) {
		want.dev = got.dev
	}
	want.gid = got.gid
	return got == want
}

func (s *spot) name() string { return s.below[len(s.below)-1] }

// at is the path of something beside the object, for people.
func (s *spot) at(name string) string {
	return joinPath(append(append([]string{}, s.below[:len(s.below)-1]...), name))
}

// state is the spot as a record keeps it.
func (s *spot) state() map[string]string {
	n := func(v uint64) string { return strconv.FormatUint(v, 10) }
	return map[string]string{
		"below": wirePath(joinPath(s.below)), "mode": fmt.Sprintf("%04o", s.mode), "type": fmt.Sprintf("%o", s.id.typ),
		"dev": n(s.id.dev), "ino": n(s.id.ino), "uid": n(uint64(s.id.uid)), "gid": n(uint64(s.id.gid)),
	}
}

func parseSpot(state map[string]string) (spot, error) {
	var s spot
	var faults []error
	n := func(key string, base, bits int) uint64 {
		v, err := strconv.ParseUint(state[key], base, bits)
		faults = append(faults, err)
		return v
	}
	s.mode = uint32(n("mode", 8, 12))
	s.id = identity{n("dev", 10, 64), n("ino", 10, 64), uint32(n("type", 8, 32)), uint32(n("uid", 10, 32)), uint32(n("gid", 10, 32))}
	path, err := parsePath(state["below"])
	if err == nil {
		s.below, err = splitPath(path)
	}
	if err == nil && len(s.below) == 0 {
		err = errors.New("it names nothing below the home")
	}
	return s, errors.Join(append(faults, err)...)
}

// parent opens the folder that the object is in.
func (s *spot) parent(h *home) (*object, error) {
	return open(h.fd, s.below[:len(s.below)-1], unix.O_DIRECTORY)
}

// why makes a system call's error one that says what it means here.
func (s *spot) why(h *home, err error) error {
	at := fmt.Sprintf("%q of %s", joinPath(s.below), h.name)
	const byHand = "look at it, and take it away by hand; or hold or suspend the account"
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENAMETOOLONG):
		return leftAlone{at + " is not there any more"}
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOTDIR):
		return refusal{at + " is reached through a symbolic link, or through something that is no folder", "name the path that it really has"}
	case errors.Is(err, unix.EXDEV), errors.Is(err, unix.EBUSY):
		return refusal{at + " is on, or is, a file system that was mounted in the home", byHand}
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return refusal{at + " is where the account itself may not go or change names", byHand}
	case errors.Is(err, unix.EROFS):
		return refusal{at + " is on a file system that is read-only here", "under systemd, add where the homes are: systemctl edit osm-executor.service, [Service] ReadWritePaths=/home2"}
	}
	return fmt.Errorf("%s: %w", at, err)
}

// block gives the object another name and takes its mode away. It may be called again
// after it was broken off.
func (s *spot) block(h *home, to string) (string, error) {
	parent, err := s.parent(h)
	if err != nil {
		return "", s.why(h, err)
	}
	defer parent.close()
	said := fmt.Sprintf("%q of %s is called %q now, without its mode %04o", joinPath(s.below), h.name, to, s.mode)
	if done, err := open(parent.fd, []string{to}, 0); err == nil {
		defer done.close()
		if !s.is(done, h) {
			return "", refusal{fmt.Sprintf("%q of %s is there already", s.at(to), h.name), "look what it is"}
		}
		if err := done.chmod(h.account, 0); err != nil {
			return "", fmt.Errorf("take the mode of %q of %s away: %w", s.at(to), h.name, err)
		}
		return said, nil
	}
	o, err := open(parent.fd, []string{s.name()}, 0)
	if err != nil {
		return "", s.why(h, err)
	}
	defer o.close()
	if !s.is(o, h) {
		return "", errSwapped
	}
	if err := s.move(parent, h, s.name(), to); err != nil {
		return "", err
	}
	if err := o.chmod(h.account, 0); err != nil {
		if back := s.move(parent, h, to, s.name()); back != nil {
			return "", fmt.Errorf("take the mode of %q of %s away: %w; and give it its name back: %w", s.at(to), h.name, err, back)
		}
		return "", s.why(h, err)
	}
	return said, nil
}

// move renames the object, sees that it was this one and nothing that was put in its place
// meanwhile, and puts back what else it was.
func (s *spot) move(parent *object, h *home, from, to string) error {
	if err := parent.renameBy(h.account, from, to); err != nil {
		return s.why(h, err)
	}
	o, err := open(parent.fd, []string{to}, 0)
	if err == nil {
		defer o.close()
		if s.is(o, h) {
			return nil
		}
	} else if errors.Is(err, unix.ENOENT) {
		return errSwapped // taken away again
	}
	if err := parent.renameBy(h.account, to, from); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("what was put in the place of %q in the meantime is called %q now, and cannot be called so again: %w", s.at(from), to, err)
	}
	return errSwapped
}

// unblock gives the object its name and its mode back. leftAlone: it is not there any
// more, or not as we left it.
func (s *spot) unblock(h *home, record string) (string, error) {
	parent, err := s.parent(h)
	if err != nil {
		return "", s.gone(h, err)
	}
	defer parent.close()
	from := blocked + record
	o, err := open(parent.fd, []string{from}, 0)
	if errors.Is(err, unix.ENOENT) {
		return s.unblocked(parent, h)
	}
	if err != nil {
		return "", s.gone(h, err)
	}
	defer o.close()
	if !s.is(o, h) {
		return "", leftAlone{fmt.Sprintf("%q of %s is something else now: left as it is", s.at(from), h.name)}
	}
	err = s.move(parent, h, from, s.name())
	switch {
	case errors.Is(err, unix.EEXIST):
		return "", refusal{fmt.Sprintf("%q of %s is there again, and is not replaced by %q", joinPath(s.below), h.name, from),
			fmt.Sprintf("move it away, then: osmctl undo %s; or by hand, as the account: mv, then chmod %04o", record, s.mode)}
	case errors.Is(err, errSwapped):
		return "", fmt.Errorf("%q of %s: %w", s.at(from), h.name, err)
	case err != nil:
		return "", err
	}
	return s.giveMode(o, h, fmt.Sprintf("%q of %s has its name and its mode %04o back", joinPath(s.below), h.name, s.mode))
}

// unblocked is unblock where nothing has our name: the owner gave it back himself, it was
// never taken, or an undo was broken off in between.
func (s *spot) unblocked(parent *object, h *home) (string, error) {
	o, err := open(parent.fd, []string{s.name()}, 0)
	if err != nil {
		return "", s.gone(h, err)
	}
	defer o.close()
	at := fmt.Sprintf("%q of %s", joinPath(s.below), h.name)
	switch {
	case !s.is(o, h):
		return "", leftAlone{at + " is something else now: left as it is"}
	case o.mode() != 0:
		return at + " has its name already: left as it is", nil
	}
	return s.giveMode(o, h, fmt.Sprintf("%s has its name already, and its mode %04o back", at, s.mode))
}

func (s *spot) giveMode(o *object, h *home, said string) (string, error) {
	if err := o.chmod(h.account, s.mode); err != nil {
		return "", s.why(h, err)
	}
	if o.mode() != s.mode {
		said += fmt.Sprintf(", but for set-id bits that the account may not give: %04o", o.mode())
	}
	return said, nil
}

// gone is [spot.why] for an undo: a way that leads elsewhere now leads to nothing of ours.
func (s *spot) gone(h *home, err error) error {
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
		return leftAlone{fmt.Sprintf("%q of %s is not there any more", joinPath(s.below), h.name)}
	}
	return s.why(h, err)
}
