package control

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"time"

	"osm/actions"
	"osm/policy"
	store "osm/sql"
)

// shownFilling is how many of the messages that filled a limit are shown.
const shownFilling = 20

// Explain says why a message was decided as it was, by its reference or Exim's message
// id; a message id that a person copied with Exim's log around it is found too.
func (s *Service) Explain(ctx context.Context, a Actor, ref string) (Explanation, error) {
	d, err := s.decision(ctx, a, ref)
	if err != nil {
		return Explanation{}, err
	}
	x := Explanation{Decision: &d, Usage: []Usage{}, FilledBy: []Decision{}}
	if d.Source == policy.SourceDirect.String() {
		return s.explainConnection(ctx, a, &d)
	}
	now := s.o.Clock()
	id := s.identityOf(&d)
	sub := &policy.Submission{Subject: d.Subject, Recipients: int(d.Recipients), Size: d.Size, CallerUID: -1, RecipientsCut: true}
	if id.ClientIP.IsValid() {
		sub.ClientIP = id.ClientIP
	}
	again, usage := s.o.Engine.Try(now, sub, id)
	x.Usage = usageRows(usage)
	if x.Held, err = s.heldOf(ctx, &d); err != nil {
		return Explanation{}, err
	}
	st := s.story(&x, again)
	var stands bool
	if st.hold, stands, err = s.holdOf(ctx, &d); err != nil {
		return Explanation{}, err
	}
	if stands {
		st.stops = st.hold
	}
	if x.Event, err = s.eventOf(ctx, a, &d, st.over); err != nil {
		return Explanation{}, err
	}
	if st.over != nil {
		if x.FilledBy, err = s.filledBy(ctx, a, &d, st.over, d.At.Time); err != nil {
			return Explanation{}, err
		}
	}
	x.Why, x.Next, x.Command = st.why(), st.next(), st.command()
	return x, nil
}

// story begins to tell of an explanation's decision; now is what would happen to such a
// message now.
func (s *Service) story(x *Explanation, now *policy.Decision) *story {
	cfg := s.o.Config()
	st := &story{d: x.Decision, over: decider(x.Decision), held: x.Held, stops: s.standingHold(now.HoldID), keep: cfg.Held.Keep, now: s.o.Clock().Wall, zone: s.o.Zone}
	for i := range now.Over {
		if o := &now.Over[i]; o.Mode == policy.Enforce && o.Verdict != policy.Accept {
			st.full = append(st.full, overOf(o))
		}
	}
	return st
}

// decider is the trigger that decided a message, or would have.
func decider(d *Decision) *store.Over {
	for i := range d.Over {
		if d.Over[i].Trigger == d.Trigger {
			return &d.Over[i]
		}
	}
	if d.Verdict == policy.Accept.String() && d.Would != "" && d.Would != d.Verdict && len(d.Over) > 0 {
		for i := range d.Over { // the first that would have said so
			if d.Over[i].Verdict == d.Would {
				return &d.Over[i]
			}
		}
		return &d.Over[0]
	}
	return nil
}

// decision finds a stored decision by what people have in hand. One that the actor may not
// see is not found.
func (s *Service) decision(ctx context.Context, a Actor, ref string) (Decision, error) {
	const hint = "decisions are kept for store.keep_decisions; references have 8 characters, message ids 16 or 23"
	ref = strings.Trim(strings.TrimSpace(ref), "<>()[]\"',;")
	ref = strings.TrimPrefix(ref, "ref=")
	find := s.o.Store.DecisionByMessageID
	switch {
	case actions.ValidMessageID(ref):
	case len(ref) > 0 && len(ref) <= 16:
		find, ref = s.o.Store.DecisionByRef, strings.ToLower(ref)
	default:
		return Decision{}, badRequest("%.80q is neither a reference (8 letters and digits) nor a message id of Exim", ref)
	}
	s.upToDate(ctx)
	d, err := find(ctx, ref)
	if err == nil && !s.visible(a, d.Account) {
		d, err = Decision{}, store.ErrNotFound
	}
	return d, found(err, hint, "no message is known as %.40q", ref)
}

// upToDate lets the store write what it has been handed, so that people find the
// message that was stopped a moment ago. Without it they see what is there.
func (s *Service) upToDate(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := s.o.Store.Flush(ctx); err != nil {
		s.o.Log.Debug("the store did not write what waits", "err", err)
	}
}

// filledKey is the counter that a message or a connection was over; ok is false where the
// trigger's kind is not known any more.
func (s *Service) filledKey(d *Decision, o *store.Over) (k store.Filled, ok bool) {
	watch, ok := policy.ParseWatch(o.Watch)
	k = store.Filled{Watch: watch, Account: d.Account, SubKey: d.SubKey, Mailbox: d.Mailbox, Directory: d.WorkingDirectory, SubjectKey: d.SubjectKey}
	if watch == policy.WatchDirectory || watch == policy.WatchDirectDirectory {
		k.Account, _, _ = strings.Cut(o.Key, " ")
	}
	if ip, err := netip.ParseAddr(d.ClientIP); err == nil {
		source, _ := policy.ParseSource(d.Source)
		k.ClientIP, k.IPClass = ip, s.ipClass(d, source, ip)
	}
	return k, ok
}

// fillingLimit is how many are asked for of those that filled a limit.
func fillingLimit(a Actor) int {
	if a.Role != Operator {
		return maxLimit // some of them are none of his business
	}
	return shownFilling
}

// filledBy lists the messages that were in the window of the limit that decided, as far as
// the actor may see them: accounts can share an address.
func (s *Service) filledBy(ctx context.Context, a Actor, d *Decision, o *store.Over, at time.Time) ([]Decision, error) {
	k, ok := s.filledKey(d, o)
	if !ok {
		return []Decision{}, nil
	}
	list, err := s.o.Store.MessagesThatFilled(ctx, k, at.Add(-time.Duration(o.Per)), at.Add(time.Millisecond), fillingLimit(a))
	if errors.Is(err, context.DeadlineExceeded) {
		return []Decision{}, nil // the explanation is worth more than its evidence
	}
	return s.seen(a, list), found(err, "", "no messages")
}

// filledByConnections lists the connections that were in the window of a limit.
func (s *Service) filledByConnections(ctx context.Context, a Actor, d *Decision, o *store.Over) ([]Connection, error) {
	k, ok := s.filledKey(d, o)
	if !ok || k.Watch != policy.WatchDirect && k.Watch != policy.WatchDirectDirectory {
		return nil, nil
	}
	at := d.At.Time
	list, err := s.o.Store.ConnectionsThatFilled(ctx, k, at.Add(-time.Duration(o.Per)), at.Add(time.Millisecond), fillingLimit(a))
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, nil
	}
	list = slices.DeleteFunc(s.seenConnections(a, list), func(c Connection) bool { return c.Seq >= d.Seq }) // before it
	return list[:min(len(list), shownFilling)], found(err, "", "no connections")
}

// explainConnection tells of a connection that bypassed Exim.
func (s *Service) explainConnection(ctx context.Context, a Actor, d *Decision) (Explanation, error) {
	c, err := s.o.Store.ConnectionBySeq(ctx, d.Seq)
	if err != nil {
		return Explanation{}, found(err, "", "what is known of connection %.40q is not kept any more", d.Ref)
	}
	c = discreet(a, c)
	x := Explanation{Decision: d, Usage: []Usage{}, FilledBy: []Decision{}, Connection: &c}
	st := &story{d: d, connection: &c, over: overOfConnection(&c), now: s.o.Clock().Wall, zone: s.o.Zone}
	if st.hold, _, err = s.holdOf(ctx, d); err != nil {
		return Explanation{}, err
	}
	if x.Event, err = s.eventOf(ctx, a, d, st.over); err != nil {
		return Explanation{}, err
	}
	if st.over != nil {
		if x.FilledByConnections, err = s.filledByConnections(ctx, a, d, st.over); err != nil {
			return Explanation{}, err
		}
	}
	x.Usage = s.usageOfConnection(d)
	x.Why, x.Next, x.Command = st.whyConnection(), st.nextConnection(x.Event), st.commandConnection(x.Event)
	return x, nil
}

// usageOfConnection are the counters of a connection's sender that count such ones.
func (s *Service) usageOfConnection(d *Decision) []Usage {
	id := s.identityOf(d)
	sub := &policy.Submission{CallerUID: -1, Direct: &policy.Connection{}}
	_, usage := s.o.Engine.Try(s.o.Clock(), sub, id)
	return slices.DeleteFunc(usageRows(usage), func(u Usage) bool { return u.Count != policy.Connections.String() })
}

// seen are the messages that the actor may see.
func (s *Service) seen(a Actor, list []Decision) []Decision {
	out := []Decision{}
	for i := range list {
		if s.visible(a, list[i].Account) {
			out = append(out, list[i])
		}
	}
	return out
}
