package container

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/fsroot"
)

// A volume without a name is a folder of the container's own, which is made
// with the container, begins with what the image has in its place, and goes
// with the container. It can be written to when the root file system cannot.

// volumesName is the folder in a container's one that holds them.
const volumesName = "volumes"

// ownSources says where in dir the container's own volumes lie. It is not
// stored: a store may be moved.
func ownSources(c *Container, dir string) {
	for i := range c.Spec.Mounts {
		if m := &c.Spec.Mounts[i]; m.Own {
			m.Source = filepath.Join(dir, volumesName, strconv.Itoa(i))
		}
	}
}

// makeVolumes makes those of c's own volumes that are not there yet.
func (s *Set) makeVolumes(c *Container) (err error) {
	for _, m := range c.Spec.Mounts {
		if _, err := os.Lstat(m.Source); !m.Own || err == nil {
			continue
		}
		if err := s.makeVolume(c, m); err != nil {
			return fmt.Errorf("volume %s: %w", m.Target, err)
		}
	}
	return nil
}

func (s *Set) makeVolume(c *Container, m Mount) (err error) {
	if err := os.MkdirAll(filepath.Dir(m.Source), 0o755); err != nil {
		return err
	}
	fsys, done, err := s.view(c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	p, err := entry.Resolve(fsys, m.Target, true)
	if err != nil {
		return err
	}
	e, err := fsys.Lstat(p)
	if errors.Is(err, fs.ErrNotExist) {
		return os.Mkdir(m.Source, 0o755)
	}
	if err == nil && e.Kind != entry.Dir {
		err = &Error{Msg: fmt.Sprintf("is a %s in the image", e.Kind), Way: "choose a folder, or a path that the image does not have"}
	}
	if err != nil {
		return err
	}
	root, err := fsroot.Open(filepath.Dir(m.Source))
	if err != nil {
		return err
	}
	defer root.Close()
	return piped(
		func(w io.Writer) error { return archive(w, fsys, e, filepath.Base(m.Source)) },
		func(r io.Reader) error { return put(root, &Container{}, ".", r) },
	)
}
