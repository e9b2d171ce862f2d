package actions

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"osm/policy"
)

// renamer takes a folder or a script's file out of the way, for rename-path and
// rename-script: it gets a name that nothing calls, in the same folder, and mode 0000.
//
// The name alone would not do: a script that is renamed is handed out as text, with the
// passwords in it, and Apache runs x.php.anything still as PHP. The mode alone would leave
// it to be run by whatever reads files as root.
//
// All of it is done with the account's own rights ([inHome]). So nothing is taken from
// the user that he could not take back: it stops his scripts and not him.
type renamer struct {
	x      *executor
	folder bool
}

// blocked is what such a name begins with; the record's id follows. It has no dot: to
// Apache each part of a name behind a dot may be an extension.
const blocked = "osm-blocked-"

// ourName reports whether a name is one that we give.
func ourName(name string) bool {
	id, ok := strings.CutPrefix(name, blocked)
	return ok && reRecord.MatchString(id)
}

// kept are folders of a home that are never renamed unless rename_any is set: without one
// of them all of the account's sites, mail or logins stop at once. Those below [deep] are
// kept with all folders in them.
func kept() (top, deep, roots []string) {
	roots = []string{"public_html", "private_html", "public_ftp", "httpdocs", "htdocs", "www", "web"}
	deep = []string{"mail", "Maildir", "imap", "etc", ".ssh", ".cpanel", ".cagefs", "ssl"}
	top = []string{"tmp", "logs", "access-logs", "domains", "backups", ".htpasswds", ".spamassassin", ".gnupg", ".config", ".local", "perl5"}
	return append(top, roots...), deep, roots
}

// mayRename says why a folder is kept, "" if it is not. parts are below the home.
func mayRename(parts []string) string {
	top, deep, roots := kept()
	switch {
	case len(parts) == 1 && slices.Contains(top, parts[0]):
		return "is one that a home needs"
	case slices.Contains(deep, parts[0]):
		return "holds the account's mail, keys or settings"
	case parts[0] == "domains" && (len(parts) == 2 || len(parts) == 3 && slices.Contains(roots, parts[2])):
		return "is all of one domain" // DirectAdmin: domains/shop.example/public_html
	}
	return ""
}

func (k *renamer) check(ctx context.Context, c *Change) error {
	if c.Mailbox != "" || c.IP != "" {
		return refusal{c.Action + " takes an account and a path, nothing else", ""}
	}
	a, below, err := k.find(ctx, c)
	if err != nil {
		return err
	}
	for _, name := range below {
		if _, err := k.x.records.get(strings.TrimPrefix(name, blocked)); err == nil && ourName(name) {
			return leftAlone{fmt.Sprintf("%q is out of the way already", joinPath(below))}
		}
	}
	if why := mayRename(below); k.folder && !k.x.o.RenameAny && why != "" {
		return refusal{fmt.Sprintf("the folder %q of %s %s", joinPath(below), a.name, why),
			"hold or suspend the account instead; or set rename_any in executor.toml"}
	}
	c.Path = wirePath(strings.TrimSuffix(a.home, "/") + joinPath(below))
	if len(c.Path) > maxPath {
		return refusal{why: "the path is too long"}
	}
	return nil
}

// find looks up the account, and says what of the path is below its home. Exim names a
// working directory as it really is, passwd perhaps by a link of root's: both are taken.
func (k *renamer) find(ctx context.Context, c *Change) (a account, below []string, err error) {
	if a, err = k.x.account(c.Account); err != nil {
		return a, nil, err
	}
	path, err := parsePath(c.Path)
	if err != nil {
		return a, nil, err
	}
	parts, err := splitPath(path)
	if err != nil {
		return a, nil, err
	}
	named, err := splitPath(a.home)
	if err != nil {
		return a, nil, err
	}
	really, err := inHome(ctx, k.x.o.ChangeLimit, a, func(h *home) ([]string, error) { return h.path, nil })
	if err != nil {
		return a, nil, err
	}
	for _, home := range [][]string{named, really} {
		if len(parts) >= len(home) && slices.Equal(parts[:len(home)], home) {
			below = parts[len(home):]
			if len(below) == 0 {
				return a, nil, refusal{fmt.Sprintf("%q is the whole home of %s", path, a.name), "hold or suspend the account instead"}
			}
			return a, below, nil
		}
	}
	return a, nil, refusal{fmt.Sprintf("%.300q is not in the home %q of %s", path, a.home, a.name), "name a path in the account's home"}
}

// again: something new has the path, such as the same script put there once more. It needs
// a change of its own.
func (k *renamer) again(ctx context.Context, c *Change) bool {
	a, below, err := k.find(ctx, c)
	if err != nil {
		return false
	}
	there, err := inHome(ctx, k.x.o.ChangeLimit, a, func(h *home) (bool, error) {
		o, err := open(h.fd, below, 0)
		if err == nil {
			defer o.close()
		}
		return err == nil, nil
	})
	return err == nil && there
}

// errSwapped: what is called so is not what was looked at. Nothing was changed.
var errSwapped = errors.New("it is another object by now")

func (k *renamer) apply(ctx context.Context, r *Record) (string, error) {
	a, below, err := k.find(ctx, &r.Change)
	if err != nil {
		return "", err
	}
	for range 3 {
		outcome, err := k.try(ctx, a, below, r)
		if !errors.Is(err, errSwapped) {
			return outcome, err
		}
		clear(r.State) // an uploading program may do that once, too
	}
	return "", refusal{fmt.Sprintf("%q is exchanged for something else as soon as it is looked at", showPath(r.Path)), "hold or suspend the account instead"}
}

// try looks at the object, writes down what the undo needs, and only then renames it: if
// the machine stops in between, the record says how it was.
func (k *renamer) try(ctx context.Context, a account, below []string, r *Record) (string, error) {
	was, err := parseSpot(r.State) // of a try before this one
	if err != nil {
		was, err = inHome(ctx, k.x.o.ChangeLimit, a, func(h *home) (spot, error) { return k.look(h, below) })
		if err != nil {
			return "", err
		}
		r.State = was.state()
		if err := k.x.records.put(r); err != nil {
			return "", err
		}
	}
	return inHome(ctx, k.x.o.ChangeLimit, a, func(h *home) (string, error) { return was.block(h, blocked+r.ID) })
}

// look finds the object and refuses what is not the account's own folder or file.
func (k *renamer) look(h *home, below []string) (spot, error) {
	was := spot{below: below}
	parent, err := was.parent(h)
	if err != nil {
		return was, was.why(h, err)
	}
	defer parent.close()
	o, err := open(parent.fd, []string{was.name()}, 0)
	if err != nil {
		return was, was.why(h, err)
	}
	defer o.close()
	no := func(why, next string) (spot, error) {
		return was, refusal{fmt.Sprintf("%q of %s %s", joinPath(below), h.name, why), next}
	}
	switch {
	case o.st.Mode&unix.S_IFMT == unix.S_IFLNK:
		return no("is a symbolic link", "name what it leads to")
	case k.folder && !o.folder():
		return no("is no folder", "use "+policy.ActionRenameScript)
	case !k.folder && !o.file():
		return no("is no file", "use "+policy.ActionRenamePath+" for a folder")
	case o.st.Uid != h.uid:
		return no(fmt.Sprintf("belongs to uid %d and not to the account", o.st.Uid), "look at it, and take it away by hand")
	case !k.folder && o.st.Nlink != 1:
		return no(fmt.Sprintf("has %d names (hard links)", o.st.Nlink), "look at it, and take it away by hand")
	}
	was.id, was.mode = identityOf(&o.st), o.mode()
	return was, nil
}

func (k *renamer) undo(ctx context.Context, r *Record) (string, error) {
	was, err := parseSpot(r.State)
	if err != nil { // it was not even looked at
		return "nothing had been renamed", nil
	}
	a, err := k.x.account(r.Account)
	if err != nil {
		return "", err
	}
	outcome, err := inHome(ctx, k.x.o.ChangeLimit, a, func(h *home) (string, error) { return was.unblock(h, r.ID) })
	var left leftAlone
	if errors.As(err, &left) {
		if above := k.above(r); above != "" {
			return "", &ExecutorError{What: "undo", On: r.ID, RetryAfter: 10 * time.Minute,
				Why: "the folder it is in was renamed too, by record " + above, Next: "undo that first: osmctl undo " + above}
		}
		return left.why, nil
	}
	return outcome, err
}

// above finds the record that renamed a folder in which r's object is, "" if there is none.
func (k *renamer) above(r *Record) string {
	all, err := k.x.records.list()
	if err != nil {
		return ""
	}
	path, _ := parsePath(r.Path)
	for _, other := range all {
		folder, err := parsePath(other.Path)
		if err == nil && other.Action == policy.ActionRenamePath && other.Account == r.Account && strings.HasPrefix(path, folder+"/") {
			return other.ID
		}
	}
	return ""
}
