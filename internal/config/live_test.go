package config

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"osm/policy"
)

func stored(pairs ...string) []Stored {
	var out []Stored
	for i := 0; i+1 < len(pairs); i += 2 {
		out = append(out, Stored{Key: pairs[i], Value: pairs[i+1], Provenance: policy.Provenance{By: "root", At: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC), Reason: "test"}})
	}
	return out
}

func TestEveryLiveSettingIsAKeyOfItsKind(t *testing.T) {
	other := map[string]string{"bool": "false", "duration": "5d", "size": "1GB", "number": "77", "rate": "2/s"}
	for _, l := range LiveSettings() {
		c := Default()
		was, ok := c.Value(l.Key)
		if !ok || l.Text == "" || !strings.HasSuffix(l.Text, ".") {
			t.Errorf("%s: value %q, %v, text %q", l.Key, was, ok, l.Text)
		}
		value := other[l.Kind]
		if l.Kind == "choice" {
			value = l.Choices[len(l.Choices)-1]
		}
		next, wrong := c.With(stored(l.Key, value, "store.keep_events", "3000d"))
		if got, _ := next.Value(l.Key); wrong != nil || l.Key != "store.keep_events" && got != value {
			t.Errorf("%s = %s: got %q, %v", l.Key, value, got, wrong)
		}
		if got := next.Origin(l.Key); got != "database, by root, 2026-11-23 12:00 UTC: test" {
			t.Errorf("%s stands in %q", l.Key, got)
		}
		if got, _ := c.Value(l.Key); got != was {
			t.Errorf("%s of the configuration before is %q, was %q", l.Key, got, was)
		}
		if again, _ := next.With(nil); again.Origin(l.Key) != "default" {
			t.Errorf("%s without the database stands in %q", l.Key, again.Origin(l.Key))
		}
		_, wrong = c.With(stored(l.Key, "\x00 nonsense"))
		if len(wrong) != 1 || wrong[0].Key != l.Key {
			t.Errorf("%s = nonsense: %v", l.Key, wrong)
		}
	}
}

func TestSettingsThatCannotBeAreLeftOutAndNamed(t *testing.T) {
	for _, c := range []struct {
		name   string
		stored []Stored
		says   string
		keeps  string // of store.keep_decisions
	}{
		{"one that is no setting", stored("chekcing", "true", "store.keep_decisions", "20d"), `did you mean "checking"`, "20d"},
		{"one of the file alone", stored("exim.deadline", "100ms"), "takes a restart", "14d"},
		{"out of range", stored("store.keep_decisions", "5m"), "must be a duration from 1h to 400d", "14d"},
		{"two that do not go together", stored("store.keep_decisions", "30d", "store.keep_events", "20d"), "must be at least store.keep_decisions", "14d"},
		{"two that go together only both", stored("store.keep_decisions", "399d", "store.keep_events", "3000d"), "", "399d"},
	} {
		d := Default()
		next, wrong := d.With(c.stored)
		if got := wrong.Error(); (c.says == "") != (len(wrong) == 0) || !strings.Contains(got, c.says) {
			t.Errorf("%s: %q, want %q", c.name, got, c.says)
		}
		if got, _ := next.Value("store.keep_decisions"); got != c.keeps {
			t.Errorf("%s: decisions are kept %s, want %s", c.name, got, c.keeps)
		}
	}
}

func TestAnExportHasTheDatabasesSettingsAndSaysSo(t *testing.T) {
	d := Default()
	c, wrong := d.With(stored("checking", "off", "held.max_bytes", "2GB"))
	if wrong != nil {
		t.Fatal(wrong)
	}
	var b bytes.Buffer
	if err := c.Export(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"# database, by root, 2026-11-23 12:00 UTC: test\nchecking = false\n", "# database, by root, 2026-11-23 12:00 UTC: test\nmax_bytes = \"2GB\"\n"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the export lacks %q:\n%s", want, b.String())
		}
	}
	back, err := Parse(b.Bytes(), "", time.UTC)
	if err != nil || back.Checking || back.Held.MaxBytes != 2e9 {
		t.Errorf("read back: %+v, %v", back, err)
	}
	shown := map[string]string{}
	for _, s := range c.Settings() {
		shown[s.Key] = s.Value + " " + s.Origin
	}
	if got := shown["checking"]; got != "false database, by root, 2026-11-23 12:00 UTC: test" {
		t.Errorf("config show has %q", got)
	}
}
