package whittle_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// tarOf makes a tar of programs: paths with their content, "-> x" is a link.
func tarOf(t testing.TB, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(h *tar.Header, text string) {
		t.Helper()
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
	}
	add(&tar.Header{Name: "bin/", Typeflag: tar.TypeDir, Mode: 0o755}, "")
	add(&tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777}, "")
	for _, name := range slices.Sorted(maps.Keys(files)) {
		text := files[name]
		if target, ok := strings.CutPrefix(text, "-> "); ok {
			add(&tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target, Mode: 0o777}, "")
			continue
		}
		add(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(text))}, text)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// watchOpens counts how often files are opened from now on.
func watchOpens(t testing.TB, files ...string) (count func() int) {
	t.Helper()
	fd, err := syscall.InotifyInit1(syscall.IN_NONBLOCK | syscall.IN_CLOEXEC)
	if err != nil {
		t.Skipf("needs inotify: %v", err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	for _, f := range files {
		if _, err := syscall.InotifyAddWatch(fd, f, syscall.IN_OPEN); err != nil {
			t.Fatal(err)
		}
	}
	return func() (n int) {
		buf := make([]byte, 4096)
		for {
			k, err := syscall.Read(fd, buf)
			if errors.Is(err, syscall.EAGAIN) {
				return n
			}
			if err != nil {
				t.Fatal(err)
			}
			n += k / syscall.SizeofInotifyEvent // names are those of files: events have none
		}
	}
}
