package report

import (
	"bytes"
	"io"
	"maps"
	"mime"
	"mime/quotedprintable"
	"net/mail"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	store "osm/sql"
)

func shippedTemplates(t *testing.T) *Templates {
	t.Helper()
	templates, err := LoadTemplates("", time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	return templates
}

func letterOf(t *testing.T, templates *Templates, r *Report, a Audience) Text {
	t.Helper()
	text, err := templates.Text(r, a)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// observing makes the sample one of a trigger that observes.
func observing(f Facts) Facts {
	f.Event.Mode = "observe"
	f.Event.Actions = nil
	return f
}

// later makes a digest of facts.
func later(f Facts) Facts {
	f.Kind, f.Since, f.Now, f.StoppedBefore = Digest, sentAt, sentAt.Add(time.Hour), 2
	return f
}

func TestAConnectionIsNoMessageInALetter(t *testing.T) {
	templates := shippedTemplates(t)
	for _, f := range []Facts{connectionFacts(), later(connectionFacts()), observing(connectionFacts())} {
		for _, a := range []Audience{Operator, Reseller, Customer} {
			text := letterOf(t, templates, New(f), a)
			for _, word := range []string{"message", "Message", "mail was", "mail passe", "Mail over", "Much mail"} {
				if strings.Contains(strings.ReplaceAll(text.Subject+text.Body, "last message to you", ""), word) {
					t.Errorf("%s: the %s's letter speaks of %q:\n%s\n%s", f.Kind, a, word, text.Subject, text.Body)
				}
			}
			if !strings.Contains(text.Body, "to 198.51.100.1:25: established") || !strings.Contains(text.Body, "process 4800 /usr/bin/perl in /home/forum/public_html/tmp") {
				t.Errorf("%s: the %s is not told both ends, process and path:\n%s", f.Kind, a, text.Body)
			}
		}
	}
}

func TestAReportTellsBothEndsOfConnections(t *testing.T) {
	r := New(connectionFacts())
	checkFormats(t, r)
	if len(r.Connections) != 10 || len(r.Messages) != 0 || r.Sampled != 12 {
		t.Fatalf("%d connections, %d messages, of %d; want 10, 0, 12", len(r.Connections), len(r.Messages), r.Sampled)
	}
	first, gone := r.Connections[0], r.Connections[3]
	if first.Local != "192.0.2.1:40001" || first.Remote != "198.51.100.1:25" || first.UID != 1004 || first.StartedBy != "/usr/sbin/crond" || gone.UID != -1 || gone.Arguments == nil {
		t.Errorf("got %+v and %+v", first, gone)
	}
	if d := r.Top.Destinations; d.Distinct != 3 || d.Most[0] != (Share{"198.51.100.1:25", 4, 33}) || r.Top.Executables.Most[0] != (Share{"/usr/bin/perl", 9, 75}) ||
		r.Top.Directories.Most[0].Value != "/home/forum/public_html/tmp" || r.Top.Scripts.Most[0].Messages != 9 {
		t.Errorf("top = %+v", r.Top)
	}
	f := connectionFacts()
	f.Event.Connections[0].Account, f.Event.Connections[0].Remote = "neighbour", "203.0.113.1:25"
	f.Accounts = []string{"forum"}
	if document := string(encoded(t, New(f), JSON)); strings.Contains(document, "neighbour") || strings.Contains(document, "203.0.113.1") {
		t.Errorf("the report tells of a neighbour:\n%s", document)
	}
}

func TestLettersAreAsTheirGoldenFiles(t *testing.T) {
	templates := shippedTemplates(t)
	mailbox := sampleFacts()
	mailbox.Event.Mailbox, mailbox.Event.Trigger, mailbox.Event.Watch, mailbox.Event.Key = "info@forum.example", "login-hour", "login", "forum info@forum.example"
	mailbox.Event.Requests = nil
	claimed := sampleFacts()
	claimed.Event.Claimed = true
	ended := digestFacts()
	ended.Event.Open = false
	for name, row := range map[string]struct {
		facts    Facts
		audience Audience
	}{
		"operator-first": {sampleFacts(), Operator}, "operator-digest": {digestFacts(), Operator}, "operator-observing": {observing(sampleFacts()), Operator},
		"operator-claimed": {claimed, Operator}, "operator-ended": {ended, Operator},
		"reseller-first": {sampleFacts(), Reseller}, "reseller-digest": {digestFacts(), Reseller},
		"customer-first": {sampleFacts(), Customer}, "customer-digest": {digestFacts(), Customer}, "customer-mailbox": {mailbox, Customer},
		"customer-observing":   {observing(sampleFacts()), Customer},
		"operator-connections": {connectionFacts(), Operator}, "operator-connections-observing": {observing(connectionFacts()), Operator},
		"operator-connections-digest": {later(connectionFacts()), Operator},
		"reseller-connections":        {connectionFacts(), Reseller}, "reseller-connections-digest": {later(connectionFacts()), Reseller},
		"customer-connections": {connectionFacts(), Customer}, "customer-connections-digest": {later(connectionFacts()), Customer},
	} {
		text := letterOf(t, templates, New(row.facts), row.audience)
		golden(t, name+".letter", []byte("Subject: "+text.Subject+"\n\n"+text.Body))
	}
}

func TestOnlyTheOperatorIsTold(t *testing.T) {
	templates := shippedTemplates(t)
	for _, f := range []Facts{sampleFacts(), digestFacts()} {
		r := New(f)
		for a, want := range map[Audience]bool{Operator: true, Reseller: false, Customer: false, "somebody": false} {
			body := letterOf(t, templates, r, a).Body
			for _, word := range []string{"osmctl", "rename-script"} {
				if strings.Contains(body, word) != want {
					t.Errorf("the %s letter for %s: has %q is %t, want %t", r.Kind, a, word, !want, want)
				}
			}
		}
	}
}

func TestAnObservingTriggerSaysThatNothingWasDone(t *testing.T) {
	templates := shippedTemplates(t)
	r := New(observing(sampleFacts()))
	for _, a := range []Audience{Operator, Reseller, Customer} {
		text := letterOf(t, templates, r, a)
		if !strings.Contains(text.Body, "Nothing was stopped") && !strings.Contains(text.Body, "all mail passed") {
			t.Errorf("the letter for %s does not say that nothing was stopped:\n%s", a, text.Body)
		}
		if strings.Contains(text.Body, "Free again") || strings.Contains(text.Body, "room under the limit") {
			t.Errorf("the letter for %s says when a sender is free who never was stopped:\n%s", a, text.Body)
		}
	}
	if s := letterOf(t, templates, r, Operator).Subject; !strings.Contains(s, "observed") {
		t.Errorf("the Subject does not mark it: %s", s)
	}
}

// checkLetters asserts what holds for every letter and its mail, whatever strangers wrote.
func checkLetters(t *testing.T, templates *Templates, r *Report) {
	t.Helper()
	for _, a := range []Audience{Operator, Reseller, Customer} {
		text := letterOf(t, templates, r, a)
		if text.Subject == "" || len(text.Subject) > maxSubjectLine || !utf8.ValidString(text.Subject) || strings.ContainsFunc(text.Subject, unicode.IsControl) {
			t.Errorf("Subject for %s: %.300q", a, text.Subject)
		}
		odd := func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }
		if len(text.Body) > maxBody || !utf8.ValidString(text.Body) || strings.ContainsFunc(text.Body, odd) {
			t.Errorf("body for %s (%d bytes): %.2000q", a, len(text.Body), text.Body)
		}
		checkMail(t, r, text)
	}
}

func checkMail(t *testing.T, r *Report, text Text) {
	t.Helper()
	b, err := Mail(r, text, "osm <osm@web1.example.net>", "hostmaster@example.net")
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(b) {
		if len(line) > 998 || !bytes.HasSuffix(line, []byte("\r\n")) || bytes.ContainsFunc(line[:len(line)-2], func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Fatalf("line %.1000q", line)
		}
	}
	m, err := mail.ReadMessage(bytes.NewReader(b))
	if err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	want := []string{"Auto-Submitted", "Content-Transfer-Encoding", "Content-Type", "Date", "From", "Message-Id", "Mime-Version", "References", "Subject", "To", "X-Osm-Report"}
	if got := slices.Sorted(maps.Keys(m.Header)); !slices.Equal(got, want) {
		t.Errorf("header lines %v, want %v", got, want)
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject"))
	if err != nil || subject != strings.ReplaceAll(text.Subject, "=?", "= ?") {
		t.Errorf("Subject comes back as %q (%v), want %q", subject, err, text.Subject)
	}
	raw, err := io.ReadAll(m.Body)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(quotedprintable.NewReader(bytes.NewReader(raw)))
	if err != nil || strings.ReplaceAll(string(body), "\r\n", "\n") != text.Body {
		t.Errorf("body comes back as %.500q (%v), want %.500q", body, err, text.Body)
	}
	for line := range bytes.Lines(raw) {
		if len(line) > 78 || line[0] == '.' || bytes.HasPrefix(line, []byte("From ")) {
			t.Errorf("body line %q", line)
		}
	}
}

func TestHostileTextsMakeHarmlessLetters(t *testing.T) {
	templates := shippedTemplates(t)
	for name, s := range hostileTexts() {
		t.Run(name, func(t *testing.T) { checkLetters(t, templates, New(hostileFacts(s, 100))) })
	}
}

func FuzzLetters(f *testing.F) {
	templates, err := LoadTemplates("", time.UTC)
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range hostileTexts() {
		if len(s) < 4096 {
			f.Add(s, "first")
			f.Add(s, "digest")
		}
	}
	f.Fuzz(func(t *testing.T, s, kind string) {
		facts := hostileFacts(s, 1)
		facts.Kind = Kind(kind)
		checkLetters(t, templates, New(facts))
	})
}

func TestNoLinkOfAStrangersIsInALetter(t *testing.T) {
	f := sampleFacts()
	for i := range f.Event.Messages {
		f.Event.Messages[i].Subject = "Pay at https://evil.example/login now"
	}
	r := New(f)
	for _, a := range []Audience{Operator, Customer} {
		body := letterOf(t, shippedTemplates(t), r, a).Body
		if strings.Contains(body, "https://evil") || !strings.Contains(body, "https[:]//evil") {
			t.Errorf("letter for %s:\n%s", a, body)
		}
	}
	if body := letterOf(t, shippedTemplates(t), r, Operator).Body; !strings.Contains(body, "\n  "+f.Page+"\n") {
		t.Errorf("our own link is broken:\n%s", body)
	}
}

func TestTemplatesOfTheOperatorReplaceTheShippedOnes(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"customer-first.txt":  "Subject: {{.Who}} \r\n\r\nHallo {{.Event.Account}}\r\n{{template \"top\" .}}",
		"operator-first.txt":  "Subject: x\n\n{{.Event.NoSuchField}}",
		"operator-digest.txt": "no subject",
		"reseller-digest.txt": "Subject: {{if}}",
		"customer-frist.txt":  "Subject: x",
		"README":              "not a template",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/dev/zero", filepath.Join(dir, "reseller-first.txt")); err != nil {
		t.Fatal(err)
	}
	templates, err := LoadTemplates(dir, time.UTC)
	for _, name := range []string{"operator-first", "operator-digest", "reseller-digest", "customer-frist", "reseller-first"} {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("the error does not name %s: %v", name, err)
		}
	}
	r := New(sampleFacts())
	text := letterOf(t, templates, r, Customer)
	if text.Subject != "forum" || !strings.HasPrefix(text.Body, "Hallo forum\n") || !strings.Contains(text.Body, " 75 %") {
		t.Errorf("got %q\n%s", text.Subject, text.Body)
	}
	if got, want := letterOf(t, templates, r, Operator), letterOf(t, shippedTemplates(t), r, Operator); got != want {
		t.Errorf("in the place of a broken template stands\n%s", got.Body)
	}
}

func TestATemplateThatFailsAtNightGivesTheShippedLetterAndAnError(t *testing.T) {
	dir := t.TempDir()
	own := `Subject: x` + "\n\n" + `{{if eq .Event.Trigger "directory-hour"}}{{index .Messages 4711}}{{end}}`
	if err := os.WriteFile(filepath.Join(dir, "operator-first.txt"), []byte(own), 0o600); err != nil {
		t.Fatal(err)
	}
	templates, err := LoadTemplates(dir, time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	r := New(sampleFacts())
	text, err := templates.Text(r, Operator)
	if err == nil || text != letterOf(t, shippedTemplates(t), r, Operator) {
		t.Errorf("got %v and\n%s", err, text.Body)
	}
}

func TestALetterIsBounded(t *testing.T) {
	dir := t.TempDir()
	own := "Subject: x\n\n" + strings.Repeat(`{{range .Messages}}{{range $.Messages}}{{range $.Messages}}{{.Subject}}{{end}}{{end}}{{end}}`, 50)
	if err := os.WriteFile(filepath.Join(dir, "operator-first.txt"), []byte(own), 0o600); err != nil {
		t.Fatal(err)
	}
	templates, err := LoadTemplates(dir, time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	text := letterOf(t, templates, New(sampleFacts()), Operator)
	if len(text.Body) > maxBody || !strings.HasSuffix(text.Body, "cut off.]\n") {
		t.Errorf("%d bytes, ending in %q", len(text.Body), text.Body[len(text.Body)-100:])
	}
}

func TestNoTextIsLongEnoughToPushTheCommandsOutOfALetter(t *testing.T) {
	f := hostileFacts(strings.Repeat("ä", 32<<10), 100)
	for i := range f.Event.Actions {
		f.Event.Actions[i].Inverse = ""
	}
	f.Event.Actions[0].Inverse = "osmctl release 2"
	body := letterOf(t, shippedTemplates(t), New(f), Operator).Body
	for _, want := range []string{"\n  osmctl event 17\n", "\n  osmctl release 2\n"} {
		if !strings.Contains(body, want) {
			t.Errorf("%q is not in a letter of %d bytes", want, len(body))
		}
	}
}

func TestAFolderThatIsNotThereIsAnEmptyOne(t *testing.T) {
	if _, err := LoadTemplates(filepath.Join(t.TempDir(), "none"), nil); err != nil {
		t.Error(err)
	}
}

func TestARoomThatIsThereAlreadyIsNotPromised(t *testing.T) {
	templates := shippedTemplates(t)
	for name, row := range map[string]struct {
		free time.Time
		want bool
	}{"in an hour": {sentAt.Add(time.Hour), true}, "a minute ago": {sentAt.Add(-time.Minute), false}, "not known": {time.Time{}, false}} {
		f := sampleFacts()
		f.Event.FreeAt = moment(row.free)
		body := letterOf(t, templates, New(f), Customer).Body
		if strings.Contains(body, "There is room") != row.want {
			t.Errorf("free %s: promised is %t, want %t\n%s", name, !row.want, row.want, body)
		}
	}
}

func TestPeriodsAreWrittenAsPeopleSayThem(t *testing.T) {
	for d, want := range map[time.Duration]string{
		time.Hour: "hour", 24 * time.Hour: "day", 48 * time.Hour: "2 days", 90 * time.Minute: "90 minutes", time.Second: "second", 1500 * time.Millisecond: "1.5s",
	} {
		if got := (letter{}).Period(store.Period(d)); got != want {
			t.Errorf("Period(%s) = %q, want %q", d, got, want)
		}
	}
}

func TestTimesAreWrittenInTheServersZone(t *testing.T) {
	templates, err := LoadTemplates("", time.FixedZone("CET", 3600))
	if err != nil {
		t.Fatal(err)
	}
	if body := letterOf(t, templates, New(sampleFacts()), Operator).Body; !strings.Contains(body, "2026-11-03 10:41:07 CET") {
		t.Errorf("no time in the server's zone:\n%s", body)
	}
}
