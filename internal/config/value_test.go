package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestDurations(t *testing.T) {
	for _, c := range []struct {
		in   string
		want time.Duration
		text string // as it is written again
	}{
		{"90m", 90 * time.Minute, "90m"}, {"24h", 24 * time.Hour, "24h"}, {"1d", 24 * time.Hour, "24h"},
		{"14d", 14 * day, "14d"}, {"2w", 14 * day, "14d"}, {"1d12h", 36 * time.Hour, "36h"}, {"250ms", 250 * time.Millisecond, "250ms"},
		{"1.5h", 90 * time.Minute, "90m"}, {"0", 0, "0s"}, {"1m30s", 90 * time.Second, "90s"},
		{"5", -1, ""}, {"", -1, ""}, {"-1h", -1, ""}, {"3 years", -1, ""}, {"1h h", -1, ""}, {"9999999999d", -1, ""}, {"h", -1, ""},
	} {
		got, err := ParseDuration(c.in)
		if (err != nil) != (c.want < 0) || (err == nil && got != c.want) {
			t.Errorf("ParseDuration(%q) = %v, %v, want %v", c.in, got, err, c.want)
		} else if err == nil && FormatDuration(got) != c.text {
			t.Errorf("FormatDuration(%v) = %q, want %q", got, FormatDuration(got), c.text)
		}
	}
}

func TestSizesAndRates(t *testing.T) {
	for in, want := range map[string]int64{"500MB": 500e6, "1GiB": 1 << 30, "1000": 1000, "2 KB": 2000, "0": 0, "-1MB": -1, "MB": -1, "1.5GB": -1, "99999999999GB": -1} {
		got, err := ParseBytes(in)
		if (err != nil) != (want < 0) || (err == nil && got != want) {
			t.Errorf("ParseBytes(%q) = %d, %v, want %d", in, got, err, want)
			continue
		}
		if back, err := ParseBytes(FormatBytes(want)); want >= 0 && (err != nil || back != want) {
			t.Errorf("ParseBytes(FormatBytes(%d)) = %d, %v", want, back, err)
		}
	}
	for in, every := range map[string]time.Duration{"60/min": time.Second, "2/s": 500 * time.Millisecond, "60/h": time.Minute, "1/5m": 5 * time.Minute, "0/min": 0, "60": 0, "x/min": 0, "5/": 0} {
		r, err := ParseRate(in)
		if (err != nil) != (every == 0) || r.Every() != every {
			t.Errorf("ParseRate(%q) = %v, %v, want one every %v", in, r, err, every)
		} else if err == nil && r.String() != in {
			t.Errorf("ParseRate(%q).String() = %q", in, r)
		}
	}
}

func TestUntil(t *testing.T) {
	loc := berlin(t)
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	for in, want := range map[string]string{
		"2027-01-31":                "2027-01-31T22:59:59.999Z",
		"2027-06-30":                "2027-06-30T21:59:59.999Z",
		"2027-03-28":                "2027-03-28T21:59:59.999Z", // the day has 23 hours
		"2027-01-31T18:00":          "2027-01-31T17:00:00.000Z",
		"2027-01-31 18:00:30":       "2027-01-31T17:00:30.000Z",
		"2027-01-31T18:00:00Z":      "2027-01-31T18:00:00.000Z",
		"2027-01-31T18:00:00+05:00": "2027-01-31T13:00:00.000Z",
		"3d":                        "2026-11-26T12:00:00.000Z",
		"tomorrow":                  "", "": "", "0s": "", "2027-02-30": "",
	} {
		got, err := ParseUntil(in, now, loc)
		if text := got.Format("2006-01-02T15:04:05.000Z"); (err != nil) != (want == "") || (err == nil && text != want) {
			t.Errorf("ParseUntil(%q) = %s, %v, want %s", in, text, err, want)
		}
	}
}

func TestTheRootPartBelievesOnlyRootsFile(t *testing.T) {
	for _, c := range []struct {
		name        string
		mode        os.FileMode
		owner, self uint32
		refused     string
	}{
		{"root's own file is read", 0o644, 0, 0, ""},
		{"one's own file is read without root", 0o600, 1000, 1000, ""},
		{"a file of the daemon's user is refused", 0o644, 200, 0, "belongs to uid 200"},
		{"a file its group may write is refused", 0o664, 0, 0, "may be written by others"},
		{"a file all may write is refused", 0o646, 0, 0, "may be written by others"},
		{"a folder is refused", os.ModeDir | 0o755, 0, 0, "is not a plain file"},
		{"a pipe is refused", os.ModeNamedPipe | 0o600, 0, 0, "is not a plain file"},
	} {
		if got := untrusted(c.mode, c.owner, c.self); (got == "") != (c.refused == "") || !strings.HasPrefix(got, c.refused) {
			t.Errorf("%s: %q, want %q", c.name, got, c.refused)
		}
	}
}

func TestLoadExecutor(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "executor.toml")
	if e, err := LoadExecutor(path); err != nil || e.IDsPerSecond != 200 {
		t.Errorf("LoadExecutor(missing) = %+v, %v, want the defaults", e, err)
	}
	write := func(text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	write("exim_binary = \"/usr/sbin/exim\"\nids_per_second = 50\ndeliver_prefix = [\"/usr/bin/systemd-run\", \"--wait\"]\n", 0o644)
	if e, err := LoadExecutor(path); err != nil || e.EximBinary != "/usr/sbin/exim" || e.IDsPerSecond != 50 || len(e.DeliverPrefix) != 2 {
		t.Errorf("LoadExecutor = %+v, %v", e, err)
	}
	write("", 0o666)
	if _, err := LoadExecutor(path); err == nil || !strings.Contains(err.Error(), "written by others") {
		t.Errorf("LoadExecutor(mode 0666) = %v, want a refusal", err)
	}
	write("\nexim_binry = \"/x\"\ndeliver_prefix = [\"sh\", \"-c\"]\nexim_spool = \"../spool\"\n", 0o600)
	want := `executor.toml:2: executor: exim_binry: unknown key; did you mean "exim_binary"?
executor.toml:3: executor: deliver_prefix = ["sh", "-c"]: must be a list of words, a program's absolute path first, such as ["/usr/bin/systemd-run", "--quiet", "--collect", "--wait", "--"]
executor.toml:4: executor: exim_spool = "../spool": must be an absolute path without . or .. in it`
	if _, err := LoadExecutor(path); err == nil || err.Error() != want {
		t.Errorf("LoadExecutor(wrong) = %v\nwant %s", err, want)
	}
	link := filepath.Join(dir, "link.toml")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadExecutor(link); err == nil {
		t.Error("LoadExecutor followed a symbolic link")
	}
}

func FuzzValues(f *testing.F) {
	for _, s := range []string{"90m", "1d12h", "500MB", "60/min", "2027-01-31", "0.5w", "1e9d", "-1h"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if d, err := ParseDuration(s); err == nil {
			if back, err := ParseDuration(FormatDuration(d)); d < 0 || err != nil || back != d {
				t.Errorf("ParseDuration(%q) = %v, written %q, read %v, %v", s, d, FormatDuration(d), back, err)
			}
		}
		if n, err := ParseBytes(s); err == nil {
			if back, err := ParseBytes(FormatBytes(n)); n < 0 || err != nil || back != n {
				t.Errorf("ParseBytes(%q) = %d, read again %d, %v", s, n, back, err)
			}
		}
		if r, err := ParseRate(s); err == nil {
			if back, err := ParseRate(r.String()); err != nil || back != r {
				t.Errorf("ParseRate(%q) = %v, read again %v, %v", s, r, back, err)
			}
		}
	})
}

func FuzzParseExecutor(f *testing.F) {
	f.Add("exim_binary = \"/usr/sbin/exim\"\ndeliver_prefix = [\"/bin/x\"]\n")
	f.Add("ids_per_second = \"x\"\n[a.b]\nc = 1\n")
	f.Fuzz(func(t *testing.T, s string) {
		e, err := ParseExecutor([]byte(s), "executor.toml")
		if err == nil && (!isPath(e.EximBinary) || (len(e.DeliverPrefix) > 0 && !isPath(e.DeliverPrefix[0])) || e.IDsPerSecond < 1) {
			t.Errorf("ParseExecutor(%q) = %+v", s, e)
		}
	})
}
