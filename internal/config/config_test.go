package config

import (
	"bytes"
	"errors"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"osm/policy"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", path, got, want)
	}
}

// berlin is a zone with daylight saving, so that a test notices a wrong one.
func berlin(t *testing.T) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

func TestEveryMistakeIsNamedAtOnce(t *testing.T) {
	data, err := os.ReadFile("testdata/wrong.toml")
	if err != nil {
		t.Fatal(err)
	}
	_, err = Parse(data, "/etc/osm/osm.toml", time.UTC)
	var all Mistakes
	if !errors.As(err, &all) {
		t.Fatalf("Parse(wrong.toml) = %v, want Mistakes", err)
	}
	golden(t, "wrong.golden", all.Error()+"\n")
}

// uncommented takes the "#" off the shipped file's values: prose has a blank behind it.
func uncommented(s string) string {
	return regexp.MustCompile(`(?m)^#([^ #\n])`).ReplaceAllString(s, "$1")
}

func TestTheShippedFileShowsTheDefaults(t *testing.T) {
	got, err := Parse([]byte(uncommented(Shipped())), "osm.toml", time.UTC)
	if err != nil {
		t.Fatalf("the shipped file with its values taken in:\n%v", err)
	}
	want := Default()
	plain(&got)
	plain(&want)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the shipped file says\n%+v\nDefault() says\n%+v", got, want)
	}
	if asIs, err := Parse([]byte(Shipped()), "osm.toml", time.UTC); err != nil {
		t.Errorf("the shipped file as it is: %v", err)
	} else if plain(&asIs); !reflect.DeepEqual(asIs, want) {
		t.Errorf("the shipped file as it is changes something: %+v", asIs)
	}
}

func TestTheShippedFileNamesEveryKey(t *testing.T) {
	text := uncommented(Shipped())
	for _, k := range settings() {
		name := k.name[strings.LastIndexByte(k.name, '.')+1:]
		if !regexp.MustCompile(`(?m)^` + name + ` = `).MatchString(text) {
			t.Errorf("osm.toml does not show %s", k.name)
		}
	}
	prose := regexp.MustCompile(`(?m)^# ([a-z_, ]+):`).FindAllStringSubmatch(Shipped(), -1)
	told := map[string]bool{}
	for _, m := range prose {
		for _, name := range strings.Split(m[1], ", ") {
			told[name] = true
		}
	}
	for _, name := range keyNames() {
		if !told[name] {
			t.Errorf("osm.toml does not explain %q of a trigger, [[for]] or [[exempt]]", name)
		}
	}
}

func keyNames() []string {
	var out []string
	for _, k := range triggerKeys() {
		out = append(out, k.name)
	}
	for _, k := range forKeys() {
		out = append(out, k.name)
	}
	for _, k := range exemptKeys() {
		out = append(out, k.name)
	}
	return out
}

// plain takes away what tells where a configuration was read from.
func plain(c *Config) {
	c.Path, c.lines = "", nil
	for i := range c.Triggers {
		c.Triggers[i].Provenance.Where = ""
	}
}

func TestTheDefaultsAreValid(t *testing.T) {
	c := Default()
	if err := c.Validate(); err != nil {
		t.Errorf("Default().Validate() = %v", err)
	}
	if e, err := ParseExecutor(nil, "executor.toml"); err != nil || !reflect.DeepEqual(e, DefaultExecutor()) {
		t.Errorf("ParseExecutor(nothing) = %+v, %v", e, err)
	}
}

const sample = `
[accounts.domains]
"shop.example" = "shop"

[held]
release_rate = "2/s"
max_bytes = "1GiB"

[[trigger]]
name = "account-hour"
max = 500
mode = "enforce"
actions = ["report", { hold = "90m" }]

[[trigger]]
name = "minute"
watch = "account"
max = 60
per = "1m"
count = "messages"

[[for]]
account = "shop"
trigger = "minute"
max = 5000
until = 2027-01-31
reason = "newsletter, \"ticket\" 4711"

[[for]]
mailbox = "Info@Shop.example"
mode = "off"
until = 2027-03-28T12:00:00

[[exempt]]
account = "shop"
subject = "Invoice 8841"
ceiling = 700

[[exempt]]
recipient_domain = "Example.com"

[accounts.contacts]
shop = "Owner@shop.example"
"old.shop" = "old@shop.example"
`

func TestAFileIsReadOverTheDefaults(t *testing.T) {
	c, err := Parse([]byte(sample), "osm.toml", berlin(t))
	if err != nil {
		t.Fatal(err)
	}
	by := map[string]policy.Trigger{}
	for _, tr := range c.Triggers {
		by[tr.Name] = tr
	}
	if len(c.Triggers) != len(Default().Triggers)+1 {
		t.Errorf("%d triggers, want the defaults and one", len(c.Triggers))
	}
	hour := by["account-hour"]
	if hour.Max != 500 || hour.Per != time.Hour || hour.Mode != policy.Enforce || hour.Provenance.Where != "file" {
		t.Errorf("account-hour changed key by key = %+v", hour)
	}
	if want := []policy.Action{{Name: "report"}, {Name: "hold", For: 90 * time.Minute}}; !reflect.DeepEqual(hour.Actions, want) {
		t.Errorf("actions = %+v, want %+v", hour.Actions, want)
	}
	if by["account-day"].Provenance.Where != "default" {
		t.Errorf("account-day's provenance = %+v, want default", by["account-day"].Provenance)
	}
	if m := by["minute"]; m.Verdict != policy.Freeze || m.Mode != policy.Observe || m.Count != policy.Messages {
		t.Errorf("minute = %+v", m)
	}
	if got, want := c.Overrides[0].Until, time.Date(2027, 1, 31, 22, 59, 59, 999e6, time.UTC); !got.Equal(want) {
		t.Errorf("until = 2027-01-31 in Berlin = %v, want %v", got, want)
	}
	if got, want := c.Overrides[1].Until, time.Date(2027, 3, 28, 10, 0, 0, 0, time.UTC); !got.Equal(want) {
		t.Errorf("until = 2027-03-28T12:00:00 in Berlin (summer time) = %v, want %v", got, want)
	}
	if c.Overrides[1].Name != "info@shop.example" || c.Exemptions[1].Value != "example.com" {
		t.Errorf("addresses are not folded: %q, %q", c.Overrides[1].Name, c.Exemptions[1].Value)
	}
	if key, _ := policy.FoldSubject("Invoice 9120"); c.Exemptions[0].Value != key || c.Exemptions[0].Account != "shop" {
		t.Errorf("the subject's exemption = %+v, want value %q", c.Exemptions[0], key)
	}
	if c.Held.ReleaseRate.Every() != 500*time.Millisecond || c.Held.MaxBytes != 1<<30 || c.Accounts.Domains["shop.example"] != "shop" {
		t.Errorf("held = %+v, domains %v", c.Held, c.Accounts.Domains)
	}
	if want := map[string]string{"shop": "Owner@shop.example", "old.shop": "old@shop.example"}; !maps.Equal(c.Accounts.Contacts, want) {
		t.Errorf("contacts = %v, want %v", c.Accounts.Contacts, want)
	}
	if got := c.Origin("trigger account-hour: max"); got != "file, line 11" {
		t.Errorf("Origin(account-hour: max) = %q", got)
	}
	if got := c.Origin("trigger account-hour: per"); got != "default" {
		t.Errorf("Origin(account-hour: per) = %q", got)
	}
}

func TestAnExportIsReadBackToTheSame(t *testing.T) {
	c, err := Parse([]byte(sample), "osm.toml", berlin(t))
	if err != nil {
		t.Fatal(err)
	}
	if again := roundTrip(t, c); !maps.Equal(again.Accounts.Contacts, c.Accounts.Contacts) || len(again.Accounts.Contacts) != 2 {
		t.Errorf("contacts read back: got %v, want %v", again.Accounts.Contacts, c.Accounts.Contacts)
	}
	hour := int64(900)
	enforce := policy.Enforce
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	by := policy.Provenance{Where: "database", By: "root", At: now, Reason: "evil\n[[trigger]]"}
	e := c.Effective([]policy.Override{
		{Level: policy.LevelServer, Trigger: "account-hour", Max: &hour, Provenance: by},
		{Level: policy.LevelPackage, Name: "gold", Mode: &enforce, Until: now.Add(time.Hour), Provenance: by},
		{Level: policy.LevelPackage, Name: "old", Mode: &enforce, Until: now.Add(-time.Hour), Provenance: by},
	}, []policy.Exemption{{Scope: policy.ScopeIP, Value: "192.0.2.0/24", Provenance: by}}, now)
	if len(e.Overrides) != 3 || len(e.Exemptions) != 3 {
		t.Errorf("effective: %d overrides, %d exemptions, want 3 and 3 (one has ended)", len(e.Overrides), len(e.Exemptions))
	}
	roundTrip(t, e)
}

func roundTrip(t *testing.T, c Config) Config {
	t.Helper()
	var b bytes.Buffer
	if err := c.Export(&b); err != nil {
		t.Fatal(err)
	}
	again, err := Parse(b.Bytes(), "export.toml", time.UTC)
	if err != nil {
		t.Fatalf("the export is refused: %v\n%s", err, b.String())
	}
	var second bytes.Buffer
	if err := again.Export(&second); err != nil {
		t.Fatal(err)
	}
	comment := regexp.MustCompile(`(?m)^# (database|Every|included).*\n`)
	if got, want := comment.ReplaceAllString(second.String(), ""), comment.ReplaceAllString(b.String(), ""); got != want {
		t.Errorf("read back and written again:\n%s\nwant\n%s", got, want)
	}
	return again
}

func TestSettingsTellWhereEachValueStands(t *testing.T) {
	c, err := Parse([]byte(sample), "osm.toml", time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	max := int64(7)
	at := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	c = c.Effective([]policy.Override{{Level: policy.LevelServer, Trigger: "minute", Max: &max, Provenance: policy.Provenance{By: "root", At: at, Reason: "attack"}}}, nil, at)
	got := map[string]Setting{}
	for _, s := range c.Settings() {
		got[s.Key] = s
	}
	for key, want := range map[string][2]string{
		"checking":                      {"true", "default"},
		"held.release_rate":             {`"2/s"`, "file, line 6"},
		"accounts.domains.shop.example": {`"shop"`, "file, line 3"},
		"accounts.contacts.old.shop":    {`"old@shop.example"`, "file, line 44"},
		"trigger minute: max":           {"7", "database, by root, 2026-11-23 12:00 UTC: attack"},
		"for account shop: max":         {"5000", "file"},
		"exempt subject " + c.Exemptions[0].Value + ": ceiling": {"700", "file"},
	} {
		if s := got[key]; s.Value != want[0] || s.Origin != want[1] {
			t.Errorf("%s = %q from %q, want %q from %q", key, s.Value, s.Origin, want[0], want[1])
		}
	}
}

func TestLoadReadsTheFileAndNamesIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "osm.toml")
	if _, err := Load(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Load(missing) = %v", err)
	}
	if err := os.WriteFile(path, []byte("[log]\nlevel = \"debug\"\nfrmat = \"json\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Load(path)
	if want := `osm.toml:3: log.frmat: unknown key; did you mean "format"?`; err == nil || err.Error() != want {
		t.Errorf("Load = %v, want %s", err, want)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(sample))
	f.Add([]byte(Shipped()))
	f.Add([]byte(uncommented(Shipped())))
	wrong, err := os.ReadFile("testdata/wrong.toml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(wrong)
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse(data, "osm.toml", time.UTC)
		if err != nil {
			var all Mistakes
			if !errors.As(err, &all) || len(all) == 0 {
				t.Fatalf("error %v is no list of mistakes", err)
			}
			if strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' && r != '\n' }) {
				t.Fatalf("a control byte in the message %q", err)
			}
			return
		}
		if err := c.Validate(); err != nil {
			t.Fatalf("what was accepted is not valid: %v", err)
		}
		roundTrip(t, c)
	})
}
