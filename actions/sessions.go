package actions

import (
	"net/netip"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
)

// administrators are the groups whose members can become root, or rule osm.
var administrators = []string{"root", "wheel", "sudo", "adm", "osm-admin"}

// operatorAt names the administrator who is logged in from addr now, "" for none: csf's
// permanent blocks would shut him out. The files are those that sd_session_get_remote_host(3)
// reads. One that cannot be read, or has a name for the host, says nothing.
func (b *blockIP) operatorAt(addr netip.Addr) string {
	files, _ := filepath.Glob(filepath.Join("/", b.o.root, "run/systemd/sessions/*"))
	for _, f := range files {
		if strings.HasSuffix(f, ".ref") { // a pipe by which logind sees the session's end
			continue
		}
		var name, host string
		left := int64(64 << 10)
		if eachLine(f, &left, func(line string) bool {
			if v, ok := strings.CutPrefix(line, "USER="); ok {
				name = v
			}
			if v, ok := strings.CutPrefix(line, "REMOTE_HOST="); ok {
				host = v
			}
			return true
		}) != nil {
			continue
		}
		if p, ok := network(host); ok && p.Contains(addr) && administrator(name) {
			return name
		}
	}
	return ""
}

func administrator(name string) bool {
	u, err := user.Lookup(name)
	if err != nil {
		return false
	}
	ids, err := u.GroupIds()
	if err != nil {
		return u.Uid == "0"
	}
	return u.Uid == "0" || slices.ContainsFunc(ids, func(id string) bool {
		g, err := user.LookupGroupId(id)
		return err == nil && slices.Contains(administrators, g.Name)
	})
}
