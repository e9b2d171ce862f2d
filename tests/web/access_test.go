package web

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
)

// finding is what axe found, with the first places.
type finding struct {
	ID, Impact, Help string
	Nodes            []struct {
		HTML   string
		Target []any
		Any    []struct{ Message string }
	}
}

// axe looks with axe-core, by the rules of WCAG 2.2 AA and its own good practice of page
// structure, at the page that is there. It fails the test for each finding.
func (b *tab) axe(what string) {
	b.t.Helper()
	program, err := os.ReadFile(machine.axe)
	if err != nil {
		b.fatal("axe-core: %v", err)
	}
	ctx, cancel := b.within()
	defer cancel()
	if _, err := chromedp.Run(ctx, chromedp.Evaluate[chromedp.Void]("window.axe || (() => {"+string(program)+"})(), null")); err != nil {
		b.fatal("start axe-core: %v", err)
	}
	found, err := chromedp.Run(ctx, chromedp.Evaluate[[]finding](`axe.run(document, {
		runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'], resultTypes: ['violations'],
	}).then(r => r.violations.map(v => ({ID: v.id, Impact: v.impact, Help: v.help, Nodes: v.nodes.slice(0, 4).map(n => ({
		HTML: n.html.slice(0, 300), Target: n.target, Any: n.any.map(a => ({Message: a.message}))}))})))`,
		chromedp.EvalAwaitPromise))
	if err != nil {
		b.fatal("axe-core: %v", err)
	}
	for _, f := range found {
		var places []string
		for _, n := range f.Nodes {
			why := ""
			if len(n.Any) > 0 {
				why = n.Any[0].Message
			}
			places = append(places, fmt.Sprintf("%v: %s %s", n.Target, n.HTML, why))
		}
		b.t.Errorf("%s: %s (%s, %s):\n  %s", what, f.Help, f.ID, f.Impact, strings.Join(places, "\n  "))
	}
}

// everyPage are all pages, with something on each.
func everyPage(t *testing.T) map[string]string {
	t.Helper()
	const account = "bobnews"
	sendmail(t, account, "wp-content/uploads", "You have won, number %d", 14)
	login(t, account, "Invoice overdue", 14)
	mail := held(t, account, 4+2)
	ctl(t, &struct{}{}, "limit", "set", "--account", account, "--trigger", "account-hour", "--max", "500", "--until", "3d", "--reason", "newsletter, ticket 4711")
	ctl(t, &struct{}{}, "exempt", "add", "--account", account, "--trigger", "subject-hour", "--ceiling", "900", "--reason", "order confirmations")
	first := func(args ...string) string { return fmt.Sprint(list[numbered](t, args...)[0].ID) }
	var exemption string
	for _, x := range list[numbered](t, "exempt", "list") {
		if x.Account == account || x.Value == account {
			exemption = fmt.Sprint(x.ID)
		}
	}
	return map[string]string{
		"now": "now", "senders": "senders", "senders-search": "senders?q=bob", "senders-none": "senders?q=nosuchthing", "account": pageOf("senders", account),
		"messages": "messages?account=" + account, "events": "events", "event": "events/" + first("events", "--account", account), "explain": "explain?ref=" + mail[0].Ref,
		"explain-none": "explain?ref=zzzzzzzz", "describe": "explain?describe=1&account=" + account + "&subject=Hello", "held": "held?account=" + account, "held-message": "held/" + mail[0].Ref,
		"limits": "limits", "limits-account": "limits?level=account&name=" + account, "limit": "limits/edit?level=account&trigger=account-hour&name=" + account,
		"limit-server": "limits/edit?level=server&trigger=account-hour", "limit-remove": "limits/" + first("limit", "show", "--account", account) + "/remove",
		"exemptions": "exemptions", "exemption-new": "exemptions/new?scope=account&account=" + account, "exemption-remove": "exemptions/" + exemption + "/remove",
		"hold-new": "holds/new?scope=account&account=" + account, "hold-end": "holds/" + first("hold", "list", "--account", account) + "/end",
		"reset": "reset?trigger=directory-hour&key=" + account, "audit": "audit", "settings": "settings", "doctor": "settings/doctor", "config": "settings/config", "check": "settings/check",
		"help": "help", "missing": "nosuchpage",
	}
}

func TestNoPageKeepsAnybodyOut(t *testing.T) {
	pages := everyPage(t)
	names := slices.Sorted(maps.Keys(pages))
	const windows = 2 // beside one another, as there are two processors
	for i := range windows {
		t.Run(fmt.Sprint("alone ", i), func(t *testing.T) {
			t.Parallel()
			b := byLink(t)
			for n := i; n < len(names); n += windows {
				b.resize(wide())
				b.paint(false)
				b.lookAt(names[n], pages[names[n]])
				b.resize(phone()) // of the same few colours, by name
				b.paint(true)
				b.axe(names[n] + " dark, on a phone")
				b.fits(names[n] + " on a phone")
			}
		})
	}
	t.Run("WHM", func(t *testing.T) { // the same pages but for their frame and links
		t.Parallel()
		b := inWHM(t)
		for _, name := range []string{"now", "account", "held", "limit-server", "settings", "missing"} {
			b.lookAt(name, pages[name])
		}
	})
}

// lookAt opens a page, all that is folded in it, and looks at it.
func (b *tab) lookAt(name, page string) {
	b.t.Helper()
	b.open(page)
	b.eval("doc.querySelectorAll('details').forEach(d => { d.open = true; })", nil)
	b.axe(name)
	b.fits(name)
}

func TestTheFrontsOwnPagesKeepNobodyOut(t *testing.T) {
	dark := phone()
	dark.dark = true
	for name, how := range map[string]look{"wide": wide(), "phone-dark": dark} {
		b := newTab(t, alone(), how)
		for page, title := range map[string]string{"": "Not logged in", "login?t=abc": "Log in to osm", "login?out=1": "Logged out"} {
			b.open(page)
			b.sees(title)
			b.axe(name + " " + title)
			b.fits(name + " " + title)
			b.shoot("front-" + strings.ReplaceAll(title, " ", "-") + "-" + name)
		}
		b.open("login?t=abc")
		b.follow("Log in")
		b.sees("of no use any more")
		b.axe(name + " wrong link")
	}
}

// fits says that nothing of the page lies beside the window.
func (b *tab) fits(what string) {
	b.t.Helper()
	var over struct {
		Over int
		Who  string
	}
	b.eval(`(() => {
		const root = doc.scrollingElement, over = root.scrollWidth - root.clientWidth;
		const kept = e => { for (let p = e.parentElement; p && p !== doc.body; p = p.parentElement) if (win.getComputedStyle(p).overflowX !== 'visible') return true; return false; };
		const who = over > 0 ? all('body *').filter(e => e.getBoundingClientRect().right > root.clientWidth + 1 && !kept(e)).slice(0, 3).map(e => e.outerHTML.slice(0, 160)).join(' | ') : '';
		return {Over: over, Who: who};
	})()`, &over)
	if over.Over > 0 {
		b.t.Errorf("%s: the page is %d pixels wider than the window: %s", what, over.Over, over.Who)
	}
}
