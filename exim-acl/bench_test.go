package eximacl

import (
	"io"
	"net"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"osm/policy"

	"golang.org/x/sys/unix"
)

func BenchmarkParseRequest(b *testing.B) {
	request := AppendRequest(nil, standard())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseRequest(request); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendAnswer(b *testing.B) {
	a := Answer{Action: policy.Freeze, Ref: "4k7qm2xd", Log: "account-hour shop 301/300 1h", Text: "Limit reached"}
	buf := make([]byte, 0, MaxAnswer)
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendAnswer(buf[:0], a)
	}
}

// BenchmarkExchange asks as Exim does, a new connection each, with blocking calls on
// threads of their own: the bare echo (goroutine per connection) is what the server
// is measured against in the same run.
func BenchmarkExchange(b *testing.B) {
	for _, clients := range []struct {
		name string
		n    int
	}{{"8 clients", 8}, {"64 clients", 64}} {
		b.Run("echo/"+clients.name, func(b *testing.B) { exchangeMany(b, echo(b), clients.n) })
		b.Run("server/"+clients.name, func(b *testing.B) {
			d := policy.Decision{Ref: "4k7qm2xd"}
			s := &Server{Check: func(_ Conn, s *policy.Submission) *policy.Decision {
				d := d
				d.Submission = s
				return &d
			}, Done: func(*policy.Decision) {}}
			exchangeMany(b, start(b, s), clients.n)
		})
	}
}

func exchangeMany(b *testing.B, path string, clients int) {
	request := AppendRequest(nil, standard())
	var group sync.WaitGroup
	work := make(chan int)
	for range clients {
		group.Go(func() {
			runtime.LockOSThread()
			for n := range work {
				for range n {
					if err := askBlocking(path, request); err != nil {
						b.Error(err)
						return
					}
				}
			}
		})
	}
	b.ResetTimer()
	const batch = 50
	for n := b.N; n > 0; n -= batch {
		work <- min(n, batch)
	}
	close(work)
	group.Wait()
}

func askBlocking(path string, request []byte) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return err
	}
	if _, err := unix.Write(fd, request); err != nil {
		return err
	}
	// The server may have answered and closed by now.
	if err := unix.Shutdown(fd, unix.SHUT_WR); err != nil && err != unix.ENOTCONN && err != unix.EPIPE {
		return err
	}
	var buf [MaxAnswer]byte
	for {
		if n, err := unix.Read(fd, buf[:]); err != nil || n == 0 {
			return err
		}
	}
}

// echo is the bare server: goroutine per connection, one read, one write.
func echo(b *testing.B) string {
	path := filepath.Join(b.TempDir(), "echo.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 8<<10)
				if _, err := c.Read(buf); err != nil && err != io.EOF {
					return
				}
				c.Write([]byte("action=accept ref=4k7qm2xd osm=1\n"))
			}()
		}
	}()
	return path
}
