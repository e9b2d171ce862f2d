package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"osm/internal/config"
	"osm/policy"
	store "osm/sql"
)

// What the audit calls the changes that can be taken back.
const (
	didSetLimit     = "limit set"
	didRemoveLimit  = "limit remove"
	didHold         = "hold put"
	didEndHold      = "hold release"
	didExempt       = "exempt add"
	didRemoveExempt = "exempt remove"
	didSet          = "setting set"
	didUnset        = "setting unset"
)

// Noted is the last change that was made with a context of [Noting].
type Noted struct{ id atomic.Int64 }

// ID is its number in the audit, for [Service.Undo]; 0 = nothing was changed.
func (n *Noted) ID() int64 { return n.id.Load() }

type notedKey struct{}

// Noting returns a context with which an operation notes the number of the change that it
// makes, so that whoever asked for it can be offered the way back.
func Noting(ctx context.Context) (context.Context, *Noted) {
	n := new(Noted)
	return context.WithValue(ctx, notedKey{}, n), n
}

// followFor bounds what follows a change.
const followFor = 10 * time.Second

// following is the context of what follows a change that was made: it has to be written
// down and put in force even if whoever asked for it has gone meanwhile.
func following(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), followFor)
}

// whole is the context of a change itself: broken off in the middle, nobody could tell
// whether it was made. The store bounds it.
func whole(ctx context.Context) context.Context { return context.WithoutCancel(ctx) }

// audited writes a change down. A change that was made stays made when that fails: then
// the log has it.
func (s *Service) audited(ctx context.Context, a Actor, what, target, old, now, reason string) {
	ctx, cancel := following(ctx)
	defer cancel()
	if reason != "" {
		now += " (" + reason + ")"
	}
	id, err := s.o.Store.AddAudit(ctx, store.Audit{At: Time{Time: s.o.Clock().Wall}, ActorUID: int64(a.UID), User: a.Name, Role: string(a.Role), What: what, Target: target, Old: old, New: now})
	if err != nil {
		s.o.Log.Error("a change could not be written into the audit", "what", what, "target", target, "by", a.Name, "err", err)
		return
	}
	if n, ok := ctx.Value(notedKey{}).(*Noted); ok {
		n.id.Store(id)
	}
}

// inForce makes the rules again after a change in the database, and lets the register
// of held mail look at what may go now.
func (s *Service) inForce(ctx context.Context) error {
	ctx, cancel := following(ctx)
	defer cancel()
	if err := s.o.Changed(ctx); err != nil {
		return fmt.Errorf("the change is stored, but could not be put in force: %w", err)
	}
	s.nearest.forget()
	s.o.Kick()
	return nil
}

// compact writes a value for the audit.
func compact(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprintf("%+v", v)
	}
	return string(b)
}

// reason checks why something is done: one line.
func reasonLine(s string) (string, error) {
	if len(s) > 500 {
		return "", badRequest("a reason has at most 500 bytes")
	}
	return config.OneLine(s, 500), nil
}

// refused makes one error of what package policy says against a value.
func refused(what string, m policy.Mistakes) error {
	if len(m) == 0 {
		return nil
	}
	e := invalid("", "%s cannot be so", what)
	for _, one := range m {
		key := one.Key[strings.LastIndex(one.Key, ": ")+1:]
		e.Mistakes = append(e.Mistakes, fmt.Sprintf("%s = %q: %s", strings.TrimSpace(key), one.Value, one.Allowed))
	}
	return e
}

// notPast refuses an end that lies behind.
func (s *Service) notPast(until Time) error {
	if !until.IsZero() && !until.After(s.o.Clock().Wall) {
		return invalid("", "until is %s: that is over already", until.UTC().Format(time.RFC3339))
	}
	return nil
}

// Holds lists the holds that stand, the oldest first.
func (s *Service) Holds(ctx context.Context, a Actor, account string, p Page) (List[Hold], error) {
	list, err := s.o.Store.Holds(ctx)
	if err != nil {
		return List[Hold]{}, found(err, "", "no holds")
	}
	var out []Hold
	for i := range list {
		if h := &list[i]; (account == "" || h.Account == account) && s.visible(a, h.Account) {
			out = append(out, holdRow(h))
		}
	}
	return numbered(out, p)
}

func holdRow(h *policy.Hold) Hold {
	verdict := policy.Freeze
	if h.Verdict == policy.Discard {
		verdict = policy.Discard
	}
	return Hold{ID: h.ID, Scope: h.Scope.String(), Account: h.Account, Value: h.Value, Verdict: verdict.String(), Release: h.Release.String(), Trigger: h.Trigger,
		EventID: h.EventID, Until: Time{Time: h.Until}, By: h.Provenance.By, At: Time{Time: h.Provenance.At}, Reason: h.Provenance.Reason}
}

// PutHold puts a hold. A mailbox's or directory's account follows from the panel's maps
// where it is not named; a Subject is compared without its numbers.
func (s *Service) PutHold(ctx context.Context, a Actor, in Hold) (Hold, error) {
	h, err := s.readHold(a, &in)
	if err != nil {
		return Hold{}, err
	}
	if err := s.mayAccount(a, h.Account); err != nil {
		return Hold{}, err
	}
	if err := refused("the hold", policy.ValidateHold(&h)); err != nil {
		return Hold{}, err
	}
	if err := s.mistyped(ctx, a, h.Account); err != nil {
		return Hold{}, err
	}
	if a.Role != Operator && h.Verdict != policy.Freeze {
		return Hold{}, forbidden("only an operator may discard mail by a hold")
	}
	standing, err := s.o.Store.Holds(ctx)
	if err != nil {
		return Hold{}, found(err, "", "no holds")
	}
	for i := range standing {
		if o := &standing[i]; o.Scope == h.Scope && o.Account == h.Account && o.Value == h.Value {
			return Hold{}, failure(409, fmt.Sprintf("end it first: osmctl release %d", o.ID), "hold %d stands on %s already", o.ID, held(o))
		}
	}
	if h.ID, err = s.o.Store.PutHold(whole(ctx), h); err != nil {
		return Hold{}, found(err, "", "no hold")
	}
	out := holdRow(&h)
	s.audited(ctx, a, didHold, held(&h), "", compact(out), "")
	return out, s.inForce(ctx)
}

// readHold makes a hold of what was asked for.
func (s *Service) readHold(a Actor, in *Hold) (policy.Hold, error) {
	h := policy.Hold{Account: in.Account, Value: in.Value, Until: in.Until.Time, Provenance: policy.Provenance{Where: "database", By: a.Name, At: s.o.Clock().Wall}}
	var okScope, okVerdict, okRelease bool
	h.Scope, okScope = policy.ParseScope(in.Scope)
	h.Verdict, okVerdict = policy.ParseVerdict(orNothing(in.Verdict, "freeze"))
	h.Release, okRelease = policy.ParseRelease(orNothing(in.Release, "manual"))
	switch {
	case in.ID != 0 || in.Trigger != "" || in.EventID != 0 || in.By != "" || !in.At.IsZero():
		return h, badRequest("id, trigger, event_id, by and at are not set by whoever puts a hold")
	case !okScope:
		return h, badRequest("scope is %.40q: it is account, mailbox, directory or subject", in.Scope)
	case !okVerdict:
		return h, badRequest("verdict is %.40q: it is freeze or discard", in.Verdict)
	case !okRelease:
		return h, badRequest("release is %.40q: it is manual or when-free", in.Release)
	}
	if err := s.notPast(in.Until); err != nil {
		return h, err
	}
	var err error
	if h.Provenance.Reason, err = reasonLine(in.Reason); err != nil {
		return h, err
	}
	s.complete(a, h.Scope, &h.Account, &h.Value)
	return h, s.ownMailbox(a, &h)
}

// ownMailbox refuses a hold on a mailbox in the name of an account that does not own it:
// it is the mailbox alone that is compared. For a reseller the panel's maps must know the
// owner, or he could stop a mailbox that becomes somebody else's.
func (s *Service) ownMailbox(a Actor, h *policy.Hold) error {
	if h.Scope != policy.ScopeMailbox {
		return nil
	}
	owner, known := s.ownerOfDomain(a, domainOf(h.Value))
	switch {
	case a.Role != Operator && !known:
		return noMailbox(h.Value)
	case known && h.Account != owner.Name:
		return invalid("leave the account out: it follows from the mailbox", "mailbox %.80s belongs to account %s, not %.40s", h.Value, owner.Name, h.Account)
	}
	return nil
}

func noMailbox(name string) error {
	return notFound("osmctl accounts finds an account by its mailbox", "no account has the mailbox %.80q", name)
}

// complete brings what a hold or exemption matches into the form that is compared, and
// fills in the account where the panel's maps tell it.
func (s *Service) complete(a Actor, scope policy.Scope, account, value *string) {
	switch scope {
	case policy.ScopeMailbox:
		*value = strings.ToLower(*value)
		if owner, ok := s.ownerOfDomain(a, domainOf(*value)); ok && *account == "" {
			*account = owner.Name
		}
	case policy.ScopeDirectory:
		if owner, ok := s.ownerOfPath(a, *value); ok && *account == "" {
			*account = owner.Name
		}
	case policy.ScopeSubject:
		*value, _ = policy.FoldSubject(*value)
	case policy.ScopeRecipientDomain:
		*value = strings.ToLower(*value)
	}
}

// domainOf is what follows the last "@": whose mailbox it is depends on it.
func domainOf(mailbox string) string { return mailbox[strings.LastIndexByte(mailbox, '@')+1:] }

// EndHold ends a standing hold. A reseller may end those that he put himself.
func (s *Service) EndHold(ctx context.Context, a Actor, id int64, reason string) (Hold, error) {
	h, err := s.o.Store.Hold(ctx, id)
	if err == nil && !s.visible(a, h.Account) {
		err = store.ErrNotFound
	}
	if err != nil {
		return Hold{}, found(err, "osmctl hold list shows those that stand", "there is no hold %d", id)
	}
	if a.Role != Operator && (h.Trigger != "" || h.Provenance.By != a.Name) {
		return Hold{}, forbidden("hold %d was put by %s, and only an operator may end it", id, orNothing(h.Provenance.By, "osm itself"))
	}
	if reason, err = reasonLine(reason); err != nil {
		return Hold{}, err
	}
	err = s.o.Store.EndHold(whole(ctx), id, a.Name)
	if err != nil {
		return Hold{}, found(err, "osmctl hold list shows those that stand", "hold %d has ended already", id)
	}
	out := holdRow(&h.Hold)
	s.o.Released(h.Hold)
	s.audited(ctx, a, didEndHold, held(&h.Hold), compact(out), "ended", reason)
	return out, s.inForce(ctx)
}

// holdOf is the hold that stopped a message, and whether it stands still.
func (s *Service) holdOf(ctx context.Context, d *Decision) (*policy.Hold, bool, error) {
	if d.HoldID == 0 {
		return nil, false, nil
	}
	h, err := s.o.Store.Hold(ctx, d.HoldID)
	if errors.Is(err, store.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, found(err, "", "no hold")
	}
	stands := h.EndedAt.IsZero() && (h.Until.IsZero() || h.Until.After(s.o.Clock().Wall))
	return &h.Hold, stands, nil
}

// standingHold is a hold of the rules in force.
func (s *Service) standingHold(id int64) *policy.Hold {
	rules := s.o.Engine.Rules()
	for i := range rules.Holds {
		if rules.Holds[i].ID == id && id != 0 {
			return &rules.Holds[i]
		}
	}
	return nil
}

// Reset forgets one counter, so that its sender is free of this limit at once.
func (s *Service) Reset(ctx context.Context, a Actor, r ResetRequest) error {
	if err := operatorOnly(a, "reset a counter"); err != nil {
		return err
	}
	reason, err := reasonLine(r.Reason)
	if err != nil {
		return err
	}
	old := s.usedOf(r.Trigger, r.Key)
	err = s.o.Engine.Reset(r.Trigger, r.Key)
	switch {
	case errors.Is(err, policy.ErrNoCounter):
		return notFound("osmctl usage ACCOUNT shows the counters with their keys", "%v", err)
	case err != nil:
		return invalid("osmctl usage ACCOUNT shows triggers and keys", "%v", err)
	}
	s.o.WasReset(r.Trigger, r.Key)
	s.audited(ctx, a, "reset", r.Trigger+"/"+r.Key, old, "0", reason)
	s.o.Kick()
	return nil
}

// usedOf tells what a counter held, for the audit.
func (s *Service) usedOf(trigger, key string) string {
	account, _, _ := strings.Cut(key, " ")
	for _, name := range []string{account, key} {
		for _, u := range s.o.Engine.UsageOf(s.o.Clock(), s.placed(policy.Identity{Account: name})) {
			if u.Trigger == trigger && u.Key == key {
				return fmt.Sprintf("%d of %d", u.Used, u.Max)
			}
		}
	}
	return ""
}

// domainOf is the domain of a mailbox.
