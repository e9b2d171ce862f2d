package panel

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"osm/policy"
)

// copyLag is how far an exported copy may be behind its file before that is reported.
const copyLag = 10 * time.Second

// shrinkWait is how long a file that has lost most of its entries must stay so before it
// is believed: a writer that was interrupted at the end of a line leaves no other trace.
const shrinkWait = time.Minute

// tables is what the files said when they were last whole.
type tables struct {
	users       []user
	subUIDs     []policy.SubUIDs
	domains     map[string]string // domain → user
	mainDomains map[string]string // main domain → user
	owners      map[string]string // user → reseller
	plans       map[string]string // user → package
	contacts    map[string]string // user → e-mail address
	recent      map[netip.Addr]string
	relay       []netip.Prefix
}

// reader parses a file's content and returns how it gets into the tables.
type reader func(b []byte) (entries int, put func(t *tables), err error)

// file is one watched file.
type file struct {
	paths    []string // the file, then its copy
	required bool
	made     bool // its copy is made of other files where it does not exist
	mayEmpty bool // it is empty or missing at times without anything being wrong
	read     reader

	tried    bool
	seen     stamp // of the last attempt, good or bad
	size     int64 // of the content in use
	ended    bool  // that content ended with an end of line
	shrunk   stamp // of content with far fewer entries
	shrunkAt time.Time
	trouble  string // why the content last seen is not in use
	reported string
	status   FileStatus
}

// filesOf lists what is read for a panel. cPanel's maps are root:mail 0640, so that
// they are mostly read from their copies.
func filesOf(panel, root, copies string) []*file {
	watch := func(path string, f file) *file {
		f.paths = []string{filepath.Join(root, path)}
		if copies != "" {
			f.paths = append(f.paths, filepath.Join(copies, filepath.Base(path)))
		}
		f.status.Path = f.paths[0]
		return &f
	}
	files := []*file{watch("/etc/passwd", file{required: true, read: readUsers})}
	switch panel {
	case CPanel:
		files = append(files,
			watch("/etc/userdomains", file{required: true, read: readDomains}),
			watch("/etc/trueuserdomains", file{read: readMainDomains}),
			watch("/etc/trueuserowners", file{read: readOwners}),
			watch("/etc/userplans", file{made: true, read: readPlans}),
			watch("/etc/recent_authed_mail_ips", file{mayEmpty: true, read: readRecent}),
			watch("/etc/alwaysrelay", file{mayEmpty: true, read: readRelay}))
		if copies != "" {
			files = append(files, contactsOf(copies))
		}
	case DirectAdmin:
		files = append(files, watch("/etc/virtual/domainowners", file{required: true, read: readDomains}))
	}
	return append(files, watch("/etc/subuid", file{mayEmpty: true, read: readSubUIDs}))
}

// contactsOf is the inspector's list of cPanel's contact addresses, which is made of the
// accounts' files. Customers may take theirs away, the last one too.
func contactsOf(copies string) *file {
	path := filepath.Join(copies, "usercontacts")
	return &file{paths: []string{path}, mayEmpty: true, read: readContacts, status: FileStatus{Path: path}}
}

// refresh reads the file if it has changed, and reports whether the tables changed.
func (f *file) refresh(t *tables, now time.Time) bool {
	changed := false
	if s := current(f.paths, f.made); !f.tried || s != f.seen {
		f.tried = true
		changed = f.reread(t, now)
	}
	f.status.Err = f.trouble
	if f.trouble == "" {
		f.status.Err = f.behind(now)
	}
	return changed
}

// reread takes the file's content if it is whole; otherwise what was read before
// stays in use.
func (f *file) reread(t *tables, now time.Time) bool {
	c, err := read(f.paths, f.made)
	if errors.Is(err, errChanging) {
		f.tried = false // once more at the next look
	}
	f.seen = c.stamp
	missing := errors.Is(err, os.ErrNotExist)
	switch {
	case missing && f.mayEmpty:
		c = content{} // taken as empty
	case missing && !f.required && f.status.ReadAt.IsZero():
		f.trouble = ""
		return false
	case err != nil:
		f.trouble = err.Error()
		return false
	}
	entries, put, err := f.read(c.bytes)
	if err == nil {
		err = f.halfWritten(c, entries, now)
	}
	f.trouble = ""
	if err != nil {
		f.trouble = err.Error()
		if !f.status.ReadAt.IsZero() {
			return false
		}
		// There is nothing older: what could be understood is better than nothing.
	}
	changed := !missing || f.status.Entries > 0
	put(t)
	f.size, f.ended = int64(len(c.bytes)), c.ends()
	f.status.ReadAt, f.status.Entries, f.status.From = now, entries, ""
	if c.stamp.path != f.paths[0] {
		f.status.From = c.stamp.path
	}
	return changed
}

// halfWritten recognises the traces of a writer that was interrupted.
func (f *file) halfWritten(c content, entries int, now time.Time) error {
	before := f.status.Entries
	switch {
	case entries == 0 && before > 0 && !f.mayEmpty:
		return fmt.Errorf("empty, with %d entries before", before)
	case len(c.bytes) > 0 && !c.ends() && f.ended && int64(len(c.bytes)) <= f.size:
		return fmt.Errorf("cut off: %d bytes without an end of line, %d with one before", len(c.bytes), f.size)
	case 2*entries < before && !f.mayEmpty:
		if f.shrunk != c.stamp {
			f.shrunk, f.shrunkAt = c.stamp, now
		}
		if now.Sub(f.shrunkAt) < shrinkWait {
			f.tried = false // the same content again at the next look
			return fmt.Errorf("only %d entries, with %d before: believed once it has stayed so for %s", entries, before, shrinkWait)
		}
	}
	return nil
}

// behind says that a copy is in use which is older than its file: whether a file has
// changed can be seen without the right to read it.
func (f *file) behind(now time.Time) string {
	if f.status.From == "" {
		return ""
	}
	fi, err := os.Stat(f.paths[0])
	if err != nil {
		return ""
	}
	changed := fi.ModTime()
	if changed.Sub(f.seen.modified) > copyLag && now.Sub(changed) > copyLag {
		return fmt.Sprintf("the copy %s is %s behind", f.status.From, changed.Sub(f.seen.modified).Round(time.Second))
	}
	return ""
}

func readUsers(b []byte) (int, func(*tables), error) {
	users, err := parsePasswd(b)
	return len(users), func(t *tables) { t.users = users }, err
}

func readSubUIDs(b []byte) (int, func(*tables), error) {
	ranges, err := parseSubUIDs(b)
	return len(ranges), func(t *tables) { t.subUIDs = ranges }, err
}

func readDomains(b []byte) (int, func(*tables), error) {
	m, err := parseDomains(b)
	return len(m), func(t *tables) { t.domains = m }, err
}

func readMainDomains(b []byte) (int, func(*tables), error) {
	m, err := parseDomains(b)
	return len(m), func(t *tables) { t.mainDomains = m }, err
}

func readOwners(b []byte) (int, func(*tables), error) {
	m, err := parseOwners(b)
	return len(m), func(t *tables) { t.owners = m }, err
}

func readPlans(b []byte) (int, func(*tables), error) {
	m, err := parsePlans(b)
	return len(m), func(t *tables) { t.plans = m }, err
}

func readContacts(b []byte) (int, func(*tables), error) {
	m, err := parseContacts(b)
	return len(m), func(t *tables) { t.contacts = m }, err
}

func readRecent(b []byte) (int, func(*tables), error) {
	m, err := parseRecent(b)
	return len(m), func(t *tables) { t.recent = m }, err
}

func readRelay(b []byte) (int, func(*tables), error) {
	networks, err := parseRelay(b)
	return len(networks), func(t *tables) { t.relay = networks }, err
}
