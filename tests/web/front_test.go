package web

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os/exec"
	"os/user"
	"strings"
	"syscall"
	"testing"
)

// A day with osmctl web: in by a link, back by a link on another site, out by the button.
func TestInAndOutOfTheFront(t *testing.T) {
	b := newTab(t, alone(), wide())
	way := link(t, "--user", "anna")
	for range 2 { // looking at the link does not use it up
		b.visit(way)
		b.sees("Log in to osm")
	}
	b.follow("Log in")
	b.sees("Now", "anna")
	for _, c := range b.cookies() {
		if !c.HTTPOnly || c.SameSite != "Strict" {
			t.Errorf("the cookie is %+v", c)
		}
	}
	// A report in somebody's web mail has a link: the browser sends no cookie with the first
	// request.
	elsewhere := evilPages(t, "localhost")
	b.visit(elsewhere + "?" + url.Values{"link": {alone().address("events?open=1")}}.Encode())
	b.click("go")
	b.sees("Events", "anna")
	if at := b.place(); at != "/events?open=1" {
		t.Errorf("it leads to %s", at)
	}
	b.follow("Log out")
	b.sees("Logged out", "osmctl web link")
	b.open("now")
	b.sees("Not logged in")
	b.leaving(func() { b.eval("(history.go(-2), null)", nil) }) // before the logout
	b.until("the page before", func() error {
		var at string
		if err := b.try("location.pathname", &at); err != nil || at != "/events" {
			return fmt.Errorf("at %s: %w", at, err)
		}
		return nil
	})
	if text := b.text(); strings.Contains(text, "anna") {
		t.Errorf("the browser still shows what was there: %.200s", text)
	}
	b.visit(way)
	b.follow("Log in")
	b.sees("of no use any more")
}

// A reseller sees his own senders, by both doors, and no page breaks for what he may not.
func TestAResellersPages(t *testing.T) {
	sendmail(t, "bobshop", "site", "Your order", 3)
	for _, begin := range []begin{
		func(t *testing.T) *tab { return logIn(t, wide(), "--reseller", "bob") },
		func(t *testing.T) *tab {
			b := newTab(t, whm("bob"), wide())
			b.visit(whmFrame("bob"))
			return b
		},
	} {
		b := begin(t)
		b.sees("Now", "bob")
		var pages []string
		b.eval("all('nav a').map(said)", &pages)
		if len(pages) < 7 {
			t.Errorf("the menu has only %q", pages)
		}
		for _, page := range pages {
			b.menu(page)
			b.seesNot("carol", "could not be read", "only an operator")
			if b.door.name == "alone" {
				b.axe("a reseller's " + page)
			}
		}
		b.menu("Senders")
		b.sees("bobshop")
		b.follow("bobshop")
		b.sees("Used now")
		b.follow("Hold its mail")
		b.fill("Reason", "asked to")
		b.follow("Put the hold")
		b.sees("Undo")
		b.follow("Undo")
		b.seesNot("could not")
	}
}

// A member of osm-admin serves the page to operators, in his own name; somebody else can
// start it and gets nothing out of it.
func TestServedBySomebodyElseThanRoot(t *testing.T) {
	dependOnProduct(t)
	admin, err := user.LookupGroup("osm-admin")
	if err != nil {
		t.Fatal(err)
	}
	const account = "quiet"
	serve := func(listen string, groups string) webPage {
		t.Helper()
		cmd := exec.Command("/usr/bin/setpriv", fmt.Sprint("--reuid=", machine.UID(account)), fmt.Sprint("--regid=", machine.UID(account)), "--groups="+groups,
			machine.bin+"/osmctl", "-socket", machine.ControlSocket(), "web", "--listen", listen, "--json")
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
			_ = cmd.Wait()
		})
		var page webPage
		if err := json.NewDecoder(out).Decode(&page); err != nil {
			t.Fatal(err)
		}
		return page
	}
	page := serve("127.0.0.1:8026", admin.Gid)
	b := newTab(t, door{"member", func(p string) string { return page.URL + p }}, wide())
	b.visit(page.Link.URL)
	b.sees("done by " + account)
	b.follow("Log in")
	b.sees("Now", account)
	b.open("holds/new?scope=account&account=" + account)
	b.follow("Put the hold")
	b.open("audit")
	b.sees("hold put", account)
	endHolds(t, account)
	b.visit(strings.Replace(link(t, "--reseller", "bob"), webAddress, "127.0.0.1:8026", 1))
	b.follow("Log in")
	b.sees("For operators only", account)

	stranger := serve("127.0.0.1:8027", fmt.Sprint(machine.UID(account)))
	if stranger.Link != nil {
		t.Errorf("somebody who is no member got a link: %+v", stranger.Link)
	}
	b = newTab(t, door{"stranger", func(p string) string { return stranger.URL + p }}, wide())
	b.visit(strings.Replace(link(t), webAddress, "127.0.0.1:8027", 1))
	b.follow("Log in")
	b.sees("may not")
}

// webPage is what "osmctl web --json" prints first.
type webPage struct {
	Listen, URL string
	Link        *struct{ URL string }
}
