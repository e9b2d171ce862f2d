package actions

import (
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"osm/policy"
)

func TestWHMsAnswersAreRead(t *testing.T) {
	for _, row := range []struct {
		name, said string
		found, ok  bool
		reason     string
	}{
		{"done", `{"data":{"x":1},"metadata":{"command":"f","reason":"OK","result":1,"version":1}}`, true, true, "OK"},
		{"refused", `{"metadata":{"reason":"no such user","result":0}}`, true, false, "no such user"},
		{"numbers as strings", `{"metadata":{"reason":"OK","result":"1","version":"1"}}`, true, true, "OK"},
		{"refused, as strings", `{"metadata":{"reason":"no","result":"0"}}`, true, false, "no"},
		{"text before it", "Setting {up} {\"a\":1} x\n{\"metadata\":{\"result\":1,\"reason\":\"OK\"}}", true, true, "OK"},
		{"text after it", `{"metadata":{"result":1,"reason":"OK"}} bye {`, true, true, "OK"},
		{"an empty reason", `{"metadata":{"result":0,"reason":""}}`, true, false, "no reason given"},
		{"a reason that is no text", `{"metadata":{"result":0,"reason":{"a":1}}}`, true, false, "no reason given"},
		{"a reason of many lines and signs", `{"metadata":{"result":0,"reason":"a\n\u001b[1mb\u202e <b>\tc "}}`, true, false, "a [1mb <b> c"},
		{"no result", `{"metadata":{"reason":"OK"}}`, false, false, ""},
		{"a result that is no number", `{"metadata":{"reason":"OK","result":"yes"}}`, false, false, ""},
		{"null", `{"metadata":null}`, false, false, ""},
		{"cut", `{"data":{},"metadata":{"reason":"OK","result":1`, false, false, ""},
		{"nothing", "", false, false, ""},
		{"YAML", "---\nmetadata:\n  result: 1\n", false, false, ""},
		{"uapi's", `{"result":{"status":1,"errors":null}}`, false, false, ""},
		{"too much before it", strings.Repeat("{", maxStarts) + `{"metadata":{"result":1}}`, false, false, ""},
	} {
		r, found := parseWHM(row.said)
		if found != row.found || r.ok != row.ok || r.reason != row.reason {
			t.Errorf("%s: parseWHM = %+v, %v; want ok %v, %q, %v", row.name, r, found, row.ok, row.reason, row.found)
		}
	}
}

func TestUAPIsAnswersAreRead(t *testing.T) {
	for _, row := range []struct {
		name, said string
		found, ok  bool
		reason     string
		data       string
	}{
		{"done", `{"apiversion":3,"result":{"data":[1],"errors":null,"status":1}}`, true, true, "no reason given", "[1]"},
		{"the inner object alone", `{"data":null,"errors":null,"status":1}`, true, true, "no reason given", ""},
		{"refused", `{"result":{"data":null,"errors":["no mailbox","at all"],"status":0}}`, true, false, "no mailbox; at all", ""},
		{"refused with a text", `{"result":{"errors":"no mailbox","status":"0"}}`, true, false, "no mailbox", ""},
		{"no result", `{"result":null}`, false, false, "", ""},
		{"no status", `{"result":{"errors":null}}`, false, false, "", ""},
	} {
		r, found := parseUAPI(row.said)
		if found != row.found || r.ok != row.ok || (found && r.reason != row.reason) || string(r.data) != row.data {
			t.Errorf("%s: parseUAPI = %+v, %v; want ok %v, %q, %s, %v", row.name, r, found, row.ok, row.reason, row.data, row.found)
		}
	}
}

// Nothing that a program prints may be taken for a yes unless it says so, and what it says
// is fit for a line.
func FuzzPanelReply(f *testing.F) {
	for _, s := range []string{
		`{"data":{},"metadata":{"command":"f","reason":"OK","result":1,"version":1}}`,
		`x{"metadata":{"result":"1","reason":null}}{`, `{"result":{"status":1,"errors":["a",1]}}`, `{"status":true}`,
		`{"metadata":{"result":1e400}}`, `{"metadata":{"result":"NaN"}}`, strings.Repeat(`{"a":`, 200), "{\"metadata\":{\"result\":0,\"reason\":\"\xff\u2028\"}}",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, said string) {
		for _, parse := range []func(string) (reply, bool){parseWHM, parseUAPI} {
			r, found := parse(said)
			if r.ok && (!found || !strings.ContainsAny(said, "123456789t")) {
				t.Errorf("%q counts as done", said)
			}
			if len(r.reason) > 300 || !utf8.ValidString(r.reason) || strings.ContainsFunc(r.reason, func(c rune) bool { return c < ' ' || c == 0x2028 }) {
				t.Errorf("reason %q", r.reason)
			}
			if r.data != nil && !strings.Contains(said, string(r.data)) {
				t.Errorf("data %q is not in %q", r.data, said)
			}
		}
		decoded, err := url.QueryUnescape(uriEncode(said))
		if err != nil || decoded != said || strings.ContainsAny(uriEncode(said), " +&=;\n\x00") {
			t.Errorf("uriEncode(%q) = %q", said, uriEncode(said))
		}
	})
}

func TestSystemdEndsWhatItStartedForUs(t *testing.T) {
	got := limitedPrefix(OutsideUnit(), 90*time.Second)
	if got[0] != "/usr/bin/systemd-run" || got[1] != "--property=RuntimeMaxSec=90000ms" || !slices.Equal(got[2:], OutsideUnit()[1:]) {
		t.Errorf("limitedPrefix = %q", got)
	}
	if got := limitedPrefix([]string{"/usr/bin/env", "A=1"}, time.Second); len(got) != 2 {
		t.Errorf("limitedPrefix of another program = %q", got)
	}
}

func TestASlowPanelIsWaitedFor(t *testing.T) {
	p := newTestPanel(t)
	p.Fault("slow suspendacct")
	start := time.Now()
	if _, err := p.client(t).Apply(t.Context(), panelVerbs()[0].change); err != nil || time.Since(start) < 3*time.Second {
		t.Errorf("Apply after %v: %v", time.Since(start), err)
	}
}

func TestAMissingProgramIsNamed(t *testing.T) {
	p := newTestPanel(t)
	p.o.CommandPrefix, p.o.Panel.WHMAPI1 = nil, "/nonexistent/whmapi1"
	_, err := p.client(t).Apply(t.Context(), Change{Action: policy.ActionSuspendAccount, Account: panelShop})
	if err == nil || !strings.Contains(err.Error(), "/nonexistent/whmapi1") || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("Apply: %v", err)
	}
}
