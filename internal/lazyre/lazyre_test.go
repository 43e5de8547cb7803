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
			text, ok := textOf(f, call.Args[0])
			if !ok {
				t.Errorf("%s: not a text that can be looked at here", at)
				return true
			}
			if _, err := regexp.Compile(text); err != nil {
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

// textOf is the text of an expression of literals and of constants of file f.
func textOf(f *ast.File, e ast.Expr) (text string, ok bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		text, err := strconv.Unquote(e.Value)
		return text, err == nil
	case *ast.BinaryExpr:
		a, ok := textOf(f, e.X)
		b, also := textOf(f, e.Y)
		return a + b, ok && also && e.Op == token.ADD
	case *ast.Ident:
		value := constant(f, e.Name)
		if value == nil {
			return "", false
		}
		return textOf(f, value)
	}
	return "", false
}

// constant is what the constant name of file f is declared as; nil if there is none.
func constant(f *ast.File, name string) ast.Expr {
	for _, d := range f.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.CONST {
			continue
		}
		for _, s := range g.Specs {
			if v := s.(*ast.ValueSpec); v.Names[0].Name == name && len(v.Values) == 1 {
				return v.Values[0]
			}
		}
	}
	return nil
}
