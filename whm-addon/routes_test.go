package whm

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/html"

	"osm/internal/control"
	"osm/internal/control/controltest"
)

// everyPage are the pages that can be asked for, with what they show of the story.
func everyPage(t *testing.T, v visitor) []string {
	t.Helper()
	held, err := v.Service.Held(t.Context(), v.actor, control.Selection{}, control.Page{Limit: 1})
	if err != nil || len(held.Items) == 0 {
		t.Fatalf("no held mail in the story: %v", err)
	}
	ref, account := held.Items[0].Ref, held.Items[0].Account
	hold, err := v.Service.PutHold(t.Context(), v.actor, control.Hold{Scope: "account", Account: account, Reason: "ticket 1"})
	if err != nil {
		t.Fatal(err)
	}
	low := int64(3)
	limit, err := v.Service.SetLimit(t.Context(), v.actor, control.Limit{Level: "account", Name: account, Trigger: "account-hour", Max: &low, Reason: "ticket 2"})
	if err != nil {
		t.Fatal(err)
	}
	list := []string{"", "now", "now?part=1", "senders", "senders?by=stopped&since=7d", "senders?q=example", "senders?all=1", "senders/" + account, "senders/" + account + "?since=30d",
		"connections", "connections?account=" + account + "&remote=198.51.100.0/24&since=7d", "explain?ref=" + connectionOf(t, v, account),
		"messages", "messages?verdict=stopped&account=" + account, "events", "events?open=1&trigger=account-hour", "held", "held?account=" + account, "held?state=all", "held/" + ref,
		"explain", "explain?ref=" + ref, "explain?describe=1&account=" + account + "&recipients_count=3", "limits", "limits?level=account&name=" + account, "limits?set=all",
		"limits/edit?level=account&name=" + account + "&trigger=account-hour", fmt.Sprintf("limits/%d/remove", limit.ID), "exemptions", "exemptions?account=" + account, "holds/new",
		"holds/new?scope=account&account=" + account, fmt.Sprintf("holds/%d/end", hold.ID), "help", "reset?trigger=account-hour&key=" + account}
	events, err := v.Service.Events(t.Context(), v.actor, control.EventFilter{}, control.Page{Limit: 100})
	if err != nil || len(events.Items) == 0 {
		t.Fatalf("no events in the story: %v", err)
	}
	for _, e := range events.Items {
		list = append(list, fmt.Sprintf("events/%d", e.ID))
	}
	return list
}

// connectionOf makes an account connect past Exim, over a limit, and returns the reference.
func connectionOf(t *testing.T, v visitor, account string) string {
	t.Helper()
	ref := v.Connect(controltest.Conn{Account: account, Directory: "/home/" + account + "/public_html", UID: 1001, Over: true}).Ref
	v.Flush()
	return ref
}

// operatorsPages are those that nobody else sees.
func operatorsPages() []string {
	return []string{"audit", "settings", "settings/doctor", "settings/config", "settings/check", "exemptions/new"}
}

// visitors are everybody who may come, in both forms of links.
func (s *site) visitors() map[string]visitor {
	out := map[string]visitor{"operator, paths": s.operator(), "reseller, paths": s.reseller("bob")}
	q := s.operator()
	q.query = true
	out["operator, query"] = q
	q = s.reseller("carol")
	q.query = true
	out["reseller, query"] = q
	return out
}

func TestEveryPageIsShownToWhoMaySeeIt(t *testing.T) {
	for name, v := range newSite(t, enforcing).visitors() {
		t.Run(name, func(t *testing.T) {
			v.site = newSite(t, enforcing)
			v.fillStory()
			for _, page := range everyPage(t, v) {
				a := v.get(t, page)
				if a.Code != http.StatusOK {
					t.Errorf("%s: got %d: %s", page, a.Code, a.said())
					continue
				}
				if strings.Contains(page, "part=1") {
					continue
				}
				soundPage(t, page, v, a)
			}
			for _, page := range operatorsPages() {
				a, want := v.get(t, page), http.StatusOK
				if v.actor.Role != control.Operator {
					want = http.StatusForbidden
				}
				if a.Code != want {
					t.Errorf("%s: got %d, want %d: %s", page, a.Code, want, a.said())
				}
				soundPage(t, page, v, a)
			}
		})
	}
}

// soundPage checks what is true of every page: it can be read by a program that reads
// aloud, it runs nothing, and it links to nothing outside.
func soundPage(t *testing.T, page string, v visitor, a answer) {
	t.Helper()
	ids, labels, headings := map[string]int{}, []string{}, 0
	for n := range a.doc.Descendants() {
		if n.Type != html.ElementNode {
			continue
		}
		if id := attribute(n, "id"); id != "" {
			ids[id]++
		}
		for _, name := range []string{"aria-labelledby", "aria-describedby", "for"} {
			labels = append(labels, strings.Fields(attribute(n, name))...)
		}
		if n.Data == "h1" {
			headings++
		}
		for _, wrong := range slices.Concat(activeParts(n), mute(a, n), strayLink(v, n)) {
			t.Errorf("%s: %s", page, wrong)
		}
	}
	for id, n := range ids {
		if n > 1 {
			t.Errorf("%s: %d elements have the id %q", page, n, id)
		}
	}
	for _, id := range labels {
		if ids[id] == 0 {
			t.Errorf("%s: a label names %q, and there is no such element", page, id)
		}
	}
	if headings != 1 || a.find("main", "id", "main") == nil || a.find("html", "lang", "en") == nil {
		t.Errorf("%s: want one heading, a main part and a language, got %d headings", page, headings)
	}
}

// activeParts names what could run or load something that is not the page's own.
func activeParts(n *html.Node) (wrong []string) {
	switch n.Data {
	case "script":
		if n.FirstChild != nil || !strings.Contains(attribute(n, "src"), "static/osm-") {
			wrong = append(wrong, "a script of its own: "+textOf(n))
		}
	case "style", "iframe", "object", "embed", "base", "img", "image", "foreignobject", "marquee", "video", "audio", "math", "template", "animate", "set", "use":
		wrong = append(wrong, "an element "+n.Data)
	case "meta":
		if hasAttribute(n, "http-equiv") {
			wrong = append(wrong, "a meta element that is a header")
		}
	}
	for _, at := range n.Attr {
		value := strings.ToLower(strings.TrimSpace(at.Val))
		switch {
		case strings.HasPrefix(at.Key, "on"), at.Key == "style", at.Key == "srcdoc", at.Key == "formaction":
			wrong = append(wrong, fmt.Sprintf("an attribute %s=%q", at.Key, at.Val))
		case slices.Contains([]string{"href", "src", "action", "xlink:href", "data", "poster"}, at.Key) && (strings.HasPrefix(value, "javascript:") || strings.HasPrefix(value, "vbscript:") || strings.HasPrefix(value, "data:") || strings.HasPrefix(value, "//")):
			wrong = append(wrong, fmt.Sprintf("a link %s=%q", at.Key, at.Val))
		}
	}
	return wrong
}

// mute names what has no name for those who do not see it.
func mute(a answer, n *html.Node) (wrong []string) {
	named := hasAttribute(n, "aria-label") || hasAttribute(n, "aria-labelledby")
	switch n.Data {
	case "input", "select", "textarea":
		wrapped := n.Parent != nil && n.Parent.Data == "label"
		if kind := attribute(n, "type"); kind != "hidden" && !named && !wrapped && (attribute(n, "id") == "" || a.find("label", "for", attribute(n, "id")) == nil) {
			wrong = append(wrong, fmt.Sprintf("the field %q has no label", attribute(n, "name")))
		}
	case "svg":
		if attribute(n, "role") == "img" && (n.FirstChild == nil || n.FirstChild.Data != "title" || textOf(n.FirstChild) == "") {
			wrong = append(wrong, "a drawing without a title")
		}
		if attribute(n, "role") != "img" && attribute(n, "aria-hidden") != "true" {
			wrong = append(wrong, "a drawing that is neither named nor hidden")
		}
	case "button", "a":
		if textOf(n) == "" && !named {
			wrong = append(wrong, "a "+n.Data+" without a name")
		}
	case "th":
		if !hasAttribute(n, "scope") {
			wrong = append(wrong, "a heading of a table without its scope: "+textOf(n))
		}
	case "form":
		if strings.EqualFold(attribute(n, "method"), "post") && !slices.ContainsFunc(slices.Collect(n.Descendants()), func(c *html.Node) bool { return attribute(c, "name") == "csrf" }) {
			wrong = append(wrong, "a form without a token: "+attribute(n, "action"))
		}
	}
	return wrong
}

// strayLink names a link that leads away from the front.
func strayLink(v visitor, n *html.Node) (wrong []string) {
	for _, name := range []string{"href", "src", "action"} {
		if address := attribute(n, name); hasAttribute(n, name) && !strings.HasPrefix(address, "#") &&
			address != v.base() && !strings.HasPrefix(address, v.base()+"?") && (v.query || !strings.HasPrefix(address, v.base()+"/")) {
			wrong = append(wrong, fmt.Sprintf("%s=%q leads away from %s", name, address, v.base()))
		}
	}
	return wrong
}

func TestEveryLinkLeadsToAPage(t *testing.T) {
	for name, v := range newSite(t, enforcing).visitors() {
		t.Run(name, func(t *testing.T) {
			v.site = newSite(t, enforcing)
			v.fillStory()
			everyPage(t, v) // puts a hold and a limit
			seen, todo := map[string]string{}, []string{v.at("now")}
			for len(todo) > 0 && len(seen) < 400 {
				address := todo[0]
				todo = todo[1:]
				a := v.ask(t, http.MethodGet, address, nil)
				if a.Code != http.StatusOK {
					t.Fatalf("%s, linked from %s: got %d: %s", address, seen[address], a.Code, a.said())
				}
				for n := range a.doc.Descendants() {
					link, _, _ := strings.Cut(attribute(n, "href"), "#")
					if n.Data != "a" || link == "" || seen[link] != "" {
						continue
					}
					seen[link] = address
					todo = append(todo, link)
				}
			}
			if len(seen) < 25 {
				t.Fatalf("only %d links were found", len(seen))
			}
		})
	}
}

func TestHeadersOfEveryAnswer(t *testing.T) {
	v := newSite(t, enforcing).operator()
	framed := v
	framed.query = true
	for name, row := range map[string]struct {
		a         answer
		ancestors string
		cache     string
	}{
		"a page":                 {v.get(t, "help"), "'none'", "no-store"},
		"a page in WHM":          {framed.get(t, "help"), "'self'", "no-store"},
		"a page that is not":     {v.get(t, "nothing"), "'none'", "no-store"},
		"a way that is not":      {v.get(t, "senders/../now"), "'none'", "no-store"},
		"the style":              {v.get(t, "static/"+staticName(t, "osm.css")), "'none'", "public, max-age=31536000, immutable"},
		"a style of another day": {v.get(t, "static/osm.css"), "'none'", "no-store"},
	} {
		h := row.a.Header()
		for header, want := range map[string]string{
			"Content-Security-Policy": policyOfContent + row.ancestors, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin",
			"Cache-Control": row.cache, "Cross-Origin-Opener-Policy": "same-origin",
		} {
			if got := h.Get(header); got != want {
				t.Errorf("%s: %s is %q, want %q", name, header, got, want)
			}
		}
	}
}

func staticName(t *testing.T, name string) string {
	t.Helper()
	all, err := loadStatic()
	if err != nil {
		t.Fatal(err)
	}
	return all[name].name
}

func TestNobodyIsLetInWithoutAnActor(t *testing.T) {
	v := newSite(t, enforcing).operator()
	v.edit = func(r *http.Request) { *r = *r.WithContext(t.Context()) }
	for _, page := range []string{"now", "help", "nothing"} {
		if a := v.get(t, page); a.Code != http.StatusForbidden {
			t.Errorf("%s: got %d, want 403", page, a.Code)
		}
	}
}
