package entry

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// grown makes the same tree in memory and on disk, of a fuzzer's lines.
func grown(t *testing.T, dir, text string) *Mem {
	t.Helper()
	m := NewMem()
	for n, l := range strings.Split(text, "\n") {
		name, target, link := strings.Cut(l, ">")
		name = Clean(name)
		if n > 30 || len(name) > 200 || len(target) > 200 || strings.Contains(l, "\x00") {
			t.Skip("too large")
		}
		// Every parent must be a directory already, or missing.
		for p := Parent(name); p != "."; p = Parent(p) {
			if e, err := m.Lstat(p); err == nil && e.Kind != Dir {
				t.Skip("below a file")
			}
			if len(filepath.Base(p)) > 100 {
				t.Skip("too large")
			}
		}
		if _, err := m.Lstat(name); err == nil {
			continue
		}
		at := filepath.Join(dir, name)
		err := os.MkdirAll(filepath.Dir(at), 0o755)
		e := Entry{Path: name}
		switch {
		case err != nil:
		case link && target != "":
			e.Kind, e.Link = Symlink, target
			err = os.Symlink(target, at)
		case strings.HasSuffix(l, "/"):
			e.Kind = Dir
			err = os.Mkdir(at, 0o755)
		default:
			err = os.WriteFile(at, nil, 0o644)
		}
		if err != nil {
			t.Skip(err)
		}
		m.Add(e, "")
	}
	return m
}

// FuzzResolve compares with the kernel's own way of reading a path in a root.
func FuzzResolve(f *testing.F) {
	f.Add("d/e/\nd/f\nabs>/d\nup>../../d\nd/e/back>..", "abs/../up/e/back/f")
	f.Add("a>b\nb>a", "a")
	f.Add("a>/\nb>a/a/a/c\nc/", "b/x/..")
	f.Add("r>../r2\nr2>.\nx", "r/r/r2/../x")
	f.Fuzz(func(t *testing.T, lines, name string) {
		if strings.Contains(name, "\x00") || len(name) > 1000 || name == "" {
			t.Skip()
		}
		dir := t.TempDir()
		m := grown(t, dir, lines)
		got, err := Resolve(m, name, true)
		if err == nil && got != Clean(got) {
			t.Fatalf("%q resolves to %q, which is no path", name, got)
		}
		root, oerr := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
		if oerr != nil {
			t.Fatal(oerr)
		}
		defer unix.Close(root)
		fd, kerr := unix.Openat2(root, name, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
		if errors.Is(kerr, unix.ENOSYS) {
			t.Skip("needs openat2")
		}
		if (kerr == unix.ELOOP) != errors.Is(err, ErrLoop) && (kerr == nil || kerr == unix.ELOOP) {
			t.Fatalf("%q: %v, the kernel says %v", name, err, kerr)
		}
		if kerr != nil {
			return // what does not exist is where it would be made: nothing to compare
		}
		defer unix.Close(fd)
		at, rerr := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
		if rerr != nil {
			t.Fatal(rerr)
		}
		base, rerr := os.Readlink("/proc/self/fd/" + strconv.Itoa(root))
		if rerr != nil {
			t.Fatal(rerr)
		}
		if want := Clean(strings.TrimPrefix(at, base)); err != nil || got != want {
			t.Errorf("%q resolves to %q, %v; the kernel says %q", name, got, err, want)
		}
	})
}
