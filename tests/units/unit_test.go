package units

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// unit is one of the units that the installer puts in place: its settings by their names.
type unit map[string]string

// readUnit reads a unit as it is shipped. None of the settings used here stands twice.
func readUnit(t *testing.T, name string) unit {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../exim-acl/systemd", name))
	if err != nil {
		t.Fatal(err)
	}
	u := unit{}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(key, "#") {
			u[key] = value
		}
	}
	return u
}

// get is a setting that must be there, with what only this machine knows put in.
func (u unit) get(t *testing.T, key string) string {
	t.Helper()
	value, ok := u[key]
	if !ok {
		t.Fatalf("the unit has no %s: %v", key, u)
	}
	return strings.ReplaceAll(value, "@EXIMGROUP@", "Debian-exim")
}

// capabilities are the numbers of those that may be needed here.
var capabilities = map[string]int{
	"CAP_BPF": unix.CAP_BPF, "CAP_CHOWN": unix.CAP_CHOWN, "CAP_DAC_OVERRIDE": unix.CAP_DAC_OVERRIDE,
	"CAP_DAC_READ_SEARCH": unix.CAP_DAC_READ_SEARCH, "CAP_FOWNER": unix.CAP_FOWNER, "CAP_KILL": unix.CAP_KILL,
	"CAP_NET_RAW": unix.CAP_NET_RAW, "CAP_PERFMON": unix.CAP_PERFMON, "CAP_SETGID": unix.CAP_SETGID,
	"CAP_SETUID": unix.CAP_SETUID, "CAP_SYS_PTRACE": unix.CAP_SYS_PTRACE,
}

// rights are the arguments of setpriv that give a program what the unit does.
func (u unit) rights(t *testing.T) []string {
	t.Helper()
	bounding := "-all"
	for _, c := range strings.Fields(u.get(t, "CapabilityBoundingSet")) {
		bounding += ",+" + strings.ToLower(strings.TrimPrefix(c, "CAP_"))
	}
	if u.get(t, "NoNewPrivileges") != "yes" || u.get(t, "AmbientCapabilities") != "" {
		t.Fatalf("NoNewPrivileges is %q, AmbientCapabilities %q", u["NoNewPrivileges"], u["AmbientCapabilities"])
	}
	return []string{"--reuid=" + u.get(t, "User"), "--regid=" + u.get(t, "Group"), "--clear-groups",
		"--bounding-set=" + bounding, "--inh-caps=-all", "--ambient-caps=-all", "--no-new-privs"}
}

// without is the unit with fewer capabilities, as a container or an old kernel may leave it.
func (u unit) without(capabilities []string) unit {
	less := maps.Clone(u)
	less["CapabilityBoundingSet"] = strings.Join(slices.DeleteFunc(strings.Fields(u["CapabilityBoundingSet"]), func(c string) bool {
		return slices.Contains(capabilities, c)
	}), " ")
	return less
}

// mask is the capabilities of the unit as the kernel shows them.
func (u unit) mask(t *testing.T) string {
	t.Helper()
	var mask uint64
	for _, c := range strings.Fields(u.get(t, "CapabilityBoundingSet")) {
		bit, ok := capabilities[c]
		if !ok {
			t.Fatalf("the unit has %s, which no part should need", c)
		}
		mask |= 1 << bit
	}
	return fmt.Sprintf("%016x", mask)
}

// sockets are the socket units that the service is handed, in their order.
func (u unit) sockets(t *testing.T) []unit {
	t.Helper()
	var list []unit
	for _, name := range strings.Fields(u.get(t, "Sockets")) {
		list = append(list, readUnit(t, name))
	}
	return list
}

// command is what the unit starts, with this machine's paths.
func (u unit) command(t *testing.T, config, executor string) []string {
	t.Helper()
	words := strings.Fields(u.get(t, "ExecStart"))
	for from, to := range map[string]string{
		"/usr/local/sbin/osmd": filepath.Join(machine.bin, "osmd"), "/etc/osm/osm.toml": config, "/etc/osm/executor.toml": executor,
	} {
		if i := slices.Index(words, from); i >= 0 {
			words[i] = to
		}
	}
	return words
}

func (u unit) mode(t *testing.T) os.FileMode {
	t.Helper()
	mode, err := strconv.ParseUint(u.get(t, "SocketMode"), 8, 9)
	if err != nil {
		t.Fatal(err)
	}
	return os.FileMode(mode)
}
