package entry

import "io"

// Sub is the directory dir of fsys as a file system of its own: links in it
// lead nowhere else. dir is physical; "." gives fsys.
func Sub(fsys FS, dir string) FS {
	if dir == "." {
		return fsys
	}
	return &sub{fsys, dir}
}

type sub struct {
	fsys FS
	dir  string
}

// in is a path below dir as fsys has it.
func (s *sub) in(p string) string { return Join(s.dir, p) }

// Lstat implements FS.
func (s *sub) Lstat(p string) (Entry, error) {
	e, err := s.fsys.Lstat(s.in(p))
	e.Path = p
	return e, err
}

// ReadDir implements FS.
func (s *sub) ReadDir(p string) ([]Entry, error) {
	list, err := s.fsys.ReadDir(s.in(p))
	for i := range list {
		list[i].Path = Join(p, list[i].Base())
	}
	return list, err
}

// Open implements FS.
func (s *sub) Open(p string) (io.ReadCloser, error) { return s.fsys.Open(s.in(p)) }
