package report

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	store "osm/sql"
)

var update = flag.Bool("update", false, "rewrite the golden files and the examples of docs/report-schema.md")

func formats() []Format { return []Format{JSON, YAML, XML, Perl} }

// golden compares with a file below testdata.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("%s differs (go test -update rewrites it); got:\n%s", path, got)
	}
}

func TestEachFormatIsAsItsGoldenFile(t *testing.T) {
	r := New(sampleFacts())
	for _, f := range formats() {
		golden(t, "report."+string(f), encoded(t, r, f))
	}
}

// checkFormats reads a report back from each format with parsers that know nothing of
// ours, and compares with the report.
func checkFormats(t *testing.T, r *Report) {
	t.Helper()
	document := encoded(t, r, JSON)
	var back Report
	if err := json.Unmarshal(document, &back); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(&back, r) {
		t.Errorf("JSON gives back another report:\n%+v\nwant\n%+v", &back, r)
	}
	want := plain(t, document)
	for f, read := range map[Format]func([]byte) (any, error){
		YAML: readYAML, Perl: readPerl, XML: func(b []byte) (any, error) { return readXML(b, want) },
	} {
		written := encoded(t, r, f)
		got, err := read(written)
		if err != nil {
			t.Errorf("%s: %v\n%.500q", f, err, written)
			continue
		}
		like := want
		if f == Perl {
			like = asPerl(want)
		}
		if !reflect.DeepEqual(got, like) {
			t.Errorf("%s gives back another document:\n%v\nwant\n%v", f, got, like)
		}
	}
}

func TestHostileTextsSurviveEachFormat(t *testing.T) {
	for name, s := range hostileTexts() {
		t.Run(name, func(t *testing.T) {
			f := hostileFacts(s, 20)
			checkFormats(t, New(f))
			f.Event.Messages = nil
			checkFormats(t, New(f))
		})
	}
}

func FuzzFormats(f *testing.F) {
	for _, s := range hostileTexts() {
		if len(s) < 4096 {
			f.Add(s)
		}
	}
	f.Fuzz(func(t *testing.T, s string) {
		facts := hostileFacts(s, 1)
		r := New(facts)
		eachText(r, func(got string, most int) string {
			if len(got) > most || !utf8.ValidString(got) {
				t.Errorf("a text of %d bytes where %d are allowed: %.80q", len(got), most, got)
			}
			return got
		})
		checkFormats(t, r)
		facts.Event.Messages = nil
		checkFormats(t, New(facts))
	})
}

func TestAReportKeepsTextsAsTheyAreAndCutsLongOnes(t *testing.T) {
	for name, row := range map[string]struct {
		in   string
		max  int
		want string
	}{
		"short":                          {"a\x00\n'ä", 10, "a\x00\n'ä"},
		"exactly as long as allowed":     {"äääää", 10, "äääää"},
		"one byte too long":              {"ääääää", 10, "äää…"},
		"an invalid byte":                {"a\xffb", 10, "a\ufffdb"},
		"invalid bytes that become long": {strings.Repeat("\xff", 10), 10, "\ufffd\ufffd…"},
	} {
		if got := cut(row.in, row.max); got != row.want {
			t.Errorf("%s: cut(%q, %d) = %q, want %q", name, row.in, row.max, got, row.want)
		}
	}
}

func TestAReportIsBounded(t *testing.T) {
	r := New(hostileFacts(strings.Repeat("x", 64<<10), 100))
	for what, n := range map[string][2]int{
		"messages": {len(r.Messages), maxMessages}, "evidence": {len(r.Evidence), maxEvidence}, "actions": {len(r.Actions), maxActions},
		"other events": {len(r.Also), maxAlso}, "undo": {len(r.Commands.Undo), 1}, // all the same
	} {
		if n[0] != n[1] {
			t.Errorf("%d %s, want %d", n[0], what, n[1])
		}
	}
	if r.Sampled != 100 || len(r.Connections) != 0 {
		t.Errorf("sampled is %d, want 100; %d connections beside messages", r.Sampled, len(r.Connections))
	}
	f := hostileFacts(strings.Repeat("x", 64<<10), 100)
	f.Event.Messages = nil
	if r := New(f); r.Sampled != 100 || len(r.Connections) != maxMessages || len(r.Connections[0].Arguments) != maxArguments {
		t.Errorf("sampled is %d, want 100; %d connections, want %d", r.Sampled, len(r.Connections), maxMessages)
	}
}

func TestSamplesAreTheFirstAndTheLastMessages(t *testing.T) {
	r := New(sampleFacts())
	var refs []string
	for _, m := range r.Messages {
		refs = append(refs, m.Ref[5:])
	}
	if want := []string{"000", "001", "002", "003", "004", "007", "008", "009", "010", "011"}; !slices.Equal(refs, want) {
		t.Errorf("samples are %v, want %v", refs, want)
	}
}

func TestTopAddsUpWhatTheMessagesHaveInCommon(t *testing.T) {
	top := New(sampleFacts()).Top
	want := Top{
		Mailboxes:   Shares{Most: []Share{}},
		Directories: Shares{1, []Share{{"/home/forum/public_html/contact", 12, 100}}},
		Subjects:    Shares{2, []Share{{"Ihre Rechnung Nr. 8800 – jetzt zahlen", 9, 75}, {"Contact form: a question", 3, 25}}},
		ClientIPs:   Shares{Most: []Share{}},
		Scripts:     Shares{1, []Share{{"/home/forum/public_html/contact/send.php", 9, 75}}},

		Destinations: Shares{Most: []Share{}}, Executables: Shares{Most: []Share{}},
	}
	if !reflect.DeepEqual(top, want) {
		t.Errorf("got  %+v\nwant %+v", top, want)
	}
}

func TestTopShowsTheLargestFiveAndCountsTheRest(t *testing.T) {
	var m []store.Decision
	for i := range 9 {
		for range i + 1 {
			m = append(m, store.Decision{ClientIP: "192.0.2." + string(rune('1'+i))})
		}
	}
	got := topOf(m, nil).ClientIPs
	if got.Distinct != 9 || len(got.Most) != 5 || got.Most[0] != (Share{"192.0.2.9", 9, 20}) || got.Most[4] != (Share{"192.0.2.5", 5, 11}) {
		t.Errorf("got %+v", got)
	}
}

func TestAReaderSeesOnlyHisOwnAccounts(t *testing.T) {
	f := sampleFacts()
	f.Event.Messages[0].Account, f.Event.Messages[0].Subject = "neighbour", "secret"
	f.Also = append(f.Also, store.Event{ID: 19, Account: "neighbour"})
	f.Event.Watch, f.Event.Actions[0].Account = "client-ip", "neighbour"
	f.Event.Actions[0].Target = "secret"
	f.Event.Requests[0].Script = "/home/neighbour/secret"
	f.Accounts = []string{"forum"}
	before := slices.Clone(f.Event.Messages)
	r := New(f)
	document := string(encoded(t, r, JSON))
	if strings.Contains(document, "neighbour") || strings.Contains(document, "secret") {
		t.Errorf("the report tells of a neighbour:\n%s", document)
	}
	if r.Sampled != 11 || len(r.Also) != 1 || len(r.Evidence) != 2 || len(r.Actions) != 1 {
		t.Errorf("sampled %d, %d other events, %d pieces of evidence, %d actions; want 11, 1, 2, 1", r.Sampled, len(r.Also), len(r.Evidence), len(r.Actions))
	}
	if !reflect.DeepEqual(before, f.Event.Messages) {
		t.Error("the event that was given has changed")
	}
}

func TestACustomerSeesTheEvidenceOfHisEvent(t *testing.T) {
	f := sampleFacts()
	f.Event.Messages = nil // it was found before anything was stopped
	f.Accounts = []string{"forum"}
	if got := New(f).Evidence; len(got) != 3 || got[0].ClientIP != "203.0.113.77" {
		t.Errorf("got %+v", got)
	}
}

func TestADigestCountsSinceTheReportBefore(t *testing.T) {
	r := New(digestFacts())
	if r.StoppedSince != 4699 || !r.Since.Equal(sentAt) {
		t.Errorf("stopped_since %d since %v, want 4699 since %v", r.StoppedSince, r.Since, sentAt)
	}
	first := New(sampleFacts())
	if first.StoppedSince != 12 || !first.Since.IsZero() {
		t.Errorf("a first report has stopped_since %d since %v, want all 12 and no moment", first.StoppedSince, first.Since)
	}
}

func TestWhatWasDoneLastIsUndoneFirst(t *testing.T) {
	f := sampleFacts()
	f.Event.Actions = append(f.Event.Actions, store.Action{Inverse: "osmctl undo 5"}, store.Action{Inverse: "osmctl release 2"},
		store.Action{Inverse: "osmctl undo 6", UndoneAt: moment(sentAt), UndoneBy: "root"})
	if got, want := New(f).Commands.Undo, []string{"osmctl release 2", "osmctl undo 5"}; !slices.Equal(got, want) {
		t.Errorf("undo is %v, want %v", got, want)
	}
}
