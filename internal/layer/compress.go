package layer

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/klauspost/pgzip"
	"github.com/ulikunitz/xz"
)

// The compressions that are written; Decompress reads these, bzip2 and xz.
const (
	None = "none"
	Gzip = "gzip"
	Zstd = "zstd"
)

// Compress copies r to w. level 0 is the algorithm's default; gzip has levels
// 1 to 9, zstd 1 to 22 as the zstd program counts them. The same bytes give
// the same result whatever the number of processors.
func Compress(w io.Writer, r io.Reader, alg string, level int) error {
	c, err := compressor(w, alg, level)
	if err != nil {
		return err
	}
	if _, err := io.CopyBuffer(onlyWriter{c}, r, make([]byte, 1<<20)); err != nil {
		c.Close()
		return err
	}
	return c.Close()
}

type onlyWriter struct{ io.Writer }

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

func compressor(w io.Writer, alg string, level int) (io.WriteCloser, error) {
	switch alg {
	case None:
		return nopCloser{w}, nil
	case Gzip:
		if level == 0 {
			level = gzip.DefaultCompression
		}
		return pgzip.NewWriterLevel(w, level)
	case Zstd:
		speed := zstd.SpeedDefault
		if level != 0 {
			speed = zstd.EncoderLevelFromZstd(level)
		}
		return zstd.NewWriter(w, zstd.WithEncoderLevel(speed))
	}
	return nil, fmt.Errorf("compression %q: want gzip, zstd or none", alg)
}

var magics = []struct {
	alg   string
	magic string
}{
	{Gzip, "\x1f\x8b\x08"},
	{Zstd, "\x28\xb5\x2f\xfd"},
	{"bzip2", "BZh"},
	{"xz", "\xfd7zXZ\x00"},
}

// skippable frames may come before the first data of a zstd stream: 16 magic
// numbers from 0x184d2a50 on.
func isZstdSkippable(head []byte) bool {
	return len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18})
}

// sniff names the compression by a stream's first bytes.
func sniff(head []byte) string {
	for _, m := range magics {
		if bytes.HasPrefix(head, []byte(m.magic)) {
			return m.alg
		}
	}
	if isZstdSkippable(head) {
		return Zstd
	}
	return None
}

// maxWindow bounds the memory that a compressed stream can ask for.
const maxWindow = 256 << 20

// Decompress finds out by its content how r is compressed and returns the
// plain stream with the compression's name. The caller closes it; r is left
// to the caller, and more of it than needed may have been read.
func Decompress(r io.Reader) (io.ReadCloser, string, error) {
	br := bufio.NewReaderSize(r, 256<<10)
	head, err := br.Peek(32)
	if err != nil && err != io.EOF {
		return nil, "", err
	}
	alg := sniff(head)
	plain, err := decompressor(br, alg, head)
	if err != nil {
		return nil, "", fmt.Errorf("%s stream: %w", alg, err)
	}
	return plain, alg, nil
}

func decompressor(br *bufio.Reader, alg string, head []byte) (io.ReadCloser, error) {
	switch alg {
	case Gzip:
		return gzip.NewReader(br)
	case Zstd:
		d, err := zstd.NewReader(br, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	case "bzip2":
		return io.NopCloser(bzip2.NewReader(br)), nil
	case "xz":
		if err := checkXz(head); err != nil {
			return nil, err
		}
		x, err := xz.NewReader(br)
		return io.NopCloser(x), err
	}
	return io.NopCloser(br), nil
}

// checkXz refuses a first block whose dictionary is larger than any preset
// of xz makes: the reader would believe it. The block header follows the
// stream header of 12 bytes: size, flags, two optional sizes, then the LZMA2
// filter (id 0x21, one byte of properties).
func checkXz(head []byte) error {
	const streamHeader, lzma2, maxCode = 12, 0x21, 32 // code 32 is 256 MiB
	if len(head) < streamHeader+8 {
		return nil
	}
	b := head[streamHeader+1:]
	flags := b[0]
	b = b[1:]
	for _, size := range []byte{0x40, 0x80} {
		if flags&size == 0 {
			continue
		}
		for len(b) > 0 && b[0]&0x80 != 0 {
			b = b[1:]
		}
		b = b[min(1, len(b)):]
	}
	if len(b) >= 3 && b[0] == lzma2 && b[1] == 1 && b[2] > maxCode {
		return fmt.Errorf("dictionary: %w", ErrBound)
	}
	return nil
}
