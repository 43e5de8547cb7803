package source

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"

	"github.com/whittle-build/whittle/internal/entry"
)

// FindIn reads the Dockerfile of a context that is no folder of the caller:
// the one named file, or if that is "" its Dockerfile, or else its dockerfile.
// what is how messages call the context. Links are followed inside it.
func FindIn(fsys entry.FS, what, file string) (name string, src []byte, err error) {
	names := []string{file}
	if file == "" {
		names = []string{"Dockerfile", "dockerfile"}
	} else if dir, base := path.Split(file); base == "Dockerfile" {
		names = append(names, dir+"dockerfile")
	}
	for _, name := range names {
		src, err := readIn(fsys, name)
		if !errors.Is(err, fs.ErrNotExist) {
			return name, src, err
		}
	}
	return "", nil, missingIn(fsys, what, file)
}

func readIn(fsys entry.FS, name string) ([]byte, error) {
	p, err := entry.Resolve(fsys, name, true)
	if errors.Is(err, entry.ErrLoop) {
		return nil, &Error{File: name, Msg: "is a symlink that leads to itself"}
	}
	if err != nil {
		return nil, err
	}
	e, err := fsys.Lstat(p)
	if err != nil {
		return nil, err
	}
	if e.Kind != entry.File {
		return nil, &Error{File: name, Msg: "is not a regular file", Hint: "name the Dockerfile with -f: a path inside the build context"}
	}
	f, err := fsys.Open(p)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readText(f, name)
}

// missingIn says what there is in place of the Dockerfile.
func missingIn(fsys entry.FS, what, file string) error {
	want := file
	if file == "" {
		want = "Dockerfile"
	}
	if e, err := fsys.Lstat(entry.Clean(want)); err == nil && e.Kind == entry.Symlink {
		return &Error{File: want, Msg: "is a symlink to a file that is not in " + what,
			Hint: "put the file itself there, or name another with -f: a path inside the build context"}
	}
	e := &Error{File: want, Msg: "no such file in " + what, Hint: "name the Dockerfile with -f: a path inside the build context; -f - reads it from standard input"}
	dir := entry.Clean(path.Dir(want))
	if p, err := entry.Resolve(fsys, dir, true); err == nil {
		dir = p
	}
	list, err := fsys.ReadDir(dir)
	if err == nil && len(list) == 0 && dir == "." {
		e.Hint = "the build context is empty"
	}
	var near []string
	for i, k := range list {
		if i < 10000 && !k.IsDir() && alike(k.Base(), path.Base(want)) {
			near = append(near, k.Path)
		}
	}
	slices.Sort(near)
	if near = near[:min(len(near), 4)]; len(near) > 0 {
		e.Hint = fmt.Sprintf("did you mean %s? name it with -f", orList(near))
	}
	return e
}
