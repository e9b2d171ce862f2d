package whm

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/html"

	"osm/internal/control"
	"osm/internal/control/controltest"
)

// enforcing are triggers that are soon over.
const enforcing = `
[[trigger]]
name = "account-hour"
watch = "account"
max = 20
per = "1h"
count = "recipients"
mode = "enforce"
[[trigger]]
name = "directory-hour"
watch = "directory"
max = 5
per = "1h"
count = "messages"
mode = "enforce"
[[trigger]]
name = "login-hour"
watch = "login"
max = 8
per = "1h"
count = "recipients"
mode = "enforce"
verdict = "defer"
[[trigger]]
name = "client-ip-hour"
watch = "client-ip"
max = 30
per = "1h"
count = "recipients"
mode = "enforce"
verdict = "deny"
[[trigger]]
name = "subject-hour"
watch = "subject"
max = 4
per = "1h"
count = "messages"
mode = "observe"
`

// site is a daemon with its page.
type site struct {
	*controltest.Daemon
	page http.Handler
}

func newSite(t testing.TB, text string) *site {
	t.Helper()
	d := controltest.New(t, text)
	page, err := New(Options{Service: d.Service, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Clock: d.Clock, Zone: controltest.Start().Location()})
	if err != nil {
		t.Fatal(err)
	}
	return &site{Daemon: d, page: page}
}

// visitor is a browser behind a front.
type visitor struct {
	*site
	actor   control.Actor
	query   bool // links in query form
	session string
	known   string              // the token of its forms, where it was looked up already
	edit    func(*http.Request) // the last word on a request
}

// The address that browsers use, and what stands before the links.
const (
	testOrigin = "https://host.example:2087"
	testBase   = "/osm"
)

func (s *site) operator() visitor {
	return visitor{site: s, actor: control.Actor{Name: "root", Role: control.Operator}, session: "login-1"}
}

func (s *site) reseller(name string) visitor {
	return visitor{site: s, actor: control.Actor{Name: name, Role: control.Reseller, Reseller: name}, session: "login-2"}
}

// answer is a page that came back.
type answer struct {
	*httptest.ResponseRecorder
	body string
	doc  *html.Node
}

// base is what every link begins with.
func (v visitor) base() string {
	if v.query {
		return "index.cgi"
	}
	return testBase
}

// at is the address of a page as the front has it.
func (v visitor) at(page string) string {
	f := front{base: v.base(), query: v.query}
	return f.to(page)
}

// ask sends a request to an address as the page writes it, as a front does.
func (v visitor) ask(t testing.TB, method, address string, form url.Values) answer {
	t.Helper()
	r := httptest.NewRequest(method, v.inside(t, address), strings.NewReader(form.Encode()))
	r = r.WithContext(control.WithActor(t.Context(), v.actor))
	r.Header.Set("X-OSM-Session", v.session)
	r.Header.Set("X-OSM-Origin", testOrigin)
	r.Header.Set("X-OSM-Base", v.base())
	if v.query {
		r.Header.Set("X-OSM-Links", "query")
		r.Header.Set("X-OSM-Frame", "1")
	}
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Origin", testOrigin)
	}
	if v.edit != nil {
		v.edit(r)
	}
	a := answer{ResponseRecorder: httptest.NewRecorder()}
	v.page.ServeHTTP(a, r)
	a.body = a.Body.String()
	var err error
	if a.doc, err = html.Parse(strings.NewReader(a.body)); err != nil {
		t.Fatal(err)
	}
	return a
}

// inside is where an address of the front's leads on the control socket.
func (v visitor) inside(t testing.TB, address string) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatalf("the page wrote an address that is none: %v", err)
	}
	q := u.Query()
	page := strings.TrimPrefix(u.EscapedPath(), testBase+"/")
	if v.query {
		if page != "index.cgi" {
			t.Fatalf("the page wrote the address %q, which the front does not serve", address)
		}
		page = q.Get("p")
		q.Del("p")
	} else if !strings.HasPrefix(address, testBase+"/") {
		t.Fatalf("the page wrote the address %q, which the front does not serve", address)
	}
	return "/web/" + page + "?" + q.Encode()
}

func (v visitor) get(t testing.TB, page string) answer {
	t.Helper()
	return v.ask(t, http.MethodGet, v.at(page), nil)
}

// post sends a form with the token that a page of this login has.
func (v visitor) post(t testing.TB, page string, pairs ...string) answer {
	t.Helper()
	if v.known == "" {
		v.known = v.token(t)
	}
	form := url.Values{"csrf": {v.known}}
	for i := 0; i+1 < len(pairs); i += 2 {
		form.Add(pairs[i], pairs[i+1])
	}
	return v.ask(t, http.MethodPost, v.at(page), form)
}

func (v visitor) token(t testing.TB) string {
	t.Helper()
	plain := v
	plain.edit = nil
	for n := range plain.get(t, "holds/new").doc.Descendants() {
		if n.Data == "input" && attribute(n, "name") == "csrf" {
			return attribute(n, "value")
		}
	}
	t.Fatal("the form of a hold has no token")
	return ""
}

// follow takes a redirect and returns the page that it leads to.
func (v visitor) follow(t testing.TB, a answer) answer {
	t.Helper()
	if a.Code != http.StatusSeeOther {
		t.Fatalf("got %d, want a redirect: %s", a.Code, a.said())
	}
	address, _, _ := strings.Cut(a.Header().Get("Location"), "#")
	return v.ask(t, http.MethodGet, address, nil)
}

func attribute(n *html.Node, name string) string {
	i := slices.IndexFunc(n.Attr, func(a html.Attribute) bool { return a.Key == name })
	if i < 0 {
		return ""
	}
	return n.Attr[i].Val
}

func hasAttribute(n *html.Node, name string) bool {
	return slices.ContainsFunc(n.Attr, func(a html.Attribute) bool { return a.Key == name })
}

// textOf is what a part of a page says, with single blanks.
func textOf(n *html.Node) string {
	var b strings.Builder
	for c := range n.Descendants() {
		switch {
		case c.Type == html.TextNode:
			b.WriteString(c.Data)
		case !slices.Contains([]string{"a", "b", "strong", "span", "bdi", "time", "code"}, c.Data):
			b.WriteString(" ")
		}
	}
	return strings.Join(strings.Fields(b.String()), " ")
}

// said is what a page says in its main part.
func (a answer) said() string {
	for n := range a.doc.Descendants() {
		if n.Data == "main" && n.Type == html.ElementNode {
			return textOf(n)
		}
	}
	return textOf(a.doc)
}

// find returns the first element of a kind with an attribute.
func (a answer) find(tag, name, value string) *html.Node {
	for n := range a.doc.Descendants() {
		if n.Type == html.ElementNode && n.Data == tag && attribute(n, name) == value {
			return n
		}
	}
	return nil
}

// wants fails unless a page says all of these.
func (a answer) wants(t testing.TB, code int, texts ...string) {
	t.Helper()
	if a.Code != code {
		t.Fatalf("got status %d, want %d: %.600s", a.Code, code, a.said())
	}
	for _, text := range texts {
		if !strings.Contains(a.said(), text) {
			t.Fatalf("the page does not say %q: %.1500s", text, a.said())
		}
	}
}

// fillStory lets the three accounts send, so that every list has something in it.
func (s *site) fillStory() {
	for i := range 9 {
		s.Send(controltest.Mail{Account: "blog", Directory: "/home/blog/public_html/cache", Subject: "Win " + strings.Repeat("1", i+1), Sender: "www@blog.example"})
		s.Send(controltest.Mail{Account: "shop", Mailbox: "info@shop.example", IP: "198.51.100.7", Subject: "Order 88", Sender: "info@shop.example", Recipients: 2})
		s.Send(controltest.Mail{Account: "news", Directory: "/home/news/public_html", Subject: "News", Sender: "news@news.example", Recipients: 3})
	}
	s.Send(controltest.Mail{Account: "(unknown)", Subject: "whose?", Sender: "x@y.example"})
	s.Flush()
}
