package actions

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os/user"
	"slices"
	"strconv"
	"strings"
)

// directPorts are what the processes of a blocked account cannot reach: delivery and
// submission, and the port that mail services offer beside them where 25 is closed.
const directPorts = mailPorts + ",2525"

// blockDirect is the change block-direct: no connection from the processes of one account
// to the mail ports of other hosts, by a table of nftables that is ours alone. What the
// account hands to this host's own Exim goes on: there it is counted, and can be held.
//
// The kernel knows processes by uid: whoever shares the account's is blocked with it.
type blockDirect struct{ x *executor }

// directRules are the [nftTable]'s. The port comes first, as it is what most packets fail
// at soonest.
//
// Two conditions say that the destination is this host, because neither is enough: a
// packet that nat has redirected to this host's Exim (SMTP restrictions of panels do that)
// still shows the device it was meant for, but its new address; and one to whatever is
// routed to the loopback device by other means has an address that is not ours.
//
// A reset ends open connections when they send next, and new ones at once: a drop would
// have web requests hang for minutes.
const directRules = `table inet osm_direct;
add set inet osm_direct blocked_uids { type uid; flags timeout; };
add chain inet osm_direct output { type filter hook output priority 0; policy accept; };
flush chain inet osm_direct output;
add rule inet osm_direct output tcp dport { ` + directPorts + ` } meta skuid @blocked_uids ` + directRefused

const directRefused = `oifname != "lo" fib daddr type != local reject with tcp reset;
`

// stateUID is the key of [Record.State] under which the uid stands that was blocked.
const stateUID = "uid"

func (b *blockDirect) check(_ context.Context, c *Change) error {
	if c.Mailbox != "" || c.Path != "" || c.IP != "" {
		return refusal{c.Action + " takes an account, nothing else", ""}
	}
	if b.x.o.Firewall.Kind == "none" { // what stands is undone all the same
		return refusal{"executor.toml says that no firewall is to be used", "set firewall in executor.toml"}
	}
	if _, err := b.table(); err != nil {
		return err
	}
	a, err := b.x.account(c.Account)
	if err != nil {
		return err
	}
	_, err = b.x.sharing(a)
	return err
}

// table is where it is done. Which firewall blocks addresses does not matter: csf has no
// command that blocks a user, and nftables stands beside it.
func (b *blockDirect) table() (nftTable, error) {
	t := nftTable{name: "osm_direct", sets: []string{"blocked_uids", "blocked_subuids"}, rules: directRules, cmd: command{
		prefix: b.x.o.CommandPrefix, limit: b.x.o.ChangeLimit, program: cmp.Or(b.x.o.Firewall.NFT, "/usr/sbin/nft"),
	}}
	if !fileExists(t.cmd.program) {
		return t, refusal{fmt.Sprintf("the program %q is not there, and nothing else blocks by user", t.cmd.program),
			"install the package nftables, also beside csf; or set nft in executor.toml"}
	}
	return t, nil
}

func uidEntry(uid string) nftEntry {
	return nftEntry{set: "blocked_uids", value: uid, is: func(listed string) bool {
		if _, err := strconv.ParseUint(listed, 10, 32); err == nil {
			return sameUID(listed, uid)
		}
		u, err := user.Lookup(listed) // as older versions write it
		return err == nil && sameUID(u.Uid, uid)
	}}
}

func uidText(uid uint32) string { return strconv.FormatUint(uint64(uid), 10) }

// sameUID compares a uid that others wrote with one that [uidText] did.
func sameUID(text, uid string) bool {
	n, err := strconv.ParseUint(text, 10, 32)
	return err == nil && uidText(uint32(n)) == uid
}

func (b *blockDirect) apply(ctx context.Context, r *Record) (string, error) {
	t, err := b.table()
	if err != nil {
		return "", err
	}
	a, err := b.x.account(r.Account)
	if err != nil {
		return "", err
	}
	others, err := b.x.sharing(a)
	if err != nil {
		return "", err
	}
	uid := uidText(a.uid)
	if before := r.State[stateUID]; before != "" && before != uid {
		return "", fmt.Errorf("%s had uid %s when this was begun, and has %s now: undo it", r.Account, before, uid)
	}
	setState(r, stateUID, uid)
	if err := b.x.records.put(r); err != nil { // the undo goes by it, whoever has that name then
		return "", err
	}
	if err := t.add(ctx, r, uidEntry(uid)); err != nil {
		return "", err
	}
	outcome := fmt.Sprintf("nft blocks processes of %s (uid %s) from ports %s of other hosts %s", r.Account, uid, directPorts, lasts(r, b.x.o.Now()))
	if len(others) > 0 {
		outcome += "; blocked with it, as they have the same uid: " + oneLine(strings.Join(others, ", "), 300)
	}
	return outcome + b.applySubUIDs(ctx, t.ofSubUIDs(), r, a), nil
}

func (b *blockDirect) undo(ctx context.Context, r *Record) (string, error) {
	uid := r.State[stateUID]
	if uid == "" {
		return "nothing to undo: it had not come into force", nil
	}
	t, err := b.table()
	if err != nil {
		return "", err
	}
	was, err := t.remove(ctx, r, uidEntry(uid))
	switch err := errors.Join(err, undoSubUIDs(ctx, t.ofSubUIDs(), r)); {
	case err != nil:
		return "", err
	case !was:
		return gone(r, b.x.o.Now()), nil
	}
	return fmt.Sprintf("nft does not block processes of uid %s any more", uid), nil
}

// state says that a block is over, too, where the uid is not the account's any more: it may
// be given to somebody else, who has done nothing.
func (b *blockDirect) state(ctx context.Context, r *Record) (State, error) {
	s := State{InForce: Unknown, PasswordChanged: Unknown}
	uid := r.State[stateUID]
	if uid == "" {
		s.InForce = No
		return s, nil
	}
	t, err := b.table()
	if err != nil {
		return s, err
	}
	stands, err := t.stands(ctx, r, uidEntry(uid))
	if err == nil && !stands {
		stands, err = subUIDsStand(ctx, t.ofSubUIDs(), r)
	}
	if err != nil {
		return s, err
	}
	u, err := user.Lookup(r.Account)
	var unknown user.UnknownUserError
	switch {
	case err != nil && !errors.As(err, &unknown):
		return s, fmt.Errorf("look up account %q: %w", r.Account, err)
	case err != nil || !sameUID(u.Uid, uid):
		s.InForce, s.ByOthers, s.Detail = No, true, fmt.Sprintf("uid %s is not that of %s any more", uid, r.Account)
		return s, nil
	}
	if s.InForce = yesIf(stands); !stands {
		now := b.x.o.Now()
		s.ByOthers, s.Detail = r.For == 0 || now.Before(r.At.Add(r.For)), gone(r, now)
	}
	return s, nil
}

// sharing lists the other users with the account's uid, and refuses where one of them is a
// user that nothing is ever done to.
func (x *executor) sharing(a account) ([]string, error) {
	uid := uidText(a.uid)
	var others []string
	left := int64(maxListBytes)
	err := eachLine("/etc/passwd", &left, func(line string) bool {
		if f := strings.Split(line, ":"); len(f) > 2 && sameUID(f[2], uid) && f[0] != a.name && !slices.Contains(others, f[0]) {
			others = append(others, f[0])
		}
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("look for others with the uid of %q: %w", a.name, err)
	}
	for _, name := range others {
		if name == "nobody" || slices.Contains(x.o.Protected, name) {
			return nil, refusal{fmt.Sprintf("%s has the uid of %.80q, to whom nothing is done", a.name, name), "give it a uid of its own"}
		}
	}
	return others, nil
}
