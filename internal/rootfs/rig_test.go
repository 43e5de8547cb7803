package rootfs

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/fsroot"
	"github.com/whittle-build/whittle/internal/layer"
	"github.com/whittle-build/whittle/internal/sandbox"
	"github.com/whittle-build/whittle/internal/store"
)

func TestMain(m *testing.M) {
	sandbox.MaybeInit()
	// A user's builds run in a user namespace, and so do a user's tests.
	if os.Geteuid() != 0 {
		if code, err := sandbox.ReexecInUserNS(nil); err == nil {
			os.Exit(code)
		}
	}
	os.Exit(m.Run())
}

// inUserNS says which sort of overlay attributes this process can write.
func inUserNS(t testing.TB) bool {
	t.Helper()
	b, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(strings.Fields(string(b)), " ") != "0 0 4294967295"
}

// rig is a store with roots on it.
type rig struct {
	t     testing.TB
	store *store.Store
	*Roots
}

func newRig(t testing.TB, p Provider) *rig {
	t.Helper()
	s, err := store.Open(filepath.Join(t.TempDir(), "store"), store.Options{Owner: store.Owner{Kind: "root"}})
	if err != nil {
		t.Fatal(err)
	}
	user := inUserNS(t)
	if _, err := Choose(s.Dir(), string(p), user, nil); err != nil {
		t.Skipf("needs the %s provider: %v", p, err)
	}
	r := &rig{t, s, New(s, func() (Provider, error) { return p, nil }, user)}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// file is an entry with its content.
type file struct {
	entry.Entry
	text string
}

func dir(path string, mode, owner uint32) file {
	return file{entry.Entry{Path: path, Kind: entry.Dir, Mode: mode, UID: owner, GID: owner, Mtime: entry.Time{Sec: 1e9}}, ""}
}

func text(path, s string) file {
	return file{entry.Entry{Path: path, Mode: 0o644, Size: int64(len(s)), Mtime: entry.Time{Sec: 1e9}}, s}
}

func gone(path string) file {
	return file{entry.Entry{Path: path, Kind: entry.Whiteout}, ""}
}

func opaque(f file) file {
	f.Opaque = true
	return f
}

// tar commits a layer in tar form.
func (r *rig) tar(files ...file) digest.Digest {
	r.t.Helper()
	tmp, err := r.store.Temp("test")
	if err != nil {
		r.t.Fatal(err)
	}
	b, err := layer.Create(tmp.Path)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range files {
		if err := b.Add(f.Entry, strings.NewReader(f.text)); err != nil {
			r.t.Fatal(err)
		}
	}
	meta, err := b.Finish()
	if err != nil {
		r.t.Fatal(err)
	}
	return r.commit(tmp, meta.DiffID)
}

// tree commits a layer in tree form.
func (r *rig) tree(name string, files ...file) digest.Digest {
	r.t.Helper()
	tmp, err := r.store.Temp("test")
	if err != nil {
		r.t.Fatal(err)
	}
	b, err := layer.NewTree(filepath.Join(tmp.Path, layer.TreeName), layer.UnpackOptions{Userxattr: r.UserNS()})
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range files {
		if err := b.Add(f.Entry, strings.NewReader(f.text)); err != nil {
			r.t.Fatal(err)
		}
	}
	if _, err := b.Finish(); err != nil {
		r.t.Fatal(err)
	}
	return r.commit(tmp, digest.Of([]byte(name)))
}

func (r *rig) commit(tmp *store.Temp, id digest.Digest) digest.Digest {
	r.t.Helper()
	if err := r.store.CommitLayer(tmp, id); err != nil {
		r.t.Fatal(err)
	}
	return id
}

// mounted mounts chain with an upper until the test ends.
func (r *rig) mounted(chain Chain) (*os.File, Upper) {
	r.t.Helper()
	up := r.upper()
	m, err := r.Mount(r.t.Context(), chain, &up)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { m.Close() })
	return m, up
}

func (r *rig) upper() Upper {
	r.t.Helper()
	// Below tmp/, where steps have theirs.
	tmp, err := r.store.Temp("test")
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { tmp.Remove() })
	up := Upper{Dir: filepath.Join(tmp.Path, "tree"), Work: filepath.Join(tmp.Path, "work"), Volatile: true}
	for _, d := range []string{up.Dir, up.Work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			r.t.Fatal(err)
		}
	}
	return up
}

// at is the file system at a mount.
func at(t testing.TB, m *os.File) entry.FS {
	t.Helper()
	fd, err := unix.Openat(int(m.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	root := fsroot.FromFd(os.NewFile(uintptr(fd), "root"))
	t.Cleanup(func() { root.Close() })
	return root.FS()
}

// lines describes a whole file system, one line a file.
func lines(t testing.TB, fsys entry.FS) []string {
	t.Helper()
	var out []string
	groups := map[uint64]string{}
	err := entry.Walk(fsys, ".", func(e entry.Entry) error {
		line := fmt.Sprintf("%s %s %o %d:%d %d", e.Path, e.Kind, e.Mode, e.UID, e.GID, e.Mtime.Sec)
		for n, v := range e.Xattrs {
			if !strings.Contains(n, ".overlay.") {
				line += fmt.Sprintf(" %s=%q", n, v)
			}
		}
		if e.Inode != 0 {
			if groups[e.Inode] == "" {
				groups[e.Inode] = e.Path
			}
			line += " link of " + groups[e.Inode]
		}
		switch e.Kind {
		case entry.Symlink:
			line += " -> " + e.Link
		case entry.File:
			f, err := fsys.Open(e.Path)
			if err != nil {
				return err
			}
			defer f.Close()
			b, err := io.ReadAll(f)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %q", b)
		}
		out = append(out, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func diff(t testing.TB, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// everyWay runs a test with each provider and each way to mount.
func everyWay(t *testing.T, run func(t *testing.T, r *rig)) {
	for _, p := range []Provider{Erofs, Tree} {
		for _, old := range []bool{false, true} {
			name := string(p)
			if old {
				name += " with mount(2)"
			}
			t.Run(name, func(t *testing.T) {
				needRoot(t)
				r := newRig(t, p)
				r.old.Store(old)
				run(t, r)
			})
		}
	}
}
