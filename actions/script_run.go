package actions

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// scriptRun is one program about to be run.
type scriptRun struct {
	argv        []string
	user        scriptUser
	file        string // the report's, "" = on stdin
	env         []string
	limit       time.Duration
	outputLimit int
	apart       bool // by systemd-run
}

// scriptUser is as whom it runs.
type scriptUser struct {
	uid, gid uint32
	groups   []uint32
	name     string
	home     string
}

// scriptRun checks a script's entry: the program must be root's alone, whoever it runs as,
// and so must each file among the arguments where it runs as root: it may be what an
// interpreter is to run.
func (x *executor) scriptRun(s *Script) (*scriptRun, error) {
	o := x.o.Scripts[s.Name]
	if len(o.Command) == 0 || !filepath.IsAbs(o.Command[0]) {
		return nil, refusal{"its command is no absolute path", ""}
	}
	if err := trustedProgram(o.Command[0]); err != nil {
		return nil, err
	}
	u, err := lookupScriptUser(cmp.Or(o.User, "nobody"))
	if err != nil {
		return nil, err
	}
	for _, a := range o.Command[1:] {
		if u.uid == 0 && filepath.IsAbs(a) && fileExists(a) {
			if _, err := trusted(a); err != nil {
				return nil, err
			}
		}
	}
	r := &scriptRun{argv: o.Command, user: u, apart: x.o.ScriptsApart, limit: maxScriptTime, outputLimit: maxScriptSaid}
	if o.TimeLimit < maxScriptTime {
		r.limit = cmp.Or(o.TimeLimit, 30*time.Second)
	}
	if o.OutputLimit < maxScriptSaid {
		r.outputLimit = cmp.Or(o.OutputLimit, 64<<10)
	}
	r.env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=" + u.home, "USER=" + u.name, "LOGNAME=" + u.name, "OSM_REPORT_FORMAT=" + s.Format}
	if o.File {
		r.file = filepath.Join(x.o.ReportDir, "report-"+strings.ToLower(rand.Text())+formats()[s.Format])
	}
	return r, nil
}

func lookupScriptUser(name string) (scriptUser, error) {
	u, err := user.Lookup(name)
	var unknown user.UnknownUserError
	if errors.As(err, &unknown) {
		return scriptUser{}, refusal{fmt.Sprintf("%.40q is no user of this machine", name), ""}
	}
	if err != nil {
		return scriptUser{}, fmt.Errorf("look up user %q: %w", name, err)
	}
	ids, err := u.GroupIds()
	if err != nil {
		return scriptUser{}, fmt.Errorf("look up the groups of user %q: %w", name, err)
	}
	out := scriptUser{name: u.Username, home: u.HomeDir}
	for i, id := range append([]string{u.Uid, u.Gid}, ids...) {
		n, err := strconv.ParseUint(id, 10, 32)
		switch {
		case err != nil:
			return scriptUser{}, fmt.Errorf("look up user %q: %w", name, err)
		case i == 0:
			out.uid = uint32(n)
		case i == 1:
			out.gid = uint32(n)
		default:
			out.groups = append(out.groups, uint32(n))
		}
	}
	if os.Geteuid() != 0 && int(out.uid) != os.Geteuid() {
		return scriptUser{}, refusal{"the executor does not run as root and cannot become " + name, ""}
	}
	return out, nil
}

// do runs it to its end. At the time limit its process group is killed, under systemd all
// that it started. What it leaves running when it ends by itself goes on: it may be Exim
// that delivers what the script mailed, and must not be killed while it does. Who keeps the
// output open is not waited for.
func (r *scriptRun) do(ctx context.Context, report []byte) (ScriptResult, error) {
	var stdin *bytes.Reader
	argv := r.argv
	if r.file == "" {
		stdin = bytes.NewReader(report)
	} else {
		defer os.Remove(r.file)
		if err := r.writeReport(report); err != nil {
			return ScriptResult{}, err
		}
		argv = append(append([]string{}, argv...), r.file)
	}
	inTime, cancel := context.WithTimeout(ctx, r.limit)
	defer cancel()
	unit := ""
	if r.apart {
		unit = "osm-script-" + strings.ToLower(rand.Text()) + ".service"
		argv = r.unit(unit, argv)
	}
	cmd := exec.CommandContext(inTime, argv[0], argv[1:]...)
	if stdin != nil { // a nil *Reader is no nil Reader
		cmd.Stdin = stdin
	}
	cmd.Dir, cmd.Env = "/", r.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if os.Geteuid() == 0 && !r.apart {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: r.user.uid, Gid: r.user.gid, Groups: r.user.groups}
	}
	out := &cappedBuffer{limit: r.outputLimit}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Cancel = func() error {
		if unit != "" {
			killUnit(unit)
		}
		return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	cmd.WaitDelay = 2 * time.Second
	err := cmd.Run()
	if cmd.ProcessState == nil {
		return ScriptResult{}, fmt.Errorf("run it: %w", err)
	}
	res := ScriptResult{Exit: endedWith(cmd.ProcessState), Output: out.String()}
	switch {
	case ctx.Err() != nil:
		return res, errors.New("killed, as the executor ends")
	case inTime.Err() != nil && res.Exit != 0:
		return res, fmt.Errorf("killed after %v", r.limit)
	}
	return res, nil
}

func endedWith(p *os.ProcessState) int {
	if w, ok := p.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return 128 + int(w.Signal())
	}
	return p.ExitCode()
}

// unit is put before the program where systemd started the executor. A script is to do what
// the executor's own unit must not: send mail through Exim's setuid program, connect to a
// ticket system. KillMode=process lets a delivery go on, as in [OutsideUnit]. We end the
// unit at the time limit; systemd does where we are gone.
func (r *scriptRun) unit(name string, program []string) []string {
	argv := []string{"/usr/bin/systemd-run", "--quiet", "--collect", "--wait", "--pipe", "--unit=" + name,
		fmt.Sprintf("--uid=%d", r.user.uid), fmt.Sprintf("--gid=%d", r.user.gid),
		fmt.Sprintf("--property=RuntimeMaxSec=%d", int64(r.limit/time.Second)+5), "--property=TimeoutStopSec=1", "--property=KillMode=process",
		"--property=WorkingDirectory=/", "--", "/usr/bin/env", "-i"}
	for _, a := range append(append([]string{}, r.env...), program...) {
		argv = append(argv, strings.ReplaceAll(a, "$", "$$")) // systemd puts variables in
	}
	return argv
}

// killUnit ends all processes of a script's unit.
func killUnit(name string) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = exec.CommandContext(ctx, "/usr/bin/systemctl", "kill", "--signal=KILL", name).Run() // it may have ended
}

// writeReport hands the report over as a file that only the script's user can read, in a
// folder that nobody but root can write or list.
func (r *scriptRun) writeReport(report []byte) error {
	if err := reportFolder(filepath.Dir(r.file)); err != nil {
		return err
	}
	f, err := os.OpenFile(r.file, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o400)
	if err != nil {
		return fmt.Errorf("write the report's file: %w", err)
	}
	_, err = f.Write(report)
	if os.Geteuid() == 0 {
		err = errors.Join(err, f.Chown(int(r.user.uid), int(r.user.gid)))
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write the report's file: %w", err)
	}
	return nil
}

// reportFolder makes the folder of reports, or refuses one that others than root can write.
func reportFolder(dir string) error {
	if err := os.Mkdir(dir, 0o711); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make the folder of reports: %w", err)
	}
	st, err := trusted(dir)
	if err == nil && !st.IsDir() {
		err = refusal{fmt.Sprintf("%q is no folder", dir), "take it away"}
	}
	return err
}

// handOnNothing keeps what we were started with, such as the pipe to the daemon, from the
// programs of others. What we open ourselves is kept from them already.
func handOnNothing() {
	open, _ := os.ReadDir("/proc/self/fd")
	for _, e := range open {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
}

// dropReports takes away what a crash left.
func (x *executor) dropReports() {
	left, _ := filepath.Glob(filepath.Join(x.o.ReportDir, "report-*"))
	if _, err := trusted(x.o.ReportDir); err != nil {
		return // not ours
	}
	for _, f := range left {
		os.Remove(f)
	}
}
