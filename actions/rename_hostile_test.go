package actions

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestRenameRefusesWhatIsNotTheAccountsOwn(t *testing.T) {
	const at = "/home/shop/d/x.php"
	file := func(h *homes) { h.file(at, shopUID, 0o644) }
	link := func(path, target string) func(*homes) {
		return func(h *homes) { h.must(os.MkdirAll(filepath.Dir(path), 0o755)); h.symlink(target, path, shopUID) }
	}
	type row struct {
		name, action, account, path string
		prepare                     func(*homes)
		says                        string
	}
	rows := []row{
		{"a symbolic link to the account's own file", renameScript, "shop", "/home/shop/link", func(h *homes) { file(h); link("/home/shop/link", at)(h) }, "is a symbolic link"},
		{"a symbolic link to a system's file", renameScript, "shop", "/home/shop/link", link("/home/shop/link", "/etc/passwd"), "is a symbolic link"},
		{"a symbolic link to a folder", renamePath, "shop", "/home/shop/link", link("/home/shop/link", "/home/blog"), "is a symbolic link"},
		{"a FIFO", renameScript, "shop", "/home/shop/fifo", func(h *homes) { h.must(mkfifo("/home/shop/fifo", shopUID)) }, "is no file"},
		{"a device", renameScript, "shop", "/home/shop/null", func(h *homes) {
			h.must(errors.Join(unix.Mknod("/home/shop/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))), os.Chown("/home/shop/null", shopUID, shopUID)))
		}, "is no file"},
		{"a folder as a script", renameScript, "shop", "/home/shop/d", file, "is no file"},
		{"a script as a folder", renamePath, "shop", at, file, "is no folder"},
		{"another user's file in the home", renameScript, "shop", at, func(h *homes) { h.file(at, blogUID, 0o666) }, "belongs to uid 4712"},
		{"root's folder in the home", renamePath, "shop", "/home/shop/d", func(h *homes) { h.folder("/home/shop/d", 0, 0o777) }, "belongs to uid 0"},
		{"a hard link to another user's file", renameScript, "shop", "/home/shop/hard", func(h *homes) {
			h.file("/home/blog/x.php", blogUID, 0o666)
			h.must(os.Link("/home/blog/x.php", "/home/shop/hard"))
		}, "belongs to uid 4712"},
		{"a hard link to the account's own file elsewhere", renameScript, "shop", "/home/shop/hard", func(h *homes) {
			h.file("/home/elsewhere/x.php", shopUID, 0o644)
			h.must(os.Link("/home/elsewhere/x.php", "/home/shop/hard"))
		}, "has 2 names"},
		{"a script in a folder of root's", renameScript, "shop", at, func(h *homes) { file(h); h.must(os.Chown("/home/shop/d", 0, 0)) }, "may not go or change names"},
		{"a script in a folder that the account may not enter", renameScript, "shop", at, func(h *homes) {
			file(h)
			h.must(os.Chown("/home/shop/d", 0, 0))
			h.must(os.Chmod("/home/shop/d", 0o700))
		}, "may not go or change names"},
		{"a path that leaves the home", renameScript, "shop", "/home/shop/../blog/x.php", func(h *homes) { h.file("/home/blog/x.php", shopUID, 0o644) }, `has ".." in it`},
		{"a path that leaves the home and comes back", renameScript, "shop", "/home/shop/../shop/d/x.php", file, `has ".." in it`},
		{"another account's home", renameScript, "shop", "/home/blog/x.php", func(h *homes) { h.file("/home/blog/x.php", shopUID, 0o644) }, "is not in the home"},
		{"a home whose name begins the same", renameScript, "shop", "/home/shopper/x.php", func(h *homes) { h.file("/home/shopper/x.php", shopUID, 0o644) }, "is not in the home"},
		{"a file of the system", renameScript, "shop", "/etc/passwd", func(*homes) {}, "is not in the home"},
		{"a path that is not absolute", renameScript, "shop", "home/shop/d/x.php", file, "is not absolute"},
		{"no path", renameScript, "shop", "", file, "is not absolute"},
		{"a path with a zero in it", renameScript, "shop", at + "\x00/etc", file, "is no path"},
		{"a path with a zero and bytes that are no text", renameScript, "shop", at + "\x00\xff", file, "is no path"},
		{"a path that is only said to be coded", renameScript, "shop", "base64:!", file, "is no path"},
		{"root", renameScript, "root", "/root/x", func(*homes) {}, "is a system user"},
		{"a user with a system's uid", renameScript, "daemon", "/usr/sbin/x", func(*homes) {}, "is a system user"},
		{"nobody known", renameScript, "no-such-user", at, file, "is no user"},
		{"no account", renameScript, "", at, file, "is no account"},
		{"a file system that is mounted in the home", renamePath, "shop", "/home/shop/m/d", func(h *homes) {
			h.folder("/home/shop/m", shopUID, 0o755)
			h.mount("tmpfs", "/home/shop/m", "tmpfs", 0, "")
			h.folder("/home/shop/m", shopUID, 0o755)
			h.folder("/home/shop/m/d", shopUID, 0o755)
		}, "was mounted in the home"},
		{"the place where a file system is mounted", renamePath, "shop", "/home/shop/m", func(h *homes) {
			h.folder("/home/shop/m", shopUID, 0o755)
			h.mount("tmpfs", "/home/shop/m", "tmpfs", 0, "")
			h.folder("/home/shop/m", shopUID, 0o755)
		}, "was mounted in the home"},
		{"a folder that is mounted on a part of the home", renamePath, "shop", "/home/shop/m", func(h *homes) {
			h.folder("/home/shop/m", shopUID, 0o755)
			h.folder("/home/elsewhere", shopUID, 0o755)
			h.mount("/home/elsewhere", "/home/shop/m", "", unix.MS_BIND, "")
		}, "was mounted in the home"},
		{"a home that is reached through a folder that others may write", renameScript, "open", "/home/everybody/open/x", func(h *homes) {
			h.file("/home/everybody/open/x", 4715, 0o644)
			h.must(unix.Chmod("/home/everybody", 0o1777))
			h.must(os.Chown("/home/everybody", 0, 0))
		}, "can be changed by others than root"},
		{"a home that is reached through another user's folder", renameScript, "open", "/home/everybody/open/x", func(h *homes) { h.file("/home/everybody/open/x", 4715, 0o644) }, "can be changed by others than root"},
		{"a home that is reached through a link in a folder that others may write", renameScript, "open", "/home/everybody/open/x", func(h *homes) {
			h.folder("/home/goal", 0, 0o755)
			h.file("/home/goal/x", 4715, 0o644)
			h.folder("/home/everybody", 0, 0o1777)
			h.symlink("/home/goal", "/home/everybody/open", 0)
		}, "can be changed by others than root"},
		{"a home that is reached through a folder that its group may write", renameScript, "open", "/home/everybody/open/x", func(h *homes) {
			h.file("/home/everybody/open/x", 4715, 0o644)
			h.must(errors.Join(os.Chown("/home/everybody", 0, 4715), unix.Chmod("/home/everybody", 0o775)))
		}, "can be changed by others than root"},
		{"a home that is another user's link", renameScript, "lured", "/home/lured/x", func(h *homes) {
			h.file("/home/goal/x", 4716, 0o644)
			h.symlink("/home/goal", "/home/lured", 4716)
		}, "belongs to uid 4716"},
		{"a home that links to itself", renameScript, "lured", "/home/lured/x", func(h *homes) { h.symlink("lured", "/home/lured", 0) }, "too many links"},
		{"a home that is a link of root's to the root", renamePath, "lured", "/home/lured/d", func(h *homes) { h.symlink("/", "/home/lured", 0) }, "is /"},
		{"a home that is a file", renameScript, "lured", "/home/lured/x", func(h *homes) { h.file("/home/lured", 4716, 0o644) }, "is no folder"},
		{"a home that is somebody else's", renameScript, "taken", "/home/taken/x", func(h *homes) { h.file("/home/taken/x", blogUID, 0o644) }, "belongs to uid 4712"},
		{"a home that is not there", renameScript, "absent", "/home/absent/x", func(*homes) {}, "is not there"},
	}
	// Symbolic links at every depth, to where the same path leads to a file of the account's.
	for depth := 1; depth <= 4; depth++ {
		parts := []string{"a", "b", "c", "d"}
		parts[depth-1] = "link"
		rows = append(rows, row{fmt.Sprintf("a symbolic link at depth %d", depth), renameScript, "shop", "/home/shop/" + strings.Join(parts, "/") + "/x.php", func(h *homes) {
			above := "/home/shop/" + strings.Join(parts[:depth-1], "/")
			h.must(os.MkdirAll(above, 0o755))
			h.symlink("/home/outside", filepath.Join(above, "link"), shopUID)
			h.file("/home/outside/"+strings.Join(append(parts[depth:], "x.php"), "/"), shopUID, 0o644)
		}, "through a symbolic link"})
	}
	for _, tt := range rows {
		t.Run(tt.name, func(t *testing.T) {
			h := newHomes(t)
			tt.prepare(h)
			before := h.tree("/home")
			r, err := h.apply(tt.action, tt.account, tt.path)
			if !isRefused(err) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("record %+v, %v; want a refusal that says %q", r, err, tt.says)
			}
			h.same("after the refusal", before, h.tree("/home"))
			if all := h.records(); len(all) != 0 {
				t.Errorf("written down all the same: %+v", all)
			}
		})
	}
}

func TestRenameLeavesAloneWhatIsNotThere(t *testing.T) {
	h := newHomes(t)
	for _, p := range []string{"/home/shop/x", "/home/shop/a/b/x", "/home/shop/" + strings.Repeat("n", 300)} {
		if _, err := h.apply(renameScript, "shop", p); !isLeftAlone(err) {
			t.Errorf("%.40s: %v, want left alone", p, err)
		}
	}
	if all := h.records(); len(all) != 0 {
		t.Errorf("written down: %+v", all)
	}
}

func TestRenameTakesNoMoreThanAnAccountAndAPath(t *testing.T) {
	h := newHomes(t)
	h.file("/home/shop/x", shopUID, 0o644)
	for name, c := range map[string]Change{
		"a mailbox":  {Mailbox: "a@shop.example"},
		"an address": {IP: "192.0.2.1"},
	} {
		c.Action, c.Account, c.Path = renameScript, "shop", "/home/shop/x"
		if _, err := h.x.Apply(t.Context(), c); !isRefused(err) {
			t.Errorf("%s: %v, want a refusal", name, err)
		}
	}
}

// A home that belongs to root, as some panels have it, is one too; the account cannot
// change what is directly in it.
func TestRenameInAHomeOfRoots(t *testing.T) {
	h := newHomes(t)
	h.folder("/home/webs", 0, 0o755)
	h.file("/home/webs/htdocs/x.php", 4719, 0o644)
	before := h.tree("/home")
	r, err := h.apply(renameScript, "webs", "/home/webs/htdocs/x.php")
	h.must(err)
	h.undo(r)
	h.folder("/home/webs/top", 4719, 0o755)
	if _, err := h.apply(renamePath, "webs", "/home/webs/top"); !isRefused(err) {
		t.Errorf("directly in it: %v, want a refusal", err)
	}
	h.must(os.Remove("/home/webs/top"))
	h.same("after the undo", before, h.tree("/home"))
}

// A home below a folder of root's in /tmp: it cannot be exchanged either.
func TestRenameInAHomeBelowAStickyFolder(t *testing.T) {
	h := newHomes(t)
	h.folder("/home/everybody", 0, 0o1777)
	h.folder("/home/everybody/roots", 0, 0o755)
	h.file("/home/everybody/roots/sticky/x.php", 4720, 0o644)
	r, err := h.apply(renameScript, "sticky", "/home/everybody/roots/sticky/x.php")
	h.must(err)
	h.undo(r)
}

// swaps has somebody exchange pairs of paths until the test's own work has been done, as
// often as he can.
func swaps(t *testing.T, pairs [][2]string, work func()) (times int) {
	t.Helper()
	stop := make(chan struct{})
	var hostile sync.WaitGroup
	hostile.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			for _, p := range pairs {
				if unix.Renameat2(unix.AT_FDCWD, p[0], unix.AT_FDCWD, p[1], unix.RENAME_EXCHANGE) == nil {
					times++
				}
			}
		}
	})
	work()
	close(stop)
	hostile.Wait()
	return times
}

func rounds() int {
	if testing.Short() {
		return 100
	}
	return 300
}

// TestRenameTouchesNothingOutsideWhileTheOwnerSwaps: everything outside belongs to the
// account, too, or may be written by it: nothing but the way it is opened protects it.
func TestRenameTouchesNothingOutsideWhileTheOwnerSwaps(t *testing.T) {
	for _, tt := range []struct {
		name, action, path string
		prepare            func(*homes) [][2]string
	}{
		{"the folder of a script and a link to a folder outside", renameScript, "/home/shop/a/b/x.php", func(h *homes) [][2]string {
			h.symlink("/home/outside", "/home/shop/a/link", shopUID)
			return [][2]string{{"/home/shop/a/b", "/home/shop/a/link"}}
		}},
		{"every folder on the way and links", renameScript, "/home/shop/a/b/x.php", func(h *homes) [][2]string {
			h.symlink("/home/outside", "/home/shop/a/link", shopUID)
			h.symlink("/home/outside/a", "/home/shop/link", shopUID)
			return [][2]string{{"/home/shop/a/b", "/home/shop/a/link"}, {"/home/shop/a", "/home/shop/link"}}
		}},
		{"the script and a link to one outside", renameScript, "/home/shop/a/b/x.php", func(h *homes) [][2]string {
			h.symlink("/home/outside/x.php", "/home/shop/a/b/link", shopUID)
			return [][2]string{{"/home/shop/a/b/x.php", "/home/shop/a/b/link"}}
		}},
		{"the script and a hard link to another user's file", renameScript, "/home/shop/a/b/x.php", func(h *homes) [][2]string {
			h.must(os.Link("/home/outside/theirs", "/home/shop/a/b/hard"))
			return [][2]string{{"/home/shop/a/b/x.php", "/home/shop/a/b/hard"}}
		}},
		{"the script and a FIFO", renameScript, "/home/shop/a/b/x.php", func(h *homes) [][2]string {
			h.must(mkfifo("/home/shop/a/b/fifo", shopUID))
			return [][2]string{{"/home/shop/a/b/x.php", "/home/shop/a/b/fifo"}}
		}},
		{"the script and another script", renameScript, "/home/shop/a/b/x.php", func(h *homes) [][2]string {
			h.file("/home/shop/a/b/other.php", shopUID, 0o600)
			return [][2]string{{"/home/shop/a/b/x.php", "/home/shop/a/b/other.php"}}
		}},
		{"the folder and a link to one outside", renamePath, "/home/shop/a/b", func(h *homes) [][2]string {
			h.symlink("/home/outside", "/home/shop/a/link", shopUID)
			return [][2]string{{"/home/shop/a/b", "/home/shop/a/link"}}
		}},
		{"the folder above and a link to one outside", renamePath, "/home/shop/a/b", func(h *homes) [][2]string {
			h.symlink("/home/outside/a", "/home/shop/link", shopUID)
			return [][2]string{{"/home/shop/a", "/home/shop/link"}}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHomes(t)
			h.file("/home/shop/a/b/x.php", shopUID, 0o644)
			for _, p := range []string{"x.php", "b/x.php", "a/x.php", "a/b/x.php"} {
				h.file("/home/outside/"+p, shopUID, 0o644)
			}
			h.file("/home/outside/theirs", blogUID, 0o666)
			pairs := tt.prepare(h)
			outside, inside := h.tree("/home/outside"), objects(h.tree("/home/shop"))
			done := 0
			times := swaps(t, pairs, func() {
				for range rounds() {
					if r, err := h.apply(tt.action, "shop", tt.path); err == nil {
						done++
						h.x.Undo(t.Context(), r.ID) // perhaps refused, or it finds nothing: the owner has moved it
					}
				}
			})
			h.same("outside", outside, h.tree("/home/outside"))
			if done == 0 || times < 10 {
				t.Errorf("renamed %d times while there were %d swaps: this tested nothing", done, times)
			}
			for _, r := range h.records() {
				h.x.Undo(t.Context(), r.ID)
			}
			if got := objects(h.tree("/home/shop")); !maps.Equal(got, inside) {
				t.Errorf("inside there is\n%v, want\n%v", got, inside)
			}
		})
	}
}

// objects is what there is in a tree, whatever its name and mode.
func objects(tree map[string]string) map[string]int {
	out := map[string]int{}
	for _, what := range tree {
		_, rest, _ := strings.Cut(what, " ")
		out[rest]++
	}
	return out
}

// What was put in the place of the object between the look and the rename is put back.
func TestRenamePutsBackWhatItDidNotMean(t *testing.T) {
	h := newHomes(t)
	h.file("/home/shop/x.php", shopUID, 0o644)
	h.file("/home/shop/other.php", shopUID, 0o644)
	before := h.tree("/home")
	a := account{name: "shop", uid: shopUID, gid: shopUID, home: "/home/shop"}
	_, err := inHome(t.Context(), time.Minute, a, func(home *home) (any, error) {
		s := spot{below: []string{"x.php"}, mode: 0o644}
		parent, err := s.parent(home)
		if err != nil {
			return nil, err
		}
		defer parent.close()
		other, err := open(home.fd, []string{"other.php"}, 0)
		if err != nil {
			return nil, err
		}
		defer other.close()
		s.id = identityOf(&other.st)
		return nil, s.move(parent, home, "x.php", blocked+"aaaaaaaaaaaa")
	})
	if !errors.Is(err, errSwapped) {
		t.Errorf("%v, want %v", err, errSwapped)
	}
	h.same("afterwards", before, h.tree("/home"))
}

func TestRenameHasTheAccountsRightsAndNoMore(t *testing.T) {
	h := newHomes(t)
	h.file("/home/shop/mine", shopUID, 0o600)
	h.file("/home/shop/roots", 0, 0o600)
	h.file("/home/shop/grouped", 0, 0)
	h.must(errors.Join(os.Chown("/home/shop/grouped", 0, 0), unix.Chmod("/home/shop/grouped", 0o660)))
	a := account{name: "shop", uid: shopUID, gid: shopUID, home: "/home/shop"}
	for range 50 {
		_, err := inHome(t.Context(), time.Minute, a, func(*home) (any, error) {
			if _, err := os.ReadFile("/home/shop/mine"); err != nil {
				return nil, err
			}
			for _, p := range []string{"/home/shop/roots", "/home/shop/grouped"} {
				if _, err := os.ReadFile(p); !errors.Is(err, os.ErrPermission) {
					return nil, fmt.Errorf("%s: %v, want that it may not", p, err)
				}
			}
			return nil, nil
		})
		h.must(err)
	}
	waitFor(t, "every thread that had them to end", func() bool {
		threads, err := filepath.Glob("/proc/self/task/*/status")
		h.must(err)
		for _, p := range threads {
			if b, err := os.ReadFile(p); err == nil && !strings.Contains(string(b), "\nUid:\t0\t0\t0\t0\n") {
				return false
			}
		}
		return len(threads) > 0
	})
}

func TestRenameDoesNotWaitForAFileSystemForEver(t *testing.T) {
	newHomes(t)
	a := account{name: "shop", uid: shopUID, gid: shopUID, home: "/home/shop"}
	release, ended := make(chan struct{}), make(chan struct{})
	_, err := inHome(t.Context(), time.Millisecond, a, func(*home) (any, error) { defer close(ended); <-release; return nil, nil })
	if err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("%v, want that it does not answer", err)
	}
	close(release)
	<-ended
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := inHome(ctx, time.Minute, account{name: "absent", home: "/home/shop"}, func(*home) (any, error) { return nil, nil }); err == nil {
		t.Error("an ended context and somebody else's home: no error")
	}
	if _, err := inHome(t.Context(), time.Minute, a, func(*home) (any, error) { panic("x") }); err == nil || !strings.Contains(err.Error(), "panic") {
		t.Errorf("a panic: %v", err)
	}
}

// FuzzPath: any bytes survive the wire, and a path that passes stays where it begins.
func FuzzPath(f *testing.F) {
	for _, s := range append(hostileNames, "/", "//a/./b/", "/a/../b", "base64:", "/\x00") {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if back, err := parsePath(wirePath("/" + s)); err != nil || back != "/"+s {
			t.Fatalf("%q comes back as %q, %v", "/"+s, back, err)
		}
		path, err := parsePath(s)
		if err != nil {
			return
		}
		parts, err := splitPath(path)
		if err != nil {
			return
		}
		for _, p := range parts {
			if p == "" || p == "." || p == ".." || strings.ContainsAny(p, "/\x00") {
				t.Fatalf("%q passed with the component %q", path, p)
			}
		}
		if again, err := splitPath(joinPath(parts)); err != nil || fmt.Sprintf("%q", again) != fmt.Sprintf("%q", parts) {
			t.Fatalf("%q is %q, and then %q, %v", path, parts, again, err)
		}
	})
}
