package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"osm/policy"
	store "osm/sql"
)

// way is the way back from one change.
type way struct {
	text string // what it would do
	do   func(ctx context.Context, a Actor, why string) error
}

// standing is what is set now, as far as undoing has to look at it; each part is read when
// it is asked for first.
type standing struct {
	s          *Service
	now        time.Time
	overrides  []policy.Override
	exemptions []store.Exemption
	holds      []policy.Hold
	read       map[string]bool
}

func (s *Service) standing() *standing {
	return &standing{s: s, now: s.o.Clock().Wall, read: map[string]bool{}}
}

// once reads one part.
func (n *standing) once(part string, read func() error) error {
	if n.read[part] {
		return nil
	}
	n.read[part] = true
	return found(read(), "", "nothing is set")
}

// back finds the way back from a change; its text is "" where there is none: the change is
// of another kind, what it changed was changed again, or its time is over.
func (n *standing) back(ctx context.Context, e *AuditEntry) (way, error) {
	switch e.What {
	case didSetLimit, didRemoveLimit:
		err := n.once("limits", func() (err error) { n.overrides, err = n.s.o.Store.Overrides(ctx); return err })
		if err != nil {
			return way{}, err
		}
		if e.What == didSetLimit {
			return n.backFromLimit(e), nil
		}
		return n.backToLimit(e), nil
	case didHold, didEndHold:
		err := n.once("holds", func() (err error) { n.holds, err = n.s.o.Store.Holds(ctx); return err })
		if err != nil {
			return way{}, err
		}
		if e.What == didHold {
			return n.backFromHold(e), nil
		}
		return n.backToHold(e), nil
	case didExempt, didRemoveExempt:
		err := n.once("exemptions", func() (err error) { n.exemptions, err = n.s.o.Store.Exemptions(ctx); return err })
		if err != nil {
			return way{}, err
		}
		if e.What == didExempt {
			return n.backFromExemption(e), nil
		}
		return n.backToExemption(e), nil
	case didSet, didUnset:
		return n.backToSetting(e), nil
	}
	return way{}, nil
}

// kept reads what the audit kept of something; there may be a reason behind it.
func kept(text string, v any) bool {
	return text != "" && json.NewDecoder(strings.NewReader(text)).Decode(v) == nil
}

// isStill reports whether something is as a change left it.
func isStill(e *AuditEntry, v any) bool { return strings.HasPrefix(e.New, compact(v)) }

func (n *standing) over(until Time) bool { return !until.IsZero() && !until.After(n.now) }

// backFromLimit is the way back from a limit that was set: to the one before, or to none.
func (n *standing) backFromLimit(e *AuditEntry) way {
	var set, before Limit
	if !kept(e.New, &set) {
		return way{}
	}
	i := slices.IndexFunc(n.overrides, func(o policy.Override) bool { return o.ID == set.ID })
	if i < 0 || !isStill(e, limitRow(&n.overrides[i])) {
		return way{}
	}
	what := fmt.Sprintf("limit %d (%s)", set.ID, e.Target)
	if !kept(e.Old, &before) || n.over(before.Until) {
		return way{"remove " + what, func(ctx context.Context, a Actor, why string) error {
			_, err := n.s.RemoveLimit(ctx, a, set.ID, why)
			return err
		}}
	}
	return way{"set " + what + " back to " + limitWords(&before), func(ctx context.Context, a Actor, why string) error {
		return n.s.restoreLimit(ctx, a, &before, compact(set), why)
	}}
}

// backToLimit is the way back to a limit that was removed.
func (n *standing) backToLimit(e *AuditEntry) way {
	var was Limit
	if !kept(e.Old, &was) || n.over(was.Until) {
		return way{}
	}
	if slices.ContainsFunc(n.overrides, func(o policy.Override) bool {
		return o.Level.String() == was.Level && o.Name == was.Name && o.Trigger == was.Trigger
	}) {
		return way{}
	}
	was.ID = 0
	return way{"set the limit of " + e.Target + " again: " + limitWords(&was), func(ctx context.Context, a Actor, why string) error {
		return n.s.restoreLimit(ctx, a, &was, "", why)
	}}
}

// limitWords tells what a limit sets.
func limitWords(l *Limit) string {
	var parts []string
	if l.Max != nil {
		parts = append(parts, "max "+decimal(*l.Max))
	}
	if l.Per != nil {
		parts = append(parts, "per "+l.Per.String())
	}
	for _, word := range []struct {
		name  string
		value *string
	}{{"mode", l.Mode}, {"verdict", l.Verdict}, {"release", l.Release}} {
		if word.value != nil {
			parts = append(parts, word.name+" "+*word.value)
		}
	}
	if l.Actions != nil {
		var names []string
		for _, x := range *l.Actions {
			names = append(names, x.String())
		}
		parts = append(parts, "actions "+orNothing(strings.Join(names, " and "), "none"))
	}
	return strings.Join(parts, ", ")
}

// restoreLimit sets a limit as it was before, with who set it then.
func (s *Service) restoreLimit(ctx context.Context, a Actor, was *Limit, old, why string) error {
	again := *was
	again.ID, again.Where, again.By, again.At = 0, "", "", Time{}
	o, err := s.readLimit(a, &again)
	if err != nil {
		return err
	}
	if err := s.mayLimit(a, &o); err != nil {
		return err
	}
	stored, err := s.o.Store.Overrides(ctx)
	if err != nil {
		return found(err, "", "no limits")
	}
	as := a
	if was.By != a.Name { // a reseller may give back what an operator had set, however high
		as.Role = Operator
	}
	if err := s.validLimit(as, &o, stored); err != nil {
		return err
	}
	o.ID, o.Provenance.By, o.Provenance.At = was.ID, was.By, was.At.Time
	if o.ID, err = s.o.Store.PutOverride(ctx, o); err != nil {
		return found(err, "", "no limit")
	}
	s.audited(ctx, a, didSetLimit, limitTarget(&o), old, compact(limitRow(&o)), why)
	return s.inForce(ctx)
}

// backFromHold is the way back from a hold: its end.
func (n *standing) backFromHold(e *AuditEntry) way {
	var put Hold
	if !kept(e.New, &put) {
		return way{}
	}
	i := slices.IndexFunc(n.holds, func(h policy.Hold) bool { return h.ID == put.ID })
	if i < 0 || !isStill(e, holdRow(&n.holds[i])) {
		return way{}
	}
	return way{fmt.Sprintf("end hold %d on %s", put.ID, e.Target), func(ctx context.Context, a Actor, why string) error {
		_, err := n.s.EndHold(ctx, a, put.ID, why)
		return err
	}}
}

// backToHold is the way back to a hold that was ended.
func (n *standing) backToHold(e *AuditEntry) way {
	var was Hold
	if !kept(e.Old, &was) || n.over(was.Until) {
		return way{}
	}
	if slices.ContainsFunc(n.holds, func(h policy.Hold) bool {
		return h.Scope.String() == was.Scope && h.Account == was.Account && h.Value == was.Value
	}) {
		return way{}
	}
	return way{"put the hold on " + e.Target + " again", func(ctx context.Context, a Actor, why string) error {
		return n.s.restoreHold(ctx, a, was.ID, why)
	}}
}

// restoreHold puts a hold again that was ended, as it was.
func (s *Service) restoreHold(ctx context.Context, a Actor, id int64, why string) error {
	was, err := s.o.Store.Hold(ctx, id)
	if err == nil && !s.visible(a, was.Account) {
		err = store.ErrNotFound
	}
	if err != nil {
		return found(err, "", "there is no hold %d", id)
	}
	h := was.Hold
	h.ID = 0
	if a.Role != Operator && h.Verdict == policy.Discard {
		return forbidden("only an operator may discard mail by a hold")
	}
	if h.ID, err = s.o.Store.PutHold(ctx, h); err != nil {
		return found(err, "", "no hold")
	}
	s.audited(ctx, a, didHold, held(&h), "", compact(holdRow(&h)), why)
	return s.inForce(ctx)
}

// backFromExemption is the way back from an exemption that was added.
func (n *standing) backFromExemption(e *AuditEntry) way {
	var added Exemption
	if !kept(e.New, &added) {
		return way{}
	}
	i := slices.IndexFunc(n.exemptions, func(x store.Exemption) bool { return x.ID == added.ID })
	if i < 0 || !isStill(e, exemptionRow(&n.exemptions[i].Exemption, 0)) {
		return way{}
	}
	return way{fmt.Sprintf("remove exemption %d of %s", added.ID, e.Target), func(ctx context.Context, a Actor, why string) error {
		_, err := n.s.RemoveExemption(ctx, a, added.ID, why)
		return err
	}}
}

// backToExemption is the way back to an exemption that was removed.
func (n *standing) backToExemption(e *AuditEntry) way {
	var was Exemption
	if !kept(e.Old, &was) || n.over(was.Until) {
		return way{}
	}
	if slices.ContainsFunc(n.exemptions, func(x store.Exemption) bool {
		return x.Scope.String() == was.Scope && x.Account == was.Account && x.Value == was.Value && x.Trigger == was.Trigger
	}) {
		return way{}
	}
	return way{"exempt " + e.Target + " again", func(ctx context.Context, a Actor, why string) error {
		return n.s.restoreExemption(ctx, a, &was, why)
	}}
}

// restoreExemption adds an exemption again, as it was.
func (s *Service) restoreExemption(ctx context.Context, a Actor, was *Exemption, why string) error {
	if err := operatorOnly(a, "exempt anybody from limits"); err != nil {
		return err
	}
	scope, _ := policy.ParseScope(was.Scope)
	x := policy.Exemption{Scope: scope, Account: was.Account, Value: was.Value, Trigger: was.Trigger, Ceiling: was.Ceiling, Until: was.Until.Time,
		Provenance: policy.Provenance{Where: "database", By: was.By, At: was.At.Time, Reason: was.Reason}}
	if err := refused("the exemption", policy.ValidateExemption(&x, s.o.Engine.Rules().Triggers)); err != nil {
		return err
	}
	var err error
	if x.ID, err = s.o.Store.PutExemption(ctx, x); err != nil {
		return found(err, "", "no exemption")
	}
	s.audited(ctx, a, didExempt, exemptTarget(&x), "", compact(exemptionRow(&x, 0)), why)
	return s.inForce(ctx)
}

// backToSetting is the way back to a setting as it was.
func (n *standing) backToSetting(e *AuditEntry) way {
	var was storedSetting
	if !kept(e.Old, &was) || !isStill(e, n.s.settingNow(was.Key)) {
		return way{}
	}
	text, value := fmt.Sprintf("set %s back to %s", was.Key, was.Value), &was.Value
	if was.Where != "database" {
		text, value = fmt.Sprintf("let osm.toml decide on %s again (it was %s)", was.Key, was.Value), nil
	}
	return way{text, func(ctx context.Context, a Actor, why string) error {
		_, err := n.s.Set(ctx, a, was.Key, value, why)
		return err
	}}
}

// Undo takes one change of the audit back, where that can be done, and returns the change
// that did it. An operator may take back everybody's, a reseller his own.
func (s *Service) Undo(ctx context.Context, a Actor, id int64, reason string) (AuditEntry, error) {
	reason, err := reasonLine(reason)
	if err != nil {
		return AuditEntry{}, err
	}
	s.undoing.Lock() // of two who take back the same change one is told that it is done
	defer s.undoing.Unlock()
	e, err := s.o.Store.AuditEntry(ctx, id)
	if err == nil && a.Role != Operator && (e.User != a.Name || e.Role != string(a.Role)) {
		err = store.ErrNotFound
	}
	if err != nil {
		return AuditEntry{}, found(err, "osmctl audit lists them", "there is no change %d", id)
	}
	back, err := s.standing().back(ctx, &e)
	switch {
	case err != nil:
		return AuditEntry{}, err
	case back.text == "" && !canUndo(e.What):
		return AuditEntry{}, invalid("limits, holds, exemptions and settings can be", "change %d (%s) cannot be taken back", id, e.What)
	case back.text == "":
		return AuditEntry{}, failure(http.StatusConflict, "look at it again: osmctl audit", "change %d (%s, %s) cannot be taken back: what it left has been changed since, or its time is over", id, e.What, e.Target)
	}
	why := fmt.Sprintf("undo of change %d", id)
	if reason != "" {
		why += ": " + reason
	}
	outer, _ := ctx.Value(notedKey{}).(*Noted)
	noting, noted := Noting(ctx)
	if err := back.do(noting, a, why); err != nil {
		return AuditEntry{}, err
	}
	if outer != nil {
		outer.id.Store(noted.ID())
	}
	done, err := s.o.Store.AuditEntry(ctx, noted.ID())
	if errors.Is(err, store.ErrNotFound) { // it could not be written down, which the log tells
		return AuditEntry{At: Time{Time: s.o.Clock().Wall}, User: a.Name, Role: string(a.Role), What: back.text, Target: e.Target}, nil
	}
	if err != nil {
		return AuditEntry{}, found(err, "", "no change")
	}
	again, err := s.standing().back(ctx, &done)
	done.Undo = again.text
	return done, err
}

// canUndo reports whether a kind of change can be taken back.
func canUndo(what string) bool {
	return slices.Contains([]string{didSetLimit, didRemoveLimit, didHold, didEndHold, didExempt, didRemoveExempt, didSet, didUnset}, what)
}
