package copying

import (
	"path"
	"strings"
	"sync"

	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/pattern"
)

// pivot divides a source under Parents: what is before it is not kept.
const pivot = "/./"

// A filter says what of a copied directory counts. The zero value lets all
// of it through.
type filter struct {
	from  entry.FS
	p     *pattern.Filter
	lists sync.Pool // of *[]entry.Entry: of a directory, until its last entry was seen
}

// longestKept is how many entries a list has at most whose memory is used again.
const longestKept = 4096

// newFilter makes the filter of one source, whose part below the pivot is
// include.
func newFilter(r *Request, include string) (*filter, error) {
	var patterns []string
	if r.Parents {
		patterns = []string{include}
	}
	p, err := pattern.NewFilter(patterns, r.Excludes)
	return &filter{from: r.From, p: p}, err
}

// A branch is a directory of From whose contents are copied.
type branch struct {
	path  string // in From
	rel   string // below the source
	state pattern.State
	kids  []kid // when they are known already
	known bool
}

// A kid is something in a branch that counts.
type kid struct {
	entry  entry.Entry
	way    bool   // a directory that only leads to something that counts
	branch branch // what is in it, of a directory
}

// each calls fn for what counts in d, sorted by name.
func (f *filter) each(d branch, fn func(kid) error) error {
	if d.known {
		for _, k := range d.kids {
			if err := fn(k); err != nil {
				return err
			}
		}
		return nil
	}
	list, _ := f.lists.Get().(*[]entry.Entry)
	if list == nil {
		list = new([]entry.Entry)
	}
	all, err := entry.AppendDir(f.from, (*list)[:0], d.path)
	if err != nil {
		return err
	}
	defer func() {
		*list = all
		if cap(all) <= longestKept {
			f.lists.Put(list)
		}
	}()
	for _, e := range all {
		k := kid{entry: e, branch: branch{path: e.Path}}
		if f.p != nil {
			ok, err := f.judge(d, &k)
			if err != nil {
				return err
			}
			if !ok {
				continue
			}
		}
		if err := fn(k); err != nil {
			return err
		}
	}
	return nil
}

// judge completes k and reports whether it counts.
func (f *filter) judge(d branch, k *kid) (bool, error) {
	sub := &k.branch
	sub.rel = path.Join(d.rel, k.entry.Base())
	j, state, err := f.p.Judge(sub.rel, k.entry.IsDir(), d.state)
	sub.state = state
	if j != pattern.Way || err != nil {
		return j == pattern.In, err
	}
	k.way = true
	var kids []kid
	err = f.each(*sub, func(k kid) error {
		kids = append(kids, k)
		return nil
	})
	sub.kids, sub.known = kids, true
	return len(kids) > 0, err
}

// has reports whether something of the directory at root counts whose path
// below it is rel.
func (f *filter) has(root, rel string) (bool, error) {
	d := branch{path: root}
	for name := range strings.SplitSeq(rel, "/") {
		found := false
		err := f.each(d, func(k kid) error {
			if k.entry.Base() == name {
				found, d = true, k.branch
			}
			return nil
		})
		if err != nil || !found {
			return false, err
		}
	}
	return true, nil
}

// PathWithParents makes a source of Parents from one as written.
func PathWithParents(source string) string {
	top, include, ok := strings.Cut(source, pivot)
	if !ok {
		top, include = "", source
	}
	return strings.TrimSuffix(path.Clean("/"+top), "/") + pivot + strings.TrimPrefix(path.Clean("/"+include), "/")
}

// SplitParents takes a source of Parents apart: a directory or a pattern of
// such, and the pattern of what to take from it.
func SplitParents(source string) (top, include string) {
	top, include, _ = strings.Cut(source, pivot)
	return top, strings.TrimPrefix(path.Clean("/"+include), "/")
}
