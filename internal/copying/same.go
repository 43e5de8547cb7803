package copying

import (
	"strings"

	"github.com/whittle-build/whittle/internal/entry"
)

// changed returns those items that are not just so in To, and the directories
// that they are in: what a layer need not say it does not say. Times count in
// whole seconds, which is what layers keep, and those of directories do not
// count at all.
func changed(items []Item, rs []Request) ([]Item, error) {
	differs := make([]bool, len(items))
	hidden := "" // a directory in which nothing of To shows
	for i := range items {
		e := &items[i].Entry
		if differs[i] = hidden != "" && strings.HasPrefix(e.Path, hidden); differs[i] {
			continue
		}
		same, isNew, err := items[i].same(rs)
		if err != nil {
			return nil, err
		}
		if differs[i] = !same; isNew && e.IsDir() {
			hidden = e.Path + "/"
		}
	}
	holds := map[string]bool{}
	left, last := 0, ""
	for i := len(items) - 1; i >= 0; i-- {
		e := &items[i].Entry
		if differs[i] = differs[i] || e.IsDir() && holds[e.Path]; differs[i] {
			left++
			if dir := entry.Parent(e.Path); dir != last {
				holds[dir], last = true, dir
			}
		}
	}
	if left == len(items) {
		return items, nil
	}
	out := make([]Item, 0, left)
	for i, it := range items {
		if differs[i] {
			out = append(out, it)
		}
	}
	return out, nil
}

// same reports whether To has the item already, and else whether nothing of
// what To has there remains.
func (it *Item) same(rs []Request) (same, isNew bool, err error) {
	e, to := &it.Entry, rs[0].To
	was, err := to.Lstat(e.Path)
	if isNotExist(err) || err == nil && (was.Kind != e.Kind || e.Opaque) {
		return false, true, nil
	}
	if err != nil || !entry.SameAttributes(*e, was) {
		return false, false, err
	}
	if e.IsDir() || e.Mtime.Sec != was.Mtime.Sec {
		return e.IsDir(), false, nil
	}
	same, err = entry.SameFile(*e, rs[it.From].From, it.Source, was, to)
	return same, false, err
}
