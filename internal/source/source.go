// Package source owns build contexts: what of the caller's files a build may
// see, and what they contain.
//
// A Context is the read-only file system of a folder less what its ignore
// patterns exclude. Every entry is owned by 0:0, as in the reference builder;
// symlinks are entries and never followed, so a link that points out of the
// folder shows nothing of what is there. Files are reached through directory
// handles only, never through a path that a third party could redirect.
//
// Content digests come from a stat cache when the file's metadata says that
// its content cannot have changed since it was read (statcache.go has the
// rule). Scan fills a Context in parallel; what was not scanned is looked up
// when it is asked for, so a Context is right without Scan, only slower.
//
// Nothing here copies files or knows instructions and stages.
package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/pattern"
)

// Options is how to open a context. The zero value excludes nothing and keeps
// no stat cache.
type Options struct {
	// Ignore are patterns as LoadIgnore returns them, and IgnoreFile the file
	// that they are from, for messages.
	Ignore     []string
	IgnoreFile string
	// CacheFile keeps content digests between builds. It may be shared by any
	// number of processes and of contexts; a missing or damaged file is empty.
	CacheFile string
	// PutCache replaces the cache file, whole, by what write writes. It goes with
	// CacheFile.
	PutCache func(write func(io.Writer) error) error
	// Later leaves the small files of a folder of which no digest is known unread by Scan,
	// where there are many: Load digests those that it reads, and ReadRest the others.
	Later bool
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Context is the folder that a build may read. It implements entry.FS and
// entry.Digester and may be used by several goroutines at once.
type Context struct {
	root  int // directory handle
	dir   string
	now   func() time.Time
	rules *rules

	ignoreFile string
	cacheFile  string
	putCache   func(write func(io.Writer) error) error
	links      linkIDs
	moved      atomic.Int64          // files that were read as others than those that were listed
	last       atomic.Pointer[place] // found last: most questions are about one folder after the other

	mu      sync.RWMutex // guards all below: shared to read, exclusive to look at the disk
	tree    *node
	match   *pattern.Matcher
	cache   statCache
	dirty   bool // the cache file lacks something that is known
	counted totals
	lister  *lister  // of folders that are listed one by one; nil before the first
	later   bool     // as in Options, and nothing is known of the folder
	rest    []unread // that Scan left
}

// totals is what Scan has seen.
type totals struct {
	files  int
	bytes  int64
	inodes map[uint64]bool // hard links whose content was counted
}

// OpenFolder opens the context in dir. dir itself may be reached through
// symlinks. The caller must Close the result.
func OpenFolder(dir string, o Options) (*Context, error) {
	rules, err := newRules(o.Ignore)
	if err != nil {
		return nil, err
	}
	fd, err := openRoot(dir)
	if err != nil {
		return nil, err
	}
	c := &Context{
		root:       fd,
		dir:        dir,
		now:        o.Now,
		rules:      rules,
		match:      rules.matcher(),
		ignoreFile: o.IgnoreFile,
		cacheFile:  o.CacheFile,
		putCache:   o.PutCache,
	}
	c.counted.inodes = map[uint64]bool{}
	if c.now == nil {
		c.now = time.Now
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return nil, &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	c.tree = newNode(".", &st)
	c.links.main = uint64(st.Dev)
	if c.cacheFile != "" && frozenClock(fd) {
		c.cacheFile = ""
	}
	if c.cacheFile != "" {
		c.cache = loadStatCache(c.cacheFile)
	}
	c.later = o.Later && len(c.cache) == 0
	return c, nil
}

func openRoot(dir string) (int, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, rootError(dir, err)
	}
	return fd, nil
}

// rootError says what is wrong with dir as a context.
func rootError(dir string, err error) error {
	switch {
	case errors.Is(err, unix.ENOTDIR):
		return &Error{File: dir, Msg: "the build context is not a directory",
			Hint: "name the directory that holds the files; a Dockerfile is named with -f, and an archive comes from standard input: whittle build - <FILE"}
	case errors.Is(err, unix.ENOENT):
		return &Error{File: dir, Msg: "no such build context",
			Hint: "name the directory that holds the files, for example . for this one"}
	}
	if errors.Is(err, fs.ErrPermission) {
		return &unreadable{show(dir), "the build context", "let this user read the directory (chmod), or copy what the build needs into one of its own", err}
	}
	return &os.PathError{Op: "open", Path: show(dir), Err: err}
}

// Dir returns the directory as it was given to OpenFolder.
func (c *Context) Dir() string { return c.dir }

// IgnoreFile returns the name of the file whose patterns leave path, which the
// context does not have, out of it; "" when the folder has no such file.
func (c *Context) IgnoreFile(path string) string {
	if c.ignoreFile == "" || !valid(path) {
		return ""
	}
	fd, err := openBeneath(c.root, path, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return ""
	}
	unix.Close(fd)
	return c.ignoreFile
}

// Close saves the stat cache if something new is known, and gives up the
// folder. An error is about the cache only: the build is not wrong for it.
func (c *Context) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.root < 0 {
		return nil
	}
	err := c.saveCache()
	unix.Close(c.root)
	c.root = -1
	return err
}

// Files returns how many files that are not directories were scanned.
func (c *Context) Files() int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.counted.files
}

// Size returns how long the tar of what was scanned would be, which is the
// figure that the classic builder prints as the size of the build context.
func (c *Context) Size() int64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.counted.bytes + 2*tarBlock // a tar ends with two empty blocks
}

// Error is a mistake of the user: a file that is missing or wrong.
type Error struct {
	File string
	Line int // 0 when the whole file is meant
	Msg  string
	Hint string // "" or a way out
}

func (e *Error) Error() string {
	if e.Line > 0 {
		return fmt.Sprintf("%s:%d: %s", show(e.File), e.Line, e.Msg)
	}
	return fmt.Sprintf("%s: %s", show(e.File), e.Msg)
}

// cause returns why ctx ended, or nil.
func cause(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return context.Cause(ctx)
}
