package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"osm/policy"
	store "osm/sql"
)

// Bounds of a preview. It reads the past twice: a little of it first, which tells how
// quick this machine is, and then as much as fits the time.
const (
	previewSince  = 7 * 24 * time.Hour
	previewFor    = 3 * time.Second
	previewStop   = 2 * previewFor // a second reading that takes so long is given up
	previewFirst  = 50_000         // decisions
	previewMost   = 3_000_000
	previewShown  = 20
	previewSwept  = 50_000 // decisions between two sweeps of the counters
	previewLooked = 1_000  // decisions between two looks at the clock
)

// PreviewLimit tells what a limit would have done to the mail since a moment, if it had
// been set (remove = 0) or removed (remove = its number): the stored decisions are judged
// again, once by the rules with the change and once by those in force. Nothing is changed
// and nothing real is counted.
func (s *Service) PreviewLimit(ctx context.Context, a Actor, l Limit, remove int64, since time.Time) (Preview, error) {
	o, changed, err := s.planChange(ctx, a, &l, remove)
	if err != nil {
		return Preview{}, err
	}
	now := s.o.Clock()
	switch {
	case since.IsZero():
		since = now.Wall.Add(-previewSince)
	case since.After(now.Wall):
		return Preview{}, badRequest("since lies in the future")
	}
	select { // one at a time: it takes a processor for its while
	case s.rehears <- struct{}{}:
		defer func() { <-s.rehears }()
	case <-ctx.Done():
		return Preview{}, unavailable("try it again", "another preview is being made")
	}
	s.upToDate(ctx)
	present := *s.o.Engine.Rules()
	w := &previewing{s: s, o: o, now: now, since: since, changed: changed, present: &present, accounts: s.concerned(o)}
	w.changed.Triggers, w.present.Triggers = w.needed(changed), w.needed(&present)
	return w.run(ctx)
}

// planChange makes the rules as they would be with a limit, or without the one that is to
// be removed; o is that limit.
func (s *Service) planChange(ctx context.Context, a Actor, l *Limit, remove int64) (o *policy.Override, changed *policy.Rules, err error) {
	rules := *s.o.Engine.Rules()
	if remove != 0 {
		if o, err = s.removable(ctx, a, remove); err != nil {
			return nil, nil, err
		}
		rules.Overrides = slices.DeleteFunc(slices.Clone(rules.Overrides), func(x policy.Override) bool { return x.ID == remove })
		return o, &rules, nil
	}
	planned, _, err := s.planLimit(ctx, a, l)
	if err != nil {
		return nil, nil, err
	}
	rules.Overrides = slices.DeleteFunc(slices.Clone(rules.Overrides), func(x policy.Override) bool { return x.ID != 0 && x.ID == planned.ID })
	rules.Overrides = append(rules.Overrides, planned)
	return &planned, &rules, nil
}

// concerned are the accounts whose mail a limit is about; nil = everybody's. A client IP
// is shared by accounts, so that a limit of its counters needs the mail of all.
func (s *Service) concerned(o *policy.Override) []string {
	for _, t := range s.o.Engine.Rules().Triggers {
		if t.Watch == policy.WatchClientIP && (o.Trigger == "" || o.Trigger == t.Name) && o.Level != policy.LevelMailbox {
			return nil
		}
	}
	var is func(a *policy.Account) bool
	switch o.Level {
	case policy.LevelReseller:
		is = func(a *policy.Account) bool { return a.Reseller == o.Name }
	case policy.LevelPackage:
		is = func(a *policy.Account) bool { return a.Package == o.Name }
	case policy.LevelAccount:
		return []string{o.Name}
	case policy.LevelMailbox:
		if owner, ok := s.ownerOfDomain(Actor{Role: Operator}, domainOf(o.Name)); ok {
			return []string{owner.Name}
		}
		return []string{}
	default:
		return nil
	}
	names, d := []string{}, s.directory()
	for i := range d.accounts {
		if is(&d.accounts[i]) {
			names = append(names, d.accounts[i].Name)
		}
	}
	return names
}

// previewing is one preview under way.
type previewing struct {
	s                *Service
	o                *policy.Override
	now              policy.Moment
	since            time.Time
	changed, present *policy.Rules
	accounts         []string
}

// errTooLong ends a reading of the past that takes too long.
var errTooLong = errors.New("reading takes too long")

func (w *previewing) run(ctx context.Context) (Preview, error) {
	begun := w.now.Boot
	out, all, err := w.replay(ctx, previewFirst, begun)
	if err != nil {
		return Preview{}, found(err, "", "no decisions")
	}
	if all <= previewFirst {
		return out, nil
	}
	took := max(w.s.o.Clock().Boot-begun, 1)
	fits := previewFirst * (previewFor.Milliseconds() - took) / took
	if fits = min(fits, previewMost); fits <= previewFirst {
		return out, nil
	}
	more, _, err := w.replay(ctx, fits, begun)
	if errors.Is(err, errTooLong) {
		return out, nil
	}
	return more, found(err, "", "no decisions")
}

// replay judges the newest decisions by both rules; all is how many there would be.
func (w *previewing) replay(ctx context.Context, newest, begun int64) (Preview, int64, error) {
	f := store.PastFilter{Since: w.since.Add(-w.warmUp()), Accounts: w.accounts, Newest: newest, Connections: w.connections()}
	all, past, err := w.s.o.Store.PastOf(ctx, f)
	if err != nil {
		return Preview{}, 0, err
	}
	since := w.since
	if past.From.After(since) {
		since = past.From
	}
	tally := newPreviewTally(w, since)
	rows := 0
	err = w.s.o.Store.EachPast(ctx, f, w.now, func(c *store.Counted) error {
		if rows++; rows%previewLooked == 0 && w.s.o.Clock().Boot-begun > previewStop.Milliseconds() && newest > previewFirst {
			return errTooLong
		}
		tally.add(c)
		if rows%previewSwept == 0 {
			tally.changed.Sweep()
			tally.present.Sweep()
		}
		return nil
	})
	if err != nil {
		return Preview{}, 0, err
	}
	return tally.preview(w, !past.Cut || !past.From.After(w.since)), all, nil
}

// connections reports whether the limit is one of connections that bypass Exim, so that
// those are judged again, and not messages.
func (w *previewing) connections() bool {
	return slices.ContainsFunc(w.changed.Triggers, func(t policy.Trigger) bool {
		return t.Name == w.o.Trigger && (t.Watch == policy.WatchDirect || t.Watch == policy.WatchDirectDirectory)
	})
}

// needed are the triggers without which a preview would come out otherwise: those that the
// limit is about, and those that can stop a message, which then enters no window. Client
// IPs are shared with mail that is not read unless everybody's is.
func (w *previewing) needed(r *policy.Rules) []policy.Trigger {
	return slices.DeleteFunc(slices.Clone(r.Triggers), func(t policy.Trigger) bool {
		enforces := t.Mode == policy.Enforce || slices.ContainsFunc(r.Overrides, func(o policy.Override) bool {
			return o.Mode != nil && *o.Mode == policy.Enforce && (o.Trigger == "" || o.Trigger == t.Name)
		})
		concerned := w.o.Trigger == "" || w.o.Trigger == t.Name
		return !concerned && !enforces || w.accounts != nil && t.Watch == policy.WatchClientIP
	})
}

// warmUp is how much older mail fills the counters before the first message that is looked
// at: without it the windows would begin empty.
func (w *previewing) warmUp() (longest time.Duration) {
	for _, t := range w.changed.Triggers {
		longest = max(longest, t.Per)
	}
	return longest
}

// previewTally adds up what both rules say.
type previewTally struct {
	o                *policy.Override
	service          *Service
	since            time.Time
	changed, present *policy.Rehearsal
	out              Preview
	stopped, watched map[string]*PreviewSender
}

func newPreviewTally(w *previewing, since time.Time) *previewTally {
	return &previewTally{o: w.o, service: w.s, since: since, changed: policy.NewRehearsal(w.changed, w.now.Wall), present: policy.NewRehearsal(w.present, w.now.Wall),
		stopped: map[string]*PreviewSender{}, watched: map[string]*PreviewSender{}}
}

// add judges one message by both.
func (t *previewTally) add(c *store.Counted) {
	id := t.service.placed(c.Identity)
	with := t.changed.Judge(c.At, id, c.SubjectKey, c.Recipients)
	without := t.present.Judge(c.At, id, c.SubjectKey, c.Recipients)
	if c.At.Wall.Before(t.since) {
		return // it fills the windows
	}
	t.out.Messages++
	if stops, watches := t.concerns(without); stops || watches && c.Identity.Source == policy.SourceDirect {
		t.out.Now++
	}
	stops, watches := t.concerns(with)
	switch {
	case stops:
		t.out.Stopped++
		t.addTo(t.stopped, c)
	case watches:
		t.out.Observed++
		t.addTo(t.watched, c)
	}
}

// addTo counts a message of its account, or of the one whose directory it claims to be from.
func (t *previewTally) addTo(senders map[string]*PreviewSender, c *store.Counted) {
	name := c.Identity.Account
	if c.Identity.Claimed && t.o.Level == policy.LevelAccount {
		name = t.o.Name
	}
	one := senders[name]
	if one == nil {
		one = &PreviewSender{Account: name, FirstAt: Time{Time: c.At.Wall}}
		senders[name] = one
	}
	one.Stopped++
}

// concerns reports whether a message of somebody whom the limit is for was stopped, with a
// trigger over that the limit is about, or would have been if that trigger did not only
// observe.
func (t *previewTally) concerns(d *policy.Decision) (stops, watches bool) {
	if len(d.Over) == 0 || !t.isFor(&d.Identity) {
		return false, false
	}
	for i := range d.Over {
		over := &d.Over[i]
		switch {
		case t.o.Trigger != "" && over.Trigger != t.o.Trigger:
		case over.Mode == policy.Observe, d.Identity.Source == policy.SourceDirect: // no connection is stopped
			watches = true
		case d.Verdict != policy.Accept && over.Verdict != policy.Accept:
			stops = true
		}
	}
	return stops, watches && !stops
}

// isFor reports whether the limit is for a sender.
func (t *previewTally) isFor(id *policy.Identity) bool {
	switch t.o.Level {
	case policy.LevelReseller:
		return id.Reseller == t.o.Name
	case policy.LevelPackage:
		return id.Package == t.o.Name
	case policy.LevelAccount:
		return id.Account == t.o.Name || id.Claimed && id.DirectoryAccount == t.o.Name
	case policy.LevelMailbox:
		return id.Mailbox == t.o.Name
	}
	return true
}

// preview tells what was found. It is whole unless reading as far back as was asked for
// takes too long.
func (t *previewTally) preview(w *previewing, whole bool) Preview {
	out := t.out
	out.Since, out.Whole, out.Items = Time{Time: t.since}, whole, []PreviewSender{}
	senders := t.stopped
	if out.Stopped == 0 {
		senders = t.watched
	}
	for _, one := range senders {
		out.Items = append(out.Items, *one)
	}
	out.Accounts = int64(len(out.Items))
	slices.SortFunc(out.Items, func(a, b PreviewSender) int {
		return cmp.Or(cmp.Compare(b.Stopped, a.Stopped), cmp.Compare(a.Account, b.Account))
	})
	out.Items = out.Items[:min(len(out.Items), previewShown)]
	noun := nounMessage
	if w.connections() {
		noun = nounConnection
	}
	out.Noun = noun
	out.Text = previewText(&out, noun, w.now.Wall.Sub(t.since), w.now.Wall.Sub(w.since))
	return out
}

// previewText says it in two sentences at most; back is how far was looked, and asked how
// far that should have been.
func previewText(p *Preview, noun string, back, asked time.Duration) string {
	over := "Over the last " + roughly(back) + " this would have "
	if p.Messages == 0 {
		sent := "sent"
		if noun == nounConnection {
			sent = "made"
		}
		return "Over the last " + roughly(back) + " no " + noun + " was " + sent + " that this is about."
	}
	var text string
	did := "stopped"
	switch who := count(p.Accounts, "account"); {
	case p.Stopped > 0:
		text = over + fmt.Sprintf("stopped %s of %s", count(p.Stopped, noun), who)
	case noun == nounConnection:
		did = "reported"
		text = over + fmt.Sprintf("reported %s of %s", count(p.Observed, noun), who)
	case p.Observed > 0:
		text = over + fmt.Sprintf("reported %s of %s and stopped none, as it only observes", count(p.Observed, noun), who)
	default:
		text = over + "stopped no " + noun
	}
	now := "none"
	if p.Now > 0 {
		now = count(p.Now, noun)
	}
	text += "; the limits in force would have " + did + " " + now + "."
	if !p.Whole {
		text += fmt.Sprintf(" This looks back %s and not %s: on a server with so much mail more cannot be judged again at once.", roughly(back), roughly(asked))
	}
	return text
}
