package cachemount

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/fsroot"
	"github.com/whittle-build/whittle/internal/image/manifest"
)

// rig is a cache and an export of it.
type rig struct {
	t       *testing.T
	dir, to string
	src     *Source
	held    int
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, dir: filepath.Join(t.TempDir(), "cache"), to: filepath.Join(t.TempDir(), "out")}
	check(t, os.Mkdir(r.dir, 0o755))
	r.src = &Source{Identity: Identity{ID: "/cache"}}
	r.src.Hold = func(context.Context) (string, func() error, error) {
		r.held++
		return r.dir, func() error { return nil }, nil
	}
	r.src.SetNote = func(b []byte) error { r.src.Note = b; return nil }
	return r
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (r *rig) write(name, content string) {
	r.t.Helper()
	p := filepath.Join(r.dir, name)
	check(r.t, os.MkdirAll(filepath.Dir(p), 0o755))
	check(r.t, os.WriteFile(p, []byte(content), 0o644))
}

func (r *rig) export() Exported {
	r.t.Helper()
	done, err := Export(r.t.Context(), r.to, []*Source{r.src})
	check(r.t, err)
	return done
}

// settle waits until what was written is older than the grain of the clock.
func settle() { time.Sleep(3 * grain) }

// unpack imports the export and returns the folder that it makes.
func (r *rig) unpack() (string, error) {
	r.t.Helper()
	in, err := OpenImport(r.t.Context(), r.to, nil)
	if err != nil {
		return "", err
	}
	defer in.Close()
	if len(in.Caches) != 1 {
		r.t.Fatalf("%d caches", len(in.Caches))
	}
	dir := filepath.Join(r.t.TempDir(), "imported")
	_, _, err = in.Caches[0].Unpack(r.t.Context(), dir)
	return dir, err
}

// blobs are the names and sizes of what lies in the export.
func (r *rig) blobs() map[string]int64 {
	r.t.Helper()
	out := map[string]int64{}
	check(r.t, filepath.WalkDir(r.to, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			var i fs.FileInfo
			i, err = d.Info()
			out[strings.TrimPrefix(p, r.to+"/")] = i.Size()
		}
		return err
	}))
	return out
}

// describe lists all that is kept of a tree.
func describeTree(t *testing.T, dir string) string {
	t.Helper()
	root, err := fsroot.Open(dir)
	check(t, err)
	defer root.Close()
	var b strings.Builder
	names := map[uint64]string{}
	check(t, entry.Walk(root.FS(), ".", func(e entry.Entry) error {
		fmt.Fprintf(&b, "%q %v %o %d:%d %d.%d %q", e.Path, e.Kind, e.Mode, e.UID, e.GID, e.Mtime.Sec, e.Mtime.Nsec, e.Link)
		for _, n := range slices.Sorted(maps.Keys(e.Xattrs)) {
			fmt.Fprintf(&b, " %s=%q", n, e.Xattrs[n])
		}
		if e.Inode != 0 && names[e.Inode] == "" {
			names[e.Inode] = e.Path
		}
		fmt.Fprintf(&b, " %s", names[e.Inode])
		if e.Kind == entry.File {
			text, err := os.ReadFile(filepath.Join(dir, e.Path))
			fmt.Fprintf(&b, " %v %v", digest.Of(text).Short(), err)
		}
		b.WriteByte('\n')
		return nil
	}))
	return b.String()
}

func random(seed byte, n int) string {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return string(b)
}

func TestWhatIsImportedIsWhatWasExported(t *testing.T) {
	r := newRig(t)
	r.write("a/small", "text")
	r.write("a/empty", "")
	r.write("not\xffutf8/\xfe", "x")
	r.write("large", random(1, 9<<20))
	r.write("zeros", strings.Repeat("\x00", 5<<20))
	r.write("z/again", "text")
	check(t, os.Link(filepath.Join(r.dir, "a/small"), filepath.Join(r.dir, "linked")))
	check(t, os.Symlink("../../etc/passwd", filepath.Join(r.dir, "a/link")))
	check(t, os.Symlink("\xff", filepath.Join(r.dir, "odd")))
	check(t, os.Chmod(filepath.Join(r.dir, "a/small"), 0o4751))
	check(t, unix.Setxattr(filepath.Join(r.dir, "large"), "user.note", []byte("\x00\xff"), 0))
	check(t, unix.Setxattr(filepath.Join(r.dir, "large"), "user.overlay.opaque", []byte("y"), 0))
	check(t, unix.Mkfifo(filepath.Join(r.dir, "pipe"), 0o644))
	if os.Getuid() == 0 {
		check(t, os.Lchown(filepath.Join(r.dir, "a/link"), 7, 8))
		check(t, os.Chown(filepath.Join(r.dir, "a"), 1000, 1001))
		check(t, os.Chown(r.dir, 5, 6))
	}
	old := time.Unix(1000000000, 123456789)
	for _, n := range []string{"a/small", "large", "a", "not\xffutf8"} {
		check(t, os.Chtimes(filepath.Join(r.dir, n), old, old))
	}
	check(t, os.Chmod(filepath.Join(r.dir, "a"), 0o555)) // as Go's module cache has them
	check(t, os.Chmod(r.dir, 0o1700))
	done := r.export()
	if done.LeftOut != 1 || done.Files != 13 || done.Caches != 1 {
		t.Errorf("%+v", done)
	}
	dir, err := r.unpack()
	t.Cleanup(func() { // so that who is not root can remove it
		os.Chmod(filepath.Join(r.dir, "a"), 0o755)
		os.Chmod(filepath.Join(dir, "a"), 0o755)
	})
	check(t, err)
	check(t, os.Remove(filepath.Join(r.dir, "pipe")))
	check(t, unix.Removexattr(filepath.Join(r.dir, "large"), "user.overlay.opaque"))
	info, err := os.Lstat(dir)
	check(t, err)
	check(t, os.Chtimes(r.dir, info.ModTime(), info.ModTime())) // the removal of the pipe has changed it
	if got, want := describeTree(t, dir), describeTree(t, r.dir); got != want {
		t.Errorf("imported\n%s\nexported\n%s", got, want)
	}
}

func TestAnExportIntoTheSameFolderWritesOnlyWhatChanged(t *testing.T) {
	r := newRig(t)
	for i := range 400 {
		r.write(fmt.Sprintf("%02x/%d", i%16, i), random(byte(i), 64<<10)+fmt.Sprint(i))
	}
	settle()
	first := r.export()
	if first.Read != first.Bytes || first.Written != first.Stored {
		t.Errorf("the first: %+v", first)
	}
	before := r.blobs()
	again := r.export()
	if again.Written != 0 || again.Read != 0 || !maps.Equal(before, r.blobs()) {
		t.Errorf("nothing has changed: %+v", again)
	}
	r.write("07/new", random(9, 1000)+"new")
	check(t, os.Remove(filepath.Join(r.dir, "00/0")))
	settle()
	next := r.export()
	if next.Written > 200<<10 || next.Read > 2000 {
		t.Errorf("one file of 400 is new: %+v", next)
	}
	for name, size := range before {
		if now, ok := r.blobs()[name]; ok && now != size && name != manifest.IndexFile {
			t.Errorf("%s has changed", name)
		}
	}
	dir, err := r.unpack()
	check(t, err)
	if got, want := describeTree(t, dir), describeTree(t, r.dir); got != want {
		t.Error("it is another tree")
	}
	// What is mostly dead is written anew, and goes.
	for i := range 400 {
		if i%4 != 0 {
			os.Remove(filepath.Join(r.dir, fmt.Sprintf("%02x/%d", i%16, i)))
		}
	}
	last := r.export()
	if last.Stored > last.Bytes*3/2 {
		t.Errorf("dead pieces stay: %+v", last)
	}
	var all int64
	for name, size := range r.blobs() {
		if strings.HasPrefix(name, blobs) {
			all += size
		}
	}
	if all != last.Stored {
		t.Errorf("%d bytes of blobs lie there, want %d", all, last.Stored)
	}
}

func TestSmallPacksAreMadeOneWhenTheyAreMany(t *testing.T) {
	r := newRig(t)
	for i := range 30 {
		r.write(fmt.Sprint(i), random(byte(i), 100))
		r.export()
	}
	if n := len(r.blobs()); n > fewSmall+6 {
		t.Errorf("%d files after 30 exports", n)
	}
	dir, err := r.unpack()
	check(t, err)
	if got, want := describeTree(t, dir), describeTree(t, r.dir); got != want {
		t.Error("it is another tree")
	}
}

func TestAChangeInALargeFileIsAFewPieces(t *testing.T) {
	r := newRig(t)
	text := random(1, 40<<20)
	r.write("large", text)
	r.export()
	r.write("large", text[:20<<20]+"put in"+text[20<<20:])
	done := r.export()
	if done.Written > 3*maxPiece {
		t.Errorf("six bytes in 40 MB: %+v", done)
	}
	dir, err := r.unpack()
	check(t, err)
	if got, want := describeTree(t, dir), describeTree(t, r.dir); got != want {
		t.Error("it is another tree")
	}
}

// A change that keeps size and mtime is seen: unpacking an archive of fixed
// times over an older one makes such.
func TestAChangeThatSizeAndTimeDoNotTellIsSeen(t *testing.T) {
	r := newRig(t)
	old := time.Unix(500000000, 0)
	r.write("f", "version 1")
	check(t, os.Chtimes(filepath.Join(r.dir, "f"), old, old))
	settle()
	r.export()
	r.export()
	r.write("f", "version 2")
	check(t, os.Chtimes(filepath.Join(r.dir, "f"), old, old))
	r.export()
	dir, err := r.unpack()
	check(t, err)
	if b, _ := os.ReadFile(filepath.Join(dir, "f")); string(b) != "version 2" {
		t.Errorf("the import has %q", b)
	}
}

// What was imported is exported again without being read, and what a step
// changes afterwards is read.
func TestAnImportedCacheIsKnownToTheNextExport(t *testing.T) {
	r := newRig(t)
	r.write("a", "one")
	r.write("b", "two")
	r.export()
	in, err := OpenImport(t.Context(), r.to, nil)
	check(t, err)
	dir := filepath.Join(t.TempDir(), "imported")
	note, lacking, err := in.Caches[0].Unpack(t.Context(), dir)
	in.Close()
	if err != nil || lacking != 0 {
		t.Fatal(lacking, err)
	}
	r.dir, r.src.Note = dir, note
	if done := r.export(); done.Read != 0 || done.Written != 0 {
		t.Errorf("untouched: %+v", done)
	}
	b, err := os.Stat(filepath.Join(dir, "b"))
	check(t, err)
	check(t, os.WriteFile(filepath.Join(dir, "b"), []byte("new"), 0o644))
	check(t, os.Chtimes(filepath.Join(dir, "b"), b.ModTime(), b.ModTime()))
	if done := r.export(); done.Read != 3 {
		t.Errorf("one of two written to: %+v", done)
	}
}

// An export never holds a cache for long: between two slices others may have
// it, and what they write then is exported as of the last moment.
func TestAnExportGivesWayAndIsTheStateOfOneMoment(t *testing.T) {
	r := newRig(t)
	for i := range 40 {
		r.write(fmt.Sprint(i), random(byte(i), 1<<20))
	}
	dirty := 0
	r.src.Hold = func(context.Context) (string, func() error, error) {
		r.held++
		return r.dir, func() error {
			if dirty == 2 {
				return nil
			}
			dirty++
			var errs []error
			for _, n := range []string{"0", "39"} {
				errs = append(errs, os.WriteFile(filepath.Join(r.dir, n), []byte(fmt.Sprint("state ", dirty)), 0o644))
			}
			return errors.Join(errs...)
		}, nil
	}
	_, err := export(t.Context(), r.to, []*Source{r.src}, time.Millisecond)
	check(t, err)
	if r.held < 4 {
		t.Errorf("40 MB were read in %d slices of a millisecond", r.held)
	}
	dir, err := r.unpack()
	check(t, err)
	for _, n := range []string{"0", "39"} {
		if b, _ := os.ReadFile(filepath.Join(dir, n)); string(b) != "state 2" {
			t.Errorf("%s is %.20q", n, b)
		}
	}
}

// A crash leaves the older export whole, or the new one, and the next export
// leaves nothing else.
func TestACrashLeavesTheOlderExportWhole(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "exportcrash")
	if out, err := exec.Command("go", "build", "-tags", "crashpoints", "-o", bin, "./testdata/exportcrash").CombinedOutput(); err != nil {
		t.Fatalf("building the helper: %v\n%s", err, out)
	}
	for point, want := range map[string]string{"cachemount.blobs": "old", "cachemount.committed": "new"} {
		r := newRig(t)
		r.write("f", "old")
		r.export()
		check(t, os.Remove(filepath.Join(r.dir, "f")))
		r.write("f", "new")
		cmd := exec.Command(bin, r.dir, r.to)
		cmd.Env = append(os.Environ(), "WHITTLE_CRASH="+point)
		if out, err := cmd.CombinedOutput(); err == nil || cmd.ProcessState.ExitCode() != -1 {
			t.Fatalf("%s: the helper was not killed: %v\n%s", point, err, out)
		}
		crashed := len(r.blobs())
		dir, err := r.unpack()
		check(t, err)
		if b, _ := os.ReadFile(filepath.Join(dir, "f")); string(b) != want {
			t.Errorf("%s: the export has %q, want %q", point, b, want)
		}
		r.export()
		if n := len(r.blobs()); n >= crashed || n != 6 {
			t.Errorf("%s: %d files after the crash, %d after the next export", point, crashed, n)
		}
	}
}

func TestAFolderOfOtherThingsIsNotTouched(t *testing.T) {
	r := newRig(t)
	r.write("f", "x")
	for name, files := range map[string]map[string]string{
		"files":  {"mine": "x"},
		"layout": {"oci-layout": "{}", "index.json": `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`, "blobs/sha256/" + strings.Repeat("0", 64): "mine"},
	} {
		r.to = filepath.Join(t.TempDir(), name)
		for n, text := range files {
			p := filepath.Join(r.to, n)
			check(t, os.MkdirAll(filepath.Dir(p), 0o755))
			check(t, os.WriteFile(p, []byte(text), 0o644))
		}
		var foreign *ForeignError
		if _, err := Export(t.Context(), r.to, []*Source{r.src}); !errors.As(err, &foreign) || foreign.Hint() == "" {
			t.Errorf("%s: export: %v", name, err)
		}
		if _, err := OpenImport(t.Context(), r.to, nil); !errors.As(err, &foreign) {
			t.Errorf("%s: import: %v", name, err)
		}
		if left := r.blobs(); len(left) != len(files) {
			t.Errorf("%s: left %v", name, left)
		}
	}
}

func TestNamesAreTheSameEverywhereAndTellCachesApart(t *testing.T) {
	seen := map[digest.Digest]int{}
	for i, id := range []Identity{
		{ID: "a"}, {ID: "b"}, {ID: "a", Owner: "755 0:0"}, {ID: "a", Seeded: true}, {ID: "a", Seeded: true, Seed: digest.Of(nil)},
	} {
		if other, ok := seen[id.Name()]; ok {
			t.Errorf("%d and %d have one name", i, other)
		}
		seen[id.Name()] = i
		b, err := json.Marshal(id)
		check(t, err)
		var back Identity
		check(t, json.Unmarshal(b, &back))
		if back.Name() != id.Name() {
			t.Errorf("%s: another name when it is read again", b)
		}
	}
	if got := (Identity{ID: "/root/.cache"}).Name().Short(); got != "12bc02cdd230" {
		t.Errorf("the name of a cache is another one than it was in stores of before: %s", got)
	}
	if (Identity{ID: "a", From: "x"}).Name() != (Identity{ID: "a"}).Name() {
		t.Error("what is for people is in the name")
	}
}

func TestPiecesEndWhereTheContentSays(t *testing.T) {
	text := []byte(random(3, 30<<20))
	split := func(b []byte) (out []digest.Digest) {
		check(t, pieces(bytes.NewReader(b), make([]byte, maxPiece), func(p []byte) error {
			if len(p) > maxPiece {
				t.Fatalf("a piece of %d bytes", len(p))
			}
			out = append(out, digest.Of(p))
			return nil
		}))
		return out
	}
	a := split(text)
	if len(a) < 10 || len(a) > 60 {
		t.Errorf("30 MB are %d pieces", len(a))
	}
	known := map[digest.Digest]bool{}
	for _, d := range a {
		known[d] = true
	}
	anew := 0
	for _, d := range split(append([]byte("in front"), text...)) {
		if !known[d] {
			anew++
		}
	}
	if anew > 2 {
		t.Errorf("%d pieces are new with 8 bytes in front", anew)
	}
	if n := len(split(text[:whole])); n != 1 {
		t.Errorf("a file of %d bytes is %d pieces", whole, n)
	}
}
