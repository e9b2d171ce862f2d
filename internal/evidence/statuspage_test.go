package evidence

import (
	"errors"
	"io"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
)

func page(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The pages are those of Debian's Apache 2.4; without-dur-protocol.html is one of them with
// the two columns taken out that older versions do not have.
func TestStatusPagesOfApache(t *testing.T) {
	dead := []row{
		{slot: "0-0", pid: 7357, accesses: 1, state: '_', seconds: 4, millis: 3001, client: "127.0.0.23", protocol: "http/1.1", vhost: "localhost:18480", request: "GET /slow.php?n=3 HTTP/1.1"},
		{slot: "2-0", pid: 7359, accesses: 1, state: 'W', client: "127.0.0.1", protocol: "http/1.1", vhost: "localhost:18480", request: "GET /server-status HTTP/1.0"},
		{slot: "3-0", pid: 7360, accesses: 2, state: 'C', client: "127.0.0.1", protocol: "http/1.1", vhost: "localhost:18480", request: "OPTIONS * HTTP/1.0"},
		{slot: "4-0", pid: 7374, accesses: 1, state: '_', seconds: 4, millis: 3002, client: "127.0.0.21", protocol: "http/1.1", vhost: "localhost:18480", request: "GET /slow.php?n=1 HTTP/1.1"},
		{slot: "5-0", pid: 7376, accesses: 1, state: 'C', seconds: 6, client: "127.0.0.1", protocol: "http/1.1", vhost: "localhost:18480", request: "GET /nothing HTTP/1.1"},
		{slot: "6-0", pid: 7421, state: 'R', seconds: 6, client: "127.0.0.1", protocol: "http/1.1"},
	}
	old := append([]row{}, dead...)
	for i := range old {
		old[i].protocol = ""
	}
	for name, want := range map[string][]row{"dead-slots.html": dead, "without-dur-protocol.html": old} {
		got, err := parseStatus(strings.NewReader(page(t, name)))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v\n got %+v\nwant %+v", name, err, got, want)
		}
	}
}

func TestAStrangersRequestIsTextOnly(t *testing.T) {
	want := []string{
		`/slow.php?u=é","pid":1}`,
		`/slow.php?q=</td></tr><tr><td>1-1</td><td>99`,
		`/slow.php?x=<script>alert(1)</script>"&y=\z`,
		"/slow.php?long=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa…",
		"/a%20b.php?z=1",
		"/server-status",
	}
	for _, name := range []string{"prefork.html", "event.html"} {
		rows, err := parseStatus(strings.NewReader(page(t, name)))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		seen := map[string]bool{}
		for i := range rows {
			if l, ok := rows[i].line(); ok {
				seen[l.url()] = true
			}
		}
		for _, url := range want {
			if !seen[url] {
				t.Errorf("%s lacks %q: %v", name, url, seen)
			}
		}
	}
}

func TestThreadsAndHTTP2InTheStatusPage(t *testing.T) {
	rows, err := parseStatus(strings.NewReader(page(t, "event.html")))
	if err != nil || len(rows) != 8 {
		t.Fatalf("%d rows, %v; want 8: the table of connections before that of the workers is none", len(rows), err)
	}
	h2 := rows[7]
	if !h2.multiplexed() || !h2.mayServe() || h2.client != "127.0.0.8" {
		t.Errorf("%+v is not seen as an HTTP/2 connection at work", h2)
	}
	if _, ok := h2.line(); ok {
		t.Errorf("%q is taken for a request", h2.request)
	}
}

// While Apache starts a process its row has no number yet.
func TestAProcessThatIsAboutToBeStartedIsPassedOver(t *testing.T) {
	whole := page(t, "prefork.html")
	before, err := parseStatus(strings.NewReader(whole))
	if err != nil {
		t.Fatal(err)
	}
	rows, err := parseStatus(strings.NewReader(strings.Replace(whole, "<td>4139</td>", "<td>0</td>", 1)))
	if err != nil || len(rows) != len(before)-1 {
		t.Errorf("%d rows, %v; want %d", len(rows), err, len(before)-1)
	}
}

func TestStatusPagesThatTellNothing(t *testing.T) {
	whole := page(t, "prefork.html")
	for name, c := range map[string]struct {
		text string
		want error
	}{
		"ExtendedStatus off":                 {page(t, "not-extended.html"), errNotExt},
		"another page":                       {"<html><h1>It works!</h1><table><tr><td>x</td></tr></table></html>", errNoStatus},
		"nothing":                            {"", errNoStatus},
		"cut in the middle":                  {whole[:strings.Index(whole, "3-0")], io.ErrUnexpectedEOF},
		"a row of too few cells":             {strings.Replace(whole, "<td>0/2/2</td>", "", 1), nil},
		"a PID that is no number":            {strings.Replace(whole, "<td>4139</td>", "<td>41 39</td>", 1), nil},
		"a name of a column twice":           {strings.Replace(whole, "<th>Dur</th>", "<th>PID</th>", 1), nil},
		"more than any server has":           {whole + strings.Repeat(" ", maxPage), nil},
		"one cell without end":               {strings.Replace(whole, "</h1>", strings.Repeat("x", maxToken+1), 1), nil},
		"a worker's row of a thousand cells": {strings.Replace(whole, "<td>4139</td>", strings.Repeat("<td>1</td>", 1000), 1), nil},
	} {
		rows, err := parseStatus(strings.NewReader(c.text))
		if name == "more than any server has" && rows != nil {
			continue // the table was over before
		}
		if err == nil || rows != nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %d rows and %v, want the error %v", name, len(rows), err, c.want)
		}
	}
}

// Whatever a page says: bounded rows, each of a process, and what becomes of them is
// printable.
func FuzzParseStatus(f *testing.F) {
	for _, name := range []string{"prefork.html", "event.html", "dead-slots.html", "without-dur-protocol.html", "not-extended.html"} {
		f.Add(page(f, name))
	}
	f.Fuzz(func(t *testing.T, text string) {
		rows, err := parseStatus(strings.NewReader(text))
		if err != nil && rows != nil || len(rows) > maxRows {
			t.Fatalf("%d rows with %v", len(rows), err)
		}
		for i := range rows {
			r := &rows[i]
			if r.pid <= 0 || r.state == 0 || len(r.request) > maxCell || r.seconds > maxSeconds {
				t.Fatalf("row %+v", r)
			}
			e := fromRow(r, time.Time{}).Clean()
			for _, s := range []string{e.URL, e.Method, e.VirtualHost} {
				if len(s) > 512 || strings.ContainsAny(s, "\x00\n\r\x1b") {
					t.Fatalf("%q of row %+v", s, r)
				}
			}
		}
	})
}
