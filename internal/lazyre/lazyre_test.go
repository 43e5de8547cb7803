package lazyre

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// A wrong expression would be found by whoever uses it first: so all of the
// program's are looked at here.
func TestAllExpressionsOfTheProgramAreOnes(t *testing.T) {
	seen := 0
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".") && d.Name() != ".." {
			return fs.SkipDir
		}
		if filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || !isNew(call.Fun) {
				return true
			}
			seen++
			at := fset.Position(call.Pos())
			lit, ok := call.Args[0].(*ast.BasicLit)
			if !ok {
				t.Errorf("%s: not a text that can be looked at here", at)
				return true
			}
			text, err := strconv.Unquote(lit.Value)
			if err == nil {
				_, err = regexp.Compile(text)
			}
			if err != nil {
				t.Errorf("%s: %v", at, err)
			}
			return true
		})
		return nil
	})
	if err != nil || seen < 20 {
		t.Errorf("%d expressions were looked at (%v)", seen, err)
	}
}

func isNew(fun ast.Expr) bool {
	s, ok := fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	x, ok := s.X.(*ast.Ident)
	return ok && x.Name == "lazyre" && s.Sel.Name == "New"
}

func TestMethodsAreThoseOfTheExpression(t *testing.T) {
	r := New(`a(b+)`)
	if !r.MatchString("xabb") || r.MatchString("x") || r.FindString("xabbc") != "abb" || r.FindStringSubmatch("xabbc")[1] != "bb" ||
		r.ReplaceAllString("xabbc", "-$1-") != "x-bb-c" || r.ReplaceAllStringFunc("xabbc", strings.ToUpper) != "xABBc" {
		t.Error("a method is not that of package regexp")
	}
}
