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
	"slices"
	"strconv"
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
	Missed   []Missed // documents that may name packages which are not here, the first maxMissed
	More     int      // how many there are besides
}

// Missed is a document about packages that was not read, or not to its end.
type Missed struct{ Path, Why string }

// Gaps says in lines what was missed.
func (v *Inventory) Gaps() (lines []string) {
	for _, m := range v.Missed {
		if !plain(m.Path) {
			m.Path = strconv.Quote(m.Path)
		}
		lines = append(lines, m.Path+": "+m.Why)
	}
	if v.More > 0 {
		lines = append(lines, fmt.Sprintf("and %d more", v.More))
	}
	return lines
}

// maxMissed bounds what is told of them.
const maxMissed = 20

// System is what /etc/os-release says.
type System struct{ ID, Version, Name string }

// maxDocument bounds a database or manifest that is read whole.
const maxDocument = 256 << 20

// Scan takes stock of all files of fsys.
func Scan(ctx context.Context, fsys entry.FS) (*Inventory, error) {
	s := newScanner(ctx, fsys)
	if err := s.system(); err != nil {
		return nil, err
	}
	if err := s.locate(); err != nil {
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
	until  context.Context
	fs     entry.FS
	out    Inventory
	places map[string]reader // of databases
	seen   map[string]bool   // packages, by URL and where they were found
	kept   int               // bytes of them
	missed string            // the path that was last told
}

func newScanner(ctx context.Context, fsys entry.FS) *scanner {
	return &scanner{until: ctx, fs: fsys, places: map[string]reader{}, seen: map[string]bool{}}
}

func (s *scanner) one(e entry.Entry) error {
	if s.until.Err() != nil {
		return context.Cause(s.until)
	}
	switch e.Kind {
	case entry.File:
		if err := s.file(e); err != nil {
			return fmt.Errorf("%s: %w", e.Path, err)
		}
	case entry.Symlink:
		return s.link(e)
	}
	return nil
}

// miss notes that a document was not read, or not to its end. One reason is enough.
func (s *scanner) miss(path, why string) {
	if path == s.missed {
		return
	}
	s.missed = path
	if len(s.out.Missed) == maxMissed {
		s.out.More++
		return
	}
	s.out.Missed = append(s.out.Missed, Missed{path, why})
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
	read := s.readerOf(e.Path)
	switch {
	case read != nil && e.Size <= maxDocument:
		var b bytes.Buffer
		if err := s.copy(io.MultiWriter(all, &b), in); err != nil {
			return err
		}
		if err := s.document(e.Path, b.Bytes(), read); err != nil {
			return err
		}
	case read == nil && e.Mode&0o111 != 0:
		g := &goInfo{}
		if err := s.copy(io.MultiWriter(all, g), in); err != nil {
			return err
		}
		text, whole := g.text()
		if !whole {
			s.miss(e.Path, "says more of its modules than is read")
		}
		s.golang(e.Path, text)
	default:
		if err := s.copy(all, in); err != nil {
			return err
		}
		if read != nil {
			s.miss(e.Path, fmt.Sprintf("is larger than the %d MiB that are read", maxDocument>>20))
		}
	}
	f := File{Path: e.Path}
	h1.Sum(f.SHA1[:0])
	h2.Sum(f.SHA256[:0])
	s.out.Files = append(s.out.Files, f)
	return nil
}

// document has read take packages out of b. What it cannot read is noted.
func (s *scanner) document(path string, b []byte, read reader) error {
	err := read(s, path, b)
	if s.until.Err() != nil {
		return context.Cause(s.until)
	}
	if err != nil {
		s.miss(path, err.Error())
	}
	return nil
}

// copy is io.Copy that ends when the scan does.
func (s *scanner) copy(to io.Writer, from io.Reader) error {
	for {
		_, err := io.CopyN(to, from, 16<<20)
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		case s.until.Err() != nil:
			return context.Cause(s.until)
		}
	}
}

const (
	// maxText bounds a name, a version, a license.
	maxText = 512
	// maxKept bounds what is kept of packages, with some for each.
	maxKept    = 128 << 20
	perPackage = 256
)

// add takes a package in. Names and versions are those of files that anybody may have
// written: they are text, and short.
func (s *scanner) add(p Package) {
	switch {
	case p.Name == "" || p.Version == "":
		return // none that is installed
	case !short(p.Name) || !short(p.Version) || len(p.URL) > 16*maxText:
		s.miss(p.Found, "has a package with a name or version that is too long, or no text")
		return
	case !short(p.License):
		p.License = ""
	}
	key := p.URL + " " + p.Found
	if s.seen[key] {
		return
	}
	if s.kept += perPackage + len(p.Name) + len(p.Version) + len(p.License) + len(p.URL) + len(key); s.kept > maxKept {
		s.miss(p.Found, "has more packages than are kept")
		return
	}
	s.seen[key] = true
	s.out.Packages = append(s.out.Packages, p)
}

func short(text string) bool { return len(text) <= maxText && plain(text) }

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
			if !short(v) {
				continue
			}
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
