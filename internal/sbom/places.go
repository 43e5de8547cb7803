package sbom

import (
	"errors"
	"io/fs"
	"path"
	"strings"

	"github.com/whittle-build/whittle/internal/entry"
)

// reader takes packages out of a document. An error says why it did not take all.
type reader func(s *scanner, found string, b []byte) error

// databases are where package managers keep theirs.
var databases = [...]struct {
	path string
	read reader
}{
	{"var/lib/dpkg/status", (*scanner).dpkg},
	{"lib/apk/db/installed", (*scanner).apk},
	{"usr/lib/apk/db/installed", (*scanner).apk},
	{"var/lib/rpm/rpmdb.sqlite", (*scanner).rpm},
	{"usr/lib/sysimage/rpm/rpmdb.sqlite", (*scanner).rpm},
	{"var/lib/rpm/Packages", (*scanner).rpmOld},
	{"usr/lib/sysimage/rpm/Packages", (*scanner).rpmOld},
	{"var/lib/rpm/Packages.db", (*scanner).rpmOld},
	{"usr/lib/sysimage/rpm/Packages.db", (*scanner).rpmOld},
}

// dpkgParts has a file for each package, in images without dpkg.
const dpkgParts = "var/lib/dpkg/status.d"

// locate finds the databases, by way of symbolic links too, within the image: they are read
// where the walk comes by them.
func (s *scanner) locate() error {
	for _, db := range databases {
		if err := s.database(db.path, db.read); err != nil {
			return err
		}
	}
	dir, err := entry.Resolve(s.fs, dpkgParts, true)
	if err != nil {
		return s.lost(dpkgParts, err)
	}
	parts, err := s.fs.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range parts {
		if strings.HasSuffix(e.Path, ".md5sums") {
			continue
		}
		if err := s.database(e.Path, (*scanner).dpkg); err != nil {
			return err
		}
	}
	return nil
}

// database finds one.
func (s *scanner) database(name string, read reader) error {
	p, err := entry.Resolve(s.fs, name, true)
	if err != nil {
		return s.lost(name, err)
	}
	e, err := s.fs.Lstat(p)
	if errors.Is(err, fs.ErrNotExist) {
		return s.dangling(name)
	}
	if err != nil {
		return err
	}
	if e.Kind != entry.File {
		s.miss(name, "is no file")
		return nil
	}
	s.places[p] = read
	return nil
}

// dangling notes that there would be a file at name, if its link led to one.
func (s *scanner) dangling(name string) error {
	p, err := entry.Resolve(s.fs, name, false)
	if err != nil {
		return s.lost(name, err)
	}
	if e, err := s.fs.Lstat(p); err == nil && e.Kind == entry.Symlink {
		s.miss(name, "is a symbolic link to what is not there")
	}
	return nil
}

// lost notes links that go round in a circle, which are the image's mistake.
func (s *scanner) lost(name string, err error) error {
	if !errors.Is(err, entry.ErrLoop) {
		return err
	}
	s.miss(name, "is behind symbolic links that lead nowhere")
	return nil
}

// readerOf is who understands the file at p; nil when nobody does.
func (s *scanner) readerOf(p string) reader {
	if read := s.places[p]; read != nil {
		return read
	}
	dir, base := path.Split(p)
	switch {
	case base == "package.json" && inModules(dir):
		return (*scanner).npm
	case base == "METADATA" && strings.HasSuffix(dir, ".dist-info/"), base == "PKG-INFO" && strings.HasSuffix(dir, ".egg-info/"):
		return (*scanner).pip
	}
	return nil
}

// link looks whether a manifest that is a symbolic link is read where it lies.
func (s *scanner) link(e entry.Entry) error {
	if s.readerOf(e.Path) == nil {
		return nil
	}
	p, err := entry.Resolve(s.fs, e.Path, true)
	if err != nil {
		return s.lost(e.Path, err)
	}
	if to, err := s.fs.Lstat(p); err != nil || to.Kind != entry.File || s.readerOf(p) == nil {
		s.miss(e.Path, "is a symbolic link to what is not read")
	}
	return nil
}

// inModules says whether dir is that of a package in node_modules.
func inModules(dir string) bool {
	f := strings.Split(strings.TrimSuffix(dir, "/"), "/")
	n := len(f)
	return n >= 2 && f[n-2] == "node_modules" || n >= 3 && f[n-3] == "node_modules" && strings.HasPrefix(f[n-2], "@")
}
