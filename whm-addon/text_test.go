package whm

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"osm/internal/control"
	"osm/internal/control/controltest"
)

func TestShown(t *testing.T) {
	for name, row := range map[string]struct{ in, want string }{
		"plain text stays":                    {"Order 88 – für Jörg 🎉", "Order 88 – für Jörg 🎉"},
		"a direction override is named":       {"a\u202egpj.exe", "a⟨U+202E⟩gpj.exe"},
		"isolates too":                        {"\u2066x\u2069", "⟨U+2066⟩x⟨U+2069⟩"},
		"a byte order mark":                   {"\ufeffx", "⟨U+FEFF⟩x"},
		"zero width":                          {"pay\u200bpal", "pay⟨U+200B⟩pal"},
		"soft hyphen":                         {"pay\u00adpal", "pay⟨U+00AD⟩pal"},
		"tags, which nobody sees":             {"x\U000e0041", "x⟨U+E0041⟩"},
		"a filler that looks like nothing":    {"x\u3164", "x⟨U+3164⟩"},
		"controls have pictures":              {"a\x00b\a\x1b\x7f", "a␀b␇␛␡"},
		"line ends":                           {"a\r\nb", "a␍␊b"},
		"controls above ASCII":                {"a\u0085b", "a⟨U+0085⟩b"},
		"bytes that are no text":              {"a\xffb", "a\ufffdb"},
		"markup is not its business":          {"<b>", "<b>"},
		"line and paragraph separators":       {"a\u2028b\u2029", "a⟨U+2028⟩b⟨U+2029⟩"},
		"a private character, maybe a logo":   {"\ue000", "⟨U+E000⟩"},
		"right-to-left text itself is a text": {"שלום", "שלום"},
	} {
		if got := shown(row.in); got != row.want {
			t.Errorf("%s: shown(%q) is %q, want %q", name, row.in, got, row.want)
		}
	}
}

func FuzzShown(f *testing.F) {
	for _, s := range hostile() {
		f.Add(s, 20)
	}
	f.Fuzz(func(t *testing.T, s string, n int) {
		n = 2 + (n&0xff)%100
		if got := shown(s); strings.ContainsFunc(got, hidden) || shown(got) != got {
			t.Errorf("shown(%q) = %q hides something", s, got)
		}
		for _, out := range []string{string(quoted(s, n)), string(tailed(s, n)), string(orNone(s, n, "–"))} {
			inner := strings.TrimSuffix(out[strings.Index(out, ">")+1:], "</bdi>")
			if strings.ContainsAny(strings.TrimSuffix(inner, "</span>"), "<>\"'") {
				t.Errorf("of %q came %q", s, out)
			}
		}
	})
}

func TestLongTextIsCutAndKeptWhole(t *testing.T) {
	long := strings.Repeat("ö", 30)
	if got, want := string(quoted(long, 10)), `<bdi title="`+long+`">`+strings.Repeat("ö", 9)+"…</bdi>"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := string(tailed("/home/shop/public_html/cache", 10)), `<bdi title="/home/shop/public_html/cache">…tml/cache</bdi>`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := string(quoted(`"<&'`, 10)); got != "<bdi>&#34;&lt;&amp;&#39;</bdi>" {
		t.Errorf("got %s", got)
	}
	if got := shownLines("a:\tb\r\n\x1b c\n"); got != "a:    b\n␛ c\n" {
		t.Errorf("lines: got %q", got)
	}
}

func TestNumbersAndTimesInWords(t *testing.T) {
	for _, row := range [][2]string{
		{decimal(1234567), "1,234,567"}, {decimal(int64(-1234)), "-1,234"}, {decimal(uint64(7)), "7"}, {decimal((*int64)(nil)), "0"},
		{counted(1, "message"), "1 message"}, {counted(2000, "message"), "2,000 messages"}, {size(999), "999 B"}, {size(1500), "1.5 kB"}, {size(int64(2e9)), "2.0 GB"},
		{period(control.Period(24 * time.Hour)), "1 day"}, {period(control.Period(90 * time.Minute)), "90 minutes"}, {period(control.Period(1500 * time.Millisecond)), "1.5s"},
		{roughly(-time.Second), "0 seconds"}, {roughly(5 * time.Minute), "5 minutes"}, {roughly(47 * time.Hour), "47 hours"}, {roughly(72 * time.Hour), "3 days"},
		{fmt.Sprint(percent(1, 0), percent(0, 0), percent(5, 20), percent(int64(9e17), int64(9e17))), "100 0 25 100"},
	} {
		if row[0] != row[1] {
			t.Errorf("got %q, want %q", row[0], row[1])
		}
	}
}

func TestAddressesOfPages(t *testing.T) {
	path, root, query := front{base: "/osm"}, front{}, front{base: "index.cgi", query: true}
	for _, row := range [][2]string{
		{path.to("now"), "/osm/now"}, {root.to("now"), "/now"}, {query.to("now"), "index.cgi?p=now"},
		{path.to("events", "account", "a b&c", "open", "", "#", "top"), "/osm/events?account=a+b%26c#top"},
		{query.to("events", "account", "a b&c"), "index.cgi?p=events&account=a+b%26c"},
		{query.to(pagePath("senders", "(shared:www/x)")), "index.cgi?p=senders/%2528shared:www%252Fx%2529"},
		{path.to(pagePath("senders", "(shared:www/x)")), "/osm/senders/%28shared:www%2Fx%29"},
		{query.to("held?account=shop", "state", "all"), "index.cgi?p=held&account=shop&state=all"},
		{root.to("//evil.example/x"), "/evil.example/x"}, {root.to(`/\evil.example`), "/evil.example"},
	} {
		if got := strings.ReplaceAll(row[0], "%3A", ":"); got != row[1] {
			t.Errorf("got %q, want %q", got, row[1])
		}
	}
}

func TestAFrontCannotBeMadeToLinkElsewhere(t *testing.T) {
	for name, row := range map[string]struct{ base, links, want string }{
		"a path":                {"/osm/", "path", "/osm/now"},
		"another host":          {"https://evil.example", "path", "/now"},
		"another host, short":   {"//evil.example", "path", "/now"},
		"a script":              {"javascript:alert(1)", "query", "index.cgi?p=now"},
		"the query form's file": {"addon_osm.cgi", "query", "addon_osm.cgi?p=now"},
		"nothing":               {"", "query", "index.cgi?p=now"},
	} {
		f := frontOf(map[string][]string{"X-Osm-Base": {row.base}, "X-Osm-Links": {row.links}})
		if got := f.to("now"); got != row.want {
			t.Errorf("%s: got %q, want %q", name, got, row.want)
		}
	}
}

func TestPagesToComeBackTo(t *testing.T) {
	for in, want := range map[string]string{
		"held?account=shop": "held?account=shop", "senders/%28unknown%29": "senders/%28unknown%29", "events/12": "events/12", "": "now",
		"https://evil.example/": "now", "//evil.example": "now", "/etc/passwd": "now", "javascript:alert(1)": "now", `\evil`: "now", "now\r\nX: y": "now", "..": "now", "a/../b": "now",
		"senders/..": "now", "held?x=%zz": "held",
	} {
		if got := ownPage(in, "now"); got != want {
			t.Errorf("ownPage(%q) is %q, want %q", in, got, want)
		}
	}
}

func TestSettlingCommandsBecomeButtons(t *testing.T) {
	for command, want := range map[string]string{
		"osmctl held release 7k39q37a":                                                   "POST held/confirm do=release ref=7k39q37a",
		"osmctl held list --account '(unknown)'":                                         "held account=(unknown)",
		"osmctl release 12":                                                              "holds/12/end",
		"osmctl reset 'subject-hour/shop win it\\''s #'":                                 "reset trigger=subject-hour key=shop win it\\s #",
		`osmctl reset 'subject-hour/shop it'\''s'`:                                       "reset trigger=subject-hour key=shop it's",
		"osmctl reset account-hour/shop":                                                 "reset trigger=account-hour key=shop",
		"osmctl limit set --account shop --trigger account-hour --max 500 --until 1d":    "limits/edit level=account name=shop trigger=account-hour max=500 until=1d",
		"osmctl limit set --mailbox a@b.example --trigger login-hour --max 5 --until 1d": "limits/edit level=mailbox name=a@b.example trigger=login-hour max=5 until=1d",
		"osmctl usage 'login 192.0.2.1'":                                                 "senders/login%20192.0.2.1",
		"osmctl status":                                                                  "now",
		"osmctl config reload":                                                           "settings",
		"rm -rf /":                                                                       "none",
		"":                                                                               "none",
	} {
		got := "none"
		if b := settleOf(&control.Explanation{Command: command}, true); b != nil {
			got = b.Page
			if b.Post {
				got = "POST " + got
			}
			for _, f := range b.Fields {
				got += " " + f[0] + "=" + f[1]
			}
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", command, got, want)
		}
	}
}

func TestResellersGetNoButtonThatIsRefused(t *testing.T) {
	for command, want := range map[string]bool{
		"osmctl held release 7k39q37a": false, "osmctl release 12": false, "osmctl reset account-hour/shop": false, "osmctl status": false, "osmctl config reload": false,
		"osmctl usage shop": true, "osmctl limit set --account shop --trigger account-hour --max 500 --until 1d": true, "osmctl held list --account shop": true,
	} {
		if got := settleOf(&control.Explanation{Command: command}, false) != nil; got != want {
			t.Errorf("%s: got a button: %v, want %v", command, got, want)
		}
	}
}

func TestEndsThatCanBeTyped(t *testing.T) {
	zone := time.FixedZone("CET", 3600)
	c := &call{p: &pages{zone: zone}, now: controltest.Start()}
	for name, row := range map[string]struct {
		until, day string
		want       string
	}{
		"never":                       {"", "", "0001-01-01T00:00:00Z"},
		"a length":                    {"4h", "", "2026-11-23T16:00:00Z"},
		"days":                        {"3d", "", "2026-11-26T12:00:00Z"},
		"the end of a day here":       {"", "2027-01-31", "2027-01-31T23:00:00Z"},
		"a day that was chosen":       {"day 2026-11-27", "", "2026-11-27T23:00:00Z"},
		"what is typed wins":          {"4h", "2027-01-31", "2027-01-31T23:00:00Z"},
		"from the step before":        {"2026-12-01T10:00:00Z", "", "2026-12-01T10:00:00Z"},
		"no day":                      {"", "tomorrow", "error"},
		"no length":                   {"soon", "", "error"},
		"a day that there is not":     {"", "2027-02-30", "error"},
		"backwards":                   {"-4h", "", "error"},
		"longer than anybody can say": {"99999d", "", "error"},
	} {
		got := "error"
		if at, err := c.until(url.Values{"until": {row.until}, "until_day": {row.day}}); err == nil {
			got = at.UTC().Format(time.RFC3339)
		}
		if got != row.want {
			t.Errorf("%s: got %s, want %s", name, got, row.want)
		}
	}
}

func TestChart(t *testing.T) {
	p := &pages{zone: time.UTC}
	from := controltest.Start()
	var list []control.Bucket
	for i := range 3 {
		b := control.Bucket{At: control.Time{Time: from.Add(time.Duration(i*20) * time.Minute)}}
		b.Messages, b.Observed, b.Frozen, b.Stopped = int64(10+i), 2, int64(i*40), int64(i*40)
		list = append(list, b)
	}
	list = append(list, control.Bucket{At: control.Time{Time: from.Add(-time.Hour)}}, control.Bucket{At: control.Time{Time: from.Add(time.Hour)}}) // outside
	c := p.newChart("x", "Messages & more", list, from.Add(30*time.Second), time.Minute, 60)
	svg := string(c.SVG())
	for _, want := range []string{`role="img"`, `<title id="x-t">Messages &amp; more</title>`, "In all: 27 passed, 6 passed, only observed, 120 frozen.", "The highest is 92 messages at 23 Nov 12:40 UTC", "12:40 UTC: 10 passed, 2 passed, only observed, 80 frozen"} {
		if !strings.Contains(svg, want) {
			t.Errorf("the chart does not say %q: %s", want, svg)
		}
	}
	if strings.Contains(svg, "style=") || strings.Contains(svg, "NaN") || strings.Count(svg, `class="column"`) != 3 || len(c.Figures()) != 3 || c.top != 100 {
		t.Errorf("the scale goes to %d, with %d figures: %s", c.top, len(c.Figures()), svg)
	}
	if empty := p.newChart("y", "Nothing", nil, from, time.Hour, 24); !empty.Empty() || empty.top != 4 {
		t.Errorf("an empty chart goes to %d", empty.top)
	}
	for _, n := range []int64{1, 5, 9, 11, 99, 101, 999_999, 1 << 50} {
		if top := niceTop(n); top < n || top > max(4, 2*n) || top%2 != 0 {
			t.Errorf("the scale for %d goes to %d", n, top)
		}
	}
}

func TestNotesAreBounded(t *testing.T) {
	var n notes
	now := controltest.Start()
	for i := range maxNoted + 50 {
		n.add(fmt.Sprint(i), now.Add(time.Duration(i)*time.Millisecond), note{Text: "x"})
	}
	for i := range maxNotes + 5 {
		n.add("last", now.Add(time.Minute), note{Text: fmt.Sprint(i)})
	}
	if len(n.of) > maxNoted || len(n.take("0", now)) != 0 {
		t.Fatalf("%d logins have notes", len(n.of))
	}
	if list := n.take("last", now.Add(time.Minute)); len(list) != maxNotes || list[maxNotes-1].Text != fmt.Sprint(maxNotes+4) {
		t.Fatalf("the last login has %v", list)
	}
	n.add("late", now, note{Text: "x"})
	if list := n.take("late", now.Add(notesKept+time.Second)); len(list) != 0 {
		t.Fatal("a note is shown when nobody remembers what it was about")
	}
	n.add("a", now, note{})
	n.add("b", now.Add(2*notesKept), note{})
	if len(n.of) != 1 && n.of["a"].list != nil {
		t.Fatal("old notes are kept")
	}
}

func TestAuditValuesAreReadable(t *testing.T) {
	for in, want := range map[string]string{
		`{"id":3,"level":"account","name":"shop","max":5000,"until":null,"by":"root","reason":""}`: "level: account, max: 5000, name: shop",
		`{"key":"held.keep","value":"20d","where":"database"} (ticket 7)`:                          "key: held.keep, value: 20d (ticket 7)",
		"5 of 300": "5 of 300", "{broken": "{broken", "": "–", `{"value":"<b>"}`: "value: &lt;b&gt;",
	} {
		got := strings.NewReplacer("<bdi>", "", "</bdi>", "", `<span class="quiet">`, "", "</span>", "").Replace(string(jsonLines(in)))
		if got != want {
			t.Errorf("%s: got %q, want %q", in, got, want)
		}
	}
}
