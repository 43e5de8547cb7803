package layer

import (
	"errors"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"

	"github.com/whittle-build/whittle/internal/entry"
)

// Merge stacks views of layers, bottom first as an image lists them, into the
// file system that a container sees: deletions applied, no Whiteout and no
// Opaque in the result. It remembers which layers have which directory; the
// layers must not change, and stay open, while it is used.
func Merge(layers ...entry.FS) entry.FS { return merge(layers, nil) }

// Extend is Merge of the layers of below, which Merge or Extend made, and one more on top. What below
// knows of its directories serves for both.
func Extend(below, top entry.FS) entry.FS {
	b := below.(*merged)
	return merge(append(slices.Clip(b.layers), top), b)
}

func merge(layers []entry.FS, below *merged) *merged {
	return &merged{layers: layers, below: below, dirs: map[string]*stack{}, lists: map[string]listing{}}
}

type merged struct {
	layers []entry.FS
	below  *merged // of the layers but the topmost; nil where there is none

	mu     sync.RWMutex
	dirs   map[string]*stack
	lists  map[string]listing
	listed int // entries in lists
}

// A listing is what a directory has, and from which layers.
type listing struct {
	entries []entry.Entry
	from    []int
}

// maxListed bounds the memory that kept lists take, to some 30 MB: a stage is
// listed for the key of a COPY and again for the copy.
const maxListed = 1 << 17

// A stack is what a path is made of: the numbers of the layers that have the
// directory, top first. A path that is no directory has one layer.
type stack struct {
	layers []int
	top    entry.Entry
}

// rootImplied is what views have whose layer may not say what its root is.
type rootImplied interface{ RootImplied() bool }

func (m *merged) root() (*stack, error) {
	s := &stack{top: entry.Entry{Path: ".", Kind: entry.Dir, Mode: 0o755}}
	said := false
	at, known := m.below, (*stack)(nil)
	for i, l := range slices.Backward(m.layers) {
		if at, known = at.lower(i, "."); known != nil {
			s.layers = append(s.layers, known.layers...)
			if !said {
				s.top = known.top
			}
			break
		}
		e, err := l.Lstat(".")
		if err != nil {
			return nil, err
		}
		s.layers = append(s.layers, i)
		v, ok := l.(rootImplied)
		if !said && !(ok && v.RootImplied()) {
			s.top, said = e, true
		}
		if e.Opaque {
			break
		}
	}
	s.top.Opaque, s.top.Inode = false, 0
	return s, nil
}

// lower returns the view of the layers up to number i, as far as there is one below m, and what it
// knows of the directory p: the stack of m goes on with that.
func (m *merged) lower(i int, p string) (at *merged, known *stack) {
	at = m
	for at != nil && len(at.layers) > i+1 {
		at = at.below
	}
	if at == nil || len(at.layers) != i+1 {
		return at, nil
	}
	at.mu.RLock()
	defer at.mu.RUnlock()
	return at, at.dirs[p]
}

// stack finds what path is made of.
func (m *merged) stack(p string) (*stack, error) {
	m.mu.RLock()
	s := m.dirs[p]
	m.mu.RUnlock()
	if s != nil {
		return s, nil
	}
	s, err := m.find(p)
	if err != nil || s.top.Kind != entry.Dir {
		return s, err
	}
	m.mu.Lock()
	m.dirs[p] = s
	m.mu.Unlock()
	return s, nil
}

func (m *merged) find(p string) (*stack, error) {
	if p == "." {
		return m.root()
	}
	parent := "."
	if i := strings.LastIndexByte(p, '/'); i >= 0 {
		parent = p[:i]
	}
	up, err := m.stack(parent)
	if err != nil {
		return nil, err
	}
	if up.top.Kind != entry.Dir {
		return nil, fs.ErrNotExist
	}
	if e, from, ok := m.fromList(parent, p); ok && e.Kind != entry.Dir {
		return &stack{layers: []int{from}, top: e}, nil
	}
	s := &stack{}
	at, known := m.below, (*stack)(nil)
	for _, i := range up.layers {
		if at, known = at.lower(i, p); known != nil {
			if len(s.layers) == 0 {
				s.top = known.top
			}
			s.layers = append(s.layers, known.layers...)
			break
		}
		e, err := m.layers[i].Lstat(p)
		if isMissing(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if more := m.add(s, i, e); !more {
			break
		}
	}
	if len(s.layers) == 0 {
		return nil, fs.ErrNotExist
	}
	return s, nil
}

// add puts what layer i has at the path under what is there, and says
// whether lower layers count.
func (m *merged) add(s *stack, i int, e entry.Entry) (more bool) {
	if e.Kind == entry.Whiteout {
		return false
	}
	if len(s.layers) == 0 {
		s.top = m.clean(i, e)
		s.layers = append(s.layers, i)
		return e.Kind == entry.Dir && !e.Opaque
	}
	if e.Kind != entry.Dir {
		return false
	}
	s.layers = append(s.layers, i)
	return !e.Opaque
}

// clean makes a layer's entry one of the merged view, in which inodes of
// different layers are different.
func (m *merged) clean(layer int, e entry.Entry) entry.Entry {
	e.Opaque = false
	return apart(e, layer, len(m.layers))
}

// apart makes inodes of different layers different.
func apart(e entry.Entry, layer, layers int) entry.Entry {
	if e.Inode != 0 {
		e.Inode = e.Inode*uint64(layers) + uint64(layer)
	}
	return e
}

// Lstat implements entry.FS.
func (m *merged) Lstat(p string) (entry.Entry, error) {
	s, err := m.stack(p)
	if err != nil {
		return entry.Entry{}, m.error("lstat", p, err)
	}
	return s.top, nil
}

func (m *merged) error(op, p string, err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return err
	}
	return pathError(op, p, err)
}

// ReadDir implements entry.FS.
func (m *merged) ReadDir(p string) ([]entry.Entry, error) { return m.AppendDir(nil, p) }

// AppendDir implements entry.Appender.
func (m *merged) AppendDir(list []entry.Entry, p string) ([]entry.Entry, error) {
	kept, _, err := m.list(p)
	if err != nil {
		return nil, err
	}
	return append(list, kept...), nil
}

// Forget drops the lists that are kept: who listed all of a stage has what it
// wanted.
func (m *merged) Forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lists, m.listed = map[string]listing{}, 0
}

// fromList finds p, which lies in the directory dir, if the list of that is kept.
func (m *merged) fromList(dir, p string) (e entry.Entry, from int, ok bool) {
	m.mu.RLock()
	l := m.lists[dir]
	m.mu.RUnlock()
	i, ok := slices.BinarySearchFunc(l.entries, p, func(e entry.Entry, p string) int { return strings.Compare(e.Path, p) })
	if !ok {
		return e, 0, false
	}
	return l.entries[i], l.from[i], true
}

// list is ReadDir that says besides which layer each entry is from. What it
// returns is not to be changed.
func (m *merged) list(p string) (list []entry.Entry, from []int, err error) {
	m.mu.RLock()
	l, ok := m.lists[p]
	m.mu.RUnlock()
	if ok {
		return l.entries, l.from, nil
	}
	if list, from, err = m.listNow(p); err != nil {
		return nil, nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.lists[p]; !ok && m.listed+len(list) <= maxListed {
		m.lists[p] = listing{list, from}
		m.listed += len(list)
	}
	return list, from, nil
}

func (m *merged) listNow(p string) (list []entry.Entry, from []int, err error) {
	s, err := m.stack(p)
	if err != nil {
		return nil, nil, m.error("readdir", p, err)
	}
	if s.top.Kind != entry.Dir {
		return nil, nil, m.error("readdir", p, fs.ErrNotExist)
	}
	lists := make([][]entry.Entry, 0, len(s.layers))
	for _, i := range s.layers {
		l, err := m.layers[i].ReadDir(p)
		if err != nil {
			return nil, nil, err
		}
		lists = append(lists, l)
	}
	list, from = m.mergeLists(lists, s.layers)
	return list, from, nil
}

// mergeLists merges sorted listings of one directory, top first. The topmost
// entry of a name wins, and a whiteout that wins hides the name.
func (m *merged) mergeLists(lists [][]entry.Entry, layers []int) (out []entry.Entry, from []int) {
	n := 0
	for _, l := range lists {
		n = max(n, len(l))
	}
	out, from = make([]entry.Entry, 0, n), make([]int, 0, n)
	for {
		best := -1
		for i, l := range lists {
			if len(l) > 0 && (best < 0 || l[0].Path < lists[best][0].Path) {
				best = i
			}
		}
		if best < 0 {
			return out, from
		}
		e := lists[best][0]
		for i, l := range lists {
			if len(l) > 0 && l[0].Path == e.Path {
				lists[i] = l[1:]
			}
		}
		if e.Kind != entry.Whiteout {
			out, from = append(out, m.clean(layers[best], e)), append(from, layers[best])
		}
	}
}

// Open implements entry.FS.
func (m *merged) Open(p string) (io.ReadCloser, error) {
	s, err := m.stack(p)
	if err != nil {
		return nil, m.error("open", p, err)
	}
	if s.top.Kind != entry.File {
		return nil, m.error("open", p, errIsDir)
	}
	return m.layers[s.layers[0]].Open(p)
}

// Loader returns an entry.Loader.
func (m *merged) Loader() entry.Loader {
	return &mergedLoader{m: m, of: make([]entry.Loader, len(m.layers))}
}

// mergedLoader loads each file from the layer that has it.
type mergedLoader struct {
	m  *merged
	of []entry.Loader // those of the layers; nil before their first file
}

// Load implements entry.Loader.
func (l *mergedLoader) Load(p string, data []byte) error {
	s, err := l.m.stack(p)
	if err != nil {
		return l.m.error("open", p, err)
	}
	if s.top.Kind != entry.File {
		return l.m.error("open", p, errIsDir)
	}
	i := s.layers[0]
	if l.of[i] == nil {
		l.of[i] = entry.LoaderOf(l.m.layers[i])
	}
	return l.of[i].Load(p, data)
}

// Close implements entry.Loader.
func (l *mergedLoader) Close() {
	for _, one := range l.of {
		if one != nil {
			one.Close()
		}
	}
}
