package report

import (
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	store "osm/sql"
)

const schemaPath = "../../docs/report-schema.md"

func schemaText(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(schemaPath)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// fieldsOf lists the fields of a type as the schema writes them. A type that comes again
// is described once.
func fieldsOf(typ reflect.Type, prefix string, seen map[reflect.Type]bool) []string {
	switch {
	case typ.Kind() == reflect.Slice:
		return fieldsOf(typ.Elem(), prefix+"[]", seen)
	case typ.Kind() != reflect.Struct || typ == reflect.TypeFor[store.Time]() || seen[typ]:
		return nil
	}
	seen[typ] = true
	if prefix != "" {
		prefix += "."
	}
	var out []string
	for i := range typ.NumField() {
		f := typ.Field(i)
		name := prefix + f.Tag.Get("json")
		out = append(append(out, name), fieldsOf(f.Type, name, seen)...)
	}
	return out
}

func TestEveryFieldIsInTheSchemaAndNoOther(t *testing.T) {
	want := fieldsOf(reflect.TypeFor[Report](), "", map[reflect.Type]bool{})
	if len(want) < 60 {
		t.Fatalf("only %d fields found: %v", len(want), want)
	}
	_, table, _ := strings.Cut(schemaText(t), "## What every field is")
	table, _, _ = strings.Cut(table, "\n## ")
	var got []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\| ..").FindAllStringSubmatch(table, -1) {
		got = append(got, m[1])
	}
	if !slices.Equal(got, want) {
		t.Errorf("docs/report-schema.md has\n%s\nthe types have\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestTheExamplesOfTheSchemaAreReal compares them with what is written for the sample.
func TestTheExamplesOfTheSchemaAreReal(t *testing.T) {
	document := schemaText(t)
	f := sampleFacts()
	f.Event.Messages = f.Event.Messages[:1] // one tells the shape
	f.Event.Requests, f.Also = f.Event.Requests[:1], nil
	r := New(f)
	for _, f := range formats() {
		mark := fmt.Sprintf("<!-- report.%s -->\n", f)
		example := fmt.Sprintf("\n```%s\n%s```\n", f, encoded(t, r, f))
		before, after, ok := strings.Cut(document, mark)
		if !ok {
			t.Errorf("there is no line %s", mark)
			continue
		}
		if strings.HasPrefix(after, example) {
			continue
		}
		if !*update {
			t.Errorf("the example of %s is another than what is written (go test -update rewrites it)", f)
			continue
		}
		if old := regexp.MustCompile("(?s)^\n```" + string(f) + "\n.*?\n```\n").FindString(after); old != "" {
			after = after[len(old):]
		}
		document = before + mark + example + after
	}
	if *update {
		if err := os.WriteFile(schemaPath, []byte(document), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTheSchemasBoundsAreTheCodes(t *testing.T) {
	document := strings.Join(strings.Fields(schemaText(t)), " ")
	for _, want := range []string{
		"`" + Schema + "`", fmt.Sprintf("cut to %d bytes", maxText), fmt.Sprintf("at most %d MiB", MaxEncoded>>20), "`" + SignatureHeader + "`",
		fmt.Sprintf("at most %d bytes of visible", maxForPeople), fmt.Sprintf("A letter is at most %d KiB, its Subject %d bytes", maxBody>>10, maxSubjectLine),
		fmt.Sprintf("other events of the same sender, at most %d,", maxAlso), fmt.Sprintf("what followed, at most %d", maxActions),
	} {
		if !strings.Contains(document, want) {
			t.Errorf("docs/report-schema.md does not say %q", want)
		}
	}
	for _, name := range templateNames() {
		if !strings.Contains(document, "`"+name+".txt`") {
			t.Errorf("docs/report-schema.md does not name %s.txt", name)
		}
	}
}

// TestTheSchemasSampleVerifiesSignatures runs the Python of the document.
func TestTheSchemasSampleVerifiesSignatures(t *testing.T) {
	python := tool(t, "/usr/bin/python3", "python3")
	code := regexp.MustCompile("(?s)```python\n(.*?)```").FindStringSubmatch(schemaText(t))
	if code == nil {
		t.Fatal("there is no Python in docs/report-schema.md")
	}
	at, body := time.Unix(1793698920, 0), []byte(`{"schema":"osm-report/1"}`)
	good := Sign([]byte("secret"), at, body)
	for name, row := range map[string]struct {
		header, body, secret string
		later                time.Duration
		want                 string
	}{
		"what was signed":       {good, string(body), "secret", 299 * time.Second, "True"},
		"another body":          {good, "{}", "secret", 0, "False"},
		"another secret":        {good, string(body), "guess", 0, "False"},
		"another time":          {strings.Replace(good, "t=1", "t=2", 1), string(body), "secret", 1e9 * time.Second, "False"},
		"an old one sent again": {good, string(body), "secret", 301 * time.Second, "False"},
		"no header":             {"", string(body), "secret", 0, "False"},
		"rubbish":               {"t=,v1=\u00e9,t", string(body), "secret", 0, "False"},
	} {
		call := fmt.Sprintf("%s\nimport sys\nprint(genuine(sys.argv[1].encode(), sys.argv[2], sys.argv[3].encode(), float(sys.argv[4])))", code[1])
		got := run(t, python, "-c", call, row.secret, row.header, row.body, fmt.Sprint(at.Add(row.later).Unix()))
		if strings.TrimSpace(string(got)) != row.want {
			t.Errorf("%s: %s, want %s", name, got, row.want)
		}
	}
}
