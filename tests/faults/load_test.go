package faults

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// hangers are processes of Exim's user that connect and ask nothing, again and again:
// they stand for a flood that is larger than the cap.
const hangers = `use IO::Socket::UNIX; use IO::Select; my ($path,$n)=@ARGV; my $s=IO::Select->new;
while (1) {
	while ($s->count < $n) { my $c=IO::Socket::UNIX->new(Peer=>$path) or last; $s->add($c) }
	for my $c ($s->can_read(1)) { $s->remove($c); close $c }
}`

func hang(t *testing.T, n int) {
	t.Helper()
	cmd := exec.Command("/usr/bin/perl", "-e", hangers, machine.PolicySocket(), fmt.Sprint(n))
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: uint32(machine.EximUID), Gid: uint32(machine.EximGID)},
		Pdeathsig:  syscall.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // "signal: killed" is what was asked for
	})
}

func TestMoreConnectionsThanTheCapAreNoWayOutForASpammer(t *testing.T) {
	d := daemon(t, limited)
	small := strings.Replace(machine.Config(limited), "\n[exim]\n", "\n[exim]\nmax_connections = 16\n", 1)
	if err := errors.Join(d.Stop(), d.WriteConfig(small), d.Start()); err != nil {
		t.Fatal(err)
	}
	// His limit is used up before the flood begins.
	storm{each: limit}.run(t).decidedAsUsual(t, d)
	before, err := d.Status()
	if err != nil {
		t.Fatal(err)
	}
	clean(t)
	hang(t, 40) // above 16, and with Exim's own below four times as many, which are closed unheard
	eventually(t, 5*time.Second, "the flood", func() error {
		s, err := d.Status()
		if err == nil && s.Alarm("overload") == nil {
			_ = storm{each: 1}.run(t)
			err = fmt.Errorf("%d shed", s.Shed)
		}
		return err
	})
	clean(t)
	all := storm{scripts: 100}.run(t) // he more than the others
	all.accepted(t)
	all.later(t, 0)
	answered(t)
	script, shop := all.notLost(t)
	if want := 200 + 100; script != want || shop != 0 {
		t.Errorf("%d messages of the spammer and %d of the shop are frozen, want %d and 0", script, shop, want)
	}
	s, err := d.Status()
	if err != nil {
		t.Fatal(err)
	}
	if shed := int(s.Shed - before.Shed); shed < all.asked()/2 {
		t.Errorf("%d questions are counted as shed, want at least half of %d", shed, all.asked())
	}
	want := fmt.Sprintf("uid %d (account %s)", machine.UID(scriptAccount), scriptAccount)
	eventually(t, 5*time.Second, "the alarm to name "+want, func() error {
		alarm := alarmed(t, d, "overload")
		if strings.Contains(alarm.Text, want) {
			return nil
		}
		return errors.New(alarm.Text)
	})
}
