package copying

import (
	"fmt"
	"path"
	"strings"

	"github.com/whittle-build/whittle/internal/entry"
)

// A matched source is one thing to copy.
type matched struct {
	name   string      // as named in From, before links are followed
	entry  entry.Entry // what it is, links followed
	wild   bool        // found by a pattern
	filter *filter
}

// Match returns the paths of From that the request's sources stand for, in
// the order in which they are copied.
func Match(r Request) ([]string, error) {
	var names []string
	for _, s := range r.Sources {
		ms, err := match(&r, s)
		if err != nil {
			return nil, err
		}
		for _, m := range ms {
			names = append(names, m.name)
		}
	}
	return names, nil
}

// match finds what one source stands for. A source without wildcards must be
// there, and so must the directory before the first wildcard; the pattern
// itself may match nothing.
func match(r *Request, source string) ([]matched, error) {
	top, include := source, ""
	if r.Parents {
		top, include = SplitParents(source)
	}
	f, err := newFilter(r, include)
	if err != nil {
		return nil, err
	}
	names := []string{entry.Clean(top)}
	base, pattern := splitPattern(names[0])
	wild := len(pattern) > 0 && !r.Literal
	if r.Parents && !wild && !hasWildcard(include) {
		if err := required(r, f, names[0], include); err != nil {
			return nil, err
		}
	}
	if wild {
		dir, err := find(r, top, base)
		if err != nil {
			return nil, err
		}
		if names, err = globAll(r.From, dir, top, pattern); err != nil {
			return nil, err
		}
	}
	var out []matched
	for _, name := range names {
		e, err := find(r, top, name)
		if err != nil {
			return nil, err
		}
		out = append(out, matched{name: name, entry: e, wild: wild, filter: f})
	}
	return out, nil
}

// required refuses a source with Parents that names one thing which is not
// copied. Links on the way to it are not followed: what is behind one cannot
// keep its path.
func required(r *Request, f *filter, top, include string) error {
	full := entry.Clean(top + "/" + include)
	if include == "" {
		return &NotKept{full, "nothing is left whose path could be kept",
			"leave --parents out: the contents of a directory keep their paths; or name what to keep behind /./"}
	}
	e, err := r.From.Lstat(top)
	if err == nil && e.IsDir() {
		ok, err := f.has(top, include)
		if ok || err != nil {
			return err
		}
	} else if err != nil && !isNotExist(err) {
		return err
	}
	if _, err := r.From.Lstat(full); err == nil {
		return &NotKept{full, "--exclude leaves it out", "leave one of the two out"}
	}
	if real, err := entry.Resolve(r.From, full, true); err == nil {
		if _, err := r.From.Lstat(real); err == nil {
			return &NotKept{full, "a directory of this path is a symlink, and those are not followed", "name it without: " + real}
		}
	}
	return &NotFound{Source: full, Near: near(r, full)}
}

// find describes what name is once all links are followed. A missing one is
// reported as the source that led to it.
func find(r *Request, source, name string) (entry.Entry, error) {
	e, err := follow(r.From, name)
	if !isNotExist(err) {
		return e, err
	}
	missing := &NotFound{Source: source}
	if l, err := r.From.Lstat(name); err == nil && l.Kind == entry.Symlink {
		missing.Source, missing.Link = name, l.Link
		return e, missing
	}
	missing.Near = near(r, name)
	return e, missing
}

// follow describes what name is once all links are followed.
func follow(fsys entry.FS, name string) (entry.Entry, error) {
	p, err := entry.Resolve(fsys, name, true)
	if err != nil {
		return entry.Entry{}, err
	}
	return fsys.Lstat(p)
}

// splitPattern cuts a clean path before its first element with wildcards.
// pattern is nil when there is none.
func splitPattern(p string) (base string, pattern []string) {
	els := strings.Split(p, "/")
	for i, el := range els {
		if hasWildcard(el) {
			return entry.Clean(strings.Join(els[:i], "/")), els[i:]
		}
	}
	return p, nil
}

func hasWildcard(s string) bool {
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '*', '?', '[':
			return true
		}
	}
	return false
}

// globAll checks a pattern and returns the paths below base that match it. A
// base that is no directory has none.
func globAll(fsys entry.FS, base entry.Entry, source string, pattern []string) ([]string, error) {
	for _, p := range pattern {
		if _, err := path.Match(p, ""); err != nil {
			return nil, &BadPattern{Source: source}
		}
	}
	if !base.IsDir() {
		return nil, nil
	}
	return glob(fsys, base.Path, pattern, nil)
}

// glob appends to out the paths below dir that match, element by element.
// Links on the way are not followed: what lies behind one has another name.
func glob(fsys entry.FS, dir string, pattern, out []string) ([]string, error) {
	kids, err := fsys.ReadDir(dir)
	if isNotExist(err) {
		return out, nil
	}
	if err != nil {
		return nil, err
	}
	for _, k := range kids {
		if ok, _ := path.Match(pattern[0], k.Base()); !ok {
			continue
		}
		if len(pattern) == 1 {
			out = append(out, k.Path)
			continue
		}
		if !k.IsDir() {
			continue
		}
		if out, err = glob(fsys, k.Path, pattern[1:], out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// flattened warns of a pattern that matched directories: their contents are
// copied, not they themselves, which surprises nearly everybody.
func flattened(r *Request, source string, ms []matched) (Warning, bool) {
	w := Warning{Source: source}
	for _, m := range ms {
		if m.wild && m.entry.IsDir() {
			w.Paths = append(w.Paths, m.name)
		}
	}
	if len(w.Paths) == 0 || r.Parents {
		return Warning{}, false
	}
	dest := strings.TrimSuffix(r.Dest, "/") + "/"
	what := "the contents of each directory are merged into " + dest
	if len(w.Paths) == 1 {
		what = "its contents go into " + dest + " without it"
	}
	w.Message = fmt.Sprintf("%s matches %s: %s", source, listed(w.Paths), what)
	w.Hint = keepStructure(source, dest, w.Paths)
	return w, true
}

// keepStructure says what to write so that directories stay directories.
func keepStructure(source, dest string, dirs []string) string {
	if parent, ok := strings.CutSuffix(source, "/*"); ok && parent != "" && !hasWildcard(parent) {
		return fmt.Sprintf("to keep them, copy %s/ instead of %s: COPY %s/ %s", parent, source, parent, dest)
	}
	if source == "*" || source == "./*" {
		return fmt.Sprintf("to keep them, copy . instead of %s: COPY . %s", source, dest)
	}
	return fmt.Sprintf("to keep a directory, name it in the destination too: COPY %s %s%s/", dirs[0], dest, path.Base(dirs[0]))
}

// listed names a few paths and counts the rest.
func listed(paths []string) string {
	const few = 3
	if len(paths) <= few {
		return strings.Join(paths, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(paths[:few], ", "), len(paths)-few)
}
