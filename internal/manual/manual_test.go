package manual

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"
)

func example() *Page {
	p := New("osm", "8", "a page with everything: it's here")
	p.Section("synopsis")
	p.Synopsis("osm", "[options]")
	p.Section("description")
	p.Text("First.\n\n.TH is no request here, nor is\n'this; \\fBnor\\fR that.\n\n    osm --verbatim \\\n        .second 'line'\n\nAfter it, " + strings.Repeat("much text ", 30))
	p.Section("options")
	p.Item(Term{Names: []string{"--file", "-f"}, Value: "FILE"}, ".hidden files too")
	p.Key("[[trigger]]")
	p.Code("name = \"x\"")
	p.Sub("part \"one\"")
	p.Text("Text.")
	p.SeeAlso("osmd(8)", "osm.toml(5)")
	return p
}

func TestPageSaysWhatWasWrittenAndNothingElse(t *testing.T) {
	cmd := exec.Command("mandoc", "-Tutf8", "-O", "width=100")
	cmd.Stdin = bytes.NewReader(example().Bytes())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("mandoc: %v: %s\n%s", err, out, example().Bytes())
	}
	text := plain(string(out))
	for _, want := range []string{
		"osm - a page with everything: it's here", ".TH is no request here, nor is 'this; \\fBnor\\fR that.",
		"osm --verbatim \\\n", ".second 'line'", "--file, -f FILE", ".hidden files too", "[[trigger]]", `part "one"`, "osmd(8), osm.toml(5)",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the page lacks %q:\n%s", want, text)
		}
	}
}

// plain takes bold and italics (letter, backspace, letter) out.
func plain(s string) string {
	var out []rune
	for _, r := range s {
		if r == '\b' {
			out = out[:len(out)-1]
			continue
		}
		out = append(out, r)
	}
	return string(out)
}

func TestPageIsWithoutFault(t *testing.T) {
	cmd := exec.Command("mandoc", "-Tlint", "-W", "style")
	cmd.Stdin = bytes.NewReader(example().Bytes())
	out, _ := cmd.CombinedOutput() // its status tells of the date alone
	for line := range strings.Lines(string(out)) {
		if !strings.Contains(line, "missing date") { // a page is made from definitions, which have none
			t.Errorf("mandoc says: %s%s", line, example().Bytes())
		}
	}
}
