package control

import (
	"context"
	"slices"
	"strings"

	"osm/policy"
)

// Triggers lists every trigger as it is in force at a level ("server", "reseller",
// "package", "account", "mailbox") for a name. A mailbox inherits from its account, an
// account from its package and reseller.
func (s *Service) Triggers(ctx context.Context, a Actor, level, name string) (List[Effective], error) {
	id, err := s.sender(a, orNothing(level, "server"), name)
	if err == nil {
		err = s.mistyped(ctx, a, id.Account)
	}
	if err != nil {
		return List[Effective]{}, err
	}
	l := List[Effective]{Items: []Effective{}}
	for _, x := range s.o.Engine.Effective(s.o.Clock().Wall, id) {
		l.Items = append(l.Items, s.effectiveRow(&x))
	}
	return l, nil
}

// sender is whom a level and a name mean, with all that it inherits from.
func (s *Service) sender(a Actor, level, name string) (policy.Identity, error) {
	var id policy.Identity
	l, ok := policy.ParseLevel(level)
	switch {
	case !ok:
		return id, badRequest("level is %.40q: it is server, reseller, package, account or mailbox", level)
	case (name == "") != (l == policy.LevelServer):
		return id, badRequest("level %s and name %.80q do not go together: every level but server has a name", level, name)
	}
	switch l {
	case policy.LevelReseller:
		if a.Role != Operator && name != a.Reseller {
			return id, notFound("", "there is no reseller %.80q", name)
		}
		id.Reseller = name
	case policy.LevelPackage:
		if own := s.ownAccounts(a); own != nil && !slices.ContainsFunc(own, func(account string) bool { return s.placed(policy.Identity{Account: account}).Package == name }) {
			return id, notFound("", "there is no package %.80q", name)
		}
		id.Package = name
	case policy.LevelAccount:
		if err := s.mayAccount(a, name); err != nil {
			return id, err
		}
		id = s.placed(policy.Identity{Account: name})
	case policy.LevelMailbox:
		name = strings.ToLower(name)
		_, domain, _ := strings.Cut(name, "@")
		owner, ok := s.ownerOfDomain(a, domain)
		if !ok {
			return id, noMailbox(name)
		}
		id = s.placed(policy.Identity{Account: owner.Name, Mailbox: name})
	}
	return id, nil
}

// effectiveRow shows a trigger with where each of its values stands.
func (s *Service) effectiveRow(x *policy.Effective) Effective {
	cfg := s.o.Config()
	out := Effective{Trigger: x.Name, Watch: x.Watch.String(), Count: x.Count.String(), Max: x.Max, Per: Period(x.Per), Verdict: x.Verdict.String(),
		Release: x.Release.String(), Mode: x.Mode.String(), Actions: entriesOf(x.Actions), Origin: map[string]string{}}
	for field, from := range map[string]*policy.Override{"max": x.From.Max, "per": x.From.Per, "verdict": x.From.Verdict,
		"release": x.From.Release, "mode": x.From.Mode, "actions": x.From.Actions} {
		if from == nil {
			out.Origin[field] = cfg.Origin("trigger " + x.Name + ": " + field)
		} else {
			out.Origin[field] = originOf(from)
		}
	}
	return out
}

// originOf tells who set something for whom: "package gold (file)", "database, by root".
func originOf(o *policy.Override) string {
	where := orNothing(o.Provenance.Where, "file")
	if o.Provenance.By != "" {
		where += ", by " + o.Provenance.By
	}
	if o.Level == policy.LevelServer {
		return where
	}
	return o.Level.String() + " " + o.Name + " (" + where + ")"
}
