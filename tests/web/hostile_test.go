package web

import (
	"errors"
	"fmt"
	"mime"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/page"

	"osm/tests/lab"
)

// corpus are texts that want to be more than text. Whatever runs calls the canary; whatever
// becomes an element or an attribute carries data-xss.
func corpus() []string {
	run := func(n int) string { return fmt.Sprintf("%s('%d')", canary, n) }
	return []string{
		"<script>" + run(1) + "</script>",
		`"><img src=x onerror=` + run(2) + ` data-xss>`,
		`'><svg onload=` + run(3) + ` data-xss>`,
		"</title><script data-xss>" + run(4) + "</script>",
		"</textarea></style></pre><script data-xss>" + run(5) + "</script>",
		"javascript:" + run(6),
		"{{constructor.constructor('" + canary + "(7)')()}}${" + run(7) + "}",
		"--><script data-xss>" + run(8) + "</script><!--",
		`<a href="javascript:` + run(9) + `" data-xss>press</a>`,
		`" onmouseover="` + run(10) + `" data-xss="`,
		`' autofocus onfocus=` + run(11) + ` data-xss '`,
		`<iframe srcdoc="<script>parent.` + run(12) + `</script>" data-xss></iframe>`,
		`<form action=https://evil.example data-xss><input name=csrf>`,
		`<meta http-equiv=refresh content="0;url=https://evil.example" data-xss>`,
		`<base href=https://evil.example/ data-xss>`,
		`<style data-xss>body{background:url(https://evil.example)}</style>`,
		"%3Cscript data-xss%3E" + run(17) + "%3C/script%3E",
		"&lt;script data-xss&gt;" + run(18) + "&lt;/script&gt;",
		"+ADw-script data-xss+AD4-" + run(19) + "+ADw-/script+AD4-",
		"<sc\x00ript data-xss>" + run(20) + "</script>",
		"\u202egnirts\u202c\u2028<b data-xss>\u00ad\ufeff\u200b",
		"<math><mtext></form><form><mglyph><style></math><img src=x onerror=" + run(22) + " data-xss>",
	}
}

// hostile sends the corpus as Subjects, in addresses and from folders that are called so,
// and lets an operator quote it in reasons.
func hostile(t *testing.T, account string) []heldMail {
	t.Helper()
	ctl(t, &struct{}{}, "hold", "put", "--account", account, "--reason", corpus()[0])
	name, password := machine.Login(account)
	send := func(m lab.Mail) {
		err := machine.SendSMTP(t.Context(), name, password, m)
		var refused *lab.SMTPReply
		if err != nil && !errors.As(err, &refused) { // Exim may not take such an address
			t.Fatal(err)
		}
	}
	sent := 0
	for i, text := range corpus() {
		subjects := []string{strings.ReplaceAll(text, "\x00", "")}
		if i < 3 {
			subjects = append(subjects, mime.BEncoding.Encode("utf-8", text), mime.QEncoding.Encode("utf-8", text))
		}
		for _, s := range subjects {
			m := mailOf(account, s)
			m.Header = []string{"X-Mailer: " + strings.ReplaceAll(text, "\x00", "")}
			send(m)
			sent++
		}
		quoted := `"` + strings.NewReplacer(`\`, ``, `"`, ``, "\x00", "", "\u202e", "", "\u202c", "", "\u2028", "", "\u00ad", "", "\ufeff", "", "\u200b", "").Replace(text) + `"`
		if len(quoted) < 60 {
			send(lab.Mail{From: quoted + "@" + account + ".example", To: []string{quoted + "@elsewhere.example"}, Subject: "An address"})
		}
		dir := filepath.Join(www(account), strings.NewReplacer("/", "_", "\x00", "").Replace(text))
		if err := machine.MakeDir(account, dir); err != nil {
			t.Fatal(err)
		}
		if err := machine.Sendmail(t.Context(), account, dir, mailOf(account, "From a folder")); err != nil {
			t.Fatal(err)
		}
		sent++
	}
	for i, text := range []string{corpus()[0], corpus()[1], corpus()[3], corpus()[9]} {
		ctl(t, &struct{}{}, "limit", "set", "--account", account, "--trigger", "subject-hour", "--max", fmt.Sprint(100+i), "--reason", text)
		ctl(t, &struct{}{}, "exempt", "add", "--account", account, "--subject", text, "--trigger", "subject-hour", "--ceiling", "500", "--reason", text)
		ctl(t, &struct{}{}, "hold", "put", "--account", account, "--subject", text, "--reason", text)
	}
	var all []heldMail
	eventually(t, "the hostile mail to be registered", func() error {
		if all = list[heldMail](t, "held", "list", "--account", account); len(all) < sent {
			return fmt.Errorf("%d of %d", len(all), sent)
		}
		return nil
	})
	return all
}

// With the policy of the pages switched off in the browser: what keeps a stranger's text a
// text must not be the policy alone.
func TestStrangersTextsStayTexts(t *testing.T) {
	const account = "hostile"
	mail := hostile(t, account)
	var pages []string
	for i := 0; i < len(mail); i += 2 { // the lists show all of them
		pages = append(pages, []string{"held/", "explain?ref="}[i/2%2]+mail[i].Ref)
	}
	pages = append(pages, "now", "senders", pageOf("senders", account), "messages?account="+account, "events", "held?account="+account, "exemptions",
		"limits?level=account&name="+account, "audit", "settings", "exemptions?account="+account)
	for _, e := range list[event](t, "events", "--account", account) {
		pages = append(pages, fmt.Sprint("events/", e.ID))
	}
	for i, text := range corpus() { // what is typed, or stands in an address that somebody was lured to
		q := url.QueryEscape(text)
		pages = append(pages, "senders?q="+q, "held?account="+q+"&mailbox="+q+"&working_directory="+q+"&trigger="+q+"&subject="+q)
		rest := []string{
			"limits/edit?level=account&name=" + account + "&trigger=account-hour&max=" + q + "&until=" + q + "&reason=" + q + "&back=" + q,
			"holds/new?scope=subject&account=" + q + "&value=" + q + "&back=" + q,
			"explain?ref=" + q, "messages?account=" + q, "limits?level=account&name=" + q, pageOf("senders", text), pageOf("held", text), pageOf("events", text), pageOf(text),
			"events?account=" + q + "&trigger=" + q + "&since=" + q, "exemptions/new?scope=subject&account=" + q + "&value=" + q + "&back=" + q,
			"explain?describe=1&account=" + q + "&subject=" + q + "&working_directory=" + q, "reset?trigger=" + q + "&key=" + q + "&back=" + q, "audit?since=" + q + "&after=" + q,
		}
		pages = append(pages, rest[i%len(rest)], rest[(i+5)%len(rest)])
	}
	for _, way := range []struct {
		door  door
		pages []string
		open  func() *tab
	}{
		{alone(), pages, func() *tab { return logIn(t, wide()) }},
		{whm("root"), pages[max(0, len(pages)-24):], func() *tab { b := newTab(t, whm("root"), wide()); b.visit(whmFrame("root")); return b }},
	} {
		b := way.open()
		call(b, page.SetBypassCSP, page.SetBypassCSPParams{Enabled: true})
		for _, p := range way.pages {
			b.open(p)
			var bad []string
			b.eval(`[...doc.querySelectorAll('[data-xss], script:not([src]), style, iframe, base, meta[http-equiv], [onerror], [onload], [onfocus], [onmouseover], [style]')].map(e => e.outerHTML.slice(0, 200))`, &bad)
			if len(bad) > 0 {
				t.Errorf("%s: %s: a text became %q", way.door.name, p, bad)
			}
			var links []string
			b.eval(`[...doc.querySelectorAll('a[href], form[action], button[formaction]')].map(e => e.href || e.action || e.formAction).filter(h => typeof h === 'string' && !h.startsWith(win.location.origin + '/'))`, &links)
			if len(links) > 0 {
				t.Errorf("%s: %s: a link leads away: %q", way.door.name, p, links)
			}
			b.quiet(p)
		}
	}
	// It can be read, as what it is.
	b := logIn(t, wide())
	b.open("held?account=" + account)
	b.sees(`<script>`+canary+`('1')</script>`, `"><img src=x onerror=`)
	b.shoot("hostile-held")
	b.open("now")
	b.sees("Updated at") // the numbers have been fetched again, into the page
	b.quiet("now, refreshed")
}

// quiet fails the test at once where the window noted something, and names the page.
func (b *tab) quiet(where string) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, f := range b.faults {
		b.t.Errorf("%s: %s", where, f)
	}
	b.faults = nil
}

// A page on another port of this host, which the browser counts as the same site, and one
// that is another site, send forms in the name of somebody who is logged in.
func TestFormsOfOtherPagesAreRefused(t *testing.T) {
	before := allState(t)
	how := wide()
	how.wantFaults = true // the browser tells of what it refused
	for _, host := range []string{"127.0.0.1", "localhost"} {
		evil := evilPages(t, host)
		for _, d := range []door{alone(), whm("root")} {
			b := newTab(t, d, how)
			if d.name == "alone" {
				b.visit(link(t))
				b.follow("Log in")
			} else {
				b.visit(whmFrame("root"))
			}
			for what := range forms("x") {
				b.visit(evil + "?" + url.Values{"to": {d.address(what)}, "form": {what}}.Encode())
				b.until("an answer to the form", func() error {
					var at string
					if err := b.try("location.href", &at); err != nil || strings.HasPrefix(at, evil) {
						return fmt.Errorf("at %s: %w", at, err)
					}
					return nil
				})
				text := b.text()
				if !strings.Contains(text, "another site") && !strings.Contains(text, "Not logged in") && !strings.Contains(text, "log in") {
					t.Errorf("%s: the form %s of %s was answered: %.300s", d.name, what, evil, text)
				}
			}
		}
		// Nor can it be shown in a frame of another page.
		b := newTab(t, alone(), how)
		b.visit(link(t))
		b.follow("Log in")
		b.visit(evil + "?frame=" + url.QueryEscape(alone().address("now")))
		b.until("the browser to refuse the frame", func() error {
			b.mu.Lock()
			defer b.mu.Unlock()
			if slices.ContainsFunc(b.faults, func(f string) bool { return strings.Contains(f, "frame") }) {
				return nil
			}
			return fmt.Errorf("it told %q", b.faults)
		})
	}
	if after := allState(t); after != before {
		t.Errorf("something changed:\nbefore %s\nafter  %s", before, after)
	}
}

// forms are changes by the page that they are sent to.
func forms(csrf string) map[string]url.Values {
	return map[string]url.Values{
		"settings":       {"key": {"checking"}, "value": {"false"}, "csrf": {csrf}},
		"limits/edit":    {"level": {"account"}, "name": {"quiet"}, "trigger": {"account-hour"}, "max": {"1"}, "step": {"save"}, "csrf": {csrf}},
		"holds/new":      {"scope": {"account"}, "account": {"quiet"}, "verdict": {"discard"}, "csrf": {csrf}},
		"exemptions/new": {"scope": {"account"}, "account": {"quiet"}, "value": {"quiet"}, "csrf": {csrf}},
		"held/settle":    {"do": {"discard"}, "all": {"1"}, "account": {"quiet"}, "expect": {"0"}, "csrf": {csrf}},
	}
}

// evilPages serves another's page, which sends a form as soon as it is opened, or shows a
// frame or a link.
func evilPages(t *testing.T, host string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		q := r.URL.Query()
		if frame := q.Get("frame"); frame != "" {
			fmt.Fprintf(w, `<!doctype html><iframe src="%s"></iframe>`, frame)
			return
		}
		if to := q.Get("link"); to != "" {
			fmt.Fprintf(w, `<!doctype html><a href="%s">go</a>`, strings.ReplaceAll(to, "&", "&amp;"))
			return
		}
		fmt.Fprintf(w, `<!doctype html><form method="post" action="%s">`, strings.ReplaceAll(q.Get("to"), "&", "&amp;"))
		for name, values := range forms("x")[q.Get("form")] {
			fmt.Fprintf(w, `<input type="hidden" name="%s" value="%s">`, name, values[0])
		}
		fmt.Fprint(w, `</form><script>document.forms[0].submit()</script>`)
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close(); <-done })
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return "http://" + host + ":" + port + "/"
}

// allState is everything that a form could change.
func allState(t *testing.T) string {
	t.Helper()
	out := ""
	for _, args := range [][]string{{"hold", "list"}, {"limit", "show"}, {"exempt", "list"}, {"settings", "list"}} {
		var v any
		ctl(t, &v, args...)
		out += fmt.Sprintln(v)
	}
	return out
}

// Tokens, origins and methods as no browser would send them.
func TestChangesNeedTheTokenOfThisLogin(t *testing.T) {
	dependOnProduct(t)
	mine, others := visits(t, "root"), visits(t, "bob")
	before := allState(t)
	for i, v := range mine {
		token, stranger := v.get("holds/new").hidden("csrf"), others[i].get("holds/new").hidden("csrf")
		again := []*visitor{visitAlone(t, "root"), visitWHM(t, "root")}[i].get("holds/new").hidden("csrf")
		if token == "" || stranger == "" || token == stranger || (v.door.name == "alone" && token == again) {
			t.Fatalf("%s: the tokens are %q, %q, %q", v.door.name, token, stranger, again)
		}
		for what, header := range map[string][]string{
			"another origin":         {"Origin", "https://evil.example"},
			"an opaque origin":       {"Origin", "null"},
			"the origin's neighbour": {"Origin", v.origin + ".evil.example"},
			"no origin":              {"Origin", ""},
			"no origin, cross-site":  {"Origin", "", "Sec-Fetch-Site", "cross-site"},
			"no origin, same site":   {"Origin", "", "Sec-Fetch-Site", "same-site"},
			"not a form":             {"Content-Type", "text/plain"},
			"JSON":                   {"Content-Type", "application/json"},
			"no login":               {"Cookie", ""},
			"a made-up session":      {"Cookie", "", "X-OSM-Session", "mine", "X-OSM-User", "root", "X-OSM-Role", "operator"},
		} {
			for page, form := range forms(token) {
				if got := v.post(page, form, header...); got.StatusCode < 400 {
					t.Errorf("%s: %s: %s was taken: %s", v.door.name, what, page, got.Status)
				}
			}
		}
		for what, csrf := range map[string]string{"no token": "", "another user's token": stranger, "a wrong token": strings.Repeat("0", len(token)), "half a token": token[:len(token)/2]} {
			for page, form := range forms(csrf) {
				if got := v.post(page, form); got.StatusCode != http.StatusForbidden {
					t.Errorf("%s: %s: %s was answered %s", v.door.name, what, page, got.Status)
				}
			}
		}
		for page, form := range forms(token) {
			if page == "held/settle" || page == "settings" {
				if got := v.get(page + "?" + form.Encode()); got.StatusCode == http.StatusSeeOther {
					t.Errorf("%s: a GET of %s was taken: %s", v.door.name, page, got.Status)
				}
			}
		}
	}
	if after := allState(t); after != before {
		t.Errorf("something changed:\nbefore %s\nafter  %s", before, after)
	}
}
