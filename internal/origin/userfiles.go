package origin

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"osm/policy"
)

// exportUsers collects what the accounts' files say if the folder has changed: the panel
// replaces an account's file when it writes it. The packages are left out where a file of
// the panel's has them all.
func (e *exporter) exportUsers(plans bool) error {
	fd, err := unix.Open(e.opt.Users, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", e.opt.Users, err)
	}
	dir := os.NewFile(uintptr(fd), e.opt.Users)
	defer func() { _ = dir.Close() }() // opened for reading
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("export %s: %w", e.opt.Users, err)
	}
	if old, known := e.seen[e.opt.Users]; known && old == stampOf(&st) && (e.plans || !plans) {
		return nil
	}
	names, err := dir.Readdirnames(maxUserFiles)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("list %s: %w", e.opt.Users, err)
	}
	slices.Sort(names)
	var planLines, contactLines strings.Builder
	for _, name := range names {
		b := readUserFile(fd, name)
		if plan := parsePlan(b); plan != "" && plans {
			fmt.Fprintf(&planLines, "%s: %s\n", name, plan)
		}
		if contact := parseContact(b); contact != "" {
			fmt.Fprintf(&contactLines, "%s: %s\n", name, contact)
		}
	}
	err = e.replace(contactsName, []byte(contactLines.String()), st.Mtim)
	if plans {
		err = errors.Join(err, e.replace(plansName, []byte(planLines.String()), st.Mtim))
	}
	if err != nil {
		return fmt.Errorf("export %s: %w", e.opt.Users, err)
	}
	e.seen[e.opt.Users], e.plans = stampOf(&st), plans
	return nil
}

// readUserFile returns the beginning of an account's file; nil if it cannot be read, or its
// name is no account's.
func readUserFile(dir int, name string) []byte {
	if !accountName(name) {
		return nil
	}
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	f := os.NewFile(uintptr(fd), name)
	b, err := io.ReadAll(io.LimitReader(f, maxUserFile))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil
	}
	return b
}

// accountName reports whether a copy may have a line that begins with name. What somebody
// left in the folder, such as "shop (old)", would have the whole copy refused.
func accountName(name string) bool {
	return name != "" && len(name) <= 64 && name[0] != '(' && name[0] != '#' &&
		!strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' || r == ':' })
}

// parsePlan finds PLAN in an account file of cPanel.
func parsePlan(b []byte) string {
	for line := range strings.Lines(string(b)) {
		if plan, ok := strings.CutPrefix(line, "PLAN="); ok {
			plan = strings.TrimSpace(plan)
			if len(plan) > 128 || strings.ContainsFunc(plan, func(r rune) bool { return r < ' ' || r > '~' }) {
				return ""
			}
			return plan
		}
	}
	return ""
}

// parseContact finds the first address of CONTACTEMAIL, or else of CONTACTEMAIL2, in an
// account file of cPanel that can be written to. Each may hold several.
func parseContact(b []byte) string {
	second := ""
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(line, "=")
		if key != "CONTACTEMAIL" && key != "CONTACTEMAIL2" || !strings.HasSuffix(value, "\n") {
			continue // of a line that was cut, what is left could be a stranger's address
		}
		contact := firstContact(value)
		switch {
		case contact == "":
		case key == "CONTACTEMAIL":
			return contact
		case second == "":
			second = contact
		}
	}
	return second
}

func firstContact(list string) string {
	for _, s := range strings.FieldsFunc(list, func(r rune) bool { return strings.ContainsRune(",; \t\r\n", r) }) {
		if policy.ValidContact(s) {
			return s
		}
	}
	return ""
}
