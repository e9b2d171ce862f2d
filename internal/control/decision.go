package control

import (
	"net/netip"
	"strings"

	"osm/policy"
	store "osm/sql"
)

// liveDecision is a decision as the API shows it, before it is stored.
func liveDecision(d *policy.Decision) Decision {
	id, s := &d.Identity, d.Submission
	out := Decision{
		Ref: d.Ref, Seq: d.Seq, At: Time{Time: d.At.Wall}, Source: id.Source.String(), Account: id.Account, Mailbox: id.Mailbox,
		Basis: id.Basis, WorkingDirectory: id.Directory, Script: id.Script, Verdict: d.Verdict.String(), Would: d.Would.String(),
		Reason: d.Reason.String(), Trigger: d.Trigger, Unchecked: d.Reason.Unchecked(), SubKey: id.SubKey, SubjectKey: d.SubjectKey,
		Counted: d.Counted, Claimed: id.Claimed, HoldID: d.HoldID, EventID: d.EventID,
	}
	ip := id.ClientIP
	if s != nil {
		out.MessageID, out.EnvelopeSender, out.Recipients, out.Size = s.MessageID, s.EnvelopeSender, int64(s.Recipients), s.Size
		_, out.Subject = policy.FoldSubject(s.Subject)
		if !ip.IsValid() {
			ip = s.ClientIP
		}
	}
	if ip.IsValid() {
		out.ClientIP = ip.String()
	}
	for i := range d.Over {
		out.Over = append(out.Over, overOf(&d.Over[i]))
	}
	return out
}

func overOf(o *policy.Over) store.Over {
	return store.Over{Trigger: o.Trigger, Watch: o.Watch.String(), Key: o.Key, Mode: o.Mode.String(), Verdict: o.Verdict.String(),
		Used: o.Used, Units: o.Units, Max: o.Max, Per: Period(o.Per), Count: o.Count.String(), FreeAt: Time{Time: o.FreeAt}}
}

// usageRows are counters as the API shows them.
func usageRows(list []policy.Usage) []Usage {
	out := make([]Usage, 0, len(list))
	for i := range list {
		out = append(out, usageRow(&list[i]))
	}
	return out
}

func usageRow(u *policy.Usage) Usage {
	return Usage{Trigger: u.Trigger, Watch: u.Watch.String(), Key: u.Key, Mode: u.Mode.String(), Used: u.Used, Max: u.Max,
		Per: Period(u.Per), Count: u.Count.String(), FreeAt: Time{Time: u.FreeAt}, Origin: u.Origin}
}

// placed fills in where an account stands in the panel: limits are inherited from there.
func (s *Service) placed(id policy.Identity) policy.Identity {
	if a, ok := s.o.Accounts().ByName(id.Account); ok {
		id.Reseller, id.Package = a.Reseller, a.Package
	}
	return id
}

// identityOf is whose a stored message is, as the engine would see it again.
func (s *Service) identityOf(d *Decision) policy.Identity {
	source, _ := policy.ParseSource(d.Source)
	id := policy.Identity{
		Account: d.Account, Mailbox: d.Mailbox, Source: source, Basis: d.Basis, SubKey: d.SubKey,
		Directory: d.WorkingDirectory, DirectoryAccount: d.Account, Claimed: d.Claimed,
	}
	if owner, ok := s.o.Accounts().ByPath(d.WorkingDirectory); ok && d.Claimed {
		id.DirectoryAccount = owner.Name
	}
	if ip, err := netip.ParseAddr(d.ClientIP); err == nil {
		id.ClientIP, id.IPClass = ip, s.ipClass(d, source, ip)
	}
	return s.placed(id)
}

// ipClass finds out by what right an address sent: the trigger that was over tells, else
// what is true now.
func (s *Service) ipClass(d *Decision, source policy.Source, ip netip.Addr) policy.IPClass {
	for _, o := range d.Over {
		if o.Watch == policy.WatchClientIP.String() {
			for _, class := range []policy.IPClass{policy.IPLogin, policy.IPRecentAuth, policy.IPAlwaysRelay} {
				if strings.HasPrefix(o.Key, class.String()+" ") {
					return class
				}
			}
		}
	}
	switch {
	case source == policy.SourceLogin:
		return policy.IPLogin
	case source != policy.SourceRelay:
		return policy.IPNone
	case s.o.Accounts().AlwaysRelay(ip):
		return policy.IPAlwaysRelay
	}
	return policy.IPRecentAuth
}
