package whittle_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// starters are the files that may start a program, and what they start. All
// that runs in a root is started by internal/sandbox, which knows no way to
// run something with other rights than its Config says: a second way would be
// one that forgets a check.
var starters = map[string]string{
	"internal/sandbox/":                "steps and containers, and whittle itself to start them",
	"internal/fetch/gitrun.go":         "git, of the host",
	"internal/registry/credentials.go": "credential helpers, of the host",
	"internal/layer/gunzip.go":         "igzip, of the host",
	"cmd/whittle/monitor.go":           "whittle itself",
}

// Attack 26: an interface that ran things had not the checks that the others
// had. Taking internal/sandbox out of another package's way is what fails here.
func TestAttack26_OnlyTheSandboxStartsProcessesInRoots(t *testing.T) {
	used := map[string]bool{}
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		outside := []string{"bench", "conformance", "test", "testdata", ".git", ".cache", "standins", "examples"}
		if d.IsDir() {
			for _, o := range outside {
				if d.Name() == o {
					return fs.SkipDir
				}
			}
		}
		if err != nil || d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return err
		}
		how := startsProcesses(t, name)
		if how == "" {
			return nil
		}
		for s := range starters {
			if strings.HasPrefix(filepath.ToSlash(name), s) {
				used[s] = true
				return nil
			}
		}
		t.Errorf("%s starts processes (%s): only these may: %v", name, how, starters)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for s := range starters {
		if !used[s] {
			t.Errorf("%s starts nothing any more: take it out of the table", s)
		}
	}
}

// startsProcesses says by what the file starts processes; "" if by nothing.
func startsProcesses(t *testing.T, name string) (how string) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range f.Imports {
		if i.Path.Value == `"os/exec"` {
			return "os/exec"
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		s, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		switch s.Sel.Name {
		case "StartProcess", "ForkExec", "Exec", "SYS_EXECVE", "SYS_EXECVEAT", "SYS_CLONE", "SYS_CLONE3", "SYS_FORK", "SYS_VFORK":
			if x, ok := s.X.(*ast.Ident); ok && (x.Name == "os" || x.Name == "syscall" || x.Name == "unix") {
				how = x.Name + "." + s.Sel.Name
			}
		}
		return true
	})
	return how
}
