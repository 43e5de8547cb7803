package layer

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/whittle-build/whittle/internal/entry"
)

func TestVerifyFindsDamage(t *testing.T) {
	other, _ := build(t, []item{fileAt("other", "1")})
	patch := func(name string, at int64, b string) func(string) error {
		return func(dir string) error {
			f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.WriteAt([]byte(b), at)
			return err
		}
	}
	cut := func(name string, n int64) func(string) error {
		return func(dir string) error { return os.Truncate(filepath.Join(dir, name), n) }
	}
	replace := func(name string) func(string) error {
		return func(dir string) error {
			b, err := os.ReadFile(filepath.Join(other, name))
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, name), b, 0o644)
		}
	}
	remove := func(name string) func(string) error {
		return func(dir string) error { return os.Remove(filepath.Join(dir, name)) }
	}
	cases := map[string]func(string) error{
		"a byte of the tar":          patch(TarName, 700, "\x01"),
		"the tar's end":              cut(TarName, 1024),
		"no tar":                     remove(TarName),
		"another tar":                replace(TarName),
		"a byte of the index":        patch(IndexName, 2000, "\xee"),
		"a superblock":               patch(IndexName, superOffset, "\x00"),
		"half an index":              cut(IndexName, 4096),
		"an empty index":             cut(IndexName, 0),
		"another layer's index":      replace(IndexName),
		"no index":                   remove(IndexName),
		"an index of the chain":      patch(IndexName+"-abc", 3000, "\xee"),
		"no layer.json":              remove(MetaName),
		"a layer.json that is none":  patch(MetaName, 0, "x"),
		"another layer's layer.json": replace(MetaName),
	}
	for name, damage := range cases {
		dir, _ := build(t, append(sample()[:8:8], manyFiles(100)...))
		if err := Reindex(dir, nil, IndexName+"-abc"); err != nil {
			t.Fatal(err)
		}
		if err := Verify(dir); err != nil {
			t.Fatalf("before: %v", err)
		}
		if err := damage(dir); err != nil {
			t.Fatal(err)
		}
		if err := Verify(dir); err == nil {
			t.Errorf("%s: not found", name)
		}
	}
}

func TestVerifyCountsWhatATreeHas(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	b, err := NewTree(filepath.Join(dir, TreeName), UnpackOptions{})
	if err != nil {
		t.Fatal(err)
	}
	addAll(t, b, sample())
	if err := Verify(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, TreeName, "bin/empty")); err != nil {
		t.Fatal(err)
	}
	if err := Verify(dir); !errors.Is(err, ErrDamaged) {
		t.Errorf("a missing file: %v", err)
	}
}

// A full disk is said to be one, whoever finds out first, and nothing is left.
func TestAFullDiskIsNamed(t *testing.T) {
	needRoot(t)
	small := mount(t, "tmpfs", "size=3m")
	text := strings.Repeat("0123456789abcdef", 1<<20) // 16 MiB
	big := item{entry.Entry{Path: "big", Kind: entry.File, Mode: 0o644, Size: int64(len(text))}, text}

	b, err := Create(filepath.Join(small, "a"))
	if err != nil {
		t.Fatal(err)
	}
	add := b.Add(big.Entry, strings.NewReader(text))
	_, err = b.Finish()
	if !errors.Is(add, syscall.ENOSPC) || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("builder: Add says %v, Finish %v", add, err)
	}
	b.Abort()

	h := regular("big")
	h.Uname = text
	_, err = Import(t.Context(), filepath.Join(small, "b"), bytes.NewReader(makeTar(t, h)), nil)
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("import: %v", err)
	}

	dir, _ := build(t, []item{big})
	err = Unpack(t.Context(), dir, "", filepath.Join(small, "c"), UnpackOptions{})
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("unpack: %v", err)
	}
	os.RemoveAll(filepath.Join(small, "c"))

	tb, err := NewTree(filepath.Join(small, "d"), UnpackOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := tb.Add(big.Entry, strings.NewReader(text)); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("tree builder: %v", err)
	}
	tb.Abort()
	left, err := filepath.Glob(small + "/*/*")
	if err != nil || len(left) > 0 {
		t.Errorf("left %v (%v)", left, err)
	}
}
