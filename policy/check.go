package policy

import (
	"math"
	"net/netip"
	"time"

	"osm/counters"
)

// probe is one message as the rules look at it.
type probe struct {
	now        Moment
	id         *Identity
	s          *Submission // nil for held mail that leaves the queue
	subjectKey string
	recipients int
}

// directoryOwner is the account whose directory the message came from.
func (p *probe) directoryOwner() string {
	if p.id.DirectoryAccount != "" {
		return p.id.DirectoryAccount
	}
	return p.id.Account
}

// claimPrefix begins the groups of counters that rest on a claim. No account's name begins
// with a parenthesis.
const claimPrefix = "(claim)"

// directoryGroup is the counters' group of the message's directory. What is claimed is
// counted apart from what is proven, and has a cap of names of its own: by a chdir into
// somebody's home nobody's own mail is stopped, and nobody's own counters are lost.
func (p *probe) directoryGroup() string {
	if p.id.Claimed {
		return claimPrefix + p.directoryOwner()
	}
	return p.directoryOwner()
}

// nameless reports whether an account stands for many senders that have nothing to do
// with each other: each is then counted under its own sub-key.
func nameless(account string) bool { return account == AccountUnknown || account == AccountSystem }

// units is what one message counts for.
func (p *probe) units(u Unit) int64 {
	if u != Recipients {
		return 1
	}
	return int64(min(max(p.recipients, 1), math.MaxInt32))
}

// key finds the counter that t keeps for p; ok is false if t does not watch such mail.
// Automatic mail is counted by its own watch alone: a customer's vacation text must
// not use up what he may send himself. So are connections that bypass Exim: they are no
// messages.
func (p *probe) key(t *trigger) (group, name string, ok bool) {
	id := p.id
	group = id.Account
	if nameless(group) {
		name = id.SubKey
	}
	if (id.Source == SourceAutomatic) != (t.Watch == WatchAutomatic) || (id.Source == SourceDirect) != t.Watch.Direct() {
		return "", "", false
	}
	switch t.Watch {
	case WatchAccount, WatchAutomatic, WatchDirect:
		return group, name, true
	case WatchSubject:
		return group, joinKey(name, p.subjectKey), true
	case WatchScripts:
		return group, name, id.Source == SourceScript
	case WatchDirectory, WatchDirectDirectory:
		ok = (id.Source == SourceScript || id.Source == SourceDirect) && id.Directory != ""
		if ok {
			group, name = p.directoryGroup(), id.Directory
		}
		return group, name, ok
	case WatchLogin:
		return group, id.Mailbox, id.Source == SourceLogin
	case WatchClientIP:
		if id.IPClass == IPNone || !id.ClientIP.IsValid() {
			return "", "", false
		}
		return ipGroup(id.IPClass, id.ClientIP), "", true
	}
	return "", "", false
}

// kept reports whether the names of t's counters in a group are not the sender's to
// choose: mailboxes that logged in, and who it was within (unknown).
func (t *trigger) kept(group string) bool {
	switch t.Watch {
	case WatchLogin:
		return true
	case WatchAccount, WatchScripts, WatchAutomatic, WatchDirect:
		return nameless(group)
	}
	return false
}

// joinKey puts two parts of a key together with a blank, as people write them.
func joinKey(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + " " + b
}

// ipGroup is the counters' group of a client address. IPv6 counts by /64, because a
// host has that many addresses for the asking.
func ipGroup(c IPClass, a netip.Addr) string {
	var buf [64]byte
	b := append(buf[:0], ipGroupPrefix...)
	b = append(b, c.String()...)
	b = append(b, ':')
	a = plainAddr(a)
	if a.Is4() {
		return string(a.AppendTo(b))
	}
	p, _ := a.Prefix(64) // 64 bits fit every IPv6 address
	return string(p.AppendTo(b))
}

const ipGroupPrefix = "ip:"

// asked is what belongs to one counters.Ask.
type asked struct {
	t     *trigger
	limit limit
	// exempt lifts the maximum; unlimited: altogether, or the trigger is off for the sender:
	// the counter only counts along.
	exempt    *exemption
	unlimited bool
}

// onStack is how many triggers a check handles without memory of its own.
const onStack = 16

// plan says which counters are to be asked about p. Both slices are filled alike.
func (rs *ruleset) plan(asks []counters.Ask, with []asked, p *probe) ([]counters.Ask, []asked) {
	id := p.id
	over := rs.overrides.of(owner{id.Reseller, id.Package, id.Account, id.Mailbox})
	var claimed overridesOf
	if id.Claimed { // nobody told us where the claimed account stands in the panel
		claimed = rs.overrides.of(owner{account: id.DirectoryAccount})
	}
	var buf [8]matched
	exempt := rs.exempt.match(buf[:0], p)
	for i := range rs.triggers {
		t := &rs.triggers[i]
		if !t.live {
			continue
		}
		group, name, ok := p.key(t)
		if !ok {
			continue
		}
		a := asked{t: t}
		if id.Claimed && t.Watch.PerDirectory() {
			a.limit = claimed.limit(t, p.now.Wall)
		} else {
			a.limit = over.limit(t, p.now.Wall)
		}
		ask := counters.Ask{Slot: t.slot, Group: group, Name: name, Period: t.period, Units: uint32(p.units(t.Count)), Max: a.limit.max, Keep: t.kept(group)}
		ask.Kind = kindOf(t, a.limit)
		a.unlimited = a.limit.mode == Off
		if len(exempt) > 0 && !a.unlimited {
			a.exempt = bestExemption(exempt, t, id.Claimed, a.limit.max)
		}
		if a.exempt != nil {
			if a.unlimited = a.exempt.Ceiling <= 0; a.unlimited {
				ask.Kind = counters.Counting // usage stays honest
			} else {
				ask.Max = a.exempt.Ceiling
			}
		}
		asks, with = append(asks, ask), append(with, a)
	}
	return asks, with
}

func kindOf(t *trigger, l limit) counters.Kind {
	switch {
	case t.Watch.Direct():
		return counters.Counting // it has happened, whatever the mode
	case l.mode == Observe:
		return counters.Watching
	case l.mode == Off, l.verdict == Accept:
		return counters.Counting
	}
	return counters.Binding
}

// severity orders the verdicts: when several triggers are over, the greatest wins.
// Deny and defer leave the message with its sender, a frozen one is kept by us.
func severity(v Verdict) int {
	switch v {
	case Deny:
		return 4
	case Freeze:
		return 3
	case Defer:
		return 2
	case Discard:
		return 1
	}
	return 0
}

// forSource turns a verdict into what can be done without losing mail: Exim's
// acl_not_smtp can only refuse for good, so for a local submission it is freeze.
func forSource(v Verdict, s *Submission) Verdict {
	if s.Local() && (v == Defer || v == Deny) {
		return Freeze
	}
	return v
}

// settle reads the counters' answers into d: every trigger that is over, and the
// verdict. dry keeps it from counting the hits of exemptions.
func (d *Decision) settle(p *probe, asks []counters.Ask, res []counters.Result, with []asked, admitted, dry bool) {
	exempted := false
	var decides, would *Over
	// No pointer into d.Over before it is complete: it grows.
	for i := range asks {
		r, a := &res[i], &with[i]
		if admitted && a.exempt != nil && passedByExemption(a, r, int64(asks[i].Units)) {
			exempted = true
			if !dry {
				a.exempt.hits.Add(1)
			}
		}
		if r.Over && !a.unlimited {
			if d.Over == nil {
				d.Over = make([]Over, 0, len(asks)-i)
			}
			d.Over = append(d.Over, a.over(p, &asks[i], r))
		}
	}
	for i := range d.Over {
		o := &d.Over[i]
		best := &decides
		if o.Mode == Observe {
			best = &would
		} else if !admitted && o.Verdict == Accept {
			continue
		}
		if *best == nil || severity(o.Verdict) > severity((*best).Verdict) {
			*best = o
		}
	}
	if would != nil {
		d.Would, d.Trigger = would.Verdict, would.Trigger
	}
	switch {
	case decides != nil:
		d.Verdict, d.Trigger, d.Release, d.Reason = decides.Verdict, decides.Trigger, decides.Release, ReasonOver
		if decides.Units > decides.Max {
			d.Reason = ReasonLargerThanLimit
		}
	case exempted:
		d.Reason = ReasonExempt
	}
	d.Counted = admitted
}

// near reports whether a message brings a counter to so much of its maximum that it is worth
// finding out who sends; percent 0 = never.
func near(asks []counters.Ask, res []counters.Result, with []asked, percent int64) bool {
	for i := range asks {
		if percent > 0 && !with[i].unlimited && res[i].Used+int64(asks[i].Units) >= asks[i].Max-asks[i].Max*(100-percent)/100 {
			return true
		}
	}
	return false
}

// passedByExemption reports whether the message would have been over but for it.
func passedByExemption(a *asked, r *counters.Result, units int64) bool {
	if a.unlimited {
		return r.Over
	}
	return !r.Over && r.Used+units > a.limit.max
}

// over describes a trigger that is over.
func (a *asked) over(p *probe, ask *counters.Ask, r *counters.Result) Over {
	t := a.t
	o := Over{
		Trigger: t.Name, Watch: t.Watch, Key: keyText(ask.Group, ask.Name), Account: p.id.Account, Mailbox: p.id.Mailbox,
		Mode: a.limit.mode, Verdict: a.limit.verdict, Release: a.limit.release, Actions: a.limit.actions,
		Max: ask.Max, Per: t.Per, Count: t.Count, Used: r.Used, Units: int64(ask.Units),
		FreeAt: wallOf(p.now, r.FreeAt),
	}
	if p.s != nil {
		o.Verdict = forSource(o.Verdict, p.s)
	}
	if o.Units > o.Max {
		o.FreeAt = time.Time{}
	}
	if t.Watch.PerDirectory() {
		o.Account, o.Claimed = p.directoryOwner(), p.id.Claimed
	}
	return o
}

// wallOf turns a boot-time moment of the counters into wall time; zero for never, and
// now for one that is past.
func wallOf(now Moment, boot int64) time.Time {
	if boot < 0 {
		return time.Time{}
	}
	return now.Wall.Add(time.Duration(max(boot-now.Boot, 0)) * time.Millisecond)
}
