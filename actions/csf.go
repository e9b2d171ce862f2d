package actions

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// csf is ConfigServer's firewall, in any of its continuations. Its exit status says
// nothing, so that all is read from its own files. Temporary blocks are for the mail ports;
// its permanent ones know no ports.
type csf struct {
	cmd  command
	root string
	now  func() time.Time
}

func csfPath(root, name string) string { return filepath.Join("/", root, "etc/csf", name) }

// ready refuses while csf would answer and do nothing.
func (f csf) ready(addr netip.Addr) error {
	if fileExists(csfPath(f.root, "csf.disable")) {
		return refusal{"csf is disabled", "enable it: csf -e"}
	}
	if fileExists(csfPath(f.root, "csf.error")) {
		return refusal{"csf stopped with an error, and blocks nobody", "see /etc/csf/csf.error, then start it: csf -r"}
	}
	conf, err := f.conf()
	switch {
	case err != nil:
		return err
	case conf["TESTING"] == "1":
		return refusal{"csf is in testing mode: it takes its rules away every few minutes", `set TESTING = "0" in csf.conf`}
	case addr.Is6() && conf["IPV6"] != "1":
		return refusal{"csf does not look after IPv6", `set IPV6 = "1" in csf.conf`}
	}
	return nil
}

// conf reads csf.conf: lines of the form NAME = "value".
func (f csf) conf() (map[string]string, error) {
	out := map[string]string{}
	left := int64(maxListBytes)
	err := eachLine(csfPath(f.root, "csf.conf"), &left, func(line string) bool {
		name, value, ok := strings.Cut(line, "=")
		if ok && !strings.HasPrefix(line, "#") {
			out[strings.TrimSpace(name)] = strings.Trim(strings.TrimSpace(value), `"`)
		}
		return true
	})
	return out, err
}

func (f csf) block(ctx context.Context, r *Record, addr netip.Addr) (string, error) {
	held, err := f.held(addr)
	if err != nil {
		return "", err
	}
	if held.ours(r) { // done before we ended in the middle of it
		return f.outcome(r), nil
	}
	if by := held.by(f.now()); by != "" {
		return "", leftAlone{fmt.Sprintf("csf blocks %s already: %s", addr, by)}
	}
	args := []string{"-d", addr.String(), comment(r)}
	if r.For > 0 {
		// One argument: what follows a third word is lost in cPanel's csf, the ports and
		// the comment with it, and all ports would be blocked.
		args = temporary(addr, seconds(r.For), tempBan{ports: mailPorts, dir: "in", comment: comment(r)})
	}
	out, runErr := f.cmd.run(ctx, args...)
	if held, err = f.held(addr); err != nil {
		return "", errors.Join(err, runErr)
	}
	if held.ours(r) {
		return f.outcome(r), nil
	}
	if why := refused(out); why != "" && runErr == nil {
		return "", refusal{"csf: " + why, "see csf -g " + addr.String()}
	}
	return "", said(fmt.Sprintf("csf did not block %s", addr), out, runErr)
}

func (f csf) outcome(r *Record) string {
	if r.For == 0 {
		return fmt.Sprintf("csf blocks %s on all ports until it is undone", r.IP)
	}
	return fmt.Sprintf("csf blocks %s on ports %s %s", r.IP, mailPorts, lasts(r, f.now()))
}

// temporary are the arguments for a block that ends by itself. The comment is cleared of
// what csf would take for options.
func temporary(addr netip.Addr, seconds int64, b tempBan) []string {
	text := strings.NewReplacer("-p", "_p", "-d", "_d", "|", " ").Replace(b.comment)
	return []string{"-td", addr.String(), fmt.Sprint(seconds), "-p " + b.ports + " -d " + b.dir + " " + text}
}

// refused is the line with which csf says that it never does this, "" if there is none.
func refused(out string) string {
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		for _, s := range []string{"is one of this servers addresses", "is not a valid PUBLIC IP", "IPV6 is not enabled", "is in the allow file", "is in the ignore file", "have been disabled"} {
			if strings.Contains(line, s) {
				return cut(line, 200)
			}
		}
	}
	return ""
}

// unblock takes ours away. "csf -trd" takes every temporary block of the address: those of
// others are put back for the time that they had left.
func (f csf) unblock(ctx context.Context, r *Record, addr netip.Addr) (string, error) {
	before, err := f.held(addr)
	if err != nil {
		return "", err
	}
	if !before.ours(r) {
		return gone(r, f.now()), nil
	}
	if slices.ContainsFunc(before.deny, func(l string) bool { return strings.Contains(l, mark(r)) && strings.Contains(l, "do not delete") }) {
		return "left as it is: somebody marked the block of " + r.IP + ` in csf.deny with "do not delete"`, nil
	}
	temp := slices.ContainsFunc(before.bans, func(b tempBan) bool { return b.ours(r) })
	remove := "-dr"
	if temp {
		remove = "-trd"
	}
	out, runErr := f.cmd.run(ctx, remove, addr.String())
	if temp {
		f.putBack(ctx, r, addr, before.bans)
	}
	after, err := f.held(addr)
	if err != nil || after.ours(r) {
		return "", said(fmt.Sprintf("csf did not unblock %s", addr), out, errors.Join(err, runErr))
	}
	return fmt.Sprintf("csf does not block %s for us any more", addr) + f.lost(r, before, after), nil
}

func (f csf) stands(_ context.Context, r *Record, addr netip.Addr) (bool, error) {
	h, err := f.held(addr)
	if err != nil || f.ready(addr) != nil { // csf that is off keeps nobody out
		return false, err
	}
	return slices.ContainsFunc(h.bans, func(b tempBan) bool { return b.ours(r) && b.covers(f.now()) }) ||
		slices.ContainsFunc(h.deny, func(l string) bool { return strings.Contains(l, mark(r)) }), nil
}

// standing reports whether the block of somebody else is to be put back.
func (f csf) standing(b tempBan) (left time.Duration, ok bool) {
	left = b.ends().Sub(f.now())
	return left, left >= 2*time.Second
}

// putBack gives the address the blocks of others again. Ours can only have come beside such
// as leave some of the mail ports open, or they came after it.
func (f csf) putBack(ctx context.Context, r *Record, addr netip.Addr, bans []tempBan) {
	for _, b := range bans {
		if left, ok := f.standing(b); ok && !b.ours(r) {
			_, _ = f.cmd.run(ctx, temporary(addr, int64(left/time.Second), b)...) // seen by what stands after it
		}
	}
}

// lost says which blocks of others are not there any more, "" if all are.
func (f csf) lost(r *Record, before, after *csfHeld) string {
	var s string
	for _, b := range before.bans {
		if _, ok := f.standing(b); ok && !b.ours(r) && !slices.ContainsFunc(after.bans, func(a tempBan) bool { return a.ports == b.ports && a.dir == b.dir }) {
			s += fmt.Sprintf("; csf did not put back the block of somebody else on ports %.40s: %.80q", b.ports, b.comment)
		}
	}
	return cut(s, 1000)
}
