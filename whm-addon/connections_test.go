package whm

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"osm/internal/control/controltest"
)

func TestConnectionsAreShownWhereSomebodyLooks(t *testing.T) {
	v := newSite(t, "").operator()
	for range 3 {
		v.Connect(controltest.Conn{Account: "shop", Directory: "/home/shop/public_html/wp", UID: 1001})
	}
	over := v.Connect(controltest.Conn{Account: "shop", Directory: "/home/shop/public_html/wp", UID: 1001, Over: true})
	v.Connect(controltest.Conn{Account: "(unknown)", Remote: "[2001:db8::25]:587"})
	v.Flush()
	for page, want := range map[string][]string{
		"connections":                      {"198.51.100.7:25", "[2001:db8::25]:587", "php (700)", "/home/shop/public_html/wp", "uid 1001", "uid not known", "direct-hour"},
		"connections?remote=:587":          {"[2001:db8::25]:587"},
		"connections?uid=1001&since=1h":    {"198.51.100.7:25"},
		"connections?directory=/elsewhere": {"No connection matches."},
		"senders/shop":                     {"Its connections past Exim", "198.51.100.7:25", "Connections past Exim per hour"},
		"senders?by=connections":           {"Connections"},
		"now":                              {"Connections past Exim per minute"},
		"events/1":                         {"The connections that were over", "The connections that used the limit up", "What its connections have in common", "Over the limit 1 connection", "Connections are seen and counted"},
		"events":                           {"direct-hour", "Seen"},
		"explain?ref=" + over.Ref:          {"A connection past Exim", "This connection of account shop from 192.0.2.1:40001 to 198.51.100.7:25", "The process and its parents", "--secret", "Over a limit"},
	} {
		v.get(t, page).wants(t, http.StatusOK, want...)
	}
	for _, page := range []string{"events/1", "explain?ref=" + over.Ref} {
		said, _, _ := strings.Cut(v.get(t, page).said(), "What would happen to a message?") // the form below it
		_, said, _ = strings.Cut(said, "Explain ")
		if page == "events/1" {
			said = v.get(t, page).said()
		}
		if strings.Contains(strings.ToLower(said), "message") {
			t.Errorf("%s speaks of a message: %s", page, said)
		}
	}
	if a := v.get(t, "connections?remote=mail.example&account=shop"); a.Code != http.StatusBadRequest || !strings.Contains(a.said(), "Remote is") || a.find("input", "value", "mail.example") == nil {
		t.Errorf("a destination that is none: got %d: %s", a.Code, a.said())
	}
	if said := v.get(t, "messages").said(); strings.Contains(said, over.Ref) || !strings.Contains(said, "No message matches.") {
		t.Errorf("a connection is among the messages: %s", said)
	}
	// A reseller sees his own, without what other users' processes were told.
	bob := v.site.reseller("bob")
	a := bob.get(t, "explain?ref="+over.Ref)
	a.wants(t, http.StatusOK, "This connection of account shop", "php mailer.php")
	if strings.Contains(a.body, "--secret") || strings.Contains(a.said(), "only the server’s operator") {
		t.Errorf("a reseller reads %s", a.said())
	}
	if said := v.site.reseller("carol").get(t, "connections").said(); strings.Contains(said, "shop") {
		t.Errorf("another's reseller reads %s", said)
	}
}

func TestWhatProcessesCallThemselvesDoesNothingOnThePage(t *testing.T) {
	v := newSite(t, "").operator()
	hostile := []string{`<script>alert(1)</script>`, `"><img src=x onerror=alert(1)>`, "\x1b[2J\u202e\x00", strings.Repeat("é", 5_000), `javascript:alert(1)`}
	var refs []string
	for i, text := range hostile {
		refs = append(refs, v.Connect(controltest.Conn{Account: "shop", Directory: "/home/shop/" + text, UID: uint32(1001 + i), Over: i == 0, Argument: text}).Ref)
	}
	v.Flush()
	pages := []string{"connections", "senders/shop", "events/1", "now", "connections?directory=" + "%3Cscript%3Ealert(1)%3C/script%3E", "connections?remote=%22%3E%3Cscript%3E", "connections?uid=%3Cb%3E"}
	for _, ref := range refs {
		pages = append(pages, "explain?ref="+ref)
	}
	for _, page := range pages {
		a := v.get(t, page)
		if a.Code != http.StatusOK && a.Code != http.StatusBadRequest {
			t.Errorf("%s: got %d", page, a.Code)
		}
		soundPage(t, page, v, a)
		for _, text := range []string{"<script>alert", "<img src=x", "\x1b", "\u202e"} {
			if strings.Contains(a.body, text) {
				t.Errorf("%s: %q stands in the page as it is", page, text)
			}
		}
	}
}

func TestLongListsOfConnectionsAreShownInPages(t *testing.T) {
	v := newSite(t, "").operator()
	for i := range listed + 5 {
		v.Connect(controltest.Conn{Account: "shop", UID: uint32(1000 + i)})
	}
	v.Flush()
	a := v.get(t, "connections?account=shop")
	if n := strings.Count(a.body, `data-label="Destination"`); n != listed {
		t.Errorf("%d on the first page, want %d", n, listed)
	}
	next := ""
	for n := range a.doc.Descendants() {
		if n.Data == "a" && strings.HasPrefix(textOf(n), "Next page") {
			next = attribute(n, "href")
		}
	}
	if !strings.Contains(next, "account=shop") || !strings.Contains(next, "after=") {
		t.Fatalf("the next page is %q", next)
	}
	rest := v.ask(t, http.MethodGet, next, nil)
	if n := strings.Count(rest.body, `data-label="Destination"`); n != 5 {
		t.Errorf("%d on the second page, want 5: %s", n, fmt.Sprint(rest.Code))
	}
}
