package origin

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"osm/policy"
)

const (
	maxStat    = 4096
	maxStatus  = 16 << 10
	maxEnviron = 64 << 10
	maxFile    = maxEnviron // the largest of them
)

// proc is one process held by its folder in /proc. The folder stands for the process
// and not for its number: once the process is gone all reads fail, also when its
// number has been given to another one.
type proc struct {
	pid int
	dir int
	was *described // what was read of it before; nil = nothing
}

// described is what [proc.describe] returns.
type described struct {
	process policy.Process
	parent  int
}

func openProc(pid int) (proc, error) {
	fd, err := unix.Open("/proc/"+strconv.Itoa(pid), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
		return proc{}, ErrNotFound
	}
	if err != nil {
		return proc{}, fmt.Errorf("open /proc/%d: %w", pid, err)
	}
	return proc{pid: pid, dir: fd}, nil
}

func (p proc) close() { _ = unix.Close(p.dir) } // a folder opened for reading: nothing is lost

// dup returns a second handle, for a reader that may outlive p.
func (p proc) dup() (proc, error) {
	fd, err := unix.FcntlInt(uintptr(p.dir), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return proc{}, fmt.Errorf("keep /proc/%d: %w", p.pid, err)
	}
	return proc{pid: p.pid, dir: fd, was: p.was}, nil
}

// fileBuffers are for what is read of a process, each file by one read: the kernel gives all
// that fits.
var fileBuffers = sync.Pool{New: func() any { return new([maxFile]byte) }}

// read hands at most limit bytes of one of the process's files to use, which must not keep
// them.
func (p proc) read(name string, limit int, use func([]byte)) error {
	fd, err := unix.Openat(p.dir, name, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return gone(p.pid, name, err)
	}
	defer func() { _ = unix.Close(fd) }() // opened for reading
	buf := fileBuffers.Get().(*[maxFile]byte)
	defer fileBuffers.Put(buf)
	n, err := unix.Read(fd, buf[:limit])
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Read(fd, buf[:limit])
	}
	if err != nil {
		return gone(p.pid, name, err)
	}
	use(buf[:n])
	return nil
}

// link returns what one of the process's links names, "" when it cannot be read. It
// never follows it: what it names may lie on a file system that never answers.
func (p proc) link(name string) string {
	var buf [maxPath]byte
	n, err := unix.Readlinkat(p.dir, name, buf[:])
	if err != nil {
		return ""
	}
	return string(buf[:n])
}

func gone(pid int, name string, err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
		return ErrNotFound
	}
	return fmt.Errorf("read /proc/%d/%s: %w", pid, name, err)
}

// stat returns the parent and the start time in clock ticks since boot.
func (p proc) stat() (parent int, started int64, err error) {
	if e := p.read("stat", maxStat, func(b []byte) { parent, started, err = parseStat(b) }); e != nil {
		return 0, 0, e
	}
	return parent, started, err
}

// parseStat reads /proc/PID/stat. The second field is the program's name, in which
// anything may stand, so everything is counted from its last bracket.
func parseStat(b []byte) (parent int, started int64, err error) {
	end := bytes.LastIndexByte(b, ')')
	if end < 0 {
		return 0, 0, errors.New("read stat: no program name")
	}
	fields := strings.Fields(string(b[end+1:]))
	if len(fields) < 20 {
		return 0, 0, fmt.Errorf("read stat: %d fields", len(fields))
	}
	parent, err1 := strconv.Atoi(fields[1])
	started, err2 := strconv.ParseInt(fields[19], 10, 64)
	if err1 != nil || err2 != nil || parent < 0 || started < 0 {
		return 0, 0, fmt.Errorf("read stat: parent %.20q, start %.20q", fields[1], fields[19])
	}
	return parent, started, nil
}

// uid returns the process's real uid: who runs it, also when it is set-uid.
func (p proc) uid() (uid uint32, err error) {
	if e := p.read("status", maxStatus, func(b []byte) { uid, err = parseUID(b) }); e != nil {
		return 0, e
	}
	return uid, err
}

// parseUID reads the real uid from /proc/PID/status.
func parseUID(b []byte) (uint32, error) {
	first, _, _ := strings.Cut(statusLine(b, "Uid:\t"), "\t")
	uid, err := strconv.ParseUint(first, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("read status: uid %.20q", first)
	}
	return uint32(uid), nil
}

// parseThreadGroup reads the number of the process that a thread belongs to.
func parseThreadGroup(b []byte) (int, error) {
	text := statusLine(b, "Tgid:\t")
	pid, err := strconv.Atoi(text)
	if err != nil || pid <= 0 {
		return 0, fmt.Errorf("read status: process %.20q", text)
	}
	return pid, nil
}

// statusLine returns what follows name in /proc/PID/status. Control bytes in the program's
// name are escaped by the kernel, so no other line can begin with it.
func statusLine(b []byte, name string) string {
	for line := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(line, []byte(name)); ok {
			return strings.TrimSpace(string(rest))
		}
	}
	return ""
}

// describe returns all that can be read without touching the process's memory, and
// its parent. What goes first when a process ends is read first.
func (p proc) describe() (policy.Process, int, error) {
	if p.was != nil {
		return p.was.process, p.was.parent, nil
	}
	return p.describeAs(p.uid)
}

// describeAs is describe with another way to find the user.
func (p proc) describeAs(user func() (uint32, error)) (policy.Process, int, error) {
	exe, cwd := p.link("exe"), p.link("cwd")
	root := p.root()
	parent, started, err := p.stat()
	if err != nil {
		return policy.Process{}, 0, err
	}
	uid, err := user()
	if err != nil {
		return policy.Process{}, 0, err
	}
	return policy.Process{
		PID: int32(p.pid), UID: uid, Started: started,
		Executable:       cleanLink(exe, root),
		WorkingDirectory: cleanLink(cwd, root),
	}, parent, nil
}

// root returns the folder that the process sees as "/", if somebody with the right to
// do so on this host put it there. In a user namespace of his own anybody can call
// any folder "/", so there the path as we see it is kept.
func (p proc) root() string {
	root := p.link("root")
	if root == "/" || root == "" {
		return ""
	}
	own, err := os.Readlink("/proc/self/ns/user")
	if err != nil || own != p.link("ns/user") {
		return ""
	}
	return root
}

// cleanLink makes the text of a link in /proc a path as the process sees it: without
// root before it and " (deleted)" behind it; "" for what is no path.
func cleanLink(s, root string) string {
	s = strings.TrimSuffix(s, " (deleted)")
	if root != "" && (s == root || strings.HasPrefix(s, root+"/")) {
		s = s[len(root):]
		if s == "" {
			s = "/"
		}
	}
	if !strings.HasPrefix(s, "/") {
		return "" // "(unreachable)/…": outside our mount tree
	}
	return s
}

// memory is what stands in the process's own memory: he may write there what he
// likes, and reading it may hang (a page that a user's file system never delivers).
type memory struct {
	args []string
	env  [5]string // as in variables
	told bool      // it could be seen which program it runs; not so once it is ending
	exim bool      // runs the same file as the Exim program that was asked for
}

// variables names the only ones that are ever told, in the order of memory.env.
func variables() [5]string {
	return [5]string{"SCRIPT_FILENAME", "REMOTE_ADDR", "REQUEST_URI", "SERVER_NAME", "HTTP_HOST"}
}

// readMemory reads arguments and environment, as far as they can be read, and
// whether the process runs the file exim.
func (p proc) readMemory(exim fileID) memory {
	var m memory
	// What cannot be read is not told.
	_ = p.read("cmdline", maxArgBytes, func(b []byte) { m.args = parseArgs(b) })
	_ = p.read("environ", maxEnviron, func(b []byte) { m.env = parseEnviron(b) })
	id, err := fileAt(p.dir, "exe")
	m.told = err == nil
	m.exim = m.told && exim != fileID{} && id == exim
	return m
}

// parseArgs splits /proc/PID/cmdline. A program that has written a title of its own
// there leaves empty arguments behind it, which are dropped.
func parseArgs(b []byte) []string {
	b = bytes.TrimRight(b[:min(len(b), maxArgBytes)], "\x00")
	if len(b) == 0 {
		return nil
	}
	args := strings.SplitN(string(b), "\x00", maxArgs+1)
	return args[:min(len(args), maxArgs)]
}

// parseEnviron finds the five variables; as for getenv the first of a name counts.
func parseEnviron(b []byte) [5]string {
	var env [5]string
	var seen [5]bool
	names := variables()
	for entry := range bytes.SplitSeq(b[:min(len(b), maxEnviron)], []byte{0}) {
		name, value, ok := bytes.Cut(entry, []byte{'='})
		if !ok {
			continue
		}
		for i, want := range names {
			if !seen[i] && string(name) == want {
				seen[i] = true
				env[i] = string(value[:min(len(value), maxVariable)])
			}
		}
	}
	return env
}

// fileID tells two files apart whatever their names are.
type fileID struct{ device, inode uint64 }

// fileAt returns the identity of what name leads to, seen from the folder dir. It asks
// for what the kernel has cached, not the file system behind it.
func fileAt(dir int, name string) (fileID, error) {
	var st unix.Statx_t
	if err := unix.Statx(dir, name, unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &st); err != nil {
		return fileID{}, err
	}
	return fileID{device: unix.Mkdev(st.Dev_major, st.Dev_minor), inode: st.Ino}, nil
}
