package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/ulikunitz/xz"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/entry"
)

var nsecRE = regexp.MustCompile(`(?m)( -?\d+)\.\d+`)

// seconds drops what tars written here do not keep.
func seconds(s string) string { return nsecRE.ReplaceAllString(s, "$1") }

// compressed returns b in all the forms that Import takes.
func compressed(t *testing.T, b []byte) map[string][]byte {
	t.Helper()
	out := map[string][]byte{"plain": b}
	for _, alg := range []string{Gzip, Zstd} {
		var z bytes.Buffer
		if err := Compress(&z, bytes.NewReader(b), alg, 0); err != nil {
			t.Fatal(err)
		}
		out[alg] = z.Bytes()
	}
	var z bytes.Buffer
	w, err := xz.NewWriter(&z)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(b)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	out["xz"] = z.Bytes()
	// A skippable frame before the data, as some tools of zstd write.
	out["zstd with a skippable frame"] = append([]byte{0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4}, out[Zstd]...)
	if bz, err := exec.LookPath("bzip2"); err == nil {
		cmd := exec.Command(bz, "-c")
		cmd.Stdin = bytes.NewReader(b)
		if out["bzip2"], err = cmd.Output(); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func TestTheDiffIDIsThatOfThePlainBytesWhateverTheCompression(t *testing.T) {
	plain := makeTar(t, folder("d"), regular("d/f"))
	// What follows the end of the archive counts, as it does elsewhere.
	plain = append(plain, make([]byte, 10240)...)
	for name, b := range compressed(t, plain) {
		dir, m := importBytes(t, b)
		if m.DiffID != digest.Of(plain) || m.TarSize != int64(len(plain)) {
			t.Errorf("%s: %+v", name, m)
		}
		kept, err := os.ReadFile(filepath.Join(dir, TarName))
		if err != nil || !bytes.Equal(kept, plain) {
			t.Errorf("%s: the tar was changed (%v)", name, err)
		}
		if got := paths(t, openTar(t, dir)); got != "d/ d/f" {
			t.Errorf("%s: layer has %s", name, got)
		}
		if !SniffArchive(bytes.NewReader(b)) {
			t.Errorf("%s: not seen to be an archive", name)
		}
	}
}

func TestAnArchiveMayBeginWithExtendedHeaders(t *testing.T) {
	h := regular(strings.Repeat("long/", 100) + "name")
	h.PAXRecords = map[string]string{"comment": strings.Repeat("c", 5000)}
	b := makeTar(t, tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "commit"}}, h)
	if !SniffArchive(bytes.NewReader(b)) || !SniffArchive(bytes.NewReader(b[:3000])) || !SniffArchive(bytes.NewReader(gzipped(t, b))) {
		t.Error("not seen to be an archive")
	}
	if _, m := importBytes(t, b); m.Entries != 101 {
		t.Errorf("%+v", m)
	}
}

func TestCompressionThatIsNoneIsRefused(t *testing.T) {
	for _, c := range []struct {
		alg   string
		level int
	}{{"lzma", 0}, {"", 0}, {Gzip, 42}} {
		if err := Compress(io.Discard, strings.NewReader("x"), c.alg, c.level); err == nil {
			t.Errorf("%q at level %d was taken", c.alg, c.level)
		}
	}
}

func TestCompressedBytesAreTheSameEachTime(t *testing.T) {
	text := bytes.Repeat([]byte("some text that is longer than a block of a compressor "), 100000)
	for _, alg := range []string{Gzip, Zstd, None} {
		for _, level := range []int{0, 1, 9} {
			var a, b bytes.Buffer
			if err := Compress(&a, bytes.NewReader(text), alg, level); err != nil {
				t.Fatal(err)
			}
			if err := Compress(&b, iotest.HalfReader(bytes.NewReader(text)), alg, level); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(a.Bytes(), b.Bytes()) {
				t.Errorf("%s at level %d differs", alg, level)
			}
			r, found, err := Decompress(&a)
			if err != nil || found != alg {
				t.Fatalf("%s found as %s (%v)", alg, found, err)
			}
			got, err := io.ReadAll(r)
			if err != nil || !bytes.Equal(got, text) {
				t.Errorf("%s at level %d: %d bytes come back (%v)", alg, level, len(got), err)
			}
		}
	}
}

func TestOtherFilesAreNoArchives(t *testing.T) {
	for name, b := range map[string][]byte{
		"empty": {}, "text": []byte(strings.Repeat("hello\n", 1000)), "zeros": make([]byte, 512),
		"many zeros": make([]byte, 1<<20), "gzip of text": gzipped(t, []byte(strings.Repeat("hello\n", 1000))),
		"broken gzip": []byte("\x1f\x8b\x08garbage"),
	} {
		if SniffArchive(bytes.NewReader(b)) {
			t.Errorf("%s is taken for an archive", name)
		}
	}
	zeros := make([]byte, 10240) // an archive without entries
	if SniffArchive(bytes.NewReader(zeros)) {
		t.Error("ADD would unpack an archive without entries")
	}
	if !SniffPacked(zeros) || SniffPacked(zeros[:512]) {
		t.Error("an archive without entries is told by two blocks of zeros")
	}
}

func gzipped(t *testing.T, b []byte) []byte {
	t.Helper()
	var z bytes.Buffer
	if err := Compress(&z, bytes.NewReader(b), Gzip, 0); err != nil {
		t.Fatal(err)
	}
	return z.Bytes()
}

func TestBrokenStreamsAreErrorsAndLeaveNothing(t *testing.T) {
	plain := makeTar(t, folder("d"), tar.Header{Name: "d/f", Uname: strings.Repeat("x", 5000)})
	broken := map[string]io.Reader{
		"a reader that fails": io.MultiReader(bytes.NewReader(plain[:700]), iotest.ErrReader(errors.New("gone"))),
		"half a file":         bytes.NewReader(plain[:2000]),
		"half a header":       bytes.NewReader(plain[:300]),
		"a bad checksum":      bytes.NewReader(append([]byte("x"), plain[1:]...)),
	}
	for name, b := range compressed(t, plain) {
		if name != "plain" {
			broken["half of "+name] = bytes.NewReader(b[:len(b)/2])
		}
	}
	for name, r := range broken {
		dir := filepath.Join(t.TempDir(), "layer")
		if m, err := Import(t.Context(), dir, r, nil); err == nil {
			t.Errorf("%s: taken as %+v", name, m)
		}
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Errorf("%s: left %v", name, left)
		}
	}
}

func TestACancelledImportEnds(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	_, err := Import(ctx, filepath.Join(t.TempDir(), "l"), bytes.NewReader(makeTar(t, regular("a"))), nil)
	if err == nil || err.Error() != "enough" {
		t.Errorf("error %v", err)
	}
}

func TestBoundsOfALayer(t *testing.T) {
	attrs := func(n, size int) map[string]string {
		m := map[string]string{}
		for i := range n {
			m[fmt.Sprintf("SCHILY.xattr.user.%d", i)] = strings.Repeat("v", size)
		}
		return m
	}
	for name, h := range map[string]tar.Header{
		"a long name":           {Name: strings.Repeat("n", 256)},
		"a long path":           {Name: strings.Repeat("abcdefgh/", 500) + "x"},
		"a long link":           {Name: "l", Typeflag: tar.TypeSymlink, Linkname: strings.Repeat("x/", 3000)},
		"an empty link":         {Name: "l", Typeflag: tar.TypeSymlink},
		"large attributes":      {Name: "f", PAXRecords: attrs(1, 70000)},
		"many large attributes": {Name: "f", PAXRecords: attrs(40, 2000)},
		"a huge owner":          {Name: "f", Uid: 1 << 32},
		"a huge device":         {Name: "f", Typeflag: tar.TypeChar, Devmajor: 1 << 13, Devminor: 1},
		"an unknown type":       {Name: "f", Typeflag: 'V'},
	} {
		t.Run(name, func(t *testing.T) {
			b := makeTar(t, h)
			if h.Typeflag == 'V' {
				b[156] = 'V'
			}
			if _, err := Import(t.Context(), filepath.Join(t.TempDir(), "l"), bytes.NewReader(b), nil); err == nil {
				t.Error("was taken")
			}
		})
	}
}

func TestAttributesAndLinksOfALayerAreBoundedTogether(t *testing.T) {
	for name, add := range map[string]func(tb *table, i int) error{
		"attributes": func(tb *table, i int) error {
			_, err := tb.attrSet(map[string]string{"user.a": strings.Repeat("v", 60000) + fmt.Sprint(i)})
			return err
		},
		"links": func(tb *table, i int) error {
			_, err := tb.inodeOf(&entry.Entry{Path: fmt.Sprint(i), Kind: entry.Symlink, Link: strings.Repeat("l", 4000)})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			tb := newTable()
			var err error
			for i := 0; err == nil && i < 20000; i++ {
				err = add(tb, i)
			}
			if !errors.Is(err, ErrBound) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// askForMore raises the dictionary that the first block of an xz stream asks
// for, to 1.5 GiB.
func askForMore(stream []byte) {
	h := stream[12:] // after the stream's header: size, flags, filter, CRC
	size := (int(h[0]) + 1) * 4
	h[bytes.IndexByte(h[2:size], 0x21)+4] = 37
	le.PutUint32(h[size-4:], crc32.ChecksumIEEE(h[:size-4]))
}

func TestEveryDictionaryOfAnXzFileIsBounded(t *testing.T) {
	var one bytes.Buffer
	w, err := xz.NewWriter(&one)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(make([]byte, 1000))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	greedy := bytes.Clone(one.Bytes())
	askForMore(greedy)
	for name, in := range map[string][]byte{
		"in the first stream":  greedy,
		"in the second stream": append(one.Bytes(), greedy...),
	} {
		t.Run(name, func(t *testing.T) {
			r, _, err := Decompress(bytes.NewReader(in))
			if err == nil {
				_, err = io.Copy(io.Discard, r)
			}
			if !errors.Is(err, ErrBound) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestAStreamThatGrowsTooMuchIsStopped(t *testing.T) {
	in := &counter{}
	in.n.Store(1000)
	b := &bounded{r: zeros{}, in: in, n: freeGrowth - 10}
	if _, err := b.Read(make([]byte, 5)); err != nil {
		t.Errorf("below the bound: %v", err)
	}
	if _, err := b.Read(make([]byte, 50)); !errors.Is(err, ErrBound) {
		t.Errorf("above the bound: %v", err)
	}
	in.n.Store(freeGrowth / 100)
	if _, err := b.Read(make([]byte, 50)); err != nil {
		t.Errorf("a stream that is large but not dense: %v", err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// A later entry of a tar replaces an earlier one, as when it is unpacked.
func TestTheLastEntryOfANameWins(t *testing.T) {
	runAttacks(t, map[string]attack{
		"file twice":              {headers: []tar.Header{regular("a"), regular("a")}, want: "a"},
		"file, then folder":       {headers: []tar.Header{regular("a"), folder("a"), regular("a/b")}, want: "a/ a/b"},
		"folder, then file":       {headers: []tar.Header{folder("a"), regular("a/b"), regular("a")}, want: "a"},
		"folder twice keeps":      {headers: []tar.Header{folder("a"), regular("a/b"), folder("a")}, want: "a/ a/b"},
		"link's source replaced":  {headers: []tar.Header{regular("a"), hardlink("b", "a"), folder("a")}, want: "a/ b"},
		"link over its source":    {headers: []tar.Header{regular("a"), hardlink("b", "a"), hardlink("a", "b")}, want: "a b"},
		"folder, then deletion":   {headers: []tar.Header{folder("a"), regular("a/.wh.b"), regular("a/b")}, want: "a/ a/b"},
		"deleted folder replaced": {headers: []tar.Header{regular("a/.wh.b"), symlink("a", "c")}, want: "a->c"},
	})
}

func TestImpliedFoldersAreThoseOfTheLayersBelow(t *testing.T) {
	below := entry.NewMem()
	below.Add(entry.Entry{Path: ".", Kind: entry.Dir, Mode: 0o700, UID: 9}, "")
	below.Add(entry.Entry{Path: "srv", Kind: entry.Dir, Mode: 0o2750, UID: 33, GID: 44, Mtime: entry.Time{Sec: 5}, Xattrs: map[string]string{"user.a": "b"}}, "")
	below.Add(entry.Entry{Path: "srv/data", Kind: entry.Dir, Mode: 0o1777, UID: 1}, "")
	below.Add(entry.Entry{Path: "lnk", Kind: entry.Symlink, Link: "srv"}, "")
	b := makeTar(t, regular("srv/data/new/f"), regular("lnk/data/f"))
	dir := filepath.Join(t.TempDir(), "l")
	m, err := Import(t.Context(), dir, bytes.NewReader(b), nil)
	if err != nil || !m.Implied {
		t.Fatalf("%+v %v", m, err)
	}
	if err := Reindex(dir, below, "index-below"); err != nil {
		t.Fatal(err)
	}
	if err := Verify(dir); err != nil {
		t.Error(err)
	}
	v, err := OpenTar(dir, "index-below")
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	for p, want := range map[string]string{
		".": "700 9", "srv": "2750 33", "srv/data": "1777 1", "srv/data/new": "755 0", "lnk": "755 0", "lnk/data": "755 0",
	} {
		e, err := v.Lstat(p)
		if got := fmt.Sprintf("%o %d", e.Mode, e.UID); err != nil || got != want {
			t.Errorf("%s is %s (%v), want %s", p, got, err, want)
		}
	}
	if e, _ := v.Lstat("srv"); e.Xattrs["user.a"] != "b" || e.Mtime.Sec != 5 {
		t.Errorf("srv is %+v", e)
	}
	at := filepath.Join(t.TempDir(), "l")
	if _, err := Import(t.Context(), at, bytes.NewReader(b), below); err != nil {
		t.Fatal(err)
	}
	diff(t, "imported over the layers below", dump(t, openTar(t, at)), dump(t, v))
}

func TestALayerWithAllItsFoldersImpliesNothing(t *testing.T) {
	_, m := importBytes(t, makeTar(t, folder("a"), regular("a/b"), folder("a/c")))
	if m.Implied {
		t.Error("says that it implies folders")
	}
	_, m = importBytes(t, makeTar(t, regular("a/b"), folder("a")))
	if m.Implied {
		t.Error("says that it implies a folder whose entry comes late")
	}
}

func TestAnArchiveKeepsNamesThatLookLikeDeletions(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "l")
	b := makeTar(t, regular(".wh.a"), regular(".wh..wh..opq"), regular("d/.wh.x"))
	if _, _, err := ImportArchive(t.Context(), dir, bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
	const want = ".wh..wh..opq .wh.a d/ d/.wh.x"
	if got := paths(t, openTar(t, dir)); got != want {
		t.Errorf("has %q, want %q", got, want)
	}
	if err := Reindex(dir, nil, "index-2"); err != nil {
		t.Fatal(err)
	}
	v, err := OpenTar(dir, "index-2")
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	if got := paths(t, v); got != want {
		t.Errorf("indexed again it has %q, want %q", got, want)
	}
}

func TestTimesKeepTheirNanosecondsAndMayBeBefore1970(t *testing.T) {
	at := time.Unix(-77, 123456789)
	h := regular("f")
	h.ModTime, h.Format = at, tar.FormatPAX
	dir, _ := importBytes(t, makeTar(t, h))
	e, err := openTar(t, dir).Lstat("f")
	if err != nil || e.Mtime != (entry.Time{Sec: -77, Nsec: 123456789}) {
		t.Errorf("time %+v (%v)", e.Mtime, err)
	}
}

// The kernel reads whole blocks, and some writers leave a tar's end out.
func TestATarWithoutItsEndIsReadToItsLastByte(t *testing.T) {
	needErofs(t)
	text := strings.Repeat("x", 700) + "end"
	whole := makeTar(t, regular("a"), tar.Header{Name: "b", Uname: text})
	for cut := len(whole) - 1024; cut >= len(whole)-1024-(512-(len(text)-512)); cut -= 80 {
		dir, m := importBytes(t, whole[:cut])
		if m.TarSize != int64(cut) {
			t.Fatalf("the tar was changed: %+v", m)
		}
		if err := Reindex(dir, nil, "index-2"); err != nil {
			t.Fatal(err)
		}
		if err := Verify(dir); err != nil {
			t.Error(err)
		}
		for _, index := range []string{"", "index-2"} {
			r, err := openTree(t, mountTar(t, dir, index)).Open("b")
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			r.Close()
			if err != nil || string(got) != text {
				t.Errorf("cut at %d of %d: %d bytes (%v)", cut, len(whole), len(got), err)
			}
		}
	}
}

// sparseTar is what GNU tar -S writes for a file of 1 MiB with 4 KiB of data
// at 512 KiB and a tail of five bytes, in the old GNU format.
func sparseTar() []byte {
	h := make([]byte, 512)
	copy(h, "sparse")
	copy(h[100:], "0000644\x000000000\x000000000\x00")
	copy(h[124:], fmt.Sprintf("%011o\x00", 4096+5))
	copy(h[136:], "00000000000\x00")
	copy(h[148:], "        ")
	h[156] = 'S'
	copy(h[257:], "ustar  \x00")
	copy(h[386:], fmt.Sprintf("%011o\x00%011o\x00", 512<<10, 4096))
	copy(h[410:], fmt.Sprintf("%011o\x00%011o\x00", 1<<20-5, 5))
	copy(h[483:], fmt.Sprintf("%011o\x00", 1<<20))
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	b := append(h, bytes.Repeat([]byte("data"), 1024)...)
	b = append(b, "tail!"...)
	b = append(b, make([]byte, 512-5)...)
	return append(b, make([]byte, 1024)...)
}

func TestSparseFilesReadAsTheyAre(t *testing.T) {
	want := make([]byte, 1<<20)
	copy(want[512<<10:], bytes.Repeat([]byte("data"), 1024))
	copy(want[1<<20-5:], "tail!")
	dir, m := importBytes(t, sparseTar())
	if m.Size != 1<<20 {
		t.Errorf("size %d", m.Size)
	}
	st, err := os.Stat(filepath.Join(dir, IndexName))
	if err != nil || st.Size() > 200<<10 {
		t.Errorf("the index has %d bytes (%v): the holes take place", st.Size(), err)
	}
	check := func(fsys entry.FS) {
		t.Helper()
		r, err := fsys.Open("sparse")
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		got, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("read %d bytes (%v), not what was written", len(got), err)
		}
	}
	check(openTar(t, dir))
	if err := Reindex(dir, nil, "index-2"); err != nil {
		t.Fatal(err)
	}
	if err := Verify(dir); err != nil {
		t.Error(err)
	}
	if os.Geteuid() == 0 && !inUserNamespace() {
		check(openTree(t, mountTar(t, dir, "")))
	}
}
