package origin

import (
	"bytes"
	"strings"
)

const (
	maxCgroupFile = 4096
	maxCgroup     = 256
)

// cgroup returns the control group of the process, "" if it cannot be read.
func (p proc) cgroup() string {
	group := ""
	// What cannot be read is not told.
	_ = p.read("cgroup", maxCgroupFile, func(b []byte) { group = parseCgroup(b) })
	return group
}

// parseCgroup takes one path of /proc/PID/cgroup, whose lines are "number:controllers:path":
// CloudLinux's LVE where there is one, else that of version 2, else the first that says
// something. It is printable and has maxCgroup bytes at most, or is "": a user of a
// container may name groups as he likes.
func parseCgroup(b []byte) string {
	best, rank := "", 0
	for line := range bytes.Lines(b) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			break // cut
		}
		number, rest, _ := strings.Cut(strings.TrimSuffix(string(line), "\n"), ":")
		_, path, ok := strings.Cut(rest, ":")
		if !ok || path == "/" || len(path) > maxCgroup || !strings.HasPrefix(path, "/") ||
			strings.ContainsFunc(path, func(r rune) bool { return r <= ' ' || r > '~' }) {
			continue
		}
		r := 1
		switch {
		case strings.HasPrefix(path, "/lve"):
			r = 3
		case number == "0":
			r = 2
		}
		if r > rank {
			best, rank = path, r
		}
	}
	return best
}
