package generate

import (
	"fmt"
	"strings"

	"github.com/rogpeppe/go-internal/txtar"
)

// Name is what the case of a build is called.
func (b Build) Name() string { return fmt.Sprintf("generated_%d", b.Seed) }

// Archive is the build in the form of a case: to keep one that showed a
// difference, write it to a file.
func (b Build) Archive() []byte {
	a := &txtar.Archive{Comment: fmt.Appendf(nil, "The build of seed %d.\n", b.Seed)}
	for i := 0; i < len(b.Args); i += 2 {
		a.Comment = fmt.Appendf(a.Comment, "args: %s %s\n", b.Args[i], b.Args[i+1])
	}
	a.Files = append(a.Files, txtar.File{Name: "Dockerfile", Data: []byte(b.Dockerfile)})
	var setup strings.Builder
	for _, f := range b.Files {
		switch {
		case f.Link != "":
			fmt.Fprintf(&setup, "ln -s %s %s\n", f.Link, f.Path)
			continue
		case f.Dir:
			fmt.Fprintf(&setup, "mkdir -p %s\n", f.Path)
		default:
			a.Files = append(a.Files, txtar.File{Name: f.Path, Data: []byte(f.Data)})
		}
		fmt.Fprintf(&setup, "chmod %o %s\n", f.Mode, f.Path)
	}
	// What the script made or changed has an old time like all else.
	setup.WriteString("find . -exec touch -h -d @981173106 {} +\n")
	a.Files = append(a.Files, txtar.File{Name: "setup.sh", Data: []byte(setup.String())})
	return txtar.Format(a)
}
