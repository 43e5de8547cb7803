package whittle_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/whittle-build/whittle"

// house is the table of packages: level and outside modules. Imports go down
// only, and each outside module has one importer; golang.org/x/sys/unix is the
// kernel's interface and stands with every package that talks to it. A new
// edge is a design decision: change this table and DESIGN.md in the same
// commit and say why.
var house = map[string]struct {
	level   int
	modules string
}{
	"cmd/whittle":                 {8, "github.com/spf13/cobra github.com/spf13/pflag golang.org/x/sys"},
	"":                            {7, ""},
	"internal/execute":            {6, ""},
	"internal/cacheplace":         {6, ""},
	"internal/settings":           {6, "github.com/pelletier/go-toml/v2"},
	"internal/solve":              {5, "golang.org/x/sync"},
	"internal/image":              {5, ""},
	"internal/registry":           {5, "github.com/google/go-containerregistry"},
	"internal/container":          {5, "golang.org/x/sys"},
	"internal/plan":               {4, ""},
	"internal/rootfs":             {4, "golang.org/x/sys"},
	"internal/fetch":              {4, ""},
	"internal/engine":             {4, ""},
	"internal/attest":             {4, ""},
	"internal/cachemount":         {4, "golang.org/x/sys"},
	"internal/sharedcache":        {4, ""},
	"internal/dockerfile":         {3, "github.com/moby/buildkit"},
	"internal/source":             {3, "golang.org/x/sys"},
	"internal/layer":              {3, "github.com/klauspost/compress github.com/klauspost/pgzip github.com/xi2/xz golang.org/x/sys"},
	"internal/sandbox":            {3, "github.com/moby/profiles/seccomp github.com/moby/sys/userns github.com/opencontainers/runtime-spec golang.org/x/net golang.org/x/sys"},
	"internal/sbom":               {3, ""},
	"internal/store":              {3, "golang.org/x/sys"},
	"internal/copying":            {3, ""},
	"internal/image/manifest":     {3, "github.com/opencontainers/image-spec"},
	"internal/sandbox/initproc":   {2, "github.com/moby/sys/user golang.org/x/sys"},
	"internal/compare":            {2, ""},
	"internal/fsroot":             {2, "golang.org/x/sys"},
	"internal/progress":           {2, "golang.org/x/term"},
	"internal/sshagent":           {2, "golang.org/x/crypto"},
	"internal/entry":              {1, ""},
	"internal/pattern":            {1, "github.com/moby/patternmatcher"},
	"internal/config":             {1, ""},
	"internal/address":            {1, ""},
	"internal/abreast":            {0, ""},
	"internal/flock":              {0, "golang.org/x/sys"},
	"internal/nearest":            {0, ""},
	"internal/digest":             {0, ""},
	"internal/crash":              {0, ""},
	"internal/retry":              {0, ""},
	"internal/trace":              {0, ""},
	"internal/lazyre":             {0, ""},
	"internal/sandbox/supervisor": {2, "golang.org/x/sys"},
}

// tools are folders of packages that are not part of the program.
var tools = []string{"bench", "conformance", "test"}

// shared modules may have several importers.
const shared = "golang.org/x/sys"

type goPackage struct {
	ImportPath string
	Imports    []string
	Standard   bool
	Module     *struct{ Path string }
}

// packages lists the packages that patterns match, as go list does.
func packages(t *testing.T, args ...string) []goPackage {
	t.Helper()
	out, err := exec.Command("go", append([]string{"list", "-json=ImportPath,Imports,Standard,Module"}, args...)...).Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var list []goPackage
	d := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p goPackage
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
}

func TestImportsGoDownAndModulesHaveOneImporter(t *testing.T) {
	moduleOf := map[string]string{}
	for _, p := range packages(t, "-deps", "./...") {
		if !p.Standard && p.Module != nil {
			moduleOf[p.ImportPath] = p.Module.Path
		}
	}
	importers := map[string][]string{}
	for _, p := range packages(t, "./...") {
		own := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
		room, ok := house[own]
		if !ok {
			if top, _, _ := strings.Cut(own, "/"); !slices.Contains(tools, top) && !strings.Contains(own, "testdata") {
				t.Errorf("%s is not in the table", own)
			}
			continue
		}
		for _, imp := range p.Imports {
			mod := moduleOf[imp]
			if mod == "" {
				continue
			}
			if mod == module {
				below := strings.TrimPrefix(strings.TrimPrefix(imp, module), "/")
				if house[below].level >= room.level {
					t.Errorf("%s (level %d) imports %s (level %d): imports go down only", own, room.level, below, house[below].level)
				}
				continue
			}
			if !slices.Contains(strings.Fields(room.modules), mod) {
				t.Errorf("%s imports %s of %s, which the table does not allow", own, imp, mod)
			}
			if mod != shared && !slices.Contains(importers[mod], own) {
				importers[mod] = append(importers[mod], own)
			}
		}
	}
	for mod, list := range importers {
		if len(list) > 1 {
			t.Errorf("%s is imported by %s: one importer for each module", mod, strings.Join(list, " and "))
		}
	}
}
