package layer

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/entry"
)

// ErrDamaged is wrapped by what Verify finds.
var ErrDamaged = errors.New("layer is damaged")

// Verify reads everything in a layer folder and compares it with what its
// layer.json and its indexes promise.
func Verify(dir string) error {
	m, err := ReadMeta(dir)
	if err != nil {
		return err
	}
	switch m.Form {
	case FormTree:
		return verifyTree(dir, m)
	case FormAway:
		return nil // its content is checked when it comes
	}
	if err := verifyTar(dir, m); err != nil {
		return fmt.Errorf("layer %s: %w", dir, err)
	}
	names, err := filepath.Glob(filepath.Join(dir, IndexName+"-*"))
	if err != nil {
		return err
	}
	for _, n := range append(names, filepath.Join(dir, IndexName)) {
		if err := verifyIndex(dir, n, m); err != nil {
			return fmt.Errorf("%s: %w", n, err)
		}
	}
	return nil
}

func verifyTree(dir string, m Meta) error {
	got, err := TreeMeta(filepath.Join(dir, TreeName))
	if err != nil {
		return err
	}
	if got.Entries != m.Entries || got.Size != m.Size {
		return fmt.Errorf("layer %s: %d entries of %d bytes, recorded as %d of %d: %w",
			dir, got.Entries, got.Size, m.Entries, m.Size, ErrDamaged)
	}
	return nil
}

func verifyTar(dir string, m Meta) error {
	f, err := os.Open(filepath.Join(dir, TarName))
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.CopyBuffer(h, struct{ io.Reader }{f}, make([]byte, 1<<20))
	if err != nil {
		return err
	}
	var got digest.Digest
	h.Sum(got[:0])
	if got != m.DiffID || n != m.TarSize {
		return fmt.Errorf("tar is %s of %d bytes, recorded as %s of %d: %w", got, n, m.DiffID, m.TarSize, ErrDamaged)
	}
	return nil
}

// verifyIndex checks an index's own digest, that it belongs to the tar, and
// that all it says can be read.
func verifyIndex(dir, name string, m Meta) error {
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	img, err := openImage(b)
	if err != nil {
		return errors.Join(err, ErrDamaged)
	}
	own := string(b[uuidOffset : uuidOffset+uuidSize])
	clear(b[uuidOffset : uuidOffset+uuidSize])
	if sum := sha256.Sum256(b); string(sum[:uuidSize]) != own {
		return fmt.Errorf("its digest is another: %w", ErrDamaged)
	}
	if len(img.devices) != 1 || img.devices[0].tag != m.DiffID.Hex() || img.devices[0].size < m.TarSize {
		return fmt.Errorf("belongs to another tar: %w", ErrDamaged)
	}
	v, err := OpenTar(dir, name)
	if err != nil {
		return err
	}
	defer v.Close()
	return verifyView(v, m)
}

func verifyView(v *View, m Meta) error {
	entries := -1 // without the root
	err := entry.Walk(v, ".", func(e entry.Entry) error {
		entries++
		if e.Kind != entry.File {
			return nil
		}
		r, err := v.Open(e.Path)
		if err != nil {
			return err
		}
		c := r.(*content)
		if f, off, ok := c.where(); ok && f == v.view.(*tarView).tar && off+e.Size > m.TarSize {
			return fmt.Errorf("%s: content beyond the tar: %w", e.Path, ErrDamaged)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if entries != m.Entries {
		return fmt.Errorf("%d entries, recorded as %d: %w", entries, m.Entries, ErrDamaged)
	}
	return nil
}
