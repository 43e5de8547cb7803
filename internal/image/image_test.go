package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/whittle-build/whittle/internal/config"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/image/manifest"
	"github.com/whittle-build/whittle/internal/layer"
)

// memory is a store in memory: documents, and layers by diffID.
type memory struct {
	mu   sync.Mutex
	docs map[string][]byte
	tars map[digest.Digest][]byte
}

func newMemory() *memory {
	return &memory{docs: map[string][]byte{}, tars: map[digest.Digest][]byte{}}
}

func (m *memory) PutDoc(kind, name string, b []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.docs[kind+"/"+name] = bytes.Clone(b)
	return nil
}

func (m *memory) Doc(kind, name string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.docs[kind+"/"+name]
	if !ok {
		return nil, fmt.Errorf("%s %s: %w", kind, name, fs.ErrNotExist)
	}
	return b, nil
}

func (m *memory) Docs(kind string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m.docs)) {
		if name, ok := bytes.CutPrefix([]byte(k), []byte(kind+"/")); ok {
			out = append(out, string(name))
		}
	}
	return out, nil
}

func (m *memory) DeleteDoc(kind, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.docs, kind+"/"+name)
	return nil
}

func (m *memory) UpdateDoc(kind, name string, fn func([]byte) ([]byte, error)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, err := fn(m.docs[kind+"/"+name])
	switch {
	case err != nil:
		return err
	case b == nil:
		delete(m.docs, kind+"/"+name)
	default:
		m.docs[kind+"/"+name] = b
	}
	return nil
}

// layer is what internal/layer does, in small: it decompresses and hashes.
func (m *memory) layer(_ context.Context, _ digest.Digest, r io.Reader) (Layer, error) {
	plain, _, err := layer.Decompress(r)
	if err != nil {
		return Layer{}, err
	}
	defer plain.Close()
	b, err := io.ReadAll(plain)
	if err != nil {
		return Layer{}, err
	}
	return m.add(b), nil
}

func (m *memory) add(b []byte) Layer {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := digest.Of(b)
	m.tars[d] = b
	return Layer{ID: d, DiffID: d, Size: int64(len(b))}
}

func (m *memory) open(l Layer) (io.ReadCloser, int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.tars[l.DiffID]
	if !ok {
		return nil, 0, fs.ErrNotExist
	}
	return io.NopCloser(bytes.NewReader(b)), int64(len(b)), nil
}

func (m *memory) exporter() Exporter {
	return Exporter{Blob: func(_ context.Context, l Layer) (Descriptor, io.ReadCloser, error) {
		in, size, err := m.open(l)
		return Descriptor{MediaType: manifest.OCILayer, Digest: l.DiffID, Size: size}, in, err
	}}
}

func (m *memory) sink() Sink {
	return Sink{Layer: m.layer, Platform: Platform{OS: "linux", Architecture: "amd64"}}
}

// tarOf makes a layer with one file.
func tarOf(t testing.TB, name, content string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(content)), Mode: 0o755, Typeflag: tar.TypeReg, ModTime: time.Unix(1, 0)})
	if err == nil {
		_, err = io.WriteString(w, content)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// sample makes an image with a layer for each content.
func sample(t testing.TB, m *memory, created time.Time, contents ...string) *Image {
	t.Helper()
	cfg := &config.Image{
		Created: &created, Architecture: "amd64", OS: "linux", Author: "nobody",
		Config: config.Config{Cmd: []string{"/hello"}, Env: []string{"PATH=/bin"}, Labels: map[string]string{"a": "b"}},
	}
	var layers []Layer
	for i, c := range contents {
		l := m.add(tarOf(t, fmt.Sprintf("file%d", i), c))
		l.Size = int64(len(c))
		layers = append(layers, l)
		cfg.DiffIDs = append(cfg.DiffIDs, l.DiffID)
		cfg.History = append(cfg.History, config.History{Created: &created, CreatedBy: fmt.Sprintf("COPY file%d / # buildkit", i), Comment: config.Comment})
	}
	cfg.History = append(cfg.History, config.History{Created: &created, CreatedBy: `CMD ["/hello"]`, EmptyLayer: true})
	img, err := FromConfig(cfg, layers)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

var moment = time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC)

func mustName(t *testing.T, s string) Name {
	t.Helper()
	n, err := ParseName(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestNewRefusesLayersThatTheConfigDoesNotName(t *testing.T) {
	m := newMemory()
	img := sample(t, m, moment, "one", "two")
	if _, err := New(img.Raw, img.Layers[:1]); err == nil {
		t.Error("one layer for two diffIDs was taken")
	}
	if _, err := New(img.Raw, []Layer{img.Layers[1], img.Layers[0]}); err == nil {
		t.Error("layers in the wrong order were taken")
	}
	if _, err := New([]byte(`{"rootfs":{"type":"layers","diff_ids":[""]}}`), []Layer{{}}); err == nil {
		t.Error("an empty diffID was taken")
	}
}

func TestIDIsOfTheConfigBytesAsTheyCame(t *testing.T) {
	m := newMemory()
	img := sample(t, m, moment, "one")
	odd := append([]byte(" \n"), img.Raw...)
	other, err := New(odd, img.Layers)
	if err != nil {
		t.Fatal(err)
	}
	if want := digest.Digest(sha256.Sum256(odd)); other.ID != want {
		t.Errorf("ID %s, want %s", other.ID, want)
	}
	c := NewCatalog(m, time.Now)
	if err := c.Put(other); err != nil {
		t.Fatal(err)
	}
	got, err := c.Get(other.ID)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Raw, odd) {
		t.Errorf("stored config is %q, want %q", got.Raw, odd)
	}
}
