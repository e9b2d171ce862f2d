package whm

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"golang.org/x/net/html"

	"osm/internal/control"
	"osm/internal/control/controltest"
)

func TestOnlyAFormOfThisLoginChangesAnything(t *testing.T) {
	s := newSite(t, enforcing)
	own := s.operator()
	other := own
	other.session = "login-9"
	colleague := own
	colleague.actor.Name = "anna"
	for name, row := range map[string]struct {
		v     visitor
		token string // "" = the visitor's own
		edit  func(*http.Request)
		want  int
	}{
		"the page's own form":                            {v: own, want: http.StatusSeeOther},
		"no Origin, but the browser says it is the same": {v: own, edit: func(r *http.Request) { r.Header.Del("Origin"); r.Header.Set("Sec-Fetch-Site", "same-origin") }, want: http.StatusSeeOther},
		"no token":                                 {v: own, token: "none", want: http.StatusForbidden},
		"the token of another session":             {v: own, token: other.token(t), want: http.StatusForbidden},
		"the token of another user":                {v: own, token: colleague.token(t), want: http.StatusForbidden},
		"the token of a reseller":                  {v: own, token: s.reseller("bob").token(t), want: http.StatusForbidden},
		"another origin":                           {v: own, edit: func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") }, want: http.StatusForbidden},
		"another port":                             {v: own, edit: func(r *http.Request) { r.Header.Set("Origin", "https://host.example") }, want: http.StatusForbidden},
		"an origin that is hidden":                 {v: own, edit: func(r *http.Request) { r.Header.Set("Origin", "null") }, want: http.StatusForbidden},
		"neither Origin nor a word of the browser": {v: own, edit: func(r *http.Request) { r.Header.Del("Origin") }, want: http.StatusForbidden},
		"no Origin, from a sibling":                {v: own, edit: func(r *http.Request) { r.Header.Del("Origin"); r.Header.Set("Sec-Fetch-Site", "same-site") }, want: http.StatusForbidden},
		"no Origin, from another site":             {v: own, edit: func(r *http.Request) { r.Header.Del("Origin"); r.Header.Set("Sec-Fetch-Site", "cross-site") }, want: http.StatusForbidden},
		"another origin, though the browser says same": {v: own, edit: func(r *http.Request) {
			r.Header.Set("Origin", "https://evil.example")
			r.Header.Set("Sec-Fetch-Site", "same-origin")
		}, want: http.StatusForbidden},
		"a front that does not say which origin":            {v: own, edit: func(r *http.Request) { r.Header.Del("X-OSM-Origin"); r.Header.Set("Origin", "") }, want: http.StatusForbidden},
		"a front that does not say which origin, a browser": {v: own, edit: func(r *http.Request) { r.Header.Del("X-OSM-Origin") }, want: http.StatusForbidden},
		"no session":             {v: own, edit: func(r *http.Request) { r.Header.Del("X-OSM-Session") }, want: http.StatusForbidden},
		"a body that is no form": {v: own, edit: func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") }, want: http.StatusUnsupportedMediaType},
		"JSON":                   {v: own, edit: func(r *http.Request) { r.Header.Set("Content-Type", "application/json") }, want: http.StatusUnsupportedMediaType},
	} {
		t.Run(name, func(t *testing.T) {
			token := row.token
			if token == "" {
				token = row.v.token(t)
			}
			row.v.edit = row.edit
			form := url.Values{"csrf": {token}, "scope": {"account"}, "account": {"shop"}}
			a := row.v.ask(t, http.MethodPost, row.v.at("holds/new"), form)
			if a.Code != row.want {
				t.Fatalf("got %d, want %d: %s", a.Code, row.want, a.said())
			}
			holds, err := s.Service.Holds(t.Context(), own.actor, "shop", control.Page{Limit: 10})
			if err != nil || (len(holds.Items) == 1) != (row.want == http.StatusSeeOther) {
				t.Fatalf("%d holds stand, %v", len(holds.Items), err)
			}
			for _, h := range holds.Items {
				if _, err := s.Service.EndHold(t.Context(), own.actor, h.ID, ""); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestAGetChangesNothing(t *testing.T) {
	s := newSite(t, enforcing)
	s.fillStory()
	v := s.operator()
	everyPage(t, v)
	before := auditLength(t, v)
	for _, page := range []string{"held/confirm", "held/settle", "audit/1/undo", "settings/reload", "settings/backup", "limits/edit?step=save&level=account&name=shop&trigger=account-hour&max=1",
		"holds/1/end?reason=x", "limits/1/remove", "reset?trigger=account-hour&key=blog", "holds/new?scope=account&account=shop", "settings?key=checking&value=false"} {
		if a := v.get(t, page); a.Code != http.StatusOK && a.Code != http.StatusNotFound {
			t.Errorf("%s: got %d", page, a.Code)
		}
	}
	if after := auditLength(t, v); after != before {
		t.Fatalf("%d changes were made", after-before)
	}
	for _, method := range []string{http.MethodPut, http.MethodDelete, http.MethodPatch} {
		if a := v.ask(t, method, v.at("holds/1/end"), nil); a.Code != http.StatusMethodNotAllowed {
			t.Errorf("%s: got %d, want 405", method, a.Code)
		}
	}
}

func auditLength(t *testing.T, v visitor) int {
	t.Helper()
	list, err := v.Service.Audit(t.Context(), v.actor, controltest.Start().Add(-1), control.Page{Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	return len(list.Items)
}

func TestAFormThatIsTooLargeIsRefused(t *testing.T) {
	v := newSite(t, enforcing).operator()
	if a := v.post(t, "settings/check", "toml", strings.Repeat("x", maxBody)); a.Code != http.StatusRequestEntityTooLarge {
		t.Fatalf("got %d, want 413", a.Code)
	}
}

// hostile are texts that strangers choose.
func hostile() []string {
	return []string{
		`<script>alert(1)</script>`, `"><img src=x onerror=alert(1)>`, `' onmouseover='alert(1)`, `" autofocus onfocus="alert(1)`, `javascript:alert(1)`, `</title><script>alert(1)</script>`,
		`</textarea><script>alert(1)</script>`, `<svg/onload=alert(1)>`, `--><script>alert(1)</script>`, `{{.Secret}}`, `&lt;b&gt;&#60;script&#62;`, `<a href="javascript:alert(1)">x</a>`,
		`<iframe src="data:text/html,x">`, `<style>*{display:none}</style>`, `<base href="//evil.example/">`, "a\u202egpj.exe\u2066b", "zero\u200bwidth\ufeff", "line\u2028separator", "bell\a and \x1b[31mred",
		`\"><b>`, "`-alert(1)-`", `//evil.example/x`, `%3Cscript%3E`, `<!--`, `<x contenteditable onblur=alert(1)>`, strings.Repeat("long ", 400), "\xff\xfe invalid",
	}
}

func TestStrangersTextRunsNowhere(t *testing.T) {
	s := newSite(t, enforcing)
	for _, bad := range hostile() {
		name := strings.Map(func(r rune) rune { // as an account's name could be, from a panel that checks nothing
			if r <= ' ' || r > 0x7e || r == '.' {
				return -1
			}
			return r
		}, bad)
		for range 7 {
			s.Send(controltest.Mail{Account: "shop", Mailbox: bad + "@shop.example", IP: "198.51.100.9", Subject: bad, Sender: bad, Recipients: 2})
			s.Send(controltest.Mail{Account: "blog", Directory: "/home/blog/" + bad, Subject: bad, Sender: bad})
			s.Send(controltest.Mail{Account: name[:min(len(name), 60)], Directory: "/tmp/" + bad, Subject: bad, Sender: bad})
		}
	}
	s.Flush()
	v := s.operator()
	v.actor.Name = `"><script>alert(1)</script>`
	v.known = v.token(t)
	for _, bad := range hostile() { // each may be refused, and then is shown with what was wrong
		for _, a := range []answer{
			v.post(t, "holds/new", "scope", "subject", "account", "shop", "value", bad, "reason", bad, "until", bad, "back", bad),
			v.post(t, "holds/new", "scope", bad, "account", bad, "value", bad, "until_day", bad),
			v.post(t, "holds/new", "scope", "directory", "account", "blog", "value", "/home/blog/"+bad, "reason", bad),
			v.post(t, "exemptions/new", "scope", "subject", "account", "shop", "value", bad, "reason", bad, "ceiling", "5"),
			v.post(t, "exemptions/new", "scope", bad, "account", bad, "value", bad, "trigger", bad, "ceiling", bad),
			v.post(t, "limits/edit", "level", "account", "name", "shop", "trigger", "account-hour", "max", bad, "reason", bad),
			v.post(t, "limits/edit", "level", "reseller", "name", bad, "max", "7", "reason", bad, "step", "save"),
			v.post(t, "limits/edit", "level", "account", "name", "shop", "trigger", "account-hour", "max", "9", "mode", bad, "verdict", bad, "per", bad, "hold_for", bad, "step", "edit"),
			v.post(t, "held/confirm", "do", "discard", "all", "1", "subject", bad, "reason", bad, "back", bad),
			v.post(t, "held/confirm", "do", bad, "ref", bad),
			v.post(t, "held/settle", "do", "discard", "all", "1", "account", "blog", "expect", "1", "reason", bad, "back", bad),
			v.post(t, "settings", "key", "held.keep", "value", bad, "reason", bad),
			v.post(t, "settings", "key", bad, "value", bad),
			v.post(t, "settings/backup", "path", bad),
			v.post(t, "settings/check", "toml", bad),
			v.post(t, "reset", "trigger", bad, "key", bad, "reason", bad, "back", bad),
		} {
			soundAnswer(t, "a form with "+bad, v, a)
		}
		q := url.QueryEscape(bad)
		for _, page := range []string{"explain?ref=" + q, "explain?describe=1&account=" + q + "&subject=" + q + "&working_directory=" + q, "senders?q=" + q + "&by=" + q + "&since=" + q, "messages?account=" + q + "&verdict=" + q,
			"events?account=" + q + "&trigger=" + q, "held?account=" + q + "&mailbox=" + q + "&subject=" + q + "&state=" + q, "held?subject=" + q, "limits?level=" + q + "&name=" + q, "limits?level=reseller&name=" + q,
			"limits/edit?level=reseller&name=" + q + "&trigger=account-hour&max=" + q + "&until=" + q, "holds/new?scope=" + q + "&account=" + q + "&value=" + q + "&back=" + q,
			"exemptions/new?value=" + q + "&back=" + q, "reset?trigger=" + q + "&key=" + q + "&back=" + q, "now?after=" + q, "held?after=" + q, "events?after=" + q, "senders/" + url.PathEscape(bad), url.PathEscape(bad)} {
			soundAnswer(t, page, v, v.get(t, page))
		}
	}
	walkHostile(t, v)
}

// soundAnswer is soundPage for an answer that may be a redirect.
func soundAnswer(t *testing.T, what string, v visitor, a answer) {
	t.Helper()
	if a.Code >= http.StatusInternalServerError {
		t.Errorf("%.200s: got %d: %.200s", what, a.Code, a.said())
	}
	if to := a.Header().Get("Location"); a.Code == http.StatusSeeOther {
		if !strings.HasPrefix(to, v.base()+"/") && !strings.HasPrefix(to, v.base()+"?") {
			t.Errorf("%.200s: leads away to %q", what, to)
		}
		return
	}
	soundPage(t, what, v, a)
	for n := range a.doc.Descendants() {
		said := n.Data
		for _, at := range n.Attr {
			if at.Key != "value" { // what was typed must come back as it was
				said += at.Val
			}
		}
		if n.Parent.Data != "textarea" && strings.ContainsAny(said, "\u202e\u2066\u200b\ufeff\u2028\a\x1b") {
			t.Errorf("%.200s: what cannot be seen is in the page as it is: %.100q", what, said)
		}
	}
}

// walkHostile follows every link, in both forms.
func walkHostile(t *testing.T, v visitor) {
	t.Helper()
	for _, query := range []bool{false, true} {
		v.query = query
		seen, todo := map[string]bool{}, []string{v.at("now"), v.at("senders?since=30d"), v.at("messages"), v.at("held"), v.at("events"), v.at("audit"), v.at("limits?set=all"), v.at("exemptions")}
		for len(todo) > 0 && len(seen) < 200 {
			address := todo[0]
			todo = todo[1:]
			if seen[address] {
				continue
			}
			seen[address] = true
			a := v.ask(t, http.MethodGet, address, nil)
			if strings.Contains(address, "settings/export") || strings.Contains(address, "part=1") {
				continue
			}
			soundAnswer(t, address, v, a)
			for n := range a.doc.Descendants() {
				if link, _, _ := strings.Cut(attribute(n, "href"), "#"); n.Type == html.ElementNode && n.Data == "a" && link != "" {
					todo = append(todo, link)
				}
			}
		}
		if len(seen) < 100 {
			t.Errorf("only %d pages were seen", len(seen))
		}
	}
}

func TestAResellerGets404ForOthersAccounts(t *testing.T) {
	s := newSite(t, enforcing)
	s.fillStory()
	op := s.operator()
	ctx := t.Context()
	var refs, events []string
	held, err := s.Service.Held(ctx, op.actor, control.Selection{Account: "blog"}, control.Page{Limit: 5})
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range held.Items {
		refs = append(refs, h.Ref)
	}
	list, err := s.Service.Events(ctx, op.actor, control.EventFilter{Account: "blog"}, control.Page{Limit: 5})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list.Items {
		events = append(events, fmt.Sprint(e.ID))
	}
	hold, err := s.Service.PutHold(ctx, op.actor, control.Hold{Scope: "account", Account: "blog"})
	if err != nil {
		t.Fatal(err)
	}
	n := int64(9)
	limit, err := s.Service.SetLimit(ctx, op.actor, control.Limit{Level: "account", Name: "blog", Trigger: "account-hour", Max: &n})
	if err != nil || len(refs) == 0 || len(events) == 0 {
		t.Fatalf("no story: %v", err)
	}
	v := s.reseller("bob")
	pages := []string{"senders/%s", "messages?account=%s", "events?account=%s", "held?account=%s", "limits?level=account&name=%s", "limits?level=mailbox&name=x@%s.example",
		"limits/edit?level=account&name=%s&trigger=account-hour", "reset?trigger=account-hour&key=%s"}
	for _, page := range pages {
		theirs, none := v.get(t, fmt.Sprintf(page, "blog")), v.get(t, fmt.Sprintf(page, "nobody"))
		if theirs.Code != http.StatusNotFound || none.Code != http.StatusNotFound {
			t.Errorf("%s: got %d for another's and %d for none, want 404: %s", page, theirs.Code, none.Code, theirs.said())
		}
		if strings.ReplaceAll(theirs.said(), "blog", "nobody") != none.said() {
			t.Errorf("%s: the answers differ: %q and %q", page, theirs.said(), none.said())
		}
	}
	for _, page := range []string{"held/" + refs[0], "explain?ref=" + refs[0], "events/" + events[0], fmt.Sprintf("holds/%d/end", hold.ID), fmt.Sprintf("limits/%d/remove", limit.ID),
		"limits?level=reseller&name=carol&x=" + events[0], "explain?describe=1&account=blog"} {
		a := v.get(t, page)
		if a.Code != http.StatusNotFound && !strings.Contains(page, "level=reseller") {
			t.Errorf("%s: got %d, want 404: %s", page, a.Code, a.said())
		}
		if said := strings.ReplaceAll(a.said(), "blog", ""); strings.Contains(said, "/home/") || strings.Contains(a.body, "Win 1") || strings.Contains(said, "carol") {
			t.Errorf("%s: tells of another's account: %s", page, a.said())
		}
	}
	for _, page := range []string{"now", "senders", "senders?all=1", "senders?q=blog", "messages", "events", "held", "exemptions", "limits", "limits?set=all"} {
		a := v.get(t, page)
		a.wants(t, http.StatusOK)
		if strings.Contains(strings.ReplaceAll(a.body, "value=\"blog\"", ""), "blog.example") || strings.Contains(a.body, "senders/blog") || strings.Contains(a.body, "Win 1") || strings.Contains(a.body, "level=account&amp;name=blog") {
			t.Errorf("%s: shows another's account", page)
		}
	}
	refusedTheirs(t, v, refs[0], hold.ID, limit.ID)
}

// refusedTheirs tries every change on another's account.
func refusedTheirs(t *testing.T, v visitor, ref string, hold, limit int64) {
	t.Helper()
	op := v.site.operator()
	before := auditLength(t, op)
	for name, a := range map[string]answer{
		"hold":           v.post(t, "holds/new", "scope", "account", "account", "blog"),
		"hold mailbox":   v.post(t, "holds/new", "scope", "mailbox", "value", "x@blog.example"),
		"hold directory": v.post(t, "holds/new", "scope", "directory", "value", "/home/blog/public_html"),
		"end hold":       v.post(t, fmt.Sprintf("holds/%d/end", hold)),
		"limit":          v.post(t, "limits/edit", "level", "account", "name", "blog", "trigger", "account-hour", "max", "1", "step", "save"),
		"preview":        v.post(t, "limits/edit", "level", "account", "name", "blog", "trigger", "account-hour", "max", "1"),
		"mailbox limit":  v.post(t, "limits/edit", "level", "mailbox", "name", "x@blog.example", "trigger", "login-hour", "max", "1", "step", "save"),
		"remove limit":   v.post(t, fmt.Sprintf("limits/%d/remove", limit)),
		"discard":        v.post(t, "held/settle", "do", "discard", "ref", ref, "expect", "1"),
		"discard all":    v.post(t, "held/settle", "do", "discard", "all", "1", "account", "blog", "expect", "4"),
		"count":          v.post(t, "held/confirm", "do", "discard", "all", "1", "account", "blog"),
	} {
		if a.Code != http.StatusNotFound {
			t.Errorf("%s: got %d, want 404: %s", name, a.Code, a.said())
		}
	}
	for name, a := range map[string]answer{
		"reset": v.post(t, "reset", "trigger", "account-hour", "key", "blog"), "undo": v.post(t, "audit/1/undo"), "setting": v.post(t, "settings", "key", "checking", "value", "false"),
		"reload": v.post(t, "settings/reload"), "backup": v.post(t, "settings/backup", "path", "/tmp/x.db"), "exempt": v.post(t, "exemptions/new", "scope", "account", "account", "shop"),
		"release": v.post(t, "held/settle", "do", "release", "ref", ref, "expect", "1"),
	} {
		if a.Code != http.StatusForbidden && a.Code != http.StatusNotFound {
			t.Errorf("%s: got %d, want 403 or 404: %s", name, a.Code, a.said())
		}
	}
	if after := auditLength(t, op); after != before {
		t.Errorf("%d changes were made", after-before)
	}
}
