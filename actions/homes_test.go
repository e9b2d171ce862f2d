package actions

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"osm/policy"
)

// The accounts of the tests. They are real users: passwd names them as long as a test runs.
const (
	shopUID, blogUID, foreignGID = 4711, 4712, 4799

	testPasswd = "shop:x:4711:4711::/home/shop:/bin/sh\n" +
		"blog:x:4712:4712::/home/blog:/bin/sh\n" +
		"spaced:x:4713:4713::/home/two words:/bin/sh\n" +
		"linked:x:4714:4714::/home/homes/linked:/bin/sh\n" +
		"open:x:4715:4715::/home/everybody/open:/bin/sh\n" +
		"lured:x:4716:4716::/home/lured:/bin/sh\n" +
		"taken:x:4717:4717::/home/taken:/bin/sh\n" +
		"absent:x:4718:4718::/home/absent:/bin/sh\n" +
		"webs:x:4719:4719::/home/webs:/bin/sh\n" +
		"sticky:x:4720:4720::/home/everybody/roots/sticky:/bin/sh\n"
)

// homes is a /home of the test's own with accounts in it, and an executor.
type homes struct {
	t     *testing.T
	x     *Executor
	state string
}

func newHomes(t *testing.T, change ...func(*ExecutorOptions)) *homes {
	t.Helper()
	if os.Getenv(insideEnv) == "" {
		t.Fatal("this test changes files of several users: run it as root, on a machine with unshare")
	}
	h := &homes{t: t, state: filepath.Join(t.TempDir(), "state")}
	deny(t)
	h.must(os.Mkdir(h.state, 0o700))
	h.mount("tmpfs", h.state, "tmpfs", 0, "mode=0700") // waits for no disk
	h.mount("tmpfs", "/home", "tmpfs", 0, "mode=0755")
	users := readFile(t, "/etc/passwd")
	passwd := filepath.Join(t.TempDir(), "passwd")
	if err := os.WriteFile(passwd, []byte(users+testPasswd), 0o644); err != nil {
		t.Fatal(err)
	}
	h.mount(passwd, "/etc/passwd", "", unix.MS_BIND, "")
	h.folder("/home/shop", shopUID, 0o711)
	h.folder("/home/blog", blogUID, 0o755)
	h.folder("/home/two words", 4713, 0o755)
	o := ExecutorOptions{SpoolDir: t.TempDir(), Now: time.Now, Log: slog.New(slog.DiscardHandler), StateDir: h.state, MinUID: 1000,
		Actions: []string{policy.ActionRenamePath, policy.ActionRenameScript},
		Rates:   map[string]int{policy.ActionRenamePath: 100_000, policy.ActionRenameScript: 100_000}}
	for _, c := range change {
		c(&o)
	}
	h.x = startExecutor(t, o)
	return h
}

func (h *homes) mount(what, where, kind string, flags uintptr, data string) {
	h.t.Helper()
	if err := unix.Mount(what, where, kind, flags, data); err != nil {
		h.t.Fatalf("mount %s: %v", where, err)
	}
	h.t.Cleanup(func() {
		if err := unix.Unmount(where, unix.MNT_DETACH); err != nil {
			h.t.Errorf("unmount %s: %v", where, err)
		}
	})
}

func (h *homes) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *homes) folder(path string, uid int, mode uint32) {
	h.t.Helper()
	h.must(errors.Join(os.MkdirAll(path, 0o755), os.Chown(path, uid, uid), unix.Chmod(path, mode)))
}

// file makes a file with its folders, which get the same owner, and a time of long ago.
func (h *homes) file(path string, uid int, mode uint32) {
	h.t.Helper()
	var missing []string
	for d := filepath.Dir(path); d != "/"; d = filepath.Dir(d) {
		if _, err := os.Lstat(d); err == nil {
			break
		}
		missing = append(missing, d)
	}
	for _, d := range slices.Backward(missing) {
		h.folder(d, uid, 0o755)
	}
	then := time.Unix(1_600_000_000, 123_456_789)
	h.must(errors.Join(os.WriteFile(path, []byte("<?php mail(); // "+path), 0o600), os.Chown(path, uid, uid),
		unix.Chmod(path, mode), os.Chtimes(path, then, then)))
}

func (h *homes) symlink(target, path string, uid int) {
	h.t.Helper()
	h.must(errors.Join(os.Symlink(target, path), os.Lchown(path, uid, uid)))
}

// tree tells all that can be told of what is below the folders.
func (h *homes) tree(folders ...string) map[string]string {
	h.t.Helper()
	out := map[string]string{}
	for _, f := range folders {
		h.must(filepath.WalkDir(f, func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			st, err := os.Lstat(path)
			if err != nil {
				return err
			}
			sys := st.Sys().(*syscall.Stat_t)
			what := fmt.Sprintf("%o %d:%d inode %d", sys.Mode, sys.Uid, sys.Gid, sys.Ino)
			switch {
			case st.Mode().IsRegular():
				b, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				what += fmt.Sprintf(" names %d changed %v bytes %x", sys.Nlink, st.ModTime().UnixNano(), sha256.Sum256(b))
			case st.Mode()&fs.ModeSymlink != 0:
				target, err := os.Readlink(path)
				if err != nil {
					return err
				}
				what += " -> " + target
			}
			out[path] = what
			return nil
		}))
	}
	return out
}

// same fails the test unless two trees are the same.
func (h *homes) same(what string, before, after map[string]string) {
	h.t.Helper()
	for _, path := range slices.Sorted(maps.Keys(before)) {
		if after[path] != before[path] {
			h.t.Errorf("%s: %q is %q, want %q", what, path, after[path], before[path])
		}
	}
	for _, path := range slices.Sorted(maps.Keys(after)) {
		if before[path] == "" {
			h.t.Errorf("%s: %q is new: %s", what, path, after[path])
		}
	}
}

func (h *homes) apply(action, account, path string) (Record, error) {
	return h.x.Apply(h.t.Context(), Change{Action: action, Account: account, Path: path, Event: 7, Trigger: "account-hour"})
}

func (h *homes) undo(r Record) string {
	h.t.Helper()
	got, err := h.x.Undo(h.t.Context(), r.ID)
	h.must(err)
	return got.Outcome
}

func (h *homes) records() []Record {
	h.t.Helper()
	all, err := h.x.Records(h.t.Context())
	h.must(err)
	return all
}

// blockedAt is where something that was called path is after r.
func blockedAt(path string, r Record) string { return filepath.Join(filepath.Dir(path), blocked+r.ID) }

// deniedEnv has the tests run without openat2 and RENAME_NOREPLACE; it names the errors that
// the kernel gives instead.
const deniedEnv = "OSM_ACTIONS_TEST_DENIED"

// TestRenameOnOldKernelsAndFileSystems runs the other tests once more, in a process to which
// the kernel refuses openat2, and the renaming that replaces nothing.
func TestRenameOnOldKernelsAndFileSystems(t *testing.T) {
	if os.Getenv(deniedEnv) != "" {
		return // this is that process
	}
	for _, row := range []string{"function not implemented,function not implemented", "operation not permitted,invalid argument"} {
		t.Run(row, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestRename", "-test.short", "-test.timeout=120s")
			for _, v := range os.Environ() {
				if !strings.HasPrefix(v, insideEnv+"=") {
					cmd.Env = append(cmd.Env, v)
				}
			}
			cmd.Env = append(cmd.Env, deniedEnv+"="+row)
			out, err := cmd.CombinedOutput()
			if err != nil || strings.Contains(string(out), "no tests to run") {
				t.Errorf("%v:\n%s", err, out)
			}
		})
	}
}

// denyOnce lays the filter on the whole process.
var denyOnce = sync.OnceValue(func() error {
	openat2, renameat2, _ := strings.Cut(os.Getenv(deniedEnv), ",")
	errno := func(text string) uint32 {
		for _, e := range []unix.Errno{unix.ENOSYS, unix.EPERM, unix.EINVAL} {
			if e.Error() == text {
				return unix.SECCOMP_RET_ERRNO | uint32(e)
			}
		}
		return 0
	}
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}, // the call's number
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_OPENAT2, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: errno(openat2)},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_RENAMEAT2, Jf: 3},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 16 + 4*8}, // its flags; little-endian
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.RENAME_NOREPLACE, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: errno(renameat2)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	if e != 0 {
		return e
	}
	return nil
})

// deny lays the filter in the process that is to have it, and sees that it works.
func deny(t *testing.T) {
	t.Helper()
	if os.Getenv(deniedEnv) == "" {
		return
	}
	if err := denyOnce(); err != nil {
		t.Fatalf("lay the filter: %v", err)
	}
	fd, err := unix.Openat2(unix.AT_FDCWD, "/", &unix.OpenHow{Flags: unix.O_PATH})
	if err == nil {
		unix.Close(fd)
		t.Fatal("there still is openat2")
	}
	err = unix.Renameat2(unix.AT_FDCWD, "/no/such/file", unix.AT_FDCWD, "/no/such/file", unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.ENOENT) {
		t.Fatal("renameat2 still replaces nothing")
	}
}
