package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/image/manifest"
)

// layoutFolder is the archive of save in a folder.
func layoutFolder(t *testing.T, m *memory) (string, []Export) {
	t.Helper()
	b, images := save(t, m, OCIArchive)
	dir := t.TempDir()
	for r := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return dir, images
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, filepath.FromSlash(h.Name))
		if h.Typeflag == tar.TypeDir {
			err = os.MkdirAll(name, 0o750)
		} else if err = os.MkdirAll(filepath.Dir(name), 0o750); err == nil {
			err = os.WriteFile(name, content, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestParseLayout(t *testing.T) {
	hex := strings.Repeat("ab", 32)
	for in, want := range map[string]Layout{
		"dir": {Dir: "dir"}, "/a/b:v1": {Dir: "/a/b", Tag: "v1"}, "a:b/c": {Dir: "a:b/c"}, "../x:1.2": {Dir: "../x", Tag: "1.2"},
		"dir@sha256:" + hex:   {Dir: "dir", Digest: mustDigest(t, "sha256:"+hex)},
		"dir:t@sha256:" + hex: {Dir: "dir", Tag: "t", Digest: mustDigest(t, "sha256:"+hex)},
	} {
		if got, err := ParseLayout(in); err != nil || got != want {
			t.Errorf("%s: %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", ":tag", "@sha256:" + hex, "dir@sha256:12", "dir@md5:" + hex} {
		var e *Error
		if _, err := ParseLayout(in); !errors.As(err, &e) || e.Way == "" {
			t.Errorf("%q: error %v", in, err)
		}
	}
}

func mustDigest(t *testing.T, s string) digest.Digest {
	t.Helper()
	d, err := digest.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestLayoutImageIsPickedByTagOrDigest(t *testing.T) {
	m := newMemory()
	dir, images := layoutFolder(t, m)
	for in, want := range map[string]int{dir + ":1": 0, dir + ":2": 1, dir + ":docker.io/library/other:2": -1} {
		lay, err := ParseLayout(in)
		if err != nil {
			t.Fatal(err)
		}
		if want < 0 {
			lay = Layout{Dir: dir, Tag: "docker.io/library/other:2"}
			want = 1
		}
		got, err := lay.Load(t.Context(), newMemory().sink())
		if err != nil || got.ID != images[want].Image.ID || len(got.Layers) != 2 {
			t.Fatalf("%s: %v, %v; want %s", in, got, err, images[want].Image.ID)
		}
		again, err := Layout{Dir: dir, Digest: got.Manifest}.Load(t.Context(), newMemory().sink())
		if err != nil || again.ID != got.ID || again.Manifest != got.Manifest {
			t.Errorf("by the digest %s: %v, %v", got.Manifest, again, err)
		}
	}
	var e *Error
	if _, err := (Layout{Dir: dir}).Load(t.Context(), m.sink()); !errors.As(err, &e) || !strings.Contains(e.Way, "1, 1, 2") && !strings.Contains(e.Way, "its tags are") {
		t.Errorf("of three images without a tag: %v", err)
	}
	if _, err := (Layout{Dir: dir, Digest: digest.Of(nil)}).Load(t.Context(), m.sink()); !errors.As(err, &e) || !strings.Contains(err.Error(), "has no blob") {
		t.Errorf("a digest that is not there: %v", err)
	}
}

func TestAttack19LayoutFolderIsNotLeft(t *testing.T) {
	m := newMemory()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("of this machine"), 0o600); err != nil {
		t.Fatal(err)
	}
	blob := func(dir string, images []Export) string { return filepath.Join(dir, blobPath(images[0].Image.ID)) }
	tests := map[string]func(dir, blob string) error{
		"a blob that leads out": func(_, blob string) error {
			return errors.Join(os.Remove(blob), os.Symlink(secret, blob))
		},
		"an index that leads out": func(dir, _ string) error {
			name := filepath.Join(dir, manifest.IndexFile)
			return errors.Join(os.Rename(name, filepath.Join(filepath.Dir(secret), "index")), os.Symlink(filepath.Join(filepath.Dir(secret), "index"), name))
		},
		"a blob that is a pipe": func(_, blob string) error { return errors.Join(os.Remove(blob), syscall.Mkfifo(blob, 0o600)) },
		"another content":       func(_, blob string) error { return os.WriteFile(blob, []byte(`{"architecture":"x"}`), 0o600) },
		"no version":            func(dir, _ string) error { return os.Remove(filepath.Join(dir, manifest.LayoutFile)) },
		"no index":              func(dir, _ string) error { return os.Remove(filepath.Join(dir, manifest.IndexFile)) },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			dir, images := layoutFolder(t, m)
			if err := change(dir, blob(dir, images)); err != nil {
				t.Fatal(err)
			}
			if got, err := (Layout{Dir: dir, Tag: "1"}).Load(t.Context(), newMemory().sink()); err == nil {
				t.Errorf("got %s", got.ID)
			}
		})
	}
}
