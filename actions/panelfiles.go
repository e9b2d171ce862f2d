package actions

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// maxMap bounds the panel's maps: a million domains are about 40 MB.
const maxMap = 64 << 20

// open opens one of the panel's own files for reading. These lie in folders that only root
// may write; a pipe in their place must not make us wait all the same.
func (p panel) open(name string) (*os.File, error) {
	f, err := os.OpenFile(p.path(name), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is no plain file", name)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// eachLine calls f for each line of one of the panel's files until it returns false.
func (p panel) eachLine(name string, f func(line string) bool) error {
	file, err := p.open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	s := bufio.NewScanner(io.LimitReader(file, maxMap))
	for s.Scan() {
		if !f(s.Text()) {
			return nil
		}
	}
	if s.Err() != nil {
		return fmt.Errorf("read %s: %w", name, s.Err())
	}
	return nil
}

// owner is the account that has the domain, "" if none has: by "domain: account" in
// userdomains, or the older "account: domain".
func (p panel) owner(domain string) (account string, err error) {
	for _, m := range []struct {
		file     string
		reversed bool
	}{{"/etc/userdomains", false}, {"/etc/domainusers", true}} {
		err = p.eachLine(m.file, func(line string) bool {
			a, b, _ := strings.Cut(line, ":")
			a, b = strings.TrimSpace(a), strings.TrimSpace(b)
			if m.reversed {
				a, b = b, a
			}
			if strings.EqualFold(a, domain) {
				account = b
			}
			return account == ""
		})
		if !fileMissing(err) {
			break
		}
	}
	if err != nil {
		return "", fmt.Errorf("find out whose %s is: %w", domain, err)
	}
	return account, nil
}

// held reports whether the panel's list of held senders names the account or mailbox.
func (p panel) held(name string) (bool, error) {
	found := false
	err := p.eachLine("/etc/outgoing_mail_hold_users", func(line string) bool {
		found = strings.EqualFold(strings.TrimSpace(line), name)
		return !found
	})
	if fileMissing(err) { // it comes with the first hold
		err = nil
	}
	return found, err
}

// suspendedFor is the reason that the panel keeps of a suspended account, and since when.
func (p panel) suspendedFor(account string) (reason string, found bool, err error) {
	f, err := p.open("/var/cpanel/suspended/" + account)
	if fileMissing(err) {
		return "", false, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("read why the account is suspended: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 4<<10))
	if err != nil {
		return "", false, fmt.Errorf("read why the account is suspended: %w", err)
	}
	st, err := f.Stat()
	if err != nil {
		return "", false, fmt.Errorf("read why the account is suspended: %w", err)
	}
	reason = oneLine(string(b), 300)
	if reason == "" {
		reason = "no reason given"
	}
	return fmt.Sprintf("suspended since %s: %s", st.ModTime().UTC().Format("2006-01-02 15:04 UTC"), reason), true, nil
}

// errNotTheirs is a file that may not be read for an account: it is not the account's, or
// the way to it leads through a link.
var errNotTheirs = errors.New("is not a plain file of the account's own, reached without links")

// maxShadow bounds a domain's file of passwords: 10,000 mailboxes are about 2 MB.
const maxShadow = 8 << 20

// passwordHash is what stands in the domain's file of passwords for the mailbox, without
// the marks by which the panel blocks a login. It is "" where nothing is left without them.
//
// The file lies in the account's home, so its owner can put anything in its place: each
// step is taken without following links, and what is reached must be a plain file of the
// account's or root's with a single name.
func (p panel) passwordHash(a account, mailbox string) (hash string, blocked bool, err error) {
	local, domain, _ := strings.Cut(mailbox, "@")
	f, err := p.openInHome(a, "etc", domain, "shadow")
	if err != nil {
		return "", false, fmt.Errorf("read the passwords of %s: %w", domain, err)
	}
	defer f.Close()
	s := bufio.NewScanner(io.LimitReader(f, maxShadow))
	for s.Scan() {
		name, rest, ok := bytes.Cut(s.Bytes(), []byte(":"))
		if !ok || !strings.EqualFold(string(name), local) {
			continue
		}
		field, _, _ := bytes.Cut(rest, []byte(":"))
		bare := withoutMarks(string(field))
		return bare, bare != string(field), nil
	}
	if s.Err() != nil {
		return "", false, fmt.Errorf("read the passwords of %s: %w", domain, s.Err())
	}
	return "", false, fmt.Errorf("the file of passwords of %s does not name %s", domain, mailbox)
}

// withoutMarks takes away what makes a password's hash useless: ! and *, as the system's
// own programs do it, and the panel's *LOCKED*.
func withoutMarks(hash string) string {
	for {
		rest := strings.TrimPrefix(hash, "*LOCKED*")
		rest = strings.TrimLeft(rest, "!*")
		if rest == hash {
			return hash
		}
		hash = rest
	}
}

func (p panel) openInHome(a account, names ...string) (*os.File, error) {
	const folder = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC
	// The way to the home is root's, and may lead through links of root's.
	fd, err := unix.Open(p.path(a.home), folder, 0)
	if err != nil {
		return nil, fmt.Errorf("open the home of %s: %w", a.name, err)
	}
	for i, name := range names {
		flags := folder
		if i == len(names)-1 { // O_NONBLOCK: a pipe in its place must not make us wait
			flags = unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC
		}
		next, err := unix.Openat(fd, name, flags|unix.O_NOFOLLOW, 0)
		unix.Close(fd)
		if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
			return nil, fmt.Errorf("%s %w", filepath.Join(names[:i+1]...), errNotTheirs)
		}
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", filepath.Join(names[:i+1]...), err)
		}
		fd = next
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink != 1 || (st.Uid != a.uid && st.Uid != 0) {
		unix.Close(fd)
		return nil, fmt.Errorf("%s %w", filepath.Join(names...), errNotTheirs)
	}
	return os.NewFile(uintptr(fd), filepath.Join(names...)), nil
}
