package origin

import (
	"os"
	"path"
	"slices"
	"strings"
	"testing"
)

func TestParseStat(t *testing.T) {
	tail := " S 17 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 8765 9 10"
	for _, tt := range []struct {
		name, in string
		parent   int
		started  int64
		ok       bool
	}{
		{"a plain process", "42 (perl)" + tail, 17, 8765, true},
		{"a name that looks like the rest of the line", "42 (x) S 1 1 1 (y))" + tail, 17, 8765, true},
		{"a name with a line end", "42 (a\nb)" + tail, 17, 8765, true},
		{"a cut line", "42 (perl) S 17 1", 0, 0, false},
		{"no name", "42 perl S 17", 0, 0, false},
		{"a negative parent", "42 (perl)" + strings.Replace(tail, "17", "-3", 1), 0, 0, false},
		{"nothing", "", 0, 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			parent, started, err := parseStat([]byte(tt.in))
			if parent != tt.parent || started != tt.started || (err == nil) != tt.ok {
				t.Errorf("parseStat(%q): got %d, %d, %v; want %d, %d", tt.in, parent, started, err, tt.parent, tt.started)
			}
		})
	}
}

func TestParseUID(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		uid      uint32
		ok       bool
	}{
		{"the real one of four", "Name:\tperl\nUid:\t1001\t0\t0\t0\nGid:\t5\t5\t5\t5\n", 1001, true},
		{"a name that pretends to be the line", "Name:\tUid:\\n7\nUid:\t1001\t0\t0\t0\n", 1001, true},
		{"none", "Name:\tperl\n", 0, false},
		{"no number", "Uid:\tx\n", 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			uid, err := parseUID([]byte(tt.in))
			if uid != tt.uid || (err == nil) != tt.ok {
				t.Errorf("parseUID(%q): got %d, %v; want %d", tt.in, uid, err, tt.uid)
			}
		})
	}
}

func TestCleanLink(t *testing.T) {
	for _, tt := range []struct{ name, in, root, want string }{
		{"a plain path", "/home/shop", "", "/home/shop"},
		{"a deleted one", "/home/shop (deleted)", "", "/home/shop"},
		{"below another root", "/jail/home/shop", "/jail", "/home/shop"},
		{"that root itself", "/jail", "/jail", "/"},
		{"beside that root", "/jailbreak/home", "/jail", "/jailbreak/home"},
		{"outside our mount tree", "(unreachable)/home", "", ""},
		{"nothing", "", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := cleanLink(tt.in, tt.root); got != tt.want {
				t.Errorf("cleanLink(%q, %q): got %q, want %q", tt.in, tt.root, got, tt.want)
			}
		})
	}
}

func TestParseArgs(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		want     []string
	}{
		{"two", "sendmail\x00-t\x00", []string{"sendmail", "-t"}},
		{"an empty one between others", "a\x00\x00b\x00", []string{"a", "", "b"}},
		{"a title with its left-over", "php-fpm: pool alice\x00\x00\x00\x00", []string{"php-fpm: pool alice"}},
		{"none, as kernel threads have", "", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := parseArgs([]byte(tt.in)); !slices.Equal(got, tt.want) {
				t.Errorf("parseArgs(%q): got %q, want %q", tt.in, got, tt.want)
			}
		})
	}
}

func TestParseEnvironTakesTheFirstOfAName(t *testing.T) {
	got := parseEnviron([]byte("PATH=/bin\x00HTTP_HOST=first\x00HTTP_HOST=second\x00XHTTP_HOST=x\x00REQUEST_URI\x00SERVER_NAME=\x00"))
	if want := [5]string{4: "first"}; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestLastPIDIsOneThatTheKernelGave(t *testing.T) {
	if last := lastPID(); last < os.Getpid() && last < 2 {
		t.Errorf("lastPID: got %d", last)
	}
	for _, s := range []string{"", "0.1 0.2 0.3 1/2", "0.1 0.2 0.3 1/2 x", "0.1 0.2 0.3 1/2 -5", "0 0 0 1/2 99999999999"} {
		if got := parseLastPID(s); got != 0 {
			t.Errorf("parseLastPID(%q): got %d, want 0", s, got)
		}
	}
	if got := parseLastPID("0.1 0.2 0.3 1/2 4711\n"); got != 4711 {
		t.Errorf("parseLastPID: got %d, want 4711", got)
	}
}

func TestListPIDsGivesTheNewestFirst(t *testing.T) {
	pids, err := listPIDs(os.Getpid())
	if err != nil || len(pids) == 0 || pids[0] != os.Getpid() {
		t.Fatalf("got %v, %v; want this process, %d, first", pids, err, os.Getpid())
	}
	split := len(pids)
	for i, pid := range pids {
		if pid > os.Getpid() {
			split = i
			break
		}
	}
	for _, part := range [][]int{pids[:split], pids[split:]} {
		if !slices.IsSortedFunc(part, func(a, b int) int { return b - a }) {
			t.Errorf("not from the newest to the oldest: %v", part)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("42 (perl) S 17 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 8765 9"))
	f.Add([]byte("42 ()) R"))
	f.Fuzz(func(t *testing.T, b []byte) {
		parent, started, err := parseStat(b)
		if parent < 0 || started < 0 || err != nil && (parent != 0 || started != 0) {
			t.Errorf("parseStat(%q): got %d, %d, %v", b, parent, started, err)
		}
		if _, err := parseUID(b); err == nil && !strings.Contains(string(b), "Uid:\t") {
			t.Errorf("parseUID(%q) found one", b)
		}
	})
}

func FuzzParseMemory(f *testing.F) {
	f.Add([]byte("HTTP_HOST=a\x00REMOTE_ADDR=b\x00"))
	f.Add([]byte("sendmail\x00-t\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, v := range parseEnviron(b) {
			if len(v) > maxVariable || strings.Contains(v, "\x00") {
				t.Errorf("variable %.40q of %d bytes", v, len(v))
			}
		}
		args := parseArgs(b)
		if n := len(strings.Join(args, "")); len(args) > maxArgs || n > maxArgBytes {
			t.Errorf("%d arguments of %d bytes", len(args), n)
		}
		link := cleanLink(string(b), "/jail")
		if link != "" && !path.IsAbs(link) {
			t.Errorf("cleanLink(%q): got %q", b, link)
		}
	})
}
