package actions

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"
)

// mailPorts are what a blocked address cannot reach: submission and delivery. Its web and
// its POP are left to it, so that a customer behind the same address can read why, and an
// operator who blocks himself still gets in.
const mailPorts = "25,465,587"

// blockIP is the change block-ip: no connection from one address to the mail ports, by csf
// where it is installed, else by a table of nftables that is ours alone.
type blockIP struct {
	o      FirewallOptions
	prefix []string
	limit  time.Duration
	now    func() time.Time
}

// firewall is what keeps an address out. Each looks at the effect, and knows by the
// record's id in its own lists what is ours.
type firewall interface {
	// ready refuses where the address cannot be blocked at all.
	ready(addr netip.Addr) error
	block(ctx context.Context, r *Record, addr netip.Addr) (outcome string, err error)
	unblock(ctx context.Context, r *Record, addr netip.Addr) (outcome string, err error)
	// stands reports whether it keeps the address out now, by an entry of this record's.
	stands(ctx context.Context, r *Record, addr netip.Addr) (bool, error)
}

func (x *executor) blockIP() *blockIP {
	return &blockIP{o: x.o.Firewall, prefix: x.o.CommandPrefix, limit: x.o.ChangeLimit, now: x.o.Now}
}

func (b *blockIP) check(_ context.Context, c *Change) error {
	if c.Account != "" || c.Mailbox != "" || c.Path != "" {
		return refusal{why: "an address is blocked for everybody: it takes no account, mailbox or path"}
	}
	addr, err := netip.ParseAddr(c.IP)
	if err != nil || addr.Zone() != "" {
		return refusal{why: fmt.Sprintf("%.80q is no address", c.IP)}
	}
	addr = addr.Unmap()
	c.IP = addr.String()
	if err := public(addr); err != nil {
		return err
	}
	if err := b.spared(addr); err != nil {
		return err
	}
	_, f, err := b.firewall("")
	if err != nil {
		return err
	}
	return f.ready(addr)
}

func (b *blockIP) apply(ctx context.Context, r *Record) (string, error) {
	addr, err := netip.ParseAddr(r.IP)
	if err != nil {
		return "", refusal{why: fmt.Sprintf("%.80q is no address", r.IP)}
	}
	kind, f, err := b.firewall(r.State["firewall"])
	if err != nil {
		return "", err
	}
	if r.State == nil { // begun before, and read from its file
		r.State = map[string]string{}
	}
	r.State["firewall"] = kind
	return f.block(ctx, r, addr)
}

// undo asks the firewall that did it, whatever the options say by now.
func (b *blockIP) undo(ctx context.Context, r *Record) (string, error) {
	addr, err := netip.ParseAddr(r.IP)
	if err != nil {
		return "", fmt.Errorf("record %s: %w", r.ID, err)
	}
	kind, f, err := b.firewall(r.State["firewall"])
	if kind == "csf" && !fileExists(b.csf()) {
		return "csf is not on this machine any more, and its blocks went with it", nil
	}
	if err != nil {
		return "", err
	}
	return f.unblock(ctx, r, addr)
}

// state tells a block that somebody lifted from one that ended by itself.
func (b *blockIP) state(ctx context.Context, r *Record) (State, error) {
	s := State{InForce: Unknown, PasswordChanged: Unknown}
	addr, err := netip.ParseAddr(r.IP)
	if err != nil {
		return s, fmt.Errorf("record %s: %w", r.ID, err)
	}
	_, f, err := b.firewall(r.State["firewall"])
	if err != nil {
		return s, err
	}
	stands, err := f.stands(ctx, r, addr)
	if err != nil {
		return s, err
	}
	if s.InForce = yesIf(stands); !stands {
		s.ByOthers, s.Detail = r.For == 0 || b.now().Before(r.At.Add(r.For)), gone(r, b.now())
	}
	return s, nil
}

// firewall is the one of this kind, or by the options where kind is empty.
func (b *blockIP) firewall(kind string) (string, firewall, error) {
	nftProgram := cmp.Or(b.o.NFT, "/usr/sbin/nft")
	kind = cmp.Or(kind, b.o.Kind, "auto")
	if kind == "auto" {
		switch {
		case fileExists(b.csf()) && fileExists(csfPath(b.o.root, "csf.conf")):
			kind = "csf"
		case fileExists(nftProgram):
			kind = "nft"
		}
	}
	cmd := command{prefix: b.prefix, limit: b.limit}
	switch kind {
	case "csf":
		cmd.program = b.csf()
		return kind, csf{cmd: cmd, root: b.o.root, now: b.now}, b.installed(cmd.program)
	case "nft":
		cmd.program = nftProgram
		return kind, newNFT(cmd, b.now), b.installed(cmd.program)
	case "none":
		return kind, nil, refusal{"executor.toml says that no firewall is to be used", "set firewall in executor.toml"}
	}
	return kind, nil, refusal{"there is neither csf nor nft on this machine", "install nftables, or run your own blocker with run-script"}
}

func (b *blockIP) csf() string { return cmp.Or(b.o.CSF, "/usr/sbin/csf") }

func (b *blockIP) installed(program string) error {
	if !fileExists(program) {
		return refusal{fmt.Sprintf("the program %q is not there", program), "set firewall, csf and nft in executor.toml"}
	}
	return nil
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// mark is how a block of ours is known in the firewall's own lists.
func mark(r *Record) string { return "record " + r.ID }

// comment is the record's reason without hyphens: csf takes what follows "-p" and "-d" in a
// comment for options, in the middle of a word too.
func comment(r *Record) string { return strings.ReplaceAll(r.reason(), "-", "_") }

// seconds is how long it is to last: firewalls count whole seconds, and csf takes less than
// two for an hour.
func seconds(d time.Duration) int64 { return max(2, int64((d+time.Second-1)/time.Second)) }

// gone says why a block that should stand does not.
func gone(r *Record, now time.Time) string {
	if r.For > 0 && !now.Before(r.At.Add(r.For)) {
		return "the block of " + r.Target() + " had ended by itself"
	}
	return "the block of " + r.Target() + " was not there any more: somebody lifted it, or the firewall was started anew"
}

// lasts says until when a block stands.
func lasts(r *Record, now time.Time) string {
	if r.For == 0 {
		return "until it is undone"
	}
	return "until " + now.Add(time.Duration(seconds(r.For))*time.Second).UTC().Format("2006-01-02 15:04:05 UTC")
}

// said is a command's answer and how it ended, for an error.
func said(what, out string, err error) error {
	first := cut(strings.Join(strings.Fields(out), " "), 400)
	if err == nil {
		return fmt.Errorf("%s: it said %q", what, first)
	}
	return errors.Join(fmt.Errorf("%s: it said %q", what, first), err)
}
