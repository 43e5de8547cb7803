package execute

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"

	"github.com/whittle-build/whittle/internal/copying"
	"github.com/whittle-build/whittle/internal/dockerfile"
	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/fetch"
	"github.com/whittle-build/whittle/internal/layer"
	"github.com/whittle-build/whittle/internal/plan"
	"github.com/whittle-build/whittle/internal/rootfs"
	"github.com/whittle-build/whittle/internal/solve"
	"github.com/whittle-build/whittle/internal/source"
)

// explain turns what a COPY stumbled over into a mistake with file, line and
// a way out. Errors that are not the user's pass through.
func (l *Local) explain(job solve.Job, err error) error {
	var missing *copying.NotFound
	var notKept *copying.NotKept
	var conflict *copying.Conflict
	var mode *copying.BadMode
	var bad *copying.BadPattern
	c, pos := job.Step.Copy, job.Step.Line.Pos
	var remote *fetch.Error
	switch {
	case errors.As(err, &remote):
		return l.File.Mistake(pos, remote.Error(), remote.Way)
	case errors.As(err, &notKept):
		return l.File.Mistake(pos, notKept.Error(), notKept.Hint)
	case errors.As(err, &missing) && missing.Link != "":
		what := fmt.Sprintf("%q is a symlink to %q, which is not in %s", missing.Source, missing.Link, where(c))
		return l.File.Mistake(pos, what, l.linkHint(c, missing))
	case errors.As(err, &missing):
		what := fmt.Sprintf("%q is not in %s", missing.Source, where(c))
		if strings.ContainsAny(missing.Source, "*?[") {
			what = fmt.Sprintf("nothing in %s matches %q", where(c), missing.Source)
		}
		return l.File.Mistake(pos, what, l.nearHint(c, missing))
	case errors.As(err, &conflict):
		return l.File.Mistake(pos, conflict.Error(), "remove what is in the way in an earlier RUN, or copy to another path")
	case errors.As(err, &mode):
		return l.File.Mistake(pos, mode.Error(), "for example --chmod=755 or --chmod=u=rwX,go=rX")
	case errors.As(err, &bad):
		return l.File.Mistake(pos, bad.Error(), patternHint(job.Step.Line.Text))
	case errors.Is(err, entry.ErrLoop):
		return l.File.Mistake(pos, loopText(err), "symlinks lead to each other: name the file or folder that is meant, or mend the links")
	case errors.Is(err, source.ErrChanged):
		return l.File.Mistake(pos, err.Error(), "something wrote to the build context during the build: build again, or list the file in .dockerignore")
	}
	return err
}

// notOwned is for what a step writes whose owner this user has no id for.
func (l *Local) notOwned(job solve.Job, err error) error {
	var owner *layer.OwnerError
	if !errors.As(err, &owner) {
		return err
	}
	return l.File.Mistake(job.Step.Line.Pos, owner.Error(), owner.Hint())
}

// patternHint is the way out of a source that is no pattern; text is the
// instruction. What begins like a JSON list and is none is read as words.
func patternHint(text string) string {
	for i, word := range strings.Fields(text) {
		if i > 0 && !strings.HasPrefix(word, "--") && strings.HasPrefix(word, "[") {
			return `a list needs double quotes around every element, commas between them and a ] at its end: ["a", "b"]; a literal [ is written [[]`
		}
	}
	return "write [[] for a literal ["
}

// refused is explain for what comes from the files that a step takes: any such
// error is about the step's line. Those that are of the machine, a full disk or
// the end of the build, stay what they are.
func (l *Local) refused(ctx context.Context, job solve.Job, err error) error {
	if err = l.explain(job, err); err == nil || ctx.Err() != nil {
		return err
	}
	var known *dockerfile.Error
	if errors.As(err, &known) && strings.HasPrefix(strings.ToUpper(job.Step.Line.Text), "RUN") {
		// The mistake is in a mount, which is read as a COPY is.
		known.Hint = strings.NewReplacer("sources of COPY --from are", "source= is", "Sources of COPY --from are", "It is", "sources are", "source= is").Replace(known.Hint)
	}
	var way interface{ Hint() string }
	if errors.As(err, &known) || errors.As(err, &way) || ofMachine(err) {
		return err
	}
	hint := tableHint(err)
	if c := job.Step.Copy; hint == "" && c != nil {
		in, ok := l.context(c.From)
		hint = fileHint(ok && in != nil && in.Ignored != nil, err)
	}
	return l.File.Mistake(job.Step.Line.Pos, err.Error(), hint)
}

// ofMachine says whether an error is no matter of a file's content.
func ofMachine(err error) bool {
	var lost *rootfs.LostError
	return errors.As(err, &lost) || slices.ContainsFunc([]error{
		syscall.ENOSPC, syscall.EDQUOT, syscall.EIO, syscall.ENOMEM, syscall.EMFILE, syscall.ENFILE, syscall.EROFS,
		context.Canceled, context.DeadlineExceeded,
	}, func(e error) bool { return errors.Is(err, e) })
}

// tableHint is the way out of a base without a table of users that can be read.
func tableHint(err error) string {
	var table *copying.BadTable
	if !errors.As(err, &table) {
		return ""
	}
	return badTable(table.Path)
}

// badTable is the way out for a table of users, which path is.
func badTable(path string) string {
	return "names of users and groups are looked up there, in what this step builds on: make " + path +
		" a regular file in an earlier RUN, or write numbers, such as 1000:1000"
}

// fileHint is the way out of a file that no layer can hold. folder says that it
// is one of a folder, which a file there can leave out.
func fileHint(folder bool, err error) string {
	var archive *copying.InArchive
	var broken *layer.BrokenError
	var unfit *copying.Unfit
	switch {
	case errors.As(err, &archive) && errors.As(err, &broken) && !errors.Is(err, layer.ErrBound):
		return "the archive is cut off or broken: make it, or get it, again"
	case errors.As(err, &archive):
		return "make the archive without it, or COPY the archive and unpack it in a RUN"
	case errors.As(err, &unfit) && folder:
		return "give it another name, or list it in .dockerignore"
	case errors.As(err, &unfit):
		return "give it another name"
	case folder:
		return "if the image does not need the file, list it in .dockerignore"
	}
	return ""
}

// loopText names the path of a loop as entry.Resolve was given it.
func loopText(err error) string {
	var at *fs.PathError
	if errors.As(err, &at) {
		return fmt.Sprintf("%q: %v", at.Path, at.Err)
	}
	return err.Error()
}

// linkHint says why the target of a link is not there.
func (l *Local) linkHint(c *plan.Copy, e *copying.NotFound) string {
	target := entry.Clean(e.Link)
	if !strings.HasPrefix(e.Link, "/") {
		target = entry.Clean(entry.Join(entry.Parent(entry.Clean(e.Source)), e.Link))
	}
	if in, ok := l.context(c.From); ok {
		if name := in.ignored(target); name != "" {
			return fmt.Sprintf("the file is there, but %s leaves it out: the line !%s at its end takes it in again", name, target)
		}
	}
	return fmt.Sprintf("links are followed inside %s only: put the file there, or name another source", where(c))
}

// Missing returns the mistakes in the sources of a COPY or ADD whose file
// system is known already: nothing is copied.
func (l *Local) Missing(ctx context.Context, job solve.Job) (dockerfile.Errors, error) {
	c := job.Step.Copy
	if in, ok := l.context(c.From); !ok || in != nil && !in.ID.IsZero() {
		if _, ok := l.remembered(ctx, l.contentName(job)); ok {
			return nil, nil // an earlier build found them all
		}
	}
	r, err := l.request(ctx, c, job.From)
	if err != nil {
		return nil, err
	}
	var mistakes dockerfile.Errors
	for _, s := range c.Sources {
		r.Sources = []string{s}
		_, err := copying.Match(r)
		if err == nil {
			continue
		}
		var m *dockerfile.Error
		if err = l.refused(ctx, job, err); !errors.As(err, &m) {
			return nil, err
		}
		mistakes = append(mistakes, m)
	}
	return mistakes, nil
}

func where(c *plan.Copy) string {
	switch {
	case c.From == nil:
		return "the build context"
	case c.FromStage != nil:
		return fmt.Sprintf("stage %q", c.FromStage.Display)
	case c.From.Context != "":
		return fmt.Sprintf("the context %q", c.From.Context)
	}
	return fmt.Sprintf("image %q", c.FromText)
}

// nearHint offers what the user probably meant. Sources are relative to the
// root of a stage and not to its WORKDIR, which is the commonest mistake.
func (l *Local) nearHint(c *plan.Copy, e *copying.NotFound) string {
	in, isContext := l.context(c.From)
	if path := strings.TrimPrefix(e.Source, "/"); isContext && in.ignored(path) != "" {
		return fmt.Sprintf("the file is there, but %s leaves it out: the line !%s at its end takes it in again", in.ignored(path), path)
	}
	near := make([]string, len(e.Near))
	for i, n := range e.Near {
		near[i] = n
		if c.From != nil {
			near[i] = "/" + strings.TrimPrefix(n, "/")
		}
	}
	switch {
	case slices.Contains(c.Sources, "/#"):
		return "a comment needs a line of its own"
	case len(near) == 0 && c.From == nil:
		return "sources are relative to the build context, whatever WORKDIR says"
	case len(near) == 0:
		return "sources of COPY --from are relative to the root of that file system, not to its WORKDIR"
	case c.From == nil:
		return "did you mean " + strings.Join(near, " or ") + "?"
	}
	return fmt.Sprintf("did you mean %s? Sources of COPY --from are relative to the root, not to the stage's WORKDIR", strings.Join(near, " or "))
}
