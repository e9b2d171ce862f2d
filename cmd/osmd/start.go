package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"osm/internal/config"
	"osm/internal/packetmon"
	"osm/internal/privilege"
	"osm/internal/systemd"
)

// The names of the sockets, in systemd's units and between our own processes.
const (
	policySocket   = "policy"
	controlSocket  = "control"
	inspectSocket  = "inspect"
	executorSocket = "executor"
	watchSocket    = "watch"
)

// What the first stage, still root, hands on beside the sockets: the children as
// name=pid, and the descriptor whose end of file tells a child that the daemon is gone.
const (
	childrenEnv = "OSM_CHILDREN"
	lifelineEnv = "OSM_LIFELINE"
)

// checkConfig is osmd -t.
func checkConfig(path string, out io.Writer) error {
	cfg, err := config.Load(path)
	if err != nil {
		return fmt.Errorf("%w\n(nothing was changed; mend the file and run osmd -t again)", err)
	}
	fmt.Fprintf(out, "%s: ok, %d triggers, %d limits, %d exemptions\n", path, len(cfg.Triggers), len(cfg.Overrides), len(cfg.Exemptions))
	return nil
}

// options are the command line's.
type options struct {
	config, executor string // files
	withoutStore     bool
	level            *slog.LevelVar // of the log
}

// start finds out how it was started. Under systemd, and in the second stage, the
// sockets are there already and the process is not root. As root it makes them and
// gives root away. As anybody else it does everything in one process.
func start(o options) error {
	cfg, err := config.Load(o.config)
	if err != nil {
		return fmt.Errorf("%w\n(osmd did not start: mend the file and check it with osmd -t)", err)
	}
	log, level, err := newLog(cfg.Log, os.Stderr)
	if err != nil {
		return err
	}
	o.level = level
	slog.SetDefault(log)
	sockets, err := systemd.Listeners()
	if err != nil {
		return fmt.Errorf("take over the sockets: %w", err)
	}
	switch {
	case len(sockets) > 0:
		return serve(cfg, o, sockets, log)
	case os.Geteuid() == 0:
		return startAsRoot(cfg, o)
	default:
		return startAlone(cfg, o, log)
	}
}

// ids are the numbers that the configuration's names stand for.
type ids struct {
	osm, exim                   privilege.User
	osmGID, eximGID, adminGroup int
}

func lookupIDs(cfg config.Config) (i ids, err error) {
	var errs []error
	u := func(key, name string) privilege.User {
		u, err := privilege.LookupUser(name)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", key, err))
		}
		return u
	}
	g := func(key, name string) int {
		gid, err := privilege.LookupGroup(name)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", key, err))
		}
		return gid
	}
	i.osm, i.exim = u("server.user", cfg.Server.User), u("exim.user", cfg.Exim.User)
	i.osmGID, i.eximGID = g("server.group", cfg.Server.Group), g("exim.group", cfg.Exim.Group)
	i.adminGroup = g("server.admin_group", cfg.Server.AdminGroup)
	if len(errs) > 0 {
		return i, fmt.Errorf("%w\n(make install creates the users and groups of osm; the others must exist)", errors.Join(errs...))
	}
	return i, nil
}

// startAsRoot makes the sockets with their owners, starts the parts that stay root,
// and goes on as the same process without any privilege.
func startAsRoot(cfg config.Config, o options) error {
	id, err := lookupIDs(cfg)
	if err != nil {
		return err
	}
	if err := makeFolders(cfg, id); err != nil {
		return err
	}
	sockets, err := makeSockets(cfg, id)
	if err != nil {
		return err
	}
	lifeR, lifeW, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make the lifeline of the root parts: %w", err)
	}
	if _, err := unix.FcntlInt(lifeR.Fd(), unix.F_SETFD, 0); err != nil {
		return fmt.Errorf("hand on the lifeline of the root parts: %w", err)
	}
	var children []string
	for _, name := range rootParts(cfg) {
		args := []string{"osmd", name, "-config", o.config}
		if name == executorSocket {
			args = append(args, "-executor-config", o.executor)
		}
		pid, err := startChild(args, name, sockets[name], lifeR)
		if err != nil {
			return err
		}
		children = append(children, fmt.Sprintf("%s=%d", name, pid))
	}
	lifeR.Close()
	// The daemon keeps the other end open and never writes: it ends with the daemon.
	if _, err := unix.FcntlInt(lifeW.Fd(), unix.F_SETFD, 0); err != nil {
		return fmt.Errorf("keep the lifeline of the root parts: %w", err)
	}
	handed, keep, err := systemd.HandOn(map[string]*net.UnixListener{
		policySocket: sockets[policySocket], controlSocket: sockets[controlSocket]})
	if err != nil {
		return err
	}
	env := append(os.Environ(), childrenEnv+"="+strings.Join(children, ","), handed)
	u := id.osm
	u.GID = id.osmGID
	err = privilege.DropTo(u, nil, env)
	runtime.KeepAlive(keep)
	runtime.KeepAlive(lifeW)
	return err
}

// rootParts are the parts that stay root.
func rootParts(cfg config.Config) []string {
	parts := []string{inspectSocket, executorSocket}
	if cfg.Direct.Source != packetmon.SourceOff {
		parts = append(parts, watchSocket)
	}
	return parts
}

func startChild(args []string, name string, l *net.UnixListener, lifeline *os.File) (int, error) {
	handed, keep, err := systemd.HandOn(map[string]*net.UnixListener{name: l})
	if err != nil {
		return 0, err
	}
	defer func() {
		for _, f := range keep {
			f.Close()
		}
	}()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	if name == watchSocket {
		defer hurried()()
	}
	p, err := os.StartProcess("/proc/self/exe", args, &os.ProcAttr{
		Dir: "/", Files: []*os.File{null, os.Stdout, os.Stderr},
		Env: append(cleanEnv(), handed, fmt.Sprintf("%s=%d", lifelineEnv, lifeline.Fd())),
		Sys: &syscall.SysProcAttr{Setpgid: true}, // Ctrl-C is for the daemon, which ends them
	})
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", strings.Join(args, " "), err)
	}
	return p.Pid, nil
}

// watchNice is the watch's nice value, as its unit has it: who connects must be asked for
// while the connection stands.
const watchNice = -10

// hurried makes what is started until the call that it returns start with watchNice: a child
// takes the value of the thread that starts it. Without the right to it nothing changes.
func hurried() (again func()) {
	runtime.LockOSThread()
	before, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err != nil || unix.Setpriority(unix.PRIO_PROCESS, 0, watchNice) != nil {
		return runtime.UnlockOSThread
	}
	return func() {
		// The system call tells 20 less the nice value. To be nicer again everybody may.
		_ = unix.Setpriority(unix.PRIO_PROCESS, 0, 20-before)
		runtime.UnlockOSThread()
	}
}

// cleanEnv is all that the parts that stay root need of the environment.
func cleanEnv() []string {
	env := []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C"}
	if tz, ok := os.LookupEnv("TZ"); ok {
		env = append(env, "TZ="+tz)
	}
	return env
}

func makeFolders(cfg config.Config, id ids) error {
	if err := os.MkdirAll(cfg.Server.RunDir, 0o755); err != nil {
		return fmt.Errorf("make server.run_dir: %w", err)
	}
	state := filepath.Dir(cfg.Store.Path)
	if _, err := os.Lstat(state); err == nil {
		return nil // there already: its owner is the operator's business
	}
	if err := os.MkdirAll(state, 0o750); err != nil {
		return fmt.Errorf("make the folder of store.path: %w", err)
	}
	if err := os.Lchown(state, id.osm.UID, id.osmGID); err != nil {
		return fmt.Errorf("give the folder of store.path to %q: %w", cfg.Server.User, err)
	}
	return nil
}

func makeSockets(cfg config.Config, id ids) (map[string]*net.UnixListener, error) {
	want := []struct {
		name, path string
		gid        int
	}{
		{policySocket, cfg.Server.PolicySocket, id.eximGID},
		{controlSocket, cfg.Server.ControlSocket, id.adminGroup},
		{inspectSocket, cfg.Server.InspectSocket, id.osmGID},
		{executorSocket, cfg.Server.ExecutorSocket, id.osmGID},
		{watchSocket, cfg.Server.WatchSocket, id.osmGID},
	}
	if !answers(cfg.Server.PolicySocket) {
		// Before Exim finds a socket on which nobody answers yet.
		waitForEnd(cfg.Server.InspectSocket, cfg.Server.ExecutorSocket, cfg.Server.WatchSocket)
	}
	out := map[string]*net.UnixListener{}
	for _, w := range want {
		l, err := listenUnix(w.path)
		if err != nil {
			return nil, err
		}
		if err := os.Lchown(w.path, 0, w.gid); err != nil {
			return nil, fmt.Errorf("give socket %q to its group: %w", w.path, err)
		}
		if err := os.Chmod(w.path, 0o660); err != nil {
			return nil, fmt.Errorf("set the mode of socket %q: %w", w.path, err)
		}
		out[w.name] = l
	}
	return out, nil
}

// partsEnd is how long the root parts of a daemon that is gone may take to end as well:
// the executor lets a delivery that is under way come to its end.
const partsEnd = 10 * time.Second

// waitForEnd waits until nobody answers on the sockets, or for partsEnd. The root parts
// see only after the daemon's end that it is gone, and a restart is quicker than that.
func waitForEnd(paths ...string) {
	limit := time.NewTimer(partsEnd)
	defer limit.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for slices.ContainsFunc(paths, answers) {
		select {
		case <-limit.C:
			return
		case <-tick.C:
		}
	}
}

// answers reports whether somebody listens on a socket.
func answers(path string) bool {
	c, err := net.Dial("unix", path)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// listenUnix makes a socket nobody but the owner may use yet. A socket of a daemon that
// is still running is left alone.
func listenUnix(path string) (*net.UnixListener, error) {
	if answers(path) {
		return nil, fmt.Errorf("listen on %q: another osmd answers there already; stop it first", path)
	}
	if st, err := os.Lstat(path); err == nil && st.Mode()&os.ModeSocket == 0 {
		return nil, fmt.Errorf("listen on %q: there is a file that is no socket; move it away", path)
	}
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("remove the old socket: %w", err)
	}
	old := syscall.Umask(0o177)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	syscall.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("listen on %q: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	return l, nil
}
