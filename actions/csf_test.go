package actions

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

var dialects = []string{"cpanel16", "aetherinox15"}

// eachDialect runs f for both families of csf.
func eachDialect(t *testing.T, f func(t *testing.T, c *csfRoot)) {
	for _, d := range dialects {
		t.Run(d, func(t *testing.T) { f(t, newCSF(t, "dialect "+d+"\n")) })
	}
}

func mustApply(t *testing.T, x *Executor, c Change) Record {
	t.Helper()
	r, err := x.Apply(t.Context(), c)
	if err != nil || !r.Done {
		t.Fatalf("Apply(%+v) = %+v, %v", c, r, err)
	}
	return r
}

func mustUndo(t *testing.T, x *Executor, id string) Record {
	t.Helper()
	r, err := x.Undo(t.Context(), id)
	if err != nil {
		t.Fatalf("Undo(%s) = %+v, %v", id, r, err)
	}
	return r
}

func TestCSFBlocksTheMailPortsForATimeAndUnblocks(t *testing.T) {
	eachDialect(t, func(t *testing.T, c *csfRoot) {
		others := fmt.Sprintf("%d|198.51.100.7|*|in|3600|lfd - (imapd) Failed login\n", time.Now().Unix())
		c.write("var/lib/csf/csf.tempban", others)
		client := startExecutor(t, c.options())
		r := mustApply(t, client, blockRequest("203.0.113.2", 90*time.Minute))
		want := regexp.MustCompile(`^` + regexp.QuoteMeta(others) + `\d+\|203\.0\.113\.2\|25,465,587\|in\|5400\|osm event 4711 client_ip record ` + r.ID + `\n$`)
		if got := c.read("var/lib/csf/csf.tempban"); !want.MatchString(got) {
			t.Errorf("csf.tempban is %q, want %s", got, want)
		}
		if !strings.Contains(r.Outcome, "203.0.113.2 on ports 25,465,587 until ") {
			t.Errorf("outcome %q", r.Outcome)
		}
		if again := mustApply(t, client, blockRequest("::ffff:203.0.113.2", time.Hour)); again.ID != r.ID {
			t.Errorf("asked again it made record %s beside %s", again.ID, r.ID)
		}
		mustUndo(t, client, r.ID)
		if got := c.read("var/lib/csf/csf.tempban"); got != others {
			t.Errorf("after the undo csf.tempban is %q, want it as it was", got)
		}
		if _, err := client.Undo(t.Context(), r.ID); err == nil || !executorError(t, err).LeftAlone {
			t.Errorf("a second undo: %v", err)
		}
	})
}

func TestCSFBlocksForGoodAndUnblocks(t *testing.T) {
	eachDialect(t, func(t *testing.T, c *csfRoot) {
		const others = "# by hand\n198.51.100.7 # spam - Sun Nov 29 18:00:00 2026\n"
		c.write("etc/csf/csf.deny", others)
		client := startExecutor(t, c.options())
		r := mustApply(t, client, blockRequest("2001:db8::2", 0))
		if got := c.read("etc/csf/csf.deny"); !strings.HasPrefix(got, others+"2001:db8::2 # osm event 4711 client_ip record "+r.ID+" - ") {
			t.Errorf("csf.deny is %q", got)
		}
		if !strings.Contains(r.Outcome, "all ports until it is undone") {
			t.Errorf("outcome %q", r.Outcome)
		}
		mustUndo(t, client, r.ID)
		if got := c.read("etc/csf/csf.deny"); got != others {
			t.Errorf("after the undo csf.deny is %q, want it as it was", got)
		}
	})
}

func TestCSFBlocksOfOthersAreLeftAlone(t *testing.T) {
	now := time.Now().Unix()
	for name, row := range map[string]struct{ file, text string }{
		"for good":                      {"etc/csf/csf.deny", "203.0.113.2 # by hand - Sun Nov 29 18:00:00 2026\n"},
		"a network":                     {"etc/csf/csf.deny", "203.0.113.0/24 # by hand\n"},
		"in an included file":           {"etc/csf/csf.deny", "Include /etc/csf/csf.allow\n"},
		"for a time, all ports":         {"var/lib/csf/csf.tempban", fmt.Sprintf("%d|203.0.113.2|*|in|600|lfd - (smtpauth)\n", now)},
		"for a time, the ports of mail": {"var/lib/csf/csf.tempban", fmt.Sprintf("%d|203.0.113.2|587,25,465,993|inout|600|x\n", now)},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCSF(t, "")
			c.write(row.file, row.text)
			if strings.HasPrefix(row.text, "Include") {
				c.write("etc/csf/csf.deny", "Include /etc/csf/more\n")
				c.write("etc/csf/more", "203.0.113.2\n")
				row.text = c.read("etc/csf/csf.deny")
			}
			client := startExecutor(t, c.options())
			_, err := client.Apply(t.Context(), blockRequest("203.0.113.2", time.Hour))
			if err == nil || !executorError(t, err).LeftAlone {
				t.Fatalf("block: %v, want it left alone", err)
			}
			if got := c.read(row.file); got != row.text {
				t.Errorf("%s is %q, was %q", row.file, got, row.text)
			}
			if list, err := client.Records(t.Context()); err != nil || len(list) != 0 {
				t.Errorf("Records = %v, %v; want none", list, err)
			}
		})
	}
}

// "csf -trd" takes all temporary blocks of an address: that of lfd must stand again.
func TestCSFUndoLeavesTheBlocksOfOthers(t *testing.T) {
	eachDialect(t, func(t *testing.T, c *csfRoot) {
		now := time.Now().Unix()
		before := fmt.Sprintf("%d|203.0.113.2|993|in|600|older -p 1 -d out\n", now-60)
		ended := fmt.Sprintf("%d|203.0.113.2|*|in|600|ended long ago\n", now-6000)
		out := fmt.Sprintf("%d|203.0.113.2|80|out|600|the way out is no way in\n", now-60)
		c.write("var/lib/csf/csf.tempban", before+ended+out)
		client := startExecutor(t, c.options())
		r := mustApply(t, client, blockRequest("203.0.113.2", time.Hour))
		later := fmt.Sprintf("%d|203.0.113.2|*|inout|3600|lfd - (pop3d) Failed\n", now)
		c.write("var/lib/csf/csf.tempban", c.read("var/lib/csf/csf.tempban")+later)
		if undone := mustUndo(t, client, r.ID); strings.Contains(undone.Outcome, "put back") {
			t.Errorf("outcome %q", undone.Outcome)
		}
		got := strings.Split(strings.TrimSpace(c.read("var/lib/csf/csf.tempban")), "\n")
		if len(got) != 3 {
			t.Fatalf("csf.tempban is %q, want the three that stood", got)
		}
		for i, want := range []struct {
			ports, dir, comment string
			end                 int64
		}{{"993", "in", "older _p 1 _d out", now + 540}, {"80", "out", "the way out is no way in", now + 540}, {"*", "inout", "lfd - (pop3d) Failed", now + 3600}} {
			f := strings.SplitN(got[i], "|", 6)
			since, _ := strconv.ParseInt(f[0], 10, 64)
			ttl, _ := strconv.ParseInt(f[4], 10, 64)
			if f[2] != want.ports || f[3] != want.dir || f[5] != want.comment || since+ttl > want.end+1 || since+ttl < want.end-5 {
				t.Errorf("put back %q, want %+v", got[i], want)
			}
		}
	})
}

func TestCSFUndoTakesOnlyWhatIsOurs(t *testing.T) {
	eachDialect(t, func(t *testing.T, c *csfRoot) {
		client := startExecutor(t, c.options())
		temp, deny := mustApply(t, client, blockRequest("203.0.113.2", time.Hour)), mustApply(t, client, blockRequest("203.0.113.3", 0))
		marked := mustApply(t, client, blockRequest("203.0.113.4", 0))
		foreign := fmt.Sprintf("%d|203.0.113.2|*|in|3600|by hand\n", time.Now().Unix())
		c.write("var/lib/csf/csf.tempban", foreign)
		keep := "203.0.113.3 # by hand now\n203.0.113.4 # do not delete: record " + marked.ID + "\n"
		c.write("etc/csf/csf.deny", keep)
		for _, r := range []Record{temp, deny, marked} {
			if got := mustUndo(t, client, r.ID); !strings.Contains(got.Outcome, "not there any more") && !strings.Contains(got.Outcome, "left as it is") {
				t.Errorf("outcome %q, want that there was nothing of ours to undo", got.Outcome)
			}
		}
		if c.read("var/lib/csf/csf.tempban") != foreign || c.read("etc/csf/csf.deny") != keep {
			t.Errorf("csf holds %q and %q, want what others put there", c.read("var/lib/csf/csf.tempban"), c.read("etc/csf/csf.deny"))
		}
	})
}

func TestCSFBlockThatEndedByItself(t *testing.T) {
	now := time.Now()
	c := newCSF(t, "")
	o := c.options()
	o.Now = func() time.Time { return now }
	client := startExecutor(t, o)
	r := mustApply(t, client, blockRequest("203.0.113.2", time.Minute))
	now = now.Add(2 * time.Minute)
	c.write("var/lib/csf/csf.tempban", "") // lfd's doing
	if got := mustUndo(t, client, r.ID); !strings.Contains(got.Outcome, "ended by itself") {
		t.Errorf("outcome %q, want that it had ended by itself", got.Outcome)
	}
}

func TestCSFThatCannotBlock(t *testing.T) {
	for name, row := range map[string]struct {
		spoil   func(c *csfRoot)
		ip      string
		refused bool
	}{
		"disabled":             {func(c *csfRoot) { c.write("etc/csf/csf.disable", "") }, "203.0.113.2", true},
		"stopped by an error":  {func(c *csfRoot) { c.write("etc/csf/csf.error", "no iptables\n") }, "203.0.113.2", true},
		"testing":              {func(c *csfRoot) { c.write("etc/csf/csf.conf", `TESTING = "1"`) }, "203.0.113.2", true},
		"no IPv6":              {func(c *csfRoot) { c.write("etc/csf/csf.conf", `IPV6 = "0"`) }, "2001:db8::2", true},
		"its own address":      {func(c *csfRoot) { c.write("csf.standin", "own 203.0.113.2\n") }, "203.0.113.2", true},
		"a fatal error":        {func(c *csfRoot) { c.write("csf.standin", "fatal iptables is missing\n") }, "203.0.113.2", false},
		"it only says so":      {func(c *csfRoot) { c.write("csf.standin", "forget yes\n") }, "203.0.113.2", false},
		"it never ends":        {func(c *csfRoot) { c.write("csf.standin", "hang 1000\n") }, "203.0.113.2", false},
		"it is something else": {func(c *csfRoot) { c.write("usr/sbin/csf", "#!/bin/sh\nhead -c 1000000 /dev/zero\nexit 0\n") }, "203.0.113.2", false},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCSF(t, "")
			o := c.options()
			o.ChangeLimit = 5 * time.Second
			row.spoil(c)
			_, err := startExecutor(t, o).Apply(t.Context(), blockRequest(row.ip, time.Hour))
			if err == nil {
				t.Fatal("it passed for blocked")
			}
			if e := executorError(t, err); e.Refused != row.refused || len(e.Why) > 2500 {
				t.Errorf("error %+v, want refused: %v", e, row.refused)
			}
			if got := c.read("var/lib/csf/csf.tempban"); got != "" {
				t.Errorf("csf.tempban is %q", got)
			}
		})
	}
}

// An undo that does nothing is an error, and is tried again.
func TestCSFUndoIsSeenToBeDone(t *testing.T) {
	eachDialect(t, func(t *testing.T, c *csfRoot) {
		client := startExecutor(t, c.options())
		r := mustApply(t, client, blockRequest("203.0.113.2", time.Hour))
		c.write("etc/csf/csf.disable", "")
		if got, err := client.Undo(t.Context(), r.ID); err == nil || !strings.Contains(err.Error(), "csf did not unblock") {
			t.Fatalf("Undo while csf is disabled = %+v, %v", got, err)
		}
		c.must(os.Remove(filepath.Join(c.dir, "etc/csf/csf.disable")))
		mustUndo(t, client, r.ID)
		if got := c.read("var/lib/csf/csf.tempban"); got != "" {
			t.Errorf("csf.tempban is %q", got)
		}
	})
}

// After a crash between the command and the record the block is found, not put twice.
func TestCSFBlockThatWasBegunBefore(t *testing.T) {
	c := newCSF(t, "")
	o := c.options()
	change := blockRequest("203.0.113.2", time.Hour)
	s := records{o.StateDir}
	r, err := s.begin(&change, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	line := fmt.Sprintf("%d|203.0.113.2|25,465,587|in|3600|%s\n", time.Now().Unix(), comment(r))
	c.write("var/lib/csf/csf.tempban", line)
	client := startExecutor(t, o)
	if got := mustApply(t, client, change); got.ID != r.ID || c.read("var/lib/csf/csf.tempban") != line {
		t.Errorf("record %s, csf.tempban %q; want %s and one line", got.ID, c.read("var/lib/csf/csf.tempban"), r.ID)
	}
	mustUndo(t, client, r.ID)
	if got := c.read("var/lib/csf/csf.tempban"); got != "" {
		t.Errorf("csf.tempban is %q", got)
	}
}

// csf does not take two blocks with the same ports: which one was lost is told.
func TestCSFUndoTellsWhatItCouldNotPutBack(t *testing.T) {
	c := newCSF(t, "")
	client := startExecutor(t, c.options())
	r := mustApply(t, client, blockRequest("203.0.113.2", time.Hour))
	now := time.Now().Unix()
	c.write("var/lib/csf/csf.tempban", c.read("var/lib/csf/csf.tempban")+fmt.Sprintf("%d|203.0.113.2|*|in|600|one\n%d|203.0.113.2|*|out|600|two\n", now, now))
	if got := mustUndo(t, client, r.ID); !strings.Contains(got.Outcome, `did not put back the block of somebody else on ports *: "two"`) || strings.Contains(got.Outcome, "one") {
		t.Errorf("outcome %q", got.Outcome)
	}
}

// Who did it undoes it, whatever the options say by then.
func TestCSFBlockAfterTheFirewallWasChanged(t *testing.T) {
	c := newCSF(t, "")
	o := c.options()
	var first, second Record
	t.Run("with csf", func(t *testing.T) {
		client := startExecutor(t, o)
		first, second = mustApply(t, client, blockRequest("203.0.113.2", time.Hour)), mustApply(t, client, blockRequest("203.0.113.3", time.Hour))
	})
	o.Firewall.Kind, o.Firewall.NFT = "nft", "/nonexistent/nft"
	client := startExecutor(t, o)
	mustUndo(t, client, first.ID)
	if got := c.read("var/lib/csf/csf.tempban"); strings.Contains(got, "203.0.113.2|") || !strings.Contains(got, "203.0.113.3|") {
		t.Errorf("csf.tempban is %q", got)
	}
	c.must(os.Remove(filepath.Join(c.dir, "usr/sbin/csf")))
	if got := mustUndo(t, client, second.ID); !strings.Contains(got.Outcome, "went with it") {
		t.Errorf("outcome %q", got.Outcome)
	}
}
