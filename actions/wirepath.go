package actions

import (
	"encoding/base64"
	"fmt"
	"strings"
	"unicode/utf8"
)

// path64 marks a path that is not UTF-8: JSON would put another letter in the place of
// each such byte. An absolute path begins with a slash, so the two are never mistaken.
const path64 = "base64:"

// wirePath is an absolute path as it stands in requests and records.
func wirePath(path string) string {
	if utf8.ValidString(path) {
		return path
	}
	return path64 + base64.StdEncoding.EncodeToString([]byte(path))
}

// parsePath takes the path out of what [wirePath] made.
func parsePath(wire string) (string, error) {
	text, coded := strings.CutPrefix(wire, path64)
	if !coded {
		return wire, nil
	}
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return "", refusal{why: fmt.Sprintf("%.80q is no path: %v", wire, err)}
	}
	return string(b), nil
}

// showPath is a path for people: quoted where its bytes are no text.
func showPath(wire string) string {
	path, err := parsePath(wire)
	if err != nil || utf8.ValidString(path) {
		return wire
	}
	return fmt.Sprintf("%q", path)
}

// splitPath returns the components of an absolute path. Doubled and trailing slashes and
// "." mean nothing and are dropped; ".." is refused, because what it means depends on
// symbolic links.
func splitPath(path string) ([]string, error) {
	bad := func(why string) ([]string, error) {
		return nil, refusal{fmt.Sprintf("the path %.300q %s", path, why), "give the absolute path"}
	}
	switch {
	case !strings.HasPrefix(path, "/"):
		return bad("is not absolute")
	case len(path) > maxPath || strings.Contains(path, "\x00"):
		return bad("is no path")
	}
	var parts []string
	for part := range strings.SplitSeq(path, "/") {
		switch part {
		case "", ".":
		case "..":
			return bad(`has ".." in it`)
		default:
			parts = append(parts, part)
		}
	}
	return parts, nil
}

func joinPath(parts []string) string { return "/" + strings.Join(parts, "/") }
