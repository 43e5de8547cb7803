package whittle

import (
	"context"
	"errors"
)

// ends are what a build does when all is done that may well fail: files come into their
// places, and images get their names.
type ends struct {
	files []draft
	then  []func() error
}

// atEnd does something when the files are in their places.
func (b *build) atEnd(do func() error) { b.ends.then = append(b.ends.then, do) }

// noteAtEnd says something of what is there by then.
func (b *build) noteAtEnd(format string, args ...any) {
	b.atEnd(func() error { b.note(format, args...); return nil })
}

// settle ends a build, or a part of its end: after an error, but for one of a cache, nothing is
// left of what was to come.
func (b *build) settle(err error) error {
	e, failed := *b.ends, isFailure(err)
	*b.ends = ends{}
	for _, f := range e.files {
		if failed {
			f.forget()
		} else if lost := f.land(); lost != nil {
			failed, err = true, errors.Join(err, lost)
		}
	}
	for _, do := range e.then {
		if failed {
			break
		}
		if lost := do(); lost != nil {
			failed, err = true, errors.Join(err, lost)
		}
	}
	return err
}

// isFailure says whether a build has failed that ended so: without its caches it has not.
func isFailure(err error) bool {
	var cache *CacheError
	return err != nil && !errors.As(err, &cache)
}

// leaveGroups leaves what is wanted of each group. Of one the names and files are there before it
// is pushed, of several when all of them are.
func (b *build) leaveGroups(ctx context.Context, groups [][]*part) (list []*Result, err error) {
	defer func() { err = b.settle(err) }()
	for _, g := range groups {
		res, err := b.leaveGroup(ctx, g)
		if err != nil {
			return nil, err
		}
		list = append(list, res)
	}
	if len(groups) == 1 {
		if err := b.settle(nil); err != nil {
			return nil, err
		}
	}
	var late error
	for i, g := range groups {
		err := b.sendGroup(ctx, g, list[i])
		if isFailure(err) {
			return nil, err
		}
		late = errors.Join(late, err)
	}
	return list, late
}
