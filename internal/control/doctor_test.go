package control

import (
	"io"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"osm/actions"
	"osm/internal/config"
)

// newHost is a machine in a folder, on which everything belongs to whoever runs the test.
func newHost(t *testing.T) *Host {
	t.Helper()
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	g, err := user.LookupGroupId(me.Gid)
	if err != nil {
		t.Fatal(err)
	}
	cfg := config.Default()
	cfg.Server.User, cfg.Server.Group, cfg.Server.AdminGroup = me.Username, g.Name, g.Name
	cfg.Exim.User, cfg.Exim.Group = me.Username, g.Name
	return &Host{Root: t.TempDir(), Config: cfg, UID: os.Geteuid(), Now: time.Now}
}

// put writes a file of the machine.
func (h *Host) put(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	full := h.Root + path
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(full, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(full, mode); err != nil {
		t.Fatal(err)
	}
}

func TestDoctorLooksAtSockets(t *testing.T) {
	h := newHost(t)
	look := func() Check {
		return h.socket("policy socket", "/run/p.sock", h.Config.Exim.Group, "nothing is checked")
	}
	if c := look(); c.OK || !strings.Contains(c.Text, "missing") || c.Hint == "" {
		t.Errorf("a missing socket: %+v", c)
	}
	h.put(t, "/run/p.sock", "", 0o660)
	if c := look(); c.OK || !strings.Contains(c.Text, "is no socket") {
		t.Errorf("a plain file: %+v", c)
	}
	if err := os.Remove(h.Root + "/run/p.sock"); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", h.Root+"/run/p.sock")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for mode, says := range map[os.FileMode]string{0o666: "by everybody", 0o600: "not 0660", 0o660: ""} {
		if err := os.Chmod(h.Root+"/run/p.sock", mode); err != nil {
			t.Fatal(err)
		}
		if c := look(); c.OK != (says == "") || !strings.Contains(c.Text, says) {
			t.Errorf("mode %o: %+v, want %q", mode, c, says)
		}
	}
}

func TestDoctorAsksAsEximDoes(t *testing.T) {
	h := newHost(t)
	if err := os.MkdirAll(h.Root+"/run/osm", 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", h.Root+h.Config.Server.PolicySocket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	answers := make(chan string, 3)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b := make([]byte, 1024)
			n, _ := c.Read(b)
			if !strings.HasSuffix(string(b[:n]), "\n\n") {
				t.Errorf("the question does not end: %q", b[:n])
			}
			io.WriteString(c, <-answers)
			c.Close()
		}
	}()
	for answer, good := range map[string]bool{"action=accept ref=7k2m9qxd osm=1\n": true, "action=accept ref=7k\n": false, "": false} {
		answers <- answer
		answer, err := ask(t.Context(), h.Root+h.Config.Server.PolicySocket)
		if err != nil || (strings.HasSuffix(answer, "osm=1")) != good {
			t.Errorf("asked: %q, %v", answer, err)
		}
	}
	if os.Geteuid() == 0 {
		answers <- "action=accept ref=7k2m9qxd osm=1\n"
		if c := h.question(t.Context()); !c.OK || c.Skipped || !strings.Contains(c.Text, "action=accept") {
			t.Errorf("question = %+v", c)
		}
	}
}

func TestDoctorFindsTheTextInEximsFiles(t *testing.T) {
	question := "  set acl_m_osm = ${readsocket{/run/osm/policy.sock}{osm=1\\n"
	for _, c := range []struct {
		name, path, text string
		mode             os.FileMode
		ok               bool
		says             string
	}{
		{"the installed file is found", "/etc/exim4/osm/policy.acl", question, 0o644, true, "stands in"},
		{"a configuration written by hand is found", "/etc/exim.conf", question, 0o640, true, "stands in"},
		{"another socket is not ours", "/etc/exim.conf", strings.Replace(question, "/run/osm", "/tmp", 1), 0o644, false, "no message is checked"},
		{"a file that Exim cannot read stops all mail", "/etc/exim4/osm/policy.acl", question, 0o600, false, "stops ALL mail"},
		{"a file that others may change", "/etc/exim4/osm/policy.acl", question, 0o666, false, "changed by others"},
		{"nothing is installed", "/etc/motd", "", 0o644, false, "no message is checked"},
	} {
		h := newHost(t)
		h.put(t, c.path, c.text, c.mode)
		if got := h.aclFiles(nil); got.OK != c.ok || !strings.Contains(got.Text, c.says) {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}

func TestDoctorLooksAtEximsSettings(t *testing.T) {
	good := map[string]string{"acl_not_smtp": "acl_osm_not_smtp", "acl_smtp_data": "acl_check_data", "timeout_frozen_after": "35d", "ignore_bounce_errors_after": "35d", "auto_thaw": "0s"}
	if a, b := eximHooks(good), eximTimers(good, 30*24*time.Hour); !a.OK || !b.OK {
		t.Errorf("good settings: %+v, %+v", a, b)
	}
	stock := map[string]string{"acl_smtp_data": "acl_check_data", "timeout_frozen_after": "7d", "ignore_bounce_errors_after": "2d", "auto_thaw": "0s"}
	if a, b := eximHooks(stock), eximTimers(stock, 30*24*time.Hour); a.OK || b.OK || !strings.Contains(a.Text, "PHP mail()") || !strings.Contains(b.Text, "timeout_frozen_after") {
		t.Errorf("Debian's stock settings: %+v, %+v", a, b)
	}
}

func TestDoctorLooksAtUnitsAndJails(t *testing.T) {
	h := newHost(t)
	if c := h.units(); !c.Skipped {
		t.Errorf("without systemd: %+v", c)
	}
	h.put(t, "/run/systemd/system/x", "", 0o644)
	if c := h.units(); c.OK || !strings.Contains(c.Text, "osmd.service") {
		t.Errorf("without units: %+v", c)
	}
	h.put(t, "/etc/passwd", "root:x:0:0::/root:/bin/bash\n", 0o644)
	if c := h.jails(); !c.OK || c.Skipped {
		t.Errorf("without jails: %+v", c)
	}
	h.put(t, "/etc/passwd", "shop:x:1001:1001::/home/shop:/usr/local/cpanel/bin/jailshell\n", 0o644)
	if c := h.jails(); !c.Skipped || !strings.Contains(c.Text, "1 users") {
		t.Errorf("with a jailed shell: %+v", c)
	}
	for list, good := range map[string]bool{"/var/lib\n": false, "/run/osm\n": true, "!/run\n@/run/osm,755\n": true, "/run/osm2\n": false} {
		h.put(t, "/etc/cagefs/cagefs.mp", list, 0o600)
		if c := h.jails(); c.OK != good {
			t.Errorf("CageFS with %q: %+v", list, c)
		}
	}
}

func TestDoctorNamesWhoIsMissing(t *testing.T) {
	h := newHost(t)
	h.Config.Exim.User, h.Config.Server.AdminGroup = "nobody-here", "no-such-group"
	if c := h.users()[0]; c.OK || !strings.Contains(c.Text, "nobody-here") || !strings.Contains(c.Text, "no-such-group") {
		t.Errorf("users = %+v", c)
	}
	h.put(t, "/etc/osm/executor.toml", "", 0o666)
	if c := h.executorFile(); c.OK || !strings.Contains(c.Text, "written by others") {
		t.Errorf("executor.toml that all may write = %+v", c)
	}
}

func TestDoctorNamesAnACLThatDoesNotAsk(t *testing.T) {
	h := newHost(t)
	const socket = "/run/osm/policy.sock"
	h.put(t, policyACL, "${readsocket{"+socket+"}{x}}", 0o644)
	asks := func(scripts, smtp string) map[string]string {
		return map[string]string{"acl_not_smtp": "acl_osm_not_smtp", "acl_smtp_data": "acl_check_data", actions.ScriptsAsk: scripts, actions.SMTPAsks: smtp}
	}
	if a, b := eximHooks(asks(socket, socket)), h.aclFiles(asks(socket, socket)); !a.OK || !b.OK {
		t.Errorf("both ask: %+v, %+v", a, b)
	}
	if c := eximHooks(asks("", socket)); c.OK || !strings.Contains(c.Text, "PHP mail()") || strings.Contains(c.Text, "by SMTP") {
		t.Errorf("scripts are not asked about: %+v", c)
	}
	if c := eximHooks(asks(socket, "")); c.OK || !strings.Contains(c.Text, "mail by SMTP") || strings.Contains(c.Text, "PHP") {
		t.Errorf("mail by SMTP is not asked about: %+v", c)
	}
	if c := h.aclFiles(asks(socket, "/tmp/other.sock")); c.OK || !strings.Contains(c.Text, "/tmp/other.sock") {
		t.Errorf("another socket is asked: %+v", c)
	}
}

func TestDoctorNamesAMissingPieceOfEximsConfiguration(t *testing.T) {
	h := newHost(t)
	if c := h.pieces(); !c.Skipped {
		t.Errorf("another Exim than Debian's: %+v", c)
	}
	const first, last, router, macros = "/etc/exim4/conf.d/main/00_zzz_osm_policy", "/etc/exim4/conf.d/main/zzz_osm_policy", "/etc/exim4/conf.d/router/050_osm_discard", "/etc/exim4/exim4.conf.localmacros"
	for _, path := range []string{policyACL, first, last, router} {
		h.put(t, path, "x\n", 0o644)
	}
	h.put(t, macros, "MINE = yes\n# osm begin: x\n# osm end\n# osm begin: x\n# osm end\n", 0o644)
	if c := h.pieces(); !c.OK || c.Skipped {
		t.Errorf("everything is there: %+v", c)
	}
	for _, path := range []string{first, last, router, macros} {
		text, err := os.ReadFile(h.Root + path)
		if err == nil {
			err = os.Remove(h.Root + path)
		}
		if err != nil {
			t.Fatal(err)
		}
		if c := h.pieces(); c.OK || !strings.Contains(c.Text, path) || strings.Count(c.Text, "osm_") > 1 {
			t.Errorf("without %s: %+v", path, c)
		}
		h.put(t, path, string(text), 0o644)
	}
	if err := os.Remove(h.Root + policyACL); err != nil {
		t.Fatal(err)
	}
	h.put(t, "/var/lib/exim4/config.autogenerated", ".include "+policyACL+"\n", 0o644)
	if c := h.aclFiles(nil); c.OK || !strings.Contains(c.Text, policyACL+" is missing") {
		t.Errorf("without the file that the configuration includes: %+v", c)
	}
}

func TestDoctorLooksAtTheFilesThatRootGoesBy(t *testing.T) {
	h := newHost(t)
	if c := h.programs(); c.OK || !strings.Contains(c.Text, "/usr/local/sbin/osmd") {
		t.Errorf("without programs: %+v", c)
	}
	h.put(t, "/usr/local/sbin/osmd", "", 0o755)
	h.put(t, "/usr/sbin/osmctl", "", 0o755)
	if c := h.programs(); !c.OK {
		t.Errorf("with programs: %+v", c)
	}
	h.put(t, "/usr/local/sbin/osmd", "", 0o775)
	if c := h.programs(); c.OK || !strings.Contains(c.Text, "changed by others") {
		t.Errorf("a program that a group may write: %+v", c)
	}
	if c := h.settings(); !c.OK {
		t.Errorf("without osm.toml: %+v", c)
	}
	h.put(t, "/etc/osm/osm.toml", "", 0o666)
	if c := h.settings(); c.OK || !strings.Contains(c.Text, "osm.toml may be changed") {
		t.Errorf("osm.toml that all may write: %+v", c)
	}
	if c := h.stateFolder(); c.OK || !strings.Contains(c.Text, "missing") {
		t.Errorf("without a state folder: %+v", c)
	}
	h.put(t, "/var/lib/osm/osm.db", "", 0o600)
	for mode, says := range map[os.FileMode]string{0o750: "", 0o755: "open to others", 0o500: "cannot write"} {
		if err := os.Chmod(h.Root+"/var/lib/osm", mode); err != nil {
			t.Fatal(err)
		}
		if c := h.stateFolder(); c.OK != (says == "") || !strings.Contains(c.Text, says) {
			t.Errorf("state folder with mode %o: %+v", mode, c)
		}
	}
}

func TestDoctorComparesTheSpools(t *testing.T) {
	h := newHost(t)
	there := map[string]string{"spool_directory": "/var/spool/exim4"}
	if c := h.spool(there); !c.OK || c.Skipped {
		t.Errorf("the same spool everywhere: %+v", c)
	}
	h.put(t, executorPath, "exim_spool = \"/var/spool/exim\"\n", 0o644)
	if c := h.spool(there); c.OK || !strings.Contains(c.Text, "executor.toml says /var/spool/exim:") {
		t.Errorf("the executor looks elsewhere: %+v", c)
	}
	if c := h.spool(map[string]string{"spool_directory": "/srv/spool"}); c.OK || !strings.Contains(c.Text, "osm.toml says") {
		t.Errorf("Exim's spool is elsewhere: %+v", c)
	}
}
