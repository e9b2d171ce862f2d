package actions

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"osm/policy"
)

// The accounts of these tests, as passwd names them while one runs.
const (
	spammerUID, neighbourUID = 20001, 20002

	directPasswd = "spammer:x:20001:20001::/home/spammer:/bin/sh\n" +
		"neighbour:x:20002:20002::/home/neighbour:/bin/sh\n" +
		"twin:x:20003:20003::/home/twin:/bin/sh\n" +
		"twin_ftp:x:20003:20003::/home/twin:/bin/false\n" +
		"guarded:x:20004:20004::/home/guarded:/bin/sh\n" +
		"guarded_too:x:020004:20004::/home/guarded:/bin/sh\n" +
		"homeless:x:20005:20005::/:/bin/sh\n" +
		"webs:x:65534:65534::/home/webs:/bin/sh\n" +
		"daemonic:x:400:400::/home/daemonic:/bin/sh\n" +
		"exim:x:20006:20006::/home/exim:/bin/sh\n" +
		"toor:x:0:0::/home/toor:/bin/sh\n"
)

// users has passwd name more users until the test ends, by the file that it returns.
func users(t *testing.T, more string) (passwd string) {
	t.Helper()
	if os.Getenv(insideEnv) == "" {
		t.Fatal("this test adds users of its own: run it as root, on a machine with unshare")
	}
	h := &homes{t: t}
	passwd = filepath.Join(t.TempDir(), "passwd")
	h.must(os.WriteFile(passwd, []byte(readFile(t, "/etc/passwd")+more), 0o644))
	h.mount(passwd, "/etc/passwd", "", unix.MS_BIND, "")
	return passwd
}

// machine is a host with accounts, on a cable with the host outside.
type machine struct {
	netns
	outside netns
	passwd  string
}

// newMachine has an Exim of its own (what listens on its port 25) and mail servers outside.
func newMachine(t *testing.T) machine {
	t.Helper()
	m := machine{passwd: users(t, directPasswd)}
	m.outside, m.netns = onACable(t)
	for _, port := range append(strings.Split(directPorts, ","), "143") {
		m.must(m.outside.do(func() error { return converse(t, ":"+port, "220 outside") }))
	}
	m.must(m.do(func() error { return converse(t, ":25", "220 own") }))
	return m
}

func (m machine) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m machine) options() ExecutorOptions {
	o := nftOptions(m.t, m.netns)
	o.MinUID, o.EximUID, o.Protected = 1000, 20006, []string{"guarded"}
	return o
}

// converse greets whoever comes, and answers each of his lines.
func converse(t *testing.T, address, greeting string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
			go func() {
				fmt.Fprintf(c, "%s\r\n", greeting)
				for r := bufio.NewScanner(c); r.Scan(); {
					fmt.Fprint(c, "250 ok\r\n")
				}
				c.Close()
			}()
		}
	}()
	return nil
}

// session is a process that has connected, or tried to.
type session struct {
	t       *testing.T
	in      io.Writer
	out     *bufio.Reader
	greeted string // what it was greeted with, or why not
}

const mailer = `use IO::Socket::IP; $| = 1; $SIG{PIPE} = "IGNORE";
my $s = IO::Socket::IP->new(PeerHost => $ARGV[0], PeerPort => $ARGV[1], Timeout => 5) or do { print "no: $!\n"; exit };
my $l = <$s>; print defined $l ? $l : "no: $!\n";
while (<STDIN>) { print $s "NOOP\r\n"; $s->flush; $l = <$s>; print defined $l ? $l : "cut: $!\n" }`

// connect starts a process of the user's that connects; it ends with the test.
func (m machine) connect(uid uint32, host, port string) *session {
	m.t.Helper()
	cmd := exec.Command("/usr/bin/perl", "-e", mailer, host, port)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	in, err := cmd.StdinPipe()
	m.must(err)
	out, err := cmd.StdoutPipe()
	m.must(err)
	m.must(m.do(cmd.Start))
	kill := time.AfterFunc(20*time.Second, func() { cmd.Process.Kill() })
	m.t.Cleanup(func() { in.Close(); cmd.Process.Kill(); cmd.Wait(); kill.Stop() })
	s := &session{t: m.t, in: in, out: bufio.NewReader(out)}
	s.greeted = s.line()
	return s
}

func (s *session) line() string {
	s.t.Helper()
	l, err := s.out.ReadString('\n')
	if err != nil {
		s.t.Fatalf("the process ended: %v", err)
	}
	return strings.TrimSpace(l)
}

// noop says something in an open session and returns the answer.
func (s *session) noop() string {
	s.t.Helper()
	fmt.Fprintln(s.in)
	return s.line()
}

// wants fails the test where a new process of the user's is not greeted so.
func (m machine) wants(when string, uid uint32, host, port, want string) {
	m.t.Helper()
	if got := m.connect(uid, host, port).greeted; got != want {
		m.t.Errorf("%s: uid %d to %s port %s got %q, want %q", when, uid, host, port, got, want)
	}
}

const unreachable = "no: Connection refused"

func directRequest(account string, d time.Duration) Change {
	return Change{Action: policy.ActionBlockDirect, Account: account, For: d, Event: 4711, Trigger: "direct-hour"}
}

func TestOneAccountIsKeptFromOtherMailServers(t *testing.T) {
	m := newMachine(t)
	m.run("nft", "add table inet filter; add chain inet filter output { type filter hook output priority 0; policy accept; }; add rule inet filter output tcp dport 25 accept")
	before := m.run("nft", "list", "ruleset")
	x := startExecutor(t, m.options())
	hosts := []string{"198.51.100.1", "2001:db8::1"}
	ports := strings.Split(directPorts, ",")
	began := time.Now()
	for _, host := range hosts {
		m.wants("before", spammerUID, host, "25", "220 outside")
	}
	usual := time.Since(began) // of two connections: a busy machine takes its time for all of it
	began = time.Now()
	r := mustApply(t, x, directRequest("spammer", time.Hour))
	m.wants("at once", spammerUID, hosts[0], "25", unreachable)
	took := time.Since(began)
	if t.Logf("from the request to the first connection refused: %v", took); took > time.Second+5*usual {
		t.Errorf("it took %v, and two connections before it %v; want at most a second", took, usual)
	}
	if !strings.Contains(r.Outcome, "of spammer (uid 20001) from ports 25,465,587,2525 of other hosts until ") {
		t.Errorf("outcome %q", r.Outcome)
	}
	for _, host := range hosts {
		for _, port := range ports {
			m.wants("blocked", spammerUID, host, port, unreachable)
			m.wants("while another is blocked", neighbourUID, host, port, "220 outside")
		}
		m.wants("blocked", spammerUID, host, "143", "220 outside")
		m.wants("while an account is blocked", 0, host, "25", "220 outside")
	}
	for _, own := range []string{"127.0.0.1", "::1", "198.51.100.2", "198.51.100.3", "2001:db8::2"} {
		m.wants("to its own host's Exim", spammerUID, own, "25", "220 own")
	}
	if again := mustApply(t, x, directRequest("spammer", time.Hour)); again.ID != r.ID {
		t.Errorf("asked again it made record %s beside %s", again.ID, r.ID)
	}
	if s, err := x.Check(t.Context(), r.ID); err != nil || s.InForce != Yes || s.ByOthers {
		t.Errorf("Check = %+v, %v; want it in force", s, err)
	}
	mustUndo(t, x, r.ID)
	for _, host := range hosts {
		m.wants("after the undo", spammerUID, host, "587", "220 outside")
	}
	if after := m.run("nft", "list", "ruleset"); after != before {
		t.Errorf("after the undo the rules are\n%swere\n%s", after, before)
	}
}

func TestOpenConnectionsOfABlockedAccountAreCut(t *testing.T) {
	m := newMachine(t)
	x := startExecutor(t, m.options())
	var cut, kept []*session
	for _, host := range []string{"198.51.100.1", "2001:db8::1"} {
		cut = append(cut, m.connect(spammerUID, host, "25"), m.connect(spammerUID, host, "2525"))
		kept = append(kept, m.connect(neighbourUID, host, "25"), m.connect(spammerUID, host, "143"))
	}
	kept = append(kept, m.connect(spammerUID, "127.0.0.1", "25"), m.connect(spammerUID, "198.51.100.2", "25"))
	began := time.Now()
	for _, s := range append(kept, cut...) {
		if got := s.noop(); got != "250 ok" {
			t.Fatalf("before the block an open session is answered %q", got)
		}
	}
	usual := time.Since(began)
	mustApply(t, x, directRequest("spammer", time.Hour))
	began = time.Now()
	for _, s := range cut {
		if got := s.noop(); got != "cut: Connection reset by peer" {
			t.Errorf("an open session of a blocked account is answered %q", got)
		}
	}
	if took := time.Since(began); took > time.Second+5*usual {
		t.Errorf("%d sessions took %v to be cut, and all of them %v to answer before", len(cut), took, usual)
	}
	for _, s := range kept {
		if got := s.noop(); got != "250 ok" {
			t.Errorf("a session that is none of the block's is answered %q", got)
		}
	}
}

// SMTP restrictions of panels send what an account sends elsewhere to this host's own Exim.
// It comes to no other host, and Exim asks about it.
func TestWhatIsRedirectedToOwnEximStaysOpen(t *testing.T) {
	const nat = "add table inet nat; add chain inet nat output { type nat hook output priority -100; }; add rule inet nat output meta skuid != 0 "
	both := []string{"198.51.100.1", "2001:db8::1"}
	for name, row := range map[string]struct{ hosts, commands []string }{
		"redirect": {both, []string{"nft " + nat + "tcp dport 25 redirect to :25"}},
		"dnat to an own address": {both, []string{
			"nft " + nat + "ip daddr 198.51.100.1 tcp dport 25 dnat ip to 198.51.100.3:25",
			"nft add rule inet nat output meta skuid != 0 ip6 daddr 2001:db8::1 tcp dport 25 dnat ip6 to [2001:db8::2]:25",
		}},
		"a route to this host": {both[1:], []string{
			"ip -6 rule add uidrange 20001-20001 dport 25 lookup 100", "ip -6 route add local 2001:db8::1 dev lo table 100",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			for _, c := range row.commands {
				if rules, ok := strings.CutPrefix(c, "nft "); ok { // as one argument
					m.run("nft", rules)
				} else {
					m.run(strings.Fields(c)...)
				}
			}
			x := startExecutor(t, m.options())
			var standing []*session
			for _, host := range row.hosts {
				m.wants("before", spammerUID, host, "25", "220 own")
				standing = append(standing, m.connect(spammerUID, host, "25"))
			}
			mustApply(t, x, directRequest("spammer", time.Hour))
			for i, host := range row.hosts {
				m.wants("blocked, but redirected", spammerUID, host, "25", "220 own")
				m.wants("blocked, and not redirected", spammerUID, host, "587", unreachable)
				if got := standing[i].noop(); got != "250 ok" {
					t.Errorf("an open session that was redirected is answered %q", got)
				}
			}
		})
	}
}

func TestABlockOfDirectMailEndsByItself(t *testing.T) {
	m := newMachine(t)
	o := m.options()
	later := time.Duration(0)
	o.Now = func() time.Time { return time.Now().Add(later) }
	x := startExecutor(t, o)
	short, long, forever := mustApply(t, x, directRequest("spammer", 2*time.Second)), mustApply(t, x, directRequest("neighbour", time.Hour)), mustApply(t, x, directRequest("twin", 0))
	if !strings.Contains(forever.Outcome, "until it is undone") {
		t.Errorf("outcome %q", forever.Outcome)
	}
	waitFor(t, "the end of the block", func() bool { return m.connect(spammerUID, "198.51.100.1", "25").greeted == "220 outside" })
	m.wants("before its time", neighbourUID, "198.51.100.1", "25", unreachable)
	m.wants("without an end", 20003, "2001:db8::1", "25", unreachable)
	later = 3 * time.Second
	if s, err := x.Check(t.Context(), short.ID); err != nil || s.InForce != No || s.ByOthers {
		t.Errorf("Check = %+v, %v; want that it is over, and by nobody", s, err)
	}
	if got := mustUndo(t, x, short.ID); !strings.Contains(got.Outcome, "the block of spammer had ended by itself") {
		t.Errorf("outcome %q", got.Outcome)
	}
	m.run("nft", "flush", "ruleset") // a restart of the machine's own rules
	if s, err := x.Check(t.Context(), long.ID); err != nil || s.InForce != No || !s.ByOthers {
		t.Errorf("Check = %+v, %v; want that somebody lifted it", s, err)
	}
	if got := mustUndo(t, x, long.ID); !strings.Contains(got.Outcome, "not there any more") {
		t.Errorf("outcome %q", got.Outcome)
	}
	mustUndo(t, x, forever.ID)
	if got := m.run("nft", "list", "ruleset"); got != "" {
		t.Errorf("left behind: %s", got)
	}
}

func TestUIDsThatOthersBlockedAreLeftAlone(t *testing.T) {
	m := newMachine(t)
	x := startExecutor(t, m.options())
	r := mustApply(t, x, directRequest("spammer", time.Hour))
	m.run("nft", "add element inet osm_direct blocked_uids { 20002, 20003 comment \"by hand\" }")
	for _, account := range []string{"neighbour", "twin"} {
		if _, err := x.Apply(t.Context(), directRequest(account, time.Hour)); err == nil || !executorError(t, err).LeftAlone {
			t.Errorf("block of %s that is there by hand: %v, want it left alone", account, err)
		}
	}
	m.run("nft", "delete element inet osm_direct blocked_uids { 20001 }; add element inet osm_direct blocked_uids { 20001 }")
	if got := mustUndo(t, x, r.ID); !strings.Contains(got.Outcome, "not there any more") {
		t.Errorf("outcome %q", got.Outcome)
	}
	if got := m.run("nft", "list", "set", "inet", "osm_direct", "blocked_uids"); !strings.Contains(got, "20001") || !strings.Contains(got, "20002") || !strings.Contains(got, "20003") {
		t.Errorf("the set is %s, want the three that were put by hand", got)
	}
	m.run("nft", "delete element inet osm_direct blocked_uids { 20001, 20002, 20003 }")
	mustUndo(t, x, mustApply(t, x, directRequest("spammer", time.Hour)).ID)
	if got := m.run("nft", "list", "ruleset"); got != "" {
		t.Errorf("left behind: %s", got)
	}
}

// A block that was begun when the executor ended runs its whole time, with each rule once.
func TestABlockOfDirectMailThatWasBegunBefore(t *testing.T) {
	m := newMachine(t)
	o := m.options()
	change := directRequest("spammer", time.Hour)
	s := records{o.StateDir}
	r, err := s.begin(&change, time.Now())
	m.must(err)
	m.run("nft", "add "+directRules+"add element inet osm_direct blocked_uids { 20001 timeout 5m comment \"osm "+mark(r)+"\" }")
	x := startExecutor(t, o)
	if got := mustApply(t, x, change); got.ID != r.ID {
		t.Errorf("record %s, want %s", got.ID, r.ID)
	}
	if got := m.run("nft", "list", "set", "inet", "osm_direct", "blocked_uids"); !strings.Contains(got, "timeout 1h ") || strings.Count(got, "20001") != 1 {
		t.Errorf("the set is %s", got)
	}
	if got := m.run("nft", "list", "chain", "inet", "osm_direct", "output"); strings.Count(got, "reject") != 1 {
		t.Errorf("the chain is %s, want the rule once", got)
	}
}

func TestWhoMayNotBeBlockedDirectly(t *testing.T) {
	m := newMachine(t)
	x := startExecutor(t, m.options())
	refusals := []Change{
		{Account: "spammer", Mailbox: "a@b.example"}, {Account: "spammer", Path: "/home/spammer"}, {Account: "spammer", IP: "203.0.113.2"}, {},
	}
	for _, name := range append(strings.Fields(`root toor nobody www-data daemonic exim guarded guarded_too homeless webs absent 20001 0 * - -u
		spammer:x ../spammer /etc/passwd spammer;reboot $(id) {20001} 0-4294967295 (shared:www-data)`), "", "two words", "new\nline", "x\x00y", "日本", strings.Repeat("x", 300), "20001 }; flush ruleset; #") {
		refusals = append(refusals, Change{Account: name})
	}
	for _, c := range refusals {
		c.Action = policy.ActionBlockDirect
		if _, err := x.Apply(t.Context(), c); err == nil || !executorError(t, err).Refused {
			t.Errorf("block of %+v: %v, want a refusal", c, err)
		}
	}
	if list, err := x.Records(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("Records = %v, %v after nothing but refusals", list, err)
	}
	if got := m.run("nft", "list", "ruleset"); got != "" {
		t.Errorf("after nothing but refusals the rules are %s", got)
	}
}

func TestWhoSharesTheUIDIsNamed(t *testing.T) {
	m := newMachine(t)
	x := startExecutor(t, m.options())
	r := mustApply(t, x, directRequest("twin", time.Hour))
	if !strings.HasSuffix(r.Outcome, "; blocked with it, as they have the same uid: twin_ftp") {
		t.Errorf("outcome %q", r.Outcome)
	}
	if _, err := x.Apply(t.Context(), directRequest("twin_ftp", time.Hour)); err == nil || !executorError(t, err).LeftAlone {
		t.Errorf("block of the second name: %v, want it left alone", err)
	}
}

// subordinate has subuid(5) say what it is given, until the test ends.
func subordinate(t *testing.T, text string) {
	t.Helper()
	h := &homes{t: t}
	if f, err := os.OpenFile("/etc/subuid", os.O_CREATE|os.O_EXCL, 0o644); err == nil { // none to put another over
		h.must(f.Close())
		t.Cleanup(func() { os.Remove("/etc/subuid") })
	}
	own := filepath.Join(t.TempDir(), "subuid")
	h.must(os.WriteFile(own, []byte(text), 0o644))
	h.mount(own, "/etc/subuid", "", unix.MS_BIND, "")
}

func TestSubordinateUIDsAreBlockedWithTheirAccount(t *testing.T) {
	m := newMachine(t)
	subordinate(t, "root:100000:65536\nspammer:165536:65536\nneighbour:231072:65536\n20001:300000:1\nspammer:300000:2\n"+
		"spammer:20000:10\nneighbour:400000:10\nspammer:400009:5\nspammer:4294967290:100\nspammer:1:0\nspammer:rubbish:1\n")
	x := startExecutor(t, m.options())
	m.wants("before", 165_536, "198.51.100.1", "25", "220 outside")
	standing := m.connect(200_000, "198.51.100.1", "25")
	r := mustApply(t, x, directRequest("spammer", time.Hour))
	for _, want := range []string{"; and its subordinate uids 165536-231071, 300000-300001", "; not blocked, as others may have them or they are too many: 20000-20009, 400009-400013"} {
		if !strings.Contains(r.Outcome, want) {
			t.Errorf("outcome %q, want %q in it", r.Outcome, want)
		}
	}
	for _, uid := range []uint32{spammerUID, 165_536, 231_071, 300_000, 300_001} {
		m.wants("blocked", uid, "2001:db8::1", "587", unreachable)
	}
	m.wants("to its own host's Exim", 165_536, "127.0.0.1", "25", "220 own")
	for _, uid := range []uint32{0, 100_000, neighbourUID, 231_072, 300_002, 400_009, 20_005} {
		m.wants("of others", uid, "198.51.100.1", "25", "220 outside")
	}
	if got := standing.noop(); got != "cut: Connection reset by peer" {
		t.Errorf("an open session of a subordinate uid is answered %q", got)
	}
	// Half of it taken out by hand is still a block, which is there to be undone.
	m.run("nft", "delete element inet osm_direct blocked_uids { 20001 }")
	if s, err := x.Check(t.Context(), r.ID); err != nil || s.InForce != Yes {
		t.Errorf("Check = %+v, %v; want it in force", s, err)
	}
	mustUndo(t, x, r.ID)
	m.wants("after the undo", 165_536, "198.51.100.1", "25", "220 outside")
	if got := m.run("nft", "list", "ruleset"); got != "" {
		t.Errorf("left behind: %s", got)
	}
}

// An operator's own entry in the way of the ranges does not keep the account's uid free.
func TestSubordinateUIDsThatCannotBeBlockedAreTold(t *testing.T) {
	m := newMachine(t)
	subordinate(t, "spammer:165536:65536\nspammer:300000:10\n")
	x := startExecutor(t, m.options())
	m.run("nft", "add table inet osm_direct; add set inet osm_direct blocked_subuids { type uid; flags interval, timeout; }; add element inet osm_direct blocked_subuids { 300005 }")
	r := mustApply(t, x, directRequest("spammer", time.Hour))
	if !strings.Contains(r.Outcome, "; NOT blocked are its subordinate uids: nft did not block 300000-300009") {
		t.Errorf("outcome %q", r.Outcome)
	}
	m.wants("blocked", spammerUID, "198.51.100.1", "25", unreachable)
	m.wants("not blocked", 165_536, "198.51.100.1", "25", "220 outside")
	mustUndo(t, x, r.ID)
	if got := m.run("nft", "list", "set", "inet", "osm_direct", "blocked_subuids"); !strings.Contains(got, "300005") {
		t.Errorf("the set is %s, want the entry by hand", got)
	}
}

// Whoever gets the uid of an account that is gone has done nothing.
func TestABlockOfAnAccountThatIsGoneIsLifted(t *testing.T) {
	m := newMachine(t)
	x := startExecutor(t, m.options())
	r := mustApply(t, x, directRequest("spammer", 0))
	m.must(os.WriteFile(m.passwd, []byte(strings.Replace(readFile(t, m.passwd), "spammer:", "another:", 1)), 0o644))
	if s, err := x.Check(t.Context(), r.ID); err != nil || s.InForce != No || !s.ByOthers {
		t.Errorf("Check = %+v, %v; want that it is over", s, err)
	}
	mustUndo(t, x, r.ID)
	m.wants("after the undo", spammerUID, "198.51.100.1", "25", "220 outside")
}

func TestWithoutNFTABlockOfDirectMailIsRefused(t *testing.T) {
	users(t, directPasswd)
	for _, f := range []FirewallOptions{{Kind: "none", NFT: "/usr/sbin/nft"}, {Kind: "auto", NFT: "/nonexistent/nft"}, {Kind: "csf", NFT: "/nonexistent/nft"}} {
		o := blockOptions(t)
		o.Firewall = f
		_, err := startExecutor(t, o).Apply(t.Context(), directRequest("spammer", time.Hour))
		if err == nil || !executorError(t, err).Refused || executorError(t, err).Next == "" {
			t.Errorf("block with %+v: %v, want a refusal that says what to do", f, err)
		}
		if e := new(ExecutorError); f.Kind != "none" && errors.As(err, &e) && !strings.Contains(e.Next, "install the package nftables") {
			t.Errorf("block with %+v says %q, want what to install", f, e.Next)
		}
	}
}

// csf keeps addresses away; processes are stopped by nftables all the same.
func TestBesideCSFDirectMailIsBlocked(t *testing.T) {
	m := newMachine(t)
	c := newCSF(t, "")
	o := m.options()
	o.Firewall.Kind, o.Firewall.CSF, o.Firewall.root = "csf", filepath.Join(c.dir, "usr/sbin/csf"), c.dir
	r := mustApply(t, startExecutor(t, o), directRequest("spammer", time.Hour))
	m.wants("beside csf", spammerUID, "198.51.100.1", "25", unreachable)
	o.Firewall.Kind = "none"
	mustUndo(t, startExecutor(t, o), r.ID)
	m.wants("undone after firewalls were forbidden", spammerUID, "198.51.100.1", "25", "220 outside")
}

func TestUIDsAreKnownHoweverNFTWritesThem(t *testing.T) {
	users(t, directPasswd)
	for listed, want := range map[string]bool{"20001": true, "spammer": true, "020001": true, "20002": false, "neighbour": false, "0": false, "": false, "-1": false, "4294987297": false, "absent": false} {
		if got := uidEntry("20001").is(listed); got != want {
			t.Errorf("element %q is taken for uid 20001: %v, want %v", listed, got, want)
		}
	}
}
