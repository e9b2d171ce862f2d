package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"osm/internal/config"
	"osm/internal/control"
	"osm/internal/control/controltest"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const settings = `
[[trigger]]
name = "account-hour"
max = 3
count = "messages"
mode = "enforce"

[[trigger]]
name = "login-hour"
max = 2
mode = "enforce"
verdict = "defer"

[[for]]
package = "silver"
trigger = "account-hour"
max = 100
reason = "blogs"
`

// shell runs osmctl against a daemon.
type shell struct {
	t    *testing.T
	d    *controltest.Daemon
	refs []string // made the same in every run
	env  env
}

func newShell(t *testing.T) *shell { return newShellWith(t, settings) }

func newShellWith(t *testing.T, settings string) *shell {
	d := controltest.New(t, settings)
	return &shell{t: t, d: d, env: env{
		in: strings.NewReader(""), now: func() time.Time { return d.Clock().Wall }, loc: time.UTC, terminal: true, width: 200, uid: 1000,
	}}
}

// run returns what the command printed, both outputs and the status together.
func (s *shell) run(args ...string) string {
	s.t.Helper()
	var out, errOut bytes.Buffer
	e := s.env
	e.out, e.err = &out, &errOut
	code := run(s.t.Context(), &e, append([]string{"osmctl", "-socket", s.d.Socket}, args...))
	text := out.String()
	if errOut.Len() > 0 {
		text += "--- stderr\n" + errOut.String()
	}
	text += fmt.Sprintf("--- status %d\n", code)
	for i, ref := range s.refs {
		text = strings.ReplaceAll(text, ref, fmt.Sprintf("ref-%04d", i+1))
	}
	return strings.ReplaceAll(strings.ReplaceAll(text, s.d.Socket, "SOCKET"), s.d.Dir, "DIR")
}

func (s *shell) send(m controltest.Mail) string {
	ref := s.d.Send(m).Ref
	s.refs = append(s.refs, ref)
	return ref
}

// spam fills every counter of the tests: shop is over by script, a mailbox by login.
func (s *shell) spam() (last string) {
	for i := range 5 {
		last = s.send(controltest.Mail{Account: "shop", Directory: "/home/shop/public_html", Subject: fmt.Sprintf("Invoice %d", 8840+i), Sender: "shop@shop.example"})
		s.d.Advance(time.Minute)
	}
	for range 3 {
		s.send(controltest.Mail{Account: "news", Mailbox: "info@news.example", IP: "192.0.2.7", Subject: "Offer \x1b[31m\u202e=?UTF-8?Q?=1B]0;owned=07?=", Sender: ""})
		s.d.Advance(time.Minute)
	}
	s.d.Flush()
	return last
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", path, got, want)
	}
}

func TestWhatCommandsPrint(t *testing.T) {
	s := newShell(t)
	last := s.spam()
	s.d.SetState(control.State{Checks: 8, Exim: control.Part{OK: true, Text: "asks"}, Alarms: []control.Alarm{{Name: "executor", Text: "it does not answer", At: control.Time{Time: controltest.Start()}}}})
	for _, c := range []struct {
		name string
		args []string
	}{
		{"top", []string{"top"}},
		{"usage", []string{"usage", "shop"}},
		{"usage-unknown", []string{"usage", "(unknown)"}},
		{"usage-json-behind", []string{"usage", "news", "--limit", "1", "--json"}},
		{"near", []string{"near"}},
		{"rates", []string{"rates"}},
		{"rates-account", []string{"rates", "--account", "shop", "--since", "3h", "--step", "1h", "--json"}},
		{"accounts", []string{"accounts"}},
		{"accounts-search", []string{"accounts", "info@news.example"}},
		{"account", []string{"account", "shop"}},
		{"account-missing", []string{"account", "nobody"}},
		{"decisions", []string{"decisions", "--verdict", "stopped"}},
		{"trigger-list", []string{"trigger", "list"}},
		{"trigger-list-account", []string{"trigger", "list", "--account", "blog"}},
		{"limit-preview", []string{"limit", "preview", "--account", "shop", "--trigger", "account-hour", "--max", "1"}},
		{"limit-preview-none", []string{"limit", "preview", "--account", "blog", "--mode", "off"}},
		{"events", []string{"events", "--since", "1d"}},
		{"event", []string{"event", "1"}},
		{"event-missing", []string{"event", "99"}},
		{"explain", []string{"explain", last}},
		{"explain-json", []string{"--json", "explain", last}},
		{"explain-missing", []string{"explain", "zzzzzzzz"}},
		{"explain-described", []string{"explain", "--account", "shop", "--recipients", "3", "--subject", "hello"}},
		{"held-list", []string{"held", "list"}},
		{"held-list-json", []string{"held", "list", "--limit=1", "--json"}},
		{"held-show", []string{"held", "show", last}},
		{"held-release-asks", []string{"held", "release", "--account", "shop"}},
		{"held-release-dry", []string{"held", "release", "--account", "shop", "-n"}},
		{"held-release", []string{"held", "release", "--account", "shop", "--yes", "--reason", "customer called"}},
		{"held-release-again", []string{"held", "release", "--account", "shop", "--yes"}},
		{"hold-put", []string{"hold", "put", "--mailbox", "info@news.example", "--until", "2h", "--reason", "stolen password"}},
		{"hold-list", []string{"hold", "list"}},
		{"release-hold", []string{"release", "1"}},
		{"release-hold-again", []string{"release", "1"}},
		{"reset", []string{"reset", "account-hour/shop"}},
		{"reset-wrong", []string{"reset", "acount-hour/shop"}},
		{"limit-set", []string{"limit", "set", "--account", "shop", "--trigger", "account-hour", "--max", "5000", "--until", "2027-01-31", "--reason", "newsletter, ticket 4711"}},
		{"limit-set-wrong", []string{"limit", "set", "--account", "shop", "--trigger", "account-hr", "--max", "-1"}},
		{"limit-show", []string{"limit", "show"}},
		{"limit-remove", []string{"limit", "remove", "1"}},
		{"exempt-add", []string{"exempt", "add", "--ip", "192.0.2.0/24", "--ceiling", "500", "--until", "3d"}},
		{"exempt-list", []string{"exempt", "list"}},
		{"exempt-remove", []string{"exempt", "remove", "1"}},
		{"config-show", []string{"config", "show"}},
		{"config-export", []string{"config", "export"}},
		{"config-reload", []string{"config", "reload"}},
		{"settings-set", []string{"settings", "set", "checking", "off", "--reason", "moving the queue"}},
		{"settings-set-wrong", []string{"settings", "set", "held.keep", "soon"}},
		{"settings-set-unknown", []string{"settings", "set", "chekcing", "on"}},
		{"settings-list", []string{"settings", "list"}},
		{"audit", []string{"audit"}},
		{"audit-undo", []string{"audit", "undo", "10"}},
		{"audit-undo-again", []string{"audit", "undo", "10"}},
		{"settings-unset", []string{"settings", "unset", "checking"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := s.run(c.args...)
			if c.name == "audit" || strings.HasPrefix(c.name, "settings") || c.name == "limit-show" || c.name == "config-show" || strings.HasPrefix(c.name, "exempt") || strings.HasPrefix(c.name, "hold-list") {
				got = strings.ReplaceAll(got, byWhom(), "SELF")
			}
			for _, r := range got {
				if (r < ' ' && r != '\n') || (r >= 0x7f && r < 0xa0) || r == 0x202e {
					t.Fatalf("a control character %U reaches the terminal:\n%q", r, got)
				}
			}
			golden(t, c.name, got)
		})
	}
}

// byWhom is how the daemon calls whoever runs the tests.
func byWhom() string {
	if os.Geteuid() == 0 {
		return "root"
	}
	return os.Getenv("USER")
}

func TestWhatIsPrintedOfConnections(t *testing.T) {
	s := newShellWith(t, "")
	hostile := "/home/shop/\x1b[31m\u202ewp"
	for range 3 {
		s.connect(controltest.Conn{Account: "shop", Directory: hostile, UID: 1001})
	}
	last := s.connect(controltest.Conn{Account: "shop", Directory: "/home/shop/public_html", UID: 1001, Over: true})
	s.connect(controltest.Conn{Account: "(unknown)", Remote: "[2001:db8::25]:587"})
	s.d.Flush()
	for _, c := range []struct {
		name string
		args []string
	}{
		{"connections", []string{"connections"}},
		{"connections-json", []string{"connections", "--remote", ":587", "--json"}},
		{"connections-filtered", []string{"connections", "--account", "shop", "--remote", "198.51.100.0/24", "--uid", "1001", "--limit", "2"}},
		{"connections-none", []string{"connections", "--directory", "/nowhere"}},
		{"connections-wrong", []string{"connections", "--remote", "mail.example"}},
		{"connections-explain", []string{"explain", last}},
		{"connections-event", []string{"event", "1"}},
		{"connections-events", []string{"events"}},
		{"connections-top", []string{"top", "--by", "connections"}},
		{"connections-rates", []string{"rates"}},
		{"connections-account", []string{"account", "shop"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := s.run(c.args...)
			for _, r := range got {
				if (r < ' ' && r != '\n') || (r >= 0x7f && r < 0xa0) || r == 0x202e {
					t.Fatalf("a control character %U reaches the terminal:\n%q", r, got)
				}
			}
			golden(t, c.name, got)
		})
	}
}

func (s *shell) connect(c controltest.Conn) string {
	ref := s.d.Connect(c).Ref
	s.refs = append(s.refs, ref)
	s.d.Advance(time.Minute)
	return ref
}

func TestStatusTellsAlarmsByItsExitStatus(t *testing.T) {
	s := newShell(t)
	if got := s.run("status"); !strings.HasSuffix(got, "--- status 0\n") || strings.Contains(got, "ALARM") {
		t.Errorf("status without an alarm:\n%s", got)
	}
	s.d.SetState(control.State{Alarms: []control.Alarm{{Name: "disk", Text: "full", At: control.Time{Time: controltest.Start()}}}})
	if got := s.run("status"); !strings.Contains(got, "ALARM  disk: full") || !strings.HasSuffix(got, "--- status 1\n") {
		t.Errorf("status with an alarm:\n%s", got)
	}
	var st control.Status
	if got, _, _ := strings.Cut(s.run("--json", "status"), "--- "); json.Unmarshal([]byte(got), &st) != nil || len(st.Alarms) != 1 {
		t.Errorf("status --json is no one document: %s", got)
	}
}

func TestDiscardingAsksAPerson(t *testing.T) {
	s := newShell(t)
	s.spam()
	s.env.asks = true
	for _, c := range []struct{ answer, want string }{
		{"n\n", "nothing was changed"}, {"\n", "nothing was changed"}, {"", "nothing was changed"}, {"yes\n", "2 messages discarded"},
	} {
		s.env.in = strings.NewReader(c.answer)
		if got := s.run("held", "discard", "--account", "shop"); !strings.Contains(got, "Discard 2 messages? [y/N]") || !strings.Contains(got, c.want) {
			t.Errorf("answer %q: %s, want %q", c.answer, got, c.want)
		}
	}
}

func TestCommandLinesThatAreNotUnderstood(t *testing.T) {
	s := newShell(t)
	for _, c := range []struct {
		args string
		says string
	}{
		{"evnts", `did you mean "events"?`},
		{"held lst", `did you mean "list"?`},
		{"held", "needs one of: list, show, release, discard"},
		{"usage", "needs ACCOUNT"},
		{"usage a b", `"b" is one argument too many`},
		{"usage shop --limit 0", "from 1 to 1000"},
		{"usage shop --lmit 5", "lmit"},
		{"event x", "not an event's number"},
		{"events --since never", "--since"},
		{"explain", "needs a reference"},
		{"explain abc --account shop", "not both"},
		{"held release", "needs references"},
		{"hold put", "needs --account"},
		{"hold put --account shop --until yesterday", "--until"},
		{"hold put --mailbox a@b.example --subject x", "one of"},
		{"release one", "hold's number"},
		{"reset shop", "TRIGGER/KEY"},
		{"limit set --max 5", "needs one of"},
		{"limit set --account shop", "something to set"},
		{"limit set --account shop --server --max 5", "one of"},
		{"limit set --server --per soon", "--per"},
		{"exempt add", "exactly one of"},
		{"man nothing", "no page"},
		{"rates --step soon", "--step"},
		{"limit preview --max 5", "needs --remove"},
		{"limit preview --remove 1 --account shop", "not both"},
		{"settings set checking", "needs KEY VALUE"},
		{"audit undo x", "number of a change"},
	} {
		got := s.run(strings.Fields(c.args)...)
		if !strings.Contains(got, c.says) || !strings.HasSuffix(got, "--- status 2\n") {
			t.Errorf("osmctl %s:\n%s, want %q and status 2", c.args, got, c.says)
		}
	}
}

func TestWithoutADaemonTheHintSaysWhatToDo(t *testing.T) {
	s := newShell(t)
	s.d.Socket = filepath.Join(s.d.Dir, "nobody.sock")
	got := s.run("status")
	if !strings.Contains(got, "there is no socket SOCKET") || !strings.Contains(got, "hint: start it") || !strings.HasSuffix(got, "--- status 1\n") {
		t.Errorf("without a daemon:\n%s", got)
	}
}

func TestConfigCheckNeedsNoDaemon(t *testing.T) {
	s := newShell(t)
	s.d.Socket = "/nowhere"
	path := filepath.Join(s.d.Dir, "osm.toml")
	for _, c := range []struct{ text, want, status string }{
		{"", "can be used: 10 triggers", "0"},
		{"[log]\nlevel = \"loud\"\nfromat = 1\n", "osm.toml:2: log.level = \"loud\": must be one of debug, info, warn, error\nosm.toml:3: log.fromat: unknown key; did you mean \"format\"?\n", "1"},
	} {
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := s.run("config", "check", path); !strings.Contains(got, c.want) || !strings.HasSuffix(got, "--- status "+c.status+"\n") {
			t.Errorf("config check of %q:\n%s", c.text, got)
		}
		var doc struct {
			OK       bool
			Mistakes []config.Mistake
		}
		if got, _, _ := strings.Cut(s.run("config", "check", "--config", path, "--json"), "--- "); json.Unmarshal([]byte(got), &doc) != nil || doc.OK != (c.status == "0") {
			t.Errorf("config check --json: %s", got)
		}
	}
}

func TestTailPrintsDecisions(t *testing.T) {
	s := newShell(t)
	e := s.env
	out := &notifying{lines: make(chan string, 100)}
	e.out, e.err = out, out
	done := make(chan int, 1)
	go func() { done <- run(t.Context(), &e, []string{"osmctl", "tail", "--stopped", "-socket", s.d.Socket}) }()
	for len(out.lines) == 0 {
		s.spam()
	}
	if got := <-out.lines; !strings.Contains(got, "freeze (account-hour)") && !strings.Contains(got, "defer (login-hour)") {
		t.Errorf("tail printed %q", got)
	}
}

func TestConnectionsAreFollowed(t *testing.T) {
	s := newShellWith(t, "")
	for flag, want := range map[string]string{"": "uid 1001  php (700)  /home/shop  198.51.100.7:25  established  direct-hour", "--json": `"remote":"198.51.100.7:25"`} {
		e := s.env
		out := &notifying{lines: make(chan string, 100)}
		e.out, e.err = out, out
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan int, 1)
		go func() {
			done <- run(ctx, &e, strings.Fields("osmctl connections --follow --account shop --remote :25 "+flag+" -socket "+s.d.Socket))
		}()
		for len(out.lines) == 0 {
			s.d.Connect(controltest.Conn{Account: "shop", Remote: "198.51.100.7:587"})
			s.d.Connect(controltest.Conn{Account: "shop", Directory: "/home/shop", UID: 1001, Over: true})
		}
		if got := <-out.lines; !strings.Contains(got, want) {
			t.Errorf("followed with %q: printed %q, want %q in it", flag, got, want)
		}
		cancel()
		if code := <-done; code != exitDone {
			t.Errorf("followed until Ctrl-C: status %d", code)
		}
	}
}

// notifying hands lines to a test as they are printed.
type notifying struct{ lines chan string }

func (n *notifying) Write(p []byte) (int, error) {
	select {
	case n.lines <- string(p):
	default:
	}
	return len(p), nil
}

func TestOptionsMayStandAnywhere(t *testing.T) {
	app := (&env{out: &bytes.Buffer{}, err: &bytes.Buffer{}}).app()
	for in, want := range map[string]string{
		"usage shop --json":                  "--json usage -- shop",
		"--json usage shop":                  "--json usage -- shop",
		"usage shop --limit 5":               "usage --limit 5 -- shop",
		"usage --limit=5 shop -s /x":         "-s /x usage --limit=5 -- shop",
		"held list --account shop --json":    "--json held list --account shop",
		"held release r1 --reason why r2 -y": "held release --reason why -y -- r1 r2",
		"explain -- --json":                  "explain -- --json",
		"nothing --json":                     "--json nothing",
	} {
		got := strings.Join(reorder(app, append([]string{"osmctl"}, strings.Fields(in)...)), " ")
		if got != "osmctl "+want {
			t.Errorf("reorder(%s) = %s, want osmctl %s", in, got, want)
		}
	}
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"plain äöü 漢字":           "plain äöü 漢字",
		"\x1b[31mred":            `\x1b[31mred`,
		"a\u202eb":               `a\u202eb`,
		"\xff\xfe":               `\xff\xfe`,
		"tab\tnewline\n":         `tab\x09newline\x0a`,
		"c1 \u009b csi":          `c1 \x9b csi`,
		"tag \U000e0041":         `tag \U000e0041`,
		"nbsp\u00a0hidden\u200b": `nbsp\xa0hidden\u200b`,
	} {
		if got := printable(in); got != want {
			t.Errorf("printable(%q) = %q, want %q", in, got, want)
		}
		doc, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		var back string
		if err := json.Unmarshal(visibleJSON(doc), &back); err != nil || back != strings.ToValidUTF8(in, "\ufffd") && back != strings.Map(func(r rune) rune { return r }, in) {
			t.Errorf("visibleJSON(%s) reads back as %q, %v", doc, back, err)
		}
	}
}

func TestBarsAndNumbers(t *testing.T) {
	for _, c := range []struct {
		used, limit int64
		want        string
	}{{0, 10, "[..........]"}, {1, 1000, "[#.........]"}, {5, 10, "[#####.....]"}, {10, 10, "[##########]"}, {50, 10, "[##########]"}, {0, 0, "[..........]"}, {1, 0, "[##########]"}} {
		if got := bar(c.used, c.limit, 10); got != c.want {
			t.Errorf("bar(%d, %d) = %s, want %s", c.used, c.limit, got, c.want)
		}
	}
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567", -1000: "-1,000", -100: "-100"} {
		if got := number(n); got != want {
			t.Errorf("number(%d) = %s, want %s", n, got, want)
		}
	}
}
