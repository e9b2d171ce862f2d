package eximacl

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"osm/policy"
)

const eximConf = `primary_hostname = box.test
qualify_domain = box.test
spool_directory = /var/spool/exim4
log_file_path = /var/log/exim4/%slog
log_selector = +received_recipients
hostlist relay_from_hosts = 127.0.0.1 : 192.0.2.0/24
acl_smtp_rcpt = accept
acl_smtp_data = acl_data
acl_not_smtp = acl_script
untrusted_set_sender = *
local_from_check = false
tls_advertise_hosts =
keep_environment =
freeze_tell = postmaster
queue_only
MACROS
begin acl
acl_data:
TEXT
  accept
acl_script:
TEXT
  accept
begin routers
ROUTER
sink:
  driver = accept
  transport = sink
begin transports
sink:
  driver = appendfile
  file = /var/mail/sink
  user = mail
begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = yes
  server_set_id = $auth2
`

// configure gives the box an Exim of its own with the ACL text.
func configure(b *box, p ACLParams, router bool) {
	p.EximUID = b.eximUID()
	macros, routerText := "", ""
	if router {
		macros, routerText = "OSM_BLACKHOLE = yes", routerTemplate
	}
	b.Write("/etc/exim4/exim4.conf", strings.NewReplacer(
		"MACROS", macros, "ROUTER", routerText, "TEXT", ACLText(p)).Replace(eximConf))
	b.Run("chmod", "0644", "/etc/exim4/exim4.conf")
	b.Run("exim4", "-bV")
}

// script submits a message as the user nobody and returns the exit status.
func (b *box) script(subject string) int {
	_, code := b.Try("To: a@box.test, b@box.test\nFrom: web@box.test\nSubject: "+subject+"\n\nbody\n",
		"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--", "sh", "-c", "cd /usr/share && exec /usr/sbin/sendmail -t -i -f shop@box.test")
	return code
}

// smtp submits a message to the daemon and returns what the client sees of the answer
// to DATA.
func (b *box) smtp(subject string, more ...string) string {
	out, _ := b.Try("", append([]string{"swaks", "--server", "127.0.0.1", "--from", "info@shop.test", "--to", "a@box.test",
		"--header", "Subject: " + subject, "--body", "body"}, more...)...)
	if i := strings.LastIndex(out, " -> ."); i >= 0 {
		out = out[i:]
	}
	if m := regexp.MustCompile(`(?m)^<[-*~ ]+ +(\d{3}.*)$`).FindStringSubmatch(out); m != nil {
		return m[1]
	}
	return out
}

func (b *box) log() string { return b.Read("/var/log/exim4/mainlog") }

func (b *box) forgetLog() {
	b.Run("sh", "-c", "rm -f /var/log/exim4/*; rm -f /var/mail/sink; exim4 -bpr | awk '$3{print $3}' | xargs -r exim4 -Mrm >/dev/null || true")
}

// logged fails unless the log holds a line with all of the words.
func (b *box) logged(want ...string) {
	b.T.Helper()
	text := b.log()
lines:
	for line := range strings.Lines(text) {
		for _, w := range want {
			if !strings.Contains(line, w) {
				continue lines
			}
		}
		return
	}
	b.T.Errorf("no log line with %q in:\n%s", want, text)
}

func (b *box) frozen() bool {
	return strings.Contains(b.Run("exim4", "-bp"), "*** frozen ***")
}

func TestACLTellsWhoSendsWhat(t *testing.T) {
	b := newBox(t)
	configure(b, ACLParams{}, true)
	s := newBySubject()
	b.serve(&s.Server)
	b.daemon()

	tests := []struct {
		name  string
		send  func()
		check func(*policy.Submission) string // what is wrong
	}{
		{"a script", func() { b.script("=?UTF-8?Q?=0Aaction=3Ddiscard?= }${run{") }, func(s *policy.Submission) string {
			switch {
			case !s.Local(), s.Protocol != "local", s.CallerUID != 65534, s.Ident != "nobody":
				return "not a local submission of nobody"
			case s.WorkingDirectory != "/usr/share", s.EnvelopeSender != "shop@box.test", s.Recipients != 2:
				return "directory, sender or number of recipients"
			case s.Subject != " =?UTF-8?Q?=0Aaction=3Ddiscard?= }${run{\n", s.HeaderFrom != " web@box.test\n":
				return "headers"
			case s.RecipientList != "a@box.test, b@box.test" || s.RecipientsCut:
				return "recipients"
			}
			return ""
		}},
		{"PHP's header", func() { b.script("x\nX-PHP-Originating-Script: 1001:mail.php") },
			func(s *policy.Submission) string {
				if s.PHPScript != " 1001:mail.php\n" {
					return "script"
				}
				return ""
			}},
		{"cPanel's PHP header before it", func() {
			b.script("x\nX-PHP-Originating-Script: 1001:mail.php\nX-PHP-Script: shop.test/a.php for 192.0.2.9")
		},
			func(s *policy.Submission) string {
				if s.PHPScript != " shop.test/a.php for 192.0.2.9\n" {
					return "script"
				}
				return ""
			}},
		{"a client on this host", func() { b.smtp("hello") }, func(s *policy.Submission) string {
			if s.ClientIP.String() != "127.0.0.1" || s.ClientPort == 0 || s.LocalIP.String() != "127.0.0.1" || s.LocalPort != 25 || s.Authenticator != "" {
				return "connection"
			}
			return ""
		}},
		{"a logged-in client", func() { b.smtp("hello", "--auth-user", "info@shop.test", "--auth-password", "x") }, func(s *policy.Submission) string {
			if s.AuthenticatedID != "info@shop.test" || s.Authenticator != "plain" || s.Protocol != "esmtpa" {
				return "login"
			}
			return ""
		}},
		{"5,000 recipients", func() {
			b.Try("Subject: x\n\nx\n", "sh", "-c", `exec sendmail -i -f x@box.test $(seq -f 'recipient-%g@box.test' 5000)`)
		}, func(s *policy.Submission) string {
			if s.Recipients != 5000 || !s.RecipientsCut || len(s.RecipientList) != MaxRecipientList {
				return "recipients"
			}
			return ""
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s.take()
			tt.send()
			asked := s.take()
			if len(asked) != 1 {
				t.Fatalf("asked %d times, want once; log:\n%s", len(asked), b.log())
			}
			if wrong := tt.check(asked[0]); wrong != "" {
				t.Errorf("%s wrong in %+v", wrong, asked[0])
			}
			if len(asked[0].MessageID) < 16 || asked[0].Size == 0 {
				t.Errorf("message id %q, size %d", asked[0].MessageID, asked[0].Size)
			}
		})
	}
}

func TestACLDoesWhatTheAnswerSays(t *testing.T) {
	tests := []struct {
		name, verdict string
		router        bool
		exit          int    // of the script's sendmail
		smtp          string // answer to DATA
		frozen        bool   // the script's message
		scriptLog     []string
		smtpLog       []string
	}{
		{name: "accept", verdict: "accept", smtp: "250 OK", scriptLog: []string{"Completed"}, smtpLog: []string{"Completed"}},
		{name: "freeze", verdict: "freeze", smtp: "250 OK", frozen: true,
			scriptLog: []string{`OSM freeze ref=4k7qm2xd over "limit"`}, smtpLog: []string{"OSM freeze ref=4k7qm2xd"}},
		{name: "discard, with the router", verdict: "discard", router: true, smtp: "250 OK",
			scriptLog: []string{"=> :blackhole:", "R=osm_discard"}, smtpLog: []string{"=> blackhole", "OSM discard ref=4k7qm2xd"}},
		{name: "discard, without the router", verdict: "discard", smtp: "250 OK", frozen: true,
			scriptLog: []string{"OSM discard ref=4k7qm2xd"}, smtpLog: []string{"=> blackhole", "OSM discard ref=4k7qm2xd"}},
		{name: "defer", verdict: "defer", smtp: "451 Limit reached, 100% (4k7qm2xd) $pid ${run{/bin/id}}", frozen: true,
			scriptLog: []string{"OSM freeze ref=4k7qm2xd"}, smtpLog: []string{"temporarily rejected", "OSM defer ref=4k7qm2xd"}},
		{name: "deny", verdict: "deny", smtp: "550 Limit reached, 100% (4k7qm2xd) $pid ${run{/bin/id}}", frozen: true,
			scriptLog: []string{"OSM freeze ref=4k7qm2xd"}, smtpLog: []string{"rejected after DATA", "OSM deny ref=4k7qm2xd"}},
	}
	b := newBox(t)
	s := newBySubject()
	b.serve(&s.Server)
	configure(b, ACLParams{}, true)
	b.daemon()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b.T = t
			b.forgetLog()
			configure(b, ACLParams{}, tt.router) // scripts see it at once; SMTP does not use the router
			if code := b.script("verdict " + tt.verdict); code != tt.exit {
				t.Errorf("the script's exit status is %d, want %d", code, tt.exit)
			}
			b.Run("exim4", "-qf") // delivers what is not frozen
			b.logged(tt.scriptLog...)
			if got := b.frozen(); got != tt.frozen {
				t.Errorf("frozen %v, want %v; log:\n%s", got, tt.frozen, b.log())
			}
			if strings.Contains(b.log(), "<= <>") {
				t.Errorf("Exim wrote a bounce:\n%s", b.log())
			}
			stopped := tt.verdict == "freeze" || tt.frozen
			if header := b.headers(); strings.Contains(header, "X-OSM-Ref: 4k7qm2xd") != stopped {
				t.Errorf("X-OSM-Ref on a stopped message %v, headers:\n%s", stopped, header)
			}
			b.forgetLog()
			if got := b.smtp("verdict " + tt.verdict); !strings.HasPrefix(got, tt.smtp) {
				t.Errorf("the client sees %q, want %q", got, tt.smtp)
			}
			b.Run("exim4", "-qf")
			b.logged(tt.smtpLog...)
		})
	}
}

// headers are those of the message in the queue, or of the delivered one.
func (b *box) headers() string {
	return b.Run("sh", "-c", `for i in $(exim4 -bpr | awk '$3{print $3}'); do exim4 -Mvh $i; done; cat /var/mail/sink 2>/dev/null; true`)
}

func TestACLWithoutAnAnswer(t *testing.T) {
	answers := map[string]string{"nothing": "", "half an answer": `action=freeze ref=r log="x`, "rubbish": "500 what?\n",
		"an unknown action": "action=explode osm=1\n", "NUL": "\x00\x00", "a megabyte": strings.Repeat("x", 1<<20)}
	for _, closed := range []bool{false, true} {
		b := newBox(t)
		configure(b, ACLParams{FailClosed: closed}, false)
		b.daemon()
		for name, text := range answers {
			t.Run(fmt.Sprintf("%s, fail closed %v", name, closed), func(t *testing.T) {
				b.T = t
				stop := b.rubbish(text)
				defer stop()
				b.unavailable(closed)
			})
		}
		var usual time.Duration // where nobody has to be waited for
		t.Run(fmt.Sprintf("no socket, fail closed %v", closed), func(t *testing.T) {
			b.T = t
			from := time.Now()
			b.unavailable(closed)
			usual = time.Since(from)
		})
		t.Run(fmt.Sprintf("a stopped daemon, fail closed %v", closed), func(t *testing.T) {
			b.T = t
			stop := b.silent()
			defer stop()
			from := time.Now()
			b.unavailable(closed)
			if took := time.Since(from); took > 5*time.Second+2*usual {
				t.Errorf("two messages took %v, and %v where nobody was waited for", took, usual)
			}
		})
	}
}

// unavailable sends one message by each way and tells what has to follow.
func (b *box) unavailable(closed bool) {
	b.T.Helper()
	b.forgetLog()
	if code := b.script("verdict freeze"); code != 0 {
		b.T.Errorf("the script's exit status is %d, want 0", code)
	}
	b.logged("OSM unavailable, accepted unchecked")
	if b.frozen() {
		b.T.Error("the script's message is frozen")
	}
	b.forgetLog()
	want, line := "250 OK", "OSM unavailable, accepted unchecked"
	if closed {
		want, line = "451 Temporary policy failure", "OSM unavailable, deferred"
	}
	if got := b.smtp("verdict freeze"); !strings.HasPrefix(got, want) {
		b.T.Errorf("the client sees %q, want %q", got, want)
	}
	b.logged(line)
}

func TestACLDoesNotAskAbout(t *testing.T) {
	b := newBox(t)
	configure(b, ACLParams{}, false)
	s := newBySubject()
	b.serve(&s.Server)
	t.Run("Exim's own bounces", func(t *testing.T) {
		b.T = t
		uid := fmt.Sprint(b.eximUID())
		b.Try("Subject: verdict freeze\n\nx\n", "setpriv", "--reuid="+uid, "--regid="+uid, "--clear-groups", "--", "sendmail", "-i", "-f", "<>", "a@box.test")
		if asked := s.take(); len(asked) != 0 {
			t.Errorf("asked %d times", len(asked))
		}
		b.logged("<= <>")
	})
	t.Run("inbound mail", func(t *testing.T) {
		b.T = t
		b.Try("EHLO x\r\nMAIL FROM:<a@elsewhere.test>\r\nRCPT TO:<b@box.test>\r\nDATA\r\nSubject: verdict freeze\r\n\r\nx\r\n.\r\nQUIT\r\n",
			"exim4", "-bh", "198.51.100.1")
		if asked := s.take(); len(asked) != 0 {
			t.Errorf("asked %d times", len(asked))
		}
	})
	t.Run("but a null sender of anybody else", func(t *testing.T) {
		b.T = t
		b.Try("Subject: x\n\nx\n", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--", "sendmail", "-i", "-f", "<>", "a@box.test")
		if asked := s.take(); len(asked) != 1 {
			t.Errorf("asked %d times, want once", len(asked))
		}
	})
	t.Run("but a host that may relay", func(t *testing.T) {
		b.T = t
		b.Try("EHLO x\r\nMAIL FROM:<a@elsewhere.test>\r\nRCPT TO:<b@box.test>\r\nDATA\r\nSubject: x\r\n\r\nx\r\n.\r\nQUIT\r\n",
			"exim4", "-bh", "192.0.2.7.33333")
		if asked := s.take(); len(asked) != 1 {
			t.Errorf("asked %d times, want once", len(asked))
		}
	})
}

func TestACLTextForCPanel(t *testing.T) {
	plain, panel := ACLText(ACLParams{EximUID: 47}), ACLText(ACLParams{EximUID: 47, CPanel: true})
	for _, name := range []string{"owner64=", "vhost64=", "recent64=", "always64="} {
		if strings.Contains(plain, name) || !strings.Contains(panel, name) {
			t.Errorf("%s must stand in cPanel's text and in no other", name)
		}
	}
	for _, text := range []string{plain, panel} {
		// cPanel rewrites names with these, since Exim then looks for its own macros.
		if m := regexp.MustCompile(`_[ODU]\w*`).FindString(text); m != "" {
			t.Errorf("the text holds %q", m)
		}
		if m := regexp.MustCompile(`@[A-Z]+@`).FindString(text); m != "" {
			t.Errorf("%s was not filled in", m)
		}
	}
}

func TestACLTextForCPanelAsks(t *testing.T) {
	b := newBox(t)
	configure(b, ACLParams{CPanel: true}, false)
	s := newBySubject()
	b.serve(&s.Server)
	conf := strings.Replace(b.Read("/etc/exim4/exim4.conf"), "acl_script:", "acl_script:\n  warn\n    set acl_c_vhost_owner = 1001:shop.test\n", 1)
	b.Write("/etc/exim4/exim4.conf", conf)
	b.script("x")
	if asked := s.take(); len(asked) != 1 || asked[0].VhostOwner != "1001:shop.test" || asked[0].LocalUser != "" {
		t.Fatalf("asked %+v; log:\n%s", asked, b.log())
	}
}
