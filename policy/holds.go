package policy

import "time"

// holdIndex finds the standing hold that matches a submission.
type holdIndex struct {
	account   map[string][]*Hold
	mailbox   map[string][]*Hold
	directory map[within][]*Hold
	claimed   map[within][]*Hold // directories, by a claim: they stop claims only
	subject   map[within][]*Hold
}

func newHoldIndex(list []Hold) holdIndex {
	if len(list) == 0 {
		return holdIndex{}
	}
	x := holdIndex{
		account: make(map[string][]*Hold), mailbox: make(map[string][]*Hold),
		directory: make(map[within][]*Hold), claimed: make(map[within][]*Hold), subject: make(map[within][]*Hold),
	}
	for i := range list {
		h := &list[i]
		in := within{h.Account, h.Value}
		switch h.Scope {
		case ScopeAccount:
			x.account[h.Account] = append(x.account[h.Account], h)
		case ScopeMailbox:
			x.mailbox[h.Value] = append(x.mailbox[h.Value], h)
		case ScopeDirectory:
			if h.Claimed {
				x.claimed[in] = append(x.claimed[in], h)
			} else {
				x.directory[in] = append(x.directory[in], h)
			}
		case ScopeSubject:
			x.subject[in] = append(x.subject[in], h)
		}
	}
	return x
}

// match returns the hold that stops p, or nil. A hold that freezes comes before one
// that discards, and then the wider one.
func (x *holdIndex) match(p *probe) *Hold {
	if x.account == nil {
		return nil
	}
	id := p.id
	h := better(nil, x.account[id.Account], p.now.Wall)
	if id.Source == SourceLogin && id.Mailbox != "" {
		h = better(h, x.mailbox[id.Mailbox], p.now.Wall)
	}
	if id.Directory != "" {
		in := within{p.directoryOwner(), id.Directory}
		h = better(h, x.directory[in], p.now.Wall)
		if id.Claimed {
			h = better(h, x.claimed[in], p.now.Wall)
		}
	}
	return better(h, x.subject[within{id.Account, p.subjectKey}], p.now.Wall)
}

// better picks between the hold found so far and those of list that still stand.
func better(found *Hold, list []*Hold, now time.Time) *Hold {
	for _, h := range list {
		if ended(h.Until, now) {
			continue
		}
		if found == nil || found.verdict() == Discard && h.verdict() == Freeze {
			found = h
		}
	}
	return found
}

// verdict is Freeze unless the hold says Discard: a hold knows no other.
func (h *Hold) verdict() Verdict {
	if h.Verdict == Discard {
		return Discard
	}
	return Freeze
}
