package copying

import (
	"cmp"
	"path"
	"slices"
	"strings"

	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/nearest"
)

const (
	maxNear    = 5    // suggestions
	nearBudget = 4000 // entries looked at for them
)

// usualDirs is where builder stages leave what they make.
var usualDirs = [...]string{".", "src", "app", "go/bin", "usr/src/app", "build", "out", "dist", "workspace", "root", "usr/local/bin"}

// A finder collects paths of From that may have been meant by one that is
// missing. It looks at a bounded number of entries and drops every error: a
// hint that cannot be found is no hint.
type finder struct {
	r      *Request
	name   string // clean
	found  []string
	budget int
}

// near returns the likeliest first: the name in another case, the same name
// where stages leave things, the same name anywhere, a name much like it.
func near(r *Request, name string) []string {
	f := finder{r: r, name: name, budget: nearBudget}
	dir, rest, siblings := f.siblings()
	for _, s := range siblings {
		if strings.EqualFold(s, rest[0]) {
			f.addIn(dir, s, rest[1:])
		}
	}
	f.elsewhere()
	f.walk(path.Base(name))
	slices.SortStableFunc(siblings, func(a, b string) int {
		return cmp.Compare(nearest.Distance(a, rest[0]), nearest.Distance(b, rest[0]))
	})
	for _, s := range siblings {
		if nearest.Distance(s, rest[0]) <= tolerance(rest[0]) {
			f.addIn(dir, s, rest[1:])
		}
	}
	return f.found
}

// siblings returns the deepest existing directory of the missing path, the
// elements that follow it, and the names that the directory has.
func (f *finder) siblings() (dir string, rest, names []string) {
	dir, rest = ".", strings.Split(f.name, "/")
	for len(rest) > 1 {
		e, err := follow(f.r.From, entry.Join(dir, rest[0]))
		if err != nil || !e.IsDir() {
			break
		}
		dir, rest = entry.Join(dir, rest[0]), rest[1:]
	}
	e, err := follow(f.r.From, dir)
	if err != nil {
		return dir, rest, nil
	}
	kids, err := f.r.From.ReadDir(e.Path)
	if err != nil {
		return dir, rest, nil
	}
	for _, k := range kids[:min(len(kids), f.budget)] {
		names = append(names, k.Base())
	}
	return dir, rest, names
}

// addIn adds dir/name/rest when it exists.
func (f *finder) addIn(dir, name string, rest []string) {
	p := entry.Join(dir, name)
	for _, el := range rest {
		p = entry.Join(p, el)
	}
	f.add(p)
}

// elsewhere looks for the path, and for its last element alone, in the
// directories where it is likely.
func (f *finder) elsewhere() {
	for _, d := range slices.Concat(f.r.HintDirs, usualDirs[:]) {
		dir := entry.Clean(d)
		f.add(entry.Join(dir, f.name))
		f.add(entry.Join(dir, path.Base(f.name)))
	}
}

// walk looks for base everywhere, the shallow places first.
func (f *finder) walk(base string) {
	for queue := []string{"."}; len(queue) > 0 && f.budget > 0 && len(f.found) < maxNear; queue = queue[1:] {
		kids, err := f.r.From.ReadDir(queue[0])
		if err != nil {
			continue
		}
		for _, k := range kids {
			if f.budget--; f.budget <= 0 {
				return
			}
			if k.Base() == base {
				f.add(k.Path)
			}
			if k.IsDir() {
				queue = append(queue, k.Path)
			}
		}
	}
}

// add keeps p when it exists, in the form in which a Dockerfile names it.
func (f *finder) add(p string) {
	if len(f.found) >= maxNear {
		return
	}
	if _, err := follow(f.r.From, p); err != nil {
		return
	}
	if !f.r.FromContext {
		p = "/" + p
	}
	if !slices.Contains(f.found, p) {
		f.found = append(f.found, p)
	}
}

// tolerance is how many letters a name may differ in and still be much like
// the one that was written.
func tolerance(name string) int { return min(3, max(1, len(name)/4)) }
