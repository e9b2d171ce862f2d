package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"osm/internal/config"
	"osm/internal/origin"
)

// Host looks at this machine from outside the daemon, for "osmctl doctor": whether each
// piece is where it belongs and can be used. Much of it only root may see.
type Host struct {
	Root   string // before every path, for tests; "" = the machine itself
	Config config.Config
	UID    int // who looks
	Now    func() time.Time
}

// Checks looks at every piece. Each check names what is wrong and what to do.
func (h *Host) Checks(ctx context.Context) []Check {
	s, e := &h.Config.Server, &h.Config.Exim
	policy := h.socket("policy socket", s.PolicySocket, e.Group, "Exim cannot ask: every message is accepted unchecked")
	question := skipped("question", "see policy socket")
	if policy.OK {
		question = h.question(ctx)
	}
	list := append(h.users(), h.programs(), h.settings(), h.stateFolder(), policy,
		h.socket("control socket", s.ControlSocket, s.AdminGroup, "nobody but root can use osmctl"),
		h.socket("inspect socket", s.InspectSocket, s.Group, "scripts are told apart by uid and directory only"),
		h.socket("executor socket", s.ExecutorSocket, s.Group, "held mail cannot be released or removed"),
		h.socket("watch socket", s.WatchSocket, s.Group, "connections that bypass Exim are not seen"),
		question,
	)
	list = append(list, h.exim(ctx)...)
	list = append(list, h.cpanel()...)
	return append(list, h.inspector(ctx), h.executorFile(), h.units(), h.jails())
}

func ok(name, format string, args ...any) Check {
	return Check{Name: name, OK: true, Text: fmt.Sprintf(format, args...)}
}

func bad(name, hint, format string, args ...any) Check {
	return Check{Name: name, Text: fmt.Sprintf(format, args...), Hint: hint}
}

func skipped(name, format string, args ...any) Check {
	return Check{Name: name, OK: true, Skipped: true, Text: fmt.Sprintf(format, args...)}
}

const runInstall = "run make install (exim-acl/install.sh install) again"

// users checks that everybody whom the configuration names is there.
func (h *Host) users() []Check {
	var missing []string
	for key, name := range map[string]string{"server.user": h.Config.Server.User, "exim.user": h.Config.Exim.User} {
		if _, err := user.Lookup(name); err != nil {
			missing = append(missing, fmt.Sprintf("user %s (%s)", name, key))
		}
	}
	for key, name := range map[string]string{"server.group": h.Config.Server.Group, "exim.group": h.Config.Exim.Group, "server.admin_group": h.Config.Server.AdminGroup} {
		if _, err := user.LookupGroup(name); err != nil {
			missing = append(missing, fmt.Sprintf("group %s (%s)", name, key))
		}
	}
	if len(missing) > 0 {
		return []Check{bad("users", runInstall+", or correct osm.toml", "there is no %s", strings.Join(missing, ", no "))}
	}
	if u, err := user.Lookup(h.Config.Server.User); err == nil {
		groups, _ := u.GroupIds()
		if g, err := user.LookupGroup(h.Config.Exim.Group); err == nil && slices.Contains(groups, g.Gid) {
			return []Check{bad("users", fmt.Sprintf("gpasswd -d %s %s", u.Username, h.Config.Exim.Group), "%s is in Exim's group %s and can read the mail in its spool", u.Username, h.Config.Exim.Group)}
		}
	}
	return []Check{ok("users", "all are there")}
}

// socket checks that a socket is there and that just the right group may use it.
func (h *Host) socket(name, path, group, without string) Check {
	const restart = "start or restart the daemon: systemctl restart osm-policy.socket osm-control.socket osm-inspect.socket osm-executor.socket osm-watch.socket osmd, or osmd -config /etc/osm/osm.toml"
	st, err := os.Lstat(h.Root + path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return bad(name, restart, "%s is missing: %s", path, without)
	case errors.Is(err, fs.ErrPermission):
		return skipped(name, "%s: only root may look", path)
	case err != nil:
		return bad(name, restart, "%s: %v", path, err)
	case st.Mode()&fs.ModeSocket == 0:
		return bad(name, "move it away and restart the daemon", "%s is no socket", path)
	}
	if dir, err := os.Stat(h.Root + filepath.Dir(path)); err == nil && dir.Mode().Perm()&0o001 == 0 {
		return bad(name, "chmod 0755 "+filepath.Dir(path), "the folder %s may not be entered (mode %04o): %s", filepath.Dir(path), dir.Mode().Perm(), without)
	}
	sys := st.Sys().(*syscall.Stat_t)
	g, err := user.LookupGroup(group)
	switch {
	case err != nil:
		return skipped(name, "there is no group %s, see users", group)
	case st.Mode().Perm()&0o007 != 0:
		return bad(name, "chmod o= "+path+" and restart the daemon", "%s may be used by everybody (mode %04o)", path, st.Mode().Perm())
	case st.Mode().Perm()&0o660 != 0o660 || strconv.FormatUint(uint64(sys.Gid), 10) != g.Gid:
		return bad(name, restart, "%s has mode %04o and group %d, not 0660 and %s: %s", path, st.Mode().Perm(), sys.Gid, group, without)
	case sys.Uid != 0 && int(sys.Uid) != h.UID:
		return bad(name, restart, "%s belongs to uid %d, not to root", path, sys.Uid)
	}
	return ok(name, "%s, group %s, mode %04o", path, group, st.Mode().Perm())
}

// programs checks that what the units and people start is there, and root's alone.
func (h *Host) programs() Check {
	const name = "programs"
	var found []string
	for _, program := range []string{"osmd", "osmctl"} {
		path := "/usr/local/sbin/" + program
		if !h.exists(path) {
			path = "/usr/sbin/" + program
		}
		st, err := os.Stat(h.Root + path)
		if err != nil {
			return bad(name, runInstall, "there is no /usr/local/sbin/%s: the daemon does not come back after its next stop", program)
		}
		if c := h.rootsAlone(name, path, st); !c.OK {
			return c
		}
		found = append(found, path)
	}
	return ok(name, "%s", strings.Join(found, ", "))
}

// rootsAlone checks that nobody but root (or, in tests, whoever looks) can change a file
// that root goes by.
func (h *Host) rootsAlone(name, path string, st fs.FileInfo) Check {
	owner := st.Sys().(*syscall.Stat_t).Uid
	switch {
	case owner != 0 && int(owner) != h.UID:
		return bad(name, "chown root:root "+path, "%s belongs to uid %d, which could become root by it", path, owner)
	case st.Mode().Perm()&0o022 != 0:
		return bad(name, "chmod go-w "+path, "%s may be changed by others (mode %04o), who could become root by it", path, st.Mode().Perm())
	}
	return ok(name, "%s is root's alone", path)
}

// settings checks that the daemon cannot change what the parts that are root go by: they
// read osm.toml too.
func (h *Host) settings() Check {
	const name = "osm.toml"
	path := cmp.Or(h.Config.Path, "/etc/osm/osm.toml")
	for _, p := range []string{filepath.Dir(path), path} {
		st, err := os.Stat(h.Root + p)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return ok(name, "there is no %s: the defaults hold", path)
		case err != nil:
			return skipped(name, "%v", err)
		}
		if c := h.rootsAlone(name, p, st); !c.OK {
			return c
		}
	}
	return ok(name, "%s is root's alone", path)
}

// stateFolder checks that the daemon, and nobody else, can write where its database is.
func (h *Host) stateFolder() Check {
	const name = "state folder"
	dir := filepath.Dir(h.Config.Store.Path)
	st, err := os.Stat(h.Root + dir)
	u, userErr := user.Lookup(h.Config.Server.User)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return bad(name, runInstall, "%s is missing: nothing is kept", dir)
	case err != nil:
		return skipped(name, "%s: only root may look", dir)
	case userErr != nil:
		return skipped(name, "there is no user %s, see users", h.Config.Server.User)
	}
	uid := strconv.FormatUint(uint64(st.Sys().(*syscall.Stat_t).Uid), 10)
	switch {
	case uid != u.Uid || st.Mode().Perm()&0o700 != 0o700:
		return bad(name, fmt.Sprintf("chown %s %s && chmod 0750 %s", u.Username, dir, dir), "%s belongs to uid %s with mode %04o: %s cannot write its database there", dir, uid, st.Mode().Perm(), u.Username)
	case st.Mode().Perm()&0o027 != 0:
		return bad(name, "chmod 0750 "+dir, "%s is open to others (mode %04o): it tells who mailed whom", dir, st.Mode().Perm())
	}
	return ok(name, "%s belongs to %s", dir, u.Username)
}

// question asks what Exim asks, as Exim's user: root's own mail, which is charged to
// nobody.
func (h *Host) question(ctx context.Context) Check {
	const name = "question"
	if h.UID != 0 {
		return skipped(name, "only root can ask as Exim does")
	}
	u, err := user.Lookup(h.Config.Exim.User)
	if err != nil {
		return bad(name, "correct exim.user in osm.toml", "there is no user %s", h.Config.Exim.User)
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	if g, err := user.LookupGroup(h.Config.Exim.Group); err == nil {
		gid, _ = strconv.Atoi(g.Gid)
	}
	answer, took, err := h.askAs(ctx, h.Root+h.Config.Server.PolicySocket, uid, gid)
	switch {
	case err != nil:
		return bad(name, "look at the daemon's log: journalctl -u osmd", "asked as %s, the daemon did not answer: %v", u.Username, err)
	case !strings.HasSuffix(answer, "osm=1") || !strings.HasPrefix(answer, "action="):
		return bad(name, "look at the daemon's log: journalctl -u osmd", "asked as %s, the daemon answered %.80q", u.Username, answer)
	}
	return ok(name, "asked as %s, answered in %s: %s", u.Username, took.Round(10*time.Microsecond), answer)
}

// askAs asks on the policy socket as another user. The user is changed for one thread
// alone, which ends with the question; the process stays what it is.
func (h *Host) askAs(ctx context.Context, socket string, uid, gid int) (answer string, took time.Duration, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the runtime throws the thread away
		if _, _, e := syscall.RawSyscall(unix.SYS_SETRESGID, ^uintptr(0), uintptr(gid), ^uintptr(0)); e != 0 {
			err = fmt.Errorf("take group %d: %w", gid, e)
			return
		}
		if _, _, e := syscall.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); e != 0 {
			err = fmt.Errorf("take user %d: %w", uid, e)
			return
		}
		start := h.Now()
		answer, err = ask(ctx, socket)
		took = h.Now().Sub(start)
	}()
	<-done
	return answer, took, err
}

func ask(ctx context.Context, socket string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return "", err
	}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	if err := c.SetDeadline(deadline); err != nil {
		return "", err
	}
	if _, err := io.WriteString(c, "osm=1\nproto=local\nouid=0\nsize=0\nnrcpt=1\n\n"); err != nil {
		return "", err
	}
	b, err := io.ReadAll(io.LimitReader(c, 2048))
	return strings.TrimSpace(string(b)), err
}

// readPlain reads a plain file of bounded size and says whose it is.
func readPlain(path string) (text []byte, mode fs.FileMode, owner uint32, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, 0, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, 0, 0, err
	}
	if !st.Mode().IsRegular() {
		return nil, 0, 0, fmt.Errorf("%s is no plain file", path)
	}
	text, err = io.ReadAll(io.LimitReader(f, maxConfigFile))
	return text, st.Mode(), st.Sys().(*syscall.Stat_t).Uid, err
}

// inspector asks the part that looks at processes about this very process.
func (h *Host) inspector(ctx context.Context) Check {
	const name = "inspector"
	if h.UID != 0 {
		return skipped(name, "only root and the daemon can ask it")
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	i := origin.NewInspector(h.Root + h.Config.Server.InspectSocket)
	defer i.Close()
	if _, _, err := i.Chain(ctx, int32(os.Getpid())); err != nil {
		return bad(name, "systemctl status osm-inspect; without it scripts are told apart by uid and directory only", "it does not answer: %v", err)
	}
	return ok(name, "it answers")
}

// executorPath is where the executor's own settings are.
const executorPath = "/etc/osm/executor.toml"

// executorFile checks that nobody but root decides what the executor runs.
func (h *Host) executorFile() Check {
	const name, path = "executor.toml", executorPath
	if _, err := config.LoadExecutor(h.Root + path); err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return skipped(name, "only root may read %s", path)
		}
		return bad(name, "mend "+path+" and restart osm-executor", "%v", err)
	}
	if !h.exists(path) {
		return ok(name, "there is no %s: the defaults hold", path)
	}
	return ok(name, "%s can be trusted", path)
}

// units checks that systemd, where it runs, has our units.
func (h *Host) units() Check {
	const name = "units"
	if _, err := os.Stat(h.Root + "/run/systemd/system"); err != nil {
		return skipped(name, "systemd does not run here; the daemon is started by: osmd -config /etc/osm/osm.toml")
	}
	var missing []string
	for _, unit := range []string{"osmd.service", "osm-policy.socket", "osm-control.socket", "osm-inspect.socket", "osm-inspect.service", "osm-executor.socket", "osm-executor.service", "osm-watch.socket", "osm-watch.service"} {
		if !h.exists("/etc/systemd/system/"+unit, "/lib/systemd/system/"+unit, "/usr/lib/systemd/system/"+unit) {
			missing = append(missing, unit)
		}
	}
	if len(missing) > 0 {
		return bad(name, runInstall, "missing: %s", strings.Join(missing, ", "))
	}
	return ok(name, "all are installed")
}

func (h *Host) exists(paths ...string) bool {
	for _, p := range paths {
		if _, err := os.Stat(h.Root + p); err == nil {
			return true
		}
	}
	return false
}

// jails checks that users in a jail reach the socket: where they do not, Exim finds no
// socket when their scripts send, and accepts the message unchecked.
func (h *Host) jails() Check {
	const name = "jailed users"
	dir := filepath.Dir(h.Config.Server.PolicySocket)
	mounts, _, _, err := readPlain(h.Root + "/etc/cagefs/cagefs.mp")
	switch {
	case err == nil && !mountsFolder(string(mounts), dir):
		return bad(name, "add the line "+dir+" to /etc/cagefs/cagefs.mp and run: cagefsctl --remount-all",
			"CageFS does not show %s to its users: their scripts' mail is accepted unchecked", dir)
	case err == nil:
		return ok(name, "CageFS shows %s to its users", dir)
	case errors.Is(err, fs.ErrPermission):
		return skipped(name, "only root may read /etc/cagefs/cagefs.mp")
	}
	passwd, _, _, err := readPlain(h.Root + "/etc/passwd")
	if err != nil {
		return skipped(name, "could not read /etc/passwd: %v", err)
	}
	if n := strings.Count(string(passwd), "/jailshell\n"); n > 0 {
		return skipped(name, "%d users have the panel's jailed shell: from it run sendmail once and see with osmctl tail that the message is checked", n)
	}
	return ok(name, "there are none")
}

// mountsFolder reports whether a list of mount points shows a folder or one above it.
func mountsFolder(list, dir string) bool {
	for line := range strings.Lines(list) {
		line = strings.TrimLeft(strings.TrimSpace(line), "!%@") // marks of how it is mounted
		line, _, _ = strings.Cut(line, ",")
		if line != "" && line != "/" && (line == dir || strings.HasPrefix(dir, strings.TrimRight(line, "/")+"/")) {
			return true
		}
	}
	return false
}
