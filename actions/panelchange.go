package actions

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"osm/policy"
)

// deed is one thing that a panel can do and take back. How it is gone about is the same for
// all of them, and is [panelChange]'s.
type deed interface {
	// look says how it stands now. An error means that it could not be seen.
	look(ctx context.Context, r *Record) (standing, error)
	// prepare notes in r.State what is to be known afterwards, before anything is done.
	prepare(r *Record)
	// do and undo ask the panel. Whether it was done is not theirs to say.
	do(ctx context.Context, r *Record) error
	undo(ctx context.Context, r *Record) error
	// after is what remains to be done when it is in force; it says what became of that.
	after(ctx context.Context, r *Record) string
}

// standing is how a deed stands on the panel.
type standing struct {
	in   Known  // is it in force?
	ours Known  // by this record? Unknown where the panel keeps no reason
	why  string // what the panel says of it
	gone string // not empty: what it is about is not there any more
}

// panelChange is a [changer] by way of the panel: look, do, look again. No exit status and
// no word of the panel counts for the deed, but where nothing at all can be seen.
type panelChange struct {
	panel
	action  string
	mailbox bool // whether it needs one
	either  bool // whether it is for accounts and mailboxes
	cpanel  deed
}

func (x *executor) suspendAccount() changer {
	p := panel{x}
	return panelChange{panel: p, action: policy.ActionSuspendAccount, cpanel: suspendAccount{p}}
}

func (x *executor) panelHold() changer {
	p := panel{x}
	return panelChange{panel: p, action: policy.ActionPanelHold, either: true, cpanel: panelHold{p}}
}

func (x *executor) blockLogin() changer {
	p := panel{x}
	return panelChange{panel: p, action: policy.ActionBlockLogin, mailbox: true, cpanel: blockLogin{p}}
}

// deed is who does it on a panel of this kind.
func (k panelChange) deed(kind string) (deed, error) {
	c, has := k.x.o.Panel.Commands[k.action]
	switch {
	case kind == panelCPanel:
		return k.cpanel, nil
	case kind == panelCommands && has:
		return operatorsCommand{k.panel, c}, nil
	case kind == panelCommands:
		return nil, refusal{"no command is set for " + k.action, "set do, undo and check under [command." + k.action + "] in executor.toml"}
	}
	return nil, refusal{"no hosting panel is known here that could " + strings.ReplaceAll(k.action, "-", " "),
		`set panel = "commands" and [command.` + k.action + `] in executor.toml, or take the action out of the triggers`}
}

func (k panelChange) check(_ context.Context, c *Change) error {
	if _, err := k.deed(k.kind()); err != nil {
		return err
	}
	switch {
	case c.Path != "" || c.IP != "":
		return refusal{why: k.action + " is for accounts and mailboxes, not for paths and addresses"}
	case c.Mailbox == "" && k.mailbox:
		return refusal{k.action + " needs a mailbox", "name it as user@domain"}
	case c.Mailbox != "" && !k.mailbox && !k.either:
		return refusal{k.action + " is for a whole account, not for a mailbox", "name the account alone"}
	}
	if _, err := k.account(c.Account); err != nil {
		return err
	}
	if c.Mailbox != "" {
		return k.panel.mailbox(c)
	}
	return nil
}

// Keys of [Record.State].
const (
	statePanel    = "panel"    // the kind it was done on: the undo needs the same
	stateAsked    = "asked"    // when the panel was asked to, while its answer is not known
	statePassword = "password" // fingerprint of the mailbox's password before
)

// setState notes something for the undo; what an earlier try of the same change noted stays.
func setState(r *Record, key, value string) {
	if r.State == nil {
		r.State = map[string]string{}
	}
	if r.State[key] == "" && value != "" {
		r.State[key] = value
	}
}

// theirs is the deed on the panel that a record was done on.
func (k panelChange) theirs(r *Record) (deed, error) {
	if kind := r.State[statePanel]; kind != "" {
		return k.deed(kind)
	}
	return k.deed(k.kind())
}

func (k panelChange) apply(ctx context.Context, r *Record) (string, error) {
	d, err := k.theirs(r)
	if err != nil {
		return "", err
	}
	s, err := d.look(ctx, r)
	switch {
	case err != nil:
		return "", fmt.Errorf("not begun, as it cannot be seen how it stands: %w", err)
	case s.gone != "":
		return "", leftAlone{s.gone}
	case s.in == Yes && isOurs(s, r):
		return k.inForce(ctx, d, r, "it was in force already, by an earlier try of ours"), nil
	case s.in == Yes:
		return "", leftAlone{"it is so already, and not by this action" + because(s.why)}
	}
	d.prepare(r)
	setState(r, statePanel, k.kind())
	r.State[stateAsked] = k.x.o.Now().UTC().Format(time.RFC3339)
	if err := k.x.records.put(r); err != nil { // else a panel's deed could be nobody's
		return "", err
	}
	asked := d.do(ctx, r)
	s, err = d.look(ctx, r)
	switch {
	case err != nil:
		return "", errors.Join(asked, fmt.Errorf("and it cannot be seen how it stands: %w", err))
	case s.gone != "":
		return "", leftAlone{s.gone}
	case s.in == Yes && s.ours == No:
		return "", leftAlone{"somebody else did it at the same time" + because(s.why)}
	case s.in == Yes:
		return k.inForce(ctx, d, r, "done and seen to be in force"+butSaid(asked)), nil
	case s.in == Unknown && asked == nil:
		return k.inForce(ctx, d, r, "done by the panel's word; nothing shows whether it is in force"), nil
	case s.in == Unknown:
		return "", asked
	}
	delete(r.State, stateAsked)
	if asked == nil {
		asked = errors.New("the panel says that it is done, but it is not in force")
	}
	return "", asked
}

// isOurs reports whether what is in force is the record's own doing. Where the panel keeps
// no reason it is if we saw it come into force, or asked for it and never heard what became
// of that.
func isOurs(s standing, r *Record) bool {
	return s.ours == Yes || (s.ours == Unknown && (r.Done || r.State[stateAsked] != ""))
}

func (k panelChange) inForce(ctx context.Context, d deed, r *Record, outcome string) string {
	if more := d.after(ctx, r); more != "" {
		outcome += "; " + more
	}
	return outcome
}

func because(why string) string {
	if why == "" {
		return ""
	}
	return ": " + why
}

func butSaid(err error) string {
	if err == nil {
		return ""
	}
	return ", though: " + oneLine(err.Error(), 300)
}

func (k panelChange) undo(ctx context.Context, r *Record) (string, error) {
	d, err := k.theirs(r)
	if err != nil {
		return "", err
	}
	s, err := d.look(ctx, r)
	switch {
	case err != nil:
		return "", fmt.Errorf("not undone, as it cannot be seen how it stands: %w", err)
	case s.gone != "":
		return "nothing to undo: " + s.gone, nil
	case s.in == No && !r.Done:
		return "nothing to undo: it had not come into force", nil
	case s.in == No:
		return "nothing to undo: somebody else has done that", nil
	case s.in == Yes && !isOurs(s, r):
		return "left as it is, for it is somebody else's" + because(s.why), nil
	}
	asked := d.undo(ctx, r)
	s, err = d.look(ctx, r)
	switch {
	case err != nil:
		return "", errors.Join(asked, fmt.Errorf("and it cannot be seen how it stands: %w", err))
	case s.gone != "":
		return "nothing to undo: " + s.gone, nil
	case s.in == No:
		return "undone and seen to be so" + butSaid(asked), nil
	case s.in == Yes && s.ours == No:
		return "undone, and since then somebody else did it anew" + because(s.why), nil
	case s.in == Unknown && asked == nil:
		return "undone by the panel's word; nothing shows whether it is", nil
	case asked == nil:
		return "", errors.New("the panel says that it is undone, but it is still in force")
	}
	return "", asked
}

// state says what has become of a record. Nothing is changed.
func (k panelChange) state(ctx context.Context, r *Record) (State, error) {
	d, err := k.theirs(r)
	if err != nil {
		return State{}, err
	}
	s, err := d.look(ctx, r)
	if err != nil {
		return State{}, err
	}
	st := State{InForce: s.in, Detail: s.why, PasswordChanged: Unknown}
	switch {
	case s.gone != "":
		return State{InForce: No, ByOthers: true, Detail: s.gone, PasswordChanged: Unknown}, nil
	case s.in == Yes && !isOurs(s, r):
		st.InForce, st.ByOthers = No, true
	case s.in == No && r.Done:
		st.ByOthers = true
		st.Detail = "somebody else has undone it"
	}
	if k.mailbox {
		st.PasswordChanged = k.passwordChanged(r)
	}
	return st, nil
}
