package entry

import (
	"io"
	"path"
	"slices"
	"strings"
)

// Mem is an FS held in memory, for contexts made of text (a Dockerfile on
// standard input, here-documents) and for tests. Parents must be added before
// their children. It is complete before its first use and not changed after.
type Mem struct {
	entries map[string]Entry
	content map[string]string
	kids    map[string][]string
}

// NewMem returns a file system with an empty root of mode 0755.
func NewMem() *Mem {
	return &Mem{
		entries: map[string]Entry{".": {Path: ".", Kind: Dir, Mode: 0o755}},
		content: map[string]string{},
		kids:    map[string][]string{},
	}
}

// Add puts e in place, with content when it is a regular file (its Size is
// set from content). Missing parents are made with mode 0755.
func (m *Mem) Add(e Entry, content string) {
	if e.Kind == File {
		e.Size = int64(len(content))
		m.content[e.Path] = content
	}
	if _, ok := m.entries[e.Path]; !ok {
		dir := path.Dir(e.Path)
		if _, ok := m.entries[dir]; !ok {
			m.Add(Entry{Path: dir, Kind: Dir, Mode: 0o755}, "")
		}
		i, _ := slices.BinarySearch(m.kids[dir], e.Path)
		m.kids[dir] = slices.Insert(m.kids[dir], i, e.Path)
	}
	m.entries[e.Path] = e
}

// Lstat implements FS.
func (m *Mem) Lstat(p string) (Entry, error) {
	e, ok := m.entries[p]
	if !ok {
		return Entry{}, NotExist("lstat", p)
	}
	return e, nil
}

// ReadDir implements FS.
func (m *Mem) ReadDir(p string) ([]Entry, error) {
	if e, ok := m.entries[p]; !ok || e.Kind != Dir {
		return nil, NotExist("readdir", p)
	}
	var out []Entry
	for _, k := range m.kids[p] {
		out = append(out, m.entries[k])
	}
	return out, nil
}

// Open implements FS.
func (m *Mem) Open(p string) (io.ReadCloser, error) {
	c, ok := m.content[p]
	if !ok {
		return nil, NotExist("open", p)
	}
	return io.NopCloser(strings.NewReader(c)), nil
}
