package layer

import (
	"archive/tar"
	"bytes"
	"strings"
	"testing"
	"time"
)

// FuzzPlainHeader compares with archive/tar: a plain header is what that writes,
// and where it writes one block, it is plain but for names in two parts.
func FuzzPlainHeader(f *testing.F) {
	f.Add("a/file", "", byte(tar.TypeReg), int64(0o644), 0, 0, int64(4096), int64(1700000000), int64(0), int64(0))
	f.Add("dir/", "", byte(tar.TypeDir), int64(0o1777), 1000, 1<<21-1, int64(0), int64(0), int64(0), int64(0))
	f.Add("l", "../x", byte(tar.TypeSymlink), int64(0o777), 1<<21, 0, int64(0), int64(-1), int64(0), int64(0))
	f.Add("dev", "", byte(tar.TypeChar), int64(0o600), 0, 0, int64(0), int64(1), int64(5), int64(1<<21))
	f.Add(strings.Repeat("n", 100), strings.Repeat("l", 100), byte(tar.TypeLink), int64(0), 0, 0, int64(0), int64(1<<33), int64(0), int64(0))
	f.Add(strings.Repeat("n", 101), "", byte(tar.TypeReg), int64(0), 0, 0, int64(1<<33), int64(1), int64(0), int64(0))
	f.Add("ä", "", byte(tar.TypeReg), int64(0), 0, 0, int64(1<<33-1), int64(1<<33-1), int64(0), int64(0))
	f.Fuzz(func(t *testing.T, name, link string, kind byte, mode int64, uid, gid int, size, mtime, major, minor int64) {
		switch kind {
		case tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		default:
			t.Skip("no type of this package")
		}
		if kind != tar.TypeReg && size != 0 || (kind == tar.TypeDir) != strings.HasSuffix(name, "/") ||
			kind != tar.TypeSymlink && kind != tar.TypeLink && link != "" {
			t.Skip("no header of this package")
		}
		h := tar.Header{Typeflag: kind, Name: name, Linkname: link, Mode: mode, Uid: uid, Gid: gid, Size: size,
			ModTime: time.Unix(mtime, 0), Devmajor: major, Devminor: minor}
		var got [blockSize]byte
		plain := plainHeader(&got, &h)
		var want bytes.Buffer
		err := tar.NewWriter(&want).WriteHeader(&h)
		if plain && (err != nil || !bytes.Equal(got[:], want.Bytes())) {
			t.Errorf("%+v is plain:\n%q\narchive/tar writes (%v):\n%q", h, got, err, want.Bytes())
		}
		if !plain && err == nil && want.Len() == blockSize && len(name) <= headText && want.Bytes()[headMagic+5] == 0 {
			t.Errorf("%+v is not plain, and archive/tar writes\n%q", h, want.Bytes())
		}
	})
}
