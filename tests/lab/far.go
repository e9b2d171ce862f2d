package lab

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Addresses of the cable between the lab and the host at its other end (RFC 5737, RFC 3849).
const (
	NearIPv4, NearIPv6 = "198.51.100.1", "2001:db8::1"
	FarIPv4, FarIPv6   = "198.51.100.2", "2001:db8::2"
	// BlackHole is an address behind the cable that nobody has: packets to it are lost.
	BlackHole = "203.0.113.9"
)

// Far is another host: a network namespace of its own at the other end of a cable.
type Far struct {
	holder *exec.Cmd
	in     io.Closer
	pid    string

	Accepted  atomic.Int64 // connections
	Encrypted atomic.Int64 // of them, that went on after STARTTLS
	tls       *tls.Config
	mu        sync.Mutex // guards listeners
	listeners []net.Listener
	serving   sync.WaitGroup
}

// NewFar makes the other host and the cable. Call it inside the lab's namespaces.
func NewFar() (*Far, error) {
	f := &Far{holder: exec.Command("unshare", "-n", "--", "cat")} // ends with its standard input
	var err error
	if f.in, err = f.holder.StdinPipe(); err != nil {
		return nil, err
	}
	if err := f.holder.Start(); err != nil {
		return nil, fmt.Errorf("make another network namespace: %w", err)
	}
	f.pid = fmt.Sprint(f.holder.Process.Pid)
	if f.tls, err = selfSigned(); err != nil {
		f.Close()
		return nil, err
	}
	own, err := os.Readlink("/proc/self/ns/net")
	if err == nil {
		err = WaitFor(10*time.Second, "another network namespace", func() error {
			its, err := os.Readlink("/proc/" + f.pid + "/ns/net")
			if err == nil && its == own {
				err = errors.New("it is still ours")
			}
			return err
		})
	}
	if err == nil {
		err = f.cable()
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (f *Far) cable() error {
	inside := func(line string) string { return "nsenter -t " + f.pid + " -n -- " + line }
	for _, line := range []string{
		"ip link add cable type veth peer name cable netns " + f.pid,
		"ip addr add " + NearIPv4 + "/24 dev cable", "ip addr add " + NearIPv6 + "/64 dev cable nodad", "ip link set cable up",
		inside("ip addr add " + FarIPv4 + "/24 dev cable"), inside("ip addr add " + FarIPv6 + "/64 dev cable nodad"),
		inside("ip link set cable up"), inside("ip link set lo up"),
		"ip route add 203.0.113.0/24 via " + FarIPv4, inside("ip route add blackhole 203.0.113.0/24"),
	} {
		if err := run(strings.Fields(line)[0], strings.Fields(line)[1:]...); err != nil {
			return fmt.Errorf("lay the cable: %w", err)
		}
	}
	return nil
}

// PID is a process in that host.
func (f *Far) PID() string { return f.pid }

// Close ends the host with all that it has.
func (f *Far) Close() {
	f.mu.Lock()
	for _, l := range f.listeners {
		_ = l.Close()
	}
	f.mu.Unlock()
	f.serving.Wait()
	_ = f.in.Close()
	_ = f.holder.Wait()
}

// Do runs g in a thread of that host; sockets that it opens stay there. The thread comes
// back: programs that were started from it would be told of its end by a signal.
func (f *Far) Do(g func() error) error {
	runtime.LockOSThread()
	own, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer unix.Close(own)
	fd, err := unix.Open("/proc/"+f.pid+"/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		err = unix.Setns(fd, unix.CLONE_NEWNET)
		_ = unix.Close(fd)
	}
	if err == nil {
		err = g()
	}
	if back := unix.Setns(own, unix.CLONE_NEWNET); back != nil {
		return errors.Join(err, fmt.Errorf("come back from the other host: %w", back)) // the thread stays locked, and ends
	}
	runtime.UnlockOSThread()
	return err
}

// MailServers listens on the ports, at both addresses of the host, as mail servers that
// greet and say yes to everything.
func (f *Far) MailServers(ports ...int) error {
	for _, ip := range []string{FarIPv4, FarIPv6} {
		for _, port := range ports {
			err := f.Do(func() error {
				l, err := net.Listen("tcp", netip.AddrPortFrom(netip.MustParseAddr(ip), uint16(port)).String())
				if err != nil {
					return err
				}
				f.mu.Lock()
				f.listeners = append(f.listeners, l)
				f.mu.Unlock()
				f.serving.Go(func() { f.accept(l) })
				return nil
			})
			if err != nil {
				return fmt.Errorf("listen at the other host: %w", err)
			}
		}
	}
	return nil
}

func (f *Far) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		f.Accepted.Add(1)
		f.serving.Go(func() {
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(20 * time.Second))
			f.sayYes(c)
		})
	}
}

// selfSigned is for STARTTLS with clients that look at no certificate.
func selfSigned() (*tls.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"far.example"}, NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{cert}, PrivateKey: key}}}, nil
}

// sayYes is as much SMTP as a client needs to send one message after the other.
func (f *Far) sayYes(c net.Conn) {
	fmt.Fprint(c, "220 far.example ESMTP\r\n")
	in, data := bufio.NewScanner(c), false
	for in.Scan() {
		line := strings.ToUpper(in.Text())
		switch {
		case data && line == ".":
			data = false
			fmt.Fprint(c, "250 taken\r\n")
		case data:
		case strings.HasPrefix(line, "DATA"):
			data = true
			fmt.Fprint(c, "354 go on\r\n")
		case strings.HasPrefix(line, "EHLO"):
			fmt.Fprint(c, "250-far.example\r\n250 STARTTLS\r\n")
		case line == "STARTTLS":
			fmt.Fprint(c, "220 go on\r\n")
			f.Encrypted.Add(1)
			c = tls.Server(c, f.tls)
			in = bufio.NewScanner(c)
		case strings.HasPrefix(line, "QUIT"):
			fmt.Fprint(c, "221 bye\r\n")
			return
		default:
			fmt.Fprint(c, "250 yes\r\n")
		}
	}
}
