package lab

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Mail is one message to be submitted.
type Mail struct {
	From    string   // envelope sender; "" is the null sender
	To      []string // recipients
	Subject string
	Header  []string // further header lines
	Body    string
}

func (m Mail) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "From: %s\n", m.From)
	fmt.Fprintf(&b, "To: %s\n", strings.Join(m.To, ",\n\t"))
	fmt.Fprintf(&b, "Subject: %s\n", m.Subject)
	for _, h := range m.Header {
		b.WriteString(h + "\n")
	}
	body := m.Body
	if body == "" {
		body = "Hello.\n"
	}
	return b.String() + "\n" + body
}

// As makes a command run as the account, in the folder, with a plain environment.
func (l *Lab) As(ctx context.Context, account, dir string, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin", "HOME=" + l.HomeOf(account), "USER=" + account}
	uid := uint32(l.uids[account])
	gid := uid
	if uid == 0 { // a system user, such as www-data
		u, g := systemUser(account)
		uid, gid = u, g
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
	return cmd
}

// Sendmail submits by the real sendmail, as a program of the account would; it returns
// how the command ended.
func (l *Lab) Sendmail(ctx context.Context, account, dir string, m Mail) error {
	from := m.From
	if from == "" {
		from = "<>"
	}
	cmd := l.As(ctx, account, dir, "/usr/sbin/sendmail", "-t", "-i", "-f", from)
	cmd.Stdin = strings.NewReader(m.text())
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("sendmail: %w: %.300s", err, out)
	}
	return nil
}

// MailScript is a PHP program that sends its arguments' worth of mail with PHP's own mail().
const MailScript = `<?php
$n = intval($argv[1]); $ok = 0;
for ($i = 0; $i < $n; $i++) {
	$subject = str_replace('%d', strval($i), $argv[3]);
	if (mail($argv[2], $subject, "Hello from a script.\n", "From: " . $argv[4])) $ok++;
}
echo $ok;
`

// PHP sends n messages by a PHP script in dir calling mail(); it returns how many times
// mail() said true. A %d in the Subject becomes the number of the message.
func (l *Lab) PHP(ctx context.Context, account, dir string, n int, m Mail) (int, error) {
	if l.uids[account] != 0 {
		if err := l.MakeDir(account, dir); err != nil {
			return 0, err
		}
	}
	script := filepath.Join(dir, "send.php")
	if _, err := os.Stat(script); err != nil { // whole at once: others may be starting it
		mine := filepath.Join(dir, rand.Text())
		if err := errors.Join(l.WriteFile(account, mine, MailScript), os.Rename(mine, script)); err != nil {
			return 0, err
		}
	}
	cmd := l.As(ctx, account, dir, "/usr/bin/php", "-d", "mail.add_x_header=On",
		"-d", "sendmail_path=/usr/sbin/sendmail -t -i", script,
		fmt.Sprint(n), strings.Join(m.To, ","), m.Subject, m.From)
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("php %s: %w: %.300s", script, err, out)
	}
	var ok int
	if _, err := fmt.Sscan(string(out), &ok); err != nil {
		return 0, fmt.Errorf("php %s printed %.100q", script, out)
	}
	return ok, nil
}

// SMTPReply is Exim's refusal of a message.
type SMTPReply struct {
	Code int
	Text string
}

func (r *SMTPReply) Error() string { return fmt.Sprintf("%d %s", r.Code, r.Text) }

// Session is one SMTP connection to Exim.
type Session struct {
	c    net.Conn
	text *textproto.Conn
}

// Dial opens a connection; with a login it authenticates by SMTP AUTH. clientIP is the
// address to come from, "" for 127.0.0.1.
func (l *Lab) Dial(ctx context.Context, clientIP, login, password string) (*Session, error) {
	var d net.Dialer
	if clientIP != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(clientIP)}
	}
	c, err := d.DialContext(ctx, "tcp", SMTPAddr)
	if err != nil {
		return nil, err
	}
	if dl, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(dl)
	}
	s := &Session{c: c, text: textproto.NewConn(c)}
	if _, _, err := s.text.ReadResponse(220); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	if err := s.cmd(250, "EHLO client.example"); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	if login == "" {
		return s, nil
	}
	secret := base64.StdEncoding.EncodeToString([]byte("\x00" + login + "\x00" + password))
	if err := s.cmd(235, "AUTH PLAIN "+secret); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return s, nil
}

func (s *Session) cmd(want int, line string) error {
	if err := s.text.PrintfLine("%s", line); err != nil {
		return err
	}
	return s.reply(want)
}

func (s *Session) reply(want int) error {
	code, text, err := s.text.ReadResponse(want)
	var proto *textproto.Error
	if errors.As(err, &proto) {
		return &SMTPReply{Code: code, Text: text}
	}
	return err
}

// Send submits one message; a refusal is an *SMTPReply.
func (s *Session) Send(m Mail) error {
	if err := s.cmd(250, "MAIL FROM:<"+m.From+">"); err != nil {
		return err
	}
	for _, to := range m.To {
		if err := s.cmd(250, "RCPT TO:<"+to+">"); err != nil {
			return err
		}
	}
	if err := s.cmd(354, "DATA"); err != nil {
		return err
	}
	body := strings.ReplaceAll(m.text(), "\n", "\r\n")
	if _, err := s.text.W.WriteString(body + "\r\n.\r\n"); err != nil {
		return err
	}
	if err := s.text.W.Flush(); err != nil {
		return err
	}
	return s.reply(250)
}

// Close says QUIT and ends the connection without waiting for the reply: Exim holds it
// back for up to 200 ms, until the client has closed.
func (s *Session) Close() {
	_ = s.c.SetDeadline(time.Now().Add(time.Second))
	_ = s.text.PrintfLine("QUIT")
	_ = s.c.Close()
}

// Login is the mailbox of an account, and its password.
func (l *Lab) Login(account string) (login, password string) {
	return "info@" + l.Domain(account), "pw-" + account
}

// SendSMTP sends one message on a connection of its own, with or without AUTH.
func (l *Lab) SendSMTP(ctx context.Context, login, password string, m Mail) error {
	s, err := l.Dial(ctx, "", login, password)
	if err != nil {
		return err
	}
	defer s.Close()
	return s.Send(m)
}

// loopbackScript sends one message by plain SMTP to this host, as web applications do.
const loopbackScript = `use IO::Socket::INET; my ($from,@to)=@ARGV; my $subject=shift @to;
my $s=IO::Socket::INET->new(PeerAddr=>"127.0.0.1:25",Timeout=>20) or die "connect: $!"; my $l;
sub get { do { $l=<$s>; die "gone" unless defined $l } while $l=~/^\d\d\d-/; return $l }
sub say_ { print $s "$_[0]\r\n"; get(); die $l unless $l=~/^$_[1]/ }
get(); say_("EHLO web.example",250); say_("MAIL FROM:<$from>",250); say_("RCPT TO:<$_>",250) for @to;
say_("DATA",354); print $s "From: <$from>\r\nTo: $to[0]\r\nSubject: $subject\r\n\r\nHello.\r\n"; say_(".",250); print $s "QUIT\r\n";
`

// LoopbackSMTP sends one message by SMTP without AUTH from a process of the account.
func (l *Lab) LoopbackSMTP(ctx context.Context, account string, m Mail) error {
	args := append([]string{"-e", loopbackScript, m.From, m.Subject}, m.To...)
	dir := l.HomeOf(account)
	if l.uids[account] == 0 { // a system user
		dir = "/"
	}
	out, err := l.As(ctx, account, dir, "/usr/bin/perl", args...).CombinedOutput()
	if err == nil {
		return nil
	}
	var code int
	if _, scanErr := fmt.Sscan(string(out), &code); scanErr == nil {
		return &SMTPReply{Code: code, Text: strings.TrimSpace(string(out))}
	}
	return fmt.Errorf("perl: %w: %.300s", err, out)
}
