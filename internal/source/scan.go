package source

import (
	"context"
	"errors"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/pattern"
)

// Part is something that steps read of a context.
type Part struct {
	// Path may have wildcards, as in COPY.
	Path string
	// Include and Exclude are patterns of what is read of a directory at Path;
	// with Include nil that is everything.
	Include, Exclude []string
}

// Scan reads the metadata of all parts, and the digests of their regular
// files, in parallel, but for those that Options.Later leaves. Symlinks that lead to what is named are followed inside
// the context. A path that does not exist is no error here.
func (c *Context) Scan(ctx context.Context, parts []Part) error {
	var roots []job
	for _, p := range parts {
		f, err := pattern.NewFilter(p.Include, p.Exclude)
		if err != nil {
			return err
		}
		clean := entry.Clean(p.Path)
		err = c.expand(".", strings.Split(clean, "/"), func(j job) {
			if j.filter = f; j.n.isDir() {
				j.top = j.path
			}
			roots = append(roots, j)
		})
		if err != nil {
			return err
		}
	}
	roots = apart(roots)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.walk(ctx, roots); err != nil {
		return err
	}
	var todo []unread
	for _, r := range roots {
		settle(r.n)
		if !r.n.hidden() {
			if err := c.collect(r, &todo); err != nil {
				return err
			}
		}
	}
	return c.hashAll(ctx, c.putOff(todo))
}

// job is one node to work on.
type job struct {
	path   string
	n      *node
	filter *pattern.Filter // nil: all of it
	top    string          // the path that the filter's patterns are relative to
	state  pattern.State
}

// below is the job of k, which is in the directory of j; ok is false when the
// filter leaves it out.
func (j *job) below(k *node, f *pattern.Filter) (b job, ok bool, err error) {
	b = job{path: entry.Join(j.path, k.name), n: k, filter: j.filter, top: j.top}
	if f == nil {
		return b, true, nil
	}
	rel := b.path
	if j.top != "." {
		rel = rel[len(j.top)+1:]
	}
	verdict, state, err := f.Judge(rel, k.isDir(), j.state)
	b.state = state
	return b, verdict != pattern.Out, err
}

// apart drops the jobs that are part of another one, so that no directory is
// the work of two goroutines. What several are about is scanned whole.
func apart(jobs []job) []job {
	taken := map[string]int{} // the last job of each path, counted from 1
	for i, j := range jobs {
		taken[j.path] = i + 1
	}
	var out []job
	whole := map[string]bool{}
	for i, j := range jobs {
		within := taken[j.path] != i+1
		whole[j.path] = whole[j.path] || within
		for p := j.path; p != "."; {
			p = entry.Parent(p)
			if taken[p] != 0 {
				within, whole[p] = true, true
			}
		}
		if !within {
			out = append(out, j)
		}
	}
	for i := range out {
		if whole[out[i].path] {
			out[i].filter = nil
		}
	}
	return out
}

// expand calls fn for what the wildcards in els, below at, match, with
// symlinks followed.
func (c *Context) expand(at string, els []string, fn func(job)) error {
	for i, el := range els {
		if strings.Contains(el, "**") {
			break // any depth: all of it
		}
		if !strings.ContainsAny(el, `*?[\`) {
			at = entry.Join(at, el)
			continue
		}
		dir, names, err := c.names(at)
		if err != nil {
			return err
		}
		for _, name := range names {
			if ok, err := path.Match(el, name); !ok && err == nil {
				continue
			}
			if err := c.expand(entry.Join(dir, name), els[i+1:], fn); err != nil {
				return err
			}
		}
		return nil
	}
	real, err := entry.Resolve(c, at, true)
	if errors.Is(err, entry.ErrLoop) {
		return nil // whoever reads it will say so
	}
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	n, err := c.load(real)
	if n != nil {
		fn(job{path: real, n: n})
	}
	return err
}

// names lists the directory at, through symlinks, without looking at what is
// in it. What is not a directory has no names.
func (c *Context) names(at string) (dir string, names []string, err error) {
	dir, err = entry.Resolve(c, at, true)
	if errors.Is(err, entry.ErrLoop) {
		return at, nil, nil
	}
	if err != nil {
		return at, nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	n, err := c.load(dir)
	if n == nil || err != nil || !n.isDir() {
		return dir, nil, err
	}
	if err := c.list(n, dir); err != nil {
		return dir, nil, err
	}
	for _, k := range n.extra.kids {
		names = append(names, k.name)
	}
	return dir, names, nil
}

// lister reads directories for one goroutine.
type lister struct {
	c         *Context
	match     *pattern.Matcher
	buf       []byte
	kids      []*node // of the directory that is being read
	room      room
	own       map[*pattern.Filter]*pattern.Filter // clones
	oldKernel bool                                // that has no listxattrat
}

// filter returns this goroutine's clone of f.
func (l *lister) filter(f *pattern.Filter) *pattern.Filter {
	if f == nil {
		return nil
	}
	if l.own[f] == nil {
		if l.own == nil {
			l.own = map[*pattern.Filter]*pattern.Filter{}
		}
		l.own[f] = f.Clone()
	}
	return l.own[f]
}

const dirBuffer = 32 << 10

// list makes the children of the directory n complete. The caller holds the lock.
func (c *Context) list(n *node, path string) error {
	if n.extra.listed {
		return nil
	}
	if c.lister == nil {
		c.lister = &lister{c: c, match: c.match, buf: make([]byte, dirBuffer)}
	}
	return c.lister.list(n, path)
}

func (l *lister) list(n *node, path string) error {
	x := n.extra
	if x.listed {
		return nil
	}
	fd, err := openBeneath(l.c.root, path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		if isGone(err) || x.excluded && errors.Is(err, unix.EACCES) {
			x.listed = true // nothing there that could be part of the context
			return nil
		}
		return pathError("open", path, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return pathError("stat", path, err)
	}
	n.set(&st)
	x.xattrs = readXattrs(fd)
	kids := l.kids[:0]
	err = readNames(fd, l.buf, func(name []byte, kind byte) error {
		k, err := l.look(fd, n, path, name, kind)
		if k != nil {
			kids = append(kids, k)
		}
		return err
	})
	l.kids = kids
	if errno, ok := err.(unix.Errno); ok {
		return pathError("readdir", path, errno)
	}
	if err != nil {
		return err
	}
	slices.SortFunc(kids, func(a, b *node) int { return strings.Compare(a.name, b.name) })
	l.c.recall(path, kids)
	if l.c.later {
		l.attributes(fd, kids)
	}
	x.kids, x.listed = slices.Clone(kids), true
	l.c.last.Store(nil) // which may have been one of those that kids replace
	return nil
}

// look describes one name of the directory n, open as fd; nil when it is no
// part of the context.
func (l *lister) look(fd int, n *node, dir string, name []byte, kind byte) (*node, error) {
	if len(n.extra.kids) > 0 {
		if k := n.kid(string(name)); k != nil {
			return k, nil // looked up before
		}
	}
	var v verdict
	if l.match != nil { // else no string is made only to be judged
		var err error
		if v, err = l.c.judge(l.match, dir, string(name), n.extra); err != nil {
			return nil, err
		}
	}
	if kind != unix.DT_UNKNOWN && v.skip(kind == unix.DT_DIR) {
		return nil, nil
	}
	k, err := l.c.stat(fd, l.room.node(l.room.name(name)), dir, v)
	if k == nil {
		l.room.back()
	}
	return k, err
}

// walk lists every directory at and below roots, on all processors. The
// caller holds the lock; each directory is the work of one goroutine.
func (c *Context) walk(ctx context.Context, roots []job) error {
	q := queue{jobs: slices.Clone(roots)}
	q.more.L = &q.mu
	var all sync.WaitGroup
	for range workers() {
		all.Go(func() {
			l := lister{c: c, match: c.rules.matcher(), buf: make([]byte, dirBuffer)}
			for j, ok := q.next(); ok; j, ok = q.next() {
				err := cause(ctx)
				var below []job
				if err == nil {
					below, err = l.visit(j)
				}
				q.done(below, err)
			}
		})
	}
	all.Wait()
	return q.err
}

// visit lists j and returns the directories in it.
func (l *lister) visit(j job) ([]job, error) {
	if !j.n.isDir() {
		return nil, nil
	}
	if err := l.list(j.n, j.path); err != nil {
		return nil, err
	}
	var below []job
	f := l.filter(j.filter)
	for _, k := range j.n.extra.kids {
		if !k.isDir() {
			continue
		}
		b, ok, err := j.below(k, f)
		if err != nil {
			return nil, err
		}
		if ok {
			below = append(below, b)
		}
	}
	return below, nil
}

// workers is how many goroutines read the disk: more than there are processors,
// because they wait for it when the page cache has not what they ask for.
func workers() int { return 4 * max(2, runtime.GOMAXPROCS(0)) }

// queue hands out jobs until none is left and none is being worked on, or
// one has failed.
type queue struct {
	mu   sync.Mutex
	more sync.Cond
	jobs []job
	busy int
	err  error
}

func (q *queue) next() (job, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.jobs) == 0 && q.busy > 0 && q.err == nil {
		q.more.Wait()
	}
	if len(q.jobs) == 0 || q.err != nil {
		return job{}, false
	}
	j := q.jobs[len(q.jobs)-1]
	q.jobs = q.jobs[:len(q.jobs)-1]
	q.busy++
	return j, true
}

func (q *queue) done(below []job, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.busy--
	q.jobs = append(q.jobs, below...)
	if q.err == nil {
		q.err = err
	}
	q.more.Broadcast()
}

const tarBlock = 512

// collect counts what is at and below j, and lists the regular files whose
// digest is not known.
func (c *Context) collect(j job, todo *[]unread) error {
	n := j.n
	if j.path != "." {
		c.count(n, widthOf(j.path))
	}
	switch {
	case n.isRegular() && n.flags&hasDigest == 0:
		*todo = withUnread(*todo, j)
	case n.isDir():
		dir := widthOf(j.path)
		for _, k := range n.extra.kids {
			if k.hidden() {
				continue
			}
			if !k.isDir() && k.flags&hasDigest != 0 && (j.filter == nil || k.flags&isCounted != 0) {
				c.count(k, dir.join(k.name)) // of most: no path is made
				continue
			}
			b, ok, err := j.below(k, j.filter)
			if err == nil && ok {
				err = c.collect(b, todo)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// width is what the size of a path's entry in a tar depends on.
type width struct {
	bytes int
	ascii bool
}

func widthOf(path string) width {
	if path == "." {
		return width{-1, true} // nothing, and no slash after it
	}
	return width{len(path), isASCII(path)}
}

// join is the width of a name in the directory of width w.
func (w width) join(name string) width {
	return width{w.bytes + 1 + len(name), w.ascii && isASCII(name)}
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// count adds n, if it was not yet, to the totals, as the tar entry that it would be.
func (c *Context) count(n *node, path width) {
	if n.flags&isCounted != 0 {
		return
	}
	n.flags |= isCounted
	c.counted.bytes += tarBlock
	if path.bytes > 100 || !path.ascii {
		c.counted.bytes += tarBlock + roundUp(int64(path.bytes)) // a PAX record with the name
	}
	if n.isDir() {
		return
	}
	c.counted.files++
	if !n.isRegular() {
		return
	}
	if n.extra != nil && n.extra.inode != 0 {
		if c.counted.inodes[n.extra.inode] {
			return // a hard link of what was counted
		}
		c.counted.inodes[n.extra.inode] = true
	}
	c.counted.bytes += roundUp(n.size)
}

func roundUp(n int64) int64 { return (n + tarBlock - 1) / tarBlock * tarBlock }
