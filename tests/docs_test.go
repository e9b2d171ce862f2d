package tests

import (
	"bytes"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// documents are the texts for people, without the manual pages: those are made by the
// programs, whose own tests compare them.
func documents(t *testing.T) map[string]string {
	t.Helper()
	paths, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, path := range append(paths, "../README.md", "../CHANGELOG.md") {
		out[path] = read(t, path)
	}
	if len(out) < 8 {
		t.Fatalf("only %d documents found: the test looks in the wrong place", len(out))
	}
	return out
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// sources are the product's files below a folder, without tests.
func sources(t *testing.T, dir string) string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join("..", dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, path := range paths {
		if !strings.HasSuffix(path, "_test.go") {
			all.WriteString(read(t, path))
		}
	}
	if all.Len() == 0 {
		t.Fatalf("no source in %s", dir)
	}
	return all.String()
}

// found are the first groups of all matches, each once, sorted.
func found(pattern, text string) []string {
	var out []string
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
		out = append(out, m[1])
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func TestMetricsInTheCodeAndInTheDocumentAreTheSame(t *testing.T) {
	// Names are made of the prefix and a word, in one of three ways.
	code := sources(t, "internal/metrics") + sources(t, "cmd/osmd")
	var want []string
	for _, name := range found(`(?:gauge|counter|of|prefix \+ ?|prefix \+)\(?"([a-z_]+)"`, code) {
		want = append(want, "osm_"+name)
	}
	if len(want) < 24 {
		t.Fatalf("only %d metrics found in the code: %v", len(want), want)
	}
	document := read(t, "../docs/metrics.md")
	described := found("(?m)^\\| `(osm_[a-z_]+)` \\|", document)
	if !slices.Equal(want, described) {
		t.Errorf("the code has %v\ndocs/metrics.md describes %v", want, described)
	}
	for _, name := range found(`(osm_[a-z_]+)`, document) {
		base := regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")
		if !slices.Contains(want, name) && !slices.Contains(want, base) {
			t.Errorf("docs/metrics.md speaks of %s, which there is not", name)
		}
	}
}

func TestEveryAlarmIsExplained(t *testing.T) {
	code := sources(t, "cmd/osmd")
	names := found(`(?:alarms\.(?:raise|set|setErr)|d\.rising)\("([a-z-]+)"[,)]`, code)
	if strings.Contains(code, `alarms.raise("part-"+name`) {
		names = append(names, "part-inspect", "part-executor", "part-watch")
	}
	slices.Sort(names)
	_, table, _ := strings.Cut(read(t, "../docs/operate.md"), "## Every alarm")
	explained := found("(?m)^\\| `([a-z-]+)` \\|", table)
	if len(names) < 20 || !slices.Equal(names, explained) {
		t.Errorf("the daemon raises %v\ndocs/operate.md explains %v", names, explained)
	}
}

func TestEveryRouteOfTheControlAPIIsDescribed(t *testing.T) {
	routes := found(`"((?:GET|POST|PUT|DELETE) /[^"]*)":`, sources(t, "internal/control"))
	if len(routes) < 30 {
		t.Fatalf("only %d routes found: %v", len(routes), routes)
	}
	document := read(t, "../docs/control-api.md")
	for _, route := range routes {
		if !strings.Contains(document, "`"+route+"`") {
			t.Errorf("docs/control-api.md lacks %s", route)
		}
	}
	for _, route := range found("`((?:GET|POST|PUT|DELETE) /[^`]*)`", document) {
		if !slices.Contains(routes, route) {
			t.Errorf("docs/control-api.md describes %s, which there is not", route)
		}
	}
}

func TestPathsAndLinksInTheDocumentsExist(t *testing.T) {
	tops := map[string]bool{}
	entries, err := os.ReadDir("..")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		tops[e.Name()] = e.IsDir()
	}
	for name, text := range documents(t) {
		for _, path := range found("`([A-Za-z0-9._-]+/[A-Za-z0-9._/-]+)`", text) {
			first, _, _ := strings.Cut(path, "/")
			if !tops[first] || first == "bin" {
				continue // not of this repository, or made
			}
			if _, err := os.Stat(filepath.Join("..", path)); err != nil {
				t.Errorf("%s names %s: %v", name, path, err)
			}
		}
		for _, link := range found(`\]\(([^)]+)\)`, text) {
			checkLink(t, name, link)
		}
	}
}

// checkLink follows a link to a file, and to a heading in it.
func checkLink(t *testing.T, from, link string) {
	t.Helper()
	if strings.Contains(link, "://") {
		return
	}
	path, anchor, _ := strings.Cut(link, "#")
	target := from
	if path != "" {
		target = filepath.Join(filepath.Dir(from), path)
	}
	if _, err := os.Stat(target); err != nil {
		t.Errorf("%s links to %s: %v", from, link, err)
		return
	}
	if anchor == "" {
		return
	}
	var anchors []string
	for _, heading := range found(`(?m)^#+ (.+)$`, read(t, target)) {
		word := regexp.MustCompile(`[^a-z0-9 _-]`).ReplaceAllString(strings.ToLower(heading), "")
		anchors = append(anchors, strings.ReplaceAll(word, " ", "-"))
	}
	if !slices.Contains(anchors, anchor) {
		t.Errorf("%s links to %s: there is no such heading", from, link)
	}
}

func TestEximsFilesInTheDocumentsAreThoseOfTheInstaller(t *testing.T) {
	var ours, names []string
	for _, path := range found(`(?m)^[a-z_]+=\$etc/(\S*osm\S*|exim4\.conf\.localmacros)$`, read(t, "../exim-acl/lib/debian.sh")) {
		ours, names = append(ours, "/etc/exim4/"+path), append(names, filepath.Base(path))
	}
	if len(ours) < 5 {
		t.Fatalf("only %d files of the installer found: %v", len(ours), ours)
	}
	for name, text := range documents(t) {
		for _, path := range found(`(/etc/exim4/[A-Za-z0-9_./-]*osm[A-Za-z0-9_./-]*)`, text) {
			isOurs := func(file string) bool { return file == path || strings.HasPrefix(file, path+"/") }
			if !slices.ContainsFunc(ours, isOurs) {
				t.Errorf("%s names %s; the installer writes %v", name, path, ours)
			}
		}
		for _, base := range found(`([A-Za-z0-9_]*_osm_(?:policy|discard))\b`, text) {
			if !slices.Contains(names, base) {
				t.Errorf("%s names the file %s; the installer writes %v", name, base, names)
			}
		}
	}
	for _, path := range ours {
		if !strings.Contains(read(t, "../docs/install.md"), path) {
			t.Errorf("docs/install.md lacks %s", path)
		}
	}
}

func TestWhoeverStopsTheDaemonStopsItsSocketsToo(t *testing.T) {
	// Or Exim's next question starts it again, in the middle of what it was stopped for.
	sockets := strings.Fields(found(`(?m)^Sockets=(.*)$`, read(t, "../exim-acl/systemd/osmd.service"))[0])
	seen := 0
	for name, text := range documents(t) {
		for _, units := range found(`(?m)^ *# systemctl (?:stop|start) (.*\bosmd\b.*)$`, text) {
			seen++
			for _, socket := range sockets {
				if !slices.Contains(strings.Fields(units), socket) {
					t.Errorf("%s: \"systemctl … %s\" leaves out %s", name, units, socket)
				}
			}
		}
	}
	if len(sockets) != 2 || seen == 0 {
		t.Errorf("%d sockets, %d commands found: the test looks in the wrong place", len(sockets), seen)
	}
}

func TestNamesOfTheCodeInTheDocumentsExist(t *testing.T) {
	folders := map[string]string{"eximacl": "exim-acl", "policy": "policy", "counters": "counters", "store": "sql", "actions": "actions", "packetmon": "internal/packetmon"}
	known := map[string]bool{}
	for pkg, dir := range folders {
		for _, name := range exported(t, dir) {
			known[pkg+"."+name] = true
		}
	}
	seen := 0
	for name, text := range documents(t) {
		for _, word := range found("`([a-z]+\\.[A-Z][A-Za-z]+(?:\\.[A-Z][A-Za-z]+)?)`", text) {
			seen++
			// "store.Append" stands for the method of the package's main type.
			pkg, last, _ := strings.Cut(word, ".")
			if !known[word] && !known[pkg+".Store."+last] {
				t.Errorf("%s speaks of %s, which there is not", name, word)
			}
		}
	}
	if seen < 10 {
		t.Errorf("only %d names of the code found in the documents", seen)
	}
}

// exported lists the exported names of a package, methods as "Type.Name".
func exported(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(filepath.Join("..", dir), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		for _, decl := range f.Decls {
			switch decl := decl.(type) {
			case *ast.FuncDecl:
				out = append(out, receiver(decl)+decl.Name.Name)
			case *ast.GenDecl:
				for _, spec := range decl.Specs {
					if ts, ok := spec.(*ast.TypeSpec); ok {
						out = append(out, ts.Name.Name)
					}
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func receiver(f *ast.FuncDecl) string {
	if f.Recv == nil {
		return ""
	}
	typ := f.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	if id, ok := typ.(*ast.Ident); ok {
		return id.Name + "."
	}
	return ""
}

func TestCommandsInTheDocumentsExist(t *testing.T) {
	page := strings.ReplaceAll(read(t, "../docs/man/osmctl.8"), `\-`, "-")
	commands := found(`(?m)^\.SS "osmctl ([a-z]+(?: [a-z]+)?)`, page)
	flags := found(`\\fB(--?[a-z-]+)\\fR`, page)
	if len(commands) < 20 || len(flags) < 30 {
		t.Fatalf("commands %v, flags %v", commands, flags)
	}
	line := regexp.MustCompile("(?m)(?:^ *# |`)osmctl ([^`\n]*)")
	for name, text := range documents(t) {
		for _, m := range line.FindAllStringSubmatch(strings.ReplaceAll(text, "\\\n", " "), -1) {
			words := strings.Fields(m[1])
			if len(words) == 0 || !isCommand(commands, words) {
				t.Errorf("%s: there is no command %q", name, "osmctl "+m[1])
			}
			for _, w := range words {
				flag, _, _ := strings.Cut(w, "=")
				if w == "|" || w == "&&" {
					break // another program
				}
				if strings.HasPrefix(flag, "--") && !slices.Contains(flags, flag) {
					t.Errorf("%s: osmctl has no %s (%q)", name, flag, m[1])
				}
			}
		}
	}
}

// isCommand reports whether words begin with a command: of one word, or of two, or with
// "…" or nothing in the place of the second.
func isCommand(commands, words []string) bool {
	if slices.Contains(commands, words[0]) || words[0] == "…" || words[0] == "…)" {
		return true
	}
	return len(words) > 1 && slices.Contains(commands, words[0]+" "+words[1])
}

func TestManualPagesAreWithoutFault(t *testing.T) {
	pages, err := filepath.Glob("../docs/man/*.[1-9]")
	if err != nil || len(pages) != 3 {
		t.Fatalf("manual pages: %v, %v; want osmd.8, osmctl.8 and osm.toml.5", pages, err)
	}
	if _, err := exec.LookPath("mandoc"); err != nil {
		t.Fatalf("%v: tests/deps.sh installs it; without it the pages are not looked at", err)
	}
	for _, page := range pages {
		out, err := exec.Command("mandoc", "-Tlint", "-W", "style", page).CombinedOutput()
		var status *exec.ExitError // tells of the date alone
		if err != nil && !errors.As(err, &status) {
			t.Fatal(err)
		}
		for line := range bytes.Lines(out) {
			if !bytes.Contains(line, []byte("missing date")) { // pages made from definitions have none
				t.Errorf("%s", line)
			}
		}
	}
}
