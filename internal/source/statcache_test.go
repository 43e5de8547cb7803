package source

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/digest"
)

func hourLater() time.Time { return time.Now().Add(time.Hour) }

// plant scans dir and saves a cache in which every digest is false, so that
// a test can see what is answered from the cache.
func plant(t testing.TB, dir, cache string, now func() time.Time) digest.Digest {
	t.Helper()
	c := open(t, dir, Options{CacheFile: cache, PutCache: replaceFile(cache), Now: now})
	scan(t, c, ".")
	lie := digest.Of([]byte("a lie"))
	var set func(n *node)
	set = func(n *node) {
		n.digest = lie
		if n.isDir() {
			for _, k := range n.extra.kids {
				set(k)
			}
		}
	}
	set(c.tree)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	return lie
}

func TestTheCacheAnswersForUnchangedFilesOnly(t *testing.T) {
	tests := map[string]struct {
		change func(file string) error
		cached bool
	}{
		"nothing":        {func(string) error { return nil }, true},
		"read":           {func(f string) error { _, err := os.ReadFile(f); return err }, true},
		"touched":        {func(f string) error { return os.Chtimes(f, time.Time{}, time.Unix(1, 0)) }, false},
		"same bytes":     {func(f string) error { return os.WriteFile(f, []byte("abc"), 0o644) }, false},
		"chmod":          {func(f string) error { return os.Chmod(f, 0o600) }, false},
		"longer":         {func(f string) error { return os.WriteFile(f, []byte("abcd"), 0o644) }, false},
		"mtime put back": {rewriteKeepingMtime, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir := makeTree(t, t.TempDir(), map[string]string{"d/f": "abc"})
			cache := filepath.Join(t.TempDir(), "new", "cache")
			lie := plant(t, dir, cache, hourLater)
			file := filepath.Join(dir, "d/f")
			time.Sleep(20 * time.Millisecond) // past the grain of the file system's clock
			if err := tt.change(file); err != nil {
				t.Fatal(err)
			}
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			want := digest.Of(content)
			if tt.cached {
				want = lie
			}
			scanned := open(t, dir, Options{CacheFile: cache, PutCache: replaceFile(cache)})
			scan(t, scanned, ".")
			if got := digestOf(t, scanned, "d/f"); got != want {
				t.Errorf("scanned: got %v, want %v", got, want)
			}
			if got := digestOf(t, open(t, dir, Options{CacheFile: cache, PutCache: replaceFile(cache)}), "d/f"); got != want {
				t.Errorf("asked: got %v, want %v", got, want)
			}
		})
	}
}

func rewriteKeepingMtime(f string) error {
	st, err := os.Stat(f)
	if err != nil {
		return err
	}
	if err := os.WriteFile(f, []byte("xyz"), 0o644); err != nil {
		return err
	}
	return os.Chtimes(f, time.Time{}, st.ModTime())
}

func TestYoungFilesAreNotTrusted(t *testing.T) {
	at := func(sec int64, nsec int) time.Time { return time.Unix(sec, int64(nsec)) }
	const ms = int(time.Millisecond)
	tests := map[string]struct {
		ctime, start time.Time
		want         bool
	}{
		"in the same tick":                     {at(100, 5*ms+1), at(100, 5*ms+1), false},
		"a tick later":                         {at(100, 5*ms+1), at(100, 15*ms), false},
		"well after":                           {at(100, 5*ms+1), at(100, 60*ms), true},
		"from the future":                      {at(200, 1), at(100, 0), false},
		"whole seconds, one later":             {at(100, 0), at(101, 0), false},
		"whole seconds, three later":           {at(100, 0), at(103, 0), true},
		"hundredths (exFAT), half a second on": {at(100, 250*ms), at(100, 750*ms), false},
	}
	for name, tt := range tests {
		n := &node{csec: tt.ctime.Unix(), cnsec: uint32(tt.ctime.Nanosecond())}
		if got := trusted(n, tt.start) != 0; got != tt.want {
			t.Errorf("%s: got %v", name, got)
		}
	}
}

func TestAScanRightAfterAWriteSavesNothing(t *testing.T) {
	dir := makeTree(t, t.TempDir(), map[string]string{"f": "abc"})
	cache := filepath.Join(t.TempDir(), "cache")
	now := time.Now()
	c := open(t, dir, Options{CacheFile: cache, PutCache: replaceFile(cache), Now: func() time.Time { return now }})
	scan(t, c, ".")
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(cache); !os.IsNotExist(err) {
		t.Errorf("a cache was saved: %v", err)
	}
}

func TestAnUnchangedContextDoesNotRewriteItsCache(t *testing.T) {
	dir := makeTree(t, t.TempDir(), map[string]string{"f": "abc"})
	cache := filepath.Join(t.TempDir(), "cache")
	plant(t, dir, cache, hourLater)
	before, _ := os.Stat(cache)
	c := open(t, dir, Options{CacheFile: cache, PutCache: replaceFile(cache), Now: hourLater})
	scan(t, c, ".")
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(cache)
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("the cache was replaced (%v)", err)
	}
}

func TestPartsThatWereNotLookedAtStayCached(t *testing.T) {
	dir := makeTree(t, t.TempDir(), map[string]string{
		"a/1": "1", "a/2": "2", "b/c/3": "3", "b/4": "4", "gone/5": "5", "ignored/6": "6",
	})
	cache := filepath.Join(t.TempDir(), "cache")
	plant(t, dir, cache, hourLater)
	if err := os.RemoveAll(filepath.Join(dir, "gone")); err != nil {
		t.Fatal(err)
	}
	makeTree(t, dir, map[string]string{"a/1": "new", "a/0": "new"})
	c := open(t, dir, Options{CacheFile: cache, PutCache: replaceFile(cache), Now: hourLater, Ignore: []string{"ignored"}})
	scan(t, c, "a/1", "a/0", "*.none")
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	var got []string
	for dir, block := range loadStatCache(cache) {
		r := reader{b: block}
		for rec, ok := r.record(); ok; rec, ok = r.record() {
			got = append(got, dir+"/"+string(rec.name))
		}
	}
	slices.Sort(got)
	if want := "a/0 a/1 a/2 b/4 b/c/3 ignored/6"; strings.Join(got, " ") != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestADamagedCacheIsEmpty(t *testing.T) {
	dir := makeTree(t, t.TempDir(), map[string]string{"f": "abc", "d/g": "def"})
	cache := filepath.Join(t.TempDir(), "cache")
	plant(t, dir, cache, hourLater)
	good, err := os.ReadFile(cache)
	if err != nil {
		t.Fatal(err)
	}
	if c := parseStatCache(good); len(c) != 2 {
		t.Fatalf("the undamaged cache has %d directories", len(c))
	}
	for i := range good {
		if c := parseStatCache(good[:i]); c != nil {
			t.Errorf("cut at %d: %v", i, c)
		}
		bad := bytes.Clone(good)
		bad[i] ^= 0x40
		if c := parseStatCache(bad); c != nil {
			t.Errorf("flipped at %d: %v", i, c)
		}
	}
	if err := os.WriteFile(cache, good[:len(good)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	c := open(t, dir, Options{CacheFile: cache, PutCache: replaceFile(cache), Now: hourLater})
	scan(t, c, ".")
	if got := digestOf(t, c, "f"); got != digest.Of([]byte("abc")) {
		t.Errorf("got %v", got)
	}
	if err := c.Close(); err != nil || len(loadStatCache(cache)) != 2 {
		t.Errorf("the cache was not made anew: %v", err)
	}
}

func TestManyMaySaveAtOnce(t *testing.T) {
	dir := makeTree(t, t.TempDir(), map[string]string{"a/f": "1", "b/g": "2"})
	store := t.TempDir()
	cache := filepath.Join(store, "cache")
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			c, err := OpenFolder(dir, Options{CacheFile: cache, PutCache: replaceFile(cache), Now: hourLater})
			if err != nil {
				t.Error(err)
				return
			}
			if err := c.Scan(t.Context(), []Part{{Path: []string{"a", "b"}[i%2]}}); err != nil {
				t.Error(err)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if loadStatCache(cache) == nil {
		t.Error("no good cache is left")
	}
	if left, _ := filepath.Glob(filepath.Join(store, "*")); len(left) != 1 {
		t.Errorf("left behind: %q", left)
	}
}

func FuzzStatCacheBlock(f *testing.F) {
	n := &node{size: 3, ino: 4, mode: 0o100644, msec: -5, csec: 6, extra: &extra{xattrs: map[string]string{"user.a": "b"}}}
	f.Add(appendRecord(appendRecord(nil, "a", n), "b", &node{}))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := reader{b: b}
		for rec, ok := r.record(); ok; rec, ok = r.record() {
			again := reader{b: appendRecord(nil, string(rec.name), &rec.node)}
			same, ok := again.record()
			if !ok || string(same.name) != string(rec.name) || !same.unchangedSince(&rec.node) || same.digest != rec.digest {
				t.Fatalf("record %+v came back as %+v", rec, same)
			}
		}
	})
}

func TestAnImageMountedInTheContextIsNotTrusted(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: to mount")
	}
	mkfs, err := exec.LookPath("mkfs.erofs")
	if err != nil {
		t.Skip("needs mkfs.erofs")
	}
	dir := makeTree(t, t.TempDir(), map[string]string{"vendor/.keep": ""})
	cache := filepath.Join(t.TempDir(), "cache")
	mnt := filepath.Join(dir, "vendor")
	for _, text := range []string{"one", "two"} {
		// The same numbers and times each time: only what is in it differs.
		img := filepath.Join(t.TempDir(), text)
		tree := makeTree(t, t.TempDir(), map[string]string{"f": text})
		if out, err := exec.Command(mkfs, "-T", "1000000000", "--all-root", img, tree).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if err := unix.Mount(img, mnt, "erofs", unix.MS_RDONLY, ""); err != nil {
			t.Skipf("needs a kernel that mounts EROFS from files: %v", err)
		}
		c, err := OpenFolder(dir, Options{CacheFile: cache, PutCache: replaceFile(cache), Now: hourLater})
		if err != nil {
			t.Fatal(err)
		}
		got := digestOf(t, c, "vendor/f")
		err = errors.Join(c.Close(), unix.Unmount(mnt, 0))
		if err != nil {
			t.Fatal(err)
		}
		if want := digest.Of([]byte(text)); got != want {
			t.Errorf("%q has the digest of something else", text)
		}
	}
}

// What is written of a directory is written in the memory of the one before.
func TestTheCacheIsWrittenWithLittleGarbage(t *testing.T) {
	const folders = 200
	dir := t.TempDir()
	for i := range folders {
		sub := filepath.Join(dir, strconv.Itoa(i))
		if err := os.Mkdir(sub, 0o755); err != nil {
			t.Fatal(err)
		}
		for k := range 10 {
			if err := os.WriteFile(filepath.Join(sub, strconv.Itoa(k)), []byte("content"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	c := open(t, dir, Options{Now: hourLater})
	scan(t, c, ".")
	var size int
	made := testing.AllocsPerRun(5, func() {
		var out bytes.Buffer
		out.Grow(1 << 20)
		if err := c.writeCache(&out); err != nil {
			t.Fatal(err)
		}
		size = out.Len()
	})
	if size < folders*10*(len(digest.Digest{})) || made > 2*folders {
		t.Errorf("%d bytes with %.0f allocations for %d folders", size, made, folders)
	}
}
