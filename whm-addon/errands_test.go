package whm

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"osm/internal/control"
	"osm/internal/control/controltest"
)

// press sends the form in a page that has a button with a text, as a browser does.
func (v visitor) press(t *testing.T, a answer, button string, typed ...string) answer {
	t.Helper()
	for n := range a.doc.Descendants() {
		if n.Data != "button" || !strings.Contains(textOf(n), button) {
			continue
		}
		form := n
		for form != nil && form.Data != "form" {
			form = form.Parent
		}
		if form == nil || !strings.EqualFold(attribute(form, "method"), "post") {
			continue
		}
		values := fields(form)
		if name := attribute(n, "name"); name != "" {
			values[name] = []string{attribute(n, "value")}
		}
		for i := 0; i+1 < len(typed); i += 2 {
			values[typed[i]] = []string{typed[i+1]}
		}
		return v.ask(t, http.MethodPost, attribute(form, "action"), values)
	}
	t.Fatalf("no button %q: %s", button, a.said())
	return answer{}
}

// fields are what a form would send.
func fields(form *html.Node) map[string][]string {
	values := map[string][]string{}
	for n := range form.Descendants() {
		name := attribute(n, "name")
		switch {
		case name == "" || n.Data == "button" || attribute(n, "type") == "checkbox" && !hasAttribute(n, "checked"):
		case n.Data == "select":
			for o := range n.Descendants() {
				if o.Data == "option" && (hasAttribute(o, "selected") || values[name] == nil) {
					values[name] = []string{attribute(o, "value")}
				}
			}
		default:
			values[name] = append(values[name], attribute(n, "value"))
		}
	}
	return values
}

// Whoever mistypes a name gets the form back, with what was typed and in words of the page.
func TestASlipInANameKeepsTheForm(t *testing.T) {
	s := newSite(t, enforcing)
	v := s.operator()
	a := v.post(t, "holds/new", "scope", "directory", "account", "shpo", "value", "/home/shop/public_html", "reason", "ticket 9")
	a.wants(t, http.StatusNotFound, "There is no account", "Senders lists them.")
	for field, want := range map[string]string{"account": "shpo", "value": "/home/shop/public_html", "reason": "ticket 9"} {
		if n := a.find("input", "name", field); n == nil || attribute(n, "value") != want {
			t.Errorf("the field %s does not hold %q any more: %s", field, want, a.said())
		}
	}
	a = v.get(t, "limits?level=account&name=shpo")
	a.wants(t, http.StatusNotFound, "There is no account")
	if n := a.find("input", "name", "name"); n == nil || attribute(n, "value") != "shpo" {
		t.Errorf("the name is not there to be mended: %s", a.said())
	}
}

func TestFirstDayFromObserveToEnforce(t *testing.T) {
	s := newSite(t, "")
	v := s.operator()
	v.query = true
	for range 120 {
		s.Send(controltest.Mail{Account: "blog", Directory: "/home/blog/public_html", Subject: "You have won", Recipients: 4})
	}
	s.Flush()
	v.get(t, "now").wants(t, http.StatusOK, "Nothing is stopped yet.", "only observe")
	v.get(t, "events").wants(t, http.StatusOK, "account-hour", "Only observed")
	event := v.get(t, "events/1")
	event.wants(t, http.StatusOK, "Nothing was stopped", "What its messages have in common", "/home/blog/public_html")
	settings := v.get(t, "settings")
	preview := v.press(t, settings, "Enforce…") // of the first trigger, account-hour
	preview.wants(t, http.StatusOK, "this would have stopped 45 messages of 1 account", "mode enforce", "Save: it acts at once")
	done := v.follow(t, v.press(t, preview, "Save"))
	done.wants(t, http.StatusOK, "It is in force now.", "database, by root")
	if st, err := s.Service.Status(t.Context(), v.actor); err != nil || st.Config.Triggers.Enforcing != 1 {
		t.Fatalf("%+v, %v", st.Config.Triggers, err)
	}
	v.follow(t, v.press(t, done, "Undo")).wants(t, http.StatusOK, "Taken back, by: limit remove, server, trigger account-hour.")
	if st, err := s.Service.Status(t.Context(), v.actor); err != nil || st.Config.Triggers.Enforcing != 0 {
		t.Fatalf("after undo: %+v, %v", st.Config.Triggers, err)
	}
}

func TestWhyDidMyMailStopThenRelease(t *testing.T) {
	s := newSite(t, enforcing)
	s.fillStory()
	v := s.operator()
	held, err := s.Service.Held(t.Context(), v.actor, control.Selection{Account: "blog"}, control.Page{Limit: 10})
	if err != nil || len(held.Items) != 4 {
		t.Fatalf("%d held, %v", len(held.Items), err)
	}
	why := v.get(t, "explain?ref="+held.Items[0].MessageID)
	why.wants(t, http.StatusOK, "The reason is a limit: trigger directory-hour", "What happens now", "osmctl held release "+held.Items[0].Ref, "The messages that used the limit up")
	confirm := v.press(t, why, "Release this message…")
	confirm.wants(t, http.StatusOK, "Release 1 held message?")
	v.follow(t, v.press(t, confirm, "Release 1 message", "reason", "the contact form")).wants(t, http.StatusOK, "1 message released")
	got, err := s.Service.HeldMessage(t.Context(), v.actor, held.Items[0].Ref)
	if err != nil || got.State != "releasing" || got.By != "root" {
		t.Fatalf("%s by %s, %v", got.State, got.By, err)
	}
	v.get(t, "explain?ref=zzzzzzzz").wants(t, http.StatusNotFound, "No message is known as")
	v.get(t, "explain?ref=what%20is%20this%20about%20at%20all").wants(t, http.StatusBadRequest, "is neither a reference")
}

func TestDiscardAllThatMatchCountsFirst(t *testing.T) {
	s := newSite(t, enforcing)
	s.fillStory()
	v := s.operator()
	list := v.get(t, "held?account=blog")
	list.wants(t, http.StatusOK, "All that match the filter (4)")
	confirm := v.press(t, list, "Discard all…")
	confirm.wants(t, http.StatusOK, "Discard 4 held messages?", "All that wait and match: account blog", "cannot be undone")
	s.Send(controltest.Mail{Account: "blog", Directory: "/home/blog/public_html/cache", Subject: "one more"})
	s.Flush()
	again := v.press(t, confirm, "Discard 4 messages", "reason", "spam")
	again.wants(t, http.StatusConflict, "5 waiting messages match now, not 4: nothing was changed", "Discard 5 held messages?")
	if value := attribute(again.find("input", "id", "reason"), "value"); value != "spam" {
		t.Fatalf("the reason that was typed is %q", value)
	}
	v.follow(t, v.press(t, again, "Discard 5 messages")).wants(t, http.StatusOK, "5 messages discarded", "Being removed")
	v.post(t, "held/confirm", "do", "discard").wants(t, http.StatusBadRequest, "No message was chosen")
}

// A hacked contact form: its event tells the visitors' questions apart from the spam, and
// Now leads to it.
func TestAnEventTellsItsHeldMailApartBySubject(t *testing.T) {
	s := newSite(t, enforcing)
	s.fillStory()
	for range 2 {
		s.Send(controltest.Mail{Account: "blog", Directory: "/home/blog/public_html/cache", Subject: "A question from your site"})
	}
	s.Flush()
	v := s.operator()
	events, err := s.Service.Events(t.Context(), v.actor, control.EventFilter{Account: "blog", Trigger: "directory-hour"}, control.Page{Limit: 10})
	if err != nil || len(events.Items) != 1 {
		t.Fatalf("%d events, %v", len(events.Items), err)
	}
	page := fmt.Sprint("events/", events.Items[0].ID)
	if now := v.get(t, "now"); now.find("a", "href", v.at(page)) == nil {
		t.Errorf("Now does not lead to %s: %s", page, now.said())
	}
	event := v.get(t, page)
	event.wants(t, http.StatusOK, "6 held messages wait", "4 messages, alike but for numbers", "A question from your site 2 messages Release")
	button := event.find("button", "aria-label", "Release those with the Subject A question from your site")
	if button == nil {
		t.Fatalf("they cannot be released apart: %s", event.said())
	}
	form := button.Parent
	for form.Data != "form" {
		form = form.Parent
	}
	values := fields(form)
	values["do"] = []string{"release"}
	confirm := v.ask(t, http.MethodPost, attribute(form, "action"), values)
	confirm.wants(t, http.StatusOK, "Release 2 held messages?", "account blog", "directory /home/blog/public_html/cache", "Subject “A question from your site”")
	v.follow(t, v.press(t, confirm, "Release 2 messages")).wants(t, http.StatusOK, "2 messages released")
}

func TestTickedMessagesAreReleased(t *testing.T) {
	s := newSite(t, enforcing)
	s.fillStory()
	v := s.operator()
	held, err := s.Service.Held(t.Context(), v.actor, control.Selection{}, control.Page{Limit: 3})
	if err != nil {
		t.Fatal(err)
	}
	confirm := v.post(t, "held/confirm", "do", "release", "ref", held.Items[0].Ref, "ref", held.Items[1].Ref, "ref", held.Items[0].Ref, "back", "held?account=blog")
	confirm.wants(t, http.StatusOK, "Release 2 held messages?", "Those that you ticked")
	a := v.press(t, confirm, "Release 2 messages")
	if to := a.Header().Get("Location"); to != testBase+"/held?account=blog" {
		t.Fatalf("leads to %q", to)
	}
}

func TestRaiseALimitUntilFriday(t *testing.T) {
	s := newSite(t, enforcing)
	s.fillStory()
	v := s.operator()
	form := v.get(t, "limits/edit?level=account&name=news&trigger=account-hour&max=5000")
	form.wants(t, http.StatusOK, "In force: at most 20 recipients in 1 hour", "the end of Friday 27 November")
	bad := v.press(t, form, "Preview…", "max", "many", "reason", "newsletter, ticket 4711")
	bad.wants(t, http.StatusBadRequest, "it is a whole number")
	if value := attribute(bad.find("input", "id", "reason"), "value"); value != "newsletter, ticket 4711" {
		t.Fatalf("the reason that was typed is %q", value)
	}
	preview := v.press(t, bad, "Preview…", "max", "5,000", "until", "day 2026-11-27")
	preview.wants(t, http.StatusOK, "this would have stopped", "at most 5,000", "2026-11-28 00:00:00 UTC", "(newsletter, ticket 4711)")
	s.Advance(time.Hour) // somebody thinks it over
	v.follow(t, v.press(t, preview, "Save")).wants(t, http.StatusOK, "Account news, trigger account-hour: at most 5,000", "account news (database, by root)")
	list, err := s.Service.Limits(t.Context(), v.actor, "account", "news", control.Page{Limit: 5})
	if err != nil || len(list.Items) != 1 || !list.Items[0].Until.Equal(time.Date(2026, 11, 28, 0, 0, 0, 0, time.UTC)) {
		t.Fatalf("%+v, %v", list.Items, err)
	}
	again := v.get(t, "limits/edit?level=account&name=news&trigger=account-hour")
	if max, day := attribute(again.find("input", "id", "max"), "value"), attribute(again.find("input", "id", "until_day"), "value"); max != "5000" || day != "2026-11-27" {
		t.Fatalf("the form has %q until %q", max, day)
	}
	removal := v.get(t, fmt.Sprintf("limits/%d/remove", list.Items[0].ID))
	removal.wants(t, http.StatusOK, "Remove this limit?", "this would have stopped")
	v.follow(t, v.press(t, removal, "Remove the limit")).wants(t, http.StatusOK, "Removed: account news", "all is inherited")
}

func TestAnUnknownTriggerNamesTheNearest(t *testing.T) {
	v := newSite(t, enforcing).operator()
	v.get(t, "limits/edit?level=server&trigger=account-dya").wants(t, http.StatusNotFound, "There is no such trigger")
	v.post(t, "exemptions/new", "scope", "account", "value", "shop", "trigger", "account-huor").wants(t, http.StatusUnprocessableEntity, "The exemption cannot be so", `nearest is "account-hour"`)
	v.get(t, "limits?level=account&name=").wants(t, http.StatusBadRequest, "Write the name of the account")
}

func TestHoldAndUndo(t *testing.T) {
	for _, v := range []visitor{newSite(t, enforcing).operator(), newSite(t, enforcing).reseller("bob")} {
		t.Run(string(v.actor.Role), func(t *testing.T) {
			v.fillStory()
			form := v.get(t, "holds/new?scope=mailbox&value=info@shop.example&back=senders/shop")
			done := v.press(t, form, "Put the hold", "until", "4h", "reason", "password stolen")
			page := v.follow(t, done)
			page.wants(t, http.StatusOK, "Held: mailbox info@shop.example.", "1 hold stands", "password stolen")
			v.press(t, form, "Put the hold").wants(t, http.StatusConflict, "stands on mailbox info@shop.example already")
			v.follow(t, v.press(t, page, "Undo"))
			holds, err := v.Service.Holds(t.Context(), v.actor, "", control.Page{Limit: 5})
			if err != nil || len(holds.Items) != 0 {
				t.Fatalf("%d holds stand, %v", len(holds.Items), err)
			}
		})
	}
}

func TestExemptEndAndRemove(t *testing.T) {
	s := newSite(t, enforcing)
	v := s.operator()
	page := v.follow(t, v.press(t, v.get(t, "exemptions/new?scope=ip&value=192.0.2.1"), "Add the exemption", "ceiling", "400", "until_day", "2027-01-31"))
	page.wants(t, http.StatusOK, "Exempted: client IP 192.0.2.1, up to 400.", "1 Feb 2027")
	v.follow(t, v.press(t, v.get(t, "exemptions/1/remove"), "Remove the exemption")).wants(t, http.StatusOK, "Removed: the exemption", "Nobody is exempted.")
	v.post(t, "holds/new", "scope", "account", "account", "shop")
	v.follow(t, v.press(t, v.get(t, "holds/1/end"), "End the hold", "reason", "clean")).wants(t, http.StatusOK, "Ended: the hold on account shop.", "No hold stands.")
	v.get(t, "holds/1/end").wants(t, http.StatusNotFound, "No hold with that number stands")
}

func TestResetACounter(t *testing.T) {
	s := newSite(t, enforcing)
	s.fillStory()
	v := s.operator()
	form := v.get(t, "reset?trigger=directory-hour&key=blog+/home/blog/public_html/cache")
	form.wants(t, http.StatusOK, "Now 5 of 5 messages in 1 hour")
	v.follow(t, v.press(t, form, "Reset the counter", "reason", "mended")).wants(t, http.StatusOK, "is at 0", "blog.example")
	v.press(t, form, "Reset the counter").wants(t, http.StatusNotFound, "nothing is counted under that key")
}

func TestSettings(t *testing.T) {
	s := newSite(t, enforcing)
	v := s.operator()
	page := v.follow(t, v.press(t, v.get(t, "settings"), "Switch checking off", "reason", "maintenance"))
	page.wants(t, http.StatusOK, "Checking is off: every message is accepted", "Switch checking on")
	v.get(t, "now").wants(t, http.StatusOK, "Checking is off.")
	v.follow(t, v.press(t, page, "Undo")).wants(t, http.StatusOK, "Checking is on")
	bad := v.post(t, "settings", "key", "held.keep", "value", "for ever", "reason", "ticket")
	bad.wants(t, http.StatusUnprocessableEntity, "The setting cannot be so", "held.keep")
	if field := bad.find("input", "id", "v-held.keep"); attribute(field, "value") != "for ever" {
		t.Fatalf("what was typed is gone: %q", attribute(field, "value"))
	}
	v.follow(t, v.post(t, "settings", "key", "held.keep", "value", "20d")).wants(t, http.StatusOK, "held.keep is 20d now.")
	v.follow(t, v.post(t, "settings", "key", "held.keep", "unset", "1")).wants(t, http.StatusOK, "held.keep is 30d now.")
	v.follow(t, v.press(t, v.get(t, "settings"), "Read osm.toml again")).wants(t, http.StatusOK, "/etc/osm/osm.toml is in force.")
	v.follow(t, v.post(t, "settings/backup", "path", s.Dir+"/copy.db")).wants(t, http.StatusOK, "The database was copied to "+s.Dir+"/copy.db")
	v.post(t, "settings/backup", "path", s.Dir+"/copy.db").wants(t, http.StatusConflict, "is there already", "Name a file that does not exist yet")
	v.post(t, "settings/check", "toml", "[[trigger]]\nname = \"x\"\nmode = \"enfroce\"\n").wants(t, http.StatusOK, "mode", "enfroce")
	v.post(t, "settings/check", "toml", "checking = false\r\n").wants(t, http.StatusOK, "No mistake")
	export := v.get(t, "settings/export")
	if export.Code != http.StatusOK || !strings.Contains(export.body, "[[trigger]]") || !strings.Contains(export.Header().Get("Content-Disposition"), "osm.toml") {
		t.Fatalf("export: %d %.200s", export.Code, export.body)
	}
	v.get(t, "audit").wants(t, http.StatusOK, "checking", "backup", "maintenance")
}

func TestNowTellsFirstWhatIsWrong(t *testing.T) {
	s := newSite(t, enforcing)
	s.fillStory()
	s.SetState(control.State{Exim: control.Part{Text: "Exim has not asked since the start"}, Executor: control.Part{OK: true, Text: "answers"},
		Alarms: []control.Alarm{{At: control.Time{Time: controltest.Start()}, Name: "spool", Text: "the spool is nearly full", Count: 3}}})
	v := s.operator()
	a := v.get(t, "now")
	a.wants(t, http.StatusOK, "Alarm: spool. the spool is nearly full (3 times)", "Exim is not connected. Exim has not asked since the start", "Held messages 8", "full, 5 of 5", "Messages per minute in the last hour", "Executor answers")
	if alarm, tiles := strings.Index(a.said(), "Alarm: spool"), strings.Index(a.said(), "Held messages"); alarm > tiles {
		t.Fatal("the alarm comes after the numbers")
	}
	part := v.get(t, "now?part=1")
	if part.Code != http.StatusOK || strings.Contains(part.body, "<html") || !strings.Contains(part.said(), "Alarm: spool") || strings.Contains(part.body, "What this page shows") {
		t.Fatalf("the part is %d %.300s", part.Code, part.body)
	}
	if a := v.get(t, "help?part=1"); a.Code != http.StatusNotFound {
		t.Fatalf("a page without a live part: got %d", a.Code)
	}
}

func TestNotesAreShownOnceAndToTheirLoginOnly(t *testing.T) {
	s := newSite(t, enforcing)
	v := s.operator()
	v.post(t, "holds/new", "scope", "account", "account", "shop")
	other := v
	other.session = "login-7"
	if a := other.get(t, "help"); strings.Contains(a.said(), "Held: account shop") {
		t.Fatal("another login sees the note")
	}
	v.get(t, "now?part=1")
	v.get(t, "help").wants(t, http.StatusOK, "Held: account shop")
	if a := v.get(t, "help"); strings.Contains(a.said(), "Held: account shop") {
		t.Fatal("the note is shown twice")
	}
}

func TestWithoutTheDatabase(t *testing.T) {
	s := newSite(t, enforcing)
	s.fillStory()
	v := s.operator()
	s.LoseStore()
	for _, page := range []string{"messages", "events", "held", "limits", "exemptions", "audit", "senders"} {
		a := v.get(t, page)
		a.wants(t, http.StatusServiceUnavailable, "Not available now", "Mail goes on meanwhile")
		soundPage(t, page, v, a)
	}
	v.get(t, "now").wants(t, http.StatusOK, "A part of this page could not be read.", "Closest to a limit", "directory-hour")
	v.get(t, "help").wants(t, http.StatusOK)
	v.post(t, "holds/new", "scope", "account", "account", "shop").wants(t, http.StatusServiceUnavailable, "Not available now")
}

func TestAResellerIsToldWhoSettlesIt(t *testing.T) {
	s := newSite(t, enforcing)
	s.fillStory()
	held, err := s.Service.Held(t.Context(), s.operator().actor, control.Selection{Account: "news"}, control.Page{Limit: 1})
	if err != nil || len(held.Items) == 0 {
		t.Fatalf("nothing is held: %v", err)
	}
	a := s.reseller("bob").get(t, "explain?ref="+held.Items[0].Ref)
	a.wants(t, http.StatusOK, "What settles it only the server’s operator may do")
	if strings.Contains(a.said(), "osmctl") || strings.Contains(a.said(), "Release this message") {
		t.Fatalf("a reseller is shown what he cannot do: %s", a.said())
	}
	if a := s.reseller("bob").get(t, "limits"); strings.Contains(a.said(), "Change…") {
		t.Fatal("a reseller is offered to change his own limits")
	}
}

func TestDescribeAMessage(t *testing.T) {
	s := newSite(t, enforcing)
	s.fillStory()
	v := s.reseller("bob")
	v.get(t, "explain?describe=1&mailbox=info@shop.example&recipients_count=50&subject=Hello").wants(t, http.StatusOK, "It would be:", "Nothing was sent or counted", "The rules that were looked at")
	v.get(t, "explain?describe=1&account=shop&recipients_count=many").wants(t, http.StatusBadRequest, "it is a whole number")
	v.get(t, "explain?account=shop").wants(t, http.StatusOK, "What would happen to a message?")
}

func TestThePageOfAnAddress(t *testing.T) {
	s := newSite(t, enforcing)
	s.fillStory()
	s.operator().get(t, "senders/"+pagePath("login 198.51.100.7")).wants(t, http.StatusOK, "login 198.51.100.7", "client-ip-hour")
	s.operator().get(t, "senders/"+pagePath("login 2001:db8::/64")).wants(t, http.StatusNotFound, "Not found")
}
