package direct

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"osm/tests/lab"
)

// The capabilities that a container may take away.
const (
	noBPF    = "-bpf,-perfmon,-sys_admin"
	noPacket = noBPF + ",-net_raw"
	noLook   = noPacket + ",-sys_ptrace,-dac_read_search,-dac_override"
)

// wrapped makes a folder of programs in which osmd is started by another program.
func wrapped(t *testing.T, by string) string {
	t.Helper()
	dir, err := os.MkdirTemp(machine.Dir, "bin-")
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("#!/bin/sh\nexec %s %s/osmd \"$@\"\n", by, machine.bin)
	if err := os.WriteFile(filepath.Join(dir, "osmd"), []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(machine.bin+"/osmctl", dir+"/osmctl"); err != nil {
		t.Fatal(err)
	}
	return dir
}

// lesser starts the daemon with the best source that it can have.
func lesser(t *testing.T, by, source string) *lab.Daemon {
	t.Helper()
	own := machine.bin
	bin := wrapped(t, by)
	machine.bin = bin
	t.Cleanup(func() { machine.bin = own })
	d := startAs(t, "auto", source, "")
	machine.bin = own
	t.Cleanup(func() { // what keeps a namespace of processes takes no other signal
		daemon, err := lab.Descendant(d.PID(), "-config", d.Config)
		if err == nil {
			_ = syscall.Kill(daemon, syscall.SIGKILL) // it ends with its keeper otherwise
		}
		if err := d.Kill(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// serves shows that Exim asks, and is answered.
func serves(t *testing.T, d *lab.Daemon) {
	t.Helper()
	if err := machine.Sendmail(t.Context(), neighbour, machine.HomeOf(neighbour), lab.Mail{From: "a@shop.example", To: []string{"b@shop.example"}, Subject: "hello"}); err != nil {
		t.Fatal(err)
	}
	decided(t, d, neighbour, "script")
}

// rights are what the daemon is started with, and what is to be seen of that.
type rights struct {
	name, by, source, level string
	refused                 []string // sources, each with a reason
	says                    string   // in its problems
	whose, process          bool     // of a connection that stays
}

// agrees compares what the daemon says of itself.
func (r rights) agrees(t *testing.T, m monitor) {
	t.Helper()
	if r.level != "" && m.Level != r.level || m.Source == "off" {
		t.Errorf("monitor %+v, want level %s", m, r.level)
	}
	var names []string
	for _, b := range m.Better {
		if names = append(names, b.Name); b.Error == "" {
			t.Errorf("%s is refused without a reason", b.Name)
		}
	}
	if r.refused != nil && !slices.Equal(names, r.refused) {
		t.Errorf("refused %+v, want %v", m.Better, r.refused)
	}
	if problems := strings.Join(m.Problems, "\n"); r.level == "degraded" && problems == "" || !strings.Contains(problems, r.says) {
		t.Errorf("problems %q, want %q among them", problems, r.says)
	}
}

// many makes as many connections as it takes to say how many are known, and again where there
// was no time to look for most of their processes: of that the daemon complains, and rightly.
func (r rights) many(t *testing.T, d *lab.Daemon, dir string) (all []connection) {
	t.Helper()
	for began := time.Now(); ; {
		connect := command(t, spammer, dir, machine.knock, "-to", lab.FarIPv4+":25", "-keep", "-each", "-n", "12", "-rate", "100")
		held(t, connect, func() { all = wanted(t, d, len(all)+12) })
		if _, directory := known(t, all, dir); !r.process || 2*directory > len(all) || time.Since(began) > againTime {
			return all
		}
	}
}

// status is the daemon's once it tells of n records. A self-test for which there was no time is
// made again after a minute.
func (r rights) status(t *testing.T, d *lab.Daemon, n uint64) (m monitor) {
	t.Helper()
	sees(t, d, "records", n)
	err := lab.WaitFor(90*time.Second, "a self-test that went well", func() (err error) {
		if m, err = statusOf(d); err == nil && r.level == "ok" && strings.HasPrefix(m.SelfTest, "failed") {
			err = errors.New(m.SelfTest)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return m
}

func TestWithoutRightsItSaysWhatItCannotSee(t *testing.T) {
	for _, tt := range []rights{
		{"no bpf()", "setpriv --bounding-set=" + noBPF, "packet", "ok", []string{"ebpf"}, "", true, true},
		{"no bpf() and no packets", "setpriv --bounding-set=" + noPacket, "poll", "degraded", []string{"ebpf", "packet"}, "", true, true},
		{"no look at others' processes", "setpriv --bounding-set=" + noLook, "poll", "degraded", []string{"ebpf", "packet"}, "CAP_SYS_PTRACE", true, false},
		{"processes of another namespace", "unshare --pid --fork --mount-proc --kill-child", "", "degraded", nil, "process", true, false},
		{"no netlink", filepath.Join(machine.bin, "without"), "packet", "degraded", []string{"ebpf"}, "netlink", true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.source == "packet" && strings.HasSuffix(tt.by, "without") && machine.ebpf == nil {
				tt.source, tt.refused, tt.level, tt.says = "ebpf", nil, "", "" // it needs no netlink to know whose a connection is
			}
			d := lesser(t, tt.by, tt.source)
			dir := script(t, spammer, "public_html/slow", "x", "")
			all := tt.many(t, d, dir)
			m := tt.status(t, d, uint64(len(all)))
			tt.agrees(t, m)
			if (all[0].Account == spammer) != tt.whose || all[0].Account != spammer && all[0].Account != "(unknown)" {
				t.Errorf("connection %+v, want it known whose it is: %v", all[0], tt.whose)
			}
			if _, directory := known(t, all, dir); (directory > 0) != tt.process {
				t.Errorf("of %d connections the directory of %d is known, want it known: %v; the last is %+v", len(all), directory, tt.process, all[0])
			}
			serves(t, d)
		})
	}
}

func TestTheWatchThatIsKilledIsMissedAndMailGoesOn(t *testing.T) {
	d := start(t, "packet", "")
	pid, err := lab.Descendant(d.PID(), "osmd", "watch")
	if err != nil {
		t.Fatal(err)
	}
	p, err := os.FindProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	err = lab.WaitFor(time.Minute, "an alarm", func() error {
		s, err := d.Status()
		if err != nil {
			return err
		}
		m, err := statusOf(d)
		if err == nil && (m.OK || m.Level != "off" || s.Alarm("monitor") == nil) {
			err = fmt.Errorf("monitor %+v, want it off; alarms: %+v", m, s.Alarms)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	serves(t, d)
}
