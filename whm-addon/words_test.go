package whm

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestHintsNameNoCommandOnThePage takes every hint that the operations give, and the words
// of an explanation that name a command: on the page they must name pages.
func TestHintsNameNoCommandOnThePage(t *testing.T) {
	// The argument that is the hint, by the function that makes an error.
	hintOf := map[string]int{"failure": 1, "notFound": 0, "invalid": 0, "unavailable": 0, "found": 1}
	files, err := filepath.Glob("../internal/control/*.go")
	if err != nil {
		t.Fatal(err)
	}
	looked := 0
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") || filepath.Base(name) == "login.go" { // links are the front's
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			made, ok := call.Fun.(*ast.Ident)
			if !ok {
				return true
			}
			at, ok := hintOf[made.Name]
			if !ok || at >= len(call.Args) {
				return true
			}
			for _, text := range literals(call.Args[at]) {
				if strings.Contains(text, "osmctl") {
					looked++
				}
				if got := onPage(text); strings.Contains(got, "osmctl") {
					t.Errorf("%s: on the page the hint %q is %q", name, text, got)
				}
			}
			return true
		})
	}
	if looked < 10 {
		t.Errorf("only %d hints with a command were found: the test looks in the wrong place", looked)
	}
}

// literals are the texts in an expression.
func literals(e ast.Expr) (texts []string) {
	ast.Inspect(e, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			if text, err := strconv.Unquote(lit.Value); err == nil {
				texts = append(texts, text)
			}
		}
		return true
	})
	return texts
}
