package door

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	eximacl "osm/exim-acl"
	"osm/policy"
	"osm/tests/lab"
)

// canary is a file that only an expansion or a command smuggled into Exim or the daemon
// would make: the folder belongs to Exim's user.
func canary() string { return filepath.Join(machine.Logs, "canary") }

// hostileTexts are what strangers write into any field.
func hostileTexts() map[string]string {
	return map[string]string{
		"closing brace":            "a } b }} c",
		"dollar":                   "$ $acl_m_osm $h_subject: $$",
		"expansion that runs":      "${run{/usr/bin/touch " + canary() + "}}",
		"expansion that reads":     "${readfile{/etc/shadow}}${extract{osm}{$acl_m_osm}}",
		"shell":                    "`touch " + canary() + "` $(touch " + canary() + ") ; touch " + canary() + " #",
		"words of an answer":       `x" action=discard ref=forged log="forged" osm=1`,
		"escaped quote":            `\" \\" \\\" action=deny osm=1 \`,
		"NUL":                      "a\x00b\x00",
		"CR LF":                    "a\r\nosm=1\r\n\r\n",
		"folded line":              "a\n 1999-01-01 00:00:00 OSM freeze ref=forged00\n1999-01-01 00:00:00 OSM freeze ref=forged00\ntime=1999-01-01T00:00:00.000Z level=ERROR msg=forged",
		"lone CR":                  "a\rtime=1999-01-01T00:00:00.000Z level=ERROR msg=forged",
		"terminal control":         "\x1b[2J\x1b]0;title\x07\x7f\x08",
		"encoded newline":          "=?UTF-8?Q?a=0Aaction=3Ddiscard=0Atime=3D1999-01-01T00:00:00.000Z_level=3DERROR_msg=3Dforged?=",
		"encoded NUL and ESC":      "=?UTF-8?Q?=00=1B[2J?= =?UTF-8?B?AAAbWzJK?=",
		"broken base64 word":       "=?UTF-8?B?!!!!?= =?UTF-8?B?4pyT?= =?UTF-8?B?4p",
		"broken quoted word":       "=?UTF-8?Q?=C3=?= =?UTF-8?Q?=ZZ?= =?UTF-8?Q",
		"unknown charset":          "=?x-no-such?Q?=C3=A4?= =?UTF-16?B?//8=?=",
		"text that runs backwards": "\u202egpj.exe\u2066\u2028\u2029\u0085",
		"invalid UTF-8":            "\xff\xfe\xc3\x28\xed\xa0\x80",
		"64 KiB":                   strings.Repeat("long subject ", 5042),
		"64 KiB folded":            strings.Repeat("long subject\n ", 4682),
		"64 KiB of encoded words":  strings.Repeat("=?UTF-8?Q?=E2=9C=93?= ", 2979),
	}
}

func TestHostileTextThroughEximIsAnsweredChargedAndLoggedSafely(t *testing.T) {
	w := start(t)
	seen := w.follow(t)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	account := w.next()
	// Everything is stopped, so that the texts reach the answer, Exim's log and ours.
	w.do(t, "limit", "set", "--account", account, "--trigger", "subject-hour", "--max", "0", "--mode", "enforce")
	sent := 0
	for name, text := range hostileTexts() {
		for _, p := range []string{"sendmail", "SMTP AUTH"} {
			if err := hostileMail(ctx, account, p, text); err != nil {
				t.Fatalf("%s by %s: %v", name, p, err)
			}
			sent++
			d := seen.wait(t, sent)[sent-1]
			if d.Account != account || d.Verdict != "freeze" || d.Trigger != "subject-hour" {
				t.Errorf("%s by %s: decided %+v", name, p, d)
			}
			if lines := w.eximLog("OSM freeze ref=" + d.Ref + " "); len(lines) != 1 {
				t.Errorf("%s by %s: Exim logged %q", name, p, lines)
			}
			if bad := invisible(d.Subject + d.EnvelopeSender + d.WorkingDirectory + d.Basis + d.Script); bad != "" {
				t.Errorf("%s by %s: the decision holds %s: %#v", name, p, bad, d)
			}
		}
	}
	if n := len(w.eximLog("OSM unavailable")); n != 0 {
		t.Errorf("%d questions found no answer", n)
	}
	if got := w.registered(t, sent, account); len(got) != sent {
		t.Errorf("%d of %d in the register", len(got), sent)
	}
	for _, args := range [][]string{{"held", "list"}, {"held", "list", "--json"}, {"events"}, {"events", "--json"}, {"usage", account}, {"top"}} {
		w.printsSafely(t, args...)
	}
	w.safeLogs(t)
}

// printsSafely runs osmctl and looks whether what it prints can do harm to a terminal.
func (w *world) printsSafely(t *testing.T, args ...string) {
	t.Helper()
	text, err := w.Osmctl(args...)
	if err != nil {
		t.Fatal(err)
	}
	if bad := invisible(strings.ReplaceAll(string(text), "\n", "")); bad != "" {
		t.Errorf("osmctl %v prints %s", args, bad)
	}
}

// hostileMail submits one message with the text wherever a stranger can write.
func hostileMail(ctx context.Context, account, by, text string) error {
	m := lab.Mail{From: "box@" + machine.Domain(account), To: []string{"x@elsewhere.example"}, Subject: text,
		Header: []string{"X-PHP-Script: " + text, "X-PHP-Originating-Script: 1:" + text, "Sender: " + text, "Comments: " + text}}
	if quotable := regexp.MustCompile(`^[ -!#-\[\]-~]{1,60}$`); quotable.MatchString(text) {
		m.From = `"` + text + `"@` + machine.Domain(account)
		m.To = append(m.To, `"`+text+`"@elsewhere.example`)
	}
	if by != "sendmail" {
		return byLogin(ctx, account, 1, m)
	}
	dir := www(account)
	if name := strings.Trim(strings.ReplaceAll(text[:min(len(text), 200)], "\x00", ""), "/"); name != "" {
		dir = filepath.Join(dir, name) // a slash in it makes another folder, as the text says
		if err := machine.MakeDir(account, dir); err != nil {
			return err
		}
	}
	return machine.Sendmail(ctx, account, dir, m)
}

// invisible names the first thing in a text that is not to be seen; "" if there is none.
func invisible(s string) string {
	if !utf8.ValidString(s) {
		return "invalid UTF-8"
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return fmt.Sprintf("the character %U", r)
		}
	}
	return ""
}

// safeLogs checks that every line of both logs is one that we or Exim have written, and
// that nothing was run.
func (w *world) safeLogs(t *testing.T) {
	t.Helper()
	exim, err := os.ReadFile(machine.Logs + "/mainlog")
	if err != nil {
		t.Fatal(err)
	}
	for name, log := range map[string]struct {
		text string
		line *regexp.Regexp
	}{
		"Exim's log": {string(exim[w.logFrom:]), regexp.MustCompile(`^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d `)},
		"osmd's log": {w.log(t), regexp.MustCompile(`^time=\d{4}-\d\d-\d\dT[0-9:.]+Z level=(INFO|WARN|ERROR) msg=`)},
	} {
		for line := range strings.Lines(log.text) {
			line = strings.TrimSuffix(line, "\n")
			if !log.line.MatchString(line) {
				t.Errorf("%s holds a line that is not its own: %.200q", name, line)
			}
			if i := strings.IndexFunc(line, func(r rune) bool { return r < ' ' || r == 0x7f }); i >= 0 {
				t.Errorf("%s holds a raw control byte: %.200q", name, line[max(0, i-50):])
			}
			if strings.HasPrefix(line, "1999-") || strings.HasPrefix(line, "time=1999-") {
				t.Errorf("%s holds a forged line: %.200q", name, line)
			}
		}
	}
	if _, err := os.Stat(canary()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something in a message was run: %s is there (%v)", canary(), err)
	}
}

func TestMessageToFiveThousandRecipientsIsOneDecision(t *testing.T) {
	const n = 5000
	w := start(t)
	account := w.next()
	m := mailOf(account, "To very many")
	m.To = nil
	for i := range n {
		m.To = append(m.To, fmt.Sprintf("reader%d@elsewhere.example", i))
	}
	w.limitOf(t, account, "recipients", n-1)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	for _, by := range []path{paths()[1], paths()[3]} {
		if err := by.send(ctx, account, 1, m); err != nil {
			t.Fatal(by.name, ": ", err)
		}
	}
	came(t, m.Subject, 0, 2)
	for _, id := range frozen(t, m.Subject) {
		d := w.explain(t, id).Decision
		if d.Recipients != n || d.Reason != "larger_than_limit" || d.Trigger != "recipients" || d.Account != account {
			t.Errorf("%s: decided %+v", id, d)
		}
	}
}

// hostileRequests are what Exim would never write. Whatever is not a whole question is
// accepted, or closed on, and charged to nobody.
func hostileRequests(account string) map[string][]byte {
	good := string(request(submissionOf(account)))
	with := func(lines string) []byte { return []byte(strings.TrimSuffix(good, "\n") + lines + "\n") }
	return map[string][]byte{
		"empty":                         nil,
		"an empty line":                 []byte("\n"),
		"no version":                    []byte(strings.Replace(good, "osm=1\n", "", 1)),
		"another version":               []byte(strings.Replace(good, "osm=1\n", "osm=2\n", 1)),
		"half a request":                []byte(good[:len(good)/2]),
		"all but the empty line":        []byte(strings.TrimSuffix(good, "\n")),
		"a doubled name":                with("ouid=0\n"),
		"a doubled version":             with("osm=1\n"),
		"a line without a name":         with("=x\n"),
		"a line without =":              with("nonsense\n"),
		"CR LF line ends":               []byte(strings.ReplaceAll(good, "\n", "\r\n")),
		"100 kB of unknown names":       with(strings.Repeat("unknown=value\n", 100_000/14)),
		"100 kB in one line":            with("x=" + strings.Repeat("A", 100_000) + "\n"),
		"100 kB of base64":              with("always64=" + strings.Repeat("QUJD", 25_000) + "\n"),
		"100 kB without an end":         bytes.Repeat([]byte("A"), 100_000),
		"another protocol":              []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
		"random bytes":                  bytes.Repeat([]byte{0, 1, 0xff, '\n', '=', 0x80}, 2000),
		"broken base64":                 []byte(strings.Replace(good, "subj64=", "subj64=!", 1)),
		"a NUL in a number":             []byte(strings.Replace(good, "nrcpt=1", "nrcpt=\x001", 1)),
		"a uid that is none":            []byte(strings.Replace(good, "ouid=", "ouid=999999", 1)),
		"a count of recipients below 0": []byte(strings.Replace(good, "nrcpt=1", "nrcpt=-5", 1)),
	}
}

func TestHostileRequestsOnTheSocketAreAnsweredAndChargedToNobody(t *testing.T) {
	w := start(t)
	account := w.next()
	before, err := w.Status()
	if err != nil {
		t.Fatal(err)
	}
	all := hostileRequests(account)
	names := slices.Sorted(maps.Keys(all))
	var requests [][]byte
	for _, name := range names {
		requests = append(requests, all[name])
	}
	// The time is the least of three: a busy machine keeps an answer, too.
	took := map[string]time.Duration{}
	for try := range 6 {
		stay := try%2 == 1
		for i, a := range asUser(t, "Debian-exim", asking{Socket: machine.PolicySocket(), Requests: requests, Stay: stay}) {
			if len(a.Text) > 0 {
				answer, err := eximacl.ParseAnswer(a.Text)
				if err != nil || answer.Action != policy.Accept || len(a.Text) > 1024 {
					t.Errorf("%s: answered %.200q (%v), want accept", names[i], a.Text, err)
				}
			} else if !stay && names[i] != "empty" {
				t.Errorf("%s: no answer (%s)", names[i], a.Error)
			}
			key := fmt.Sprintf("%s, staying %v", names[i], stay)
			if least, ok := took[key]; !ok || a.Took < least {
				took[key] = a.Took
			}
		}
	}
	for key, least := range took {
		if least > 1300*time.Millisecond { // Exim gives up after a second
			t.Errorf("%s: took %v", key, least)
		}
	}
	only(t, account, w.counted(t, account), nil)
	good := askAs(t, "Debian-exim", [][]byte{request(submissionOf(account))})[0]
	if _, err := eximacl.ParseAnswer(good.Text); err != nil {
		t.Errorf("a good question after all of that: %+v", good)
	}
	unknown := append(bytes.TrimSuffix(request(submissionOf(account)), []byte("\n")), "later64=QUJD\nmore=1\n\n"...)
	if a := askAs(t, "Debian-exim", [][]byte{unknown})[0]; !bytes.Contains(a.Text, []byte("action=accept ref=")) {
		t.Errorf("a question with unknown names: %+v", a)
	}
	if got := w.counted(t, account)["messages/"+account]; got != 2 {
		t.Errorf("%d messages counted, want 2", got)
	}
	after, err := w.Status()
	if err != nil || after.Unchecked == before.Unchecked {
		t.Errorf("nothing is said of unchecked messages: %+v (%v)", after, err)
	}
	eventually(t, 5*time.Second, "the alarm", func() error {
		if s, err := w.Status(); err != nil || s.Alarm("malformed") == nil {
			return fmt.Errorf("alarms are %+v (%v)", s.Alarms, err)
		}
		return nil
	})
	w.safeLogs(t)
}

// Every field at once holds the hostile text: what Exim's own checks keep out too.
func TestHostileValuesInEveryFieldOfARequestAreDecidedAndLoggedSafely(t *testing.T) {
	w := start(t)
	seen := w.follow(t)
	account := w.next()
	w.do(t, "limit", "set", "--account", account, "--trigger", "subject-hour", "--max", "0", "--mode", "enforce")
	w.do(t, "limit", "set", "--account", account, "--trigger", "directory-hour", "--max", "0", "--mode", "enforce")
	var requests [][]byte
	for _, text := range hostileTexts() {
		all := policy.Submission{
			MessageID: text, Protocol: text, CallerUID: int64(machine.UID(account)), WorkingDirectory: text, Ident: text, HELO: text,
			EnvelopeSender: text, HeaderFrom: text, Subject: text, PHPScript: text, RecipientList: text, Recipients: 1, LocalUser: text, VhostOwner: text,
		}
		requests = append(requests, request(&all))
		login := all
		login.AuthenticatedID, login.Authenticator, login.ClientIP = text, text, netip.MustParseAddr("192.0.2.7")
		requests = append(requests, request(&login))
		relay := all
		relay.ClientIP, relay.RecentAuth, relay.AlwaysRelay = netip.MustParseAddr("192.0.2.8"), text, text
		requests = append(requests, request(&relay))
	}
	for i, a := range askAs(t, "Debian-exim", requests) {
		if _, err := eximacl.ParseAnswer(a.Text); err != nil || len(a.Text) > 1024 || !utf8.Valid(a.Text) || invisible(strings.TrimSuffix(string(a.Text), "\n")) != "" {
			t.Errorf("request %d: answered %.300q: %v", i, a.Text, err)
		}
	}
	for _, d := range seen.wait(t, len(requests)) {
		if d.Account == "" || d.Source == "script" && d.Account != account || d.Source != "script" && d.Account == account {
			t.Errorf("charged to %q: %+v", d.Account, d)
		}
		if bad := invisible(d.Subject + d.WorkingDirectory + d.Basis + d.Script + d.Account + d.Mailbox + d.MessageID); bad != "" {
			t.Errorf("a decision holds %s: %#v", bad, d)
		}
		w.explain(t, d.Ref) // until it is stored
		w.printsSafely(t, "explain", d.Ref)
		w.printsSafely(t, "explain", d.Ref, "--json")
	}
	w.safeLogs(t)
}

// memory is the daemon's resident memory, now and at its most, in MiB.
func (w *world) memory(t *testing.T) (now, most int) {
	t.Helper()
	read := func(field string) int {
		text, err := lab.ProcStatus(w.PID(), field)
		if err != nil {
			t.Fatal(err)
		}
		kb, err := strconv.Atoi(strings.TrimSuffix(text, " kB"))
		if err != nil {
			t.Fatal(err)
		}
		return kb / 1024
	}
	return read("VmRSS"), read("VmHWM")
}

func TestFloodOfDistinctSubjectsCostsNobodyElseAnything(t *testing.T) {
	n, room := 200_000, 256
	if withRace { // the race detector makes the daemon slow, and large
		n, room = 30_000, 700
	}
	w := start(t)
	flooder, neighbour := w.next(), w.next()
	before := request(submissionOf(neighbour))
	askAs(t, "Debian-exim", [][]byte{before, before, before})
	quiet, _ := w.memory(t)
	var f flooded
	cmd := machine.As(t.Context(), "Debian-exim", "/", machine.self)
	runChild(t, cmd, "flood", flooding{Socket: machine.PolicySocket(), Login: "info@" + machine.Domain(flooder), N: n, Clients: 8}, &f)
	_, most := w.memory(t)
	t.Logf("%d subjects in %v, %d MiB before and %d at most", n, f.Took.Round(time.Millisecond), quiet, most)
	// A daemon that gets no processor for a second hangs up: the message passes unchecked.
	if f.Accepted < n-n/1000 {
		t.Errorf("%d of %d were accepted; %s", f.Accepted, n, f.FirstError)
	}
	if most-quiet > room {
		t.Errorf("memory grew from %d to %d MiB, want at most %d more", quiet, most, room)
	}
	subjects := 0
	for _, u := range list[usage](t, w, "usage", flooder) {
		if u.Watch == "subject" {
			subjects++
		}
		if u.Trigger == "messages" && (u.Used < int64(f.Accepted) || u.Used > int64(n)) {
			t.Errorf("%d messages counted, want the %d that were accepted", u.Used, f.Accepted)
		}
	}
	if subjects == 0 || subjects > 256 {
		t.Errorf("%d subjects are kept, want 1 to 256", subjects)
	}
	if got := w.counted(t, neighbour); got["messages/"+neighbour] != 3 || got["subject-hour/"+neighbour+" hello"] != 3 {
		t.Errorf("the neighbour's counters are now %v", got)
	}
}
