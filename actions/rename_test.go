package actions

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"osm/policy"
)

const (
	renamePath   = policy.ActionRenamePath
	renameScript = policy.ActionRenameScript
)

// hostileNames are those that a shell, an option parser, JSON or a reader of lines would
// stumble over.
var hostileNames = []string{"mailer.php", ";reboot", "-rf", "two words.php", "new\nline.php", "caf\xe9\xff.php", "$(id)", "`id`", "日本.php", "*", "base64:eA==", "\x1b[2J", "<b>"}

func TestRenameGivesBackExactlyWhatItTook(t *testing.T) {
	h := newHomes(t)
	type row struct {
		what, action, account, path string
		make                        func(path string)
	}
	var rows []row
	for _, name := range hostileNames {
		rows = append(rows,
			row{fmt.Sprintf("the script %q", name), renameScript, "shop", "/home/shop/public_html/" + name, func(p string) { h.file(p, shopUID, 0o644) }},
			row{fmt.Sprintf("a script in the folder %q", name), renameScript, "shop", "/home/shop/d/" + name + "/x", func(p string) { h.file(p, shopUID, 0o755) }},
			row{fmt.Sprintf("the folder %q", name), renamePath, "shop", "/home/shop/f/" + name, func(p string) { h.file(p+"/x.php", shopUID, 0o644) }})
	}
	for _, mode := range []uint32{0o000, 0o400, 0o777, 0o4755, 0o2755, 0o6711, 0o1644} {
		rows = append(rows,
			row{fmt.Sprintf("a script of mode %04o", mode), renameScript, "shop", fmt.Sprintf("/home/shop/%04o.cgi", mode), func(p string) { h.file(p, shopUID, mode) }},
			row{fmt.Sprintf("a folder of mode %04o", mode), renamePath, "shop", fmt.Sprintf("/home/shop/%04o", mode), func(p string) { h.folder(p, shopUID, mode) }})
	}
	rows = append(rows,
		row{"a home with a blank in its name", renameScript, "spaced", "/home/two words/x.php", func(p string) { h.file(p, 4713, 0o644) }},
		row{"a folder that gives another group on", renamePath, "shop", "/home/shop/shared", func(p string) {
			h.folder(p, shopUID, 0)
			h.must(errors.Join(os.Chown(p, shopUID, foreignGID), unix.Chmod(p, 0o2775)))
		}},
		row{"a script of another group", renameScript, "shop", "/home/shop/grouped.php", func(p string) {
			h.file(p, shopUID, 0)
			h.must(errors.Join(os.Chown(p, shopUID, foreignGID), unix.Chmod(p, 0o640)))
		}},
		row{"a script in a folder that its owner may not write", renameScript, "shop", "/home/shop/closed/x.php", func(p string) {
			h.file(p, shopUID, 0o644)
			h.must(errors.Join(os.Chown(filepath.Dir(p), shopUID, foreignGID), unix.Chmod(filepath.Dir(p), 0o2555)))
		}})
	for _, tt := range rows {
		t.Run(tt.what, func(t *testing.T) {
			h := *h
			h.t = t
			tt.make(tt.path)
			before := h.tree("/home")
			st, err := os.Lstat(tt.path)
			h.must(err)

			r, err := h.apply(tt.action, tt.account, tt.path)
			h.must(err)
			now, err := os.Lstat(blockedAt(tt.path, r))
			if err != nil || !os.SameFile(st, now) || now.Mode()&0o7777 != 0 || now.Mode()&(os.ModeSetuid|os.ModeSetgid|os.ModeSticky) != 0 {
				t.Fatalf("%q is %v, %v; want what was %q, with mode 0000", blockedAt(tt.path, r), now, err, tt.path)
			}
			if _, err := os.Lstat(tt.path); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%q is still there: %v", tt.path, err)
			}
			again, err := h.apply(tt.action, tt.account, tt.path)
			if err != nil || again.ID != r.ID {
				t.Errorf("asked again it is record %s, %v; want %s", again.ID, err, r.ID)
			}
			if all := h.records(); len(all) != 1 || all[0].ID != r.ID || !all[0].Done || all[0].Path != wirePath(tt.path) {
				t.Errorf("the records are %+v, want one of %q", all, tt.path)
			}
			h.undo(r)
			h.same("after the undo", before, h.tree("/home"))
			if _, err := h.x.Undo(t.Context(), r.ID); !isLeftAlone(err) {
				t.Errorf("undone again: %v, want left alone", err)
			}
		})
	}
}

func isLeftAlone(err error) bool {
	var e *ExecutorError
	return errors.As(err, &e) && e.LeftAlone
}

func isRefused(err error) bool {
	var e *ExecutorError
	return errors.As(err, &e) && e.Refused
}

// The set-group-id bit of a file is not given back where the account could not give it: it
// may have changed the file meanwhile.
func TestRenameGivesNobodyAnotherGroupsRights(t *testing.T) {
	h := newHomes(t)
	const at = "/home/shop/x.cgi"
	h.file(at, shopUID, 0)
	h.must(errors.Join(os.Chown(at, shopUID, foreignGID), unix.Chmod(at, 0o2755)))
	r, err := h.apply(renameScript, "shop", at)
	h.must(err)
	said := h.undo(r)
	var st unix.Stat_t
	h.must(unix.Stat(at, &st))
	if st.Mode&0o7777 != 0o755 || !strings.Contains(said, "0755") {
		t.Errorf("mode %04o, said %q; want 0755, and said so", st.Mode&0o7777, said)
	}
}

func TestRenameTakesAPathHoweverItIsWritten(t *testing.T) {
	h := newHomes(t)
	h.folder("/home/real", 0, 0o755)
	h.folder("/home/real/linked", 4714, 0o755)
	h.mount("tmpfs", "/srv", "tmpfs", 0, "mode=0755")
	h.symlink("/srv/../srv/one", "/home/homes", 0)
	h.symlink("/home/./real", "/srv/one", 0)
	for _, row := range []struct{ account, path, canonical string }{
		{"shop", "//home///shop/./a//b.php", "/home/shop/a/b.php"},
		{"shop", "/home/shop/a/b.php/", "/home/shop/a/b.php"},
		{"linked", "/home/homes/linked/a/b.php", "/home/homes/linked/a/b.php"},
		{"linked", "/home/real/linked/a/b.php", "/home/homes/linked/a/b.php"},
	} {
		uid := map[string]int{"shop": shopUID, "linked": 4714}[row.account]
		h.file("/home/shop/a/b.php", uid, 0o644)
		h.file("/home/real/linked/a/b.php", uid, 0o644)
		h.must(errors.Join(os.Chown("/home/shop/a", uid, uid), os.Chown("/home/real/linked/a", uid, uid)))
		r, err := h.apply(renameScript, row.account, row.path)
		h.must(err)
		if r.Path != row.canonical {
			t.Errorf("%q is written down as %q, want %q", row.path, r.Path, row.canonical)
		}
		h.undo(r)
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestRenameOfTheFoldersOfAHomeMustBeAllowed(t *testing.T) {
	folders := func(h *homes) []string {
		list := []string{"public_html", "www", "public_ftp", "mail", "etc", ".ssh", "tmp", "mail/shop.example", "domains/shop.example", "domains/shop.example/public_html"}
		for _, d := range list {
			h.file("/home/shop/"+d+"/x", shopUID, 0o644)
		}
		return list
	}
	h := newHomes(t)
	for _, d := range folders(h) {
		before := h.tree("/home")
		if r, err := h.apply(renamePath, "shop", "/home/shop/"+d); !isRefused(err) {
			t.Errorf("%s: record %+v, %v; want a refusal", d, r, err)
		}
		h.same(d, before, h.tree("/home"))
	}
	for _, d := range []string{"public_html/wp", "domains/shop.example/public_html/wp", "tmp/upload"} {
		h.folder("/home/shop/"+d, shopUID, 0o755)
		r, err := h.apply(renamePath, "shop", "/home/shop/"+d)
		if err != nil {
			t.Fatalf("%s: %v", d, err)
		}
		h.undo(r)
	}
	h.file("/home/shop/mail/.hidden/x.pl", shopUID, 0o755)
	r, err := h.apply(renameScript, "shop", "/home/shop/mail/.hidden/x.pl")
	h.must(err)
	h.undo(r)
}

func TestRenameAnyStillKeepsTheHomeItself(t *testing.T) {
	h := newHomes(t, func(o *ExecutorOptions) { o.RenameAny = true })
	h.file("/home/shop/public_html/x.php", shopUID, 0o644)
	before := h.tree("/home")
	r, err := h.apply(renamePath, "shop", "/home/shop/public_html")
	h.must(err)
	h.undo(r)
	for _, p := range []string{"/home/shop", "/home/shop/", "/home/shop/.", "/home", "/"} {
		if _, err := h.apply(renamePath, "shop", p); !isRefused(err) {
			t.Errorf("%s: %v, want a refusal", p, err)
		}
	}
	h.same("in the end", before, h.tree("/home"))
}

func TestRenameUndoLeavesWhatOthersDid(t *testing.T) {
	const at = "/home/shop/x.php"
	for _, tt := range []struct {
		name string
		do   func(h *homes, blocked string)
		says string
	}{
		{"the script was removed", func(h *homes, b string) { h.must(os.Remove(b)) }, "is not there any more"},
		{"its folder was replaced by a link", func(h *homes, b string) {
			h.must(os.Rename("/home/shop", "/home/away"))
			h.must(os.Mkdir("/home/shop", 0o755))
			h.must(os.Chown("/home/shop", shopUID, shopUID))
		}, "is not there any more"},
		{"another file has our name", func(h *homes, b string) { h.must(os.Rename(b, b+"x")); h.file(b, shopUID, 0o644) }, "is something else now"},
		{"a link has our name", func(h *homes, b string) { h.must(os.Rename(b, b+"x")); h.symlink(b+"x", b, shopUID) }, "is something else now"},
		{"it was given to somebody else", func(h *homes, b string) { h.must(os.Chown(b, blogUID, blogUID)) }, "is something else now"},
		{"the owner took it back", func(h *homes, b string) { h.must(errors.Join(os.Rename(b, at), os.Chmod(at, 0o600))) }, "has its name already: left as it is"},
		{"another script has its name, and it is gone", func(h *homes, b string) { h.must(os.Remove(b)); h.file(at, shopUID, 0o644) }, "is something else now"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHomes(t)
			h.file(at, shopUID, 0o644)
			r, err := h.apply(renameScript, "shop", at)
			h.must(err)
			tt.do(h, blockedAt(at, r))
			before := h.tree("/home")
			if said := h.undo(r); !strings.Contains(said, tt.says) {
				t.Errorf("said %q, want %q", said, tt.says)
			}
			h.same("after the undo", before, h.tree("/home"))
			if all := h.records(); len(all) != 0 {
				t.Errorf("left in force: %+v", all)
			}
		})
	}
}

func TestRenameUndoReplacesNothing(t *testing.T) {
	for name, put := range map[string]func(h *homes, at string){
		"a file":                 func(h *homes, at string) { h.file(at, shopUID, 0o644) },
		"a folder":               func(h *homes, at string) { h.folder(at, shopUID, 0o755) },
		"a link to nowhere":      func(h *homes, at string) { h.symlink("/nowhere", at, shopUID) },
		"a file of another user": func(h *homes, at string) { h.file(at, blogUID, 0o600) },
	} {
		for _, action := range []string{renameScript, renamePath} {
			t.Run(action+" "+name, func(t *testing.T) {
				h := newHomes(t)
				const at = "/home/shop/x"
				if action == renamePath {
					h.folder(at, shopUID, 0o750)
				} else {
					h.file(at, shopUID, 0o640)
				}
				was := h.tree(at)
				r, err := h.apply(action, "shop", at)
				h.must(err)
				put(h, at)
				before := h.tree("/home")
				_, err = h.x.Undo(t.Context(), r.ID)
				if !isRefused(err) || !strings.Contains(err.Error(), "osmctl undo "+r.ID) {
					t.Errorf("undone: %v; want a refusal that says what to do", err)
				}
				h.same("after the refusal", before, h.tree("/home"))
				if all := h.records(); len(all) != 1 {
					t.Errorf("the records are %+v, want it to be there still", all)
				}
				h.must(os.Remove(at))
				h.undo(r)
				h.same("after the undo", was, h.tree(at))
			})
		}
	}
}

func TestRenameOfAScriptThatIsPutThereAgain(t *testing.T) {
	h := newHomes(t)
	const at = "/home/shop/x.php"
	var done []Record
	for range 3 {
		h.file(at, shopUID, 0o644)
		r, err := h.apply(renameScript, "shop", at)
		h.must(err)
		done = append(done, r)
	}
	if _, err := os.Lstat(at); !errors.Is(err, os.ErrNotExist) || len(h.records()) != 3 {
		t.Errorf("the newest is %v, the records %+v; want three", err, h.records())
	}
	h.undo(done[1])
	if _, err := h.x.Undo(t.Context(), done[0].ID); !isRefused(err) {
		t.Errorf("the second to be undone: %v, want a refusal", err)
	}
}

// A script is renamed, and then the folder it is in: whatever is undone first, both are
// as before in the end.
func TestRenameOfAFolderAboveARenamedScript(t *testing.T) {
	for _, recreated := range []bool{false, true} {
		h := newHomes(t)
		h.file("/home/shop/app/lib/x.php", shopUID, 0o644)
		before := h.tree("/home")
		inner, err := h.apply(renameScript, "shop", "/home/shop/app/lib/x.php")
		h.must(err)
		outer, err := h.apply(renamePath, "shop", "/home/shop/app")
		h.must(err)
		if recreated {
			h.folder("/home/shop/app/lib", shopUID, 0o755)
		}
		var e *ExecutorError
		_, err = h.x.Undo(t.Context(), inner.ID)
		if _, busy := Busy(err); !busy || !errors.As(err, &e) || !strings.Contains(e.Next, outer.ID) {
			t.Errorf("the script's undo: %v; want to be told to undo %s first", err, outer.ID)
		}
		h.must(os.RemoveAll("/home/shop/app"))
		h.undo(outer)
		h.undo(inner)
		h.same("after both", before, h.tree("/home"))
		// What was renamed is not renamed once more, by its new name.
		outer, err = h.apply(renamePath, "shop", "/home/shop/app")
		h.must(err)
		if _, err := h.apply(renamePath, "shop", blockedAt("/home/shop/app", outer)+"/lib"); !isLeftAlone(err) {
			t.Errorf("in a renamed folder: %v, want left alone", err)
		}
		h.undo(outer)
	}
}

// The machine may stop at any moment; the record was written before.
func TestRenameThatWasBrokenOffIsFinishedOrTakenBack(t *testing.T) {
	const at = "/home/shop/x.php"
	for name, broken := range map[string]func(h *homes, blocked string){
		"before it was renamed":        func(h *homes, b string) { h.must(errors.Join(os.Rename(b, at), unix.Chmod(at, 0o4644))) },
		"before its mode was taken":    func(h *homes, b string) { h.must(unix.Chmod(b, 0o4644)) },
		"before it was written down":   func(h *homes, b string) {},
		"an undo before the mode":      func(h *homes, b string) { h.must(os.Rename(b, at)) },
		"before it was even looked at": nil,
	} {
		for _, finish := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, finished %v", name, finish), func(t *testing.T) {
				h := newHomes(t)
				h.file(at, shopUID, 0o4644)
				before := h.tree("/home")
				r, err := h.apply(renameScript, "shop", at)
				h.must(err)
				store := records{h.state}
				r.Done = false
				if broken == nil {
					h.must(errors.Join(os.Rename(blockedAt(at, r), at), unix.Chmod(at, 0o4644)))
					r.State = nil
				} else {
					broken(h, blockedAt(at, r))
				}
				h.must(store.put(&r))
				if finish {
					again, err := h.apply(renameScript, "shop", at)
					if err != nil || again.ID != r.ID || !again.Done {
						t.Fatalf("asked again: %+v, %v; want record %s to be done", again, err, r.ID)
					}
					var st unix.Stat_t
					if err := unix.Lstat(blockedAt(at, r), &st); err != nil || st.Mode&0o7777 != 0 {
						t.Errorf("mode %04o, %v; want it to be out of the way", st.Mode, err)
					}
				}
				h.undo(r)
				h.same("after the undo", before, h.tree("/home"))
			})
		}
	}
}
