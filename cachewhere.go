package whittle

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/whittle-build/whittle/internal/attest"
	"github.com/whittle-build/whittle/internal/cacheplace"
	"github.com/whittle-build/whittle/internal/image"
	"github.com/whittle-build/whittle/internal/registry"
	"github.com/whittle-build/whittle/internal/sharedcache"
)

// Cache is a shared cache: in a registry, in a folder, or beside the image in its
// repository.
type Cache struct {
	Ref string // the reference that it has in a registry
	// Dir is the folder, an OCI layout, that it lies in under Tag; "" is latest.
	Dir, Tag string
	// Inline exports it to where the image is pushed: whoever names the image as a cache to
	// read finds it there.
	Inline bool
	// Max exports the layers of all stages, and not only those of the image. The
	// records of all steps go there in any case.
	Max bool
	// Mounts are the ids of cache mounts that travel with it, both ways; AllMounts is all
	// that the build has.
	Mounts []string
	// Compression is the form of the layers that are exported.
	Compression Compression
	// Force has layers in that form too that came from a registry in another.
	Force bool
	// IgnoreError makes an export that fails a note, and not a failure.
	IgnoreError bool
}

// Check reports what no cache can be.
func (c Cache) Check() error {
	if c.Inline {
		return c.Compression.Check()
	}
	_, err := c.place()
	return errors.Join(err, c.Compression.Check())
}

// where is the place of a cache: a name in a registry, or a folder.
type where struct {
	name     image.Name
	dir, tag string
}

func (c Cache) place() (w where, err error) {
	if c.Dir == "" {
		w.name, err = cacheName(c.Ref)
		return w, err
	}
	if w.tag = c.Tag; w.tag == "" {
		w.tag = "latest"
	}
	w.dir, err = filepath.Abs(c.Dir)
	return w, err
}

// cacheName reads the reference of a cache, which is told by its tag.
func cacheName(ref string) (image.Name, error) {
	n, err := image.ParseName(ref)
	switch {
	case err != nil:
		return n, fmt.Errorf("cache %s: %w", ref, err)
	case !n.Digest.IsZero():
		return n, &hinted{fmt.Errorf("cache %s: has a digest", ref), "a cache grows: name it by a tag"}
	case len(n.Tag) > sharedcache.MaxTag:
		return n, &hinted{fmt.Errorf("cache %s: its tag has more than %d bytes", ref, sharedcache.MaxTag), "each writer adds a few to it; choose a shorter one"}
	case sharedcache.IsSegment(n.Tag):
		return n, &hinted{fmt.Errorf("cache %s: that is a part of a cache", ref), "leave out .w- and what comes after it"}
	}
	return n, nil
}

// label is what people call it.
func (w where) label() string {
	if w.dir != "" {
		return w.dir
	}
	return w.name.Familiar()
}

// folderOrigin stands before the folder in the name of an origin that is none of a
// registry's.
const folderOrigin = "folder:"

// origin is what a layer's places call it.
func (w where) origin() string {
	if w.dir != "" {
		return folderOrigin + w.dir
	}
	return w.name.String()
}

// by is the place, as client reaches it.
func (w where) by(client *registry.Client) cacheplace.Place {
	if w.dir != "" {
		return cacheplace.Folder(w.dir, w.tag)
	}
	return cacheplace.Repository(client, reference(w.name))
}

// read reads the cache, or that beside the image which has its name.
func (w where) read(ctx context.Context, client *registry.Client, t cacheplace.Trust) (*sharedcache.Set, error) {
	set, err := w.by(client).Read(ctx, t)
	// Under the tag of a key there is none where the image's own has an image.
	beside := errors.Is(err, sharedcache.ErrNoCache) || errors.Is(err, cacheplace.ErrNone) && t.Verify != nil
	if !beside || w.dir != "" || len(w.name.Tag) > cacheplace.MaxInline {
		return set, err
	}
	set, berr := cacheplace.Repository(client, cacheplace.Beside(reference(w.name))).Read(ctx, t)
	if errors.Is(berr, cacheplace.ErrNone) && errors.Is(err, cacheplace.ErrNone) {
		return nil, err
	}
	if errors.Is(berr, cacheplace.ErrNone) {
		return nil, &hinted{fmt.Errorf("%w; it has no cache beside it either", err), "--cache-to type=inline puts one there when the image is pushed"}
	}
	return set, berr
}

// exportedCaches are the caches to write.
func (b *build) exportedCaches() (list []*exportedCache, err error) {
	pushed := b.pushedNames()
	for _, one := range b.req.CacheTo {
		if one.Inline {
			if len(pushed) == 0 {
				return nil, &hinted{errors.New("cache type=inline: it lies beside an image in its registry, and none is pushed"), "add --push, or write a cache of its own: type=registry,ref=REF or type=local,dest=DIR"}
			}
			for _, n := range pushed {
				if len(n.Tag) > cacheplace.MaxInline {
					return nil, &hinted{fmt.Errorf("cache beside %s: its tag has more than %d bytes", n.Familiar(), cacheplace.MaxInline), "choose a shorter one"}
				}
				n.Tag = cacheplace.Beside(reference(n)).Tag
				if at := (where{name: n}); !slices.ContainsFunc(list, func(o *exportedCache) bool { return o.where == at }) { // for several platforms
					list = append(list, &exportedCache{Cache: one, where: at})
				}
			}
			continue
		}
		at, err := one.place()
		if err != nil {
			return nil, err
		}
		if at.dir == "" && slices.ContainsFunc(pushed, func(t image.Name) bool { return t.Repository() == at.name.Repository() && t.Tag == at.name.Tag }) {
			return nil, &hinted{fmt.Errorf("cache %s: the image is pushed under that name", at.label()),
				"a cache has a repository or a tag of its own: " + at.name.FamiliarRepository() + "/cache; type=inline puts it beside the image"}
		}
		list = append(list, &exportedCache{Cache: one, where: at})
	}
	return list, nil
}

// trusted reads the keys of the request. Who signs reads nothing that is not signed by the same
// key, unless another is named: what it merges it answers for.
func (r *Request) trusted() (t cacheplace.Trust, err error) {
	if r.CacheSignKey != nil {
		if t.Sign, err = attest.ParseKey(r.CacheSignKey); err != nil {
			return t, &hinted{fmt.Errorf("--cache-sign-key: %w", err), "openssl ecparam -name prime256v1 -genkey -noout -out key.pem makes one"}
		}
		t.Verify = t.Sign.Public()
	}
	if r.CacheVerifyKey != nil {
		if t.Verify, err = attest.ParsePublicKey(r.CacheVerifyKey); err != nil {
			return t, &hinted{fmt.Errorf("--cache-verify-key: %w", err), "openssl ec -in key.pem -pubout -out key.pub makes it of the other"}
		}
	}
	return t, nil
}

// folderOf is the folder that an origin names; "" if it names a repository.
func (o origin) folderOf() string {
	dir, ok := strings.CutPrefix(o.Name, folderOrigin)
	if !ok {
		return ""
	}
	return dir
}
