package whm

import (
	"fmt"
	"html/template"
	"strings"

	"osm/internal/control"
)

// word is how the page names a value: in a word people know, with a sign, so that colour is
// never all that tells it apart.
type word struct{ text, icon, class string }

func verdictWord(v string) word {
	switch v {
	case "accept":
		return word{"Passed", "check", "passed"}
	case "freeze":
		return word{"Frozen", "snow", "frozen"}
	case "discard":
		return word{"Discarded", "trash", "discarded"}
	case "defer":
		return word{"Deferred", "clock", "deferred"}
	case "deny":
		return word{"Refused", "cross", "denied"}
	}
	return word{v, "dot", "plain"}
}

func modeWord(m string) word {
	switch m {
	case "enforce":
		return word{"Enforce", "shield", "enforce"}
	case "observe":
		return word{"Observe", "eye", "observe"}
	case "off":
		return word{"Off", "off", "off"}
	}
	return word{m, "dot", "plain"}
}

func stateWord(s string) word {
	switch s {
	case "held":
		return word{"Waiting", "snow", "frozen"}
	case "releasing":
		return word{"Leaving", "clock", "observe"}
	case "discarding":
		return word{"Being removed", "clock", "deferred"}
	case "released":
		return word{"Released", "check", "passed"}
	case "discarded":
		return word{"Discarded", "trash", "discarded"}
	case "gone":
		return word{"Gone", "dot", "plain"}
	case "expired":
		return word{"Expired", "clock", "plain"}
	}
	return word{s, "dot", "plain"}
}

// badge draws a word.
func (w word) badge() template.HTML {
	return template.HTML(`<span class="badge `+w.class+`">`) + icon(w.icon) + template.HTML(template.HTMLEscapeString(w.text)+"</span>")
}

func verdictBadge(v string) template.HTML { return verdictWord(v).badge() }
func modeBadge(m string) template.HTML    { return modeWord(m).badge() }
func stateBadge(s string) template.HTML   { return stateWord(s).badge() }

// onlyObserved reports whether a message passed only because a trigger observes.
func onlyObserved(d *control.Decision) bool {
	return d.Verdict == "accept" && d.Would != "" && d.Would != "accept"
}

// decisionBadge is the verdict of a message.
func decisionBadge(d control.Decision) template.HTML {
	if onlyObserved(&d) {
		return word{"Passed, observed", "eye", "observe"}.badge()
	}
	return verdictBadge(d.Verdict)
}

// whyText is in a few words why a message was decided as it was.
func whyText(d control.Decision) string {
	if onlyObserved(&d) {
		return "would be " + strings.ToLower(verdictWord(d.Would).text)
	}
	return reasonText(d.Reason)
}

// eventBadge is what an event does to messages; connections are only seen.
func eventBadge(e control.Event) template.HTML {
	if ofConnections(e) {
		return word{"Seen", "eye", "plain"}.badge()
	}
	if e.Mode == "observe" {
		return word{"Only observed", "eye", "observe"}.badge()
	}
	return verdictBadge(e.Verdict)
}

// watchText says what a trigger counts together.
func watchText(watch string) string {
	switch watch {
	case "account":
		return "everything an account sends"
	case "subject":
		return "mail of an account with the same Subject"
	case "scripts":
		return "all scripts of an account together"
	case "directory":
		return "scripts in one directory"
	case "login":
		return "one mailbox that logs in"
	case "client-ip":
		return "one client IP"
	case "automatic":
		return "auto-replies of an account"
	case "direct":
		return "connections past Exim of an account"
	case "direct-directory":
		return "connections past Exim from one directory"
	}
	return watch
}

// keyPart is what a counter's key names besides the account.
func keyPart(watch, key string) string {
	_, part, _ := strings.Cut(key, " ")
	switch watch {
	case "account", "scripts", "automatic", "direct":
		return ""
	}
	return part
}

// sourceText says in which way a message was submitted.
func sourceText(source string) string {
	switch source {
	case "login":
		return "after a login (SMTP AUTH)"
	case "local":
		return "by SMTP from this server"
	case "relay":
		return "from an address that may relay"
	case "script":
		return "by a script (sendmail)"
	case "automatic":
		return "as an auto-reply"
	case "system":
		return "by the panel itself"
	case "direct":
		return "past Exim"
	}
	return "in an unknown way"
}

// reasonText says why a decision came out as it did.
func reasonText(reason string) string {
	switch reason {
	case "within_limits":
		return "within every limit"
	case "over":
		return "over a limit"
	case "larger_than_limit":
		return "larger than the whole limit"
	case "hold":
		return "a hold stands"
	case "held_full":
		return "too much held mail already"
	case "exempt":
		return "exempted"
	case "disabled":
		return "checking is off"
	case "system":
		return "service mail, not counted"
	case "not_ready":
		return "unchecked: counters not back yet"
	case "overload":
		return "unchecked: too many questions at once"
	case "malformed":
		return "unchecked: question not understood"
	case "fault":
		return "unchecked: a fault of osm"
	case "unanswered":
		return "unchecked: Exim stopped waiting"
	}
	return reason
}

// scopeText names what a hold or an exemption matches by.
func scopeText(scope string) string {
	switch scope {
	case "ip":
		return "client IP"
	case "recipient-domain":
		return "recipients' domain"
	case "destination":
		return "destination of connections past Exim"
	case "subject":
		return "Subject"
	}
	return scope
}

// releaseText says what becomes of mail that was frozen.
func releaseText(release string) string {
	if release == "when-free" {
		return "leaves by itself when there is room"
	}
	return "waits until somebody releases it"
}

// otherOrigin is where a second value was set, if that is elsewhere than the first; lines of
// one file are one place.
func otherOrigin(first, second string) string {
	first, _, _ = strings.Cut(first, ", line ")
	if place, _, _ := strings.Cut(second, ", line "); place == first || place == "default" {
		return ""
	}
	return second
}

// pageOfCommand are the pages on which somebody finds what a command shows. Of two that
// begin alike the longer one stands first.
var pageOfCommand = strings.NewReplacer(
	"osmctl actions --standing", "Actions",
	"osmctl undo ", "Actions, action ",
	"osmctl usage ACCOUNT", "the account’s page under Senders",
	"osmctl accounts", "Senders",
	"osmctl events", "Events",
	"osmctl connections", "Connections",
	"osmctl held list --state all", "Held mail, with the state “all”,",
	"osmctl held list", "Held mail",
	"osmctl limit show", "Limits",
	"osmctl hold list", "Exemptions and holds",
	"osmctl exempt list", "Exemptions and holds",
	"osmctl release ", "Exemptions and holds, hold ",
	"osmctl audit", "Audit",
	"osmctl settings list", "Settings",
	"osmctl status", "Now",
)

// onPage puts what an operation says into the page's words: its hints name commands, which
// whoever looks at a page does not have at hand.
func onPage(text string) string { return pageOfCommand.Replace(text) }

// actionsText lists what follows when a trigger goes over.
func actionsText(list []control.LimitEntry) string {
	var parts []string
	for _, a := range list {
		text := a.Name
		if a.Script != "" {
			text += " " + a.Script
		}
		if a.For > 0 {
			text += " for " + period(a.For)
		}
		if a.From > 1 {
			text += fmt.Sprintf(" from time %d on", a.From)
		}
		parts = append(parts, text)
	}
	if len(parts) == 0 {
		return "nothing"
	}
	return strings.Join(parts, ", ")
}
