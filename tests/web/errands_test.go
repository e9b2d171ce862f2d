package web

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// begin is how an errand starts: logged in, on the first page.
type begin func(t *testing.T) *tab

func byLink(t *testing.T) *tab { return logIn(t, wide()) }

func byPhone(t *testing.T) *tab { return logIn(t, phone()) }

func withoutScript(t *testing.T) *tab {
	how := wide()
	how.noScript = true
	return logIn(t, how)
}

func inWHM(t *testing.T) *tab {
	b := newTab(t, whm("root"), wide())
	b.visit(whmFrame("root"))
	b.sees("Now")
	return b
}

// menu goes to a page by the menu.
func (b *tab) menu(name string) {
	b.t.Helper()
	b.leaving(func() { b.press("the menu's "+name, fmt.Sprintf("named('nav a', %s)", quote(name))) })
	b.until("the page "+name, func() error {
		var at string
		if err := b.try("said(doc.querySelector('nav [aria-current=page]') || doc.body).slice(0, 80)", &at); err != nil {
			return err
		}
		if at != name {
			return fmt.Errorf("the menu says that this is %q", at)
		}
		return nil
	})
	b.settled()
}

// The first day: everything is watched; somebody looks at what would have been stopped,
// and lets the trigger stop it.
func TestErrandFirstDay(t *testing.T) {
	const account, trigger = "firstday", "account-hour"
	for i := range 4 { // more than 30 from the account, no more than 10 from a folder
		sendmail(t, account, fmt.Sprint("part", i), "Order %d received", 9)
	}
	var e event
	eventually(t, "an observed event", func() error {
		for _, e = range list[event](t, "events", "--account", account) {
			if e.Trigger == trigger && e.Mode == "observe" {
				return nil
			}
		}
		return errors.New("there is none")
	})
	b := byLink(t)
	b.sees("Now", "Connected and in order")
	b.shoot("errand-firstday-now")
	b.menu("Events")
	b.sees(account)
	b.follow(fmt.Sprint(e.ID), trigger)
	b.sees(account+" went over "+trigger, "only observes")
	b.follow("Let " + trigger + " enforce")
	b.follow("Preview")
	b.sees("What it would have done", "this would have stopped", "Save: it acts at once")
	b.shoot("errand-firstday-preview")
	b.axe("the preview")
	b.follow("Save")
	b.sees(trigger, "enforce")
	b.axe("what was saved")
	sendmail(t, account, "part5", "One too many", 1)
	held(t, account, 1)
	b.menu("Held mail")
	b.sees("One too many", account)

	// It goes back to watching, with one button.
	b.menu("Audit")
	b.follow("Undo limit set server, trigger " + trigger)
	b.sees("Audit")
	eventually(t, "the trigger to observe again", func() error {
		var all struct {
			Items []struct{ Trigger, Mode string }
		}
		ctl(t, &all, "trigger", "list")
		for _, tr := range all.Items {
			if tr.Trigger == trigger && tr.Mode == "observe" {
				return nil
			}
		}
		return errors.New("it enforces")
	})
	sendmail(t, account, "part5", "Passes again", 1)
	arrived(t, "Passes again", 1)
}

// A customer asks why his mail stopped, with the reference from Exim's log.
func TestErrandWhyDidMyMailStop(t *testing.T) {
	for _, errand := range []struct {
		name, account string
		begin         begin
		release       string // the button's words
	}{
		{"alone", "stopped", byLink, "Release this message"},
		{"WHM", "whmstop", inWHM, "Release this message"},
		{"without a script", "nojs", withoutScript, "Release this message"},
		{"phone", "ringer", byPhone, "Release this message"},
	} {
		t.Run(errand.name, func(t *testing.T) {
			subject := "A question from " + errand.account
			sendmail(t, errand.account, "contact", subject, 11)
			mail := held(t, errand.account, 1)
			ref := refInLog(t, mail[0].MessageID)
			b := errand.begin(t)
			b.fill("Why did my mail stop?", ref)
			b.follow("Explain")
			b.sees("frozen", "directory-hour lets 10 messages pass in any hour", "public_html/contact", errand.account, "What happens now")
			b.shoot("errand-why-" + errand.name)
			if errand.name != "without a script" {
				b.axe("the explanation")
			}
			endHolds(t, errand.account)
			b.follow(errand.release)
			b.sees("Release 1 held message?", subject)
			b.fill("Reason", "the customer asked, ticket 77")
			b.follow("Release 1 message")
			b.sees("1 message")
			arrived(t, subject, 11)
			for _, a := range list[numbered](t, "audit") {
				if strings.Contains(a.What, "release") {
					return
				}
			}
			t.Error("the audit does not tell of the release")
		})
	}
}

// refInLog is the reference of a message as Exim's log has it.
func refInLog(t *testing.T, id string) string {
	t.Helper()
	for _, line := range machine.LogLines(id, "ref=") {
		_, ref, _ := strings.Cut(line, "ref=")
		return ref[:8]
	}
	t.Fatalf("Exim's log has no reference of %s", id)
	return ""
}

// endHolds ends the holds that the account's events put.
func endHolds(t *testing.T, account string) {
	t.Helper()
	for _, h := range list[numbered](t, "hold", "list", "--account", account) {
		ctl(t, &struct{}{}, "release", fmt.Sprint(h.ID))
	}
}

// A customer sends a newsletter: his limit is raised until Friday.
func TestErrandRaiseALimitUntilFriday(t *testing.T) {
	for _, errand := range []struct {
		name, account string
		begin         begin
	}{{"alone", "friday", byLink}, {"WHM", "whmlimit", inWHM}} {
		t.Run(errand.name, func(t *testing.T) {
			sendmail(t, errand.account, "news", "Before "+errand.account, 1)
			arrived(t, "Before "+errand.account, 1)
			b := errand.begin(t)
			b.menu("Senders")
			b.fill("Account, domain or mailbox", errand.account+".example")
			b.follow("Search")
			b.follow(errand.account)
			b.sees("Used now", "package gold")
			b.shoot("errand-limit-account-" + errand.name)
			b.click("Raise a limit until a day")
			b.choose("Limit", "directory-hour")
			b.fill("New maximum", "14")
			b.choose("Until", "the end of Friday")
			b.follow("Go on")
			b.fill("Reason", "newsletter, ticket 4711")
			b.follow("Preview")
			b.sees("What it would have done", "14")
			b.follow("Save")
			b.sees("14")
			sendmail(t, errand.account, "news", "News of "+errand.account, 15)
			arrived(t, "News of "+errand.account, 13) // 14 with the one before
			held(t, errand.account, 2)
			limits := list[struct {
				Max    int64
				Until  time.Time
				Reason string
			}](t, "limit", "show", "--account", errand.account)
			if len(limits) != 1 || limits[0].Max != 14 || limits[0].Reason != "newsletter, ticket 4711" {
				t.Fatalf("the limits are %+v", limits)
			}
			if day := limits[0].Until.Add(-time.Second).Weekday(); day != time.Friday || time.Until(limits[0].Until) > 7*24*time.Hour {
				t.Errorf("it holds until %v, which is no end of this week's Friday", limits[0].Until)
			}
		})
	}
}

// A sender is held by hand, and that was a mistake.
func TestErrandHoldAndUndo(t *testing.T) {
	const account = "undone"
	sendmail(t, account, "site", "Before the hold", 1)
	arrived(t, "Before the hold", 1)
	b := byLink(t)
	b.open(pageOf("senders", account))
	b.follow("Hold its mail")
	b.fill("Reason", "looks strange")
	b.follow("Put the hold")
	b.sees("Undo")
	sendmail(t, account, "site", "Held by hand", 1)
	held(t, account, 1)
	b.follow("Undo")
	eventually(t, "the end of the hold", func() error {
		if n := len(list[numbered](t, "hold", "list", "--account", account)); n > 0 {
			return fmt.Errorf("%d stand", n)
		}
		return nil
	})
	sendmail(t, account, "site", "After the hold", 1)
	arrived(t, "After the hold", 1)
	b.menu("Audit")
	b.sees(account, "looks strange", "root")
	b.shoot("errand-undo-audit")
}

// A hundred spams are thrown away at once, and only those that were counted.
func TestErrandBulkDiscard(t *testing.T) {
	for _, errand := range []struct {
		name, account string
		begin         begin
	}{{"alone", "bulk", byLink}, {"WHM", "whmbulk", inWHM}} {
		t.Run(errand.name, func(t *testing.T) {
			sendmail(t, errand.account, "uploads", "You have won %d", 17)
			sendmail(t, errand.account, "uploads", "Please call me back", 2)
			held(t, errand.account, 9)
			b := errand.begin(t)
			b.menu("Held mail")
			b.fill("Account", errand.account)
			b.fill("Subject", "You have won 3")
			b.follow("Show")
			b.tick("Choose all that are shown")
			b.shoot("errand-bulk-list-" + errand.name)
			b.follow("Discard", "Those that are ticked")
			b.sees("Discard 7 held messages?", "cannot be undone")
			b.shoot("errand-bulk-count-" + errand.name)
			b.axe("the question")
			b.follow("Discard 7 messages")
			b.sees("7 messages")
			left := held(t, errand.account, 2)
			for _, m := range left {
				if m.Subject != "Please call me back" {
					t.Errorf("%q is left", m.Subject)
				}
			}

			// While somebody reads the question, one more is frozen: nothing is done.
			b.menu("Held mail")
			b.fill("Account", errand.account)
			b.follow("Show")
			b.follow("Release all")
			b.sees("Release 2 held messages?")
			sendmail(t, errand.account, "uploads", "One more question", 1)
			held(t, errand.account, 3)
			b.follow("Release 2 messages")
			b.sees("Release 3 held messages?")
			held(t, errand.account, 3)
			b.follow("Release 3 messages")
			arrived(t, "One more question", 1)
			queue, err := machine.ReadQueue()
			if err != nil {
				t.Fatal(err)
			}
			for _, q := range queue {
				if strings.HasPrefix(q.Subject, "You have won") && q.Frozen && strings.Contains(q.Sender, errand.account) {
					t.Errorf("%s is still in Exim's queue: %s", q.Subject, q.ID)
				}
			}
		})
	}
}

// The demo's story: somebody who has read nothing finds the hacked script, why it was
// stopped, and releases what the site's visitors wrote.
func TestErrandANewcomer(t *testing.T) {
	const folder = "wp-content/plugins/contact-form"
	sendmail(t, "shop", "", "Your order 10%d is on its way", 8)
	login(t, "journal", "November news", 5)
	php(t, "hacked", folder, "You have won, number %d", 17)
	php(t, "hacked", folder, "A question from your site", 2)
	php(t, "hacked", "booking", "Your booking", 3)
	login(t, "stolen", "Invoice overdue", 16)
	held(t, "hacked", 9)
	held(t, "stolen", 4)
	ctl(t, &struct{}{}, "limit", "set", "--account", "journal", "--trigger", "account-hour", "--max", "5000", "--until", "3d", "--reason", "monthly newsletter, ticket 4711")
	b := byLink(t)
	b.sees("Stopped last", "hacked")
	b.shoot("story-now")
	b.menu("Events")
	b.shoot("story-events")
	b.follow("hacked", "plugins/contact-form")
	b.sees("Where its mail comes from", folder)
	b.shoot("story-account")
	b.menu("Events")
	b.follow(fmt.Sprint(list[event](t, "events", "--account", "hacked")[0].ID), "hacked")
	b.sees("hacked went over directory-hour", folder, "9 held messages wait")
	b.shoot("story-event")
	b.follow("Look at them")
	b.sees("A question from your site")
	b.shoot("story-held")
	b.follow(held(t, "hacked", 9)[0].Ref)
	b.follow("Why it was stopped")
	b.sees("directory-hour lets 10 messages pass", folder)
	b.shoot("story-explain")
	b.menu("Events")
	b.follow(fmt.Sprint(list[event](t, "events", "--account", "hacked")[0].ID), "hacked")
	b.sees("hacked went over directory-hour", "alike but for numbers")
	b.follow("Release those with the Subject A question from your site")
	b.sees("Release 2 held messages?")
	b.shoot("story-release")
	b.follow("Release 2 messages")
	arrived(t, "A question from your site", 2)
	held(t, "hacked", 7)
	b.menu("Limits")
	b.follow("Change directory-hour")
	b.fill("Maximum", "6")
	b.follow("Preview")
	b.sees("this would have stopped")
	b.shoot("story-preview")
	b.paint(true)
	b.open("now")
	b.shoot("story-now-dark")
	b.resize(phone())
	b.paint(false)
	b.open("now")
	b.shoot("story-now-phone")
}

// Whoever has no mouse reaches the content with one key, and every thing of a page in its
// order.
func TestErrandByKeyboard(t *testing.T) {
	b := byLink(t)
	b.open("senders")
	b.key("\t")
	b.key("\r")
	var at string
	b.eval("doc.activeElement.id", &at)
	if at != "main" {
		t.Errorf("the first key leads to %q, want the content", at)
	}
	seen := map[string]bool{}
	for range 40 {
		b.key("\t")
		var what string
		b.eval(`(() => {
			const e = doc.activeElement;
			if (!e || e === doc.body) return '';
			const s = win.getComputedStyle(e);
			return (s.outlineStyle === 'none' || s.outlineWidth === '0px' ? 'UNSEEN ' : '') + e.tagName + ' ' + said(e);
		})()`, &what)
		if strings.HasPrefix(what, "UNSEEN") {
			t.Errorf("where the keyboard is cannot be seen: %s", what)
		}
		seen[what] = true
	}
	if len(seen) < 5 {
		t.Errorf("the keyboard reaches only %v", seen)
	}
}
