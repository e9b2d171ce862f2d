package actions

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// sample starts an executor with one of the sample scripts, installed as an operator would.
func sample(t *testing.T, name string, o ScriptOptions) *Executor {
	t.Helper()
	text, err := os.ReadFile("../docs/samples/" + name)
	if err != nil {
		t.Fatal(err)
	}
	dir := rootsFolder(t)
	o.Command = append([]string{program(t, dir+"/"+name, string(text))}, o.Command...)
	x := blockOptions(t)
	x.Scripts, x.ReportDir = map[string]ScriptOptions{"script": o}, dir+"/reports"
	return startExecutor(t, x)
}

// sampleReport is as much of a report as the samples read, with what a spammer may have
// written into it.
func sampleReport(change func(event, evidence map[string]any)) map[string]any {
	event := map[string]any{
		"id": 17, "at": "2026-11-03T09:41:07.250Z", "trigger": "directory-hour", "watch": "directory", "key": "forum /home/forum/a\tb\n`id` ..\x1b[2J",
		"account": "forum", "mailbox": "", "mode": "enforce", "verdict": "freeze", "max": 100, "used": 100, "stopped": 12, "claimed": false,
	}
	evidence := map[string]any{"client_ip": "8.8.4.4", "confidence": "high", "script": "/home/forum/send.php"}
	if change != nil {
		change(event, evidence)
	}
	none := map[string]any{"distinct": 0, "most": []any{}}
	return map[string]any{
		"schema": "osm-report/1", "event": event, "evidence": []any{evidence},
		"top": map[string]any{"client_ips": none, "scripts": none, "subjects": map[string]any{"distinct": 1, "most": []any{
			map[string]any{"value": "\n.\nQUIT\tBcc: <a@b.example>'); system('touch /mnt/ran'); # @{[`touch /mnt/ran`]} Ä", "messages": 12, "percent": 100}}}},
	}
}

// wholeReport is one of the published examples, with every field of the schema.
func wholeReport(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile("../internal/report/testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func jsonReport(t *testing.T, change func(event, evidence map[string]any)) []byte {
	t.Helper()
	b, err := json.Marshal(sampleReport(change))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// perl writes a value as Perl source.
func perl(v any) string {
	switch v := v.(type) {
	case map[string]any:
		s := "{"
		for k, e := range v {
			s += perl(k) + "=>" + perl(e) + ","
		}
		return s + "}"
	case []any:
		s := "["
		for _, e := range v {
			s += perl(e) + ","
		}
		return s + "]"
	case bool:
		return map[bool]string{true: "1", false: "0"}[v]
	case string:
		return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(v) + "'"
	}
	return fmt.Sprint(v)
}

func TestSampleTicketMailsTheReport(t *testing.T) {
	exim := newTestExim(t, ourTimers)
	x := sample(t, "ticket.sh", ScriptOptions{User: "games", Command: []string{"tickets@sink.example"}})
	report := "From: a@b.example\nSubject: other\n\n.\nQUIT\n" + strings.Repeat("ä\x00", 3000)
	res, err := x.RunScript(t.Context(), Script{Name: "script", Report: []byte(report)})
	if err != nil || res.Exit != 0 || res.Output != "mailed to tickets@sink.example\n" {
		t.Fatalf("RunScript = %+v, %v", res, err)
	}
	var mails []string
	waitFor(t, "the mail", func() bool {
		mails, _ = filepath.Glob(exim.path("sink/*"))
		return len(mails) > 0 && len(exim.ids()) == 0
	})
	b, err := os.ReadFile(mails[0])
	if err != nil {
		t.Fatal(err)
	}
	head, body, _ := strings.Cut(string(b), "\n\n")
	got, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(strings.TrimSpace(body), "\n", ""))
	if err != nil || string(got) != report {
		t.Errorf("the body holds %d bytes (%v), want the report's %d", len(got), err, len(report))
	}
	if !strings.Contains(head, "DELIVERED to tickets@sink.example") || !strings.Contains(head, "\nSubject: [osm] report from ") || strings.Contains(head, "other") {
		t.Errorf("the head is\n%s", head)
	}
}

func TestSampleBanNamesOneCertainPublicAddress(t *testing.T) {
	for name, row := range map[string]struct {
		change func(event, evidence map[string]any)
		want   string
	}{
		"by evidence":       {nil, "8.8.4.4"},
		"by the event":      {func(e, _ map[string]any) { e["watch"], e["key"] = "client-ip", "login 9.9.9.9" }, "9.9.9.9"},
		"version 6":         {func(e, _ map[string]any) { e["watch"], e["key"] = "client-ip", "login 2a01:4f8::1" }, "2a01:4f8::1"},
		"a network":         {func(e, _ map[string]any) { e["watch"], e["key"] = "client-ip", "login 2a01:4f8::/64" }, ""},
		"a private one":     {func(_, v map[string]any) { v["client_ip"] = "10.0.0.1" }, ""},
		"a hint":            {func(_, v map[string]any) { v["confidence"] = "low" }, ""},
		"a claim":           {func(e, _ map[string]any) { e["claimed"] = true }, ""},
		"only watched":      {func(e, _ map[string]any) { e["mode"] = "observe" }, ""},
		"an option":         {func(_, v map[string]any) { v["client_ip"] = "--all" }, "error"},
		"another's address": {func(_, v map[string]any) { v["client_ip"] = "8.8.4.4; id" }, "error"},
	} {
		t.Run(name, func(t *testing.T) {
			x := sample(t, "ban.py", ScriptOptions{User: "root", Command: []string{"/mnt/blocker", "add", "{ip}", "--until={until}"}})
			program(t, "/mnt/blocker", "#!/bin/sh\necho \"$# $1 $2 ${3%=*}\" >/mnt/asked\n")
			res, err := x.RunScript(t.Context(), Script{Name: "script", Report: jsonReport(t, row.change)})
			asked, _ := os.ReadFile("/mnt/asked")
			want := ""
			if row.want != "" && row.want != "error" {
				want = "3 add " + row.want + " --until\n"
			}
			if err != nil || string(asked) != want || (res.Exit != 0) != (row.want == "error") {
				t.Errorf("RunScript = %+v, %v; the blocker was asked for %q, want %q", res, err, asked, want)
			}
		})
	}
}

func TestSampleLedgerReadsPerl(t *testing.T) {
	x := sample(t, "ledger.pl", ScriptOptions{User: "games", Command: []string{"/mnt/log/ledger.tsv"}, File: true})
	if err := cmpErr(os.Mkdir("/mnt/log", 0o755), os.Chown("/mnt/log", 5, 60)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		res, err := x.RunScript(t.Context(), Script{Name: "script", Format: "perl", Report: []byte("# Made by osm\n$VAR1 = " + perl(sampleReport(nil)) + ";\n")})
		if err != nil || res.Output != "wrote down event 17\n" || res.Exit != 0 {
			t.Fatalf("RunScript = %+v, %v", res, err)
		}
	}
	b, err := os.ReadFile("/mnt/log/ledger.tsv")
	lines := strings.Split(string(b), "\n")
	if err != nil || len(lines) != 3 || lines[0] != lines[1] {
		t.Fatalf("the ledger is %q, %v; want the same line twice", b, err)
	}
	f := strings.Split(lines[0], "\t")
	if len(f) != 14 || f[0] != "17" || f[5] != `forum /home/forum/a\x09b\x0a`+"`id`"+` ..\x1b[2J` || !strings.HasSuffix(f[13], " Ä") || fileExists("/mnt/ran") {
		t.Errorf("the line holds %d fields: %q", len(f), f)
	}
	res, err := x.RunScript(t.Context(), Script{Name: "script", Format: "perl", Report: wholeReport(t, "report.perl")})
	if err != nil || res.Output != "wrote down event 17\n" || res.Exit != 0 {
		t.Errorf("a whole report: %+v, %v", res, err)
	}
	res, err = x.RunScript(t.Context(), Script{Name: "script", Format: "perl", Report: []byte("no data")})
	if err != nil || res.Exit == 0 {
		t.Errorf("rubbish: %+v, %v; want that it fails", res, err)
	}
}

// The evidence of the example names an address for documentation alone.
func TestSampleBanReadsAWholeReport(t *testing.T) {
	x := sample(t, "ban.py", ScriptOptions{User: "root", Command: []string{"/mnt/blocker", "{ip}"}})
	res, err := x.RunScript(t.Context(), Script{Name: "script", Report: wholeReport(t, "report.json")})
	if err != nil || res.Output != "nobody to block\n" || res.Exit != 0 {
		t.Errorf("RunScript = %+v, %v", res, err)
	}
}

// The report in Perl is a program: osmd must not get root by it.
func TestSampleLedgerDoesNotRunAsRoot(t *testing.T) {
	x := sample(t, "ledger.pl", ScriptOptions{User: "root", Command: []string{"/mnt/ledger.tsv"}, File: true})
	res, err := x.RunScript(t.Context(), Script{Name: "script", Format: "perl", Report: []byte("system('touch /mnt/ran'); {}")})
	if err != nil || res.Exit == 0 || fileExists("/mnt/ran") {
		t.Errorf("RunScript = %+v, %v; it ran the report: %v", res, err, fileExists("/mnt/ran"))
	}
}
