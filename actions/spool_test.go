package actions

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

const sampleID = "1xVSHx-0004hT-1j"

// spoolText is a -H file as Exim 4.96 writes it, with lines of our choosing in it.
func spoolText(variables, tree, recipients, headers string) string {
	return sampleID + "-H\nshop user 1001 1001\n<a@b.example>\n1795433569 0\n-received_time_usec .536366\n" + variables + tree + recipients + "\n" + headers
}

func aclVar(name, value string) string {
	return fmt.Sprintf("-aclm %s %d\n%s\n", name, len(value), value)
}

func TestSpoolFileIsReadAsEximWroteIt(t *testing.T) {
	const answer = `action=freeze ref=7k2m9qxd log="a \"ref=zzzz9999 \\\" osm=0" text="b" osm=1`
	for _, row := range []struct {
		name, text string
		want       QueueMessage
		wantErr    bool
		variables  bool
	}{
		{
			name:      "a frozen message of ours",
			text:      spoolText("-host_address 192.0.2.7.4711\n-host_auth plain\n"+aclVar("_osm", answer)+"--auth_id a@b.example\n-frozen 1795433570\n", "XX\n", "2\nx@y\nz@y\n", ""),
			variables: true,
			want: QueueMessage{Ref: "7k2m9qxd", Action: "freeze", FrozenSince: time.Unix(1795433570, 0).UTC(), Recipients: 2,
				ClientIP: "192.0.2.7", Authenticator: "plain", AuthenticatedID: "a@b.example"},
		},
		{
			name:      "IPv6, a quoted taint of 4.97, a tree of recipients that are done",
			text:      spoolText("-host_address 2001:db8::1.25\n--(mysql)auth_id x\n"+aclVar("_osm", answer), "YY b@y\nNN a@y\nNY c@y\nNN d@y\n", "1\nx@y\n", ""),
			variables: true,
			want:      QueueMessage{Ref: "7k2m9qxd", Action: "freeze", Recipients: 1, ClientIP: "2001:db8::1", AuthenticatedID: "x"},
		},
		{
			name: "one that leaves by itself, which Exim froze again",
			text: spoolText(aclVar("_osm", `action=freeze ref=7k2m9qxd release=when-free log="trigger=account-hour used=3/3 per 1h free=14:05:10Z" osm=1`)+
				"-frozen 1795433570\n-manual_thaw\n", "XX\n", "1\nx@y\n", ""),
			variables: true,
			want: QueueMessage{Ref: "7k2m9qxd", Action: "freeze", FrozenSince: time.Unix(1795433570, 0).UTC(), Recipients: 1,
				Trigger: "account-hour", WhenFree: true, Thawed: true},
		},
		{
			name:      "one that a hold stopped",
			text:      spoolText(aclVar("_osm", `action=freeze ref=7k2m9qxd log="hold=12 trigger=login-hour" osm=1`), "XX\n", "1\nx@y\n", ""),
			variables: true,
			want:      QueueMessage{Ref: "7k2m9qxd", Action: "freeze", Recipients: 1, Trigger: "login-hour", HoldID: 12},
		},
		{
			name:      "another variable's value looks like ours and like a frozen line",
			text:      spoolText(aclVar("_evil", "x\n-frozen 5\n"+aclVar("_osm", answer)), "XX\n", "0\n", ""),
			variables: true,
		},
		{
			name:      "the recipients cannot be read, what decides can",
			text:      spoolText(aclVar("_osm", answer)+"-frozen 1795433570\n", "?? z\n", "1\n", ""),
			variables: true, wantErr: true,
			want: QueueMessage{Ref: "7k2m9qxd", Action: "freeze", FrozenSince: time.Unix(1795433570, 0).UTC()},
		},
		{name: "a length that is too large", text: spoolText("-aclm _osm 999999999\nx\n", "XX\n", "1\n", ""), wantErr: true},
		{name: "a negative length", text: spoolText("-aclm _osm -1\nx\n", "XX\n", "1\n", ""), wantErr: true},
		{name: "a length that does not end at a line's end", text: spoolText("-aclm _osm 1\nxyz\n", "XX\n", "1\n", ""), wantErr: true},
		{name: "another message's file", text: strings.Replace(spoolText("", "XX\n", "1\n", ""), "1j", "1k", 1), wantErr: true},
		{name: "an empty file", text: "", wantErr: true},
		{name: "a file of zero bytes after a crash", text: strings.Repeat("\x00", 4096), wantErr: true},
	} {
		t.Run(row.name, func(t *testing.T) {
			m, variables, err := newSpoolFile(strings.NewReader(row.text)).envelope(sampleID)
			if (err != nil) != row.wantErr || variables != row.variables {
				t.Fatalf("envelope: error %v, variables %v; want error %v, variables %v", err, variables, row.wantErr, row.variables)
			}
			if !row.variables {
				return
			}
			row.want.MessageID, row.want.ReceivedAt = sampleID, time.Unix(1795433569, 0).UTC()
			row.want.EnvelopeSender, row.want.CallerLogin, row.want.CallerUID = "a@b.example", "shop user", 1001
			if m != row.want {
				t.Errorf("envelope\n got %+v\nwant %+v", m, row.want)
			}
		})
	}
}

func TestHeadersLeaveOutWhatEximReplacedAndAreCapped(t *testing.T) {
	header := func(kind, text string) string { return fmt.Sprintf("%03d%s %s", len(text), kind, text) }
	text := spoolText("", "XX\n", "1\nx@y\n", header("*", "Subject: old\n")+header(" ", "Subject: new\n fold\n")+header("T", "To: x@y\n"))
	f := newSpoolFile(strings.NewReader(text))
	m, _, err := f.envelope(sampleID)
	if err != nil {
		t.Fatal(err)
	}
	got, err := f.headers(m.Recipients, 1000)
	if want := "Subject: new\n fold\nTo: x@y\n"; err != nil || got != want {
		t.Errorf("headers = %q, %v; want %q", got, err, want)
	}
	huge := strings.Repeat("x", 2<<20) + "\n"
	f = newSpoolFile(strings.NewReader(spoolText("", "XX\n", "0\n", header(" ", huge))))
	if m, _, err = f.envelope(sampleID); err != nil {
		t.Fatal(err)
	}
	if got, err := f.headers(m.Recipients, 1000); err != nil || len(got) != 1000 {
		t.Errorf("a header of 2 MiB gave %d bytes, %v; want 1000", len(got), err)
	}
}

func TestOurAnswerIsOnlyAWholeAnswerThatStopped(t *testing.T) {
	for _, row := range []struct{ name, value, action, ref string }{
		{"freeze", `action=freeze ref=7k2m9qxd log="x" text="y" osm=1`, "freeze", "7k2m9qxd"},
		{"discard", `action=discard ref=7k2m9qxd osm=1`, "discard", "7k2m9qxd"},
		{"accept", `action=accept ref=7k2m9qxd osm=1`, "", ""},
		{"no marker", `action=freeze ref=7k2m9qxd log="osm=1"`, "", ""},
		{"cut within a quoted text", `action=freeze ref=7k2m9qxd osm=1 log="x`, "", ""},
		{"a reference with a path in it", `action=freeze ref=../../etc osm=1`, "", ""},
		{"no reference", `action=freeze osm=1`, "", ""},
		{"the fail string", `osm=down`, "", ""},
		{"nothing", ``, "", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			if a := ourAnswer(row.value); a.action != row.action || a.ref != row.ref {
				t.Errorf("ourAnswer(%q) = %+v; want %q, %q", row.value, a, row.action, row.ref)
			}
		})
	}
}

// FuzzSpoolFile: whatever stands in a -H file, reading it ends, stays within its bounds, and
// never takes a message for ours unless the bytes of a whole answer stand in it.
func FuzzSpoolFile(f *testing.F) {
	const answer = `action=freeze ref=7k2m9qxd log="x" text="y" osm=1`
	f.Add([]byte(spoolText(aclVar("_osm", answer)+"-frozen 1795433570\n", "YN a@b\nNN c@d\n", "1\nx@y\n", "012  Subject: x\n")))
	f.Add([]byte(spoolText("--aclm _osm 3\nabc\n-aclc x 0\n\n", "XX\n", "0\n", "")))
	f.Add([]byte(spoolText("-aclm _osm 99999999999999999999\n", "XX\n", "-5\n", "999999999  x")))
	f.Add([]byte(""))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := newSpoolFile(bytes.NewReader(b))
		m, variables, err := r.envelope(sampleID)
		if err == nil && !variables {
			t.Fatal("no error, but the variables are not whole")
		}
		if m.Action != "" && (!bytes.Contains(b, []byte("osm=")) || !bytes.Contains(b, []byte(m.Ref)) || !validRef(m.Ref)) {
			t.Fatalf("took it for ours: %+v", m)
		}
		for _, s := range []string{m.CallerLogin, m.EnvelopeSender, m.AuthenticatedID, m.ClientIP, m.Authenticator} {
			if len(s) > 3*512 || !utf8.ValidString(s) {
				t.Fatalf("text %q is too long or not UTF-8", s)
			}
		}
		if err == nil {
			if h, err := r.headers(m.Recipients, 100); err == nil && len(h) > 100 {
				t.Fatalf("headers of %d bytes, want at most 100", len(h))
			}
		}
	})
}

// FuzzParseEximTime: no text makes it panic or overflow, and what we write it reads.
func FuzzParseEximTime(f *testing.F) {
	for _, s := range []string{"4w3d", "0s", "", "1", "999999999w999999999w", "d"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, ok := parseEximTime(s)
		if d < 0 {
			t.Fatalf("parseEximTime(%q) = %v", s, d)
		}
		if h := d.Truncate(time.Hour); ok && h < 100*365*24*time.Hour {
			if back, ok := parseEximTime(eximTime(h)); !ok || back != h {
				t.Fatalf("parseEximTime(eximTime(%v)) = %v, %v", h, back, ok)
			}
		}
	})
}

func TestListOfFiveThousandHeldMessagesTakesLessThanASecond(t *testing.T) {
	x := newTestExim(t, ourTimers)
	input := fillQueue(t, x, 5000)
	client := x.executor(x.options())
	n := 0
	took := best(func() { n = len(list(t, client)) })
	t.Logf("%d messages listed in %v", n, took)
	if n != 5000 || took > time.Second*slowdown {
		t.Errorf("listed %d of %d messages in %v, want all within a second", n, len(input), took)
	}
}

// fillQueue makes n frozen messages by copying one that Exim has written.
func fillQueue(t *testing.T, x *testExim, n int) []string {
	t.Helper()
	first := x.send(letter{uid: 5, gid: 60, sender: "a@b.example", answer: frozenAnswer("zzzz0000")})
	refs := make([]string, n-1)
	for i := range refs {
		refs[i] = fmt.Sprintf("zzzz%04d", i+1)
	}
	return append(x.copies(first, "zzzz0000", refs), first)
}

// copies puts a copy of a queued message into the queue for each reference, and returns
// their ids.
func (x *testExim) copies(first, ref string, refs []string) (ids []string) {
	x.t.Helper()
	read := func(suffix string) string {
		b, err := os.ReadFile(x.path("spool/input", first+suffix))
		if err != nil {
			x.t.Fatal(err)
		}
		return string(b)
	}
	h, d := read("-H"), read("-D")
	for i, r := range refs {
		id := fmt.Sprintf("%s-%06d-%02d", first[:6], i+1, (i+1)%60)
		ids = append(ids, id)
		for suffix, text := range map[string]string{"-H": strings.ReplaceAll(h, ref, r), "-D": d} {
			name := x.path("spool/input", id+suffix)
			if err := os.WriteFile(name, []byte(strings.ReplaceAll(text, first, id)), 0o640); err != nil {
				x.t.Fatal(err)
			}
			if err := os.Chown(name, int(x.uid), -1); err != nil {
				x.t.Fatal(err)
			}
		}
	}
	return ids
}

func TestTimerAlarms(t *testing.T) {
	const keep = 30 * 24 * time.Hour
	for _, row := range []struct {
		name                 string
		frozen, ignore, thaw string
		want                 int
	}{
		{"ours", "31d", "31d", "0s", 0},
		{"Debian's", "1w", "2d", "0s", 2},
		{"frozen mail never times out", "0s", "10w", "0s", 0},
		{"bounces are dropped at once", "0s", "0s", "0s", 1},
		{"exactly held_keep is too short: both would act on the same day", "30d", "31d", "0s", 1},
		{"thawed by itself", "31d", "31d", "1h", 1},
		{"not a time", "soon", "31d", "0s", 1},
	} {
		t.Run(row.name, func(t *testing.T) {
			o := map[string]string{"timeout_frozen_after": row.frozen, "ignore_bounce_errors_after": row.ignore, "auto_thaw": row.thaw}
			if got := TimerAlarms(o, keep); len(got) != row.want {
				t.Errorf("TimerAlarms(%v) = %q, want %d", o, got, row.want)
			}
		})
	}
	if got := TimerAlarms(nil, keep); len(got) != 2 {
		t.Errorf("TimerAlarms without options = %q, want two", got)
	}
}
