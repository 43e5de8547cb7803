// Package sbom finds out what is in an image: packages, by the databases and manifests
// that package managers leave, and files; and writes it down as SPDX.
//
// What it reads is hostile: databases are bounded and taken apart by their form alone, and
// nothing of an image is run.
package sbom

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/whittle-build/whittle/internal/entry"
)

// Package is one that is installed.
type Package struct {
	Name, Version string
	Type          string // of its package URL: deb, apk, rpm, golang, npm or pypi
	URL           string // the package URL
	License       string // as it is declared; "" when that is not known
	Found         string // the path that says so
}

// File is one regular file.
type File struct {
	Path   string
	SHA1   [sha1.Size]byte
	SHA256 [sha256.Size]byte
}

// Inventory is what is in a file system.
type Inventory struct {
	Packages []Package
	Files    []File
	System   System
}

// System is what /etc/os-release says.
type System struct{ ID, Version, Name string }

// maxDocument bounds a database or manifest that is read whole.
const maxDocument = 256 << 20

// Scan takes stock of all files of fsys.
func Scan(ctx context.Context, fsys entry.FS) (*Inventory, error) {
	s := scanner{until: ctx, fs: fsys, seen: map[string]bool{}}
	if err := s.system(); err != nil {
		return nil, err
	}
	if err := entry.Walk(fsys, ".", s.one); err != nil {
		return nil, err
	}
	slices.SortFunc(s.out.Packages, func(a, b Package) int {
		return cmp.Or(strings.Compare(a.Type, b.Type), strings.Compare(a.Name, b.Name), strings.Compare(a.Version, b.Version), strings.Compare(a.Found, b.Found))
	})
	return &s.out, nil
}

type scanner struct {
	until context.Context
	fs    entry.FS
	out   Inventory
	seen  map[string]bool // packages, by URL and where they were found
}

func (s *scanner) one(e entry.Entry) error {
	if s.until.Err() != nil {
		return context.Cause(s.until)
	}
	if e.Kind != entry.File {
		return nil
	}
	if err := s.file(e); err != nil {
		return fmt.Errorf("%s: %w", e.Path, err)
	}
	return nil
}

// reader takes packages out of a document.
type reader func(s *scanner, found string, b []byte)

// readerOf is who understands the file at p; nil when nobody does.
func readerOf(p string) reader {
	dir, base := path.Split(p)
	switch {
	case p == "var/lib/dpkg/status" || dir == "var/lib/dpkg/status.d/" && !strings.HasSuffix(base, ".md5sums"):
		return (*scanner).dpkg
	case p == "lib/apk/db/installed" || p == "usr/lib/apk/db/installed":
		return (*scanner).apk
	case p == "var/lib/rpm/rpmdb.sqlite" || p == "usr/lib/sysimage/rpm/rpmdb.sqlite":
		return (*scanner).rpm
	case base == "package.json" && inModules(dir):
		return (*scanner).npm
	case base == "METADATA" && strings.HasSuffix(dir, ".dist-info/"), base == "PKG-INFO" && strings.HasSuffix(dir, ".egg-info/"):
		return (*scanner).pip
	}
	return nil
}

// inModules says whether dir is that of a package in node_modules.
func inModules(dir string) bool {
	f := strings.Split(strings.TrimSuffix(dir, "/"), "/")
	n := len(f)
	return n >= 2 && f[n-2] == "node_modules" || n >= 3 && f[n-3] == "node_modules" && strings.HasPrefix(f[n-2], "@")
}

// file reads one file: for its digests, and for what it says of packages.
func (s *scanner) file(e entry.Entry) (err error) {
	in, err := s.fs.Open(e.Path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	h1, h2 := sha1.New(), sha256.New()
	all := io.MultiWriter(h1, h2)
	read := readerOf(e.Path)
	switch {
	case read != nil && e.Size <= maxDocument:
		var b bytes.Buffer
		if _, err := io.Copy(io.MultiWriter(all, &b), in); err != nil {
			return err
		}
		read(s, e.Path, b.Bytes())
	case e.Mode&0o111 != 0:
		g := &goInfo{}
		if _, err := io.Copy(io.MultiWriter(all, g), in); err != nil {
			return err
		}
		s.golang(e.Path, g.text())
	default:
		if _, err := io.Copy(all, in); err != nil {
			return err
		}
	}
	f := File{Path: e.Path}
	h1.Sum(f.SHA1[:0])
	h2.Sum(f.SHA256[:0])
	s.out.Files = append(s.out.Files, f)
	return nil
}

// add takes a package in. Names and versions are those of files that anybody may have
// written: they are text, and short.
func (s *scanner) add(p Package) {
	const most = 512
	if p.Name == "" || p.Version == "" || len(p.Name) > most || len(p.Version) > most || !plain(p.Name) || !plain(p.Version) {
		return
	}
	if len(p.License) > most || !plain(p.License) {
		p.License = ""
	}
	if key := p.URL + " " + p.Found; !s.seen[key] {
		s.seen[key] = true
		s.out.Packages = append(s.out.Packages, p)
	}
}

func plain(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\uFFFD' })
}

// system reads os-release, whichever of its places it has.
func (s *scanner) system() error {
	for _, name := range []string{"/etc/os-release", "/usr/lib/os-release"} {
		p, err := entry.Resolve(s.fs, name, true)
		if err != nil {
			continue // it is not there
		}
		e, err := s.fs.Lstat(p)
		if err != nil || e.Kind != entry.File || e.Size > 64<<10 {
			continue
		}
		in, err := s.fs.Open(p)
		if err != nil {
			return err
		}
		b, err := io.ReadAll(in)
		if err = errors.Join(err, in.Close()); err != nil {
			return err
		}
		for line := range strings.Lines(string(b)) {
			k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
			v = strings.Trim(v, `"'`)
			switch k {
			case "ID":
				s.out.System.ID = v
			case "VERSION_ID":
				s.out.System.Version = v
			case "PRETTY_NAME":
				s.out.System.Name = v
			}
		}
		return nil
	}
	return nil
}
