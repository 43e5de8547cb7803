package layer

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/entry"
)

// bigLayer writes files of all kinds of lengths, 24 MB together.
func bigLayer(t *testing.T, dir string, direct bool) Meta {
	t.Helper()
	b, err := Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	if direct {
		b.Direct()
	}
	random := rand.NewChaCha8([32]byte{7})
	for i, size := range []int{1, 9 << 20, 511, 3<<20 + 1, 0, 11<<20 + 4097, 700_000} {
		data := make([]byte, size)
		random.Read(data)
		e := entry.Entry{Path: string(rune('a' + i)), Kind: entry.File, Mode: 0o644, Size: int64(size)}
		if err := b.Add(e, bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
	}
	m, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	if err := Verify(dir); err != nil {
		t.Error(err)
	}
	return m
}

// cached tells what part of a file is in the page cache.
func cached(t *testing.T, name string) float64 {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	b, err := syscall.Mmap(int(f.Fd()), 0, int(st.Size()), syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Munmap(b)
	pages := make([]byte, (len(b)+os.Getpagesize()-1)/os.Getpagesize())
	_, _, errno := syscall.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), uintptr(unsafe.Pointer(&pages[0])))
	if errno != 0 {
		t.Fatal(errno)
	}
	in := 0
	for _, p := range pages {
		in += int(p & 1)
	}
	return float64(in) / float64(len(pages))
}

func TestALayerThatIsNotReadSoonStaysOutOfThePageCache(t *testing.T) {
	top := t.TempDir()
	probe, err := os.OpenFile(filepath.Join(top, "probe"), os.O_CREATE|os.O_WRONLY|unix.O_DIRECT, 0o644)
	if err != nil {
		t.Skipf("needs a file system with direct writes: %v", err)
	}
	probe.Close()
	var fs unix.Statfs_t
	if err := unix.Statfs(top, &fs); err != nil || fs.Type == unix.TMPFS_MAGIC {
		t.Skipf("needs a disk: files of a tmpfs are the page cache (%v)", err)
	}
	tar := filepath.Join(top, "direct", TarName)
	direct, plain := bigLayer(t, filepath.Join(top, "direct"), true), bigLayer(t, filepath.Join(top, "plain"), false)
	if direct != plain {
		t.Errorf("written directly it is %+v, else %+v", direct, plain)
	}
	// Verify has read it: a layer that nobody looked at is needed.
	bare := filepath.Join(top, "unread")
	b, err := Create(bare)
	if err != nil {
		t.Fatal(err)
	}
	b.Direct()
	data := make([]byte, 40<<20)
	if err := b.Add(entry.Entry{Path: "x", Mode: 0o644, Size: int64(len(data))}, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Finish(); err != nil {
		t.Fatal(err)
	}
	if part := cached(t, filepath.Join(bare, TarName)); part > 0.4 {
		t.Errorf("%.0f %% of it is in the page cache", 100*part)
	}
	if part := cached(t, tar); part < 0.9 {
		t.Errorf("of what was just read %.0f %% is in the page cache: the measure is wrong", 100*part)
	}
}

// A file system that takes the flag and then refuses to write so has the rest
// through the page cache.
func TestDirectWritesThatAreRefusedAreMadePlainly(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := directWriter{f: f}
	w.begin()
	odd := aligned(8192)[1:4097] // not where a disk can read it
	for i := range odd {
		odd[i] = byte(i)
	}
	for range 3 {
		if err := w.write(odd); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(name)
	if want := bytes.Repeat(odd, 3); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes (%v), want %d", len(got), err, len(want))
	}
}
