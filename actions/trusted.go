package actions

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// trusted refuses a path that anybody but root (or who runs this) could make another file
// of: every folder on the way, every link, and the file itself must be root's, and only its
// owner may write it. What it has found stays as it is, as only root can change it.
func trusted(path string) (fs.FileInfo, error) {
	at, left := "/", strings.Split(filepath.Clean(path), "/")
	st, err := ownersAlone(at)
	for links := 0; err == nil && len(left) > 0; {
		name := left[0]
		left = left[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			at = filepath.Dir(at)
			continue
		}
		next := filepath.Join(at, name)
		if st, err = ownersAlone(next); err != nil {
			return nil, err
		}
		if st.Mode()&fs.ModeSymlink == 0 {
			at = next
			continue
		}
		if links++; links > maxLinks {
			return nil, refusal{fmt.Sprintf("%.200q goes through more than %d links", path, maxLinks), ""}
		}
		to, err := os.Readlink(next)
		if err != nil {
			return nil, fmt.Errorf("read link %q: %w", next, err)
		}
		if filepath.IsAbs(to) {
			at = "/"
		}
		left = append(strings.Split(to, "/"), left...)
	}
	if err == nil {
		st, err = os.Lstat(at) // after "..", too
	}
	return st, err
}

func ownersAlone(path string) (fs.FileInfo, error) {
	st, err := os.Lstat(path)
	if err != nil {
		return nil, fmt.Errorf("look at %q: %w", path, err)
	}
	owner := st.Sys().(*syscall.Stat_t).Uid
	switch {
	case owner != 0 && owner != uint32(os.Geteuid()):
		return nil, refusal{fmt.Sprintf("%.200q belongs to uid %d", path, owner), "make it root's: who owns it could have anything run"}
	case st.Mode()&fs.ModeSymlink == 0 && st.Mode().Perm()&0o022 != 0:
		return nil, refusal{fmt.Sprintf("%.200q can be written by others than its owner", path), "chmod go-w: who can write it could have anything run"}
	}
	return st, nil
}

// trustedProgram refuses what is no program of root's alone.
func trustedProgram(path string) error {
	st, err := trusted(path)
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() || st.Mode().Perm()&0o111 == 0 {
		return refusal{fmt.Sprintf("%.200q is no program", path), "chmod +x"}
	}
	return nil
}
