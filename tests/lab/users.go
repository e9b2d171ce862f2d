package lab

import (
	"os/user"
	"strconv"
)

// systemUser is the uid and gid of a user that is not one of the lab's accounts.
func systemUser(name string) (uid, gid uint32) {
	u, err := user.Lookup(name)
	if err != nil {
		return 65534, 65534
	}
	id, _ := strconv.ParseUint(u.Uid, 10, 32)
	g, _ := strconv.ParseUint(u.Gid, 10, 32)
	return uint32(id), uint32(g)
}
