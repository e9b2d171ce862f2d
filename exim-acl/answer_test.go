package eximacl

import (
	"bytes"
	"strings"
	"testing"

	"osm/policy"
)

func TestAppendAnswer(t *testing.T) {
	tests := []struct {
		name string
		in   Answer
		want string
	}{
		{"an accept has no texts", Answer{Action: policy.Accept, Ref: "4k7qm2xd"}, "action=accept ref=4k7qm2xd osm=1\n"},
		{"an accept without a reference", Answer{}, "action=accept osm=1\n"},
		{"quotes and backslashes are escaped", Answer{Action: policy.Deny, Ref: "r", Log: `a"b\c`, Text: `\`},
			`action=deny ref=r log="a\"b\\c" text="\\" osm=1` + "\n"},
		{"control and foreign bytes leave as question marks", Answer{Action: policy.Freeze, Log: "a\nb\x00c\xc3\xa4\x7f"},
			`action=freeze log="a?b?c???" osm=1` + "\n"},
		{"a message that leaves by itself", Answer{Action: policy.Freeze, Ref: "4k7qm2xd", Log: "x", WhenFree: true},
			`action=freeze ref=4k7qm2xd release=when-free log="x" osm=1` + "\n"},
		{"a reference cannot add a word", Answer{Action: policy.Discard, Ref: "a action=accept"}, "action=discard ref=a?action?accept osm=1\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := string(AppendAnswer(nil, tt.in)); got != tt.want {
				t.Errorf("AppendAnswer(%+v) = %q, want %q", tt.in, got, tt.want)
			}
		})
	}
}

func TestAppendAnswerNeverPassesOneKilobyte(t *testing.T) {
	long := strings.Repeat(`\"`, 4096)
	got := AppendAnswer(nil, Answer{Action: policy.Discard, Ref: long, Log: long, Text: long, WhenFree: true})
	if len(got) > MaxAnswer {
		t.Errorf("AppendAnswer of long values is %d bytes, want at most %d", len(got), MaxAnswer)
	}
	if a, err := ParseAnswer(got); err != nil || a.Action != policy.Discard {
		t.Errorf("ParseAnswer of a cut answer = %+v, %v, want discard", a, err)
	}
}

func TestParseAnswerRefusesWhatIsNotWholeAndKnown(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"nothing", "", "does not end with"},
		{"a cut answer", `action=freeze ref=r log="x" osm=`, "does not end with"},
		{"the marker in front", "osm=1 action=freeze", "does not end with"},
		{"a marker that is part of a word", "action=freeze xosm=1", "does not end with"},
		{"an unknown action", "action=explode osm=1", "not known"},
		{"no action", "ref=r osm=1", "no action"},
		{"an open quote", `action=freeze log="x osm=1`, "not closed"},
		{"two lines", "action=freeze\nosm=1", "not printable"},
		{"too much", "action=freeze log=" + strings.Repeat("x", MaxAnswer) + " osm=1", "larger"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, err := ParseAnswer([]byte(tt.in))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("ParseAnswer(%.60q) = %+v, %v, want an error with %q", tt.in, a, err, tt.want)
			}
		})
	}
}

// FuzzAppendAnswer: whatever is to be said, the answer is one bounded line of printable
// ASCII, ends with the marker, and says the same when it is read and written again.
func FuzzAppendAnswer(f *testing.F) {
	f.Add(uint8(1), "4k7qm2xd", "account-hour shop 301/300", `Limit "reached" \o/`)
	f.Add(uint8(200), "\" osm=1", "\x00\n", strings.Repeat("\\", 3000))
	f.Fuzz(func(t *testing.T, action uint8, ref, log, text string) {
		in := Answer{Action: policy.Verdict(action % 5), Ref: ref, Log: log, Text: text, WhenFree: action >= 128}
		line := AppendAnswer([]byte("x"), in)[1:]
		if len(line) > MaxAnswer || !bytes.HasSuffix(line, []byte(" osm=1\n")) {
			t.Fatalf("AppendAnswer(%+v) = %q: %d bytes or no marker", in, line, len(line))
		}
		for i, c := range line {
			if (c < ' ' || c > '~') && i != len(line)-1 {
				t.Fatalf("AppendAnswer(%+v) = %q: byte %d is not printable", in, line, i)
			}
		}
		out, err := ParseAnswer(line)
		if err != nil || out.Action != in.Action || out.WhenFree != in.WhenFree {
			t.Fatalf("ParseAnswer(%q) = %+v, %v, want action %v, when free %v", line, out, err, in.Action, in.WhenFree)
		}
		if len(log) < 200 && out.Log != printable(log) {
			t.Fatalf("log %q came back as %q", log, out.Log)
		}
		if again := AppendAnswer(nil, out); !bytes.Equal(again, line) {
			t.Fatalf("%q became %q", line, again)
		}
	})
}

func printable(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c < ' ' || c > '~' {
			b[i] = '?'
		}
	}
	return string(b)
}

// FuzzParseAnswer: no input makes it panic, and what it accepts ends with the marker.
func FuzzParseAnswer(f *testing.F) {
	f.Add([]byte(`action=freeze ref=r log="a\"b" text="c" osm=1` + "\n"))
	f.Add([]byte(`action=accept osm=1`))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := ParseAnswer(b)
		if err != nil {
			return
		}
		if !bytes.HasSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte(" osm=1")) || len(b) > MaxAnswer {
			t.Fatalf("ParseAnswer(%q) = %+v although the marker is not last", b, a)
		}
		if again, err := ParseAnswer(AppendAnswer(nil, a)); err != nil || again.Action != a.Action || len(a.Log) < 200 && again.Log != a.Log {
			t.Fatalf("ParseAnswer(AppendAnswer(%+v)) = %+v, %v", a, again, err)
		}
	})
}
