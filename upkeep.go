package whittle

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/whittle-build/whittle/internal/container"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/image"
	"github.com/whittle-build/whittle/internal/layer"
	"github.com/whittle-build/whittle/internal/rootfs"
	"github.com/whittle-build/whittle/internal/sandbox"
	"github.com/whittle-build/whittle/internal/store"
)

// Info is what whittle says of itself and of this machine.
type Info struct {
	Root      string           `json:"root"`
	Owner     string           `json:"owner"` // "root" or "user"
	Free      int64            `json:"free"`  // bytes of the store's file system
	Providers []rootfs.Finding `json:"providers"`
	Chosen    string           `json:"chosen"`
	Why       string           `json:"why,omitempty"` // when none works, or one was forced
	Images    int              `json:"images"`
	// Sandbox is what a step gets of this machine, and why.
	Sandbox []sandbox.Finding `json:"sandbox"`
}

// Info probes the machine: what can mount a root file system in this store,
// and why the rest cannot.
func (w *Whittle) Info() (*Info, error) {
	i := &Info{Root: w.store.Dir(), Owner: w.store.Owner().Kind}
	var err error
	if i.Free, err = w.store.Free(); err != nil {
		return nil, err
	}
	tmp, err := w.store.Temp("probe")
	if err != nil {
		return nil, err
	}
	i.Providers = rootfs.Probe(tmp.Path, w.opt.UserNS, sandbox.ProbeChroot)
	if err := tmp.Remove(); err != nil {
		return nil, err
	}
	p, err := w.chooseRootfs()
	i.Chosen = string(p)
	switch {
	case err != nil:
		i.Why = err.Error()
	case w.opt.Rootfs != "":
		i.Why = "WHITTLE_ROOTFS says so"
	default:
		i.Why = "the first that works here"
	}
	i.Sandbox = sandbox.Findings(w.isolationWith(p, err), w.noSteps())
	list, err := w.catalog.List()
	i.Images = len(list)
	return i, err
}

// isolationWith is how steps are kept apart with a provider; "" when there is
// none.
func (w *Whittle) isolationWith(p rootfs.Provider, err error) string {
	switch {
	case err != nil:
		return ""
	case p == rootfs.Chroot:
		return sandbox.Chroot
	}
	return w.isolation.String()
}

// Write prints i for people.
func (i *Info) Write(out io.Writer, version string) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "version\t%s\n", version)
	fmt.Fprintf(t, "store\t%s (of %s, %s free, %s)\n", i.Root, i.Owner, image.HumanSize(i.Free), count(i.Images, "image"))
	fmt.Fprintf(t, "root file systems\t%s (%s)\n", cmp.Or(string(i.Chosen), "none"), i.Why)
	for _, f := range i.Providers {
		state := "works"
		if !f.Works {
			state = "does not work here: " + f.Why
		}
		fmt.Fprintf(t, "  %s\t%s\n", f.Provider, state)
	}
	for _, f := range i.Sandbox {
		fmt.Fprintf(t, "%s\t%s", f.What, f.Is)
		if f.Why != "" {
			fmt.Fprintf(t, " (%s)", f.Why)
		}
		fmt.Fprintln(t)
	}
	return t.Flush()
}

// count is n things in words.
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// kept finds the layers that images and containers need.
func (w *Whittle) kept() (func(digest.Digest) bool, error) {
	return w.neededBy(func(image.Summary) bool { return true })
}

// neededBy finds the layers that containers need and those images that count.
func (w *Whittle) neededBy(counts func(image.Summary) bool) (func(digest.Digest) bool, error) {
	list, err := w.catalog.List()
	if err != nil {
		return nil, err
	}
	keep := map[digest.Digest]bool{}
	for _, s := range list {
		if !counts(s) {
			continue
		}
		for _, l := range s.Image.Layers {
			keep[l.ID] = true
		}
	}
	chains, err := w.containerChains()
	if err != nil {
		return nil, err
	}
	for _, c := range chains {
		for _, id := range c {
			keep[id] = true
		}
	}
	return func(d digest.Digest) bool { return keep[d] }, nil
}

// noBlob keeps no blob: nothing but the compressed forms of layers, which can
// be made again, is kept as a blob.
func noBlob(digest.Digest) bool { return false }

// Usage tells what lies in the store and how much of it could go. The layers
// of an image that pruning would take are cache.
func (w *Whittle) Usage(ctx context.Context) ([]store.Usage, error) {
	keep, err := w.neededBy(func(s image.Summary) bool { return !s.Dangling() })
	if err != nil {
		return nil, err
	}
	usage, err := w.store.Usage(ctx, keep, noBlob)
	if err != nil {
		return nil, err
	}
	images, err := w.catalog.List()
	for i := range usage {
		if usage[i].Kind == "images" {
			usage[i].Count = len(images) // the store counts their layers
		}
	}
	return usage, err
}

// WriteUsage prints usage as a table.
func WriteUsage(out io.Writer, list []store.Usage) error {
	t := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "KIND\tCOUNT\tSIZE\tRECLAIMABLE")
	for _, u := range list {
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\n", u.Kind, u.Count, image.HumanSize(u.Bytes), image.HumanSize(u.Reclaimable))
	}
	return t.Flush()
}

// Fsck checks every promise of the store and of what lies in it.
func (w *Whittle) Fsck(ctx context.Context, repair bool) ([]store.Problem, error) {
	problems, err := w.store.Fsck(ctx, store.FsckOptions{VerifyLayer: layer.Verify, VerifyPart: verifyPart, Repair: repair})
	if err != nil {
		return problems, err
	}
	more, err := w.checkImages()
	return append(problems, more...), err
}

// checkImages finds images whose layers are not all there.
func (w *Whittle) checkImages() ([]store.Problem, error) {
	list, err := w.catalog.List()
	if err != nil {
		return nil, err
	}
	var out []store.Problem
	for _, s := range list {
		for _, l := range s.Image.Layers {
			if !w.store.HasLayer(l.ID) {
				out = append(out, store.Problem{Kind: "image", Path: s.Image.ID.Hex(),
					Text: fmt.Sprintf("%s: layer %s is not in the store: build, pull or load it again", shown(s), l.ID.Short())})
			}
		}
	}
	return out, nil
}

// unknownError is for a reference that is neither an image nor a container;
// its way out is that of the image.
type unknownError struct {
	ref   string
	image error
}

func (e *unknownError) Error() string { return e.ref + ": no such image or container in the store" }
func (e *unknownError) Unwrap() error { return e.image }

// Inspect returns what is known of an image or a container, in Docker's
// shape. kind says what to look for: "image", "container", or "" for either.
func (w *Whittle) Inspect(ref, kind string) (any, error) {
	if kind != "image" {
		c, err := w.inspectContainer(ref)
		if err == nil || kind == "container" || !errors.Is(err, container.ErrNotFound) {
			return c, err
		}
	}
	s, err := w.Image(ref)
	if err == nil {
		return s.Inspect(), nil
	}
	if errors.Is(err, image.ErrNotFound) && kind == "" {
		return nil, &unknownError{ref, err}
	}
	return nil, err
}
