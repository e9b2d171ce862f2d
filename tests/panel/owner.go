package panel

import (
	"io/fs"
	"syscall"
)

// owner is who owns a file.
func owner(st fs.FileInfo) [2]uint32 {
	s := st.Sys().(*syscall.Stat_t)
	return [2]uint32{s.Uid, s.Gid}
}
