package actions

import (
	"context"
	"fmt"
	"os"
	"regexp"
)

// blockLogin has cPanel refuse a mailbox's login. Its mail is still received. cPanel keeps
// no reason for it: what stood before us stays.
type blockLogin struct{ panel }

// noWord is all that could mean something else than itself in a pattern or an encoding.
var noWord = regexp.MustCompile(`[^A-Za-z0-9@_-]`)

func (d blockLogin) look(ctx context.Context, r *Record) (standing, error) {
	if gone, err := d.vanished(r); gone != "" || err != nil {
		return standing{gone: gone}, err
	}
	// A pattern that finds more than we want: which characters have to be encoded, and how,
	// is not known for sure.
	m, err := d.pop(ctx, r, "list_pops", pair{"skip_main", "1"}, pair{"regex", noWord.ReplaceAllString(r.Mailbox, ".")})
	if err != nil {
		return standing{}, err
	}
	if m == nil {
		return standing{gone: "there is no mailbox " + r.Mailbox + " (any more)"}, nil
	}
	s := standing{in: truth(m["suspended_login"]), ours: Unknown}
	if s.in == Unknown { // an older version: the mark before the password's hash, if it is made
		if _, blocked, err := d.hash(r); err == nil && blocked {
			s.in = Yes
		}
	}
	// A suspended account's passwords carry another mark before ours.
	if s.in == No {
		why, suspended, err := d.suspendedFor(r.Account)
		if err == nil && suspended {
			err = fmt.Errorf("the account %s is %s, which hides whether a login of it is blocked", r.Account, why)
		}
		return s, err
	}
	return s, nil
}

func (d blockLogin) hash(r *Record) (hash string, blocked bool, err error) {
	a, err := d.x.account(r.Account)
	if err != nil {
		return "", false, err
	}
	return d.passwordHash(a, r.Mailbox)
}

// prepare keeps a fingerprint of the password, by which a new one is noticed. An earlier
// try's stays: since then the panel may have hidden the hash.
func (d blockLogin) prepare(r *Record) {
	if r.State[statePassword] != "" {
		return
	}
	hash, _, err := d.hash(r)
	if err != nil || hash == "" {
		return
	}
	if f, err := d.x.records.fingerprint(r.Mailbox, hash); err == nil {
		setState(r, statePassword, f)
	}
}

// passwordChanged compares with the fingerprint in the record.
func (p panel) passwordChanged(r *Record) Known {
	before := r.State[statePassword]
	if before == "" {
		return Unknown
	}
	hash, _, err := blockLogin{p}.hash(r)
	if err != nil || hash == "" {
		return Unknown
	}
	now, err := p.x.records.fingerprint(r.Mailbox, hash)
	if err != nil {
		return Unknown
	}
	return yesIf(now != before)
}

func (d blockLogin) do(ctx context.Context, r *Record) error {
	_, err := d.uapi(ctx, d.x.o.ChangeLimit, r.Account, "suspend_login", pair{"email", r.Mailbox})
	return err
}

func (d blockLogin) undo(ctx context.Context, r *Record) error {
	_, err := d.uapi(ctx, d.x.o.ChangeLimit, r.Account, "unsuspend_login", pair{"email", r.Mailbox})
	return err
}

// after ends the sessions that are open: cPanel only refuses new ones, and Exim asks
// Dovecot at the login alone.
func (d blockLogin) after(ctx context.Context, r *Record) string {
	said := d.kick(ctx, r.Mailbox)
	if r.State[statePassword] == "" {
		said += "; a new password will not be noticed, as the old one could not be read"
	}
	return said
}

// noSessions is what doveadm ends with when nobody of that name was connected (seen with
// Dovecot 2.3.19; 75 where Dovecot does not run).
const noSessions = 68

func (p panel) kick(ctx context.Context, mailbox string) string {
	program := p.x.o.Panel.Doveadm
	if program == "" {
		return "open sessions go on, as no doveadm is set"
	}
	if _, err := os.Stat(program); err != nil {
		return "open sessions go on, as there is no " + program
	}
	said, noise, err := p.run(ctx, p.x.o.CommandLimit, maxOutput, program, []string{"kick", mailbox})
	switch {
	case err == nil:
		return "open sessions were ended: " + oneLine(said, 200)
	case exitStatus(err) == noSessions:
		return "no session was open"
	}
	return "open sessions may go on: " + oneLine(err.Error()+" "+noise+" "+said, 200)
}
