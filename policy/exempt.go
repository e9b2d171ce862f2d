package policy

import (
	"net/netip"
	"sync/atomic"
)

// exemption is an [Exemption] with what makes it quick to match, and its hits, which
// live on when the rules are swapped.
type exemption struct {
	Exemption
	prefix netip.Prefix
	hits   *atomic.Int64
}

// ExemptionHit tells how often an exemption let a message pass that would have been over.
type ExemptionHit struct {
	Exemption Exemption
	Hits      int64 // since the daemon started
}

// within names a thing inside an account.
type within struct{ account, value string }

// exemptIndex finds the exemptions that match a submission.
type exemptIndex struct {
	all       []*exemption
	account   map[string][]*exemption
	mailbox   map[string][]*exemption
	directory map[within][]*exemption
	subject   map[within][]*exemption
	domain    map[string][]*exemption
	ip        []*exemption // few: looked through one by one
	// destination: where connections that bypass Exim may go; as few.
	destination []*exemption
}

// hitKey is what an exemption keeps its hits by.
type hitKey struct {
	id                      int64
	scope                   Scope
	account, value, trigger string
}

func (e *Exemption) hitKey() hitKey {
	return hitKey{e.ID, e.Scope, e.Account, e.Value, e.Trigger}
}

func newExemptIndex(list []Exemption, old *ruleset) exemptIndex {
	kept := make(map[hitKey]*atomic.Int64)
	if old != nil {
		for _, e := range old.exempt.all {
			kept[e.hitKey()] = e.hits
		}
	}
	x := exemptIndex{
		account: make(map[string][]*exemption), mailbox: make(map[string][]*exemption), domain: make(map[string][]*exemption),
		directory: make(map[within][]*exemption), subject: make(map[within][]*exemption),
	}
	for i := range list {
		e := &exemption{Exemption: list[i], hits: kept[list[i].hitKey()]}
		if e.hits == nil {
			e.hits = new(atomic.Int64)
		}
		if x.add(e) {
			x.all = append(x.all, e)
		}
	}
	return x
}

// add files e under what it matches by; one that can match nothing is left out.
func (x *exemptIndex) add(e *exemption) bool {
	in := within{e.Account, e.Value}
	switch e.Scope {
	case ScopeAccount:
		x.account[e.Value] = append(x.account[e.Value], e)
	case ScopeMailbox:
		x.mailbox[e.Value] = append(x.mailbox[e.Value], e)
	case ScopeDirectory:
		x.directory[in] = append(x.directory[in], e)
	case ScopeSubject:
		x.subject[in] = append(x.subject[in], e)
	case ScopeRecipientDomain:
		x.domain[lowerASCII(e.Value)] = append(x.domain[lowerASCII(e.Value)], e)
	case ScopeIP:
		p, ok := parsePrefix(e.Value)
		if !ok {
			return false
		}
		e.prefix = p
		x.ip = append(x.ip, e)
	case ScopeDestination:
		p, ok := parsePrefix(e.Value)
		if !ok {
			return false
		}
		e.prefix = p
		x.destination = append(x.destination, e)
	default:
		return false
	}
	return true
}

// parsePrefix reads an address or a CIDR prefix.
func parsePrefix(s string) (netip.Prefix, bool) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p.Masked(), true
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Prefix{}, false
	}
	a = a.Unmap()
	return netip.PrefixFrom(a, a.BitLen()), true
}

// matched is an exemption that matches, and for which of the triggers.
//
// Under a shared web user the directory is only claimed. An exemption that rests on
// the claim lifts the claimed directory's own counter and nothing else, or a chdir into
// an exempt neighbour's home would set a hacked script free.
type matched struct {
	*exemption
	own     bool // the sender's own triggers
	claimed bool // the directory triggers of the claimed account
}

// match appends the exemptions that match p and have not ended.
func (x *exemptIndex) match(found []matched, p *probe) []matched {
	if len(x.all) == 0 {
		return found
	}
	id, claim := p.id, p.id.Claimed
	found = take(found, x.account[id.Account], p, "", true, !claim)
	if id.Mailbox != "" && id.Source == SourceLogin {
		found = take(found, x.mailbox[id.Mailbox], p, id.Account, true, !claim)
	}
	if p.subjectKey != "" {
		found = take(found, x.subject[within{id.Account, p.subjectKey}], p, id.Account, true, !claim)
	}
	if claim {
		found = take(found, x.account[p.directoryOwner()], p, "", false, true)
	}
	if id.Directory != "" {
		found = take(found, x.directory[within{p.directoryOwner(), id.Directory}], p, p.directoryOwner(), !claim, true)
	}
	if len(x.ip) > 0 && id.ClientIP.IsValid() {
		a := plainAddr(id.ClientIP)
		for i, e := range x.ip {
			if e.prefix.Contains(a) {
				found = take(found, x.ip[i:i+1], p, id.Account, true, !claim)
			}
		}
	}
	if len(x.domain) > 0 && p.s != nil {
		if d, ok := soleRecipientDomain(p.s); ok {
			found = take(found, x.domain[d], p, id.Account, true, !claim)
		}
	}
	return found
}

// allows returns the exemption by which a connection may bypass Exim to where it goes, or
// nil. Unlike all others it keeps what it matches out of the counters: what a site sends by
// a relay service of its own is not to use up what is left for mistakes.
func (x *exemptIndex) allows(p *probe) *exemption {
	if p.s == nil || p.s.Direct == nil {
		return nil
	}
	to := plainAddr(p.s.Direct.Remote.Addr())
	for _, e := range x.destination {
		if !ended(e.Until, p.now.Wall) && (e.Account == "" || e.Account == p.id.Account) && e.prefix.Contains(to) {
			return e
		}
	}
	return nil
}

// take appends those of list that have not ended and that are not for another account.
func take(found []matched, list []*exemption, p *probe, account string, own, claimed bool) []matched {
	for _, e := range list {
		if ended(e.Until, p.now.Wall) || account != "" && e.Account != "" && e.Account != account {
			continue
		}
		found = append(found, matched{e, own, claimed})
	}
	return found
}

// bestExemption picks the widest exemption for t: none at all (0) before a higher
// ceiling; nil if none lifts t above max.
func bestExemption(found []matched, t *trigger, claim bool, max int64) *exemption {
	var best *exemption
	for _, m := range found {
		if m.Trigger != "" && m.Trigger != t.Name {
			continue
		}
		if directoryClaim := claim && t.Watch.PerDirectory(); directoryClaim && !m.claimed || !directoryClaim && !m.own {
			continue
		}
		switch {
		case m.Ceiling <= 0:
			return m.exemption
		case m.Ceiling > max && (best == nil || m.Ceiling > best.Ceiling):
			best = m.exemption
		}
	}
	return best
}

// ExemptionHits lists all exemptions with their hits, in the order of the rules.
func (e *Engine) ExemptionHits() []ExemptionHit {
	rs := e.rules.Load()
	list := make([]ExemptionHit, 0, len(rs.exempt.all))
	for _, x := range rs.exempt.all {
		list = append(list, ExemptionHit{Exemption: x.Exemption, Hits: x.hits.Load()})
	}
	return list
}
