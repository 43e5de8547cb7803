package store

import (
	"errors"
	"io"
	"math"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// zeros is an endless source.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// tiny is a store on a file system of 1 MiB and 60 files.
func tiny(t *testing.T) *Store {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: to mount a small tmpfs")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m,nr_inodes=60"); err != nil {
		t.Skipf("needs root with mounts: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return openIn(t, dir+"/store")
}

func wantFull(t *testing.T, s *Store, what string, err error) {
	t.Helper()
	var full *FullError
	if !errors.As(err, &full) || !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("%s: got %v, want a FullError", what, err)
	}
	if mount := strings.TrimSuffix(s.Dir(), "/store"); full.Mount != mount || full.Size != 1<<20 {
		t.Errorf("%s: file system %s of %d bytes, want %s", what, full.Mount, full.Size, mount)
	}
	if text := err.Error(); !strings.Contains(text, full.Mount) || !strings.Contains(text, "is full (1.05 MB in all") {
		t.Errorf("%s: the message is %q", what, text)
	}
}

func TestFullDiskIsNamedAndLeavesNoHalfThings(t *testing.T) {
	s := tiny(t)
	id := commit(t, s, "layer", "content")
	_, _, err := s.PutBlob(io.LimitReader(zeros{}, 4<<20))
	wantFull(t, s, "a blob", err)
	err = s.AddToLayer(id, "part", func(path string) error { return os.WriteFile(path, make([]byte, 4<<20), 0o600) })
	wantFull(t, s, "a part", err)
	err = s.PutDoc("tag", "a", []byte(`"`+strings.Repeat("x", 4<<20)+`"`))
	wantFull(t, s, "a document", err)
	err = s.PutRecord(named("key"), &Record{Layer: id, Text: strings.Repeat("x", 4<<20)})
	wantFull(t, s, "a record", err)
	sound(t, s)
	if free, err := s.Free(); err != nil || free < 1<<19 {
		t.Errorf("%d bytes free after all that, %v", free, err)
	}
	if _, err := s.PutBlobBytes([]byte("fits")); err != nil {
		t.Errorf("something small afterwards: %v", err)
	}
}

func TestDiskWithoutInodesIsFullToo(t *testing.T) {
	s := tiny(t)
	var err error
	for i := 0; err == nil && i < 100; i++ {
		_, err = s.PutBlobBytes([]byte{byte(i)})
	}
	wantFull(t, s, "the last inode", err)
	if !strings.Contains(err.Error(), "no file can be made") {
		t.Errorf("the message is %q", err)
	}
	if _, err := s.Prune(t.Context(), PruneOptions{All: true, KeepBlob: keepNothing}); err != nil {
		t.Errorf("pruning a full disk: %v", err)
	}
	if _, err := s.PutBlobBytes([]byte("fits")); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestOtherErrorsAreNotExplained(t *testing.T) {
	s := open(t)
	for _, err := range []error{nil, io.ErrUnexpectedEOF, os.ErrNotExist} {
		if got := s.Explain(err); got != err {
			t.Errorf("%v became %v", err, got)
		}
	}
}

func TestBytesAsPeopleReadThem(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "1 kB", 1536000: "1.54 MB", 1 << 40: "1.1 TB", math.MaxInt64: "9.22 EB"} {
		if got := bytesText(n); got != want {
			t.Errorf("%d: got %s, want %s", n, got, want)
		}
	}
}
