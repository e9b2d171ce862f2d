package actions

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"strings"
)

// PanelOptions says how the hosting panel is asked.
type PanelOptions struct {
	Kind    string // "auto", "cpanel", "commands" or "none"
	WHMAPI1 string // the program
	UAPI    string // the program
	Doveadm string // the program; "" = none
	// Commands are the operator's own, by action, where the panel is "commands".
	Commands map[string]PanelCommand

	root string // below it lie all files of the panel and all homes; "" = "/". For tests
}

// PanelCommand is how an action is done, undone and looked at where no panel is known. In
// each argument {account} and {mailbox} stand for those of the request; each stays one
// argument, and no shell sees it.
type PanelCommand struct {
	Do, Undo []string
	// Check exits with 0 when it is in force, and with 1 and nothing on its standard error
	// when it is not. All else means that it could not be seen: what runs it for us ends
	// with 1 as well where it cannot.
	Check []string
}

// The panels.
const (
	panelCPanel   = "cpanel"
	panelCommands = "commands"
	panelNone     = "none"
)

// panel is how the executor deals with the hosting panel.
type panel struct{ x *executor }

// path is where one of the panel's own files is.
func (p panel) path(name string) string { return filepath.Join("/", p.x.o.Panel.root, name) }

// kind is the panel in use; "auto" looks, each time, as a panel may come later than we.
func (p panel) kind() string {
	switch k := p.x.o.Panel.Kind; {
	case k == panelCPanel || k == panelCommands || k == panelNone:
		return k
	case p.exists("/usr/local/cpanel/version"):
		return panelCPanel
	case len(p.x.o.Panel.Commands) > 0:
		return panelCommands
	}
	return panelNone
}

func (p panel) exists(name string) bool {
	_, err := os.Stat(p.path(name))
	return err == nil
}

// rePanelAccount is what a panel calls accounts. It keeps a name from looking like an
// option or a path.
var rePanelAccount = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$`)

// reMailbox leaves out what another program could take for a pattern (doveadm knows * and
// ?), an option or a path, though RFC 5321 would let it pass.
var reMailbox = regexp.MustCompile(`^[a-z0-9_][a-z0-9_.+-]{0,63}@([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9-]{2,63}$`)

// account refuses what is no account of the panel.
func (p panel) account(name string) (account, error) {
	if !rePanelAccount.MatchString(name) {
		return account{}, refusal{fmt.Sprintf("%.80q is no name of an account", name), "name a hosting account"}
	}
	a, err := p.x.account(name)
	if err != nil {
		return account{}, err
	}
	if p.kind() == panelCPanel && !p.hasAccount(name) {
		return account{}, refusal{fmt.Sprintf("%.80q is a user of this machine, but no account of cPanel", name), "name a hosting account"}
	}
	return a, nil
}

// hasAccount reports whether cPanel knows the account. Where its files lie elsewhere, it is
// cPanel that says no.
func (p panel) hasAccount(name string) bool {
	return !p.exists("/var/cpanel/users") || p.exists("/var/cpanel/users/"+name)
}

// vanished says so when what a record is about is not there any more, or is not the
// account's.
func (p panel) vanished(r *Record) (string, error) {
	cpanel := p.kind() == panelCPanel
	var unknown user.UnknownUserError
	if _, err := user.Lookup(r.Account); errors.As(err, &unknown) || (err == nil && cpanel && !p.hasAccount(r.Account)) {
		return fmt.Sprintf("the account %s is not there any more: removed, or given another name", r.Account), nil
	}
	if r.Mailbox == "" || !cpanel {
		return "", nil
	}
	_, domain, _ := strings.Cut(r.Mailbox, "@")
	owner, err := p.owner(domain)
	if err == nil && owner != r.Account {
		return fmt.Sprintf("the mailbox %s is not %s's any more", r.Mailbox, r.Account), nil
	}
	return "", err
}

// mailbox refuses one that is not the account's, whatever the request says of it, and
// writes it as panels do.
func (p panel) mailbox(c *Change) error {
	c.Mailbox = strings.ToLower(c.Mailbox)
	if !reMailbox.MatchString(c.Mailbox) {
		return refusal{fmt.Sprintf("%.80q is no mailbox", c.Mailbox), "name a mailbox as user@domain"}
	}
	if p.kind() != panelCPanel {
		return nil // the operator's commands know
	}
	_, domain, _ := strings.Cut(c.Mailbox, "@")
	owner, err := p.owner(domain)
	switch {
	case err != nil:
		return err
	case owner == "":
		return refusal{fmt.Sprintf("the domain %s is not in /etc/userdomains", domain), "name a mailbox of a hosting account"}
	case owner != c.Account:
		return refusal{fmt.Sprintf("the mailbox %s is %s's, not %s's", c.Mailbox, owner, c.Account), "name the account that has the domain"}
	}
	return nil
}

// fileMissing reports whether err says that there is no such file.
func fileMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
