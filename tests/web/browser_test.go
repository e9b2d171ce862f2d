package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"osm/tests/lab"
)

// patience is how long anything on a page may take on a machine that is busy.
const patience = time.Minute

// tab is one person's window. What no page may ever do is noted and fails the test: run a
// stranger's script, open a dialog, break its own security policy, throw.
type tab struct {
	t    *testing.T
	ctx  context.Context
	door door

	mu     sync.Mutex // guards faults
	faults []string
}

// look is how a window is set up.
type look struct {
	dark          bool
	width, height int64
	noScript      bool
	wantFaults    bool // the test looks at them itself
}

func wide() look  { return look{width: 1360, height: 900} }
func phone() look { return look{width: 390, height: 844} }

// newTab opens a window of its own, without the cookies of others.
func newTab(t *testing.T, d door, how look) *tab {
	t.Helper()
	dependOnProduct(t)
	chromium.once.Do(startBrowser)
	if chromium.err != nil {
		t.Fatalf("start Chromium (package chromium): %v", chromium.err)
	}
	ctx, cancel := chromedp.NewContext(chromium.ctx, chromedp.WithNewBrowserContext())
	t.Cleanup(cancel)
	b := &tab{t: t, ctx: ctx, door: d}
	if err := chromedp.Do(ctx, chromedp.EmulateViewport(how.width, how.height)); err != nil {
		t.Fatal(err)
	}
	if err := chromedp.Listen(ctx, b.note); err != nil {
		t.Fatal(err)
	}
	call(b, runtime.Enable, none)
	call(b, log.Enable, none)
	call(b, network.Enable, network.EnableParams{})
	call(b, runtime.AddBinding, runtime.AddBindingParams{Name: canary})
	b.paint(how.dark)
	if how.noScript {
		call(b, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
	}
	t.Cleanup(func() { b.end(how) })
	return b
}

// paint is the person's wish for dark or light.
func (b *tab) paint(dark bool) {
	b.t.Helper()
	scheme := "light"
	if dark {
		scheme = "dark"
	}
	call(b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
		{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"}}})
}

// resize makes the window as large as a look says.
func (b *tab) resize(how look) {
	b.t.Helper()
	ctx, cancel := b.within()
	defer cancel()
	if err := chromedp.Do(ctx, chromedp.EmulateViewport(how.width, how.height)); err != nil {
		b.fatal("resize the window: %v", err)
	}
}

// end looks at what the window noted, and leaves a picture of what went wrong.
func (b *tab) end(how look) {
	b.mu.Lock()
	faults := b.faults
	b.mu.Unlock()
	if !how.wantFaults {
		for _, f := range faults {
			b.t.Errorf("the page: %s", f)
		}
	}
	if !b.t.Failed() {
		return
	}
	var where, text string
	_ = b.try("location.href", &where) // the window may be gone
	_ = b.try("doc.body ? doc.body.innerText : ''", &text)
	b.t.Logf("at the end the window was at %s:\n%.3000s", where, text)
	b.shoot("failed-" + strings.NewReplacer("/", "-", " ", "_").Replace(b.t.Name()))
}

// canary is the function that a stranger's script would call.
const canary = "osmCanary"

// note is called for whatever the browser tells.
func (b *tab) note(ev any) {
	fault := ""
	switch ev := ev.(type) {
	case *runtime.EventBindingCalled:
		fault = fmt.Sprintf("a stranger's script ran: %.200s", ev.Payload)
	case *page.EventJavascriptDialogOpening:
		fault = fmt.Sprintf("a dialog opened: %.200q", ev.Message)
		go func() { // not from within the listener
			_, _ = chromedp.Call(b.ctx, page.HandleJavaScriptDialog, page.HandleJavaScriptDialogParams{Accept: false})
		}()
	case *runtime.EventExceptionThrown:
		fault = fmt.Sprintf("a script failed: %.500v", ev.ExceptionDetails)
		if ev.ExceptionDetails != nil && ev.ExceptionDetails.Exception != nil {
			fault = fmt.Sprintf("a script failed: %.500s", ev.ExceptionDetails.Exception.Description)
		}
	case *log.EventEntryAdded:
		if e := ev.Entry; e.Level == log.EntryLevelError && e.Source != log.EntrySourceNetwork { // of those the tests see the status
			fault = fmt.Sprintf("%s: %.500s (%s)", e.Source, e.Text, e.URL)
		}
	}
	if fault != "" {
		b.mu.Lock()
		b.faults = append(b.faults, fault)
		b.mu.Unlock()
	}
}

// none are no parameters.
var none = emptyParams{}

// within bounds one thing that is done to a window.
func (b *tab) within() (context.Context, context.CancelFunc) {
	return context.WithTimeout(b.ctx, patience)
}

func (b *tab) fatal(format string, args ...any) {
	b.t.Helper()
	b.t.Fatalf(format, args...)
}

// open goes to a page, such as "events/12?x=y", by its address.
func (b *tab) open(page string) {
	b.t.Helper()
	b.visit(b.door.address(page))
}

// visit goes to any address and waits until it is there.
func (b *tab) visit(address string) {
	b.t.Helper()
	ctx, cancel := b.within()
	defer cancel()
	if err := chromedp.Do(ctx, chromedp.Navigate(address)); err != nil {
		b.fatal("open %s: %v", address, err)
	}
	b.settled()
}

// script is put before every expression: doc is the document that a person looks at, which
// may be in WHM's frame.
const script = `
const frame = document.querySelector('iframe[title="osm"]');
const win = frame && frame.contentDocument ? frame.contentWindow : window;
const doc = win.document;
const said = e => (e.getAttribute('aria-label') || e.innerText || e.value || '').replace(/\s+/g, ' ').trim();
const shown = e => !!(e.offsetParent || e.getClientRects().length) && win.getComputedStyle(e).visibility !== 'hidden';
const all = (what, root) => [...(root || doc).querySelectorAll(what)].filter(shown);
const named = (what, name, root) => {
	const found = all(what, root);
	return found.find(e => said(e) === name) || found.find(e => said(e).startsWith(name)) || found.find(e => said(e).includes(name));
};
const field = (name, root) => {
	for (const l of all('label', root)) {
		if (said(l) !== name && !said(l).startsWith(name)) continue;
		const e = l.control || l.querySelector('input,select,textarea');
		if (e && !e.disabled) return e;
	}
	return all('input,select,textarea', root).find(e => (e.getAttribute('aria-label') || '') === name);
};
const row = words => all('tr, li, fieldset, article, section').filter(e => e.innerText.includes(words)).sort((a, b) => a.innerText.length - b.innerText.length)[0];
`

// try evaluates an expression once.
func (b *tab) try(expression string, into any) error {
	ctx, cancel := b.within()
	defer cancel()
	raw, err := chromedp.Run(ctx, chromedp.Evaluate[[]byte]("(() => {"+script+"return ("+expression+");})()"))
	if err != nil {
		return err
	}
	if into == nil || len(raw) == 0 {
		return nil
	}
	return json.Unmarshal(raw, into)
}

// eval evaluates an expression; a page on its way is waited for.
func (b *tab) eval(expression string, into any) {
	b.t.Helper()
	b.until("the page to answer", func() error { return b.try(expression, into) })
}

// until waits for f.
func (b *tab) until(what string, f func() error) {
	b.t.Helper()
	if err := lab.WaitFor(patience, what, f); err != nil {
		b.fatal("%v", err)
	}
}

// settled waits until the document that a person looks at has been loaded.
func (b *tab) settled() {
	b.t.Helper()
	b.until("the page to be loaded", func() error {
		var state string
		if err := b.try("doc.readyState + (doc.URL === 'about:blank' ? ' blank' : '')", &state); err != nil {
			return err
		}
		if state != "complete" {
			return fmt.Errorf("it is %s", state)
		}
		return nil
	})
}

// sees waits until all the words stand on the page.
func (b *tab) sees(words ...string) {
	b.t.Helper()
	b.until(fmt.Sprintf("%q on the page", words), func() error {
		text, err := b.tryText()
		if err != nil {
			return err
		}
		for _, w := range words {
			if !strings.Contains(text, w) {
				return fmt.Errorf("%q is not there", w)
			}
		}
		return nil
	})
}

// seesNot says that words do not stand on the page that is there.
func (b *tab) seesNot(words ...string) {
	b.t.Helper()
	text := b.text()
	for _, w := range words {
		if strings.Contains(text, w) {
			b.t.Errorf("the page says %q", w)
		}
	}
}

// tryText is what a person can read, white space folded.
func (b *tab) tryText() (string, error) {
	var text string
	err := b.try("doc.body ? doc.body.innerText : ''", &text)
	return strings.Join(strings.Fields(text), " "), err
}

func (b *tab) text() string {
	b.t.Helper()
	var text string
	b.until("the page's text", func() (err error) { text, err = b.tryText(); return err })
	return text
}

// press clicks, with the mouse, what is found by an expression; the place must not be
// covered by anything else.
func (b *tab) press(what, expression string) {
	b.t.Helper()
	var at struct{ X, Y float64 }
	b.until("something to click: "+what, func() error {
		var found *struct {
			X, Y    float64
			Covered string
		}
		err := b.try(`(() => {
			const e = `+expression+`;
			if (!e) return null;
			e.scrollIntoView({block: 'center', inline: 'nearest', behavior: 'instant'});
			const r = e.getClientRects()[0];
			if (!r) return null;
			const x = r.left + r.width / 2, y = r.top + r.height / 2;
			const top = doc.elementFromPoint(x, y);
			const free = top && (e === top || e.contains(top) || top.contains(e) || (top.tagName === 'LABEL' && top.control === e));
			const f = win === window ? {left: 0, top: 0} : frame.getBoundingClientRect();
			return {X: x + f.left, Y: y + f.top, Covered: free ? '' : (top ? top.outerHTML.slice(0, 200) : 'nothing: it is out of sight')};
		})()`, &found)
		switch {
		case err != nil:
			return err
		case found == nil:
			return errors.New("it is not there")
		case found.Covered != "":
			return fmt.Errorf("it is covered by %s", found.Covered)
		}
		at.X, at.Y = found.X, found.Y
		return nil
	})
	ctx, cancel := b.within()
	defer cancel()
	if err := chromedp.Do(ctx, chromedp.MouseClickXY(at.X, at.Y)); err != nil {
		b.fatal("click %s: %v", what, err)
	}
}

// quote makes a string of JavaScript.
func quote(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // a string can be written as JSON
	}
	return string(b)
}

const pressable = "'a[href], button, summary, input[type=submit]'"

// follow clicks a link or button by its words and waits for the page it leads to. With a
// second argument it is looked for in the row that has those words.
func (b *tab) follow(name string, inRow ...string) {
	b.t.Helper()
	b.leaving(func() { b.click(name, inRow...) })
}

// click clicks a link, button or heading of a fold by its words.
func (b *tab) click(name string, inRow ...string) {
	b.t.Helper()
	root := "undefined"
	if len(inRow) > 0 {
		root = "row(" + quote(inRow[0]) + ") || doc.createElement('p')"
	}
	b.press(fmt.Sprintf("%q %q", name, inRow), fmt.Sprintf("named(%s, %s, %s)", pressable, quote(name), root))
}

// leaving waits, after f, until another document is there.
func (b *tab) leaving(f func()) {
	b.t.Helper()
	b.eval("doc.documentElement.setAttribute('data-here', ''), null", nil)
	f()
	b.until("another page", func() error {
		var still bool
		if err := b.try("doc.documentElement.hasAttribute('data-here')", &still); err != nil {
			return err
		}
		if still {
			return errors.New("it is still the same")
		}
		return nil
	})
	b.settled()
}

// fill types a value into the field of a label, in place of what is there.
func (b *tab) fill(label, value string) {
	b.t.Helper()
	b.press("the field "+label, "field("+quote(label)+")")
	b.eval("(field("+quote(label)+").select && field("+quote(label)+").select(), null)", nil)
	ctx, cancel := b.within()
	defer cancel()
	var kind string
	b.eval("field("+quote(label)+").type", &kind)
	if strings.HasPrefix(kind, "date") { // typed digit by digit, in the order of the language
		b.eval(fmt.Sprintf("(e => { e.value = %s; e.dispatchEvent(new win.Event('input', {bubbles: true})); e.dispatchEvent(new win.Event('change', {bubbles: true})); })(field(%s))",
			quote(value), quote(label)), nil)
	} else if _, err := chromedp.Call(ctx, input.InsertText, input.InsertTextParams{Text: value}); err != nil {
		b.fatal("type into %q: %v", label, err)
	}
	var got string
	b.eval("field("+quote(label)+").value", &got)
	if got != value {
		b.fatal("the field %q holds %q, want %q", label, got, value)
	}
}

// choose takes the option with these words.
func (b *tab) choose(label, option string) {
	b.t.Helper()
	var ok bool
	b.until("the choice "+label, func() error {
		return b.try(fmt.Sprintf(`(e => {
			const o = e && [...e.options].find(o => o.text.replace(/\s+/g, ' ').trim().startsWith(%s));
			if (!o) return false;
			e.value = o.value;
			e.dispatchEvent(new win.Event('change', {bubbles: true}));
			return true;
		})(field(%s))`, quote(option), quote(label)), &ok)
	})
	if !ok {
		b.fatal("there is no choice %q with an option %q", label, option)
	}
}

// tick clicks a box or radio button by its label.
func (b *tab) tick(label string) {
	b.t.Helper()
	b.press("the box "+label, "field("+quote(label)+")")
}

// key presses a key.
func (b *tab) key(k string) {
	b.t.Helper()
	ctx, cancel := b.within()
	defer cancel()
	if err := chromedp.Do(ctx, chromedp.KeyEvent(k)); err != nil {
		b.fatal("press %q: %v", k, err)
	}
}

// place is the address that is shown, without the host.
func (b *tab) place() string {
	b.t.Helper()
	var where string
	b.eval("win.location.href", &where)
	u, err := url.Parse(where)
	if err != nil {
		b.fatal("the address %q: %v", where, err)
	}
	return u.RequestURI()
}

// shotsEnv names a folder for pictures.
const shotsEnv = "OSM_SHOTS"

// shoot takes a picture of what is in the window, where pictures are wanted.
func (b *tab) shoot(name string) {
	b.t.Helper()
	dir := os.Getenv(shotsEnv)
	if dir == "" {
		return
	}
	ctx, cancel := b.within()
	defer cancel()
	png, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
	if err == nil {
		err = errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644))
	}
	if err != nil {
		b.t.Logf("no picture %s: %v", name, err)
	}
}

// cookies are those that the browser would send with the page.
func (b *tab) cookies() []*network.Cookie {
	b.t.Helper()
	got := call(b, network.GetCookies, network.GetCookiesParams{})
	return got.Cookies
}
