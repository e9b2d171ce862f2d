package packetmon

import (
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
)

func (h packetHost) packetSource() *Packet {
	h.t.Helper()
	var p *Packet
	h.must(func() (err error) {
		p, err = OpenPacket(PacketOptions{Ports: []uint16{25, 465, 587}, Boot: sinceBoot})
		return err
	})
	h.t.Cleanup(func() { p.Close() })
	return p
}

// everyWay is each way that a connection can leave a host.
func everyWay() []string {
	return []string{"198.51.100.2", "2001:db8::2", "127.0.0.1", "::1", "198.51.100.1", "2001:db8::1"}
}

func TestPacketSeesEachConnectionOnceAndNothingElse(t *testing.T) {
	here, _ := packetHosts(t)
	p := here.packetSource()
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
	last := connectionOf(here.dial("198.51.100.2:25"))
	all := w.wait(last) // packets come in their order: nothing can be missing before it
	check(t, all, append(want, last))
	for _, s := range all {
		if s.At < before || s.At > sinceBoot() || s.UIDKnown || s.PID != 0 {
			t.Fatalf("seen between %d and %d: %+v", before, sinceBoot(), s)
		}
	}
	if n := p.Lost(); n != 0 {
		t.Errorf("%d lost", n)
	}
}

func TestPacketDoesNotSeeWhatComesToThisHost(t *testing.T) {
	here, there := packetHosts(t)
	p := here.packetSource()
	w := runSource(t, p)
	reads := p.reads.Load()
	for range 20 {
		there.dial("198.51.100.1:25")
		there.dial("[2001:db8::1]:587")
		there.dial("198.51.100.1:80", "198.51.100.2:0")
	}
	last := connectionOf(here.dial("198.51.100.2:25"))
	check(t, w.wait(last), []connection{last})
	if n := p.reads.Load() - reads; n > 3 {
		t.Errorf("60 connections to this host and one from it: the socket was read %d times", n)
	}
}

func TestPacketIsNotWokenByOtherTraffic(t *testing.T) {
	here, _ := packetHosts(t)
	p := here.packetSource()
	w := runSource(t, p)
	first := connectionOf(here.dial("198.51.100.2:25"))
	w.wait(first)
	reads := p.reads.Load()
	for _, to := range []string{"198.51.100.2:53", "198.51.100.2:25", "[2001:db8::2]:25", "127.0.0.1:25"} {
		here.must(func() error {
			c, err := net.Dial("udp", to)
			if err != nil {
				return err
			}
			defer c.Close()
			for range 5000 {
				if _, err := c.Write(make([]byte, 64)); err != nil && !errors.Is(err, unix.ECONNREFUSED) {
					return err
				}
			}
			return nil
		})
	}
	for range 50 {
		here.dial("198.51.100.2:80").Write(make([]byte, 64<<10))
	}
	last := connectionOf(here.dial("198.51.100.2:465"))
	check(t, w.wait(last), []connection{first, last})
	if n := p.reads.Load() - reads; n > 3 { // one waits, one takes the packet, one finds no more
		t.Errorf("20,000 datagrams and 50 connections to other ports, one to 465: the socket was read %d times", n)
	}
	if n := p.Lost(); n != 0 {
		t.Errorf("%d lost", n)
	}
}

func TestPacketLosesNoneOfAThousandConnections(t *testing.T) {
	here, _ := packetHosts(t)
	p := here.packetSource()
	w := runSource(t, p)
	var want []connection
	began := time.Now()
	here.must(func() error {
		for i := range 1000 {
			c, err := net.Dial("tcp", net.JoinHostPort(everyWay()[i%6], "25"))
			if err != nil {
				return err
			}
			want = append(want, connectionOf(c))
			c.Close()
		}
		return nil
	})
	t.Logf("%d connections took %v", len(want), time.Since(began))
	check(t, w.wait(want[len(want)-1]), want)
	if n := p.Lost(); n != 0 {
		t.Errorf("%d lost", n)
	}
}

// What waits while nobody reads is not lost, and what does not fit is counted.
func TestPacketCountsWhatTheKernelDrops(t *testing.T) {
	here, _ := packetHosts(t)
	p := here.packetSource()
	if err := p.conn.Control(func(fd uintptr) {
		if err := unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4096); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	const sent = 100
	for range sent {
		here.dial("198.51.100.2:25")
	}
	lost := p.Lost()
	if lost == 0 || lost >= sent || p.Lost() != lost {
		t.Fatalf("%d of %d are lost, then %d, where few fit", lost, sent, p.Lost())
	}
	w := runSource(t, p)
	late := time.After(packetPatient)
	for len(w.all())+int(lost) < sent {
		select {
		case <-w.news:
		case <-late:
			t.Fatalf("%d were seen and %d lost of %d", len(w.all()), lost, sent)
		}
	}
	w.stop()
	if n := len(w.all()); n+int(p.Lost()) != sent {
		t.Errorf("%d were seen and %d lost of %d", n, p.Lost(), sent)
	}
}

func TestPacketSeesAConnectionThatIsRefusedOrNotAnswered(t *testing.T) {
	here, there := packetHosts(t)
	there.run("ip", "addr", "add", "203.0.113.9/32", "dev", "lo") // has nobody on 26
	w := runSource(t, here.packetSource())
	if err := w.source.(*Packet).AddPort(26); err != nil {
		t.Fatal(err)
	}
	here.run("ip", "route", "add", "203.0.113.0/24", "via", "198.51.100.2")
	for _, to := range []string{"203.0.113.9:26", "203.0.113.77:25"} { // nobody listens; nobody is there
		here.do(func() error {
			c, err := net.DialTimeout("tcp", to, 300*time.Millisecond)
			if err == nil {
				c.Close()
				t.Errorf("%s was reached", to)
			}
			return nil
		})
	}
	last := connectionOf(here.dial("198.51.100.2:25"))
	var seen []string
	for _, s := range w.wait(last) {
		seen = append(seen, s.Remote.String())
	}
	seen = slices.Compact(seen) // on a busy machine the dial lasts until the packet is sent again
	if got := strings.Join(seen, " "); got != "203.0.113.9:26 203.0.113.77:25 198.51.100.2:25" {
		t.Errorf("reported were connections to %s", got)
	}
}

// The socket's owner can be asked for while the connection is reported.
func TestPacketReportsWhileTheOwnerIsKnown(t *testing.T) {
	here, _ := packetHosts(t)
	p := here.packetSource()
	type answer struct {
		uid, inode uint32
		err        error
	}
	answers, ended := make(chan answer, 100), make(chan error, 1)
	go func() {
		ended <- p.Run(t.Context(), func(s *Seen) {
			var a answer
			here.do(func() error { a.uid, a.inode, a.err = origin.ClientOwner(s.Local, s.Remote); return nil })
			answers <- a
		})
	}()
	for _, to := range everyWay() {
		c := here.child(packetUID, nil, "dial", net.JoinHostPort(to, "25"))
		c.line(t)
		select {
		case a := <-answers:
			if a.uid != packetUID || a.inode == 0 || a.err != nil {
				t.Errorf("the owner of a connection to %s: %+v", to, a)
			}
		case <-time.After(packetPatient):
			t.Fatalf("a connection to %s was not reported", to)
		}
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	<-ended
}

// A process without any privilege may send IPv6 routing headers.
func TestPacketIsNotBlindedByARoutingHeader(t *testing.T) {
	here, _ := packetHosts(t)
	here.dial("[2001:db8::2]:80") // the neighbour is known then
	w := runSource(t, here.packetSource())
	said := here.child(packetUID, nil, "routed", "[2001:db8::2]:25").line(t)
	if strings.HasPrefix(said, "refused") {
		t.Skipf("SKIPPED: this kernel lets nobody send routing headers: %s", said)
	}
	local, err := netip.ParseAddrPort(said)
	if err != nil {
		t.Fatal(said)
	}
	last := connectionOf(here.dial("198.51.100.2:25"))
	all := w.wait(last)
	if all[0].Local.Port() != local.Port() || all[0].Remote.Port() != 25 {
		t.Errorf("a connection from %v with a routing header: reported was %v", local, all)
	}
}

func TestPacketAddsAPortAndTakesItAwayAgain(t *testing.T) {
	here, _ := packetHosts(t)
	p := here.packetSource()
	w := runSource(t, p)
	here.dial("198.51.100.2:80")
	for _, change := range []func(uint16) error{p.AddPort, p.AddPort} { // a second time changes nothing
		if err := change(80); err != nil {
			t.Fatal(err)
		}
	}
	want := []connection{connectionOf(here.dial("198.51.100.2:80"))}
	w.wait(want[0])
	for _, port := range []uint16{80, 80, 25} { // 25 stays
		if err := p.RemovePort(port); err != nil {
			t.Fatal(err)
		}
	}
	here.dial("198.51.100.2:80")
	want = append(want, connectionOf(here.dial("198.51.100.2:25")))
	check(t, w.wait(want[1]), want)
	if err := p.AddPort(0); err == nil {
		t.Error("port 0 was added")
	}
	if n := p.Lost(); n != 0 {
		t.Errorf("%d lost", n)
	}
}

func TestPacketSwapsTheFilterWithoutMissingAnything(t *testing.T) {
	here, _ := packetHosts(t)
	p := here.packetSource()
	w := runSource(t, p)
	stop, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		for port := uint16(3000); ; port++ {
			select {
			case <-stop:
				ended <- nil
				return
			default:
			}
			if err := errors.Join(p.AddPort(port), p.RemovePort(port)); err != nil {
				ended <- err
				return
			}
		}
	}()
	var want []connection
	for range 200 {
		want = append(want, connectionOf(here.dial("127.0.0.1:25")))
	}
	close(stop)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	check(t, w.wait(want[len(want)-1]), want)
}

func TestPacketEndsAtOnceWhenItIsClosed(t *testing.T) {
	here, _ := packetHosts(t)
	p := here.packetSource()
	ended := make(chan error, 1)
	seen := make(chan struct{}, 100)
	go func() { ended <- p.Run(t.Context(), func(*Seen) { seen <- struct{}{} }) }()
	here.dial("198.51.100.2:25")
	<-seen // it waits for the next packet now, or is about to
	began := time.Now()
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	select {
	case err := <-ended:
		if !errors.Is(err, os.ErrClosed) {
			t.Errorf("Run of a source that was closed: got %v", err)
		}
		t.Logf("ended after %v", time.Since(began))
	case <-time.After(packetPatient):
		t.Fatal("Run does not end")
	}
	if err := errors.Join(p.Close(), p.RemovePort(25)); err != nil || p.AddPort(26) == nil {
		t.Errorf("a closed source: closed again, %v; or a port could be added", err)
	}
}

func TestPacketNeedsCapNetRawAndNothingMore(t *testing.T) {
	here, _ := packetHosts(t)
	c := here.child(packetNobody, []uintptr{unix.CAP_NET_RAW}, "packet")
	if got, want := c.line(t), fmt.Sprintf("%d %016x", packetNobody, 1<<unix.CAP_NET_RAW); got != want {
		t.Fatalf("uid and capabilities: got %q, want %q", got, want)
	}
	made := connectionOf(here.dial("198.51.100.2:25"))
	if got, want := c.line(t), fmt.Sprintf("%v %v 0 false false", made.local, made.remote); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	without := here.child(packetNobody, nil, "packet")
	if got, want := without.line(t), "error: open a packet socket: operation not permitted"; got != want {
		t.Errorf("without the capability: got %q, want %q", got, want)
	}
}
