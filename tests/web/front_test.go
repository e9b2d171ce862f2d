package web

import (
	"fmt"
	"net/url"
	"strings"
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
