// Package systemd speaks the two small protocols by which systemd hands a service its
// sockets (LISTEN_FDS) and hears from it (NOTIFY_SOCKET), and hands sockets on in the
// same manner to a program that the daemon executes itself where there is no systemd.
//
// Without systemd every function does nothing and says so by what it returns. See
// sd_listen_fds(3), sd_notify(3) and sd_watchdog_enabled(3).
package systemd

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	firstFD = 3  // SD_LISTEN_FDS_START
	maxFDs  = 64 // more sockets than any unit of ours has
	// handedOn names the sockets that [HandOn] passed: "name=fd,name=fd".
	handedOn = "OSM_LISTEN_FDS"
)

// Listeners returns the listening Unix sockets that the process was started with, by
// their FileDescriptorName; empty when it was started without. It takes the variables
// out of the environment, so that no child takes the sockets for its own: only the
// first call gets them.
//
// Closing such a listener leaves its path in place: whoever made it removes it.
func Listeners() (map[string]*net.UnixListener, error) {
	fds, err := takeInherited()
	if err != nil {
		return nil, err
	}
	listeners := make(map[string]*net.UnixListener, len(fds))
	for name, fd := range fds {
		unix.CloseOnExec(fd)
		l, err := listener(name, fd)
		if err != nil {
			for _, l := range listeners {
				err = errors.Join(err, l.Close())
			}
			return nil, err
		}
		listeners[name] = l
	}
	return listeners, nil
}

// TCPListener returns the one listening TCP socket that the process was started with,
// nil when it was started without. As with [Listeners] only the first call gets it.
func TCPListener() (*net.TCPListener, error) {
	fds, err := takeInherited()
	if err != nil || len(fds) == 0 {
		return nil, err
	}
	if len(fds) > 1 {
		return nil, fmt.Errorf("inherit a socket: there are %d, want one", len(fds))
	}
	for name, fd := range fds {
		unix.CloseOnExec(fd)
		f := os.NewFile(uintptr(fd), name)
		l, err := net.FileListener(f) // works on a duplicate
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("use inherited socket %q: %w", name, err)
		}
		t, ok := l.(*net.TCPListener)
		if !ok {
			return nil, errors.Join(fmt.Errorf("use inherited socket %q: it is of type %s, want tcp", name, l.Addr().Network()), l.Close())
		}
		return t, nil
	}
	return nil, nil
}

// takeInherited returns the descriptors that the environment promises, by name, and takes
// the promise away.
func takeInherited() (map[string]int, error) {
	fds, err := inherited(os.Getenv, os.Getpid())
	return fds, errors.Join(err, os.Unsetenv("LISTEN_PID"), os.Unsetenv("LISTEN_FDS"), os.Unsetenv("LISTEN_FDNAMES"), os.Unsetenv(handedOn))
}

// listener takes over a descriptor.
func listener(name string, fd int) (*net.UnixListener, error) {
	f := os.NewFile(uintptr(fd), name)
	l, err := net.FileListener(f) // works on a duplicate
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("use inherited socket %q: %w", name, err)
	}
	u, ok := l.(*net.UnixListener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("use inherited socket %q: it is of type %s, want unix", name, l.Addr().Network()), l.Close())
	}
	u.SetUnlinkOnClose(false)
	return u, nil
}

// inherited returns the descriptors that the environment promises, by name.
func inherited(getenv func(string) string, pid int) (map[string]int, error) {
	if own := getenv(handedOn); own != "" {
		return parseHandedOn(own)
	}
	if getenv("LISTEN_PID") != strconv.Itoa(pid) {
		return nil, nil // meant for another process, or for none
	}
	n, err := strconv.Atoi(getenv("LISTEN_FDS"))
	if err != nil || n < 0 || n > maxFDs {
		return nil, fmt.Errorf("inherit sockets: LISTEN_FDS is %.20q", getenv("LISTEN_FDS"))
	}
	names := strings.Split(getenv("LISTEN_FDNAMES"), ":")
	fds := make(map[string]int, n)
	for i := range n {
		name := "unknown" // as systemd calls a socket without a name
		if i < len(names) && names[i] != "" {
			name = names[i]
		}
		if _, twice := fds[name]; twice {
			return nil, fmt.Errorf("inherit sockets: two are called %.80q: each needs its own FileDescriptorName", name)
		}
		fds[name] = firstFD + i
	}
	return fds, nil
}

func parseHandedOn(s string) (map[string]int, error) {
	fds := map[string]int{}
	for entry := range strings.SplitSeq(s, ",") {
		name, number, _ := strings.Cut(entry, "=")
		fd, err := strconv.Atoi(number)
		if _, twice := fds[name]; twice || err != nil || name == "" || fd < firstFD || len(fds) >= maxFDs {
			return nil, fmt.Errorf("inherit sockets: %s has %.80q", handedOn, entry)
		}
		fds[name] = fd
	}
	return fds, nil
}

// HandOn makes listeners live on in the program that this process executes next (in
// its own place, or as a child), where [Listeners] finds them: it returns the
// environment variable to be set there and duplicates to be kept open until then.
func HandOn(listeners map[string]*net.UnixListener) (variable string, keep []*os.File, err error) {
	var entries []string
	for name, l := range listeners {
		f, err := l.File()
		if err != nil {
			return "", keep, fmt.Errorf("hand on socket %q: %w", name, err)
		}
		keep = append(keep, f)
		fd, err := keepOnExec(f)
		if err != nil {
			return "", keep, fmt.Errorf("hand on socket %q: %w", name, err)
		}
		entries = append(entries, name+"="+strconv.Itoa(fd))
	}
	if len(entries) == 0 {
		return "", nil, nil
	}
	return handedOn + "=" + strings.Join(entries, ","), keep, nil
}

// keepOnExec goes through the raw descriptor, because [os.File.Fd] would make the
// socket, which the listener shares, a blocking one.
func keepOnExec(f *os.File) (int, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	number := 0
	var flagErr error
	err = raw.Control(func(fd uintptr) {
		number = int(fd)
		_, flagErr = unix.FcntlInt(fd, unix.F_SETFD, 0)
	})
	return number, errors.Join(err, flagErr)
}

// States that [Notify] sends.
const (
	Ready     = "READY=1"
	Reloading = "RELOADING=1" // has to be followed by MONOTONIC_USEC=, see [ReloadingNow]
	Stopping  = "STOPPING=1"
	Alive     = "WATCHDOG=1"
)

// Status is a line for "systemctl status".
func Status(text string) string {
	return "STATUS=" + strings.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, text)
}

// ReloadingNow is [Reloading] as Type=notify-reload wants it.
func ReloadingNow() string {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return Reloading
	}
	return Reloading + "\nMONOTONIC_USEC=" + strconv.FormatInt(ts.Nano()/1000, 10)
}

// Notify tells systemd the states. It reports whether there was a systemd to tell.
func Notify(states ...string) (sent bool, err error) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return false, nil
	}
	if path[0] != '/' && path[0] != '@' {
		return false, fmt.Errorf("notify systemd: NOTIFY_SOCKET is %.80q", path)
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return false, fmt.Errorf("notify systemd: %w", err)
	}
	err = c.SetWriteDeadline(time.Now().Add(time.Second))
	if err == nil {
		_, err = c.Write([]byte(strings.Join(states, "\n")))
	}
	if err = errors.Join(err, c.Close()); err != nil {
		return false, fmt.Errorf("notify systemd: %w", err)
	}
	return true, nil
}

// Watchdog returns how often [Alive] has to be sent, half of what systemd waits; 0
// when it does not watch this process.
func Watchdog() time.Duration {
	return watchdog(os.Getenv, os.Getpid())
}

func watchdog(getenv func(string) string, pid int) time.Duration {
	if p := getenv("WATCHDOG_PID"); p != "" && p != strconv.Itoa(pid) {
		return 0
	}
	usec, err := strconv.ParseInt(getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || usec <= 0 || usec > int64(24*time.Hour/time.Microsecond) {
		return 0
	}
	return time.Duration(usec) * time.Microsecond / 2
}
