package report

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// tool finds a program that tests/deps.sh installs.
func tool(t *testing.T, names ...string) string {
	t.Helper()
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Fatalf("%v is missing: make deps installs it", names)
	return ""
}

// run runs a program and gives back what it wrote; warnings are faults.
func run(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var out, errs strings.Builder
	c := exec.CommandContext(ctx, name, args...)
	c.Stdout, c.Stderr = &out, &errs
	c.Env = append(os.Environ(), "PYTHONIOENCODING=utf-8", "PERL_UNICODE=SDA") // what an operator could have set
	if err := c.Run(); err != nil || errs.Len() > 0 {
		t.Fatalf("%s %.100v: %v\n%.2000s", name, args, err, errs.String())
	}
	return []byte(out.String())
}

// eachHostile runs a test for the report of each hostile text, written in a format.
func eachHostile(t *testing.T, f Format, check func(t *testing.T, path string, want any)) {
	for name, s := range hostileTexts() {
		t.Run(name, func(t *testing.T) {
			r := New(hostileFacts(s, 2))
			path := filepath.Join(t.TempDir(), "report")
			if err := os.WriteFile(path, encoded(t, r, f), 0o600); err != nil {
				t.Fatal(err)
			}
			check(t, path, plain(t, encoded(t, r, JSON)))
		})
	}
}

// python reads the reports of all hostile texts with one start of testdata/read.py, and
// compares.
func python(t *testing.T, f Format, like func(any) any) {
	t.Helper()
	args, names, want := []string{"testdata/read.py", string(f)}, []string{}, []any{}
	for name, s := range hostileTexts() {
		r := New(hostileFacts(s, 2))
		path := filepath.Join(t.TempDir(), "report")
		if err := os.WriteFile(path, encoded(t, r, f), 0o600); err != nil {
			t.Fatal(err)
		}
		args, names, want = append(args, path), append(names, name), append(want, like(plain(t, encoded(t, r, JSON))))
	}
	lines := bytes.Split(bytes.TrimSpace(run(t, tool(t, "/usr/bin/python3"), args...)), []byte("\n"))
	if len(lines) != len(want) {
		t.Fatalf("%d reports were read, want %d", len(lines), len(want))
	}
	for i := range want {
		if got := plain(t, lines[i]); !reflect.DeepEqual(got, want[i]) {
			t.Errorf("%s: Python reads\n%.2000v\nwant\n%.2000v", names[i], got, want[i])
		}
	}
}

func TestPyYAMLReadsTheSame(t *testing.T) { python(t, YAML, func(v any) any { return v }) }

func TestExpatReadsTheSame(t *testing.T) { python(t, XML, textsOnly) }

// textsOnly is a value as XML without its schema tells it.
func textsOnly(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k := range v {
			out[k] = textsOnly(v[k])
		}
		return out
	case []any:
		if len(v) == 0 {
			return ""
		}
		out := []any{}
		for _, one := range v {
			out = append(out, textsOnly(one))
		}
		return out
	case nil:
		return nil
	}
	return fmt.Sprint(v)
}

func TestXmllintReadsTheSame(t *testing.T) {
	xmllint := tool(t, "xmllint")
	eachHostile(t, XML, func(t *testing.T, path string, want any) {
		run(t, xmllint, "--noout", "--nonet", path)
		const subject = "/report/messages/item[2]/subject"
		got := strings.TrimSuffix(string(run(t, xmllint, "--nonet", "--xpath", "string("+subject+")", path)), "\n")
		if string(run(t, xmllint, "--nonet", "--xpath", "string("+subject+"/@escape)", path)) == "json\n" {
			if err := json.Unmarshal([]byte(`"`+got+`"`), &got); err != nil {
				t.Fatal(err)
			}
		}
		if want := want.(map[string]any)["messages"].([]any)[1].(map[string]any)["subject"]; got != want {
			t.Errorf("xmllint reads the Subject %.300q, want %.300q", got, want)
		}
	})
}

// readingPerl reads a report as an operator's script would that is careful: under taint
// mode, with every warning on. It writes what it got as JSON.
const readingPerl = `use strict; use warnings FATAL => 'all'; use utf8; use JSON::PP ();
my $report = do 'PATH'; die $@ || $! unless ref $report eq 'HASH';
sub characters { my ($v) = @_;
  return { map { $_ => characters($v->{$_}) } keys %$v } if ref $v eq 'HASH';
  return [ map { characters($_) } @$v ] if ref $v eq 'ARRAY';
  return $v if !defined $v;
  return $v + 0 if $v =~ /\A-?[0-9]+\z/;
  utf8::decode($v) or die "no UTF-8: $v"; return $v }
binmode STDOUT, ':raw'; print JSON::PP->new->utf8->encode(characters($report));`

func TestPerlReadsTheSameUnderTaintMode(t *testing.T) {
	perl := tool(t, "/usr/bin/perl")
	eachHostile(t, Perl, func(t *testing.T, path string, want any) {
		got := plain(t, run(t, perl, "-w", "-T", "-e", strings.Replace(readingPerl, "PATH", path, 1)))
		if want := asPerl(want); !reflect.DeepEqual(got, want) {
			t.Errorf("perl reads\n%.2000v\nwant\n%.2000v", got, want)
		}
	})
}
