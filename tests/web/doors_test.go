package web

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/chromedp"
)

type emptyParams = cdp.Empty

// call sends the browser a command that must succeed.
func call[P, R any](b *tab, command cdp.Command[P, R], params P) R {
	b.t.Helper()
	ctx, cancel := b.within()
	defer cancel()
	r, err := chromedp.Call(ctx, command, params)
	if err != nil {
		b.fatal("%s: %v", command.Method, err)
	}
	return r
}

// door is a way to the page.
type door struct {
	name    string
	address func(page string) string
}

// alone is osmctl web.
func alone() door {
	return door{"alone", func(page string) string { return "http://" + webAddress + "/" + page }}
}

// ctl runs osmctl for its one JSON document.
func ctl(t *testing.T, into any, args ...string) {
	t.Helper()
	if err := machine.JSON(into, args...); err != nil {
		t.Fatal(err)
	}
}

// link makes a one-time link, by default for root.
func link(t *testing.T, args ...string) string {
	t.Helper()
	var made struct{ URL string }
	ctl(t, &made, append([]string{"web", "link", "--listen", webAddress}, args...)...)
	return made.URL
}

// logIn opens a window of osmctl web and logs in with a link, as a person does.
func logIn(t *testing.T, how look, args ...string) *tab {
	t.Helper()
	b := newTab(t, alone(), how)
	b.visit(link(t, args...))
	b.sees("Log in to osm")
	b.follow("Log in")
	return b
}

// path is an escaped path in the form in which a door wants it.
func pageOf(parts ...string) string {
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	return strings.Join(parts, "/")
}

// list asks osmctl for a whole list.
func list[T any](t *testing.T, args ...string) []T {
	t.Helper()
	var out []T
	after := ""
	for {
		var l struct {
			Items []json.RawMessage `json:"items"`
			Next  string            `json:"next"`
		}
		ctl(t, &l, append(args, "--limit", "1000", "--after", after)...)
		for _, raw := range l.Items {
			var one T
			if err := json.Unmarshal(raw, &one); err != nil {
				t.Fatal(err)
			}
			out = append(out, one)
		}
		if after = l.Next; after == "" {
			return out
		}
	}
}
