package control

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"osm/policy"
	store "osm/sql"
)

// story is one message and what is known of it, to be told in words. The words are for
// a support person who has never heard of triggers: they say what happened, by which
// rule, with which numbers, to whom and on what grounds, what happens now, and the
// command that settles it.
type story struct {
	d          *Decision
	over       *store.Over  // the trigger that decided, or would have; nil if none
	hold       *policy.Hold // that decided
	held       *HeldMessage
	stops      *policy.Hold // that stops such a message now
	full       []store.Over // the enforcing triggers that have no room for such a message now
	keep       time.Duration
	now        time.Time
	zone       *time.Location
	described  bool
	connection *Connection // in place of a message
}

// why tells what happened, by which rule and on what grounds.
func (s *story) why() string {
	parts := []string{s.opening(), s.rule(), s.grounds(), s.observed()}
	return joined(parts)
}

// joined makes one paragraph of sentences, leaving out the empty ones.
func joined(parts []string) string {
	var kept []string
	for _, p := range parts {
		if p != "" {
			kept = append(kept, p)
		}
	}
	return strings.Join(kept, " ")
}

// opening tells what became of the message.
func (s *story) opening() string {
	d := s.d
	if s.described {
		would := map[string]string{
			"accept": "would be accepted", "freeze": "would be frozen: kept in Exim's queue, not delivered, not lost",
			"defer": "would not be taken for now: the mail program would be told to try again later", "deny": "would be refused with an error",
			"discard": "would be thrown away for good",
		}
		return fmt.Sprintf("Such a message of %s to %s %s.", sender(d), count(d.Recipients, "recipient"), would[d.Verdict])
	}
	did := map[string]string{
		"accept": "was accepted", "freeze": "was frozen: it was put into Exim's queue instead of being delivered",
		"defer": "was not taken: the mail program was told to try again later, and most do so by themselves", "deny": "was refused: the sender got an error message",
		"discard": "was thrown away, as the operator has set it; it cannot be brought back",
	}
	return fmt.Sprintf("This message of %s to %s, sent at %s, %s.", sender(d), count(d.Recipients, "recipient"), s.moment(d.At.Time), did[d.Verdict])
}

// sender names whose message it is.
func sender(d *Decision) string {
	switch {
	case d.Account == policy.AccountUnknown:
		return "an unknown sender (" + orNothing(d.SubKey, "nobody that any account could be found for") + ")"
	case d.Account == policy.AccountSystem:
		return "the system itself"
	case strings.HasPrefix(d.Account, "(shared:"):
		user := strings.TrimSuffix(strings.TrimPrefix(d.Account, "(shared:"), ")")
		return "the web server's user " + user + ", under which many accounts' scripts run,"
	case d.Mailbox != "":
		return fmt.Sprintf("mailbox %s (account %s)", d.Mailbox, d.Account)
	}
	return "account " + d.Account
}

func orNothing(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// rule tells which rule said so, with its numbers.
func (s *story) rule() string {
	d, would := s.d, "is"
	if s.described {
		would = "would be"
	}
	reason, _ := policy.ParseReason(d.Reason)
	switch reason {
	case policy.ReasonWithin:
		if s.over == nil {
			return "Every limit that applies to it had room."
		}
		return ""
	case policy.ReasonOver:
		return joined([]string{"The reason is a limit:", s.limit(s.over), s.numbers(s.over)})
	case policy.ReasonLargerThanLimit:
		return joined([]string{"The reason is its size:", s.limit(s.over), s.tooLarge(s.over)})
	case policy.ReasonHold:
		return s.holdText()
	case policy.ReasonHeldFull:
		return fmt.Sprintf("The reason is that account %s has as much frozen mail in the queue as one account may have (settings held.max_messages and held.max_bytes). %s", d.Account, s.limitBehind())
	case policy.ReasonExempt:
		return "It " + would + " over a limit, but an exemption lifts that limit for this sender."
	case policy.ReasonDisabled:
		return "Checking is switched off (the setting checking): every message is accepted and only recorded."
	case policy.ReasonSystem:
		return "It is the panel's own service mail, which is never counted."
	case policy.ReasonNotReady:
		return "It was not checked: the daemon had just started and did not have its counters back yet. It was counted."
	case policy.ReasonOverload:
		return "It was checked only against what was known already, because more questions came at once than the daemon answers; nothing known spoke against it. It was counted."
	case policy.ReasonMalformed:
		return "It was not checked: the question that Exim asked could not be understood. It is charged to nobody."
	case policy.ReasonFault:
		return "It was not checked, because of a fault of osm itself: the daemon's log has the details."
	case policy.ReasonUnanswered:
		return "It passed unchecked: the daemon's answer came when Exim had stopped waiting for it. It was counted."
	}
	return ""
}

// limitBehind tells of the limit that wanted to freeze a message for which there was no room.
func (s *story) limitBehind() string {
	switch {
	case s.hold != nil:
		return s.holdText()
	case s.over != nil:
		return "It was to be frozen in the first place because " + s.limit(s.over) + " " + s.numbers(s.over)
	}
	return ""
}

// limit tells a trigger as a sentence.
func (s *story) limit(o *store.Over) string {
	if o == nil {
		return "trigger " + s.d.Trigger + " was over; its numbers were not kept."
	}
	return fmt.Sprintf("trigger %s lets %s pass in any %s for %s.", o.Trigger, count(o.Max, singular(o.Count)), longPeriod(o.Per), watched(o.Watch, o.Key))
}

// watched tells what a trigger counts together.
func watched(watch, key string) string {
	account, part, _ := strings.Cut(key, " ")
	switch watch {
	case "account":
		return "everything that account " + key + " sends"
	case "subject":
		return fmt.Sprintf("mail of account %s with the same Subject (%q, compared without numbers)", account, part)
	case "scripts":
		return "all scripts of account " + key + " together"
	case "directory":
		return fmt.Sprintf("scripts in the directory %s (account %s)", part, account)
	case "login":
		return "mailbox " + orNothing(part, key)
	case "client-ip":
		return fmt.Sprintf("the address %s (%s)", part, ipClass(account))
	case "automatic":
		return "auto-replies of account " + key
	case "direct":
		return "everything that account " + key + " connects to past Exim"
	case "direct-directory":
		return fmt.Sprintf("connections past Exim from the directory %s (account %s)", part, account)
	}
	return key
}

func ipClass(class string) string {
	switch class {
	case "recent-auth":
		return "which may send because somebody logged in from it lately"
	case "always-relay":
		return "which the administrator lets send without a login"
	}
	return "from which somebody logged in to send"
}

// numbers tells what was used when the message came.
func (s *story) numbers(o *store.Over) string {
	if o == nil {
		return ""
	}
	tense, it := "had been used when it came", "this "+s.noun()+" counts as"
	if s.described {
		tense, it = "are used now", "it would count as"
	}
	text := fmt.Sprintf("%s of %s %s, and %s %s.", decimal(o.Used), decimal(o.Max), tense, it, decimal(o.Units))
	if s.connection == nil && o.Used < o.Max && o.Used+o.Units > o.Max {
		text += fmt.Sprintf(" A smaller message, of at most %s, would still pass.", count(o.Max-o.Used, singular(o.Count)))
	}
	return text
}

func (s *story) tooLarge(o *store.Over) string {
	if o == nil {
		return ""
	}
	return fmt.Sprintf("This message alone counts as %s, more than the whole limit: it can never pass as it is, however long the sender waits.", decimal(o.Units))
}

// holdText tells of the hold that stopped the message.
func (s *story) holdText() string {
	if s.hold == nil {
		return "The reason is a standing hold on the sender, which has ended since."
	}
	h := s.hold
	who := fmt.Sprintf("put by hand by %s", orNothing(h.Provenance.By, "an operator"))
	if h.Trigger != "" {
		who = "put by trigger " + h.Trigger
		if h.EventID != 0 {
			who += fmt.Sprintf(" when it went over (event %d)", h.EventID)
		}
	}
	text := fmt.Sprintf("The reason is hold %d on %s, %s at %s: all such mail is stopped while it stands, whatever was sent.", h.ID, held(h), who, s.moment(h.Provenance.At))
	if h.Provenance.Reason != "" && h.Trigger == "" {
		text += " Its reason: " + strings.TrimRight(h.Provenance.Reason, ".") + "."
	}
	return text
}

// held names what a hold stands on.
func held(h *policy.Hold) string {
	switch h.Scope {
	case policy.ScopeMailbox:
		return "mailbox " + h.Value
	case policy.ScopeDirectory:
		return fmt.Sprintf("the directory %s of account %s", h.Value, h.Account)
	case policy.ScopeSubject:
		return fmt.Sprintf("mail of account %s with the Subject %q", h.Account, h.Value)
	}
	return "account " + h.Account
}

// grounds tells on what the attribution rests.
func (s *story) grounds() string {
	d := s.d
	if d.Basis == "" || s.described {
		return ""
	}
	text := fmt.Sprintf("It is charged to %s on these grounds: %s.", d.Account, strings.TrimRight(d.Basis, "."))
	if d.Claimed {
		text += " The account in it is only claimed, so nothing is done to that account for it."
	}
	return text
}

// observed tells what a trigger that only observes would have done.
func (s *story) observed() string {
	if s.d.Verdict != "accept" || s.d.Would == "" || s.d.Would == "accept" || s.over == nil {
		return ""
	}
	text := "A trigger that only observes was over and would have said " + s.d.Would + ": "
	return text + s.limit(s.over) + " " + s.numbers(s.over)
}

// next tells what happens now.
func (s *story) next() string {
	d := s.d
	switch {
	case s.described:
		return s.nextDescribed()
	case s.held != nil:
		return s.nextHeld()
	case d.Verdict == "freeze":
		return "It is not in the list of held mail (yet): the list is compared with Exim's queue once a minute. " + s.freedom()
	case d.Verdict == "defer", d.Verdict == "deny":
		text := "The message is not in the queue here: it is with the sender's mail program"
		if d.Verdict == "defer" {
			text += ", which will offer it again; it passes once the limit has room."
		} else {
			text += ", and must be sent again."
		}
		return text + " " + s.freedom()
	case d.Verdict == "discard":
		return "Nothing: the message is gone. " + s.freedom()
	}
	switch reason, _ := policy.ParseReason(d.Reason); {
	case reason == policy.ReasonDisabled:
		return "Exim delivers it as usual. Nothing is checked until checking is switched on again."
	case reason.Unchecked():
		return "Exim delivers it as usual. If such messages go on, osmctl status names the cause."
	}
	return "Nothing to do here: Exim delivers it as usual. If it did not arrive, Exim's own log says what became of it: search it for " + orNothing(d.MessageID, "the message id") + "."
}

func (s *story) nextDescribed() string {
	switch s.d.Verdict {
	case "accept":
		return "Nothing was sent or counted. Such a message passes now."
	case "freeze":
		return "Nothing was sent or counted. Such a message would wait in the queue. " + s.freedom()
	}
	return "Nothing was sent or counted. " + s.freedom()
}

// freedom tells when a message like this one passes again.
func (s *story) freedom() string {
	if s.stops != nil {
		return joined([]string{s.holdEnds(), s.withoutRoom()})
	}
	if len(s.full) == 0 {
		return "The sender is free now: a message like this one passes."
	}
	others := ""
	if first := &s.full[0]; len(s.full) > 1 || s.over == nil || first.Trigger != s.over.Trigger {
		others = s.withoutRoom()
	}
	var latest time.Time
	for _, o := range s.full {
		if o.FreeAt.IsZero() {
			return joined([]string{"A message of this size passes only with a higher limit or with fewer recipients.", others})
		}
		if o.FreeAt.After(latest) {
			latest = o.FreeAt.Time
		}
	}
	free := fmt.Sprintf("The sender is free again at %s, in %s: from then on there is room for a message like this one.", s.moment(latest), roughly(latest.Sub(s.now)))
	return joined([]string{free, others})
}

// withoutRoom names every trigger that stops such a message now, so that nobody thinks
// that one of them is all.
func (s *story) withoutRoom() string {
	var names []string
	for _, o := range s.full {
		names = append(names, fmt.Sprintf("trigger %s (%s)", o.Trigger, o.Key))
	}
	if len(names) == 0 {
		return ""
	}
	return "Without room for such a message now: " + strings.Join(names, ", ") + "."
}

func (s *story) holdEnds() string {
	h := s.stops
	if h.Until.IsZero() {
		return fmt.Sprintf("Hold %d stands until somebody ends it; new mail is stopped too.", h.ID)
	}
	return fmt.Sprintf("Hold %d stands until %s (%s more); new mail is stopped too until then.", h.ID, s.moment(h.Until), roughly(h.Until.Sub(s.now)))
}

// nextHeld tells what becomes of a message in the register of held mail.
func (s *story) nextHeld() string {
	h := s.held
	switch h.State {
	case store.StateReleasing.String():
		return "It has been released and leaves the queue in its turn."
	case store.StateDiscarding.String():
		return "It is being removed from the queue for good."
	case store.StateHeld.String():
	default:
		return s.settled()
	}
	gone := ""
	if s.keep > 0 {
		gone = fmt.Sprintf(" What is still there at %s is removed without a bounce.", s.moment(h.HeldAt.Add(s.keep)))
	}
	if h.Release == policy.WhenFree.String() {
		return "It waits in Exim's queue and nothing is lost: it leaves by itself, oldest first, as soon as the limit has room. " + s.freedom() + gone
	}
	return "It waits in Exim's queue and nothing is lost, but it does not leave by itself: somebody has to release or discard it." + gone + " " + s.freedom()
}

// settled tells what became of a message that is not in the queue any more.
func (s *story) settled() string {
	h := s.held
	by, when := "", s.moment(h.StateAt.Time)
	if h.By != "" {
		by = " by " + h.By
	}
	switch h.State {
	case store.StateReleased.String():
		return fmt.Sprintf("It was released at %s%s, and Exim delivers it as usual; Exim's log says what became of it then.", when, by)
	case store.StateDiscarded.String():
		return fmt.Sprintf("It was removed from the queue for good at %s%s; its headers and its event are kept.", when, by)
	case store.StateExpired.String():
		return fmt.Sprintf("It was removed at %s, because held mail is kept for %s; nobody got a bounce.", when, roughly(s.keep))
	}
	return fmt.Sprintf("It is not in Exim's queue any more, noticed at %s, and osm did not take it out: somebody removed or delivered it with Exim's own commands. Exim's log says which.", when)
}

// command is what settles the matter, on one line: where several things stop the sender,
// what ends each of them.
func (s *story) command() string {
	d := s.d
	reason, _ := policy.ParseReason(d.Reason)
	switch {
	case !s.described && s.held != nil && s.held.State == store.StateHeld.String():
		return "osmctl held release " + d.Ref
	case reason == policy.ReasonDisabled:
		return "osmctl settings set checking on"
	case reason.Unchecked():
		return "osmctl status"
	case d.Verdict == "accept":
		return "osmctl usage " + quote(d.Account)
	case reason == policy.ReasonHeldFull && s.stops == nil:
		return "osmctl held list --account " + quote(d.Account)
	}
	var all []string
	if s.stops != nil {
		all = append(all, "osmctl release "+strconv.FormatInt(s.stops.ID, 10))
	}
	for i := range s.full {
		all = append(all, s.makeRoom(&s.full[i]))
	}
	if len(all) == 0 {
		return "osmctl usage " + quote(d.Account)
	}
	return strings.Join(all, " && ")
}

// makeRoom is the command after which a trigger has room for the message.
func (s *story) makeRoom(o *store.Over) string {
	if o.Units <= o.Max {
		return "osmctl reset " + quote(o.Trigger+"/"+o.Key)
	}
	// The account that the key names: of a claimed directory it is the claimed one's limit.
	account, part, _ := strings.Cut(o.Key, " ")
	level, name := "account", account
	switch {
	case o.Watch == "login" && strings.Contains(part, "@"):
		level, name = "mailbox", part
	case o.Watch == "client-ip":
		name = s.d.Account
	}
	return fmt.Sprintf("osmctl limit set --%s %s --trigger %s --max %d --until 1d", level, quote(name), o.Trigger, o.Used+o.Units)
}

// moment writes a time in the server's zone: the words are read by people there.
func (s *story) moment(t time.Time) string { return t.In(s.zone).Format("2006-01-02 15:04:05 MST") }

// quote makes a text one word for a shell.
func quote(s string) string {
	plain := func(r rune) bool {
		return strings.ContainsRune("_-+./@:%,=", r) || (r >= '0' && r <= '9') || (r >= 'a' && r <= 'z') || (r >= 'A' && r <= 'Z')
	}
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool { return !plain(r) }) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// count writes a number with its noun.
func count(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return decimal(n) + " " + noun + "s"
}

// singular of "recipients", "messages".
func singular(unit string) string { return strings.TrimSuffix(unit, "s") }

// decimal writes a number with its thousands set apart.
func decimal(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// longPeriod writes a period as a sentence has it: "hour", "24 hours", "10 minutes".
func longPeriod(p Period) string {
	d := time.Duration(p)
	for _, u := range []struct {
		size time.Duration
		name string
	}{{24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}, {time.Second, "second"}} {
		switch {
		case d == u.size:
			return u.name
		case d > u.size && d%u.size == 0:
			return decimal(int64(d/u.size)) + " " + u.name + "s"
		}
	}
	return p.String()
}

// roughly writes how long something takes, as people say it.
func roughly(d time.Duration) string {
	switch d = max(d, 0); {
	case d < 90*time.Second:
		return count(int64((d+time.Second-1)/time.Second), "second")
	case d < 90*time.Minute:
		return count(int64((d+time.Minute-1)/time.Minute), "minute")
	case d < 48*time.Hour:
		return count(int64((d+time.Hour/2)/time.Hour), "hour")
	}
	return count(int64((d+12*time.Hour)/(24*time.Hour)), "day")
}
