package whittle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/whittle-build/whittle/internal/config"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/dockerfile"
	"github.com/whittle-build/whittle/internal/image"
	"github.com/whittle-build/whittle/internal/plan"
	"github.com/whittle-build/whittle/internal/store"
)

// Images lists the images of the store.
func (w *Whittle) Images() ([]image.Summary, error) {
	list, err := w.catalog.List()
	for _, s := range list {
		w.measure(s.Image)
	}
	return list, err
}

// measure gives the layers of m the sizes that are known by now: those that were
// fetched since m was stored had none.
func (w *Whittle) measure(m *image.Image) {
	for i := range m.Layers {
		l := &m.Layers[i]
		if l.Blob == nil {
			continue // it never was elsewhere
		}
		if n := w.layerSize(l.ID); n > 0 {
			l.Size = n
		}
	}
}

// Image finds the image that ref means: a name, an ID or the beginning of one.
func (w *Whittle) Image(ref string) (image.Summary, error) {
	m, _, err := w.catalog.Resolve(ref)
	if err != nil {
		return image.Summary{}, err
	}
	return w.catalog.Summary(m.ID)
}

// Tag gives the image that ref means another name.
func (w *Whittle) Tag(ctx context.Context, ref, name string) (err error) {
	n, err := image.ParseName(name)
	if err != nil {
		return err
	}
	lock, err := w.use(ctx)
	if err != nil {
		return err
	}
	defer join(&err, lock.Close)
	m, known, err := w.catalog.Resolve(ref)
	if err != nil {
		return err
	}
	means := image.Meaning{ID: m.ID}
	if means.Said.About(m.ID, m.Annotations, nil); !known.IsZero() {
		if means, err = w.catalog.Meaning(known); err != nil {
			return err
		}
	}
	for _, id := range append([]digest.Digest{means.ID}, means.Also...) {
		if err := w.hold(id); err != nil {
			return err
		}
	}
	if err := w.catalog.Tag(n, means); err != nil {
		return err
	}
	return w.store.Sync()
}

// hold keeps the image id from being pruned while this process uses the
// store. It fails when the image is gone already.
func (w *Whittle) hold(id digest.Digest) error {
	if err := w.store.Pin(id); err != nil {
		return err
	}
	_, err := w.catalog.Get(id)
	return err
}

// RemoveImage takes a name from an image and removes it with its last name.
// An image that a container uses is not removed. Its layers stay until they
// are pruned: they may be somebody's cache.
func (w *Whittle) RemoveImage(ref string, force bool) (image.Removed, error) {
	done, err := w.catalog.Remove(ref, image.Removal{Force: force, Users: w.imageUsers})
	return done, errors.Join(err, w.store.Sync())
}

// platform is the one that this machine runs.
func platform() plan.Platform {
	p := plan.Platform{OS: "linux", Arch: runtime.GOARCH}
	if p.Arch == "arm64" {
		p.Variant = "v8"
	}
	return p
}

// Import makes an image of one layer from a tar of a file system, with the
// config that the Dockerfile instructions in changes say. It returns the
// image's ID. message is the comment of its history.
func (w *Whittle) Import(ctx context.Context, r io.Reader, name string, changes []string, message string) (id digest.Digest, err error) {
	var n image.Name
	if name != "" {
		if n, err = image.ParseName(name); err != nil {
			return id, err
		}
	}
	cfg, err := changed(changes)
	if err != nil {
		return id, err
	}
	lock, err := w.use(ctx)
	if err != nil {
		return id, err
	}
	defer join(&err, lock.Close)
	l, err := w.takeLayer(ctx, r)
	if full := (*store.FullError)(nil); errors.As(err, &full) {
		return id, fmt.Errorf("root file system: %w", err)
	}
	if err != nil && ctx.Err() == nil {
		return id, &hinted{fmt.Errorf("root file system: %w", err),
			"import takes the tar of a file system, compressed or not; an archive of images is loaded: whittle load -i FILE"}
	}
	if err != nil {
		return id, err
	}
	now := w.opt.Now().UTC()
	cfg.Created = &now
	cfg.History = []config.History{{Created: &now, Comment: message}}
	m, err := image.FromConfig(cfg, []image.Layer{l})
	if err != nil {
		return id, err
	}
	return m.ID, w.keep(m, n)
}

// changed is the config that instructions make of an empty one.
func changed(changes []string) (*config.Image, error) {
	p := platform()
	cfg := &config.Image{Architecture: p.Arch, OS: p.OS}
	if len(changes) == 0 {
		return cfg, nil
	}
	text := "FROM scratch\n"
	for _, c := range changes {
		text += c + "\n"
	}
	f, err := dockerfile.Parse("--change", []byte(text))
	if err != nil {
		return nil, err
	}
	if len(f.Stages) != 1 {
		return nil, notAChange(f, f.Stages[1].Pos, "FROM begins another image")
	}
	pl, err := plan.New(plan.Request{File: f, Platform: p, BuildPlatform: p})
	if err != nil {
		return nil, err
	}
	workdir := false
	for _, s := range pl.Steps {
		if s.Workdir == nil {
			return nil, notAChange(f, s.Line.Pos, "an instruction that changes files")
		}
		workdir = true
	}
	cfg.Config = pl.Target.Config.Config
	// What a build from scratch adds of its own, and docker import does not.
	cfg.Config.ArgsEscaped = false
	if !workdir {
		cfg.Config.WorkingDir = ""
	}
	cfg.Config.Env = slices.DeleteFunc(cfg.Config.Env, func(kv string) bool {
		return kv == "PATH="+config.DefaultPath && !strings.Contains(text, "PATH")
	})
	return cfg, nil
}

func notAChange(f *dockerfile.File, at dockerfile.Pos, msg string) error {
	return f.Mistake(at, msg, "--change takes CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME and WORKDIR")
}

// keep stores m and names it, with its annotations, durably. It is pinned before it is there, so
// that no pruning comes between the two.
func (w *Whittle) keep(m *image.Image, names ...image.Name) error {
	if err := w.store.Pin(m.ID); err != nil {
		return err
	}
	if err := w.catalog.Put(m); err != nil {
		return err
	}
	means := image.Meaning{ID: m.ID}
	means.Said.About(m.ID, m.Annotations, nil)
	for _, n := range names {
		if n.IsZero() {
			continue
		}
		if err := w.catalog.Tag(n, means); err != nil {
			return err
		}
	}
	return w.store.Sync()
}

// Load stores the images of an archive and returns them with their names.
func (w *Whittle) Load(ctx context.Context, in io.Reader) (_ []image.Loaded, err error) {
	lock, err := w.use(ctx)
	if err != nil {
		return nil, err
	}
	defer join(&err, lock.Close)
	tmp, err := w.store.Temp("load")
	if err != nil {
		return nil, err
	}
	defer join(&err, tmp.Remove)
	list, err := image.Load(ctx, in, w.imageSink(tmp.Path, platform()))
	if err != nil {
		return nil, w.store.Explain(err)
	}
	for _, l := range list {
		if err := w.keep(l.Image, l.Names...); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// imageSink takes what is loaded for p into the store; tmp is where an archive
// may be kept meanwhile.
func (w *Whittle) imageSink(tmp string, p plan.Platform) image.Sink {
	return image.Sink{
		Layer: func(ctx context.Context, _ digest.Digest, r io.Reader) (image.Layer, error) {
			return w.takeLayer(ctx, r)
		},
		Have: w.haveLayer, TempDir: tmp,
		Platform: image.Platform{OS: p.OS, Architecture: p.Arch, Variant: p.Variant},
	}
}

// Now is the clock that ages are counted from.
func (w *Whittle) Now() time.Time { return w.opt.Now() }

// IsNotFound tells whether err is about something that is not there.
func IsNotFound(err error) bool { return errors.Is(err, image.ErrNotFound) }

// shown is how an image is called when it is spoken of.
func shown(s image.Summary) string {
	if len(s.Names) > 0 {
		return s.Names[0].Familiar()
	}
	return fmt.Sprintf("image %s", s.Image.ID.Short())
}
