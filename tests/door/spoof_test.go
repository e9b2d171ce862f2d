package door

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"osm/tests/lab"
)

// strict makes any trigger go over soon and put a hold, so that a forgery that is charged
// to the neighbour would start something.
const strict = `
[[trigger]]
name = "directory-hour"
max = 3
mode = "enforce"
actions = ["report", { hold = "1h" }]
[[trigger]]
name = "subject-hour"
max = 3
mode = "enforce"
actions = ["report", { hold = "1h" }]
[[trigger]]
name = "scripts-hour"
max = 3
mode = "enforce"
actions = ["report", { hold = "1h" }]
[[trigger]]
name = "automatic-hour"
max = 3
mode = "enforce"
actions = ["report", { hold = "1h" }]
[[trigger]]
name = "login-hour"
max = 3
mode = "enforce"
actions = ["report", { hold = "1h" }]
`

// forgery is one way of pretending to be the neighbour.
type forgery struct {
	name string
	// charged is who must be charged instead: "" is the attacker's own account.
	charged string
	// refused: Exim itself may refuse to take it.
	refused bool
	send    func(ctx context.Context, f *forger) error
}

// forger is who pretends, and whom he means to harm.
type forger struct {
	attacker, victim string
	mail             lab.Mail // already from the neighbour, by envelope and header
}

// shell runs a command as a user in a folder; the message is its input.
func (f *forger) shell(ctx context.Context, user, dir, input string, args ...string) error {
	cmd := machine.As(ctx, user, dir, args[0], args[1:]...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%v: %w: %.300s", args, err, out)
	}
	return nil
}

func (f *forger) header() string {
	return "From: box@" + machine.Domain(f.victim) + "\nTo: x@elsewhere.example\nSubject: " + f.mail.Subject + "\n\nHello.\n"
}

// phpHeaders are the headers by which PHP names a script, with the victim's name, uid,
// site and folder in them.
func (f *forger) phpHeaders() []string {
	uid := machine.UID(f.victim)
	return []string{
		fmt.Sprintf("X-PHP-Originating-Script: %d:index.php", uid),
		"X-PHP-Script: " + machine.Domain(f.victim) + "/index.php for 192.0.2.1",
		"X-PHP-Filename: " + www(f.victim) + "/index.php REMOTE_ADDR: 192.0.2.1",
		"X-Authenticated-Sender: lab.example: box@" + machine.Domain(f.victim),
		"X-OSM-Ref: 00000000",
	}
}

// smtpSession is a session with Exim over standard input, as "exim -bs" runs it.
func (f *forger) smtpSession() string {
	return strings.ReplaceAll("EHLO "+machine.Domain(f.victim)+"\nMAIL FROM:<box@"+machine.Domain(f.victim)+">\nRCPT TO:<x@elsewhere.example>\nDATA\n"+
		f.header()+".\nQUIT\n", "\n", "\r\n")
}

func forgeries() []forgery {
	own := func(f *forger) string { return www(f.attacker) }
	return []forgery{
		{name: "envelope sender and Header From by sendmail", send: func(ctx context.Context, f *forger) error {
			return machine.Sendmail(ctx, f.attacker, own(f), f.mail)
		}},
		{name: "null sender by sendmail", send: func(ctx context.Context, f *forger) error {
			f.mail.From, f.mail.Header = "", []string{"Sender: box@" + machine.Domain(f.victim)}
			return machine.Sendmail(ctx, f.attacker, own(f), f.mail)
		}},
		{name: "headers of PHP by sendmail", send: func(ctx context.Context, f *forger) error {
			f.mail.Header = f.phpHeaders()
			return machine.Sendmail(ctx, f.attacker, own(f), f.mail)
		}},
		{name: "working directory in the neighbour's home", send: func(ctx context.Context, f *forger) error {
			return machine.Sendmail(ctx, f.attacker, www(f.victim), f.mail)
		}},
		{name: "HOME, USER and a CGI environment of the neighbour", send: func(ctx context.Context, f *forger) error {
			return f.shell(ctx, f.attacker, own(f), f.header(), "/usr/bin/env", "HOME="+machine.HomeOf(f.victim), "USER="+f.victim, "LOGNAME="+f.victim,
				"SCRIPT_FILENAME="+www(f.victim)+"/index.php", "HTTP_HOST="+machine.Domain(f.victim), "/usr/sbin/sendmail", "-t", "-i", "-f", f.mail.From)
		}},
		{name: "envelope sender and HELO by loopback SMTP", send: func(ctx context.Context, f *forger) error {
			return machine.LoopbackSMTP(ctx, f.attacker, f.mail)
		}},
		{name: "envelope sender and headers after a login of one's own", send: func(ctx context.Context, f *forger) error {
			f.mail.Header = f.phpHeaders()
			return byLogin(ctx, f.attacker, 1, f.mail)
		}},
		{name: "exim -bs", send: func(ctx context.Context, f *forger) error {
			return f.shell(ctx, f.attacker, own(f), f.smtpSession(), "/usr/sbin/exim4", "-bs")
		}},
		{name: "exim -bs with a login name, address and protocol given", send: func(ctx context.Context, f *forger) error {
			return f.shell(ctx, f.attacker, own(f), f.smtpSession(), "/usr/sbin/exim4", "-oMai", "box@"+machine.Domain(f.victim), "-oMaa", "plain",
				"-oMa", "192.0.2.1.5", "-oMr", "esmtpa", "-oMt", f.victim, "-bs")
		}},
		{name: "exim -bS", send: func(ctx context.Context, f *forger) error {
			return f.shell(ctx, f.attacker, own(f), strings.ReplaceAll(f.smtpSession(), "\r\n", "\n"), "/usr/sbin/exim4", "-bS")
		}},
		{name: "a login name, address and ident given to sendmail", send: func(ctx context.Context, f *forger) error {
			return f.shell(ctx, f.attacker, own(f), f.header(), "/usr/sbin/sendmail", "-t", "-i", "-oMai", "box@"+machine.Domain(f.victim), "-oMaa", "plain",
				"-oMas", "box@"+machine.Domain(f.victim), "-oMt", f.victim, "-oMa", "127.0.0.1.5", "-f", f.mail.From)
		}},
		{name: "a macro of our ACL redefined", refused: true, send: func(ctx context.Context, f *forger) error {
			return f.shell(ctx, f.attacker, own(f), f.header(), "/usr/sbin/sendmail", "-DOSM_SOCKET=/nowhere", "-DOSM_BLACKHOLE=1", "-t", "-i")
		}},
		{name: "a configuration of one's own", refused: true, send: func(ctx context.Context, f *forger) error {
			return f.shell(ctx, f.attacker, own(f), f.header(), "/usr/sbin/sendmail", "-C", "/dev/null", "-t", "-i")
		}},
		{name: "an auto-reply pretended by an expansion in Exim", send: func(ctx context.Context, f *forger) error {
			script := filepath.Join(machine.HomeOf(f.attacker), "reply.sh")
			if err := machine.WriteFile(f.attacker, script, "printf '%s' '"+f.header()+"' | /usr/sbin/sendmail -t -i -f '<>'\n"); err != nil {
				return err
			}
			return f.shell(ctx, f.attacker, own(f), "", "/usr/sbin/exim4", "-be", "${run{/bin/sh "+script+"}}")
		}},
		{name: "shared web user in the neighbour's home", charged: "(shared:www-data)", send: func(ctx context.Context, f *forger) error {
			f.mail.Header = f.phpHeaders()
			return machine.Sendmail(ctx, "www-data", www(f.victim), f.mail)
		}},
		{name: "shared web user by loopback SMTP", charged: "(shared:www-data)", send: func(ctx context.Context, f *forger) error {
			return machine.LoopbackSMTP(ctx, "www-data", f.mail)
		}},
	}
}

func TestForgeryIsChargedToTheForgerAndStartsNothingAgainstTheNeighbour(t *testing.T) {
	w := start(t, strict)
	for _, g := range forgeries() {
		t.Run(g.name, func(t *testing.T) { g.try(t, w) })
	}
}

// try sends the forgery five times, which is more than any trigger allows.
func (g forgery) try(t *testing.T, w *world) {
	const times = 5
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	attacker, victim := w.next(), w.next()
	charged := attacker
	if g.charged != "" {
		charged = g.charged
	}
	before := w.counted(t, charged)["messages/"+charged]
	unknown := w.counted(t, "(unknown)")
	taken := 0
	for range times {
		f := &forger{attacker: attacker, victim: victim, mail: lab.Mail{
			From: "box@" + machine.Domain(victim), To: []string{"x@elsewhere.example"}, Subject: "from " + victim,
		}}
		err := g.send(ctx, f)
		if err != nil && !g.refused {
			t.Fatal(err)
		}
		if err == nil {
			taken++
		}
	}
	_, stopped := settled(t, "from "+victim, taken)
	if got := w.counted(t, charged)["messages/"+charged] - before; got != int64(taken-stopped) {
		t.Errorf("%s is charged %d messages, want %d of %d", charged, got, taken-stopped, taken)
	}
	if !g.refused { // so that what follows looks when events and holds are there
		eventually(t, 5*time.Second, "an event of "+charged, func() error {
			if stopped == 0 || len(list[event](t, w, "events", "--account", charged)) == 0 {
				return fmt.Errorf("none, and %d messages were stopped: do the triggers of this test act?", stopped)
			}
			return nil
		})
	}
	only(t, "(unknown)", w.counted(t, "(unknown)"), unknown)
	// What a shared web user does in a folder counts as a claim of that folder alone.
	only(t, victim, w.counted(t, victim), nil, "directory-hour/"+victim+" claimed "+www(victim))
	g.harmless(t, w, ctx, victim)
}

// harmless checks that nothing was started against the neighbour: he can send, also from
// the folder that was claimed.
func (g forgery) harmless(t *testing.T, w *world, ctx context.Context, victim string) {
	t.Helper()
	for _, h := range list[hold](t, w, "hold", "list", "--account", victim) {
		if h.Scope != "directory" || g.charged == "" {
			t.Errorf("a hold stands against the neighbour: %+v", h)
		}
	}
	for _, e := range list[event](t, w, "events", "--account", victim) {
		if e.Trigger != "directory-hour" || g.charged == "" {
			t.Errorf("an event speaks of the neighbour: %+v", e)
		}
	}
	m := lab.Mail{From: "box@" + machine.Domain(victim), To: []string{"x@elsewhere.example"}, Subject: victim + " himself"}
	err := machine.Sendmail(ctx, victim, www(victim), m)
	for _, p := range paths()[2:] {
		if err == nil {
			err = p.send(ctx, victim, 1, m)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	came(t, m.Subject, 3, 0)
}

// A local user who talks to the policy socket himself is not heard.
func TestNobodyButEximMayAskThePolicySocket(t *testing.T) {
	w := start(t)
	attacker, victim := w.next(), w.next()
	s := submissionOf(victim)
	for _, who := range []string{attacker, "www-data", "nobody"} {
		if a := askAs(t, who, [][]byte{request(s)})[0]; !strings.Contains(a.Error, "permission denied") {
			t.Errorf("%s: connected: %+v", who, a)
		}
	}
	if a := askAs(t, "root", [][]byte{request(s)})[0]; len(a.Text) != 0 {
		t.Errorf("root: answered %q, want the connection closed", a.Text)
	}
	only(t, victim, w.counted(t, victim), nil)
	eventually(t, 5*time.Second, "the alarm about a stranger", func() error {
		s, err := w.Status()
		if err == nil && s.Alarm("bad-peer") == nil {
			err = fmt.Errorf("alarms are %+v", s.Alarms)
		}
		return err
	})
	if a := askAs(t, "Debian-exim", [][]byte{request(s)})[0]; !bytes.Contains(a.Text, []byte("action=accept")) {
		t.Errorf("Exim's own user: answered %+v", a)
	}
}
