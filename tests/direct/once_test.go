package direct

import (
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"osm/tests/lab"
)

// decisions are those about mail.
func decisions(t *testing.T, d *lab.Daemon, account string) []string {
	t.Helper()
	var l struct {
		Items []struct {
			Source string `json:"source"`
			Ref    string `json:"ref"`
		} `json:"items"`
	}
	if err := d.JSON(&l, "decisions", "--account", account); err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, i := range l.Items {
		out = append(out, i.Source)
	}
	return out
}

// decided waits until just these messages of the account were decided about.
func decided(t *testing.T, d *lab.Daemon, account string, sources ...string) {
	t.Helper()
	err := lab.WaitFor(time.Minute, "decisions", func() error {
		if got := decisions(t, d, account); !slices.Equal(got, sources) {
			return fmt.Errorf("they are of %v, want %v", got, sources)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// noneOf looks that nothing was counted. Of a connection that was over, or being closed, before
// the kernel could be asked, as those of Exim's deliveries are on a busy machine, only ebpf knows
// whose it was.
func noneOf(t *testing.T, d *lab.Daemon, source string) {
	t.Helper()
	all, err := connections(d)
	all = slices.DeleteFunc(all, func(c connection) bool { return source != "ebpf" && c.UID == nil })
	if err != nil || len(all) != 0 {
		t.Errorf("connections %+v, %v: want none", all, err)
	}
}

func TestEximsOwnDeliveriesAreNotCounted(t *testing.T) {
	for _, source := range []string{"ebpf", "packet"} {
		t.Run(source, func(t *testing.T) {
			d := start(t, source, "")
			m, began := delivered(t, d), time.Now()
			for source == "packet" && m.Counts["excluded"] == 0 && m.Counts["too_late"] > 0 && time.Since(began) < againTime {
				m = delivered(t, d) // once more: the last one was over before the kernel was asked
			}
			if m.Counts["excluded"] == 0 {
				t.Errorf("the monitor counts %v, want Exim's own connection passed over", m.Counts)
			}
			noneOf(t, d, source)
		})
	}
}

// delivered has Exim make a delivery, and waits until the watch has counted it one way or the other.
func delivered(t *testing.T, d *lab.Daemon) (m monitor) {
	t.Helper()
	m, err := statusOf(d)
	if err != nil {
		t.Fatal(err)
	}
	accepted, counted := machine.far.Accepted.Load(), m.Counts["excluded"]+m.Counts["too_late"]
	if err := machine.Sendmail(t.Context(), spammer, machine.HomeOf(spammer), lab.Mail{From: "a@spam.example", To: []string{"b@far.example"}, Subject: "hello"}); err != nil {
		t.Fatal(err)
	}
	err = lab.WaitFor(time.Minute, "a delivery", func() error {
		if machine.far.Accepted.Load() == accepted {
			return errors.New("none came")
		}
		m, err = statusOf(d)
		if err == nil && m.Counts["excluded"]+m.Counts["too_late"] == counted {
			err = errors.New("the watch has not seen it")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestMailToThisHostsEximIsCountedAtTheDoorAlone(t *testing.T) {
	for _, source := range sources() {
		t.Run(source, func(t *testing.T) {
			d := start(t, source, "")
			err := machine.LoopbackSMTP(t.Context(), spammer, lab.Mail{From: "a@spam.example", To: []string{"b@far.example"}, Subject: "by PHPMailer"})
			if err != nil {
				t.Fatal(err)
			}
			if source != "poll" {
				sees(t, d, "to_mta", 1)
			}
			decided(t, d, spammer, "local")
			noneOf(t, d, source)
		})
	}
}

// sees waits until the watch has counted n.
func sees(t *testing.T, d *lab.Daemon, what string, n uint64) {
	t.Helper()
	var m monitor
	err := lab.WaitFor(time.Minute, what, func() (err error) {
		if m, err = statusOf(d); err == nil && m.Counts[what] < n {
			err = errors.New("not yet")
		}
		return err
	})
	if err != nil {
		t.Fatalf("%v: %+v", err, m)
	}
}

// As cPanel's SMTP Restrictions and csf's SMTP_REDIRECT do it.
func TestARedirectedConnectionIsCountedOnceAtTheDoor(t *testing.T) {
	for _, source := range []string{"ebpf", "packet"} {
		t.Run(source, func(t *testing.T) {
			d := start(t, source, "")
			nft(t, "add table ip away; add chain ip away out { type nat hook output priority -100; }; add rule ip away out meta skuid "+
				strconv.Itoa(machine.UID(spammer))+" tcp dport 25 redirect to :25")
			t.Cleanup(func() { nft(t, "delete table ip away") })
			out, err := command(t, spammer, machine.HomeOf(spammer), "/usr/bin/curl", "--silent", "--max-time", "60", "--url", "smtp://"+lab.FarIPv4+":25",
				"--mail-from", "a@spam.example", "--mail-rcpt", "b@far.example", "--upload-file", "-").CombinedOutput()
			if err != nil {
				t.Fatalf("curl: %v: %s", err, out)
			}
			sees(t, d, "redirected", 1)
			decided(t, d, spammer, "local")
			if out, err := d.Osmctl("decisions", "--account", spammer, "--json"); err != nil || !strings.Contains(string(out), "wanted to go to "+lab.FarIPv4+":25") {
				t.Errorf("decisions %s, %v: want in the basis where it wanted to go", out, err)
			}
			noneOf(t, d, source)
		})
	}
}

func TestAnAttemptThatTheFirewallRejectsIsCounted(t *testing.T) {
	d := start(t, "ebpf", "")
	nft(t, "add table ip smtpblock; add chain ip smtpblock out { type filter hook output priority 0; }; add rule ip smtpblock out meta skuid "+
		strconv.Itoa(machine.UID(spammer))+" tcp dport 25 reject with tcp reset")
	t.Cleanup(func() { nft(t, "delete table ip smtpblock") })
	n := 0
	if c := attempted(t, d, &n, lab.FarIPv4+":25", "refused"); c.Account != spammer || c.Outcome != "refused" {
		t.Errorf("connection %+v, want %s's, refused", c, spammer)
	}
}

func TestConnectionsOfAnotherNetworkNamespaceBlameNobody(t *testing.T) {
	d := start(t, "ebpf", "")
	cmd := exec.Command("nsenter", "-t", machine.far.PID(), "-n", "--", "setpriv", "--reuid", strconv.Itoa(machine.UID(spammer)), "--clear-groups",
		machine.knock, "-to", lab.FarIPv4+":25", "-n", "20", "-rate", "50", "-stay", "5ms")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("knock: %v: %s", err, out)
	}
	// One of this host, so that it is known that the others have been looked at.
	as(t, neighbour, machine.HomeOf(neighbour), machine.knock, "-to", lab.FarIPv4+":587")
	all := wanted(t, d, 1, "--account", neighbour)
	if len(all) != 1 {
		t.Errorf("%d connections of %s, want 1", len(all), neighbour)
	}
	if blamed, err := connections(d, "--account", spammer); err != nil || len(blamed) != 0 {
		t.Errorf("connections %+v, %v: the uid is another user's there", blamed, err)
	}
}

func nft(t *testing.T, rules string) {
	t.Helper()
	cmd := exec.Command("/usr/sbin/nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
}
