package layer

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/whittle-build/whittle/internal/entry"
)

// needRoot skips tests that make devices, owners and trusted attributes.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 || inUserNamespace() {
		t.Skip("needs root: makes owners, devices and trusted attributes")
	}
}

// dump describes a view line by line, contents included. Numbers of hard
// link groups are replaced by the group's first path.
func dump(t testing.TB, fsys entry.FS) string {
	t.Helper()
	var b strings.Builder
	groups := map[uint64]string{}
	err := entry.Walk(fsys, ".", func(e entry.Entry) error {
		fmt.Fprintf(&b, "%q %s %04o %d:%d %d.%d", e.Path, e.Kind, e.Mode, e.UID, e.GID, e.Mtime.Sec, e.Mtime.Nsec)
		if e.Link != "" {
			fmt.Fprintf(&b, " -> %q", e.Link)
		}
		if e.Kind == entry.Char || e.Kind == entry.Block {
			fmt.Fprintf(&b, " dev %d:%d", e.Major, e.Minor)
		}
		for _, n := range slices.Sorted(maps.Keys(e.Xattrs)) {
			fmt.Fprintf(&b, " %s=%q", n, e.Xattrs[n])
		}
		if e.Opaque {
			b.WriteString(" opaque")
		}
		if e.Inode != 0 {
			if first, ok := groups[e.Inode]; ok {
				fmt.Fprintf(&b, " same as %q", first)
			} else {
				groups[e.Inode] = e.Path
			}
		}
		if e.Kind == entry.File {
			fmt.Fprintf(&b, " %d %s", e.Size, read(t, fsys, e.Path))
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func read(t testing.TB, fsys entry.FS, p string) string {
	t.Helper()
	r, err := fsys.Open(p)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("%s: %v", p, err)
	}
	if len(b) > 40 {
		return fmt.Sprintf("%q…%x", b[:8], sum(b))
	}
	return fmt.Sprintf("%q", b)
}

func sum(b []byte) uint32 {
	var s uint32
	for _, c := range b {
		s = s*31 + uint32(c)
	}
	return s
}

type item struct {
	entry.Entry
	text string
}

// sample has every kind of entry that a layer can hold.
func sample() []item {
	at := entry.Time{Sec: 1600000000}
	long := strings.Repeat("long-name-", 24)
	deep := strings.TrimSuffix(strings.Repeat("deep/", 60), "/")
	items := []item{
		{entry.Entry{Path: ".", Kind: entry.Dir, Mode: 0o711, Mtime: at}, ""},
		{entry.Entry{Path: "bin", Kind: entry.Dir, Mode: 0o755, Mtime: at}, ""},
		{entry.Entry{Path: "bin/ls", Kind: entry.File, Mode: 0o4755, Mtime: at, Inode: 7, Xattrs: map[string]string{"user.a": "1", "user.b": ""}}, "ls"},
		{entry.Entry{Path: "bin/cp", Kind: entry.File, Mode: 0o4755, Mtime: at, Inode: 7, Xattrs: map[string]string{"user.a": "1", "user.b": ""}}, "ls"},
		{entry.Entry{Path: "bin/ping", Kind: entry.File, Mode: 0o664, Mtime: at, Xattrs: map[string]string{
			"security.capability":     "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
			"system.posix_acl_access": "\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x04\x00\xe8\x03\x00\x00\x04\x00\x04\x00\xff\xff\xff\xff\x10\x00\x06\x00\xff\xff\xff\xff\x20\x00\x04\x00\xff\xff\xff\xff",
		}}, "ping"},
		{entry.Entry{Path: "bin/empty", Kind: entry.File, Mode: 0o600, UID: 1000, GID: 70000, Mtime: at}, ""},
		{entry.Entry{Path: "bin/big", Kind: entry.File, Mode: 0o644, Mtime: entry.Time{Sec: -5}}, strings.Repeat("0123456789", 20000)},
		{entry.Entry{Path: "bin/sh", Kind: entry.Symlink, Mode: 0o777, Mtime: at, Link: "/bin/ls"}, ""},
		{entry.Entry{Path: "bin/far", Kind: entry.Symlink, Mode: 0o777, Mtime: at, Link: strings.Repeat("x/", 500)}, ""},
		{entry.Entry{Path: "dev", Kind: entry.Dir, Mode: 0o755, Mtime: at, Opaque: true}, ""},
		{entry.Entry{Path: "dev/null", Kind: entry.Char, Mode: 0o666, Major: 1, Minor: 3, Mtime: at}, ""},
		{entry.Entry{Path: "dev/sda", Kind: entry.Block, Mode: 0o660, GID: 6, Major: 8, Minor: 300, Mtime: at}, ""},
		{entry.Entry{Path: "dev/pipe", Kind: entry.Fifo, Mode: 0o600, Mtime: at}, ""},
		{entry.Entry{Path: "gone", Kind: entry.Whiteout}, ""},
		{entry.Entry{Path: "ünï", Kind: entry.File, Mode: 0o644, Mtime: at}, "u"},
		{entry.Entry{Path: "raw\xff\xfe", Kind: entry.File, Mode: 0o644, Mtime: at}, "r"},
		{entry.Entry{Path: long, Kind: entry.Dir, Mode: 0o1777, Mtime: at}, ""},
		{entry.Entry{Path: long + "/" + long, Kind: entry.File, Mode: 0o644, Mtime: at}, "long"},
	}
	for i := range deep {
		if deep[i] == '/' {
			items = append(items, item{entry.Entry{Path: deep[:i], Kind: entry.Dir, Mode: 0o755, Mtime: at}, ""})
		}
	}
	return append(items, item{entry.Entry{Path: deep, Kind: entry.File, Mode: 0o644, Mtime: at}, "d"})
}

type adder interface {
	Add(entry.Entry, io.Reader) error
	Finish() (Meta, error)
}

func addAll(t testing.TB, b adder, items []item) Meta {
	t.Helper()
	for _, i := range items {
		if i.Kind == entry.File {
			i.Size = int64(len(i.text))
		}
		if err := b.Add(i.Entry, strings.NewReader(i.text)); err != nil {
			t.Fatal(err)
		}
	}
	m, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func build(t testing.TB, items []item) (dir string, m Meta) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "layer")
	b, err := Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	return dir, addAll(t, b, items)
}

func openTar(t testing.TB, dir string) *View {
	t.Helper()
	v, err := OpenTar(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	return v
}

func openTree(t testing.TB, dir string) *View {
	t.Helper()
	v, err := OpenTree(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	return v
}

// makeTar writes a tar of headers; a regular file's content is its Uname.
func makeTar(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if h.Typeflag == tar.TypeXGlobalHeader {
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
			continue
		}
		text := h.Uname
		h.Uname = ""
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.ModTime.IsZero() {
			h.ModTime = time.Unix(1500000000, 0)
		}
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(text))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil && text != "" {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func importBytes(t testing.TB, b []byte) (dir string, m Meta) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "layer")
	m, err := Import(t.Context(), dir, bytes.NewReader(b), nil)
	if err != nil {
		t.Fatal(err)
	}
	return dir, m
}

func diff(t testing.TB, what, got, want string) {
	t.Helper()
	if got == want {
		return
	}
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range max(len(g), len(w)) {
		var a, b string
		if i < len(g) {
			a = g[i]
		}
		if i < len(w) {
			b = w[i]
		}
		if a != b {
			t.Fatalf("%s, line %d:\n got %s\nwant %s", what, i+1, a, b)
		}
	}
}
