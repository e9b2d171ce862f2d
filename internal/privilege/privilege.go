// Package privilege gives up root for good.
//
// The daemon calls [DropTo] when it was started as root, after it has made its sockets
// and before it reads the first byte of a stranger's. It never gives anything back.
package privilege

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/user"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// User is a user of this host by number.
type User struct {
	Name     string
	UID, GID int
	Home     string
}

// LookupUser returns the user of that name, or with that number if name is one.
func LookupUser(name string) (User, error) {
	u, err := user.Lookup(name)
	if err != nil {
		if byID, idErr := user.LookupId(name); idErr == nil {
			u = byID
		} else {
			return User{}, fmt.Errorf("look up user %.80q: %w", name, err)
		}
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return User{}, fmt.Errorf("look up user %.80q: uid %q", name, u.Uid)
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return User{}, fmt.Errorf("look up user %.80q: gid %q", name, u.Gid)
	}
	return User{Name: u.Username, UID: uid, GID: gid, Home: u.HomeDir}, nil
}

// LookupGroup returns the number of the group of that name.
func LookupGroup(name string) (int, error) {
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, fmt.Errorf("look up group %.80q: %w", name, err)
	}
	gid, err := strconv.Atoi(g.Gid)
	if err != nil {
		return 0, fmt.Errorf("look up group %.80q: gid %q", name, g.Gid)
	}
	return gid, nil
}

// DropTo replaces the running program by itself, with the same arguments, running as
// u in u's group and in the groups more, without any capability and without a way to
// get one: neither itself nor what it executes. It does not return unless it failed,
// and then the process must end at once. env is the new environment; descriptors that
// are not marked close-on-exec go along, so that sockets made as root live on.
//
// It executes itself because the kernel keeps credentials per thread: with cgo only
// the ids can be changed for all threads of a Go program, while capabilities and
// no_new_privs can not, and a single thread left behind would be enough to come back.
// After execve there is only the thread that called it. What root had in memory is
// gone too. The new program calls [Seal].
func DropTo(u User, more []int, env []string) error {
	if u.UID <= 0 || u.GID <= 0 {
		return errors.New("drop privileges: root is no user to drop to")
	}
	runtime.LockOSThread() // never unlocked: this thread is not to be used for anything else
	if err := becomeUser(u, more); err != nil {
		return fmt.Errorf("drop privileges to %s: %w", u.Name, err)
	}
	if err := syscall.Exec("/proc/self/exe", os.Args, lastOfEach(env)); err != nil {
		return fmt.Errorf("drop privileges to %s: execute itself: %w", u.Name, err)
	}
	return nil
}

// lastOfEach drops the earlier settings of a variable, as package exec does: otherwise
// what is appended to the environment would not count.
func lastOfEach(env []string) []string {
	var out []string
	seen := map[string]bool{}
	for _, entry := range slices.Backward(env) {
		name, _, _ := strings.Cut(entry, "=")
		if !seen[name] {
			seen[name] = true
			out = append(out, entry)
		}
	}
	slices.Reverse(out)
	return out
}

// becomeUser takes everything from the calling thread. The bounding set has to go
// first, while there is CAP_SETPCAP.
func becomeUser(u User, more []int) error {
	for c := uintptr(0); ; c++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) && c > 0 {
			break // the kernel knows no more
		}
		if errors.Is(err, unix.EPERM) {
			break // root without CAP_SETPCAP: no_new_privs below closes that way too
		}
		if err != nil {
			return fmt.Errorf("drop capability %d from the bounding set: %w", c, err)
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clear the ambient capabilities: %w", err)
	}
	if err := syscall.Setgroups(append([]int{u.GID}, more...)); err != nil {
		return fmt.Errorf("set groups: %w", err)
	}
	if err := syscall.Setresgid(u.GID, u.GID, u.GID); err != nil {
		return fmt.Errorf("set gid %d: %w", u.GID, err)
	}
	if err := syscall.Setresuid(u.UID, u.UID, u.UID); err != nil {
		return fmt.Errorf("set uid %d: %w", u.UID, err)
	}
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&head, &none[0]); err != nil {
		return fmt.Errorf("clear the capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	return nil
}

// Seal makes sure that the process, all its threads, is neither root nor could become
// it, and hides its memory from other processes of its user. The daemon calls it
// before it reads anything, whoever took its privileges away; an error means that it
// must not go on.
//
// It does not ask for no_new_privs, which somebody who starts the daemon by hand as an
// ordinary user has not set.
func Seal() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("hide the process's memory: %w", err)
	}
	if syscall.Setresuid(-1, 0, -1) == nil || syscall.Setresgid(-1, 0, -1) == nil {
		return errors.New("check privileges: the process could become root again")
	}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return fmt.Errorf("check privileges: %w", err)
	}
	for _, task := range tasks {
		b, err := os.ReadFile("/proc/self/task/" + task.Name() + "/status")
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // the thread has ended
		}
		if err != nil {
			return fmt.Errorf("check privileges: %w", err)
		}
		if err := unprivileged(string(b)); err != nil {
			return fmt.Errorf("check privileges of thread %s: %w", task.Name(), err)
		}
	}
	return nil
}

// unprivileged reads the status of a thread and says what makes it privileged. Every
// line that it looks at has to be there.
func unprivileged(status string) error {
	left := map[string]bool{"Uid": true, "Gid": true, "Groups": true, "CapInh": true, "CapPrm": true, "CapEff": true, "CapAmb": true}
	for line := range strings.Lines(status) {
		name, value, _ := strings.Cut(line, ":")
		if !left[name] {
			continue
		}
		delete(left, name)
		for _, v := range strings.Fields(value) {
			switch {
			case strings.HasPrefix(name, "Cap") && strings.Trim(v, "0") != "":
				return fmt.Errorf("it has capabilities: %s %s", name, v)
			case !strings.HasPrefix(name, "Cap") && v == "0":
				return fmt.Errorf("it is root's: %s %s", name, strings.TrimSpace(value))
			}
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("its status does not say %v", slices.Sorted(maps.Keys(left)))
	}
	return nil
}
