package lab

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	eximacl "osm/exim-acl"
)

// BuiltEnv names the folder where osmd and osmctl of this tree are built already: tests/run.sh
// builds them once for all packages.
const BuiltEnv = "OSM_BUILT"

// Build compiles osmd and osmctl into dir.
func Build(dir string, race bool) error {
	if built := os.Getenv(BuiltEnv); built != "" && !race {
		return run("cp", filepath.Join(built, "osmd"), filepath.Join(built, "osmctl"), dir+"/")
	}
	args := []string{"build", "-o", dir + "/"}
	if race {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, "osm/cmd/osmd", "osm/cmd/osmctl")...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("go build: %w: %.3000s", err, out)
	}
	return nil
}

// PolicySocket is where Exim asks.
func (l *Lab) PolicySocket() string { return filepath.Join(l.Run, "policy.sock") }

// ControlSocket is where osmctl asks.
func (l *Lab) ControlSocket() string { return filepath.Join(l.Run, "control.sock") }

// Guard is the ACL text that asks this lab's daemon.
func (l *Lab) Guard(failClosed bool) string {
	return eximacl.ACLText(eximacl.ACLParams{
		Socket: l.PolicySocket(), EximUID: uint32(l.EximUID), FailClosed: failClosed,
	})
}

// Config is the text of the daemon's configuration: the lab's paths, then rules.
func (l *Lab) Config(rules string) string {
	return fmt.Sprintf(`checking = true
[server]
policy_socket = %q
control_socket = %q
inspect_socket = %q
executor_socket = %q
watch_socket = %q
run_dir = %q
[exim]
spool = %q
[accounts]
source = %q
min_uid = %d
[accounts.domains]
%s
[direct]
%s
[store]
path = %q
%s
`, l.PolicySocket(), l.ControlSocket(), l.Run+"/inspect.sock", l.Run+"/executor.sock", l.Run+"/watch.sock", l.Run,
		l.Spool, cmp.Or(l.Panel, "passwd"), FirstUID, l.domainLines(), cmp.Or(l.Direct, `source = "off"`), l.State+"/osm.db", rules)
}

func (l *Lab) domainLines() string {
	var b bytes.Buffer
	for _, a := range l.Accounts {
		fmt.Fprintf(&b, "%q = %q\n", l.Domain(a), a)
	}
	return b.String()
}

// Daemon is a running osmd, started as root with its own two root parts.
type Daemon struct {
	lab    *Lab
	Bin    string // folder of osmd and osmctl
	Config string
	cmd    *exec.Cmd
	Log    string   // file
	Args   []string // further arguments of osmd
}

// StartOsmd writes the configuration and starts the daemon as make install would have
// it started: as root, giving root away. It waits until status answers.
func (l *Lab) StartOsmd(bin, rules string, args ...string) (*Daemon, error) {
	d := &Daemon{lab: l, Bin: bin, Args: args, Config: l.Dir + "/etc/osm.toml", Log: l.Logs + "/osmd.log"}
	if err := d.WriteConfig(l.Config(rules)); err != nil {
		return nil, err
	}
	records := l.Dir + "/changes" // of what the executor changed: root's alone
	if err := os.MkdirAll(records, 0o700); err != nil {
		return nil, err
	}
	executor := fmt.Sprintf("exim_spool = %q\nstate_dir = %q\n%s", l.Spool, records, l.Executor)
	if err := os.WriteFile(l.Dir+"/etc/executor.toml", []byte(executor), 0o644); err != nil {
		return nil, err
	}
	osmUID, osmGID := systemUser("osm")
	if err := os.Chown(l.State, int(osmUID), int(osmGID)); err != nil {
		return nil, err
	}
	return d, d.Start()
}

// WriteConfig replaces the configuration; a running daemon reads it when it is told to.
func (d *Daemon) WriteConfig(text string) error {
	return os.WriteFile(d.Config, []byte(text), 0o644)
}

// Start starts the daemon and waits until it answers.
func (d *Daemon) Start() error {
	log, err := os.OpenFile(d.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	d.cmd = exec.Command(d.Bin+"/osmd", append([]string{"-config", d.Config, "-executor-config", d.lab.Dir + "/etc/executor.toml"}, d.Args...)...)
	d.cmd.Stdout, d.cmd.Stderr = log, log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := d.cmd.Start(); err != nil {
		return fmt.Errorf("start osmd: %w", err)
	}
	err = WaitFor(20*time.Second, "osmd to answer", func() error {
		_, err := d.Status() // it may answer with alarms
		return err
	})
	if err != nil {
		text, _ := os.ReadFile(d.Log)
		return fmt.Errorf("%w\nlog of osmd:\n%s", err, tail(text, 4000))
	}
	return nil
}

func tail(b []byte, n int) []byte { return b[max(0, len(b)-n):] }

// PID is the daemon's process id.
func (d *Daemon) PID() int { return d.cmd.Process.Pid }

// Signal sends the daemon a signal.
func (d *Daemon) Signal(s syscall.Signal) error { return d.cmd.Process.Signal(s) }

// Wait waits for the daemon's end and frees its place.
func (d *Daemon) Wait() error {
	err := d.cmd.Wait()
	d.cmd = nil
	return err
}

// Stop ends the daemon in order.
func (d *Daemon) Stop() error {
	if d.cmd == nil {
		return nil
	}
	if err := d.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return d.Wait()
}

// Kill ends the daemon without giving it a chance.
func (d *Daemon) Kill() error {
	if d.cmd == nil {
		return nil
	}
	if err := d.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	_ = d.Wait() // "signal: killed" is what was asked for
	return nil
}

// Osmctl runs osmctl against this daemon and returns what it printed.
func (d *Daemon) Osmctl(args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, d.Bin+"/osmctl", append([]string{"-socket", d.lab.ControlSocket()}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return out, &CtlError{Args: args, Err: err, Out: string(out), Stderr: stderr.String()}
	}
	return out, nil
}

// JSON runs osmctl with --json and decodes its one document.
func (d *Daemon) JSON(into any, args ...string) error {
	out, err := d.Osmctl(append(args, "--json")...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(out, into); err != nil {
		return fmt.Errorf("osmctl %v printed no JSON: %w: %.300s", args, err, out)
	}
	return nil
}

// CtlError is an osmctl that ended with another status than 0.
type CtlError struct {
	Args        []string
	Err         error
	Out, Stderr string
}

func (e *CtlError) Error() string {
	return fmt.Sprintf("osmctl %q: %v: %.500s%.500s", e.Args, e.Err, e.Out, e.Stderr)
}

// Status is the exit status, -1 if it did not exit by itself.
func (e *CtlError) Status() int {
	var exit *exec.ExitError
	if errors.As(e.Err, &exit) {
		return exit.ExitCode()
	}
	return -1
}

// ProcStatus reads a field of /proc/PID/status.
func ProcStatus(pid int, field string) (string, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return "", err
	}
	for line := range bytes.Lines(b) {
		name, value, ok := bytes.Cut(line, []byte(":"))
		if ok && string(name) == field {
			return string(bytes.TrimSpace(value)), nil
		}
	}
	return "", fmt.Errorf("no field %s", field)
}
