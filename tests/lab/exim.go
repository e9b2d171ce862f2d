package lab

import (
	"bufio"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"text/template"
	"time"
)

// SMTPAddr is where Exim listens, in the lab's own network namespace.
const SMTPAddr = "127.0.0.1:25"

// eximConf is a small whole configuration: two outgoing hooks, SMTP AUTH, relaying for
// loopback, local accounts with .forward, everything else to the sink.
const eximConf = `
primary_hostname = lab.example
spool_directory = {{.Spool}}
log_file_path = {{.Logs}}/%slog
pid_file_path = {{.Run}}/exim.pid
daemon_smtp_ports = 25
local_interfaces = <; 127.0.0.1 ; ::1
hostlist relay_from_hosts = <; 127.0.0.1 ; ::1 ; 198.51.100.1
domainlist local_domains = lsearch;{{.Dir}}/etc/domains
log_selector = +subject +received_recipients -skip_delivery
acl_smtp_rcpt = acl_rcpt
acl_smtp_data = acl_data
acl_not_smtp = acl_not_smtp
untrusted_set_sender = *
local_from_check = false
timeout_frozen_after = 60d
ignore_bounce_errors_after = 60d
smtp_accept_max = 300
smtp_accept_max_per_host = 300
smtp_connect_backlog = 500
smtp_accept_queue = 0
smtp_accept_queue_per_connection = 0
smtp_load_reserve = 1000
queue_only_load = 1000
message_size_limit = 50M
rfc1413_query_timeout = 0s
tls_certificate = {{.Dir}}/etc/tls.pem
split_spool_directory = true
keep_environment =
never_users = root
{{if .QueueOnly}}queue_only{{end}}
{{.MainExtra}}

begin acl
acl_rcpt:
  accept hosts = : +relay_from_hosts
  accept authenticated = *
  accept domains = +local_domains
  deny message = relay not permitted
acl_data:
{{.ACL}}
  accept
acl_not_smtp:
{{.ACL}}
  accept

begin routers
{{.RouterExtra}}
forward:
  driver = redirect
  domains = +local_domains
  condition = ${if exists{{"{"}}{{.Home}}/$domain_data/.forward}}
  file = {{.Home}}/$domain_data/.forward
  user = $domain_data
  check_ancestor
  allow_filter
  pipe_transport = pipe
  reply_transport = reply
  no_verify
  no_expn
outside:
  driver = manualroute
  domains = ! +local_domains
  route_list = * 127.0.0.1
  self = send
  transport = sink
mailbox:
  driver = accept
  transport = mailbox

begin transports
sink:
  driver = smtp
  port = 2525
  allow_localhost
  hosts_try_fastopen =
  hosts_avoid_tls = *
mailbox:
  driver = appendfile
  directory = {{.Dir}}/maildirs/$domain_data
  create_directory
  maildir_format
  user = Debian-exim
pipe:
  driver = pipe
  path = /usr/local/bin:/usr/bin:/bin
  return_output
reply:
  driver = autoreply

begin retry
* * F,2h,1m; G,16h,1h,1.5

begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_advertise_condition = yes
  server_condition = ${if eq{$auth3}{${lookup{$auth2}lsearch{{"{"}}{{.Dir}}/etc/passwords}{$value}{*:}}}}
  server_set_id = $auth2
`

func (l *Lab) writeExim() error {
	t, err := template.New("exim").Parse(eximConf)
	if err != nil {
		return err
	}
	var b, domains strings.Builder
	if err := t.Execute(&b, l); err != nil {
		return err
	}
	for _, a := range l.Accounts {
		fmt.Fprintf(&domains, "%s: %s\n", l.Domain(a), a)
	}
	if err := os.MkdirAll(l.Dir+"/maildirs", 0o755); err != nil {
		return err
	}
	if err := os.Chown(l.Dir+"/maildirs", l.EximUID, l.EximGID); err != nil {
		return err
	}
	if err := os.WriteFile(l.Dir+"/etc/domains", []byte(domains.String()), 0o644); err != nil {
		return err
	}
	if err := l.writeCertificate(l.Dir + "/etc/tls.pem"); err != nil {
		return err
	}
	dir := l.Dir + "/etc/exim4"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(dir+"/exim4.conf", []byte(b.String()), 0o644); err != nil {
		return err
	}
	// Normal users keep Exim's privilege only with the configuration in its own place.
	if err := syscall.Mount(dir, "/etc/exim4", "", syscall.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %q over /etc/exim4: %w", dir, err)
	}
	return run("/usr/sbin/exim4", "-bV")
}

// writeCertificate writes a certificate and its key: without one Exim makes an RSA key at each
// start, which takes a second of the processor now and then.
func (l *Lab) writeCertificate(path string) error {
	c, err := selfSigned()
	if err != nil {
		return err
	}
	key, err := x509.MarshalPKCS8PrivateKey(c.Certificates[0].PrivateKey)
	if err != nil {
		return err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificates[0].Certificate[0]})
	text = append(text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...)
	if err := os.WriteFile(path, text, 0o640); err != nil {
		return err
	}
	return os.Chown(path, 0, l.EximGID)
}

// SetACL replaces the ACL text and reloads the running daemon, if any.
func (l *Lab) SetACL(acl string) error {
	l.ACL = acl
	t, err := template.New("exim").Parse(eximConf)
	if err != nil {
		return err
	}
	var b strings.Builder
	if err := t.Execute(&b, l); err != nil {
		return err
	}
	if err := os.WriteFile(l.Dir+"/etc/exim4/exim4.conf", []byte(b.String()), 0o644); err != nil {
		return err
	}
	if err := run("/usr/sbin/exim4", "-bV"); err != nil {
		return err
	}
	if l.exim == nil {
		return nil
	}
	l.StopExim()
	return l.StartExim()
}

// StartExim starts the SMTP daemon in the foreground as our child and waits until it
// answers. queueRun such as "-q2s" is passed on where given.
func (l *Lab) StartExim(queueRun ...string) error {
	l.exim = exec.Command("/usr/sbin/exim4", append([]string{"-bdf"}, queueRun...)...)
	l.exim.Stderr = os.Stderr
	l.exim.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := l.exim.Start(); err != nil {
		return fmt.Errorf("start exim4: %w", err)
	}
	return WaitFor(10*time.Second, "Exim to answer on "+SMTPAddr, func() error {
		c, err := net.Dial("tcp", SMTPAddr)
		if err != nil {
			return err
		}
		return c.Close()
	})
}

// StopExim ends the SMTP daemon that StartExim started.
func (l *Lab) StopExim() {
	if l.exim == nil || l.exim.Process == nil {
		return
	}
	_ = l.exim.Process.Signal(syscall.SIGTERM)
	_ = l.exim.Wait()
	l.exim = nil
}

// WaitFor tries f every 10 ms until it returns nil; the last error is reported.
func WaitFor(limit time.Duration, what string, f func() error) error {
	deadline := time.Now().Add(limit)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waited %v for %s: %w", limit, what, err)
		}
		<-tick.C
	}
}

// LogLines returns the lines of Exim's main log that contain all the words.
func (l *Lab) LogLines(words ...string) []string { return l.LogLinesFrom(0, words...) }

// LogLinesFrom is LogLines of what was logged behind a place in the file.
func (l *Lab) LogLinesFrom(place int64, words ...string) []string {
	f, err := os.Open(filepath.Join(l.Logs, "mainlog"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return []string{err.Error()}
	}
	defer f.Close()
	if _, err := f.Seek(place, io.SeekStart); err != nil {
		return []string{err.Error()}
	}
	var out []string
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
next:
	for sc.Scan() {
		for _, w := range words {
			if !strings.Contains(sc.Text(), w) {
				continue next
			}
		}
		out = append(out, sc.Text())
	}
	return out
}

// Queue lists the message ids in the queue; only frozen ones if asked.
func (l *Lab) Queue(frozenOnly bool) ([]string, error) {
	out, err := exec.Command("/usr/sbin/exim4", "-bp").Output()
	if err != nil {
		return nil, fmt.Errorf("exim4 -bp: %w", err)
	}
	var ids []string
	for _, line := range strings.Split(string(out), "\n") {
		f := strings.Fields(line)
		if len(f) < 4 || strings.Count(f[2], "-") != 2 {
			continue
		}
		if frozenOnly && !strings.Contains(line, "*** frozen ***") {
			continue
		}
		ids = append(ids, f[2])
	}
	return ids, nil
}
