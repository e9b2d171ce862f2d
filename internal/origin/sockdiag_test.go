package origin

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// connectScript is a client: family, address and port to connect to, and the port to
// connect from (0 = any). It says its process, then that it is connected, and at the next
// line of input closes the connection, by a reset if that line says so.
const connectScript = `use Socket qw(:all); $|=1;
my ($fam,$addr,$port,$from)=@ARGV;
socket(my $s, $fam==6?PF_INET6:PF_INET, SOCK_STREAM, 0) or die "socket: $!";
setsockopt($s, SOL_SOCKET, SO_REUSEADDR, 1);
my $a=inet_pton($fam==6?AF_INET6:AF_INET,$addr);
if ($from) { bind($s, pack_sockaddr_in($from, inet_aton("127.0.0.1"))) or die "bind: $!" }
connect($s, $fam==6?pack_sockaddr_in6($port,$a):pack_sockaddr_in($port,$a)) or die "connect: $!";
print "$$\n"; print "connected\n";
setsockopt($s, SOL_SOCKET, SO_LINGER, pack("ii", 1, 0)) if <STDIN> =~ /reset/;
close $s; print "closed\n"; <STDIN>;`

func connect(t *testing.T, uid uint32, family int, addr string, port, from uint16) *child {
	t.Helper()
	c := start(t, spec{uid: uid, args: []string{"/usr/bin/perl", "-e", connectScript,
		strconv.Itoa(family), addr, strconv.Itoa(int(port)), strconv.Itoa(int(from))}})
	c.line(t)
	if got := c.line(t); got != "connected" {
		t.Fatalf("client says %q, want connected", got)
	}
	return c
}

// listen returns a listener and the port of its address.
func listen(t *testing.T, address string) (*net.TCPListener, uint16) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.(*net.TCPListener), l.Addr().(*net.TCPAddr).AddrPort().Port()
}

func accept(t *testing.T, l *net.TCPListener) (client, server netip.AddrPort, c net.Conn) {
	t.Helper()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c.RemoteAddr().(*net.TCPAddr).AddrPort(), c.LocalAddr().(*net.TCPAddr).AddrPort(), c
}

// redirectedTo makes our end of a connection that a firewall rule redirected: from server
// to client, which knows its own end by another address. In repair mode the kernel takes
// a connection to stand without a word to the other side.
func redirectedTo(t *testing.T, server, client netip.AddrPort) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, 1),
		unix.Bind(fd, &unix.SockaddrInet4{Addr: server.Addr().As4(), Port: int(server.Port())}),
		unix.Connect(fd, &unix.SockaddrInet4{Addr: client.Addr().Unmap().As4(), Port: int(client.Port())}))
	if err != nil {
		t.Fatal(err)
	}
}

func diag(t *testing.T) *Diag {
	t.Helper()
	d := NewDiag()
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func TestClientOwnerNamesTheUserWhoConnected(t *testing.T) {
	for _, tt := range []struct {
		name, listen string
		family       int
		dial         string
		mapped       bool // ask with the IPv4-in-IPv6 form, as a server on [::] sees it
	}{
		{"over IPv4", "127.0.0.1:0", 4, "127.0.0.1", false},
		{"over IPv6", "[::1]:0", 6, "::1", false},
		{"over IPv4 by an IPv6 socket", "127.0.0.1:0", 6, "::ffff:127.0.0.1", false},
		{"over IPv4 to a server on an IPv6 socket", "[::]:0", 4, "127.0.0.1", true},
		{"over IPv4 by an IPv6 socket to an IPv6 socket", "[::]:0", 6, "::ffff:127.0.0.1", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, port := listen(t, tt.listen)
			connect(t, aliceUID, tt.family, tt.dial, port, 0)
			client, server, _ := accept(t, l)
			if tt.mapped {
				client = netip.AddrPortFrom(netip.AddrFrom16(client.Addr().As16()), client.Port())
				server = netip.AddrPortFrom(netip.AddrFrom16(server.Addr().As16()), server.Port())
			}
			uid, inode, err := diag(t).ClientOwner(client, server)
			if uid != aliceUID || inode == 0 || err != nil {
				t.Errorf("ClientOwner(%v, %v): got uid %d, inode %d, err %v; want uid %d", client, server, uid, inode, err, aliceUID)
			}
		})
	}
}

func TestClientOwnerNeedsNoPrivilege(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := copyFile(t, self, filepath.Join(publicDir(t), "lookup"))
	l, port := listen(t, "127.0.0.1:0")
	connect(t, aliceUID, 4, "127.0.0.1", port, 0)
	client, server, _ := accept(t, l)
	redirected := netip.MustParseAddrPort("127.0.0.9:" + strconv.Itoa(int(port)))
	redirectedTo(t, redirected, client)
	for _, to := range []netip.AddrPort{server, redirected} {
		cmd := exec.Command(program)
		cmd.Env = []string{quickExit, "ORIGIN_TEST_LOOKUP=" + client.String() + " " + to.String()}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: bobUID, Gid: bobUID}}
		out, err := cmd.CombinedOutput()
		if got, want := strings.TrimSpace(string(out)), "20002 20001 true <nil>"; got != want || err != nil {
			t.Errorf("look-up of %v to %v as uid %d: got %q, %v; want %q", client, to, bobUID, got, err, want)
		}
	}
}

func TestClientOwnerOfAClosedConnectionIsNobody(t *testing.T) {
	l, port := listen(t, "127.0.0.1:0")
	d := diag(t)
	c := connect(t, aliceUID, 4, "127.0.0.1", port, 0)
	client, server, conn := accept(t, l)
	c.say(t, "close")
	if got := c.line(t); got != "closed" {
		t.Fatalf("client says %q, want closed", got)
	}
	check := func(state string) {
		t.Helper()
		uid, inode, err := d.ClientOwner(client, server)
		if err == nil && uid != aliceUID || err != nil && !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: got uid %d, inode %d, err %v; want uid %d or not found, never root", state, uid, inode, err, aliceUID)
		}
	}
	check("client closed, server has not")
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	check("both closed")
}

func TestClientOwnerIsNeverThatOfAListenerOnThePort(t *testing.T) {
	_, port := listen(t, "127.0.0.1:0")
	client := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
	uid, _, err := diag(t).ClientOwner(client, netip.MustParseAddrPort("127.0.0.1:25"))
	if !errors.Is(err, ErrNotFound) {
		t.Errorf("a port with a listener and no connection: got uid %d, err %v; want not found", uid, err)
	}
}

// Whoever resets his connection right after his message must not leave it to the
// neighbour whose source port he took.
func TestClientOwnerOfAResetConnectionIsNobodyElse(t *testing.T) {
	first, port := listen(t, "127.0.0.1:0")
	second, _ := listen(t, "127.0.0.2:"+strconv.Itoa(int(port)))
	from := freePort(t)
	connect(t, bobUID, 4, "127.0.0.2", port, from)
	accept(t, second)
	attacker := connect(t, aliceUID, 4, "127.0.0.1", port, from)
	client, server, _ := accept(t, first)
	d := diag(t)
	if uid, _, err := d.ClientOwner(client, server); uid != aliceUID || err != nil {
		t.Fatalf("before the reset: got uid %d, err %v; want uid %d", uid, err, aliceUID)
	}
	attacker.say(t, "reset")
	attacker.line(t)
	if uid, inode, err := d.ClientOwner(client, server); !errors.Is(err, ErrNotFound) || uid != 0 || inode != 0 {
		t.Errorf("after the reset: got uid %d, inode %d, err %v; want not found", uid, inode, err)
	}
}

// A redirected connection stands in the kernel's table under the address that the
// client wanted: so asking with another server address is the same as a redirection.
func TestClientOwnerFindsARedirectedConnection(t *testing.T) {
	for _, tt := range []struct {
		name, listen string
		family       int
		dial         string
	}{
		{"by an IPv4 socket", "127.0.0.1:0", 4, "127.0.0.1"},
		{"by an IPv6 socket", "127.0.0.1:0", 6, "::ffff:127.0.0.1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, port := listen(t, tt.listen)
			connect(t, aliceUID, tt.family, tt.dial, port, 0)
			client, _, _ := accept(t, l)
			server := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.7"), port)
			redirectedTo(t, server, client)
			uid, inode, err := diag(t).ClientOwner(client, server)
			if uid != aliceUID || inode == 0 || err != nil {
				t.Errorf("ClientOwner(%v, %v): got uid %d, inode %d, err %v; want uid %d", client, server, uid, inode, err, aliceUID)
			}
		})
	}
}

// freePort is a number that nobody has on 127.0.0.1, and that nobody is given by chance: it
// is taken on another address.
func freePort(t *testing.T) uint16 {
	t.Helper()
	for range 100 {
		_, port := listen(t, "127.0.0.5:0")
		if l, err := net.Listen("tcp4", "127.0.0.1:"+strconv.Itoa(int(port))); err == nil {
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			return port
		}
	}
	t.Fatal("no port is free on both addresses")
	return 0
}

func TestClientOwnerOfARedirectedConnectionIsNotGuessed(t *testing.T) {
	first, port := listen(t, "127.0.0.1:0")
	second, _ := listen(t, "127.0.0.2:"+strconv.Itoa(int(port)))
	third, other := listen(t, "127.0.0.1:0")
	from := freePort(t)
	d := diag(t)
	redirected := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.7"), port)

	connect(t, bobUID, 4, "127.0.0.1", other, from)
	client, _, _ := accept(t, third)
	redirectedTo(t, redirected, client)
	if uid, _, err := d.ClientOwner(client, redirected); !errors.Is(err, ErrNotFound) {
		t.Errorf("only a connection to another port than mail's: got uid %d, err %v; want not found", uid, err)
	}
	connect(t, aliceUID, 4, "127.0.0.1", port, from)
	accept(t, first)
	if uid, _, err := d.ClientOwner(client, redirected); uid != aliceUID || err != nil {
		t.Errorf("a neighbour's connection elsewhere from the same port: got uid %d, err %v; want uid %d", uid, err, aliceUID)
	}
	connect(t, bobUID, 4, "127.0.0.2", port, from)
	accept(t, second)
	if uid, _, err := d.ClientOwner(client, redirected); !errors.Is(err, ErrNotFound) {
		t.Errorf("two users' mail connections from one port: got uid %d, err %v; want not found", uid, err)
	}
}

func TestClientOwnerRefusesWhatIsNoAddress(t *testing.T) {
	_, _, err := diag(t).ClientOwner(netip.AddrPort{}, netip.MustParseAddrPort("127.0.0.1:25"))
	if err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("ClientOwner of nothing: got %v, want an error of its own", err)
	}
}

func TestClientOwnerIsSafeForManyAtOnce(t *testing.T) {
	l, port := listen(t, "127.0.0.1:0")
	connect(t, aliceUID, 4, "127.0.0.1", port, 0)
	alice, server, _ := accept(t, l)
	connect(t, bobUID, 4, "127.0.0.1", port, 0)
	bob, _, _ := accept(t, l)
	d := diag(t)
	var running sync.WaitGroup
	for i := range 32 {
		running.Go(func() {
			client, want := alice, uint32(aliceUID)
			if i%2 == 1 {
				client, want = bob, bobUID
			}
			for range 50 {
				if uid, _, err := d.ClientOwner(client, server); uid != want || err != nil {
					t.Errorf("ClientOwner(%v): got %d, %v; want %d", client, uid, err, want)
					return
				}
			}
		})
	}
	running.Wait()
}

func FuzzParseDiag(f *testing.F) {
	ne := binary.NativeEndian
	answer := make([]byte, 16+diagAnswerLen)
	ne.PutUint32(answer, uint32(len(answer)))
	ne.PutUint16(answer[4:], sockDiagByFamily)
	ne.PutUint32(answer[8:], 7)
	answer[16] = syscall.AF_INET
	f.Add(answer)
	f.Add(bytes.Repeat(answer, 3))
	f.Add(answer[:20])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		answers, _, _ := parseDiag(b, 7)
		if len(answers)*(16+diagAnswerLen) > len(b) {
			t.Errorf("%d answers from %d bytes", len(answers), len(b))
		}
		for _, a := range answers {
			if !a.source.IsValid() || a.source.Addr().Is4In6() {
				t.Errorf("answer with source %v", a.source)
			}
		}
	})
}

func BenchmarkClientOwner(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	client, server := c.LocalAddr().(*net.TCPAddr).AddrPort(), c.RemoteAddr().(*net.TCPAddr).AddrPort()
	d := NewDiag()
	for b.Loop() {
		if _, _, err := d.ClientOwner(client, server); err != nil {
			b.Fatal(err)
		}
	}
	if err := errors.Join(d.Close(), c.Close(), l.Close()); err != nil {
		b.Fatal(err)
	}
}
