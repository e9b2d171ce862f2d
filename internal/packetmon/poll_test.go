package packetmon

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"osm/internal/origin"
	"osm/policy"
)

// pollSource looks when it is told to.
func (h packetHost) pollSource(ports ...uint16) (*Poll, chan time.Time) {
	h.t.Helper()
	tick := make(chan time.Time)
	var p *Poll
	h.must(func() (err error) {
		p, err = OpenPoll(PollOptions{Ports: append(ports, 25, 465, 587), Boot: sinceBoot, Tick: tick})
		return err
	})
	h.t.Cleanup(func() { p.Close() })
	return p, tick
}

// rounds lets the source look so often, and returns when it has.
func rounds(t *testing.T, tick chan time.Time, n int) {
	t.Helper()
	for range n + 1 { // it takes the next tick when it has looked
		select {
		case tick <- time.Time{}:
		case <-time.After(packetPatient):
			t.Fatal("the source does not look")
		}
	}
}

func TestPollSeesEachConnectionThatStandsOnceAndNothingElse(t *testing.T) {
	here, there := packetHosts(t)
	p, tick := here.pollSource()
	w := runSource(t, p)
	before := sinceBoot()
	var want []connection
	for _, host := range everyWay() {
		for range 10 {
			for _, port := range []string{"25", "465", "587"} {
				want = append(want, connectionOf(here.dial(net.JoinHostPort(host, port))))
			}
			here.dial(net.JoinHostPort(host, "80"))
		}
	}
	for range 10 {
		there.dial("198.51.100.1:25")
		there.dial("[2001:db8::1]:587")
	}
	rounds(t, tick, 3*forgetAfter)
	all := w.all()
	check(t, all, want)
	cookies := map[uint64]bool{}
	for _, s := range all {
		cookies[s.Socket] = true
		// One that is looked at while it begins has no outcome yet.
		if s.UID != 0 || !s.UIDKnown || s.Inode == 0 || s.PID != 0 || s.Outcome > policy.OutcomeEstablished || s.At < before || s.At > sinceBoot() {
			t.Errorf("seen between %d and %d: %+v", before, sinceBoot(), s)
		}
	}
	if len(cookies) != len(want) {
		t.Errorf("%d connections have %d numbers", len(want), len(cookies))
	}
	if n := p.Lost(); n != 0 {
		t.Errorf("%d lost", n)
	}
}

func TestPollDoesNotReportWhatStoodBefore(t *testing.T) {
	here, _ := packetHosts(t)
	here.dial("198.51.100.2:25")
	p, tick := here.pollSource()
	after := connectionOf(here.dial("198.51.100.2:25"))
	w := runSource(t, p)
	rounds(t, tick, 2)
	check(t, w.all(), []connection{after})
}

func TestPollReportsAConnectionOnceWhateverBecomesOfIt(t *testing.T) {
	here, there := packetHosts(t)
	p, tick := here.pollSource(2525)
	w := runSource(t, p)
	// Nobody is at .77: the connection is begun and not answered.
	there.run("ip", "route", "add", "blackhole", "203.0.113.77/32")
	here.run("ip", "route", "add", "203.0.113.0/24", "via", "198.51.100.2")
	child := here.child(packetUID, nil, "dial", "203.0.113.77:25")
	late := time.Now().Add(packetPatient)
	for len(w.all()) == 0 {
		if rounds(t, tick, 1); time.Now().After(late) {
			t.Fatal("a connection that is not answered was not reported")
		}
	}
	if s := w.all()[0]; s.Outcome != policy.OutcomeUnknown || s.UID != packetUID || !s.UIDKnown || s.Inode == 0 {
		t.Errorf("a connection that is not answered: %+v", s)
	}
	child.cmd.Process.Kill()

	// Accepted by the kernel, and never closed by the other end: the kernel keeps the half of
	// ours without a socket then, and without an owner.
	var l net.Listener
	there.must(func() (err error) { l, err = net.Listen("tcp", "198.51.100.2:2525"); return err })
	defer l.Close()
	half := here.dial("198.51.100.2:2525")
	whole := here.dial("198.51.100.2:25")
	rounds(t, tick, 1)
	half.Close()
	whole.(*net.TCPConn).CloseWrite()
	rounds(t, tick, 2)
	whole.Close()
	short := here.dial("198.51.100.2:2525")
	short.Close()
	rounds(t, tick, 2*forgetAfter)
	all := w.all()[1:]
	check(t, all, []connection{connectionOf(half), connectionOf(whole), connectionOf(short)})
	for _, s := range all {
		if s.Local != connectionOf(short).local && !s.UIDKnown { // the short one may have been closed
			t.Errorf("seen %+v", s)
		}
	}
}

// What the far end chooses, where it comes from, must not make this host's server a client.
func TestPollDoesNotTakeAnAcceptedConnectionForOneOfThisHost(t *testing.T) {
	here, there := packetHosts(t)
	here.listen("198.51.100.1:8080")
	here.listen("127.0.0.1:8081")
	p, tick := here.pollSource(2525, 2526, 2527)
	w := runSource(t, p)
	for to, from := range map[string]string{
		"198.51.100.1:80":   "198.51.100.2:2525",
		"198.51.100.1:8080": "198.51.100.2:2526",
		"[2001:db8::1]:80":  "[2001:db8::2]:2527",
	} {
		there.dial(to, from)
	}
	rounds(t, tick, 1)
	mine := connectionOf(here.dial("198.51.100.2:25", "198.51.100.1:8081")) // a port of a listener elsewhere
	rounds(t, tick, 1)
	check(t, w.all(), []connection{mine})
}

func TestPollTellsTheOwnerToAnUnprivilegedUser(t *testing.T) {
	here, _ := packetHosts(t)
	watcher := here.child(packetNobody, nil, "poll") // looks every 100 ms
	if got, want := watcher.line(t), fmt.Sprintf("%d %016x", packetNobody, 0); got != want {
		t.Fatalf("uid and capabilities: got %q, want %q", got, want)
	}
	for _, host := range everyWay() {
		began := time.Now()
		to := net.JoinHostPort(host, "25")
		from := here.child(packetUID, nil, "dial", to).line(t)
		if got, want := watcher.line(t), fmt.Sprintf("%s %s %d true true", from, to, packetUID); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		t.Logf("reported %v after a process was started that connects to %s", time.Since(began).Round(time.Millisecond), to)
	}
}

// The time that the connections live is what is tested here.
func TestPollFindsAConnectionThatLivesThreeLooks(t *testing.T) {
	here, _ := packetHosts(t)
	var p *Poll
	here.must(func() (err error) {
		p, err = OpenPoll(PollOptions{Ports: []uint16{25}, Boot: sinceBoot})
		return err
	})
	w := runSource(t, p)
	var want []connection
	for range 5 {
		var open []net.Conn
		for range 10 {
			c := here.dial(net.JoinHostPort(everyWay()[len(open)%6], "25"))
			open, want = append(open, c), append(want, connectionOf(c))
		}
		for _, c := range open {
			w.wait(connectionOf(c)) // it is found while it stands
			c.Close()
		}
	}
	last := connectionOf(here.dial("127.0.0.1:25"))
	check(t, w.wait(last), append(want, last))
}

func TestPollFiltersByItselfWhereTheKernelRefusesTo(t *testing.T) {
	here, _ := packetHosts(t)
	p, tick := here.pollSource()
	here.dial("198.51.100.2:80")
	n := 0
	here.must(func() error { // no such instruction
		return p.diag.dump(unix.AF_INET, connectedStates, []byte{99, 4, 4, 0}, func(diagSocket) { n++ })
	})
	if n == 0 || !p.diag.refuses {
		t.Fatalf("a filter that the kernel refuses: %d sockets, taken as refused: %v", n, p.diag.refuses)
	}
	w := runSource(t, p)
	want := connectionOf(here.dial("198.51.100.2:25"))
	rounds(t, tick, 2)
	check(t, w.all(), []connection{want})
}

func TestPollAddsAPortAndTakesItAwayAgain(t *testing.T) {
	here, _ := packetHosts(t)
	p, tick := here.pollSource()
	w := runSource(t, p)
	if err := errors.Join(p.AddPort(80), p.AddPort(80)); err != nil {
		t.Fatal(err)
	}
	want := []connection{connectionOf(here.dial("198.51.100.2:80"))}
	rounds(t, tick, 1)
	if err := errors.Join(p.RemovePort(80), p.RemovePort(80), p.RemovePort(25)); err != nil {
		t.Fatal(err)
	}
	rounds(t, tick, 1)
	here.dial("198.51.100.2:80")
	want = append(want, connectionOf(here.dial("198.51.100.2:25")))
	rounds(t, tick, 1)
	check(t, w.all(), want)
	if p.AddPort(0) == nil {
		t.Error("port 0 was added")
	}
}

func TestTheKernelFiltersTheDump(t *testing.T) {
	here, _ := packetHosts(t)
	for range 20 {
		here.dial("198.51.100.2:80")
		here.dial("[2001:db8::2]:80")
	}
	for _, list := range []ports{{25}, {25, 465, 587}, {24, 26, 79, 81, 65535}, {80}, {25, 80}, {80, 587}} {
		var got int
		here.must(func() error {
			d, err := openDumper()
			if err != nil {
				return err
			}
			defer d.close()
			for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
				if err := d.dump(family, connectedStates, dportBytecode(list), func(diagSocket) { got++ }); err != nil {
					return err
				}
			}
			if d.refuses {
				t.Errorf("%v: the kernel refused the filter", list)
			}
			return nil
		})
		if want := map[bool]int{true: 40}[list.has(80)]; got != want {
			t.Errorf("ports %v: %d sockets, want %d", list, got, want)
		}
	}
}

func TestPollEndsAtOnceWhenItIsClosed(t *testing.T) {
	here, _ := packetHosts(t)
	p, tick := here.pollSource()
	ended := make(chan error, 1)
	go func() { ended <- p.Run(t.Context(), func(*Seen) {}) }()
	rounds(t, tick, 1)
	if err := errors.Join(p.Close(), p.Close()); err != nil {
		t.Error(err)
	}
	select {
	case err := <-ended:
		if !errors.Is(err, os.ErrClosed) {
			t.Errorf("Run of a source that was closed: got %v", err)
		}
	case <-time.After(packetPatient):
		t.Fatal("Run does not end")
	}
}

func TestPollRemembersNoMoreThanItMay(t *testing.T) {
	here, _ := packetHosts(t)
	p, tick := here.pollSource()
	for i := range uint64(maxPolled - 1) {
		p.known[polled{cookie: ^i}] = p.round
	}
	w := runSource(t, p)
	for range 3 {
		here.dial("198.51.100.2:25")
	}
	rounds(t, tick, 1)
	if n, lost := len(w.all()), p.Lost(); n != 1 || lost < 2 {
		t.Errorf("with room for one more, %d of 3 were reported and %d lost", n, lost)
	}
	rounds(t, tick, 2*forgetAfter+1)
	if n := len(w.all()); n != 3 {
		t.Errorf("with room again, %d of 3 were reported", n)
	}
}

// answerLen is the length of an inet_diag_msg.
const answerLen = 72

// oneAnswer is what the kernel sends for one socket.
func oneAnswer(seq uint32, s diagSocket) []byte {
	ne, be := binary.NativeEndian, binary.BigEndian
	b := make([]byte, 16+answerLen)
	ne.PutUint32(b, uint32(len(b)))
	ne.PutUint16(b[4:], sockDiagByFamily)
	ne.PutUint32(b[8:], seq)
	m := b[16:]
	m[0], m[1] = unix.AF_INET6, s.State
	be.PutUint16(m[4:], s.Local.Port())
	be.PutUint16(m[6:], s.Remote.Port())
	local, remote := s.Local.Addr().As16(), s.Remote.Addr().As16()
	copy(m[8:], local[:])
	copy(m[24:], remote[:])
	ne.PutUint32(m[44:], uint32(s.Cookie))
	ne.PutUint32(m[48:], uint32(s.Cookie>>32))
	ne.PutUint32(m[64:], s.UID)
	ne.PutUint32(m[68:], s.Inode)
	return b
}

func anyPolled() diagSocket {
	return diagSocket{
		Local:  netip.MustParseAddrPort("198.51.100.1:40000"),
		Remote: netip.MustParseAddrPort("[2001:db8::2]:25"),
		UID:    packetUID, Inode: 77, Cookie: 0x0123456789abcdef, State: tcpEstablished,
	}
}

func TestPollKnowsNobodyRatherThanRoot(t *testing.T) {
	for _, tt := range []struct {
		name       string
		uid, inode uint32
		known      bool
	}{
		{"a user's socket", packetUID, 5, true},
		{"root's", 0, 5, true},
		{"a user's that is closed", packetUID, 0, true},
		{"nobody's any more", 0, 0, false},
	} {
		s := anyPolled()
		s.UID, s.Inode = tt.uid, tt.inode
		c := s.seen(9)
		want := Seen{At: 9, Local: s.Local, Remote: s.Remote, UID: tt.uid, UIDKnown: tt.known, Inode: tt.inode, Socket: s.Cookie, Outcome: policy.OutcomeEstablished}
		if *c != want {
			t.Errorf("%s: got %+v, want %+v", tt.name, *c, want)
		}
	}
}

func TestParseDump(t *testing.T) {
	one, done := oneAnswer(7, anyPolled()), []byte{20, 0, 0, 0, unix.NLMSG_DONE, 0, 2, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	refused := slices.Clone(done)
	refused[4] = unix.NLMSG_ERROR
	binary.NativeEndian.PutUint32(refused[16:], ^uint32(unix.EINVAL)+1)
	for _, tt := range []struct {
		name    string
		b       []byte
		sockets int
		done    bool
		err     string
	}{
		{"one socket", one, 1, false, ""},
		{"two and the end", slices.Concat(one, one, done), 2, true, ""},
		{"the answer to another question", oneAnswer(6, anyPolled()), 0, false, ""},
		{"an error", refused, 0, true, "invalid argument"},
		{"an answer that is shorter than it says", one[:40], 0, true, "says 88"},
		{"an answer without any length", make([]byte, 16), 0, true, "says 0"},
		{"less than a header", one[:15], 0, false, ""},
	} {
		var got []diagSocket
		done, err := origin.ParseSockets(tt.b, 7, func(s origin.TCPSocket) { got = append(got, diagSocket(s)) })
		if len(got) != tt.sockets || done != tt.done || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: got %v, %v, %v", tt.name, got, done, err)
		}
		for _, s := range got {
			if s != anyPolled() {
				t.Errorf("%s: got %+v, want %+v", tt.name, s, anyPolled())
			}
		}
	}
}

// FuzzPollAnswer: what the kernel says makes no panic, no more sockets than bytes, and only
// sockets with unmapped addresses; nobody becomes root; what is written is read again.
func FuzzPollAnswer(f *testing.F) {
	one := oneAnswer(7, anyPolled())
	f.Add(one)
	f.Add(slices.Concat(one, one, []byte{16, 0, 0, 0, unix.NLMSG_DONE, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0}))
	f.Add(one[:30])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		n := 0
		_, _ = origin.ParseSockets(b, 7, func(told origin.TCPSocket) {
			n++
			s := diagSocket(told)
			c := s.seen(1)
			if !c.Local.IsValid() || !c.Remote.IsValid() || c.Local.Addr().Is4In6() || c.Remote.Addr().Is4In6() {
				t.Errorf("seen %+v", c)
			}
			if c.UIDKnown && c.UID == 0 && c.Inode == 0 {
				t.Errorf("nobody's socket is root's: %+v", c)
			}
			_, _ = origin.ParseSockets(oneAnswer(8, s), 8, func(again origin.TCPSocket) {
				if again != told {
					t.Errorf("got %+v, want %+v", again, s)
				}
			})
		})
		if n*(16+answerLen) > len(b) {
			t.Errorf("%d sockets from %d bytes", n, len(b))
		}
	})
}

func BenchmarkPollLook(b *testing.B) {
	p, err := OpenPoll(PollOptions{Ports: []uint16{25, 465, 587}, Boot: sinceBoot})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := p.look(func(*Seen) {}); err != nil {
			b.Fatal(err)
		}
	}
	if err := p.Close(); err != nil {
		b.Fatal(err)
	}
}
