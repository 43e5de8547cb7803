package layer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/whittle-build/whittle/internal/entry"
)

// side is the file beside a tree: what the layer has and the tree cannot
// hold. In a user namespace that is devices and trusted attributes, and where it
// has a single id, owners. Nothing inside the tree can say the same, so neither a
// step nor a layer from elsewhere can.
type side struct {
	RootImplied bool
	Prefix      string // of overlay attributes; "" is not known
	Devices     []entry.Entry
	Xattrs      map[string]map[string]string // complete, by path
	Owners      map[string]owner             // by path
}

// owner is whose a file is.
type owner struct {
	UID uint32 `json:"uid"`
	GID uint32 `json:"gid"`
}

// Paths and values are any bytes, which JSON strings are not.
type sideFile struct {
	RootImplied bool        `json:"rootImplied,omitempty"`
	Prefix      string      `json:"prefix,omitempty"`
	Entries     []sideEntry `json:"entries,omitempty"`
}

type sideEntry struct {
	Path   []byte      `json:"path"`
	Device string      `json:"device,omitempty"` // "c" or "b"; else only Xattrs count
	Mode   uint32      `json:"mode,omitempty"`
	UID    uint32      `json:"uid,omitempty"`
	GID    uint32      `json:"gid,omitempty"`
	Mtime  entry.Time  `json:"mtime,omitzero"`
	Major  uint32      `json:"major,omitempty"`
	Minor  uint32      `json:"minor,omitempty"`
	Xattrs []sideXattr `json:"xattrs,omitempty"`
	Owner  *owner      `json:"owner,omitempty"` // of the file in the tree; then Xattrs do not count
}

type sideXattr struct {
	Name  []byte `json:"name"`
	Value []byte `json:"value"`
}

func sidePath(tree string) string { return filepath.Join(filepath.Dir(filepath.Clean(tree)), SideName) }

func readSide(tree string) (side, error) {
	var s side
	b, err := os.ReadFile(sidePath(tree))
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	var f sideFile
	if err := json.Unmarshal(b, &f); err != nil {
		return s, fmt.Errorf("%s: %w", sidePath(tree), err)
	}
	s.RootImplied, s.Prefix, s.Xattrs = f.RootImplied, f.Prefix, map[string]map[string]string{}
	for _, x := range f.Entries {
		if x.Owner != nil {
			s.own(string(x.Path), *x.Owner)
			continue
		}
		attrs := map[string]string{}
		for _, a := range x.Xattrs {
			attrs[string(a.Name)] = string(a.Value)
		}
		if x.Device == "" {
			s.Xattrs[string(x.Path)] = attrs
			continue
		}
		e := entry.Entry{
			Path: string(x.Path), Kind: entry.Char, Mode: x.Mode, UID: x.UID, GID: x.GID,
			Mtime: x.Mtime, Major: x.Major, Minor: x.Minor,
		}
		if x.Device == "b" {
			e.Kind = entry.Block
		}
		if len(attrs) > 0 {
			e.Xattrs = attrs
		}
		s.Devices = append(s.Devices, e)
	}
	return s, nil
}

func (s *side) write(tree string) error {
	f := sideFile{RootImplied: s.RootImplied, Prefix: s.Prefix}
	for _, e := range s.Devices {
		x := sideEntry{
			Path: []byte(e.Path), Device: "c", Mode: e.Mode, UID: e.UID, GID: e.GID,
			Mtime: e.Mtime, Major: e.Major, Minor: e.Minor, Xattrs: sideXattrs(e.Xattrs),
		}
		if e.Kind == entry.Block {
			x.Device = "b"
		}
		f.Entries = append(f.Entries, x)
	}
	for p, attrs := range s.Xattrs {
		f.Entries = append(f.Entries, sideEntry{Path: []byte(p), Xattrs: sideXattrs(attrs)})
	}
	for p, o := range s.Owners {
		f.Entries = append(f.Entries, sideEntry{Path: []byte(p), Owner: &o})
	}
	b, err := json.Marshal(f)
	if err != nil {
		return err
	}
	return os.WriteFile(sidePath(tree), append(b, '\n'), 0o644)
}

func (s *side) own(path string, o owner) {
	if s.Owners == nil {
		s.Owners = map[string]owner{}
	}
	s.Owners[path] = o
}

// ImplyRoot notes that a tree's root directory is no part of the layer.
func ImplyRoot(tree string) error {
	s, err := readSide(tree)
	if err != nil {
		return err
	}
	s.RootImplied = true
	return s.write(tree)
}

func sideXattrs(attrs map[string]string) []sideXattr {
	var out []sideXattr
	for n, v := range attrs {
		out = append(out, sideXattr{[]byte(n), []byte(v)})
	}
	return out
}

// userxattr says whether the tree has overlay's user attributes; guess
// answers for a tree without a side file.
func (s *side) userxattr(guess func() bool) bool {
	if s.Prefix != "" {
		return s.Prefix == prefixUser
	}
	return guess()
}

func (s *side) byDir() map[string][]entry.Entry {
	dirs := map[string][]entry.Entry{}
	for _, e := range s.Devices {
		dir := entry.Parent(e.Path)
		dirs[dir] = append(dirs[dir], e)
	}
	return dirs
}

// sideWriter collects a side file from several goroutines.
type sideWriter struct {
	mu sync.Mutex
	s  side
}

func (w *sideWriter) device(e entry.Entry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.s.Devices = append(w.s.Devices, e)
}

func (w *sideWriter) owner(e *entry.Entry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.s.own(e.Path, owner{e.UID, e.GID})
}

func (w *sideWriter) xattrs(e *entry.Entry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.s.Xattrs == nil {
		w.s.Xattrs = map[string]map[string]string{}
	}
	w.s.Xattrs[e.Path] = e.Xattrs
}

// forget drops what is known of the paths that were removed.
func (w *sideWriter) forget(removed func(string) bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.s.Devices = slices.DeleteFunc(w.s.Devices, func(e entry.Entry) bool { return removed(e.Path) })
	maps.DeleteFunc(w.s.Xattrs, func(p string, _ map[string]string) bool { return removed(p) })
	maps.DeleteFunc(w.s.Owners, func(p string, _ owner) bool { return removed(p) })
}
