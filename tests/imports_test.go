// Package tests holds what is asserted about the product as a whole.
package tests

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// mayImport says which of our own packages a package's code may use. The files are
// parsed, as a list made by the go command would be cached with the test's result.
func mayImport() map[string][]string {
	return map[string][]string{
		"counters":           {},
		"internal/manual":    {},
		"internal/metrics":   {},
		"internal/privilege": {},
		"internal/systemd":   {},
		"policy":             {"counters"},
		"exim-acl":           {"policy", "internal/metrics"},
		"sql":                {"policy"},
		"internal/config":    {"policy", "counters"},
		"internal/origin":    {"policy"},
		"internal/panel":     {"policy"},
		"internal/report":    {"policy", "sql"},
		"internal/evidence":  {"policy"},
		"internal/packetmon": {"policy", "internal/metrics", "internal/origin"},
		"actions":            {"policy", "sql", "internal/metrics", "internal/report"},
		"internal/control": {"policy", "counters", "sql", "actions", "internal/config", "internal/metrics",
			"internal/panel", "internal/origin", "internal/privilege", "internal/systemd"},
		// a daemon's side for the tests of control and osmctl; linked into no program
		"internal/control/controltest": {"policy", "counters", "sql", "actions", "internal/config", "internal/control"},
		"whm-addon":                    {"internal/control", "policy"},
		"internal/webfront":            {"internal/control", "internal/origin", "internal/systemd"},
		"cmd/osmctl":                   {"internal/config", "internal/control", "internal/manual", "internal/webfront"},
		"cmd/osmd":                     {"*"},
	}
}

// onlyIn are libraries that one package owns.
func onlyIn() map[string][]string {
	return map[string][]string{
		"database/sql":                  {"sql"},
		"github.com/mattn/go-sqlite3":   {"sql"},
		"os/exec":                       {"actions"},
		"github.com/BurntSushi/toml":    {"internal/config"},
		"github.com/urfave/cli/v2":      {"cmd/osmd", "cmd/osmctl"},
		"github.com/emersion/go-milter": {"internal/milter"},
		"github.com/google/gopacket":    {"internal/packetmon"},
		"github.com/cilium/ebpf":        {"internal/packetmon"},
		"golang.org/x/net/html":         {"internal/evidence"},
		"github.com/chromedp/chromedp":  {}, // the tests'
		"go.yaml.in/yaml/v3":            {}, // the tests'
	}
}

type imported struct{ file, pkg, path string }

// productImports lists what the product's files import; tests may use anything.
func productImports(t *testing.T) []imported {
	t.Helper()
	var out []imported
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := strings.TrimPrefix(filepath.ToSlash(path), "../")
		if d.IsDir() && (rel == "tests" || rel == ".git" || rel == "bin") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(rel, ".go") || strings.HasSuffix(rel, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, i := range f.Imports {
			p, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			out = append(out, imported{rel, filepath.Dir(rel), p})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestPackagesImportOnlyInTheAgreedDirections(t *testing.T) {
	rules := mayImport()
	for _, i := range productImports(t) {
		own, ok := strings.CutPrefix(i.path, "osm/")
		if !ok {
			continue
		}
		allowed, known := rules[i.pkg]
		switch {
		case !known:
			t.Errorf("%s: package %s is not in the list of this test: say there what it may import", i.file, i.pkg)
		case !slices.Contains(allowed, own) && !slices.Contains(allowed, "*"):
			t.Errorf("%s: %s may not import %s; allowed: %v", i.file, i.pkg, own, allowed)
		}
	}
}

func TestEachLibraryHasOneOwner(t *testing.T) {
	owners := onlyIn()
	seen := 0
	for _, i := range productImports(t) {
		seen++
		if owner, ok := owners[i.path]; ok && !slices.Contains(owner, i.pkg) {
			t.Errorf("%s: %s belongs to %v", i.file, i.path, owner)
		}
	}
	if seen < 100 {
		t.Fatalf("only %d imports found: the test looks in the wrong place", seen)
	}
}
