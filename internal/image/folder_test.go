package image

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/whittle-build/whittle/internal/digest"
)

// spoil writes other bytes of the same number into a blob.
func spoil(t *testing.T, dir string, d Descriptor) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, blobPath(d.Digest)), bytes.Repeat([]byte{'x'}, int(d.Size)), 0o600); err != nil {
		t.Fatal(err)
	}
}

func large(text string) ([]byte, Descriptor) {
	b := []byte(strings.Repeat(text, 3<<20/len(text)))
	return b, Descriptor{Digest: digest.Of(b), Size: int64(len(b))}
}

func TestWhoAddsToALayoutWritesASpoiltBlobAnew(t *testing.T) {
	m, dir := newMemory(), filepath.Join(t.TempDir(), "layout")
	b, _ := large("content ")
	img := sample(t, m, moment, string(b))
	x := []Export{{Image: img, Names: []Name{mustName(t, "app:1")}}}
	if _, err := m.exporter().SaveLayout(t.Context(), dir, x); err != nil {
		t.Fatal(err)
	}
	layer, _, err := m.exporter().Blob(t.Context(), img.Layers[0])
	if err != nil || layer.Size < 1<<20 {
		t.Fatalf("%d bytes, %v", layer.Size, err)
	}
	spoil(t, dir, layer)
	if _, err := m.exporter().SaveLayout(t.Context(), dir, x); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, blobPath(layer.Digest)))
	if err != nil || digest.Of(got) != layer.Digest {
		t.Errorf("the blob is still spoilt, %v", err)
	}
}

func TestAFolderReadsABlobOnceAndWritesASpoiltOneAnew(t *testing.T) {
	dir := t.TempDir()
	b, d := large("blob ")
	open := func() *Folder {
		f, err := OpenFolder(dir, true)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	if f := open(); f.Holds(d) || f.Has(d) {
		t.Error("there is a blob before one was put")
	}
	if err := open().Put(d, bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
	f := open()
	if !f.Holds(d) {
		t.Error("a blob that was put is not there")
	}
	spoil(t, dir, d)
	if !f.Holds(d) {
		t.Error("a blob is read twice")
	}
	if f := open(); f.Holds(d) || !f.Has(d) {
		t.Error("a spoilt blob is not told from a good one, or not by its content alone")
	}
	if err := open().Put(d, bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
	if !open().Holds(d) {
		t.Error("a spoilt blob was not written anew")
	}
}

func TestALayoutThatFailsLeavesNoEmptyFolder(t *testing.T) {
	m, dir := newMemory(), t.TempDir()
	broken := errors.New("broken")
	e := Exporter{Blob: func(context.Context, Layer) (Descriptor, io.ReadCloser, error) { return Descriptor{}, nil, broken }}
	if err := os.Mkdir(filepath.Join(dir, "there"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{"new/layout", "there"} {
		if _, err := e.SaveLayout(t.Context(), filepath.Join(dir, to), []Export{{Image: sample(t, m, moment, "a")}}); !errors.Is(err, broken) {
			t.Errorf("%s: %v", to, err)
		}
	}
	list, err := os.ReadDir(dir)
	if err != nil || len(list) != 1 || list[0].Name() != "there" {
		t.Errorf("left: %v, %v", list, err)
	}
}
