package control

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"osm/policy"
)

// Limits lists what is set for the server, resellers, packages, accounts and mailboxes:
// those of the file first, then those of the database.
func (s *Service) Limits(ctx context.Context, a Actor, level, name string, p Page) (List[Limit], error) {
	stored, err := s.o.Store.Overrides(ctx)
	if err != nil {
		return List[Limit]{}, found(err, "", "no limits")
	}
	return numbered(s.limitsWhere(a, stored, func(o *policy.Override) bool {
		return (level == "" || level == o.Level.String()) && (name == "" || name == o.Name)
	}), p)
}

// limitsWhere are the limits of the file and those stored for which is holds, as far as
// the actor may see them.
func (s *Service) limitsWhere(a Actor, stored []policy.Override, is func(*policy.Override) bool) []Limit {
	out := []Limit{}
	for _, o := range slices.Concat(s.o.Config().Overrides, stored) {
		if is(&o) && s.mayOverride(a, &o) {
			out = append(out, limitRow(&o))
		}
	}
	return out
}

// limitsOf are the limits that are set for an account and for its mailboxes, whatever
// domain they are of.
func (s *Service) limitsOf(ctx context.Context, a Actor, account string) ([]Limit, error) {
	stored, err := s.o.Store.Overrides(ctx)
	if err != nil {
		return nil, found(err, "", "no limits")
	}
	return s.limitsWhere(a, stored, func(o *policy.Override) bool {
		switch o.Level {
		case policy.LevelAccount:
			return o.Name == account
		case policy.LevelMailbox:
			owner, ok := s.o.Accounts().ByDomain(domainOf(o.Name))
			return ok && owner.Name == account
		}
		return false
	}), nil
}

func limitRow(o *policy.Override) Limit {
	l := Limit{ID: o.ID, Level: o.Level.String(), Name: o.Name, Trigger: o.Trigger, Max: o.Max, Until: Time{Time: o.Until},
		Where: orNothing(o.Provenance.Where, "file"), By: o.Provenance.By, At: Time{Time: o.Provenance.At}, Reason: o.Provenance.Reason}
	if o.Per != nil {
		per := Period(*o.Per)
		l.Per = &per
	}
	l.Verdict, l.Release, l.Mode = wordOf(o.Verdict), wordOf(o.Release), wordOf(o.Mode)
	if o.Actions != nil {
		list := entriesOf(*o.Actions)
		l.Actions = &list
	}
	return l
}

func wordOf[T fmt.Stringer](v *T) *string {
	if v == nil {
		return nil
	}
	s := (*v).String()
	return &s
}

// mayOverride reports whether the actor may see a limit: a reseller his own, and those
// of his accounts.
func (s *Service) mayOverride(a Actor, o *policy.Override) bool {
	switch {
	case a.Role == Operator:
		return true
	case o.Level == policy.LevelReseller:
		return o.Name == a.Reseller
	case o.Level == policy.LevelAccount:
		return s.visible(a, o.Name)
	case o.Level == policy.LevelMailbox:
		_, ok := s.ownerOfDomain(a, domainOf(o.Name))
		return ok
	}
	return false
}

// SetLimit sets a limit. What is null stays as it was set before for the same level,
// name and trigger, or is inherited.
func (s *Service) SetLimit(ctx context.Context, a Actor, in Limit) (Limit, error) {
	o, before, err := s.planLimit(ctx, a, &in)
	if err != nil {
		return Limit{}, err
	}
	old := ""
	if before != nil {
		old = compact(limitRow(before))
	}
	if o.ID, err = s.o.Store.PutOverride(whole(ctx), o); err != nil {
		return Limit{}, found(err, "", "no limit")
	}
	out := limitRow(&o)
	s.audited(ctx, a, didSetLimit, limitTarget(&o), old, compact(out), "")
	return out, s.inForce(ctx)
}

// planLimit makes an override of what is to be set, as far as the actor may; before is the
// one that it replaces, nil for none.
func (s *Service) planLimit(ctx context.Context, a Actor, in *Limit) (o policy.Override, before *policy.Override, err error) {
	if o, err = s.readLimit(a, in); err != nil {
		return o, nil, err
	}
	if err := s.mayLimit(a, &o); err != nil {
		return o, nil, err
	}
	if err := onlyMaximum(a, &o); err != nil {
		return o, nil, err
	}
	stored, err := s.o.Store.Overrides(ctx)
	if err != nil {
		return o, nil, found(err, "", "no limits")
	}
	for i := range stored {
		b := &stored[i]
		if b.Level != o.Level || b.Name != o.Name || b.Trigger != o.Trigger {
			continue
		}
		o.ID, before = b.ID, b
		switch {
		case !b.Until.IsZero() && !b.Until.After(s.o.Clock().Wall): // it has ended
		case a.Role != Operator && b.Provenance.By != a.Name:
			return o, nil, forbidden("limit %d was set by %s, and only an operator may change it", b.ID, orNothing(b.Provenance.By, "an operator"))
		default:
			inherit(&o, b, in.Forever)
		}
	}
	return o, before, s.validLimit(a, &o, stored)
}

// mayLimit refuses a limit for somebody whom the actor may not set one for.
func (s *Service) mayLimit(a Actor, o *policy.Override) error {
	switch {
	case a.Role == Operator:
		return nil
	case o.Level < policy.LevelAccount:
		return forbidden("only an operator may set limits of the server, of packages and of resellers")
	case !s.mayOverride(a, o) && o.Level == policy.LevelMailbox:
		return noMailbox(o.Name)
	case !s.mayOverride(a, o):
		return noAccount(o.Name)
	}
	return nil
}

// validLimit refuses a limit that cannot be so.
func (s *Service) validLimit(a Actor, o *policy.Override, stored []policy.Override) error {
	if err := s.withinReseller(a, o, stored); err != nil {
		return err
	}
	if err := refused("the limit", policy.ValidateOverride(o, s.o.Engine.Rules().Triggers)); err != nil {
		return err
	}
	if o.Per != nil && *o.Per > s.o.Config().Store.KeepDecisions {
		return invalid("raise store.keep_decisions first", "per is longer than decisions are kept (store.keep_decisions)")
	}
	return nil
}

func limitTarget(o *policy.Override) string {
	return strings.TrimSpace(o.Level.String()+" "+o.Name) + ", trigger " + orNothing(o.Trigger, "all")
}

// inherit keeps what was set before and is not set anew, its end and its reason too: a
// raise until tomorrow must not become one for ever because somebody changed its mode.
func inherit(o, before *policy.Override, forever bool) {
	if o.Until.IsZero() && !forever {
		o.Until = before.Until
	}
	if o.Provenance.Reason == "" {
		o.Provenance.Reason = before.Provenance.Reason
	}
	if o.Max == nil {
		o.Max = before.Max
	}
	if o.Per == nil {
		o.Per = before.Per
	}
	if o.Verdict == nil {
		o.Verdict = before.Verdict
	}
	if o.Release == nil {
		o.Release = before.Release
	}
	if o.Mode == nil {
		o.Mode = before.Mode
	}
	if o.Actions == nil {
		o.Actions = before.Actions
	}
}

// readLimit makes an override of what was asked for.
func (s *Service) readLimit(a Actor, in *Limit) (policy.Override, error) {
	o := policy.Override{Name: in.Name, Trigger: in.Trigger, Max: in.Max, Until: in.Until.Time, Provenance: policy.Provenance{Where: "database", By: a.Name, At: s.o.Clock().Wall}}
	var ok bool
	if o.Level, ok = policy.ParseLevel(in.Level); !ok {
		return o, badRequest("level is %.40q: it is server, reseller, package, account or mailbox", in.Level)
	}
	if in.ID != 0 || in.Where != "" || in.By != "" || !in.At.IsZero() {
		return o, badRequest("id, where, by and at are not set by whoever sets a limit")
	}
	if in.Forever && !in.Until.IsZero() {
		return o, badRequest("forever says that there is no end: until must be null")
	}
	if in.Per != nil {
		per := time.Duration(*in.Per)
		o.Per = &per
	}
	if err := readWord(&o.Verdict, in.Verdict, "verdict", policy.ParseVerdict); err != nil {
		return o, err
	}
	if err := readWord(&o.Release, in.Release, "release", policy.ParseRelease); err != nil {
		return o, err
	}
	if err := readWord(&o.Mode, in.Mode, "mode", policy.ParseMode); err != nil {
		return o, err
	}
	if in.Actions != nil {
		list := []policy.Action{}
		for _, x := range *in.Actions {
			list = append(list, x.policy())
		}
		o.Actions = &list
	}
	if o.Level == policy.LevelMailbox {
		o.Name = strings.ToLower(o.Name)
	}
	if err := s.notPast(in.Until); err != nil {
		return o, err
	}
	var err error
	o.Provenance.Reason, err = reasonLine(in.Reason)
	return o, err
}

func readWord[T any](to **T, word *string, name string, parse func(string) (T, bool)) error {
	if word == nil {
		return nil
	}
	v, ok := parse(*word)
	if !ok {
		return badRequest("%s is %.40q: that is none", name, *word)
	}
	*to = &v
	return nil
}

// onlyMaximum keeps a reseller to what he may set: the maximum of one trigger.
func onlyMaximum(a Actor, o *policy.Override) error {
	switch {
	case a.Role == Operator:
		return nil
	case o.Trigger == "":
		return forbidden("a reseller sets a limit for one trigger at a time")
	case o.Per != nil || o.Verdict != nil || o.Release != nil || o.Mode != nil || o.Actions != nil:
		return forbidden("only an operator may change more than the maximum")
	}
	return nil
}

// withinReseller keeps a reseller within what he was given: he may move the maximum of
// his accounts and mailboxes up to his own, and up to what an operator set for them.
func (s *Service) withinReseller(a Actor, o *policy.Override, stored []policy.Override) error {
	if a.Role == Operator || o.Max == nil {
		return nil
	}
	cfg := s.o.Config()
	all := slices.Concat(cfg.Overrides, stored)
	if top, ok := s.ceiling(a.Reseller, o.Trigger, all); ok && *o.Max > top {
		return forbidden("%s is more than reseller %s has himself for trigger %s (%s)", decimal(*o.Max), a.Reseller, o.Trigger, decimal(top))
	}
	if by := s.setByOperator(a, o, all); by != nil && *o.Max > *by.Max {
		return forbidden("%s is more than an operator set for %s %s, trigger %s (%s)", decimal(*o.Max), by.Level, by.Name, o.Trigger, decimal(*by.Max))
	}
	return nil
}

// setByOperator is the maximum that somebody other than the actor set for the account or
// mailbox that o is about, or for the account whose mailbox it is; nil if nobody did. A
// limit of the actor's would win over it: over the file's because it is in the database,
// over an account's because a mailbox is narrower.
func (s *Service) setByOperator(a Actor, o *policy.Override, all []policy.Override) (found *policy.Override) {
	names := map[policy.Level]string{o.Level: o.Name}
	if o.Level == policy.LevelMailbox {
		owner, _ := s.o.Accounts().ByDomain(domainOf(o.Name))
		names[policy.LevelAccount] = owner.Name
	}
	now := s.o.Clock().Wall
	for _, level := range []policy.Level{policy.LevelAccount, policy.LevelMailbox} {
		for i := range all {
			if x := &all[i]; x.Level == level && x.Name == names[level] && x.Provenance.By != a.Name && setsMaximum(x, o.Trigger, now) {
				found = x
			}
		}
	}
	return found
}

// setsMaximum reports whether o says something of a trigger's maximum now.
func setsMaximum(o *policy.Override, trigger string, now time.Time) bool {
	return o.Max != nil && (o.Trigger == "" || o.Trigger == trigger) && (o.Until.IsZero() || o.Until.After(now))
}

// ceiling is the maximum that a trigger has for a reseller: the server's, unless
// something was set for him.
func (s *Service) ceiling(reseller, trigger string, all []policy.Override) (top int64, known bool) {
	for _, t := range s.o.Engine.Rules().Triggers {
		if t.Name == trigger {
			top, known = t.Max, true
		}
	}
	now := s.o.Clock().Wall
	for _, level := range []policy.Level{policy.LevelServer, policy.LevelReseller} {
		for i := range all { // the file's first, then by age: the last one wins
			o := &all[i]
			if o.Level == level && setsMaximum(o, trigger, now) && (level == policy.LevelServer || o.Name == reseller) {
				top = *o.Max
			}
		}
	}
	return top, known
}

// RemoveLimit removes a limit of the database; those of the file are removed there.
func (s *Service) RemoveLimit(ctx context.Context, a Actor, id int64, reason string) (Limit, error) {
	reason, err := reasonLine(reason)
	if err != nil {
		return Limit{}, err
	}
	o, err := s.removable(ctx, a, id)
	if err != nil {
		return Limit{}, err
	}
	if err := s.o.Store.DeleteOverride(whole(ctx), id); err != nil {
		return Limit{}, found(err, "", "limit %d has been removed already", id)
	}
	out := limitRow(o)
	s.audited(ctx, a, didRemoveLimit, limitTarget(o), compact(out), "removed", reason)
	return out, s.inForce(ctx)
}

// removable finds a limit that the actor may remove.
func (s *Service) removable(ctx context.Context, a Actor, id int64) (*policy.Override, error) {
	stored, err := s.o.Store.Overrides(ctx)
	if err != nil {
		return nil, found(err, "", "no limits")
	}
	i := slices.IndexFunc(stored, func(o policy.Override) bool { return o.ID == id })
	if i < 0 || !s.mayOverride(a, &stored[i]) {
		return nil, notFound("osmctl limit show lists them; one of the file is removed in osm.toml", "there is no limit %d in the database", id)
	}
	o := &stored[i]
	if a.Role != Operator && (o.Level < policy.LevelAccount || o.Provenance.By != a.Name) {
		return nil, forbidden("limit %d was set by %s, and only an operator may remove it", id, orNothing(o.Provenance.By, "an operator"))
	}
	return o, nil
}

// Exemptions lists the exemptions of file and database, with how often each was used.
func (s *Service) Exemptions(ctx context.Context, a Actor, p Page) (List[Exemption], error) {
	stored, err := s.o.Store.Exemptions(ctx)
	if err != nil {
		return List[Exemption]{}, found(err, "", "no exemptions")
	}
	live := map[int64]int64{}
	var out []Exemption
	for _, h := range s.o.Engine.ExemptionHits() {
		live[h.Exemption.ID] = h.Hits
		if h.Exemption.ID == 0 && s.mayExemption(a, &h.Exemption) {
			out = append(out, exemptionRow(&h.Exemption, h.Hits))
		}
	}
	for i := range stored {
		if e := &stored[i]; s.mayExemption(a, &e.Exemption) {
			out = append(out, exemptionRow(&e.Exemption, max(e.Hits, live[e.ID])))
		}
	}
	return numbered(out, p)
}

func exemptionRow(e *policy.Exemption, hits int64) Exemption {
	return Exemption{ID: e.ID, Scope: e.Scope.String(), Account: e.Account, Value: e.Value, Trigger: e.Trigger, Ceiling: e.Ceiling, Until: Time{Time: e.Until},
		Where: orNothing(e.Provenance.Where, "file"), By: e.Provenance.By, At: Time{Time: e.Provenance.At}, Reason: e.Provenance.Reason, Hits: hits}
}

// mayExemption reports whether the actor may see an exemption: a reseller those of his
// accounts.
func (s *Service) mayExemption(a Actor, e *policy.Exemption) bool {
	account := e.Account
	if e.Scope == policy.ScopeAccount {
		account = e.Value
	}
	return a.Role == Operator || (account != "" && s.visible(a, account))
}

// AddExemption adds an exemption.
func (s *Service) AddExemption(ctx context.Context, a Actor, in Exemption) (Exemption, error) {
	if err := operatorOnly(a, "exempt anybody from limits"); err != nil {
		return Exemption{}, err
	}
	scope, ok := policy.ParseScope(in.Scope)
	switch {
	case !ok:
		return Exemption{}, badRequest("scope is %.40q: it is account, mailbox, directory, subject, ip, recipient-domain or destination", in.Scope)
	case in.ID != 0 || in.Where != "" || in.By != "" || !in.At.IsZero() || in.Hits != 0:
		return Exemption{}, badRequest("id, where, by, at and hits are not set by whoever adds an exemption")
	}
	e := policy.Exemption{Scope: scope, Account: in.Account, Value: in.Value, Trigger: in.Trigger, Ceiling: in.Ceiling, Until: in.Until.Time,
		Provenance: policy.Provenance{Where: "database", By: a.Name, At: s.o.Clock().Wall}}
	if err := s.notPast(in.Until); err != nil {
		return Exemption{}, err
	}
	var err error
	if e.Provenance.Reason, err = reasonLine(in.Reason); err != nil {
		return Exemption{}, err
	}
	s.complete(a, scope, &e.Account, &e.Value)
	if err := refused("the exemption", policy.ValidateExemption(&e, s.o.Engine.Rules().Triggers)); err != nil {
		return Exemption{}, err
	}
	if e.ID, err = s.o.Store.PutExemption(whole(ctx), e); err != nil {
		return Exemption{}, found(err, "", "no exemption")
	}
	out := exemptionRow(&e, 0)
	s.audited(ctx, a, didExempt, exemptTarget(&e), "", compact(out), "")
	return out, s.inForce(ctx)
}

func exemptTarget(e *policy.Exemption) string {
	if e.Account != "" && e.Account != e.Value {
		return fmt.Sprintf("%s %s of account %s", e.Scope, e.Value, e.Account)
	}
	return e.Scope.String() + " " + e.Value
}

// RemoveExemption removes an exemption of the database.
func (s *Service) RemoveExemption(ctx context.Context, a Actor, id int64, reason string) (Exemption, error) {
	if err := operatorOnly(a, "remove an exemption"); err != nil {
		return Exemption{}, err
	}
	reason, err := reasonLine(reason)
	if err != nil {
		return Exemption{}, err
	}
	stored, err := s.o.Store.Exemptions(ctx)
	if err != nil {
		return Exemption{}, found(err, "", "no exemptions")
	}
	for i := range stored {
		e := &stored[i]
		if e.ID != id {
			continue
		}
		if err := s.o.Store.DeleteExemption(whole(ctx), id); err != nil {
			return Exemption{}, found(err, "", "exemption %d has been removed already", id)
		}
		out := exemptionRow(&e.Exemption, e.Hits)
		s.audited(ctx, a, didRemoveExempt, exemptTarget(&e.Exemption), compact(out), "removed", reason)
		return out, s.inForce(ctx)
	}
	return Exemption{}, notFound("osmctl exempt list lists them; one of the file is removed in osm.toml", "there is no exemption %d in the database", id)
}
