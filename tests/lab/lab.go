// Package lab is a private machine for tests, the demo and the benchmark: Debian's
// unmodified Exim with a configuration, accounts, spool and sink of its own, in a
// mount and a network namespace of its own, so that the host is left as it was and
// nothing that is sent can leave it.
//
// It never mocks: sendmail, PHP, SMTP AUTH, the queue and the daemon are the real ones.
// It is never linked into the product.
package lab

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// insideEnv marks the process that runs in the namespaces.
const insideEnv = "OSM_LAB_INSIDE"

// StrangerIP is an address of the lab's own network namespace that may not relay: a
// client somewhere in the world (RFC 5737).
const StrangerIP = "192.0.2.99"

// FirstUID is the uid of the first account; the others follow.
const FirstUID = 20001

// Enter makes the calling program run in namespaces of its own: the first call starts
// the program again in them, waits, and ends with its status; inside it returns.
// It needs root and says so where it is missing.
func Enter() error { return EnterWith(nil) }

// Outside is what the program in the namespaces gets from outside them.
type Outside struct {
	Files []*os.File // descriptors from FirstFile on
	Env   []string   // further variables
}

// FirstFile is the descriptor inside of the first of Outside's files.
const FirstFile = 3

// EnterWith is Enter for a program that needs what is to be had outside only: the network,
// or a socket that the host can reach. prepare is called there; nil: nothing is needed.
func EnterWith(prepare func() (Outside, error)) error {
	if os.Getenv(insideEnv) != "" {
		return insideSetup()
	}
	if os.Geteuid() != 0 {
		return errors.New("the lab runs a real Exim in namespaces of its own, which needs root: run it as root or with sudo")
	}
	var outside Outside
	if prepare != nil {
		var err error
		if outside, err = prepare(); err != nil {
			return err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own program: %w", err)
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(append(os.Environ(), insideEnv+"=1"), outside.Env...)
	cmd.ExtraFiles = outside.Files
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Unshareflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET,
		Pdeathsig:    syscall.SIGTERM,
	}
	signal.Ignore(syscall.SIGINT) // the terminal sends it to the inner process as well
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		os.Exit(max(exit.ExitCode(), 1))
	}
	if err != nil {
		return fmt.Errorf("start in namespaces of its own: %w", err)
	}
	os.Exit(0)
	return nil
}

func insideSetup() error {
	if err := run("ip", "link", "set", "lo", "up"); err != nil {
		return fmt.Errorf("bring up loopback (package iproute2): %w", err)
	}
	// A stranger's address, in this network namespace only.
	if err := run("ip", "addr", "add", StrangerIP+"/32", "dev", "lo"); err != nil {
		return fmt.Errorf("add the stranger's address: %w", err)
	}
	return nil
}

// Options says what the machine is to look like.
type Options struct {
	Dir         string   // folder for everything; made if missing, mode 0755
	FirstUID    int      // 0 = FirstUID; another one where uids must not be those of other tests' machines
	Accounts    []string // panel accounts, uid FirstUID and up, home Dir/home/NAME, domain NAME.example
	ACL         string   // the ACL text before the final accept, in both ACLs; "" = unguarded
	MainExtra   string   // further lines of Exim's main section
	TmpfsSpool  bool     // spool on tmpfs, so that a benchmark does not measure the disk
	QueueOnly   bool     // accept and keep, deliver nothing
	RouterExtra string   // routers before all others
}

// Lab is one running machine.
type Lab struct {
	Options
	Spool, Logs, Run, State, Home string
	Sink                          *Sink
	uids                          map[string]int
	exim                          *exec.Cmd
	EximUID, EximGID              int
	Panel                         string // accounts.source of the daemon; "" = passwd
	// Direct are the lines of the daemon's [direct]; "" = its source is off: others' connections
	// on this machine are not the business of a test of mail.
	Direct string
	// Executor are more lines of executor.toml.
	Executor string
}

// New makes folders, users, Exim's configuration and the sink. Call it once per process.
func New(o Options) (*Lab, error) {
	if os.Getenv(insideEnv) == "" {
		return nil, errors.New("not inside the lab's namespaces: call Enter first")
	}
	l := &Lab{Options: o, uids: map[string]int{}}
	l.Spool, l.Logs = filepath.Join(o.Dir, "spool"), filepath.Join(o.Dir, "log")
	l.Run, l.State, l.Home = filepath.Join(o.Dir, "run"), filepath.Join(o.Dir, "state"), filepath.Join(o.Dir, "home")
	steps := []func() error{l.lookupExim, l.makeFolders, l.makeUsers, l.writeExim, l.startSink}
	for _, step := range steps {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return l, nil
}

func (l *Lab) lookupExim() error {
	u, err := user.Lookup("Debian-exim")
	if err != nil {
		return fmt.Errorf("find Exim's user (package exim4-daemon-heavy): %w", err)
	}
	l.EximUID, _ = strconv.Atoi(u.Uid)
	l.EximGID, _ = strconv.Atoi(u.Gid)
	return nil
}

func (l *Lab) makeFolders() error {
	for _, d := range []string{l.Dir, l.Spool, l.Logs, l.Run, l.State, l.Home, l.Dir + "/etc"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
		if err := os.Chmod(d, 0o755); err != nil {
			return err
		}
	}
	if l.TmpfsSpool {
		if err := syscall.Mount("tmpfs", l.Spool, "tmpfs", 0, "size=2g"); err != nil {
			return fmt.Errorf("mount a tmpfs on %q: %w", l.Spool, err)
		}
	}
	for _, d := range []string{l.Spool, l.Logs} {
		if err := os.Chown(d, l.EximUID, l.EximGID); err != nil {
			return err
		}
	}
	return nil
}

// UID is an account's uid; 0 if there is no such account.
func (l *Lab) UID(account string) int { return l.uids[account] }

// HomeOf is an account's home folder.
func (l *Lab) HomeOf(account string) string { return filepath.Join(l.Home, account) }

// Domain is an account's mail domain.
func (l *Lab) Domain(account string) string { return account + ".example" }

func (l *Lab) makeUsers() error {
	passwd, err := os.ReadFile("/etc/passwd")
	if err != nil {
		return err
	}
	group, err := os.ReadFile("/etc/group")
	if err != nil {
		return err
	}
	var pw, gr, secrets strings.Builder
	pw.Write(passwd)
	gr.Write(group)
	add := func(name string, uid int, home string) {
		fmt.Fprintf(&pw, "%s:x:%d:%d::%s:/bin/sh\n", name, uid, uid, home)
		fmt.Fprintf(&gr, "%s:x:%d:\n", name, uid)
	}
	for i, a := range l.Accounts {
		uid := cmp.Or(l.FirstUID, FirstUID) + i
		l.uids[a] = uid
		home := l.HomeOf(a)
		add(a, uid, home)
		fmt.Fprintf(&secrets, "info@%s: pw-%s\n", l.Domain(a), a)
		if err := l.MakeDir(a, filepath.Join(home, "public_html")); err != nil {
			return err
		}
	}
	if !strings.Contains(string(passwd), "\nosm:") {
		add("osm", 19001, l.State)
	}
	if !strings.Contains(string(group), "\nosm-admin:") {
		fmt.Fprintf(&gr, "osm-admin:x:19002:\n")
	}
	files := map[string]string{"passwd": pw.String(), "group": gr.String()}
	for name, text := range files {
		if err := l.bindFile("/etc/"+name, text); err != nil {
			return err
		}
	}
	return os.WriteFile(l.Dir+"/etc/passwords", []byte(secrets.String()), 0o644)
}

// MakeDir makes a folder (and its parents below the home) that belongs to the account.
func (l *Lab) MakeDir(account, dir string) error {
	home := l.HomeOf(account)
	rel, err := filepath.Rel(home, dir)
	if err != nil {
		return err
	}
	at := home
	for _, part := range append([]string{""}, strings.Split(rel, "/")...) {
		at = filepath.Join(at, part)
		if err := os.MkdirAll(at, 0o755); err != nil {
			return err
		}
		if err := os.Chown(at, l.uids[account], l.uids[account]); err != nil {
			return err
		}
	}
	return nil
}

// WriteFile writes a file that belongs to the account.
func (l *Lab) WriteFile(account, path, text string) error {
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return err
	}
	return os.Chown(path, l.uids[account], l.uids[account])
}

// bindFile puts text in the place of a file of the host, in this namespace only.
func (l *Lab) bindFile(target, text string) error {
	mine := filepath.Join(l.Dir, "etc", filepath.Base(target))
	if err := os.WriteFile(mine, []byte(text), 0o644); err != nil {
		return err
	}
	if err := syscall.Mount(mine, target, "", syscall.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %q over %q: %w", mine, target, err)
	}
	return nil
}

// OverlayEtc lets everything below /etc be changed in this namespace alone; what is
// changed lies in dir.
func OverlayEtc(dir string) error { return Overlay("/etc", dir) }

// Overlay is OverlayEtc for another folder.
func Overlay(target, dir string) error {
	name := strings.ReplaceAll(strings.TrimPrefix(target, "/"), "/", "-")
	upper, work := filepath.Join(dir, name+"-upper"), filepath.Join(dir, name+"-work")
	for _, d := range []string{upper, work} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	o := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", target, upper, work)
	if err := syscall.Mount("overlay", target, "overlay", 0, o); err != nil {
		return fmt.Errorf("mount an overlay on %s: %w", target, err)
	}
	return nil
}

func run(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %.2000s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// Close ends what was started; the namespaces vanish with the process.
func (l *Lab) Close() {
	l.StopExim()
	if l.Sink != nil {
		l.Sink.Close()
	}
	if l.TmpfsSpool { // so that the folder can be removed
		_ = syscall.Unmount(l.Spool, syscall.MNT_DETACH)
	}
}
