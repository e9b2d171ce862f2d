package panel

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"osm/policy"
)

// TestMain makes the test program, run again as another user, load the accounts below
// a folder and tell what it found.
func TestMain(m *testing.M) {
	if root := os.Getenv("PANEL_TEST_ROOT"); root != "" {
		w := New(Options{Root: root, Maps: os.Getenv("PANEL_TEST_MAPS"), Now: time.Now, Log: slog.New(slog.DiscardHandler)})
		a, found := w.Map().ByDomain("shop.example")
		fmt.Println(w.Map().Panel(), a.Name, a.Package, found, w.Status().Files[1].From != "", w.Status().Files[1].Err)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

const (
	passwdText = "root:x:0:0::/root:/bin/bash\nmailnull:x:47:12::/var/spool/mqueue:/sbin/nologin\nmail:x:8:12::/var/spool/mail:/sbin/nologin\n" +
		"nobody:x:65534:65534::/:/sbin/nologin\nshop:x:1001:1001::/home/shop:/bin/bash\nnews:x:1002:1002::/home2/news/:/bin/bash\n" +
		"old:x:501:501::/home/old:/bin/bash\ndaemon2:x:950:950::/var/lib/d:/sbin/nologin\n"
	domainsText = "shop.example: shop\nWWW.Shop.Example.: shop\nnews.example: news\nold.example: old\n*: nobody\n"
)

// host is a made-up host with its files below a folder, and a watcher of it.
type host struct {
	t    *testing.T
	root string
	now  time.Time
	log  bytes.Buffer
	w    *Watcher
}

func newHost(t *testing.T, files map[string]string) *host {
	h := &host{t: t, root: t.TempDir(), now: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)}
	for path, text := range files {
		h.write(path, text)
	}
	return h
}

func (h *host) write(path, text string) {
	h.t.Helper()
	full := filepath.Join(h.root, path)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(full, []byte(text), 0o644); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) remove(path string) {
	h.t.Helper()
	if err := os.Remove(filepath.Join(h.root, path)); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) watch(o Options) *Watcher {
	o.Root, o.Log = h.root, slog.New(slog.NewTextHandler(&h.log, nil))
	o.Now = func() time.Time { return h.now }
	h.w = New(o)
	return h.w
}

// look lets some time pass and looks for changes.
func (h *host) look() {
	h.now = h.now.Add(pollInterval)
	h.w.Reload()
}

func (h *host) wantOwner(domain, want string) {
	h.t.Helper()
	if a, _ := h.w.Map().ByDomain(domain); a.Name != want {
		h.t.Errorf("account of %s: got %q, want %q", domain, a.Name, want)
	}
}

func cPanelHost(t *testing.T) *host {
	return newHost(t, map[string]string{
		"/usr/local/cpanel/version": "11.120\n", "/etc/passwd": passwdText, "/etc/userdomains": domainsText,
		"/etc/trueuserdomains": "shop.example: shop\nnews.example: news\n", "/etc/trueuserowners": "shop: root\nnews: reseller1\n",
		"/etc/userplans": "shop: Gold Plan\n", "/etc/recent_authed_mail_ips": "192.0.2.7: sales@shop.example|shop.example\n2001:db8::7\n",
		"/etc/alwaysrelay": "# office\n198.51.100.0/24\n203.0.113.9\nmail.example.org\n",
	})
}

func TestCPanelsFilesMakeTheMap(t *testing.T) {
	h := cPanelHost(t)
	w := h.watch(Options{SharedUsers: []string{"nobody"}})
	m := w.Map()
	shop, _ := m.ByName("shop")
	if want := (policy.Account{Name: "shop", Home: "/home/shop", Reseller: "root", Package: "Gold Plan", UID: 1001, MainDomain: "shop.example"}); shop != want {
		t.Errorf("shop: got %+v, want %+v", shop, want)
	}
	news, _ := m.ByPath("/home2/news/public_html")
	if news.Name != "news" || news.Reseller != "reseller1" {
		t.Errorf("account of /home2/news/public_html: got %+v", news)
	}
	h.wantOwner("www.shop.example", "shop")
	h.wantOwner("old.example", "old") // an old uid: the panel's list is the proof
	h.wantOwner("*", "")
	for name, system := range map[string]bool{"root": true, "nobody": true, "mailnull": true, "daemon2": true, "old": false} {
		if a, found := m.ByName(name); !found || a.System != system {
			t.Errorf("%s: got %+v, %v; want System %v", name, a, found, system)
		}
	}
	if uid, ok := m.EximUID(); uid != 47 || !ok {
		t.Errorf("Exim's uid: got %d, want mailnull's", uid)
	}
	if entry, ok := m.RecentAuth(netip.MustParseAddr("192.0.2.7")); entry != "sales@shop.example|shop.example" || !ok {
		t.Errorf("recent 192.0.2.7: got %q, %v", entry, ok)
	}
	if _, ok := m.RecentAuth(netip.MustParseAddr("2001:db8::7")); !ok {
		t.Error("recent 2001:db8::7: not found")
	}
	for ip, want := range map[string]bool{"198.51.100.77": true, "203.0.113.9": true, "203.0.113.10": false} {
		if got := m.AlwaysRelay(netip.MustParseAddr(ip)); got != want {
			t.Errorf("always relay %s: got %v, want %v", ip, got, want)
		}
	}
	s := w.Status()
	if s.Panel != CPanel || s.Accounts != 3 || s.Domains != 4 || !s.LoadedAt.Equal(h.now) || !s.CheckedAt.Equal(h.now) || len(s.Files) != 8 {
		t.Errorf("status: got %+v", s)
	}
}

func TestSubordinateUIDsAreTheirUsers(t *testing.T) {
	h := cPanelHost(t)
	w := h.watch(Options{})
	want := func(uid uint32, name string) {
		t.Helper()
		if a, _ := w.Map().BySubUID(uid); a.Name != name {
			t.Errorf("account of uid %d: got %q, want %q", uid, a.Name, name)
		}
	}
	if s := w.Status(); s.Files[7].Err != "" {
		t.Errorf("no list of them is a fault: %+v", s.Files[7])
	}
	h.write("/etc/subuid", "shop:100000:65536\n1002:165536:65536\n")
	h.look()
	want(100_000, "shop")
	want(165_536, "news") // by its uid
	want(231_072, "")
	h.write("/etc/subuid", "shop:100000:65536\nnews:165536\n") // half of a line
	h.look()
	want(165_536, "news")
	if s := w.Status(); !strings.Contains(s.Files[7].Err, "line 2") {
		t.Errorf("the bad line is not told: %+v", s.Files[7])
	}
	h.remove("/etc/subuid")
	h.look()
	want(100_000, "")
}

func TestPanelIsDetectedByItsFiles(t *testing.T) {
	for _, tt := range []struct {
		name   string
		files  map[string]string
		source string
		want   string
	}{
		{"cPanel by its version", map[string]string{"/usr/local/cpanel/version": "1\n"}, "", CPanel},
		{"cPanel by its map", map[string]string{"/etc/userdomains": domainsText}, "auto", CPanel},
		{"DirectAdmin by its map", map[string]string{"/etc/virtual/domainowners": domainsText}, "", DirectAdmin},
		{"no panel", nil, "", Passwd},
		{"as the configuration says", map[string]string{"/etc/userdomains": domainsText}, Passwd, Passwd},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHost(t, tt.files)
			h.write("/etc/passwd", passwdText)
			if got := h.watch(Options{Source: tt.source}).Status().Panel; got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestAPanelIsFoundLaterAndNeverLost(t *testing.T) {
	h := newHost(t, map[string]string{"/etc/passwd": passwdText})
	h.watch(Options{})
	h.write("/etc/userdomains", domainsText)
	h.look()
	h.wantOwner("shop.example", "shop")
	h.remove("/etc/userdomains")
	h.look()
	h.wantOwner("shop.example", "shop")
	if s := h.w.Status(); s.Panel != CPanel || s.Files[1].Err == "" {
		t.Errorf("while its map is missing: got %+v", s)
	}
}

func TestDirectAdminsFileMakesTheMap(t *testing.T) {
	h := newHost(t, map[string]string{"/etc/passwd": passwdText, "/etc/virtual/domainowners": "shop.example: shop\nnews.example:news\n"})
	w := h.watch(Options{})
	h.wantOwner("shop.example", "shop")
	h.wantOwner("news.example", "news")
	if uid, ok := w.Map().EximUID(); uid != 8 || !ok {
		t.Errorf("Exim's uid: got %d, want mail's", uid)
	}
}

func TestWithoutAPanelPasswdAndTheConfigurationMakeTheMap(t *testing.T) {
	h := newHost(t, map[string]string{"/etc/passwd": passwdText})
	w := h.watch(Options{Domains: map[string]string{"shop.example": "shop", "old.example": "old"}, EximUser: "daemon2"})
	h.wantOwner("shop.example", "shop")
	h.wantOwner("old.example", "old")
	if s := w.Status(); s.Accounts != 3 || s.Panel != Passwd {
		t.Errorf("status: got %+v, want shop, news and old", s)
	}
	if uid, _ := w.Map().EximUID(); uid != 950 {
		t.Errorf("Exim's uid: got %d, want 950", uid)
	}
}

func TestABrokenFileKeepsWhatItSaidBefore(t *testing.T) {
	long := strings.TrimSuffix(domainsText, "*: nobody\n") + strings.Repeat("pad.example: shop\n", 20)
	for _, tt := range []struct {
		name, text string
		err        string
	}{
		{"a line without a colon", "shop.example: news\nnews.exam", "line 2"},
		{"cut off behind a name", "shop.example: news", "cut off"},
		{"the last bytes cut off within a name", long[:len(long)-len("op\n")], "cut off"},
		{"cut off by the last byte", strings.Replace(long, "shop.example: shop", "shop.example: news", 1)[:len(long)-1], "cut off"},
		{"the later half cut off at the end of a line", "shop.example: news\n", "only 1 entries"},
		{"empty", "", "empty"},
		{"only a comment", "# nothing\n", "empty"},
		{"a line of 5,000 bytes", "shop.example: news\n" + strings.Repeat("x", 5000) + ": a\n", "line 2"},
		{"control bytes", "shop.example: ne\x1bws\n", "line 1"},
		{"a user that is a path", "shop.example: ../../root\n", "line 1"},
		{"missing", "-", "no such file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHost(t, map[string]string{"/etc/passwd": passwdText, "/etc/userdomains": long})
			h.watch(Options{})
			before := h.w.Status()
			if tt.text == "-" {
				h.remove("/etc/userdomains")
			} else {
				h.write("/etc/userdomains", tt.text)
			}
			h.look()
			h.look()
			h.wantOwner("shop.example", "shop")
			h.wantOwner("news.example", "news")
			s := h.w.Status()
			if !strings.Contains(s.Files[1].Err, tt.err) || !s.CheckedAt.Equal(before.CheckedAt) {
				t.Errorf("status: got error %q, checked at %v; want %q, %v", s.Files[1].Err, s.CheckedAt, tt.err, before.CheckedAt)
			}
			if n := strings.Count(h.log.String(), "level=WARN"); n != 1 {
				t.Errorf("said %d times, want once: %s", n, &h.log)
			}
			h.write("/etc/userdomains", strings.Replace(long, "shop.example: shop", "shop.example: old", 1))
			h.look()
			h.wantOwner("shop.example", "old")
			if s := h.w.Status(); s.Files[1].Err != "" || !s.CheckedAt.Equal(h.now) {
				t.Errorf("once it is whole again: got %+v", s)
			}
		})
	}
}

func TestAFileThatStaysShortIsBelievedAfterAMinute(t *testing.T) {
	h := newHost(t, map[string]string{"/etc/passwd": passwdText, "/etc/userdomains": domainsText})
	h.watch(Options{})
	h.write("/etc/userdomains", "shop.example: news\n")
	short := h.now
	for h.now.Sub(short) < shrinkWait {
		h.look()
		h.wantOwner("old.example", "old")
	}
	h.look()
	h.wantOwner("shop.example", "news")
	h.wantOwner("old.example", "")
	if s := h.w.Status(); s.Files[1].Err != "" || !s.CheckedAt.Equal(h.now) {
		t.Errorf("status once it is believed: got %+v", s)
	}
	if n := strings.Count(h.log.String(), "level=WARN"); n != 1 {
		t.Errorf("said %d times, want once: %s", n, &h.log)
	}
}

func TestAFileThatLostAFewEntriesIsBelievedAtOnce(t *testing.T) {
	h := newHost(t, map[string]string{"/etc/passwd": passwdText, "/etc/userdomains": domainsText})
	h.watch(Options{})
	h.write("/etc/userdomains", strings.Replace(domainsText, "old.example: old\n", "", 1))
	h.look()
	h.wantOwner("old.example", "")
}

func TestAFileWithoutAnEndOfLineIsWholeWhenItHasNotShrunk(t *testing.T) {
	h := newHost(t, map[string]string{"/etc/passwd": passwdText, "/etc/userdomains": "shop.example: shop\n"})
	h.watch(Options{})
	h.write("/etc/userdomains", "shop.example: shop\nnews.example: news")
	h.look()
	h.wantOwner("news.example", "news")
}

func TestABrokenLineAtTheStartCostsOnlyItself(t *testing.T) {
	h := newHost(t, map[string]string{"/etc/passwd": passwdText, "/etc/userdomains": "rubbish\nshop.example: shop\n"})
	h.watch(Options{})
	h.wantOwner("shop.example", "shop")
	if s := h.w.Status(); !strings.Contains(s.Files[1].Err, "line 1") || !s.CheckedAt.IsZero() {
		t.Errorf("status: got %+v, want line 1 named", s)
	}
}

func TestListsThatMayBeEmptyAreTakenAsTheyAre(t *testing.T) {
	h := cPanelHost(t)
	h.watch(Options{})
	ip := netip.MustParseAddr("192.0.2.7")
	h.write("/etc/recent_authed_mail_ips", "")
	h.remove("/etc/alwaysrelay")
	h.look()
	if _, ok := h.w.Map().RecentAuth(ip); ok || h.w.Map().AlwaysRelay(netip.MustParseAddr("203.0.113.9")) {
		t.Error("what was removed from the lists still counts")
	}
	if h.log.Len() > 0 {
		t.Errorf("said something: %s", &h.log)
	}
	h.write("/etc/recent_authed_mail_ips", "192.0.2.7\n")
	h.look()
	if _, ok := h.w.Map().RecentAuth(ip); !ok {
		t.Error("what was added does not count")
	}
}

func TestNothingIsRebuiltWithoutAChange(t *testing.T) {
	h := cPanelHost(t)
	h.watch(Options{})
	m := h.w.Map()
	h.look()
	if h.w.Map() != m {
		t.Error("another map without a change")
	}
	if s := h.w.Status(); !s.CheckedAt.Equal(h.now) || s.LoadedAt.Equal(h.now) {
		t.Errorf("status: got %+v, want checked now and loaded before", s)
	}
}

func TestASlowRebuildIsNotRepeatedAtOnce(t *testing.T) {
	h := cPanelHost(t)
	slow := true
	o := Options{Root: h.root, Log: slog.New(slog.DiscardHandler), Now: func() time.Time {
		if slow {
			h.now = h.now.Add(time.Second)
		}
		return h.now
	}}
	h.w = New(o)
	slow = false
	h.write("/etc/userdomains", domainsText+"late.example: shop\n")
	h.look()
	h.wantOwner("late.example", "")
	h.now = h.now.Add(rebuildShare * time.Second)
	h.look()
	h.wantOwner("late.example", "shop")
}

func TestWhatIsNoPlainFileIsNotRead(t *testing.T) {
	h := newHost(t, map[string]string{"/usr/local/cpanel/version": "1\n", "/etc/passwd": passwdText})
	if err := syscall.Mkfifo(filepath.Join(h.root, "etc/userdomains"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(h.root, "etc/trueuserdomains"), 0o755); err != nil {
		t.Fatal(err)
	}
	h.write("/etc/trueuserowners", "")
	if err := os.Truncate(filepath.Join(h.root, "etc/trueuserowners"), maxFile+1); err != nil {
		t.Fatal(err)
	}
	for _, f := range h.watch(Options{}).Status().Files[1:4] {
		if f.Err == "" {
			t.Errorf("%s: no error", f.Path)
		}
	}
}

func TestRunLooksAtEachTickUntilItsEnd(t *testing.T) {
	h := newHost(t, map[string]string{"/etc/passwd": passwdText, "/etc/userdomains": domainsText})
	tick := make(chan time.Time)
	w := New(Options{Root: h.root, Now: func() time.Time { return h.now }, Tick: tick, Log: slog.New(slog.DiscardHandler)})
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { done <- w.Run(ctx) }()
	h.w = w
	h.write("/etc/userdomains", domainsText+"late.example: shop\n")
	tick <- time.Time{}
	tick <- time.Time{} // taken only once the first look is over
	h.wantOwner("late.example", "shop")
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
}

// As on a real cPanel host: the maps are root:mail 0640, and the daemon is in neither.
func TestTheDaemonsUserReadsTheCopies(t *testing.T) {
	dir, err := os.MkdirTemp("", "osm-panel-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	h := cPanelHost(t)
	h.root = filepath.Join(dir, "host")
	for path, text := range map[string]string{"/etc/passwd": passwdText, "/etc/userdomains": domainsText, "/etc/userplans": "shop: secret\n"} {
		h.write(path, text)
	}
	maps := filepath.Join(dir, "maps")
	h.root = dir
	h.write("/maps/userdomains", domainsText)
	h.write("/maps/userplans", "shop: Gold\n")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "program")
	for _, err := range []error{
		os.WriteFile(program, b, 0o755), os.Chmod(dir, 0o755),
		os.Chmod(filepath.Join(dir, "host/etc/userdomains"), 0o640), os.Chown(filepath.Join(dir, "host/etc/userdomains"), 0, 8),
		os.Chmod(filepath.Join(dir, "host/etc/userplans"), 0o640),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(program)
	cmd.Env = []string{"PANEL_TEST_ROOT=" + filepath.Join(dir, "host"), "PANEL_TEST_MAPS=" + maps}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 20001, Gid: 20001}}
	run := func(want string) {
		t.Helper()
		out, err := cmd.CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || !strings.HasPrefix(got, want) {
			t.Errorf("as uid 20001 (needs root): got %q, %v; want %q", got, err, want)
		}
	}
	run("cpanel shop Gold true true")
	late := time.Now().Add(-time.Minute)
	early := late.Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(dir, "host/etc/userdomains"), late, late); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(filepath.Join(dir, "maps/userdomains"), early, early); err != nil {
		t.Fatal(err)
	}
	again := exec.Command(program)
	again.Env, again.SysProcAttr = cmd.Env, cmd.SysProcAttr
	cmd = again
	run("cpanel shop Gold true true the copy " + maps + "/userdomains is 1h0m0s behind")
}

// Where there is no /etc/userplans, the inspector makes the copy of the accounts' files.
func TestPackagesComeFromTheCopyWhereThereIsNoFile(t *testing.T) {
	h := cPanelHost(t)
	h.remove("/etc/userplans")
	h.remove("/etc/alwaysrelay")
	h.write("/maps/userplans", "shop: Gold\n")
	h.write("/maps/alwaysrelay", "198.51.100.0/24\n") // of a file that was removed
	w := h.watch(Options{Maps: filepath.Join(h.root, "maps")})
	if shop, _ := w.Map().ByName("shop"); shop.Package != "Gold" {
		t.Errorf("package %q, want Gold", shop.Package)
	}
	if w.Map().AlwaysRelay(netip.MustParseAddr("198.51.100.7")) {
		t.Error("the copy of a file that is gone is in use")
	}
	h.write("/maps/userplans", "shop: Silver\n")
	h.look()
	if shop, _ := w.Map().ByName("shop"); shop.Package != "Silver" {
		t.Errorf("after a change: package %q, want Silver", shop.Package)
	}
}
