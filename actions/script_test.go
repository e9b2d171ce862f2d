package actions

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"osm/policy"
)

// rootsFolder is a folder whose way from / is root's alone, as that of a script must be; a
// test's own folder lies below /tmp, which everybody can write. It is seen in here alone.
func rootsFolder(t *testing.T) string {
	t.Helper()
	if os.Getenv(insideEnv) == "" {
		t.Fatal("this test becomes other users and mounts: run it as root")
	}
	if err := unix.Mount("osm-test", "/mnt", "tmpfs", 0, "mode=755"); err != nil {
		t.Fatalf("mount a folder of root's: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount("/mnt", unix.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return "/mnt"
}

func program(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// scriptsOf starts an executor with one script, which is a shell's text.
func scriptsOf(t *testing.T, text string, o ScriptOptions) *Executor {
	t.Helper()
	dir := rootsFolder(t)
	o.Command = append([]string{program(t, dir+"/script", "#!/bin/sh\n"+text)}, o.Command...)
	x := blockOptions(t)
	x.Scripts, x.ReportDir = map[string]ScriptOptions{"script": o}, dir+"/reports"
	return startExecutor(t, x)
}

func mustRun(t *testing.T, x *Executor, report string) ScriptResult {
	t.Helper()
	res, err := x.RunScript(t.Context(), Script{Name: "script", Format: "json", Report: []byte(report)})
	if err != nil {
		t.Fatalf("RunScript: %v (it said %q)", err, res.Output)
	}
	return res
}

func TestScriptRunsAsItsUserWithACleanEnvironment(t *testing.T) {
	t.Setenv("SECRET", "of the executor")
	if mine, err := os.Getgroups(); err != nil || len(mine) != len(testGroups) {
		t.Fatalf("root's groups here are %v, %v, want %v", mine, err, testGroups)
	}
	x := scriptsOf(t, `id -u; id -g; id -G; pwd; tr '\0' '\n' </proc/$$/environ; echo "$0 $# $1|$2"; ps -o pid=,sid=,pgid= -p $$ | awk '{print $1==$2 && $2==$3}'; for f in /proc/$$/fd/*; do printf '%s ' "${f##*/}"; done; cat`,
		ScriptOptions{User: "games", Command: []string{"a b; id", "$(id)"}})
	want := "5\n60\n60\n/\nPATH=/usr/sbin:/usr/bin:/sbin:/bin\nLC_ALL=C.UTF-8\nHOME=/usr/games\nUSER=games\nLOGNAME=games\nOSM_REPORT_FORMAT=json\n" +
		"/mnt/script 2 a b; id|$(id)\n1\n0 1 10 2 3 the report; `id`\n" // 3 is the folder that is listed
	if res := mustRun(t, x, "the report; `id`\n"); res.Output != want || res.Exit != 0 {
		t.Errorf("it said %q and exited with %d, want %q and 0", res.Output, res.Exit, want)
	}
}

func TestScriptGetsEveryByteOfTheReport(t *testing.T) {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	big := bytes.Repeat(all, maxReport/len(all))
	for name, o := range map[string]ScriptOptions{"on stdin": {}, "as a file": {File: true}} {
		t.Run(name, func(t *testing.T) {
			x := scriptsOf(t, `sha256sum "$@" | cut -c1-64`, o)
			for _, report := range []string{"", "{}", string(all), string(big)} {
				want := fmt.Sprintf("%x\n", sha256.Sum256([]byte(report)))
				if res := mustRun(t, x, report); res.Output != want {
					t.Errorf("%d bytes: it read %q, want %q", len(report), res.Output, want)
				}
			}
			if _, err := x.RunScript(t.Context(), Script{Name: "script", Report: append(big, 'x')}); err == nil || !executorError(t, err).Refused {
				t.Errorf("a byte more than may be: %v", err)
			}
		})
	}
}

func TestReportFileIsReadableByTheScriptAloneAndRemoved(t *testing.T) {
	x := scriptsOf(t, `stat -c '%U %a %n' "$1"; stat -c '%U %a' "${1%/*}"; ls "${1%/*}" 2>/dev/null || echo hidden; rm -f "$1" 2>/dev/null; test -e "$1" && echo stays; mv "$1" /mnt/reports/x 2>/dev/null; cat "$1"`,
		ScriptOptions{User: "games", File: true})
	res := mustRun(t, x, "the report\n")
	lines := strings.Split(res.Output, "\n")
	if len(lines) != 6 || !strings.HasPrefix(lines[0], "games 400 /mnt/reports/report-") || !strings.HasSuffix(lines[0], ".json") ||
		lines[1] != "root 711" || lines[2] != "hidden" || lines[3] != "stays" || lines[4] != "the report" {
		t.Errorf("it said %q", res.Output)
	}
	if left, _ := os.ReadDir("/mnt/reports"); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestReportsLeftByACrashAreRemoved(t *testing.T) {
	dir := rootsFolder(t)
	o := blockOptions(t)
	o.ReportDir = dir + "/reports"
	for _, name := range []string{"report-abc.json", "other"} {
		if err := os.MkdirAll(o.ReportDir, 0o711); err != nil {
			t.Fatal(err)
		}
		program(t, filepath.Join(o.ReportDir, name), "")
	}
	if _, err := startExecutor(t, o).Records(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(o.ReportDir); len(left) != 1 || left[0].Name() != "other" {
		t.Errorf("left: %v, want only what is no report", left)
	}
}

func TestReportsAreNotWrittenWhereOthersCanWrite(t *testing.T) {
	for name, spoil := range map[string]func(dir string) error{
		"open to others": func(dir string) error { return os.Chmod(dir, 0o777) },
		"another user's": func(dir string) error { return os.Chown(dir, 5, 60) },
		"a link to such": func(dir string) error {
			return cmpErr(os.Remove(dir), os.Symlink("/tmp", dir))
		},
		"a file": func(dir string) error { return cmpErr(os.Remove(dir), os.WriteFile(dir, nil, 0o600)) },
	} {
		t.Run(name, func(t *testing.T) {
			x := scriptsOf(t, "echo ran", ScriptOptions{File: true})
			if err := os.Mkdir("/mnt/reports", 0o711); err != nil {
				t.Fatal(err)
			}
			if err := spoil("/mnt/reports"); err != nil {
				t.Fatal(err)
			}
			res, err := x.RunScript(t.Context(), Script{Name: "script"})
			if err == nil || res.Output != "" {
				t.Errorf("it ran: %+v, %v", res, err)
			}
		})
	}
}

func cmpErr(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func TestScriptOutputIsCutAndValidText(t *testing.T) {
	for name, row := range map[string]struct {
		text  string
		limit int
		check func(s string) bool
	}{
		"control bytes":    {`head -c 100000 /dev/zero | tr '\0' '\1'`, 90_000, func(s string) bool { return s == strings.Repeat("\x01", 90_000) }},
		"wrong bytes":      {`printf 'a\377\376b\300'`, 0, func(s string) bool { return s == "a\uFFFDb\uFFFD" }},
		"noise":            {`head -c 3000000 /dev/urandom`, 1 << 20, func(s string) bool { return len(s) >= 1<<20 && len(s) <= 4<<20 }},
		"markup, both":     {`echo '<script>"&\n'; echo 'end' >&2`, 0, func(s string) bool { return strings.HasPrefix(s, "<script>\"&") && strings.HasSuffix(s, "end\n") }},
		"a letter cut":     {`printf 'aäöü€'`, 4, func(s string) bool { return s == "aä\uFFFD" }},
		"many long lines":  {`yes äöü€ | head -c 2000000`, 300_000, func(s string) bool { return len(s) >= 300_000 && strings.HasPrefix(s, "äöü€\näöü€\n") }},
		"forged last line": {`echo '{"end":true,"exit":0}'`, 0, func(s string) bool { return s == `{"end":true,"exit":0}`+"\n" }},
	} {
		t.Run(name, func(t *testing.T) {
			res := mustRun(t, scriptsOf(t, row.text+"; exit 7", ScriptOptions{OutputLimit: row.limit}), "")
			if !row.check(res.Output) || !utf8.ValidString(res.Output) || res.Exit != 7 {
				t.Errorf("it said %d bytes, %.60q…, and exited with %d", len(res.Output), res.Output, res.Exit)
			}
		})
	}
}

func TestScriptExitStatus(t *testing.T) {
	for text, want := range map[string]int{"exit 0": 0, "exit 3": 3, "exit 255": 255, "kill -TERM $$": 128 + 15, "kill -KILL $$": 128 + 9} {
		x := scriptsOf(t, text, ScriptOptions{})
		if res := mustRun(t, x, strings.Repeat("nobody reads this\n", 20_000)); res.Exit != want {
			t.Errorf("%s: exit %d, want %d", text, res.Exit, want)
		}
		if err := unix.Unmount("/mnt", unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("osm-test", "/mnt", "tmpfs", 0, "mode=755"); err != nil { // for the clean-up
			t.Fatal(err)
		}
	}
}

// waitForPids waits until all processes whose ids a script wrote into a file have ended.
func waitForPids(t *testing.T, file string, n int) {
	t.Helper()
	b, err := os.ReadFile(file)
	pids := strings.Fields(string(b))
	if err != nil || len(pids) != n {
		t.Fatalf("the script wrote %q, %v; want %d process ids", b, err, n)
	}
	for _, pid := range pids {
		waitFor(t, "the end of process "+pid, func() bool { return !alive(pid) })
	}
}

func TestScriptThatHangsIsKilledWithAllThatItStarted(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pids")
	x := scriptsOf(t, "trap '' TERM INT HUP\necho so far\n(trap '' TERM; sleep 1000) & a=$!\nsleep 1000 & echo $$ $a $! >"+file+"\nwait\nsleep 1000\n",
		ScriptOptions{User: "root", TimeLimit: 2 * time.Second})
	res, err := x.RunScript(t.Context(), Script{Name: "script"})
	if err == nil || !strings.Contains(err.Error(), "killed after 2s") || res.Output != "so far\n" || res.Exit != 128+9 {
		t.Errorf("RunScript = %+v, %v", res, err)
	}
	waitForPids(t, file, 3)
}

// It may be Exim, which delivers what the script mailed.
func TestWhatAScriptLeavesRunningGoesOn(t *testing.T) {
	x := scriptsOf(t, "(until test -e /mnt/go; do sleep 0.02; done; touch /mnt/went) >/dev/null 2>&1 & echo done", ScriptOptions{User: "root"})
	if res := mustRun(t, x, ""); res.Output != "done\n" || res.Exit != 0 {
		t.Errorf("RunScript = %+v", res)
	}
	program(t, "/mnt/go", "")
	waitFor(t, "the end of what the script began", func() bool { return fileExists("/mnt/went") })
}

// Who keeps the output open is not waited for.
func TestScriptThatKeepsItsOutputOpenEndsAllTheSame(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pids")
	x := scriptsOf(t, "setsid sh -c 'echo $$ >"+file+"; exec sleep 1000' & until test -s "+file+"; do sleep 0.01; done; echo done", ScriptOptions{User: "root"})
	began := time.Now()
	res := mustRun(t, x, "")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	fmt.Sscan(string(b), &pid)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Errorf("end what the script left: %v", err)
	}
	if took := time.Since(began); res.Output != "done\n" || took > 15*time.Second {
		t.Errorf("RunScript = %+v after %v", res, took)
	}
}

func TestScriptEndsWithTheExecutor(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pids")
	done := make(chan error, 1)
	t.Run("executor", func(t *testing.T) {
		x := scriptsOf(t, "sleep 1000 & echo $$ $! >"+file+".new; mv "+file+".new "+file+"; wait", ScriptOptions{User: "root"})
		go func() {
			_, err := x.RunScript(context.Background(), Script{Name: "script"})
			done <- err
		}()
		waitFor(t, "the script's start", func() bool { return fileExists(file) })
	})
	if err := <-done; err == nil {
		t.Error("it passed for run")
	}
	waitForPids(t, file, 2)
}

func TestOnlyPrograms0fRootsAloneAreRun(t *testing.T) {
	for name, prepare := range map[string]func() (string, error){
		"a program that its group can write": func() (string, error) { return "/mnt/script", os.Chmod("/mnt/script", 0o775) },
		"a program that everybody can write": func() (string, error) { return "/mnt/script", os.Chmod("/mnt/script", 0o757) },
		"a program of another user's":        func() (string, error) { return "/mnt/script", os.Chown("/mnt/script", 5, 60) },
		"a program in another user's folder": func() (string, error) { return "/mnt/script", os.Chown("/mnt", 5, 60) },
		"a program in a folder open to all":  func() (string, error) { return "/mnt/script", os.Chmod("/mnt", 0o1777) },
		"a link of another user's": func() (string, error) {
			return "/mnt/l", cmpErr(os.Symlink("script", "/mnt/l"), os.Lchown("/mnt/l", 5, 60))
		},
		"a link through a folder open to all": func() (string, error) {
			return "/mnt/l", cmpErr(os.Mkdir("/mnt/open", 0o755), os.Chmod("/mnt/open", 0o777), os.Symlink("/mnt/script", "/mnt/open/s"), os.Symlink("open/s", "/mnt/l"))
		},
		"a link in the middle to such": func() (string, error) {
			return "/mnt/l/script", cmpErr(os.Mkdir("/mnt/open", 0o777), os.Chmod("/mnt/open", 0o777), os.WriteFile("/mnt/open/script", []byte("#!/bin/sh\necho ran\n"), 0o755), os.Symlink("/mnt/a/../open", "/mnt/l"), os.Mkdir("/mnt/a", 0o755))
		},
		"a link to itself":    func() (string, error) { return "/mnt/l", os.Symlink("l", "/mnt/l") },
		"no program":          func() (string, error) { return "/mnt/script", os.Chmod("/mnt/script", 0o644) },
		"a folder":            func() (string, error) { return "/mnt", nil },
		"nothing":             func() (string, error) { return "/mnt/nothing", nil },
		"no absolute path":    func() (string, error) { return "script", nil },
		"a program in a file": func() (string, error) { return "/mnt/script/x", nil },
	} {
		t.Run(name, func(t *testing.T) {
			dir := rootsFolder(t)
			program(t, dir+"/script", "#!/bin/sh\necho ran\n")
			path, err := prepare()
			if err != nil {
				t.Fatal(err)
			}
			for _, user := range []string{"root", "games"} {
				o := blockOptions(t)
				o.Scripts = map[string]ScriptOptions{"script": {Command: []string{path}, User: user}}
				if res, err := startExecutor(t, o).RunScript(t.Context(), Script{Name: "script"}); err == nil || res.Output != "" {
					t.Errorf("as %s it ran: %+v, %v", user, res, err)
				}
			}
		})
	}
}

func TestLinksOfRootsAreFollowed(t *testing.T) {
	dir := rootsFolder(t)
	program(t, dir+"/script", "#!/bin/sh\necho ran $0\n")
	if err := cmpErr(os.Mkdir("/mnt/a", 0o755), os.Symlink("../a/../script", "/mnt/a/relative"), os.Symlink("/mnt/a/relative", "/mnt/absolute"), os.Symlink("a", "/mnt/folder")); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/mnt/a/relative", "/mnt/absolute", "/mnt/folder/relative", "/mnt//folder/../script"} {
		o := blockOptions(t)
		o.Scripts = map[string]ScriptOptions{"script": {Command: []string{path}}}
		if res, err := startExecutor(t, o).RunScript(t.Context(), Script{Name: "script"}); err != nil || res.Output != "ran "+path+"\n" {
			t.Errorf("%s: %+v, %v", path, res, err)
		}
	}
}

// As root, a script of somebody else's is no argument for root's interpreter.
func TestArgumentsOfARootScriptAreRootsAlone(t *testing.T) {
	dir := rootsFolder(t)
	program(t, dir+"/own", "echo ran\n")
	program(t, dir+"/other", "echo ran\n")
	if err := os.Chown(dir+"/other", 5, 60); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		user, file string
		ran        bool
	}{{"root", "/own", true}, {"root", "/other", false}, {"games", "/other", true}, {"no-such-user", "/own", false}} {
		o := blockOptions(t)
		o.Scripts = map[string]ScriptOptions{"script": {Command: []string{"/bin/sh", dir + row.file}, User: row.user}}
		res, err := startExecutor(t, o).RunScript(t.Context(), Script{Name: "script"})
		if (res.Output == "ran\n") != row.ran || (err == nil) != row.ran {
			t.Errorf("%s as %s: %+v, %v; want it run: %v", row.file, row.user, res, err, row.ran)
		}
	}
}

func TestScriptsThatAreNotAskedForRightlyAreNotRun(t *testing.T) {
	dir := rootsFolder(t)
	o := blockOptions(t)
	o.Scripts = map[string]ScriptOptions{"script": {Command: []string{program(t, dir+"/script", "#!/bin/sh\ntouch /mnt/ran\n")}, User: "root"}}
	x := startExecutor(t, o)
	for name, s := range map[string]Script{
		"another name": {Name: "other"}, "no name": {}, "a path": {Name: dir + "/script"}, "a format": {Name: "script", Format: "json; id"},
	} {
		if _, err := x.RunScript(t.Context(), s); err == nil {
			t.Errorf("%s: it ran", name)
		}
	}
	for name, text := range map[string]string{
		"a command":                  `{"verb":"run-script","script":{"name":"script","command":["/bin/sh"]}}` + "\n",
		"another user":               `{"verb":"run-script","script":{"name":"script","user":"root"}}` + "\n",
		"no script":                  `{"verb":"run-script"}` + "\n",
		"a report in the line":       `{"verb":"run-script","script":{"name":"script","report":"e30="}}` + "\n",
		"less report than promised":  `{"verb":"run-script","script":{"name":"script"},"body":9}` + "\n{}",
		"more report than may be":    fmt.Sprintf(`{"verb":"run-script","script":{"name":"script"},"body":%d}`+"\n", maxReport+1),
		"a negative report":          `{"verb":"run-script","script":{"name":"script"},"body":-1}` + "\n",
		"a report for another verb":  `{"verb":"records","body":2}` + "\n{}",
		"a line as long as a report": `{"verb":"run-script","script":{"name":"` + strings.Repeat("x", maxRequest) + `"}}` + "\n",
	} {
		c, err := net.Dial("unix", x.socket)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(10 * time.Second))
		c.Write([]byte(text)) // the rest of it may be refused
		c.(*net.UnixConn).CloseWrite()
		var b bytes.Buffer
		b.ReadFrom(c)
		c.Close()
		if got := b.String(); got != "" && !strings.Contains(got, `"error"`) {
			t.Errorf("%s: answer %.200q, want an error", name, got)
		}
	}
	o.Actions = []string{policy.ActionBlockIP}
	if _, err := startExecutor(t, o).RunScript(t.Context(), Script{Name: "script"}); err == nil || !executorError(t, err).Refused {
		t.Errorf("with run-script not among the actions: %v", err)
	}
	if fileExists("/mnt/ran") {
		t.Error("it ran all the same")
	}
}

func TestScriptsAreBrakedByTheHour(t *testing.T) {
	dir := rootsFolder(t)
	now := time.Unix(1_800_000_000, 0)
	o := blockOptions(t)
	o.Now, o.Rates = func() time.Time { return now }, map[string]int{policy.ActionRunScript: 2}
	o.Scripts = map[string]ScriptOptions{"script": {Command: []string{program(t, dir+"/script", "#!/bin/sh\n")}}}
	x := startExecutor(t, o)
	mustRun(t, x, "")
	now = now.Add(time.Minute)
	mustRun(t, x, "")
	_, err := x.RunScript(t.Context(), Script{Name: "script"})
	if after, busy := Busy(err); !busy || after != 59*time.Minute || !executorError(t, err).Braked {
		t.Errorf("the third within an hour: %v", err)
	}
	now = now.Add(59 * time.Minute)
	mustRun(t, x, "")
}

func TestScriptsThatHangLeaveRoomForEverythingElse(t *testing.T) {
	dir := rootsFolder(t)
	c := newCSF(t, "")
	o := c.options()
	o.Scripts = map[string]ScriptOptions{
		"script": {Command: []string{program(t, dir+"/script", "#!/bin/sh\necho >>/mnt/began\nuntil test -e /mnt/end; do sleep 0.02; done\n")}, User: "root", TimeLimit: time.Minute},
	}
	x := startExecutor(t, o)
	var wg sync.WaitGroup
	for range scriptsAtOnce {
		wg.Go(func() {
			if _, err := x.RunScript(t.Context(), Script{Name: "script"}); err != nil {
				t.Errorf("a script of those that have room: %v", err)
			}
		})
	}
	waitFor(t, "the start of the scripts", func() bool {
		b, _ := os.ReadFile("/mnt/began")
		return len(b) == scriptsAtOnce
	})
	_, err := x.RunScript(t.Context(), Script{Name: "script"})
	if _, busy := Busy(err); !busy || executorError(t, err).Braked {
		t.Errorf("one script more than have room: %v, want to be asked again", err)
	}
	r := mustApply(t, x, blockRequest("203.0.113.2", time.Hour))
	mustUndo(t, x, r.ID)
	program(t, dir+"/end", "")
	wg.Wait()
	mustRun(t, x, "")
}

// Under systemd a script runs in a unit of its own.
func TestScriptUnderSystemd(t *testing.T) {
	r := scriptRun{user: scriptUser{uid: 5, gid: 60}, env: []string{"HOME=/a$b", "LC_ALL=C.UTF-8"}, limit: 30 * time.Second}
	got := strings.Join(r.unit("u.service", []string{"/bin/x", "-a", "$HOME"}), " ")
	want := "/usr/bin/systemd-run --quiet --collect --wait --pipe --unit=u.service --uid=5 --gid=60 --property=RuntimeMaxSec=35 --property=TimeoutStopSec=1 --property=KillMode=process" +
		" --property=WorkingDirectory=/ -- /usr/bin/env -i HOME=/a$$b LC_ALL=C.UTF-8 /bin/x -a $$HOME"
	if got != want {
		t.Errorf("unit:\n got %s\nwant %s", got, want)
	}
}
