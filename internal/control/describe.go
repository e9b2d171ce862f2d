package control

import (
	"context"
	"net/netip"
	"path"
	"strings"

	"osm/policy"
)

// maxDescribed bounds the recipients of a described message.
const maxDescribed = 10_000

// Describe says what would happen now to a message that somebody describes. Nothing is
// sent and nothing is counted.
func (s *Service) Describe(ctx context.Context, a Actor, d Describe) (Explanation, error) {
	if d.Account != "" {
		if err := s.mayAccount(a, d.Account); err != nil {
			return Explanation{}, err
		}
	}
	id, err := s.describedSender(a, &d)
	if err != nil {
		return Explanation{}, err
	}
	if err := s.mayAccount(a, id.Account); err != nil {
		return Explanation{}, err
	}
	n := d.Count
	if len(d.Recipients) > 0 {
		if n != 0 && n != len(d.Recipients) {
			return Explanation{}, badRequest("recipients_count is %d, but %d recipients are named", n, len(d.Recipients))
		}
		n = len(d.Recipients)
	}
	if n < 0 || n > maxDescribed {
		return Explanation{}, badRequest("a described message has 1 to %d recipients", maxDescribed)
	}
	list := strings.Join(d.Recipients, ", ")
	sub := &policy.Submission{CallerUID: -1, Recipients: max(n, 1), RecipientList: list, RecipientsCut: list == "", Subject: d.Subject, WorkingDirectory: id.Directory}
	if id.Source != policy.SourceScript && id.Source != policy.SourceAutomatic {
		sub.ClientIP = id.ClientIP
		if !sub.ClientIP.IsValid() {
			sub.ClientIP = netip.IPv6Unspecified() // not local: a refusal is possible
		}
	}
	dec, usage := s.o.Engine.Try(s.o.Clock(), sub, id)
	sub.ClientIP = id.ClientIP
	live := liveDecision(dec)
	x := Explanation{Decision: &live, Usage: usageRows(usage), FilledBy: []Decision{}, Described: true}
	for _, step := range dec.Steps {
		x.Steps = append(x.Steps, Step{Rule: step.Rule, Key: step.Key, Outcome: step.Outcome, Text: step.Text})
	}
	st := s.story(&x, dec)
	st.described, st.hold = true, st.stops
	x.Why, x.Next, x.Command = st.why(), st.next(), st.command()
	if dec.Verdict != policy.Accept && st.over != nil {
		s.upToDate(ctx)
		if x.FilledBy, err = s.filledBy(ctx, a, &live, st.over, s.o.Clock().Wall); err != nil {
			return Explanation{}, err
		}
	}
	return x, nil
}

// describedSender makes an identity of what was described, filling in what follows from
// the rest. An account that the actor may not see follows from nothing.
func (s *Service) describedSender(a Actor, d *Describe) (policy.Identity, error) {
	id := policy.Identity{Account: d.Account, Mailbox: strings.ToLower(d.Mailbox), Basis: "described"}
	source, known := policy.ParseSource(d.Source)
	switch {
	case d.Source != "" && (!known || source == policy.SourceDirect):
		return id, badRequest("source is %.40q: it is login, local, relay, script or automatic", d.Source)
	case d.Source != "":
		id.Source = source
	case id.Mailbox != "":
		id.Source = policy.SourceLogin
	case d.ClientIP != "":
		id.Source = policy.SourceRelay
	default:
		id.Source = policy.SourceScript
	}
	if id.Mailbox != "" {
		_, domain, _ := strings.Cut(id.Mailbox, "@")
		owner, ok := s.ownerOfDomain(a, domain)
		switch {
		case ok && id.Account == "":
			id.Account = owner.Name
		case ok && id.Account != owner.Name:
			return id, badRequest("mailbox %.80s belongs to account %s, not %.40s", id.Mailbox, owner.Name, id.Account)
		}
	}
	if d.Directory != "" {
		if !path.IsAbs(d.Directory) {
			return id, badRequest("working_directory must be an absolute path")
		}
		id.Directory = path.Clean(d.Directory)
		if owner, ok := s.ownerOfPath(a, id.Directory); ok && id.Account == "" {
			id.Account = owner.Name
		}
	}
	if d.ClientIP != "" {
		ip, err := netip.ParseAddr(d.ClientIP)
		if err != nil {
			return id, badRequest("client_ip is %.60q: no address", d.ClientIP)
		}
		id.ClientIP, id.IPClass = ip, s.ipClass(&Decision{}, id.Source, ip)
	}
	if id.Account == "" {
		return id, invalid("name it with account", "whose message it is does not follow from what was described")
	}
	id.DirectoryAccount = id.Account
	return s.placed(id), nil
}
