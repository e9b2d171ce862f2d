package tests

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// parsed parses the product's files of a package.
func parsed(t *testing.T, dir string) []*ast.File {
	t.Helper()
	names, err := filepath.Glob(filepath.Join("..", dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	var files []*ast.File
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	if len(files) == 0 {
		t.Fatalf("no sources in %s", dir)
	}
	return files
}

// methodsOf lists the exported methods of a type; with an actor only those that take one.
func methodsOf(files []*ast.File, receiver string, actor bool) map[string]bool {
	found := map[string]bool{}
	for _, f := range files {
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Recv == nil || !fn.Name.IsExported() {
				continue
			}
			star, ok := fn.Recv.List[0].Type.(*ast.StarExpr)
			if !ok || star.X.(*ast.Ident).Name != receiver {
				continue
			}
			if !actor || slices.ContainsFunc(fn.Type.Params.List, func(p *ast.Field) bool { id, ok := p.Type.(*ast.Ident); return ok && id.Name == "Actor" }) {
				found[fn.Name.Name] = true
			}
		}
	}
	return found
}

// used lists which of the methods are selected from a variable or field of that name.
func used(files []*ast.File, methods map[string]bool, of string) map[string]bool {
	found := map[string]bool{}
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			s, ok := n.(*ast.SelectorExpr)
			if !ok || !methods[s.Sel.Name] {
				return true
			}
			switch x := s.X.(type) {
			case *ast.Ident:
				ok = x.Name == of
			case *ast.SelectorExpr:
				ok = x.Sel.Name == of
			default:
				ok = false
			}
			if ok {
				found[s.Sel.Name] = true
			}
			return true
		})
	}
	return found
}

// TestThePageAndOsmctlCanDoTheSame compares the operations that the page calls with those
// that osmctl asks for.
func TestThePageAndOsmctlCanDoTheSame(t *testing.T) {
	api := parsed(t, "internal/control")
	operations, asks := methodsOf(api, "Service", true), methodsOf(api, "Client", false)
	for _, own := range []string{"Do", "Close"} {
		delete(asks, own)
	}
	compare(t, "the service", "the client", operations, asks, nil)
	page, command := used(parsed(t, "whm-addon"), operations, "service"), used(parsed(t, "cmd/osmctl"), asks, "client")
	compare(t, "the page", "osmctl", page, command, map[string]string{
		"TailConnections": "the page asks for the newest connections again",
		"Tail":            "the page asks for the newest messages again",
		"NewLoginLink":    "a link leads to the page on a host without WHM, which has a login of its own",
		"RedeemLoginLink": "what a front end does before there is a page",
	})
	for _, name := range slices.Sorted(maps.Keys(operations)) {
		if !page[name] && !command[name] {
			t.Errorf("nobody calls %s", name)
		}
	}
}

// compare fails for what one side has and the other has not, but for exceptions.
func compare(t *testing.T, one, other string, a, b map[string]bool, except map[string]string) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(a)) {
		if !b[name] && except[name] == "" {
			t.Errorf("%s has %s, %s has not", one, name, other)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(b)) {
		if !a[name] && except[name] == "" {
			t.Errorf("%s has %s, %s has not", other, name, one)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(except)) {
		if a[name] == b[name] {
			t.Errorf("%s is an exception of %s and %s without need", name, one, other)
		}
	}
}
