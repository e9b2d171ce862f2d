package policy

import (
	"fmt"
	"time"

	"osm/counters"
)

// Step is one rule that was looked at on the way to a decision, for "osmctl explain".
type Step struct {
	Rule    string // "trigger account-hour", "hold 12", "exemption 3 of account (file)"
	Key     string // the counter asked, "" where there is none
	Outcome string // one of the Step constants
	Text    string // the same as a sentence
}

// The outcomes of a [Step].
const (
	StepFits    = "fits"           // the counter has room
	StepOver    = "over"           // it has none
	StepLifted  = "lifted"         // it has none, but an exemption lifts it
	StepOff     = "off"            // switched off for this sender
	StepApart   = "does not apply" // the rule is not about such mail
	StepApplies = "applies"
	StepEnded   = "ended" // it would apply, had it not ended
)

// maxSteps bounds the steps of one explanation; the rest is said in one line.
const maxSteps = 200

// Try says what would happen to a message now, and why: the decision with its steps, and
// every counter the message would ask. It counts nothing and takes no number. Unlike that
// of [Engine.Check], its Over is filled where a hold decides, too.
func (e *Engine) Try(now Moment, s *Submission, id Identity) (*Decision, []Usage) {
	rs := e.rules.Load()
	d := begin(now, s, id)
	if why, pass := rs.passes(d); pass {
		d.Reason = why
		d.step(Step{Rule: "server", Outcome: StepApplies, Text: passText(why)})
		return d, nil
	}
	p := d.probe()
	d.holdSteps(rs, &p)
	d.exemptionSteps(rs, &p)
	asks, with := rs.plan(nil, nil, &p)
	res := make([]counters.Result, len(asks))
	admitted := e.table.Peek(now.Boot, asks, res)
	d.settle(&p, asks, res, with, admitted, true)
	d.Counted = false
	if h := rs.holds.match(&p); h != nil {
		d.holdBy(h) // what is over stays in d.Over: the end of the hold does not make room
		d.Would = Accept
	}
	e.keep(d, rs, false)
	d.write()
	d.triggerSteps(rs, &p, asks, res, with)
	usage := make([]Usage, 0, len(asks))
	for i := range asks {
		if with[i].limit.mode != Off {
			usage = append(usage, e.usageRow(now, &asks[i], &with[i]))
		}
	}
	return d, usage
}

func passText(why Reason) string {
	if why == ReasonSystem {
		return "the panel's own service mail is accepted and not counted"
	}
	return "checking is switched off: everything is accepted and only recorded"
}

// step adds a step as long as there is room.
func (d *Decision) step(s Step) {
	switch {
	case len(d.Steps) < maxSteps:
		d.Steps = append(d.Steps, s)
	case len(d.Steps) == maxSteps:
		d.Steps = append(d.Steps, Step{Rule: "more", Outcome: StepApart, Text: "further rules were looked at and are not listed"})
	}
}

// holdSteps lists the holds that stand on anything of the sender.
func (d *Decision) holdSteps(rs *ruleset, p *probe) {
	for i := range rs.rules.Holds {
		h := &rs.rules.Holds[i]
		if h.Account != p.id.Account && h.Account != p.directoryOwner() && (h.Scope != ScopeMailbox || h.Value != p.id.Mailbox) {
			continue
		}
		s := Step{Rule: fmt.Sprintf("hold %d", h.ID), Key: joinKey(h.Account, h.Value), Outcome: StepApplies}
		until := "until it is released"
		if !h.Until.IsZero() {
			until = "until " + momentText(h.Until)
		}
		one := newHoldIndex(rs.rules.Holds[i : i+1])
		always := *p
		always.now.Wall = time.Time{}
		switch {
		case one.match(p) != nil:
			s.Text = fmt.Sprintf("%s of this %s, %s (%s)", h.verdict(), h.Scope, until, h.Provenance.text("database"))
		case one.match(&always) != nil:
			s.Outcome, s.Text = StepEnded, "it ended at "+momentText(h.Until)
		case h.Claimed && !p.id.Claimed && h.Value == p.id.Directory:
			s.Outcome, s.Text = StepApart, "it rests on a claim and stops only what claims this directory, "+until
		default:
			s.Outcome, s.Text = StepApart, fmt.Sprintf("it is for another %s, %s", h.Scope, until)
		}
		d.step(s)
	}
}

// exemptionSteps lists the exemptions that match the message, ended ones too.
func (d *Decision) exemptionSteps(rs *ruleset, p *probe) {
	always := *p
	always.now.Wall = time.Time{} // before everything's end
	for _, m := range rs.exempt.match(nil, &always) {
		s := Step{Rule: m.text(), Key: joinKey(m.Account, m.Value), Outcome: StepApplies}
		which := "all triggers"
		if m.Trigger != "" {
			which = "trigger " + m.Trigger
		}
		if !m.own {
			which += " of the claimed directory"
		}
		s.Text = "it lifts " + which + " altogether"
		if m.Ceiling > 0 {
			s.Text = fmt.Sprintf("it raises %s to %d", which, m.Ceiling)
		}
		if ended(m.Until, p.now.Wall) {
			s.Outcome, s.Text = StepEnded, "it ended at "+momentText(m.Until)
		}
		if m.Provenance.Reason != "" {
			s.Text += ": " + m.Provenance.Reason
		}
		d.step(s)
	}
}

const textOff = "it is switched off for this sender"

// triggerSteps lists every trigger with what it said.
func (d *Decision) triggerSteps(rs *ruleset, p *probe, asks []counters.Ask, res []counters.Result, with []asked) {
	next := 0
	for i := range rs.triggers {
		t := &rs.triggers[i]
		s := Step{Rule: "trigger " + t.Name, Outcome: StepApart}
		switch _, _, watched := p.key(t); {
		case next < len(with) && with[next].t == t:
			s = triggerStep(p, &asks[next], &res[next], &with[next])
			next++
		case watched:
			s.Outcome, s.Text = StepOff, textOff
		default:
			s.Text = fmt.Sprintf("it watches %s, which this message has not", t.Watch)
		}
		d.step(s)
	}
}

// triggerStep says what one counter said of the message.
func triggerStep(p *probe, ask *counters.Ask, r *counters.Result, a *asked) Step {
	t := a.t
	s := Step{Rule: "trigger " + t.Name, Key: keyText(ask.Group, ask.Name), Outcome: StepFits}
	if a.limit.mode == Off {
		s.Outcome, s.Text = StepOff, textOff
		return s
	}
	s.Text = fmt.Sprintf("%d of %d %s used in the last %s (limit: %s); this message counts as %d",
		r.Used, ask.Max, t.Count, PeriodText(t.Per), a.origin(), ask.Units)
	if !r.Over {
		return s
	}
	if a.unlimited {
		s.Outcome = StepLifted
		return s
	}
	s.Outcome = StepOver
	o := a.over(p, ask, r)
	switch {
	case o.Units > o.Max:
		s.Text += ", more than the limit itself"
	case !o.FreeAt.IsZero():
		s.Text += ", which fits at " + momentText(o.FreeAt)
	}
	if o.Mode == Observe {
		s.Text += fmt.Sprintf("; it only observes (%s if it enforced)", o.Verdict)
	} else {
		s.Text += "; verdict " + o.Verdict.String()
	}
	return s
}

func momentText(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }
