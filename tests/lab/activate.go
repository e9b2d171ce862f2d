package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// restartLoop is what systemd does for a service with Restart=always: it keeps the
// sockets and starts the program again whenever it ends. $0 is the program, $1 its
// configuration.
const restartLoop = `while :; do
	/bin/sh -c 'LISTEN_PID=$$; export LISTEN_PID; exec "$0" -config "$1"' "$0" "$1" </dev/null
done`

// StartActivated starts the daemon as the socket units would: systemd-socket-activate
// makes the policy and the control socket and keeps them, the daemon runs as user osm
// without the two parts that are root, and is started again when it ends. The sockets
// have the owners and modes of the units. The daemon itself starts with the first
// question.
func (l *Lab) StartActivated(bin, rules string) (*Daemon, error) {
	d := &Daemon{lab: l, Bin: bin, Config: l.Dir + "/etc/osm.toml", Log: l.Logs + "/osmd.log"}
	if err := d.WriteConfig(l.Config(rules)); err != nil {
		return nil, err
	}
	uid, gid := systemUser("osm")
	if err := os.Chown(l.State, int(uid), int(gid)); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(d.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	for _, path := range []string{l.PolicySocket(), l.ControlSocket()} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	d.cmd = exec.Command("/usr/bin/systemd-socket-activate", "-l", l.PolicySocket(), "-l", l.ControlSocket(), "--fdname=policy:control",
		"/usr/bin/setpriv", fmt.Sprint("--reuid=", uid), fmt.Sprint("--regid=", gid), "--clear-groups",
		"/bin/sh", "-c", restartLoop, bin+"/osmd", d.Config)
	d.cmd.Stdout, d.cmd.Stderr = log, log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := d.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start systemd-socket-activate: %w", err)
	}
	sockets := map[string]int{l.PolicySocket(): l.EximGID, l.ControlSocket(): 0}
	for path, group := range sockets {
		err := WaitFor(5*time.Second, "the socket "+path, func() error { return os.Chown(path, 0, group) })
		if err == nil {
			err = os.Chmod(path, 0o660)
		}
		if err != nil {
			return d, errors.Join(err, d.StopActivated())
		}
	}
	return d, nil
}

// Attach returns this lab's daemon where somebody else starts and ends it: to write its
// configuration and to ask it.
func (l *Lab) Attach(bin string) *Daemon {
	return &Daemon{lab: l, Bin: bin, Config: l.Dir + "/etc/osm.toml", Log: l.Logs + "/osmd.log"}
}

// StopActivated ends what StartActivated started, without giving it a chance.
func (d *Daemon) StopActivated() error {
	err := syscall.Kill(-d.cmd.Process.Pid, syscall.SIGKILL)
	_ = d.Wait() // "signal: killed" is what was asked for
	return err
}

// Descendant finds a process that was started by pid, or by one of those it started,
// whose arguments hold all the words.
func Descendant(pid int, words ...string) (int, error) {
	names, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, err
	}
	for _, dir := range names {
		child, _ := strconv.Atoi(filepath.Base(dir))
		args, err := os.ReadFile(dir + "/cmdline")
		if err != nil || child == pid || !holds(strings.Split(string(args), "\x00"), words) {
			continue
		}
		for at := child; at > 1; {
			parent, err := ProcStatus(at, "PPid")
			if err != nil {
				break // it has ended
			}
			if at, _ = strconv.Atoi(parent); at == pid {
				return child, nil
			}
		}
	}
	return 0, fmt.Errorf("no process of %d runs with %q", pid, words)
}

func holds(args, words []string) bool {
	have := map[string]bool{}
	for _, a := range args {
		have[a] = true
		have[filepath.Base(a)] = true
	}
	for _, w := range words {
		if !have[w] {
			return false
		}
	}
	return true
}
