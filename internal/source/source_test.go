package source

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/entry"
)

var (
	_ entry.FS       = (*Context)(nil)
	_ entry.Digester = (*Context)(nil)
)

func lstat(t testing.TB, c *Context, path string) entry.Entry {
	t.Helper()
	e, err := c.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func scan(t testing.TB, c *Context, paths ...string) {
	t.Helper()
	var all []Part
	for _, p := range paths {
		all = append(all, Part{Path: p})
	}
	if err := c.Scan(t.Context(), all); err != nil {
		t.Fatal(err)
	}
}

// digestOf is the digest that c tells for path.
func digestOf(t testing.TB, c *Context, path string) digest.Digest {
	t.Helper()
	d, err := c.FileDigest(lstat(t, c, path))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestEntriesDescribeEveryKindOfFile(t *testing.T) {
	dir := makeTree(t, t.TempDir(), map[string]string{
		"file": "content", "d/inner": "x", "link": "->/etc/passwd", "dangling": "->../../nowhere",
		"new\nline": "n", "bad\xffutf8": "u",
	})
	p := func(name string) string { return filepath.Join(dir, name) }
	when := time.Unix(1234567890, 123456789)
	err := errors.Join(
		os.Link(p("file"), p("d/twin")),
		unix.Mkfifo(p("fifo"), 0o600),
		unix.Mknod(p("sock"), unix.S_IFSOCK|0o600, 0),
		unix.Chmod(p("file"), 0o4755),
		unix.Chmod(p("d"), 0o1777),
		os.Chtimes(p("file"), when, when),
	)
	if err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 {
		if err := errors.Join(os.Chown(p("file"), 7, 8), os.Chmod(p("file"), 0o755|os.ModeSetuid)); err != nil {
			t.Fatal(err)
		}
	}
	for _, scanFirst := range []bool{false, true} {
		c := open(t, dir, Options{})
		if scanFirst {
			scan(t, c, ".")
		}
		file := lstat(t, c, "file")
		want := entry.Entry{Path: "file", Kind: entry.File, Mode: 0o4755, Size: 7, Inode: file.Inode,
			Mtime: entry.Time{Sec: 1234567890, Nsec: 123456789}}
		if file.Inode == 0 || file.Kind != want.Kind || file.Mode != want.Mode || file.Size != want.Size ||
			file.Mtime != want.Mtime || file.UID != 0 || file.GID != 0 || file.Xattrs != nil {
			t.Errorf("file: got %+v, want %+v", file, want)
		}
		if twin := lstat(t, c, "d/twin"); twin.Inode != file.Inode {
			t.Errorf("twin: inode %d, file %d", twin.Inode, file.Inode)
		}
		if one := lstat(t, c, "d/inner"); one.Inode != 0 {
			t.Errorf("a file with one name has inode %d", one.Inode)
		}
		if d := lstat(t, c, "d"); d.Kind != entry.Dir || d.Mode != 0o1777 || d.Size != 0 {
			t.Errorf("d: %+v", d)
		}
		if l := lstat(t, c, "link"); l.Kind != entry.Symlink || l.Link != "/etc/passwd" {
			t.Errorf("link: %+v", l)
		}
		if l := lstat(t, c, "dangling"); l.Link != "../../nowhere" {
			t.Errorf("dangling: %+v", l)
		}
		if k := lstat(t, c, "fifo").Kind; k != entry.Fifo {
			t.Errorf("fifo is a %v", k)
		}
		if k := lstat(t, c, "sock").Kind; k != entry.Socket {
			t.Errorf("sock is a %v", k)
		}
		for name, content := range map[string]string{"new\nline": "n", "bad\xffutf8": "u", "d/twin": "content"} {
			if got := digestOf(t, c, name); got != digest.Of([]byte(content)) {
				t.Errorf("digest of %q: %v", name, got)
			}
		}
	}
}

func TestNothingOutsideIsReached(t *testing.T) {
	dir := makeTree(t, t.TempDir(), map[string]string{
		"secret": "s", "ctx/up": "->..", "ctx/abs": "->" + "/etc", "ctx/file": "->../secret", "ctx/ok": "x",
	})
	c := open(t, filepath.Join(dir, "ctx"), Options{})
	scan(t, c, ".", "up/secret", "file", "abs/*", "../secret")
	for _, p := range []string{"up/secret", "abs/passwd", "file/x", "../secret", "/etc/passwd", "", "ok/", "ok/x", "./ok", "up/../ok"} {
		if _, err := c.Lstat(p); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("lstat %q: %v", p, err)
		}
	}
	for _, p := range []string{"file", "up", "abs"} {
		if f, err := c.OpenFile(p); err == nil {
			f.Close()
			t.Errorf("%s was opened", p)
		}
	}
}

func TestOpenRefusesWhatIsNotTheScannedFile(t *testing.T) {
	tests := map[string]func(file string) error{
		"other content": func(f string) error { return os.WriteFile(f, []byte("longer than before"), 0o644) },
		"another file": func(f string) error {
			return errors.Join(os.WriteFile(f+"2", []byte("123"), 0o644), os.Rename(f+"2", f))
		},
		"a symlink":   func(f string) error { return errors.Join(os.Remove(f), os.Symlink("/etc/hostname", f)) },
		"a fifo":      func(f string) error { return errors.Join(os.Remove(f), unix.Mkfifo(f, 0o644)) },
		"a directory": func(f string) error { return errors.Join(os.Remove(f), os.Mkdir(f, 0o755)) },
		"nothing":     os.Remove,
		"a folder that became a link": func(f string) error {
			d := filepath.Dir(f)
			return errors.Join(os.Rename(d, d+"-real"), os.Symlink(d+"-real", d))
		},
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			dir := makeTree(t, t.TempDir(), map[string]string{"d/f": "abc"})
			c := open(t, dir, Options{})
			scan(t, c, ".")
			if err := change(filepath.Join(dir, "d/f")); err != nil {
				t.Fatal(err)
			}
			f, err := c.OpenFile("d/f")
			if err == nil {
				f.Close()
				t.Fatal("it was opened")
			}
			if !strings.Contains(err.Error(), "d/f") {
				t.Errorf("the error does not name the file: %v", err)
			}
		})
	}
}

func TestVerifySeesAWriteAfterOpen(t *testing.T) {
	dir := makeTree(t, t.TempDir(), map[string]string{"f": "abc"})
	c := open(t, dir, Options{})
	scan(t, c, ".")
	f, err := c.OpenFile("f")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if b, err := io.ReadAll(f); string(b) != "abc" || err != nil {
		t.Errorf("read %q, %v", b, err)
	}
	if err := c.Verify("f", f); err != nil {
		t.Error(err)
	}
	for _, text := range []string{"abd", "abdc", "ab", "abd more"} {
		makeTree(t, dir, map[string]string{"f": text})
		if err := c.Verify("f", f); !errors.Is(err, ErrChanged) {
			t.Errorf("%q: got %v", text, err)
		}
	}
}

func TestAFileThatGrowsIsWhatItWasAtTheScan(t *testing.T) {
	dir := makeTree(t, t.TempDir(), map[string]string{"log": ""})
	f, err := os.OpenFile(filepath.Join(dir, "log"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(64 << 20); err != nil { // takes a while to read
		t.Fatal(err)
	}
	stop, begun := make(chan struct{}), make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		f.WriteString("more\n")
		close(begun)
		for {
			select {
			case <-stop:
				return
			default:
				f.WriteString("more\n")
			}
		}
	})
	<-begun
	c := open(t, dir, Options{})
	err = c.Scan(t.Context(), []Part{{Path: "."}})
	close(stop)
	writer.Wait()
	if err != nil {
		t.Fatal(err)
	}
	e, err := c.Lstat("log")
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.FileDigest(e)
	if err != nil {
		t.Fatal(err)
	}
	in, err := c.OpenFile("log")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, io.LimitReader(in, e.Size)); err != nil || [32]byte(sum.Sum(nil)) != got {
		t.Errorf("what is read is not what was hashed: %v", err)
	}
	if err := c.Verify("log", in); err != nil {
		t.Error(err)
	}
	if st, err := in.Stat(); err != nil || st.Size() == e.Size {
		t.Errorf("the file did not grow: %v, %v", st, err)
	}
	if c.tree.kid("log").flags&isTrusted != 0 {
		t.Error("the digest of a file that grew would go to the stat cache")
	}
}

func TestAnUnreadableFileIsNamedWhenItIsNeeded(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("needs not to be root: root can read every file")
	}
	dir := makeTree(t, t.TempDir(), map[string]string{"key": "k", "other": "o"})
	os.Chmod(filepath.Join(dir, "key"), 0)
	c := open(t, dir, Options{})
	scan(t, c, "other")
	if _, err := c.ReadDir("."); err != nil {
		t.Errorf("listing: %v", err)
	}
	if err := c.Scan(t.Context(), []Part{{Path: "."}}); !errors.Is(err, os.ErrPermission) || !strings.Contains(err.Error(), "key") {
		t.Errorf("got %v", err)
	}
}

func TestWhatMayNotBeReadIsNamedWithAWayOut(t *testing.T) {
	for name, tt := range map[string]struct {
		err       error
		msg, hint string
	}{
		"a file":      {pathError("open", "d/secret", unix.EACCES), "d/secret: in the build context, and not readable: permission denied", ".dockerignore"},
		"the context": {rootError("/ctx", unix.EACCES), "/ctx: the build context, and not readable: permission denied", "chmod"},
		"another":     {pathError("open", "d/secret", unix.EIO), "open d/secret: input/output error", ""},
	} {
		got := ""
		var h interface{ Hint() string }
		if errors.As(tt.err, &h) {
			got = h.Hint()
		}
		if tt.err.Error() != tt.msg || !strings.Contains(got, tt.hint) || (got == "") != (tt.hint == "") {
			t.Errorf("%s: %v, hint %q; want %s, hint %q", name, tt.err, got, tt.msg, tt.hint)
		}
	}
}

func TestScanReadsOnlyWhatIsNamed(t *testing.T) {
	tree := map[string]string{
		"a.go": "1", "b.go": "2", "c.txt": "3", "src/x.go": "4", "src/deep/y.go": "5", "lib/z.go": "6",
		"lnk": "->src/deep", "loop": "->loop", "[x]": "7",
	}
	tests := map[string]struct{ paths, want string }{
		"all":                     {".", "[x] a.go b.go c.txt lib/z.go src/deep/y.go src/x.go"},
		"a file":                  {"a.go", "a.go"},
		"a slash in front":        {"/a.go", "a.go"},
		"above the root":          {"../../a.go", "a.go"},
		"a directory":             {"src/", "src/deep/y.go src/x.go"},
		"a wildcard":              {"*.go", "a.go b.go"},
		"a wildcard directory":    {"*/x.go", "src/x.go"},
		"a wildcard for all":      {"l*", "lib/z.go src/deep/y.go"},
		"two levels":              {"s*/d*", "src/deep/y.go"},
		"any depth":               {"src/**/y.go", "src/deep/y.go src/x.go"},
		"through a link":          {"lnk/y.go", "src/deep/y.go"},
		"a link at the end":       {"lnk", "src/deep/y.go"},
		"a wildcard below a link": {"lnk/*", "src/deep/y.go"},
		"a quoted bracket":        {"[[]x]", "[x]"},
		"what is not there":       {"nope a.go/x nope/*", ""},
		"a loop":                  {"loop loop/x loop/*", ""},
	}
	dir := makeTree(t, t.TempDir(), tree)
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := open(t, dir, Options{})
			scan(t, c, strings.Fields(tt.paths)...)
			var got []string
			for p := range tree {
				if n, _ := c.find(p); n != nil && n.flags&hasDigest != 0 {
					got = append(got, p)
				}
			}
			slices.Sort(got)
			if strings.Join(got, " ") != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestPartsThatOverlapAreScannedOnce(t *testing.T) {
	n := &node{}
	var got []string
	for _, j := range apart([]job{{path: "a/b", n: n}, {path: "a", n: n}, {path: "c", n: n}, {path: "a/b/d", n: n}, {path: "c", n: n}, {path: "ab", n: n}}) {
		got = append(got, j.path)
	}
	if want := "a c ab"; strings.Join(got, " ") != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := apart([]job{{path: "a", n: n}, {path: ".", n: n}, {path: ".", n: n}}); len(got) != 1 || got[0].path != "." {
		t.Errorf("got %v", got)
	}
}

func TestAfterScanTheDiskIsNotAsked(t *testing.T) {
	dir := makeTree(t, t.TempDir(), map[string]string{"a/b/f": "1", "a/g": "2", "h": "3"})
	c := open(t, dir, Options{})
	scan(t, c, ".")
	want := paths(t, c)
	d := digestOf(t, c, "a/b/f")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if got := paths(t, c); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if digestOf(t, c, "a/b/f") != d {
		t.Error("another digest")
	}
	if _, err := c.Lstat("a/none"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestSizeIsThatOfTheClassicBuildersTar(t *testing.T) {
	dir := makeTree(t, t.TempDir(), map[string]string{
		"Dockerfile": strings.Repeat("x", 300), // 512 + 512
		"main.go":    strings.Repeat("x", 513), // 512 + 1024
		"d/link":     "->x",                    // 512 + 512
		"empty":      "",                       // 512
	})
	if err := os.Link(filepath.Join(dir, "main.go"), filepath.Join(dir, "z")); err != nil { // 512
		t.Fatal(err)
	}
	c := open(t, dir, Options{})
	scan(t, c, ".")
	scan(t, c, ".", "d")
	if got, want := c.Size(), int64(9*512+1024); got != want || c.Files() != 5 {
		t.Errorf("size %d, %d files; want %d, 5", got, c.Files(), want)
	}
}

// A name that is long, or not ASCII, has a record of its own, of two blocks here. What is known
// from the stat cache counts as much, and what is scanned twice counts once.
func TestSizeOfNamesThatNeedARecord(t *testing.T) {
	long := strings.Repeat("l", 90)
	dir := makeTree(t, t.TempDir(), map[string]string{
		long + "/123456789":  "",  // 512 + 512 for the folder and a path of 100 bytes
		long + "/1234567890": "",  // 512 + 1024
		"ä":                  "",  // 512 + 1024
		"ö/f":                "",  // 512 + 1024, twice
		"plain":              "x", // 512 + 512
	})
	cache := filepath.Join(t.TempDir(), "cache")
	later := func() time.Time { return time.Now().Add(time.Hour) }
	for range 2 {
		c := open(t, dir, Options{CacheFile: cache, PutCache: replaceFile(cache), Now: later})
		scan(t, c, ".")
		scan(t, c, ".")
		if got, want := c.Size(), int64(8*512+4*1024+1024); got != want || c.Files() != 5 {
			t.Errorf("size %d, %d files; want %d, 5", got, c.Files(), want)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestXattrsThatTravelAreKept(t *testing.T) {
	dir := makeTree(t, t.TempDir(), map[string]string{"f": "x", "d/g": "y"})
	set := func(name, attr, value string) {
		if err := unix.Setxattr(filepath.Join(dir, name), attr, []byte(value), 0); err != nil {
			t.Skipf("needs a file system with user xattrs: %v", err)
		}
	}
	set("f", "user.note", "n")
	set("f", "user.overlay.opaque", "y")
	set("d", "user.dir", "")
	cache := filepath.Join(t.TempDir(), "cache")
	for _, round := range []string{"read", "from the cache"} {
		c := open(t, dir, Options{CacheFile: cache, PutCache: replaceFile(cache), Now: hourLater})
		scan(t, c, ".")
		if x := lstat(t, c, "f").Xattrs; len(x) != 1 || x["user.note"] != "n" {
			t.Errorf("%s: f has %q", round, x)
		}
		if x, ok := lstat(t, c, "d").Xattrs["user.dir"]; !ok || x != "" {
			t.Errorf("%s: d has %q", round, lstat(t, c, "d").Xattrs)
		}
		c.Close()
	}
	if x := lstat(t, open(t, dir, Options{}), "f").Xattrs; len(x) != 1 {
		t.Errorf("without Scan: f has %q", x)
	}
}

func TestDeepAndLongPathsAreReached(t *testing.T) {
	dir := t.TempDir()
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	name := strings.Repeat("n", 200)
	for range 30 { // 6000 bytes: beyond PATH_MAX
		if err := unix.Mkdirat(fd, name, 0o755); err != nil {
			t.Fatal(err)
		}
		next, err := unix.Openat(fd, name, unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
		fd = next
	}
	f, err := unix.Openat(fd, "f", unix.O_CREAT|unix.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	unix.Write(f, []byte("deep"))
	unix.Close(f)
	unix.Close(fd)
	c := open(t, dir, Options{})
	scan(t, c, ".")
	if got := digestOf(t, c, strings.Repeat(name+"/", 30)+"f"); got != digest.Of([]byte("deep")) {
		t.Errorf("got %v", got)
	}
}

func TestScanStopsWhenItsContextEnds(t *testing.T) {
	dir := makeTree(t, t.TempDir(), map[string]string{"a/f": "1"})
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	if err := open(t, dir, Options{}).Scan(ctx, []Part{{Path: "."}}); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
}

func TestManyGoroutinesMayAskAtOnce(t *testing.T) {
	dir := oracleTree(t)
	c := open(t, dir, Options{Ignore: []string{"*", "!a/**/*.c", "!b"}})
	want := refShown([]string{"*", "!a/**/*.c", "!b"}, paths(t, open(t, dir, Options{})))
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			if i%4 == 0 {
				if err := c.Scan(t.Context(), []Part{{Path: "a", Exclude: []string{"x"}}, {Path: "*/b"}}); err != nil {
					t.Error(err)
				}
			}
			if got := paths(t, c); !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
	all.Wait()
}

// interrupted does something when it is asked for the nth time.
type interrupted struct {
	context.Context
	asked, nth int
	do         func()
}

func (c *interrupted) Err() error {
	if c.asked++; c.asked == c.nth {
		c.do()
	}
	return nil
}

func TestAnAttributeThatComesWhileAFileIsReadIsNotLost(t *testing.T) {
	dir := makeTree(t, t.TempDir(), map[string]string{"f": "hello"})
	c := open(t, dir, Options{Now: hourLater})
	n, err := c.get("open", "f")
	if err != nil {
		t.Fatal(err)
	}
	ctx := &interrupted{Context: t.Context(), nth: 2, do: func() {
		if err := unix.Setxattr(filepath.Join(dir, "f"), "user.a", []byte("1"), 0); err != nil {
			t.Skip("needs user attributes: ", err)
		}
	}}
	if err := newHasher(c).file(ctx, "f", n); err != nil {
		t.Fatal(err)
	}
	if ctx.asked < ctx.nth {
		t.Fatal("nothing was done")
	}
	if got := n.entry("f").Xattrs["user.a"]; got != "1" {
		t.Errorf("attribute %q", got)
	}
}

func TestALeasedFileIsWaitedForWithoutSpinning(t *testing.T) {
	dir := makeTree(t, t.TempDir(), map[string]string{"f": "x"})
	f, err := os.OpenFile(filepath.Join(dir, "f"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_WRLCK); err != nil {
		t.Skip("needs leases: ", err)
	}
	returned := make(chan struct{})
	go func() {
		time.Sleep(300 * time.Millisecond)
		unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_UNLCK)
		close(returned)
	}()
	c := open(t, dir, Options{})
	digestOf(t, c, "f")
	select {
	case <-returned:
	default:
		t.Error("the file was read before its lease was given back")
	}
}

func TestAScanHashesWhatPatternsLetThrough(t *testing.T) {
	dir := makeTree(t, t.TempDir(), map[string]string{
		"a/x.go": "1", "a/x.c": "2", "a/skip/y.go": "3", "a/d/e/z.go": "4", "b/x.go": "5", "top.go": "6",
	})
	tests := []struct {
		parts []Part
		files int
	}{
		{[]Part{{Path: "."}}, 6},
		{[]Part{{Path: ".", Exclude: []string{"**/*.c", "a/skip"}}}, 4},
		{[]Part{{Path: ".", Exclude: []string{"a", "!a/d"}}}, 3},
		{[]Part{{Path: "a", Exclude: []string{"skip"}}}, 3},
		{[]Part{{Path: "/a", Include: []string{"**/*.go"}}}, 3},
		{[]Part{{Path: "/", Include: []string{"a/d"}}}, 1},
		{[]Part{{Path: "/", Include: []string{"*/x.*"}, Exclude: []string{"b"}}}, 2},
		{[]Part{{Path: "?", Include: []string{"x.go"}}}, 2},
		{[]Part{{Path: ".", Exclude: []string{"a"}}, {Path: "a/skip"}}, 6}, // one part in another: all of it
		{[]Part{{Path: "a", Exclude: []string{"skip"}}, {Path: "b"}}, 4},
		{[]Part{{Path: "a/x.c", Exclude: []string{"x.c"}}}, 1}, // patterns are about directories
	}
	for _, tt := range tests {
		c := open(t, dir, Options{})
		if err := c.Scan(t.Context(), tt.parts); err != nil {
			t.Fatal(err)
		}
		if c.Files() != tt.files {
			t.Errorf("%+v: %d files, want %d", tt.parts, c.Files(), tt.files)
		}
	}
	if err := open(t, dir, Options{}).Scan(t.Context(), []Part{{Path: ".", Exclude: []string{"a["}}}); err == nil {
		t.Error("a bad pattern was taken")
	}
}
