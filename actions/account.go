package actions

import (
	"errors"
	"fmt"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// account is a hosting account as the machine knows it.
type account struct {
	name     string
	uid, gid uint32
	home     string // absolute and clean, at least two folders deep
}

// account finds a hosting account, and refuses whatever is none: root, system users, our
// own user, and those that the operator protected.
func (x *executor) account(name string) (account, error) {
	no := func(why string) (account, error) {
		return account{}, refusal{fmt.Sprintf("%.80q %s", name, why), "name a hosting account"}
	}
	if name == "" || strings.ContainsAny(name, ":/\x00") {
		return no("is no account")
	}
	if slices.Contains(x.o.Protected, name) {
		return no("is protected in executor.toml")
	}
	u, err := user.Lookup(name)
	var unknown user.UnknownUserError
	if errors.As(err, &unknown) {
		return no("is no user of this machine")
	}
	if err != nil {
		return account{}, fmt.Errorf("look up account %q: %w", name, err)
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return account{}, fmt.Errorf("look up account %q: %w", name, err)
	}
	a := account{name: u.Username, uid: uint32(uid), gid: uint32(gid), home: filepath.Clean(u.HomeDir)}
	switch {
	case a.name != name:
		return no("is another user's second name")
	case a.uid < max(x.o.MinUID, 1), a.uid == x.o.EximUID, slices.Contains(x.o.PeerUIDs, a.uid), a.uid >= 1<<32-2, a.name == "nobody":
		return no("is a system user")
	case !filepath.IsAbs(a.home) || strings.Count(a.home, "/") < 2:
		return no("has no home of its own")
	}
	return a, nil
}
