package execute

import (
	"context"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/plan"
	"github.com/whittle-build/whittle/internal/rootfs"
	"github.com/whittle-build/whittle/internal/source"
)

// Context is a build context, the main one or a named one, as steps read it.
type Context struct {
	entry.FS
	// Digests tells what files contain; nil: they are read.
	Digests entry.Digester
	// Late is the folder of which files may be unread; nil for other contexts.
	Late Late
	// Owned says that files have owners, as those of an archive do; all of a
	// folder's belong to 0:0.
	Owned bool
	// ID names what is in the context, for ever; zero for what may change.
	ID digest.Digest
	// Identity stands for the content in keys, where that is another each time
	// the same thing is fetched; zero where it is not.
	Identity digest.Digest
	// Chain and Dir are the layers and the folder in them that FS shows, for who
	// mounts them; without any FS is the only way to read it.
	Chain rootfs.Chain
	Dir   string
	// Ignored names the file that leaves path out of the context, "" if none
	// does. It may be nil.
	Ignored func(path string) string
}

// Late is a context whose files are read at their first use: who loads one has its digest
// told.
type Late interface {
	Unread() bool
	ReadRest(context.Context) error
	Moved() int64 // files that changed between the scan and their reading
}

// Folder is the context of a folder, or nil.
func Folder(c *source.Context) *Context {
	if c == nil {
		return nil
	}
	return &Context{FS: c, Digests: c, Late: c, Ignored: c.IgnoreFile}
}

// ignored is Ignored of a context that may have none.
func (c *Context) ignored(path string) string {
	if c == nil || c.Ignored == nil {
		return ""
	}
	return c.Ignored(path)
}

// context returns the build context that root means: the main one when it is
// nil. It is nil for an empty one. ok is false when root means a stage or an
// image.
func (l *Local) context(root *plan.Root) (c *Context, ok bool) {
	switch {
	case root == nil:
		return l.Context, true
	case root.Context != "":
		return l.Named[root.Context], true
	}
	return nil, false
}

// contextID is the part of a key by which a content is told from the same in
// another kind of context: who owns the files is no part of what a folder is,
// and the plan does not know which kind a context is.
func contextID(c *plan.Copy, ctx *Context, d digest.Digest) digest.Digest {
	if owned := ctx != nil && ctx.Owned; owned == (c.From != nil) {
		return d
	}
	k := digest.NewKey("content of another kind of context")
	k.Digest("content", d)
	return k.Sum()
}
