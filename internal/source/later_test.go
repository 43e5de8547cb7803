package source

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/digest"
)

// lateTree has enough small files that they may wait, and one of each that may not.
func lateTree(t *testing.T) string {
	files := map[string]string{"large": string(make([]byte, largestLater)), "one": "linked"}
	for i := range fewestLater {
		files[fmt.Sprintf("d%d/f%d", i%3, i)] = fmt.Sprint("content ", i)
	}
	dir := makeTree(t, t.TempDir(), files)
	if err := os.Link(filepath.Join(dir, "one"), filepath.Join(dir, "other")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func hasRead(c *Context, path string) bool {
	e, err := c.Lstat(path)
	if err != nil {
		return false
	}
	_, ok := c.known(&e)
	return ok
}

func TestSmallFilesOfAFolderNeverSeenAreReadOnce(t *testing.T) {
	dir, cache := lateTree(t), filepath.Join(t.TempDir(), "cache")
	o := Options{Later: true, CacheFile: cache, PutCache: replaceFile(cache), Now: hourLater}
	c := open(t, dir, o)
	scan(t, c, ".")
	for path, want := range map[string]bool{"large": true, "one": true, "other": true, "d0/f0": false, "d1/f1": false} {
		if got := hasRead(c, path); got != want {
			t.Errorf("%s: read by the scan: %t", path, got)
		}
	}
	// Who loads a file has its digest told.
	l := c.Loader()
	defer l.Close()
	data := make([]byte, len("content 0"))
	if err := l.Load("d0/f0", data); err != nil || string(data) != "content 0" {
		t.Fatalf("%q, %v", data, err)
	}
	if !hasRead(c, "d0/f0") || digestOf(t, c, "d0/f0") != digest.Of(data) {
		t.Error("d0/f0: what was loaded has no digest, or another")
	}
	if !c.Unread() {
		t.Error("nothing is unread after one of many was loaded")
	}
	if err := c.ReadRest(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c.Unread() || !hasRead(c, "d1/f1") || digestOf(t, c, "d2/f500") != digest.Of([]byte("content 500")) {
		t.Error("something is unread after ReadRest")
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	// The next one knows them from the stat cache, both that was loaded and the rest.
	c = open(t, dir, o)
	scan(t, c, ".")
	for _, path := range []string{"d0/f0", "d1/f1", "large"} {
		if !hasRead(c, path) {
			t.Errorf("%s: is not in the stat cache", path)
		}
	}
}

// Whoever has read a folder before, and a folder of a few files, is read by the scan.
func TestWhatIsLeftForLaterIsWorthIt(t *testing.T) {
	few := makeTree(t, t.TempDir(), map[string]string{"a": "a", "b": "b"})
	c := open(t, few, Options{Later: true})
	scan(t, c, ".")
	if c.Unread() || !hasRead(c, "a") {
		t.Error("two files are left unread")
	}
	dir := lateTree(t)
	c = open(t, dir, Options{})
	scan(t, c, ".")
	if c.Unread() || !hasRead(c, "d0/f0") {
		t.Error("files are left unread without Later")
	}
	cache := filepath.Join(t.TempDir(), "cache")
	plant(t, dir, cache, hourLater)
	if err := os.WriteFile(filepath.Join(dir, "d0/f0"), []byte("changed"), 0o644); err != nil {
		t.Fatal(err)
	}
	c = open(t, dir, Options{Later: true, CacheFile: cache, PutCache: replaceFile(cache), Now: hourLater})
	scan(t, c, ".")
	if c.Unread() || digestOf(t, c, "d0/f0") != digest.Of([]byte("changed")) {
		t.Error("a folder that is known is left unread")
	}
}

func TestAFileThatChangesBeforeItIsReadIsSeenAsItIs(t *testing.T) {
	dir := lateTree(t)
	c := open(t, dir, Options{Later: true})
	scan(t, c, ".")
	if err := os.WriteFile(filepath.Join(dir, "d0/f0"), []byte("changed since"), 0o644); err != nil {
		t.Fatal(err)
	}
	l := c.Loader()
	defer l.Close()
	if err := l.Load("d0/f0", make([]byte, len("content 0"))); !errors.Is(err, ErrChanged) {
		t.Errorf("loading what is longer now: %v", err)
	}
	if hasRead(c, "d0/f0") {
		t.Error("what changed has a digest")
	}
	if n := c.Moved(); n != 0 {
		t.Errorf("%d files have moved before any was read again", n)
	}
	if err := c.ReadRest(t.Context()); err != nil {
		t.Fatal(err)
	}
	if e := lstat(t, c, "d0/f0"); e.Size != int64(len("changed since")) || digestOf(t, c, "d0/f0") != digest.Of([]byte("changed since")) {
		t.Errorf("%d bytes", e.Size)
	}
	if n := c.Moved(); n != 1 {
		t.Errorf("%d files have moved", n)
	}
	// Who has planned with what was listed first does not get a part of it.
	if err := l.Load("d0/f0", make([]byte, len("content 0"))); !errors.Is(err, ErrChanged) {
		t.Errorf("loading it by its old length: %v", err)
	}
}

// Attributes are part of an entry before its content is read, and they go to the scan.
func TestAFileWithAttributesDoesNotWait(t *testing.T) {
	dir := lateTree(t)
	if err := unix.Setxattr(filepath.Join(dir, "d0/f0"), "user.a", []byte("b"), 0); err != nil {
		t.Skipf("needs a file system with user xattrs: %v", err)
	}
	c := open(t, dir, Options{Later: true})
	scan(t, c, ".")
	if !hasRead(c, "d0/f0") || hasRead(c, "d1/f1") {
		t.Error("a file with attributes is left unread, or one without is not")
	}
	if e := lstat(t, c, "d0/f0"); e.Xattrs["user.a"] != "b" {
		t.Errorf("attributes %q", e.Xattrs)
	}
}

// A file that this user may not read is told by the scan, before anything runs.
func TestAnUnreadableFileDoesNotWait(t *testing.T) {
	if os.Geteuid() == 0 {
		return // root may read everything: there is no such file
	}
	dir := lateTree(t)
	if err := os.Chmod(filepath.Join(dir, "d0/f0"), 0); err != nil {
		t.Fatal(err)
	}
	c := open(t, dir, Options{Later: true})
	if err := c.Scan(t.Context(), []Part{{Path: "."}}); !errors.Is(err, os.ErrPermission) {
		t.Errorf("%v", err)
	}
}

// The two ways to ask for attributes tell the same, of a link too, whose own they are.
func TestAttributesAreListedTheSameWithAndWithoutTheNewCall(t *testing.T) {
	dir := makeTree(t, t.TempDir(), map[string]string{"plain": "x", "with": "y", "link": "->with"})
	if err := unix.Setxattr(filepath.Join(dir, "with"), "user.note", []byte("n"), 0); err != nil {
		t.Skipf("needs a file system with user xattrs: %v", err)
	}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for name, want := range map[string]string{"plain": "", "with": "user.note\x00", "link": ""} {
		for _, l := range []*lister{{}, {oldKernel: true}} {
			buf := make([]byte, 512)
			n, err := l.listXattrs(fd, name, buf)
			if got := string(buf[:max(n, 0)]); err != nil || got != want {
				t.Errorf("%s, by the old call %t: %q, %v", name, l.oldKernel, got, err)
			}
		}
	}
	if _, err := (&lister{}).listXattrs(fd, "missing", make([]byte, 512)); err != unix.ENOENT {
		t.Errorf("of nothing: %v", err)
	}
}
